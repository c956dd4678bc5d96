//! What identifies the Rust compilers and the linkers of this machine, remembered and checked by `lstat`.
//!
//! A Rust compiler is its sysroot: driver, code generators, libraries of all installed targets, rust-lld. Its digest is made of
//! contents, so the same release has one digest everywhere. A linker is pinned by the stamps of all files that it may take, among
//! them every library in the directories that it searches: some thousand, too many to read, and its results stay on this
//! machine. The first look at a compiler reads some 600 MB; every later one costs a `lstat` for each file.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs,
    hash::Hash,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use barn_compilers::{Family, WrapperKind, guess};
use barn_protocol::{Digest, canonical::Canonical, keys::domain};

use super::{
    elf, loader, probe,
    stamp::{self, Witnesses},
    walk::{Walk, path_of},
};

/// Most compilers, and as many linkers, that are remembered; then all are forgotten. Cross-compiling projects have a few.
const TOOLS_MAX: usize = 64;
/// Most files of one tool: a sysroot with all targets has some 5,000, a full `/usr/lib` 20,000.
const FILES_MAX: usize = 65_536;
/// How deep a sysroot is looked through below `lib/rustlib`: target, `lib`, `self-contained`.
const DEPTH_MAX: usize = 6;

/// Why a tool cannot be pinned; the compile is local.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolError {
    /// It is in no directory of `PATH`.
    #[error("{0} is not in PATH")]
    NotFound(PathBuf),
    /// A script, or another tool that runs the compiler.
    #[error("{0} is no program that can be pinned: a script or a wrapper")]
    NotPinned(PathBuf),
    /// It does not answer.
    #[error("{0} does not tell {1}")]
    Silent(PathBuf, &'static str),
    /// Too many files.
    #[error("{0} has more than {FILES_MAX} files")]
    TooLarge(PathBuf),
    /// The file system refused.
    #[error("{path}: {reason}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// A Rust compiler of this machine.
#[derive(Debug, Clone)]
pub struct RustTool {
    /// Its digest.
    pub digest: Digest,
    /// The program itself, where a proxy was called.
    pub program: PathBuf,
}

/// A linker of this machine.
#[derive(Debug, Clone)]
pub struct LinkTool {
    /// Its digest, which means something on this machine only.
    pub digest: Digest,
    /// The directories that it searches, without links on the way.
    pub directories: Vec<PathBuf>,
}

/// How a Rust compiler is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RustCall {
    /// The program, absolute.
    pub program: PathBuf,
    /// Its `PATH`.
    pub search_path: OsString,
    /// Its working directory; rustup looks for the project's choice of a compiler there.
    pub cwd: PathBuf,
    /// The variables that rustup reads.
    pub rustup: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How a linker is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkCall {
    /// Its name or path.
    pub program: Vec<u8>,
    /// The `PATH`.
    pub search_path: OsString,
    /// Where relative paths begin.
    pub cwd: PathBuf,
    /// Further programs that it is told to use.
    pub uses: Vec<Vec<u8>>,
}

/// The tools remembered. Shared by all requests.
#[derive(Debug, Default)]
pub struct Tools {
    compilers: Memory<PathBuf, Digest>,
    proxies: Memory<RustCall, PathBuf>,
    linkers: Memory<LinkCall, LinkTool>,
}

impl Tools {
    /// The Rust compiler that is called. Reads some 600 MB at the first call.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub fn rust(&self, call: &RustCall) -> Result<RustTool, ToolError> {
        let real = fs::canonicalize(&call.program).map_err(|error| io_error(&call.program, &error))?;
        let program = if real.file_name() == Some(OsStr::new("rustup")) {
            let call = call.anywhere();
            self.proxies.get(&call, |seen| behind_proxy(&call, &real, seen))?
        } else {
            call.program.clone()
        };
        let digest = self.compilers.get(&program, |seen| sysroot_digest(&program, seen))?;
        Ok(RustTool { digest, program })
    }

    /// The linker that is called.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub fn linker(&self, call: &LinkCall) -> Result<LinkTool, ToolError> {
        let call = call.anywhere();
        self.linkers.get(&call, |seen| find_linker(&call, seen))
    }
}

