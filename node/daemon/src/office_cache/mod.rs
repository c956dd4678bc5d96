//! This node's part of the office's cache: carries what [`Dht`] decides, keeps what this node owns, gives others what it
//! holds.
//!
//! `docs/office-cache.md` has the design. Entries this node owns lie in its store, under keys of their own, so they count
//! toward its limit, are evicted by use and with their toolchain, and survive a restart; its own results are not touched by
//! them. Everything that others say is checked before it is kept ([`records`]) and again before it is used.
//!
//! Invariant: nobody's build waits for the network here; a look-up ends by the clock of the state machine.

mod backlog;
mod bulk;
mod gates;
mod kept;
mod offers;
mod records;
mod serve;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backlog::Backlog;
use barn_cache::Store;
use barn_mesh::{
    Mesh, RosterCell,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Action, ActionKey, ActionRecord, Digest, NodeId,
    dht::{
        Answer, Dht, Effect, Entry, EntryKey, Event, Get, Intent, Outcome, Put, SharedManifest, Told,
        limits::ANSWER_MAX,
    },
    identity::SignedBytes,
    wire::{self, Request},
};
pub use bulk::{Bulk, Seen};
use gates::Gates;
use kept::Kept;
use records::Authentic;
pub use records::Refused;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot},
};

use crate::{config::Share, trust::Policy};

/// Messages of news on their way at once, of at most 256 KiB each. When a peer takes none, further ones are dropped: what
/// they would have told is a miss at worst.
const TELLS_MAX: usize = 64;
/// How long a peer may take for a message of news.
const TELL_MAX: Duration = Duration::from_secs(3);

/// What a node's part consists of.
pub struct Parts {
    /// Which node it is of.
    pub self_id: NodeId,
    /// The way to others.
    pub mesh: Mesh,
    /// Where entries and outputs are kept.
    pub store: Store,
    /// The roster in force.
    pub roster: RosterCell,
    /// What is used.
    pub share: Share,
    /// Whom it believes.
    pub policy: Policy,
    /// Where it remembers what it made while it was alone.
    pub backlog: PathBuf,
}

/// This node's part of the office's cache.
pub struct OfficeCache {
    parts: Parts,
    state: Mutex<State>,
    began: Instant,
    lookups: AtomicU64,
    woken: Notify,
    tells: Semaphore,
    gates: Arc<Gates>,
    /// What was made while this node was alone; none if its file cannot be opened.
    backlog: Option<Backlog>,
    keeping: Mutex<()>,
    /// Marks are dropped on any thread.
    runtime: Handle,
}

struct State {
    dht: Dht,
    waiting: HashMap<u64, Waiter>,
}

/// Whoever waits for the end of a look-up.
struct Waiter {
    key: EntryKey,
    makes: bool,
    /// A mark that comes with the outcome is given up if nobody takes it any more.
    told: oneshot::Sender<(Outcome, Option<Mark>)>,
}

/// What a look-up found: a record that is believed.
pub struct Found {
    /// It, read.
    pub record: ActionRecord,
    /// It, as signed.
    pub signed: SignedBytes,
    /// Small outputs that came with it, not checked yet.
    pub inline: HashMap<Digest, Vec<u8>>,
    /// Who may have the others.
    pub holders: Vec<NodeId>,
    /// All that was found, if it takes several to believe it.
    pub agreed: Option<Entry>,
    /// Who gave it.
    pub owner: NodeId,
}

/// How a look-up ended.
pub enum LookedUp {
    /// Somebody made it.
    Found(Box<Found>),
    /// Another compile of this machine made it meanwhile; it is in the store.
    MadeHere,
    /// There is something, but it is not believed.
    Refused(Refused),
    /// Nothing is there. With a mark, others are told that this node makes it.
    Nothing(Option<Mark>),
}

/// This node is believed to make an entry; when this is dropped before it was made, those who wait for it are told.
pub struct Mark {
    cache: Arc<OfficeCache>,
    /// Of several look-ups of the same key only the one that makes it can give it up.
    lookup: u64,
    key: EntryKey,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.cache.handle(Event::GaveUp { lookup: self.lookup, key: self.key });
    }
}

