//! Archives that stand in for compilers of this machine, as `[[toolchain]]` in `barn.toml` says.
//!
//! A compiler that cannot be packed, or that is for another machine than the workers, still has compiles that others
//! could run, by the same compiler from an archive. What runs elsewhere is the archive's driver; what runs here is the
//! user's own compiler, and the two need not write the same bytes. So a result of the own one is never kept under the
//! archive's digest.
//!
//! ```text
//!             start: read, put on the shelf
//!  file ── unread ─────────────────────────────▶ a digest ──▶ looked up on the shelf at each compile ──▶ StandIn
//!              └─────────────────────────────▶ a reason          ▲                    └──▶ a reason
//!  name, digest ─────────────────────────────────────────────────┘
//! ```
//!
//! Reading an archive takes seconds, so what it gave is remembered by the file's stamp. A setting that cannot be used
//! costs the compiles of its compiler, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use barn_cache::Store;
use barn_compilers::{
    Family,
    detect::{Driver, guess},
};
use barn_protocol::{Digest, Entry, Toolchain, TreePath, canonical::Canonical, keys::domain};

use super::{AnyImportError, stamp::Stamp, unpack::real_path};
use crate::{
    config::{ArchiveName, CompilerName, ToolchainSetting},
    home::Home,
    seeding::chain,
    worker::{Shelf, ShelfError},
};

/// Fewest digits by which a digest may be called.
const DIGITS_MIN: usize = 6;
/// What the archives gave, in the directory of the toolchains.
const MEMORY: &str = "archives-v1";

/// An archive's compiler in the place of one of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The archive's toolchain.
    pub toolchain: Digest,
    /// What the toolchain is called.
    pub name: String,
    /// The machine it runs on, as the kernel names it.
    pub machine: String,
    /// The program that runs elsewhere.
    pub driver: TreePath,
    /// Its family.
    pub family: Family,
    /// Tells this machine's compiler from others and from itself before it was replaced.
    pub own: Digest,
}

/// Why an archive does not stand in. The first line says what is wrong, the second what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandInError {
    /// There is no such compiler on this machine.
    #[error("compiler {0} is not there\nhint: `compiler` is a name such as gcc, or the path that is called")]
    NoCompiler(PathBuf),
    /// It has not been read yet.
    #[error("archive {0} is still being read\nhint: wait some seconds")]
    Reading(PathBuf),
    /// It cannot be opened.
    #[error(
        "cannot open archive {0}: {1}\nhint: `archive` is the path of a file, or the name of a toolchain"
    )]
    Open(PathBuf, String),
    /// It is no archive of a toolchain, or is damaged, or the store does not take it.
    #[error("archive {0} cannot be imported: {1}\nhint: `barn toolchain export COMPILER -o FILE` writes one")]
    Import(PathBuf, String),
    /// No toolchain on the shelf is called so.
    #[error(
        "no toolchain here is called {0}\nhint: `barn toolchain import FILE` or `fetch NAME` brings it, `list` shows all"
    )]
    Unknown(String),
    /// More than one is.
    #[error("{count} toolchains here are called {name}\nhint: name one by its digest")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// It has no compiler of that kind.
    #[error("toolchain {toolchain} has no {kind} compiler\nhint: pack the one that is called, such as g++")]
    NoDriver {
        /// The toolchain's name.
        toolchain: String,
        /// `C` or `C++`.
        kind: &'static str,
    },
}