impl RustCall {
    /// Without the working directory where rustup does not look at it; cargo calls each package's crates in another one.
    fn anywhere(&self) -> Self {
        let is_chosen = |(name, value): &(Vec<u8>, Vec<u8>)| name == b"RUSTUP_TOOLCHAIN" && !value.is_empty();
        let mut call = self.clone();
        if call.rustup.iter().any(is_chosen) {
            call.cwd = PathBuf::from("/");
        }
        call
    }
}

impl LinkCall {
    /// Without the working directory where no path begins there.
    fn anywhere(&self) -> Self {
        let is_absolute = |path: &[u8]| path.starts_with(b"/") || !path.contains(&b'/');
        let mut directories = self.search_path.as_bytes().split(|&byte| byte == b':');
        let mut call = self.clone();
        if is_absolute(&self.program) && directories.all(|directory| directory.starts_with(b"/")) {
            call.cwd = PathBuf::from("/");
        }
        call
    }
}

/// Answers by what was looked at for them.
#[derive(Debug)]
struct Memory<K, V>(Mutex<HashMap<K, (V, Arc<Witnesses>)>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Memory<K, V> {
    fn get(
        &self,
        key: &K,
        find: impl FnOnce(&mut Witnesses) -> Result<V, ToolError>,
    ) -> Result<V, ToolError> {
        let known = self.lock().get(key).cloned();
        // Outside the lock: a thousand calls of the kernel.
        if let Some((value, seen)) = known
            && seen.hold()
        {
            return Ok(value);
        }
        let mut seen = Witnesses::default();
        let value = find(&mut seen)?;
        let mut table = self.lock();
        if table.len() >= TOOLS_MAX {
            table.clear();
        }
        table.insert(key.clone(), (value.clone(), Arc::new(seen)));
        Ok(value)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, Arc<Witnesses>)>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn io_error(path: &Path, error: &io::Error) -> ToolError {
    ToolError::Io { path: path.to_owned(), reason: error.to_string() }
}

fn note(path: &Path, seen: &mut Witnesses) -> Result<Option<stamp::Stamp>, ToolError> {
    seen.note(path).map_err(|error| io_error(path, &error))
}

fn resolve(path: &Path, seen: &mut Witnesses) -> Result<PathBuf, ToolError> {
    let real = Walk::default().resolve(path, seen).map_err(|error| io_error(path, &error))?;
    note(&real, seen)?;
    Ok(real)
}

/// The compiler that rustup's proxy runs: it is asked, and what it looks at for its answer is noted.
fn behind_proxy(call: &RustCall, rustup: &Path, seen: &mut Witnesses) -> Result<PathBuf, ToolError> {
    note(rustup, seen)?;
    let variable = |name: &[u8]| {
        let (_, value) = call.rustup.iter().find(|(known, _)| known == name)?;
        (!value.is_empty()).then(|| path_of(value))
    };
    let home = variable(b"RUSTUP_HOME").or_else(|| Some(PathBuf::from(probe::home()?).join(".rustup")));
    if let Some(home) = home {
        note(&home.join("settings.toml"), seen)?;
        note(&home.join("toolchains"), seen)?;
    }
    for directory in call.cwd.ancestors() {
        for name in ["rust-toolchain", "rust-toolchain.toml"] {
            note(&directory.join(name), seen)?;
        }
    }
    let name = call.program.file_name().unwrap_or(OsStr::new("rustc"));
    let mut command = std::process::Command::new(rustup);
    command.arg0("rustup").args([OsStr::new("which"), name]).current_dir(&call.cwd);
    command.env_clear().env("PATH", &call.search_path).stdin(std::process::Stdio::null());
    if let Some(home) = probe::home() {
        command.env("HOME", home);
    }
    let variables = call.rustup.iter();
    command.envs(variables.map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))));
    let answer = command.output().map_err(|error| io_error(rustup, &error))?;
    let path = path_of(answer.stdout.trim_ascii());
    if !answer.status.success() || !path.is_absolute() {
        return Err(ToolError::Silent(rustup.to_owned(), "which compiler it runs"));
    }
    Ok(path)
}

