//! `barn cache warm`: finds a build's list and brings what it names.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barn_mesh::stream::{StreamError, read_frame, write_frame};
use barn_protocol::{
    ActionKey, Digest, NodeId,
    identity::SignedBytes,
    prefetch::{BuildList, BuildName, ListError, Step, order},
    wire::{BuildReply, Request},
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    bring::{Errand, room_for},
    pace::{Pace, Turn},
};
use crate::{
    config::{Config, Share, Trust},
    office_cache::{Bulk, Found, Seen},
    requester::Requester,
};

/// How long a publisher may take to send a list.
const LIST_MAX: Duration = Duration::from_secs(10);
/// Publishers that are asked: an office has one or two.
const PUBLISHERS_MAX: usize = 16;
/// Entries looked up at once; with small outputs they come in 150 KiB.
const BATCH: usize = 16;
/// What of a full store may be displaced, the least recently used first: one part in so many.
const DISPLACED_PART: u64 = 4;

/// Fetches lists, one at a time.
pub struct Warmer {
    requester: Arc<Requester>,
    share: Share,
    trust: Trust,
    turn: tokio::sync::Mutex<()>,
    now: Mutex<Option<Arc<Run>>>,
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// There is nobody to fetch from.
    #[error("this machine is in no mesh\nhint: `barn mesh init` founds one, `barn join TOKEN` joins one")]
    NoMesh,
    /// The settings forbid it.
    #[error(
        "`cache.share` keeps this machine from using what others made\nhint: set it to \"both\" or \"read\""
    )]
    NotShared,
    /// The settings make it useless.
    #[error("`cache.trust` believes nobody but this machine\nhint: set it to \"publishers\" or more")]
    Distrust,
    /// Nobody records builds.
    #[error("no member may publish builds\nhint: `barn mesh allow ID --publish` lets one")]
    NoPublisher,
    /// Nobody is there who may have recorded it.
    #[error("no publisher is up: {0}\nhint: `barn status` tells who is there")]
    NoneUp(String),
    /// None of those that are there has.
    #[error(
        "build {name} was not recorded by {asked}\nhint: it is recorded with BARN_BUILD={name} in the environment of the build"
    )]
    Unknown {
        /// What was asked for.
        name: BuildName,
        /// Who was asked.
        asked: String,
    },
    /// A list came, but it is not to be used.
    #[error("the list of {publisher} is not used: {why}")]
    Refused {
        /// Whose.
        publisher: String,
        /// Why not.
        why: ListError,
    },
}

/// How far a fetch is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The build.
    pub name: String,
    /// Who recorded it.
    pub publisher: String,
    /// Entries of its list.
    pub entries: usize,
    /// Those not decided yet.
    pub pending: usize,
    /// Those that were here.
    pub present: usize,
    /// Those that came.
    pub fetched: usize,
    /// Those of which nobody has a record.
    pub missing: usize,
    /// Those whose record is not believed.
    pub refused: usize,
    /// Those whose outputs nobody gave, or the store did not take.
    pub failed: usize,
    /// Those for which there is no room.
    pub left_out: usize,
    /// Bytes of outputs that came.
    pub bytes: u64,
    /// For how long it has run, in milliseconds.
    pub took_ms: u64,
}

impl Warmer {
    /// A warmer that does nothing yet.
    pub fn new(requester: Arc<Requester>, config: &Config) -> Self {
        let (share, trust) = (config.cache.share, config.cache.trust.clone());
        Self { requester, share, trust, turn: tokio::sync::Mutex::default(), now: Mutex::default() }
    }

    /// Brings what a build needed into the store, at most `bytes_max` of it. Dropping the future ends it.
    ///
    /// # Errors
    /// When no list is found. What cannot be had of a list is no error but counted.
    pub async fn warm(&self, name: &BuildName, bytes_max: Option<u64>) -> Result<Report, WarmError> {
        let _turn = self.turn.lock().await;
        let list = self.find(name).await?;
        let run = Arc::new(Run::new(self.requester.clone(), list, bytes_max));
        *self.lock() = Some(run.clone());
        let _reset = Reset(self);
        run.clone().work().await;
        Ok(run.report())
    }

