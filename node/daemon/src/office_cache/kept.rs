//! The entries this node owns, in its store.

use std::sync::Arc;

use barn_protocol::{
    Digest, NodeId,
    canonical::Canonical,
    dht::{Entry, EntryKey},
    keys::domain,
};
use serde::{Deserialize, Serialize};

use super::OfficeCache;

/// An entry as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) entry: Entry,
    /// Who had what it names when it was kept.
    pub(super) holders: Vec<NodeId>,
}

impl OfficeCache {
    /// Keeps an entry. A full or failing disk only costs it.
    pub(super) fn keep(&self, key: EntryKey, entry: Entry, holders: &[NodeId]) {
        let toolchain = entry.toolchain;
        let bytes = encode(&Kept { entry, holders: holders.to_vec() });
        if let Err(error) = self.parts.store.put_manifest(&place(key), &toolchain, &bytes) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "an entry of the office's cache was not kept");
        }
    }

    /// An entry that is kept here.
    pub(super) async fn kept(self: &Arc<Self>, key: EntryKey) -> Option<Kept> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read(key)).await.ok().flatten()
    }

    /// As [`OfficeCache::kept`], for a thread that may block.
    pub(super) fn read(&self, key: EntryKey) -> Option<Kept> {
        let found = self.parts.store.manifests(&place(key));
        found.iter().find_map(|bytes| postcard::from_bytes(bytes).ok())
    }
}

/// Where an entry lies in the store: where no include manifest can lie.
fn place(key: EntryKey) -> Digest {
    Canonical::new(domain::OWNED_ENTRY).bytes(key.as_bytes()).finish()
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("encoding into memory does not fail")
}
