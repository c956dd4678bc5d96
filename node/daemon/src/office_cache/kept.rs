//! The entries this node owns, in its store.

use std::sync::Arc;

use barn_protocol::{
    Digest, NodeId,
    canonical::Canonical,
    dht::{Entry, EntryKey, limits::HOLDERS_MAX},
    keys::domain,
};
use serde::{Deserialize, Serialize};

use super::OfficeCache;

/// An entry as it is kept.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) entry: Entry,
    /// Who had what it names when it was kept.
    pub(super) holders: Vec<NodeId>,
}

impl OfficeCache {
    /// Keeps an entry beside what is kept under its key. A full or failing disk only costs it.
    pub(super) fn keep(&self, key: EntryKey, entry: Entry, holders: &[NodeId]) {
        // Two that come at once must not lose one another.
        let _one_at_a_time = self.keeping.lock().expect("no panic while an entry is kept");
        let before = self.read(key);
        let mut kept = Kept { entry, holders: holders.to_vec() };
        if let Some(Kept { entry, holders }) = &before {
            kept.entry = self.merged(key, entry.clone(), kept.entry);
            let more = holders.iter().filter(|holder| !kept.holders.contains(holder));
            kept.holders = kept.holders.iter().chain(more).copied().take(HOLDERS_MAX).collect();
            if before.as_ref() == Some(&kept) {
                return;
            }
        }
        let toolchain = kept.entry.toolchain;
        if let Err(error) = self.parts.store.put_manifest(&place(key), &toolchain, &encode(&kept)) {
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
