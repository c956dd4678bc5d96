//! Getting a toolchain from members that have it, or some of it.
//!
//! What lies on this machine's own paths with the right contents is taken from there first ([`super::adopt`]); with the
//! same packages, that is all. Sources of the rest are the member that wanted the compile, those whose adverts list the toolchain, those that a source says
//! are fetching it too, and, when these are not enough, those that say on the DHT that they have it. `Swarm` of the
//! protocol decides whom to ask for which piece; here are its streams and files.
//!
//! ```text
//!            asked for by an action            all blobs stored
//!  unknown ───────────────────────▶ fetching ───────────────────▶ on the shelf (advertised)
//!     ▲                                │
//!     └────────────────────────────────┘  no source left; the next action goes on where this one ended
//! ```
//!
//! Invariant: a piece is served on, counted as here and written to disk only after it was verified.

mod drive;
mod live;
mod source;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use barn_mesh::{Mesh, stream::StreamError};
use barn_protocol::{Digest, NodeId};
pub(crate) use live::{Live, Opened, Progress, read_piece};

use super::{
    adopt::Adopter,
    shelf::{Shelf, ShelfError},
};
use crate::toolchain::policy::PolicyError;

/// Toolchains fetched at the same time; each may be 200 MB.
const TRANSFERS_MAX: usize = 2;

/// Why a toolchain did not come, or a source is none.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
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
    #[error("the peer sent something else than was asked for")]
    Wrong,
    /// It holds what no toolchain may hold.
    #[error("the toolchain is not acceptable")]
    Policy(#[from] PolicyError),
    /// It came, but cannot be kept.
    #[error("the toolchain cannot be kept")]
    Shelf(#[from] ShelfError),
    /// This machine's disk is at fault.
    #[error("the toolchain cannot be written")]
    Disk(#[from] std::io::Error),
    /// Nobody has it, or nobody gave any of it for long.
    #[error("no member gives the toolchain")]
    NoSource,
    /// As many as allowed are being fetched.
    #[error("{TRANSFERS_MAX} toolchains are being fetched already")]
    Busy,
}

/// A toolchain on its way.
pub struct Transfer {
    /// Which.
    pub toolchain: Digest,
    /// From whom at first.
    pub from: NodeId,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    live: OnceLock<Arc<Live>>,
}

impl Transfer {
    fn new(toolchain: Digest, from: NodeId) -> Self {
        Self {
            toolchain,
            from,
            done_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            live: OnceLock::new(),
        }
    }

    /// Bytes that have come, and bytes in all; 0 in all until that is known.
    pub fn progress(&self) -> (u64, u64) {
        (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }

    fn set_progress(&self, total: u64, missing: u64) {
        self.total_bytes.store(total, Ordering::Relaxed);
        self.done_bytes.store(total.saturating_sub(missing), Ordering::Relaxed);
    }
}

/// Puts toolchains of other members on the shelf.
pub struct Fetcher {
    shelf: Arc<Shelf>,
    adopter: Arc<Adopter>,
    incoming: PathBuf,
    transfers: Mutex<HashMap<Digest, Arc<Transfer>>>,
}

impl Fetcher {
    /// A fetcher for `shelf` with nothing on its way. What `adopter` finds here is not fetched.
    pub(super) fn new(shelf: Arc<Shelf>, adopter: Arc<Adopter>) -> Arc<Self> {
        let incoming = shelf.incoming_dir();
        live::sweep(&incoming);
        Arc::new(Self { shelf, adopter, incoming, transfers: Mutex::default() })
    }

    /// What is being fetched now.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.lock().values().cloned().collect()
    }

    /// What is here of a toolchain that is being fetched.
    pub(crate) fn live(&self, toolchain: &Digest) -> Option<Arc<Live>> {
        self.lock().get(toolchain)?.live.get().cloned()
    }

    /// Fetches a toolchain in the background, for `peer` and first of all from it, unless that is going on already;
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
            if fetcher.finish(&mesh, &transfer, Some(peer)).await.is_ok() {
                done();
            }
        });
    }

    /// Fetches a toolchain and waits for it. `peer` has it; nobody is spared.
    ///
    /// # Errors
    /// When it does not come, or too many are being fetched.
    pub async fn fetch_now(&self, mesh: &Mesh, peer: NodeId, digest: Digest) -> Result<(), FetchError> {
        if self.shelf.get(&digest).is_some() {
            return Ok(());
        }
        let transfer = self.begin(digest, peer).ok_or(FetchError::Busy)?;
        self.finish(mesh, &transfer, None).await
    }

    async fn finish(
        &self,
        mesh: &Mesh,
        transfer: &Arc<Transfer>,
        spared: Option<NodeId>,
    ) -> Result<(), FetchError> {
        let toolchain = transfer.toolchain;
        let began = std::time::Instant::now();
        let came = drive::run(self, mesh, transfer, spared).await;
        self.lock().remove(&toolchain);
        match &came {
            Ok(()) => tracing::info!(%toolchain, took = ?began.elapsed(), "fetched a toolchain"),
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(%toolchain, error, "a toolchain did not come");
            }
        }
        came
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
