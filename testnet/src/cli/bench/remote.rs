//! `testnet bench-remote`: what a remote compile costs the machine that asks for it, and how near a build comes to what all
//! machines together could do.

use std::path::PathBuf;
use std::thread;

use barn_testnet::{HostSpec, Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::BATCH_LIMIT;
use super::rivals::{self, Settings, Tool, Way};
use super::turn::{Stage, Turn};
use super::{bin_dir, check_names, machine, measured_host, sccache_dir, with_sccache};
use crate::cli::Failure;
use crate::cli::project::{Project, STORE};

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Rounds; in each, every tool builds everything once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Translation units to build, of 388
    #[arg(long, default_value_t = 60)]
    units: usize,
    /// Compiles at once
    #[arg(long, default_value_t = 12)]
    jobs: usize,
    /// Hosts that lend their cores
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Cores of the requester
    #[arg(long, default_value_t = 0.3)]
    requester_cpus: f64,
    /// Cores of each worker
    #[arg(long, default_value_t = 0.4)]
    worker_cpus: f64,
    /// Compiles that a worker takes at once
    #[arg(long, default_value_t = 2)]
    slots: usize,
    /// Only these of bare, barn, icecream, distcc, pump and sccache
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// A tool with its builds.
struct Contender {
    tool: Box<dyn Tool>,
    turns: Vec<Turn>,
    trouble: Option<String>,
}

/// Runs the benchmark and prints its table.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    check_names(&options.only)?;
    let sccache = sccache_dir();
    let mut spec = OfficeSpec::new(bin_dir(options.bin_dir.as_ref()))
        .host(with_sccache(measured_host("h1")?, sccache.as_ref()).cpus(options.requester_cpus));
    for number in 0..options.workers {
        let host = with_sccache(HostSpec::new(format!("h{}", number + 2)), sccache.as_ref());
        spec = spec.host(host.cpus(options.worker_cpus));
    }
    let office = Office::build(spec)?;
    let project = Project::fetch(&office[0].home().join("project"), &STORE, options.units)?;
    println!("{}", machine());
    println!(
        "hosts          requester with {} cores, {} workers with {} cores and {} slots each",
        options.requester_cpus, options.workers, options.worker_cpus, options.slots
    );
    println!("project        {project}");
    let wanted = |tool: &dyn Tool| {
        tool.way() != Way::ByHand
            && (options.only.is_empty() || options.only.iter().any(|name| name == tool.name()))
    };
    let settings =
        Settings { slots: options.slots, barn_slots: Some(options.slots), sccache: sccache.as_deref() };
    let mut all: Vec<Contender> = rivals::all(settings)
        .into_iter()
        .filter(|tool| wanted(tool.as_ref()))
        .map(|tool| Contender { tool, turns: Vec::new(), trouble: None })
        .collect();
    let mut cpus = vec![options.requester_cpus];
    cpus.resize(office.hosts().len(), options.worker_cpus);
    let mut stage = Stage::new(&office, cpus, options.jobs, BATCH_LIMIT)?;
    for round in 1..=options.rounds {
        for contender in all.iter_mut().filter(|contender| contender.trouble.is_none()) {
            match stage.play(&project, contender.tool.as_mut()) {
                Ok(turn) => {
                    println!("round {round}        {:10} {turn}", contender.tool.name());
                    contender.turns.push(turn);
                }
                Err(failure) => contender.trouble = Some(failure.to_string()),
            }
        }
    }
    print(&all, options, project.units().len());
    Ok(())
}

fn print(all: &[Contender], options: &Options, units: usize) {
    let cores = options.cores();
    let bare = all.iter().find(|contender| contender.tool.way() == Way::Alone);
    let bare_cpu =
        bare.map(|contender| contender.figures(options, |turn| turn.requester_s)).unwrap_or_default();
    let ideal_s = bare_cpu.median() / cores;
    println!("\nideal          {ideal_s:.1} s: {:.1} CPU s on {cores:.2} cores", bare_cpu.median());
    println!(
        "               a turn counts if others kept less than {:.2} cores busy, or if no turn did",
        options.spare()
    );
    println!(
        "{:10} {:>6} {:>22} {:>8} {:>24} {:>8} {:>8} {:>8}",
        "", "turns", "wall s", "of ideal", "requester CPU s", "daemons", "workers", "remote"
    );
    for contender in all {
        if let Some(trouble) = &contender.trouble {
            println!("{:10} failed: {trouble}", contender.tool.name());
        }
        if contender.turns.is_empty() {
            continue;
        }
        let of = |what: fn(&Turn) -> f64| contender.figures(options, what);
        let walls = of(|turn| turn.wall_s);
        println!(
            "{:10} {:>6} {:>22} {:6.0} % {:>24} {:8.2} {:8.1} {:6.0} %",
            contender.tool.name(),
            format!("{}/{}", contender.quiet(options).count(), contender.turns.len()),
            format!("{walls:.1}"),
            ideal_s / walls.median() * 100.0,
            format!("{:.2}", of(|turn| turn.requester_s)),
            of(|turn| turn.daemons_s).median(),
            of(|turn| turn.workers_s).median(),
            of(|turn| turn.remote as f64).median() / units as f64 * 100.0
        );
    }
}

impl Options {
    /// Cores of all hosts together.
    fn cores(&self) -> f64 {
        self.requester_cpus + self.worker_cpus * self.workers as f64
    }

    /// Cores of the machine that the hosts leave to others. Whoever uses more takes from the hosts.
    fn spare(&self) -> f64 {
        thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64) - self.cores()
    }
}

impl Contender {
    /// Builds during which the hosts had what their quotas promise.
    fn quiet(&self, options: &Options) -> impl Iterator<Item = &Turn> {
        let spare = options.spare();
        self.turns.iter().filter(move |turn| turn.others < spare)
    }

    /// Figures of the quiet turns, or of all if none was.
    fn figures(&self, options: &Options, what: fn(&Turn) -> f64) -> Figures {
        match self.quiet(options).count() {
            0 => self.turns.iter().map(what).collect(),
            _ => self.quiet(options).map(what).collect(),
        }
    }
}
