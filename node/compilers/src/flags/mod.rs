//! The flag tables: what each flag takes and what it means for a compile that is to run elsewhere.
//!
//! One sorted table per family, one for what they share, and the lists of names in `names` for the
//! thousands of flags that only change code or warnings. The longest match wins, the family's own table
//! before the common one. What is in none of them is [`Found::Unknown`], and the compile is local.
//!
//! To add a flag, see `docs/compilers.md`.

mod clang;
mod common;
mod gcc;
mod names;

use crate::color::ColorRule;
use crate::compile::{Mode, SideKind};
use crate::detect::Family;
use crate::reason::ReasonKind;

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// No value: `-c`.
    Alone,
    /// The rest of the argument, which may be empty: `-std=c11`.
    Joined,
    /// The next argument: `-include x.h`.
    Separate,
    /// The rest of the argument, or the next argument if there is no rest: `-ox.o`, `-o x.o`.
    Either,
}

/// What a flag means for a compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Part of the key, passed on as it is, no files of its own.
    Neutral,
    /// Chooses what the run makes.
    Produce(Mode),
    /// The run only preprocesses, or only lists dependencies.
    Preprocess,
    /// The run only prints something.
    Query,
    /// `-v`: a query without inputs, else a compile that prints its temporary names.
    Verbose,
    /// `-o`.
    Output,
    /// `-x`.
    Language,
    /// `-D`, whose value may use the time of day.
    Define,
    /// A directory searched for headers.
    IncludeDirectory,
    /// `-include`, `-imacros`.
    ForcedInclude,
    /// `-MD` (true: system headers too) and `-MMD`.
    Depfile(bool),
    /// `-MF`.
    DepfilePath,
    /// `-MT`, `-MQ`, `-MP`: shape the depfile.
    DepfileShape,
    /// A file beside the output.
    Side(SideKind),
    /// `--serialize-diagnostics`, whose value names the file.
    SerializedDiagnostics,
    /// Says whether to colour.
    Color(ColorRule),
    /// Says how wide diagnostics are.
    MessageLength,
    /// The output holds the command line.
    RecordsCommandLine,
    /// `-march=` and the like: local if the value is `native`.
    Processor,
    /// `-emit-llvm`.
    EmitLlvm,
    /// `-Wp,`.
    PreprocessorList,
    /// `-Wa,`.
    AssemblerList,
    /// `-Xclang`.
    Frontend,
    /// `-fdiagnostics-format=`: local if it writes a file.
    DiagnosticsFormat,
    /// `-fopt-info…`: local if it writes a file.
    OptimizationInfo,
    /// Only for the linker; passed on, since compilers warn of it.
    Linker,
    /// `--`: what follows are inputs.
    EndOfFlags,
    /// Cached, never distributed.
    CacheOnly(ReasonKind),
    /// Run here, not cached.
    Local(ReasonKind),
}

/// One line of a table.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The flag up to its value.
    pub name: &'static str,
    /// How it takes a value.
    pub arity: Arity,
    /// What it means.
    pub effect: Effect,
}

/// A line of a table, as the tables write it.
const fn flag(name: &'static str, arity: Arity, effect: Effect) -> Flag {
    Flag { name, arity, effect }
}

/// What the tables say of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// In a table or list.
    Known {
        /// What it means.
        effect: Effect,
        /// Its value, empty if it takes none.
        value: &'a [u8],
        /// The number of arguments it takes up, itself included: 1 or 2.
        length: usize,
    },
    /// Needs a value, and the command line ends.
    MissingValue,
    /// In no table.
    Unknown,
}

/// Looks up the flag at the head of `args`, which must not be empty.
pub fn find(family: Family, args: &[Vec<u8>]) -> Found<'_> {
    let arg = args[0].as_slice();
    let own = if family == Family::Clang { clang::FLAGS } else { gcc::FLAGS };
    let best = [own, common::FLAGS].into_iter().filter_map(|table| longest(table, arg));
    // `max_by_key` keeps the last of equals; the family's own table must win.
    let Some(best) = best.rev().max_by_key(|flag| flag.name.len()) else {
        return by_name(arg);
    };
    let rest = &arg[best.name.len()..];
    let takes_next = match best.arity {
        Arity::Alone | Arity::Joined => false,
        Arity::Separate => true,
        Arity::Either => rest.is_empty(),
    };
    if !takes_next {
        return Found::Known { effect: best.effect, value: rest, length: 1 };
    }
    match args.get(1) {
        Some(value) => Found::Known { effect: best.effect, value, length: 2 },
        None => Found::MissingValue,
    }
}

/// Whether clang's frontend may be given `arg` by `-Xclang`. Its own flags share prefixes with the driver's
/// (`-mlink-bitcode-file`), so only the lists of names count here, and no table may say otherwise.
pub(crate) fn is_plain_frontend(arg: &[u8]) -> bool {
    let tables = [clang::FLAGS, common::FLAGS];
    is_plain(arg)
        && tables.iter().filter_map(|table| longest(table, arg)).all(|f| f.effect == Effect::Neutral)
}

