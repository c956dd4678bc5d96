//! One tree on the disk, changed by differences.
//!
//! Every call is relative to the tree's own descriptor: the directory of a path is opened beneath it with no
//! symbolic link followed, and what lies there is made or removed by its name. So a tree full of links that lead
//! elsewhere is changed as safely as any other.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use barn_protocol::{Entry, TreePath};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use super::{Item, Items, TreeError, copies::Copies};

/// Mode of directories: the sandbox's uid looks at them as "others".
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

pub(super) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// What lies there, every directory included.
    laid: Items,
}

impl Tree {
    /// An empty tree at `path`, where nothing is.
    pub(super) fn create(path: PathBuf) -> Result<Self, TreeError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = DirBuilder::new().mode(0o755).create(&path).and_then(|()| {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            Ok(open(&path, flags, Mode::empty())?)
        });
        match made {
            Ok(root) => Ok(Self { path, root, laid: BTreeMap::new() }),
            Err(source) => Err(TreeError::Make { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries it has, directories included.
    pub(super) fn len(&self) -> usize {
        self.laid.len()
    }

    /// Removes it from the disk.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(tree = %self.path.display(), %error, "a tree is left until the next start");
        }
    }

    /// Removes what is not among `items` and makes what is missing. After an error its contents are unknown.
    pub(super) fn become_exactly(&mut self, items: &Items, copies: &Copies) -> Result<(), TreeError> {
        let wanted = with_directories(items);
        let mut place = Place { root: &self.root, open: None };
        // Backwards, so that directories are empty when their turn comes.
        for (path, item) in self.laid.iter().rev() {
            if wanted.get(path) != Some(item) {
                place.remove(path, &item.entry).map_err(|source| at(path, source))?;
            }
        }
        for (path, item) in &wanted {
            if self.laid.get(path) != Some(item) {
                place.make(path, item, copies)?;
            }
        }
        self.laid = wanted;
        Ok(())
    }
}

/// `items` with every directory above one of them; without the root, which is always there.
fn with_directories(items: &Items) -> Items {
    let mut all = items.clone();
    for path in items.keys() {
        let mut above = path.parent();
        while let Some(directory) = above.filter(|directory| !all.contains_key(directory)) {
            above = directory.parent();
            all.insert(directory, Item { entry: Entry::Directory, shared: false });
        }
    }
    all.remove(&TreePath::root());
    // Whose a directory is makes no difference.
    all.values_mut().filter(|item| item.entry == Entry::Directory).for_each(|item| item.shared = false);
    all
}

/// The directory that is being worked in.
struct Place<'a> {
    root: &'a OwnedFd,
    open: Option<(TreePath, OwnedFd)>,
}

impl Place<'_> {
    fn remove(&mut self, path: &TreePath, entry: &Entry) -> io::Result<()> {
        let flag = match entry {
            Entry::Directory => UnlinkatFlags::RemoveDir,
            _ => UnlinkatFlags::NoRemoveDir,
        };
        let name = OsStr::from_bytes(path.name());
        unlinkat(self.parent(path)?, name, flag)?;
        Ok(())
    }

    fn make(&mut self, path: &TreePath, item: &Item, copies: &Copies) -> Result<(), TreeError> {
        let parent = self.parent(path).map_err(|source| at(path, source))?;
        let name = OsStr::from_bytes(path.name());
        let made = match &item.entry {
            Entry::Directory => mkdirat(parent, name, DIRECTORY_MODE)
                // The process' mask may have taken rights away; what was just made is no link.
                .and_then(|()| fchmodat(parent, name, DIRECTORY_MODE, FchmodatFlags::FollowSymlink)),
            Entry::Symlink { target } => symlinkat(OsStr::from_bytes(target), parent, name),
            Entry::File { digest, executable, .. } => {
                return copies.link(*digest, *executable, item.shared, parent.as_fd(), name).map_err(
                    |error| match error {
                        copies_error @ TreeError::Missing(_) => copies_error,
                        TreeError::Make { source, .. } | TreeError::Path { source, .. } => at(path, source),
                    },
                );
            }
        };
        made.map_err(|errno| at(path, errno.into()))
    }

    /// The directory `path` lies in, opened without following any link.
    fn parent(&mut self, path: &TreePath) -> io::Result<&OwnedFd> {
        let Some(parent) = path.parent().filter(|parent| *parent != TreePath::root()) else {
            return Ok(self.root);
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != parent) {
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
            let fd = openat2(self.root, OsStr::from_bytes(&parent.as_bytes()[1..]), how)?;
            self.open = Some((parent, fd));
        }
        Ok(self.open.as_ref().map_or(self.root, |(_, fd)| fd))
    }
}

fn at(path: &TreePath, source: io::Error) -> TreeError {
    TreeError::Path { at: path.clone(), source }
}
