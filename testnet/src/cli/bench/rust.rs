//! `testnet bench-rust`: what the rebuild of a published tool costs after `cargo clean`, when all of it has been compiled before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use barn_testnet::{Host, Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::{BATCH_LIMIT, Batch};
use super::{bin_dir, machine, measured_host, sccache_dir, usage, with_sccache};
use crate::cli::counts::Counts;
use crate::cli::project::fetch_crate;
use crate::cli::{Failure, mesh};

/// The tools, by package and version: one of Rust alone, and one with C and assembler in a build script.
const TOOLS: [(&str, &str); 2] = [("hyperfine", "1.19.0"), ("b3sum", "1.8.7")];
/// cargo's profiles, and the option that asks for them.
const PROFILES: [(&str, Option<&str>); 2] = [("dev", None), ("release", Some("--release"))];
/// Plain builds take long and hardly differ.
const PLAIN_ROUNDS: usize = 1;

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Rounds after the first, which fills the caches; in each, barn and sccache have one turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only this tool
    #[arg(long, value_name = "PACKAGE")]
    only: Option<String>,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// One way to build.
struct Contender {
    kind: Kind,
    /// What is set for it.
    variables: Vec<(String, String)>,
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Barn,
    Sccache,
    Plain,
}

/// Figures of one turn.
struct Turn {
    wall_s: f64,
    cpu_s: f64,
    /// Compiles that were served, and all that were counted.
    served: (u64, u64),
}

/// One host with its tools.
struct Bench<'a> {
    office: &'a Office,
    sccache: Option<PathBuf>,
    common: Vec<(String, String)>,
}

