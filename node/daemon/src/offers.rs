//! Serving toolchains to members that lack them.
//!
//! Only the parts of toolchains are served, whatever else the store holds: no member can read a colleague's
//! sources or objects by guessing digests.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use barn_cache::Store;
use barn_mesh::{
    SendStream,
    stream::{StreamError, write_absent, write_blob, write_frame},
};
use barn_protocol::{Digest, Toolchain, wire::ToolchainReply};

use crate::{toolchain::ToolchainIndex, worker::Shelf};

/// Blobs that may be asked for at once.
const BLOBS_MAX: usize = 4096;
/// Parts whose places are remembered; a toolchain has about 60.
const PARTS_MAX: usize = 65_536;

/// What this machine can serve: the compilers installed here and the toolchains it fetched.
pub(crate) struct Offers {
    index: Arc<ToolchainIndex>,
    shelf: Arc<Shelf>,
    store: Store,
    parts: Mutex<HashMap<Digest, Part>>,
}

/// Where a part of a toolchain lies.
#[derive(Clone)]
enum Part {
    Installed(PathBuf, u64),
    Stored(u64),
}

impl Offers {
    /// Serves what `index` and `shelf` know.
    pub(crate) fn new(index: Arc<ToolchainIndex>, shelf: Arc<Shelf>, store: Store) -> Self {
        Self { index, shelf, store, parts: Mutex::default() }
    }

    /// Answers a request for a toolchain's description.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn describe(&self, digest: Digest, send: &mut SendStream) -> Result<(), StreamError> {
        let reply = match self.find(&digest) {
            Some(toolchain) => ToolchainReply::Found(toolchain),
            None => ToolchainReply::NotFound,
        };
        write_frame(send, &reply).await
    }

    /// Answers a request for parts of a toolchain.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn blobs(&self, digests: Vec<Digest>, send: &mut SendStream) -> Result<(), StreamError> {
        for digest in digests.into_iter().take(BLOBS_MAX) {
            match self.open(&digest) {
                Some((file, size)) => {
                    write_blob(send, digest, size, &mut tokio::fs::File::from_std(file)).await?;
                }
                None => write_absent(send, digest).await?,
            }
        }
        Ok(())
    }

    fn find(&self, digest: &Digest) -> Option<Toolchain> {
        if let Some(known) = self.index.by_digest(digest) {
            self.remember(&known.toolchain, |digest, size| {
                known.files.get(digest).map(|host| Part::Installed(host.clone(), size))
            });
            return Some(known.toolchain.clone());
        }
        let toolchain = self.shelf.get(digest)?;
        self.remember(&toolchain, |_, size| Some(Part::Stored(size)));
        Some((*toolchain).clone())
    }

    fn remember(&self, toolchain: &Toolchain, place: impl Fn(&Digest, u64) -> Option<Part>) {
        let mut parts = self.parts.lock().expect("no panic while held");
        if parts.len() >= PARTS_MAX {
            parts.clear();
        }
        for (digest, size) in toolchain.tree.blobs() {
            if let Some(part) = place(&digest, size) {
                parts.insert(digest, part);
            }
        }
    }

    fn open(&self, digest: &Digest) -> Option<(std::fs::File, u64)> {
        let part = self.parts.lock().expect("no panic while held").get(digest).cloned()?;
        match part {
            Part::Installed(path, size) => Some((std::fs::File::open(path).ok()?, size)),
            Part::Stored(size) => Some((self.store.open_blob(digest)?, size)),
        }
    }
}
