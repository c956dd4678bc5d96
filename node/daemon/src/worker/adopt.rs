//! Files of this machine that a toolchain consists of, too.
//!
//! Machines of one distribution have the same compiler packages. So before a toolchain's file is fetched, the file that
//! lies at its path here is held against its digest ([`Adopter::take_over`]), and a compile's sandbox is given the
//! largest ones where they lie ([`Adopter::bound`]), whose pages are in memory once for all who run them.
//!
//! ```text
//!            sound, size right           digest right
//!  unknown ───────────────────▶ hashed ──────────────▶ good ── stamp as it was: copied, or bound
//!     ▲                           │ no                   │
//!     └── stamp changed ──────────┴── passed over        └── stamp changed: hashed again
//! ```
//!
//! Invariant: what paths a requester lists never makes this machine open anything but regular files of root's that
//! everybody may read, in directories that everybody may search, below [`PLACES`]; `docs/toolchains.md` says what
//! he can learn. Invariant: a file is hashed once while its stamp stays, whoever asks and however often.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use barn_cache::Store;
use barn_protocol::{Digest, Entry, Toolchain, TreePath};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

use crate::toolchain::stamp::{self, Stamp};

/// Where packages put what compilers consist of. A link such as `/lib` is not followed; its files are listed at
/// `/usr/lib`.
const PLACES: [&str; 6] = ["/usr", "/lib", "/lib32", "/lib64", "/libx32", "/opt"];
/// Files whose digest is remembered: some hundred toolchains. No more are hashed until the next start, so that nobody
/// can make this machine read its disk for ever.
const KNOWN_MAX: usize = 4096;
/// Files from this size on are bound where they lie, for a bind costs as much as copying 200 kB, and the directory
/// that the file lies in can no longer be bound as a whole. The compiler's passes and LLVM's libraries are larger.
const BOUND_BYTES_MIN: u64 = 8 << 20;
/// Most files bound for one action, the largest first.
const BOUND_MAX: usize = 8;

/// Permission bits by which others could write, or a program gains somebody's rights.
const UNSOUND: u32 = 0o6022;
const OTHERS_READ: u32 = 0o004;
const OTHERS_SEARCH: u32 = 0o001;
const EXECUTE: u32 = 0o111;

/// Finds files of this machine by path and contents.
pub(crate) struct Adopter {
    places: Vec<PathBuf>,
    owner: u32,
    /// What was hashed, and found to be that or something else.
    known: Mutex<HashMap<PathBuf, (Stamp, Digest)>>,
}

/// A file of this machine whose contents were checked.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    path: PathBuf,
    stamp: Stamp,
}

