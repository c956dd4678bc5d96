//! `barn run -- CMD…`: a build with its compilers behind barn, without a word to the build system.
//!
//! Three ways lead a compile to barn, and each is for callers that take no other:
//!
//! - a directory of links in front of `PATH`, one for each compiler of C and C++ that `PATH` has: make, configure scripts,
//!   build scripts (the `cc` crate), shell scripts;
//! - `RUSTC_WRAPPER` for cargo, `CMAKE_C_COMPILER_LAUNCHER` and `CMAKE_CXX_COMPILER_LAUNCHER` for what configures with CMake
//!   and names its compiler by path;
//! - `barn` in front of compilers that the user's own `CC`, `CXX` and their kin (`CC_x86_64_unknown_linux_gnu`, `HOST_CC`)
//!   name by path, which no link in `PATH` stands for.
//!
//! What the user has set otherwise stays, and is told. The number of jobs is the build tool's.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::symlink,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use barn_protocol::{canonical::Canonical, keys::domain};
use barn_wrapper::{call::looks_like_compiler, env_vars::PATH};

use super::Outcome;
use crate::setup::Setup;

/// A shell's codes for a command that is missing, and for one that cannot be run.
const EXIT_MISSING: u8 = 127;
const EXIT_NOT_RUN: u8 = 126;
/// Compilers whose links would be in the way: cargo is told by a variable, and preprocessors are not cached.
const NOT_LINKED: [&str; 4] = ["rustc", "clippy-driver", "cpp", "clang-cpp"];
/// Programs that run another program by a variable: the variable, and what then does not go through barn.
const WRAPPERS: [(&str, &str); 3] = [
    ("RUSTC_WRAPPER", "Rust"),
    ("CMAKE_C_COMPILER_LAUNCHER", "C built by CMake"),
    ("CMAKE_CXX_COMPILER_LAUNCHER", "C++ built by CMake"),
];
/// Another name by which cargo knows its wrapper.
const CARGOS_NAME: &str = "CARGO_BUILD_RUSTC_WRAPPER";

/// A build that could not be started.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0} is not there\nhint: barn and barn-node belong in one directory")]
    NoWrapper(PathBuf),
    #[error("cannot link compilers in {0}")]
    Links(PathBuf, #[source] io::Error),
}

/// `barn run`: becomes the command.
pub(super) fn run(setup: &Setup, command: &[OsString]) -> Outcome {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::from(EXIT_MISSING)) };
    let barn = wrapper()?;
    let search_path = env::var_os(PATH).unwrap_or_default();
    let links = link(&setup.home.links_dir(), &barn, &compilers(&search_path))?;
    let plan = Plan::of(env::vars_os(), &barn);
    plan.notes.iter().for_each(|note| eprintln!("barn: {note}"));
    let error =
        Command::new(program).args(arguments).envs(plan.set).env(PATH, in_front(&links, &search_path)).exec();
    eprintln!("barn: cannot run {}: {error}", program.display());
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    Ok(ExitCode::from(if is_missing { EXIT_MISSING } else { EXIT_NOT_RUN }))
}

/// What a build's environment is to hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    set: Vec<(OsString, OsString)>,
    notes: Vec<String>,
}

impl Plan {
    fn of(environment: impl Iterator<Item = (OsString, OsString)>, barn: &Path) -> Self {
        let mut plan = Self::default();
        let mut taken = BTreeSet::new();
        for (name, value) in environment.filter(|(_, value)| !value.is_empty()) {
            let wrapped = WRAPPERS.iter().find(|(wrapper, _)| name == *wrapper || name == CARGOS_NAME);
            if let Some((wrapper, what)) = wrapped {
                taken.insert(*wrapper);
                if !is_same(Path::new(&value), barn) {
                    let (name, value) = (name.display(), value.display());
                    plan.notes.push(format!("{name} is {value}, so {what} does not go through barn"));
                }
            } else if names_compiler(&name) {
                plan.compiler(name, &value, barn);
            }
        }
        let free = WRAPPERS.iter().filter(|(wrapper, _)| !taken.contains(wrapper));
        plan.set.extend(free.map(|(wrapper, _)| (OsString::from(wrapper), barn.into())));
        plan
    }

    /// Puts barn before a compiler that is named by its path.
    fn compiler(&mut self, name: OsString, value: &OsStr, barn: &Path) {
        let first = value.as_bytes().split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        let first = OsStr::from_bytes(first.unwrap_or_default());
        if !first.as_bytes().contains(&b'/') || !looks_like_compiler(first) {
            return;
        }
        if barn.as_os_str().as_bytes().iter().any(u8::is_ascii_whitespace) {
            let note = format!(
                "{} names a compiler by path, and {} has blanks, so it does not go through barn",
                name.display(),
                barn.display()
            );
            return self.notes.push(note);
        }
        let words = [barn.as_os_str().as_bytes(), value.as_bytes()].join(&b' ');
        self.set.push((name, OsString::from_vec(words)));
    }
}

