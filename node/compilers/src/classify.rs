//! From a command line to what may be done with it.
//!
//! ```text
//! argv ── response files ── walk by the flag tables ──┬─ makes no object ──────────── Other
//!                                                     ├─ a reason against caching ─── Local
//!                                                     ├─ a reason against shipping ── CacheOnly
//!                                                     └─ none ─────────────────────── Distributable
//! ```
//!
//! Invariant: `Compile::argv` holds the user's arguments, response files expanded, all of them and in their
//! order; barn only ever puts flags for the terminal between them.

use std::ops::Range;

use crate::color::{self, ColorRule};
use crate::compile::{Compile, Mode};
use crate::detect::{self, Driver, Family};
use crate::environment::{self, Environment};
use crate::language::{Kind, Language};
use crate::outputs;
use crate::parse::{self, Parsed};
use crate::reason::{Reason, ReasonKind};
use crate::response::{self, Files, ResponseError};
use crate::rustc::{self, RustCompile, RustQuestion};

/// A command line and what it is run in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The family, as a probe has shown it; the name alone may mislead.
    pub family: Family,
    /// `argv[0]`, whose name decides whether `.c` means C++.
    pub program_name: &'a [u8],
    /// The arguments after `argv[0]`.
    pub args: &'a [Vec<u8>],
    /// The user's environment.
    pub env: &'a Environment,
    /// The physical path of the working directory.
    pub cwd: &'a [u8],
    /// Whether `PWD` is absolute and names the directory at `cwd`. Compilers then record `PWD`, not `cwd`.
    pub pwd_names_cwd: bool,
    /// Whether the user's standard error is a terminal.
    pub stderr_is_terminal: bool,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// A compile that may be cached, and run on another machine.
    Distributable(Box<Compile>),
    /// A compile that may be cached, and run here only.
    CacheOnly(Box<Compile>, Reason),
    /// A compile of a Rust crate, which may be cached, and runs here only.
    Rust(Box<RustCompile>),
    /// A question to the Rust compiler that only an upgrade answers differently.
    RustQuestion(Box<RustQuestion>),
    /// A compile that runs here and is not cached.
    Local(Reason),
    /// No compile.
    Other(OtherKind),
}

/// What is not a compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OtherKind {
    /// Prints a version, a path, a dry run.
    Query,
    /// Preprocesses, or lists dependencies.
    Preprocess,
    /// Links what is compiled already.
    Link,
    /// Names no input.
    NoInput,
    /// Writes documentation.
    Document,
}

impl OtherKind {
    /// A stable kebab-case name.
    pub fn name(self) -> &'static str {
        match self {
            OtherKind::Query => "query",
            OtherKind::Preprocess => "preprocess",
            OtherKind::Link => "link",
            OtherKind::NoInput => "no-input",
            OtherKind::Document => "document",
        }
    }
}

/// Says what may be done with a command line.
pub fn classify(request: &Request<'_>, files: &dyn Files) -> Invocation {
    decide(request, files).unwrap_or_else(Invocation::Local)
}

fn decide(request: &Request<'_>, files: &dyn Files) -> Result<Invocation, Reason> {
    if request.family == Family::Rustc {
        return rustc::classify(request, files);
    }
    let driver = detect::guess(request.program_name).driver;
    if driver == Driver::Preprocessor {
        return Ok(Invocation::Other(OtherKind::Preprocess));
    }
    check_compiler(request, driver)?;
    let args = response::expand(request.args, files).map_err(|error| {
        Reason::from(match error {
            ResponseError::TooLarge => ReasonKind::TooManyArguments,
            ResponseError::TooDeep | ResponseError::Ambiguous => ReasonKind::ResponseFile,
        })
    })?;
    let mut parsed = parse::parse(request.family, driver, &args);
    if let Some(kind) = other(&parsed) {
        return Ok(Invocation::Other(kind));
    }
    if let Some(reason) = environment::local_reason(request.family, request.env) {
        return Err(reason);
    }
    if let Some(reason) = parsed.local.take() {
        return Err(reason);
    }
    let mode = mode(request.family, &parsed)?;
    let (source, language) = source(&parsed)?;
    let logical_cwd = logical_cwd(request);
    let cache_only = cache_only(&mut parsed, language, logical_cwd);
    let compile = Box::new(compile(request, parsed, args, mode, (source, language), logical_cwd)?);
    Ok(match cache_only {
        Some(reason) => Invocation::CacheOnly(compile, reason),
        None => Invocation::Distributable(compile),
    })
}

fn check_compiler(request: &Request<'_>, driver: Driver) -> Result<(), Reason> {
    match (request.family, driver) {
        (Family::Gcc | Family::Clang, Driver::Msvc) => {
            Err(Reason::new(ReasonKind::UnsupportedDriver, request.program_name))
        }
        (Family::Gcc | Family::Clang, _) => Ok(()),
        _ => Err(Reason::new(ReasonKind::UnknownCompiler, request.program_name)),
    }
}

/// Whether the command makes something other than compiled code.
fn other(parsed: &Parsed) -> Option<OtherKind> {
    if parsed.query {
        return Some(OtherKind::Query);
    }
    if parsed.inputs.is_empty() {
        return Some(if parsed.verbose { OtherKind::Query } else { OtherKind::NoInput });
    }
    if parsed.preprocess {
        return Some(OtherKind::Preprocess);
    }
    let compiles = parsed.inputs.iter().any(|(path, kind)| kind.is_compiled() || path == b"-");
    (!compiles).then_some(OtherKind::Link)
}

