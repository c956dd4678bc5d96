//! The toolchains of this machine, remembered.
//!
//! A compile must learn its toolchain's digest in microseconds, and a compiler that was replaced must be noticed
//! at once. So a discovery keeps the stamps of all it looked at, files and absences, and [`ToolchainIndex::resolve`]
//! compares them by `lstat` before it answers from memory: about sixty calls, no process started, nothing read.
//! A refusal is remembered in the same way, but not on disk.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use barn_compilers::CompilerIdentity;
use barn_protocol::{digest::Digest, toolchain::Toolchain, tree::Entry};

use super::{
    discover::{self, DiscoverError, Discovered},
    stamp::{self, Stamp, Witnesses},
    store::{self, Stored, StoredToolchain},
};

/// Most compilers remembered, each with a `PATH`; the one unused for longest goes first. A cross-compiling project
/// has about ten.
pub const TOOLCHAINS_MAX: usize = 64;
/// How often a discovery is repeated because files changed meanwhile, as during an upgrade.
const TRIES_MAX: usize = 3;

/// A toolchain of this machine.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it consists of.
    pub toolchain: Toolchain,
    /// Its digest.
    pub digest: Digest,
    /// What the compiler says of itself.
    pub identity: CompilerIdentity,
    /// Where the contents of each of its files lie on this machine. They are checked when they are shipped: the
    /// file may have been replaced since.
    pub files: BTreeMap<Digest, PathBuf>,
}

/// Remembers toolchains across compiles and restarts. Thread-safe; share it in an [`Arc`].
#[derive(Debug)]
pub struct ToolchainIndex {
    file: PathBuf,
    state: Mutex<State>,
    /// Held during a discovery, so that a build that starts with a hundred compiles causes one.
    discovering: Mutex<()>,
}

/// The compiler's path and the `PATH` it is called with.
type Key = (PathBuf, OsString);

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Remembered>,
    digests: HashMap<PathBuf, (Stamp, Digest)>,
    /// Counts uses; the clock by which entries age.
    uses: u64,
}

#[derive(Debug, Clone)]
struct Remembered {
    answer: Result<Arc<Known>, DiscoverError>,
    seen: Arc<Witnesses>,
    used: u64,
}

impl ToolchainIndex {
    /// Opens the index in `directory`, which is made when there is something to write. A damaged index is empty.
    pub fn open(directory: &Path) -> Self {
        let file = directory.join(store::FILE_NAME);
        let state = State::from_stored(store::load(&file));
        Self { file, state: Mutex::new(state), discovering: Mutex::new(()) }
    }

    /// The toolchain of the compiler at `program` when called with this `PATH`. Takes well under a millisecond when
    /// it is known and unchanged, else as long as [`discover()`](super::discover()); so not on an async thread.
    ///
    /// # Errors
    /// When the compiler cannot be taken along.
    pub fn resolve(&self, program: &Path, search_path: &OsStr) -> Result<Arc<Known>, DiscoverError> {
        let key = (program.to_owned(), search_path.to_owned());
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        let _one_at_a_time = self.discovering.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        for _ in 0..TRIES_MAX {
            let (found, seen) = discover::look(program, search_path, |path| self.digest(path));
            if !seen.hold() {
                continue;
            }
            let answer = found.map(|discovered| Arc::new(Known::from(discovered)));
            self.remember(key, &answer, seen);
            return answer;
        }
        Err(DiscoverError::Changing(program.to_owned()))
    }

    /// All toolchains remembered, most recently used first. They may have changed since.
    pub fn list(&self) -> Vec<Arc<Known>> {
        let state = self.lock();
        let mut all: Vec<&Remembered> = state.known.values().filter(|entry| entry.answer.is_ok()).collect();
        all.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut listed = HashSet::new();
        all.into_iter()
            .filter_map(|entry| entry.answer.as_ref().ok())
            .filter(|known| listed.insert(known.digest))
            .cloned()
            .collect()
    }

    /// The digests of all toolchains remembered whose compilers are still at their paths.
    pub fn installed(&self) -> HashSet<Digest> {
        let answered = |(key, entry): (&Key, &Remembered)| {
            entry.answer.as_ref().ok().map(|known| (key.0.clone(), known.digest))
        };
        let known: Vec<(PathBuf, Digest)> = self.lock().known.iter().filter_map(answered).collect();
        // Outside the lock: the calls may wait for a slow disk.
        known.into_iter().filter(|(program, _)| program.exists()).map(|(_, digest)| digest).collect()
    }