/// What [`Adopter::take_over`] took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Adopter {
    /// Adopts what the machine's packages brought.
    pub(crate) fn system() -> Self {
        Self::new(PLACES.map(PathBuf::from).to_vec(), 0)
    }

    /// Adopts nothing.
    pub(crate) fn nothing() -> Self {
        Self::new(Vec::new(), 0)
    }

    fn new(places: Vec<PathBuf>, owner: u32) -> Self {
        Self { places, owner, known: Mutex::default() }
    }

    /// Stores what is missing of `toolchain` and lies here. What cannot be read or stored is passed over: it can
    /// be fetched. Blocks on the disk.
    pub(crate) fn take_over(&self, toolchain: &Toolchain, store: &Store) -> Taken {
        let mut taken = Taken::default();
        for (path, entry) in toolchain.tree.iter() {
            let Entry::File { digest, size, .. } = entry else { continue };
            if !store.contains(digest) && self.find(path, entry).is_some() {
                match self.copy(path, digest, *size, store) {
                    Ok(()) => taken = Taken { files: taken.files + 1, bytes: taken.bytes + size },
                    Err(error) => tracing::debug!(?path, %error, "a file of this machine is not taken over"),
                }
            }
        }
        taken
    }

    /// The largest files of `toolchain` that lie here as they should. Looks at each; blocks on the disk where one
    /// is new.
    pub(crate) fn bound(&self, toolchain: &Toolchain) -> Vec<(TreePath, Own)> {
        let size = |entry: &Entry| if let Entry::File { size, .. } = entry { *size } else { 0 };
        let mut large: Vec<_> =
            toolchain.tree.iter().filter(|(_, entry)| size(entry) >= BOUND_BYTES_MIN).collect();
        large.sort_by_key(|(path, entry)| (std::cmp::Reverse(size(entry)), *path));
        let found = |(path, entry): (&TreePath, &Entry)| Some((path.clone(), self.find(path, entry)?));
        large.into_iter().filter_map(found).take(BOUND_MAX).collect()
    }

    /// The file at `path`, if it is what `entry` says.
    fn find(&self, path: &TreePath, entry: &Entry) -> Option<Own> {
        let Entry::File { digest, size, executable } = entry else { return None };
        let path = host(path);
        if !self.places.iter().any(|place| path.starts_with(place)) {
            return None;
        }
        let known = self.lock().get(&path).copied();
        let (stamp, found) = match known {
            // Only what is sound is known, and a change of owner or mode changes the stamp.
            Some((stamp, found)) if Stamp::of(&path).is_ok_and(|now| now == Some(stamp)) => (stamp, found),
            _ => self.hash(&path, *size)?,
        };
        (found == *digest && stamp.executable() == *executable).then_some(Own { path, stamp })
    }

    /// Hashes a sound file of that size and remembers what it was.
    fn hash(&self, path: &Path, size: u64) -> Option<(Stamp, Digest)> {
        let mut file = self.open(path, size).ok()?;
        {
            let known = self.lock();
            if known.len() >= KNOWN_MAX && !known.contains_key(path) {
                return None;
            }
        }
        let hashed = stamp::digest_opened(&mut file).ok()?;
        self.lock().insert(path.to_owned(), hashed);
        Some(hashed)
    }

    fn copy(&self, path: &TreePath, digest: &Digest, size: u64, store: &Store) -> io::Result<()> {
        let mut file = self.open(&host(path), size)?;
        let mut writer = store.writer().map_err(io::Error::other)?;
        io::copy(&mut file, &mut writer)?;
        writer.finish_as(digest).map(drop).map_err(io::Error::other)
    }

    /// Opens a regular file of that size for reading, if its owner and mode and those of every directory on the
    /// way are sound. Nothing else is opened for reading, so no device or pipe notices.
    fn open(&self, path: &Path, size: u64) -> io::Result<File> {
        let unsound = || io::Error::from(io::ErrorKind::PermissionDenied);
        let place = self.places.iter().find(|place| path.starts_with(place)).ok_or_else(unsound)?;
        let below = path.strip_prefix(place).map_err(io::Error::other)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut at = open(place, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        // An office's network directories are mounted below; they are slow, and change without a stamp to show it.
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
        );
        for name in below.components() {
            let metadata = looked_at(&at)?;
            let open_to_all = metadata.is_dir() && metadata.mode() & OTHERS_SEARCH != 0;
            if !open_to_all || !self.is_sound(&metadata) {
                return Err(unsound());
            }
            at = openat2(&at, name.as_os_str(), how)?;
        }
        let metadata = looked_at(&at)?;
        let mode = metadata.mode();
        let executable = matches!(mode & EXECUTE, 0 | EXECUTE);
        let regular = metadata.is_file() && metadata.len() == size;
        if !regular || !executable || mode & OTHERS_READ == 0 || !self.is_sound(&metadata) {
            return Err(unsound());
        }
        File::open(descriptor(&at))
    }

    fn is_sound(&self, metadata: &fs::Metadata) -> bool {
        metadata.uid() == self.owner && metadata.mode() & UNSOUND == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, (Stamp, Digest)>> {
        self.known.lock().expect("no panic while the files are held")
    }
}

impl Own {
    /// Whatever lies there now.
    #[cfg(test)]
    pub(super) fn seen(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: Stamp::of(path).unwrap().unwrap() }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still the file that was checked.
    pub(crate) fn is_unchanged(&self) -> bool {
        Stamp::of(&self.path).is_ok_and(|now| now == Some(self.stamp))
    }
}

fn host(path: &TreePath) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn looked_at(fd: &OwnedFd) -> io::Result<fs::Metadata> {
    // What a descriptor's link leads to is the open file itself, whatever lies at its path by now.
    fs::metadata(descriptor(fd))
}

fn descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests;
