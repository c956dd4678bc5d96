//! A tree of files by digest: what an action may see, and what a toolchain consists of.

use std::{collections::BTreeMap, ops::Bound};

use serde::{Deserialize, Serialize};

use crate::{
    canonical::Canonical,
    digest::Digest,
    keys::domain,
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
        let mut encoder = Canonical::new(domain::TREE);
        encoder.number(self.0.len() as u64);
        for (path, entry) in &self.0 {
            encoder.bytes(path.as_bytes());
            encode_entry(&mut encoder, entry);
        }
        encoder.finish()
    }

    /// The entries for which `taken`, in order of paths, says so. A part of a tree is a tree.
    pub(crate) fn part(&self, taken: &[bool]) -> Self {
        let kept = self.0.iter().zip(taken).filter(|(_, taken)| **taken);
        Self(kept.map(|((path, entry), _)| (path.clone(), entry.clone())).collect())
    }

    fn has_leaf_above(&self, path: &TreePath) -> bool {
        let bytes = path.as_bytes();
        let mut above = (1..bytes.len()).rev().filter(|&at| bytes[at] == b'/').map(|at| &bytes[..at]);
        above.any(|above| matches!(self.0.get(above), Some(Entry::File { .. } | Entry::Symlink { .. })))
    }

    fn has_children(&self, path: &TreePath) -> bool {
        let below = [path.as_bytes(), b"/"].concat();
        let from = (Bound::Included(below.as_slice()), Bound::Unbounded);
        self.0.range::<[u8], _>(from).next().is_some_and(|(first, _)| first.starts_with(path))
    }
}

