//! What goes into the placement and what comes out.

use std::time::Duration;

use crate::{
    digest::Digest,
    identity::NodeId,
    wire::{Decline, RunFailure},
};

/// Settings of one node's placement.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many tasks may run here at once; 0 counts as 1.
    pub local_slots: u32,
    /// Most tasks that wait; further ones are given back at once as [`Decision::GiveUp`].
    pub queue_max: usize,
    /// Drives the tie-breaks; nodes should differ.
    pub seed: u64,
}

/// One action to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Unique among the requester's live tasks; a task whose id is in use is dropped.
    pub id: u64,
    /// The toolchain it needs.
    pub toolchain: Digest,
    /// Bytes of input, a proxy for work.
    pub cost: u64,
    /// Names the source across compiles, so that what it took is remembered; any hash will do.
    pub source: Option<u64>,
    /// Whether it may leave this machine.
    pub remote_allowed: bool,
}

/// Where a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On this machine.
    Local,
    /// On this worker.
    Worker(NodeId),
}

/// What happened. Outcomes of a task at a place where it does not run (any more) are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new task.
    Submitted(Task),
    /// A worker's advert, or news of a connection to it.
    Worker {
        /// Who.
        id: NodeId,
        /// How many actions it runs at once for others.
        slots: u32,
        /// How many of them are free.
        free: u32,
        /// How many actions wait there.
        queued: u32,
        /// How many may.
        queue_max: u32,
        /// The toolchains it has.
        toolchains: Vec<Digest>,
        /// Whether it can run what this requester compiles.
        machine_fits: bool,
    },
    /// The connection to a worker is gone, or it was struck from the roster. Ends all runs there.
    WorkerLost(NodeId),
    /// A worker declined a task.
    Declined {
        /// Which.
        task: u64,
        /// Who.
        worker: NodeId,
        /// Its reason.
        why: Decline,
    },
    /// A task has its inputs and a slot on a worker: its compiler begins.
    Started {
        /// Which.
        task: u64,
        /// Where.
        worker: NodeId,
    },
    /// A task ran to its end: the slot is free, though outputs may still be on their way.
    Finished {
        /// Which.
        task: u64,
        /// Where.
        place: Place,
        /// How long it took, transfers included; of a worker's the own clock counts.
        wall: Duration,
        /// Whether the compiler exited with 0. A worker's other result counts as [`Failure::RemoteExit`].
        ok: bool,
    },
    /// A task did not run to a good end on a worker.
    Failed {
        /// Which.
        task: u64,
        /// Who.
        worker: NodeId,
        /// How.
        kind: Failure,
    },
    /// A compile outside the queue started here (one that cannot be cached or was given up).
    LocalStarted,
    /// A compile outside the queue ended.
    LocalFinished,
    /// The inputs of a compile are being found, which costs this machine's CPU; a task may follow.
    FindingStarted,
    /// They were found, or not.
    FindingEnded,
    /// The task is of no interest any more, wherever it is.
    Cancelled {
        /// Which.
        task: u64,
    },
}

/// How a task failed on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The connection broke.
    Lost,
    /// The deadline passed, here or there.
    Timeout,
    /// The compiler exited with an error.
    RemoteExit,
    /// The compiler died of a signal.
    Killed,
    /// The sandbox refused what it did.
    Refused,
    /// The sandbox could not be set up.
    Sandbox,
    /// The inputs did not arrive whole.
    Inputs,
    /// What came back is not what was announced or asked for.
    BadResult,
}

impl Failure {
    /// Whether the same could happen on this machine, so that only a local run tells whose fault it is.
    pub const fn may_be_the_tasks_own(self) -> bool {
        matches!(self, Self::RemoteExit | Self::Killed | Self::Refused)
    }

    /// Whether another worker is worth a try. After a timeout no more time may be lost.
    pub const fn may_retry_remotely(self) -> bool {
        matches!(self, Self::Lost | Self::Sandbox | Self::Inputs | Self::BadResult)
    }
}

impl From<&RunFailure> for Failure {
    fn from(failure: &RunFailure) -> Self {
        match failure {
            RunFailure::Killed { .. } => Self::Killed,
            RunFailure::TimedOut => Self::Timeout,
            RunFailure::Refused => Self::Refused,
            RunFailure::Sandbox => Self::Sandbox,
            RunFailure::Inputs => Self::Inputs,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run the task there.
    Run {
        /// Which.
        task: u64,
        /// Where.
        place: Place,
        /// Why there.
        why: Why,
    },
    /// The task runs on a worker but would end sooner elsewhere: cancel all its runs, and run it there instead.
    TakeBack {
        /// Which.
        task: u64,
        /// Where to.
        place: Place,
        /// Why there.
        why: Why,
    },
    /// Run the task on this worker too; the first result counts, and the other run is cancelled.
    Hedge {
        /// Which.
        task: u64,
        /// Where else.
        worker: NodeId,
    },
    /// Too many tasks wait: run this one here at once, outside the queue. It is forgotten; say
    /// [`Event::LocalStarted`] and [`Event::LocalFinished`].
    GiveUp {
        /// Which.
        task: u64,
    },
}

/// Why a task runs where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is predicted to end soonest there.
    Quickest,
    /// It may not leave this machine.
    OnlyLocal,
    /// It failed like this on a worker, and runs here.
    FellBack(Failure),
    /// Too many workers declined it, and it runs here.
    Declined,
    /// It waited in a worker's queue, and would end sooner there.
    Sooner,
    /// It took longer on a worker than nearly all tasks do.
    Overdue,
}

/// What is believed of one worker, for status pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerView {
    /// Who.
    pub id: NodeId,
    /// Whether it is connected and has advertised.
    pub online: bool,
    /// Its slots.
    pub slots: u32,
    /// How many of them are believed free.
    pub free: u32,
    /// How many of our tasks it has, in slots and in its queue.
    pub in_flight: u32,
    /// How many of those are believed to wait in its queue.
    pub queued: u32,
    /// Its believed speed, in seconds per byte of input.
    pub seconds_per_byte: f64,
    /// Until when it gets no work because it failed.
    pub paused_until: Option<Duration>,
}
