//! What lies where on this machine, answered from what directories held when they were last read.
//!
//! A compile looks for its headers at hundreds of paths, most of which lead nowhere. Asking the kernel for each of them
//! is most of the cost of a hit. [`Sight`] remembers the names in directories; a [`Look`] is one view of the machine, for
//! one check or scan. It asks for each directory once and answers for all names in it; below a directory that is not
//! there it asks for nothing.
//!
//! ```text
//!             `stat` says what it said when it was read
//!  remembered ──────────────────────────────────────────▶ names are answered from memory
//!      │ it says something else                                      ▲
//!      ▼                                                             │ more were asked than reading costs
//!  forgotten ───────────────▶ names are asked for one by one ────────┘
//! ```
//!
//! Invariant: a directory is remembered only if any later change of it changes what `stat` says of it: on file systems known to
//! keep fine times, and when its last change lies further back than the clock's granularity (as in [`super::files`]).
//! Invariant: within one look a question has one answer.
//!
//! A directory that changes all the time (objects are written beside the sources) is thus asked name by name, which costs
//! what it always did. Paths are walked as the kernel walks them: component by component, links followed, `..` being
//! the real parent. Mount points need no care: they hide a directory behind another with the same name and sort, and
//! `stat` of the path tells them apart.

mod seen;
mod snapshot;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_protocol::action::Blob;
pub(super) use seen::Seen;
use snapshot::{Link, Reading, Snapshot, Sort};

use super::files::{Files, Known, Signature};

/// Directories remembered; about 300 bytes each besides their names.
const DIRECTORIES_MAX: usize = 16_384;
/// Names remembered in all directories together; about 80 bytes each, some 20 MB.
const NAMES_MAX: usize = 262_144;
/// Names asked one by one of a directory that was never read before it is read.
const ASKED_FIRST: u32 = 8;
/// Reading a directory costs about as much for so many names in it as asking for one.
const NAMES_PER_ASKED: u32 = 4;
/// Names asked one by one before a directory that could not be read is tried again.
const ASKED_AFTER_REFUSAL: u32 = 10_000;
/// Most symbolic links followed for one path, as in Linux (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;
/// Longest name of a file, in bytes, as in Linux (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Longest path, in bytes, with the NUL at its end, as in Linux (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// The remembered directories, by their real paths. Shared by all requests.
#[derive(Debug, Default)]
pub struct Sight(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    directories: HashMap<Box<[u8]>, Remembered>,
    names: usize,
}

/// What is remembered of one directory.
#[derive(Debug, Clone, Default)]
struct Remembered {
    snapshot: Option<Arc<Snapshot>>,
    /// Names asked one by one since it was last read.
    asked: u32,
    /// Names asked one by one after which it is to be read; 0 if it is not known.
    worth: u32,
}

/// A directory of one [`Look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirectoryId(u32);

/// A regular file of one [`Look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(u32);

/// What lies at the end of a path, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A regular file.
    File(FileId),
    /// A directory.
    Directory(DirectoryId),
    /// A device, socket or pipe.
    Special,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// Something on the way is not there, or is no directory.
    #[error("it is not there")]
    Absent,
    /// Links go in circles.
    #[error("too many links")]
    Loop,
    /// The path or a name in it is too long.
    #[error("the name is too long")]
    TooLong,
    /// Something on the way cannot be looked at.
    #[error("it cannot be looked at")]
    Unreadable,
}

/// What is passed on the way to a place.
#[derive(Debug)]
pub enum Step<'a> {
    /// A directory.
    Directory {
        /// Which one.
        id: DirectoryId,
        /// Its real path.
        real: &'a [u8],
    },
    /// A symbolic link.
    Link {
        /// The real path of the directory it is in.
        directory: &'a [u8],
        /// Its name.
        name: &'a [u8],
        /// Its target as written.
        target: &'a [u8],
        /// When it was made, in nanoseconds since 1970.
        made_ns: i128,
    },
}

