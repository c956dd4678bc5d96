//! A tree of files by digest: what an action may see, and what a toolchain consists of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::Canonical,
    digest::Digest,
    limits::{BLOB_BYTES_MAX, PATH_BYTES_MAX, TREE_ENTRIES_MAX},
    path::TreePath,
};

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File {
        /// The digest of its contents.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Whether it is executable.
        executable: bool,
    },
    /// A symbolic link with its target as written.
    Symlink {
        /// The target, not resolved; not empty, no NUL.
        target: Vec<u8>,
    },
    /// A directory that must exist even if nothing is listed below it.
    Directory,
}

/// Entries by path, sorted. Parents of a listed path are directories without being listed.
///
/// Invariant: no entry lies below a file or a symbolic link of the same tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tree(BTreeMap<TreePath, Entry>);

/// Why a set of entries is not a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The path is there already as something else.
    #[error("two different entries at {0}")]
    Conflict(TreePath),
    /// A file or symbolic link has something below it.
    #[error("{0} lies below a file or symbolic link")]
    BelowLeaf(TreePath),
    /// More entries than allowed.
    #[error("more than {TREE_ENTRIES_MAX} entries")]
    TooMany,
    /// A file over the limit, or a symlink target that is empty, too long or holds NUL.
    #[error("entry at {0} is not allowed")]
    BadEntry(TreePath),
}

impl Tree {
    /// A tree with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Adding the same entry twice is fine; a directory may be added over existing children.
    ///
    /// # Errors
    /// When another entry is there, the place lies below a leaf, or a limit is reached.
    pub fn insert(&mut self, path: TreePath, entry: Entry) -> Result<(), TreeError> {
        check_entry(&path, &entry)?;
        match self.0.get(&path) {
            Some(there) if *there == entry => return Ok(()),
            Some(_) => return Err(TreeError::Conflict(path)),
            None => {}
        }
        if self.has_leaf_above(&path) {
            return Err(TreeError::BelowLeaf(path));
        }
        if !matches!(entry, Entry::Directory) && self.has_children(&path) {
            return Err(TreeError::BelowLeaf(path));
        }
        if self.0.len() >= TREE_ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        self.0.insert(path, entry);
        Ok(())
    }

    /// The entry listed at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        self.0.get(path)
    }

    /// All entries in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Entry)> {
        self.0.iter()
    }

    /// The digests and sizes of all files, in order of their paths; a digest may come more than once.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.0.values().filter_map(|entry| match entry {
            Entry::File { digest, size, .. } => Some((*digest, *size)),
            _ => None,
        })
    }

    /// How many entries are listed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of all file sizes in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.blobs().map(|(_, size)| size).fold(0, u64::saturating_add)
    }

    /// The tree's own digest.
    pub fn digest(&self) -> Digest {
        let mut encoder = Canonical::new("barnraise tree v1");
        encoder.number(self.0.len() as u64);
        for (path, entry) in &self.0 {
            encoder.bytes(path.as_bytes());
            encode_entry(&mut encoder, entry);
        }
        encoder.finish()
    }

    fn has_leaf_above(&self, path: &TreePath) -> bool {
        let mut above = path.parent();
        while let Some(directory) = above {
            if matches!(self.0.get(&directory), Some(Entry::File { .. } | Entry::Symlink { .. })) {
                return true;
            }
            above = directory.parent();
        }
        false
    }

    fn has_children(&self, path: &TreePath) -> bool {
        // Everything below `path` sorts between `path/` and `path0` ('0' follows '/').
        let from = [path.as_bytes(), b"/"].concat();
        self.0
            .range(path.clone()..)
            .skip_while(|(p, _)| p.as_bytes() < from.as_slice())
            .take(1)
            .any(|(p, _)| p != path && p.starts_with(path))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<TreePath, Entry>::deserialize(deserializer)?;
        let mut tree = Self::new();
        for (path, entry) in entries {
            tree.insert(path, entry).map_err(serde::de::Error::custom)?;
        }
        Ok(tree)
    }
}

fn check_entry(path: &TreePath, entry: &Entry) -> Result<(), TreeError> {
    let good = match entry {
        Entry::File { size, .. } => *size <= BLOB_BYTES_MAX && path.as_bytes().len() > 1,
        Entry::Symlink { target } => {
            !target.is_empty()
                && target.len() <= PATH_BYTES_MAX
                && !target.contains(&0)
                && path.as_bytes().len() > 1
        }
        Entry::Directory => true,
    };
    if good { Ok(()) } else { Err(TreeError::BadEntry(path.clone())) }
}

fn encode_entry(encoder: &mut Canonical, entry: &Entry) {
    match entry {
        Entry::File { digest, size, executable } => {
            encoder.number(1).digest(digest).number(*size).number(u64::from(*executable));
        }
        Entry::Symlink { target } => {
            encoder.number(2).bytes(target);
        }
        Entry::Directory => {
            encoder.number(3);
        }
    }
}
