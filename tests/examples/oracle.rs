//! Holds the scanner against traced compilers over thousands of real units, and prints a table.

use std::{path::PathBuf, process::ExitCode};

use barn_tests::oracle::{Report, codes, corpus};
use clap::Parser;

/// The share of undecided units that is too much, in per cent.
const UNDECIDED_PERCENT: usize = 2;

/// Compiles real units under a tracer and compares what compilers open and probe with what the scanner says.
#[derive(Parser)]
struct Options {
    /// How many units to take, evenly from all code bases.
    #[arg(long, default_value_t = 4000)]
    units: usize,
    /// Only code bases whose name holds this.
    #[arg(long)]
    only: Option<String>,
    /// Compile C++ units whole instead of preprocessing most of them.
    #[arg(long)]
    whole: bool,
    /// Where the sources are kept.
    #[arg(long, default_value = "target/oracle")]
    dir: PathBuf,
    /// Compiles at once.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oracle: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> std::io::Result<bool> {
    std::fs::create_dir_all(&options.dir)?;
    let dir = options.dir.canonicalize()?;
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut bases = Vec::new();
    for codes in [codes::NEAR, codes::FAR] {
        for code in codes.iter().filter(|code| wanted(code.name)) {
            bases.extend(corpus::collect(std::slice::from_ref(code), &dir, options.whole)?);
        }
    }
    corpus::thin(&mut bases, options.units);
    let report = Report::of(&bases, options.threads, true);
    print!("{report}");
    let decided = report.undecided() * 100 < (report.judged() + report.undecided()) * UNDECIDED_PERCENT;
    Ok(report.failures().is_empty() && decided)
}
