//! From contents to directives: splices, comments and literals as compilers read them.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memmem};

use crate::{
    lex::{Kind, Lexed, Lexer, continues_name, is_blank},
    text::{Body, Builder, Line, Odd, Test, Way, What},
};

pub(crate) fn parse(contents: &[u8]) -> Body {
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    let spliced = splice(contents);
    let mut parser = Parser {
        lexer: Lexer::new(&spliced.text),
        builder: Builder::default(),
        splices: &spliced.at,
        line: 1,
        counted: 0,
        passed: 0,
        code: Code::default(),
        endless_raw_strings: 0,
        separated: 0,
    };
    parser.run();
    let mut body = parser.finish();
    body.odd.starred_comments = memmem::find(contents, b"//*").is_some();
    body.odd.line_comments = has_telling_line_comments(contents);
    body.odd.trigraphs = has_telling_trigraphs(contents);
    body.odd.carriage_returns = has_lone_return(contents);
    body
}

struct Spliced<'a> {
    text: Cow<'a, [u8]>,
    /// Where in `text` a newline was taken out.
    at: Vec<usize>,
}

/// Removes backslash-newline. Blanks between the two count too, as in gcc and clang.
fn splice(contents: &[u8]) -> Spliced<'_> {
    let (mut out, mut at, mut copied) = (Vec::new(), Vec::new(), 0);
    for backslash in memchr_iter(b'\\', contents) {
        if backslash < copied {
            continue;
        }
        let after = &contents[backslash + 1..];
        let blanks = after.iter().take_while(|&&byte| byte != b'\n' && is_blank(byte)).count();
        if after.get(blanks) == Some(&b'\n') {
            out.extend_from_slice(&contents[copied..backslash]);
            at.push(out.len());
            copied = backslash + blanks + 2;
        }
    }
    if at.is_empty() {
        return Spliced { text: Cow::Borrowed(contents), at };
    }
    out.extend_from_slice(&contents[copied..]);
    Spliced { text: Cow::Owned(out), at }
}

/// Trigraphs that spell a splice, a directive or a quote. The others matter in directives alone, where no one
/// writes them; they are counted too.
fn has_telling_trigraphs(contents: &[u8]) -> bool {
    memmem::find_iter(contents, b"??").any(|at| {
        let third = |at: usize| contents.get(at + 2).is_some_and(|byte| b"=/'".contains(byte));
        third(at) || (contents.get(at + 2) == Some(&b'?') && third(at + 1))
    })
}

/// Line comments that mean something else where there are none: what begins a comment in them would.
fn has_telling_line_comments(contents: &[u8]) -> bool {
    let mut passed = 0;
    memmem::find_iter(contents, b"//").any(|at| {
        // The first one of a line reaches as far as all others.
        if at < passed {
            return false;
        }
        let line = &contents[at + 1..];
        let line = &line[..memchr(b'\n', line).unwrap_or(line.len())];
        passed = at + 1 + line.len();
        memmem::find(line, b"/*").is_some()
    })
}

fn has_lone_return(contents: &[u8]) -> bool {
    memchr_iter(b'\r', contents).any(|at| !matches!(contents.get(at + 1), Some(b'\n' | b'\r')))
}

/// Where text other than directives stands, for finding a guard: how many directives came before.
#[derive(Default)]
struct Code {
    first: Option<usize>,
    last: Option<usize>,
}

struct Parser<'a, 's> {
    lexer: Lexer<'a>,
    builder: Builder<'a>,
    splices: &'s [usize],
    /// The line at `counted`, and how many splices lie before it.
    line: u32,
    counted: usize,
    passed: usize,
    code: Code,
    endless_raw_strings: u32,
    /// The end of the last line in which a digit separator was.
    separated: usize,
}

/// After so many raw strings without an end, the text is taken to know none: each costs a search of the rest.
const ENDLESS_RAW_STRINGS_MAX: u32 = 64;

