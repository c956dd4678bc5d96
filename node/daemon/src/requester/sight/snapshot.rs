//! What one directory held when it was read.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::OpenOptionsExt as _,
    },
    path::Path,
    sync::{Arc, Mutex},
};

use nix::dir::{Dir, Type};

use super::path_of;
use crate::{
    platform::{is_fine, tick_ns},
    requester::files::Signature,
};

/// Names read of one directory; larger ones are asked name by name.
const NAMES_MAX: usize = 20_000;

/// What a name stands for, as the directory itself tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    File,
    Directory,
    Link,
    /// A device, socket or pipe.
    Special,
    /// The file system does not tell.
    Untold,
}

/// A symbolic link.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its target as written.
    pub(super) target: Vec<u8>,
    /// When it was made, in nanoseconds since 1970.
    pub(super) made_ns: i128,
}

impl Link {
    /// The link at `path`.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let made_ns = Signature::of(&fs::symlink_metadata(path)?).changed_ns();
        Ok(Self { target: fs::read_link(path)?.into_os_string().into_vec(), made_ns })
    }
}

/// The names in a directory and the signature it had before they were read.
#[derive(Debug)]
pub(super) struct Snapshot {
    path: Box<[u8]>,
    signature: Signature,
    names: HashMap<Box<[u8]>, Sort>,
    /// Links that were read. They cannot be changed, only replaced, which changes the directory.
    links: Mutex<HashMap<Box<[u8]>, Arc<Link>>>,
}

/// What came of reading a directory.
pub(super) enum Reading {
    /// It can be answered from for as long as its signature is the same.
    Lasting(Snapshot),
    /// It changed just now: another change might leave the same signature.
    Passing(Snapshot),
    /// It is to be asked name by name.
    Refused,
}

impl Snapshot {
    /// Reads the directory at `path`.
    pub(super) fn read(path: &Path) -> Reading {
        let read_at_ns = tick_ns();
        Self::try_read(path, read_at_ns).ok().flatten().unwrap_or(Reading::Refused)
    }

    fn try_read(path: &Path, read_at_ns: i128) -> io::Result<Option<Reading>> {
        let file =
            File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?;
        let meta = file.metadata()?;
        // On others, such as NFS and FUSE, names may come and go without a trace in the directory's times.
        if !meta.is_dir() || !is_fine(&file) {
            return Ok(None);
        }
        // Fails where names may be read but not looked up.
        fs::symlink_metadata(path.join("."))?;
        let signature = Signature::of(&meta);
        let racy = signature.is_racy(&file, read_at_ns);
        let mut names = HashMap::new();
        let mut dir = Dir::from_fd(file.into())?;
        for entry in dir.iter() {
            let entry = entry?;
            if names.len() >= NAMES_MAX {
                return Ok(None);
            }
            names.insert(entry.file_name().to_bytes().into(), sort_of(entry.file_type()));
        }
        names.remove(&b"."[..]);
        names.remove(&b".."[..]);
        if folds_case(path, &names) {
            return Ok(None);
        }
        let path = path.as_os_str().as_bytes().into();
        let snapshot = Self { path, signature, names, links: Mutex::default() };
        Ok(Some(if racy { Reading::Passing(snapshot) } else { Reading::Lasting(snapshot) }))
    }

    /// Whether the directory is still the one that was read, as `lstat` says. Its path holds no links, unless something was
    /// swapped just now; then a link has another signature.
    pub(super) fn holds(&self) -> bool {
        fs::symlink_metadata(path_of(&self.path)).is_ok_and(|meta| Signature::of(&meta) == self.signature)
    }

    /// What is called `name`.
    pub(super) fn get(&self, name: &[u8]) -> Option<Sort> {
        self.names.get(name).copied()
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The link called `name` in this directory, which lies at `directory`.
    pub(super) fn link(&self, directory: &Path, name: &[u8]) -> io::Result<Arc<Link>> {
        let mut links = self.links.lock().expect("no panic while the links are held");
        if let Some(link) = links.get(name) {
            return Ok(link.clone());
        }
        let link = Arc::new(Link::read(&directory.join(path_of(name)))?);
        links.insert(name.into(), link.clone());
        Ok(link)
    }
}

/// Whether the directory takes `A` for `a`, so that its list of names does not tell what can be opened.
fn folds_case(path: &Path, names: &HashMap<Box<[u8]>, Sort>) -> bool {
    let swapped = |name: &[u8]| -> Vec<u8> {
        name.iter()
            .map(|b| if b.is_ascii_lowercase() { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() })
            .collect()
    };
    let telling = names.keys().map(|name| swapped(name)).find(|name| !names.contains_key(name.as_slice()));
    match telling {
        Some(name) => fs::symlink_metadata(path.join(path_of(&name))).is_ok(),
        // No letters anywhere; the next name may have some, and then the directory has another signature.
        None => names.keys().any(|name| !name.is_ascii()),
    }
}

fn sort_of(told: Option<Type>) -> Sort {
    match told {
        Some(Type::File) => Sort::File,
        Some(Type::Directory) => Sort::Directory,
        Some(Type::Symlink) => Sort::Link,
        Some(_) => Sort::Special,
        None => Sort::Untold,
    }
}