/// The digest of all that the Rust compiler at `program` consists of.
fn sysroot_digest(program: &Path, seen: &mut Witnesses) -> Result<Digest, ToolError> {
    let real = resolve(program, seen)?;
    let not_pinned = || ToolError::NotPinned(real.clone());
    if matches!(guess(real.as_os_str().as_bytes()).family, Family::Wrapper(_)) {
        return Err(not_pinned());
    }
    let elf = elf::read(&real).map_err(|error| io_error(&real, &error))?.map_err(|_| not_pinned())?;
    // A sysroot has `bin` and `lib`; a compiler elsewhere finds its own by its library.
    let sysroot = real.parent().and_then(Path::parent).ok_or_else(not_pinned)?;
    let rustlib = sysroot.join("lib/rustlib");
    if !rustlib.is_dir() {
        return Err(ToolError::Silent(real.clone(), "its sysroot by its place"));
    }
    let mut files = BTreeMap::new();
    add(&real, &mut files);
    add(&sysroot.join("bin/rustc"), &mut files);
    if let Some(interpreter) = &elf.interpreter {
        note(Path::new("/etc/ld.so.cache"), seen)?;
        let libraries = loader::libraries(interpreter, &real)
            .map_err(|_| ToolError::Silent(real.clone(), "its libraries"))?;
        libraries.files.iter().for_each(|library| add(library, &mut files));
    }
    note(&sysroot.join("lib"), seen)?;
    gather(&rustlib, DEPTH_MAX, seen, &mut files)?;
    if files.len() > FILES_MAX {
        return Err(ToolError::TooLarge(sysroot.to_owned()));
    }
    let mut digest = Canonical::new(domain::RUST_COMPILER);
    // The place counts too: messages and debug information quote it.
    digest.bytes(sysroot.as_os_str().as_bytes()).number(files.len() as u64);
    for (path, real) in &files {
        let (stamp, contents) = stamp::digest_file(real).map_err(|error| io_error(real, &error))?;
        if note(real, seen)? != Some(stamp) {
            return Err(io_error(real, &io::Error::from(io::ErrorKind::ResourceBusy)));
        }
        digest.bytes(path.as_os_str().as_bytes()).digest(&contents);
    }
    Ok(digest.finish())
}

/// Adds a file by the name it is known by.
fn add(path: &Path, files: &mut BTreeMap<PathBuf, PathBuf>) {
    if let Ok(real) = fs::canonicalize(path) {
        files.insert(path.to_owned(), real);
    }
}

/// Adds all files below a directory that a compile may read, and notes the directories. Sources and documentation are none.
fn gather(
    directory: &Path,
    depth: usize,
    seen: &mut Witnesses,
    files: &mut BTreeMap<PathBuf, PathBuf>,
) -> Result<(), ToolError> {
    note(directory, seen)?;
    let entries = fs::read_dir(directory).map_err(|error| io_error(directory, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| io_error(directory, &error))?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if depth > 0 && name != "src" && name != "etc" {
                gather(&path, depth - 1, seen, files)?;
            }
        } else if depth < DEPTH_MAX {
            add(&path, files);
        }
        if files.len() > FILES_MAX {
            break;
        }
    }
    Ok(())
}

