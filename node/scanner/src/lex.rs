//! Tokens of the preprocessor, from text whose line splices are gone.

use memchr::{memchr, memchr2, memmem};
use serde::{Deserialize, Serialize};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// An identifier or keyword.
    Name,
    /// A preprocessing number.
    Number,
    /// A character constant, with its quotes and prefix.
    Char,
    /// A string literal, with its quotes and prefix.
    String,
    /// `<name>` after `__has_include(`.
    Header,
    /// An operator or other punctuator.
    Punct,
    /// Anything else: a stray byte, or a quote without its partner and all that follows on the line.
    Other,
    /// A string literal that `#` made of a macro's argument.
    Made,
}

/// A token and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lexed<'a> {
    pub(crate) kind: Kind,
    /// Whether blanks or comments stand before it.
    pub(crate) space: bool,
    pub(crate) text: &'a [u8],
}

pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' | b'\0')
}

pub(crate) fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | 0x80..)
}

pub(crate) fn continues_name(byte: u8) -> bool {
    begins_name(byte) || byte.is_ascii_digit()
}

/// Longest first.
const PUNCTUATORS: &[&[u8]] = &[
    b"%:%:", b"...", b"<<=", b">>=", b"->*", b"<=>", b"##", b"&&", b"||", b"==", b"!=", b"<=", b">=", b"<<",
    b">>", b"->", b"++", b"--", b"+=", b"-=", b"*=", b"/=", b"%=", b"&=", b"|=", b"^=", b"::", b".*", b"%:",
    b"<:", b":>", b"<%", b"%>",
];

/// Reads tokens; a newline is none, and ends nothing but a line.
pub(crate) struct Lexer<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.text[self.at.min(self.text.len())..]
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips a comment, if one begins here. The newline after `//` stays.
    pub(crate) fn comment(&mut self) -> bool {
        let rest = self.rest();
        let length = match rest.get(..2) {
            Some(b"/*") => memmem::find(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4),
            Some(b"//") => memchr(b'\n', rest).unwrap_or(rest.len()),
            _ => return false,
        };
        self.at += length;
        true
    }

    /// Skips blanks and comments on this line; whether there were any.
    pub(crate) fn blanks(&mut self) -> bool {
        let start = self.at;
        while let Some(byte) = self.peek() {
            if is_blank(byte) {
                self.at += 1;
            } else if byte != b'/' || !self.comment() {
                break;
            }
        }
        self.at > start
    }

    /// The next token of this line.
    pub(crate) fn token(&mut self) -> Option<Lexed<'a>> {
        let space = self.blanks();
        let start = self.at;
        let first = self.peek().filter(|&byte| byte != b'\n')?;
        let second = self.text.get(start + 1).copied().unwrap_or(0);
        let kind = match first {
            b'"' | b'\'' => self.literal(),
            b'0'..=b'9' => self.number(),
            b'.' if second.is_ascii_digit() => self.number(),
            first if begins_name(first) => self.word(),
            _ => self.punctuator(),
        };
        Some(Lexed { kind, space, text: &self.text[start..self.at] })
    }

    /// `<name>` on this line, if one begins here.
    pub(crate) fn header(&mut self) -> Option<Lexed<'a>> {
        let space = self.blanks();
        let rest = self.rest();
        let end = (rest.first() == Some(&b'<')).then(|| memchr2(b'>', b'\n', rest))??;
        if rest[end] != b'>' {
            return None;
        }
        self.at += end + 1;
        Some(Lexed { kind: Kind::Header, space, text: &rest[..=end] })
    }

    fn word(&mut self) -> Kind {
        let start = self.at;
        let length = self.rest().iter().position(|&byte| !continues_name(byte));
        self.at = length.map_or(self.text.len(), |length| start + length);
        match (&self.text[start..self.at], self.peek()) {
            (b"R" | b"LR" | b"uR" | b"UR" | b"u8R", Some(b'"')) if self.raw_string() => Kind::String,
            (b"L" | b"u" | b"U" | b"u8", Some(b'"' | b'\'')) => self.literal(),
            _ => Kind::Name,
        }
    }

    fn number(&mut self) -> Kind {
        let mut before = 0;
        while let Some(byte) = self.peek() {
            let next = self.text.get(self.at + 1).copied().unwrap_or(0);
            let sign = matches!(byte, b'+' | b'-') && matches!(before, b'e' | b'E' | b'p' | b'P');
            let separator = byte == b'\'' && continues_name(next);
            if !(continues_name(byte) || byte == b'.' || sign || separator) {
                break;
            }
            before = byte;
            self.at += 1;
        }
        Kind::Number
    }

    fn punctuator(&mut self) -> Kind {
        let rest = self.rest();
        let known = PUNCTUATORS.iter().find(|punctuator| rest.starts_with(punctuator));
        self.at += known.map_or(1, |punctuator| punctuator.len());
        let single = b"()[]{}<>+-*/%^&|~!=,;:?.#".contains(&rest[0]);
        if known.is_some() || single { Kind::Punct } else { Kind::Other }
    }

    /// At the quote of a literal, which ends with its line if nothing else ends it.
    pub(crate) fn literal(&mut self) -> Kind {
        let quote = self.text[self.at];
        self.at += 1;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => return Kind::Other,
                b'\\' if self.text.get(self.at + 1).is_some_and(|&next| next != b'\n') => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return if quote == b'"' { Kind::String } else { Kind::Char };
                    }
                }
            }
        }
        Kind::Other
    }

    /// At the quote after an `R`: takes a raw string, if it has an end.
    pub(crate) fn raw_string(&mut self) -> bool {
        let rest = self.rest();
        let Some(open) = rest.iter().take(RAW_DELIMITER_MAX + 2).position(|&byte| byte == b'(') else {
            return false;
        };
        let close = [b")", &rest[1..open], b"\""].concat();
        let Some(end) = memmem::find(&rest[open + 1..], &close) else {
            return false;
        };
        self.at += open + 1 + end + close.len();
        true
    }
}

/// The longest delimiter the language allows, in bytes.
const RAW_DELIMITER_MAX: usize = 16;

/// All tokens of a text without newlines, as after `#define`.
pub(crate) fn tokens(text: &[u8]) -> Vec<Lexed<'_>> {
    let mut lexer = Lexer::new(text);
    std::iter::from_fn(|| lexer.token()).collect()
}
