//! From a toolchain to what a sandbox is given.

use std::path::PathBuf;

use barn_protocol::{digest::Digest, path::TreePath, toolchain::Toolchain, tree};
use barn_sandbox::{Entry, InsidePath, Kind, Mount};

/// Largest file that is copied into the sandbox instead of mounted, in bytes. A mount costs half a millisecond at
/// every start, as much as copying this many bytes.
const COPIED_BYTES_MAX: u64 = 512 << 10;

/// A toolchain as parts of a sandbox's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// For [`Spec::toolchain`](barn_sandbox::Spec::toolchain).
    pub mounts: Vec<Mount>,
    /// For [`Spec::inputs`](barn_sandbox::Spec::inputs), before those of the action.
    pub entries: Vec<Entry>,
}

/// Why a toolchain cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The store does not have a file's contents.
    #[error("blob {digest} of {path} is missing")]
    Missing {
        /// The contents.
        digest: Digest,
        /// A file that has them.
        path: TreePath,
    },
    /// The sandbox takes no such path.
    #[error("{path}: {error}")]
    Path {
        /// The path.
        path: TreePath,
        /// Why.
        error: barn_sandbox::PathError,
    },
}

/// The layout of `toolchain`, where `blob` gives the host's file with the contents and the executable bit asked for.
///
/// # Errors
/// When a blob is missing.
pub fn lay_out(
    toolchain: &Toolchain,
    blob: impl Fn(Digest, bool) -> Option<PathBuf>,
) -> Result<Layout, LayoutError> {
    let mut layout = Layout::default();
    for (path, entry) in toolchain.tree.iter() {
        let inside = InsidePath::new(path.as_bytes())
            .map_err(|error| LayoutError::Path { path: path.clone(), error })?;
        let kind = match entry {
            tree::Entry::Directory => Kind::Directory,
            tree::Entry::Symlink { target } => Kind::Symlink { target: target.clone() },
            tree::Entry::File { digest, size, executable } => {
                let missing = || LayoutError::Missing { digest: *digest, path: path.clone() };
                let source = blob(*digest, *executable).ok_or_else(missing)?;
                if *size > COPIED_BYTES_MAX {
                    layout.mounts.push(Mount { host: source, inside });
                    continue;
                }
                Kind::File { source, size: *size, executable: *executable }
            }
        };
        layout.entries.push(Entry { path: inside, kind });
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain() -> Toolchain {
        let mut tree = tree::Tree::new();
        let mut add = |path: &str, entry| tree.insert(TreePath::new(path).unwrap(), entry).unwrap();
        let file = |size, executable| tree::Entry::File { digest: Digest::of(b"x"), size, executable };
        add("/lib", tree::Entry::Symlink { target: b"usr/lib".to_vec() });
        add("/usr/bin/cc", file(1 << 20, true));
        add("/usr/lib/crtbegin.o", file(3000, false));
        add("/usr/lib/gcc", tree::Entry::Directory);
        Toolchain { name: String::new(), machine: "x86_64".into(), tree, search_path: Vec::new() }
    }

    #[test]
    fn large_files_are_mounted_and_the_rest_copied() {
        let blob = |_, executable| Some(if executable { "/store/x" } else { "/store/r" }.into());
        let layout = lay_out(&toolchain(), blob).unwrap();
        let inside = |path: &str| InsidePath::new(path).unwrap();
        assert_eq!(layout.mounts, [Mount { host: "/store/x".into(), inside: inside("/usr/bin/cc") }]);
        let entry = |path, kind| Entry { path: inside(path), kind };
        assert_eq!(
            layout.entries,
            [
                entry("/lib", Kind::Symlink { target: b"usr/lib".to_vec() }),
                entry(
                    "/usr/lib/crtbegin.o",
                    Kind::File { source: "/store/r".into(), size: 3000, executable: false }
                ),
                entry("/usr/lib/gcc", Kind::Directory),
            ]
        );
    }

    #[test]
    fn a_missing_blob_is_named() {
        let error = lay_out(&toolchain(), |_, executable| executable.then(PathBuf::new)).unwrap_err();
        assert!(error.to_string().ends_with("of /usr/lib/crtbegin.o is missing"), "{error}");
    }
}
