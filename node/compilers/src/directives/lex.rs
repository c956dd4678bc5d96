//! The lexer under [`super::scan`]: one pass over text whose line splices are gone.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter, memmem};

use super::{Directives, Form, Include, IncludeKind};

/// Removes backslash-newline, as compilers do first. Blanks between the two count too, as in gcc and clang.
pub(super) fn splice(content: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    for at in memchr_iter(b'\\', content) {
        if at < copied {
            continue;
        }
        let blanks = content[at + 1..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
        if content.get(at + 1 + blanks) == Some(&b'\n') {
            out.get_or_insert_with(|| Vec::with_capacity(content.len()))
                .extend_from_slice(&content[copied..at]);
            copied = at + blanks + 2;
        }
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&content[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(content),
    }
}

pub(super) fn has_trigraphs(content: &[u8]) -> bool {
    let third = |at: usize| content.get(at + 2).is_some_and(|byte| b"=/'()!<>-".contains(byte));
    memmem::find_iter(content, b"??")
        .any(|at| third(at) || (content.get(at + 2) == Some(&b'?') && third(at + 1)))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c')
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// The bytes at which the lexer must look up, by value. Most words are passed over: which of the rare words
/// occur at all is asked of the whole text first, and only then are their first letters marked.
fn stops(text: &[u8]) -> [bool; 256] {
    let occurs = |word: &[u8]| memmem::find(text, word).is_some();
    let underscored = [b"__DATE__".as_slice(), b"__TIME", b"__has_include", b"__has_embed", b"_Pragma"];
    let mut stops = [false; 256];
    for byte in *b"\n/\"'" {
        stops[usize::from(byte)] = true;
    }
    stops[usize::from(b'_')] = underscored.into_iter().any(occurs);
    stops[usize::from(b'.')] = occurs(b".include");
    stops[usize::from(b'@')] = occurs(b"@import");
    let incbin = holds(text, b"incbin");
    stops[usize::from(b'i')] = incbin;
    stops[usize::from(b'I')] = incbin;
    stops
}

/// Whether a `##` joins two words to one that holds `incbin`. Comments and strings count too.
fn pastes_incbin(text: &[u8]) -> bool {
    memmem::find_iter(text, b"##").any(|at| {
        let left = text[..at].trim_ascii_end();
        let right = text[at + 2..].trim_ascii_start();
        let left = &left[word_start(left, left.len())..];
        let length = right.iter().position(|&byte| !continues_word(byte)).unwrap_or(right.len());
        holds(&[left, &right[..length]].concat(), b"incbin")
    })
}

/// Where the word that ends at `end` begins.
fn word_start(text: &[u8], end: usize) -> usize {
    text[..end].iter().rposition(|&byte| !continues_word(byte)).map_or(0, |before| before + 1)
}

pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    stops: [bool; 256],
    /// The text of adjacent string literals so far, and where the last of them, or a comment after it, ends.
    strings: Strings,
    strings_end: usize,
    endless_raw_strings: u32,
    pub(super) found: Directives,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Lexer {
            text,
            at: 0,
            stops: stops(text),
            strings: Strings::default(),
            strings_end: 0,
            endless_raw_strings: 0,
            found: Directives::default(),
        }
    }

    pub(super) fn run(&mut self) {
        self.found.incbin = pastes_incbin(self.text);
        self.line_start();
        while let Some(ahead) = self.rest().iter().position(|&byte| self.stops[usize::from(byte)]) {
            self.at += ahead;
            let byte = self.text[self.at];
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.line_start();
                }
                b'/' if self.comment() => {}
                b'"' => self.string(),
                b'\'' => self.apostrophe(),
                b'_' | b'i' | b'I' if self.begins_word() => self.word(),
                b'.' => self.dot(),
                b'@' if self.rest().starts_with(b"@import") => {
                    self.found.module_import = true;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
        self.strings.end(&mut self.found);
    }

    /// After a newline: a directive, a module declaration, or nothing.
    fn line_start(&mut self) {
        loop {
            self.skip_blanks();
            match self.rest() {
                [b'\n', ..] => self.at += 1,
                [b'#', ..] => {
                    self.at += 1;
                    return self.directive();
                }
                [b'%', b':', ..] => {
                    self.at += 2;
                    return self.directive();
                }
                [b'i' | b'e' | b'm', ..] => return self.module_line(),
                _ => return,
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn begins_word(&self) -> bool {
        self.at == 0 || !continues_word(self.text[self.at - 1])
    }

    /// Skips a comment, if one begins here.
    fn comment(&mut self) -> bool {
        let rest = self.rest();
        let length = match rest.get(1) {
            Some(b'*') => memmem::find(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4),
            // The newline stays, to end the line.
            Some(b'/') => memchr(b'\n', rest).unwrap_or(rest.len()),
            _ => return false,
        };
        let continues = self.strings.open && self.only_blanks_since_string();
        self.at += length;
        if continues {
            self.strings_end = self.at;
        }
        true
    }

    fn only_blanks_since_string(&self) -> bool {
        self.text[self.strings_end..self.at].iter().all(|&byte| is_blank(byte) || byte == b'\n')
    }

    fn skip_blanks(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                byte if is_blank(byte) => self.at += 1,
                b'/' if self.comment() => {}
                _ => return,
            }
        }
    }

    fn take_word(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !continues_word(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn word(&mut self) {
        match self.take_word() {
            b"__DATE__" | b"__TIME__" | b"__TIMESTAMP__" => self.found.time_macros = true,
            b"__has_include" | b"__has_include__" => self.probe(IncludeKind::HasInclude),
            b"__has_include_next" | b"__has_include_next__" => self.probe(IncludeKind::HasIncludeNext),
            b"__has_embed" => {
                self.found.embed = true;
                self.probe(IncludeKind::Embed);
            }
            b"_Pragma" => self.pragma_operator(),
            word => self.found.incbin |= word.eq_ignore_ascii_case(b"incbin"),
        }
    }

    /// After `__has_include`: only a parenthesis makes it a probe.
    fn probe(&mut self, kind: IncludeKind) {
        self.skip_blanks();
        if self.text.get(self.at) != Some(&b'(') {
            return;
        }
        self.at += 1;
        self.skip_blanks();
        match self.header_name() {
            Some((form, name)) => self.found.includes.push(Include { kind, form, name }),
            None => self.found.computed_probe = true,
        }
    }

    /// Takes `"name"` or `<name>` on this line; takes nothing if there is none.
    fn header_name(&mut self) -> Option<(Form, Vec<u8>)> {
        let rest = self.rest();
        let (form, close) = match rest.first()? {
            b'"' => (Form::Quote, b'"'),
            b'<' => (Form::Angle, b'>'),
            _ => return None,
        };
        let end = memchr2(close, b'\n', &rest[1..]).filter(|&end| rest[1 + end] == close)?;
        self.at += end + 2;
        Some((form, rest[1..=end].to_vec()))
    }

    fn dot(&mut self) {
        self.at += 1;
        if let Some(after) = self.rest().strip_prefix(b"include") {
            let next = after.iter().find(|byte| !is_blank(**byte));
            self.found.assembler_include |= next == Some(&b'"');
        }
    }

    /// A character literal, or a separator of digits, as in `1'000`.
    fn apostrophe(&mut self) {
        let number = |byte: &u8| continues_word(*byte) || matches!(byte, b'.' | b'\'');
        let near = &self.text[self.at.saturating_sub(NUMBER_MAX)..self.at];
        let length = near.iter().rev().take_while(|byte| number(byte)).count();
        let start = self.at - length;
        let in_number = self.text[start].is_ascii_digit();
        if in_number && self.text.get(self.at + 1).is_some_and(|&next| continues_word(next)) {
            self.at += 1;
        } else {
            self.take_literal();
        }
    }

    fn directive(&mut self) {
        self.skip_blanks();
        if self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.line_file();
            return;
        }
        match self.take_word() {
            b"include" => self.include(IncludeKind::Include),
            b"include_next" => self.include(IncludeKind::IncludeNext),
            b"import" => self.include(IncludeKind::Import),
            b"embed" => {
                self.found.embed = true;
                self.include(IncludeKind::Embed);
            }
            b"line" => {
                self.skip_blanks();
                self.line_file();
            }
            b"pragma" => {
                self.skip_blanks();
                let line = self.rest();
                self.pragma(&line[..memchr(b'\n', line).unwrap_or(line.len())]);
            }
            // The macro's name is none of the words looked for, and its body is scanned as any text.
            _ => {}
        }
    }

    fn include(&mut self, kind: IncludeKind) {
        self.skip_blanks();
        match self.header_name() {
            Some((form, name)) => self.found.includes.push(Include { kind, form, name }),
            None => self.found.computed_include = true,
        }
    }

    /// At the number of a `#line` or linemarker.
    fn line_file(&mut self) {
        self.take_word();
        self.skip_blanks();
        if let Some((Form::Quote, name)) = self.header_name() {
            self.found.line_files.push(name);
        }
    }

    fn pragma(&mut self, text: &[u8]) {
        let mut words = text.split(|&byte| !continues_word(byte)).filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some(b"GCC"), Some(b"dependency")) => self.found.pragma_dependency = true,
            (Some(b"GCC"), Some(b"pch_preprocess")) | (Some(b"hdrstop"), _) => self.found.pragma_pch = true,
            (Some(b"clang"), Some(b"module")) => self.found.modules = true,
            _ => {}
        }
    }

    /// `_Pragma("text")`.
    fn pragma_operator(&mut self) {
        self.skip_blanks();
        if self.text.get(self.at) != Some(&b'(') {
            return;
        }
        self.at += 1;
        self.skip_blanks();
        if self.text.get(self.at) == Some(&b'"') {
            let literal = self.take_literal();
            self.pragma(literal);
        }
    }

    /// `import`, `module` or `export` at the start of a line, in the forms C++20 gives them.
    fn module_line(&mut self) {
        let rest = self.rest();
        let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
        let keyword =
            [b"import".as_slice(), b"module", b"export"].into_iter().find(|word| line.starts_with(word));
        let Some(word) = keyword else {
            return;
        };
        let line = &line[word.len()..];
        if line.first().is_some_and(|&byte| continues_word(byte)) {
            return;
        }
        let (word, line) = match word {
            b"export" => {
                let line = line.trim_ascii_start();
                let end = line.iter().position(|&byte| !continues_word(byte)).unwrap_or(line.len());
                line.split_at(end)
            }
            word => (word, line),
        };
        let line = line.trim_ascii_start();
        let names = line.iter().take_while(|&&byte| continues_word(byte) || b".: \t".contains(&byte)).count();
        let ends = matches!(line.get(names), Some(b';' | b'['));
        self.found.modules |= match word {
            b"import" => matches!(line.first(), Some(b'<' | b'"')) || (names > 0 && ends),
            b"module" => ends && two_words(&line[..names]).is_none(),
            _ => false,
        };
    }

    /// A string literal: its text counts together with that of adjacent ones.
    fn string(&mut self) {
        if self.strings.open && !self.only_blanks_since_string() {
            self.strings.end(&mut self.found);
        }
        let prefix = &self.text[word_start(self.text, self.at)..self.at];
        let raw = matches!(prefix, b"R" | b"LR" | b"uR" | b"UR" | b"u8R");
        let content = if raw { self.take_raw_string() } else { None };
        let content = content.map_or_else(|| unescaped(self.take_literal()), Cow::Borrowed);
        self.strings.add(&content);
        self.strings_end = self.at;
    }

    /// Takes a string or character literal, which ends with its line if nothing else ends it.
    fn take_literal(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let quote = rest[0];
        let mut end = 1;
        loop {
            match rest.get(end) {
                None | Some(b'\n') => {
                    self.at += end;
                    return &rest[1..end];
                }
                // A newline after a backslash was a splice.
                Some(b'\\') => end = (end + 2).min(rest.len()),
                Some(&byte) if byte == quote => {
                    self.at += end + 1;
                    return &rest[1..end];
                }
                Some(_) => end += 1,
            }
        }
    }

    /// At the quote after an `R`. What has no end is no raw string, but C from before they were.
    fn take_raw_string(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest();
        let open = rest.iter().take(RAW_DELIMITER_MAX + 2).position(|&byte| byte == b'(')?;
        let close = [b")", &rest[1..open], b"\""].concat();
        let body = &rest[open + 1..];
        if self.endless_raw_strings == ENDLESS_RAW_STRINGS_MAX {
            return None;
        }
        let Some(end) = memmem::find(body, &close) else {
            self.endless_raw_strings += 1;
            return None;
        };
        self.at += open + 1 + end + close.len();
        Some(&body[..end])
    }
}

/// How far back a digit separator looks for the start of its number, in bytes: 64 binary digits, each with
/// a separator, and the prefix. Without a limit a line of nothing else would cost its length squared.
const NUMBER_MAX: usize = 130;
/// After so many raw strings without an end, the text is taken to know none: each costs a search of the rest.
const ENDLESS_RAW_STRINGS_MAX: u32 = 64;
/// The longest delimiter the language allows, in bytes.
const RAW_DELIMITER_MAX: usize = 16;

/// The text of adjacent literals. What spans two of them is at most [`Strings::LONGEST`] long on either side.
#[derive(Default)]
struct Strings {
    /// The end of what came before, and whether there was any.
    tail: Vec<u8>,
    open: bool,
    incbin: bool,
    include: bool,
}

impl Strings {
    const LONGEST: usize = b".include".len();

    fn add(&mut self, literal: &[u8]) {
        if self.open && !self.tail.is_empty() {
            let head = &literal[..literal.len().min(Self::LONGEST)];
            let seam = [&self.tail, head].concat();
            self.look(&seam);
        }
        self.look(literal);
        let keep = literal.len().min(Self::LONGEST);
        // Added to what is there, so that words in three pieces are found.
        self.tail.extend_from_slice(&literal[literal.len() - keep..]);
        self.tail.drain(..self.tail.len().saturating_sub(Self::LONGEST));
        self.open = true;
    }

    fn look(&mut self, text: &[u8]) {
        self.incbin |= holds(text, b"incbin");
        self.include |= holds(text, b".include");
    }

    fn end(&mut self, found: &mut Directives) {
        if self.open {
            found.incbin |= self.incbin;
            found.assembler_include |= self.include;
            *self = Strings::default();
        }
    }
}

/// A literal with what its numeric escapes stand for in their place: so the assembler gets it.
fn unescaped(literal: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', literal).is_none() {
        return Cow::Borrowed(literal);
    }
    let mut plain = Vec::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let (digits, radix, most) = match rest {
            [b'x', digits @ ..] => (digits, 16, digits.len()),
            [b'u', digits @ ..] => (digits, 16, 4),
            [b'U', digits @ ..] => (digits, 16, 8),
            digits => (digits, 8, 3),
        };
        let digit = |byte: &u8| u8::try_from(char::from(*byte).to_digit(radix)?).ok();
        let values: Vec<u8> = digits.iter().take(most).map_while(digit).collect();
        if values.is_empty() {
            // Another escape, of one character, which may be a backslash.
            let length = rest.len().min(1);
            plain.push(b'\\');
            plain.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
        } else {
            let base = if radix == 8 { 8 } else { 16_u8 };
            plain.push(values.iter().fold(0, |sum: u8, value| sum.wrapping_mul(base).wrapping_add(*value)));
            rest = &digits[values.len()..];
        }
    }
    plain.extend_from_slice(rest);
    Cow::Owned(plain)
}

/// Whether `text` holds `word`, in any case of letters: assemblers take their directives so.
fn holds(text: &[u8], word: &[u8]) -> bool {
    // The letter looked for first: rarer in strings than those before it.
    const ANCHOR: usize = 3;
    let Some(ahead) = text.get(ANCHOR..) else {
        return false;
    };
    memchr2_iter(word[ANCHOR], word[ANCHOR].to_ascii_uppercase(), ahead)
        .any(|at| text[at..].get(..word.len()).is_some_and(|window| window.eq_ignore_ascii_case(word)))
}

/// The second of two words with only blanks between them, as in `module foo`'s C meaning `type name`.
fn two_words(text: &[u8]) -> Option<&[u8]> {
    let mut words = text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let first = words.next()?;
    let second = words.next()?;
    (!first.ends_with(b":") && !first.ends_with(b".") && !second.starts_with(b":")).then_some(second)
}
