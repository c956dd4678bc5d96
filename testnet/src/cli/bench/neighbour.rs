//! `testnet bench-neighbour`: what a hit from a neighbour's cache costs, and what it costs to ask when nobody has it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use barn_testnet::{Host, HostSpec, Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::{BATCH_LIMIT, Batch};
use super::{bin_dir, machine, measured_host};
use crate::cli::counts::Counts;
use crate::cli::{Failure, mesh};

/// The cables of an office.
const MBIT: u32 = 1000;
/// News of results have reached their owners by then, and nodes are idle again.
const TOLD: Duration = Duration::from_millis(1500);
/// The headers of the standard library that a unit with many of them includes.
const MANY: &str =
    "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <regex>\n#include <thread>\n";

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Rounds; in each, all is done once
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Units of each kind in a round
    #[arg(long, default_value_t = 12)]
    units: usize,
    /// Hosts, of which one compiles and one asks
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// What is compiled: the same but for a number.
struct Kind {
    title: &'static str,
    compiler: &'static str,
    source: fn(usize) -> String,
}

const KINDS: [Kind; 3] = [
    Kind { title: "C, stdio.h", compiler: "gcc", source: small },
    Kind { title: "C++, 5 library headers", compiler: "g++", source: many },
    Kind { title: "C, object of 1 MB", compiler: "gcc", source: large },
];

fn small(number: usize) -> String {
    format!("#include <stdio.h>\nint f{number}(void) {{ return puts(\"{number}\"); }}\n")
}

fn many(number: usize) -> String {
    format!("{MANY}int f{number}() {{ std::cout << {number}; return 0; }}\n")
}

/// Nothing that can be packed, so that all of it travels.
fn large(number: usize) -> String {
    let mut state = number as u64 + 1;
    let mut text = format!("const unsigned long long table{number}[] = {{");
    for _ in 0..125_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(text, "{:#x}ull,", state ^ (state >> 29));
    }
    text + "};\n"
}

/// Times for one unit, in milliseconds.
#[derive(Default)]
struct Row {
    neighbour: Vec<f64>,
    own: Vec<f64>,
    bytes: Vec<f64>,
    missed: usize,
}

/// Runs the benchmark and prints its tables.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    let dir = tempfile::Builder::new().prefix("barn-neighbour").tempdir_in("/tmp")?;
    let office = office(options, dir.path())?;
    let (maker, reader) = (&office[0], &office[1]);
    let last = &office[office.hosts().len() - 1];
    println!("{}", machine());
    println!("hosts          {} without quotas, cables of {MBIT} Mbit/s", office.hosts().len());
    let mut rows: Vec<Row> = KINDS.iter().map(|_| Row::default()).collect();
    let mut asked: Vec<Asked> = Vec::new();
    let mut number = 0;
    // The first round is not counted: the machines read their headers then.
    for round in 0..=options.rounds {
        for (kind, row) in KINDS.iter().zip(&mut rows) {
            let units = units(dir.path(), kind, &mut number, options.units)?;
            compile(maker, dir.path(), kind, &units)?;
            thread::sleep(TOLD);
            let found = read(reader, dir.path(), kind, &units)?;
            if round > 0 {
                row.add(found);
            }
        }
        let one = ask_in_vain([reader, last], dir.path(), &mut number, options.units, round)?;
        asked.extend((round > 0).then_some(one));
    }
    print(&rows, &asked);
    Ok(())
}

fn office(options: &Options, dir: &Path) -> Result<Office, Failure> {
    let mut spec = OfficeSpec::new(bin_dir(options.bin_dir.as_ref()));
    let count = options.hosts.max(3);
    for number in 1..=count {
        let host: HostSpec = measured_host(format!("h{number}"))?.sees(dir).bandwidth_mbit(MBIT);
        spec = spec.host(host);
    }
    let office = Office::build(spec)?;
    for (number, host) in office.hosts().iter().enumerate() {
        let share = if number + 1 == count { "off" } else { "both" };
        fs::create_dir_all(host.barn_home())?;
        // Everybody compiles on its own: a worker would only blur what is measured.
        let settings = format!("[worker]\nslots = 0\n[cache]\nshare = \"{share}\"\n");
        fs::write(host.barn_home().join("barn.toml"), settings)?;
    }
    mesh::form_without_workers(&office)?;
    Ok(office)
}

fn units(dir: &Path, kind: &Kind, number: &mut usize, count: usize) -> Result<Vec<String>, Failure> {
    let unit = |_| {
        *number += 1;
        let name = format!("u{number}{}", if kind.compiler == "gcc" { ".c" } else { ".cc" });
        fs::write(dir.join(&name), (kind.source)(*number))?;
        Ok(name)
    };
    (0..count).map(unit).collect()
}

