//! Directories of which everything may be read: those with native libraries, and what macros are most likely to read: the
//! package of the crate, and what its build script wrote.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

use barn_protocol::{Digest, canonical::Canonical, keys::domain};
use serde::{Deserialize, Serialize};

use crate::{
    requester::files::{Files, Signature},
    toolchain::tools::is_library,
};

/// Most files of one directory that are taken for inputs, and as many directories. Packages of crates.io have under 200; a
/// workspace whose root is a package may have thousands. Looking at this many takes some 30 ms.
const FILES_MAX: usize = 8192;
/// What autocfg leaves in `OUT_DIR`, under other names each time. Nothing reads it.
const PROBES: &[u8] = b"autocfg_";
/// How deep packages are looked through.
const DEPTH_MAX: usize = 32;

/// What of a directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scope {
    /// All files in it, by their contents: a library may have any name.
    Native,
    /// Libraries and objects, by what `stat` says: too many and too large to read, and seldom changed.
    System,
    /// All files, in all directories but those of builds and version control.
    Package,
    /// All files, in all directories.
    Generated,
}

/// A directory as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// Its path, absolute.
    pub(super) path: Vec<u8>,
    /// What of it.
    pub(super) scope: Scope,
    /// Of the names and what they stand for.
    pub(super) digest: Digest,
}

impl Listing {
    /// Looks at a directory; `None` if it cannot be read or holds too much.
    pub(super) fn of(path: &Path, scope: Scope, files: &Files) -> Option<Self> {
        let mut walk = Walk { files, scope, left: FILES_MAX, seen: Canonical::new(domain::LISTING) };
        if scope == Scope::System {
            walk.left = usize::MAX;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => drop(walk.seen.number(0)),
            _ => walk.directory(path, DEPTH_MAX)?,
        }
        Some(Self { path: path.as_os_str().as_bytes().to_vec(), scope, digest: walk.seen.finish() })
    }

    /// Whether the directory is as it was.
    pub(super) fn holds(&self, files: &Files) -> bool {
        let path = Path::new(std::ffi::OsStr::from_bytes(&self.path));
        Self::of(path, self.scope, files).as_ref() == Some(self)
    }
}

struct Walk<'a> {
    files: &'a Files,
    scope: Scope,
    left: usize,
    seen: Canonical,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, depth: usize) -> Option<()> {
        let mut names: Vec<_> =
            fs::read_dir(path).ok()?.map(|entry| Some(entry.ok()?.file_name())).collect::<Option<_>>()?;
        names.sort_unstable();
        self.seen.number(1);
        for name in names {
            self.entry(&path.join(&name), name.as_bytes(), depth)?;
        }
        self.seen.number(2);
        Some(())
    }

    fn entry(&mut self, path: &Path, name: &[u8], depth: usize) -> Option<()> {
        let is_looked_at = match self.scope {
            Scope::System => is_library(name),
            Scope::Generated => !name.starts_with(PROBES),
            Scope::Native | Scope::Package => true,
        };
        if !is_looked_at {
            return Some(());
        }
        let meta = fs::symlink_metadata(path).ok()?;
        if meta.is_dir() && !self.enters(path, name) {
            return Some(());
        }
        self.left = self.left.checked_sub(1)?;
        self.seen.bytes(name);
        if meta.is_dir() {
            return self.directory(path, depth.checked_sub(1)?);
        }
        if meta.is_symlink() {
            self.seen.bytes(fs::read_link(path).ok()?.as_os_str().as_bytes());
        }
        // What a link leads to; one that leads nowhere, or to no file, is nothing to read.
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() && self.scope == Scope::System => {
                let signature = postcard::to_stdvec(&Signature::of(&meta)).ok()?;
                self.seen.bytes(&signature);
            }
            Ok(meta) if meta.is_file() => {
                self.seen.digest(&self.files.known(path, |_, _| ()).ok()?.blob.digest);
            }
            _ => drop(self.seen.number(0)),
        }
        Some(())
    }

    fn enters(&self, path: &Path, name: &[u8]) -> bool {
        match self.scope {
            Scope::Native | Scope::System => false,
            Scope::Package => !matches!(name, b"target" | b".git") && !path.join("CACHEDIR.TAG").exists(),
            Scope::Generated => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a listing still holds after `change`.
    fn check(scope: Scope, change: impl Fn(&Path), expect: bool) {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        for directory in ["src", "target", "cache"] {
            fs::create_dir(at(directory)).unwrap();
        }
        for name in ["libz.a", "README", "src/q.sql", "target/x", "cache/CACHEDIR.TAG"] {
            fs::write(at(name), "one").unwrap();
        }
        let files = Files::default();
        let listing = Listing::of(room.path(), scope, &files).unwrap();
        assert!(listing.holds(&files));
        change(room.path());
        assert_eq!(listing.holds(&files), expect, "{scope:?}");
    }

    #[test]
    fn what_may_be_read_counts_and_nothing_else() {
        for scope in [Scope::Native, Scope::System] {
            check(scope, |at| fs::write(at.join("libz.a"), "two").unwrap(), false);
            check(scope, |at| fs::write(at.join("libnew.so"), "").unwrap(), false);
            check(scope, |at| fs::remove_file(at.join("libz.a")).unwrap(), false);
        }
        check(Scope::System, |at| fs::write(at.join("README"), "two").unwrap(), true);
        check(Scope::Native, |at| fs::write(at.join("README"), "two").unwrap(), false);
        check(Scope::Native, |at| fs::write(at.join("src/q.sql"), "two").unwrap(), true);
        check(Scope::Generated, |at| fs::write(at.join("autocfg_1.ll"), "").unwrap(), true);
        check(Scope::Generated, |at| fs::write(at.join("target/x"), "two").unwrap(), false);
        check(Scope::Package, |at| fs::write(at.join("src/q.sql"), "two").unwrap(), false);
        check(Scope::Package, |at| fs::write(at.join("src/new"), "").unwrap(), false);
        check(Scope::Package, |at| fs::write(at.join("target/x"), "two").unwrap(), true);
        check(Scope::Package, |at| fs::write(at.join("cache/y"), "").unwrap(), true);
    }

    #[test]
    fn the_same_contents_written_again_are_the_same() {
        let again = |at: &Path| {
            fs::remove_file(at.join("libz.a")).unwrap();
            fs::write(at.join("libz.a"), "one").unwrap();
        };
        check(Scope::Native, again, true);
    }

    #[test]
    fn too_many_files_are_not_watched() {
        let room = tempfile::tempdir().unwrap();
        for number in 0..=FILES_MAX {
            fs::write(room.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(Listing::of(room.path(), Scope::Package, &Files::default()), None);
    }
}
