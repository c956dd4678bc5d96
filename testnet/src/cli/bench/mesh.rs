//! `testnet bench-mesh`: whole builds of real projects over an office, by every tool, beside one machine that has all the
//! cores of the office.

use std::path::PathBuf;
use std::time::Duration;

use barn_testnet::{HostSpec, Office, OfficeSpec, QUOTA_PERIOD};
use clap::Args;

use super::report::{Report, Section};
use super::rivals::{self, Settings, Tool, Way};
use super::turn::{Stage, Turn};
use super::{bin_dir, check_names, cold, machine, measured_host, sccache_dir, with_sccache};
use crate::cli::Failure;
use crate::cli::project::{ABSEIL, LIBGIT2, Project, STORE, Selection};

/// As many compiles at once as people give `-j` for an office of such hosts.
const JOBS_PER_HOST: usize = 3;

/// How it shall go.
#[derive(Args)]
pub(in crate::cli) struct Options {
    /// Hosts, the requester among them; several numbers make a curve
    #[arg(long, value_delimiter = ',', default_value = "8")]
    pub(super) hosts: Vec<usize>,
    /// Cores of each host
    #[arg(long, default_value_t = 0.2)]
    pub(super) cpu: f64,
    /// The period over which the quota of cores holds, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = QUOTA_PERIOD.as_millis() as u64)]
    period: u64,
    /// Bandwidth of each host's cable in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 1000)]
    pub(super) bandwidth: u32,
    /// Projects to build: abseil (C++), libgit2 (C), store (both)
    #[arg(long, value_delimiter = ',', default_value = "abseil,libgit2")]
    projects: Vec<String>,
    /// Only these of bare, hand, barn, icecream, distcc, pump and sccache [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds; in each, every tool builds everything once
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Compiles at once [default: three for each host]
    #[arg(long, short = 'j')]
    jobs: Option<usize>,
    /// Compiles that a worker of distcc and icecream takes at once
    #[arg(long, default_value_t = 2)]
    slots: usize,
    /// Compiles that a worker of barn takes at once [default: as it decides itself]
    #[arg(long)]
    barn_slots: Option<usize>,
    /// Translation units of each project, evenly chosen [default: all]
    #[arg(long)]
    units: Option<usize>,
    /// The longest a single build may take, in seconds
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Instead of builds: how soon workers that never saw the toolchain compile, all joining at once
    #[arg(long)]
    cold: bool,
    /// Write the tables into DIR/performance.md, between its marks, and the pictures into DIR/bench
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// Where barn, barn-node and barn-room lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
}

/// A tool with its builds of one project.
pub(super) struct Contender {
    pub(super) tool: Box<dyn Tool>,
    pub(super) turns: Vec<Turn>,
    pub(super) trouble: Option<String>,
}

/// Runs the benchmark, and prints its tables.
pub(in crate::cli) fn run(options: &Options) -> Result<(), Failure> {
    check_names(&options.only)?;
    let projects = options.projects.iter().map(|name| selection(name)).collect::<Result<Vec<_>, _>>()?;
    println!("{}", machine());
    if options.cold {
        return options.hosts.iter().try_for_each(|hosts| cold::run(options, *hosts));
    }
    let mut report = Report::default();
    for hosts in &options.hosts {
        let office = Office::build(options.spec(*hosts)?)?;
        let jobs = options.jobs.unwrap_or(JOBS_PER_HOST * hosts).max(1);
        let cpus = vec![options.cpu; *hosts];
        let mut stage = Stage::new(&office, cpus, jobs, Duration::from_secs(options.limit))?;
        stage.bare_cpus = options.alone();
        println!("\n{hosts} hosts of {} cores, {} Mbit/s, -j{jobs}", options.cpu, options.bandwidth);
        for (name, selection) in options.projects.iter().zip(&projects) {
            let dir = office[0].home().join(name);
            let project = Project::fetch(&dir, selection, options.units.unwrap_or(usize::MAX))?;
            println!("\n{name}: {project}");
            report.add(build_all(&mut stage, &project, name, options)?);
        }
    }
    let text = report.markdown();
    println!("\n{text}");
    match &options.docs {
        Some(dir) => report.write(dir),
        None => Ok(()),
    }
}

/// All tools in turns.
fn build_all(
    stage: &mut Stage<'_>,
    project: &Project,
    name: &str,
    options: &Options,
) -> Result<Section, Failure> {
    let sccache = sccache_dir();
    let settings =
        Settings { slots: options.slots, barn_slots: options.barn_slots, sccache: sccache.as_deref() };
    // The bare compiler always builds: its time is the ideal, its objects are what others are compared with.
    let wanted = |tool: &dyn Tool| {
        options.only.is_empty()
            || tool.way() == Way::Alone
            || options.only.iter().any(|name| name == tool.name())
    };
    let tools = rivals::all(settings).into_iter().filter(|tool| wanted(tool.as_ref()));
    let mut all: Vec<Contender> =
        tools.map(|tool| Contender { tool, turns: Vec::new(), trouble: None }).collect();
    for round in 1..=options.rounds.max(1) {
        for contender in all.iter_mut().filter(|contender| contender.trouble.is_none()) {
            let tool = contender.tool.name();
            match stage.play(project, contender.tool.as_mut()) {
                Ok(turn) => {
                    println!("round {round}  {tool:10} {turn}");
                    turn.notes.iter().for_each(|note| println!("{:20}{note}", ""));
                    contender.turns.push(turn);
                }
                Err(failure) => {
                    println!("round {round}  {tool:10} failed: {failure}");
                    contender.trouble = Some(failure.to_string());
                }
            }
        }
    }
    Ok(Section::new(stage, project, name, options.cpu, all))
}

fn selection(name: &str) -> Result<&'static Selection, Failure> {
    match name {
        "abseil" => Ok(&ABSEIL),
        "libgit2" => Ok(&LIBGIT2),
        "store" => Ok(&STORE),
        _ => Err(format!("there is no project {name:?}; there are abseil, libgit2 and store").into()),
    }
}

impl Options {
    /// The office: the first host is the requester.
    pub(super) fn spec(&self, hosts: usize) -> Result<OfficeSpec, Failure> {
        if hosts < 2 {
            return Err("an office for this needs two hosts at least".into());
        }
        let sccache = sccache_dir();
        let mut spec = OfficeSpec::new(bin_dir(self.bin_dir.as_ref()));
        for number in 1..=hosts {
            let name = format!("h{number}");
            let host = if number == 1 { measured_host(name)? } else { HostSpec::new(name) };
            let host = with_sccache(host, sccache.as_ref());
            let host = host.cpus(self.cpu).quota_period(Duration::from_millis(self.period));
            spec = spec.host(host.bandwidth_mbit(self.bandwidth));
        }
        Ok(spec)
    }

    /// Cores of the machine that builds alone: those of the largest office, or all there are. Smaller offices are compared
    /// with it in proportion, for alone on two tenths of a core a build takes minutes and shows nothing else.
    fn alone(&self) -> f64 {
        let most = self.hosts.iter().copied().max().unwrap_or(1) as f64 * self.cpu;
        most.min(std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64))
    }
}
