//! Many records at once, for somebody who is in no hurry and is not going to make what nobody has.
//!
//! No mark is set, nobody is waited for, and the state machine of look-ups takes no part: what a build asks for is not
//! delayed by it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barn_mesh::stream::{StreamError, read_frame, write_frame};
use barn_protocol::{
    ActionKey, Digest, NodeId,
    dht::{Answer, Body, Entry, EntryKey, Get, limits::SILENT_FOR},
    wire::{Bytes, Request},
};
use serde::de::DeserializeOwned;

use super::{Found, OfficeCache, Refused};

/// How long a member may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What is known of an action in the office.
pub enum Seen {
    /// A record that is believed.
    Found(Box<Found>),
    /// There is one, but it is not believed.
    Refused(Refused),
    /// Nobody answered that there is one.
    Nothing,
}

/// Looks up many records, at their owners and then at one member that is said to have them all.
pub struct Bulk {
    office: Arc<OfficeCache>,
    publisher: NodeId,
    /// Who did not answer, and when.
    silent: Mutex<HashMap<NodeId, Instant>>,
}

impl Bulk {
    /// Look-ups of what `publisher` has, too.
    pub fn new(office: Arc<OfficeCache>, publisher: NodeId) -> Self {
        Self { office, publisher, silent: Mutex::default() }
    }

    /// What is known of actions, each with its toolchain; at most [`barn_protocol::dht::limits::KEYS_MAX`], and few enough
    /// that their small outputs fit into a message.
    pub async fn look_up(&self, wanted: &[(ActionKey, Digest)]) -> Vec<Seen> {
        let mut seen: Vec<Seen> = wanted.iter().map(|_| Seen::Nothing).collect();
        let owners: Vec<Vec<NodeId>> = {
            let state = self.office.lock();
            let owners = wanted.iter().map(|(key, _)| state.dht.owners(EntryKey::record(key)));
            owners.map(|owners| owners.into_iter().flatten().collect()).collect()
        };
        for rank in 0..owners.iter().map(Vec::len).max().unwrap_or(0) {
            let mut asked = BTreeMap::<NodeId, Vec<usize>>::new();
            for place in open(&seen) {
                if let Some(owner) = owners[place].get(rank) {
                    asked.entry(*owner).or_default().push(place);
                }
            }
            for (owner, places) in asked {
                self.ask_owner(owner, &places, wanted, &mut seen).await;
            }
        }
        self.ask_publisher(wanted, &mut seen).await;
        seen
    }

    async fn ask_owner(
        &self,
        owner: NodeId,
        places: &[usize],
        wanted: &[(ActionKey, Digest)],
        seen: &mut [Seen],
    ) {
        let keys = places.iter().map(|place| EntryKey::record(&wanted[*place].0));
        if owner == self.office.parts.self_id {
            for (place, key) in places.iter().zip(keys) {
                if let Some(kept) = self.office.kept(key).await {
                    seen[*place] = self.judged(wanted[*place].0, kept.entry, kept.holders, owner);
                }
            }
            return;
        }
        let gets = keys.map(|key| Get { key, mark: false, inline: true }).collect();
        let answers: Vec<Answer> = self.exchange(owner, &Request::Entries(gets)).await.unwrap_or_default();
        for (place, answer) in places.iter().zip(answers) {
            if let Answer::Found { entry, holders } = answer {
                seen[*place] = self.judged(wanted[*place].0, entry, holders, owner);
            }
        }
    }

    async fn ask_publisher(&self, wanted: &[(ActionKey, Digest)], seen: &mut [Seen]) {
        let places: Vec<usize> = open(seen).collect();
        if places.is_empty() || self.publisher == self.office.parts.self_id {
            return;
        }
        let keys = places.iter().map(|place| wanted[*place].0).collect();
        let answers = self.exchange(self.publisher, &Request::Records(keys)).await;
        let answers: Vec<Option<Bytes>> = answers.unwrap_or_default();
        for (place, answer) in places.into_iter().zip(answers) {
            let Some(body) = answer else { continue };
            let (key, toolchain) = wanted[place];
            let entry = Entry { toolchain, bodies: vec![Body { signed: body, inline: Vec::new() }] };
            seen[place] = self.judged(key, entry, vec![self.publisher], self.publisher);
        }
    }

    fn judged(&self, key: ActionKey, entry: Entry, holders: Vec<NodeId>, owner: NodeId) -> Seen {
        match self.office.judge_key(key, &entry) {
            Ok(believed) => Seen::Found(Found::of(believed, self.office.policy(), entry, holders, owner)),
            Err(why) => Seen::Refused(why),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, peer: NodeId, request: &Request) -> Option<T> {
        let silent_since =
            self.silent.lock().expect("no panic while the silent are held").get(&peer).copied();
        if silent_since.is_some_and(|at| at.elapsed() < SILENT_FOR) {
            return None;
        }
        let exchange = async {
            let open = self.office.parts.mesh.open(peer).await;
            let (mut send, mut recv) = open.map_err(|_| StreamError::Ended)?;
            write_frame(&mut send, request).await?;
            let _ = send.finish();
            read_frame(&mut recv, ANSWER_MAX).await
        };
        let answer = tokio::time::timeout(ANSWER_MAX, exchange).await.ok().and_then(Result::ok);
        if answer.is_none() {
            self.silent.lock().expect("no panic while the silent are held").insert(peer, Instant::now());
        }
        answer
    }
}

/// The places of what is not found yet.
fn open(seen: &[Seen]) -> impl Iterator<Item = usize> {
    seen.iter().enumerate().filter(|(_, seen)| !matches!(seen, Seen::Found(_))).map(|(place, _)| place)
}
