//! What a compile is, once its command line has been understood.

use std::ops::Range;

use crate::detect::Family;
use crate::environment::Environment;
use crate::language::Language;

/// What a compile makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// An object (`-c`).
    Object,
    /// Assembly text (`-S`).
    Assembly,
    /// Diagnostics only (`-fsyntax-only`).
    Syntax,
}

/// A file the compiler writes beside its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SideKind {
    /// `-MD`, `-MMD`: a make rule of what was read.
    Depfile,
    /// `-gsplit-dwarf`: debug information (`.dwo`).
    SplitDwarf,
    /// `-fstack-usage` (`.su`).
    StackUsage,
    /// `--coverage`: coverage notes (`.gcno`).
    Coverage,
    /// gcc's `-fcallgraph-info` (`.ci`).
    CallGraph,
    /// clang's `--serialize-diagnostics`.
    Diagnostics,
}

impl SideKind {
    /// The suffix of the name that the compiler derives, without the dot; `None` if the command line names the file.
    pub fn suffix(self) -> Option<&'static str> {
        match self {
            SideKind::Depfile => Some("d"),
            SideKind::SplitDwarf => Some("dwo"),
            SideKind::StackUsage => Some("su"),
            SideKind::Coverage => Some("gcno"),
            SideKind::CallGraph => Some("ci"),
            SideKind::Diagnostics => None,
        }
    }
}

/// A declared output besides the main one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideOutput {
    /// What it is.
    pub kind: SideKind,
    /// Its path, relative to the working directory unless absolute.
    pub path: Vec<u8>,
    /// Whether a successful compile may go without writing it.
    pub optional: bool,
}

/// The depfile a compile writes, which is among its side outputs too unless it goes to `/dev/null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depfile {
    /// Its path; `None` if the command line sends it to `/dev/null`.
    pub path: Option<Vec<u8>>,
    /// Whether it lists system headers (`-MD`, not `-MMD`).
    pub system_headers: bool,
}

/// A compile of one source, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compile {
    /// The compiler's family.
    pub family: Family,
    /// The source's language.
    pub language: Language,
    /// What it makes.
    pub mode: Mode,
    /// The source, as written.
    pub source: Vec<u8>,
    /// The main output, as written or by the compiler's default; `None` for [`Mode::Syntax`].
    pub output: Option<Vec<u8>>,
    /// The other outputs.
    pub side_outputs: Vec<SideOutput>,
    /// The depfile, if one is asked for.
    pub depfile: Option<Depfile>,
    /// The arguments after `argv[0]` to run, here or elsewhere: the user's, with response files expanded and
    /// `presentation` put in.
    pub argv: Vec<Vec<u8>>,
    /// The flags that were added for the user's terminal; empty if standard error is none.
    pub presentation: Vec<Vec<u8>>,
    /// Where in `argv` they are.
    pub(crate) presentation_at: usize,
    /// Whether a flag makes the compiler record its command line in what it writes.
    pub is_recorded: bool,
    /// The variables the compiler may see, and no others.
    pub env: Environment,
    /// Directories searched for headers, as written. Compilers warn if one is missing, so those that
    /// exist must exist on the worker even if no header in them is read.
    pub include_directories: Vec<Vec<u8>>,
    /// Those of them whose flag has no effect at all if the directory is not there, and the indices of its arguments in
    /// `argv`.
    pub silent_directories: Vec<(Range<usize>, Vec<u8>)>,
    /// Files included by `-include` and `-imacros`, as written.
    pub forced_includes: Vec<Vec<u8>>,
    /// Whether a `-D` mentions `__DATE__`, `__TIME__` or `__TIMESTAMP__`.
    pub time_macros: bool,
    /// The arguments that matter to a dependency run.
    pub(crate) dependency_args: Vec<Vec<u8>>,
}

impl Compile {
    /// Puts arguments before all others.
    pub fn prepend(&mut self, args: &[Vec<u8>]) {
        self.dependency_args.splice(0..0, args.iter().cloned());
        self.argv.splice(0..0, args.iter().cloned());
        self.presentation_at += args.len();
        for (arguments, _) in &mut self.silent_directories {
            *arguments = arguments.start + args.len()..arguments.end + args.len();
        }
    }

    /// The arguments that say what is made of which files: without flags for directories that are not there, as
    /// `is_missing` says, and with the flags for the terminal only if `shown`. A compile with them makes the same files, and
    /// says the same but for colour and width.
    pub fn essential_argv(&self, shown: Shown, is_missing: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut left_out = vec![false; self.argv.len()];
        if shown == Shown::Plain {
            left_out[self.presentation_at..][..self.presentation.len()].fill(true);
        }
        for (arguments, directory) in &self.silent_directories {
            if is_missing(directory) {
                left_out[arguments.clone()].fill(true);
            }
        }
        let kept = self.argv.iter().zip(left_out).filter(|(_, left_out)| !left_out);
        kept.map(|(argument, _)| argument.clone()).collect()
    }
}

/// For whom a compile speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// For the user's standard error, be it a terminal or none.
    AsAsked,
    /// For one that is no terminal.
    Plain,
}
