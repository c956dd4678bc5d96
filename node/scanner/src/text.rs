//! The directives of one file.

use std::{collections::HashMap, ops::Range};

use barn_compilers::{
    Directives,
    directives::{Form, Include, IncludeKind},
};
use serde::{Deserialize, Serialize};

use crate::lex::{Kind, Lexed};

/// All that matters of one file's contents to a scan: its directives, and the words that make a list of includes
/// uncertain. Made once for every contents; nothing but the contents decides it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// What the plain text tells (`incbin`, `__TIME__`, modules …).
    pub flags: Directives,
    pub(crate) body: Body,
}

/// The directives, with their tokens in one list and spellings in another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) lines: Vec<Line>,
    pub(crate) tokens: Vec<Word>,
    /// The end of each spelling in `spelled`.
    pub(crate) ends: Vec<u32>,
    pub(crate) spelled: Vec<u8>,
    /// The spelling of the macro that guards the whole file.
    pub(crate) guard: Option<u32>,
    pub(crate) odd: Odd,
}

/// What makes a file hard to read without knowing more than its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Odd {
    /// A raw string that reads otherwise where the language has none.
    pub(crate) raw_strings: bool,
    /// A digit separator before a comment: where the language has none, the comment is in a literal.
    pub(crate) separators: bool,
    /// A trigraph that may change what is a directive.
    pub(crate) trigraphs: bool,
    /// A carriage return alone, which ends a line for some compilers only.
    pub(crate) carriage_returns: bool,
    /// `push_macro`, `pop_macro` or `(once)` where a macro may make a pragma of it.
    pub(crate) hidden_pragmas: bool,
    /// A line comment in which another comment begins: it does where the language has no line comments.
    pub(crate) line_comments: bool,
    /// `//*`, which begins that other comment.
    pub(crate) starred_comments: bool,
    /// A directive that begins with `%:`, which is none where the language has no digraphs.
    pub(crate) digraphs: bool,
    /// A condition or an include over several lines: compilers differ in what `__LINE__` is in it.
    pub(crate) long_lines: bool,
    /// A `$` in the name of a macro, where it stands by itself in assembler.
    pub(crate) dollars: bool,
    /// `#line` or a linemarker: `__LINE__` and `__FILE__` are not what they seem.
    pub(crate) renumbered: bool,
    /// The groups of `#if` do not match.
    pub(crate) unbalanced: bool,
}

/// A directive and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) number: u32,
    pub(crate) what: What,
}

/// A token: its spelling's number, and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Word {
    pub(crate) spelling: u32,
    pub(crate) kind: Kind,
    pub(crate) space: bool,
}

/// Tokens of a directive: from, to.
pub(crate) type Span = (u32, u32);

/// How a directive asks for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    Include,
    Next,
    Import,
    Embed,
}

/// The condition of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Test {
    /// `#if`: the expression.
    If(Span),
    /// `#ifdef`.
    Defined(u32),
    /// `#ifndef`.
    Undefined(u32),
    /// A condition no compiler takes.
    Malformed,
}

/// What a directive does. Numbers are spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Include {
        way: Way,
        angle: bool,
        name: u32,
    },
    Computed {
        way: Way,
        tokens: Span,
    },
    /// The tokens after the name, parameters included.
    Define {
        name: u32,
        tokens: Span,
    },
    Undefine(u32),
    If(Test),
    /// `#elif`, `#elifdef`, `#elifndef`; the latter two are `new`.
    Elif {
        test: Test,
        new: bool,
    },
    Else,
    Endif,
    Once,
    Push(u32),
    Pop(u32),
    /// `#error`.
    Error,
    /// A directive that compilers refuse, or that is not understood.
    Malformed,
}

impl Body {
    pub(crate) fn spelling(&self, number: u32) -> &[u8] {
        let range = self.spelling_range(number).unwrap_or(0..0);
        self.spelled.get(range).unwrap_or(&[])
    }

    fn spelling_range(&self, number: u32) -> Option<Range<usize>> {
        let at = number as usize;
        let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
        Some(start as usize..*self.ends.get(at)? as usize)
    }

    pub(crate) fn words(&self, span: Span) -> &[Word] {
        self.tokens.get(span.0 as usize..span.1 as usize).unwrap_or(&[])
    }

    /// Whether every number points at something, so that decoded bytes do no harm.
    fn is_whole(&self) -> bool {
        let spellings = self.ends.len() as u32;
        let ordered =
            self.ends.is_sorted() && self.ends.last().map_or(0, |&end| end as usize) <= self.spelled.len();
        let span = |span: Span| span.0 <= span.1 && span.1 as usize <= self.tokens.len();
        let test = |test: Test| match test {
            Test::If(tokens) => span(tokens),
            Test::Defined(name) | Test::Undefined(name) => name < spellings,
            Test::Malformed => true,
        };
        let line = |line: &Line| match line.what {
            What::Include { name, .. } | What::Undefine(name) | What::Push(name) | What::Pop(name) => {
                name < spellings
            }
            What::Computed { tokens, .. } => span(tokens),
            What::Define { name, tokens } => name < spellings && span(tokens),
            What::If(condition) | What::Elif { test: condition, .. } => test(condition),
            What::Else | What::Endif | What::Once | What::Error | What::Malformed => true,
        };
        ordered
            && self.guard.is_none_or(|name| name < spellings)
            && self.tokens.iter().all(|word| word.spelling < spellings)
            && self.lines.iter().all(line)
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
            + self.tokens.len() * size_of::<Word>()
            + self.ends.len() * size_of::<u32>()
            + self.spelled.len()
    }
}

