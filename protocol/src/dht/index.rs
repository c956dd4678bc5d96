//! What this node keeps as an owner, and the sweep that hands it over when owners change.
//!
//! An entry remembers by whom it was owned when it was last looked at. When the stable members change, a sweep goes
//! round all entries in order of their keys. Of the owners an entry had, the first that is up hands it to those it did not
//! have; so does a node that owns it again. What this node no longer owns it keeps as long as there is room: if owners
//! leave, it may become an owner again.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use super::{
    EntryKey,
    limits::{
        ENTRIES_MAX, HAND_BYTES_PER_S, HAND_KEYS_MAX, HAND_QUEUE_MAX, HANDED_BYTES_PER_S, HOLDERS_MAX,
        SWEEP_PAUSE, SWEEP_STEP,
    },
    members::{Handle, Members, Owners},
};

#[derive(Debug, Clone, Copy)]
struct Kept {
    holders: [Option<Handle>; HOLDERS_MAX],
    owners: Owners,
}

/// The entries this node keeps, and what is to be handed over.
#[derive(Debug, Default)]
pub(super) struct Index {
    kept: BTreeMap<EntryKey, Kept>,
    sweep: Option<Sweep>,
    queues: BTreeMap<Handle, Queue>,
    queued: usize,
    /// When the next keys may be handed over.
    free_at: Duration,
    /// A message was given to be sent, whose size is not known yet.
    handing: Option<Handle>,
    /// Whose turn it was last.
    last: Option<Handle>,
}

/// A round over all entries.
#[derive(Debug, Default)]
struct Sweep {
    joined: Vec<Handle>,
    /// The key after which it goes on.
    after: Option<EntryKey>,
    /// The key at which the round ends; none at the end of all keys.
    until: Option<EntryKey>,
    /// Whether it has come to the end of all keys and begun anew.
    wrapped: bool,
    due: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    keys: VecDeque<EntryKey>,
    free_at: Duration,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn contains(&self, key: &EntryKey) -> bool {
        self.kept.contains_key(key)
    }

    /// Who has what an entry names.
    pub(super) fn holders(&self, key: &EntryKey) -> impl Iterator<Item = Handle> {
        self.kept.get(key).into_iter().flat_map(|kept| kept.holders.into_iter().flatten())
    }

    /// Keeps a key, or adds to its holders. Returns whether it is new.
    pub(super) fn keep(&mut self, key: EntryKey, owners: Owners, holders: &[Handle]) -> bool {
        let is_new = !self.kept.contains_key(&key);
        if is_new && self.kept.len() >= ENTRIES_MAX {
            // Keys are digests, so the next one is a random one.
            let next = self.kept.range(key..).next().or_else(|| self.kept.first_key_value());
            if let Some(victim) = next.map(|(victim, _)| *victim) {
                self.kept.remove(&victim);
            }
        }
        let kept = self.kept.entry(key).or_insert(Kept { holders: [None; HOLDERS_MAX], owners });
        for holder in holders {
            let known = kept.holders.contains(&Some(*holder));
            if let Some(place) = kept.holders.iter_mut().find(|place| place.is_none()).filter(|_| !known) {
                *place = Some(*holder);
            }
        }
        is_new
    }

    pub(super) fn forget(&mut self, key: &EntryKey) {
        self.kept.remove(key);
    }

    /// The stable members have changed.
    pub(super) fn changed(&mut self, now: Duration, joined: Option<Handle>) {
        if self.kept.is_empty() {
            return;
        }
        let sweep = self.sweep.get_or_insert_default();
        sweep.joined.extend(joined);
        // A full round from here.
        sweep.until = sweep.after;
        sweep.wrapped = sweep.after.is_none();
        sweep.due = sweep.due.max(now);
    }

