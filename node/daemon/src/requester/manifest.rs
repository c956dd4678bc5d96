//! Include manifests: what a source was seen to include, kept so that the next compile of the same source finds
//! its action by looking at files only (ccache's direct mode).
//!
//! A manifest is found by everything that is known before the compiler runs: toolchain, argv, environment,
//! directory, outputs and the source's own contents. It holds if every file still has its contents, every
//! link its target, every directory is there, and nothing has appeared where something was probed in vain.
//!
//! Paths are kept by directory, because that is how they are checked: a [`Look`] asks for each directory once,
//! whatever the number of names in it. A manifest is read in place; nothing is copied out of its bytes.

use std::collections::{BTreeMap, HashMap};

pub(super) use barn_protocol::keys::manifest_key;
use barn_protocol::{ActionKey, Digest, Entry, Places, Tree};
use serde::{Deserialize, Serialize};

use super::sight::{FileId, Look, Nowhere, Place};

/// Paths probed in vain that a manifest may list; a unit that includes thousands of headers through dozens of
/// directories stays under 20,000.
pub(super) const ABSENT_MAX: usize = 65_536;

/// Paths at which nothing is, by directory, or nothing that a compiler would open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absent {
    directories: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    len: usize,
    /// Where a file was looked for and a directory is, as spelled.
    passed_over: Vec<Vec<u8>>,
}

/// What one compile of a source saw.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest<'a> {
    /// The action it was.
    pub(super) action: ActionKey,
    #[serde(borrow)]
    folders: Vec<Folder<'a>>,
    /// Paths at which directories are where files were looked for.
    passed_over: Vec<&'a [u8]>,
}

/// What was seen in one directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Folder<'a> {
    /// Its path: a real one, but for what is absent; absolute, or relative to the working directory.
    path: &'a [u8],
    files: Vec<(&'a [u8], Digest)>,
    /// Names and targets.
    links: Vec<(&'a [u8], &'a [u8])>,
    directories: Vec<&'a [u8]>,
    /// Names of which nothing was there. They may hold slashes.
    absent: Vec<&'a [u8]>,
}

impl Absent {
    /// Adds a path: absolute, or relative to the working directory. The same path twice is kept twice.
    pub fn add(&mut self, path: &[u8]) {
        let split = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let (directory, name) = path.split_at(split);
        self.len += 1;
        match self.directories.get_mut(directory) {
            Some(names) => names.push(name.to_vec()),
            None => drop(self.directories.insert(directory.to_vec(), vec![name.to_vec()])),
        }
    }

    /// Adds a path at which a file was looked for and a directory is.
    pub fn pass_over(&mut self, path: &[u8]) {
        self.len += 1;
        self.passed_over.push(path.to_vec());
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The paths at which nothing is, each once, sorted.
    pub fn sorted(&self) -> Vec<Vec<u8>> {
        let mut paths: Vec<Vec<u8>> = self.iter().collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Where a file was looked for and a directory is, as spelled.
    pub fn passed_over(&self) -> impl Iterator<Item = &[u8]> {
        self.passed_over.iter().map(Vec::as_slice)
    }

    /// The paths at which nothing is, as they were added, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u8>> {
        let whole = |(directory, names): (&'_ Vec<u8>, &'_ Vec<Vec<u8>>)| {
            names.iter().map(|name| [directory.as_slice(), name].concat()).collect::<Vec<_>>()
        };
        self.directories.iter().flat_map(whole)
    }
}

impl<'a> Manifest<'a> {
    /// The manifest of an action with these inputs.
    pub(super) fn new(action: ActionKey, inputs: &'a Tree, absent: &'a Absent) -> Self {
        let mut folders = BTreeMap::<&[u8], Folder<'_>>::new();
        for (path, entry) in inputs.iter() {
            let (directory, name) = split(path.as_bytes());
            let folder = folders.entry(directory).or_default();
            match entry {
                Entry::File { digest, .. } => folder.files.push((name, *digest)),
                Entry::Symlink { target } => folder.links.push((name, target)),
                Entry::Directory => folder.directories.push(name),
            }
        }
        for (directory, names) in &absent.directories {
            let names = names.iter().map(Vec::as_slice);
            folders.entry(directory).or_default().absent.extend(names);
        }
        let sorted = folders.into_iter().map(|(path, mut folder)| {
            folder.path = path;
            folder.absent.sort_unstable();
            folder.absent.dedup();
            folder
        });
        let passed_over = absent.passed_over.iter().map(Vec::as_slice).collect();
        Self { action, folders: sorted.collect(), passed_over }
    }