fn find_linker(call: &LinkCall, seen: &mut Witnesses) -> Result<LinkTool, ToolError> {
    let program = in_search_path(&call.program, call, seen)?;
    let real = pinned(&program, seen)?;
    let mut programs = vec![real.clone()];
    for question in ["-print-prog-name=collect2", "-print-prog-name=ld", "-print-prog-name=lto-wrapper"] {
        let Some(named) = answer(&program, question, call)? else { continue };
        if named.is_absolute() {
            programs.push(resolve(&named, seen)?);
        } else if let Ok(found) = in_search_path(named.as_os_str().as_bytes(), call, seen) {
            programs.push(pinned(&found, seen)?);
        }
    }
    for name in &call.uses {
        let question = format!("-print-prog-name={}", String::from_utf8_lossy(name));
        let named = answer(&program, &question, call)?.unwrap_or_else(|| path_of(name));
        let found = in_search_path(named.as_os_str().as_bytes(), call, seen)?;
        programs.push(pinned(&found, seen)?);
    }
    for question in ["-print-file-name=liblto_plugin.so", "-print-file-name=specs"] {
        if let Some(file) = answer(&program, question, call)?.filter(|file| file.is_absolute()) {
            programs.push(resolve(&file, seen)?);
        }
    }
    let directories = searched(&program, call, seen)?;
    let mut count = 0;
    for directory in &directories {
        count += note_libraries(directory, seen)?;
        if count > FILES_MAX {
            return Err(ToolError::TooLarge(real));
        }
    }
    let mut digest = Canonical::new(domain::LINKER);
    digest.sequence(&programs, |d, path| {
        d.bytes(path.as_os_str().as_bytes());
    });
    for (path, stamp) in seen.iter() {
        let stamp = postcard::to_stdvec(&stamp).expect("encoding into memory does not fail");
        digest.bytes(path.as_os_str().as_bytes()).bytes(&stamp);
    }
    Ok(LinkTool { digest: digest.finish(), directories })
}

/// A program by its path, or by its name in `PATH`; what was looked at in front is noted.
fn in_search_path(name: &[u8], call: &LinkCall, seen: &mut Witnesses) -> Result<PathBuf, ToolError> {
    let name = path_of(name);
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Ok(call.cwd.join(name));
    }
    for directory in std::env::split_paths(&call.search_path) {
        let candidate = call.cwd.join(directory).join(&name);
        note(&candidate, seen)?;
        if fs::metadata(&candidate).is_ok_and(|meta| meta.is_file()) && !is_barn(&candidate) {
            return Ok(candidate);
        }
    }
    Err(ToolError::NotFound(name))
}

/// Whether it is a link to the wrapper, which runs what stands behind it in `PATH`.
fn is_barn(candidate: &Path) -> bool {
    let real = fs::canonicalize(candidate).unwrap_or_default();
    guess(real.as_os_str().as_bytes()).family == Family::Wrapper(WrapperKind::Barn)
}

/// The real path of a program that is what it seems.
fn pinned(program: &Path, seen: &mut Witnesses) -> Result<PathBuf, ToolError> {
    let real = resolve(program, seen)?;
    let wraps = matches!(guess(real.as_os_str().as_bytes()).family, Family::Wrapper(_));
    let is_program = elf::read(&real).map_err(|error| io_error(&real, &error))?.is_ok();
    if wraps || !is_program { Err(ToolError::NotPinned(real)) } else { Ok(real) }
}

fn answer(program: &Path, question: &str, call: &LinkCall) -> Result<Option<PathBuf>, ToolError> {
    let answer = probe::ask(program, &[OsStr::new(question)], &call.search_path)
        .map_err(|error| io_error(program, &error))?;
    Ok(answer.line().map(path_of))
}

/// The directories that a driver searches for libraries, as far as they are there.
fn searched(program: &Path, call: &LinkCall, seen: &mut Witnesses) -> Result<Vec<PathBuf>, ToolError> {
    let silent = || ToolError::Silent(program.to_owned(), "where it looks for libraries");
    let answer = probe::ask(program, &[OsStr::new("-print-search-dirs")], &call.search_path)
        .map_err(|error| io_error(program, &error))?;
    let line = answer.stdout.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"libraries: ="));
    let mut directories = Vec::new();
    for named in line.ok_or_else(silent)?.split(|&b| b == b':').map(path_of) {
        match Walk::default().resolve(&named, seen) {
            Ok(real) if real.is_dir() => {
                if !directories.contains(&real) {
                    directories.push(real);
                }
            }
            _ => drop(note(&named, seen)?),
        }
    }
    if directories.is_empty() { Err(silent()) } else { Ok(directories) }
}

