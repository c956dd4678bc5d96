//! `testnet bench-miss`: what a compile costs that nobody has done before, beside the bare compiler and ccache.
//!
//! Two loads. Units of a real C++ project, one after the other, each under a `-D` that no cache has seen: what is looked up,
//! found and kept for a compile is paid once for each. And a storm as configure scripts make them: hundreds of
//! compiles of a few lines each, half of which fail.

use std::fs;
use std::path::{Path, PathBuf};

use barn_testnet::{Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::{BATCH_LIMIT, Batch};
use super::{bin_dir, compile, machine, measured_host, through, usage};
use crate::cli::counts::Counts;
use crate::cli::project::{ABSEIL, Project};
use crate::cli::{Failure, mesh};

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Rounds; in each, every contender has one turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Units of the project compiled in one turn
    #[arg(long, default_value_t = 12)]
    units: usize,
    /// Compiles of the storm in one turn
    #[arg(long, default_value_t = 500)]
    storm: usize,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// One way to have a compile done.
struct Contender {
    name: &'static str,
    launcher: &'static [&'static str],
    turns: Vec<Turn>,
}

/// Figures of one turn, each for one command.
struct Turn {
    wall_ms: f64,
    cpu_ms: f64,
    /// What the node used of that.
    node_ms: f64,
}

/// Commands that were never run before.
struct Load {
    commands: Vec<Vec<String>>,
    /// How many of them the compiler refuses.
    failing: usize,
}

/// Runs the benchmark and prints its tables.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    let spec = OfficeSpec::new(bin_dir(options.bin_dir.as_ref())).host(measured_host("h1")?);
    let office = Office::build(spec)?;
    mesh::start(&office[0])?;
    println!("{}", machine());
    println!("host           one, without a quota; its node is in no mesh; one compile at a time");

    let project = Project::fetch(&office[0].home().join("project"), &ABSEIL, options.units)?;
    for unit in project.units() {
        if let Some(parent) = project.outputs().join(&unit.output).parent() {
            fs::create_dir_all(parent)?;
        }
    }
    println!("\n{project}, here with -O2");
    let all = play(&office, project.dir(), options.rounds, |number| Ok(misses(&project, number)))?;
    print(&format!("{} objects nobody has, time for each", project.units().len()), &all);

    let dir = office[0].home().join("storm");
    fs::create_dir(&dir)?;
    let all = play(&office, &dir, options.rounds, |number| storm(&dir, options.storm, number))?;
    print(&format!("{} tiny compiles, half of which fail, time for each", options.storm), &all);
    Ok(())
}

/// The units of a project as nobody has compiled them.
fn misses(project: &Project, number: usize) -> Load {
    let unseen = || ["-O2".to_owned(), format!("-DBARN_BENCH_TURN={number}")];
    let commands = project.units().iter().map(|unit| compile(unit).into_iter().chain(unseen()).collect());
    Load { commands: commands.collect(), failing: 0 }
}

/// Tiny sources that no turn has seen, and their compiles; every second one asks for what is not there.
fn storm(dir: &Path, count: usize, number: usize) -> Result<Load, Failure> {
    let mut commands = Vec::with_capacity(count);
    for test in 0..count {
        let home = dir.join(test.to_string());
        fs::create_dir_all(&home)?;
        let asked = match test % 4 {
            0 => "#include <stdio.h>\n#include <sys/types.h>\n",
            1 => "#include <no/such/header.h>\n",
            2 => "#include <stdlib.h>\n#include <string.h>\n",
            _ => "#error there is no such function\n",
        };
        let text = format!("{asked}#define TURN {number}\nint test{test} (void) {{ return TURN; }}\n");
        fs::write(home.join("conftest.c"), text)?;
        let words = ["gcc", "-c", "-g", "-O2"].map(str::to_owned);
        let places = [format!("{test}/conftest.c"), "-o".to_owned(), format!("{test}/conftest.o")];
        commands.push(words.into_iter().chain(places).collect());
    }
    Ok(Load { commands, failing: count / 2 })
}

