//! This node's part of the office's cache: carries what [`Dht`] decides, keeps what this node owns, gives others what it
//! holds.
//!
//! `docs/office-cache.md` has the design. Entries this node owns lie in its store, under keys of their own, so they count
//! toward its limit, are evicted by use and with their toolchain, and survive a restart; its own results are not touched by
//! them. Everything that others say is checked before it is kept ([`records`]) and again before it is used.
//!
//! Invariant: nobody's build waits for the network here; a look-up ends by the clock of the state machine.

mod bulk;
mod kept;
mod records;
mod serve;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barn_cache::Store;
use barn_mesh::{
    Mesh, RosterCell,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Action, ActionKey, ActionRecord, Digest, NodeId,
    dht::{
        Answer, Dht, Effect, Entry, EntryKey, Event, Get, Outcome, Put, Told,
        limits::{ANSWER_MAX, BODY_BYTES_MAX, INLINE_BYTES_MAX},
    },
    identity::SignedBytes,
    wire::{self, Bytes, Request},
};
pub use bulk::{Bulk, Seen};
use records::Authentic;
pub use records::Refused;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot},
};

use crate::config::{Share, Trust};

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
    pub trust: Trust,
}

/// This node's part of the office's cache.
pub struct OfficeCache {
    parts: Parts,
    state: Mutex<State>,
    began: Instant,
    lookups: AtomicU64,
    woken: Notify,
    tells: Semaphore,
    /// Marks are dropped on any thread.
    runtime: Handle,
}

struct State {
    dht: Dht,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
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
    /// Who gave it.
    pub owner: NodeId,
}

/// How a look-up ended.
pub enum LookedUp {
    /// Somebody made it.
    Found(Box<Found>),
    /// Another compile of this machine made it meanwhile; it is in the store.
    MadeHere,
    /// There is something, but it is not believed. This node makes it.
    Refused(Refused, Mark),
    /// Nothing is there. This node makes it.
    Nothing(Mark),
}

/// This node is believed to make an entry; when this is dropped before it was made, those who wait for it are told.
pub struct Mark {
    cache: Arc<OfficeCache>,
    key: EntryKey,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.cache.handle(Event::GaveUp { key: self.key });
    }
}

impl Found {
    fn of(believed: Authentic, entry: Entry, holders: Vec<NodeId>, owner: NodeId) -> Box<Self> {
        let Authentic { record, signed, .. } = believed;
        let inline = entry.inline.into_iter().map(|bytes| (Digest::of(&bytes.0), bytes.0)).collect();
        Box::new(Self { record, signed, inline, holders, owner })
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
        let cache = Arc::new(Self {
            parts,
            state: Mutex::new(State { dht, waiting: HashMap::new() }),
            began: Instant::now(),
            lookups: AtomicU64::new(1),
            woken: Notify::new(),
            tells: Semaphore::new(TELLS_MAX),
            runtime: Handle::current(),
        });
        tokio::spawn(cache.clone().keep_time());
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

    /// Looks for an action's record in this node's own part and at its owners.
    pub async fn look_up(self: &Arc<Self>, action: &Action, key: ActionKey) -> LookedUp {
        let entry_key = EntryKey::record(&key);
        // It is there while the answer is waited for: whoever asked may go away the instant it comes.
        let mark = Mark { cache: self.clone(), key: entry_key };
        if !self.parts.share.reads() {
            return LookedUp::Nothing(mark);
        }
        if self.may_keep(entry_key)
            && let Some(kept) = self.kept(entry_key).await
        {
            // What is not believed here may be kept better by the other owner.
            if let Ok(believed) = self.judge(action, key, &kept.entry) {
                return LookedUp::Found(Found::of(believed, kept.entry, kept.holders, self.parts.self_id));
            }
        }
        match self.ask(entry_key).await {
            Outcome::Nothing => LookedUp::Nothing(mark),
            Outcome::MadeHere => LookedUp::MadeHere,
            Outcome::Found { entry, holders, owner } => match self.judge(action, key, &entry) {
                Ok(believed) => LookedUp::Found(Found::of(believed, entry, holders, owner)),
                Err(why) => LookedUp::Refused(why, mark),
            },
        }
    }

    /// Whether it is worth a look at the disk.
    fn may_keep(&self, key: EntryKey) -> bool {
        let state = self.lock();
        let dht = &state.dht;
        dht.keeps(&key) || (!dht.is_alone() && dht.owners(key).contains(&Some(self.parts.self_id)))
    }

    async fn ask(self: &Arc<Self>, key: EntryKey) -> Outcome {
        let lookup = self.lookups.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = oneshot::channel();
        self.lock().waiting.insert(lookup, sender);
        let _waiting = Waiting { cache: self, lookup };
        self.handle(Event::Wanted { lookup, key });
        outcome.await.unwrap_or(Outcome::Nothing)
    }

    /// Lets the office have a result that is in the store. Reads small outputs; blocks for that.
    pub fn made(self: &Arc<Self>, record: &SignedBytes, toolchain: Digest) {
        let Ok(read) = postcard::from_bytes::<ActionRecord>(record.unverified_payload()) else { return };
        if !self.parts.share.writes() || read.result.exit_code != 0 {
            return;
        }
        let body = Bytes(kept::encode(record));
        if body.0.len() > BODY_BYTES_MAX {
            return;
        }
        let mut left = if self.lock().dht.is_alone() { 0 } else { INLINE_BYTES_MAX as u64 };
        let mut inline = Vec::new();
        for blob in read.result.blobs().filter(|blob| blob.size > 0) {
            if blob.size <= left
                && let Some(bytes) = self.parts.store.read_blob(&blob.digest)
            {
                left -= blob.size;
                inline.push(Bytes(bytes));
            }
        }
        let entry = Entry { toolchain, body, inline };
        self.handle(Event::Made { key: EntryKey::record(&read.key), entry });
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
                Effect::Ended { lookup, outcome } => {
                    if let Some(waiting) = this.lock().waiting.remove(&lookup) {
                        // Whoever waited may have gone this instant.
                        let _ = waiting.send(outcome);
                    }
                }
            }
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
                    let entry = Entry { inline: Vec::new(), ..kept.entry };
                    puts.push(Put { key, what: Told::Entry { entry, holders } });
                }
                None => self.handle(Event::Evicted { key }),
            }
        }
        let bytes = if puts.is_empty() { 0 } else { self.tell(peer, puts).await };
        self.handle(Event::Handed { bytes });
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