/// Notes a directory and all files in it that a linker may take; how many there are.
fn note_libraries(directory: &Path, seen: &mut Witnesses) -> Result<usize, ToolError> {
    note(directory, seen)?;
    let mut count = 0;
    for entry in fs::read_dir(directory).map_err(|error| io_error(directory, &error))? {
        let path = entry.map_err(|error| io_error(directory, &error))?.path();
        let is_library = path.file_name().is_some_and(|name| is_library(name.as_bytes()));
        if !is_library || path.is_dir() {
            continue;
        }
        count += 1;
        note(&path, seen)?;
        // What a link leads to is replaced without a trace in the link. One that leads nowhere is found by nobody.
        if let Ok(real) = fs::canonicalize(&path) {
            note(&real, seen)?;
        }
    }
    Ok(count)
}

/// Whether a linker, or rustc in the place of one, may take a file of this name.
pub fn is_library(name: &[u8]) -> bool {
    [&b".a"[..], b".o", b".so", b".lib", b".rlib", b".rmeta"].iter().any(|suffix| name.ends_with(suffix))
        || name.windows(4).any(|part| part == b".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search_path() -> OsString {
        std::env::var_os("PATH").unwrap_or_default()
    }

    fn linker(uses: &[&str]) -> LinkCall {
        LinkCall {
            program: b"cc".to_vec(),
            search_path: search_path(),
            cwd: "/".into(),
            uses: uses.iter().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn this_machines_linker_is_pinned_with_its_libraries() {
        let tools = Tools::default();
        let found = tools.linker(&linker(&[])).unwrap();
        assert_eq!(tools.linker(&linker(&[])).unwrap().digest, found.digest);
        assert_ne!(tools.linker(&linker(&["ld.bfd"])).unwrap().digest, found.digest);
        assert!(found.directories.iter().any(|directory| directory.join("crt1.o").exists()));
    }

    #[test]
    fn a_library_that_appears_or_changes_is_noticed() {
        let room = tempfile::tempdir().unwrap();
        let digest = || {
            let mut seen = Witnesses::default();
            note_libraries(room.path(), &mut seen).unwrap();
            seen
        };
        let before = digest();
        fs::write(room.path().join("libz.so.1"), "one").unwrap();
        assert!(!before.hold());
        std::os::unix::fs::symlink("libz.so.1", room.path().join("libz.so")).unwrap();
        let before = digest();
        assert!(before.hold());
        fs::write(room.path().join("libz.so.1"), "three").unwrap();
        assert!(!before.hold());
    }

    #[test]
    fn scripts_and_wrappers_are_not_pinned() {
        let room = tempfile::tempdir().unwrap();
        for name in ["script", "ccache"] {
            let path = room.path().join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            let call = LinkCall { program: path.into_os_string().into_encoded_bytes(), ..linker(&[]) };
            assert!(matches!(Tools::default().linker(&call), Err(ToolError::NotPinned(_))), "{name}");
        }
        let call = LinkCall { program: b"no-such-linker".to_vec(), ..linker(&[]) };
        assert!(matches!(Tools::default().linker(&call), Err(ToolError::NotFound(_))));
    }

    #[test]
    fn the_compiler_that_built_this_is_known() {
        let rustc = PathBuf::from(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let output = std::process::Command::new(rustc).args(["--print", "sysroot"]).output().unwrap();
        let sysroot = path_of(output.stdout.trim_ascii());
        let call = RustCall {
            program: sysroot.join("bin/rustc"),
            search_path: search_path(),
            cwd: "/".into(),
            rustup: Vec::new(),
        };
        let tools = Tools::default();
        let found = tools.rust(&call).unwrap();
        assert_eq!(found.program, call.program);
        assert_eq!(tools.rust(&call).unwrap().digest, found.digest);
    }
}
