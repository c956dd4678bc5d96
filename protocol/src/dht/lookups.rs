//! Look-ups of this node on their way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Answer, Entry, EntryKey, Intent, limits::LOOKUPS_MAX, members::Handle, message::merge};
use crate::NodeId;

/// What becomes of a look-up.
#[derive(Debug)]
pub(super) enum Step {
    /// An owner has it.
    Found(Entry, Vec<NodeId>, NodeId),
    /// Somebody else makes it and is believed to for so long.
    Wait { key: EntryKey, left: Duration },
    /// Nobody has it: whoever asked makes it.
    Make(EntryKey),
    /// Nobody has it, and whoever asked only wanted to know.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Lookups {
    by_id: BTreeMap<u64, Lookup>,
    /// Those that wait, by key.
    waiting: BTreeSet<(EntryKey, u64)>,
    /// And by the time they wait no longer.
    ends: BTreeSet<(Duration, u64)>,
}

#[derive(Debug)]
struct Lookup {
    key: EntryKey,
    intent: Intent,
    state: State,
}

#[derive(Debug)]
enum State {
    Asking {
        asked: Vec<Handle>,
        /// Somebody makes it.
        making: Option<Duration>,
        /// What came so far, if all are to be heard.
        found: Option<(Entry, Vec<NodeId>, NodeId)>,
    },
    Waiting {
        until: Duration,
    },
}

impl Lookups {
    pub(super) fn is_full(&self) -> bool {
        self.by_id.len() >= LOOKUPS_MAX
    }

    /// These owners are asked.
    pub(super) fn ask(
        &mut self,
        id: u64,
        key: EntryKey,
        intent: Intent,
        asked: &[Handle],
        making: Option<Duration>,
    ) {
        let state = State::Asking { asked: asked.to_vec(), making, found: None };
        self.by_id.insert(id, Lookup { key, intent, state });
    }

    /// It waits for what somebody makes.
    pub(super) fn wait(&mut self, id: u64, key: EntryKey, until: Duration) {
        self.by_id.insert(id, Lookup { key, intent: Intent::Make, state: State::Waiting { until } });
        self.waiting.insert((key, id));
        self.ends.insert((until, id));
    }

    /// An owner's answer; none if it did not come.
    pub(super) fn heard(
        &mut self,
        id: u64,
        from: Handle,
        owner: NodeId,
        answer: Option<Answer>,
    ) -> Option<Step> {
        let lookup = self.by_id.get_mut(&id)?;
        let State::Asking { asked, making, found } = &mut lookup.state else { return None };
        asked.retain(|handle| *handle != from);
        match answer {
            Some(Answer::Found { entry, holders }) if lookup.intent.hears_all() => match found {
                Some((first, known, _)) => {
                    first.join(entry);
                    merge(known, holders);
                }
                None => *found = Some((entry, holders, owner)),
            },
            Some(Answer::Found { entry, holders }) => {
                self.by_id.remove(&id);
                return Some(Step::Found(entry, holders, owner));
            }
            Some(Answer::Making { left_ms }) => *making = Some(Duration::from_millis(u64::from(left_ms))),
            Some(Answer::Nothing) | None => {}
        }
        self.next_step(id)
    }

    /// What is next when all who were asked have answered.
    pub(super) fn next_step(&mut self, id: u64) -> Option<Step> {
        let Lookup { state: State::Asking { asked, .. }, .. } = self.by_id.get(&id)? else { return None };
        if !asked.is_empty() {
            return None;
        }
        let Lookup { key, intent, state: State::Asking { making, found, .. } } = self.by_id.remove(&id)?
        else {
            return None;
        };
        Some(match (found, intent, making) {
            (Some((entry, holders, owner)), ..) => Step::Found(entry, holders, owner),
            (None, Intent::Peek | Intent::PeekAll, _) => Step::Nothing,
            // Whoever makes it may not be believed.
            (None, Intent::MakeAnyhow, _) | (None, Intent::Make, None) => Step::Make(key),
            (None, Intent::Make, Some(left)) => Step::Wait { key, left },
        })
    }

    /// Those that have waited long enough.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<(u64, Step)> {
        let mut over = Vec::new();
        while let Some(&(until, id)) = self.ends.first()
            && until <= now
        {
            let key = self.by_id.get(&id).map(|lookup| lookup.key);
            self.drop_one(id);
            self.ends.remove(&(until, id));
            over.extend(key.map(|key| (id, Step::Make(key))));
        }
        over
    }

    /// Those that wait for a key; they have ended now.
    pub(super) fn waiting_for(&mut self, key: &EntryKey) -> Vec<u64> {
        let ids: Vec<u64> = self.waiting.range((*key, 0)..=(*key, u64::MAX)).map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| self.drop_one(*id));
        ids
    }

    pub(super) fn is_waited_for(&self, key: &EntryKey) -> bool {
        self.waiting.range((*key, 0)..=(*key, u64::MAX)).next().is_some()
    }

    pub(super) fn drop_one(&mut self, id: u64) {
        let Some(lookup) = self.by_id.remove(&id) else { return };
        if let State::Waiting { until } = lookup.state {
            self.waiting.remove(&(lookup.key, id));
            self.ends.remove(&(until, id));
        }
    }

    pub(super) fn next_wake(&self) -> Option<Duration> {
        self.ends.first().map(|(until, _)| *until)
    }
}