impl Found {
    fn of(
        believed: Authentic<ActionRecord>,
        policy: &Policy,
        entry: Entry,
        holders: Vec<NodeId>,
        owner: NodeId,
    ) -> Box<Self> {
        let Authentic { says, signed, .. } = believed;
        let agreed = policy.needs_several().then(|| entry.clone().without_outputs());
        let outputs = entry.bodies.into_iter().flat_map(|body| body.inline);
        let inline = outputs.map(|bytes| (Digest::of(&bytes.0), bytes.0)).collect();
        Box::new(Self { record: says, signed, inline, holders, agreed, owner })
    }
}

/// A look-up that nobody waits for any more when it is dropped.
struct Waiting<'a> {
    cache: &'a Arc<OfficeCache>,
    lookup: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.cache.lock().waiting.remove(&self.lookup).is_some() {
            self.cache.handle(Event::Dropped { lookup: self.lookup });
        }
    }
}

impl OfficeCache {
    /// A part that knows no peers yet. Must be called within a tokio runtime.
    pub fn start(parts: Parts) -> Arc<Self> {
        let dht = Dht::new(Duration::ZERO, parts.self_id);
        let backlog = Backlog::open(&parts.backlog).inspect_err(|error| {
            let path = parts.backlog.display();
            tracing::warn!(%path, %error, "what is made while this node is alone will not be offered later");
        });
        let cache = Arc::new(Self {
            parts,
            backlog: backlog.ok(),
            gates: Arc::default(),
            keeping: Mutex::new(()),
            state: Mutex::new(State { dht, waiting: HashMap::new() }),
            began: Instant::now(),
            lookups: AtomicU64::new(1),
            woken: Notify::new(),
            tells: Semaphore::new(TELLS_MAX),
            runtime: Handle::current(),
        });
        tokio::spawn(cache.clone().keep_time());
        tokio::spawn(cache.clone().keep_offering());
        cache
    }

    /// A member is connected.
    pub fn peer_up(self: &Arc<Self>, peer: NodeId) {
        self.handle(Event::PeerUp(peer));
    }

    /// It no longer is.
    pub fn peer_down(self: &Arc<Self>, peer: NodeId) {
        self.handle(Event::PeerDown(peer));
    }

    /// The machine's own policy.
    pub const fn policy(&self) -> &Policy {
        &self.parts.policy
    }

    /// Looks for an action's record in this node's own part and at its owners. If there is none, the action is made.
    pub async fn look_up(self: &Arc<Self>, policy: &Policy, action: &Action, key: ActionKey) -> LookedUp {
        if !self.asks(policy) {
            return LookedUp::Nothing(None);
        }
        let intent = if policy.believes_everybody() { Intent::Make } else { Intent::MakeAnyhow };
        self.find(policy, action, key, intent).await
    }

    /// The same, if it is there: nobody is said to make it.
    pub async fn peek(
        self: &Arc<Self>,
        policy: &Policy,
        action: &Action,
        key: ActionKey,
    ) -> Option<Box<Found>> {
        if !self.asks(policy) {
            return None;
        }
        match self.find(policy, action, key, peek_intent(policy)).await {
            LookedUp::Found(found) => Some(found),
            _ => None,
        }
    }

    async fn find(
        self: &Arc<Self>,
        policy: &Policy,
        action: &Action,
        key: ActionKey,
        intent: Intent,
    ) -> LookedUp {
        let entry_key = EntryKey::record(&key);
        let own = if self.may_keep(entry_key) { self.kept(entry_key).await } else { None };
        let own = match own {
            Some(Kept { entry, holders }) => match self.judge(policy, action, key, &entry) {
                Ok(believed) => {
                    let found = Found::of(believed, policy, entry, holders, self.parts.self_id);
                    return LookedUp::Found(found);
                }
                // The other owner may have more of it.
                Err(_) => Some(entry),
            },
            None => None,
        };
        match self.ask(entry_key, intent).await {
            (Outcome::Nothing, mark) => LookedUp::Nothing(mark),
            (Outcome::MadeHere, _) => LookedUp::MadeHere,
            (Outcome::Found { entry, holders, owner }, _) => {
                let entry = own.into_iter().fold(entry, |mut all, own| {
                    all.join(own);
                    all
                });
                match self.judge(policy, action, key, &entry) {
                    Ok(believed) => LookedUp::Found(Found::of(believed, policy, entry, holders, owner)),
                    Err(why) => LookedUp::Refused(why),
                }
            }
        }
    }

