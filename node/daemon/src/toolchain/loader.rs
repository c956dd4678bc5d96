//! The shared libraries of a program, as its own dynamic loader finds them.
//!
//! The loader is asked (`ld.so --list`), because only it knows its search rules. In the sandbox there is no
//! `/etc/ld.so.cache`: that file names every library of a machine, so it would give each machine a toolchain of
//! its own. Where the loader finds another library without the cache, or none, a symbolic link in its default
//! directory leads to the right one.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use super::{probe, walk::path_of};

/// The libraries of one program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Libraries {
    /// Where the loader opens them.
    pub(super) files: Vec<PathBuf>,
    /// Links that are needed in place of the loader's cache: place and target.
    pub(super) aliases: Vec<(PathBuf, PathBuf)>,
}

/// Why the libraries of a program are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoaderError {
    #[error("the loader did not answer")]
    Ask(#[from] io::Error),
    #[error("the loader listed nothing")]
    NoAnswer,
    #[error("library {0} is missing")]
    Missing(String),
}

/// What `--list` says: by the name asked for, where it is.
type Listing = BTreeMap<Vec<u8>, Option<PathBuf>>;

/// Asks `interpreter` for the libraries of `program`.
pub(super) fn libraries(interpreter: &Path, program: &Path) -> Result<Libraries, LoaderError> {
    let mut usual = list(interpreter, &[], program)?;
    if usual.values().flatten().any(|path| is_machine_variant(path)) {
        // The loader chose a build for this very processor, which a worker may not have.
        usual = list(interpreter, &["--glibc-hwcaps-mask", "none"], program)?;
    }
    if usual.is_empty() {
        return Err(LoaderError::NoAnswer);
    }
    // musl's loader has no cache, does not know the option and lists nothing.
    let mut bare = list(interpreter, &["--inhibit-cache", "--glibc-hwcaps-mask", "none"], program)?;
    if bare.is_empty() {
        bare = list(interpreter, &["--inhibit-cache"], program)?;
    }
    compare(&usual, if bare.is_empty() { &usual } else { &bare })
}

fn is_machine_variant(path: &Path) -> bool {
    path.iter().any(|component| component == "glibc-hwcaps")
}

fn compare(usual: &Listing, bare: &Listing) -> Result<Libraries, LoaderError> {
    let default_directory = bare
        .iter()
        .find(|(name, path)| name.starts_with(b"libc.") && path.is_some())
        .and_then(|(_, path)| path.as_deref()?.parent());
    let mut libraries = Libraries::default();
    for (name, path) in usual {
        let missing = || LoaderError::Missing(String::from_utf8_lossy(name).into_owned());
        let path = path.as_ref().ok_or_else(missing)?;
        libraries.files.push(path.clone());
        if bare.get(name).and_then(Option::as_ref) != Some(path) {
            let directory = default_directory.ok_or_else(missing)?;
            libraries.aliases.push((directory.join(path_of(name)), path.clone()));
        }
    }
    Ok(libraries)
}

fn list(interpreter: &Path, options: &[&str], program: &Path) -> io::Result<Listing> {
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend([OsStr::new("--list"), program.as_os_str()]);
    Ok(parse(&probe::ask(interpreter, &args, OsStr::new(""))?.stdout))
}

fn parse(output: &[u8]) -> Listing {
    output.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// One line: `name => path (address)`, `name => not found`, `path (address)`; the kernel's own library has no path.
fn parse_line(line: &[u8]) -> Option<(Vec<u8>, Option<PathBuf>)> {
    let line = line.trim_ascii();
    let (name, place) = match find(line, b" => ") {
        Some(at) => (&line[..at], &line[at + 4..]),
        None => (strip_address(line), line),
    };
    if place == b"not found" {
        return Some((name.to_vec(), None));
    }
    let place = strip_address(place);
    place.starts_with(b"/").then(|| (name.to_vec(), Some(path_of(place))))
}

fn strip_address(place: &[u8]) -> &[u8] {
    find(place, b" (0x").map_or(place, |at| &place[..at])
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &[u8] = b"\tlinux-vdso.so.1 (0x00007f03f4766000)
\tlibmpc.so.3 => /usr/local/lib/libmpc.so.3 (0x00007f03f0e00000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f03f4628000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f03ea21e000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f03f4768000)
";

    #[test]
    fn libraries_outside_the_default_directories_get_a_link() {
        let bare = String::from_utf8_lossy(USUAL)
            .replace("/usr/local/lib/libmpc.so.3 (0x00007f03f0e00000)", "not found");
        let libraries = compare(&parse(USUAL), &parse(bare.as_bytes())).unwrap();
        assert_eq!(libraries.files.len(), 4);
        assert_eq!(
            libraries.aliases,
            [("/lib/x86_64-linux-gnu/libmpc.so.3".into(), "/usr/local/lib/libmpc.so.3".into())]
        );
        let same = compare(&parse(USUAL), &parse(USUAL)).unwrap();
        assert!(same.aliases.is_empty());
    }

    #[test]
    fn another_library_without_the_cache_gets_a_link_too() {
        let bare = String::from_utf8_lossy(USUAL).replace("/usr/local/lib", "/lib/x86_64-linux-gnu");
        let libraries = compare(&parse(USUAL), &parse(bare.as_bytes())).unwrap();
        assert_eq!(libraries.aliases.len(), 1);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let usual = parse(b"\tlibmpc.so.3 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n");
        let error = compare(&usual, &usual).unwrap_err();
        assert_eq!(error.to_string(), "library libmpc.so.3 is missing");
    }

    #[test]
    fn the_real_loader_answers_for_this_test() {
        let this = std::env::current_exe().unwrap();
        let elf = super::super::elf::read(&this).unwrap().unwrap();
        let libraries = libraries(&elf.interpreter.unwrap(), &this).unwrap();
        assert!(
            libraries.files.iter().any(|path| path.to_string_lossy().contains("libc.so")),
            "{libraries:?}"
        );
        assert!(libraries.files.iter().all(|path| path.exists()));
    }
}
