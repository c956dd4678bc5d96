//! The code bases of the demonstration and the benchmarks: C and C++ sources that published crates carry, fetched with
//! cargo.

mod parts;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) use parts::{ABSEIL, LIBGIT2, STORE, Selection};

use super::Failure;
use parts::Part;

/// The language of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    C,
    Cxx,
}

/// The directory, below the project, that every build writes to. The same for all, for its name is in the
/// dependency files.
const OUTPUTS: &str = "objects";

/// The directory, below the project, of headers that a library's own build would write.
const GENERATED: &str = "generated";

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
pub(super) struct Project {
    selection: &'static Selection,
    dir: PathBuf,
    units: Vec<Unit>,
}

impl Project {
    /// Fetches the crates into `dir` and picks `count` units evenly among all.
    pub(super) fn fetch(dir: &Path, selection: &'static Selection, count: usize) -> Result<Project, Failure> {
        vendor(dir, selection.parts)?;
        let mut units = Vec::new();
        for part in selection.parts {
            part.generate(dir)?;
            units.extend(part.units(dir, selection.flags)?);
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
        Ok(Project { selection, dir: dir.to_owned(), units })
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
        write!(f, "{} units, {c} C and {cxx} C++ ({})", self.units.len(), self.selection.flags.join(" "))?;
        for part in self.selection.parts {
            let home = Path::new("vendor").join(part.package);
            let count = self.units.iter().filter(|unit| unit.source.starts_with(&home)).count();
            write!(f, "\n    {:10} {count:4} units from {} {}", part.name, part.package, part.version)?;
        }
        Ok(())
    }
}

impl Part {
    fn generate(&self, dir: &Path) -> Result<(), Failure> {
        for (name, text) in self.generated {
            fs::create_dir_all(dir.join(GENERATED))?;
            fs::write(dir.join(GENERATED).join(name), text)?;
        }
        Ok(())
    }

    fn units(&self, dir: &Path, common: &[&str]) -> Result<Vec<Unit>, Failure> {
        let home = Path::new("vendor").join(self.package);
        let mut sources = Vec::new();
        for directory in self.directories {
            self.search(dir, &home.join(directory), self.depth, &mut sources)?;
        }
        Ok(sources.into_iter().map(|source| self.unit(&home, source, common)).collect())
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

    fn unit(&self, home: &Path, source: PathBuf, common: &[&str]) -> Unit {
        let output = source.strip_prefix("vendor").unwrap_or(&source).with_extension("");
        let object = Path::new(OUTPUTS).join(&output);
        let mut args: Vec<String> = common.iter().chain(self.flags).map(|flag| (*flag).to_owned()).collect();
        args.extend((!self.generated.is_empty()).then(|| format!("-I{GENERATED}")));
        args.extend(self.includes.iter().map(|place| format!("-I{}", home.join(place).display())));
        args.extend(["-MD".into(), "-MF".into(), format!("{}.d", object.display())]);
        args.extend(["-c".into(), source.display().to_string()]);
        args.extend(["-o".into(), format!("{}.o", object.display())]);
        Unit { language: self.language, source, output, args }
    }
}

/// Unpacks a published crate into `dir`, and has cargo fetch what it depends on by its own lock file.
pub(super) fn fetch_crate(dir: &Path, package: &str, version: &str) -> Result<(), Failure> {
    let room = dir.with_extension("fetched");
    vendor_crates(&room, &[(package, version)])?;
    fs::rename(room.join("vendor").join(package), dir)?;
    fs::remove_dir_all(&room)?;
    cargo(dir, &["fetch", "--quiet", "--locked"])
}

fn vendor(dir: &Path, parts: &[Part]) -> Result<(), Failure> {
    let crates: Vec<_> = parts.iter().map(|part| (part.package, part.version)).collect();
    vendor_crates(dir, &crates)
}

/// Has cargo unpack the crates below `dir/vendor`, through a package that exists for nothing else.
fn vendor_crates(dir: &Path, crates: &[(&str, &str)]) -> Result<(), Failure> {
    fs::create_dir_all(dir.join("src"))?;
    fs::write(dir.join("src/lib.rs"), "")?;
    let mut manifest = "[package]\nname = \"demo\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n[dependencies]\n".to_owned();
    for (package, version) in crates {
        manifest += &format!("{package} = \"={version}\"\n");
    }
    fs::write(dir.join("Cargo.toml"), manifest)?;
    cargo(dir, &["vendor", "--quiet", "vendor"])
}

/// Runs cargo in `dir`.
fn cargo(dir: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
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