    /// Looks at some more entries if it is time; they are queued for whom they go to.
    pub(super) fn sweep(&mut self, now: Duration, members: &Members) {
        let Some(mut sweep) = self.sweep.take() else { return };
        if sweep.due > now || self.queued >= HAND_QUEUE_MAX {
            self.sweep = Some(sweep);
            return;
        }
        let Self { kept, queues, queued, .. } = self;
        let from = sweep.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked_at = 0;
        for (key, entry) in kept.range_mut((from, Bound::Unbounded)).take(SWEEP_STEP) {
            if sweep.wrapped && sweep.until.is_some_and(|until| *key > until) {
                return;
            }
            looked_at += 1;
            sweep.after = Some(*key);
            let before = entry.owners;
            entry.owners = members.owners_since(*key, before, &sweep.joined);
            for to in receivers(before, entry.owners, members) {
                queues.entry(to).or_default().keys.push_back(*key);
                *queued += 1;
            }
        }
        if looked_at < SWEEP_STEP {
            if sweep.wrapped {
                return;
            }
            (sweep.after, sweep.wrapped) = (None, true);
        }
        sweep.due = now + SWEEP_PAUSE;
        self.sweep = Some(sweep);
    }

    /// The next keys to be handed over, if the budget allows it; [`Index::handed`] must follow.
    pub(super) fn hand(&mut self, now: Duration, members: &Members) -> Option<(Handle, Vec<EntryKey>)> {
        if self.handing.is_some() || self.free_at > now {
            return None;
        }
        let free =
            |(to, queue): (&Handle, &Queue)| (queue.free_at <= now && !queue.keys.is_empty()).then_some(*to);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let to = self.queues.range((after, Bound::Unbounded)).find_map(free);
        let to = to.or_else(|| self.queues.iter().find_map(free))?;
        let queue = self.queues.get_mut(&to)?;
        let taken = HAND_KEYS_MAX.min(queue.keys.len());
        let mut keys: Vec<EntryKey> = queue.keys.drain(..taken).collect();
        self.queued -= taken;
        // It was queued a while ago.
        keys.retain(|key| {
            self.kept.get(key).is_some_and(|kept| kept.owners.contains(&Some(to))) && members.is_up(to)
        });
        self.last = Some(to);
        if keys.is_empty() {
            self.tidy_queues(now);
            return None;
        }
        self.handing = Some(to);
        Some((to, keys))
    }

    /// The last keys of [`Index::hand`] took so many bytes.
    pub(super) fn handed(&mut self, now: Duration, bytes: u64, members: &Members) {
        let Some(to) = self.handing.take() else { return };
        self.free_at = now + over(bytes, HAND_BYTES_PER_S);
        if let Some(queue) = self.queues.get_mut(&to) {
            queue.free_at = now + over(bytes * members.stable_count() as u64, HANDED_BYTES_PER_S);
        }
        self.tidy_queues(now);
    }

    /// An empty queue is kept for as long as its receiver is to be spared.
    fn tidy_queues(&mut self, now: Duration) {
        self.queues.retain(|_, queue| queue.free_at > now || !queue.keys.is_empty());
    }

    pub(super) fn next_wake(&self) -> Option<Duration> {
        let sweep = self.sweep.as_ref().filter(|_| self.queued < HAND_QUEUE_MAX).map(|sweep| sweep.due);
        let queues = self.queues.values().filter(|queue| !queue.keys.is_empty() && self.handing.is_none());
        let hand = queues.map(|queue| queue.free_at).min().map(|at| at.max(self.free_at));
        sweep.into_iter().chain(hand).min()
    }
}

/// To whom this node hands an entry whose owners change.
fn receivers(before: Owners, now: Owners, members: &Members) -> impl Iterator<Item = Handle> {
    let first_up = before.into_iter().flatten().find(|owner| members.is_up(*owner));
    let again = now.contains(&Some(Handle::SELF)) && !before.contains(&Some(Handle::SELF));
    let hands = first_up == Some(Handle::SELF);
    now.into_iter().flatten().filter(move |owner| {
        let new = !before.contains(&Some(*owner));
        *owner != Handle::SELF && (again || (hands && new)) && members.is_up(*owner)
    })
}

/// How long so many bytes take.
fn over(bytes: u64, bytes_per_s: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / bytes_per_s)
}
