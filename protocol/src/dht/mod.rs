//! The office's cache: a hash table over the members in which a look-up takes one hop.
//!
//! Every node knows the members, so it knows by [rendezvous hashing](rendezvous) who owns a key: two members, who keep
//! what was signed about it and who has what that names. `docs/office-cache.md` has the design; this is the state machine
//! of one node. It is told what happens and when, and says what to send and what to answer.
//!
//! ```text
//!                              found
//!                     ┌──────────────────────────▶ Found
//!  wanted ──▶ asking ─┤ nothing, silence
//!               │     └──────────────────────────▶ Nothing: the asker makes it
//!               │ somebody makes it                   ▲
//!               └──────────▶ waiting ─────────────────┤ given up, WAIT_MAX
//!                               └─────────▶ Found     │
//! ```
//!
//! Goals: a look-up costs one round trip on the LAN, whatever it finds; an owner that is silent costs [`limits::ANSWER_MAX`]
//! once; members that come and go cost misses at most; what two want at once is made once, if one's word is enough for both.
//!
//! Non-goals: judging entries (the reader checks signature, producer and key), keeping them (the caller has the bytes; here
//! are keys only), strong consistency: nodes may disagree about owners for a while.
//!
//! Invariants: every look-up is answered once, within [`limits::GET_WAIT_MAX`] + [`limits::ANSWER_MAX`] +
//! [`limits::WAIT_MAX`]; nothing is asked of a peer that is not up; with no peer up, nothing waits for the network.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::NodeId;

mod event;
mod index;
pub mod limits;
mod lookups;
mod manifest;
mod marks;
mod members;
mod message;
mod outbox;
mod rendezvous;
#[cfg(test)]
mod tests;

pub use event::{Effect, Event, Intent, Outcome, Standing};
use index::Index;
use limits::{IMPATIENT_FOR, KEYS_MAX, WAIT_MAX};
use lookups::{Lookups, Step};
pub use manifest::{MANIFEST_CONTEXT, SharedManifest};
use marks::Marks;
use members::{Change, Handle, Members, Owners};
pub use message::{Answer, Body, Entry, Get, Put, Told};
use outbox::Outboxes;
pub use rendezvous::{EntryKey, OWNERS};

/// One node's part of the office's cache. Drive it with [`Dht::handle`] and [`Dht::serve`]; after every call and at
/// [`Dht::next_wake`], call [`Dht::poll`] until it returns `None`.
#[derive(Debug)]
pub struct Dht {
    members: Members,
    index: Index,
    marks: Marks,
    lookups: Lookups,
    outboxes: Outboxes,
    /// What this node makes.
    making: BTreeMap<EntryKey, Making>,
    /// Until when it waits for nobody.
    impatient_until: Duration,
    effects: VecDeque<Effect>,
}

/// Something that this node makes.
#[derive(Debug, Clone, Copy)]
struct Making {
    /// The look-up that was told to.
    lookup: u64,
    /// Until when others of this node wait for it.
    until: Duration,
}

impl Dht {
    /// A node that knows nobody yet and keeps nothing.
    pub fn new(now: Duration, self_id: NodeId) -> Self {
        Self {
            members: Members::new(now, self_id),
            index: Index::default(),
            marks: Marks::default(),
            lookups: Lookups::default(),
            outboxes: Outboxes::default(),
            making: BTreeMap::new(),
            impatient_until: Duration::ZERO,
            effects: VecDeque::new(),
        }
    }

