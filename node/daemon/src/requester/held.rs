//! Manifests that held lately, and what they led to.
//!
//! A build that is repeated asks for the same compiles again, and for each of them a manifest of hundreds of paths would be
//! read, decoded and looked through, and a record read and decoded, only to come to what was known a minute ago. So what
//! the look rested on is kept beside its outcome. While all of that is as it was, as `lstat` says, and the record is
//! still the same one, the outcome is the same.
//! Invariant: whatever differs leads back to the manifests; nothing is decided here but "the same as before".

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_cache::{RecordPlace, Store};
use barn_protocol::{ActionKey, ActionResult, Digest};

use super::sight::Seen;

/// Compiles remembered: those of a large project. Some 5 KB each, files and directories being shared.
const HELD_MAX: usize = 4096;

/// The outcome of one look at manifests.
#[derive(Debug)]
pub(super) struct Held {
    /// The manifest that held, as a blob of the store.
    pub(super) manifest: Digest,
    /// The action it led to.
    pub(super) action: ActionKey,
    /// Which record of that action.
    pub(super) record: RecordPlace,
    /// What the record says.
    pub(super) result: ActionResult,
    /// The roster under which the record counted.
    pub(super) epoch: u64,
    /// What the look rested on.
    pub(super) seen: Seen,
}

/// The outcomes of the last looks, by the names of the manifests.
#[derive(Debug, Default)]
pub(crate) struct HeldManifests(Mutex<HashMap<Digest, Arc<Held>>>);

impl Held {
    /// Whether another look at the manifests called `key` would come to the same. If so, all that it rests on in the store
    /// counts as used.
    pub(super) fn holds(&self, key: &Digest, store: &Store, epoch: u64) -> bool {
        if self.epoch != epoch || !self.seen.holds() {
            return false;
        }
        let result = self.result.blobs().map(|blob| blob.digest);
        let used: Vec<Digest> = result.chain([self.manifest]).collect();
        store.record_is_at(&self.action, self.record, key, &used)
    }
}

impl HeldManifests {
    /// What the manifests called `key` led to last.
    pub(super) fn get(&self, key: &Digest) -> Option<Arc<Held>> {
        self.lock().get(key).cloned()
    }

    /// Remembers what they led to now. A table that is full is emptied: one build fills it again.
    pub(super) fn remember(&self, key: Digest, held: Held) {
        let mut table = self.lock();
        if table.len() >= HELD_MAX {
            table.clear();
        }
        table.insert(key, Arc::new(held));
    }

    /// Forgets what does not hold any more.
    pub(super) fn forget(&self, key: &Digest) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Held>>> {
        self.0.lock().expect("no panic while the table is held")
    }
}