impl<'a> Parser<'a, '_> {
    fn run(&mut self) {
        while self.lexer.at < self.lexer.text.len() {
            self.lexer.blanks();
            match self.lexer.rest() {
                [b'\n', ..] => self.lexer.at += 1,
                [] => {}
                [b'#', b'#', ..] => self.code(),
                [b'#', ..] => self.directive(1),
                [b'%', b':', ..] => self.directive(2),
                _ => self.code(),
            }
        }
    }

    fn finish(mut self) -> Body {
        let lines = &self.builder.body.lines;
        let guard = if self.code.first == Some(0) || self.code.last == Some(lines.len()) {
            None
        } else {
            guard(&self.builder.body)
        };
        self.builder.body.guard = guard;
        self.builder.body.odd.unbalanced = !is_balanced(&self.builder.body.lines);
        self.builder.body
    }

    fn odd(&mut self) -> &mut Odd {
        &mut self.builder.body.odd
    }

    /// Passes over the rest of a line that is no directive.
    fn code(&mut self) {
        let directives = self.builder.body.lines.len();
        self.code.first.get_or_insert(directives);
        self.code.last = Some(directives);
        self.pass_line();
    }

    fn pass_line(&mut self) {
        let stop = |byte: &u8| matches!(byte, b'\n' | b'/' | b'"' | b'\'' | b'_' | b'p' | b'o');
        while let Some(ahead) = self.lexer.rest().iter().position(stop) {
            self.lexer.at += ahead;
            match self.lexer.rest()[0] {
                b'\n' => {
                    self.lexer.at += 1;
                    return;
                }
                b'/' if self.lexer.comment() => {}
                b'"' => self.string(),
                b'\'' => self.apostrophe(),
                b'_' | b'p' | b'o' if self.begins_name() => self.name(),
                _ => self.lexer.at += 1,
            }
        }
        self.lexer.at = self.lexer.text.len();
    }

    fn begins_name(&self) -> bool {
        self.lexer.at == 0 || !continues_name(self.lexer.text[self.lexer.at - 1])
    }

    /// The name that ends here.
    fn name_before(&self) -> &'a [u8] {
        let before = &self.lexer.text[..self.lexer.at];
        let near = &before[before.len().saturating_sub(NUMBER_MAX)..];
        let length = near.iter().rev().take_while(|&&byte| continues_name(byte)).count();
        &before[before.len() - length..]
    }

    fn string(&mut self) {
        let raw = matches!(self.name_before(), b"R" | b"LR" | b"uR" | b"UR" | b"u8R");
        let start = self.lexer.at;
        if raw && self.endless_raw_strings < ENDLESS_RAW_STRINGS_MAX {
            if self.lexer.raw_string() {
                let inside = &self.lexer.text[start + 1..self.lexer.at - 1];
                self.odd().raw_strings |= inside.iter().any(|byte| b"\n\"\\".contains(byte));
                return;
            }
            self.endless_raw_strings += 1;
        }
        self.lexer.literal();
        self.hidden_pragma(start);
    }

    /// Whether the literal that began at `start` tells of a pragma that a macro may make of it.
    fn hidden_pragma(&mut self, start: usize) {
        let literal = &self.lexer.text[start..self.lexer.at];
        // Other texts speak of `once`.
        if names_pragma(literal) && memmem::find(literal, b"_macro").is_some() {
            self.odd().hidden_pragmas = true;
        }
    }

    /// A character constant, or a separator of digits.
    fn apostrophe(&mut self) {
        let text = self.lexer.text;
        let number = |byte: &&u8| continues_name(**byte) || matches!(byte, b'.' | b'\'');
        let near = &text[self.lexer.at.saturating_sub(NUMBER_MAX)..self.lexer.at];
        let length = near.iter().rev().take_while(number).count();
        let in_number = length > 0 && text[self.lexer.at - length].is_ascii_digit();
        if in_number && text.get(self.lexer.at + 1).is_some_and(|&next| continues_name(next)) {
            self.separator();
            self.lexer.at += 1;
        } else {
            self.lexer.literal();
        }
    }

    /// The first one of a line reaches as far as all others.
    fn separator(&mut self) {
        if self.lexer.at < self.separated {
            return;
        }
        let line = self.lexer.rest();
        let line = &line[..memchr(b'\n', line).unwrap_or(line.len())];
        self.separated = self.lexer.at + line.len();
        self.odd().separators |= memmem::find(line, b"/*").is_some();
    }

    fn name(&mut self) {
        let rest = self.lexer.rest();
        let length = rest.iter().position(|&byte| !continues_name(byte)).unwrap_or(rest.len());
        self.lexer.at += length;
        match &rest[..length] {
            b"_Pragma" => self.pragma_operator(),
            b"push_macro" | b"pop_macro" => self.odd().hidden_pragmas = true,
            b"once" if self.is_sole_argument(length) => self.odd().hidden_pragmas = true,
            _ => {}
        }
    }

    /// Whether the word of this length just read stands alone in parentheses: a macro may make a pragma of it.
    fn is_sole_argument(&self, length: usize) -> bool {
        let (before, after) = (&self.lexer.text[..self.lexer.at - length], self.lexer.rest());
        before.trim_ascii_end().ends_with(b"(") && after.trim_ascii_start().starts_with(b")")
    }

    /// After `_Pragma`.
    fn pragma_operator(&mut self) {
        let number = self.line_number();
        let start = self.lexer.at;
        let token = |parser: &mut Self| {
            parser.lexer.token().map_or((Kind::Other, &b""[..]), |token| (token.kind, token.text))
        };
        let (open, literal, close) = (token(self), token(self), token(self));
        let plain = open.1 == b"(" && literal.0 == Kind::String && close.1 == b")";
        if !plain {
            // It may go on in the next line.
            self.odd().hidden_pragmas = true;
            self.lexer.at = start;
            return;
        }
        if names_pragma(literal.1) && self.is_in_parentheses(start) {
            // Whether the macro whose argument this may be uses it, and how often, is not known.
            self.odd().hidden_pragmas = true;
        } else if let Some(what) = pragma_text(literal.1, &mut self.builder) {
            self.builder.body.lines.push(Line { number, what });
        } else if names_pragma(literal.1) {
            self.odd().hidden_pragmas = true;
        }
    }

    /// Whether more parentheses are opened than closed before `at`; comments and literals count, too.
    fn is_in_parentheses(&self, at: usize) -> bool {
        let before = &self.lexer.text[..at];
        memchr_iter(b'(', before).count() != memchr_iter(b')', before).count()
    }

    fn line_number(&mut self) -> u32 {
        let at = self.lexer.at;
        self.line += memchr_iter(b'\n', &self.lexer.text[self.counted..at]).count() as u32;
        self.counted = at;
        while self.splices.get(self.passed).is_some_and(|&splice| splice <= at) {
            self.passed += 1;
        }
        self.line + self.passed as u32
    }

    /// At a directive, whose `#` is `mark` bytes long.
    fn directive(&mut self, mark: usize) {
        let number = self.line_number();
        self.odd().digraphs |= mark == 2;
        self.lexer.at += mark;
        let start = self.lexer.at;
        let Some(name) = self.lexer.token() else {
            return;
        };
        let what = match name.text {
            b"include" => self.include(Way::Include),
            b"include_next" => self.include(Way::Next),
            b"import" => self.include(Way::Import),
            b"embed" => self.include(Way::Embed),
            b"define" => self.define(),
            b"undef" => self.one_name().map_or(What::Malformed, What::Undefine),
            b"if" => What::If(self.expression()),
            b"ifdef" => What::If(self.one_name().map_or(Test::Malformed, Test::Defined)),
            b"ifndef" => What::If(self.one_name().map_or(Test::Malformed, Test::Undefined)),
            b"elif" => What::Elif { test: self.expression(), new: false },
            b"elifdef" => {
                What::Elif { test: self.one_name().map_or(Test::Malformed, Test::Defined), new: true }
            }
            b"elifndef" => {
                What::Elif { test: self.one_name().map_or(Test::Malformed, Test::Undefined), new: true }
            }
            b"else" => What::Else,
            b"endif" => What::Endif,
            b"error" => What::Error,
            b"pragma" => match self.pragma() {
                Some(what) => what,
                None => return,
            },
            b"line" => {
                self.odd().renumbered = true;
                return self.pass_line();
            }
            _ if name.kind == Kind::Number => {
                self.odd().renumbered = true;
                return self.pass_line();
            }
            _ => {
                // In assembler a comment; else refused, or of no concern.
                self.lexer.at = start;
                return self.pass_line();
            }
        };
        self.builder.body.lines.push(Line { number, what });
        if matches!(what, What::If(_) | What::Elif { .. } | What::Computed { .. }) {
            let end = self.line_number();
            self.odd().long_lines |= end != number;
        }
        self.pass_line();
    }

    /// The tokens up to the end of the line.
    fn tokens(&mut self) -> Vec<Lexed<'a>> {
        let mut tokens = Vec::new();
        while let Some(token) = self.lexer.token() {
            tokens.push(token);
        }
        tokens
    }

    fn one_name(&mut self) -> Option<u32> {
        let token = self.lexer.token()?;
        self.odd().dollars |= token.text.contains(&b'$');
        (token.kind == Kind::Name).then(|| self.builder.spelling(token.text))
    }

    fn include(&mut self, way: Way) -> What {
        self.lexer.blanks();
        if let Some(header) = self.lexer.header() {
            return self.plain(way, true, header.text);
        }
        let rest = self.lexer.rest();
        if rest.first() == Some(&b'"') {
            let line = &rest[1..];
            let end = memchr::memchr2(b'"', b'\n', line).filter(|&end| line[end] == b'"');
            let Some(end) = end else {
                return What::Malformed;
            };
            self.lexer.at += end + 2;
            return self.plain(way, false, &rest[..end + 2]);
        }
        let tokens = self.tokens();
        What::Computed { way, tokens: self.builder.words(&tokens) }
    }

    fn plain(&mut self, way: Way, angle: bool, quoted: &'a [u8]) -> What {
        // What follows the name is ignored with a warning, except after `#embed`.
        if way == Way::Embed && !self.tokens().is_empty() {
            return What::Malformed;
        }
        match &quoted[1..quoted.len() - 1] {
            [] => What::Malformed,
            name => What::Include { way, angle, name: self.builder.spelling(name) },
        }
    }

    fn define(&mut self) -> What {
        let Some(name) = self.one_name() else {
            return What::Malformed;
        };
        let tokens = self.tokens();
        if tokens.iter().any(|token| token.text == b"_Pragma")
            && tokens.iter().any(|token| names_pragma(token.text))
        {
            self.odd().hidden_pragmas = true;
        }
        What::Define { name, tokens: self.builder.words(&tokens) }
    }

    /// The tokens of an `#if`, in which `__has_include` takes a name in angle brackets.
    fn expression(&mut self) -> Test {
        let mut tokens: Vec<Lexed<'a>> = Vec::new();
        loop {
            if let [.., probe, open] = tokens.as_slice()
                && open.text == b"("
                && takes_header(probe.text)
                && let Some(header) = self.lexer.header()
            {
                tokens.push(header);
                continue;
            }
            match self.lexer.token() {
                Some(token) => tokens.push(token),
                None => break,
            }
        }
        Test::If(self.builder.words(&tokens))
    }

    fn pragma(&mut self) -> Option<What> {
        let tokens = self.tokens();
        let texts: Vec<&[u8]> = tokens.iter().map(|token| token.text).collect();
        match texts.as_slice() {
            [b"once", ..] => Some(What::Once),
            [b"push_macro", b"(", name, b")", ..] => Some(self.stacked(name, What::Push)),
            [b"pop_macro", b"(", name, b")", ..] => Some(self.stacked(name, What::Pop)),
            [b"push_macro" | b"pop_macro" | b"include_alias", ..] => Some(What::Malformed),
            _ => None,
        }
    }

    fn stacked(&mut self, quoted: &'a [u8], what: fn(u32) -> What) -> What {
        match unquoted(quoted) {
            Some(name) => what(self.builder.spelling(name)),
            None => What::Malformed,
        }
    }
}