    /// The manifest's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory does not fail")
    }

    /// A manifest as stored; `None` when it is damaged.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let manifest: Self = postcard::from_bytes(bytes).ok()?;
        let absent: usize = manifest.folders.iter().map(|folder| folder.absent.len()).sum();
        (absent + manifest.passed_over.len() <= ABSENT_MAX).then_some(manifest)
    }

    /// The manifest's bytes for any checkout: marks stand for the places.
    pub(super) fn encode_marked(&self, places: &Places) -> Vec<u8> {
        let marked: Vec<Vec<u8>> = self.paths().map(|path| places.mark_target(path)).collect();
        let mut manifest = self.with_paths(&marked);
        for (folder, own) in manifest.folders.iter_mut().zip(&self.folders) {
            // They are there wherever the places are, under other names.
            folder.directories.retain(|name| !places.implies(&joined(own.path, name)));
        }
        manifest.folders.retain(|folder| !folder.is_empty());
        manifest.encode()
    }

    /// The paths of a manifest with marks as they are in `places`; `None` if it is of other kinds of places.
    pub(super) fn unmarked(&self, places: &Places) -> Option<Vec<Vec<u8>>> {
        self.paths().map(|path| places.unmark(path)).collect()
    }

    /// All that may be an absolute path.
    fn paths(&self) -> impl Iterator<Item = &'a [u8]> {
        let of_folder = |folder: &Folder<'a>| {
            let targets = folder.links.iter().map(|(_, target)| *target);
            std::iter::once(folder.path).chain(targets).collect::<Vec<_>>()
        };
        self.folders.iter().flat_map(of_folder).chain(self.passed_over.iter().copied())
    }

    /// The same with other paths, in the order of [`Manifest::paths`].
    pub(super) fn with_paths<'b>(&self, paths: &'b [Vec<u8>]) -> Manifest<'b>
    where
        'a: 'b,
    {
        let mut paths = paths.iter().map(Vec::as_slice);
        let mut next = move || paths.next().unwrap_or_default();
        let folders = self.folders.iter().map(|folder| Folder {
            path: next(),
            files: folder.files.clone(),
            links: folder.links.iter().map(|(name, _)| (*name, next())).collect(),
            directories: folder.directories.clone(),
            absent: folder.absent.clone(),
        });
        let folders = folders.collect();
        Manifest {
            action: self.action,
            folders,
            passed_over: self.passed_over.iter().map(|_| next()).collect(),
        }
    }

    /// Why the manifest does not hold any more, as `look` sees it; `None` if it does.
    pub(super) fn broken_by(&self, look: &mut Look<'_>) -> Option<String> {
        self.difference(look, |look, file, digest| {
            look.known(file, |_, _| ()).is_ok_and(|known| known.blob.digest == *digest)
        })
    }

    /// What is not as it was seen; `is_still` judges the files.
    pub(super) fn difference(
        &self,
        look: &mut Look<'_>,
        mut is_still: impl FnMut(&mut Look<'_>, FileId, &Digest) -> bool,
    ) -> Option<String> {
        let differs = self.folders.iter().find_map(|folder| folder.difference(look, &mut is_still));
        differs.or_else(|| {
            let is_gone = |path: &&&[u8]| !matches!(look.at(path), Ok(Place::Directory(_)));
            let gone = self.passed_over.iter().find(is_gone)?;
            Some(format!("{} has changed", String::from_utf8_lossy(gone)))
        })
    }
}