    /// Takes note of what happened at `now` (monotonic, on the clock of [`Dht::new`]).
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.settle(now);
        match event {
            Event::PeerUp(peer) => {
                if let Some(change) = self.members.up(now, peer) {
                    self.changed(now, change);
                }
            }
            Event::PeerDown(peer) => self.peer_down(now, peer),
            Event::Wanted { lookup, key, intent } => self.wanted(now, lookup, key, intent),
            Event::Dropped { lookup } => self.lookups.drop_one(lookup),
            Event::Made { key, entry } => self.made(now, key, &entry),
            Event::GaveUp { lookup, key } => self.gave_up(now, lookup, key),
            Event::Holding { key } if !key.is_manifest() => {
                let owners = self.members.owners(key);
                self.tell_owners(now, owners, key, &Told::Holding);
                if self.index.contains(&key) {
                    self.index.keep(key, owners, &[Handle::SELF]);
                }
            }
            Event::Holding { .. } => {}
            Event::Answered { message, answers } => self.answered(now, message, answers),
            Event::Told { from, puts } => {
                for put in puts.into_iter().take(KEYS_MAX) {
                    self.told(now, from, put);
                }
            }
            Event::Handed { bytes } => self.index.handed(now, bytes, &self.members),
            Event::Kept { key, .. } if key.is_manifest() => {}
            Event::Kept { key, holders } => {
                let holders = self.handles(&holders);
                self.index.keep(key, self.members.owners(key), &holders);
            }
            Event::Evicted { key } => self.index.forget(&key),
        }
    }

    /// What is to be answered to the questions of `from`; `here` tells of each whether its entry is kept here.
    pub fn serve(&mut self, now: Duration, from: NodeId, gets: &[(Get, bool)]) -> Vec<Standing> {
        self.settle(now);
        let asker = self.members.handle(from);
        let mut standings = Vec::with_capacity(gets.len());
        for (get, here) in gets.iter().take(KEYS_MAX) {
            let key = get.key;
            standings.push(if key.is_manifest() {
                if *here { Standing::Here(Vec::new()) } else { Standing::Nothing }
            } else if *here {
                if !self.index.contains(&key) {
                    self.index.keep(key, self.members.owners(key), &[]);
                }
                Standing::Here(self.index.holders(&key).map(|holder| self.members.id(holder)).collect())
            } else {
                self.index.forget(&key);
                let wanted = asker.filter(|_| get.mark);
                let made = wanted.and_then(|asker| self.marks.want(now, key, asker));
                made.map_or(Standing::Nothing, Standing::Making)
            });
        }
        standings
    }

    /// The next thing to do at `now`, if there is one.
    pub fn poll(&mut self, now: Duration) -> Option<Effect> {
        self.settle(now);
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        for message in self.outboxes.overdue(now) {
            self.unanswered(now, message);
        }
        for (lookup, step) in self.lookups.overdue(now) {
            self.impatient_until = now + IMPATIENT_FOR;
            self.step(now, lookup, step);
        }
        self.send_due(now);
        self.index.sweep(now, &self.members);
        if let Some((to, keys)) = self.index.hand(now, &self.members) {
            let known = |key: EntryKey| {
                let holders = self.index.holders(&key).map(|holder| self.members.id(holder)).collect();
                (key, holders)
            };
            let entries = keys.into_iter().map(known).collect();
            self.effects.push_back(Effect::Hand { peer: self.members.id(to), entries });
        }
        self.effects.pop_front()
    }

    /// When to call [`Dht::poll`] next although nothing happened; not before `now`.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        if !self.effects.is_empty() {
            return Some(now);
        }
        let wakes = [
            self.outboxes.next_wake(),
            self.lookups.next_wake(),
            self.members.next_change(),
            self.index.next_wake(),
        ];
        wakes.into_iter().flatten().min().map(|at| at.max(now))
    }

    /// How many entries this node knows that it keeps.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it keeps none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it knows that it keeps this entry.
    pub fn keeps(&self, key: &EntryKey) -> bool {
        self.index.contains(key)
    }

    /// How many members own keys as this node sees it, itself included.
    pub fn stable_members(&self) -> usize {
        self.members.stable_count()
    }

    /// Whether no other member owns keys. Then nothing is kept: whoever comes later finds what is made later.
    pub fn is_alone(&self) -> bool {
        self.stable_members() == 1
    }

    /// A key's owners as this node sees them, the first first.
    pub fn owners(&self, key: EntryKey) -> [Option<NodeId>; OWNERS] {
        self.members.owners(key).map(|owner| owner.map(|handle| self.members.id(handle)))
    }

    fn settle(&mut self, now: Duration) {
        while let Some(change) = self.members.settle(now) {
            self.changed(now, change);
        }
    }

    fn changed(&mut self, now: Duration, change: Change) {
        let joined = if let Change::Joined(handle) = change { Some(handle) } else { None };
        self.index.changed(now, joined);
    }

    fn peer_down(&mut self, now: Duration, peer: NodeId) {
        self.members.down(now, &peer);
        let Some(handle) = self.members.handle(peer) else { return };
        for message in self.outboxes.lost(handle) {
            self.unanswered(now, message);
        }
        for (key, waiters) in self.marks.lost(handle) {
            self.tell_waiters(now, waiters, key, &Told::GivenUp);
        }
    }

    fn wanted(&mut self, now: Duration, lookup: u64, key: EntryKey, intent: Intent) {
        if self.lookups.is_full() {
            return self.end(lookup, Outcome::Nothing);
        }
        let is_made_here = self.making.get(&key).is_some_and(|making| making.until > now);
        if intent.makes() && is_made_here && self.waits(now) {
            return self.lookups.wait(lookup, key, now + WAIT_MAX);
        }
        let owners = self.members.owners(key);
        let asked = self.to_be_asked(now, key, owners, intent);
        // The mark is kept by one owner: the first that can be asked, which may be this node.
        let ours = owners.iter().flatten().next() == Some(&Handle::SELF) || asked.is_empty();
        let marked = if ours && intent.makes() { self.marks.want(now, key, Handle::SELF) } else { None };
        self.lookups.ask(lookup, key, intent, &asked, marked);
        for (place, owner) in asked.iter().enumerate() {
            let first = place == 0;
            let get = Get { key, mark: first && !ours && intent.makes(), inline: first };
            self.outboxes.ask(now, *owner, lookup, get);
        }
        if let Some(step) = self.lookups.next_step(lookup) {
            self.step(now, lookup, step);
        }
        self.send_due(now);
    }

    fn to_be_asked(&self, now: Duration, key: EntryKey, owners: Owners, intent: Intent) -> Vec<Handle> {
        if key.is_manifest() {
            return self.keeper(now, owners).filter(|keeper| *keeper != Handle::SELF).into_iter().collect();
        }
        let askable = owners.into_iter().flatten().filter(|owner| self.members.answers(now, *owner));
        askable.take(if intent == Intent::Peek { 1 } else { OWNERS }).collect()
    }

    /// Who keeps the manifests of a key now: one owner, because they are ten times as long as records and not missed as much.
    fn keeper(&self, now: Duration, owners: Owners) -> Option<Handle> {
        let mut owners = owners.into_iter().flatten();
        owners.find(|owner| *owner == Handle::SELF || self.members.answers(now, *owner))
    }

    fn send_due(&mut self, now: Duration) {
        while let Some((to, message, gets)) = self.outboxes.due_gets(now) {
            self.effects.push_back(Effect::Ask { peer: self.members.id(to), message, gets });
        }
        while let Some((to, puts)) = self.outboxes.due_puts(now) {
            if self.members.is_up(to) {
                self.effects.push_back(Effect::Tell { peer: self.members.id(to), puts });
            }
        }
    }

    fn answered(&mut self, now: Duration, message: u64, answers: Vec<Answer>) {
        let Some(asked) = self.outboxes.answered(message) else { return };
        if answers.len() != asked.lookups.len() {
            self.members.silent(now, asked.peer);
        }
        let owner = self.members.id(asked.peer);
        let answers = answers.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        for (lookup, answer) in asked.lookups.into_iter().zip(answers) {
            let step = self.lookups.heard(lookup, asked.peer, owner, answer);
            if let Some(step) = step {
                self.step(now, lookup, step);
            }
        }
        self.send_due(now);
    }

    /// The answer to a message did not come.
    fn unanswered(&mut self, now: Duration, message: u64) {
        self.answered(now, message, Vec::new());
    }

    fn step(&mut self, now: Duration, lookup: u64, step: Step) {
        match step {
            Step::Found(entry, holders, owner) => {
                self.end(lookup, Outcome::Found { entry, holders, owner });
            }
            Step::Wait { key, left } if self.waits(now) => {
                self.lookups.wait(lookup, key, now + left.min(WAIT_MAX));
            }
            Step::Make(key) | Step::Wait { key, .. } => {
                self.making.retain(|_, making| making.until > now);
                // Others of this node wait for the first of them only.
                self.making.entry(key).or_insert(Making { lookup, until: now + limits::MARK_MAX });
                self.end(lookup, Outcome::Nothing);
            }
            Step::Nothing => self.end(lookup, Outcome::Nothing),
        }
    }

    /// Whether it waits for what others make.
    fn waits(&self, now: Duration) -> bool {
        self.impatient_until <= now
    }

    fn end(&mut self, lookup: u64, outcome: Outcome) {
        self.effects.push_back(Effect::Ended { lookup, outcome });
    }

    fn made(&mut self, now: Duration, key: EntryKey, entry: &Entry) {
        self.making.remove(&key);
        for lookup in self.lookups.waiting_for(&key) {
            self.end(lookup, Outcome::MadeHere);
        }
        let mut owners = self.members.owners(key);
        if key.is_manifest() {
            owners = [self.keeper(now, owners), None];
        }
        if owners.contains(&Some(Handle::SELF)) && !self.is_alone() {
            self.keep(key, entry.clone(), &[Handle::SELF]);
        }
        let holders = if key.is_manifest() { Vec::new() } else { vec![self.members.id(Handle::SELF)] };
        let told = Told::Entry { entry: entry.clone(), holders };
        self.tell_owners(now, owners, key, &told);
        let waiters = self.marks.made(&key);
        self.tell_waiters(now, waiters, key, &told);
    }

    fn gave_up(&mut self, now: Duration, lookup: u64, key: EntryKey) {
        // Another look-up of the same may be making it.
        if self.making.get(&key).is_none_or(|making| making.lookup != lookup) {
            return;
        }
        self.making.remove(&key);
        self.let_waiting_make(now, key);
        let owners = self.members.owners(key);
        self.tell_owners(now, owners, key, &Told::GivenUp);
        let waiters = self.marks.given_up(&key, Handle::SELF);
        self.tell_waiters(now, waiters, key, &Told::GivenUp);
    }

    fn let_waiting_make(&mut self, now: Duration, key: EntryKey) {
        for lookup in self.lookups.waiting_for(&key) {
            self.step(now, lookup, Step::Make(key));
        }
    }

    fn told(&mut self, now: Duration, from: NodeId, put: Put) {
        let Put { key, what } = put;
        let Some(teller) = self.members.handle(from) else { return };
        match what {
            Told::Entry { entry, holders } => {
                for lookup in self.lookups.waiting_for(&key) {
                    let (entry, holders) = (entry.clone(), holders.clone());
                    self.end(lookup, Outcome::Found { entry, holders, owner: from });
                }
                let waiters = self.marks.made(&key);
                if self.members.owners(key).contains(&Some(Handle::SELF)) {
                    let known = self.handles(&holders);
                    self.keep(key, entry.clone(), &known);
                }
                self.tell_waiters(now, waiters, key, &Told::Entry { entry, holders });
            }
            Told::Holding if self.index.contains(&key) => {
                self.index.keep(key, self.members.owners(key), &[teller]);
            }
            Told::Holding => {}
            Told::GivenUp => {
                let waiters = self.marks.given_up(&key, teller);
                // Only an owner that was asked tells it; whoever else does makes us do work, no more.
                if !self.making.contains_key(&key) {
                    self.let_waiting_make(now, key);
                }
                self.tell_waiters(now, waiters, key, &Told::GivenUp);
            }
        }
    }

    /// Of manifests only the bytes are kept: nothing is known of them here.
    fn keep(&mut self, key: EntryKey, entry: Entry, holders: &[Handle]) {
        if !key.is_manifest() {
            self.index.keep(key, self.members.owners(key), holders);
        }
        let holders = holders.iter().map(|holder| self.members.id(*holder)).collect();
        self.effects.push_back(Effect::Keep { key, entry, holders });
    }

    fn tell_owners(&mut self, now: Duration, owners: Owners, key: EntryKey, what: &Told) {
        for owner in owners.into_iter().flatten().filter(|owner| *owner != Handle::SELF) {
            self.tell(now, owner, key, what.clone());
        }
    }

    fn tell_waiters(&mut self, now: Duration, waiters: Vec<Handle>, key: EntryKey, what: &Told) {
        for waiter in waiters {
            if waiter == Handle::SELF {
                let own = Put { key, what: what.clone() };
                let self_id = self.members.id(Handle::SELF);
                // Its look-ups were ended already when it was told by another.
                if self.lookups.is_waited_for(&key) {
                    self.told(now, self_id, own);
                }
            } else {
                self.tell(now, waiter, key, what.clone());
                self.outboxes.hurry(now, waiter);
            }
        }
    }

    fn tell(&mut self, now: Duration, to: Handle, key: EntryKey, what: Told) {
        if self.members.is_up(to) {
            self.outboxes.tell(now, to, Put { key, what });
        }
    }

    fn handles(&mut self, ids: &[NodeId]) -> Vec<Handle> {
        let mut handles = Vec::with_capacity(limits::HOLDERS_MAX);
        message::merge(&mut handles, ids.iter().filter_map(|id| self.members.handle(*id)));
        handles
    }
}
