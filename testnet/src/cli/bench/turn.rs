//! One turn of one tool: started, warmed up, let build everything, measured, ended.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use barn_testnet::{Host, Office, Traffic};

use super::meter::{Batch, End};
use super::objects::Objects;
use super::rivals::{Served, Tool, Way};
use super::warm::Warm;
use super::watch::{self, Sample};
use super::{compile, spread, through, usage};
use crate::cli::Failure;
use crate::cli::project::Project;

/// A tool that has not used every worker by then does not work here.
const WARM_PASSES_MAX: usize = 12;

/// A pass of the warm-up takes seconds.
const WARM_LIMIT: Duration = Duration::from_secs(180);

/// What daemons still do after a build belongs to it; it is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// The compiles after which the headers that all share have been sent.
const FIRST: usize = 10;

/// Where turns are taken, and how.
pub(super) struct Stage<'a> {
    pub(super) office: &'a Office,
    /// Cores of each host.
    pub(super) cpus: Vec<f64>,
    /// Cores of the requester while the bare compiler builds there alone.
    pub(super) bare_cpus: f64,
    /// Compiles at once.
    pub(super) jobs: usize,
    /// The longest that one build may take.
    pub(super) limit: Duration,
    /// Builds so far: a number in the arguments makes each one's objects unknown to every cache.
    nonce: usize,
    /// CPU seconds of each compile of the project when one machine built it.
    lengths: BTreeMap<usize, f64>,
    warm: Warm,
}

/// One build.
pub(super) struct Turn {
    pub(super) wall_s: f64,
    /// CPU seconds on the requester, and on all workers.
    pub(super) requester_s: f64,
    pub(super) workers_s: f64,
    /// Of the requester's, those that were not used by the commands: its daemons, and what these run.
    pub(super) daemons_s: f64,
    /// Units compiled by workers.
    pub(super) remote: u64,
    /// Cores that were kept busy by what is not of the office.
    pub(super) others: f64,
    /// What passed the requester's cable.
    pub(super) traffic: Traffic,
    pub(super) ends: Vec<End>,
    pub(super) samples: Vec<Sample>,
    pub(super) objects: Objects,
    pub(super) notes: Vec<String>,
}

impl<'a> Stage<'a> {
    /// A stage for the hosts of an office with so many cores each, and so many compiles at once.
    pub(super) fn new(
        office: &'a Office,
        cpus: Vec<f64>,
        jobs: usize,
        limit: Duration,
    ) -> Result<Stage<'a>, Failure> {
        let warm = Warm::write(&office[0].home().join("warm"))?;
        Ok(Stage { office, bare_cpus: cpus[0], cpus, jobs, limit, nonce: 0, lengths: BTreeMap::new(), warm })
    }

    /// Starts a tool, warms it up, lets it build everything, and ends it with all it left on the hosts.
    pub(super) fn play(&mut self, project: &Project, tool: &mut dyn Tool) -> Result<Turn, Failure> {
        let turn = self.measured(project, tool);
        let stopped = tool.stop(self.office);
        for host in self.office.hosts() {
            host.power_off()?;
        }
        self.set_quotas()?;
        stopped.and(turn)
    }

    fn measured(&mut self, project: &Project, tool: &mut dyn Tool) -> Result<Turn, Failure> {
        if tool.way() == Way::Alone {
            self.office[0].slow(Some(self.bare_cpus))?;
        }
        tool.start(self.office)?;
        self.warm_up(project, tool)?;
        thread::sleep(SETTLE);
        let batch = self.batch(project, tool)?;
        let variables = tool.variables(self.office);
        tool.begin(self.office)?;
        let (served, traffic) = (tool.served(self.office)?, self.office[0].traffic()?);
        let (before, machine) = (self.usage()?, usage::of_machine()?);
        let (report, samples) = watch::during(self.office, || match tool.way() {
            Way::ByHand => spread::run(self.office, &batch, project.dir(), &self.lengths, self.limit),
            Way::Alone | Way::Itself => batch.run(&self.office[0], project.dir(), &variables, self.limit),
        })?;
        let (after, machine_after) = (self.usage()?, usage::of_machine()?);
        thread::sleep(SETTLE);
        let (settled, passed) = (self.usage()?, self.office[0].traffic()?);
        if report.failed > 0 {
            return Err(format!("{} of {} compiles failed", report.failed, project.units().len()).into());
        }
        if tool.way() == Way::Alone {
            self.lengths = report.ends.iter().map(|end| (end.command, end.cpu_s)).collect();
        }
        let used: Vec<f64> = settled.iter().zip(&before).map(|(after, before)| after - before).collect();
        let meanwhile: f64 = after.iter().sum::<f64>() - before.iter().sum::<f64>();
        Ok(Turn {
            wall_s: report.wall_s,
            requester_s: used[0] - report.meter_s,
            workers_s: used[1..].iter().sum(),
            daemons_s: used[0] - report.meter_s - report.cpu_s,
            remote: sum(&tool.served(self.office)?) - sum(&served),
            others: (machine_after - machine - meanwhile) / report.wall_s,
            traffic: Traffic {
                sent: passed.sent - traffic.sent,
                received: passed.received - traffic.received,
            },
            ends: report.ends,
            samples,
            objects: judged(project, tool)?,
            notes: tool.notes(self.office)?,
        })
    }

    /// Compiles what is not of the project again and again until every worker has done some: then each has the toolchain.
    /// Meanwhile the quotas are lifted, for fetching a compiler takes long on a fifth of a core; one more pass under the
    /// quotas shows the tool how quick the hosts really are.
    fn warm_up(&mut self, project: &Project, tool: &dyn Tool) -> Result<(), Failure> {
        if tool.way() != Way::Itself {
            return Ok(());
        }
        self.office.hosts().iter().try_for_each(|host| host.slow(None))?;
        let before = tool.served(self.office)?;
        for _ in 0..WARM_PASSES_MAX {
            self.warm_pass(project, tool)?;
            let now = tool.served(self.office)?;
            let helped = |host: &Host| now.get(host.name()) > before.get(host.name());
            if self.office.hosts()[1..].iter().all(helped) {
                self.set_quotas()?;
                return self.warm_pass(project, tool);
            }
        }
        let served = tool.served(self.office)?;
        Err(format!("not every worker helped within {WARM_PASSES_MAX} passes: {served:?}").into())
    }

    /// As many compiles as shall run at once.
    fn warm_pass(&mut self, project: &Project, tool: &dyn Tool) -> Result<(), Failure> {
        let mut commands = Vec::new();
        for unit in project.units().iter().cycle().take(self.jobs) {
            self.nonce += 1;
            commands.push(through(&tool.launcher(), &self.warm.compile(unit.language, self.nonce)));
        }
        let batch = Batch { commands, jobs: self.jobs, outputs: Vec::new() };
        let variables = tool.variables(self.office);
        let report = batch.run(&self.office[0], self.warm.dir(), &variables, WARM_LIMIT)?;
        if report.failed > 0 {
            return Err(format!("{} of {} compiles of the warm-up failed", report.failed, self.jobs).into());
        }
        Ok(())
    }

    /// All units, as compiles that no cache has seen.
    fn batch(&mut self, project: &Project, tool: &dyn Tool) -> Result<Batch, Failure> {
        match fs::remove_dir_all(project.outputs()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.nonce += 1;
        let mut commands = Vec::new();
        for unit in project.units() {
            if let Some(parent) = project.outputs().join(&unit.output).parent() {
                fs::create_dir_all(parent)?;
            }
            let mut command = through(&tool.launcher(), &compile(unit));
            command.push(format!("-DBENCH_BUILD={}", self.nonce));
            commands.push(command);
        }
        // Without help from others, more at once than the cores can use only costs memory.
        let alone = (self.bare_cpus.ceil() as usize).max(2);
        let jobs = if tool.way() == Way::Itself { self.jobs } else { alone };
        Ok(Batch { commands, jobs, outputs: Vec::new() })
    }

    fn set_quotas(&self) -> Result<(), Failure> {
        for (host, cpus) in self.office.hosts().iter().zip(&self.cpus) {
            host.slow(Some(*cpus))?;
        }
        Ok(())
    }

    fn usage(&self) -> Result<Vec<f64>, Failure> {
        self.office.hosts().iter().map(|host| usage::of_host(self.office, host)).collect()
    }

    /// Cores of all hosts together.
    pub(super) fn cores(&self) -> f64 {
        self.cpus.iter().sum()
    }

    /// Cores of the machine that the hosts leave to others. Whoever uses more takes from the hosts.
    pub(super) fn spare(&self) -> f64 {
        thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64) - self.cores()
    }
}

