//! What one look rested on, kept to see by `lstat` alone whether another look would answer the same.
//!
//! Each directory, file and single name that a [`Look`] asked the kernel for becomes one call; names that were answered
//! from a directory's snapshot need none of their own. What cannot be told apart in this way is refused, and then
//! there is nothing to keep: a directory that was read in this very look (single names of it may have been asked before it
//! was read, and have changed in between), files that changed just now, file systems that do not tell the sorts of names.

use std::{fs, os::unix::ffi::OsStrExt as _, sync::Arc};

use super::{
    super::files::Kept,
    Child, Directory, Look, Names, Nowhere, Place, child_path, nowhere, path_of,
    snapshot::{Link, Snapshot},
};

/// All that the answers of one look rested on.
#[derive(Debug)]
pub(crate) struct Seen {
    directories: Vec<Arc<Snapshot>>,
    files: Vec<Arc<Kept>>,
    /// Names in directories that change too often to be remembered, by their whole paths.
    names: Vec<(Box<[u8]>, Was)>,
}

/// What was at a path.
#[derive(Debug)]
enum Was {
    Absent,
    File,
    Directory,
    Link(Arc<Link>),
}

impl Seen {
    /// What `look` rested on; `None` if a change of that might not show.
    pub(super) fn of(look: &Look<'_>) -> Option<Self> {
        let mut seen = Self { directories: Vec::new(), files: Vec::new(), names: Vec::new() };
        for directory in &look.directories {
            match &directory.names {
                Names::NotAskedYet => {}
                Names::Read { snapshot, here: false } => seen.directories.push(snapshot.clone()),
                Names::Read { here: true, .. } => return None,
                Names::OneByOne { .. } => seen.add_names(directory)?,
            }
        }
        if look.asked_untold {
            return None;
        }
        for found in &look.found {
            if let Some(known) = &found.known {
                seen.files.push(look.files.kept(&found.real, known)?);
            }
        }
        Some(seen)
    }

    fn add_names(&mut self, directory: &Directory) -> Option<()> {
        for (name, child) in &directory.children {
            let was = match child {
                Child::Nowhere(Nowhere::Absent) => Was::Absent,
                Child::Is(Place::File(_)) => Was::File,
                Child::Is(Place::Directory(_)) => Was::Directory,
                Child::Link(link) => Was::Link(link.clone()),
                Child::Nowhere(_) | Child::Is(Place::Special) => return None,
            };
            self.names.push((child_path(&directory.real, name).into(), was));
        }
        Some(())
    }

    /// Whether everything is as it was.
    pub(crate) fn holds(&self) -> bool {
        self.directories.iter().all(|snapshot| snapshot.holds())
            && self.names.iter().all(|(path, was)| was.holds(path))
            && self.files.iter().all(|kept| kept.holds())
    }
}

impl Was {
    fn holds(&self, path: &[u8]) -> bool {
        let path = path_of(path);
        match fs::symlink_metadata(path) {
            Ok(meta) => match self {
                Self::Absent => false,
                Self::File => meta.is_file(),
                Self::Directory => meta.is_dir(),
                Self::Link(link) => {
                    fs::read_link(path).is_ok_and(|now| now.as_os_str().as_bytes() == link.target)
                }
            },
            Err(error) => matches!(self, Self::Absent) && nowhere(&error) == Nowhere::Absent,
        }
    }
}