/// Runs the benchmark and prints its tables.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    let rivals = sccache_dir();
    let host = with_sccache(measured_host("h1")?, rivals.as_ref());
    let barn = bin_dir(options.bin_dir.as_ref());
    let office = Office::build(OfficeSpec::new(&barn).host(host))?;
    mesh::start(&office[0])?;
    let bench = Bench {
        office: &office,
        sccache: rivals.map(|dir| dir.join("sccache")),
        common: common(&office[0], &barn)?,
    };
    bench.start_sccache()?;
    println!("{}", machine());
    println!("host           one, without a quota; its node is in no mesh");
    let wanted = |(package, _): &&(&str, &str)| options.only.as_ref().is_none_or(|only| only == package);
    for (package, version) in TOOLS.iter().filter(wanted) {
        let dir = office[0].home().join(package);
        fetch_crate(&dir, package, version)?;
        for (profile, option) in PROFILES {
            let all = bench.rebuild(&dir, option, options.rounds)?;
            print(&format!("{package} {version}, {profile} profile, after cargo clean"), &all);
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn host(&self) -> &Host {
        &self.office[0]
    }

    fn start_sccache(&self) -> Result<(), Failure> {
        let Some(sccache) = &self.sccache else {
            println!("sccache is not installed");
            return Ok(());
        };
        let mut command = self.host().command(sccache)?.arg("--start-server");
        for (name, value) in &self.common {
            command = command.env(name, value);
        }
        let output = command.output_within(barn_testnet::VERB_LIMIT)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("sccache: {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
        }
    }

    /// Builds in turns. The first turn of each fills the caches and is not counted, but for the plain one.
    fn rebuild(&self, dir: &Path, option: Option<&str>, rounds: usize) -> Result<Vec<Contender>, Failure> {
        let mut all = self.contenders();
        for round in 0..=rounds {
            let count = all.len();
            for turn in 0..count {
                let contender = &mut all[(turn + round) % count];
                let is_plain = contender.kind == Kind::Plain;
                if is_plain && round >= PLAIN_ROUNDS {
                    continue;
                }
                let turn = self.turn(dir, contender, option)?;
                contender.turns.extend((is_plain || round > 0).then_some(turn));
            }
        }
        Ok(all)
    }

    fn contenders(&self) -> Vec<Contender> {
        let wrapper = |kind, path: &Path| Contender {
            kind,
            variables: [self.common.clone(), vec![("RUSTC_WRAPPER".to_owned(), path.display().to_string())]]
                .concat(),
            turns: Vec::new(),
        };
        let barn = wrapper(Kind::Barn, Path::new("barn"));
        let sccache = self.sccache.as_ref().map(|path| wrapper(Kind::Sccache, path));
        let plain = Contender { kind: Kind::Plain, variables: self.common.clone(), turns: Vec::new() };
        [Some(barn), sccache, Some(plain)].into_iter().flatten().collect()
    }

    fn turn(&self, dir: &Path, contender: &Contender, option: Option<&str>) -> Result<Turn, Failure> {
        let target = dir.join("target");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let cargo = ["cargo", "build", "--offline", "--locked"].into_iter().chain(option);
        let batch =
            Batch { commands: vec![cargo.map(str::to_owned).collect()], jobs: 1, outputs: Vec::new() };
        let (before, served) = (usage::of_host(self.office, self.host())?, self.served(contender.kind)?);
        let report = batch.run(self.host(), dir, &contender.variables, BATCH_LIMIT)?;
        if report.failed > 0 {
            return Err(format!("{:?}: cargo failed in {}", contender.kind, dir.display()).into());
        }
        let cpu_s = usage::of_host(self.office, self.host())? - before - report.meter_s;
        let after = self.served(contender.kind)?;
        Ok(Turn { wall_s: report.wall_s, cpu_s, served: (after.0 - served.0, after.1 - served.1) })
    }

    /// Compiles that were served so far, and all.
    fn served(&self, kind: Kind) -> Result<(u64, u64), Failure> {
        match (kind, &self.sccache) {
            (Kind::Barn, _) => {
                let counts = Counts::of(self.host())?;
                let local: u64 = counts.local_reasons.values().sum();
                Ok((counts.hits.local, counts.hits.local + counts.misses + local))
            }
            (Kind::Sccache, Some(sccache)) => {
                let command = self.host().command(sccache)?.args(["--show-stats", "--stats-format=json"]);
                let output = command.output_within(barn_testnet::VERB_LIMIT)?;
                let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
                let stats = &said["stats"];
                let hits = stats["cache_hits"]["counts"].as_object().into_iter().flatten();
                let hits = hits.filter_map(|(_, count)| count.as_u64()).sum();
                Ok((hits, stats["compile_requests"].as_u64().unwrap_or(0)))
            }
            _ => Ok((0, 0)),
        }
    }
}

/// What every contender is given: this machine's cargo, without its network, and its own compiler without rustup's proxy.
fn common(host: &Host, barn: &Path) -> Result<Vec<(String, String)>, Failure> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = String::from_utf8(output.stdout)?;
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .map_err(|_| "neither CARGO_HOME nor HOME is set")?;
    let path = format!("{}:{}/bin:/usr/local/bin:/usr/bin:/bin", barn.display(), sysroot.trim());
    let pairs = [
        ("CARGO_HOME", home),
        ("CARGO_NET_OFFLINE", "true".to_owned()),
        ("PATH", path),
        ("SCCACHE_DIR", host.home().join("sccache").display().to_string()),
        ("SCCACHE_IDLE_TIMEOUT", "0".to_owned()),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

fn print(title: &str, all: &[Contender]) {
    let of =
        |contender: &Contender, what: fn(&Turn) -> f64| contender.turns.iter().map(what).collect::<Figures>();
    println!("\n{title}");
    println!("{:10} {:>8} {:>8} {:>12}   wall / sccache in the same round", "", "wall s", "CPU s", "served");
    let sccache = all.iter().find(|contender| contender.kind == Kind::Sccache);
    let base = sccache.map(|contender| of(contender, |turn| turn.wall_s)).unwrap_or_default();
    for contender in all {
        let served = contender.turns.last().map_or((0, 0), |turn| turn.served);
        println!(
            "{:10} {:8.2} {:8.2} {:>12}   {}",
            format!("{:?}", contender.kind).to_lowercase(),
            of(contender, |turn| turn.wall_s).median(),
            of(contender, |turn| turn.cpu_s).median(),
            format!("{} of {}", served.0, served.1),
            of(contender, |turn| turn.wall_s).over(&base)
        );
    }
}
