//! Finding the real compiler behind a name, past the wrapper's own links.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{guard::Guard, platform};

/// Where POSIX systems look when PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Which file something is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl FileId {
    /// The program of this process.
    pub fn of_this_program() -> Option<Self> {
        platform::own_program().ok().map(|metadata| Self::from(&metadata))
    }
}

/// What a search depends on.
#[derive(Debug)]
pub struct Search<'a> {
    /// The value of PATH.
    pub path: Option<&'a OsStr>,
    /// The working directory, against which relative entries and names are taken.
    pub cwd: &'a Path,
    /// The wrapper's own program.
    pub own: Option<FileId>,
    /// The programs that wrappers above run.
    pub guard: &'a Guard,
}

/// A program found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its absolute path, symlinks unresolved.
    pub program: PathBuf,
    /// Whether the name leads to the wrapper first, so that a compiler looking for itself by that name would find
    /// the wrapper.
    pub behind_barn: bool,
}

/// Why there is no program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchError {
    /// Nothing executable of that name in PATH.
    NotFound,
    /// This program runs barn, which runs it, and so on.
    Endless(PathBuf),
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such program in PATH"),
            Self::Endless(program) => write!(f, "{} runs barn on itself without end", program.display()),
        }
    }
}

impl Search<'_> {
    /// The program that `name` means. A name with a slash is taken as it is (and not checked: running it gives
    /// the right error), unless it is the wrapper itself.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub fn find(&self, name: &OsStr) -> Result<Found, SearchError> {
        if self.guard.is_exhausted() {
            return Err(SearchError::Endless(self.cwd.join(name)));
        }
        if !name.as_bytes().contains(&b'/') {
            return self.find_in_path(name);
        }
        let program = self.cwd.join(name);
        let is_own = fs::metadata(&program).is_ok_and(|metadata| self.is_own(&metadata));
        match program.file_name() {
            Some(base) if is_own => self.find_in_path(base).map(|found| Found { behind_barn: true, ..found }),
            _ if self.guard.forbids(&program) => Err(SearchError::Endless(program)),
            _ => Ok(Found { program, behind_barn: false }),
        }
    }

    fn find_in_path(&self, name: &OsStr) -> Result<Found, SearchError> {
        let mut behind_barn = false;
        let mut endless = None;
        let path = self.path.unwrap_or(OsStr::new(DEFAULT_PATH));
        for entry in path.as_bytes().split(|byte| *byte == b':') {
            // An empty entry means the working directory; joining it does just that.
            let program = self.cwd.join(OsStr::from_bytes(entry)).join(name);
            let Ok(metadata) = fs::metadata(&program) else {
                continue;
            };
            if self.is_own(&metadata) {
                behind_barn = true;
            } else if !metadata.is_file() || !platform::may_execute(&program) {
                continue;
            } else if self.guard.forbids(&program) {
                endless = Some(program);
            } else {
                return Ok(Found { program, behind_barn });
            }
        }
        Err(endless.map_or(SearchError::NotFound, SearchError::Endless))
    }

    fn is_own(&self, metadata: &Metadata) -> bool {
        self.own == Some(FileId::from(metadata))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::guard::{CHAIN_MAX, REPEATS_MAX, Role};

    /// `barn/` holds the wrapper as `barn` and its link `gcc`; `one/` and `two/` each a real `gcc`; `dir/` a
    /// directory of that name; `plain/` one that is not executable.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.file("barn/barn", 0o755);
            symlink("barn", tree.at("barn/gcc")).unwrap();
            tree.file("one/gcc", 0o755);
            tree.file("two/gcc", 0o755);
            tree.file("plain/gcc", 0o644);
            fs::create_dir_all(tree.at("dir/gcc")).unwrap();
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn file(&self, path: &str, mode: u32) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), path).unwrap();
            fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
        }

        /// Checks a search with the working directory at the root of the tree, where PATH entries are relative.
        fn check(&self, path: &str, guard: &Guard, name: &str, expect: Result<(&str, bool), SearchError>) {
            let own = fs::metadata(self.at("barn/barn")).unwrap();
            let search = Search {
                path: Some(OsStr::new(path)),
                cwd: self.0.path(),
                own: Some(FileId::from(&own)),
                guard,
            };
            let expect =
                expect.map(|(program, behind_barn)| Found { program: self.at(program), behind_barn });
            assert_eq!(search.find(OsStr::new(name)), expect, "{name} in {path}");
        }

        fn guard_after(&self, program: &str, times: usize) -> Guard {
            (0..times).fold(Guard::default(), |guard, _| {
                Guard::parse(Some(&guard.value_with(&self.at(program), Role::Replacing)))
            })
        }
    }

    #[test]
    fn the_first_executable_file_of_the_name_is_taken() {
        let (tree, guard) = (Tree::new(), Guard::default());
        tree.check("missing:dir:plain:one:two", &guard, "gcc", Ok(("one/gcc", false)));
        tree.check("two:one", &guard, "gcc", Ok(("two/gcc", false)));
        tree.check("one", &guard, "clang", Err(SearchError::NotFound));
        tree.check("plain:dir", &guard, "gcc", Err(SearchError::NotFound));
    }

    #[test]
    fn an_empty_entry_is_the_working_directory() {
        let (tree, guard) = (Tree::new(), Guard::default());
        tree.file("mycc", 0o755);
        for path in ["", "one:", ":one", "one::two"] {
            tree.check(path, &guard, "mycc", Ok(("mycc", false)));
        }
    }

    #[test]
    fn the_wrapper_is_passed_over_under_any_name() {
        let (tree, guard) = (Tree::new(), Guard::default());
        fs::hard_link(tree.at("barn/barn"), tree.at("barn/cc")).unwrap();
        tree.file("one/cc", 0o755);
        tree.check("barn:one", &guard, "gcc", Ok(("one/gcc", true)));
        tree.check("barn:one", &guard, "cc", Ok(("one/cc", true)));
        tree.check("barn", &guard, "gcc", Err(SearchError::NotFound));
    }

    #[test]
    fn a_path_is_taken_as_it_is_unless_it_is_the_wrapper() {
        let (tree, guard) = (Tree::new(), Guard::default());
        tree.check("one", &guard, "two/gcc", Ok(("two/gcc", false)));
        tree.check("one", &guard, tree.at("two/gcc").to_str().unwrap(), Ok(("two/gcc", false)));
        tree.check("one", &guard, "no/such", Ok(("no/such", false)));
        tree.check("one", &guard, "barn/gcc", Ok(("one/gcc", true)));
    }

    #[test]
    fn a_program_that_calls_barn_for_ever_is_passed_over_in_the_end() {
        let tree = Tree::new();
        let often = tree.guard_after("one/gcc", REPEATS_MAX);
        tree.check("one:two", &tree.guard_after("one/gcc", REPEATS_MAX - 1), "gcc", Ok(("one/gcc", false)));
        tree.check("one:two", &often, "gcc", Ok(("two/gcc", false)));
        tree.check("one", &often, "gcc", Err(SearchError::Endless(tree.at("one/gcc"))));
        let absolute = tree.at("one/gcc");
        tree.check("two", &often, absolute.to_str().unwrap(), Err(SearchError::Endless(absolute.clone())));
        let exhausted = tree.guard_after("two/cc", CHAIN_MAX);
        tree.check("one", &exhausted, "gcc", Err(SearchError::Endless(tree.at("gcc"))));
    }
}
