//! What is known of a crate's inputs before rustc runs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use barn_compilers::rustc::SearchKind;
use std::os::unix::ffi::OsStrExt as _;

use super::{
    call::RustCall,
    closure::{Closure, STEMS_MAX, stem},
    listing::{Listing, Scope},
};
use crate::{
    platform::tick_ns,
    requester::{
        Requester,
        files::Known,
        inputs::Unknown,
        obstacle::Obstacle,
        sight::{FileId, Look, Nowhere, Place},
    },
};

/// Places of the machine's own libraries, which are seldom changed, and only by a package manager.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib64", "/opt"];
/// The names of clippy's settings.
const CLIPPY: [&str; 2] = [".clippy.toml", "clippy.toml"];

/// What cargo builds by.
const MANIFESTS: [&str; 2] = ["Cargo.lock", "Cargo.toml"];

/// What was seen before rustc ran.
#[derive(Debug)]
pub(super) struct Before {
    /// Files by the path they are named by, and what is known of them.
    pub(super) files: Vec<(Vec<u8>, PathBuf, Known)>,
    /// Paths at which nothing is.
    pub(super) absent: Vec<Vec<u8>>,
    pub(super) listings: Vec<Listing>,
    /// What dependents of this crate may load beside it.
    pub(super) closure: Closure,
    /// When this was, by the clock of the file system.
    pub(super) began_ns: i128,
    /// For `barn explain`.
    pub(super) notes: Vec<String>,
}

struct Gather<'a, 'l> {
    requester: &'a Requester,
    call: &'a RustCall,
    look: Look<'l>,
    found: Before,
    /// Whether macros run.
    macros: bool,
}

impl Requester {
    /// Looks at all inputs that are known before rustc runs.
    ///
    /// # Errors
    /// When an input cannot be read, or it is not known what one drags in.
    pub(super) fn look_before(&self, call: &RustCall) -> Result<Before, Unknown> {
        let found = Before {
            files: Vec::new(),
            absent: Vec::new(),
            listings: Vec::new(),
            closure: Closure::default(),
            began_ns: tick_ns(),
            notes: Vec::new(),
        };
        let look = Look::new(&self.sight, &self.files, &call.cwd);
        let mut gather = Gather { requester: self, call, look, found, macros: false };
        gather.file(&call.compile.source)?;
        call.compile.extra_inputs.iter().try_for_each(|path| gather.file(path).map(drop))?;
        let externs = gather.crates()?;
        gather.clippy()?;
        gather.libraries()?;
        gather.what_macros_read()?;
        let mut found = gather.found;
        found.closure = Closure::behind(call, &externs);
        Ok(found)
    }
}

impl Gather<'_, '_> {
    /// Takes a file that must be there.
    fn file(&mut self, path: &[u8]) -> Result<FileId, Unknown> {
        match self.look.at(path) {
            Ok(Place::File(file)) => self.take(path, file).map(|_| file),
            Ok(_) => Err(self.odd(path, "it is no regular file")),
            Err(error) => Err(self.odd(path, error)),
        }
    }

    /// Takes a file if it is there, or its absence.
    fn file_if_there(&mut self, path: &[u8]) -> Result<bool, Unknown> {
        match self.look.at(path) {
            Ok(Place::File(file)) => self.take(path, file).map(|_| true),
            Err(Nowhere::Absent) => {
                self.found.absent.push(path.to_vec());
                Ok(false)
            }
            Ok(_) => Err(self.odd(path, "it is no regular file")),
            Err(error) => Err(self.odd(path, error)),
        }
    }

    fn take(&mut self, path: &[u8], file: FileId) -> Result<Known, Unknown> {
        let known = self.look.known(file, |_, _| ()).map_err(|error| self.odd(path, error))?;
        let real = Path::new(std::ffi::OsStr::from_bytes(self.look.path(file))).to_owned();
        self.found.files.push((path.to_vec(), real, known));
        Ok(known)
    }

    fn odd(&self, path: &[u8], why: impl std::fmt::Display) -> Unknown {
        Unknown::because(Obstacle::Input, format_args!("{}: {why}", self.call.path(path).display()))
    }

