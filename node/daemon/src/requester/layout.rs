//! From paths as a compiler spells them to a tree with every directory and symbolic link on the way.
//!
//! A compiler opens `../include/../x.h` from a working directory that may itself lie behind a symbolic link.
//! A worker must see the same, so each path is walked component by component as the kernel does: a link is
//! recorded with its target as written and followed, a directory that is passed is recorded, and what lies at
//! the end is recorded under its real path.

use std::{
    collections::{HashMap, HashSet},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use barn_protocol::{Entry, Tree, TreePath, path::TreePathError, tree::TreeError};

use super::sight::{DirectoryId, Look, Nowhere, Place, Step};

/// Why a path cannot be laid out elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It leads nowhere.
    #[error("cannot look at {path}")]
    Nowhere {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: Nowhere,
    },
    /// The path has a form that no tree can hold.
    #[error("{path} cannot be laid out elsewhere")]
    Path {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: TreePathError,
    },
    /// The tree does not take it.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Collects the directories and links on the way to many paths of one compile, as one [`Look`] sees them.
#[derive(Default)]
pub struct Layout {
    record: Record,
    /// Where the parents of paths as they were spelled lead.
    parents: HashMap<Box<[u8]>, DirectoryId>,
}

/// What was passed.
#[derive(Default)]
struct Record {
    tree: Tree,
    directories: HashSet<DirectoryId>,
    newest_link_ns: i128,
    failed: Option<LayoutError>,
}

impl Layout {
    /// A layout that goes on where another one ended.
    pub fn onto(tree: Tree) -> Self {
        Self { record: Record { tree, ..Record::default() }, parents: HashMap::new() }
    }

    /// Walks `path`, relative to the look's working directory unless absolute, and records what is on the way.
    ///
    /// # Errors
    /// When it leads nowhere or cannot be laid out elsewhere.
    pub fn walk(&mut self, look: &mut Look<'_>, path: &[u8]) -> Result<Place, LayoutError> {
        let record = &mut self.record;
        let mut passed = |step: Step<'_>| record.pass(step);
        // Most paths differ from the one before in their last component only.
        let split = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(split);
        let found = match self.parents.get(parent) {
            Some(start) => look.walk_in(*start, name, &mut passed),
            None => look.walk(parent, &mut passed).and_then(|found| match found {
                Place::Directory(start) => {
                    self.parents.insert(parent.into(), start);
                    look.walk_in(start, name, &mut passed)
                }
                _ => Err(Nowhere::Absent),
            }),
        };
        match self.record.failed.take() {
            Some(error) => Err(error),
            None => found.map_err(|source| LayoutError::Nowhere { path: host_path_of(path), source }),
        }
    }

    /// Adds a file at its real path.
    ///
    /// # Errors
    /// When the tree does not take it.
    pub fn add(&mut self, real: TreePath, entry: Entry) -> Result<(), LayoutError> {
        Ok(self.record.tree.insert(real, entry)?)
    }

    /// When the newest of the links on the way was made, in nanoseconds since 1970.
    pub fn newest_link_ns(&self) -> i128 {
        self.record.newest_link_ns
    }

    /// The tree of everything recorded.
    pub fn finish(self) -> Tree {
        self.record.tree
    }
}

impl Record {
    fn pass(&mut self, step: Step<'_>) {
        if let Err(error) = self.try_pass(step) {
            self.failed.get_or_insert(error);
        }
    }

    fn try_pass(&mut self, step: Step<'_>) -> Result<(), LayoutError> {
        match step {
            Step::Directory { id, real } => {
                if real != b"/" && self.directories.insert(id) {
                    self.tree.insert(tree_path(real)?, Entry::Directory)?;
                }
            }
            Step::Link { directory, name, target, made_ns } => {
                self.newest_link_ns = self.newest_link_ns.max(made_ns);
                let at = tree_path(directory)?.child(name).map_err(|source| LayoutError::Path {
                    path: host_path_of(directory).join(host_path_of(name)),
                    source,
                })?;
                self.tree.insert(at, Entry::Symlink { target: target.to_vec() })?;
            }
        }
        Ok(())
    }
}

/// A real path as one of a tree.
///
/// # Errors
/// When it is too long or too deep for a tree.
pub fn tree_path(real: &[u8]) -> Result<TreePath, LayoutError> {
    TreePath::new(real).map_err(|source| LayoutError::Path { path: host_path_of(real), source })
}

/// The host's path of a tree path; they are the same on the requester.
pub fn host_path(path: &TreePath) -> PathBuf {
    host_path_of(path.as_bytes())
}

fn host_path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::requester::{files::Files, sight::Sight};

    fn with_look<T>(root: &Path, then: impl FnOnce(&mut Look<'_>) -> T) -> T {
        then(&mut Look::new(&Sight::default(), &Files::default(), root))
    }

    #[test]
    fn links_and_dot_dot_are_walked_as_the_kernel_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("real/deep")).unwrap();
        fs::write(root.join("real/x.h"), "").unwrap();
        symlink("real/deep", root.join("link")).unwrap();
        symlink(root.join("real/x.h"), root.join("abs.h")).unwrap();
        let mut layout = Layout::default();
        with_look(&root, |look| {
            for spelled in ["link/../x.h", "abs.h", "real/./deep/..//x.h"] {
                let found = layout.walk(look, spelled.as_bytes()).unwrap();
                let Place::File(file) = found else { panic!("{spelled}: {found:?}") };
                assert_eq!(host_path_of(look.path(file)), root.join("real/x.h"), "{spelled}");
            }
        });
        let tree = layout.finish();
        let at = |name: &str| {
            let path = root.join(name).into_os_string().into_vec();
            tree.get(&TreePath::new(path).unwrap()).cloned()
        };
        assert_eq!(at("link"), Some(Entry::Symlink { target: b"real/deep".to_vec() }));
        assert_eq!(at("real/deep"), Some(Entry::Directory));
    }

    #[test]
    fn what_leads_nowhere_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        with_look(&root, |look| {
            for (path, why) in
                [("loop", Nowhere::Loop), ("file/x", Nowhere::Absent), ("absent", Nowhere::Absent)]
            {
                match Layout::default().walk(look, path.as_bytes()) {
                    Err(LayoutError::Nowhere { source, .. }) => assert_eq!(source, why, "{path}"),
                    other => panic!("{path}: {other:?}"),
                }
            }
        });
    }
}
