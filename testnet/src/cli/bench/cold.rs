//! How a toolchain reaches workers that never saw it: all of them join at once while the requester builds, and the time
//! until each has done its first compile is taken, with what the requester's cable carried meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use barn_testnet::{Host, Office};

use super::mesh::Options;
use super::meter::{BATCH_LIMIT, Batch};
use super::warm::Warm;
use crate::cli::project::Language;
use crate::cli::{Failure, mesh};

/// Short beside a compile on a fifth of a core.
const PERIOD: Duration = Duration::from_millis(20);

/// A worker that has not compiled by then does not get the toolchain.
const LIMIT: Duration = Duration::from_secs(180);

/// More than are ever built: the build shall last until the last worker has helped, and is then ended.
const COMPILES: usize = 5000;

/// One worker on its way to its first compile.
#[derive(Default)]
struct Progress {
    joined: Option<Duration>,
    compilers: BTreeSet<i32>,
    first_done: Option<Duration>,
}

/// Runs it with so many hosts and prints what came of it.
pub(super) fn run(options: &Options, hosts: usize) -> Result<(), Failure> {
    let office = Office::build(options.spec(hosts)?)?;
    let (requester, workers) = office.hosts().split_first().ok_or("an office without hosts")?;
    let warm = Warm::write(&requester.home().join("warm"))?;
    println!(
        "\n{} workers that never saw the toolchain; every host has {} cores and {} Mbit/s",
        workers.len(),
        options.cpu,
        options.bandwidth
    );
    mesh::start(requester)?;
    requester.barn_text(["mesh", "init"])?;
    let tokens =
        workers.iter().map(|_| requester.barn_text(["mesh", "invite"])).collect::<Result<Vec<_>, _>>()?;
    for host in workers {
        // Every host has this machine's compiler; here it is to come over the cable.
        fs::write(host.barn_home().join("barn.toml"), "[worker]\nadopt_toolchains = false\n")?;
        mesh::start(host)?;
    }
    // Once alone: from now on the requester knows its compiler and what that consists of.
    batch(&warm, 0..1, 1).run(requester, warm.dir(), &[], BATCH_LIMIT)?;
    let bytes = toolchain_bytes(requester)?;
    let before = requester.traffic()?;
    let start = Instant::now();
    let mut all: Vec<Progress> = workers.iter().map(|_| Progress::default()).collect();
    thread::scope(|scope| -> Result<(), Failure> {
        let build =
            scope.spawn(|| batch(&warm, 1..COMPILES, 3 * hosts).run(requester, warm.dir(), &[], LIMIT));
        let joins: Vec<_> = workers
            .iter()
            .zip(&tokens)
            .map(|(host, token)| {
                scope.spawn(move || host.barn_text(["join", token]).map(|_| start.elapsed()))
            })
            .collect();
        let watched = watch(workers, &mut all, start);
        for (join, progress) in joins.into_iter().zip(&mut all) {
            progress.joined = Some(join.join().map_err(|_| "a thread broke off")??);
        }
        // The build has no end of its own: it goes with the power of its host.
        let carried = requester.traffic();
        requester.power_off()?;
        let _ = build.join();
        watched?;
        let sent = (carried?.sent - before.sent) as f64;
        print(workers, &all, sent, bytes);
        Ok(())
    })
}

/// Looks at the compilers of all workers until one has ended on each.
fn watch(workers: &[Host], all: &mut [Progress], start: Instant) -> Result<(), Failure> {
    while all.iter().any(|progress| progress.first_done.is_none()) {
        if start.elapsed() > LIMIT {
            let late = workers.iter().zip(&*all).filter(|(_, progress)| progress.first_done.is_none());
            let names: Vec<&str> = late.map(|(host, _)| host.name()).collect();
            return Err(format!("no compile on {} within {} s", names.join(", "), LIMIT.as_secs()).into());
        }
        for (host, progress) in workers.iter().zip(&mut *all) {
            if progress.first_done.is_some() {
                continue;
            }
            let now: BTreeSet<i32> = host
                .processes()
                .into_iter()
                .filter(|process| process.name == "cc1plus" && process.state != 'Z')
                .map(|process| process.pid)
                .collect();
            if progress.compilers.iter().any(|pid| !now.contains(pid)) {
                progress.first_done = Some(start.elapsed());
            }
            progress.compilers = now;
        }
        thread::sleep(PERIOD);
    }
    Ok(())
}

fn batch(warm: &Warm, numbers: Range<usize>, jobs: usize) -> Batch {
    let compile =
        |number| std::iter::once("barn".to_owned()).chain(warm.compile(Language::Cxx, number)).collect();
    Batch { commands: numbers.map(compile).collect(), jobs, outputs: Vec::new() }
}

fn print(workers: &[Host], all: &[Progress], sent: f64, bytes: f64) {
    println!(
        "\n| worker | joined after s | first compile done after s | from join to compile s |\n|---|---|---|---|"
    );
    for (host, progress) in workers.iter().zip(all) {
        let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
        let (joined, done) = (seconds(progress.joined), seconds(progress.first_done));
        println!("| {} | {joined:.1} | {done:.1} | {:.1} |", host.name(), done - joined);
    }
    println!(
        "\nthe requester sent {:.1} MB until the last worker's first compile: {:.2} times the toolchain of {:.1} MB",
        sent / 1e6,
        sent / bytes,
        bytes / 1e6
    );
}

/// The size of all toolchains a host has, from the third column of `barn toolchain list`.
fn toolchain_bytes(host: &Host) -> Result<f64, Failure> {
    let text = host.barn_text(["toolchain", "list"])?;
    let bytes: Option<f64> = text.lines().map(size).sum();
    match bytes {
        Some(bytes) if bytes > 0.0 => Ok(bytes),
        _ => Err(format!("barn toolchain list tells no size: {text}").into()),
    }
}

/// A line's number and unit, such as `150.2 MB`.
fn size(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let factor = match pair[1] {
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "KiB" => 1024.0,
            "MB" => 1e6,
            "MiB" => 1024.0 * 1024.0,
            "GB" => 1e9,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        Some(pair[0].parse::<f64>().ok()? * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_the_list() {
        assert_eq!(size("1a2b3c4d5e6f7a8b  packed        150.5 MB  gcc 12.2.0"), Some(150.5e6));
        assert_eq!(size("none yet: a compiler is packed when it is first used"), None);
    }
}
