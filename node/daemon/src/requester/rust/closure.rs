//! Which crates a library drags in.
//!
//! rustc finds the dependencies of a dependency by itself, in the `-L dependency` directories. Their names are remembered under
//! the digest of each library that was made, so they are known wherever that library turns up again. cargo starts dependents
//! while the library is still being made, as soon as its metadata is there; until then the path stands for the digest. So it
//! does afterwards, with size and time of the file, for a library that could not be taken in: cargo makes a second name for
//! it at once, and on a busy machine that is sooner than it is read.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use barn_cache::Store;
use barn_compilers::rustc::CrateKind;
use barn_protocol::{Digest, canonical::Canonical, keys::domain};
use barn_wrapper::messages::Produced;
use serde::{Deserialize, Serialize};

use super::call::RustCall;
use crate::requester::files::Signature;

/// Most crates that one library may drag in; the largest graphs seen have some 1,200.
pub(super) const STEMS_MAX: usize = 4096;

/// The stems of files: `serde-0123456789abcdef` of `libserde-0123456789abcdef.rmeta`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closure(pub(super) BTreeSet<Vec<u8>>);

/// Most libraries whose closures are remembered by their paths; then those that were made are forgotten.
const PATHS_MAX: usize = 16_384;

/// The closures of libraries that are being made or were made since the node started, by the real paths of their files.
#[derive(Debug, Default)]
pub struct Closures(Mutex<Table>);

type Table = HashMap<Vec<u8>, (State, Arc<Closure>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// By so many at once.
    InTheMaking(u32),
    /// What the file was then: size and time of change.
    Made(u64, i128),
}

/// One library that is being made; dropped, it is forgotten.
pub(super) struct Pending {
    closures: Arc<Closures>,
    paths: Vec<Vec<u8>>,
}

impl Closure {
    /// What a dependent of a crate made by `call`, which itself sees `externs`, may load beside the crate.
    pub(super) fn behind(call: &RustCall, externs: &BTreeSet<Vec<u8>>) -> Self {
        // rustc never loads what a macro was made of, and nothing depends on programs.
        let is_end = call
            .compile
            .kinds
            .iter()
            .all(|kind| matches!(kind, CrateKind::ProcMacro | CrateKind::Bin | CrateKind::Test));
        if is_end && !call.compile.kinds.is_empty() { Self::default() } else { Self(externs.clone()) }
    }

    /// The closure of the library with this digest, if it was made here.
    pub(super) fn recall(store: &Store, library: &Digest) -> Option<Self> {
        let found = store.manifests(&name(library)).into_iter().next()?;
        let closure: Self = postcard::from_bytes(&found).ok()?;
        (closure.0.len() <= STEMS_MAX).then_some(closure)
    }

    /// Remembers it for the library with this digest.
    pub(super) fn remember(&self, store: &Store, library: &Digest, toolchain: &Digest) {
        let bytes = postcard::to_stdvec(self).expect("encoding into memory does not fail");
        if store.manifests(&name(library)).first() == Some(&bytes) {
            return;
        }
        if let Err(error) = store.put_manifest(&name(library), toolchain, &bytes) {
            tracing::warn!(%error, "the dependencies of a library were not stored");
        }
    }
}

impl Closures {
    /// A library is being made.
    pub(super) fn begin(self: &Arc<Self>, call: &RustCall, closure: Closure) -> Pending {
        let paths: Vec<_> = call.stem.outputs.iter().map(|output| output.path.as_bytes().to_vec()).collect();
        let closure = Arc::new(closure);
        let mut table = self.lock();
        if table.len() >= PATHS_MAX {
            table.retain(|_, (state, _)| matches!(state, State::InTheMaking(_)));
        }
        for path in &paths {
            let makers = match table.get(path) {
                Some((State::InTheMaking(makers), _)) => makers + 1,
                _ => 1,
            };
            table.insert(path.clone(), (State::InTheMaking(makers), closure.clone()));
        }
        drop(table);
        Pending { closures: self.clone(), paths }
    }

    /// The closure of the library at a real path, if it is being made, or was made and is as it was.
    pub(super) fn at(&self, real: &[u8], now: &Signature) -> Option<Arc<Closure>> {
        let (state, closure) = self.lock().get(real)?.clone();
        let holds = match state {
            State::InTheMaking(_) => true,
            State::Made(size, mtime_ns) => (size, mtime_ns) == (now.size(), now.mtime_ns()),
        };
        holds.then_some(closure)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while the table is held")
    }
}

impl Pending {
    /// The library was made; what its files were when rustc ended.
    pub(super) fn made(mut self, files: &[Option<Produced>]) {
        let made = |file: Produced| State::Made(file.size, i128::from(file.mtime_ns));
        for (index, path) in std::mem::take(&mut self.paths).iter().enumerate() {
            self.end(path, files.get(index).copied().flatten().map(made));
        }
    }

    fn end(&self, path: &[u8], made: Option<State>) {
        let mut table = self.closures.lock();
        let Some((state, _)) = table.get_mut(path) else { return };
        match (*state, made) {
            (State::InTheMaking(makers), _) if makers > 1 => *state = State::InTheMaking(makers - 1),
            (State::InTheMaking(_), Some(made)) => *state = made,
            _ => drop(table.remove(path)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.paths.iter().for_each(|path| self.end(path, None));
    }
}

fn name(library: &Digest) -> Digest {
    Canonical::new(domain::RUST_CLOSURE).digest(library).finish()
}

/// The stem of a library's file name; `None` if it is none.
pub(super) fn stem(path: &[u8]) -> Option<Vec<u8>> {
    let file = path.rsplit(|&byte| byte == b'/').next()?;
    let name = file.strip_prefix(b"lib")?;
    [&b".rmeta"[..], b".rlib", b".so"].iter().find_map(|suffix| Some(name.strip_suffix(*suffix)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_of_libraries() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(stem(path.as_bytes()), expect.map(|stem| stem.as_bytes().to_vec()), "{path}");
        };
        check("/d/libserde-0a.rmeta", Some("serde-0a"));
        check("libserde_derive-0a.so", Some("serde_derive-0a"));
        check("d.lib/x.rlib", None);
        check("libx.a", None);
    }
}
