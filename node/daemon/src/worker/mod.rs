//! The worker: runs the actions of other members in the sandbox.
//!
//! ```text
//!  request ─▶ may it? ─▶ toolchain whole? ─▶ slot free? ─▶ blobs arrive ─▶ sandbox ─▶ result and outputs
//!               │no            │no               │no            │            │
//!               ▼              ▼                 ▼              └─ stream or connection ends: cancelled
//!            decline   decline, fetch it      decline
//! ```
//!
//! Nothing waits here: what cannot start now is declined at once. A machine that cannot contain a compile has no
//! slots and says why.

mod fetch;
mod room;
mod shelf;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use barn_cache::Store;
use barn_mesh::{
    Mesh, RecvStream, SendStream,
    stream::{StreamError, read_frame, write_blob, write_frame},
};
use barn_protocol::{
    Action, ActionRecord, Digest, Identity, NodeId, Toolchain,
    roster::Member,
    wire::{Decline, RunDone, RunFailure, RunReply},
};
use barn_sandbox::{CancelToken, Sandbox};
pub use fetch::{FetchError, Fetcher, Transfer};
pub(crate) use fetch::{Live, Opened, Progress, read_piece};
pub use shelf::{Shelf, ShelfError};
use tokio::sync::watch;

use crate::stats::Stats;

/// Bytes of blobs one action may bring; a jumbo unit of 10,000 headers stays under 200 MB.
const INPUT_BYTES_MAX: u64 = 1 << 30;
/// How long a requester may take between two blobs.
const BLOB_WAIT: Duration = Duration::from_secs(30);

/// What a worker is made of.
pub struct Worker {
    identity: Identity,
    store: Store,
    stats: Arc<Stats>,
    /// The toolchains here.
    pub shelf: Arc<Shelf>,
    /// The toolchains on their way here.
    pub fetcher: Arc<Fetcher>,
    sandbox: Result<Arc<Sandbox>, String>,
    limits: barn_sandbox::Limits,
    slots: u32,
    taken: Arc<AtomicU32>,
    closing: AtomicBool,
    changed: watch::Sender<()>,
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
    /// The sandbox, or why there is none.
    pub sandbox: Result<Arc<Sandbox>, String>,
    /// How much one action may use.
    pub limits: barn_sandbox::Limits,
    /// How many actions at once.
    pub slots: u32,
}

/// A taken slot; dropped, it is free again.
struct Slot<'a>(&'a Worker);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.send_replace(());
    }
}

impl Worker {
    /// A worker with all slots free.
    pub fn new(parts: Parts) -> Self {
        Self {
            identity: parts.identity,
            store: parts.store,
            stats: parts.stats,
            fetcher: Fetcher::new(parts.shelf.clone()),
            shelf: parts.shelf,
            slots: if parts.sandbox.is_ok() { parts.slots } else { 0 },
            sandbox: parts.sandbox,
            limits: parts.limits,
            taken: Arc::default(),
            closing: AtomicBool::new(false),
            changed: watch::channel(()).0,
        }
    }

    /// How many actions this machine would run at once.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many of them are free.
    pub fn free(&self) -> u32 {
        self.slots.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Why this machine runs nothing for others, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.sandbox.as_ref().err().map(String::as_str)
    }

