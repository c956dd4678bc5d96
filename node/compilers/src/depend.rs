//! The compiler's own list of what a compile reads.
//!
//! [`dependency_argv`] turns a compile into the run that prints it: the same arguments without those that
//! choose, name or shape outputs, and `-M` (for gcc what does the same, and more) in front. Both families then print one make rule to standard
//! output, system headers included, exit non-zero if a header is missing, and write no file. Run it with
//! the compile's environment and directory.
//!
//! The list omits headers that are only probed by `__has_include`, files named by `.incbin`, `#embed` and
//! `#line`, and precompiled headers: see [`crate::directives`] and [`crate::search`].

use thiserror::Error;

use crate::compile::Compile;
use crate::detect::Family;
use crate::language::Language;

/// A depfile names at most this many files. The largest translation units read a few thousand.
pub const DEPENDENCIES_MAX: usize = 65_536;

/// Why a depfile could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DepfileError {
    /// Text that belongs to no rule.
    #[error("depfile has no rule")]
    NoRule,
    /// More than [`DEPENDENCIES_MAX`] files.
    #[error("depfile names more than {DEPENDENCIES_MAX} files")]
    TooMany,
}

/// The arguments after `argv[0]` for the dependency run; `None` if the source is not preprocessed, and so
/// includes nothing.
pub fn dependency_argv(compile: &Compile) -> Option<Vec<Vec<u8>>> {
    if compile.language == Language::Assembler {
        return None;
    }
    // gcc's `-M` passes over `_Pragma`, which may save and restore macros, so it is asked to preprocess.
    let flags: &[&[u8]] = match compile.family {
        Family::Clang => &[b"-M"],
        _ => &[b"-E", b"-w", b"-MD", b"-MF", b"/dev/stdout", b"-o", b"/dev/null"],
    };
    let mut argv: Vec<Vec<u8>> = flags.iter().map(|flag| flag.to_vec()).collect();
    argv.extend_from_slice(&compile.dependency_args);
    Some(argv)
}

/// The files a depfile's rules depend on, in order, each once.
///
/// Reads make's syntax as gcc and clang write it: `\ ` and `\#`, `$$`, continued lines, several targets, and
/// the empty rules of `-MP`. clang writes a backslash in a name as a slash and leaves tabs alone; such names
/// come back as clang wrote them.
pub fn parse_depfile(content: &[u8]) -> Result<Vec<Vec<u8>>, DepfileError> {
    let mut seen = std::collections::HashSet::new();
    let mut files = Vec::new();
    let mut words = Words { rest: content };
    // Whether the colon of the current rule has been passed.
    let mut past_colon = false;
    let mut targets = 0;
    while let Some(token) = words.next() {
        match token {
            Token::End if targets > 0 && !past_colon => return Err(DepfileError::NoRule),
            Token::End => (past_colon, targets) = (false, 0),
            Token::Word(_, true) if !past_colon => (past_colon, targets) = (true, targets + 1),
            Token::Word(..) if !past_colon => targets += 1,
            Token::Word(mut word, colon) => {
                if colon {
                    word.push(b':');
                }
                if seen.insert(word.clone()) {
                    files.push(word);
                }
                if files.len() > DEPENDENCIES_MAX {
                    return Err(DepfileError::TooMany);
                }
            }
        }
    }
    Ok(files)
}

enum Token {
    /// A word, and whether a colon that ends a target list follows it.
    Word(Vec<u8>, bool),
    /// The end of a rule.
    End,
}

struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            match self.rest {
                [] => return None,
                [b' ' | b'\t' | b'\r', ..] => self.rest = &self.rest[1..],
                [b'\\', b'\n', ..] => self.rest = &self.rest[2..],
                [b'\\', b'\r', b'\n', ..] => self.rest = &self.rest[3..],
                [b'\n', ..] => {
                    self.rest = &self.rest[1..];
                    return Some(Token::End);
                }
                // A colon by itself, after blanks.
                [b':', rest @ ..] if ends_word(rest) => {
                    self.rest = rest;
                    return Some(Token::Word(Vec::new(), true));
                }
                _ => return Some(self.word()),
            }
        }
    }

    fn word(&mut self) -> Token {
        let mut word = Vec::new();
        loop {
            match self.rest {
                rest if ends_word(rest) => return Token::Word(word, false),
                [b':', rest @ ..] if ends_word(rest) => {
                    self.rest = rest;
                    return Token::Word(word, true);
                }
                [b'$', b'$', rest @ ..] => {
                    word.push(b'$');
                    self.rest = rest;
                }
                [b'\\', ..] => self.backslashes(&mut word),
                [byte, rest @ ..] => {
                    word.push(*byte);
                    self.rest = rest;
                }
                [] => return Token::Word(word, false),
            }
        }
    }

    /// A run of backslashes is halved before a blank, loses one before `#`, and stands for itself elsewhere.
    fn backslashes(&mut self, word: &mut Vec<u8>) {
        let count = self.rest.iter().take_while(|&&byte| byte == b'\\').count();
        let after = &self.rest[count..];
        let (kept, literal) = match after.first() {
            Some(blank @ (b' ' | b'\t')) => (count / 2, (count % 2 == 1).then_some(*blank)),
            Some(b'#') => (count - 1, Some(b'#')),
            // The last one continues the line.
            Some(b'\n') => (count - 1, None),
            Some(b'\r') if after.get(1) == Some(&b'\n') => (count - 1, None),
            _ => (count, None),
        };
        word.extend(std::iter::repeat_n(b'\\', kept));
        word.extend(literal);
        self.rest = match after.first() {
            Some(b'\n' | b'\r') if kept < count => &self.rest[count - 1..],
            _ => &after[usize::from(literal.is_some())..],
        };
    }
}

/// Whether a word ends where `rest` begins.
fn ends_word(rest: &[u8]) -> bool {
    matches!(rest, [] | [b' ' | b'\t' | b'\r' | b'\n', ..] | [b'\\', b'\n', ..] | [b'\\', b'\r', b'\n', ..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(content: &str, expect: &[&str]) {
        let files = parse_depfile(content.as_bytes()).expect("readable");
        let files: Vec<_> = files.iter().map(|file| String::from_utf8_lossy(file)).collect();
        assert_eq!(files, expect, "{content:?}");
    }

    #[test]
    fn rules_as_compilers_write_them() {
        check("a.o: a.c a.h\n", &["a.c", "a.h"]);
        check("a.o: a.c \\\n  a.h\\\n b.h \\\r\n c.h", &["a.c", "a.h", "b.h", "c.h"]);
        check(
            "x\\ y:z.o: x\\ y:z.c co/a:b.h co/c\\d\\#e.h \\\n co/t\\\tb\\\\\\ x.h\n",
            &["x y:z.c", "co/a:b.h", "co/c\\d#e.h", "co/t\tb\\ x.h"],
        );
        check("a.o: in\\ c/sp\\ ace$$\\#.h\n", &["in c/sp ace$#.h"]);
        check("foo bar: a.c h.h\n\nh.h:\n\nk.h:\n", &["a.c", "h.h"]);
        check("foo bar : a.c\nbaz: a.c b.c\n", &["a.c", "b.c"]);
        check("a.o: a.c x: y\n", &["a.c", "x:", "y"]);
        check("a.o:", &[]);
        check("", &[]);
        check("\n\n", &[]);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        assert_eq!(parse_depfile(b"hello world\n"), Err(DepfileError::NoRule));
        let many: Vec<u8> = (0..=DEPENDENCIES_MAX).flat_map(|n| format!(" {n}").into_bytes()).collect();
        assert_eq!(parse_depfile(&[b"a:".to_vec(), many].concat()), Err(DepfileError::TooMany));
    }

    /// As gcc's `munge`.
    fn escape(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut slashes = 0;
        for &byte in path {
            match byte {
                b'$' => out.push(b'$'),
                b' ' | b'\t' => out.extend(std::iter::repeat_n(b'\\', slashes + 1)),
                b'#' => out.push(b'\\'),
                _ => {}
            }
            slashes = if byte == b'\\' { slashes + 1 } else { 0 };
            out.push(byte);
        }
        out
    }

    proptest! {
        #[test]
        fn escaped_paths_come_back(paths in proptest::collection::vec("[a-z$#: \t\\\\./\\xe9]{0,8}[a-z]", 1..8)) {
            let mut content = b"target.o:".to_vec();
            for path in &paths {
                content.extend_from_slice(b" \\\n ");
                content.extend(escape(path.as_bytes()));
            }
            content.push(b'\n');
            let mut expect: Vec<Vec<u8>> = Vec::new();
            for path in paths {
                if !expect.contains(&path.as_bytes().to_vec()) {
                    expect.push(path.into_bytes());
                }
            }
            prop_assert_eq!(parse_depfile(&content).unwrap(), expect);
        }

        #[test]
        fn parsing_never_panics(content: Vec<u8>) {
            let _ = parse_depfile(&content);
        }
    }
}
