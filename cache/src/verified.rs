//! Blob files whose contents were compared with their digests lately.
//!
//! A build hits the same objects again and again, and reading and hashing an object costs more than all the rest of a hit.
//! So a file that was found good counts as good while inode, size, mtime and ctime are the same: every write to it changes its
//! ctime, which nobody can set. What no time tells is rot on the disk below the page cache, so a file is read again after
//! [`VERIFIED_FOR`] at the latest.
//! Invariant: only what this process has read itself counts, so after a start everything is read once.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    path::Path,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use barn_protocol::Digest;

use crate::{
    blobs::{self, Verdict},
    platform::{self, Stamp},
};

/// How long a file counts as good after it was read. Contents that were good are in the page cache, mostly; a machine
/// that needs the memory reads them anew from the disk, which may be another one by then.
pub(crate) const VERIFIED_FOR: Duration = Duration::from_secs(300);
/// A file that changed later than this before it was read may change again without a trace in its times: file systems with the
/// coarsest keep whole seconds.
const SETTLED: Duration = Duration::from_secs(2);
/// Files remembered; about 120 bytes each, some 8 MB.
const FILES_MAX: usize = 65_536;

/// The files that were read lately.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<Digest, (Stamp, Instant)>>);

impl Verified {
    /// Opens a blob's file; its contents are hashed unless they were lately. Then it is at offset 0.
    pub(crate) fn open(&self, path: &Path, digest: &Digest, size: u64) -> Result<File, Verdict> {
        let begun = SystemTime::now();
        let (mut file, metadata) = blobs::open(path, size)?;
        let stamp = platform::stamp(&metadata);
        if self.holds(digest, &stamp) {
            return Ok(file);
        }
        blobs::check(&mut file, digest)?;
        // What was taken before the reading counts: a change since shows the next time.
        if is_settled(&metadata, begun) {
            self.remember(digest, stamp);
        }
        Ok(file)
    }

    fn holds(&self, digest: &Digest, stamp: &Stamp) -> bool {
        let known = self.lock().get(digest).copied();
        known.is_some_and(|(known, at)| known == *stamp && at.elapsed() < VERIFIED_FOR)
    }

    fn remember(&self, digest: &Digest, stamp: Stamp) {
        let mut files = self.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(*digest, (stamp, Instant::now()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Stamp, Instant)>> {
        // Valid between any two statements.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether a change after `now` must show in the file's times. Not so if they lie in the future: the clock was set back.
fn is_settled(metadata: &Metadata, now: SystemTime) -> bool {
    platform::changed_at(metadata).and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age > SETTLED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file that was written long enough ago.
    fn settled(path: &Path, contents: &[u8]) {
        fs::write(path, contents).unwrap();
        while !is_settled(&fs::metadata(path).unwrap(), SystemTime::now()) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let digest = Digest::of(b"good");
        let verified = Verified::default();
        settled(&path, b"good");
        verified.open(&path, &digest, 4).unwrap();
        let stamp = platform::stamp(&fs::metadata(&path).unwrap());
        assert!(verified.holds(&digest, &stamp), "it is not read again");
        fs::write(&path, b"evil").unwrap();
        assert_eq!(verified.open(&path, &digest, 4).unwrap_err(), Verdict::Rotten);
        fs::write(&path, b"good").unwrap();
        verified.open(&path, &digest, 4).unwrap();
        assert_eq!(verified.open(&path, &digest, 3).unwrap_err(), Verdict::Rotten);
    }

    #[test]
    fn a_file_written_just_now_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let verified = Verified::default();
        fs::write(&path, b"good").unwrap();
        verified.open(&path, &Digest::of(b"good"), 4).unwrap();
        assert!(verified.lock().is_empty());
    }

    #[test]
    fn after_a_while_it_is_read_again() {
        let verified = Verified::default();
        let dir = tempfile::tempdir().unwrap();
        let stamp = platform::stamp(&fs::metadata(dir.path()).unwrap());
        let digest = Digest::of(b"blob");
        let Some(long_ago) = Instant::now().checked_sub(VERIFIED_FOR) else { return };
        verified.lock().insert(digest, (stamp, long_ago));
        assert!(!verified.holds(&digest, &stamp));
        verified.remember(&digest, stamp);
        assert!(verified.holds(&digest, &stamp));
    }
}