    /// Told of every change of slots or toolchains.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
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
        action: Action,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        let (toolchain, sandbox, _slot) = match self.admit(mesh, peer, &action) {
            Ok(admitted) => admitted,
            Err(why) => return write_frame(send, &RunReply::Declined(why)).await,
        };
        let need = self.missing(&action);
        let asked = need.iter().map(|(digest, _)| *digest).collect();
        write_frame(send, &RunReply::Accepted { need: asked }).await?;
        for (digest, size) in need {
            let blob = crate::blobs::receive(&self.store, recv, digest, size);
            tokio::time::timeout(BLOB_WAIT, blob).await.map_err(|_| StreamError::Stalled(BLOB_WAIT))??;
        }
        self.stats.count_peer(&peer.name, |traffic| traffic.received += 1);
        match self.run(sandbox, &toolchain, &action, send, recv).await {
            Ok(result) => {
                let record = ActionRecord {
                    key: action.key(),
                    result: result.clone(),
                    producer: self.identity.id(),
                    sandboxed: true,
                    epoch,
                };
                let record = record.sign(&self.identity);
                let blobs: Vec<_> = result.blobs().collect();
                write_frame(send, &RunDone::Finished { result, record }).await?;
                for blob in blobs {
                    self.send_blob(send, blob.digest, blob.size).await?;
                }
                Ok(())
            }
            Err(failure) => write_frame(send, &RunDone::Failed(failure)).await,
        }
    }

    fn admit(
        &self,
        mesh: &Mesh,
        peer: &Member,
        action: &Action,
    ) -> Result<(Arc<Toolchain>, Arc<Sandbox>, Slot<'_>), Decline> {
        let sandbox = self.sandbox.as_ref().map_err(|_| Decline::NotAWorker)?.clone();
        if self.slots == 0 || self.closing.load(Ordering::Relaxed) {
            return Err(Decline::NotAWorker);
        }
        if !peer.capabilities.submit {
            return Err(Decline::NotAllowed);
        }
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
        let take = |taken: u32| (taken < self.slots).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Decline::Busy)?;
        self.changed.send_replace(());
        Ok((toolchain, sandbox, Slot(self)))
    }

    fn fetch(&self, mesh: &Mesh, peer: NodeId, digest: Digest) {
        let changed = self.changed.clone();
        self.fetcher.fetch(mesh.clone(), peer, digest, move || {
            changed.send_replace(());
        });
    }

    /// The action's blobs that are not here, each once, with the sizes that were added up when it was admitted.
    fn missing(&self, action: &Action) -> Vec<(Digest, u64)> {
        let mut need: Vec<(Digest, u64)> =
            action.inputs.blobs().filter(|(digest, _)| !self.store.contains(digest)).collect();
        need.sort_unstable();
        need.dedup_by_key(|(digest, _)| *digest);
        need
    }

    /// Runs the action; the end of the stream or connection cancels it.
    async fn run(
        &self,
        sandbox: Arc<Sandbox>,
        toolchain: &Toolchain,
        action: &Action,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<barn_protocol::ActionResult, RunFailure> {
        let spec = room::spec(&self.store, toolchain, action, self.limits.clone())?;
        let cancel = CancelToken::new().map_err(|_| RunFailure::Sandbox)?;
        let (store, token) = (self.store.clone(), cancel.clone());
        let mut run = tokio::task::spawn_blocking(move || room::run(&sandbox, &spec, &token, store));
        let outcome = tokio::select! {
            outcome = &mut run => outcome,
            () = gone(send, recv) => {
                cancel.cancel();
                run.await
            }
        };
        outcome.map_err(|_| RunFailure::Sandbox)?
    }

    async fn send_blob(&self, send: &mut SendStream, digest: Digest, size: u64) -> Result<(), StreamError> {
        let lost = || StreamError::Local(std::io::Error::other("an output was evicted before it was sent"));
        let file = self.store.open_blob(&digest).ok_or_else(lost)?;
        write_blob(send, digest, size, &mut tokio::fs::File::from_std(file)).await.map(drop)
    }
}

/// Resolves when the requester has given up: it reset or stopped the stream, or the connection ended.
async fn gone(send: &SendStream, recv: &mut RecvStream) {
    tokio::select! {
        _ = send.stopped() => {}
        () = reset(recv) => {}
    }
}

/// Resolves when the requester's half is reset or lost; that it has merely said all means nothing.
async fn reset(recv: &mut RecvStream) {
    if let Ok(None) = recv.received_reset().await {
        std::future::pending::<()>().await;
    }
}

/// Reads the first frame of a stream.
///
/// # Errors
/// When it does not come within a few seconds or is malformed.
pub async fn read_request(recv: &mut RecvStream) -> Result<barn_protocol::wire::Request, StreamError> {
    read_frame(recv, Duration::from_secs(10)).await
}
