//! Digests of the files on this machine, remembered by what `stat` says of them.
//!
//! A file whose device, inode, size and both times (nanoseconds) are as they were when it was read is taken to
//! have the same contents. The exception is a file that was changed just before it was read: a second change
//! within the clock's granularity would leave the same times, so such a file is read again ("racy", as git's
//! index calls it).

use std::{
    borrow::Borrow,
    collections::HashSet,
    ffi::OsStr,
    fs,
    hash::{Hash, Hasher},
    io::{self, Read as _},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barn_protocol::{Digest, action::Blob, limits::BLOB_BYTES_MAX};

use serde::{Deserialize, Serialize};

use crate::platform::{is_fine, tick_ns};

/// Files whose digests are remembered; at about 250 bytes each, some 30 MB.
const FILES_MAX: usize = 131_072;
/// Times within this of the moment of reading are not trusted where the file system keeps the kernel's own time, of
/// which a tick lasts 10 ms at most; twice that.
const RACY_FINE_NS: i128 = 20_000_000;
/// The same for all others: network and older file systems keep whole or even seconds.
const RACY_NS: i128 = 2_000_000_000;
const SECOND_NS: i128 = 1_000_000_000;

/// What `stat` says of the contents of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    executable: bool,
}

impl Signature {
    /// The signature in this metadata.
    pub fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: i128::from(meta.mtime()) * SECOND_NS + i128::from(meta.mtime_nsec()),
            ctime_ns: i128::from(meta.ctime()) * SECOND_NS + i128::from(meta.ctime_nsec()),
            executable: meta.mode() & 0o111 != 0,
        }
    }

    /// When the file or its name was changed last, in nanoseconds since 1970. Nobody can set this time. The end of the
    /// second where a file system keeps whole seconds only.
    pub fn changed_ns(&self) -> i128 {
        if self.is_coarse() { self.ctime_ns + SECOND_NS - 1 } else { self.ctime_ns }
    }

    /// When the contents were changed last, in nanoseconds since 1970, as far as the file's owner tells the truth.
    pub fn mtime_ns(&self) -> i128 {
        self.mtime_ns
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Whether what was read at `read_at_ns` from `file`, which had this signature before, may have changed since
    /// without a change of the signature.
    pub(super) fn is_racy(&self, file: &impl AsFd, read_at_ns: i128) -> bool {
        let window = if !self.is_coarse() && is_fine(file) { RACY_FINE_NS } else { RACY_NS };
        self.mtime_ns.max(self.ctime_ns) + window > read_at_ns
    }

    /// Whether the time has no part of a second, as on ext4 with small inodes.
    fn is_coarse(&self) -> bool {
        self.ctime_ns % SECOND_NS == 0
    }
}

/// A file as an input: its contents and how to see that they are still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its contents.
    pub blob: Blob,
    /// What `stat` said when they were read.
    pub signature: Signature,
    /// Whether it is executable.
    pub executable: bool,
    racy: bool,
}

/// A remembered file. It never changes: a file that was read anew is remembered anew.
#[derive(Debug)]
pub(super) struct Kept {
    path: Box<[u8]>,
    known: Known,
}

/// A remembered file, found by its path.
#[derive(Debug)]
struct ByPath(Arc<Kept>);

/// The remembered files. Shared by all requests.
#[derive(Debug, Default)]
pub struct Files {
    known: Mutex<HashSet<ByPath>>,
    reads: AtomicU64,
}

impl Kept {
    /// Whether nothing has happened to the file since it was read, as `lstat` says; its path holds no links.
    pub(super) fn holds(&self) -> bool {
        let path = Path::new(OsStr::from_bytes(&self.path));
        fs::symlink_metadata(path).is_ok_and(|meta| Signature::of(&meta) == self.known.signature)
    }
}

impl Borrow<[u8]> for ByPath {
    fn borrow(&self) -> &[u8] {
        &self.0.path
    }
}

impl Hash for ByPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.path.hash(state);
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &Self) -> bool {
        self.0.path == other.0.path
    }
}

impl Eq for ByPath {}

impl Files {
    /// The file at `path` (symbolic links followed), read only when it is new or may have changed. `on_read`
    /// sees the contents when they are read.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or is over the size limit of a blob.
    pub fn known(&self, path: &Path, on_read: impl FnOnce(&Blob, &[u8])) -> io::Result<Known> {
        let signature = Signature::of(&fs::metadata(path)?);
        self.known_as(path, &signature, on_read)
    }

    /// The same for a file of which `stat` just said `signature`.
    pub(super) fn known_as(
        &self,
        path: &Path,
        signature: &Signature,
        on_read: impl FnOnce(&Blob, &[u8]),
    ) -> io::Result<Known> {
        match self.recall(path) {
            Some(known) if known.signature == *signature && !known.racy => Ok(known),
            _ => self.read(path, on_read),
        }
    }

