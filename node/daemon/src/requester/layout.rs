//! From paths as a compiler spells them to a tree with every directory and symbolic link on the way.
//!
//! A compiler opens `../include/../x.h` from a working directory that may itself lie behind a symbolic link.
//! A worker must see the same, so each path is walked component by component as the kernel does: a link is
//! recorded with its target as written and followed, a directory that is passed is recorded, and what lies at
//! the end is recorded under its real path.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use barn_protocol::{Entry, Tree, TreePath, path::TreePathError, tree::TreeError};

use super::files::Signature;

/// Most symbolic links followed for one path, as in Linux (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Why a path cannot be laid out elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A component is not there or cannot be looked at.
    #[error("cannot look at {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    /// A component that should be a directory is something else, or links go in circles.
    #[error("{0} does not lead anywhere")]
    Dangling(PathBuf),
}

/// What lies at the end of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its real path.
    pub real: TreePath,
    /// What it is.
    pub kind: Kind,
}

/// What a real path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A device, socket or pipe.
    Special,
}

enum Step {
    Link(Vec<u8>),
    Is(Kind),
}

/// Collects the directories and links on the way to many paths of one compile.
///
/// Looks are remembered for the life of the value, so it must not outlive one request.
#[derive(Default)]
pub struct Layout {
    tree: Tree,
    directories: HashMap<Vec<u8>, TreePath>,
    newest_link_ns: i128,
}

impl Layout {
    /// Walks `path`, relative to `cwd` unless absolute, and records what is on the way.
    ///
    /// # Errors
    /// When it leads nowhere or cannot be laid out elsewhere.
    pub fn walk(&mut self, cwd: &Path, path: &Path) -> Result<Found, LayoutError> {
        let whole = cwd.join(path);
        let bytes = whole.as_os_str().as_bytes();
        // Most paths differ from the one before in their last component only.
        let split = bytes.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let (parent, name) = (&bytes[..split], &bytes[split + 1..]);
        if !name.is_empty() && name != b"." && name != b".." {
            let directory = match self.directories.get(parent) {
                Some(known) => known.clone(),
                None => {
                    let found = self.resolve(TreePath::root(), parent, &whole)?;
                    if found.kind != Kind::Directory {
                        return Err(LayoutError::Dangling(whole));
                    }
                    self.directories.insert(parent.to_vec(), found.real.clone());
                    found.real
                }
            };
            return self.resolve(directory, name, &whole);
        }
        self.resolve(TreePath::root(), bytes, &whole)
    }

    /// Adds a file at its real path.
    ///
    /// # Errors
    /// When the tree does not take it.
    pub fn add(&mut self, real: TreePath, entry: Entry) -> Result<(), LayoutError> {
        Ok(self.tree.insert(real, entry)?)
    }

    /// When the newest of the links on the way was made, in nanoseconds since 1970.
    pub fn newest_link_ns(&self) -> i128 {
        self.newest_link_ns
    }

    /// The tree of everything recorded.
    pub fn finish(self) -> Tree {
        self.tree
    }

    fn resolve(&mut self, start: TreePath, rest: &[u8], whole: &Path) -> Result<Found, LayoutError> {
        let mut at = start;
        let mut kind = Kind::Directory;
        let mut todo: Vec<Vec<u8>> = components(rest);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if kind != Kind::Directory {
                return Err(LayoutError::Dangling(whole.to_owned()));
            }
            if name == b".." {
                at = at.parent().unwrap_or_else(TreePath::root);
                continue;
            }
            let next =
                at.child(&name).map_err(|source| LayoutError::Path { path: whole.to_owned(), source })?;
            match self.look(&next)? {
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(LayoutError::Dangling(whole.to_owned()));
                    }
                    if target.first() == Some(&b'/') {
                        at = TreePath::root();
                    }
                    todo.extend(components(&target));
                }
                Step::Is(found) => {
                    kind = found;
                    at = next;
                }
            }
        }
        Ok(Found { real: at, kind })
    }

    fn look(&mut self, path: &TreePath) -> Result<Step, LayoutError> {
        match self.tree.get(path) {
            Some(Entry::Symlink { target }) => return Ok(Step::Link(target.clone())),
            Some(Entry::Directory) => return Ok(Step::Is(Kind::Directory)),
            Some(Entry::File { .. }) => return Ok(Step::Is(Kind::File)),
            None => {}
        }
        let host = host_path(path);
        let fail = |source| LayoutError::Io { path: host.clone(), source };
        let meta = fs::symlink_metadata(&host).map_err(fail)?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            self.newest_link_ns = self.newest_link_ns.max(Signature::of(&meta).changed_ns());
            let target = fs::read_link(&host).map_err(fail)?.into_os_string().into_vec();
            self.tree.insert(path.clone(), Entry::Symlink { target: target.clone() })?;
            return Ok(Step::Link(target));
        }
        if kind.is_dir() {
            self.tree.insert(path.clone(), Entry::Directory)?;
            return Ok(Step::Is(Kind::Directory));
        }
        Ok(Step::Is(if kind.is_file() { Kind::File } else { Kind::Special }))
    }
}

/// The host's path of a tree path; they are the same on the requester.
pub fn host_path(path: &TreePath) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.as_bytes().to_vec()))
}

/// The components of a path, last first, without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_dot_dot_are_walked_as_the_kernel_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("real/deep")).unwrap();
        fs::write(root.join("real/x.h"), "").unwrap();
        symlink("real/deep", root.join("link")).unwrap();
        symlink(root.join("real/x.h"), root.join("abs.h")).unwrap();
        let mut layout = Layout::default();
        for spelled in ["link/../x.h", "abs.h", "real/./deep/..//x.h"] {
            let found = layout.walk(&root, Path::new(spelled)).unwrap();
            assert_eq!(host_path(&found.real), root.join("real/x.h"), "{spelled}");
            assert_eq!(found.kind, Kind::File);
        }
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
        let mut layout = Layout::default();
        assert!(matches!(layout.walk(&root, Path::new("loop")), Err(LayoutError::Dangling(_))));
        assert!(matches!(layout.walk(&root, Path::new("file/x")), Err(LayoutError::Dangling(_))));
        assert!(matches!(layout.walk(&root, Path::new("absent")), Err(LayoutError::Io { .. })));
    }
}
