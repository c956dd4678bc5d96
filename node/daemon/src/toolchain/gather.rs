//! Collects the files of one toolchain while a compiler is questioned.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use barn_protocol::{path::TreePath, toolchain::Toolchain, tree::Entry, tree::Tree};

use super::{
    discover::DiscoverError,
    elf::{self, Elf},
    loader::{self, LoaderError},
    probe::{self, Answer},
    stamp::{self, Witnesses},
    walk::Walk,
};

/// What has been found so far.
pub(super) struct Gather<'a> {
    /// The compiler, as it was called.
    pub(super) program: &'a Path,
    search_path: &'a OsStr,
    walk: Walk,
    files: BTreeSet<PathBuf>,
    aliases: BTreeMap<PathBuf, PathBuf>,
    used_directories: BTreeSet<PathBuf>,
    /// Everything that was looked at.
    pub(super) seen: Witnesses,
}

impl<'a> Gather<'a> {
    pub(super) fn new(program: &'a Path, search_path: &'a OsStr) -> Self {
        Self {
            program,
            search_path,
            walk: Walk::default(),
            files: BTreeSet::new(),
            aliases: BTreeMap::new(),
            used_directories: program.parent().map(Path::to_owned).into_iter().collect(),
            seen: Witnesses::default(),
        }
    }

