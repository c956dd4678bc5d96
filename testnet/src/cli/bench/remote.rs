//! `testnet bench-remote`: what a remote compile costs the machine that asks for it, and how near a build comes to what all
//! machines together could do.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use barn_testnet::{HostSpec, Office, OfficeSpec};
use clap::Args;

use super::figures::Figures;
use super::meter::Batch;
use super::rivals::{self, Served, Tool};
use super::{bin_dir, compile, machine, measured_host, through, usage};
use crate::cli::Failure;
use crate::cli::project::Project;

/// Units of one warm-up pass: more than there are slots, so that every worker gets some.
const WARM_UNITS: usize = 12;

/// A tool that has not used every worker by then does not work here.
const WARM_PASSES_MAX: usize = 12;

/// What daemons still do after a build belongs to it; it is over by then.
const SETTLE: Duration = Duration::from_secs(2);

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
    /// Only these of barn, distcc, icecream and bare
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// One build.
struct Turn {
    wall_s: f64,
    /// CPU seconds on the requester, and on all workers.
    requester_s: f64,
    workers_s: f64,
    /// Of the requester's, those that were not used by the commands: its daemons, and what these run.
    daemons_s: f64,
    /// Units compiled by workers.
    remote: u64,
    /// Cores that were kept busy by what is not of the office.
    others: f64,
}

/// A tool with its builds.
struct Contender {
    tool: Box<dyn Tool>,
    turns: Vec<Turn>,
    trouble: Option<String>,
}

/// Runs the benchmark and prints its table.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    let mut spec = OfficeSpec::new(bin_dir(options.bin_dir.as_ref()))
        .host(measured_host("h1")?.cpus(options.requester_cpus));
    for number in 0..options.workers {
        spec = spec.host(HostSpec::new(format!("h{}", number + 2)).cpus(options.worker_cpus));
    }
    let office = Office::build(spec)?;
    let project = Project::fetch(&office[0].home().join("project"), options.units)?;
    println!("{}", machine());
    println!(
        "hosts          requester with {} cores, {} workers with {} cores and {} slots each",
        options.requester_cpus, options.workers, options.worker_cpus, options.slots
    );
    println!("project        {project}");
    let wanted =
        |tool: &dyn Tool| options.only.is_empty() || options.only.iter().any(|name| name == tool.name());
    let mut all: Vec<Contender> = rivals::all(options.slots)
        .into_iter()
        .filter(|tool| wanted(tool.as_ref()))
        .map(|tool| Contender { tool, turns: Vec::new(), trouble: None })
        .collect();
    let mut nonce = 0;
    for round in 1..=options.rounds {
        for contender in all.iter_mut().filter(|contender| contender.trouble.is_none()) {
            let turn = turn(&office, &project, contender.tool.as_mut(), options, &mut nonce);
            contender.tool.stop(&office)?;
            match turn {
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

/// Starts a tool, warms it up, and lets it build everything.
fn turn(
    office: &Office,
    project: &Project,
    tool: &mut dyn Tool,
    options: &Options,
    nonce: &mut usize,
) -> Result<Turn, Failure> {
    tool.start(office)?;
    warm_up(office, project, tool, options, nonce)?;
    thread::sleep(SETTLE);
    *nonce += 1;
    let batch = batch(project, tool, options.jobs, usize::MAX, *nonce)?;
    let (served, before, machine) = (tool.served(office)?, hosts_usage(office)?, usage::of_machine()?);
    let report = batch.run(&office[0], project.dir(), &tool.variables(office))?;
    let (after, machine_after) = (hosts_usage(office)?, usage::of_machine()?);
    thread::sleep(SETTLE);
    let settled = hosts_usage(office)?;
    if report.failed > 0 {
        return Err(format!("{} of {} compiles failed", report.failed, project.units().len()).into());
    }
    let used: Vec<f64> = settled.iter().zip(&before).map(|(after, before)| after - before).collect();
    let meanwhile: f64 = after.iter().sum::<f64>() - before.iter().sum::<f64>();
    Ok(Turn {
        wall_s: report.wall_s,
        requester_s: used[0] - report.meter_s,
        workers_s: used[1..].iter().sum(),
        daemons_s: used[0] - report.meter_s - report.cpu_s,
        remote: sum(&tool.served(office)?) - sum(&served),
        others: (machine_after - machine - meanwhile) / report.wall_s,
    })
}

/// Builds a few units again and again until every worker has done some: then each has the toolchain.
fn warm_up(
    office: &Office,
    project: &Project,
    tool: &mut dyn Tool,
    options: &Options,
    nonce: &mut usize,
) -> Result<(), Failure> {
    if !tool.is_distributed() {
        return Ok(());
    }
    let before = tool.served(office)?;
    for _ in 0..WARM_PASSES_MAX {
        *nonce += 1;
        let batch = batch(project, tool, options.jobs, WARM_UNITS, *nonce)?;
        batch.run(&office[0], project.dir(), &tool.variables(office))?;
        let now = tool.served(office)?;
        let helped = |name: &str| now.get(name) > before.get(name);
        if office.hosts()[1..].iter().all(|host| helped(host.name())) {
            return Ok(());
        }
    }
    Err(format!("not every worker helped within {WARM_PASSES_MAX} passes: {:?}", tool.served(office)?).into())
}

/// Up to `units` compiles that no cache has seen, for the nonce is in their arguments.
fn batch(
    project: &Project,
    tool: &dyn Tool,
    jobs: usize,
    units: usize,
    nonce: usize,
) -> Result<Batch, Failure> {
    match fs::remove_dir_all(project.outputs()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut commands = Vec::new();
    for unit in project.units().iter().take(units) {
        if let Some(parent) = project.outputs().join(&unit.output).parent() {
            fs::create_dir_all(parent)?;
        }
        let mut command = through(&tool.launcher(), &compile(unit));
        command.push(format!("-DBENCH_BUILD={nonce}"));
        commands.push(command);
    }
    Ok(Batch { commands, jobs: tool.jobs(jobs), outputs: Vec::new() })
}

fn hosts_usage(office: &Office) -> Result<Vec<f64>, Failure> {
    office.hosts().iter().map(|host| usage::of_host(office, host)).collect()
}

fn sum(served: &Served) -> u64 {
    served.values().sum()
}

fn print(all: &[Contender], options: &Options, units: usize) {
    let cores = options.cores();
    let bare = all.iter().find(|contender| !contender.tool.is_distributed());
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

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:6.1} s; CPU {:6.2} s on the requester ({:.2} s by daemons), {:6.2} s on workers; {:3} remote; others kept {:.2} cores busy",
            self.wall_s, self.requester_s, self.daemons_s, self.workers_s, self.remote, self.others
        )
    }
}