impl StandInError {
    /// What is wrong, and what to do.
    pub fn parts(&self) -> (String, String) {
        let text = self.to_string();
        let (wrong, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
        (wrong.to_owned(), hint.to_owned())
    }
}

/// Why an archive is not put on the shelf.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no toolchain.
    #[error(transparent)]
    Import(#[from] AnyImportError),
    /// The shelf does not take it.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// Puts the toolchain of the archive at `path` on the shelf; its digest and name. Blocks for seconds.
///
/// # Errors
/// When it is no archive of a toolchain, or cannot be stored.
pub fn take_in(path: &Path, store: &Store, shelf: &Shelf) -> Result<(Digest, String), TakeError> {
    let file = File::open(path).map_err(|source| TakeError::Open { path: path.to_owned(), source })?;
    let put = |reader: &mut dyn io::Read| {
        let mut writer = store.writer().map_err(io::Error::other)?;
        io::copy(reader, &mut writer)?;
        writer.finish().map(|blob| blob.digest).map_err(io::Error::other)
    };
    let toolchain = super::import(file, path, put)?;
    let name = toolchain.name.clone();
    Ok((shelf.put(toolchain)?, name))
}

/// All settings of this machine.
pub struct StandIns {
    rows: Vec<Row>,
    shelf: Arc<Shelf>,
}

struct Row {
    setting: ToolchainSetting,
    /// What the file gave; `None` until it is read. Stays `None` for a name.
    read: Mutex<Option<Result<Digest, StandInError>>>,
}

/// What the archives gave when they were last read.
type Memory = BTreeMap<String, (Stamp, Digest)>;

impl StandIns {
    /// What `settings` say; files are unread.
    pub fn new(settings: &[ToolchainSetting], shelf: Arc<Shelf>) -> Self {
        let row = |setting: &ToolchainSetting| Row { setting: setting.clone(), read: Mutex::default() };
        Self { rows: settings.iter().map(row).collect(), shelf }
    }

    /// Reads the archives that are files, and logs what of the settings cannot be used. Blocks for seconds.
    pub fn read(&self, home: &Home, store: &Store) {
        let memory_path = home.toolchains_dir().join(MEMORY);
        // Damaged means empty: the archives are read again.
        let known: Memory = std::fs::read(&memory_path)
            .ok()
            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
            .unwrap_or_default();
        let mut memory = Memory::new();
        for row in &self.rows {
            let ArchiveName::File(path) = &row.setting.archive else { continue };
            let read = self.read_one(path, &known, store);
            if let Ok((stamp, digest)) = &read {
                memory.insert(path.to_string_lossy().into_owned(), (*stamp, *digest));
            }
            *row.lock() = Some(read.map(|(_, digest)| digest));
        }
        if memory != known {
            let bytes = postcard::to_stdvec(&memory).expect("encoding into memory does not fail");
            if let Err(error) = home.replace(&memory_path, &bytes, 0o600) {
                let source = &error as &dyn std::error::Error;
                tracing::warn!(error = source, "archives will be read again at the next start");
            }
        }
        for (setting, error) in
            self.rows.iter().filter_map(|row| Some((&row.setting, self.check(row).err()?)))
        {
            let (wrong, hint) = error.parts();
            tracing::warn!(compiler = %setting.compiler, hint, "[[toolchain]] cannot be used: {wrong}");
        }
    }

    fn read_one(&self, path: &Path, known: &Memory, store: &Store) -> Result<(Stamp, Digest), StandInError> {
        let unopened = |error: &dyn std::error::Error| StandInError::Open(path.to_owned(), error.to_string());
        // Before it is read: a change meanwhile shows at the next start.
        let real = path.canonicalize().map_err(|error| unopened(&error))?;
        let stamp = Stamp::of(&real).map_err(|error| unopened(&error))?;
        let stamp = stamp.ok_or_else(|| unopened(&io::Error::from(io::ErrorKind::NotFound)))?;
        if let Some((then, digest)) = path.to_str().and_then(|name| known.get(name))
            && *then == stamp
            && self.shelf.get(digest).is_some()
        {
            return Ok((stamp, *digest));
        }
        match take_in(path, store, &self.shelf) {
            Ok((digest, _)) => Ok((stamp, digest)),
            Err(TakeError::Open { source, .. }) => Err(unopened(&source)),
            Err(error) => {
                let why = chain(&error).lines().next().unwrap_or_default().to_owned();
                Err(StandInError::Import(path.to_owned(), why))
            }
        }
    }

    /// The machines that the archives are for, each once.
    pub fn machines(&self) -> Vec<String> {
        let found = self.rows.iter().filter_map(|row| self.toolchain(row).ok());
        let machines: BTreeSet<String> = found.map(|(_, toolchain)| toolchain.machine.clone()).collect();
        machines.into_iter().collect()
    }

    /// What stands in for the compiler at `program`; `None` if it is to be itself.
    pub fn find(&self, program: &Path) -> Option<Result<StandIn, StandInError>> {
        let names = |row: &&Row, by_path| match &row.setting.compiler {
            CompilerName::Path(path) => by_path && path == program,
            CompilerName::Name(name) => !by_path && program.file_name() == Some(name.as_ref()),
        };
        let find = |by_path| self.rows.iter().find(|row| names(row, by_path));
        let row = find(true).or_else(|| find(false))?;
        Some(self.stand_in(row, program))
    }

    /// Every setting, and the toolchain's name or what is wrong.
    pub fn list(&self) -> Vec<(&ToolchainSetting, Result<String, StandInError>)> {
        self.rows.iter().map(|row| (&row.setting, self.check(row))).collect()
    }

    /// As far as it can be told before the compiler is called: where a name leads depends on the caller's `PATH`.
    fn check(&self, row: &Row) -> Result<String, StandInError> {
        let program = match &row.setting.compiler {
            CompilerName::Path(path) if !path.is_file() => {
                return Err(StandInError::NoCompiler(path.clone()));
            }
            CompilerName::Path(path) => path.clone(),
            CompilerName::Name(name) => PathBuf::from(name),
        };
        self.stand_in(row, &program).map(|stand_in| stand_in.name)
    }

    fn stand_in(&self, row: &Row, program: &Path) -> Result<StandIn, StandInError> {
        let (digest, toolchain) = self.toolchain(row)?;
        let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let wanted = driver_kind(program, &real);
        let name = program.file_name().map(|name| name.as_bytes()).unwrap_or_default();
        let (driver, family) = choose(&toolchain, wanted, name).ok_or_else(|| StandInError::NoDriver {
            toolchain: toolchain.name.clone(),
            kind: if wanted == Driver::Cxx { "C++" } else { "C" },
        })?;
        Ok(StandIn {
            toolchain: digest,
            name: toolchain.name.clone(),
            machine: toolchain.machine.clone(),
            driver,
            family,
            own: own(program, &real, &digest),
        })
    }

    fn toolchain(&self, row: &Row) -> Result<(Digest, Arc<Toolchain>), StandInError> {
        match &row.setting.archive {
            ArchiveName::File(path) => {
                let read = row.lock().clone();
                let digest = read.unwrap_or_else(|| Err(StandInError::Reading(path.clone())))?;
                let lost = || StandInError::Import(path.clone(), "it is no longer on the shelf".to_owned());
                self.shelf.get(&digest).map(|toolchain| (digest, toolchain)).ok_or_else(lost)
            }
            ArchiveName::Toolchain(name) => self.called(name),
        }
    }

    /// The toolchain on the shelf with this name or digest, or this beginning of either.
    fn called(&self, what: &str) -> Result<(Digest, Arc<Toolchain>), StandInError> {
        let by_digest = |digest: &Digest| what.len() >= DIGITS_MIN && digest.to_string().starts_with(what);
        let mut fitting = self.shelf.list();
        fitting.retain(|(digest, toolchain)| by_digest(digest) || toolchain.name.starts_with(what));
        if fitting.iter().any(|(_, toolchain)| toolchain.name == what) {
            fitting.retain(|(_, toolchain)| toolchain.name == what);
        }
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(StandInError::Unknown(what.to_owned())),
            count => Err(StandInError::Ambiguous { name: what.to_owned(), count }),
        }
    }
}

impl Row {
    fn lock(&self) -> MutexGuard<'_, Option<Result<Digest, StandInError>>> {
        self.read.lock().expect("no panic while held")
    }
}

