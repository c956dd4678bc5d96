//! A circuit breaker per worker: one that fails gets no work for a while, then a single task as a probe.
//!
//! ```text
//!            3 failures in a row, or one lost connection        pause over, task sent
//!   Closed ──────────────────────────────────────────────▶ Open ──────────────────▶ Probing
//!     ▲                                                      ▲                        │ │
//!     │                                                      └──── failure ───────────┘ │
//!     └────────────────────────────── success ──────────────────────────────────────────┘
//! ```
//!
//! A compile that exits with an error on a worker is repeated locally. Until that has ended nobody knows whose
//! fault the error was, so it is a suspicion: it counts against the worker like a failure, and is taken back
//! when the local compiler fails too. So a build with many real errors is not held against the mesh, and a
//! machine that fails everything at once attracts no more than [`FAILURES_MAX`] tasks.

use std::time::Duration;

use super::Failure;

/// Failures in a row after which a worker gets no work.
pub const FAILURES_MAX: u32 = 3;
/// How long it gets none.
pub const OPEN_TIME: Duration = Duration::from_secs(60);
/// How long a worker gets none that sent something else than what it announced. A fault of memory or disk does
/// not go away by itself; a working day is for a person to look at it.
pub const QUARANTINE_TIME: Duration = Duration::from_secs(8 * 3600);

/// A worker that has not yet ended a task well may have only [`FAILURES_MAX`] of ours until one has run there for
/// this long: one that fails everything does so at once, and would else be sent as many as it has slots; and to
/// one behind a thin line nothing more should be sent before the first inputs have arrived.
pub const UNPROVEN_TIME: Duration = Duration::from_secs(1);