/// One view of the file system. Answers stay as they were first given, so it must not outlive one request.
#[derive(Debug)]
pub struct Look<'a> {
    sight: &'a Sight,
    files: &'a Files,
    cwd: Vec<u8>,
    directories: Vec<Directory>,
    found: Vec<FoundFile>,
    /// Where directories as they were spelled lead.
    spelled: HashMap<Box<[u8]>, Result<Place, Nowhere>>,
    /// Whether a name was asked for because its directory does not tell its sort.
    asked_untold: bool,
}

#[derive(Debug)]
struct Directory {
    real: Box<[u8]>,
    parent: DirectoryId,
    names: Names,
    /// Names asked one by one.
    asked: u32,
    children: HashMap<Box<[u8]>, Child>,
}

/// How names in a directory are answered.
#[derive(Debug, Clone)]
enum Names {
    NotAskedYet,
    Read {
        snapshot: Arc<Snapshot>,
        /// Whether it was read in this look.
        here: bool,
    },
    OneByOne {
        /// Names asked before this look.
        before: u32,
        /// Names asked after which it is read.
        worth: u32,
    },
}

#[derive(Debug, Clone)]
enum Child {
    Nowhere(Nowhere),
    Is(Place),
    Link(Arc<Link>),
}

#[derive(Debug)]
struct FoundFile {
    real: Box<[u8]>,
    /// What `stat` said of it in this look.
    signature: Option<Signature>,
    known: Option<Known>,
}

const ROOT: DirectoryId = DirectoryId(0);
/// Where the kernel shows each process its own files: `/dev/fd/9` and `/dev/stdin` lead there too. The compiler would see others.
const PROCESSES: &[u8] = b"proc";

impl Sight {
    fn recall(&self, real: &[u8]) -> Remembered {
        self.lock().directories.get(real).cloned().unwrap_or_default()
    }

    /// Remembers what was learned of a directory.
    fn remember(&self, real: &[u8], learned: Remembered) {
        let mut table = self.lock();
        let names = learned.snapshot.as_ref().map_or(0, |snapshot| snapshot.len());
        if table.names + names > NAMES_MAX || table.directories.len() >= DIRECTORIES_MAX {
            *table = Table::default();
        }
        table.names += names;
        let before = table.directories.insert(real.into(), learned);
        table.names -= before.and_then(|before| before.snapshot).map_or(0, |snapshot| snapshot.len());
    }

    /// Counts names asked one by one.
    fn add_asked(&self, real: &[u8], asked: u32) {
        let mut table = self.lock();
        if let Some(known) = table.directories.get_mut(real) {
            known.asked = known.asked.saturating_add(asked);
        } else {
            drop(table);
            self.remember(real, Remembered { asked, ..Remembered::default() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while the table is held")
    }
}

impl<'a> Look<'a> {
    /// A look around from the working directory `cwd`, an absolute path.
    pub fn new(sight: &'a Sight, files: &'a Files, cwd: &Path) -> Self {
        let root = Directory::new(b"/", ROOT);
        Self {
            sight,
            files,
            cwd: cwd.as_os_str().as_bytes().to_vec(),
            directories: vec![root],
            found: Vec::new(),
            spelled: HashMap::new(),
            asked_untold: false,
        }
    }

    /// What all answers so far rested on; `None` if a change of that might not show.
    pub(super) fn seen(&self) -> Option<Seen> {
        Seen::of(self)
    }

    /// What lies at `path`, relative to the working directory unless absolute.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn at(&mut self, path: &[u8]) -> Result<Place, Nowhere> {
        match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => self.find(&path[..=slash], &path[slash + 1..]),
            None => self.find(b"", path),
        }
    }

    /// What is called `name` in `directory`, which is relative to the working directory unless absolute. `name` may
    /// contain slashes; if it is absolute, `directory` does not matter.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn find(&mut self, directory: &[u8], name: &[u8]) -> Result<Place, Nowhere> {
        if name.first() == Some(&b'/') {
            return self.at(name);
        }
        if directory.len() + name.len() + 1 >= PATH_BYTES_MAX {
            return Err(Nowhere::TooLong);
        }
        let start = self.start(directory)?;
        self.walk_from(start, name, &mut 0, &mut |_| ())
    }