    /// Takes the crates that are named, and those that they drag in. Returns the stems of all.
    fn crates(&mut self) -> Result<BTreeSet<Vec<u8>>, Unknown> {
        let call = self.call;
        let (mut stems, mut behind) = (BTreeSet::new(), BTreeSet::new());
        for external in &call.compile.externs {
            let file = self.file(&external.path)?;
            let Some(own) = stem(&external.path) else {
                return Err(self.odd(&external.path, "it is not named like a library"));
            };
            self.macros |= external.path.ends_with(b".so");
            let known = self.look.known(file, |_, _| ()).map_err(|error| self.odd(&external.path, error))?;
            let made = self.requester.closures.at(self.look.path(file), &known.signature);
            let closure = match made {
                Some(closure) => closure.0.clone(),
                None => {
                    let unknown =
                        || Unknown::because(Obstacle::UnknownCrate, call.path(&external.path).display());
                    Closure::recall(&self.requester.store, &known.blob.digest).ok_or_else(unknown)?.0
                }
            };
            behind.extend(closure);
            stems.insert(own);
        }
        behind.retain(|stem| !stems.contains(stem));
        for stem in &behind {
            self.candidates(stem)?;
        }
        stems.extend(behind);
        if stems.len() > STEMS_MAX {
            return Err(Unknown::because(Obstacle::UnknownCrate, "too many crates are dragged in"));
        }
        Ok(stems)
    }

    /// Takes the files of one crate in the directories that rustc searches for it. Metadata stands for the object code that may
    /// be still in the making, unless that is taken in.
    fn candidates(&mut self, stem: &[u8]) -> Result<(), Unknown> {
        let call = self.call;
        let crates = call.compile.search.iter().filter(|directory| directory.kind != SearchKind::Native);
        for directory in crates {
            let path = |suffix: &[u8]| [&directory.path, b"/lib".as_slice(), stem, suffix].concat();
            let has_metadata = self.file_if_there(&path(b".rmeta"))?;
            if call.compile.bundles || !has_metadata {
                self.file_if_there(&path(b".rlib"))?;
            }
            self.macros |= self.file_if_there(&path(b".so"))?;
        }
        Ok(())
    }

    /// Takes clippy's settings, which are searched upwards from the package.
    fn clippy(&mut self) -> Result<(), Unknown> {
        if !self.call.is_clippy() {
            return Ok(());
        }
        let configured = self.call.env.get(b"CLIPPY_CONF_DIR".as_slice());
        let start = match configured {
            Some(directory) => self.call.path(directory),
            None => self.call.package().unwrap_or_else(|| self.call.cwd.clone()),
        };
        for directory in start.ancestors() {
            // The manifests are for the lints of its group `cargo`.
            for name in CLIPPY.iter().chain(&MANIFESTS) {
                self.file_if_there(directory.join(name).as_os_str().as_bytes())?;
            }
        }
        Ok(())
    }

    /// Takes the directories with native libraries, but for those that are pinned with the linker.
    fn libraries(&mut self) -> Result<(), Unknown> {
        let call = self.call;
        let named = call.compile.search.iter().filter(|directory| directory.kind != SearchKind::Crates);
        let told = call.compile.linker.iter().flat_map(|linker| &linker.directories);
        for directory in named.map(|directory| &directory.path).chain(told) {
            let path = call.path(directory);
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if call.pinned.contains(&real) {
                continue;
            }
            let scope = if SYSTEM.iter().any(|place| real.starts_with(place)) {
                Scope::System
            } else {
                Scope::Native
            };
            let Some(listing) = Listing::of(&path, scope, &self.requester.files) else {
                return Err(self.odd(directory, "its libraries cannot be read, or are too many"));
            };
            self.found.listings.push(listing);
        }
        Ok(())
    }

    /// Takes the whole package, and what its build script wrote, where macros run.
    fn what_macros_read(&mut self) -> Result<(), Unknown> {
        if !self.macros {
            return Ok(());
        }
        let call = self.call;
        let package = call.package().unwrap_or_else(|| call.cwd.clone());
        let generated = call.env.get(b"OUT_DIR".as_slice()).map(|path| (call.path(path), Scope::Generated));
        for (path, scope) in [(package, Scope::Package)].into_iter().chain(generated) {
            let listing = Listing::of(&path, scope, &self.requester.files).ok_or_else(|| {
                Unknown::because(
                    Obstacle::MacroInputs,
                    format_args!("{} cannot be read, or holds too much", path.display()),
                )
            })?;
            self.found.listings.push(listing);
        }
        self.found.notes.push("macros run: the files of the package are inputs".to_owned());
        Ok(())
    }
}