    /// Whether nothing has happened to the file at `path` since it was `known` so.
    pub fn holds(&self, path: &Path, known: &Known) -> bool {
        let same = fs::metadata(path).is_ok_and(|meta| Signature::of(&meta) == known.signature);
        same && (!known.racy || self.is_still(path, &known.blob.digest))
    }

    /// How many files were read so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// All whose signatures can be trusted and that had not changed for so long, to be remembered beyond this process.
    pub(super) fn lasting(&self, unchanged: Duration) -> Vec<(Box<[u8]>, Known)> {
        let since_ns = tick_ns() - i128::try_from(unchanged.as_nanos()).unwrap_or(i128::MAX);
        let lasts = |known: &Known| {
            let signature = &known.signature;
            !known.racy && signature.changed_ns().max(signature.mtime_ns()) <= since_ns
        };
        let table = self.lock();
        let kept = table.iter().map(|ByPath(kept)| kept).filter(|kept| lasts(&kept.known));
        kept.map(|kept| (kept.path.clone(), kept.known)).collect()
    }

    /// The remembered file at `path`, if it is as it was `known` and its signature tells every change.
    pub(super) fn kept(&self, path: &[u8], known: &Known) -> Option<Arc<Kept>> {
        let table = self.lock();
        let ByPath(kept) = table.get(path)?;
        (!kept.known.racy && kept.known == *known).then(|| kept.clone())
    }

    /// Takes up what an earlier process remembered, where nothing newer is known.
    pub(super) fn take_up(&self, known: Vec<(Box<[u8]>, Known)>) {
        let mut table = self.lock();
        for (path, known) in known {
            if table.len() < FILES_MAX && !known.racy && !table.contains(&path[..]) {
                table.insert(ByPath(Arc::new(Kept { path, known })));
            }
        }
    }

    fn is_still(&self, path: &Path, digest: &Digest) -> bool {
        self.known(path, |_, _| ()).is_ok_and(|known| known.blob.digest == *digest)
    }

    fn read(&self, path: &Path, on_read: impl FnOnce(&Blob, &[u8])) -> io::Result<Known> {
        let read_at_ns = tick_ns();
        // A pipe in the file's place would keep us waiting for a writer.
        regular(&fs::metadata(path)?)?;
        let mut file = fs::File::open(path)?;
        let meta = file.metadata()?;
        regular(&meta)?;
        let signature = Signature::of(&meta);
        let mut contents = Vec::with_capacity(usize::try_from(signature.size).unwrap_or(0));
        file.by_ref().take(BLOB_BYTES_MAX + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 != signature.size {
            return Err(io::Error::other("the file changed while it was read"));
        }
        let blob = Blob::of(&contents);
        on_read(&blob, &contents);
        let racy = signature.is_racy(&file, read_at_ns);
        let known = Known { blob, signature, executable: signature.executable, racy };
        self.remember(path, known);
        Ok(known)
    }

    fn recall(&self, path: &Path) -> Option<Known> {
        self.lock().get(path.as_os_str().as_bytes()).map(|ByPath(kept)| kept.known)
    }

    fn remember(&self, path: &Path, known: Known) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut table = self.lock();
        if table.len() >= FILES_MAX {
            table.clear();
        }
        table.replace(ByPath(Arc::new(Kept { path: path.as_os_str().as_bytes().into(), known })));
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ByPath>> {
        self.known.lock().expect("no panic while the table is held")
    }
}

fn regular(meta: &fs::Metadata) -> io::Result<()> {
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > BLOB_BYTES_MAX {
        return Err(io::Error::other("the file is over the size limit of an input"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_edit_within_the_clocks_granularity_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        let files = Files::default();
        for round in 0..2000 {
            fs::write(&path, format!("{round:04}")).unwrap();
            let known = files.known(&path, |_, _| ()).unwrap();
            assert_eq!(known.blob.digest, Digest::of(format!("{round:04}").as_bytes()));
            assert!(files.holds(&path, &known));
            fs::write(&path, format!("{:04}", round + 1)).unwrap();
            assert!(!files.holds(&path, &known), "round {round}");
        }
    }

    #[test]
    fn an_old_file_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        fs::write(&path, "old").unwrap();
        let table = Files::default();
        let mut first = table.known(&path, |_, _| ()).unwrap();
        assert!(first.racy, "a file written just now is not trusted");
        first.racy = false;
        table.remember(&path, first);
        let mut read = false;
        table.known(&path, |_, _| read = true).unwrap();
        assert!(!read);
    }

    #[test]
    fn what_is_no_file_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Files::default().known(dir.path(), |_, _| ()).is_err());
        assert!(Files::default().known(Path::new("/dev/null"), |_, _| ()).is_err());
    }
}
