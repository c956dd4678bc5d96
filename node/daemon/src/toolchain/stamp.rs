//! How a later call notices, by `lstat` alone, that something it relies on has changed.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use barn_protocol::digest::Digest;
use serde::{Deserialize, Serialize};

/// The coarsest clock tick of Linux file systems that keep nanoseconds, rounded up. Two writes within one tick
/// may carry the same time, so a file is only hashed when its last change is older.
const TICK: Duration = Duration::from_millis(20);
/// How often a file that changes while it is hashed is tried again.
const TRIES_MAX: usize = 3;

/// Everything `lstat` says that changes when a file is written, replaced or renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    mode: u32,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn from_metadata(metadata: &fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            mode: metadata.mode(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The stamp of what lies at `path`; `None` if nothing does.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(Self::from_metadata(&metadata))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether anybody may execute it.
    pub(crate) fn executable(&self) -> bool {
        self.mode & 0o111 != 0
    }

    /// How long to wait until a further change must show in the times; zero for anything but the newest files.
    fn settles_in(&self, now: SystemTime) -> Duration {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.ctime.0), u32::try_from(self.ctime.1)) else {
            return Duration::ZERO;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        // A time in the future comes from another machine's clock: one tick is all that helps.
        let age = now.duration_since(changed).unwrap_or_default();
        TICK.saturating_sub(age)
    }
}

/// Whether the error says that nothing lies at a path.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The paths a discovery looked at and what it saw: stamps, or that nothing was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Witnesses(BTreeMap<PathBuf, Option<Stamp>>);

impl Witnesses {
    /// Remembers what lies at `path` now. The first sight of a path counts.
    pub(super) fn note(&mut self, path: &Path) -> io::Result<Option<Stamp>> {
        if let Some(stamp) = self.0.get(path) {
            return Ok(*stamp);
        }
        let stamp = Stamp::of(path)?;
        self.0.insert(path.to_owned(), stamp);
        Ok(stamp)
    }

    /// Whether everything is as it was.
    pub(super) fn hold(&self) -> bool {
        self.0.iter().all(|(path, stamp)| Stamp::of(path).is_ok_and(|now| now == *stamp))
    }

    /// All of them, by path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, Option<Stamp>)> {
        self.0.iter().map(|(path, stamp)| (path.as_path(), *stamp))
    }
}

impl FromIterator<(PathBuf, Option<Stamp>)> for Witnesses {
    fn from_iter<I: IntoIterator<Item = (PathBuf, Option<Stamp>)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// The digest of the regular file at `path`, and a stamp that will differ if it is ever changed.
///
/// # Errors
/// Those of the file system, and [`io::ErrorKind::ResourceBusy`] for a file that kept changing.
pub(super) fn digest_file(path: &Path) -> io::Result<(Stamp, Digest)> {
    for _ in 0..TRIES_MAX {
        let before = Stamp::from_metadata(&fs::symlink_metadata(path)?);
        thread::sleep(before.settles_in(SystemTime::now()));
        let mut file = fs::File::open(path)?;
        if Stamp::from_metadata(&file.metadata()?) != before {
            continue;
        }
        if let Some(digest) = digest_as(&mut file, &before)? {
            return Ok((before, digest));
        }
    }
    Err(changing())
}

/// The digest of an open regular file, read from its beginning, and a stamp that will differ if it is ever changed.
///
/// # Errors
/// Those of the file system, and [`io::ErrorKind::ResourceBusy`] for a file that is being changed.
pub(crate) fn digest_opened(file: &mut fs::File) -> io::Result<(Stamp, Digest)> {
    let before = Stamp::from_metadata(&file.metadata()?);
    thread::sleep(before.settles_in(SystemTime::now()));
    let digest = digest_as(file, &before)?.ok_or_else(changing)?;
    Ok((before, digest))
}

/// The digest of what is left to read of a file, unless its stamp is not `before` afterwards.
fn digest_as(file: &mut fs::File, before: &Stamp) -> io::Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut *file)?;
    let unchanged = Stamp::from_metadata(&file.metadata()?) == *before;
    Ok(unchanged.then(|| hasher.finalize().into()))
}

fn changing() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "file kept changing while it was read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_same_size_within_the_same_tick_is_noticed() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("cc1");
        for round in 0..20 {
            fs::write(&path, [round; 9]).unwrap();
            let (stamp, digest) = digest_file(&path).unwrap();
            assert_eq!(digest, Digest::of(&[round; 9]));
            fs::write(&path, [round + 100; 9]).unwrap();
            assert_ne!(Stamp::of(&path).unwrap(), Some(stamp), "round {round}");
        }
    }

    #[test]
    fn only_the_newest_files_are_waited_for() {
        let room = tempfile::tempdir().unwrap();
        let stamp = Stamp::from_metadata(&fs::metadata(room.path()).unwrap());
        let later = SystemTime::now() + Duration::from_secs(1);
        assert_eq!(stamp.settles_in(later), Duration::ZERO);
        assert_eq!(stamp.settles_in(SystemTime::UNIX_EPOCH), TICK);
    }

    #[test]
    fn a_file_in_place_of_a_directory_counts_as_absence() {
        let room = tempfile::tempdir().unwrap();
        fs::write(room.path().join("f"), "").unwrap();
        assert_eq!(Stamp::of(&room.path().join("f/specs")).unwrap(), None);
    }
}
