//! How long a place takes for a piece of work, learnt from what it took before.

use std::time::Duration;

use crate::limits::ACTION_SECONDS_MAX;

/// Added to the cost of every task, in bytes: starting a compiler and asking a neighbour takes time however
/// small the source is.
pub const COST_FIXED_BYTES: u64 = 64 << 10;
/// What one byte of input is assumed to take where nothing was ever measured, in seconds: a C++ unit that reads
/// 3 MiB takes about a second and a half.
pub const DEFAULT_SECONDS_PER_BYTE: f64 = 0.5 / (1 << 20) as f64;
/// What older tasks weigh against the newest one; the last five or so decide.
pub const MEMORY: f64 = 0.8;
/// After this time without a measurement nothing of it is believed any more, so that a machine that was slow
/// because its owner compiled is tried again.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);
/// The longest wall time believed or predicted.
pub const WALL_MAX: Duration = Duration::from_secs(ACTION_SECONDS_MAX);

/// A cost with the fixed part added, in bytes.
pub(super) fn work(cost: u64) -> f64 {
    cost.saturating_add(COST_FIXED_BYTES) as f64
}

/// How long `work` takes at `seconds_per_byte`.
pub(super) fn wall(seconds_per_byte: f64, work: f64) -> Duration {
    Duration::try_from_secs_f64(seconds_per_byte * work).unwrap_or(WALL_MAX).min(WALL_MAX)
}

/// Seconds per byte of one place: the quotient of two exponentially weighted sums, so that large tasks, whose
/// times say more, weigh more.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate(Option<Measured>);

#[derive(Debug, Clone)]
struct Measured {
    seconds: f64,
    work: f64,
    last: Duration,
}

impl Rate {
    /// Takes a measurement into account. Before the first one, the place is believed to have done a task of the
    /// same size at the rate `prior`, since a first task is often slow: all headers travel with it.
    pub(super) fn measured(&mut self, now: Duration, prior: f64, work: f64, took: Duration) {
        let before = self.0.get_or_insert(Measured { seconds: prior * work, work, last: now });
        before.seconds = before.seconds * MEMORY + took.min(WALL_MAX).as_secs_f64();
        before.work = before.work * MEMORY + work;
        before.last = now;
    }

    /// The rate believed at `now`: the measured one, which fades into `prior` as it ages.
    pub(super) fn seconds_per_byte(&self, now: Duration, prior: f64) -> f64 {
        let Some(measured) = &self.0 else { return prior };
        let age = now.saturating_sub(measured.last).as_secs_f64();
        let belief = (1.0 - age / FORGET_AFTER.as_secs_f64()).max(0.0);
        prior + (measured.seconds / measured.work - prior) * belief
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_measured_is_the_prior() {
        assert_eq!(Rate::default().seconds_per_byte(S, 3.0), 3.0);
    }

    #[test]
    fn a_first_outlier_counts_half_and_soon_little() {
        let mut rate = Rate::default();
        rate.measured(S, 1.0, 10.0, 100 * S);
        let first = rate.seconds_per_byte(S, 1.0);
        assert!((5.0..6.5).contains(&first), "{first}");
        for _ in 0..20 {
            rate.measured(S, 1.0, 10.0, 10 * S);
        }
        let later = rate.seconds_per_byte(S, 1.0);
        assert!((1.0..1.2).contains(&later), "{later}");
    }

    #[test]
    fn old_measurements_fade() {
        let mut rate = Rate::default();
        for _ in 0..50 {
            rate.measured(S, 1.0, 1.0, 9 * S);
        }
        let fresh = rate.seconds_per_byte(S, 1.0);
        let middle = rate.seconds_per_byte(S + FORGET_AFTER / 2, 1.0);
        assert!((8.9..=9.0).contains(&fresh), "{fresh}");
        assert!((4.9..=5.1).contains(&middle), "{middle}");
        assert_eq!(rate.seconds_per_byte(S + FORGET_AFTER, 1.0), 1.0);
    }

    #[test]
    fn predictions_have_a_ceiling() {
        assert_eq!(wall(f64::INFINITY, 1.0), WALL_MAX);
        assert_eq!(wall(1.0, work(u64::MAX)), WALL_MAX);
        assert_eq!(wall(0.5, 4.0), 2 * S);
    }
}
