//! One walk over the arguments, by the flag tables.
//!
//! The walk collects what the flags mean and judges nothing that depends on more than one of them; that
//! is [`crate::classify()`]'s part. Of several reasons to stay local the first counts.

use std::ops::Range;

use crate::color::ColorRule;
use crate::compile::{Mode, SideKind};
use crate::detect::{Driver, Family};
use crate::flags::{self, Effect, Found};
use crate::language::{self, Kind};
use crate::reason::{Reason, ReasonKind};

/// What the arguments add up to.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) query: bool,
    pub(crate) verbose: bool,
    pub(crate) preprocess: bool,
    pub(crate) object: bool,
    pub(crate) assembly: bool,
    pub(crate) syntax: bool,
    pub(crate) inputs: Vec<(Vec<u8>, Kind)>,
    pub(crate) outputs: Vec<Vec<u8>>,
    /// `Some(true)` for `-MD`, `Some(false)` for `-MMD`.
    pub(crate) depfile: Option<bool>,
    pub(crate) depfile_path: Option<Vec<u8>>,
    pub(crate) sides: Vec<SideKind>,
    /// The path given to `--serialize-diagnostics`.
    pub(crate) diagnostics: Option<Vec<u8>>,
    /// The last word on colour, and the index of the argument after it.
    pub(crate) color: Option<(ColorRule, usize)>,
    pub(crate) message_length: bool,
    /// The flag that records the command line.
    pub(crate) recorded: Option<Vec<u8>>,
    pub(crate) emit_llvm: bool,
    pub(crate) include_directories: Vec<Vec<u8>>,
    /// Those of which nothing is said or done if they are not there, and the indices of their arguments.
    pub(crate) silent_directories: Vec<(Range<usize>, Vec<u8>)>,
    /// Whether a flag makes the compiler warn of directories that are missing.
    pub(crate) warns_of_directories: bool,
    /// Whether a flag makes the compiler record its command line.
    pub(crate) is_recorded: bool,
    pub(crate) forced_includes: Vec<Vec<u8>>,
    pub(crate) time_macros: bool,
    /// The arguments for a dependency run.
    pub(crate) dependency_args: Vec<Vec<u8>>,
    pub(crate) cache_only: Option<Reason>,
    pub(crate) local: Option<Reason>,
}

/// Walks over `args`, which hold no response files any more.
pub(crate) fn parse(family: Family, driver: Driver, args: &[Vec<u8>]) -> Parsed {
    let mut walk = Walk { family, driver, language: None, wp_depfile: false, parsed: Parsed::default() };
    let mut at = 0;
    while at < args.len() {
        let arg = &args[at];
        if !is_flag(arg) {
            walk.input(arg);
            at += 1;
            continue;
        }
        let length = match flags::find(family, &args[at..]) {
            Found::Known { effect: Effect::EndOfFlags, .. } => {
                walk.keep(&args[at..at + 1]);
                args[at + 1..].iter().for_each(|input| walk.input(input));
                break;
            }
            Found::Known { effect, value, length } => {
                walk.flag(effect, value, &args[at..at + length], at + length);
                length
            }
            Found::MissingValue => walk.stay(ReasonKind::MalformedArguments, arg),
            Found::Unknown => walk.stay(ReasonKind::UnknownFlag, arg),
        };
        at += length;
    }
    walk.parsed
}

/// A lone `-` is an input.
fn is_flag(arg: &[u8]) -> bool {
    arg.len() > 1 && arg[0] == b'-'
}

struct Walk {
    family: Family,
    driver: Driver,
    /// What the last `-x` said.
    language: Option<Kind>,
    /// Whether `-Wp,` asked for the depfile.
    wp_depfile: bool,
    parsed: Parsed,
}

impl Walk {
    fn input(&mut self, path: &[u8]) {
        let kind = self.language.unwrap_or_else(|| language::by_suffix(self.family, self.driver, path));
        self.parsed.inputs.push((path.to_vec(), kind));
        self.keep(&[path.to_vec()]);
    }

    fn keep(&mut self, args: &[Vec<u8>]) {
        self.parsed.dependency_args.extend_from_slice(args);
    }

