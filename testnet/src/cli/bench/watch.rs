//! Watching an office at work from outside: which compilers run on each host now, and what has passed the requester's cable.
//! Nothing is asked of any host, so nothing is taken from its quota.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use barn_testnet::{Host, Office, Traffic};

use super::meter;
use crate::cli::Failure;

/// Short beside any compile on a fifth of a core; a look at eight hosts takes about a millisecond.
const PERIOD: Duration = Duration::from_millis(100);

/// Compilers proper, not the drivers that wait for them.
const COMPILERS: [&str; 3] = ["cc1", "cc1plus", "clang"];

/// Arguments of a compiler that only reads: it preprocesses, or lists dependencies.
const ONLY_READS: [&str; 4] = ["-E", "-M", "-MM", "-fdirectives-only"];

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// By the machine's clock, in seconds since 1970.
    pub(super) at_s: f64,
    pub(super) hosts: Vec<Running>,
    /// Of the requester's cable.
    pub(super) traffic: Traffic,
}

/// Compilers of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    /// Those that make objects.
    pub(super) compiling: usize,
    /// Those that only read.
    pub(super) reading: usize,
}

/// Does the work and watches meanwhile.
pub(super) fn during<T>(
    office: &Office,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Vec<Sample>), Failure> {
    thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let watcher = scope.spawn(move || -> Result<Vec<Sample>, Failure> {
            let mut samples = vec![sample(office)?];
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                samples.push(sample(office)?);
            }
            Ok(samples)
        });
        let result = work();
        drop(stop);
        let samples = watcher.join().map_err(|_| "the watcher broke off")?;
        Ok((result?, samples?))
    })
}

/// Looks once.
pub(super) fn sample(office: &Office) -> Result<Sample, Failure> {
    let at_s = meter::now();
    let hosts = office.hosts().iter().map(running).collect();
    Ok(Sample { at_s, hosts, traffic: office[0].traffic()? })
}

fn running(host: &Host) -> Running {
    let mut running = Running::default();
    for process in host.processes() {
        if COMPILERS.contains(&process.name.as_str()) && process.state != 'Z' {
            // One that has just ended has no arguments, and counts as what most are.
            let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            match only_reads(&words) {
                true => running.reading += 1,
                false => running.compiling += 1,
            }
        }
    }
    running
}

fn only_reads(words: &[u8]) -> bool {
    words.split(|byte| *byte == 0).any(|word| ONLY_READS.iter().any(|only| only.as_bytes() == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preprocessing_is_told_from_compiling() {
        assert!(only_reads(b"/usr/lib/gcc/cc1plus\0-E\0-quiet\0x.cc\0"));
        assert!(only_reads(b"/usr/lib/gcc/cc1\0-M\0x.c\0"));
        assert!(!only_reads(b"/usr/lib/gcc/cc1plus\0-quiet\0-MD\0x.d\0-Esel\0x.cc\0"));
        assert!(!only_reads(b""));
    }
}
