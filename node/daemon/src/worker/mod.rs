//! The worker: runs the actions of other members in the sandbox.
//!
//! ```text
//!  request ─▶ may it? ─▶ tree known? ─▶ toolchain whole? ─▶ place free? ─▶ blobs arrive ─▶ slot ─▶ sandbox ─▶ outputs
//!               │no         │no             │no                │no           │               │        │
//!               ▼           ▼               ▼                  ▼             └─ stream or connection ends: cancelled
//!            decline    sent whole      decline, fetch it   decline
//! ```
//!
//! What is accepted waits in the [`queue`], and its inputs arrive while others compile. A machine that cannot contain
//! a compile has no slots and says why. `docs/protocol.md` draws the exchange and lists the limits.

mod adopt;
mod arrivals;
mod errand;
mod fetch;
mod queue;
mod room;
mod shelf;
mod trees;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use barn_cache::Store;
use barn_mesh::{
    Mesh, RecvStream, SendStream,
    stream::{StreamError, read_frame},
};
use barn_protocol::{
    Action, Digest, Entry, Identity, NodeId, Tree,
    delta::{DeltaError, TreeForm},
    known::{ENTRIES_MAX, KnownTrees, RECEIVED_PER_PEER_MAX},
    roster::Member,
    wire::{Decline, Run},
};
use barn_sandbox::Sandbox;
pub use fetch::{FetchError, Fetcher, Transfer};
pub(crate) use fetch::{Live, Opened, Progress, read_piece};
pub use shelf::{Shelf, ShelfError};
use tokio::sync::watch;

use crate::stats::Stats;
use adopt::Adopter;
use arrivals::Arrivals;
use errand::{Admitted, Errand};
use queue::Queue;

/// Bytes of blobs one action may bring; a jumbo unit of 10,000 headers stays under 200 MB.
const INPUT_BYTES_MAX: u64 = 1 << 30;

/// What a worker is made of.
pub struct Worker {
    identity: Identity,
    store: Store,
    stats: Arc<Stats>,
    /// The toolchains here.
    pub shelf: Arc<Shelf>,
    /// The toolchains on their way here.
    pub fetcher: Arc<Fetcher>,
    sandbox: Result<Arc<Contained>, String>,
    limits: barn_sandbox::Limits,
    slots: u32,
    queue: Queue,
    arrivals: Arc<Arrivals>,
    known: Mutex<KnownTrees>,
    closing: AtomicBool,
    changed: watch::Sender<()>,
}

/// What runs actions: the sandbox, the trees and the machine's own files it binds, and what is known of who was traced.
struct Contained {
    sandbox: Arc<Sandbox>,
    trees: trees::Trees,
    adopter: Arc<Adopter>,
    watch: room::Watch,
}

/// What [`Worker::new`] needs.
pub struct Parts {
    /// Signs the records.
    pub identity: Identity,
    /// Where blobs are kept.
    pub store: Store,
    /// The counters.
    pub stats: Arc<Stats>,
    /// The toolchains here.
    pub shelf: Arc<Shelf>,
    /// The node's directory, in which the worker keeps its trees.
    pub home: PathBuf,
    /// The sandbox, or why there is none.
    pub sandbox: Result<Arc<Sandbox>, String>,
    /// How much one action may use.
    pub limits: barn_sandbox::Limits,
    /// How many actions at once.
    pub slots: u32,
    /// Whether files of toolchains are taken from this machine where it has them.
    pub adopts: bool,
}

impl Worker {
    /// A worker with all slots free.
    pub fn new(parts: Parts) -> Self {
        let changed = watch::channel(()).0;
        let adopter = Arc::new(if parts.adopts { Adopter::system() } else { Adopter::nothing() });
        let files = adopter.clone();
        let sandbox = parts.sandbox.and_then(|sandbox| {
            let directory = parts.home.join(trees::DIRECTORY);
            let trees = trees::Trees::open(&directory, parts.store.clone(), sandbox.drop_to());
            let trees = trees.map_err(|error| error.to_string())?;
            Ok(Arc::new(Contained { sandbox, trees, adopter: files, watch: room::Watch::default() }))
        });
        let slots = if sandbox.is_ok() { parts.slots } else { 0 };
        Self {
            identity: parts.identity,
            store: parts.store,
            stats: parts.stats,
            fetcher: Fetcher::new(parts.shelf.clone(), adopter),
            shelf: parts.shelf,
            slots,
            queue: Queue::new(slots, changed.clone()),
            arrivals: Arc::default(),
            known: Mutex::new(KnownTrees::new(RECEIVED_PER_PEER_MAX, ENTRIES_MAX)),
            sandbox,
            limits: parts.limits,
            closing: AtomicBool::new(false),
            changed,
        }
    }

