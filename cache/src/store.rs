//! The store as its users see it.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use barn_protocol::{
    ActionKey, Digest,
    action::Blob,
    identity::SignedBytes,
    limits::{BLOB_BYTES_MAX, TOOLCHAIN_ENTRIES_MAX},
};

use crate::{
    blobs::{self, Verdict},
    error::{OpenError, StoreError},
    index::{Detail, Item},
    journal::Location,
    layout::{Layout, Place},
    limits::{
        LOCK_WAIT, Limits, MANIFEST_BYTES_MAX, RECORD_BLOBS_MAX, RECORD_BYTES_MAX, WHOLE_FILE_BYTES_MAX,
    },
    platform, recover,
    state::{Pause, State},
    verified::Verified,
    writer::BlobWriter,
};

/// Between two looks whether a rebuild has ended, or whoever has the store has gone.
const POLL: Duration = Duration::from_millis(2);

/// Blobs, records and manifests in one directory. Cheap to clone; the last clone to go closes the store.
///
/// All calls block on the disk; call them from a thread that may.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Which of several records of the same action is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace(Location);

struct Shared {
    layout: Layout,
    state: Mutex<State>,
    verified: Verified,
    temporaries: AtomicU64,
    /// Held while the store is open; the last field, so that it is released last.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, making it if need be.
    ///
    /// After a crash this reads the whole journal and lists all blobs.
    ///
    /// # Errors
    /// When another process has it open, or its directories cannot be made. A disk that is full or fails later in
    /// opening gives a paused store instead.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, OpenError> {
        let store = Self::open_soon(dir, limits)?;
        store.wait();
        Ok(store)
    }

    /// Like `open`, but returns at once also when the index must be rebuilt first: until then the store finds nothing and
    /// takes nothing.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_soon(dir: &Path, limits: Limits) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let dir = std::path::absolute(dir).map_err(io(dir))?;
        let layout = Layout::new(&dir);
        layout.make_root().map_err(|(path, source)| OpenError::Io { path, source })?;
        let lock = platform::private()
            .write(true)
            .create(true)
            .truncate(false)
            .open(layout.lock())
            .map_err(io(&layout.lock()))?;
        if !take(&lock).map_err(io(&layout.lock()))? {
            return Err(OpenError::Locked(dir));
        }
        layout.make_buckets().map_err(|(path, source)| OpenError::Io { path, source })?;
        let mut state = recover::open(layout.clone(), limits).map_err(io(&dir))?;
        if state.index.is_none() {
            // An error pauses the store: the node starts, and a later put tries again.
            let _ = state.guard(State::begin_rebuild);
        }
        let shared = Shared {
            layout,
            state: Mutex::new(state),
            verified: Verified::default(),
            temporaries: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        self.layout().root()
    }

    /// Whether the index is being rebuilt.
    pub fn is_rebuilding(&self) -> bool {
        self.lock().rebuild.is_some()
    }

    /// Waits until no rebuild of the index is under way.
    pub fn wait(&self) {
        self.wait_at_most(Duration::MAX);
    }

    /// Waits so long; whether no rebuild of the index is under way now.
    pub fn wait_at_most(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.is_rebuilding() {
            if begun.elapsed() >= limit {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// When they are over [`BLOB_BYTES_MAX`], or the store cannot write and does not have them already.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let blob = Blob::of(bytes);
        if self.present(&blob.digest) {
            return Ok(blob);
        }
        let mut writer = self.writer()?;
        self.pour(&mut writer, bytes)?;
        writer.finish()
    }

    /// Stores what is in a regular file, from its beginning to its end, as it is read now.
    ///
    /// # Errors
    /// [`StoreError::Source`] when the file cannot be read; otherwise as `put_bytes`.
    pub fn put_file(&self, mut file: &File) -> Result<Blob, StoreError> {
        file.seek(SeekFrom::Start(0)).map_err(StoreError::Source)?;
        let mut piece = Vec::new();
        file.take(WHOLE_FILE_BYTES_MAX).read_to_end(&mut piece).map_err(StoreError::Source)?;
        if (piece.len() as u64) < WHOLE_FILE_BYTES_MAX {
            return self.put_bytes(&piece);
        }
        let mut writer = self.writer()?;
        while !piece.is_empty() {
            self.pour(&mut writer, &piece)?;
            piece.clear();
            file.take(WHOLE_FILE_BYTES_MAX).read_to_end(&mut piece).map_err(StoreError::Source)?;
        }
        writer.finish()
    }

    /// Stores what is in the file at `path`; see `put_file`.
    ///
    /// # Errors
    /// As `put_file`.
    pub fn put_path(&self, path: &Path) -> Result<Blob, StoreError> {
        self.put_file(&File::open(path).map_err(StoreError::Source)?)
    }

    /// A writer for a blob that comes in pieces.
    ///
    /// # Errors
    /// When the store is paused or cannot make a file.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        self.change(|_| Ok(()))?;
        let number = self.shared.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.layout.temporary().join(format!("{number:016x}"));
        BlobWriter::create(self.clone(), path).inspect_err(|error| self.lock().note(error))
    }

    /// Whether the blob is here and has the right size. Its contents are only judged when it is opened.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.look(|state| state.blob(digest)).is_some()
    }

    /// The blob as a read-only file at offset 0, checked against its digest: now, or within the last five minutes if the file
    /// has not changed since. It stays readable when the blob is evicted meanwhile. A rotten one is dropped and
    /// gives `None`.
    pub fn open_blob(&self, digest: &Digest) -> Option<File> {
        self.first_good(digest, |path, digest, size| self.shared.verified.open(path, digest, size))
    }

    /// A path at which this user can read the blob, the contents checked as by `open_blob`. It may be evicted at any time, and is
    /// then not there.
    pub fn private_path(&self, digest: &Digest) -> Option<PathBuf> {
        self.open_blob(digest)?;
        Place::ALL.map(|place| self.shared.layout.blob(digest, place)).into_iter().find(|path| path.exists())
    }

    /// The blob's contents, checked against its digest.
    pub fn read_blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.first_good(digest, blobs::read_checked)
    }

    /// A path under which the blob can be bound read-only into a sandbox: readable by everybody, mode 0444 or
    /// 0555, the contents checked. Pin the blob first, or it may be evicted.
    ///
    /// The check is repeated only when the file seems changed, so this is cheap for files that were asked for
    /// before.
    pub fn blob_path(&self, digest: &Digest, executable: bool) -> Option<PathBuf> {
        let place = if executable { Place::PublicExecutable } else { Place::Public };
        let path = self.shared.layout.blob(digest, place);
        let meta = self.look(|state| state.get(Item::blob(digest)))?;
        if !meta.places().any(|p| p == place) {
            self.publish(digest, place)?;
        }
        // The stamp comes before the check: a change during the check shows the next time.
        let seen = platform::stamp(&fs::symlink_metadata(&path).ok()?);
        let known = self.look(|state| Ok(Some(state.public_file(digest, place, &seen))))?;
        if !known {
            let size = self.size_of(digest)?;
            self.judge(digest, place, blobs::open_checked(&path, digest, size))?;
            self.lock().set_checked(digest, place, seen);
        }
        Some(path)
    }

    /// Keeps blobs from being evicted while `owner` (a toolchain) is pinned, whether they are here yet or not.
    /// An owner's earlier pins are replaced.
    ///
    /// # Errors
    /// When there are more than [`TOOLCHAIN_ENTRIES_MAX`], or the store cannot write.
    pub fn pin(&self, owner: &Digest, digests: &[Digest]) -> Result<(), StoreError> {
        at_most(digests.len(), TOOLCHAIN_ENTRIES_MAX)?;
        self.change(|state| state.pin(owner, digests))
    }

    /// Removes a toolchain: its pins end, and what was stored for it is evicted before anything else.
    ///
    /// # Errors
    /// When the store cannot write.
    pub fn unpin(&self, owner: &Digest) -> Result<(), StoreError> {
        self.change(|state| state.unpin(owner))
    }

    /// Says which toolchains are installed on this machine. What was stored for one that was named here before and is not
    /// any more is evicted before anything else. Toolchains with pins of their own are left alone.
    ///
    /// # Errors
    /// When the store cannot write.
    pub fn name_installed(&self, toolchains: &HashSet<Digest>) -> Result<(), StoreError> {
        self.change(|state| state.name_installed(toolchains))
    }

    /// Stores an action's signed record, as it was received; its blobs must have been stored before. The signature
    /// is the caller's to check.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], [`StoreError::TooLarge`], or when the store cannot write.
    pub fn put_record(
        &self,
        key: &ActionKey,
        toolchain: &Digest,
        record: &SignedBytes,
        blobs: &[Digest],
    ) -> Result<(), StoreError> {
        at_most(record.unverified_payload().len(), RECORD_BYTES_MAX)?;
        at_most(blobs.len(), RECORD_BLOBS_MAX)?;
        self.change(|state| state.put_record(&key.0, toolchain, record, blobs))
    }

    /// The record of an action, if all its blobs are here. A blob may still prove rotten when it is opened: then
    /// the lookup is a miss, too.
    pub fn record(&self, key: &ActionKey) -> Option<SignedBytes> {
        self.look(|state| state.record(&key.0))
    }

    /// Where the record of an action is now. It is another place after the record was put again.
    pub fn record_place(&self, key: &ActionKey) -> Option<RecordPlace> {
        self.look(|state| state.record_at(&key.0)).map(RecordPlace)
    }

    /// Whether the record of an action is still the one that was at `place`. If so, it and what was used with it (the
    /// manifests of `manifests`, `blobs`) are counted as used.
    pub fn record_is_at(
        &self,
        key: &ActionKey,
        place: RecordPlace,
        manifests: &Digest,
        blobs: &[Digest],
    ) -> bool {
        let used = blobs.iter().map(Item::blob).chain([Item::manifests(manifests), Item::record(&key.0)]);
        let found = self.look(|state| {
            let is_there = state.record_at(&key.0)? == Some(place.0);
            Ok(is_there.then(|| {
                used.for_each(|item| {
                    state.touch(item);
                })
            }))
        });
        found.is_some()
    }

    /// Stores an include manifest under `key`, in front of the others.
    ///
    /// # Errors
    /// When it is over [`MANIFEST_BYTES_MAX`], or the store cannot write.
    pub fn put_manifest(&self, key: &Digest, toolchain: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        at_most(bytes.len(), MANIFEST_BYTES_MAX)?;
        let blob = self.put_bytes(bytes)?;
        self.change(|state| state.put_manifest(key, toolchain, &blob.digest))
    }

    /// The manifests of a key, most recently stored first, at most
    /// [`MANIFESTS_PER_KEY_MAX`](crate::MANIFESTS_PER_KEY_MAX).
    pub fn manifests(&self, key: &Digest) -> Vec<Vec<u8>> {
        let list = self.look(|state| state.manifests(key).map(Some)).unwrap_or_default();
        let mut gone = Vec::new();
        let mut found = Vec::new();
        for manifest in &list {
            match self.read_blob(&manifest.blob) {
                Some(bytes) => found.push(bytes),
                None => gone.push(manifest.blob),
            }
        }
        if !list.is_empty() {
            self.look(|state| state.manifests_read(key, &gone).map(Some));
        }
        found
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state.lock().unwrap_or_else(|poisoned| {
            // Some change was left half done. The index is what may be wrong, and it can be rebuilt.
            self.shared.state.clear_poison();
            let mut state = poisoned.into_inner();
            state.index = None;
            let why = || Pause { since: Instant::now(), why: "a change was left half done".to_owned() };
            state.paused.get_or_insert_with(why);
            state
        });
        state.take_in_rebuilt();
        state
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Changes the store, resuming it if it is time.
    pub(crate) fn change<T>(
        &self,
        run: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.lock().guard(|state| {
            state.writable()?;
            run(state)
        })
    }

    /// Reads from the store; trouble is a miss.
    pub(crate) fn look<T>(&self, run: impl FnOnce(&mut State) -> Result<Option<T>, StoreError>) -> Option<T> {
        let mut state = self.lock();
        let found = state.guard(run).ok().flatten();
        let _ = state.guard(State::write_touches_if_many);
        found
    }

    /// Whether a blob about to be stored is here already.
    fn present(&self, digest: &Digest) -> bool {
        let found = self.look(|state| {
            let meta = state.blob(digest)?;
            Ok(meta.map(|_| state.touch(Item::blob(digest))))
        });
        found.is_some()
    }

    /// Writes to a writer whose own errors were noted already.
    fn pour(&self, writer: &mut BlobWriter, bytes: &[u8]) -> Result<(), StoreError> {
        writer.write_all(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge if writer.is_too_large() => StoreError::TooLarge(BLOB_BYTES_MAX),
            _ => StoreError::io("write a blob in", &self.layout().temporary())(error),
        })
    }

    fn size_of(&self, digest: &Digest) -> Option<u64> {
        match self.look(|state| state.get(Item::blob(digest)))?.detail {
            Detail::Blob { size, .. } => Some(size),
            _ => None,
        }
    }

    /// What `read` makes of the first of a blob's files that is good.
    fn first_good<T>(
        &self,
        digest: &Digest,
        read: impl Fn(&Path, &Digest, u64) -> Result<T, Verdict>,
    ) -> Option<T> {
        let meta = self.look(|state| state.get(Item::blob(digest)))?;
        let Detail::Blob { size, .. } = meta.detail else { return None };
        meta.places().find_map(|place| {
            let found = self.judge(digest, place, read(&self.layout().blob(digest, place), digest, size))?;
            self.look(|state| Ok(Some(state.touch(Item::blob(digest)))));
            Some(found)
        })
    }

    /// Drops a file that was found rotten.
    pub(crate) fn judge<T>(&self, digest: &Digest, place: Place, found: Result<T, Verdict>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(Verdict::Unreadable) => None,
            Err(verdict) => {
                self.look(|state| {
                    state.rotten += u64::from(verdict == Verdict::Rotten);
                    state.discard(digest, place).map(Some)
                });
                None
            }
        }
    }

    /// Brings a blob into a public place: by moving the private file there, or by copying another public one.
    fn publish(&self, digest: &Digest, place: Place) -> Option<()> {
        if self.change(|state| state.make_public(digest, place)).ok()? {
            return Some(());
        }
        let mut file = self.open_blob(digest)?;
        let mut writer = self.writer().ok()?;
        io::copy(&mut file, &mut writer).ok()?;
        writer.finish_in(digest, place).ok()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.layout().root()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        match self.state.get_mut() {
            Ok(state) => recover::close(state),
            Err(_) => tracing::warn!("the store was not closed in order after a panic"),
        }
    }
}

/// Takes the lock unless somebody keeps it.
fn take(lock: &File) -> io::Result<bool> {
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(POLL),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn at_most(count: usize, most: usize) -> Result<(), StoreError> {
    if count > most { Err(StoreError::TooLarge(most as u64)) } else { Ok(()) }
}