    /// Notes a reason to stay local; returns the length of a lone argument.
    fn stay(&mut self, kind: ReasonKind, detail: &[u8]) -> usize {
        self.parsed.local.get_or_insert_with(|| Reason::new(kind, detail));
        1
    }

    /// Takes in one flag, `args` being it and its value and `next` the index after it.
    fn flag(&mut self, effect: Effect, value: &[u8], args: &[Vec<u8>], next: usize) {
        let parsed = &mut self.parsed;
        parsed.warns_of_directories |= warns_of_directories(&args[0]);
        parsed.is_recorded |= args[0].starts_with(b"-frecord-") || args[0].starts_with(b"-grecord-");
        let mut keep = true;
        match effect {
            Effect::Neutral | Effect::Linker | Effect::EndOfFlags => {}
            Effect::Produce(mode) => {
                match mode {
                    Mode::Object => parsed.object = true,
                    Mode::Assembly => parsed.assembly = true,
                    Mode::Syntax => parsed.syntax = true,
                }
                keep = false;
            }
            Effect::Preprocess => parsed.preprocess = true,
            Effect::Query => parsed.query = true,
            Effect::Verbose => parsed.verbose = true,
            Effect::Language => self.language = language::by_name(value),
            Effect::Define => parsed.time_macros |= mentions_time(value),
            Effect::IncludeDirectory => {
                parsed.include_directories.push(value.to_vec());
                if is_silent(&args[0]) && !matches!(value.first(), None | Some(b'=' | b'$')) {
                    parsed.silent_directories.push((next - args.len()..next, value.to_vec()));
                }
            }
            Effect::ForcedInclude => parsed.forced_includes.push(value.to_vec()),
            Effect::RecordsCommandLine => parsed.recorded = Some(args[0].clone()),
            Effect::EmitLlvm => {
                parsed.emit_llvm = true;
                keep = false;
            }
            Effect::MessageLength => parsed.message_length = true,
            Effect::Output
            | Effect::Depfile(_)
            | Effect::DepfilePath
            | Effect::DepfileShape
            | Effect::Side(_)
            | Effect::SerializedDiagnostics => {
                self.output_flag(effect, value, &args[0]);
                keep = false;
            }
            Effect::Color(rule) => {
                parsed.color = Some((rule, next));
                keep = false;
            }
            Effect::PreprocessorList => {
                self.preprocessor_list(value, &args[0]);
                keep = false;
            }
            Effect::CacheOnly(kind) => {
                parsed.cache_only.get_or_insert_with(|| Reason::new(kind, args.join(b" ".as_slice())));
            }
            Effect::Local(kind) => {
                self.stay(kind, &args[0]);
            }
            Effect::Processor
            | Effect::AssemblerList
            | Effect::Frontend
            | Effect::DiagnosticsFormat
            | Effect::OptimizationInfo => self.value_decides(effect, value, args),
        }
        if keep {
            self.keep(args);
        }
    }

    /// Flags that name or shape an output.
    fn output_flag(&mut self, effect: Effect, value: &[u8], flag: &[u8]) {
        let parsed = &mut self.parsed;
        match effect {
            Effect::Output => parsed.outputs.push(value.to_vec()),
            Effect::Depfile(system_headers) => {
                if self.wp_depfile {
                    self.stay(ReasonKind::DependencyFormat, flag);
                    return;
                }
                // gcc and clang both take user headers only if both flags are there.
                parsed.depfile = Some(system_headers && parsed.depfile != Some(false));
            }
            Effect::DepfilePath => {
                if self.wp_depfile {
                    self.stay(ReasonKind::DependencyFormat, flag);
                    return;
                }
                parsed.depfile_path = Some(value.to_vec());
            }
            Effect::Side(kind) if !parsed.sides.contains(&kind) => parsed.sides.push(kind),
            Effect::SerializedDiagnostics if parsed.diagnostics.is_some() => {
                self.stay(ReasonKind::RepeatedOutput, flag);
            }
            Effect::SerializedDiagnostics => parsed.diagnostics = Some(value.to_vec()),
            _ => {}
        }
    }

