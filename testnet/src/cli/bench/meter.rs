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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use barn_testnet::Host;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::reap;
use crate::cli::Failure;

/// A batch that takes longer has hung, if nothing else is said.
pub(super) const BATCH_LIMIT: Duration = Duration::from_secs(1800);

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
#[derive(Debug, Default, Serialize, Deserialize)]
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
    /// One for each command, in the order in which they ended.
    pub(super) ends: Vec<End>,
}

/// The end of one command.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct End {
    /// Which of the batch.
    pub(super) command: usize,
    /// When, by the machine's clock, in seconds since 1970.
    pub(super) at_s: f64,
    /// CPU seconds of the command and of everything it waited for.
    pub(super) cpu_s: f64,
}

impl Batch {
    /// Runs the batch on a host. A command that fails makes no failure of it, but counts.
    ///
    /// # Errors
    /// If the host cannot run it, or not within the limit.
    pub(super) fn run(
        &self,
        host: &Host,
        dir: &Path,
        variables: &[(String, String)],
        limit: Duration,
    ) -> Result<Report, Failure> {
        self.run_with_cores_of(host, host, dir, variables, limit)
    }

    /// The same, on another host's cores.
    pub(super) fn run_with_cores_of(
        &self,
        other: &Host,
        host: &Host,
        dir: &Path,
        variables: &[(String, String)],
        limit: Duration,
    ) -> Result<Report, Failure> {
        let mut order = tempfile::tempfile()?;
        order.write_all(&serde_json::to_vec(self)?)?;
        order.rewind()?;
        let meter = host.command_with_cores_of(other, std::env::current_exe()?)?;
        let mut command = meter.arg("meter").current_dir(dir).stdin(order);
        for (name, value) in variables {
            command = command.env(name, value);
        }
        let output = command.output_within(limit)?;
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
    let work = || -> std::io::Result<(Duration, Vec<End>)> {
        let (mut sum, mut ends) = (Duration::ZERO, Vec::new());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(command) = batch.commands.get(number) else { return Ok((sum, ends)) };
            batch.outputs.iter().try_for_each(|path| remove(path))?;
            let start = Instant::now();
            let (success, cpu) = run(command, &quiet)?;
            sum += start.elapsed();
            if !success {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            ends.push(End { command: number, at_s: now(), cpu_s: cpu.as_secs_f64() });
        }
    };
    let start = Instant::now();
    let (each, mut ends) = thread::scope(|scope| -> Result<(Duration, Vec<End>), Failure> {
        let workers: Vec<_> = (0..batch.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let (mut sum, mut ends) = (Duration::ZERO, Vec::new());
        for worker in workers {
            let (own, its) = worker.join().map_err(|_| "a thread of the meter broke off")??;
            sum += own;
            ends.extend(its);
        }
        Ok((sum, ends))
    })?;
    let wall_s = start.elapsed().as_secs_f64();
    ends.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
    Ok(Report {
        wall_s,
        each_s: each.as_secs_f64(),
        cpu_s: ends.iter().map(|end| end.cpu_s).sum(),
        meter_s: own_cpu()?,
        failed: failed.into_inner(),
        ends,
    })
}

/// The time that the meter and its user, on the same machine, share.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn run(command: &[String], quiet: &File) -> std::io::Result<(bool, Duration)> {
    let (program, args) = command.split_first().ok_or(ErrorKind::InvalidInput)?;
    let null = || quiet.try_clone().map(Stdio::from);
    let mut command = Command::new(program);
    let child = command.args(args).stdin(null()?).stdout(null()?).stderr(null()?).spawn()?;
    let (status, cpu) = reap::wait(child)?;
    Ok((status.success(), cpu))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn own_cpu() -> Result<f64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
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
        assert!(report.ends.len() == 2 && report.ends.iter().all(|end| end.cpu_s > 0.01), "{report:?}");
    }
}