    /// The include manifests of a key that lie here and are believed, the newest first.
    pub async fn own_manifests(self: &Arc<Self>, policy: &Policy, key: Digest) -> Vec<SharedManifest> {
        match self.kept(EntryKey::manifest(&key)).await {
            Some(kept) if self.asks(policy) => self.manifests_in(policy, key, &kept.entry),
            _ => Vec::new(),
        }
    }

    /// Those that their owners have. What is believed is to be [kept](Self::keep_manifests) once it has proved true.
    pub async fn ask_manifests(
        self: &Arc<Self>,
        policy: &Policy,
        key: Digest,
    ) -> Option<(Vec<SharedManifest>, Entry)> {
        if !self.asks(policy) {
            return None;
        }
        match self.ask(EntryKey::manifest(&key), peek_intent(policy)).await {
            (Outcome::Found { entry, .. }, _) => Some((self.manifests_in(policy, key, &entry), entry)),
            _ => None,
        }
    }

    fn manifests_in(&self, policy: &Policy, key: Digest, entry: &Entry) -> Vec<SharedManifest> {
        self.judge_manifests(policy, key, entry).into_iter().map(|believed| believed.says).collect()
    }

    /// Keeps manifests for this node's own use, as signed: who may be believed can change. Blocks.
    pub fn keep_manifests(&self, key: Digest, entry: Entry) {
        self.keep(EntryKey::manifest(&key), entry, &[]);
    }

    /// Keeps what several signed together, for the same reason. Blocks.
    pub fn keep_agreed(&self, key: ActionKey, entry: Entry) {
        self.keep(EntryKey::record(&key), entry, &[]);
    }

    /// Whether others are asked at all.
    fn asks(&self, policy: &Policy) -> bool {
        self.parts.share.reads() && !policy.believes_nobody()
    }

    /// Whether it is worth a look at the disk.
    fn may_keep(&self, key: EntryKey) -> bool {
        let state = self.lock();
        let dht = &state.dht;
        dht.keeps(&key) || (!dht.is_alone() && dht.owners(key).contains(&Some(self.parts.self_id)))
    }

    async fn ask(self: &Arc<Self>, key: EntryKey, intent: Intent) -> (Outcome, Option<Mark>) {
        let lookup = self.lookups.fetch_add(1, Ordering::Relaxed);
        let (told, outcome) = oneshot::channel();
        let makes = matches!(intent, Intent::Make | Intent::MakeAnyhow);
        self.lock().waiting.insert(lookup, Waiter { key, makes, told });
        let _waiting = Waiting { cache: self, lookup };
        self.handle(Event::Wanted { lookup, key, intent });
        outcome.await.unwrap_or((Outcome::Nothing, None))
    }

    /// The office may fetch the outputs of this action from this node, too.
    pub fn holding(self: &Arc<Self>, key: ActionKey) {
        if self.parts.share.writes() {
            self.handle(Event::Holding { key: EntryKey::record(&key) });
        }
    }

    /// How many entries this node is known to keep for the office since it started.
    pub fn entries(&self) -> usize {
        self.lock().dht.len()
    }

    /// How many members own keys as this node sees it, itself included.
    pub fn stable_members(&self) -> usize {
        self.lock().dht.stable_members()
    }

    fn handle(self: &Arc<Self>, event: Event) {
        let now = self.now();
        let effects = {
            let mut state = self.lock();
            state.dht.handle(now, event);
            state.effects(now)
        };
        self.obey(effects);
        self.woken.notify_one();
    }