    /// How far the fetch is that runs now.
    pub fn progress(&self) -> Option<Report> {
        let now = self.lock().clone();
        now.map(|run| run.report())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Run>>> {
        self.now.lock().expect("no panic while the run is held")
    }

    /// The best list of a build that publishers have.
    async fn find(&self, name: &BuildName) -> Result<BuildList, WarmError> {
        let Requester { roster, mesh, identity, builds, .. } = &*self.requester;
        let roster = roster.current().ok_or(WarmError::NoMesh)?;
        let roster = roster.roster();
        if !self.share.reads() {
            return Err(WarmError::NotShared);
        }
        if self.trust == Trust::Own {
            return Err(WarmError::Distrust);
        }
        let publishers: Vec<_> = roster.members.iter().filter(|member| member.capabilities.publish).collect();
        if publishers.is_empty() {
            return Err(WarmError::NoPublisher);
        }
        let peers = mesh.peers();
        let own = identity.id();
        let is_up = |id: NodeId| id == own || peers.iter().any(|peer| peer.id == id && peer.rtt.is_some());
        let up = || publishers.iter().filter(|member| is_up(member.id)).take(PUBLISHERS_MAX);
        let called = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
        if up().next().is_none() {
            return Err(WarmError::NoneUp(called(&mut publishers.iter().map(|member| member.name.clone()))));
        }
        let mut asked = JoinSet::new();
        for member in up() {
            let (id, name, mesh, builds) = (member.id, name.clone(), mesh.clone(), builds.clone());
            asked.spawn(async move {
                let signed = if id == own {
                    tokio::task::spawn_blocking(move || builds.list(&name)).await.ok().flatten()
                } else {
                    ask(&mesh, id, name).await
                };
                (id, signed)
            });
        }
        let (mut lists, mut refused) = (Vec::new(), None);
        for (id, signed) in asked.join_all().await {
            let Some(signed) = signed else { continue };
            match BuildList::published_by(&signed, name, &id, roster) {
                Ok(list) => lists.push(list),
                Err(why) => {
                    let publisher = roster.member(&id).map_or_else(|| id.short(), |m| m.name.clone());
                    tracing::warn!(publisher, "a build list is not used: {why}");
                    refused = Some(WarmError::Refused { publisher, why });
                }
            }
        }
        let unknown = || {
            let asked = called(&mut up().map(|member| member.name.clone()));
            WarmError::Unknown { name: name.clone(), asked }
        };
        lists.into_iter().max_by_key(BuildList::rank).ok_or_else(|| refused.unwrap_or_else(unknown))
    }
}

/// Whoever gave the order may go away at any time.
struct Reset<'a>(&'a Warmer);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

async fn ask(mesh: &barn_mesh::Mesh, publisher: NodeId, name: BuildName) -> Option<SignedBytes> {
    let exchange = async {
        let open = mesh.open(publisher).await;
        let (mut send, mut recv) = open.map_err(|_| StreamError::Ended)?;
        write_frame(&mut send, &Request::Build(name)).await?;
        let _ = send.finish();
        read_frame(&mut recv, LIST_MAX).await
    };
    match tokio::time::timeout(LIST_MAX, exchange).await {
        Ok(Ok(BuildReply::Recorded(signed))) => Some(signed),
        Ok(Ok(BuildReply::Unknown)) | Err(_) => None,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(publisher = publisher.short(), error, "a publisher did not answer");
            None
        }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pending,
    Present,
    Fetched,
    Missing,
    Refused,
    Failed,
    LeftOut,
}

/// One list being fetched.
struct Run {
    requester: Arc<Requester>,
    list: BuildList,
    bulk: Bulk,
    pace: Pace,
    outcomes: Mutex<Vec<Outcome>>,
    /// What may still come, in bytes of the store.
    room: Mutex<u64>,
    bytes: AtomicU64,
    began: Instant,
}

impl Run {
    fn new(requester: Arc<Requester>, list: BuildList, bytes_max: Option<u64>) -> Self {
        let stat = requester.store.stat();
        let free = stat.bytes_max.saturating_sub(stat.bytes);
        let room = free.max(stat.bytes_max / DISPLACED_PART).min(bytes_max.unwrap_or(u64::MAX));
        Self {
            bulk: Bulk::new(requester.office.clone(), list.publisher),
            pace: Pace::new(requester.clone()),
            outcomes: Mutex::new(vec![Outcome::Pending; list.entries.len()]),
            room: Mutex::new(room),
            bytes: AtomicU64::new(0),
            began: Instant::now(),
            requester,
            list,
        }
    }