impl Folder<'_> {
    fn is_empty(&self) -> bool {
        let Self { path: _, files, links, directories, absent } = self;
        files.is_empty() && links.is_empty() && directories.is_empty() && absent.is_empty()
    }

    fn difference(
        &self,
        look: &mut Look<'_>,
        is_still: &mut impl FnMut(&mut Look<'_>, FileId, &Digest) -> bool,
    ) -> Option<String> {
        let told = |name: &[u8], what| {
            let directory = String::from_utf8_lossy(self.path);
            let slash = if directory.ends_with('/') || directory.is_empty() { "" } else { "/" };
            Some(format!("{directory}{slash}{} has {what}", String::from_utf8_lossy(name)))
        };
        for (name, digest) in &self.files {
            match look.find_unlinked(self.path, name) {
                Some(Place::File(file)) if is_still(look, file, digest) => {}
                _ => return told(name, "changed"),
            }
        }
        for name in &self.directories {
            if !matches!(look.find_unlinked(self.path, name), Some(Place::Directory(_))) {
                return told(name, "changed");
            }
        }
        for (name, target) in &self.links {
            if look.link_target(self.path, name).is_none_or(|now| now != *target) {
                return told(name, "changed");
            }
        }
        let appeared = self.absent.iter().find(|name| look.find(self.path, name) != Err(Nowhere::Absent));
        appeared.and_then(|name| told(name, "appeared"))
    }
}

