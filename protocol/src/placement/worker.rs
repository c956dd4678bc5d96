//! What one requester believes of one worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Failure, breaker::Breaker, handover::Handover, rate::Rate, task::Run};
use crate::{digest::Digest, limits::ADVERT_TOOLCHAINS_MAX, wire::Decline};

/// Most slots of one worker that are believed: more cores than any office machine has, and a bound on what one
/// lying advert can attract.
pub const SLOTS_MAX: u32 = 256;
/// How long a worker that began to fetch a toolchain is not asked again for it, unless its advert lists it.
pub const FETCH_TIME: Duration = Duration::from_secs(30);
/// How long a worker that may not or cannot run a toolchain at all is not asked again for it.
pub const EXCLUDED_TIME: Duration = Duration::from_secs(60);
/// How often the free slots of an advert are halved at most; then it is one slot that is tried, whatever the
/// advert says.
pub const DOUBT_MAX: u32 = 8;
/// Most toolchains a worker is remembered to be unfit for, at once.
const PAUSED_TOOLCHAINS_MAX: usize = ADVERT_TOOLCHAINS_MAX;

/// One worker.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) online: bool,
    pub(super) machine_fits: bool,
    pub(super) slots: u32,
    /// Free slots as far as we know: its last advert, corrected by what we sent and got back since.
    pub(super) free: u32,
    /// How many adverts in a row were followed by a decline although they promised free slots.
    doubt: u32,
    /// Whether the last advert was.
    doubted: bool,
    /// How many of our tasks it has, and how many of those wait in its queue.
    pub(super) in_flight: u32,
    pub(super) queued: u32,
    /// How many tasks its queue takes, and how many more as far as we know.
    queue_max: u32,
    queue_free: u32,
    pub(super) rate: Rate,
    pub(super) handover: Handover,
    /// When a slot that one of our tasks had there came free last.
    freed: Duration,
    pub(super) breaker: Breaker,
    /// When it was last heard of; the one silent for longest makes room for another.
    pub(super) seen: Duration,
    toolchains: BTreeSet<Digest>,
    /// Toolchains not to ask it for, until when.
    paused: BTreeMap<Digest, Duration>,
}

/// What a worker says of its load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) slots: u32,
    pub(super) free: u32,
    pub(super) queued: u32,
    pub(super) queue_max: u32,
}

/// Whether a worker can be given a task of some toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has the toolchain.
    Ready,
    /// It lacks it; the first task sent makes it fetch it.
    MustFetch,
    /// Not now.
    No,
}

impl Worker {
    /// Takes an advert.
    pub(super) fn advertised(&mut self, now: Duration, load: Load, toolchains: BTreeSet<Digest>) {
        let Load { slots, free, queued, queue_max } = load;
        self.online = true;
        self.seen = now;
        self.slots = slots.min(SLOTS_MAX);
        self.queue_max = queue_max.min(SLOTS_MAX);
        let room = queue_max.saturating_sub(queued).min(self.queue_max);
        self.queue_free = room >> self.doubt.min(DOUBT_MAX);
        // Others read the same advert and go for the same slots; each disappointment halves what we try.
        let believed = free.min(self.slots) >> self.doubt.min(DOUBT_MAX);
        self.free = believed.max(u32::from(free > 0).min(self.slots));
        self.doubted = false;
        self.toolchains = toolchains;
        self.toolchains.iter().for_each(|listed| {
            self.paused.remove(listed);
        });
    }

    /// Whether it is worth thinking of at all, now or when a task of ours there ends.
    pub(super) fn takes_work(&self, now: Duration) -> bool {
        self.online && self.machine_fits && self.breaker.limit(now) > 0
    }

    /// How many more tasks it can begin now. A slot that came free goes first to those that wait there.
    pub(super) fn capacity(&self, now: Duration) -> u32 {
        let in_slots = self.in_flight - self.queued;
        let ours = self.slots.saturating_sub(in_slots).min(self.free).saturating_sub(self.queued);
        ours.min(self.breaker.limit(now).saturating_sub(self.in_flight))
    }

    /// How many more tasks may be shipped to it while they wait for a slot there, if `depth` is enough.
    pub(super) fn room(&self, now: Duration, depth: u32) -> u32 {
        let ours = depth.min(self.queue_max).saturating_sub(self.queued).min(self.queue_free);
        ours.min(self.breaker.limit(now).saturating_sub(self.in_flight))
    }

    /// How many of all tasks in its queue are those of others.
    pub(super) fn others_queued(&self) -> u32 {
        self.queue_max.saturating_sub(self.queue_free).saturating_sub(self.queued)
    }