/// Builds a [`Body`].
#[derive(Default)]
pub(crate) struct Builder<'a> {
    numbers: HashMap<&'a [u8], u32>,
    pub(crate) body: Body,
}

impl<'a> Builder<'a> {
    pub(crate) fn spelling(&mut self, text: &'a [u8]) -> u32 {
        let body = &mut self.body;
        *self.numbers.entry(text).or_insert_with(|| {
            body.spelled.extend_from_slice(text);
            body.ends.push(body.spelled.len() as u32);
            body.ends.len() as u32 - 1
        })
    }

    pub(crate) fn words(&mut self, tokens: &[Lexed<'a>]) -> Span {
        let start = self.body.tokens.len() as u32;
        for token in tokens {
            let word = Word { spelling: self.spelling(token.text), kind: token.kind, space: token.space };
            self.body.tokens.push(word);
        }
        (start, self.body.tokens.len() as u32)
    }
}

/// Changes whenever what is encoded changes.
const VERSION: u8 = 2;

/// [`Directives`] as they are encoded.
#[derive(Serialize, Deserialize)]
struct Flags {
    includes: Vec<(u8, bool, Vec<u8>)>,
    line_files: Vec<Vec<u8>>,
    bits: u16,
}

const KINDS: [IncludeKind; 6] = [
    IncludeKind::Include,
    IncludeKind::IncludeNext,
    IncludeKind::Import,
    IncludeKind::HasInclude,
    IncludeKind::HasIncludeNext,
    IncludeKind::Embed,
];

impl Text {
    /// Reads the contents of a file.
    pub fn parse(contents: &[u8]) -> Self {
        Self { flags: barn_compilers::scan(contents), body: crate::parse::parse(contents) }
    }

    /// The text as bytes, to be kept under the digest of the contents.
    pub fn encode(&self) -> Vec<u8> {
        let bytes =
            postcard::to_stdvec(&(pack(&self.flags), &self.body)).expect("plain data is always encoded");
        [&[VERSION], &check(&bytes)[..], &bytes].concat()
    }

    /// What [`Text::encode`] gave; `None` if it is of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(&[VERSION])?;
        let (sum, bytes) = bytes.split_first_chunk::<8>()?;
        if *sum != check(bytes) {
            return None;
        }
        let ((flags, body), rest) = postcard::take_from_bytes::<(Flags, Body)>(bytes).ok()?;
        (rest.is_empty() && body.is_whole()).then_some(())?;
        Some(Self { flags: unpack(flags)?, body })
    }

    /// Memory this takes, in bytes, about.
    pub fn bytes(&self) -> usize {
        let includes: usize = self.flags.includes.iter().map(|include| include.name.len() + 40).sum();
        size_of::<Self>() + self.body.bytes() + includes
    }
}

/// Finds damage, not malice: FNV-1a of 64 bits.
fn check(bytes: &[u8]) -> [u8; 8] {
    let step = |sum: u64, &byte: &u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).to_le_bytes()
}

/// The switches in the order in which they are encoded.
fn switches(flags: &mut Directives) -> [&mut bool; 10] {
    [
        &mut flags.computed_include,
        &mut flags.computed_probe,
        &mut flags.incbin,
        &mut flags.assembler_include,
        &mut flags.embed,
        &mut flags.time_macros,
        &mut flags.pragma_dependency,
        &mut flags.pragma_pch,
        &mut flags.modules,
        &mut flags.module_import,
    ]
}

const TRIGRAPHS: u16 = 1 << 15;

fn pack(flags: &Directives) -> Flags {
    let kind = |kind| KINDS.iter().position(|&known| known == kind).unwrap_or(0) as u8;
    let include = |include: &Include| (kind(include.kind), include.form == Form::Angle, include.name.clone());
    let mut copy = Directives { includes: Vec::new(), line_files: Vec::new(), ..flags.clone() };
    let mut bits = if flags.trigraphs { TRIGRAPHS } else { 0 };
    for (at, switch) in switches(&mut copy).into_iter().enumerate() {
        bits |= u16::from(*switch) << at;
    }
    Flags {
        includes: flags.includes.iter().map(include).collect(),
        line_files: flags.line_files.clone(),
        bits,
    }
}

fn unpack(flags: Flags) -> Option<Directives> {
    let include = |(kind, angle, name): (u8, bool, Vec<u8>)| {
        let form = if angle { Form::Angle } else { Form::Quote };
        Some(Include { kind: *KINDS.get(usize::from(kind))?, form, name })
    };
    let includes = flags.includes.into_iter().map(include).collect::<Option<_>>()?;
    let trigraphs = flags.bits & TRIGRAPHS != 0;
    let mut found = Directives { includes, line_files: flags.line_files, trigraphs, ..Directives::default() };
    for (at, switch) in switches(&mut found).into_iter().enumerate() {
        *switch = flags.bits & (1 << at) != 0;
    }
    Some(found)
}
