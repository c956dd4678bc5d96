//! Directives made ready to run: spellings and definitions are numbers, groups know where they end.

use std::{ops::Range, sync::Arc};

use crate::{
    disk::File,
    lex::{Kind, tokens},
    names::{Numbered, Sym},
    text::{Body, Span, Test, Text, Way, What, Word},
};

/// A definition; [`NOTHING`] is none.
pub(crate) type Def = u32;
/// The definition of what is not defined.
pub(crate) const NOTHING: Def = 0;

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tok {
    pub(crate) sym: Sym,
    pub(crate) kind: Kind,
    pub(crate) space: bool,
    /// A name that is never to be expanded any more.
    pub(crate) painted: bool,
}

/// How a macro takes arguments beyond those it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rest {
    No,
    /// Its last parameter takes them: `...` or `name...`.
    Last,
}

/// A macro's definition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Macro {
    /// `None` for a macro without parentheses.
    pub(crate) params: Option<Box<[Sym]>>,
    pub(crate) rest: Rest,
    pub(crate) body: Box<[Tok]>,
}

/// The spellings the scanner itself looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) open: Sym,
    pub(crate) close: Sym,
    pub(crate) comma: Sym,
    pub(crate) hash: Sym,
    pub(crate) paste: Sym,
    pub(crate) dots: Sym,
    pub(crate) less: Sym,
    pub(crate) greater: Sym,
    pub(crate) defined: Sym,
    pub(crate) va_args: Sym,
    pub(crate) va_opt: Sym,
    pub(crate) empty: Sym,
    pub(crate) predef: Sym,
    pub(crate) predef_guard: Sym,
}

/// All that is numbered.
pub(crate) struct Tables {
    pub(crate) names: Numbered<[u8]>,
    pub(crate) macros: Numbered<Option<Macro>>,
    pub(crate) files: Numbered<File>,
    pub(crate) words: Words,
}

/// Too many names, macros or files for one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

impl Tables {
    pub(crate) fn new() -> Self {
        let names: Numbered<[u8]> = Numbered::new();
        let macros = Numbered::new();
        macros.add_owned(None, 0);
        let name = |text: &str| names.add(text.as_bytes(), text.len()).expect("the table is empty");
        let words = Words {
            open: name("("),
            close: name(")"),
            comma: name(","),
            hash: name("#"),
            paste: name("##"),
            dots: name("..."),
            less: name("<"),
            greater: name(">"),
            defined: name("defined"),
            va_args: name("__VA_ARGS__"),
            va_opt: name("__VA_OPT__"),
            empty: name(""),
            predef: name("stdc-predef.h"),
            predef_guard: name("_STDC_PREDEF_H"),
        };
        Self { names, macros, files: Numbered::new(), words }
    }

    pub(crate) fn name(&self, text: &[u8]) -> Result<Sym, Full> {
        self.names.add(text, text.len()).ok_or(Full)
    }

    pub(crate) fn file(&self, file: File) -> Result<u32, Full> {
        self.files.add_owned(file, size_of::<File>()).ok_or(Full)
    }

    pub(crate) fn add(&self, definition: Macro) -> Result<Def, Full> {
        let params = definition.params.as_ref().map_or(0, |params| params.len() * size_of::<Sym>());
        let bytes = size_of::<Macro>() + definition.body.len() * size_of::<Tok>() + params;
        self.macros.add_owned(Some(definition), bytes).ok_or(Full)
    }

    /// The definition of a number that is not [`NOTHING`].
    pub(crate) fn definition(&self, number: Def) -> &Macro {
        self.macros.get(number).as_ref().expect("only NOTHING has no definition")
    }