    /// Goes through the list once. Dropping the future ends what is on its way.
    async fn work(self: Arc<Self>) {
        let mut under_way = JoinSet::new();
        for steps in order(&self.list.entries).chunks(BATCH) {
            let wanted = self.wanted(steps).await;
            if wanted.is_empty() {
                continue;
            }
            let keys: Vec<(ActionKey, Digest)> = wanted.iter().map(|step| self.named(step)).collect();
            for (step, seen) in wanted.into_iter().zip(self.bulk.look_up(&keys).await) {
                match seen {
                    Seen::Nothing => self.set(step, Outcome::Missing),
                    Seen::Refused(why) => {
                        tracing::debug!(key = %self.named(&step).0, "a record is not believed: {why}");
                        self.set(step, Outcome::Refused);
                    }
                    Seen::Found(found) => {
                        let turn = self.pace.turn().await;
                        while under_way.try_join_next().is_some() {}
                        under_way.spawn(self.clone().bring(step, *found, turn));
                    }
                }
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Those of some steps that are still to be done. A store that takes nothing ends the fetch so.
    async fn wanted(self: &Arc<Self>, steps: &[Step]) -> Vec<Step> {
        let (this, steps) = (self.clone(), steps.to_vec());
        let look = move || {
            let is_paused = this.requester.store.stat().paused.is_some();
            let is_wanted = |step: &Step| {
                if this.outcome(*step) == Outcome::LeftOut {
                    return false;
                }
                if this.requester.store.record(&this.named(step).0).is_some() {
                    this.set(*step, Outcome::Present);
                    return false;
                }
                if is_paused {
                    this.set(*step, Outcome::LeftOut);
                }
                !is_paused
            };
            steps.into_iter().filter(is_wanted).collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn bring(self: Arc<Self>, step: Step, found: Found, turn: Turn) {
        let errand = Arc::new(Errand {
            requester: self.requester.clone(),
            entry: self.list.entries[step.entry],
            part: step.part,
            toolchain: self.named(&step).1,
            publisher: self.list.publisher,
            found,
        });
        let looking = errand.clone();
        let missing = tokio::task::spawn_blocking(move || looking.missing()).await.unwrap_or_default();
        if !self.reserve(room_for(&missing)) {
            return self.set(step, Outcome::LeftOut);
        }
        let bytes = missing.iter().map(|blob| blob.size).sum();
        if !errand.fetch(missing).await {
            self.set(step, Outcome::Failed);
            return turn.end(0).await;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match tokio::task::spawn_blocking(move || errand.keep()).await {
            Ok(Ok(true)) => self.set(step, Outcome::Fetched),
            Ok(Ok(false)) => self.set(step, Outcome::Pending),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "what was prefetched was not kept");
                self.set(step, Outcome::Failed);
            }
            Err(_) => self.set(step, Outcome::Failed),
        }
        turn.end(bytes).await;
    }

    /// The key and the toolchain of a step's entry.
    fn named(&self, step: &Step) -> (ActionKey, Digest) {
        let entry = &self.list.entries[step.entry];
        (entry.key, *self.list.toolchain(entry).expect("a list that is used names its toolchains"))
    }

    fn reserve(&self, bytes: u64) -> bool {
        let mut room = self.room.lock().expect("no panic while the room is held");
        let left = room.checked_sub(bytes);
        *room = left.unwrap_or(*room);
        left.is_some()
    }

    fn outcome(&self, step: Step) -> Outcome {
        self.outcomes()[step.entry]
    }

    fn set(&self, step: Step, outcome: Outcome) {
        self.outcomes()[step.entry] = outcome;
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().expect("no panic while the outcomes are held")
    }

    fn report(&self) -> Report {
        let outcomes = self.outcomes();
        let count = |wanted: Outcome| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        let roster = self.requester.roster.current();
        let publisher = roster.as_ref().and_then(|roster| roster.roster().member(&self.list.publisher));
        Report {
            name: self.list.name.to_string(),
            publisher: publisher.map_or_else(|| self.list.publisher.short(), |member| member.name.clone()),
            entries: outcomes.len(),
            pending: count(Outcome::Pending),
            present: count(Outcome::Present),
            fetched: count(Outcome::Fetched),
            missing: count(Outcome::Missing),
            refused: count(Outcome::Refused),
            failed: count(Outcome::Failed),
            left_out: count(Outcome::LeftOut),
            bytes: self.bytes.load(Ordering::Relaxed),
            took_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
