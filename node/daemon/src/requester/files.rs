//! Digests of the files on this machine, remembered by what `stat` says of them.
//!
//! A file whose device, inode, size and both times (nanoseconds) are as they were when it was read is taken to
//! have the same contents. The exception is a file that was changed just before it was read: a second change
//! within the clock's granularity would leave the same times, so such a file is read again ("racy", as git's
//! index calls it).

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use barn_protocol::{Digest, action::Blob, limits::BLOB_BYTES_MAX};

/// Files whose digests are remembered; at about 200 bytes each, some 50 MB.
const FILES_MAX: usize = 262_144;
/// Times within this of the moment of reading are not trusted: network and older file systems keep whole or
/// even seconds.
const RACY_NS: i128 = 2_000_000_000;

/// What `stat` says of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            ctime_ns: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
            executable: meta.mode() & 0o111 != 0,
        }
    }

    /// When the file or its name was changed last, in nanoseconds since 1970. Nobody can set this time. The end of the
    /// second where a file system keeps whole seconds only.
    pub fn changed_ns(&self) -> i128 {
        let whole_seconds = self.ctime_ns % 1_000_000_000 == 0;
        if whole_seconds { self.ctime_ns + 999_999_999 } else { self.ctime_ns }
    }

    fn is_racy(&self, read_at_ns: i128) -> bool {
        self.mtime_ns.max(self.ctime_ns) + RACY_NS > read_at_ns
    }
}

/// A file as an input: its contents and how to see that they are still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its contents.
    pub blob: Blob,
    /// What `stat` said when they were read.
    pub signature: Signature,
    /// Whether it is executable.
    pub executable: bool,
    racy: bool,
}

/// The remembered files. Shared by all requests.
#[derive(Debug, Default)]
pub struct Files {
    known: Mutex<HashMap<PathBuf, Known>>,
}

impl Files {
    /// The file at `path` (symbolic links followed), read only when it is new or may have changed. `on_read`
    /// sees the contents when they are read.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or is over the size limit of a blob.
    pub fn known(&self, path: &Path, on_read: impl FnOnce(&Blob, &[u8])) -> io::Result<Known> {
        let signature = Signature::of(&regular(fs::metadata(path)?)?);
        if let Some(known) = self.recall(path)
            && known.signature == signature
            && !known.racy
        {
            return Ok(known);
        }
        let read_at_ns = now_ns();
        let mut file = fs::File::open(path)?;
        let signature = Signature::of(&regular(file.metadata()?)?);
        let mut contents = Vec::with_capacity(usize::try_from(signature.size).unwrap_or(0));
        file.by_ref().take(BLOB_BYTES_MAX + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 != signature.size {
            return Err(io::Error::other("the file changed while it was read"));
        }
        let blob = Blob::of(&contents);
        on_read(&blob, &contents);
        let known =
            Known { blob, signature, executable: signature.executable, racy: signature.is_racy(read_at_ns) };
        self.remember(path, known);
        Ok(known)
    }

    /// Whether nothing has happened to the file at `path` since it was `known` so.
    pub fn holds(&self, path: &Path, known: &Known) -> bool {
        let same = fs::metadata(path).is_ok_and(|meta| Signature::of(&meta) == known.signature);
        same && (!known.racy || self.is_still(path, &known.blob.digest))
    }

    /// Whether the file at `path` still has this digest.
    pub fn is_still(&self, path: &Path, digest: &Digest) -> bool {
        self.known(path, |_, _| ()).is_ok_and(|known| known.blob.digest == *digest)
    }

    fn recall(&self, path: &Path) -> Option<Known> {
        self.known.lock().expect("no panic while the table is held").get(path).copied()
    }

    fn remember(&self, path: &Path, known: Known) {
        let mut table = self.known.lock().expect("no panic while the table is held");
        if table.len() >= FILES_MAX {
            table.clear();
        }
        table.insert(path.to_owned(), known);
    }
}

fn regular(meta: fs::Metadata) -> io::Result<fs::Metadata> {
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > BLOB_BYTES_MAX {
        return Err(io::Error::other("the file is over the size limit of an input"));
    }
    Ok(meta)
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_edit_within_the_clocks_granularity_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        let files = Files::default();
        for round in 0..200 {
            fs::write(&path, format!("{:03}", round)).unwrap();
            let known = files.known(&path, |_, _| ()).unwrap();
            assert_eq!(known.blob.digest, Digest::of(format!("{:03}", round).as_bytes()));
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
