//! The toolchains a worker has whole.
//!
//! Blobs of a whole toolchain are pinned in the store. A description is written only after its blobs, so a
//! crash leaves a toolchain unknown and some blobs that the next fetch finds there.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_cache::Store;
use barn_protocol::{Digest, Toolchain, limits::ADVERT_TOOLCHAINS_MAX};

use crate::home::{Home, HomeError};

/// Ends the names of the files that describe toolchains.
const SUFFIX: &str = "toolchain";

/// Why a toolchain is not put on the shelf.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// A part of it is not in the store.
    #[error("the toolchain is not whole")]
    NotWhole,
    /// Its description cannot be written.
    #[error("the toolchain cannot be written down")]
    Home(#[from] HomeError),
}

/// The toolchains of this machine's workers.
pub struct Shelf {
    home: Home,
    store: Store,
    whole: Mutex<HashMap<Digest, Arc<Toolchain>>>,
}

impl Shelf {
    /// Opens the shelf with all toolchains that are still whole.
    pub fn open(home: Home, store: Store) -> Self {
        let shelf = Self { home, store, whole: Mutex::default() };
        shelf.recall();
        shelf
    }

    /// Looks again which toolchains are whole: a store that was being rebuilt had none.
    pub fn recall(&self) {
        for toolchain in described(&self.home) {
            let digest = toolchain.digest();
            if is_whole(&self.store, &toolchain) {
                pin(&self.store, digest, &toolchain);
                self.lock().insert(digest, Arc::new(toolchain));
            }
        }
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
    pub fn put(&self, toolchain: Toolchain) -> Result<Digest, ShelfError> {
        if !is_whole(&self.store, &toolchain) {
            return Err(ShelfError::NotWhole);
        }
        let digest = toolchain.digest();
        let path = self.path(&digest);
        let bytes = postcard::to_stdvec(&toolchain).expect("encoding into memory does not fail");
        self.home.replace(&path, &bytes, 0o600)?;
        pin(&self.store, digest, &toolchain);
        self.lock().insert(digest, Arc::new(toolchain));
        Ok(digest)
    }

    /// Pins the blobs of a toolchain that is about to come, so that those that are here first are still there when
    /// the last one has come.
    pub(super) fn pin(&self, toolchain: &Toolchain) {
        pin(&self.store, toolchain.digest(), toolchain);
    }

    /// Where parts of blobs lie that are on their way.
    pub(super) fn incoming_dir(&self) -> PathBuf {
        self.home.dir().join("incoming")
    }

    /// The store behind the shelf.
    pub(super) fn store(&self) -> &Store {
        &self.store
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
