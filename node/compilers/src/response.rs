//! Response files: `@file` in an argv, as gcc (libiberty) and clang read it.
//!
//! The two agree on all but corners: a lone backslash at the end, vertical tabs and form feeds, NUL bytes,
//! and byte order marks. A file with one of those is [`ResponseError::Ambiguous`] rather than guessed at.
//! A file that cannot be read leaves its argument as it stands, in both.
//!
//! Expanding before the compile is sound because neither compiler records that arguments came from a
//! file: objects, `DW_AT_producer` and recorded switches are the same (see `tests/real.rs`).

use thiserror::Error;

/// Files nest at most this deep. libiberty stops after 2000 expansions, which only a cycle reaches.
pub const RESPONSE_DEPTH_MAX: usize = 16;
/// An expanded argv holds at most this many bytes: it must pass `execve` on the worker, with room for
/// the environment.
pub const ARGV_BYTES_MAX: usize = 1024 * 1024;

/// Reads files for the pure code.
pub trait Files {
    /// The content of the file at `path`, relative paths being relative to the compile's working
    /// directory; `None` if it cannot be read.
    fn read(&self, path: &[u8]) -> Option<Vec<u8>>;
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> Files for F {
    fn read(&self, path: &[u8]) -> Option<Vec<u8>> {
        self(path)
    }
}

/// Why an argv could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// Nested deeper than [`RESPONSE_DEPTH_MAX`].
    #[error("response files nest deeper than {RESPONSE_DEPTH_MAX}")]
    TooDeep,
    /// Expanded to more than [`ARGV_BYTES_MAX`].
    #[error("arguments exceed {ARGV_BYTES_MAX} bytes")]
    TooLarge,
    /// gcc and clang would read the file differently.
    #[error("response file has no single meaning")]
    Ambiguous,
}

/// Replaces each `@file` in `args` by the arguments in that file.
pub fn expand(args: &[Vec<u8>], files: &dyn Files) -> Result<Vec<Vec<u8>>, ResponseError> {
    let mut expansion = Expansion { files, out: Vec::with_capacity(args.len()), bytes: 0 };
    expansion.add_all(args, 0)?;
    Ok(expansion.out)
}

/// Splits the content of one response file into arguments.
pub fn split(content: &[u8]) -> Result<Vec<Vec<u8>>, ResponseError> {
    const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe"];
    if MARKS.iter().any(|mark| content.starts_with(mark))
        || content.iter().any(|byte| matches!(byte, 0 | b'\x0b' | b'\x0c'))
    {
        return Err(ResponseError::Ambiguous);
    }
    let mut args = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = content.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', _) => {
                let next = bytes.next().ok_or(ResponseError::Ambiguous)?;
                current.get_or_insert_default().push(next);
            }
            (byte, Some(open)) if byte == open => quote = None,
            (byte, Some(_)) => current.get_or_insert_default().push(byte),
            (b'\'' | b'"', None) => {
                quote = Some(byte);
                current.get_or_insert_default();
            }
            (b' ' | b'\t' | b'\n' | b'\r', None) => args.extend(current.take()),
            (byte, None) => current.get_or_insert_default().push(byte),
        }
    }
    args.extend(current);
    Ok(args)
}

struct Expansion<'a> {
    files: &'a dyn Files,
    out: Vec<Vec<u8>>,
    bytes: usize,
}

impl Expansion<'_> {
    fn add_all(&mut self, args: &[Vec<u8>], depth: usize) -> Result<(), ResponseError> {
        for arg in args {
            self.add(arg, depth)?;
        }
        Ok(())
    }

    fn add(&mut self, arg: &[u8], depth: usize) -> Result<(), ResponseError> {
        let content = match arg.strip_prefix(b"@") {
            Some(path) if !path.is_empty() => self.files.read(path),
            _ => None,
        };
        let Some(content) = content else {
            self.bytes += arg.len() + 1;
            if self.bytes > ARGV_BYTES_MAX {
                return Err(ResponseError::TooLarge);
            }
            self.out.push(arg.to_vec());
            return Ok(());
        };
        if depth == RESPONSE_DEPTH_MAX {
            return Err(ResponseError::TooDeep);
        }
        if content.len() > ARGV_BYTES_MAX {
            return Err(ResponseError::TooLarge);
        }
        self.add_all(&split(&content)?, depth + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(content: &str, expect: &[&str]) {
        let args = split(content.as_bytes()).expect("unambiguous");
        let args: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        assert_eq!(args, expect, "{content:?}");
    }

    #[test]
    fn splits_as_libiberty() {
        check("", &[]);
        check(" \n\t ", &[]);
        check("-c x.c\n-o\tx.o\r\n", &["-c", "x.c", "-o", "x.o"]);
        check("-DX=\"a b\" '-DY=c d'", &["-DX=a b", "-DY=c d"]);
        check(r#"-DS=\"q\" a\ b c\\d"#, &["-DS=\"q\"", "a b", r"c\d"]);
        check(r#"'a"b' "c'd" 'e\'f' "g\"h""#, &["a\"b", "c'd", "e'f", "g\"h"]);
        check("\"\" '' x", &["", "", "x"]);
        check("a\"b c\"d", &["ab cd"]);
        check("\"open to the end", &["open to the end"]);
        check("a\\\nb", &["a\nb"]);
    }

    #[test]
    fn what_compilers_read_differently_is_ambiguous() {
        for content in ["a\\", "a\0b", "a\x0bb", "a\x0cb", "\u{feff}a"] {
            assert_eq!(split(content.as_bytes()), Err(ResponseError::Ambiguous), "{content:?}");
        }
    }

    fn table(path: &[u8]) -> Option<Vec<u8>> {
        match path {
            b"a" => Some(b"-DA @b -DA2".to_vec()),
            b"b" => Some(b"-DB @missing".to_vec()),
            b"loop" => Some(b"@loop".to_vec()),
            b"wide" => Some(vec![b'x'; ARGV_BYTES_MAX]),
            _ => None,
        }
    }

    #[test]
    fn nests_and_leaves_missing_files_alone() {
        let args = ["-c", "@a", "@", "x.c"].map(|arg| arg.as_bytes().to_vec());
        let expanded = expand(&args, &table).unwrap();
        assert_eq!(
            expanded,
            ["-c", "-DA", "-DB", "@missing", "-DA2", "@", "x.c"].map(|a| a.as_bytes().to_vec())
        );
    }

    #[test]
    fn growth_is_bounded() {
        assert_eq!(expand(&[b"@loop".to_vec()], &table), Err(ResponseError::TooDeep));
        assert_eq!(expand(&[b"@wide".to_vec(), b"y".to_vec()], &table), Err(ResponseError::TooLarge));
    }

    fn quote(arg: &[u8]) -> Vec<u8> {
        let mut out = vec![b'"'];
        for &byte in arg {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
        out
    }

    proptest! {
        #[test]
        fn quoted_arguments_come_back(args: Vec<Vec<u8>>) {
            let content: Vec<u8> = args.iter().flat_map(|arg| [quote(arg), vec![b'\n']].concat()).collect();
            match split(&content) {
                Ok(split) => prop_assert_eq!(split, args),
                Err(_) => prop_assert!(content.iter().any(|b| matches!(b, 0 | b'\x0b' | b'\x0c'))),
            }
        }

        #[test]
        fn splitting_never_panics(content: Vec<u8>) {
            let _ = split(&content);
        }
    }
}