    /// Wakes the state machine when it asked to be.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let now = self.now();
            let (effects, wake) = {
                let mut state = self.lock();
                (state.effects(now), state.dht.next_wake(now))
            };
            self.obey(effects);
            match wake.map(|at| at.saturating_sub(now)) {
                Some(wait) => {
                    let wait = wait.max(Duration::from_millis(1));
                    let _ = tokio::time::timeout(wait, self.woken.notified()).await;
                }
                None => self.woken.notified().await,
            }
        }
    }

    fn obey(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            let this = self.clone();
            match effect {
                Effect::Ask { peer, message, gets } => {
                    self.runtime.spawn(async move {
                        let answers = this.question(peer, gets).await.unwrap_or_default();
                        this.handle(Event::Answered { message, answers });
                    });
                }
                Effect::Tell { peer, puts } => {
                    self.runtime.spawn(async move { this.tell(peer, puts).await });
                }
                Effect::Keep { key, entry, holders } => {
                    self.runtime.spawn_blocking(move || this.keep(key, entry, &holders));
                }
                Effect::Hand { peer, entries } => {
                    self.runtime.spawn(async move { this.hand(peer, entries).await });
                }
                Effect::Ended { lookup, outcome } => this.end(lookup, outcome),
            }
        }
    }

    fn end(self: &Arc<Self>, lookup: u64, outcome: Outcome) {
        let waiter = self.lock().waiting.remove(&lookup);
        let makes = outcome == Outcome::Nothing;
        match waiter {
            Some(Waiter { key, makes: wanted, told }) => {
                let mark = (makes && wanted).then(|| Mark { cache: self.clone(), lookup, key });
                // Whoever waited may have gone this instant; with what it was sent, the mark is dropped.
                let _ = told.send((outcome, mark));
            }
            None => tracing::trace!(lookup, "nobody waits for a look-up any more"),
        }
    }

    async fn question(&self, peer: NodeId, gets: Vec<Get>) -> Result<Vec<Answer>, StreamError> {
        let exchange = async {
            let open = self.parts.mesh.open(peer).await;
            let (mut send, mut recv) = open.map_err(|_| StreamError::Ended)?;
            write_frame(&mut send, &Request::Entries(gets)).await?;
            let _ = send.finish();
            read_frame(&mut recv, ANSWER_MAX).await
        };
        // The state machine has given up by then; the stream is not to live on.
        let late = |_| StreamError::Stalled(ANSWER_MAX);
        tokio::time::timeout(2 * ANSWER_MAX, exchange).await.map_err(late)?
    }

    /// Tells a peer something; returns how many bytes that took, or 0.
    async fn tell(&self, peer: NodeId, puts: Vec<Put>) -> u64 {
        let Ok(_permit) = self.tells.try_acquire() else { return 0 };
        let request = Request::Tell(puts);
        let bytes = wire::encode(&request).map_or(0, |body| body.len() as u64);
        let sent = async {
            let (mut send, _recv) = self.parts.mesh.open(peer).await.map_err(|_| StreamError::Ended)?;
            write_frame(&mut send, &request).await?;
            let _ = send.finish();
            let _ = send.stopped().await;
            Ok::<_, StreamError>(())
        };
        let _ = tokio::time::timeout(TELL_MAX, sent).await;
        bytes
    }

    async fn hand(self: Arc<Self>, peer: NodeId, entries: Vec<(EntryKey, Vec<NodeId>)>) {
        let mut puts = Vec::with_capacity(entries.len());
        for (key, holders) in entries {
            match self.kept(key).await {
                Some(kept) => {
                    let entry = kept.entry.without_outputs();
                    puts.push(Put { key, what: Told::Entry { entry, holders } });
                }
                None => self.handle(Event::Evicted { key }),
            }
        }
        let bytes = if puts.is_empty() { 0 } else { self.tell(peer, puts).await };
        self.handle(Event::Handed { bytes });
    }

    fn self_id(&self) -> NodeId {
        self.parts.self_id
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the office's cache is held")
    }
}

impl State {
    fn effects(&mut self, now: Duration) -> Vec<Effect> {
        std::iter::from_fn(|| self.dht.poll(now)).collect()
    }
}

/// Whose answers are needed before it can be told whether something is believed.
fn peek_intent(policy: &Policy) -> Intent {
    if policy.believes_everybody() { Intent::Peek } else { Intent::PeekAll }
}