    /// Tokens of a text of one line.
    pub(crate) fn lex(&self, text: &[u8]) -> Result<Vec<Tok>, Full> {
        let token = |token: crate::lex::Lexed<'_>| {
            Ok(Tok {
                sym: self.name(canonical(token.text))?,
                kind: token.kind,
                space: token.space,
                painted: false,
            })
        };
        tokens(text).into_iter().map(token).collect()
    }

    /// The definition in tokens that follow a macro's name; the outer `None` is a full table, the inner one that no
    /// compiler takes.
    pub(crate) fn define(&self, tokens: &[Tok]) -> Result<Option<Def>, Full> {
        match self.parse_macro(tokens) {
            Some(definition) => self.add(definition).map(Some),
            None => Ok(None),
        }
    }

    fn parse_macro(&self, tokens: &[Tok]) -> Option<Macro> {
        let words = &self.words;
        let function = tokens.first().is_some_and(|first| first.sym == words.open && !first.space);
        let (params, rest, body) = if function {
            let close = tokens.iter().position(|token| token.sym == words.close)?;
            let (params, rest) = self.parse_params(&tokens[1..close])?;
            (Some(params), rest, &tokens[close + 1..])
        } else {
            (None, Rest::No, tokens)
        };
        let mut body: Box<[Tok]> = body.into();
        if let Some(first) = body.first_mut() {
            first.space = false;
        }
        let pastes = |token: Option<&Tok>| token.is_some_and(|token| token.sym == words.paste);
        (!pastes(body.first()) && !pastes(body.last())).then_some(Macro { params, rest, body })
    }

    fn parse_params(&self, tokens: &[Tok]) -> Option<(Box<[Sym]>, Rest)> {
        let words = &self.words;
        let mut params: Vec<Sym> = Vec::new();
        let mut rest = Rest::No;
        if tokens.is_empty() {
            return Some((Box::default(), rest));
        }
        for param in tokens.split(|token| token.sym == words.comma) {
            if rest == Rest::Last {
                return None;
            }
            let name = match param {
                [dots] if dots.sym == words.dots => {
                    rest = Rest::Last;
                    words.va_args
                }
                [name, dots] if name.kind == Kind::Name && dots.sym == words.dots => {
                    rest = Rest::Last;
                    name.sym
                }
                [name] if name.kind == Kind::Name => name.sym,
                _ => return None,
            };
            params.push(name);
        }
        Some((params.into(), rest))
    }
}

/// The usual spelling of a digraph.
fn canonical(text: &[u8]) -> &[u8] {
    match text {
        b"%:" => b"#",
        b"%:%:" => b"##",
        text => text,
    }
}

/// A condition.
#[derive(Clone, Debug)]
pub(crate) enum Cond {
    If(Range<u32>),
    Defined(Sym),
    Undefined(Sym),
    Malformed,
}

/// A directive, ready to run.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Include {
        way: Way,
        angle: bool,
        name: Sym,
    },
    Computed {
        way: Way,
        tokens: Range<u32>,
    },
    Define(Sym, Def),
    Undefine(Sym),
    /// Of an `#if`; on false, `next` is where the next branch begins.
    If {
        test: Cond,
        next: u32,
    },
    /// Of an `#elif`; `end` is the group's `#endif`, for whoever comes from the branch before.
    Elif {
        test: Cond,
        new: bool,
        next: u32,
        end: u32,
    },
    Else {
        end: u32,
    },
    Endif,
    Once,
    Push(Sym),
    Pop(Sym),
    Error,
    Malformed,
}

/// A text, ready to run.
pub(crate) struct Loaded {
    pub(crate) text: Arc<Text>,
    pub(crate) ops: Box<[Op]>,
    pub(crate) lines: Box<[u32]>,
    pub(crate) tokens: Box<[Tok]>,
    pub(crate) guard: Option<Sym>,
    /// Whether it may say that it is to be read once.
    pub(crate) once: bool,
    /// Whether running it costs no more than finding out what it did before.
    pub(crate) cheap: bool,
    /// Files probed by literal `__has_include`, wherever it stands: in quotes or not, and after this directory or not.
    pub(crate) probes: Box<[Probe]>,
    /// Questions to the compiler spelled out in the text.
    pub(crate) questions: Box<[Box<[u8]>]>,
}

/// Directives of a file that is always run again.
const CHEAP_MAX: usize = 12;

/// A literal `__has_include`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) name: Sym,
    pub(crate) angle: bool,
    pub(crate) next: bool,
}

impl Loaded {
    pub(crate) fn new(text: Arc<Text>, tables: &Tables) -> Result<Self, Full> {
        let loader = Loader::new(&text.body, tables)?;
        let tokens = loader.tokens();
        let mut ops = Vec::with_capacity(text.body.lines.len());
        for line in &text.body.lines {
            ops.push(loader.op(line.what, &tokens)?);
        }
        link(&mut ops);
        let guard = text.body.guard.map(|name| loader.syms[name as usize]);
        let once = ops.iter().any(|op| matches!(op, Op::Once));
        let includes = ops.iter().any(|op| matches!(op, Op::Include { .. } | Op::Computed { .. }));
        let cheap = !includes && ops.len() <= CHEAP_MAX;
        let lines = text.body.lines.iter().map(|line| line.number).collect();
        let probes = probes(&text, tables)?;
        let questions = crate::builtin::literal_questions(tables, &tokens);
        let (ops, tokens) = (ops.into(), tokens.into());
        Ok(Self { ops, lines, tokens, guard, once, cheap, probes, questions, text })
    }

