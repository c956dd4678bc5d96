//! What a compiler was seen to look at while a worker ran it.
//!
//! A worker that can watch the compile says which of the shipped files were opened and which paths were looked for
//! in vain. The requester compares: a path probed in vain on the worker that exists at home means that the shipped
//! tree was incomplete. It is an observation, not a proof: the watched program can hide what it does.

use serde::{Deserialize, Serialize};

use crate::{
    limits::{PATH_BYTES_MAX, TREE_ENTRIES_MAX},
    tree::{Entry, Tree},
};

/// Most paths reported as probed in vain. A large C++ unit with a hundred search directories makes some 5,000.
pub const IN_VAIN_MAX: usize = 16_384;
/// Those paths together, in bytes.
pub const IN_VAIN_BYTES_MAX: usize = 1 << 20;

/// What one compile opened and what it looked for in vain.
///
/// Invariant: both lists are sorted without duplicates and within their limits; the paths are absolute, without NUL
/// and without `.`, `..` or empty components.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    opened: Vec<u32>,
    in_vain: Vec<Vec<u8>>,
}

/// Why some lists are not an [`Observed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ObservedError {
    /// More entries or bytes than the limits allow.
    #[error("more was observed than may be reported")]
    TooMany,
    /// A path that is not absolute and normal.
    #[error("an observed path is not absolute and normal")]
    BadPath,
}

impl Observed {
    /// Sorts and checks. `opened` counts the files of the action's input tree in order of their paths, as
    /// [`Tree::blobs`] lists them, from 0.
    ///
    /// # Errors
    /// See [`ObservedError`].
    pub fn new(mut opened: Vec<u32>, mut in_vain: Vec<Vec<u8>>) -> Result<Self, ObservedError> {
        opened.sort_unstable();
        opened.dedup();
        in_vain.sort_unstable();
        in_vain.dedup();
        let bytes: usize = in_vain.iter().map(Vec::len).sum();
        if opened.len() > TREE_ENTRIES_MAX || in_vain.len() > IN_VAIN_MAX || bytes > IN_VAIN_BYTES_MAX {
            return Err(ObservedError::TooMany);
        }
        if !in_vain.iter().all(|path| is_normal(path)) {
            return Err(ObservedError::BadPath);
        }
        Ok(Self { opened, in_vain })
    }

    /// From paths as a sandbox reports them: an opened path that is no file of `inputs` (a part of the toolchain)
    /// is left out.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(inputs: &Tree, opened: &[Vec<u8>], in_vain: Vec<Vec<u8>>) -> Result<Self, ObservedError> {
        let mut wanted: Vec<&[u8]> = opened.iter().map(Vec::as_slice).collect();
        wanted.sort_unstable();
        let files = inputs.iter().filter(|(_, entry)| matches!(entry, Entry::File { .. }));
        let indices = files
            .zip(0u32..)
            .filter(|((path, _), _)| wanted.binary_search(&path.as_bytes()).is_ok())
            .map(|(_, index)| index)
            .collect();
        Self::new(indices, in_vain)
    }

    /// The files of the input tree that were opened, as indices into [`Tree::blobs`]; sorted.
    pub fn opened(&self) -> &[u32] {
        &self.opened
    }

    /// Absolute paths that were looked for and not there; sorted.
    pub fn in_vain(&self) -> &[Vec<u8>] {
        &self.in_vain
    }
}

impl<'de> Deserialize<'de> for Observed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (opened, in_vain) = <(Vec<u32>, Vec<Vec<u8>>)>::deserialize(deserializer)?;
        Self::new(opened, in_vain).map_err(serde::de::Error::custom)
    }
}

fn is_normal(path: &[u8]) -> bool {
    path.len() <= PATH_BYTES_MAX
        && path.first() == Some(&b'/')
        && !path.contains(&0)
        && path[1..].split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Digest, TreePath};

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let file =
            |text: &str| Entry::File { digest: Digest::of(text.as_bytes()), size: 1, executable: false };
        for (at, entry) in [
            ("/a/1.h", file("1")),
            ("/a/2.h", file("2")),
            ("/a/d", Entry::Directory),
            ("/a/l", Entry::Symlink { target: b"1.h".to_vec() }),
            ("/b/3.h", file("3")),
        ] {
            tree.insert(TreePath::new(at).unwrap(), entry).unwrap();
        }
        tree
    }

    #[track_caller]
    fn check(in_vain: &[&str], expect: Result<&[&str], ObservedError>) {
        let bytes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        let observed = Observed::new(Vec::new(), bytes(in_vain));
        assert_eq!(observed.map(|o| o.in_vain), expect.map(bytes), "{in_vain:?}");
    }

    #[test]
    fn paths_are_sorted_once_each_and_normal() {
        check(&["/b", "/a/x", "/b"], Ok(&["/a/x", "/b"]));
        check(&[], Ok(&[]));
        for bad in ["", "a", "/", "/a/", "/a//b", "/a/./b", "/a/../b", "/a\0b"] {
            check(&["/a", bad], Err(ObservedError::BadPath));
        }
    }

    #[test]
    fn limits_hold() {
        let many = |count: usize| (0..count).map(|n| format!("/{n}").into_bytes()).collect::<Vec<_>>();
        assert!(Observed::new(Vec::new(), many(IN_VAIN_MAX)).is_ok());
        assert_eq!(Observed::new(Vec::new(), many(IN_VAIN_MAX + 1)), Err(ObservedError::TooMany));
        let long = |n: usize| format!("/{n:04000}").into_bytes();
        let heavy = (0..=IN_VAIN_BYTES_MAX / 4000).map(long).collect();
        assert_eq!(Observed::new(Vec::new(), heavy), Err(ObservedError::TooMany));
    }

    #[test]
    fn opened_files_are_counted_among_the_files() {
        let opened = [&b"/b/3.h"[..], b"/a/2.h", b"/a/d", b"/usr/bin/as", b"/b/3.h"].map(<[u8]>::to_vec);
        let observed = Observed::of(&tree(), &opened, Vec::new()).unwrap();
        assert_eq!(observed.opened(), [1, 2]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(opened in proptest::collection::vec(0..9u32, 0..9), in_vain in proptest::collection::vec("(/[ab]){1,3}", 0..9)) {
            let observed = Observed::new(opened, in_vain.into_iter().map(String::into_bytes).collect()).unwrap();
            let bytes = postcard::to_stdvec(&observed).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Observed>(&bytes), Ok(observed));
        }

        #[test]
        fn any_bytes_decode_to_a_sound_value_or_not_at_all(bytes in proptest::collection::vec(0..60_u8, 0..40)) {
            if let Ok(observed) = postcard::from_bytes::<Observed>(&bytes) {
                let again = Observed::new(observed.opened.clone(), observed.in_vain.clone());
                prop_assert_eq!(again, Ok(observed));
            }
        }
    }
}
