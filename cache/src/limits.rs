//! A limit on everything that grows.

use std::time::Duration;

/// Largest signed action record, in bytes. A real one has a few hundred.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most blobs one record refers to: far above an action's outputs plus standard output and error.
pub const RECORD_BLOBS_MAX: usize = 4096;
/// Largest include manifest, in bytes: 10,000 paths of 400 bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most manifests kept per key: as many as a source has interesting variants of its headers at a time.
pub const MANIFESTS_PER_KEY_MAX: usize = 16;

/// Journal segments are closed at this size, in bytes: what one cleaning step copies at most.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// Largest body of a journal entry, in bytes: the pins of the largest toolchain take 2 MiB.
pub(crate) const ENTRY_BYTES_MAX: usize = 4 << 20;
/// How long opening waits for another process that has the store open: one that was killed lets go of it some milliseconds
/// after it is gone. A wrapper waits a second in all for the node it starts.
pub(crate) const LOCK_WAIT: Duration = Duration::from_millis(250);
/// Dead bytes a journal may always have, so that a small store is not cleaned all the time.
pub(crate) const JOURNAL_SLACK_BYTES: u64 = 4 << 20;
/// Memory sled may use for its pages, in bytes. It takes several times as much for what belongs to them.
pub(crate) const INDEX_CACHE_BYTES: u64 = 8 << 20;
/// sled reclaims space slowly under churn; an index above this is rebuilt at the next open, in bytes.
pub(crate) const INDEX_DISK_BYTES_MAX: u64 = 1 << 30;
/// Uses gathered in memory before they are written in one batch.
pub(crate) const TOUCHES_MAX: usize = 512;
/// Most toolchains that pin blobs; an office has some dozens. In memory, in full: 60 blobs each.
pub(crate) const PIN_OWNERS_MAX: usize = 1024;
/// Public files whose last check is remembered; several large toolchains.
pub(crate) const CHECKED_PATHS_MAX: usize = 1 << 18;
/// Files take whole blocks on disk, so this is how blobs are counted against the limit, in bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Files up to this size are read whole and not written again when they are already stored, in bytes.
pub(crate) const WHOLE_FILE_BYTES_MAX: u64 = 1 << 20;

/// What a store may take, and when it stops.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Blobs (in whole blocks) and live journal entries together, in bytes.
    pub bytes_max: u64,
    /// The store pauses while less than this is free on its file system, in bytes.
    pub free_bytes_min: u64,
    /// How long the store stays paused before a put may try again.
    pub retry_after: Duration,
}

impl Limits {
    /// `bytes_max` as given; 256 MiB are left free (a build needs room too), and a paused store tries again
    /// after 5 s.
    pub const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, free_bytes_min: 256 << 20, retry_after: Duration::from_secs(5) }
    }
}