/// Compiles one after the other; returns the mean time of one in milliseconds.
fn compile(host: &Host, dir: &Path, kind: &Kind, units: &[String]) -> Result<f64, Failure> {
    let command = |unit: &String| {
        ["barn", kind.compiler, "-O1", "-c", unit.as_str(), "-o", "out.o"].map(str::to_owned).to_vec()
    };
    let batch = Batch {
        commands: units.iter().map(command).collect(),
        jobs: 1,
        outputs: vec![PathBuf::from("out.o")],
    };
    let report = batch.run(host, dir, &[], BATCH_LIMIT)?;
    if report.failed > 0 {
        return Err(format!("{} of {} compiles failed on {}", report.failed, units.len(), host.name()).into());
    }
    Ok(report.each_s * 1e3 / units.len() as f64)
}

/// What a turn of hits gave: from the neighbour, from the own store, bytes of the last object, and what was not found.
struct Read {
    neighbour_ms: f64,
    own_ms: f64,
    bytes: f64,
    missed: usize,
}

fn read(host: &Host, dir: &Path, kind: &Kind, units: &[String]) -> Result<Read, Failure> {
    let before = Counts::of(host)?;
    let neighbour_ms = compile(host, dir, kind, units)?;
    let missed = units.len() as u64 - (Counts::of(host)?.hits.mesh - before.hits.mesh);
    let bytes = fs::metadata(dir.join("out.o"))?.len() as f64;
    let own_ms = compile(host, dir, kind, units)?;
    Ok(Read { neighbour_ms, own_ms, bytes, missed: usize::try_from(missed)? })
}

/// What a turn of misses gave, in milliseconds for one.
struct Asked {
    with_ms: f64,
    without_ms: f64,
    /// What the node says it waited.
    waited_ms: f64,
}

/// Compiles what nobody has, with and without asking.
fn ask_in_vain(
    hosts: [&Host; 2],
    dir: &Path,
    number: &mut usize,
    count: usize,
    round: usize,
) -> Result<Asked, Failure> {
    let before = Counts::of(hosts[0])?;
    let [asks, keeps_to_itself] = hosts;
    let mut one = |host: &Host| {
        let units = units(dir, &KINDS[0], number, count)?;
        let took = compile(host, dir, &KINDS[0], &units)?;
        thread::sleep(TOLD);
        Ok::<_, Failure>(took)
    };
    // Each is first as often as the other.
    let (with_ms, without_ms) = if round.is_multiple_of(2) {
        let with = one(asks)?;
        (with, one(keeps_to_itself)?)
    } else {
        let without = one(keeps_to_itself)?;
        (one(asks)?, without)
    };
    let lookups = Counts::of(asks)?.since(&before).lookups;
    if lookups.in_vain != count as u64 {
        return Err(format!("{} of {count} compiles asked in vain", lookups.in_vain).into());
    }
    let waited_ms = lookups.microseconds as f64 / 1e3 / count as f64;
    Ok(Asked { with_ms, without_ms, waited_ms })
}

impl Row {
    /// A turn in which something was not found shows the compiler's time, so it does not count.
    fn add(&mut self, read: Read) {
        self.missed += read.missed;
        if read.missed == 0 {
            self.neighbour.push(read.neighbour_ms);
            self.own.push(read.own_ms);
            self.bytes.push(read.bytes);
        }
    }
}

fn print(rows: &[Row], asked: &[Asked]) {
    println!(
        "\n{:24} {:>26} {:>24} {:>13} {:>12} {:>8}",
        "hit", "from a neighbour, ms", "from the own store", "difference", "transfer", "missed"
    );
    for (kind, row) in KINDS.iter().zip(rows) {
        let figures = |values: &[f64]| values.iter().copied().collect::<Figures>();
        let more: Vec<f64> = row.neighbour.iter().zip(&row.own).map(|(there, here)| there - here).collect();
        let transfer = figures(&row.bytes).median() * 8.0 / f64::from(MBIT) / 1e3;
        println!(
            "{:24} {:>26} {:>24} {:>13.2} {:>12.2} {:>8}",
            kind.title,
            figures(&row.neighbour).to_string(),
            figures(&row.own).to_string(),
            figures(&more).median(),
            transfer,
            row.missed
        );
    }
    let of = |what: fn(&Asked) -> f64| asked.iter().map(what).collect::<Figures>();
    println!(
        "\nnobody has it: {} ms asking, {} ms not asking, difference {} ms; by the node's clock {} ms were waited",
        of(|one| one.with_ms),
        of(|one| one.without_ms),
        of(|one| one.with_ms - one.without_ms),
        of(|one| one.waited_ms)
    );
}