/// What the program's name says, or else that of the file it leads to. A name of one's own is one of a C++ compiler if it
/// ends like one.
fn driver_kind(program: &Path, real: &Path) -> Driver {
    let named = [program, real].map(|path| guess(path.as_os_str().as_bytes()).driver);
    let name = program.file_name().map(|name| name.as_bytes()).unwrap_or_default();
    let own = if name.ends_with(b"++") || name.ends_with(b"cxx") { Driver::Cxx } else { Driver::C };
    named.into_iter().find(|kind| *kind != Driver::Unknown).unwrap_or(own)
}

/// Which program of `toolchain` compiles as one of this kind does: the one with the same name, else the one with the
/// shortest path. What its own name does not tell of its family, the name of the real program does.
fn choose(toolchain: &Toolchain, wanted: Driver, name: &[u8]) -> Option<(TreePath, Family)> {
    let fitting = toolchain.tree.iter().filter_map(|(path, entry)| {
        let guessed = guess(path.name());
        if *entry == Entry::Directory || guessed.driver != wanted {
            return None;
        }
        let real = real_path(&toolchain.tree, path)?;
        let runs = matches!(toolchain.tree.get(&real), Some(Entry::File { executable: true, .. }));
        let families = [guessed.family, guess(real.name()).family];
        let family = families.into_iter().find(|family| matches!(family, Family::Gcc | Family::Clang));
        runs.then_some((path, family?))
    });
    let found = fitting.min_by_key(|(path, _)| (path.name() != name, path.as_bytes().len(), *path));
    found.map(|(path, family)| (path.clone(), family))
}

/// What is known of this machine's compiler without running it: where it is, and the stamp of its file.
fn own(program: &Path, real: &Path, toolchain: &Digest) -> Digest {
    let stamp =
        postcard::to_stdvec(&Stamp::of(real).ok().flatten()).expect("encoding into memory does not fail");
    let mut encoder = Canonical::new(domain::STAND_IN);
    encoder.digest(toolchain);
    encoder.bytes(program.as_os_str().as_bytes()).bytes(real.as_os_str().as_bytes()).bytes(&stamp);
    encoder.finish()
}

#[cfg(test)]
impl StandIns {
    /// Over a store and shelf of its own in `dir`.
    pub(crate) fn in_dir(dir: &Path, settings: &[ToolchainSetting]) -> (Self, Home, Store) {
        let home = Home::open(&dir.join("home")).unwrap();
        let store = Store::open(&home.cache_dir(), barn_cache::Limits::new(1 << 30)).unwrap();
        let shelf = Arc::new(Shelf::open(home.clone(), store.clone()));
        (Self::new(settings, shelf), home, store)
    }
}

#[cfg(test)]
#[path = "stand_in_tests.rs"]
pub(crate) mod tests;
