//! Why a compile that its command line allows to be cached runs locally all the same: what only a look at the
//! files shows. A closed list; the names are stable, because `barn stats --json` shows them. The reasons that the
//! command line alone gives are in [`barn_compilers::reason`].

macro_rules! obstacles {
    ($($variant:ident $name:literal $sentence:literal)*) => {
        /// The kind of an obstacle.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Obstacle {
            $(#[doc = $sentence] $variant,)*
        }

        impl Obstacle {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable name counted in `barn stats`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One line for people, as the reference page has it.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)*
                }
            }
        }
    };
}

obstacles! {
    AssemblerInclude "assembler-include" "the assembler may read a file that a directive or string names"
    CompilerIdentity "compiler-identity" "the program is not the compiler that its name says"
    CompilerWrapper "compiler-wrapper" "the program is another wrapper, such as ccache"
    ComputedProbe "computed-probe" "a `__has_include` names its file by a macro"
    DependencyRun "dependency-run" "the compiler's own list of inputs could not be had; most often a header is missing"
    Dialect "dialect" "the compiler cannot be asked what it predefines and where it searches"
    Embed "embed" "`#embed` reads a file that the list of inputs omits"
    IdenticalFiles "identical-files" "inputs with the same contents are to be read once (`#pragma once`, `#import`): their times decide which"
    Incbin "incbin" "`.incbin` makes the assembler read a file"
    Input "input" "an input cannot be read, or changes while it is read"
    Internal "internal" "a fault of barn"
    Layout "layout" "a path cannot be laid out elsewhere: a loop of links, too long, too deep"
    LoaderEnvironment "loader-environment" "a variable such as `LD_PRELOAD` may change which libraries the compiler loads"
    MacroInputs "macro-inputs" "macros run, and the package has too many files to watch all that they may read"
    MalformedArguments "malformed-arguments" "the call is empty"
    Modules "modules" "a module is imported or declared"
    NoOutput "no-output" "the compile writes no file"
    NotPreprocessed "not-preprocessed" "the source is not preprocessed"
    NotScannable "not-scannable" "a flag changes how the source is read"
    OutputDirectory "output-directory" "the directory of an output is not there"
    OutputName "output-name" "an output has no file name"
    PragmaDependency "pragma-dependency" "`#pragma GCC dependency` compares the times of files"
    PrecompiledHeader "precompiled-header" "a precompiled header would be read, or a pragma asks for one"
    RustCompiler "rust-compiler" "the Rust compiler's files cannot be told"
    Source "source" "the source cannot be read"
    SpecialInput "special-input" "an input is no regular file"
    SpecialOutput "special-output" "an output is no regular file"
    StandIn "stand-in" "the archive that `[[toolchain]]` names cannot stand in for the compiler"
    UnknownCrate "unknown-crate" "a library was made before barn was used, so it is not known what it depends on"
    TimeMacros "time-macros" "`__DATE__`, `__TIME__` or `__TIMESTAMP__` occurs"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_lists_every_obstacle() {
        let page = include_str!("../../../../docs/compilers.md");
        for obstacle in Obstacle::ALL {
            let row = format!("| `{}` | {} |", obstacle.name(), obstacle.sentence());
            assert!(page.contains(&row), "docs/compilers.md lacks the row {row}");
        }
    }
}