    pub(super) fn fit(&self, now: Duration, toolchain: &Digest) -> Fit {
        match self.paused.get(toolchain) {
            Some(until) if now < *until => Fit::No,
            _ if self.toolchains.contains(toolchain) => Fit::Ready,
            _ => Fit::MustFetch,
        }
    }

    /// A task goes there, to a free slot or to the queue. One that the worker must fetch a toolchain for goes
    /// alone.
    pub(super) fn sent(&mut self, now: Duration, toolchain: Digest, has_slot: bool) {
        if self.fit(now, &toolchain) == Fit::MustFetch {
            self.pause(now, toolchain, FETCH_TIME);
        }
        self.in_flight += 1;
        if has_slot {
            self.free = self.free.saturating_sub(1);
        } else {
            self.queued += 1;
            self.queue_free = self.queue_free.saturating_sub(1);
        }
        self.breaker.sent(now);
    }

    /// The worker says that a task of ours begins. Whatever it says, the time that counts as taken there begins
    /// no later than the slot was free and the inputs could have arrived: a worker cannot talk itself quicker.
    /// When all its slots have tasks of ours, it thereby says that one of those has just ended, whose outputs are
    /// still on their way.
    pub(super) fn started(&mut self, now: Duration, run: &mut Run) {
        let mut ready = run.since + self.handover.expected();
        if run.is_queued() {
            let all_ours = self.in_flight - self.queued >= self.slots;
            ready = ready.max(if all_ours { now } else { self.freed });
            self.queued = self.queued.saturating_sub(1);
            self.queue_free = (self.queue_free + 1).min(self.queue_max);
            self.free = self.free.saturating_sub(1);
        } else {
            self.handover.measured(now.saturating_sub(run.since));
        }
        run.started = Some(now.min(ready));
        self.breaker.started(now);
    }

    /// A task is no longer there and its slot or its place in the queue is free again.
    pub(super) fn returned(&mut self, now: Duration, run: &Run) {
        self.gone(run);
        if !run.is_queued() {
            self.freed = now;
        }
        if run.is_queued() {
            self.queue_free = (self.queue_free + 1).min(self.queue_max);
        } else {
            self.free = (self.free + 1).min(self.slots);
        }
    }

    fn gone(&mut self, run: &Run) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.queued = self.queued.saturating_sub(u32::from(run.is_queued()));
    }

    /// It ran a task of this toolchain to a good end.
    pub(super) fn succeeded(&mut self, toolchain: Digest) {
        self.breaker.succeeded();
        self.doubt = 0;
        self.paused.remove(&toolchain);
        if self.toolchains.len() < ADVERT_TOOLCHAINS_MAX {
            self.toolchains.insert(toolchain);
        }
    }

    /// A task of ours there was overdue and done elsewhere.
    pub(super) fn overtaken(&mut self, now: Duration) {
        self.breaker.overtaken(now);
    }

    pub(super) fn failed(&mut self, now: Duration, failure: Failure) {
        self.breaker.failed(now, failure);
    }

    /// That its connection broke just now was not its fault.
    pub(super) fn forgive_loss(&mut self) {
        self.breaker.forgive_loss();
    }

    pub(super) fn declined(&mut self, now: Duration, run: &Run, toolchain: Digest, why: Decline) {
        if why == Decline::Busy {
            self.gone(run)
        } else {
            self.returned(now, run)
        };
        self.breaker.undecided(now);
        match why {
            // Others took its slots; the next advert, or the return of a task of ours, says more.
            Decline::Busy => {
                (self.free, self.queue_free) = (0, 0);
                self.doubt += u32::from(!self.doubted);
                self.doubted = true;
                if !self.toolchains.contains(&toolchain) {
                    self.paused.remove(&toolchain);
                }
            }
            Decline::FetchingToolchain => {
                self.toolchains.remove(&toolchain);
                self.pause(now, toolchain, FETCH_TIME);
            }
            Decline::NotAWorker | Decline::OtherMachine | Decline::NotAllowed => {
                self.pause(now, toolchain, EXCLUDED_TIME);
            }
            Decline::Unfit => {}
        }
    }

    fn pause(&mut self, now: Duration, toolchain: Digest, time: Duration) {
        if self.paused.len() >= PAUSED_TOOLCHAINS_MAX {
            self.paused.retain(|_, until| now < *until);
        }
        if self.paused.len() >= PAUSED_TOOLCHAINS_MAX {
            self.paused.pop_first();
        }
        self.paused.insert(toolchain, now + time);
    }
}
