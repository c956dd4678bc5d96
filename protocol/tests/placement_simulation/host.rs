//! A machine whose work shares its CPU.

use std::{collections::BTreeMap, time::Duration};

/// What runs on a host, by a number that names it in the whole simulation.
#[derive(Debug)]
pub(crate) struct Host {
    /// CPU seconds a second.
    cpu: f64,
    /// Most of that which one piece of work can use.
    each: f64,
    /// CPU seconds each still needs.
    work: BTreeMap<u64, f64>,
    updated: Duration,
    /// When it first had work and last ended some, and for how long it had any.
    first: Option<Duration>,
    last: Duration,
    busy: Duration,
    /// Grows with every change: a due time computed before is void.
    pub(crate) generation: u64,
}

impl Host {
    pub(crate) fn new(cpu: f64, each: f64) -> Self {
        Self {
            cpu,
            each,
            work: BTreeMap::new(),
            updated: Duration::ZERO,
            first: None,
            last: Duration::ZERO,
            busy: Duration::ZERO,
            generation: 0,
        }
    }

    pub(crate) fn begin(&mut self, now: Duration, number: u64, seconds: f64) {
        self.advance(now);
        self.first.get_or_insert(now);
        self.work.insert(number, seconds);
    }

    /// Ends work before its time, if it is still there.
    pub(crate) fn stop(&mut self, now: Duration, number: u64) {
        self.advance(now);
        self.work.remove(&number);
    }

    /// What has ended by `now`.
    pub(crate) fn ended(&mut self, now: Duration) -> Vec<u64> {
        self.advance(now);
        let ended: Vec<u64> =
            self.work.iter().filter(|(_, left)| **left < 1e-6).map(|(number, _)| *number).collect();
        ended.iter().for_each(|number| {
            self.work.remove(number);
        });
        ended
    }

    /// When the next piece of work ends if nothing changes.
    pub(crate) fn due(&self) -> Option<Duration> {
        let least = self.work.values().copied().min_by(f64::total_cmp)?;
        Some(self.updated + Duration::from_secs_f64(least.max(0.0) / self.rate() + 1e-7))
    }

    /// How long it had no work between `from` and `to`: before its first work, between pieces of it, and after the
    /// last.
    pub(crate) fn idle(&self, from: Duration, to: Duration) -> [Duration; 3] {
        let Some(first) = self.first else { return [to - from, Duration::ZERO, Duration::ZERO] };
        [first - from, self.last - first - self.busy, to.saturating_sub(self.last)]
    }

    fn rate(&self) -> f64 {
        self.each.min(self.cpu / self.work.len().max(1) as f64)
    }

    fn advance(&mut self, now: Duration) {
        if !self.work.is_empty() {
            self.busy += now - self.updated;
            self.last = now;
        }
        let done = (now - self.updated).as_secs_f64() * self.rate();
        self.work.values_mut().for_each(|left| *left -= done);
        self.updated = now;
        self.generation += 1;
    }
}
