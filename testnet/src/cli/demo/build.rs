//! One build: all units of the project on the first host, so many at once.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use barn_testnet::Host;

use super::Failure;
use crate::cli::project::{Language, Project, Unit};

/// A compile that takes longer has hung; the longest takes about 15 s on half a core.
const COMPILE_LIMIT: Duration = Duration::from_secs(300);

/// Through what the units are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compiler {
    Barn,
    Bare,
}

/// A finished build.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) wall: Duration,
    /// What each compile said, in the order of the units.
    pub(super) outcomes: Vec<Outcome>,
}

/// What one compile said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The wait status: exit code or signal.
    pub(super) status: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Build {
    /// Compiles that did not succeed.
    pub(super) fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.status != 0).count()
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        Outcome { status: output.status.into_raw(), stdout: output.stdout, stderr: output.stderr }
    }
}

/// Builds the project with `jobs` compiles at once and counts them in `done`.
pub(super) fn run(
    host: &Host,
    project: &Project,
    compiler: Compiler,
    jobs: usize,
    done: &AtomicUsize,
) -> Result<Build, Failure> {
    let units = project.units();
    for unit in units {
        if let Some(parent) = project.outputs().join(&unit.output).parent() {
            fs::create_dir_all(parent)?;
        }
    }
    let next = AtomicUsize::new(0);
    let broken = AtomicBool::new(false);
    let outcomes = Mutex::new(vec![None; units.len()]);
    let work = || -> Result<(), Failure> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = units.get(number) else { return Ok(()) };
            if broken.load(Ordering::Relaxed) {
                return Ok(());
            }
            let outcome = compile(host, project, compiler, unit)
                .inspect_err(|_| broken.store(true, Ordering::Relaxed))?;
            if let Ok(mut outcomes) = outcomes.lock() {
                outcomes[number] = Some(outcome);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let start = Instant::now();
    thread::scope(|scope| -> Result<(), Failure> {
        let workers: Vec<_> = (0..jobs.min(units.len())).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a thread of the build broke off")??;
        }
        Ok(())
    })?;
    let wall = start.elapsed();
    let outcomes = outcomes.into_inner().map_err(|_| "a thread of the build broke off")?;
    let outcomes = outcomes.into_iter().collect::<Option<Vec<_>>>().ok_or("a compile was left out")?;
    Ok(Build { wall, outcomes })
}

fn compile(host: &Host, project: &Project, compiler: Compiler, unit: &Unit) -> Result<Outcome, Failure> {
    let program = match unit.language {
        Language::C => "gcc",
        Language::Cxx => "g++",
    };
    let command = match compiler {
        Compiler::Barn => host.command("barn")?.arg(program),
        Compiler::Bare => host.command(program)?,
    };
    let output = command.args(&unit.args).current_dir(project.dir()).output_within(COMPILE_LIMIT);
    Ok(output.map_err(|error| format!("{}: {error}", unit.source.display()))?.into())
}