    /// What is called `name`, a single component, in `directory`, unless that is a link.
    pub(super) fn find_unlinked(&mut self, directory: &[u8], name: &[u8]) -> Option<Place> {
        match self.child_of(directory, name)? {
            Child::Is(place) => Some(place),
            _ => None,
        }
    }

    /// The target of the link called `name` in `directory`.
    pub(super) fn link_target(&mut self, directory: &[u8], name: &[u8]) -> Option<Vec<u8>> {
        match self.child_of(directory, name)? {
            Child::Link(link) => Some(link.target.clone()),
            _ => None,
        }
    }

    /// Walks to `path`, showing what is passed on the way and the directory at its end.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn walk(&mut self, path: &[u8], passed: &mut dyn FnMut(Step<'_>)) -> Result<Place, Nowhere> {
        if path.len() >= PATH_BYTES_MAX {
            return Err(Nowhere::TooLong);
        }
        if path.first() == Some(&b'/') {
            return self.walk_from(ROOT, path, &mut 0, passed);
        }
        let cwd = std::mem::take(&mut self.cwd);
        let start = self.walk_from(ROOT, &cwd, &mut 0, passed);
        self.cwd = cwd;
        match start? {
            Place::Directory(start) => self.walk_from(start, path, &mut 0, passed),
            _ => Err(Nowhere::Absent),
        }
    }

    /// The same, from a directory on.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn walk_in(
        &mut self,
        start: DirectoryId,
        path: &[u8],
        passed: &mut dyn FnMut(Step<'_>),
    ) -> Result<Place, Nowhere> {
        self.walk_from(start, path, &mut 0, passed)
    }

    /// The working directory, absolute, as it was spelled.
    pub fn cwd(&self) -> &[u8] {
        &self.cwd
    }

    /// The real path of a file.
    pub fn path(&self, file: FileId) -> &[u8] {
        &self.found[file.0 as usize].real
    }

    /// The real path of a directory.
    pub fn directory_path(&self, directory: DirectoryId) -> &[u8] {
        &self.directory(directory).real
    }

    /// The contents of a file, as in [`Files::known`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known(&mut self, file: FileId, on_read: impl FnOnce(&Blob, &[u8])) -> io::Result<Known> {
        let file = &mut self.found[file.0 as usize];
        if let Some(known) = file.known {
            return Ok(known);
        }
        let path = path_of(&file.real);
        let known = match &file.signature {
            Some(signature) => self.files.known_as(path, signature, on_read),
            None => self.files.known(path, on_read),
        }?;
        file.known = Some(known);
        Ok(known)
    }

    /// What `stat` says of a file.
    ///
    /// # Errors
    /// When it is no longer there.
    pub fn signature(&mut self, file: FileId) -> io::Result<Signature> {
        let file = &mut self.found[file.0 as usize];
        if let Some(signature) = file.known.map(|known| known.signature).or(file.signature) {
            return Ok(signature);
        }
        let signature = Signature::of(&fs::metadata(path_of(&file.real))?);
        file.signature = Some(signature);
        Ok(signature)
    }

    /// A directory as it is spelled.
    fn start(&mut self, directory: &[u8]) -> Result<DirectoryId, Nowhere> {
        let found = match self.spelled.get(directory) {
            Some(known) => *known,
            None => {
                let found = self.walk(directory, &mut |_| ());
                self.spelled.insert(directory.into(), found);
                found
            }
        };
        match found? {
            Place::Directory(start) => Ok(start),
            _ => Err(Nowhere::Absent),
        }
    }

    fn child_of(&mut self, directory: &[u8], name: &[u8]) -> Option<Child> {
        let start = self.start(directory).ok()?;
        let plain = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/');
        plain.then(|| self.child(start, name))
    }

    fn walk_from(
        &mut self,
        start: DirectoryId,
        path: &[u8],
        links: &mut u32,
        passed: &mut dyn FnMut(Step<'_>),
    ) -> Result<Place, Nowhere> {
        let mut place = Place::Directory(start);
        for name in path.split(|&b| b == b'/') {
            // A slash after a file leads nowhere either.
            let Place::Directory(directory) = place else { return Err(Nowhere::Absent) };
            place = match name {
                b"" | b"." => place,
                b".." => Place::Directory(self.directory(directory).parent),
                name => match self.child(directory, name) {
                    Child::Nowhere(why) => return Err(why),
                    Child::Is(place) => place,
                    Child::Link(link) => self.follow(directory, name, &link, links, passed)?,
                },
            };
            if let Place::Directory(id) = place {
                passed(Step::Directory { id, real: &self.directory(id).real });
            }
        }
        Ok(place)
    }

    fn follow(
        &mut self,
        directory: DirectoryId,
        name: &[u8],
        link: &Link,
        links: &mut u32,
        passed: &mut dyn FnMut(Step<'_>),
    ) -> Result<Place, Nowhere> {
        *links += 1;
        if *links > LINKS_MAX {
            return Err(Nowhere::Loop);
        }
        let real = &self.directory(directory).real;
        passed(Step::Link { directory: real, name, target: &link.target, made_ns: link.made_ns });
        let start = if link.target.first() == Some(&b'/') { ROOT } else { directory };
        self.walk_from(start, &link.target, links, passed)
    }

    fn child(&mut self, directory: DirectoryId, name: &[u8]) -> Child {
        if let Some(known) = self.directory(directory).children.get(name) {
            return known.clone();
        }
        if name.len() > NAME_BYTES_MAX {
            return Child::Nowhere(Nowhere::TooLong);
        }
        if directory == ROOT && name == PROCESSES {
            return Child::Nowhere(Nowhere::Unreadable);
        }
        let child = match self.names(directory) {
            Some(snapshot) => match snapshot.get(name) {
                // Not kept: asking again is as quick.
                None => return Child::Nowhere(Nowhere::Absent),
                Some(Sort::File) => self.add_file(directory, name, None),
                Some(Sort::Directory) => self.add_directory(directory, name),
                Some(Sort::Special) => Child::Is(Place::Special),
                Some(Sort::Untold) => {
                    self.asked_untold = true;
                    self.ask(directory, name)
                }
                Some(Sort::Link) => match snapshot.link(path_of(&self.directory(directory).real), name) {
                    Ok(link) => Child::Link(link),
                    Err(error) => Child::Nowhere(nowhere(&error)),
                },
            },
            None => self.ask(directory, name),
        };
        self.directory_mut(directory).children.insert(name.into(), child.clone());
        child
    }

    /// What the directory holds, if it is worth knowing that; else one name is to be asked for.
    fn names(&mut self, id: DirectoryId) -> Option<Arc<Snapshot>> {
        let sight = self.sight;
        let directory = self.directory_mut(id);
        if matches!(directory.names, Names::NotAskedYet) {
            directory.names = first_look(sight, &directory.real);
        }
        let (before, worth) = match &directory.names {
            Names::Read { snapshot, .. } => return Some(snapshot.clone()),
            Names::OneByOne { before, worth } => (*before, *worth),
            Names::NotAskedYet => return None,
        };
        directory.asked += 1;
        if before.saturating_add(directory.asked) <= worth {
            return None;
        }
        directory.asked = 0;
        let learn =
            |snapshot, worth| sight.remember(&directory.real, Remembered { snapshot, asked: 0, worth });
        let snapshot = match Snapshot::read(path_of(&directory.real)) {
            Reading::Lasting(snapshot) => {
                let snapshot = Arc::new(snapshot);
                learn(Some(snapshot.clone()), worth_of(&snapshot));
                snapshot
            }
            Reading::Passing(snapshot) => {
                learn(None, worth_of(&snapshot));
                Arc::new(snapshot)
            }
            Reading::Refused => {
                learn(None, ASKED_AFTER_REFUSAL);
                directory.names = Names::OneByOne { before: 0, worth: u32::MAX };
                return None;
            }
        };
        directory.names = Names::Read { snapshot: snapshot.clone(), here: true };
        Some(snapshot)
    }

    /// Asks the kernel for one name.
    fn ask(&mut self, directory: DirectoryId, name: &[u8]) -> Child {
        let whole = child_path(&self.directory(directory).real, name);
        let path = path_of(&whole);
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) => return Child::Nowhere(nowhere(&error)),
        };
        let kind = meta.file_type();
        if kind.is_file() {
            self.add_file(directory, name, Some(Signature::of(&meta)))
        } else if kind.is_dir() {
            self.add_directory(directory, name)
        } else if kind.is_symlink() {
            match Link::read(path) {
                Ok(link) => Child::Link(Arc::new(link)),
                Err(error) => Child::Nowhere(nowhere(&error)),
            }
        } else {
            Child::Is(Place::Special)
        }
    }

    fn add_file(&mut self, directory: DirectoryId, name: &[u8], signature: Option<Signature>) -> Child {
        let real = child_path(&self.directory(directory).real, name).into();
        let id = FileId(u32::try_from(self.found.len()).expect("memory ends before"));
        self.found.push(FoundFile { real, signature, known: None });
        Child::Is(Place::File(id))
    }

    fn add_directory(&mut self, parent: DirectoryId, name: &[u8]) -> Child {
        let real = child_path(&self.directory(parent).real, name);
        let id = DirectoryId(u32::try_from(self.directories.len()).expect("memory ends before"));
        self.directories.push(Directory::new(&real, parent));
        Child::Is(Place::Directory(id))
    }

    fn directory(&self, id: DirectoryId) -> &Directory {
        &self.directories[id.0 as usize]
    }

    fn directory_mut(&mut self, id: DirectoryId) -> &mut Directory {
        &mut self.directories[id.0 as usize]
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        for directory in self.directories.iter().filter(|directory| directory.asked > 0) {
            self.sight.add_asked(&directory.real, directory.asked);
        }
    }
}

