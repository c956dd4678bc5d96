//! What clang needs besides its own program: the traces of a gcc installation, distribution files, lists.

use std::{fs, path::Path, path::PathBuf};

use super::{
    discover::DiscoverError,
    gather::Gather,
    probe::{self, Answer},
    stamp,
    walk::path_of,
};

/// clang takes defaults from the distribution, which it recognises by the first of these it can read.
const DISTRIBUTION_FILES: [&str; 10] = [
    "/etc/lsb-release",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/redhat-release",
    "/etc/debian_version",
    "/etc/SuSE-release",
    "/etc/exherbo-release",
    "/etc/alpine-release",
    "/etc/arch-release",
    "/etc/gentoo-release",
];
/// Subdirectories of a gcc installation for other word sizes; clang looks for `crtbegin.o` in each.
const MULTILIBS: [&str; 5] = ["", "32", "64", "x32", "n32"];
/// Largest configuration file that is understood, in bytes; distributions' hold a line or two.
const CONFIGURATION_BYTES_MAX: u64 = 64 << 10;
/// Most files taken from clang's `share` directory; there are about eight.
const LISTS_MAX: usize = 64;

/// Gathers what this clang looks at for `-c` and `-S`. `version` is its answer to `-v`, `real` its real path.
pub(super) fn gather(gather: &mut Gather<'_>, version: &Answer, real: &Path) -> Result<(), DiscoverError> {
    // Configuration files take effect by their place beside the program, so a new one must be noticed.
    if let Some(directory) = real.parent() {
        gather.note(directory)?;
    }
    gather.note(Path::new("/etc/clang"))?;
    for configuration in values(&version.stderr, b"Configuration file: ") {
        add_configuration(gather, &configuration)?;
    }
    for installation in values(&version.stderr, b"Selected GCC installation: ") {
        add_gcc_installation(gather, &installation)?;
    }
    for file in DISTRIBUTION_FILES {
        gather.add_if_present(Path::new(file))?;
    }
    let resources = gather.ask(&["-print-resource-dir"])?;
    if let Some(directory) = resources.line().map(path_of).filter(|path| path.is_absolute()) {
        add_lists(gather, &directory.join("share"))?;
    }
    Ok(())
}

fn values(output: &[u8], key: &[u8]) -> Vec<PathBuf> {
    output
        .split(|&b| b == b'\n')
        .filter_map(|line| line.strip_prefix(key))
        .map(|value| path_of(value.trim_ascii()))
        .filter(|path| path.is_absolute())
        .collect()
}

/// A configuration file is taken along if the sandboxed clang would find it and it stands for itself.
fn add_configuration(gather: &mut Gather<'_>, path: &Path) -> Result<(), DiscoverError> {
    let real = gather.add_file(path)?;
    let personal = probe::home().is_some_and(|home| home != "/" && real.starts_with(home));
    let text = read_configuration(&real)?;
    let includes = text.split(|b| b.is_ascii_whitespace()).any(|word| word.starts_with(b"@"));
    if personal || includes {
        return Err(DiscoverError::Configuration(real));
    }
    Ok(())
}

fn read_configuration(path: &Path) -> Result<Vec<u8>, DiscoverError> {
    let size = fs::metadata(path).map_err(|error| DiscoverError::io(path, &error))?.len();
    if size > CONFIGURATION_BYTES_MAX {
        return Err(DiscoverError::Configuration(path.to_owned()));
    }
    fs::read(path).map_err(|error| DiscoverError::io(path, &error))
}

/// clang believes in a gcc installation that has a `crtbegin.o`, and takes the C++ headers' path from it.
fn add_gcc_installation(gather: &mut Gather<'_>, installation: &Path) -> Result<(), DiscoverError> {
    for multilib in MULTILIBS {
        gather.add_if_present(&installation.join(multilib).join("crtbegin.o"))?;
    }
    // A newer version beside this one would be selected instead.
    if let Some(versions) = installation.parent() {
        let versions = gather.resolve(versions)?;
        gather.note(&versions)?;
    }
    Ok(())
}

/// Lists of what sanitizers leave alone; clang reads them by itself.
fn add_lists(gather: &mut Gather<'_>, directory: &Path) -> Result<(), DiscoverError> {
    let real = match gather.resolve(directory) {
        Ok(real) => real,
        Err(DiscoverError::Io { absent: true, .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    gather.note(&real)?;
    let entries = match fs::read_dir(&real) {
        Ok(entries) => entries,
        Err(error) if stamp::is_absent(&error) => return Ok(()),
        Err(error) => return Err(DiscoverError::io(&real, &error)),
    };
    for entry in entries.take(LISTS_MAX) {
        let entry = entry.map_err(|error| DiscoverError::io(&real, &error))?;
        let path = directory.join(entry.file_name());
        if path.extension().is_some_and(|extension| extension == "txt") && path.is_file() {
            gather.add_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn values_are_read_from_the_version_text() {
        let text = b"clang version 14\nSelected GCC installation: /usr/bin/../lib/gcc/x/12\nConfiguration file: none\n";
        assert_eq!(values(text, b"Selected GCC installation: "), [PathBuf::from("/usr/bin/../lib/gcc/x/12")]);
        assert!(values(text, b"Configuration file: ").is_empty());
    }

    #[test]
    fn a_configuration_file_must_stand_for_itself() {
        let room = tempfile::tempdir().unwrap();
        let check = |content: &str, good: bool| {
            let path = room.path().join("clang.cfg");
            fs::write(&path, content).unwrap();
            let mut gather = Gather::new(Path::new("/usr/bin/clang"), OsStr::new(""));
            assert_eq!(add_configuration(&mut gather, &path).is_ok(), good, "{content}");
        };
        check("--gcc-triple=x86_64-redhat-linux\n", true);
        check("-Wall\n@other.cfg\n", false);
        check(&" ".repeat(70_000), false);
    }
}
