//! What people ask of the store: figures, collection, emptying, checking.
//!
//! The same requests are answered by a running node and, where none runs, by the command line itself. They block for as
//! long as the disk takes.

use barn_cache::{GcReport, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::toolchain::ToolchainIndex;

/// A request, as the command line sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Chore {
    /// How much is stored.
    Stat,
    /// Evict down to so many bytes, or to the store's own limit.
    Gc {
        /// The bytes to be left at most.
        bytes: Option<u64>,
    },
    /// Forget everything that is not pinned.
    Clear,
    /// Read everything back and drop what is damaged.
    Verify,
}

impl Chore {
    /// Does it. Everything but figures waits for a store that is being rebuilt.
    pub(crate) fn run(&self, store: &Store, toolchains: &ToolchainIndex) -> Value {
        if *self != Self::Stat {
            store.wait();
        }
        match self {
            Self::Stat => stat(store),
            Self::Gc { bytes } => {
                name_toolchains(store, toolchains);
                collected(store, store.gc_to(bytes.unwrap_or(u64::MAX)))
            }
            Self::Clear => collected(store, store.clear()),
            Self::Verify => verify(store),
        }
    }
}

/// Tells the store which compilers are on this machine, so that what it keeps of others that were goes first.
pub(crate) fn name_toolchains(store: &Store, toolchains: &ToolchainIndex) {
    if let Err(error) = store.name_installed(&toolchains.installed()) {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "the store was not told which compilers are here");
    }
}

fn stat(store: &Store) -> Value {
    let stat = store.stat();
    json!({
        "path": store.path().to_string_lossy(),
        "blobs": stat.blobs,
        "records": stat.records,
        "manifests": stat.manifests,
        "foreign": stat.foreign,
        "bytes": stat.bytes,
        "bytes_max": stat.bytes_max,
        "pinned_bytes": stat.pinned_bytes,
        "evicted": stat.evicted,
        "rotten": stat.rotten,
        "paused": stat.paused.is_some(),
        "paused_because": stat.paused,
        "rebuilding": stat.rebuilding,
    })
}

fn collected(store: &Store, report: GcReport) -> Value {
    let stat = store.stat();
    json!({
        "evicted": report.items,
        "bytes": report.bytes,
        "bytes_left": stat.bytes,
        "pinned_bytes": stat.pinned_bytes,
        "paused_because": stat.paused,
    })
}

fn verify(store: &Store) -> Value {
    let report = store.verify();
    json!({
        "blobs": report.blobs,
        "bytes": report.bytes,
        "blobs_dropped": report.blobs_dropped,
        "blobs_found": report.blobs_found,
        "records": report.records,
        "records_dropped": report.records_dropped,
        "foreign": report.foreign,
        "foreign_dropped": report.foreign_dropped,
    })
}