impl AsRef<Self> for Tree {
    fn as_ref(&self) -> &Self {
        self
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn file(text: &str) -> Entry {
        Entry::File { digest: Digest::of(text.as_bytes()), size: text.len() as u64, executable: false }
    }

    fn link(target: &str) -> Entry {
        Entry::Symlink { target: target.into() }
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree::new();
        for (at, entry) in entries {
            tree.insert(path(at), entry.clone()).expect("it fits");
        }
        tree
    }

    /// Inserts the last entry after the others.
    fn check(entries: &[(&str, Entry)], expect: Result<(), TreeError>) {
        let (last, others) = entries.split_last().expect("at least one");
        assert_eq!(tree(others).insert(path(last.0), last.1.clone()), expect, "{entries:?}");
    }

    #[test]
    fn nothing_lies_below_a_leaf_whatever_comes_first() {
        let below = |at: &str| Err(TreeError::BelowLeaf(path(at)));
        check(&[("/a", file("x")), ("/a/b/c", file("y"))], below("/a/b/c"));
        check(&[("/a", link("x")), ("/a/b", Entry::Directory)], below("/a/b"));
        check(&[("/a/b/c", file("y")), ("/a", file("x"))], below("/a"));
        check(&[("/a/b", Entry::Directory), ("/a", link("x"))], below("/a"));
        // Names that sort between a path and what lies below it.
        check(
            &[("/a/b", file("y")), ("/a-b", file("z")), ("/a.b", file("z")), ("/a", link("x"))],
            below("/a"),
        );
        check(&[("/ab/c", file("y")), ("/a", file("x"))], Ok(()));
        check(&[("/a/b", file("y")), ("/a", Entry::Directory)], Ok(()));
        check(&[("/a", Entry::Directory), ("/a/b", file("y"))], Ok(()));
    }

    #[test]
    fn a_path_holds_one_thing() {
        check(&[("/a", file("x")), ("/a", file("x"))], Ok(()));
        for other in [file("y"), link("x"), Entry::Directory] {
            check(&[("/a", file("x")), ("/a", other)], Err(TreeError::Conflict(path("/a"))));
        }
        let executable = Entry::File { digest: Digest::of(b"x"), size: 1, executable: true };
        check(&[("/a", file("x")), ("/a", executable)], Err(TreeError::Conflict(path("/a"))));
    }

    #[test]
    fn entries_that_no_file_system_would_hold_are_refused() {
        let bad = |at: &str| Err(TreeError::BadEntry(path(at)));
        check(&[("/a", link(""))], bad("/a"));
        check(&[("/a", link("x\0y"))], bad("/a"));
        check(&[("/a", link(&"x".repeat(PATH_BYTES_MAX + 1)))], bad("/a"));
        check(&[("/a", link(&"x".repeat(PATH_BYTES_MAX)))], Ok(()));
        check(&[("/", file("x"))], bad("/"));
        check(&[("/", link("x"))], bad("/"));
        check(&[("/", Entry::Directory)], Ok(()));
        let sized = |size| Entry::File { digest: Digest::of(b""), size, executable: false };
        check(&[("/a", sized(BLOB_BYTES_MAX))], Ok(()));
        check(&[("/a", sized(BLOB_BYTES_MAX + 1))], bad("/a"));
    }

    #[test]
    fn a_tree_is_full_at_its_limit() {
        let mut tree = Tree::new();
        for n in 0..TREE_ENTRIES_MAX {
            tree.insert(path(&format!("/{n}")), Entry::Directory).expect("there is room");
        }
        assert_eq!(tree.insert(path("/x"), Entry::Directory), Err(TreeError::TooMany));
        assert_eq!(tree.insert(path("/0"), Entry::Directory), Ok(()), "what is there may come again");
    }

    #[test]
    fn foreign_bytes_are_checked_like_insertions() {
        let decode = |entries: &[(&str, Entry)]| {
            let raw: Vec<(Vec<u8>, Entry)> =
                entries.iter().map(|(at, entry)| (at.as_bytes().to_vec(), entry.clone())).collect();
            postcard::from_bytes::<Tree>(&postcard::to_stdvec(&raw).expect("encodes"))
        };
        let good = [("/a", Entry::Directory), ("/a/b", file("x")), ("/c", link("../.."))];
        assert_eq!(decode(&good), Ok(tree(&good)));
        for hostile in [
            &[("/a", link("/etc")), ("/a/passwd", file("x"))][..],
            &[("/a/passwd", file("x")), ("/a", link("/etc"))],
            &[("/a/../b", file("x"))],
            &[("a", file("x"))],
            &[("/a", link("x\0"))],
        ] {
            assert!(decode(hostile).is_err(), "{hostile:?}");
        }
        // A count that promises more entries than the bytes can hold must not be believed.
        assert!(postcard::from_bytes::<Tree>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }

    #[test]
    fn golden_vector() {
        let tree = tree(&[("/d", Entry::Directory), ("/f", file("barn")), ("/l", link("f"))]);
        let mut bytes = Vec::new();
        let number = |n: u64| n.to_le_bytes().to_vec();
        bytes.extend(number(3));
        bytes.extend([number(2), b"/d".to_vec(), number(3)].concat());
        let barn = Digest::of(b"barn").as_bytes().to_vec();
        bytes.extend([number(2), b"/f".to_vec(), number(1), barn, number(4), number(0)].concat());
        bytes.extend([number(2), b"/l".to_vec(), number(2), number(1), b"f".to_vec()].concat());
        assert_eq!(*tree.digest().as_bytes(), blake3::derive_key("barnraise tree v1", &bytes));
        assert_eq!(
            tree.digest().to_string(),
            "598763786b23d609d0f080d3bc5287d0be43b3188a50c8be49e8d9af0cf91d0a"
        );
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            ("[ab]{0,2}", any::<bool>()).prop_map(|(text, executable)| Entry::File {
                digest: Digest::of(text.as_bytes()),
                size: text.len() as u64,
                executable
            }),
            "[ab/.]{1,3}".prop_map(|target| Entry::Symlink { target: target.into_bytes() }),
            Just(Entry::Directory),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<(TreePath, Entry)>> {
        vec(("(/[ab.-]{1,2}){1,3}", entry()), 0..12).prop_map(|entries| {
            let made = entries.into_iter().map(|(at, entry)| (TreePath::new(at), entry));
            made.filter_map(|(at, entry)| Some((at.ok()?, entry))).collect()
        })
    }

    proptest! {
        /// The invariant of the type, against a model that compares all pairs.
        #[test]
        fn insertions_keep_the_invariant(entries in entries()) {
            let mut tree = Tree::new();
            for (at, entry) in entries {
                let is_leaf = |e: &Entry| !matches!(e, Entry::Directory);
                let clash = tree.iter().any(|(there, old)| {
                    (there == &at && *old != entry)
                        || (there != &at && is_leaf(old) && at.starts_with(there))
                        || (there != &at && is_leaf(&entry) && there.starts_with(&at))
                });
                let before = tree.clone();
                let inserted = tree.insert(at.clone(), entry.clone());
                prop_assert_eq!(inserted.is_err(), clash);
                if clash {
                    prop_assert_eq!(&tree, &before);
                } else {
                    prop_assert_eq!(tree.get(&at), Some(&entry));
                }
            }
        }

        #[test]
        fn unequal_trees_have_unequal_digests(one in entries(), two in entries()) {
            let build = |entries: Vec<(TreePath, Entry)>| {
                let mut tree = Tree::new();
                for (at, entry) in entries {
                    drop(tree.insert(at, entry));
                }
                tree
            };
            let (one, two) = (build(one), build(two));
            prop_assert_eq!(one == two, one.digest() == two.digest());
        }

        #[test]
        fn what_is_encoded_is_decoded(entries in entries()) {
            let mut tree = Tree::new();
            for (at, entry) in entries {
                drop(tree.insert(at, entry));
            }
            let bytes = postcard::to_stdvec(&tree).expect("encodes");
            prop_assert_eq!(postcard::from_bytes::<Tree>(&bytes), Ok(tree));
        }

        #[test]
        fn any_bytes_decode_to_a_sound_tree_or_not_at_all(bytes in vec(0..8_u8, 0..80)) {
            if let Ok(tree) = postcard::from_bytes::<Tree>(&bytes) {
                let mut again = Tree::new();
                for (at, entry) in tree.iter() {
                    prop_assert!(again.insert(at.clone(), entry.clone()).is_ok());
                }
                prop_assert_eq!(again, tree);
            }
        }
    }
}
