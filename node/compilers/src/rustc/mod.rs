//! rustc's and clippy-driver's command line, environment and dependency list.
//!
//! ```text
//! argv ── argument files ── walk by the tables ──┬─ prints something, rustdoc ──── Other
//!                                                ├─ a reason ───────────────────── Local
//!                                                └─ one crate, outputs predicted ─ RustCompile
//! ```
//!
//! Only calls in cargo's form are understood: the crate is named, its types are given, a dependency list is written. All
//! else is left to rustc. `docs/rust.md` has the reasons.

mod depinfo;
mod environment;
mod outputs;
mod parse;
mod place;
mod table;

pub use depinfo::{DepInfo, parse_dep_info};
pub use place::{Place, can_be_searched, has_plain_metadata};

use crate::classify::{Invocation, OtherKind, Request};
use crate::environment::Environment;
use crate::reason::{Reason, ReasonKind};
use crate::response::{ARGV_BYTES_MAX, Files};

/// What a crate is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrateKind {
    /// A program.
    Bin,
    /// A test harness (`--test`).
    Test,
    /// A Rust library.
    Rlib,
    /// A Rust library, linked.
    Dylib,
    /// A library for other languages, linked.
    Cdylib,
    /// An archive for other languages, with all that it depends on.
    Staticlib,
    /// A compiler's plug-in.
    ProcMacro,
}

impl CrateKind {
    /// Whether a linker makes it.
    pub fn is_linked(self) -> bool {
        !matches!(self, Self::Rlib | Self::Staticlib)
    }
}

/// A file that rustc writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustOutput {
    /// Its path, relative to the working directory unless absolute.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: RustFile,
}

/// What rustc writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RustFile {
    /// The dependency list, written into the file that is there.
    List,
    /// Metadata or an archive; takes the name from what is there.
    Library,
    /// What a linker makes, executable; takes the name from what is there.
    Program,
}

/// `--extern name=path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extern {
    /// The name in the source.
    pub name: Vec<u8>,
    /// The library.
    pub path: Vec<u8>,
}

/// What a `-L` directory is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SearchKind {
    /// Crates.
    Crates,
    /// Native libraries.
    Native,
    /// Both.
    All,
}

/// A `-L` directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDir {
    /// What it is searched for.
    pub kind: SearchKind,
    /// The directory.
    pub path: Vec<u8>,
}

/// What the linker is and is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// The program: `-C linker`, or `cc`.
    pub program: Vec<u8>,
    /// Linkers that the driver is told to use (`-fuse-ld=`), as programs: `ld.gold`.
    pub uses: Vec<Vec<u8>>,
    /// Directories that the driver is told to search, which hold native libraries.
    pub directories: Vec<Vec<u8>>,
}

/// A compile of one crate, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustCompile {
    /// The crate's name.
    pub crate_name: Vec<u8>,
    /// What it is made into; empty where only metadata is written.
    pub kinds: Vec<CrateKind>,
    /// The root source, as written.
    pub source: Vec<u8>,
    /// All files it writes, the dependency list among them.
    pub outputs: Vec<RustOutput>,
    /// Which of the outputs is the dependency list.
    pub dep_info: usize,
    /// The crates given by path.
    pub externs: Vec<Extern>,
    /// The directories searched.
    pub search: Vec<SearchDir>,
    /// Further input files: target specification, profile.
    pub extra_inputs: Vec<Vec<u8>>,
    /// The linker, if one runs.
    pub linker: Option<Linker>,
    /// Whether the object code of other crates is taken in.
    pub bundles: bool,
    /// The arguments after `argv[0]` that belong to the key.
    pub key_args: Vec<Vec<u8>>,
    /// The arguments that only shape messages.
    pub presentation: Vec<Vec<u8>>,
    /// The variables that belong to the key.
    pub env: Environment,
}

/// A question that the compiler answers from its own files: its version, its target's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustQuestion {
    /// The arguments after `argv[0]`, response files expanded.
    pub args: Vec<Vec<u8>>,
    /// The variables that matter for the answer.
    pub env: Environment,
    /// Whether standard input is read, as a source.
    pub reads_stdin: bool,
}

impl RustCompile {
    /// The kind of crate as counted and told: `bin`, `rlib` …, or `metadata`.
    pub fn kind_name(&self) -> &'static str {
        match self.kinds.first() {
            None => "metadata",
            Some(CrateKind::Bin) => "bin",
            Some(CrateKind::Test) => "test",
            Some(CrateKind::Rlib) => "rlib",
            Some(CrateKind::Dylib) => "dylib",
            Some(CrateKind::Cdylib) => "cdylib",
            Some(CrateKind::Staticlib) => "staticlib",
            Some(CrateKind::ProcMacro) => "proc-macro",
        }
    }
}