/// Whether a variable is one of those by which make, configure scripts and the `cc` crate are told the compiler.
fn names_compiler(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let name =
        [&b"HOST_"[..], b"TARGET_"].iter().find_map(|prefix| name.strip_prefix(*prefix)).unwrap_or(name);
    matches!(name, b"CC" | b"CXX") || name.starts_with(b"CC_") || name.starts_with(b"CXX_")
}

fn is_same(path: &Path, barn: &Path) -> bool {
    path == "barn" || path.canonicalize().is_ok_and(|path| path == barn)
}

/// The program that build systems call: it lies beside this one.
fn wrapper() -> Result<PathBuf, Box<dyn std::error::Error + Send + Sync>> {
    let barn = env::current_exe()?.canonicalize()?.with_file_name("barn");
    if barn.is_file() { Ok(barn) } else { Err(RunError::NoWrapper(barn).into()) }
}

/// The names of the compilers of C and C++ in `PATH`. A link under a name that is not there would make a configure script
/// find what it cannot run.
fn compilers(search_path: &OsStr) -> BTreeSet<OsString> {
    let directories = env::split_paths(search_path).filter(|directory| directory.is_absolute());
    let names = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let is_linked = |name: &OsString| {
        let plain = |other: &&str| name.as_bytes().windows(other.len()).any(|part| part == other.as_bytes());
        looks_like_compiler(name) && !NOT_LINKED.iter().any(plain)
    };
    names.map(|entry| entry.file_name()).filter(is_linked).collect()
}

/// A directory with a link to barn for each name. One set of names has one directory, so builds do not disturb each other.
fn link(links: &Path, barn: &Path, names: &BTreeSet<OsString>) -> Result<PathBuf, RunError> {
    let mut set = Canonical::new(domain::COMPILER_LINKS);
    set.bytes(barn.as_os_str().as_bytes());
    for name in names {
        set.bytes(name.as_bytes());
    }
    let directory = links.join(&set.finish().to_string()[..16]);
    let make = || {
        fs::create_dir_all(&directory)?;
        names.iter().try_for_each(|name| match symlink(barn, directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        })
    };
    make().map_err(|error| RunError::Links(directory.clone(), error))?;
    Ok(directory)
}

fn in_front(links: &Path, search_path: &OsStr) -> OsString {
    let separator: &[u8] = if search_path.is_empty() { b"" } else { b":" };
    OsString::from_vec([links.as_os_str().as_bytes(), separator, search_path.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(environment: &[(&str, &str)], set: &[(&str, &str)], notes: usize) {
        let barn = Path::new("/b/barn");
        let pairs = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let plan = Plan::of(pairs, barn);
        let own = WRAPPERS.iter().filter(|(name, _)| {
            environment
                .iter()
                .all(|(other, _)| other != name && !(*other == CARGOS_NAME && *name == "RUSTC_WRAPPER"))
        });
        let own = own.map(|(name, _)| (OsString::from(name), OsString::from("/b/barn")));
        let set: Vec<_> = set
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .chain(own)
            .collect();
        assert_eq!((plan.set, plan.notes.len()), (set, notes), "{environment:?}");
    }

    #[test]
    fn wrappers_are_set_unless_the_user_has_others() {
        check(&[], &[], 0);
        check(&[("RUSTC_WRAPPER", "sccache")], &[], 1);
        check(&[("RUSTC_WRAPPER", "barn")], &[], 0);
        check(&[("CARGO_BUILD_RUSTC_WRAPPER", "sccache")], &[], 1);
        check(&[("CMAKE_C_COMPILER_LAUNCHER", "ccache")], &[], 1);
    }

    #[test]
    fn compilers_named_by_path_get_barn_in_front() {
        check(&[("CC", "/opt/gcc/bin/gcc -m32")], &[("CC", "/b/barn /opt/gcc/bin/gcc -m32")], 0);
        check(
            &[("CXX_x86_64_unknown_linux_gnu", "/usr/bin/g++")],
            &[("CXX_x86_64_unknown_linux_gnu", "/b/barn /usr/bin/g++")],
            0,
        );
        check(&[("HOST_CC", "./clang-14")], &[("HOST_CC", "/b/barn ./clang-14")], 0);
        for (name, value) in
            [("CC", "gcc"), ("CC", "barn /usr/bin/gcc"), ("CCACHE_DIR", "/x/gcc"), ("CC", "/x/ccache gcc")]
        {
            check(&[(name, value)], &[], 0);
        }
    }

    #[test]
    fn only_what_is_there_is_linked() {
        let room = tempfile::tempdir().unwrap();
        for name in ["gcc", "gcc-12", "x86_64-linux-gnu-g++", "gcc-ar", "rustc", "cpp-12", "ls"] {
            fs::write(room.path().join(name), "").unwrap();
        }
        let names = compilers(room.path().as_os_str());
        assert_eq!(names, ["gcc", "gcc-12", "x86_64-linux-gnu-g++"].map(OsString::from).into());
        let links =
            |names: &BTreeSet<_>| link(&room.path().join("links"), Path::new("/b/barn"), names).unwrap();
        let first = links(&names);
        assert_eq!(fs::read_link(first.join("gcc-12")).unwrap(), Path::new("/b/barn"));
        assert_eq!(links(&names), first);
        assert_ne!(links(&[OsString::from("gcc")].into()), first);
    }
}
