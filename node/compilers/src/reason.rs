//! Why a compile is not distributed, or not even cached: a closed list.
//!
//! Names are stable: `barn stats --json` shows them, scripts may count on them. The sentence is for
//! `barn explain`; the detail is the flag, variable or path concerned, as the user wrote it.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $name:literal $sentence:literal)*) => {
        /// The kind of a [`Reason`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonKind {
            $(#[doc = $sentence] $variant,)*
        }

        impl ReasonKind {
            /// Every kind, in the order of declaration.
            pub const ALL: &[ReasonKind] = &[$(ReasonKind::$variant),*];

            /// The stable kebab-case name, as in `barn stats --json`.
            pub fn name(self) -> &'static str {
                match self {
                    $(ReasonKind::$variant => $name,)*
                }
            }

            /// One lowercase sentence for people, without a full stop.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(ReasonKind::$variant => $sentence,)*
                }
            }
        }
    };
}

reasons! {
    UnknownCompiler "unknown-compiler" "this program is not a compiler barn knows"
    UnsupportedDriver "unsupported-driver" "this driver takes another compiler's command line"
    UnknownFlag "unknown-flag" "barn does not know this flag, so it cannot tell which files the compile reads or writes"
    MalformedArguments "malformed-arguments" "the command line ends where a flag expects its value, or gives one a value it cannot have"
    TooManyArguments "too-many-arguments" "the command line is too long to ship"
    ResponseFile "response-file" "a response file nests too deep, grows too large, or means different things to different compilers"
    CompileAndLink "compile-and-link" "this command compiles and links in one step"
    MultipleSources "multiple-sources" "this command compiles several sources"
    ExtraInputs "extra-inputs" "this command names inputs that are not compiled"
    ConflictingModes "conflicting-modes" "this command asks for an object and for assembly text at once"
    StandardInput "standard-input" "the source comes from standard input or a device"
    SpecialOutput "special-output" "an output goes to standard output or a device"
    OutputName "output-name" "the names of the files beside this output follow rules that differ between compilers"
    RepeatedOutput "repeated-output" "the command line names the output more than once"
    Language "language" "this language is not supported"
    PreprocessedSource "preprocessed-source" "the source is already preprocessed, and warnings quote the original files, which it does not contain"
    PlainAssembler "plain-assembler" "assembling is cheaper than shipping the source"
    PrecompiledHeader "precompiled-header" "precompiled headers hold the state of one machine's files"
    Modules "modules" "module compiles read and write files outside the command line"
    Plugin "plugin" "a compiler plugin may read or write anything"
    Specs "specs" "this flag changes which programs and files the compiler driver uses"
    NativeCpu "native-cpu" "the code depends on the processor of the machine that compiles"
    ProfileInput "profile-input" "the compile reads a profile"
    ProfileOutput "profile-output" "this flag moves the coverage notes"
    ExtraInputFile "extra-input-file" "this flag names an input that the compiler's dependency list omits"
    ExtraOutputFile "extra-output-file" "this flag writes a file that barn does not carry back"
    Dump "dump" "the compiler writes its intermediate state"
    DumpName "dump-name" "this flag changes the names of the files beside the output"
    SaveTemps "save-temps" "the compiler keeps its intermediate files"
    OptimizationRecord "optimization-record" "the compiler writes an optimization record"
    Timing "timing" "the compiler reports times, which differ at every run"
    Verbose "verbose" "the compiler prints what it runs, with the names of temporary files"
    PassThrough "pass-through" "this flag hands an argument past the driver, and barn does not know that argument"
    UnusualMode "unusual-mode" "this flag makes something other than an object, assembly text or diagnostics"
    MissingHeaders "missing-headers" "headers that do not exist are allowed, so the list of inputs cannot be checked"
    DependencyFormat "dependency-format" "the dependency file is in a form barn does not read, or is asked for twice"
    Offload "offload" "code for another device is compiled too"
    ExternalAssembler "external-assembler" "the compiler runs an assembler from the search path"
    WorkingDirectory "working-directory" "this flag moves the compiler to another directory"
    RecordedCommandLine "recorded-command-line" "the output records the command line, so barn cannot add the flag for colours"
    EmbeddedSource "embedded-source" "the output embeds files that the dependency list omits"
    Sysroot "sysroot" "clang looks for a compiler installation inside this directory, which does not travel"
    CrossTarget "cross-target" "clang looks for another target's files, which may not be in the toolchain"
    CanonicalPrefix "canonical-prefix" "the compiler finds its files by the path it was called by"
    SanitizerList "sanitizer-list" "clang reads its own list of exceptions for this sanitizer"
    LogicalDirectory "logical-directory" "the working directory is known by a name that contains a symbolic link, and debug information records that name"
    NoDependencyList "no-dependency-list" "rustc writes no dependency list here, so nobody would say what it read"
    CrateOutputs "crate-outputs" "the outputs of this crate are not named by its name and type alone"
    CrateSearch "crate-search" "a crate is to be searched by its name alone"
    UnstableFlag "unstable-flag" "unstable flags change their meaning from one compiler to the next"
    OtherSysroot "other-sysroot" "the compiler is told to use the libraries of another one"
    Linker "linker" "the linker is not one whose files barn can tell"
    LinkerArgument "linker-argument" "this argument may make the linker read a file that barn does not know of"
    Terminal "terminal" "the compiler lays its messages out for the terminal itself"
    Environment "environment" "an environment variable changes what the compiler reads, writes or runs"
}

/// A kind and what it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// The kind, by which reasons are counted.
    pub kind: ReasonKind,
    /// The flag, variable or path concerned, as written; empty if there is none.
    pub detail: Vec<u8>,
}

impl Reason {
    /// A reason that concerns `detail`.
    pub fn new(kind: ReasonKind, detail: impl Into<Vec<u8>>) -> Self {
        Reason { kind, detail: detail.into() }
    }
}

impl From<ReasonKind> for Reason {
    fn from(kind: ReasonKind) -> Self {
        Reason { kind, detail: Vec::new() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.sentence())?;
        if self.detail.is_empty() {
            return Ok(());
        }
        // One line, whatever the flag holds.
        write!(f, ": {}", String::from_utf8_lossy(&self.detail).escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let names: BTreeSet<&str> = ReasonKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ReasonKind::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
    }

    #[test]
    fn a_reason_is_one_line_whatever_it_concerns() {
        let shown = Reason::new(ReasonKind::UnknownFlag, *b"-fa\nb\xff").to_string();
        assert!(shown.ends_with("-fa\\nb\u{fffd}"), "{shown}");
        assert_eq!(Reason::from(ReasonKind::Specs).to_string(), ReasonKind::Specs.sentence());
    }
}
