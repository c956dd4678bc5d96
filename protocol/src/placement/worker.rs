//! What one requester believes of one worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Failure, breaker::Breaker, rate::Rate};
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
    /// How many of our tasks it has.
    pub(super) in_flight: u32,
    pub(super) rate: Rate,
    pub(super) breaker: Breaker,
    /// When it was last heard of; the one silent for longest makes room for another.
    pub(super) seen: Duration,
    toolchains: BTreeSet<Digest>,
    /// Toolchains not to ask it for, until when.
    paused: BTreeMap<Digest, Duration>,
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
    pub(super) fn advertised(&mut self, now: Duration, slots: u32, free: u32, toolchains: BTreeSet<Digest>) {
        self.online = true;
        self.seen = now;
        self.slots = slots.min(SLOTS_MAX);
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

    /// How many more tasks it can have now.
    pub(super) fn capacity(&self, now: Duration) -> u32 {
        let limit = self.breaker.limit(now).min(self.slots);
        limit.saturating_sub(self.in_flight).min(self.free)
    }

    pub(super) fn fit(&self, now: Duration, toolchain: &Digest) -> Fit {
        match self.paused.get(toolchain) {
            Some(until) if now < *until => Fit::No,
            _ if self.toolchains.contains(toolchain) => Fit::Ready,
            _ => Fit::MustFetch,
        }
    }

    /// A task goes there. One that the worker must fetch a toolchain for goes alone.
    pub(super) fn sent(&mut self, now: Duration, toolchain: Digest) {
        if self.fit(now, &toolchain) == Fit::MustFetch {
            self.pause(now, toolchain, FETCH_TIME);
        }
        self.in_flight += 1;
        self.free = self.free.saturating_sub(1);
        self.breaker.sent(now);
    }

    /// A task is no longer there and its slot is free again.
    pub(super) fn returned(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.free = (self.free + 1).min(self.slots);
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

    pub(super) fn failed(&mut self, now: Duration, failure: Failure) {
        self.breaker.failed(now, failure);
    }

    pub(super) fn declined(&mut self, now: Duration, toolchain: Digest, why: Decline) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.breaker.undecided(now);
        match why {
            // Others took its slots; the next advert, or the return of a task of ours, says more.
            Decline::Busy => {
                self.free = 0;
                self.doubt += u32::from(!self.doubted);
                self.doubted = true;
                if !self.toolchains.contains(&toolchain) {
                    self.paused.remove(&toolchain);
                }
            }
            Decline::FetchingToolchain => {
                self.free = (self.free + 1).min(self.slots);
                self.toolchains.remove(&toolchain);
                self.pause(now, toolchain, FETCH_TIME);
            }
            Decline::NotAWorker | Decline::OtherMachine | Decline::NotAllowed => {
                self.free = (self.free + 1).min(self.slots);
                self.pause(now, toolchain, EXCLUDED_TIME);
            }
            Decline::Unfit => self.free = (self.free + 1).min(self.slots),
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
