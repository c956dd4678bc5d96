//! What several test programs need.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::{path::Path, time::Duration};

use barn_cache::{Limits, Store};
use barn_protocol::{ActionKey, Digest, Identity, identity::SignedBytes};

/// Limits nothing in a test comes near, and no waiting.
pub(crate) fn roomy() -> Limits {
    Limits { bytes_max: 1 << 40, free_bytes_min: 0, retry_after: Duration::ZERO }
}

pub(crate) fn small(bytes_max: u64) -> Limits {
    Limits { bytes_max, ..roomy() }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, roomy()).unwrap()
}

/// A name that is no blob's.
pub(crate) fn name(text: &str) -> Digest {
    Digest::of(format!("name {text}").as_bytes())
}

pub(crate) fn key(text: &str) -> ActionKey {
    ActionKey(name(text))
}

pub(crate) fn signed(text: &str) -> SignedBytes {
    Identity::from_seed(&[1; 32]).sign("test", text.as_bytes().to_vec())
}

/// What a crash does to an index: nothing says that the store was closed in order.
pub(crate) fn uncleanly(dir: &Path) {
    std::fs::remove_file(dir.join("index-v1/clean")).expect("the store was closed in order");
}

/// All files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A directory in memory where there is one: for tests that close thousands of stores, each with some fsyncs.
pub(crate) fn quick_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Bytes that depend on the seed alone.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
