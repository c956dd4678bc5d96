//! Units of real code bases.
//!
//! A [`Code`] says where sources come from (a published crate, a package of Debian, the headers of this system) and how
//! they are compiled; [`collect`] fetches them below one directory and makes a [`Base`] of units out of each, every
//! unit once with gcc and once with clang. How a unit is compiled under the tracer depends on its language: C and assembler
//! to the end, C++ mostly by the preprocessor alone, which is where all inclusion happens, and some units whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::fetch;

/// One C++ unit in so many is compiled whole: it takes some ten times as long.
const CXX_EVERY: usize = 11;

/// Where sources come from.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// A crate and its version.
    Crate(&'static str, &'static str),
    /// A crate that this workspace is built with.
    Workspace(&'static str),
    /// A package of Debian.
    Debian(&'static str),
    /// What is installed; nothing is fetched.
    System,
}

/// How to find sources and compile them. `@` in flags and places stands for where the code base lies.
#[derive(Debug)]
pub struct Code {
    /// Its name in the report.
    pub name: &'static str,
    /// Where it comes from.
    pub from: From,
    /// Directories or files whose sources belong to it.
    pub sources: &'static [&'static str],
    /// Sources with one of these in their path are left out.
    pub without: &'static [&'static str],
    /// Flags of all units.
    pub flags: &'static [&'static str],
    /// Flags of C++ units.
    pub cxx: &'static [&'static str],
    /// Files that a build would generate.
    pub generated: &'static [(&'static str, &'static str)],
    /// Headers are made into units of one include each, if this is the directory they are named from; a last `?` stands
    /// for the newest version there.
    pub headers: Option<&'static str>,
}

/// Nothing in particular.
pub const PLAIN: Code = Code {
    name: "",
    from: From::System,
    sources: &[],
    without: &[],
    flags: &[],
    cxx: &[],
    generated: &[],
    headers: None,
};

/// A code base on disk.
#[derive(Debug)]
pub struct Base {
    /// Its name.
    pub name: &'static str,
    /// Its units.
    pub units: Vec<Unit>,
}

/// One source and how it is compiled.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The compiler's name.
    pub compiler: &'static str,
    /// Where it is called.
    pub cwd: PathBuf,
    /// The source, as the compiler is told.
    pub source: PathBuf,
    /// Flags, without source and outputs.
    pub flags: Vec<String>,
    /// How much of the compile is done.
    pub depth: Depth,
}

/// How far a traced compile goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// To an object.
    Object,
    /// Until all is parsed.
    Syntax,
    /// Until all is preprocessed.
    Preprocess,
}

impl Unit {
    /// The arguments a build system would give.
    pub fn compile_args(&self) -> Vec<String> {
        let mut args = self.flags.clone();
        args.extend(["-c".into(), self.source.display().to_string(), "-o".into(), "barn-oracle.o".into()]);
        args
    }

    /// The arguments for the traced compile, which writes below `scratch` only.
    pub fn traced_args(&self, scratch: &Path) -> Vec<String> {
        let mut args = self.flags.clone();
        match self.depth {
            Depth::Object => args.push("-c".into()),
            Depth::Syntax => args.push("-fsyntax-only".into()),
            Depth::Preprocess => args.push("-E".into()),
        }
        if self.compiler.starts_with("clang") {
            // So that the compiler proper is a process of its own.
            args.extend(["-fno-integrated-cc1".into(), "-Qunused-arguments".into()]);
        }
        if self.depth != Depth::Syntax {
            args.extend(["-o".into(), scratch.join("output").display().to_string()]);
        }
        args.push(self.source.display().to_string());
        args
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let flags = self.flags.join(" ");
        format!("cd {} && {} {flags} -c {}", self.cwd.display(), self.compiler, self.source.display())
    }
}

/// Fetches these code bases below `dir`.
///
/// # Errors
/// If one cannot be had.
pub fn collect(codes: &[Code], dir: &Path, whole: bool) -> io::Result<Vec<Base>> {
    codes.iter().map(|code| base(code, dir, whole)).collect()
}

/// At most `count` units, evenly from all.
pub fn thin(bases: &mut [Base], count: usize) {
    let all: usize = bases.iter().map(|base| base.units.len()).sum();
    let mut number = 0;
    for base in bases {
        base.units.retain(|_| {
            number += 1;
            all <= count || number * count / all != (number - 1) * count / all
        });
    }
}

