//! What the hosts of an office could do at best: their quotas, and nothing that has to be sent, found, or decided.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use barn_testnet::{Host, Office};

use super::meter::{Batch, End, Report};
use crate::cli::Failure;

/// Runs one command at a time with the cores of every host, all on the first host's files. The longest come first, which
/// ends soonest (Graham 1969: within 4/3 of the best order).
pub(super) fn run(
    office: &Office,
    batch: &Batch,
    dir: &Path,
    lengths: &BTreeMap<usize, f64>,
    limit: Duration,
) -> Result<Report, Failure> {
    let waiting = Mutex::new(shortest_first(batch.commands.len(), lengths));
    let start = Instant::now();
    let work = |host: &Host| -> Result<Report, Failure> {
        let mut sum = Report::default();
        loop {
            let number = waiting.lock().map_err(|_| "a thread of the benchmark broke off")?.pop();
            let Some(number) = number else { return Ok(sum) };
            let one = Batch { commands: vec![batch.commands[number].clone()], jobs: 1, outputs: Vec::new() };
            let left = limit.saturating_sub(start.elapsed());
            sum.add(one.run_with_cores_of(host, &office[0], dir, &[], left)?, number);
        }
    };
    let mut all = thread::scope(|scope| -> Result<Report, Failure> {
        let hosts: Vec<_> = office.hosts().iter().map(|host| scope.spawn(move || work(host))).collect();
        let mut all = Report::default();
        for host in hosts {
            let its = host.join().map_err(|_| "a thread of the benchmark broke off")??;
            all.merge(its);
        }
        Ok(all)
    })?;
    all.wall_s = start.elapsed().as_secs_f64();
    // The meters ran on all hosts, so the requester's own is not known apart.
    all.meter_s = 0.0;
    Ok(all)
}

fn shortest_first(commands: usize, lengths: &BTreeMap<usize, f64>) -> Vec<usize> {
    let length = |number: &usize| lengths.get(number).copied().unwrap_or_default();
    let mut order: Vec<usize> = (0..commands).rev().collect();
    order.sort_by(|one, other| length(one).total_cmp(&length(other)));
    order
}

impl Report {
    /// Adds what came of a single command, which has this number in the whole.
    fn add(&mut self, one: Report, number: usize) {
        let ends = one.ends.iter().map(|end| End { command: number, ..*end }).collect();
        self.merge(Report { ends, ..one });
    }

    fn merge(&mut self, other: Report) {
        self.each_s += other.each_s;
        self.cpu_s += other.cpu_s;
        self.meter_s += other.meter_s;
        self.failed += other.failed;
        self.ends.extend(other.ends);
        self.ends.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_taken_first_and_the_unknown_last_in_order() {
        let mut order = shortest_first(4, &BTreeMap::from([(1, 0.5), (3, 2.0)]));
        let taken: Vec<usize> = std::iter::from_fn(|| order.pop()).collect();
        assert_eq!(taken, [3, 1, 0, 2]);
    }
}