/// How far back the start of a number or name is looked for, in bytes: 64 binary digits, each with a separator, and
/// the prefix. Without a limit a line of nothing else would cost its length squared.
const NUMBER_MAX: usize = 130;

pub(crate) fn takes_header(name: &[u8]) -> bool {
    matches!(
        name,
        b"__has_include"
            | b"__has_include_next"
            | b"__has_include__"
            | b"__has_include_next__"
            | b"__has_embed"
    )
}

/// Whether a text that may become a pragma speaks of one that changes what is read.
fn names_pragma(text: &[u8]) -> bool {
    let words: [&[u8]; 4] = [b"push_macro", b"pop_macro", b"once", b"include_alias"];
    words.iter().any(|word| memmem::find(text, word).is_some())
}

fn unquoted(quoted: &[u8]) -> Option<&[u8]> {
    quoted.strip_prefix(b"\"")?.strip_suffix(b"\"").filter(|name| !name.is_empty())
}

/// What the text of a `_Pragma("…")` does, if that is of concern.
fn pragma_text<'a>(literal: &'a [u8], builder: &mut Builder<'a>) -> Option<What> {
    let text = unquoted(literal)?;
    if text.trim_ascii() == b"once" {
        return Some(What::Once);
    }
    let (what, rest) = match text.trim_ascii().strip_prefix(b"push_macro") {
        Some(rest) => (What::Push as fn(u32) -> What, rest),
        None => (What::Pop as fn(u32) -> What, text.trim_ascii().strip_prefix(b"pop_macro")?),
    };
    let rest = rest.trim_ascii().strip_prefix(b"(")?.strip_suffix(b")")?.trim_ascii();
    let name = rest.strip_prefix(b"\\\"")?.strip_suffix(b"\\\"")?;
    Some(what(builder.spelling(name)))
}

