//! Whether `LD_LIBRARY_PATH` leads a compiler to other libraries than its toolchain's.
//!
//! cargo sets it for build scripts, to its own directories, and so it reaches every compiler that a build script runs. The loader
//! takes a library from there if it has the very name that a program asks for. No directory with such a name: the
//! programs load what they would load without the variable.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use barn_protocol::Toolchain;

/// Most directories looked at; cargo names some ten and one for each package with native libraries.
const DIRECTORIES_MAX: usize = 256;
/// Directories in one of the path in which the loader looks first, by processor: glibc's, and those of before 2.37.
const VARIANTS: [&str; 8] =
    ["glibc-hwcaps", "tls", "haswell", "xeon_phi", "avx512_1", "x86_64", "i686", "aarch64"];
/// Loaded by the C library itself when a thread ends early.
const BY_THE_C_LIBRARY: &[u8] = b"libgcc_s.so.1";

/// What in the value of `LD_LIBRARY_PATH` may change which libraries the programs of `toolchain` load; `None` if nothing does.
pub fn library_path_obstacle(value: &[u8], toolchain: &Toolchain) -> Option<PathBuf> {
    let directories = || value.split(|byte| matches!(byte, b':' | b';'));
    let shown = |directory: &[u8]| PathBuf::from(OsStr::from_bytes(directory));
    if directories().count() > DIRECTORIES_MAX {
        return Some(shown(value));
    }
    let names = names(toolchain);
    directories().find_map(|directory| {
        // An empty one is the working directory; `$` begins what the loader replaces.
        if !directory.starts_with(b"/") || directory.contains(&b'$') {
            return Some(shown(directory));
        }
        let directory = Path::new(OsStr::from_bytes(directory));
        let has = |name: &OsStr| Some(directory.join(name)).filter(|path| path.symlink_metadata().is_ok());
        // None of the names is in a directory that is not there.
        has(OsStr::new("."))?;
        names.iter().map(|name| OsStr::from_bytes(name)).chain(VARIANTS.map(OsStr::new)).find_map(has)
    })
}

/// All names that a program may ask for: of `libz.so.1.2.13` also `libz.so.1.2`, `libz.so.1` and `libz.so`.
fn names(toolchain: &Toolchain) -> BTreeSet<&[u8]> {
    let files = toolchain.tree.iter().map(|(path, _)| path.name()).chain([BY_THE_C_LIBRARY]);
    let libraries = files.filter_map(|name| Some((name, find(name, b".so")? + b".so".len())));
    libraries
        .flat_map(|(name, end)| {
            let dots = (end..name.len()).filter(|&at| name[at] == b'.').chain([name.len()]);
            dots.map(|at| &name[..at]).collect::<Vec<_>>()
        })
        .collect()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use barn_protocol::{Entry, Tree, TreePath};

    use super::*;

    #[test]
    fn a_library_of_the_toolchain_is_in_the_way_and_others_are_not() {
        let mut tree = Tree::new();
        for path in ["/usr/lib/libz.so.1.2.13", "/usr/lib/gcc/cc1", "/lib64/ld-linux-x86-64.so.2"] {
            tree.insert(TreePath::new(path).unwrap(), Entry::Directory).unwrap();
        }
        let toolchain =
            Toolchain { name: String::new(), machine: String::new(), tree, search_path: Vec::new() };
        let room = tempfile::tempdir().unwrap();
        let check = |value: &str, expect: bool| {
            let found = library_path_obstacle(value.as_bytes(), &toolchain);
            assert_eq!(found.is_none(), expect, "{value}: {found:?}");
        };
        let here = room.path().to_str().unwrap();
        for name in ["libstd-0a.so", "libz-sys.so", "cc1", "libz.a"] {
            fs::write(room.path().join(name), "").unwrap();
            check(here, true);
        }
        check(&format!("/no/such/directory:{here}"), true);
        for value in ["lib", "/usr/$LIB", &format!("{here}:")] {
            check(value, false);
        }
        for name in [
            "libz.so.1",
            "libz.so.1.2.13",
            "libz.so",
            "libgcc_s.so.1",
            "ld-linux-x86-64.so.2",
            "glibc-hwcaps",
        ] {
            fs::write(room.path().join(name), "").unwrap();
            check(here, false);
            check(&format!("/no/such/directory;{here}"), false);
            fs::remove_file(room.path().join(name)).unwrap();
        }
    }
}