    pub(crate) fn slice(&self, range: &Range<u32>) -> &[Tok] {
        &self.tokens[range.start as usize..range.end as usize]
    }

    /// Memory taken beyond the text, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let questions: usize = self.questions.iter().map(|question| question.len() + 16).sum();
        size_of::<Self>()
            + self.ops.len() * (size_of::<Op>() + size_of::<u32>())
            + self.tokens.len() * size_of::<Tok>()
            + self.probes.len() * size_of::<Probe>()
            + questions
    }
}

fn probes(text: &Text, tables: &Tables) -> Result<Box<[Probe]>, Full> {
    use barn_compilers::directives::{Form, IncludeKind};
    let mut probes = Vec::new();
    for include in &text.flags.includes {
        let next = match include.kind {
            IncludeKind::HasInclude => false,
            IncludeKind::HasIncludeNext => true,
            _ => continue,
        };
        if !include.name.is_empty() {
            probes.push(Probe {
                name: tables.name(&include.name)?,
                angle: include.form == Form::Angle,
                next,
            });
        }
    }
    Ok(probes.into())
}

struct Loader<'a> {
    body: &'a Body,
    tables: &'a Tables,
    syms: Vec<Sym>,
}

impl<'a> Loader<'a> {
    fn new(body: &'a Body, tables: &'a Tables) -> Result<Self, Full> {
        let spellings = 0..body.ends.len() as u32;
        let syms = spellings
            .map(|number| tables.name(canonical(body.spelling(number))))
            .collect::<Result<_, _>>()?;
        Ok(Self { body, tables, syms })
    }

    fn tokens(&self) -> Vec<Tok> {
        let token = |word: &Word| Tok {
            sym: self.syms[word.spelling as usize],
            kind: word.kind,
            space: word.space,
            painted: false,
        };
        self.body.tokens.iter().map(token).collect()
    }

    fn sym(&self, spelling: u32) -> Sym {
        self.syms[spelling as usize]
    }

    fn op(&self, what: What, tokens: &[Tok]) -> Result<Op, Full> {
        let range = |span: Span| span.0..span.1;
        Ok(match what {
            What::Include { way, angle, name } => Op::Include { way, angle, name: self.sym(name) },
            What::Computed { way, tokens } => Op::Computed { way, tokens: range(tokens) },
            What::Define { name, tokens: span } => {
                match self.tables.define(&tokens[span.0 as usize..span.1 as usize])? {
                    Some(definition) => Op::Define(self.sym(name), definition),
                    None => Op::Malformed,
                }
            }
            What::Undefine(name) => Op::Undefine(self.sym(name)),
            What::If(test) => Op::If { test: self.cond(test), next: 0 },
            What::Elif { test, new } => Op::Elif { test: self.cond(test), new, next: 0, end: 0 },
            What::Else => Op::Else { end: 0 },
            What::Endif => Op::Endif,
            What::Once => Op::Once,
            What::Push(name) => Op::Push(self.sym(name)),
            What::Pop(name) => Op::Pop(self.sym(name)),
            What::Error => Op::Error,
            What::Malformed => Op::Malformed,
        })
    }

    fn cond(&self, test: Test) -> Cond {
        match test {
            Test::If(span) => Cond::If(span.0..span.1),
            Test::Defined(name) => Cond::Defined(self.sym(name)),
            Test::Undefined(name) => Cond::Undefined(self.sym(name)),
            Test::Malformed => Cond::Malformed,
        }
    }
}

/// Tells every branch where the next one and the end of its group are. A text whose groups do not match is never run.
fn link(ops: &mut [Op]) {
    // Of every open group: its branches so far.
    let mut open: Vec<Vec<usize>> = Vec::new();
    for at in 0..ops.len() {
        match &ops[at] {
            Op::If { .. } => open.push(vec![at]),
            Op::Elif { .. } | Op::Else { .. } => {
                if let Some(group) = open.last_mut() {
                    set_next(&mut ops[*group.last().expect("an open group has a branch")], at as u32);
                    group.push(at);
                }
            }
            Op::Endif => {
                let group = open.pop().unwrap_or_default();
                if let Some(&last) = group.last() {
                    set_next(&mut ops[last], at as u32);
                }
                for branch in group {
                    if let Op::Elif { end, .. } | Op::Else { end } = &mut ops[branch] {
                        *end = at as u32;
                    }
                }
            }
            _ => {}
        }
    }
}

fn set_next(op: &mut Op, at: u32) {
    if let Op::If { next, .. } | Op::Elif { next, .. } = op {
        *next = at;
    }
}
