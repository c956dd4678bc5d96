//! Timing commands from within a host.
//!
//! Bringing a process into a host's namespaces and cgroups costs more than a cache hit. So the benchmark starts this very
//! program on the host once for each batch; it runs the commands one by one, as make would, and reports.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use barn_testnet::Host;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::cli::Failure;

/// A batch that takes longer has hung.
const BATCH_LIMIT: Duration = Duration::from_secs(1800);

/// What to run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) commands: Vec<Vec<String>>,
    /// How many at once.
    pub(super) jobs: usize,
    /// What each command writes; removed before each, outside the time that counts.
    pub(super) outputs: Vec<PathBuf>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// From the first start to the last end, in seconds.
    pub(super) wall_s: f64,
    /// The sum of each command's own time, in seconds.
    pub(super) each_s: f64,
    /// CPU seconds of the commands and of everything they waited for.
    pub(super) cpu_s: f64,
    /// CPU seconds of the meter itself.
    pub(super) meter_s: f64,
    pub(super) failed: usize,
}

impl Batch {
    /// Runs the batch on a host. A command that fails makes no failure of it, but counts.
    pub(super) fn run(
        &self,
        host: &Host,
        dir: &Path,
        variables: &[(String, String)],
    ) -> Result<Report, Failure> {
        let mut order = tempfile::tempfile()?;
        order.write_all(&serde_json::to_vec(self)?)?;
        order.rewind()?;
        let mut command = host.command(std::env::current_exe()?)?.arg("meter").current_dir(dir).stdin(order);
        for (name, value) in variables {
            command = command.env(name, value);
        }
        let output = command.output_within(BATCH_LIMIT)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the meter on {} failed: {}", host.name(), said.trim()).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The meter: reads a batch from standard input and writes its report to standard output.
pub(in crate::cli) fn answer() -> Result<(), Failure> {
    let mut text = Vec::new();
    stdin().read_to_end(&mut text)?;
    let report = measure(&serde_json::from_slice(&text)?)?;
    stdout().write_all(&serde_json::to_vec(&report)?)?;
    Ok(())
}

fn measure(batch: &Batch) -> Result<Report, Failure> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let quiet = File::options().read(true).write(true).open("/dev/null")?;
    let work = || -> std::io::Result<Duration> {
        let mut sum = Duration::ZERO;
        while let Some(command) = batch.commands.get(next.fetch_add(1, Ordering::Relaxed)) {
            batch.outputs.iter().try_for_each(|path| remove(path))?;
            let start = Instant::now();
            if !run(command, &quiet)? {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            sum += start.elapsed();
        }
        Ok(sum)
    };
    let start = Instant::now();
    let each = thread::scope(|scope| -> Result<Duration, Failure> {
        let workers: Vec<_> = (0..batch.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut sum = Duration::ZERO;
        for worker in workers {
            sum += worker.join().map_err(|_| "a thread of the meter broke off")??;
        }
        Ok(sum)
    })?;
    Ok(Report {
        wall_s: start.elapsed().as_secs_f64(),
        each_s: each.as_secs_f64(),
        cpu_s: cpu(UsageWho::RUSAGE_CHILDREN)?,
        meter_s: cpu(UsageWho::RUSAGE_SELF)?,
        failed: failed.into_inner(),
    })
}

fn run(command: &[String], quiet: &File) -> std::io::Result<bool> {
    let (program, args) = command.split_first().ok_or(ErrorKind::InvalidInput)?;
    let null = || quiet.try_clone().map(Stdio::from);
    let mut command = Command::new(program);
    let status = command.args(args).stdin(null()?).stdout(null()?).stderr(null()?).status()?;
    Ok(status.success())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn cpu(who: UsageWho) -> Result<f64, Failure> {
    let usage = getrusage(who)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Vec<String> {
        ["sh", "-c", line].map(str::to_owned).to_vec()
    }

    #[test]
    fn failures_are_counted_and_outputs_removed_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("x.o");
        let line = format!("test ! -e {0} && touch {0}", output.display());
        let commands = vec![shell(&line), shell(&line), shell("exit 3")];
        let report = measure(&Batch { commands, jobs: 1, outputs: vec![output] }).unwrap();
        assert_eq!(report.failed, 1);
        assert!(report.each_s <= report.wall_s);
    }

    #[test]
    fn cpu_time_is_that_of_the_commands() {
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let report =
            measure(&Batch { commands: vec![shell(spin), shell(spin)], jobs: 2, outputs: vec![] }).unwrap();
        assert!(report.cpu_s > 0.02, "{report:?}");
    }
}