    /// The toolchain with this digest, if it is remembered.
    pub fn by_digest(&self, digest: &Digest) -> Option<Arc<Known>> {
        let state = self.lock();
        state
            .known
            .values()
            .filter_map(|entry| entry.answer.as_ref().ok())
            .find(|k| k.digest == *digest)
            .cloned()
    }

    fn remembered(&self, key: &Key) -> Option<Result<Arc<Known>, DiscoverError>> {
        let Remembered { answer, seen, .. } = self.lock().use_entry(key)?;
        // Outside the lock: the calls may wait for a slow disk.
        seen.hold().then_some(answer)
    }

    fn remember(&self, key: Key, answer: &Result<Arc<Known>, DiscoverError>, seen: Witnesses) {
        let mut state = self.lock();
        if answer.as_ref().is_err_and(|error| !error.is_lasting()) {
            state.known.remove(&key);
            return;
        }
        state.insert(key, Remembered { answer: answer.clone(), seen: Arc::new(seen), used: 0 });
        if answer.is_ok() {
            let stored = state.to_stored();
            drop(state);
            if let Err(error) = store::save(&self.file, &stored) {
                tracing::warn!(file = %self.file.display(), %error, "toolchain index is not saved");
            }
        }
    }

    /// The digest of a file, from memory if it is unchanged.
    fn digest(&self, path: &Path) -> io::Result<(Stamp, Digest)> {
        let now = Stamp::of(path)?;
        if let Some((stamp, digest)) = self.lock().digests.get(path)
            && now == Some(*stamp)
        {
            return Ok((*stamp, *digest));
        }
        let fresh = stamp::digest_file(path)?;
        self.lock().digests.insert(path.to_owned(), fresh);
        Ok(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl From<Discovered> for Known {
    fn from(discovered: Discovered) -> Self {
        let digest = |path| match discovered.toolchain.tree.get(path) {
            Some(Entry::File { digest, .. }) => Some(*digest),
            _ => None,
        };
        let files = discovered.files.iter().filter_map(|(path, host)| Some((digest(path)?, host.clone())));
        let files = files.collect();
        Self {
            digest: discovered.toolchain.digest(),
            toolchain: discovered.toolchain,
            identity: discovered.identity,
            files,
        }
    }
}

impl State {
    fn use_entry(&mut self, key: &Key) -> Option<Remembered> {
        self.uses += 1;
        let entry = self.known.get_mut(key)?;
        entry.used = self.uses;
        Some(entry.clone())
    }

    fn insert(&mut self, key: Key, entry: Remembered) {
        self.uses += 1;
        self.known.insert(key, Remembered { used: self.uses, ..entry });
        while self.known.len() > TOOLCHAINS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.known.remove(&oldest);
        }
        let State { known, digests, .. } = self;
        let current: HashSet<&PathBuf> = known
            .values()
            .filter_map(|e| e.answer.as_ref().ok())
            .flat_map(|known| known.files.values())
            .collect();
        digests.retain(|path, _| current.contains(path));
    }

    fn to_stored(&self) -> Stored {
        let mut entries: Vec<_> = self.known.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.used);
        let toolchains = entries.into_iter().filter_map(|((program, search_path), entry)| {
            let known = entry.answer.as_ref().ok()?;
            Some(StoredToolchain {
                program: program.as_path().into(),
                search_path: Path::new(search_path).into(),
                toolchain: known.toolchain.clone(),
                files: known.files.iter().map(|(digest, path)| (*digest, path.as_path().into())).collect(),
                identity: (&known.identity).into(),
                seen: store::stored_witnesses(&entry.seen),
            })
        });
        let digests =
            self.digests.iter().map(|(path, (stamp, digest))| (path.as_path().into(), *stamp, *digest));
        Stored { toolchains: toolchains.collect(), digests: digests.collect() }
    }

    fn from_stored(stored: Stored) -> Self {
        let mut state = Self {
            digests: stored.digests.into_iter().map(|(path, s, digest)| (path.into(), (s, digest))).collect(),
            ..Self::default()
        };
        for entry in stored.toolchains {
            let key = (entry.program.into(), PathBuf::from(entry.search_path).into_os_string());
            let known = Known {
                digest: entry.toolchain.digest(),
                toolchain: entry.toolchain,
                identity: entry.identity.into(),
                files: entry.files.into_iter().map(|(digest, path)| (digest, path.into())).collect(),
            };
            let seen = entry.seen.into_iter().map(|(path, stamp)| (path.into(), stamp)).collect();
            state.insert(key, Remembered { answer: Ok(Arc::new(known)), seen: Arc::new(seen), used: 0 });
        }
        state
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
