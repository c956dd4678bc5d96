//! `testnet bench-hit`: what a hit in the local cache costs, the whole of it.

use std::fs;
use std::path::{Path, PathBuf};

use barn_testnet::{Host, Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::{BATCH_LIMIT, Batch, Report};
use super::{bin_dir, compile, machine, measured_host, through, usage};
use crate::cli::counts::Counts;
use crate::cli::project::{Project, STORE};
use crate::cli::{Failure, mesh};

const SMALL: &str = "\
#include <stdio.h>
int main(int argc, char **argv) { return printf(\"%s %d\\n\", argv[0], argc) < 0; }
";

const LARGE: &str = "\
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <thread>
#include <unordered_map>
int main(int argc, char **argv) {
    std::map<std::string, int> seen;
    const std::regex word(\"[a-z]+(-[a-z]+)*\");
    for (int i = 1; i < argc; ++i) seen[std::regex_replace(argv[i], word, \"*\")]++;
    for (const auto &[text, count] : seen) std::cout << text << count;
}
";

/// The bare compiler needs no repetition, and a large unit takes seconds.
const BARE_REPEATS: usize = 1;

/// Rebuilds take longer than single hits and are steadier.
const REBUILDS: usize = 7;

/// As make would on a machine of two cores.
const REBUILD_JOBS: usize = 2;

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Rounds; in each, every contender has one turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Hits in one turn
    #[arg(long, default_value_t = 40)]
    repeats: usize,
    /// Objects of the rebuild
    #[arg(long, default_value_t = 100)]
    units: usize,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// A second barn to compare with, such as one linked in another way
    #[arg(long, value_name = "FILE")]
    other_barn: Option<PathBuf>,
}

/// One way to have a compile done.
struct Contender {
    name: String,
    kind: Kind,
    launcher: Vec<String>,
    repeats: usize,
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A program that does nothing: what starting any process costs.
    Nothing,
    Barn,
    Ccache,
    Bare,
}

/// Figures of one turn, each for one command.
struct Turn {
    wall_ms: f64,
    cpu_ms: f64,
    /// What the node used meanwhile.
    node_ms: f64,
}

/// Runs the benchmark and prints its tables.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    let mut host = measured_host("h1")?;
    host.sees.extend(options.other_barn.iter().filter_map(|path| path.canonicalize().ok()));
    let office = Office::build(OfficeSpec::new(bin_dir(options.bin_dir.as_ref())).host(host))?;
    let host = &office[0];
    mesh::start(host)?;
    println!("{}", machine());
    println!("host           one, without a quota; its node is in no mesh");

    let dir = host.home().join("hit");
    fs::create_dir(&dir)?;
    fs::write(dir.join("small.c"), SMALL)?;
    fs::write(dir.join("large.cc"), LARGE)?;
    for (source, compiler) in [("small.c", "gcc"), ("large.cc", "g++")] {
        let command =
            [compiler, "-O2", "-g", "-MD", "-MF", "out.d", "-c", source, "-o", "out.o"].map(str::to_owned);
        let all = single(&office, &dir, &command, options)?;
        print(&format!("one object, {} ({} headers)", command.join(" "), headers(&dir)?), &all);
    }

    let project = Project::fetch(&host.home().join("project"), &STORE, options.units)?;
    println!("\n{project}");
    let all = rebuild(&office, &project, options)?;
    print(&format!("{} objects, -j{REBUILD_JOBS}, time for each", project.units().len()), &all);
    Ok(())
}

/// One object, over and over.
fn single(
    office: &Office,
    dir: &Path,
    command: &[String],
    options: &Options,
) -> Result<Vec<Contender>, Failure> {
    let mut all = contenders(options);
    // The first turn of each is not counted: it fills the caches and, for the compiler, the page cache.
    for round in 0..=options.rounds {
        let count = all.len();
        for turn in 0..count {
            // Everybody is first once, for the state of the machine's caches depends on who ran before.
            let contender = &mut all[(turn + round) % count];
            let command = match contender.kind {
                Kind::Nothing => contender.launcher.clone(),
                _ => through(&contender.launcher, command),
            };
            let batch = Batch {
                commands: vec![command; contender.repeats],
                jobs: 1,
                outputs: vec!["out.o".into(), "out.d".into()],
            };
            let turn = measure(office, dir, contender.kind, &batch, round > 0)?;
            contender.turns.extend((round > 0).then_some(turn));
        }
    }
    Ok(all)
}

/// Many objects, all known.
fn rebuild(office: &Office, project: &Project, options: &Options) -> Result<Vec<Contender>, Failure> {
    let mut all = contenders(options);
    all.retain(|contender| contender.kind != Kind::Nothing);
    for unit in project.units() {
        if let Some(parent) = project.outputs().join(&unit.output).parent() {
            fs::create_dir_all(parent)?;
        }
    }
    for round in 0..=REBUILDS {
        let count = all.len();
        for turn in 0..count {
            let contender = &mut all[(turn + round) % count];
            if contender.kind == Kind::Bare && round > BARE_REPEATS {
                continue;
            }
            for unit in project.units() {
                // A file that an earlier turn left is as good as none to every contender, but writing anew is
                // what a build after `make clean` does.
                let _ = fs::remove_file(project.outputs().join(&unit.output).with_extension("o"));
            }
            let commands =
                project.units().iter().map(|unit| through(&contender.launcher, &compile(unit))).collect();
            let batch = Batch { commands, jobs: REBUILD_JOBS, outputs: Vec::new() };
            let turn = measure(office, project.dir(), contender.kind, &batch, round > 0)?;
            contender.turns.extend((round > 0).then_some(turn));
        }
    }
    Ok(all)
}

fn contenders(options: &Options) -> Vec<Contender> {
    let contender = |name: &str, kind, launcher: &[&str], repeats| Contender {
        name: name.to_owned(),
        kind,
        launcher: launcher.iter().map(|word| (*word).to_owned()).collect(),
        repeats,
        turns: Vec::new(),
    };
    let mut all = vec![
        contender("/bin/true", Kind::Nothing, &["/bin/true"], options.repeats),
        contender("barn", Kind::Barn, &["barn"], options.repeats),
        contender("ccache", Kind::Ccache, &["ccache"], options.repeats),
        contender("bare compiler", Kind::Bare, &[], BARE_REPEATS),
    ];
    if let Some(path) = &options.other_barn {
        all.push(contender("other barn", Kind::Barn, &[&path.display().to_string()], options.repeats));
    }
    all
}

/// Runs one turn and, if `warm`, insists that all of it were hits.
fn measure(office: &Office, dir: &Path, kind: Kind, batch: &Batch, warm: bool) -> Result<Turn, Failure> {
    let host = &office[0];
    let hits = hits(host, kind)?;
    let before = usage::of_host(office, host)?;
    let report: Report = batch.run(host, dir, &[], BATCH_LIMIT)?;
    let used = usage::of_host(office, host)? - before;
    if report.failed > 0 {
        return Err(format!("{} of {} commands failed", report.failed, batch.commands.len()).into());
    }
    let count = batch.commands.len();
    let found = self::hits(host, kind)?.zip(hits).map(|(after, before)| after - before);
    if let Some(found) = found.filter(|found| warm && *found != count as u64) {
        return Err(format!("only {found} of {count} were hits").into());
    }
    let each = |seconds: f64| seconds * 1e3 / count as f64;
    let wall = if batch.jobs == 1 { report.each_s } else { report.wall_s };
    let node = if kind == Kind::Barn { used - report.cpu_s - report.meter_s } else { 0.0 };
    Ok(Turn { wall_ms: each(wall), cpu_ms: each(report.cpu_s), node_ms: each(node) })
}

/// Hits so far, of those that have any.
fn hits(host: &Host, kind: Kind) -> Result<Option<u64>, Failure> {
    Ok(match kind {
        Kind::Barn => Some(Counts::of(host)?.hits.local),
        Kind::Ccache => Some(direct_hits(host)?),
        Kind::Nothing | Kind::Bare => None,
    })
}

/// ccache's hits without preprocessing.
fn direct_hits(host: &Host) -> Result<u64, Failure> {
    let output = host.command("ccache")?.arg("--print-stats").output_within(barn_testnet::VERB_LIMIT)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.lines().find_map(|line| line.strip_prefix("direct_cache_hit\t"));
    count.and_then(|count| count.parse().ok()).ok_or_else(|| "ccache --print-stats tells no hits".into())
}

fn headers(dir: &Path) -> Result<usize, Failure> {
    let text = fs::read_to_string(dir.join("out.d"))?;
    // Besides the headers there are the target, the source and the backslashes.
    Ok(text.split_whitespace().filter(|word| *word != "\\").count().saturating_sub(2))
}

fn print(title: &str, all: &[Contender]) {
    let of =
        |contender: &Contender, what: fn(&Turn) -> f64| contender.turns.iter().map(what).collect::<Figures>();
    println!("\n{title}");
    println!("{:15} {:>8} {:>8} {:>8}   wall / ccache in the same round", "", "wall ms", "CPU ms", "of node");
    let ccache = all.iter().find(|contender| contender.kind == Kind::Ccache);
    let base = ccache.map(|contender| of(contender, |turn| turn.wall_ms)).unwrap_or_default();
    for contender in all {
        let walls = of(contender, |turn| turn.wall_ms);
        println!(
            "{:15} {:8.2} {:8.2} {:8.2}   {}",
            contender.name,
            walls.median(),
            of(contender, |turn| turn.cpu_ms + turn.node_ms).median(),
            of(contender, |turn| turn.node_ms).median(),
            walls.over(&base)
        );
    }
}