    /// Flags for which some values are as good as neutral and others are not.
    fn value_decides(&mut self, effect: Effect, value: &[u8], args: &[Vec<u8>]) {
        let reason = match effect {
            Effect::Processor if value == b"native" => ReasonKind::NativeCpu,
            Effect::AssemblerList if !value.split(|&byte| byte == b',').all(is_known_to_assembler) => {
                ReasonKind::PassThrough
            }
            Effect::Frontend if !flags::is_plain_frontend(value) => ReasonKind::PassThrough,
            Effect::DiagnosticsFormat if !FORMATS.contains(&value) => ReasonKind::ExtraOutputFile,
            Effect::OptimizationInfo if value.contains(&b'=') => ReasonKind::ExtraOutputFile,
            _ => return,
        };
        self.stay(reason, &args.join(b" ".as_slice()));
    }

    /// `-Wp,A,B`: the kernel's `-Wp,-MMD,FILE`, and macros. The rest is local, and so is whatever gcc, which
    /// passes everything on, and clang, which rewrites some, might read differently.
    fn preprocessor_list(&mut self, list: &[u8], flag: &[u8]) {
        let pieces: Vec<&[u8]> = list.split(|&byte| byte == b',').collect();
        let macros = pieces
            .iter()
            .all(|piece| piece.len() > 2 && (piece.starts_with(b"-D") || piece.starts_with(b"-U")));
        if macros {
            self.parsed.time_macros |= pieces.iter().any(|piece| mentions_time(piece));
            self.keep(&[flag.to_vec()]);
            return;
        }
        let system_headers = match pieces[..] {
            [b"-MD", _] => true,
            [b"-MMD", _] => false,
            _ => {
                self.stay(ReasonKind::PassThrough, flag);
                return;
            }
        };
        if self.parsed.depfile.is_some() || self.parsed.depfile_path.is_some() {
            self.stay(ReasonKind::DependencyFormat, flag);
            return;
        }
        self.wp_depfile = true;
        self.parsed.depfile = Some(system_headers);
        self.parsed.depfile_path = Some(pieces[1].to_vec());
    }
}

/// Whether a flag only names a directory to search: not a framework's, and not the root of others.
fn is_silent(flag: &[u8]) -> bool {
    [&b"-I"[..], b"-isystem", b"-iquote", b"-idirafter"].iter().any(|name| flag.starts_with(name))
}

/// Flags that warn of directories that are missing, or may.
fn warns_of_directories(flag: &[u8]) -> bool {
    const WORD: &[u8] = b"missing-include-dirs";
    flag == b"-Weverything" || flag.windows(WORD.len()).any(|window| window == WORD)
}

/// Forms of diagnostics that go to standard error.
const FORMATS: [&[u8]; 8] =
    [b"text", b"json", b"json-stderr", b"sarif-stderr", b"clang", b"msvc", b"vi", b"sarif"];

/// Assembler arguments that read and write no file. Listings (`-a`), dependencies (`--MD`) and the rest are
/// not among them.
const ASSEMBLER_EXACT: [&[u8]; 16] = [
    b"--32",
    b"--64",
    b"--x32",
    b"-W",
    b"--no-warn",
    b"--warn",
    b"--fatal-warnings",
    b"--noexecstack",
    b"--execstack",
    b"-mbig-obj",
    b"--divide",
    b"-g",
    b"--gdwarf-4",
    b"--gdwarf-5",
    b"--nocompress-debug-sections",
    b"--strip-local-absolute",
];
const ASSEMBLER_PREFIXES: [&[u8]; 8] = [
    b"-march=",
    b"-mcpu=",
    b"-mfpu=",
    b"-mfloat-abi=",
    b"-mrelax-relocations=",
    b"-mbranches-within-32B",
    b"--compress-debug-sections",
    b"-mx86-used-note=",
];

fn is_known_to_assembler(arg: &[u8]) -> bool {
    ASSEMBLER_EXACT.contains(&arg) || ASSEMBLER_PREFIXES.iter().any(|prefix| arg.starts_with(prefix))
}

fn mentions_time(text: &[u8]) -> bool {
    const MACROS: [&[u8]; 3] = [b"__DATE__", b"__TIME__", b"__TIMESTAMP__"];
    MACROS.iter().any(|name| text.windows(name.len()).any(|window| window == *name))
}
