//! The guard against endless recursion. Pure.
//!
//! `gcc` in PATH may be a script that calls `barn gcc`, or ccache's link, which in turn searches PATH and finds
//! barn's link. Each wrapper therefore adds the program it runs to a list in the environment
//! ([`crate::env_vars::BARN_CHAIN`]) and passes over a program that is on the list [`REPEATS_MAX`] times already.
//! Once would be wrong: gcc's own `lto-wrapper` calls gcc again by its name, and a make run through barn may call
//! make through barn.
//!
//! The list also tells that a wrapper above waits for this very process while it occupies a slot of the node
//! (`compiling`): then the node is not asked, or a tree of wrappers could wait for its own slots.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// How often one program may be on the list. Honest recursion reaches two or three.
pub const REPEATS_MAX: usize = 8;
/// Most entries of the list; then barn refuses to go on.
pub const CHAIN_MAX: usize = 64;

/// The first entry when a wrapper above is running its compiler for the node. Programs are absolute, so this is none.
const COMPILING: &[u8] = b"compiling";

/// The programs that wrappers above this one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    programs: Vec<PathBuf>,
    compiling: bool,
}

impl Guard {
    /// Reads the variable's value.
    pub fn parse(value: Option<&OsStr>) -> Self {
        let mut guard = Self::default();
        for entry in value.unwrap_or_default().as_bytes().split(|byte| *byte == b':') {
            match entry {
                b"" => {}
                COMPILING => guard.compiling = true,
                program => guard.programs.push(PathBuf::from(OsStr::from_bytes(program))),
            }
        }
        guard
    }

    /// Whether `program` has been run so often that running it again would go round for ever.
    pub fn forbids(&self, program: &Path) -> bool {
        self.programs.iter().filter(|other| *other == program).count() >= REPEATS_MAX
    }

    /// Whether the list is so long that nothing sensible can be going on.
    pub fn is_exhausted(&self) -> bool {
        self.programs.len() >= CHAIN_MAX
    }

    /// Whether a wrapper above waits for this one on behalf of the node.
    pub fn is_compiling(&self) -> bool {
        self.compiling
    }

    /// The variable's value for a child that is `program`.
    pub fn value_with(&self, program: &Path, role: Role) -> OsString {
        let mut value = Vec::new();
        if self.compiling || role == Role::Compiling {
            value.extend_from_slice(COMPILING);
            value.push(b':');
        }
        for known in self.programs.iter().map(PathBuf::as_path).chain([program]) {
            value.extend_from_slice(known.as_os_str().as_bytes());
            value.push(b':');
        }
        value.pop();
        OsString::from_vec(value)
    }
}

/// How the program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The wrapper becomes the program; the node is no longer involved.
    Replacing,
    /// The program runs as a child on behalf of the node.
    Compiling,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(guard: &Guard, program: &str, role: Role) -> Guard {
        Guard::parse(Some(&guard.value_with(Path::new(program), role)))
    }

    #[test]
    fn a_program_is_forbidden_after_its_repeats() {
        let (gcc, cc) = (Path::new("/usr/bin/gcc"), Path::new("/usr/bin/cc"));
        let mut guard = chain(&Guard::parse(None), "/usr/bin/cc", Role::Replacing);
        for _ in 0..REPEATS_MAX {
            assert!(!guard.forbids(gcc));
            guard = chain(&guard, "/usr/bin/gcc", Role::Replacing);
        }
        assert!(guard.forbids(gcc));
        assert!(!guard.forbids(cc));
        assert!(!guard.is_compiling());
    }

    #[test]
    fn compiling_is_passed_on() {
        let guard = chain(&Guard::default(), "/a", Role::Compiling);
        assert!(guard.is_compiling());
        assert_eq!(guard.value_with(Path::new("/b"), Role::Replacing), "compiling:/a:/b");
        assert!(chain(&guard, "/b", Role::Replacing).is_compiling());
    }

    #[test]
    fn the_list_has_an_end() {
        let mut guard = Guard::default();
        for step in 0..CHAIN_MAX {
            assert!(!guard.is_exhausted());
            guard = chain(&guard, &format!("/{step}"), Role::Replacing);
        }
        assert!(guard.is_exhausted());
    }
}
