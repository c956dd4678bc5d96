//! Include manifests: what a source was seen to include, kept so that the next compile of the same source finds
//! its action by looking at files only (ccache's direct mode).
//!
//! A manifest is found by everything that is known before the compiler runs: toolchain, argv, environment,
//! directory, outputs and the source's own contents. It holds if every file still has its contents, every
//! link its target, every directory is there, and nothing has appeared where something was probed in vain.

use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use barn_protocol::{Action, ActionKey, Digest, Entry, Tree, canonical::Canonical};
use serde::{Deserialize, Serialize};

use super::{files::Files, layout::host_path};

/// Paths probed in vain that a manifest may list; a unit that includes thousands of headers through dozens of
/// directories stays under 20,000.
pub(super) const ABSENT_MAX: usize = 65_536;

/// What one compile of a source saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The action it was.
    pub action: ActionKey,
    /// Its input tree.
    pub inputs: Tree,
    /// Absolute paths at which nothing was.
    pub absent: Vec<Vec<u8>>,
}

/// The name of the manifests of an action whose inputs are not known yet.
pub(super) fn manifest_key(stem: &Action, source: &Digest) -> Digest {
    debug_assert!(stem.inputs.is_empty(), "the inputs are what is looked for");
    Canonical::new("barnraise include manifest v1").digest(&stem.key().0).digest(source).finish()
}

impl Manifest {
    /// The manifest's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory does not fail")
    }

    /// A manifest as stored; `None` when it is of another version or damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let manifest: Self = postcard::from_bytes(bytes).ok()?;
        (manifest.absent.len() <= ABSENT_MAX).then_some(manifest)
    }

    /// Why the manifest does not hold any more; `None` if it does.
    pub(super) fn broken_by(&self, files: &Files) -> Option<String> {
        difference(&self.inputs, &self.absent, |path, digest| files.is_still(path, digest))
    }
}

/// What on this machine is not as in `inputs` or is no longer `absent`; `is_still` judges the files.
pub(super) fn difference(
    inputs: &Tree,
    absent: &[Vec<u8>],
    is_still: impl Fn(&Path, &Digest) -> bool,
) -> Option<String> {
    let changed = inputs.iter().find(|(path, entry)| {
        let host = host_path(path);
        !match entry {
            Entry::File { digest, .. } => is_still(&host, digest),
            Entry::Symlink { target } => {
                fs::read_link(&host).is_ok_and(|now| now.into_os_string().into_vec() == *target)
            }
            Entry::Directory => fs::symlink_metadata(&host).is_ok_and(|meta| meta.is_dir()),
        }
    });
    if let Some((path, _)) = changed {
        return Some(format!("{path} has changed"));
    }
    let appeared = absent.iter().map(|path| host_path_of(path)).find(|path| path.exists());
    appeared.map(|path| format!("{} has appeared", path.display()))
}

fn host_path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use barn_protocol::TreePath;

    use super::*;

    fn tree_path(path: &Path) -> TreePath {
        TreePath::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn a_manifest_holds_until_something_it_saw_differs() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let (header, shadow) = (root.join("x.h"), root.join("first/x.h"));
        fs::write(&header, "one").unwrap();
        let entry = Entry::File { digest: Digest::of(b"one"), size: 3, executable: false };
        let mut inputs = Tree::new();
        inputs.insert(tree_path(&header), entry).unwrap();
        let manifest = Manifest {
            action: ActionKey(Digest::of(b"key")),
            inputs,
            absent: vec![shadow.as_os_str().as_bytes().to_vec()],
        };
        let manifest = Manifest::decode(&manifest.encode()).unwrap();
        let files = Files::default();
        assert_eq!(manifest.broken_by(&files), None);
        fs::create_dir(root.join("first")).unwrap();
        assert_eq!(manifest.broken_by(&files), None);
        fs::write(&shadow, "").unwrap();
        assert!(manifest.broken_by(&files).unwrap().ends_with("first/x.h has appeared"));
        fs::remove_file(&shadow).unwrap();
        fs::write(&header, "two").unwrap();
        assert!(manifest.broken_by(&files).unwrap().ends_with("x.h has changed"));
    }
}