/// Says what a command line of rustc or clippy-driver asks for.
pub(crate) fn classify(request: &Request<'_>, files: &dyn Files) -> Result<Invocation, Reason> {
    if is_called(request.program_name, b"rustdoc") {
        return Ok(Invocation::Other(OtherKind::Document));
    }
    let args = expand(request.args, files)?;
    // `clippy-driver rustc ARGS…`, as cargo calls it: the second word is not rustc's to see.
    let leading = usize::from(
        is_called(request.program_name, b"clippy-driver")
            && args.first().is_some_and(|first| is_called(first, b"rustc")),
    );
    let parsed = parse::parse(&args[leading..]);
    if let Some(query) = parsed.query {
        let question =
            (query == parse::Query::OfCompiler).then(|| question(request, &parsed, args)).flatten();
        return Ok(question.map_or(Invocation::Other(OtherKind::Query), Invocation::RustQuestion));
    }
    if let Some(reason) = [&parsed.local, &parsed.verbose, &parsed.native_cpu].into_iter().flatten().next() {
        return Err(reason.clone());
    }
    if parsed.source.is_none() {
        return Ok(Invocation::Other(OtherKind::NoInput));
    }
    if request.stderr_is_terminal && !parsed.json {
        return Err(ReasonKind::Terminal.into());
    }
    compile(request, parsed, &args[..leading]).map(|compile| Invocation::Rust(Box::new(compile)))
}

/// The question, if nothing but the compiler and these arguments decides the answer.
fn question(request: &Request<'_>, parsed: &parse::Parsed, args: Vec<Vec<u8>>) -> Option<Box<RustQuestion>> {
    let reads_stdin = match parsed.source.as_deref() {
        None => false,
        Some(b"-") => true,
        Some(_) => return None,
    };
    if parsed.local.is_some() || !parsed.extra_inputs.is_empty() {
        return None;
    }
    let mut env = environment::relevant(request.env, false).ok()?;
    // For the package's code, not for rustc.
    env.retain(|name, _| !name.starts_with(b"CARGO"));
    Some(Box::new(RustQuestion { args, env, reads_stdin }))
}

fn compile(
    request: &Request<'_>,
    mut parsed: parse::Parsed,
    leading: &[Vec<u8>],
) -> Result<RustCompile, Reason> {
    let source = parsed.source.take().unwrap_or_default();
    if source == b"-" || source.starts_with(b"/dev/") || source.starts_with(b"/proc/") {
        return Err(Reason::new(ReasonKind::StandardInput, source));
    }
    let outputs::Outputs { outputs, dep_info, kinds } = outputs::outputs(&parsed)?;
    let linker = match kinds.iter().any(|kind| kind.is_linked()) {
        true => Some(parsed.linker()?),
        false => None,
    };
    let env = environment::relevant(request.env, linker.is_some())?;
    Ok(RustCompile {
        crate_name: parsed.crate_name.unwrap_or_default(),
        bundles: linker.is_some() || kinds.contains(&CrateKind::Staticlib),
        kinds,
        source,
        outputs,
        dep_info,
        externs: parsed.externs,
        search: parsed.search,
        extra_inputs: parsed.extra_inputs,
        linker,
        key_args: [leading, &parsed.key_args].concat(),
        presentation: parsed.presentation,
        env,
    })
}

fn is_called(program: &[u8], name: &[u8]) -> bool {
    let base = program.rsplit(|&byte| byte == b'/').next().unwrap_or(program);
    base == name
}

/// Replaces each `@file` by its lines, one argument each, as rustc does: no quoting, no nesting.
fn expand(args: &[Vec<u8>], files: &dyn Files) -> Result<Vec<Vec<u8>>, Reason> {
    let mut expanded = Vec::with_capacity(args.len());
    for arg in args {
        match arg.strip_prefix(b"@") {
            Some(path) => {
                let unreadable = || Reason::new(ReasonKind::ResponseFile, arg.clone());
                let content = files.read(path).ok_or_else(unreadable)?;
                let text = std::str::from_utf8(&content).map_err(|_| unreadable())?;
                expanded.extend(text.lines().map(|line| line.as_bytes().to_vec()));
            }
            None => expanded.push(arg.clone()),
        }
    }
    if expanded.iter().map(|arg| arg.len() + 1).sum::<usize>() > ARGV_BYTES_MAX {
        return Err(ReasonKind::TooManyArguments.into());
    }
    Ok(expanded)
}
