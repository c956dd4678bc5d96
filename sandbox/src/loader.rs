//! How the room starts whatever toolchain lies at the usual paths: with its own loader and libraries under `/.barn`.
//!
//! The toolchain may bring another libc, or none. So the room's interpreter and libraries are found on this machine
//! once and bound under `/.barn/lib`, and the loader there is told to look nowhere else. A static room needs none.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{path::InsidePath, spec::Mount};

/// Where the room lies inside.
const ROOM: &str = "/.barn/room";
/// Where its loader and libraries lie.
const LIBRARIES: &str = "/.barn/lib";
/// The program header that names the interpreter.
const PT_INTERP: u32 = 3;
/// Most program headers looked at; executables have about a dozen.
const HEADERS_MAX: u16 = 64;
/// Longest interpreter path, in bytes.
const INTERPRETER_BYTES_MAX: u64 = 4096;

/// The room and all it needs to start, bound below `/.barn`.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The files to bind.
    pub mounts: Vec<Mount>,
    /// The command that starts it inside.
    pub command: Vec<Vec<u8>>,
}

/// Why the room cannot be started anywhere.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is not a 64-bit little-endian ELF executable.
    #[error("{} is not an executable of this kind of machine", .0.display())]
    NotElf(PathBuf),
    /// The loader cannot say what libraries it needs.
    #[error("{} does not say what {} needs: {reason}", .loader.display(), .helper.display())]
    List {
        /// The loader asked.
        loader: PathBuf,
        /// The executable asked about.
        helper: PathBuf,
        /// What it said instead.
        reason: String,
    },
}

impl Helper {
    /// Finds what the executable `path` needs on this machine.
    ///
    /// # Errors
    /// See [`LoaderError`].
    pub fn find(path: &Path) -> Result<Self, LoaderError> {
        let room = real(path)?;
        let Some(interpreter) = interpreter(&room)? else {
            return Ok(Self { mounts: vec![mount(room, ROOM.into())], command: vec![ROOM.into()] });
        };
        let loader = inside_library(&interpreter);
        let mut mounts = vec![mount(real(&interpreter)?, loader.clone()), mount(room.clone(), ROOM.into())];
        for library in libraries(&interpreter, &room)? {
            mounts.push(mount(real(&library)?, inside_library(&library)));
        }
        let command = vec![loader, b"--library-path".to_vec(), LIBRARIES.into(), ROOM.into()];
        Ok(Self { mounts, command })
    }
}

fn mount(host: PathBuf, inside: Vec<u8>) -> Mount {
    Mount { host, inside: InsidePath::new(inside).expect("a normal path with one file name added") }
}

fn real(path: &Path) -> Result<PathBuf, LoaderError> {
    fs::canonicalize(path).map_err(|source| LoaderError::Read { path: path.to_owned(), source })
}

/// The path inside of a library, by the name it is asked for.
fn inside_library(path: &Path) -> Vec<u8> {
    [LIBRARIES.as_bytes(), b"/", path.file_name().unwrap_or_default().as_bytes()].concat()
}

/// The interpreter an executable names; `None` when it is static.
fn interpreter(path: &Path) -> Result<Option<PathBuf>, LoaderError> {
    let read = |source| LoaderError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let mut header = [0; 64];
    file.read_exact(&mut header).map_err(|_| LoaderError::NotElf(path.to_owned()))?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(LoaderError::NotElf(path.to_owned()));
    }
    let (table, size, count) = (number(&header, 32, 8), number(&header, 54, 2), number(&header, 56, 2));
    for index in 0..count.min(HEADERS_MAX.into()) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.saturating_add(index * size)).map_err(read)?;
        if number(&entry, 0, 4) != u64::from(PT_INTERP) {
            continue;
        }
        let length = number(&entry, 32, 8).min(INTERPRETER_BYTES_MAX);
        let mut name = vec![0; length as usize];
        file.read_exact_at(&mut name, number(&entry, 8, 8)).map_err(read)?;
        name.retain(|&byte| byte != 0);
        return Ok(Some(PathBuf::from(OsStr::from_bytes(&name))));
    }
    Ok(None)
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Asks the loader which libraries `helper` needs.
fn libraries(loader: &Path, helper: &Path) -> Result<Vec<PathBuf>, LoaderError> {
    let output = Command::new(loader)
        .arg("--list")
        .arg(helper)
        .env_clear()
        .output()
        .map_err(|source| LoaderError::Read { path: loader.to_owned(), source })?;
    let unclear =
        |reason: String| LoaderError::List { loader: loader.to_owned(), helper: helper.to_owned(), reason };
    if !output.status.success() {
        return Err(unclear(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| library(line).transpose())
        .collect::<Result<_, _>>()
        .map_err(unclear)
}

/// The path in a line such as `libc.so.6 => /lib/libc.so.6 (0x7f…)`; lines without an arrow are the loader itself
/// and the kernel's library.
fn library(line: &[u8]) -> Result<Option<PathBuf>, String> {
    let line = String::from_utf8_lossy(line);
    let Some((name, place)) = line.split_once(" => ") else {
        return Ok(None);
    };
    match place.rsplit_once(" (") {
        Some((path, _)) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
        _ => Err(format!("{} not found", name.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_loader() {
        assert_eq!(library(b"\tlinux-vdso.so.1 (0x00007ffc)"), Ok(None));
        assert_eq!(library(b"\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Ok(None));
        assert_eq!(
            library(b"\tlibc.so.6 => /a (b)/libc.so.6 (0x0)"),
            Ok(Some(PathBuf::from("/a (b)/libc.so.6")))
        );
        assert_eq!(library(b"\tlibx.so => not found"), Err("libx.so not found".to_owned()));
    }

    #[test]
    fn this_very_program_is_found_with_its_libraries() {
        let helper = Helper::find(&std::env::current_exe().unwrap()).unwrap();
        let inside: Vec<_> = helper.mounts.iter().map(|mount| mount.inside.to_string()).collect();
        assert!(inside.contains(&"/.barn/room".to_owned()));
        assert!(inside.iter().any(|path| path.starts_with("/.barn/lib/libc.")), "{inside:?}");
        assert!(helper.mounts.iter().all(|mount| mount.host.is_absolute()));
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#!/bin/sh\n".repeat(20)).unwrap();
        assert!(matches!(Helper::find(file.path()), Err(LoaderError::NotElf(_))));
    }
}