/// A name in a directory as one path.
fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") || name.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// A path of a tree as its directory and its name; the name of the root is empty.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    (&path[..slash.max(1)], &path[slash + 1..])
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        path::Path,
    };

    use barn_protocol::TreePath;

    use super::*;
    use crate::requester::{files::Files, sight::Sight};

    fn tree_path(path: &Path) -> TreePath {
        TreePath::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn a_manifest_holds_until_something_it_saw_differs() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| root.join(name);
        fs::write(at("x.h"), "one").unwrap();
        fs::create_dir(at("sub")).unwrap();
        symlink("x.h", at("link.h")).unwrap();
        let mut inputs = Tree::new();
        for (name, entry) in [
            ("x.h", Entry::File { digest: Digest::of(b"one"), size: 3, executable: false }),
            ("sub", Entry::Directory),
            ("link.h", Entry::Symlink { target: b"x.h".to_vec() }),
        ] {
            inputs.insert(tree_path(&at(name)), entry).unwrap();
        }
        let mut absent = Absent::default();
        absent.add(at("first/x.h").as_os_str().as_bytes());
        absent.add(at("link.h.gch").as_os_str().as_bytes());
        absent.add(b"sub/../gone/y.h");
        fs::create_dir(at("as-file")).unwrap();
        absent.pass_over(b"as-file");
        let bytes = Manifest::new(ActionKey(Digest::of(b"key")), &inputs, &absent).encode();
        let manifest = Manifest::decode(&bytes).unwrap();
        let (files, sight) = (Files::default(), Sight::default());
        let check = |change: &dyn Fn(), undo: &dyn Fn(), expect: &str| {
            // Often enough for the directories to be read and remembered.
            for _ in 0..20 {
                assert_eq!(
                    manifest.broken_by(&mut Look::new(&sight, &files, &root)),
                    None,
                    "before {expect}"
                );
            }
            change();
            let why = manifest.broken_by(&mut Look::new(&sight, &files, &root));
            assert!(why.as_ref().is_some_and(|why| why.ends_with(expect)), "{why:?}, not {expect}");
            undo();
        };
        check(
            &|| fs::create_dir(at("first")).and_then(|()| fs::write(at("first/x.h"), "")).unwrap(),
            &|| fs::remove_file(at("first/x.h")).unwrap(),
            "first/x.h has appeared",
        );
        check(
            &|| fs::create_dir(at("gone")).and_then(|()| fs::create_dir(at("gone/y.h"))).unwrap(),
            &|| fs::remove_dir_all(at("gone")).unwrap(),
            "gone/y.h has appeared",
        );
        check(
            &|| fs::write(at("x.h"), "two").unwrap(),
            &|| fs::write(at("x.h"), "one").unwrap(),
            "x.h has changed",
        );
        check(
            &|| fs::rename(at("x.h"), at("y.h")).and_then(|()| symlink("y.h", at("x.h"))).unwrap(),
            &|| fs::rename(at("y.h"), at("x.h")).unwrap(),
            "x.h has changed",
        );
        check(
            &|| fs::remove_file(at("link.h")).and_then(|()| symlink("./x.h", at("link.h"))).unwrap(),
            &|| fs::remove_file(at("link.h")).and_then(|()| symlink("x.h", at("link.h"))).unwrap(),
            "link.h has changed",
        );
        check(
            &|| fs::remove_dir(at("sub")).and_then(|()| symlink("first", at("sub"))).unwrap(),
            &|| fs::remove_file(at("sub")).and_then(|()| fs::create_dir(at("sub"))).unwrap(),
            "sub has changed",
        );
        check(
            &|| fs::remove_dir(at("as-file")).and_then(|()| fs::write(at("as-file"), "")).unwrap(),
            &|| fs::remove_file(at("as-file")).and_then(|()| fs::create_dir(at("as-file"))).unwrap(),
            "as-file has changed",
        );
        assert_eq!(Manifest::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_marked_manifest_holds_in_another_checkout_until_something_differs() {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let checkout = |name: &str| {
            let root = top.join(name);
            fs::create_dir_all(root.join("sub")).unwrap();
            fs::write(root.join("x.h"), "one").unwrap();
            symlink(root.join("x.h"), root.join("link.h")).unwrap();
            root
        };
        let (one, two) = (checkout("one"), checkout("deep/two"));
        let places = |root: &Path| Places::new(tree_path(root), &tree_path(root)).unwrap();
        let mut inputs = Tree::new();
        let target = one.join("x.h").as_os_str().as_bytes().to_vec();
        for (path, entry) in [
            (one.join("x.h"), Entry::File { digest: Digest::of(b"one"), size: 3, executable: false }),
            (one.join("link.h"), Entry::Symlink { target }),
            (one.join("sub"), Entry::Directory),
            (one.clone(), Entry::Directory),
            (top.clone(), Entry::Directory),
        ] {
            inputs.insert(tree_path(&path), entry).unwrap();
        }
        let mut absent = Absent::default();
        absent.add(one.join("sub/x.h").as_os_str().as_bytes());
        absent.add(b"sub/y.h");
        let action = ActionKey(Digest::of(b"key"));
        let bytes = Manifest::new(action, &inputs, &absent).encode_marked(&places(&one));
        let (files, sight) = (Files::default(), Sight::default());
        let broken = |root: &Path| {
            let marked = Manifest::decode(&bytes).unwrap();
            let paths = marked.unmarked(&places(root)).unwrap();
            marked.with_paths(&paths).broken_by(&mut Look::new(&sight, &files, root))
        };
        assert_eq!((broken(&one), broken(&two)), (None, None));
        let name = String::from_utf8_lossy(two.as_os_str().as_bytes()).into_owned();
        let check = |change: &dyn Fn(), undo: &dyn Fn(), expect: &str| {
            change();
            assert_eq!(broken(&two), Some(format!("{name}/{expect}")));
            assert_eq!(broken(&one), None, "{expect}");
            undo();
            assert_eq!(broken(&two), None, "{expect}");
        };
        let at = |name: &str| two.join(name);
        check(
            &|| fs::write(at("x.h"), "two").unwrap(),
            &|| fs::write(at("x.h"), "one").unwrap(),
            "x.h has changed",
        );
        check(
            &|| fs::write(at("sub/x.h"), "").unwrap(),
            &|| fs::remove_file(at("sub/x.h")).unwrap(),
            "sub/x.h has appeared",
        );
        let relink = |target: &Path| {
            fs::remove_file(at("link.h")).and_then(|()| symlink(target, at("link.h"))).unwrap();
        };
        // It led into the other checkout.
        check(&|| relink(&one.join("x.h")), &|| relink(&at("x.h")), "link.h has changed");
        let apart = Places::new(tree_path(&two), &tree_path(&top)).unwrap();
        let marked = Manifest::new(action, &inputs, &absent);
        let of_apart =
            marked.encode_marked(&Places::new(tree_path(&one.join("sub")), &tree_path(&one)).unwrap());
        assert!(Manifest::decode(&of_apart).unwrap().unmarked(&places(&two)).is_none(), "it has two places");
        assert!(Manifest::decode(&of_apart).unwrap().unmarked(&apart).is_some());
    }
}