fn base(code: &Code, dir: &Path, whole: bool) -> io::Result<Base> {
    let root = match code.from {
        From::Crate(package, version) => fetch::published(dir, package, version)?,
        From::Workspace(package) => fetch::of_workspace(package)?,
        From::Debian(package) => fetch::debian(dir, package)?,
        From::System => fetch::folder(dir, code.name)?,
    };
    for (path, contents) in code.generated {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root"))?;
        fs::write(path, contents)?;
    }
    let mut sources = Vec::new();
    match code.headers {
        Some(place) => headers(code, &root, Path::new(&filled(place, &root)), dir, &mut sources)?,
        None => {
            for place in code.sources {
                search(code, &root, Path::new(&filled(place, &root)), &mut sources)?;
            }
        }
    }
    sources.sort();
    let units =
        sources.iter().enumerate().flat_map(|(number, source)| units(code, &root, number, source, whole));
    Ok(Base { name: code.name, units: units.collect() })
}

fn filled(text: &str, root: &Path) -> String {
    text.replace('@', &root.display().to_string())
}

/// Collects sources at or below `place`, which is relative to the root unless absolute.
fn search(code: &Code, root: &Path, place: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let text = place.to_string_lossy();
    if code.without.iter().any(|part| text.contains(part)) {
        return Ok(());
    }
    let full = root.join(place);
    if full.is_dir() {
        for entry in fs::read_dir(full)? {
            search(code, root, &place.join(entry?.file_name()), found)?;
        }
    } else if language(place).is_some() {
        found.push(place.to_owned());
    }
    Ok(())
}

/// Writes a unit for each header directly in the directories of `sources`, which are below `place`.
fn headers(code: &Code, root: &Path, place: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let home = fetch::folder(dir, &format!("headers of {}", code.name).replace(' ', "-"))?;
    let ending = if code.cxx.is_empty() { "c" } else { "cc" };
    let place = newest(&root.join(place))?;
    for directory in code.sources {
        for entry in fs::read_dir(place.join(directory))? {
            let entry = entry?;
            let name = Path::new(directory).join(entry.file_name()).display().to_string();
            if entry.file_type()?.is_dir() || code.without.iter().any(|part| name.contains(part)) {
                continue;
            }
            let unit = home.join(format!("{}.{ending}", name.replace(['/', '.'], "_")));
            fs::write(&unit, format!("#include <{name}>\n"))?;
            found.push(unit);
        }
    }
    Ok(())
}

/// A last `?` stands for the newest of several versions.
fn newest(place: &Path) -> io::Result<PathBuf> {
    let Some(parent) = place.parent().filter(|_| place.ends_with("?")) else { return Ok(place.to_owned()) };
    let versions = fs::read_dir(parent)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.into_iter().max_by_key(number);
    newest.ok_or_else(|| io::Error::other(format!("{} is empty", parent.display())))
}

/// The drivers for a source.
fn language(path: &Path) -> Option<[&'static str; 2]> {
    match path.extension()?.to_str()? {
        "c" | "S" => Some(["gcc", "clang"]),
        "cc" | "cpp" | "cxx" => Some(["g++", "clang++"]),
        _ => None,
    }
}

fn units(code: &Code, root: &Path, number: usize, source: &Path, whole: bool) -> Vec<Unit> {
    let compilers = language(source).expect("it is a source");
    let is_cxx = compilers[0] == "g++";
    // Half of the units name everything by absolute paths.
    let absolute = number.is_multiple_of(2);
    let assembler = source.extension().is_some_and(|ending| ending == "S");
    let depth = match (is_cxx, number % CXX_EVERY) {
        (true, 1..) if !whole => Depth::Preprocess,
        _ if assembler || number % 4 < 2 => Depth::Object,
        _ => Depth::Syntax,
    };
    let optimize = if depth == Depth::Object { "-O0" } else { "-O2" };
    let own = code.flags.iter().chain(if is_cxx { code.cxx } else { &[] });
    let mut flags: Vec<String> = own
        .map(|flag| match flag.strip_prefix("-I").filter(|_| absolute && !flag.contains('@')) {
            Some(place) => format!("-I{}", root.join(place).display()),
            None => filled(flag, root),
        })
        .collect();
    flags.extend([optimize.to_owned(), "-w".to_owned()]);
    let source = if absolute { root.join(source) } else { source.to_owned() };
    let unit = |compiler| Unit {
        compiler,
        cwd: root.to_owned(),
        source: source.clone(),
        flags: flags.clone(),
        depth,
    };
    compilers.map(unit).into()
}
