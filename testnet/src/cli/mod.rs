//! The command line of `testnet`.

mod bench;
mod counts;
mod demo;
mod mesh;
mod order;
mod project;
mod signals;
mod up;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use barn_testnet::{HostSpec, OfficeSpec, bin_dir_of_this_build};
use clap::{Args, Parser, Subcommand};

/// What every command may fail with; it is printed once, with its causes.
type Failure = Box<dyn Error + Send + Sync>;

/// An office on one machine: several hosts with their own network, cores and files.
#[derive(Parser)]
#[command(name = "testnet", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make an office and take orders on standard input until it ends or Ctrl-C
    Up(up::Options),
    /// Build a real project across an office, compare with a local build, and say how it went
    Demo(demo::Options),
    /// Measure what a hit costs, beside ccache and the bare compiler
    BenchHit(bench::HitOptions),
    /// Measure what a compile costs that nobody has done before, beside ccache and the bare compiler
    BenchMiss(bench::MissOptions),
    /// Measure what a hit from a neighbour's cache costs, and what it costs to ask in vain
    BenchNeighbour(bench::NeighbourOptions),
    /// Measure what a remote compile costs, beside distcc, icecream and the bare compiler
    BenchRemote(bench::RemoteOptions),
    /// Measure whole builds over the mesh, beside distcc, icecream, sccache and one machine with all the cores
    BenchMesh(bench::MeshOptions),
    /// Measure the rebuild of published Rust tools after `cargo clean`, beside sccache and cargo alone
    BenchRust(bench::RustOptions),
    /// Run commands here and time them: what the benchmarks start on their hosts
    #[command(hide = true)]
    Meter,
    /// Remove what crashed offices left behind
    Clean,
}

/// How the office shall be.
#[derive(Args)]
struct OfficeOptions {
    /// Number of hosts, named h1, h2, …
    #[arg(long, default_value_t = 4)]
    hosts: usize,
    /// Cores of each host
    #[arg(long, default_value_t = 0.45)]
    cpus: f64,
    /// Bandwidth of each host's cable in Mbit/s [default: as fast as the kernel]
    #[arg(long, value_name = "MBIT")]
    bandwidth: Option<u32>,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

impl OfficeOptions {
    fn spec(&self) -> OfficeSpec {
        let bin_dir = self.bin_dir.clone().unwrap_or_else(bin_dir_of_this_build);
        let bin_dir = std::path::absolute(&bin_dir).unwrap_or(bin_dir);
        let mut spec = OfficeSpec::new(bin_dir);
        for number in 1..=self.hosts {
            let host = HostSpec::new(format!("h{number}")).cpus(self.cpus);
            spec.hosts.push(HostSpec { bandwidth_mbit: self.bandwidth, ..host });
        }
        spec
    }
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread starts, for threads inherit what is blocked.
    let result = signals::end_on_signal().and_then(|()| match cli.verb {
        Verb::Up(options) => up::run(&options).map(|()| ExitCode::SUCCESS),
        Verb::Demo(options) => demo::run(&options),
        Verb::BenchHit(options) => bench::hit(&options).map(|()| ExitCode::SUCCESS),
        Verb::BenchMiss(options) => bench::miss(&options).map(|()| ExitCode::SUCCESS),
        Verb::BenchNeighbour(options) => bench::neighbour(&options).map(|()| ExitCode::SUCCESS),
        Verb::BenchRemote(options) => bench::remote(&options).map(|()| ExitCode::SUCCESS),
        Verb::BenchMesh(options) => bench::mesh(&options).map(|()| ExitCode::SUCCESS),
        Verb::BenchRust(options) => bench::rust(&options).map(|()| ExitCode::SUCCESS),
        Verb::Meter => bench::meter().map(|()| ExitCode::SUCCESS),
        Verb::Clean => clean(),
    });
    result.unwrap_or_else(|failure| {
        eprintln!("testnet: {}", with_causes(failure.as_ref()));
        ExitCode::FAILURE
    })
}

fn clean() -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for leftover in barn_testnet::clean(&std::env::temp_dir())? {
        println!("{}: removed {} cgroups and directories", leftover.office, leftover.found.len());
        for path in leftover.kept {
            eprintln!("testnet: {} could not be removed", path.display());
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
