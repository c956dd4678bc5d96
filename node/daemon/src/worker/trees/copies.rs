//! One file for each contents that lies in a tree.
//!
//! Inputs are copied out of the store, whose own files the sandbox must not be able to read, and checked against
//! their digest in doing so. The toolchain's blobs are public files already and are linked.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::PathBuf,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use barn_cache::Store;
use barn_protocol::Digest;
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};

use super::TreeError;

/// Copies kept before those that are in no tree go. As many as an input tree may have entries.
const COPIES_MAX: usize = 65_536;
/// Bytes of copies kept before those that are in no tree go; links to the toolchain's blobs take none.
const COPIES_BYTES_MAX: u64 = 2 << 30;
/// Tries to link a copy that somebody else has just removed, or that has all the names it can have.
const TRIES_MAX: usize = 3;

pub(super) struct Copies {
    directory: PathBuf,
    store: Store,
    kept: Mutex<Kept>,
    /// Numbers unfinished copies.
    begun: AtomicU64,
}

#[derive(Default)]
struct Kept {
    /// Their sizes; 0 for a link to a blob of the store.
    sizes: HashMap<(Digest, bool), u64>,
    bytes: u64,
}

impl Copies {
    /// Makes `directory`, where nothing is.
    pub(super) fn open(directory: PathBuf, store: Store) -> Result<Self, TreeError> {
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(Self { directory, store, kept: Mutex::default(), begun: AtomicU64::new(0) }),
            Err(source) => Err(TreeError::Make { path: directory, source }),
        }
    }

    /// Makes the contents appear as `name` in `directory`. `shared` contents are linked to where the store has them.
    pub(super) fn link(
        &self,
        digest: Digest,
        executable: bool,
        shared: bool,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), TreeError> {
        let copy = self.path(&digest, executable);
        for _ in 0..TRIES_MAX {
            self.ensure(digest, executable, shared)?;
            match linkat(AT_FDCWD, &copy, directory, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::ENOENT | Errno::EMLINK) => self.forget(&(digest, executable)),
                Err(errno) => return Err(TreeError::Make { path: copy, source: errno.into() }),
            }
        }
        Err(TreeError::Missing(digest))
    }

    /// Whether the contents can be linked, as far as is known: [`Self::trim`] may be about to remove them.
    pub(super) fn has(&self, digest: Digest, executable: bool) -> bool {
        self.lock().sizes.contains_key(&(digest, executable))
    }

    /// Removes what lies in no tree, if there is too much.
    pub(super) fn trim(&self) {
        let mut kept = self.lock();
        if kept.sizes.len() <= COPIES_MAX && kept.bytes <= COPIES_BYTES_MAX {
            return;
        }
        let mut bytes = 0;
        kept.sizes.retain(|(digest, executable), size| {
            let path = self.path(digest, *executable);
            // Its name here is one; the store's own would be another, and is gone once the store has evicted it.
            let own_names = if *size == 0 { 2 } else { 1 };
            let used = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.nlink() > own_names);
            let keep = used || fs::remove_file(&path).is_err();
            bytes += if keep { *size } else { 0 };
            keep
        });
        kept.bytes = bytes;
    }

    fn ensure(&self, digest: Digest, executable: bool, shared: bool) -> Result<(), TreeError> {
        if self.lock().sizes.contains_key(&(digest, executable)) {
            return Ok(());
        }
        // Outside the lock: two that make the same copy at once make it equal.
        let size = match self.link_shared(digest, executable, shared) {
            true => 0,
            false => self.copy(digest, executable)?,
        };
        let mut kept = self.lock();
        if kept.sizes.insert((digest, executable), size).is_none() {
            kept.bytes += size;
        }
        Ok(())
    }

    /// Whether the store's public blob could be linked; on another file system it cannot.
    fn link_shared(&self, digest: Digest, executable: bool, shared: bool) -> bool {
        let blob = if shared { self.store.blob_path(&digest, executable) } else { None };
        blob.is_some_and(|blob| match fs::hard_link(blob, self.path(&digest, executable)) {
            Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
            Ok(()) => true,
        })
    }

    fn copy(&self, digest: Digest, executable: bool) -> Result<u64, TreeError> {
        let mut blob = self.store.open_blob(&digest).ok_or(TreeError::Missing(digest))?;
        let unfinished = self.directory.join(format!("new-{}", self.begun.fetch_add(1, Ordering::Relaxed)));
        let copied = fill(&mut blob, &unfinished, if executable { 0o555 } else { 0o444 })
            .and_then(|size| fs::rename(&unfinished, self.path(&digest, executable)).map(|()| size));
        copied.map_err(|source| {
            // The next start would remove it, too.
            let _ = fs::remove_file(&unfinished);
            TreeError::Make { path: unfinished, source }
        })
    }

    fn forget(&self, copy: &(Digest, bool)) {
        let mut kept = self.lock();
        let size = kept.sizes.remove(copy).unwrap_or(0);
        kept.bytes = kept.bytes.saturating_sub(size);
        let _ = fs::remove_file(self.path(&copy.0, copy.1));
    }

    fn path(&self, digest: &Digest, executable: bool) -> PathBuf {
        let mut name = OsString::from(digest.to_string());
        if executable {
            name.push(".x");
        }
        self.directory.join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic while the copies are held")
    }
}

fn fill(from: &mut File, path: &std::path::Path, mode: u32) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let size = io::copy(from, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(size)
}