/// Whether `arg` is one of the flags that need no line in a table, such as `-fno-common`.
fn is_plain(arg: &[u8]) -> bool {
    let (list, prefixes, rest) = match arg {
        [b'-', b'f', rest @ ..] => (names::F_NAMES, names::F_PREFIXES, rest),
        [b'-', b'g', rest @ ..] => (names::G_NAMES, &[][..], rest),
        _ => return false,
    };
    let name = rest.split(|&byte| byte == b'=').next().unwrap_or(rest);
    let name = name.strip_prefix(b"no-").unwrap_or(name);
    list.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
        || prefixes.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix.as_bytes()))
}

fn by_name(arg: &[u8]) -> Found<'_> {
    if is_plain(arg) {
        return Found::Known { effect: Effect::Neutral, value: &[], length: 1 };
    }
    Found::Unknown
}

/// No name in the tables is longer; arguments often are.
const NAME_BYTES_MAX: usize = 40;

/// The flag of `table` with the longest name that `arg` is, or begins with if it may be continued.
fn longest(table: &'static [Flag], arg: &[u8]) -> Option<&'static Flag> {
    (1..=arg.len().min(NAME_BYTES_MAX)).rev().find_map(|length| {
        let at = table.binary_search_by(|flag| flag.name.as_bytes().cmp(&arg[..length])).ok()?;
        let flag = &table[at];
        let continues = matches!(flag.arity, Arity::Joined | Arity::Either);
        (length == arg.len() || continues).then_some(flag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: [&[Flag]; 3] = [common::FLAGS, gcc::FLAGS, clang::FLAGS];

    #[test]
    fn tables_are_sorted() {
        for table in TABLES {
            for pair in table.windows(2) {
                assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
            }
            assert!(table.iter().all(|flag| flag.name.len() <= NAME_BYTES_MAX));
        }
        for list in [names::F_NAMES, names::F_PREFIXES, names::G_NAMES] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn no_plain_name_hides_behind_a_table() {
        // A name that is both plain and in a table would be read by the table; that must be meant.
        let meant = ["-fbuiltin-module", "-fsanitize=", "-frecord-gcc-switches"];
        for flag in TABLES.concat() {
            let shadowed = is_plain(flag.name.as_bytes()) && flag.effect != Effect::Neutral;
            assert!(!shadowed || meant.contains(&flag.name), "{}", flag.name);
        }
    }

    fn check(family: Family, args: &[&str], expect: Option<(Effect, &str, usize)>) {
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let expect = expect.map_or(Found::Unknown, |(effect, value, length)| Found::Known {
            effect,
            value: value.as_bytes(),
            length,
        });
        assert_eq!(find(family, &args), expect, "{family} {args:?}");
    }

    #[test]
    fn arities() {
        use Family::{Clang, Gcc};
        check(Gcc, &["-o", "x.o"], Some((Effect::Output, "x.o", 2)));
        check(Gcc, &["-ox.o"], Some((Effect::Output, "x.o", 1)));
        check(Clang, &["-object"], Some((Effect::Output, "bject", 1)));
        check(Gcc, &["-c"], Some((Effect::Produce(Mode::Object), "", 1)));
        check(Gcc, &["-cx"], None);
        check(Gcc, &["-std=c11"], Some((Effect::Neutral, "c11", 1)));
        check(Gcc, &["-include", "a.h"], Some((Effect::ForcedInclude, "a.h", 2)));
        check(Gcc, &["-march=native"], Some((Effect::Processor, "native", 1)));
        check(Clang, &["-Wp,-MD,x.d"], Some((Effect::PreprocessorList, "-MD,x.d", 1)));
        check(Clang, &["-Wall"], Some((Effect::Neutral, "all", 1)));
        check(Gcc, &["-fno-common"], Some((Effect::Neutral, "", 1)));
        check(Gcc, &["-fcall-saved-rbx"], Some((Effect::Neutral, "", 1)));
        check(Gcc, &["-fcall-saved-"], None);
        check(Gcc, &["-fbrand-new-file=x"], None);
        check(Gcc, &["--brand-new"], None);
        check(Gcc, &["-gdwarf-4"], Some((Effect::Neutral, "", 1)));
        assert_eq!(find(Gcc, &[b"-o".to_vec()]), Found::MissingValue);
    }

    #[test]
    fn the_family_decides() {
        let sanitizer = Effect::CacheOnly(ReasonKind::SanitizerList);
        check(Family::Gcc, &["-fsanitize=address"], Some((Effect::Neutral, "", 1)));
        check(Family::Clang, &["-fsanitize=address"], Some((sanitizer, "address", 1)));
    }
}