fn mode(family: Family, parsed: &Parsed) -> Result<Mode, Reason> {
    if parsed.verbose {
        return Err(Reason::new(ReasonKind::Verbose, *b"-v"));
    }
    match (parsed.syntax, parsed.object, parsed.assembly) {
        (false, true, true) => Err(ReasonKind::ConflictingModes.into()),
        // gcc gets ready to link: it looks for what links, which no toolchain carries, and calls a depfile `a-x.d`.
        (true, false, false) if family == Family::Gcc => Err(ReasonKind::CompileAndLink.into()),
        (true, _, _) => Ok(Mode::Syntax),
        (false, true, false) => Ok(Mode::Object),
        (false, false, true) => Ok(Mode::Assembly),
        (false, false, false) => Err(ReasonKind::CompileAndLink.into()),
    }
}

fn source(parsed: &Parsed) -> Result<(Vec<u8>, Language), Reason> {
    let compiled = parsed.inputs.iter().filter(|(_, kind)| kind.is_compiled()).count();
    if compiled > 1 {
        return Err(ReasonKind::MultipleSources.into());
    }
    let [(path, kind)] = &parsed.inputs[..] else {
        return Err(ReasonKind::ExtraInputs.into());
    };
    if path == b"-" || path.starts_with(b"/dev/") || path.starts_with(b"/proc/") {
        return Err(Reason::new(ReasonKind::StandardInput, path.clone()));
    }
    let refuse = |kind| Err(Reason::new(kind, path.clone()));
    match kind {
        Kind::Source(language) => Ok((path.clone(), *language)),
        Kind::Preprocessed => refuse(ReasonKind::PreprocessedSource),
        Kind::Header => refuse(ReasonKind::PrecompiledHeader),
        Kind::Foreign | Kind::Linker => refuse(ReasonKind::Language),
    }
}

/// `PWD`, if the compiler will take its word and it differs from what `getcwd` would say elsewhere.
fn logical_cwd<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    let pwd = request.env.get(b"PWD".as_slice())?;
    (request.pwd_names_cwd && pwd != request.cwd).then_some(pwd)
}

fn cache_only(parsed: &mut Parsed, language: Language, logical_cwd: Option<&[u8]>) -> Option<Reason> {
    if language == Language::Assembler {
        return Some(ReasonKind::PlainAssembler.into());
    }
    parsed.cache_only.take().or_else(|| logical_cwd.map(|pwd| Reason::new(ReasonKind::LogicalDirectory, pwd)))
}

fn compile(
    request: &Request<'_>,
    parsed: Parsed,
    args: Vec<Vec<u8>>,
    mode: Mode,
    (source, language): (Vec<u8>, Language),
    logical_cwd: Option<&[u8]>,
) -> Result<Compile, Reason> {
    let outputs = outputs::outputs(request.family, &parsed, mode, &source)?;
    let presentation = presentation(request, &parsed)?;
    // After a `=auto` of the user's, which it overrules; else in front, clear of a `--`.
    let at = parsed.color.map_or(0, |(_, next)| next);
    let mut argv = args;
    argv.splice(at..at, presentation.iter().cloned());
    let silent_directories = silent_directories(&parsed, language, at, presentation.len());
    Ok(Compile {
        family: request.family,
        language,
        mode,
        source,
        output: outputs.main,
        side_outputs: outputs.sides,
        depfile: outputs.depfile,
        argv,
        presentation,
        presentation_at: at,
        is_recorded: parsed.is_recorded,
        env: environment::relevant_env(request.family, request.env, logical_cwd),
        include_directories: parsed.include_directories,
        silent_directories,
        forced_includes: parsed.forced_includes,
        time_macros: parsed.time_macros,
        dependency_args: parsed.dependency_args,
    })
}

/// The flags for directories that may as well not be there if the directories are not, as indices into an argv with `added`
/// arguments put in before that at `at`. Assemblers are told of the directories too.
fn silent_directories(
    parsed: &Parsed,
    language: Language,
    at: usize,
    added: usize,
) -> Vec<(Range<usize>, Vec<u8>)> {
    if parsed.warns_of_directories
        || parsed.is_recorded
        || matches!(language, Language::Assembler | Language::AssemblerWithCpp)
    {
        return Vec::new();
    }
    let moved = |index: usize| if index >= at { index + added } else { index };
    let all = parsed.silent_directories.iter();
    all.map(|(range, name)| (moved(range.start)..moved(range.start) + range.len(), name.clone())).collect()
}

/// The flags that make diagnostics look as on the user's terminal.
fn presentation(request: &Request<'_>, parsed: &Parsed) -> Result<Vec<Vec<u8>>, Reason> {
    if !request.stderr_is_terminal {
        return Ok(Vec::new());
    }
    let mut flags = Vec::new();
    let decided = matches!(parsed.color, Some((ColorRule::Always | ColorRule::Never, _)));
    if !decided && color::colors_on_terminal(request.family, request.env) {
        flags.push(color::color_flag(request.family).to_vec());
    }
    if !parsed.message_length {
        flags.extend(color::width_flag(request.family, request.env));
    }
    match &parsed.recorded {
        Some(flag) if !flags.is_empty() => Err(Reason::new(ReasonKind::RecordedCommandLine, flag.clone())),
        _ => Ok(flags),
    }
}