/// All contenders in turns, each with a load of its own. The first round is not counted: it brings headers and compilers into
/// memory.
fn play(
    office: &Office,
    dir: &Path,
    rounds: usize,
    mut load: impl FnMut(usize) -> Result<Load, Failure>,
) -> Result<Vec<Contender>, Failure> {
    let contender = |name, launcher| Contender { name, launcher, turns: Vec::new() };
    let mut all =
        [contender("bare compiler", &[]), contender("barn", &["barn"]), contender("ccache", &["ccache"])];
    let count = all.len();
    for round in 0..=rounds {
        for turn in 0..count {
            let contender = &mut all[(turn + round) % count];
            let turn = measure(office, dir, contender, &load(round * count + turn)?)?;
            contender.turns.extend((round > 0).then_some(turn));
        }
    }
    Ok(all.into())
}

/// Runs one turn, and insists that it was what it is meant to be.
fn measure(office: &Office, dir: &Path, contender: &Contender, load: &Load) -> Result<Turn, Failure> {
    let host = &office[0];
    let launcher: Vec<String> = contender.launcher.iter().map(|word| (*word).to_owned()).collect();
    let commands = load.commands.iter().map(|command| through(&launcher, command)).collect();
    let batch = Batch { commands, jobs: 1, outputs: Vec::new() };
    let is_barn = contender.name == "barn";
    let hits = if is_barn { Counts::of(host)?.all_hits() } else { 0 };
    let before = usage::of_host(office, host)?;
    let report = batch.run(host, dir, &[], BATCH_LIMIT)?;
    // What is kept after the answer belongs to it: the counts are told only when it is done.
    let found = if is_barn { Counts::of(host)?.all_hits() - hits } else { 0 };
    let used = usage::of_host(office, host)? - before;
    if report.failed != load.failing || found > 0 {
        let told = format!("{} failed, not {}; {found} were hits", report.failed, load.failing);
        return Err(format!("{}: {told}", contender.name).into());
    }
    let each = |seconds: f64| seconds * 1e3 / load.commands.len() as f64;
    let node_ms = if is_barn { each(used - report.cpu_s - report.meter_s) } else { 0.0 };
    Ok(Turn { wall_ms: each(report.each_s), cpu_ms: each(report.cpu_s) + node_ms, node_ms })
}

fn print(title: &str, all: &[Contender]) {
    let of =
        |contender: &Contender, what: fn(&Turn) -> f64| contender.turns.iter().map(what).collect::<Figures>();
    println!("\n{title}");
    println!(
        "{:15} {:>8} {:>8} {:>8}   {:30} CPU / bare",
        "", "wall ms", "CPU ms", "of node", "wall / bare in the same round"
    );
    let bare = |what: fn(&Turn) -> f64| all.first().map(|bare| of(bare, what)).unwrap_or_default();
    for contender in all {
        let (walls, cpus) = (of(contender, |turn| turn.wall_ms), of(contender, |turn| turn.cpu_ms));
        let over_bare = format!("{:.3}", walls.over(&bare(|turn| turn.wall_ms)));
        println!(
            "{:15} {:8.2} {:8.2} {:8.2}   {over_bare:30} {:.3}",
            contender.name,
            walls.median(),
            cpus.median(),
            of(contender, |turn| turn.node_ms).median(),
            cpus.over(&bare(|turn| turn.cpu_ms)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_new_each_time_and_half_of_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let texts = |number| {
            let load = storm(dir.path(), 8, number).unwrap();
            assert_eq!((load.commands.len(), load.failing), (8, 4));
            let text =
                |test: usize| fs::read_to_string(dir.path().join(format!("{test}/conftest.c"))).unwrap();
            (0..8).map(text).collect::<Vec<_>>()
        };
        let (one, other) = (texts(1), texts(2));
        assert!(one.iter().zip(&other).all(|(one, other)| one != other));
    }
}
