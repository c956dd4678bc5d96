//! When each slot, here and on the workers, is expected to be free: the ground on which tasks are placed.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::Place;
use crate::identity::NodeId;

/// The slots of one place, by the time from now until each is free.
#[derive(Debug, Default)]
pub(super) struct Slots(BinaryHeap<Reverse<Duration>>);

impl Slots {
    /// So many slots with these tasks in them. Of more tasks than slots, those that end first free none.
    pub(super) fn new(slots: usize, busy: impl IntoIterator<Item = Duration>) -> Self {
        let mut all = Self(busy.into_iter().map(Reverse).collect());
        while all.0.len() > slots {
            all.0.pop();
        }
        let free = slots - all.0.len();
        all.0.extend(std::iter::repeat_n(Reverse(Duration::ZERO), free));
        all
    }

    /// The time until the first slot is free; `None` when the place has no slots.
    pub(super) fn first(&self) -> Option<Duration> {
        self.0.peek().map(|Reverse(at)| *at)
    }

    /// Whether a slot is free now.
    pub(super) fn is_free(&self) -> bool {
        self.first() == Some(Duration::ZERO)
    }

    /// Gives the first slot to a task that keeps it for `wall`.
    pub(super) fn occupy(&mut self, wall: Duration) {
        if let Some(Reverse(at)) = self.0.pop() {
            self.0.push(Reverse(at + wall));
        }
    }
}

/// A worker's slots and what is needed to predict its times.
#[derive(Debug)]
pub(super) struct WorkerSlots {
    pub(super) id: NodeId,
    pub(super) slots: Slots,
    pub(super) seconds_per_byte: f64,
    /// How long a task takes to get there.
    pub(super) handover: Duration,
    /// How much longer the first one may take.
    pub(super) patience: Duration,
    /// How many more tasks may wait there.
    pub(super) room: u32,
    /// Whether it has ended a task well.
    pub(super) proven: bool,
    /// A random factor a little above 1, which spreads the tasks of many requesters over equal workers.
    pub(super) bias: f64,
}

impl WorkerSlots {
    /// Whether a task can be sent there now.
    pub(super) fn is_open(&self) -> bool {
        self.slots.is_free() || (self.room > 0 && self.slots.first().is_some())
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Horizon {
    pub(super) local: Slots,
    pub(super) local_seconds_per_byte: f64,
    pub(super) workers: Vec<WorkerSlots>,
    /// The runs on workers.
    pub(super) ends: Vec<End>,
}

/// When a run on a worker is predicted to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) task: u64,
    pub(super) worker: NodeId,
    /// From now.
    pub(super) at: Duration,
}

impl Horizon {
    /// Gives the first slot of a place to a task that keeps it for `wall`.
    pub(super) fn occupy(&mut self, place: Place, wall: Duration) {
        match place {
            Place::Local => self.local.occupy(wall),
            Place::Worker(id) => {
                self.workers.iter_mut().filter(|w| w.id == id).for_each(|w| w.slots.occupy(wall));
            }
        }
    }

    /// Whether anything can be started or sent now.
    pub(super) fn any_open(&self) -> bool {
        self.local.is_free() || self.workers.iter().any(WorkerSlots::is_open)
    }
}

/// How long a task will still run that was expected to take `expected` and has run for `elapsed`. One that is
/// overdue is expected to take half as long again as it already took: the longer it is overdue, the less one
/// should wait for its slot.
pub(super) fn remaining(expected: Duration, elapsed: Duration) -> Duration {
    match expected.checked_sub(elapsed) {
        Some(left) if !left.is_zero() => left,
        _ => (elapsed / 2).max(Duration::from_millis(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_slot_is_taken_first() {
        let mut slots = Slots::new(3, [3 * S, 2 * S]);
        assert!(slots.is_free());
        slots.occupy(5 * S);
        assert_eq!(slots.first(), Some(2 * S));
        slots.occupy(5 * S);
        assert_eq!(slots.first(), Some(3 * S));
        assert_eq!(Slots::default().first(), None);
    }

    #[test]
    fn a_crowded_place_is_free_only_after_the_crowd() {
        assert_eq!(Slots::new(1, [3 * S, 2 * S, S]).first(), Some(3 * S));
        assert_eq!(Slots::new(3, [3 * S, 2 * S, S]).first(), Some(S));
        assert!(Slots::new(4, [3 * S, 2 * S, S]).is_free());
    }

    #[test]
    fn running_tasks_are_never_taken_for_ended() {
        assert_eq!(remaining(4 * S, S), 3 * S);
        assert!(remaining(4 * S, 4 * S) > Duration::ZERO);
        assert_eq!(remaining(4 * S, 12 * S), 6 * S);
    }
}
