//! The toolchain index on disk: one file, replaced as a whole, ignored when damaged.
//!
//! It is only a memory: every entry is checked against the file system before it is used, so the worst that a
//! lost or old file costs is one discovery per compiler.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use barn_compilers::{CompilerIdentity, Family};
use barn_protocol::{digest::Digest, toolchain::Toolchain};
use serde::{Deserialize, Serialize};

use super::{
    stamp::{Stamp, Witnesses},
    walk::path_of,
};

/// The file's name; its number is the version of everything in it.
pub(super) const FILE_NAME: &str = "toolchains-v1";
/// Largest file read, in bytes. 64 toolchains of 60 entries are about 1 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;
const DIGEST_BYTES: usize = 32;

/// Everything remembered.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) toolchains: Vec<StoredToolchain>,
    pub(super) digests: Vec<(StoredPath, Stamp, Digest)>,
}

/// One discovery that succeeded.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredToolchain {
    pub(super) program: StoredPath,
    pub(super) search_path: StoredPath,
    pub(super) toolchain: Toolchain,
    pub(super) files: Vec<(Digest, StoredPath)>,
    pub(super) identity: StoredIdentity,
    pub(super) seen: Vec<(StoredPath, Option<Stamp>)>,
}

/// A path as bytes, which need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredPath(Vec<u8>);

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<StoredPath> for PathBuf {
    fn from(path: StoredPath) -> Self {
        path_of(&path.0)
    }
}

/// A [`CompilerIdentity`] of a family that is discovered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredIdentity {
    clang: bool,
    version: String,
    target: Option<String>,
    apple: bool,
}

impl From<&CompilerIdentity> for StoredIdentity {
    fn from(identity: &CompilerIdentity) -> Self {
        Self {
            clang: identity.family == Family::Clang,
            version: identity.version.clone(),
            target: identity.target.clone(),
            apple: identity.apple,
        }
    }
}

impl From<StoredIdentity> for CompilerIdentity {
    fn from(stored: StoredIdentity) -> Self {
        Self {
            family: if stored.clang { Family::Clang } else { Family::Gcc },
            version: stored.version,
            target: stored.target,
            apple: stored.apple,
        }
    }
}

/// Witnesses in their stored form.
pub(super) fn stored_witnesses(seen: &Witnesses) -> Vec<(StoredPath, Option<Stamp>)> {
    seen.iter().map(|(path, stamp)| (path.into(), stamp)).collect()
}

/// What the file holds; nothing if it is missing, damaged or of another version.
pub(super) fn load(file: &Path) -> Stored {
    match read(file) {
        Ok(stored) => stored,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "toolchain index is unreadable and made anew");
            }
            Stored::default()
        }
    }
}

/// Replaces the file.
pub(super) fn save(file: &Path, stored: &Stored) -> io::Result<()> {
    let body = postcard::to_stdvec(stored).map_err(io::Error::other)?;
    let directory = file.parent().ok_or_else(|| io::Error::other("index file has no directory"))?;
    fs::create_dir_all(directory)?;
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(Digest::of(&body).as_bytes())?;
    new.write_all(&body)?;
    // No sync: after a power cut the digest tells whether the contents made it.
    new.persist(file)?;
    Ok(())
}

fn read(file: &Path) -> io::Result<Stored> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "contents do not match their digest");
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let (digest, body) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(damaged)?;
    if Digest::of(body).as_bytes() != digest {
        return Err(damaged());
    }
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_anywhere_is_an_empty_index() {
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("new").join(FILE_NAME);
        assert_eq!(load(&file), Stored::default());
        let stamp = Stamp::of(room.path()).unwrap().unwrap();
        let stored =
            Stored { toolchains: Vec::new(), digests: vec![(room.path().into(), stamp, Digest::of(b"x"))] };
        save(&file, &stored).unwrap();
        assert_eq!(load(&file), stored);
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&file, &bad).unwrap();
            assert_eq!(load(&file), Stored::default(), "byte {at}");
            fs::write(&file, &good[..at]).unwrap();
            assert_eq!(load(&file), Stored::default(), "cut at {at}");
        }
    }
}