/// The breaker of one worker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// From when it may have as many tasks as it has slots; `None` until one has begun.
    trusted_from: Option<Duration>,
    /// Failures whose cause is not known yet.
    suspicions: u32,
    /// What it was before a lost connection opened it, until it is open for another reason or a probe is sent.
    before_loss: Option<(State, Option<Duration>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    Probing,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// How many tasks the worker may have at once.
    pub(super) fn limit(&self, now: Duration) -> u32 {
        match self.state {
            State::Closed { failures } => {
                let left = FAILURES_MAX.saturating_sub(failures + self.suspicions);
                let trusted = self.trusted_from.is_some_and(|from| from <= now);
                if trusted && left > 0 { u32::MAX } else { left }
            }
            State::Open { until } => u32::from(until <= now && self.suspicions == 0),
            State::Probing => u32::from(self.suspicions == 0),
        }
    }

    /// Whether it ended a task well since it last failed.
    pub(super) fn is_proven(&self) -> bool {
        self.trusted_from == Some(Duration::ZERO)
    }

    /// Until when the worker gets no work, if it is paused.
    pub(super) fn open_until(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until),
            _ => None,
        }
    }

    /// A task of ours begins there.
    pub(super) fn started(&mut self, now: Duration) {
        self.trusted_from.get_or_insert(now + UNPROVEN_TIME);
    }

    pub(super) fn sent(&mut self, now: Duration) {
        if matches!(self.state, State::Open { until } if until <= now) {
            self.state = State::Probing;
            self.before_loss = None;
        }
    }

    pub(super) fn succeeded(&mut self) {
        // A task that was there before the breaker opened proves nothing about the time since.
        if !matches!(self.state, State::Open { .. }) {
            self.state = State::default();
            self.trusted_from = Some(Duration::ZERO);
        }
    }

    /// A task came back without a verdict on the worker (declined or cancelled); a probe is due again at once.
    pub(super) fn undecided(&mut self, now: Duration) {
        if self.state == State::Probing {
            self.state = State::Open { until: now };
        }
    }

    pub(super) fn failed(&mut self, now: Duration, failure: Failure) {
        match failure {
            Failure::BadResult => {
                self.before_loss = None;
                self.open(now + QUARANTINE_TIME);
            }
            // Each lost connection costs whatever ran over it, and a flapping peer may cost one a minute.
            Failure::Lost => {
                if !matches!(self.state, State::Open { .. }) {
                    self.before_loss = Some((self.state, self.trusted_from));
                }
                self.open(now + OPEN_TIME);
            }
            _ if failure.may_be_the_tasks_own() => self.suspicions += 1,
            _ => self.count(now),
        }
    }

    /// The lost connection was not its fault: it is as it was before.
    pub(super) fn forgive_loss(&mut self) {
        if let Some(before) = self.before_loss.take() {
            (self.state, self.trusted_from) = before;
        }
    }

    /// A task took so long that it was done elsewhere: counted, though nothing says that it would have failed.
    pub(super) fn overtaken(&mut self, now: Duration) {
        self.count(now);
    }

    /// A suspicion was right: the task is fine elsewhere.
    pub(super) fn proven(&mut self, now: Duration) {
        self.suspicions = self.suspicions.saturating_sub(1);
        self.count(now);
    }

    /// A suspicion was wrong, or will never be settled.
    pub(super) fn absolved(&mut self, now: Duration) {
        self.suspicions = self.suspicions.saturating_sub(1);
        self.undecided(now);
    }

    fn count(&mut self, now: Duration) {
        match self.state {
            State::Closed { failures } if failures + 1 < FAILURES_MAX => {
                self.state = State::Closed { failures: failures + 1 };
            }
            State::Closed { .. } | State::Probing => self.open(now + OPEN_TIME),
            State::Open { .. } => {}
        }
    }

    fn open(&mut self, until: Duration) {
        let until = match self.state {
            State::Open { until: there } => there.max(until),
            _ => until,
        };
        self.state = State::Open { until };
        self.trusted_from = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Feeds what `feed` says into the breaker of a proven worker at second 0 and returns its limits at the
    /// given seconds.
    fn limits(feed: impl Fn(&mut Breaker), at: &[u32]) -> Vec<u32> {
        let mut breaker = Breaker::default();
        breaker.succeeded();
        feed(&mut breaker);
        at.iter().map(|s| breaker.limit(S * *s)).collect()
    }

    fn fail(breaker: &mut Breaker, failure: Failure, times: u32) {
        (0..times).for_each(|_| breaker.failed(Duration::ZERO, failure));
    }

    #[test]
    fn a_new_worker_gets_little_until_a_task_has_run_there_for_a_second() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.limit(S), FAILURES_MAX);
        breaker.sent(S / 2);
        breaker.started(S);
        breaker.started(S * 3 / 2);
        assert_eq!(breaker.limit(S * 3 / 2), FAILURES_MAX);
        breaker.failed(S * 3 / 2, Failure::RemoteExit);
        assert_eq!(breaker.limit(S * 3 / 2), FAILURES_MAX - 1);
        assert_eq!(breaker.limit(2 * S), u32::MAX);
        let mut far = Breaker::default();
        far.sent(S);
        assert_eq!(far.limit(100 * S), FAILURES_MAX);
        let mut quick = Breaker::default();
        quick.sent(S);
        quick.succeeded();
        assert_eq!(quick.limit(S), u32::MAX);
    }

    #[test]
    fn three_in_a_row_open_it_for_a_minute() {
        assert_eq!(limits(|b| fail(b, Failure::Timeout, 2), &[0]), [u32::MAX]);
        assert_eq!(limits(|b| fail(b, Failure::Timeout, 3), &[0, 59, 60]), [0, 0, 1]);
        let interrupted = |b: &mut Breaker| {
            fail(b, Failure::Timeout, 2);
            b.succeeded();
            fail(b, Failure::Timeout, 2);
        };
        assert_eq!(limits(interrupted, &[0]), [u32::MAX]);
    }

    #[test]
    fn a_lost_connection_opens_it_at_once_and_a_lie_for_long() {
        assert_eq!(limits(|b| fail(b, Failure::Lost, 1), &[0, 60]), [0, 1]);
        assert_eq!(limits(|b| fail(b, Failure::BadResult, 1), &[60, 8 * 3600 - 1, 8 * 3600]), [0, 0, 1]);
        let both = |b: &mut Breaker| {
            fail(b, Failure::BadResult, 1);
            fail(b, Failure::Lost, 1);
        };
        assert_eq!(limits(both, &[61]), [0], "a later, shorter pause does not shorten the quarantine");
    }

    #[test]
    fn a_probe_decides() {
        let probe = |b: &mut Breaker| {
            fail(b, Failure::Lost, 1);
            b.sent(S * 60);
        };
        let good = |b: &mut Breaker| {
            probe(b);
            b.succeeded();
        };
        let bad = |b: &mut Breaker| {
            probe(b);
            b.failed(S * 61, Failure::Timeout);
        };
        let declined = |b: &mut Breaker| {
            probe(b);
            b.undecided(S * 61);
        };
        assert_eq!(limits(good, &[61]), [u32::MAX]);
        assert_eq!(limits(bad, &[61, 120, 121]), [0, 0, 1]);
        assert_eq!(limits(declined, &[61]), [1]);
    }

    #[test]
    fn suspicions_hold_work_back_until_they_are_settled() {
        assert_eq!(limits(|b| fail(b, Failure::RemoteExit, 3), &[0, 1000]), [0, 0]);
        let absolved = |b: &mut Breaker| {
            fail(b, Failure::RemoteExit, 3);
            (0..3).for_each(|_| b.absolved(Duration::ZERO));
        };
        assert_eq!(limits(absolved, &[0]), [u32::MAX]);
        let proven = |b: &mut Breaker| {
            fail(b, Failure::RemoteExit, 3);
            (0..3).for_each(|_| b.proven(Duration::ZERO));
        };
        assert_eq!(limits(proven, &[0, 59, 60]), [0, 0, 1]);
    }

    #[test]
    fn a_loss_is_forgiven_but_nothing_else() {
        let forgiven = |b: &mut Breaker| {
            fail(b, Failure::Timeout, 2);
            fail(b, Failure::Lost, 3);
            b.forgive_loss();
        };
        assert_eq!(limits(forgiven, &[0]), [u32::MAX]);
        let counted = |b: &mut Breaker| {
            forgiven(b);
            fail(b, Failure::Timeout, 1);
        };
        assert_eq!(limits(counted, &[0, 60]), [0, 1], "what was counted before still counts");
        for lie in [[Failure::Lost, Failure::BadResult], [Failure::BadResult, Failure::Lost]] {
            let liar = |b: &mut Breaker| {
                lie.iter().for_each(|failure| fail(b, *failure, 1));
                b.forgive_loss();
            };
            assert_eq!(limits(liar, &[61]), [0]);
        }
        let late = |b: &mut Breaker| {
            fail(b, Failure::Lost, 1);
            b.sent(S * 60);
            b.failed(S * 61, Failure::Timeout);
            b.forgive_loss();
        };
        assert_eq!(limits(late, &[62]), [0], "a probe has failed since");
    }

    #[test]
    fn an_older_success_does_not_close_an_open_breaker() {
        let late = |b: &mut Breaker| {
            fail(b, Failure::Lost, 1);
            b.succeeded();
        };
        assert_eq!(limits(late, &[0]), [0]);
    }
}
