//! The toolchains a worker has whole, and how it gets those it lacks.
//!
//! ```text
//!            asked for by an action            all blobs stored
//!  unknown ───────────────────────▶ fetching ───────────────────▶ whole (advertised)
//!     ▲                                │
//!     └────────────────────────────────┘  any failure; the next action tries again
//! ```
//!
//! Blobs of a whole toolchain are pinned in the store. A description is written only after its blobs, so a
//! crash leaves a toolchain unknown and some blobs that the next fetch finds there.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use barn_cache::Store;
use barn_mesh::{
    Mesh,
    stream::{read_frame, write_frame},
};
use barn_protocol::{
    Digest, NodeId, Toolchain,
    limits::{ADVERT_TOOLCHAINS_MAX, BLOB_BYTES_MAX},
    wire::{Request, ToolchainReply},
};

use crate::{
    home::Home,
    toolchain::policy::{self, PolicyError},
};

/// How long a peer may take to describe a toolchain.
const DESCRIBE_MAX: Duration = Duration::from_secs(30);
/// Blobs asked for at once; a toolchain has about 60.
const BLOBS_AT_ONCE: usize = 64;
/// Toolchains fetched at the same time; each may be 200 MB.
const FETCHES_MAX: usize = 2;
const SUFFIX: &str = "toolchain";

/// Why a toolchain did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer cannot be reached.
    #[error("cannot reach the peer")]
    Open(#[from] barn_mesh::OpenError),
    /// The stream failed.
    #[error("the transfer failed")]
    Stream(#[from] barn_mesh::stream::StreamError),
    /// The peer does not have it.
    #[error("the peer does not have the toolchain")]
    NotFound,
    /// What came is not what was asked for.
    #[error("the peer sent another toolchain")]
    Wrong,
    /// It holds what no toolchain may hold.
    #[error("the toolchain is not acceptable")]
    Policy(#[from] PolicyError),
    /// The description cannot be written.
    #[error("the toolchain cannot be written down")]
    Home(#[from] crate::home::HomeError),
}

/// The toolchains of this machine's workers.
pub struct Shelf {
    home: Home,
    store: Store,
    whole: Mutex<HashMap<Digest, Arc<Toolchain>>>,
    fetching: Mutex<HashSet<Digest>>,
}

impl Shelf {
    /// Opens the shelf with all toolchains that are still whole.
    pub fn open(home: Home, store: Store) -> Self {
        let mut whole = HashMap::new();
        for toolchain in described(&home) {
            let digest = toolchain.digest();
            if is_whole(&store, &toolchain) {
                pin(&store, digest, &toolchain);
                whole.insert(digest, Arc::new(toolchain));
            }
        }
        Self { home, store, whole: Mutex::new(whole), fetching: Mutex::default() }
    }

    /// The toolchain, if it is whole.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Toolchain>> {
        self.lock().get(digest).cloned()
    }

    /// All whole toolchains.
    pub fn list(&self) -> Vec<(Digest, Arc<Toolchain>)> {
        self.lock().iter().take(ADVERT_TOOLCHAINS_MAX).map(|(d, t)| (*d, t.clone())).collect()
    }

    /// Puts a toolchain on the shelf whose blobs are in the store.
    ///
    /// # Errors
    /// When a blob is missing or the description cannot be written.
    pub fn put(&self, toolchain: Toolchain) -> Result<Digest, FetchError> {
        if !is_whole(&self.store, &toolchain) {
            return Err(FetchError::NotFound);
        }
        let digest = toolchain.digest();
        let path = self.path(&digest);
        let bytes = postcard::to_stdvec(&toolchain).expect("encoding into memory does not fail");
        self.home.replace(&path, &bytes, 0o600)?;
        pin(&self.store, digest, &toolchain);
        self.lock().insert(digest, Arc::new(toolchain));
        Ok(digest)
    }

    /// Fetches a toolchain from `peer` in the background unless that is going on already; `done` is called when
    /// it is whole.
    pub fn fetch(
        self: &Arc<Self>,
        mesh: Mesh,
        peer: NodeId,
        digest: Digest,
        done: impl FnOnce() + Send + 'static,
    ) {
        {
            let mut fetching = self.fetching.lock().expect("no panic while held");
            if fetching.len() >= FETCHES_MAX || !fetching.insert(digest) {
                return;
            }
        }
        let shelf = self.clone();
        tokio::spawn(async move {
            let outcome = shelf.fetch_now(&mesh, peer, digest).await;
            shelf.fetching.lock().expect("no panic while held").remove(&digest);
            match outcome {
                Ok(()) => {
                    tracing::info!(toolchain = %digest, peer = %peer.short(), "fetched a toolchain");
                    done();
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(toolchain = %digest, peer = %peer.short(), error, "a toolchain did not come");
                }
            }
        });
    }

    async fn fetch_now(&self, mesh: &Mesh, peer: NodeId, digest: Digest) -> Result<(), FetchError> {
        let (mut send, mut recv) = mesh.open(peer).await?;
        write_frame(&mut send, &Request::Toolchain(digest)).await?;
        let reply: ToolchainReply = read_frame(&mut recv, DESCRIBE_MAX).await?;
        let ToolchainReply::Found(toolchain) = reply else { return Err(FetchError::NotFound) };
        if toolchain.digest() != digest {
            return Err(FetchError::Wrong);
        }
        policy::check(&toolchain)?;
        let mut missing: Vec<Digest> =
            toolchain.tree.blobs().map(|(d, _)| d).filter(|d| !self.store.contains(d)).collect();
        missing.sort_unstable();
        missing.dedup();
        for some in missing.chunks(BLOBS_AT_ONCE) {
            self.fetch_blobs(mesh, peer, some).await?;
        }
        self.put(toolchain).map(drop)
    }

    async fn fetch_blobs(&self, mesh: &Mesh, peer: NodeId, digests: &[Digest]) -> Result<(), FetchError> {
        let (mut send, mut recv) = mesh.open(peer).await?;
        write_frame(&mut send, &Request::Blobs(digests.to_vec())).await?;
        for digest in digests {
            crate::blobs::receive(&self.store, &mut recv, *digest, BLOB_BYTES_MAX).await?;
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.home.toolchains_dir().join(format!("{digest}.{SUFFIX}"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Toolchain>>> {
        self.whole.lock().expect("no panic while the shelf is held")
    }
}

fn described(home: &Home) -> Vec<Toolchain> {
    let Ok(entries) = fs::read_dir(home.toolchains_dir()) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == SUFFIX))
        .filter_map(|entry| fs::read(entry.path()).ok())
        .filter_map(|bytes| postcard::from_bytes(&bytes).ok())
        .collect()
}

fn is_whole(store: &Store, toolchain: &Toolchain) -> bool {
    toolchain.tree.blobs().all(|(digest, _)| store.contains(&digest))
}

fn pin(store: &Store, digest: Digest, toolchain: &Toolchain) {
    let blobs: Vec<Digest> = toolchain.tree.blobs().map(|(digest, _)| digest).collect();
    if let Err(error) = store.pin(&digest, &blobs) {
        let source = &error as &dyn std::error::Error;
        tracing::warn!(toolchain = %digest, error = source, "a toolchain may be evicted");
    }
}
