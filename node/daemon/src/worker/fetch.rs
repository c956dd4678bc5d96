//! Getting a toolchain from members that have it.
//!
//! The member that wanted the compile is asked first, then those that say on the DHT that they have it. What has
//! come stays in the store, so a second source, or the next try, goes on where the last one ended.
//!
//! ```text
//!            asked for by an action            all blobs stored
//!  unknown ───────────────────────▶ fetching ───────────────────▶ on the shelf (advertised)
//!     ▲                                │
//!     └────────────────────────────────┘  any failure; the next action tries again
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barn_mesh::{
    Mesh,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Digest, NodeId, Toolchain,
    wire::{Request, ToolchainReply},
};

use super::shelf::{Shelf, ShelfError};
use crate::toolchain::policy::{self, PolicyError};

/// How long a peer may take to describe a toolchain.
const DESCRIBE_MAX: Duration = Duration::from_secs(30);
/// Blobs asked for at once; a toolchain has about 60.
const BLOBS_AT_ONCE: usize = 64;
/// Members asked beside the one that wants the compile.
const PROVIDERS_MAX: usize = 3;
/// Toolchains fetched at the same time; each may be 200 MB.
const TRANSFERS_MAX: usize = 2;
/// How often a transfer says in the log how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Why a toolchain did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The peer cannot be reached.
    #[error("cannot reach the peer")]
    Open(#[from] barn_mesh::OpenError),
    /// The stream failed.
    #[error("the transfer failed")]
    Stream(#[from] StreamError),
    /// The peer does not have it.
    #[error("the peer does not have the toolchain")]
    NotFound,
    /// What came is not what was asked for.
    #[error("the peer sent another toolchain")]
    Wrong,
    /// It holds what no toolchain may hold.
    #[error("the toolchain is not acceptable")]
    Policy(#[from] PolicyError),
    /// It came, but cannot be kept.
    #[error("the toolchain cannot be kept")]
    Shelf(#[from] ShelfError),
}

/// A toolchain on its way.
#[derive(Debug)]
pub struct Transfer {
    /// Which.
    pub toolchain: Digest,
    /// From whom.
    pub from: NodeId,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Transfer {
    pub(super) fn new(toolchain: Digest, from: NodeId) -> Self {
        Self { toolchain, from, done_bytes: AtomicU64::new(0), total_bytes: AtomicU64::new(0) }
    }

    /// Bytes that have come, and bytes in all; 0 in all until that is known.
    pub fn progress(&self) -> (u64, u64) {
        (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// Puts toolchains of other members on the shelf.
pub struct Fetcher {
    shelf: Arc<Shelf>,
    transfers: Mutex<HashMap<Digest, Arc<Transfer>>>,
}

impl Fetcher {
    /// A fetcher for `shelf` with nothing on its way.
    pub(super) fn new(shelf: Arc<Shelf>) -> Arc<Self> {
        Arc::new(Self { shelf, transfers: Mutex::default() })
    }

    /// What is being fetched now.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.lock().values().cloned().collect()
    }

    /// Fetches a toolchain in the background, from `peer` or another member, unless that is going on already;
    /// `done` is called when it is whole.
    pub(super) fn fetch(
        self: &Arc<Self>,
        mesh: Mesh,
        peer: NodeId,
        digest: Digest,
        done: impl FnOnce() + Send + 'static,
    ) {
        let Some(transfer) = self.begin(digest, peer) else { return };
        let fetcher = self.clone();
        tokio::spawn(async move {
            let came = from_anybody(&fetcher.shelf, &mesh, &transfer).await;
            fetcher.lock().remove(&digest);
            if came {
                done();
            }
        });
    }

    fn begin(&self, digest: Digest, from: NodeId) -> Option<Arc<Transfer>> {
        let mut transfers = self.lock();
        if transfers.len() >= TRANSFERS_MAX || transfers.contains_key(&digest) {
            return None;
        }
        let transfer = Arc::new(Transfer::new(digest, from));
        transfers.insert(digest, transfer.clone());
        Some(transfer)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Transfer>>> {
        self.transfers.lock().expect("no panic while held")
    }
}

async fn from_anybody(shelf: &Shelf, mesh: &Mesh, transfer: &Transfer) -> bool {
    let digest = transfer.toolchain;
    if try_from(shelf, mesh, transfer.from, transfer).await {
        return true;
    }
    let others = mesh.providers(digest).await;
    for peer in others.into_iter().filter(|peer| *peer != transfer.from).take(PROVIDERS_MAX) {
        if try_from(shelf, mesh, peer, transfer).await {
            return true;
        }
    }
    false
}

async fn try_from(shelf: &Shelf, mesh: &Mesh, peer: NodeId, transfer: &Transfer) -> bool {
    let toolchain = transfer.toolchain;
    match fetch_from(shelf, mesh, peer, transfer).await {
        Ok(()) => {
            tracing::info!(%toolchain, peer = %peer.short(), "fetched a toolchain");
            true
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%toolchain, peer = %peer.short(), error, "a toolchain did not come");
            false
        }
    }
}

async fn fetch_from(shelf: &Shelf, mesh: &Mesh, peer: NodeId, transfer: &Transfer) -> Result<(), FetchError> {
    let toolchain = describe(mesh, peer, transfer.toolchain).await?;
    let missing = shelf.missing(&toolchain);
    transfer.done_bytes.store(0, Ordering::Relaxed);
    transfer.total_bytes.store(missing.iter().map(|(_, size)| size).sum(), Ordering::Relaxed);
    let mut told = Instant::now();
    for some in missing.chunks(BLOBS_AT_ONCE) {
        let (mut send, mut recv) = mesh.open(peer).await?;
        let digests = some.iter().map(|(digest, _)| *digest).collect();
        write_frame(&mut send, &Request::Blobs(digests)).await?;
        for (digest, size) in some {
            crate::blobs::receive(shelf.store(), &mut recv, *digest, *size).await?;
            transfer.done_bytes.fetch_add(*size, Ordering::Relaxed);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let (done, total) = transfer.progress();
                let (done_mib, total_mib) = (done >> 20, total >> 20);
                tracing::info!(toolchain = %transfer.toolchain, done_mib, total_mib, "fetching a toolchain");
            }
        }
    }
    shelf.put(toolchain)?;
    Ok(())
}

async fn describe(mesh: &Mesh, peer: NodeId, digest: Digest) -> Result<Toolchain, FetchError> {
    let (mut send, mut recv) = mesh.open(peer).await?;
    write_frame(&mut send, &Request::Toolchain(digest)).await?;
    let reply: ToolchainReply = read_frame(&mut recv, DESCRIBE_MAX).await?;
    let ToolchainReply::Found(toolchain) = reply else { return Err(FetchError::NotFound) };
    if toolchain.digest() != digest {
        return Err(FetchError::Wrong);
    }
    policy::check(&toolchain)?;
    Ok(toolchain)
}