/// The macro of `#ifndef MACRO` … `#endif` around everything.
fn guard(body: &Body) -> Option<u32> {
    let (first, last) = (body.lines.first()?, body.lines.last()?);
    let name = match first.what {
        What::If(Test::Undefined(name)) => name,
        What::If(Test::If(span)) => {
            let words: Vec<&[u8]> =
                body.words(span).iter().map(|word| body.spelling(word.spelling)).collect();
            let at = match words.as_slice() {
                [b"!", b"defined", _] => 2,
                [b"!", b"defined", b"(", _, b")"] => 3,
                _ => return None,
            };
            let word = body.words(span)[at];
            (word.kind == Kind::Name).then_some(word.spelling)?
        }
        _ => return None,
    };
    (last.what == What::Endif).then_some(())?;
    let mut depth = 0;
    for line in &body.lines[..body.lines.len() - 1] {
        match line.what {
            What::If(_) => depth += 1,
            What::Endif => depth -= 1,
            What::Else | What::Elif { .. } if depth == 1 => return None,
            _ => {}
        }
        if depth == 0 {
            return None;
        }
    }
    (depth == 1).then_some(name)
}

/// Whether the groups match, and nothing follows an `#else` but its `#endif`.
fn is_balanced(lines: &[Line]) -> bool {
    let mut elses = Vec::new();
    for line in lines {
        let fits = match line.what {
            What::If(_) => {
                elses.push(false);
                true
            }
            What::Elif { .. } => elses.last() == Some(&false),
            What::Else => elses.last_mut().is_some_and(|seen| !std::mem::replace(seen, true)),
            What::Endif => elses.pop().is_some(),
            _ => true,
        };
        if !fits {
            return false;
        }
    }
    elses.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Squared, these would take minutes.
    #[test]
    fn hostile_text_takes_linear_time() {
        for unit in [
            "//",
            "// ",
            "1'1 ",
            "1'",
            "R\"x(",
            "\"\" /**/ ",
            "/*",
            "??/",
            "\\\n",
            "\r",
            "_Pragma(",
            "(once",
            "#if 1\n",
            "#define a a\n",
            "__has_include(",
            "'",
            "\"push_macro",
        ] {
            let _ = parse(unit.repeat(300_000).as_bytes());
        }
    }

    #[test]
    fn comments_in_the_rest_of_a_line() {
        let odd = |text: &str| {
            let odd = parse(text.as_bytes()).odd;
            (odd.line_comments, odd.separators)
        };
        assert_eq!(odd("// a // b\n/* c */ int x = 1'0; // d\n"), (false, false));
        assert_eq!(odd("// a // b /* c\n"), (true, false));
        assert_eq!(odd("// a\n// b // /* c\n"), (true, false));
        assert_eq!(odd("int x = 1'0 + 2'0; /* a */\n"), (false, true));
        assert_eq!(odd("int x = 1'0;\nint y = 1'0; /* a */\n"), (false, true));
    }
}
