//! What a command line of `barn` means: a compile, or a verb of the node. Pure.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// The verbs that the node's own program understands. A verb wins over a program of the same name (`join`, `id`);
/// `barn -- join …` means the program.
const NODE_VERBS: &[&str] = &[
    "node",
    "start",
    "stop",
    "mesh",
    "join",
    "id",
    "status",
    "stats",
    "explain",
    "doctor",
    "toolchain",
    "cache",
    "run",
    "help",
    "--help",
    "-h",
    "--version",
    "-V",
];

/// Names of compilers, without target prefix and version.
const COMPILERS: &[&str] =
    &["cc", "c++", "gcc", "g++", "clang", "clang++", "clang-cpp", "cpp", "rustc", "clippy-driver"];

/// The meaning of a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Run this compiler.
    Compile(Compile),
    /// Hand the whole command line to the node's program.
    Node,
    /// `--` without a compiler behind it.
    NoCompiler,
}

/// A call of a compiler.
#[derive(Debug, PartialEq, Eq)]
pub struct Compile {
    /// What to run: a name to find in PATH, or a path.
    pub name: OsString,
    /// argv, beginning with the compiler as its caller typed it.
    pub argv: Vec<OsString>,
}

impl Call {
    /// The meaning of `argv`, of which the first is the name that this program was called by.
    pub fn of(argv: &[OsString]) -> Self {
        let Some((own, arguments)) = argv.split_first() else {
            return Self::Node;
        };
        let own_name = Path::new(own).file_name().unwrap_or(own);
        if own_name != "barn" {
            // Masquerade. The directory part only says where the link is, not where the compiler is, which would
            // look for its own parts there.
            let argv: Vec<OsString> =
                [own_name.to_owned()].into_iter().chain(arguments.iter().cloned()).collect();
            return Self::compile(own_name, &argv);
        }
        match arguments {
            [dashes, rest @ ..] if dashes == "--" => match rest {
                [] => Self::NoCompiler,
                [name, ..] => Self::compile(name, rest),
            },
            [first, ..] if !is_node_verb(first) => Self::compile(first, arguments),
            _ => Self::Node,
        }
    }

    fn compile(name: &OsStr, argv: &[OsString]) -> Self {
        Self::Compile(Compile { name: name.to_owned(), argv: argv.to_vec() })
    }
}

/// Whether a name that was not found is the name of a compiler: decides between two error messages.
pub fn looks_like_compiler(name: &OsStr) -> bool {
    let name = Path::new(name).file_name().unwrap_or(name).as_bytes();
    let name = strip_version(name);
    COMPILERS.iter().any(|compiler| {
        // `aarch64-linux-gnu-gcc`: a target prefix ends with a dash.
        name.strip_suffix(compiler.as_bytes())
            .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with(b"-"))
    })
}

fn is_node_verb(word: &OsStr) -> bool {
    NODE_VERBS.iter().any(|verb| word == *verb)
}

/// `gcc-12.2` → `gcc`.
fn strip_version(name: &[u8]) -> &[u8] {
    let is_version = |version: &[u8]| {
        version.first().is_some_and(u8::is_ascii_digit)
            && version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    match name.iter().rposition(|byte| *byte == b'-') {
        Some(dash) if is_version(&name[dash + 1..]) => &name[..dash],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(argv: &str, expect: Option<(&str, &str)>) {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let expect = expect.map_or(Call::Node, |(name, argv)| {
            Call::Compile(Compile { name: name.into(), argv: words(argv) })
        });
        assert_eq!(Call::of(&words(argv)), expect, "{argv}");
    }

    #[test]
    fn prefix_calls() {
        check("barn gcc -c x.c", Some(("gcc", "gcc -c x.c")));
        check("/usr/bin/barn gcc", Some(("gcc", "gcc")));
        check("barn -- gcc -c", Some(("gcc", "gcc -c")));
        check("barn -- status", Some(("status", "status")));
        check("barn -- -- x", Some(("--", "-- x")));
        check("barn ./my/cc -c", Some(("./my/cc", "./my/cc -c")));
        check("barn frobnicate", Some(("frobnicate", "frobnicate")));
        check("barn gcc --version", Some(("gcc", "gcc --version")));
    }

    #[test]
    fn masquerade_calls() {
        check("gcc -c x.c", Some(("gcc", "gcc -c x.c")));
        check("/opt/links/mips-g++-12 x.c", Some(("mips-g++-12", "mips-g++-12 x.c")));
        check("gcc status", Some(("gcc", "gcc status")));
    }

    #[test]
    fn verbs_of_the_node() {
        for verb in NODE_VERBS {
            check(&format!("barn {verb} more"), None);
        }
        check("barn", None);
        assert_eq!(Call::of(&[]), Call::Node);
    }

    #[test]
    fn dashes_alone_name_no_compiler() {
        assert_eq!(Call::of(&["barn".into(), "--".into()]), Call::NoCompiler);
    }

    #[test]
    fn names_of_compilers() {
        for name in ["gcc", "g++-12", "/x/clang++-19.1", "aarch64-linux-gnu-gcc-12", "rustc", "cc", "i686-cc"]
        {
            assert!(looks_like_compiler(OsStr::new(name)), "{name}");
        }
        for name in ["", "-", "frobnicate", "xgcc", "gcc-ar", "gcc-12-x", "-12", "stats", "gcc-."] {
            assert!(!looks_like_compiler(OsStr::new(name)), "{name}");
        }
    }
}