    /// The `PATH` that the compiler is called with.
    pub(super) fn search_path(&self) -> &'a OsStr {
        self.search_path
    }

    /// The real path of `path`; the links on the way become part of the toolchain.
    pub(super) fn resolve(&mut self, path: &Path) -> Result<PathBuf, DiscoverError> {
        self.walk.resolve(path, &mut self.seen).map_err(|error| DiscoverError::io(path, &error))
    }

    /// Takes a regular file along and returns its real path.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<PathBuf, DiscoverError> {
        let real = self.resolve(path)?;
        let metadata = fs::symlink_metadata(&real).map_err(|error| DiscoverError::io(&real, &error))?;
        if !metadata.is_file() {
            return Err(DiscoverError::NotAFile(real));
        }
        self.note(&real)?;
        self.files.insert(real.clone());
        Ok(real)
    }

    /// Takes a file along if it is there; that it is not is remembered.
    pub(super) fn add_if_present(&mut self, path: &Path) -> Result<Option<PathBuf>, DiscoverError> {
        match self.walk.resolve(path, &mut self.seen) {
            Ok(_) => self.add_file(path).map(Some),
            Err(error) if stamp::is_absent(&error) => Ok(None),
            Err(error) => Err(DiscoverError::io(path, &error)),
        }
    }

    /// Takes a directory along as such, because the compiler asks whether it exists; what comes or goes in it is
    /// noticed.
    pub(super) fn add_directory(&mut self, path: &Path) -> Result<PathBuf, DiscoverError> {
        let real = self.resolve(path)?;
        self.note(&real)?;
        self.walk.directories.insert(real.clone());
        Ok(real)
    }

    /// Remembers a path so that its change is noticed, without taking it along.
    pub(super) fn note(&mut self, path: &Path) -> Result<(), DiscoverError> {
        self.seen.note(path).map(drop).map_err(|error| DiscoverError::io(path, &error))
    }

    /// Takes a program along with its loader and libraries.
    pub(super) fn add_program(&mut self, path: &Path) -> Result<Elf, DiscoverError> {
        let real = self.add_file(path)?;
        let elf = elf::read(&real)
            .map_err(|error| DiscoverError::io(&real, &error))?
            .map_err(|error| DiscoverError::Program { path: real.clone(), error })?;
        let Some(interpreter) = &elf.interpreter else { return Ok(elf) };
        self.add_file(interpreter)?;
        // Where the loader looks may change with these.
        self.note(Path::new("/etc/ld.so.cache"))?;
        self.note(Path::new("/etc/ld.so.preload"))?;
        let libraries = loader::libraries(interpreter, &real).map_err(|error| match error {
            LoaderError::Missing(library) => DiscoverError::LibraryMissing { program: real.clone(), library },
            LoaderError::NoAnswer => DiscoverError::LoaderSilent(real.clone()),
            LoaderError::Ask(error) => DiscoverError::io(interpreter, &error),
        })?;
        for library in &libraries.files {
            self.add_file(library)?;
        }
        for (place, target) in libraries.aliases {
            self.add_alias(&place, target)?;
        }
        Ok(elf)
    }

    /// Takes along the program that the compiler would find in `PATH` under this name, if there is one.
    pub(super) fn add_from_search_path(&mut self, name: &OsStr) -> Result<Option<Elf>, DiscoverError> {
        let entries: Vec<OsString> = split_search_path(self.search_path).map(OsStr::to_owned).collect();
        for entry in entries {
            let directory = Path::new(&entry);
            if !directory.is_absolute() {
                return Err(DiscoverError::RelativeSearchPath);
            }
            let candidate = directory.join(name);
            // An unreadable directory is passed over, as `execvp` does.
            if self.seen.note(&candidate).is_err() || !is_executable(&candidate) {
                continue;
            }
            self.used_directories.insert(directory.to_owned());
            return self.add_program(&candidate).map(Some);
        }
        Ok(None)
    }

    /// Puts a question to the compiler as it was called.
    pub(super) fn ask(&self, args: &[&str]) -> Result<Answer, DiscoverError> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        probe::ask(self.program, &args, self.search_path).map_err(|error| DiscoverError::Probe {
            program: self.program.to_owned(),
            question: args.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            reason: error.to_string(),
        })
    }

    /// The directories of `PATH`, in order, in which something of this toolchain was found.
    fn used_search_path(&mut self) -> Result<Vec<TreePath>, DiscoverError> {
        let entries: Vec<PathBuf> = split_search_path(self.search_path).map(PathBuf::from).collect();
        let mut used = Vec::new();
        for entry in entries {
            if !self.used_directories.contains(&entry) {
                continue;
            }
            // An entry such as `/usr/bin/` or `/usr/local/../bin` is replaced by the directory it means.
            let path = match tree_path(&entry) {
                Ok(path) => path,
                Err(_) => tree_path(&self.resolve(&entry)?)?,
            };
            if !used.contains(&path) {
                used.push(path);
            }
        }
        Ok(used)
    }

    fn add_alias(&mut self, place: &Path, target: PathBuf) -> Result<(), DiscoverError> {
        let (Some(directory), Some(name)) = (place.parent(), place.file_name()) else { return Ok(()) };
        let place = self.resolve(directory)?.join(name);
        if let Some(other) = self.aliases.get(&place)
            && *other != target
        {
            return Err(DiscoverError::LibraryClash(place));
        }
        self.aliases.insert(place, target);
        Ok(())
    }

    /// Everything as a toolchain. `digest` gives a file's stamp and digest.
    pub(super) fn finish(
        &mut self,
        name: String,
        machine: &str,
        mut digest: impl FnMut(&Path) -> io::Result<(stamp::Stamp, barn_protocol::digest::Digest)>,
    ) -> Result<(Toolchain, Vec<(TreePath, PathBuf)>), DiscoverError> {
        let search_path = self.used_search_path()?;
        let mut tree = Tree::new();
        for (place, target) in &self.walk.links {
            tree.insert(tree_path(place)?, Entry::Symlink { target: target.clone() })?;
        }
        for (place, target) in &self.aliases {
            let target = target.as_os_str().as_bytes().to_vec();
            tree.insert(tree_path(place)?, Entry::Symlink { target })
                .map_err(|_| DiscoverError::LibraryClash(place.clone()))?;
        }
        let mut files = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let path = tree_path(file)?;
            let (stamp, digest) = digest(file).map_err(|error| DiscoverError::io(file, &error))?;
            let entry = Entry::File { digest, size: stamp.size(), executable: stamp.executable() };
            tree.insert(path.clone(), entry)?;
            files.push((path, file.clone()));
        }
        for directory in &self.walk.directories {
            let path = tree_path(directory)?;
            if !tree.iter().any(|(listed, _)| listed != &path && listed.starts_with(&path)) {
                tree.insert(path, Entry::Directory)?;
            }
        }
        Ok((Toolchain { name, machine: machine.to_owned(), tree, search_path }, files))
    }
}

fn tree_path(path: &Path) -> Result<TreePath, DiscoverError> {
    TreePath::new(path.as_os_str().as_bytes())
        .map_err(|error| DiscoverError::Path { path: path.to_owned(), error })
}

fn split_search_path(search_path: &OsStr) -> impl Iterator<Item = &OsStr> {
    search_path.as_bytes().split(|&b| b == b':').map(OsStr::from_bytes)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
