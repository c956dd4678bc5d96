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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ActionKey, Digest, Identity, NodeId,
        dht::{
            limits::{GONE_AFTER, STABLE_AFTER},
            members::Change,
        },
    };

    const BODY_BYTES: u64 = 300;
    const BEGIN: Duration = Duration::from_secs(1000);

    fn id(n: u8) -> NodeId {
        Identity::from_seed(&[n; 32]).id()
    }

    fn key(n: u32) -> EntryKey {
        EntryKey::record(&ActionKey(Digest::of(&n.to_le_bytes())))
    }

    /// A node among five that keeps what it owns of so many keys.
    fn office(keys: u32) -> (Members, Index) {
        let mut members = Members::new(Duration::ZERO, id(0));
        for n in 1..5 {
            members.up(Duration::ZERO, id(n));
        }
        let mut index = Index::default();
        for key in (0..keys).map(key) {
            let owners = members.owners(key);
            if owners.contains(&Some(Handle::SELF)) {
                index.keep(key, owners, &[]);
            }
        }
        (members, index)
    }

    /// Sweeps and hands over to the end; what went to whom, and how long it took.
    fn run(members: &Members, index: &mut Index) -> (BTreeMap<Handle, Vec<EntryKey>>, Duration) {
        let (mut now, mut handed) = (BEGIN, BTreeMap::<Handle, Vec<EntryKey>>::new());
        while let Some(wake) = index.next_wake() {
            now = now.max(wake);
            index.sweep(now, members);
            if let Some((to, keys)) = index.hand(now, members) {
                index.handed(now, BODY_BYTES * keys.len() as u64, members);
                handed.entry(to).or_default().extend(keys);
            }
        }
        (handed, now - BEGIN)
    }

    #[test]
    fn a_newcomer_gets_its_share_slowly() {
        let (mut members, mut index) = office(4000);
        members.up(BEGIN - STABLE_AFTER, id(9));
        let Some(Change::Joined(newcomer)) = members.settle(BEGIN) else { panic!("it has not joined") };
        let before: Vec<_> = index.kept.iter().map(|(key, kept)| (*key, kept.owners)).collect();
        index.changed(BEGIN, Some(newcomer));
        let (handed, took) = run(&members, &mut index);
        let due = before.iter().filter(|(key, owners)| {
            owners[0] == Some(Handle::SELF) && members.owners(*key).contains(&Some(newcomer))
        });
        let due: Vec<EntryKey> = due.map(|(key, _)| *key).collect();
        assert!(due.len() > 100, "{}", due.len());
        assert_eq!(handed, BTreeMap::from([(newcomer, due.clone())]));
        // A sixth of what may reach it, but for the first message, which does not wait.
        let bytes = BODY_BYTES * (due.len() - HAND_KEYS_MAX) as u64;
        assert!(took >= over(bytes * 6, HANDED_BYTES_PER_S) - Duration::from_millis(100), "{took:?}");
        assert!(index.kept.values().all(|kept| kept.owners.iter().all(Option::is_some)));
    }

    #[test]
    fn what_a_lost_member_owned_goes_to_others_within_the_budget() {
        let (mut members, mut index) = office(4000);
        members.down(BEGIN - GONE_AFTER, &id(1));
        assert_eq!(members.settle(BEGIN), Some(Change::Left));
        index.changed(BEGIN, None);
        let (handed, took) = run(&members, &mut index);
        assert_eq!(handed.len(), 3, "each of the others is a second owner of some");
        let count: usize = handed.values().map(Vec::len).sum();
        for (to, keys) in &handed {
            assert!(keys.iter().all(|key| members.owners(*key).contains(&Some(*to))));
        }
        let bytes = BODY_BYTES * (count - HAND_KEYS_MAX) as u64;
        assert!(took >= over(bytes, HAND_BYTES_PER_S) - Duration::from_millis(100), "{took:?}");
    }

    #[test]
    fn a_change_during_a_sweep_makes_it_go_round_again() {
        let (mut members, mut index) = office(12_000);
        members.up(BEGIN - STABLE_AFTER, id(9));
        let first = members.settle(BEGIN);
        assert!(matches!(first, Some(Change::Joined(_))));
        index.changed(BEGIN, None);
        index.sweep(BEGIN, &members);
        assert!(index.sweep.as_ref().is_some_and(|sweep| sweep.after.is_some()), "it is on its way");
        members.down(BEGIN - GONE_AFTER, &id(2));
        assert_eq!(members.settle(BEGIN), Some(Change::Left));
        index.changed(BEGIN, None);
        run(&members, &mut index);
        let gone = members.handle(id(2));
        assert!(index.kept.values().all(|kept| !kept.owners.contains(&gone)));
    }
}
