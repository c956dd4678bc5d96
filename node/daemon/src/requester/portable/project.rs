//! The project that a compile belongs to: its root, and what its own `barn.toml` says.
//!
//! Which directory is taken for the root decides how much is shared with other checkouts, never whether a result is right.

use std::{
    ffi::OsStr,
    fs,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::routes::on_paper;

/// The name of a project's settings; that of a node's own, too.
const FILE_NAME: &str = "barn.toml";
/// Largest project file read, in bytes; it has two settings.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Directories looked at for a root, from one directory up: as many as a tree path may have.
const ANCESTORS_MAX: usize = 64;
/// What version control keeps at the top of a checkout: a directory, or a file in linked ones.
const TOPS: [&str; 7] = [".git", ".hg", ".jj", ".svn", ".bzr", ".pijul", "_darcs"];

/// What a project's own file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Project {
    /// The root it names, a real path.
    root: Option<PathBuf>,
    /// Whether objects are to be the same in all checkouts.
    pub(in super::super) portable_paths: bool,
    /// Why a file that is there is not used.
    pub(in super::super) trouble: Option<String>,
}

/// A file with settings of a project, if it has that table; a node's own settings have others.
#[derive(Deserialize)]
struct Settings {
    project: Option<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    root: PathBuf,
    portable_paths: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self { root: PathBuf::from("."), portable_paths: false }
    }
}

impl Project {
    /// The project of a compile that runs in `cwd` and whose source lies in the directory `sources`. Every call asks, so it
    /// takes one look per directory, and none twice.
    pub(in super::super) fn find(cwd: &Path, sources: &Path) -> Self {
        let beside = || {
            let sources = on_paper(sources.as_os_str().as_bytes())?;
            let sources = Path::new(OsStr::from_bytes(&sources));
            ancestors(sources).take_while(|directory| !cwd.starts_with(directory)).find_map(read)
        };
        ancestors(cwd).find_map(read).or_else(beside).unwrap_or_default()
    }

    /// The project's root.
    pub(super) fn root(&self, cwd: &Path, sources: &Path) -> PathBuf {
        if let Some(root) = &self.root {
            return root.clone();
        }
        let sources = fs::canonicalize(sources).unwrap_or_else(|_| cwd.to_owned());
        let own = top(cwd).filter(|top| sources.starts_with(top));
        own.or_else(|| top(&sources)).unwrap_or_else(|| cwd.to_owned())
    }
}

fn ancestors(directory: &Path) -> impl Iterator<Item = &Path> {
    directory.ancestors().take(ANCESTORS_MAX)
}

/// The top of the checkout that holds a directory.
fn top(directory: &Path) -> Option<PathBuf> {
    let is_top = |directory: &&Path| TOPS.iter().any(|name| directory.join(name).symlink_metadata().is_ok());
    ancestors(directory).find(is_top).map(Path::to_owned)
}

/// The project file in a directory; `None` if there is none.
fn read(directory: &Path) -> Option<Project> {
    let path = directory.join(FILE_NAME);
    let file = fs::File::open(&path).ok()?;
    let unusable = |why: String| {
        Some(Project { trouble: Some(format!("{}: {why}", path.display())), ..Project::default() })
    };
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 <= FILE_BYTES_MAX => {}
        Ok(_) => return unusable(format!("over {FILE_BYTES_MAX} bytes")),
        Err(error) => return unusable(error.to_string()),
    }
    let table = match toml::from_str::<Settings>(&text) {
        Ok(settings) => settings.project?,
        Err(error) => return unusable(error.message().to_owned()),
    };
    match fs::canonicalize(directory.join(&table.root)) {
        Ok(root) if root.is_dir() => {
            Some(Project { root: Some(root), portable_paths: table.portable_paths, trouble: None })
        }
        _ => unusable(format!(
            "`root` is no directory: {}",
            String::from_utf8_lossy(table.root.as_os_str().as_bytes())
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new(directories: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            directories.iter().for_each(|name| fs::create_dir_all(dir.path().join(name)).unwrap());
            Self(dir)
        }

        fn at(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.0.path()).unwrap().join(name)
        }

        fn check(&self, cwd: &str, sources: &str, root: &str, portable_paths: bool) {
            let (cwd, sources) = (self.at(cwd), self.at(sources));
            let project = Project::find(&cwd, &sources);
            assert_eq!(project.root(&cwd, &sources), self.at(root), "{project:?}");
            assert_eq!(project.portable_paths, portable_paths, "{project:?}");
        }
    }

    #[test]
    fn the_nearest_file_with_the_table_says_the_root() {
        let bench = Bench::new(&["top/.git", "top/p/src", "top/p/build", "elsewhere"]);
        bench.check("top/p/build", "top/p/src", "top", false);
        fs::write(bench.at("top/p/barn.toml"), "[project]\nportable_paths = true\n").unwrap();
        bench.check("top/p/build", "top/p/src", "top/p", true);
        bench.check("elsewhere", "top/p/src", "top/p", true);
        // A node's own settings are none of a project's.
        fs::write(bench.at("top/p/build/barn.toml"), "[worker]\nslots = 1\n").unwrap();
        bench.check("top/p/build", "top/p/src", "top/p", true);
        fs::write(bench.at("top/p/barn.toml"), "[project]\nroot = \"..\"\n").unwrap();
        bench.check("top/p/build", "top/p/src", "top", false);
    }

    #[test]
    fn without_a_file_the_checkout_is_the_root() {
        let bench =
            Bench::new(&["a/.git", "a/sub/.git", "a/sub/src", "a/build", "b/.hg", "none/src", "none/build"]);
        bench.check("a/build", "a/sub/src", "a", false);
        bench.check("a/sub", "a/sub/src", "a/sub", false);
        bench.check("none/build", "a/sub/src", "a/sub", false);
        bench.check("b", "a/build", "a", false);
        bench.check("none/build", "none/src", "none/build", false);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_of() {
        let bench = Bench::new(&["p/.git", "p/src"]);
        for text in
            ["[project]\nroot = \"gone\"\n", "[project]\nrot = \".\"\n", "[project", &"#".repeat(70_000)]
        {
            fs::write(bench.at("p/barn.toml"), text).unwrap();
            let project = Project::find(&bench.at("p/src"), &bench.at("p/src"));
            assert!(project.trouble.is_some_and(|why| why.contains("barn.toml")));
            bench.check("p/src", "p/src", "p", false);
        }
    }
}