impl Directory {
    fn new(real: &[u8], parent: DirectoryId) -> Self {
        Self { real: real.into(), parent, names: Names::NotAskedYet, asked: 0, children: HashMap::new() }
    }
}

/// How the names in a directory are answered at first.
fn first_look(sight: &Sight, real: &[u8]) -> Names {
    let known = sight.recall(real);
    let Some(snapshot) = known.snapshot else {
        return Names::OneByOne { before: known.asked, worth: known.worth.max(ASKED_FIRST) };
    };
    if snapshot.holds() {
        return Names::Read { snapshot, here: false };
    }
    let worth = worth_of(&snapshot);
    sight.remember(real, Remembered { snapshot: None, asked: 0, worth });
    Names::OneByOne { before: 0, worth }
}

/// Names asked one by one that cost as much as reading them all.
fn worth_of(snapshot: &Snapshot) -> u32 {
    ASKED_FIRST.max(u32::try_from(snapshot.len()).unwrap_or(u32::MAX) / NAMES_PER_ASKED)
}

fn nowhere(error: &io::Error) -> Nowhere {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Nowhere::Absent,
        io::ErrorKind::InvalidFilename => Nowhere::TooLong,
        _ => Nowhere::Unreadable,
    }
}

fn child_path(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"/" => [b"/", name].concat(),
        _ => [directory, b"/", name].concat(),
    }
}

pub(super) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
