//! What is known of one live task and of its runs.

use std::time::Duration;

use super::{DECLINES_MAX, Failure, MOVES_MAX, Place, REMOTE_TRIES_MAX, Task, Why};
use crate::identity::NodeId;

/// One live task.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) task: Task,
    pub(super) order: u64,
    pub(super) submitted: Duration,
    pub(super) run: Option<Run>,
    /// The same task on another worker, in a race with `run`. Only while `run` is on a worker.
    pub(super) hedge: Option<Run>,
    pub(super) tries: u32,
    pub(super) declines: u32,
    /// How often it was taken back or hedged.
    pub(super) moves: u32,
    /// Workers it failed on or does not fit.
    pub(super) avoid: Vec<NodeId>,
    pub(super) failure: Option<Failure>,
    /// The worker whose fault the failure may be, until the task has ended elsewhere.
    pub(super) suspect: Option<NodeId>,
}

/// One run of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) place: Place,
    /// When it was bound to the place.
    pub(super) since: Duration,
    /// When the compiler began, as far as the worker told; here at once.
    pub(super) started: Option<Duration>,
    /// Whether it was given a slot that was believed free, and not a place in the worker's queue.
    pub(super) has_slot: bool,
    /// How long after `since` it was expected to begin.
    pub(super) lead: Duration,
    /// How long the slot is expected to be taken from then on.
    pub(super) expected: Duration,
    /// When it becomes a straggler.
    pub(super) due: Duration,
}

impl Run {
    /// Whether it waits in the worker's queue, as far as we know.
    pub(super) fn is_queued(&self) -> bool {
        self.started.is_none() && !self.has_slot
    }

    /// Whether it takes longer than nearly all others.
    pub(super) fn is_overdue(&self, now: Duration) -> bool {
        self.place != Place::Local && self.due <= now
    }

    pub(super) fn worker(&self) -> Option<NodeId> {
        match self.place {
            Place::Local => None,
            Place::Worker(id) => Some(id),
        }
    }
}

impl Tracked {
    pub(super) fn new(task: Task, order: u64, submitted: Duration) -> Self {
        Self {
            task,
            order,
            submitted,
            run: None,
            hedge: None,
            tries: 0,
            declines: 0,
            moves: 0,
            avoid: Vec::new(),
            failure: None,
            suspect: None,
        }
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.run.iter().chain(&self.hedge)
    }

    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        self.run.iter_mut().chain(&mut self.hedge)
    }

    pub(super) fn runs_at(&self, place: Place) -> bool {
        self.runs().any(|run| run.place == place)
    }

    /// Removes the run at `place`; if the other one goes on, that is now the only one.
    pub(super) fn end_run(&mut self, place: Place) -> Option<Run> {
        if self.hedge.is_some_and(|hedge| hedge.place == place) {
            return self.hedge.take();
        }
        let ended = self.run.take_if(|run| run.place == place)?;
        self.run = self.hedge.take();
        Some(ended)
    }

    pub(super) fn only_local(&self) -> bool {
        !self.task.remote_allowed
            || self.tries >= REMOTE_TRIES_MAX
            || self.declines >= DECLINES_MAX
            || self.failure.is_some_and(|failure| !failure.may_retry_remotely())
    }

    /// Whether it may go to another worker, too or instead.
    pub(super) fn may_wander(&self) -> bool {
        self.moves < MOVES_MAX && self.hedge.is_none()
    }

    pub(super) fn why(&self, place: Place) -> Why {
        match (place, self.failure) {
            (Place::Worker(_), _) => Why::Quickest,
            (Place::Local, Some(failure)) => Why::FellBack(failure),
            (Place::Local, None) if !self.task.remote_allowed => Why::OnlyLocal,
            (Place::Local, None) if self.declines >= DECLINES_MAX => Why::Declined,
            (Place::Local, None) => Why::Quickest,
        }
    }
}