    /// How many actions this machine would run at once.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many of them are free, and not for an action that has been accepted either.
    pub fn free(&self) -> u32 {
        self.queue.load().free
    }

    /// How many actions beyond the slots have been accepted.
    pub fn queued(&self) -> u32 {
        self.queue.load().queued
    }

    /// How many may be.
    pub fn queue_max(&self) -> u32 {
        self.queue.queue_max()
    }

    /// Why this machine runs nothing for others, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.sandbox.as_ref().err().map(String::as_str)
    }

    /// Told of every change of slots, queue or toolchains.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Removes what was laid out for actions and has not been used for long. Blocks, for some seconds at most.
    pub fn tidy(&self) {
        if let Ok(contained) = &self.sandbox {
            contained.trees.age_out(std::time::Instant::now());
        }
    }

    /// Takes no more actions.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Serves one action of `peer`.
    ///
    /// # Errors
    /// When the stream fails; the requester then sees that too.
    pub async fn serve(
        &self,
        mesh: &Mesh,
        peer: &Member,
        epoch: u64,
        run: Run,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        Errand { worker: self, mesh, peer, epoch, send, recv }.serve(run).await
    }

    /// Whether it may run anything for `peer`.
    fn may(&self, peer: &Member) -> Result<(), Decline> {
        if self.slots == 0 || self.closing.load(Ordering::Relaxed) {
            return Err(Decline::NotAWorker);
        }
        if peer.capabilities.submit { Ok(()) } else { Err(Decline::NotAllowed) }
    }

    /// The tree that `peer` means.
    fn tree(&self, peer: &NodeId, form: &TreeForm) -> Result<Tree, DeltaError> {
        form.tree(|digest| self.known.lock().expect("no panic while held").recall(peer, digest))
    }

    /// Notes that `peer` may refer to this tree from now on.
    fn remember(&self, peer: &NodeId, tree: &Tree) {
        let (digest, tree) = (tree.digest(), Arc::new(tree.clone()));
        self.known.lock().expect("no panic while held").remember(*peer, digest, &tree);
    }

    fn admit(&self, mesh: &Mesh, peer: &Member, action: &Action) -> Result<Admitted, Decline> {
        let contained = self.sandbox.as_ref().map_err(|_| Decline::NotAWorker)?.clone();
        if !action.is_fit() || action.inputs.file_bytes() > INPUT_BYTES_MAX {
            return Err(Decline::Unfit);
        }
        let Some(toolchain) = self.shelf.get(&action.toolchain) else {
            self.fetch(mesh, peer.id, action.toolchain);
            return Err(Decline::FetchingToolchain);
        };
        if toolchain.machine != std::env::consts::ARCH {
            return Err(Decline::OtherMachine);
        }
        let missing = self.missing(action, &contained.trees);
        let missing_bytes = missing.iter().map(|(_, size)| size).sum();
        let place = self.queue.enter(peer.id, missing_bytes).ok_or(Decline::Busy)?;
        Ok(Admitted { toolchain, contained, place, missing })
    }

    fn fetch(&self, mesh: &Mesh, peer: NodeId, digest: Digest) {
        let changed = self.changed.clone();
        self.fetcher.fetch(mesh.clone(), peer, digest, move || {
            changed.send_replace(());
        });
    }

    /// The action's blobs that are not here, each once, with the sizes that were added up when it was admitted.
    /// Most lie in trees, which are asked first: the store looks at the disk.
    fn missing(&self, action: &Action, trees: &trees::Trees) -> Vec<(Digest, u64)> {
        let absent = |entry: &Entry| match entry {
            Entry::File { digest, size, executable } => {
                let here = trees.have(*digest, *executable) || self.store.contains(digest);
                (!here).then_some((*digest, *size))
            }
            Entry::Directory | Entry::Symlink { .. } => None,
        };
        let mut need: Vec<_> = action.inputs.iter().filter_map(|(_, entry)| absent(entry)).collect();
        need.sort_unstable();
        need.dedup_by_key(|(digest, _)| *digest);
        need
    }
}

/// Reads the first frame of a stream.
///
/// # Errors
/// When it does not come within a few seconds or is malformed.
pub async fn read_request(recv: &mut RecvStream) -> Result<barn_protocol::wire::Request, StreamError> {
    read_frame(recv, Duration::from_secs(10)).await
}