/// The objects a build made; that they are missing, or differ where they must not, is a failure.
fn judged(project: &Project, tool: &dyn Tool) -> Result<Objects, Failure> {
    if tool.way() == Way::Alone {
        Objects::keep_as_local(project)?;
        return Ok(Objects { all: project.units().len(), missing: 0, equal: Some(project.units().len()) });
    }
    let objects = Objects::of(project)?;
    if objects.missing > 0 {
        return Err(format!("{} of {} objects are missing", objects.missing, objects.all).into());
    }
    match objects.equal {
        Some(equal) if tool.is_exact() && equal < objects.all => {
            Err(format!("only {equal} of {} objects are those of the bare compiler", objects.all).into())
        }
        _ => Ok(objects),
    }
}

fn sum(served: &Served) -> u64 {
    served.values().sum()
}

impl Turn {
    /// The median CPU time of the commands themselves, in milliseconds: wrapper, and what it waited for.
    pub(super) fn command_ms(&self) -> f64 {
        self.ends.iter().map(|end| end.cpu_s * 1e3).collect::<super::figures::Figures>().median()
    }

    /// The mean CPU time of the requester's daemons for one compile, in milliseconds.
    pub(super) fn daemons_ms(&self) -> f64 {
        self.daemons_s * 1e3 / self.ends.len() as f64
    }

    /// Kilobytes sent for each compile after the first ten; NaN if there were no more.
    pub(super) fn later_kb(&self) -> f64 {
        let (Some(tenth), Some(first), Some(last)) =
            (self.ends.get(FIRST - 1), self.samples.first(), self.samples.last())
        else {
            return f64::NAN;
        };
        let then = self.samples.iter().find(|sample| sample.at_s >= tenth.at_s).unwrap_or(last);
        let sent = self.traffic.sent.saturating_sub(then.traffic.sent - first.traffic.sent);
        sent as f64 / 1e3 / (self.ends.len() as f64 - FIRST as f64)
    }
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:6.1} s; CPU {:6.2} s on the requester ({:.2} s by daemons), {:6.2} s on workers; {:.1} MB sent; {:3} remote; \
             others kept {:.2} cores busy",
            self.wall_s,
            self.requester_s,
            self.daemons_s,
            self.workers_s,
            self.traffic.sent as f64 / 1e6,
            self.remote,
            self.others
        )
    }
}
