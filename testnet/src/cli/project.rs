//! The code base of the demonstration and the benchmarks: the C and C++ sources that four published crates carry, fetched with
//! cargo. Together they are what a small encrypted key-value store with scripting would be made of.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;

/// One library, as it lies in a published crate.
struct Part {
    name: &'static str,
    package: &'static str,
    version: &'static str,
    language: Language,
    /// Directories whose sources belong to the library, below the crate.
    directories: &'static [&'static str],
    /// Whether a directory's own directories belong to it as well.
    depth: usize,
    /// Sources with one of these in their path are left out: tests, tools, code for other systems, and two that
    /// take 7 and 13 s on a whole core, so that half a demonstration would be waiting for the last compile.
    without: &'static [&'static str],
    /// Include directories, below the crate.
    includes: &'static [&'static str],
    flags: &'static [&'static str],
}

/// The language of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    C,
    Cxx,
}

const PARTS: [Part; 4] = [
    Part {
        name: "Lua",
        package: "lua-src",
        version: "551.1.0",
        language: Language::C,
        directories: &["lua-5.4.9"],
        depth: 1,
        without: &[],
        includes: &[],
        flags: &["-DLUA_USE_POSIX"],
    },
    Part {
        name: "zstd",
        package: "zstd-sys",
        version: "2.1.2",
        language: Language::C,
        directories: &["zstd/lib"],
        depth: 2,
        without: &["zstd_lazy.c"],
        includes: &["zstd/lib"],
        flags: &["-DZSTD_DISABLE_ASM"],
    },
    Part {
        name: "LevelDB",
        package: "leveldb-sys",
        version: "2.0.9",
        language: Language::Cxx,
        directories: &["deps/leveldb-1.22/db", "deps/leveldb-1.22/table", "deps/leveldb-1.22/util"],
        depth: 1,
        without: &["_test.cc", "_bench.cc", "windows", "testutil", "leveldbutil"],
        includes: &["deps/leveldb-1.22", "deps/leveldb-1.22/include"],
        flags: &["-std=c++11", "-DLEVELDB_PLATFORM_POSIX=1", "-DLEVELDB_IS_BIG_ENDIAN=0"],
    },
    Part {
        name: "BoringSSL",
        package: "boring-sys",
        version: "5.4.0",
        language: Language::Cxx,
        directories: &["deps/boringssl/crypto", "deps/boringssl/ssl"],
        depth: 4,
        without: &["test", "bcm.cc"],
        includes: &["deps/boringssl/include"],
        flags: &["-std=c++17", "-DOPENSSL_NO_ASM"],
    },
];

/// Flags of every unit: those of an ordinary release build with debug information, and warnings, for there shall
/// be some to compare.
const COMMON_FLAGS: [&str; 5] = ["-O2", "-g", "-Wall", "-Wextra", "-fPIC"];

/// The directory, below the project, that every build writes to. The same for all, for its name is in the
/// dependency files.
const OUTPUTS: &str = "objects";

/// One source and how it is compiled.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) language: Language,
    /// The source, below the project.
    pub(super) source: PathBuf,
    /// The object without its ending, below the output directory.
    pub(super) output: PathBuf,
    /// All arguments of the compiler.
    pub(super) args: Vec<String>,
}

/// The sources on a host's disk and the units made of them.
#[derive(Debug)]
pub(super) struct Project {
    dir: PathBuf,
    units: Vec<Unit>,
}

impl Project {
    /// Fetches the crates into `dir` and picks `count` units evenly among all.
    pub(super) fn fetch(dir: &Path, count: usize) -> Result<Project, Failure> {
        vendor(dir)?;
        let mut units = Vec::new();
        for part in &PARTS {
            units.extend(part.units(dir)?);
        }
        // By the hash-like order of their names' ends, so that long and short ones mix as in a large build.
        units.sort_by_cached_key(|unit| {
            unit.output.as_os_str().as_encoded_bytes().iter().rev().copied().collect::<Vec<_>>()
        });
        let all = units.len();
        let count = count.clamp(1, all);
        // Bresenham's line: `count` of `all`, evenly.
        let mut number = 0;
        units.retain(|_| {
            number += 1;
            number * count / all != (number - 1) * count / all
        });
        Ok(Project { dir: dir.to_owned(), units })
    }

    /// The project's directory, where the compiler is called.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The directory all builds write to.
    pub(super) fn outputs(&self) -> PathBuf {
        self.dir.join(OUTPUTS)
    }

    /// Moves what a build wrote away under another name.
    pub(super) fn set_outputs_aside(&self, name: &str) -> Result<(), Failure> {
        Ok(fs::rename(self.outputs(), self.dir.join(name))?)
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |language| self.units.iter().filter(|unit| unit.language == language).count();
        let (c, cxx) = (count(Language::C), count(Language::Cxx));
        write!(f, "{} units, {c} C and {cxx} C++ ({})", self.units.len(), COMMON_FLAGS.join(" "))?;
        for part in &PARTS {
            let home = Path::new("vendor").join(part.package);
            let count = self.units.iter().filter(|unit| unit.source.starts_with(&home)).count();
            write!(f, "\n    {:10} {count:4} units from {} {}", part.name, part.package, part.version)?;
        }
        Ok(())
    }
}

impl Part {
    fn units(&self, dir: &Path) -> Result<Vec<Unit>, Failure> {
        let home = Path::new("vendor").join(self.package);
        let mut sources = Vec::new();
        for directory in self.directories {
            self.search(dir, &home.join(directory), self.depth, &mut sources)?;
        }
        Ok(sources.into_iter().map(|source| self.unit(&home, source)).collect())
    }

    fn search(
        &self,
        dir: &Path,
        place: &Path,
        depth: usize,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), Failure> {
        let ending = match self.language {
            Language::C => "c",
            Language::Cxx => "cc",
        };
        let full = dir.join(place);
        let entries =
            fs::read_dir(&full).map_err(|error| format!("cannot read {}: {error}", full.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = place.join(entry.file_name());
            let text = path.to_string_lossy();
            if self.without.iter().any(|part| text.contains(part)) {
                continue;
            }
            if entry.file_type()?.is_dir() && depth > 1 {
                self.search(dir, &path, depth - 1, found)?;
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
        Ok(())
    }

    fn unit(&self, home: &Path, source: PathBuf) -> Unit {
        let output = source.strip_prefix("vendor").unwrap_or(&source).with_extension("");
        let object = Path::new(OUTPUTS).join(&output);
        let mut args: Vec<String> =
            COMMON_FLAGS.iter().chain(self.flags).map(|flag| (*flag).to_owned()).collect();
        args.extend(self.includes.iter().map(|place| format!("-I{}", home.join(place).display())));
        args.extend(["-MD".into(), "-MF".into(), format!("{}.d", object.display())]);
        args.extend(["-c".into(), source.display().to_string()]);
        args.extend(["-o".into(), format!("{}.o", object.display())]);
        Unit { language: self.language, source, output, args }
    }
}

/// Has cargo unpack the crates below `dir/vendor`, through a package that exists for nothing else.
fn vendor(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir.join("src"))?;
    fs::write(dir.join("src/lib.rs"), "")?;
    let mut manifest = "[package]\nname = \"demo\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n[dependencies]\n".to_owned();
    for part in &PARTS {
        manifest += &format!("{} = \"={}\"\n", part.package, part.version);
    }
    fs::write(dir.join("Cargo.toml"), manifest)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["vendor", "--quiet", "vendor"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = "hint: the sources come from the crates registry, which must be reachable or in cargo's cache";
    Err(format!("cargo cannot fetch the sources: {}\n{hint}", said.trim()).into())
}
