//! Macro expansion, as far as `#if` and computed includes need it.
//!
//! Tokens are pulled through a stack of contexts, as gcc does: a macro is disabled as long as its expansion is on the
//! stack, and a name met while disabled is painted and never expanded again.

use std::borrow::Cow;

use crate::{
    builtin,
    lex::Kind,
    load::{Macro, NOTHING, Rest, Tok},
    names::Sym,
    run::Run,
    unit::Undecided,
};

/// Tokens one directive may be expanded to; real ones stay under a few thousand.
const STEPS_MAX: usize = 1 << 20;
/// Arguments within arguments.
const NESTED_MAX: usize = 128;

struct Context<'t> {
    tokens: Cow<'t, [Tok]>,
    at: usize,
    /// The macro whose expansion this is.
    of: Option<Sym>,
    /// An argument expanded by itself: what lies below is out of reach.
    floor: bool,
}

/// The tokens of one directive, on their way through expansion.
pub(crate) struct Expander<'t> {
    contexts: Vec<Context<'t>>,
    steps: usize,
    nested: usize,
    /// Whether a blank stood before something that expanded to nothing.
    space: bool,
}

impl<'t> Expander<'t> {
    pub(crate) fn new(tokens: &'t [Tok]) -> Self {
        let base = Context { tokens: Cow::Borrowed(tokens), at: 0, of: None, floor: true };
        Self { contexts: vec![base], steps: 0, nested: 0, space: false }
    }

    /// The next token as it stands.
    pub(crate) fn next_raw(&mut self) -> Option<Tok> {
        loop {
            let context = self.contexts.last_mut()?;
            if let Some(&token) = context.tokens.get(context.at) {
                context.at += 1;
                return Some(self.paint(token));
            }
            if context.floor {
                return None;
            }
            self.contexts.pop();
        }
    }

    fn paint(&self, mut token: Tok) -> Tok {
        let disabled =
            token.kind == Kind::Name && self.contexts.iter().any(|context| context.of == Some(token.sym));
        token.painted |= disabled;
        token
    }

    fn push(&mut self, tokens: Vec<Tok>, of: Option<Sym>) {
        self.contexts.push(Context { tokens: Cow::Owned(tokens), at: 0, of, floor: false });
    }

    /// The next token after expansion.
    pub(crate) fn next(&mut self, run: &mut Run<'_>) -> Result<Option<Tok>, Undecided> {
        while let Some(mut token) = self.next_raw() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(run.unsupported("a directive expands to too much"));
            }
            let name = token.kind == Kind::Name;
            if name && run.mode.assembler && run.state.tables.names.get(token.sym).contains(&b'$') {
                return Err(run.unsupported("`$` in a condition or the name of a file"));
            }
            if name && !token.painted && self.replace(token, run)? {
                continue;
            }
            token.space |= std::mem::take(&mut self.space);
            return Ok(Some(token));
        }
        Ok(None)
    }

    /// Puts the expansion of a name in its place; `false` if it has none.
    fn replace(&mut self, name: Tok, run: &mut Run<'_>) -> Result<bool, Undecided> {
        let definition = run.state.read(name.sym);
        if definition == NOTHING {
            return self.built_in(name, run);
        }
        let tables = run.state.tables;
        let definition = tables.definition(definition);
        let mut out = match &definition.params {
            None => self.substitute(definition, &[], run)?,
            Some(params) => {
                let Some(next) = self.next_raw() else {
                    return Ok(false);
                };
                if next.sym != tables.words.open || next.kind != Kind::Punct {
                    self.push(vec![next], None);
                    return Ok(false);
                }
                let arguments = self.arguments(definition, params.len(), run)?;
                self.substitute(definition, &arguments, run)?
            }
        };
        match out.first_mut() {
            Some(first) => first.space = name.space,
            None => self.space |= name.space,
        }
        self.push(out, Some(name.sym));
        Ok(true)
    }

    fn built_in(&mut self, name: Tok, run: &mut Run<'_>) -> Result<bool, Undecided> {
        let tables = run.state.tables;
        let spelling = tables.names.get(name.sym);
        if !spelling.starts_with(b"__") {
            return Ok(false);
        }
        let value = if builtin::is_include_test(spelling) || spelling == b"__has_embed" {
            if spelling == b"__has_embed" && !run.is_defined(name.sym)? {
                return Ok(false);
            }
            self.include_test(spelling, run)?
        } else if builtin::is_operator(spelling) {
            if !run.is_defined(name.sym)? && !run.is_asking() {
                return Ok(false);
            }
            self.question(spelling, run)?
        } else if builtin::is_dynamic(spelling) {
            let token = run.dynamic(spelling)?;
            self.push(vec![Tok { space: name.space, ..token }], None);
            return Ok(true);
        } else {
            return Ok(false);
        };
        let sym = run.name(value.to_string().as_bytes())?;
        self.push(vec![Tok { sym, kind: Kind::Number, space: name.space, painted: false }], None);
        Ok(true)
    }

    /// After `__has_include` and its kin.
    fn include_test(&mut self, operator: &[u8], run: &mut Run<'_>) -> Result<i64, Undecided> {
        let words = run.state.tables.words;
        if self.next_raw().is_none_or(|token| token.sym != words.open) {
            return Err(run.unsupported("an operator for includes without a parenthesis"));
        }
        let (angle, name) = self.header_name(run)?;
        if self.next(run)?.is_none_or(|token| token.sym != words.close) {
            return Err(run.unsupported("an operator for includes with more than a name"));
        }
        if operator == b"__has_embed" {
            return Err(run.unsupported("`__has_embed`"));
        }
        let next = operator.starts_with(b"__has_include_next");
        let sym = run.name(&name)?;
        Ok(i64::from(run.probe(sym, angle, next)?))
    }

    /// The name of a file after expansion: whether it is in angle brackets, and the name.
    pub(crate) fn header_name(&mut self, run: &mut Run<'_>) -> Result<(bool, Vec<u8>), Undecided> {
        let names = &run.state.tables.names;
        let words = run.state.tables.words;
        let Some(first) = self.next(run)? else {
            return Err(run.unsupported("no file is named"));
        };
        let spelled = names.get(first.sym);
        match first.kind {
            // Compilers differ in the blanks they keep when they make a string of an argument.
            Kind::Made if spelled.contains(&b' ') => {
                return Err(run.unsupported("a file's name is spelled by macros with blanks"));
            }
            Kind::Header | Kind::String | Kind::Made if spelled.len() > 2 && b"<\"".contains(&spelled[0]) => {
                return Ok((first.kind == Kind::Header, spelled[1..spelled.len() - 1].to_vec()));
            }
            Kind::Punct if first.sym == words.less => {}
            _ => return Err(run.unsupported("a file's name is neither in quotes nor in angle brackets")),
        }
        let mut name = Vec::new();
        loop {
            let token = self.next(run)?;
            match token {
                Some(token) if token.sym == words.greater => break,
                // Compilers differ in the blanks they keep.
                Some(token) if !token.space => name.extend_from_slice(names.get(token.sym)),
                _ => return Err(run.unsupported("a file's name is spelled by macros with blanks")),
            }
        }
        if name.is_empty() {
            return Err(run.unsupported("a file's name is empty"));
        }
        Ok((true, name))
    }

    /// After an operator that the compiler answers.
    fn question(&mut self, operator: &[u8], run: &mut Run<'_>) -> Result<i64, Undecided> {
        let words = run.state.tables.words;
        let Some(open) = self.next_raw().filter(|token| token.sym == words.open) else {
            return Err(run.unsupported("an operator without a parenthesis"));
        };
        let (mut inside, mut depth) = (Vec::new(), 1);
        let close = loop {
            let Some(token) = self.next_raw() else {
                return Err(run.unsupported("an operator without its end"));
            };
            if token.sym == words.open {
                depth += 1;
            } else if token.sym == words.close {
                depth -= 1;
                if depth == 0 {
                    break token;
                }
            }
            inside.push(token);
        };
        if run.expands_arguments(operator) {
            inside = self.expand(inside, run)?;
        }
        let tokens = [&[open], inside.as_slice(), &[close]].concat();
        match builtin::spell_question(run.state.tables, operator, &tokens) {
            Some(question) => run.answer(&question),
            None => Err(run.unsupported("a question to the compiler is too long")),
        }
    }

    /// The arguments up to the closing parenthesis.
    fn arguments(&mut self, of: &Macro, params: usize, run: &Run<'_>) -> Result<Vec<Vec<Tok>>, Undecided> {
        let words = run.state.tables.words;
        let mut arguments = vec![Vec::new()];
        let mut depth = 0;
        loop {
            let Some(token) = self.next_raw() else {
                return Err(run.unsupported("the arguments of a macro do not end"));
            };
            let punct = token.kind == Kind::Punct;
            if punct && token.sym == words.close && depth == 0 {
                break;
            }
            if punct && token.sym == words.open {
                depth += 1;
            } else if punct && token.sym == words.close {
                depth -= 1;
            }
            let last = of.rest == Rest::Last && arguments.len() == params;
            if punct && token.sym == words.comma && depth == 0 && !last {
                arguments.push(Vec::new());
            } else {
                arguments.last_mut().expect("there is one from the start").push(token);
            }
            self.steps += 1;
        }
        if params == 0 && arguments[0].is_empty() && arguments.len() == 1 {
            arguments.clear();
        }
        if of.rest == Rest::Last && arguments.len() + 1 == params {
            arguments.push(Vec::new());
        }
        if arguments.len() == params {
            return Ok(arguments);
        }
        Err(run.unsupported("a macro is given the wrong number of arguments"))
    }

    /// Tokens expanded by themselves.
    fn expand(&mut self, tokens: Vec<Tok>, run: &mut Run<'_>) -> Result<Vec<Tok>, Undecided> {
        self.nested += 1;
        if self.nested > NESTED_MAX {
            return Err(run.unsupported("macros are nested too deeply"));
        }
        let height = self.contexts.len();
        let space = std::mem::take(&mut self.space);
        self.contexts.push(Context { tokens: Cow::Owned(tokens), at: 0, of: None, floor: true });
        let mut out = Vec::new();
        while let Some(token) = self.next(run)? {
            out.push(token);
        }
        self.contexts.truncate(height);
        self.space = space;
        self.nested -= 1;
        Ok(out)
    }

    /// A macro's body with the arguments in place.
    fn substitute(
        &mut self,
        of: &Macro,
        arguments: &[Vec<Tok>],
        run: &mut Run<'_>,
    ) -> Result<Vec<Tok>, Undecided> {
        let mut filling = Filling { of, arguments, expanded: vec![None; arguments.len()] };
        let out = filling.fill(&of.body, self, run)?;
        self.steps += out.len();
        Ok(out)
    }
}

/// One substitution.
struct Filling<'m> {
    of: &'m Macro,
    arguments: &'m [Vec<Tok>],
    expanded: Vec<Option<Vec<Tok>>>,
}

impl Filling<'_> {
    fn param(&self, token: &Tok) -> Option<usize> {
        let params = self.of.params.as_ref()?;
        (token.kind == Kind::Name).then(|| params.iter().position(|&param| param == token.sym))?
    }

    fn fill(
        &mut self,
        body: &[Tok],
        by: &mut Expander<'_>,
        run: &mut Run<'_>,
    ) -> Result<Vec<Tok>, Undecided> {
        let words = run.state.tables.words;
        let pastes = |at: usize| body.get(at).is_some_and(|token| token.sym == words.paste);
        let mut out: Vec<Tok> = Vec::new();
        let mut at = 0;
        while at < body.len() {
            let (mut left, mut end) = self.operand(body, at, pastes(at + 1), by, run)?;
            while pastes(end) && end + 1 < body.len() {
                let comma = end == at + 1 && body[at].sym == words.comma && self.is_rest(&body[end + 1]);
                let (right, after) = self.operand(body, end + 1, true, by, run)?;
                if comma {
                    // GNU: the comma goes with the arguments it would separate.
                    left = if right.is_empty() { Vec::new() } else { [left, right].concat() };
                } else {
                    left = paste(left, right, run)?;
                }
                end = after;
            }
            out.append(&mut left);
            at = end;
        }
        Ok(out)
    }

    fn is_rest(&self, token: &Tok) -> bool {
        self.of.rest == Rest::Last && self.param(token).is_some_and(|param| param + 1 == self.arguments.len())
    }

    /// What stands at `at`, and where the next thing begins. Beside `##` an argument stays unexpanded.
    fn operand(
        &mut self,
        body: &[Tok],
        at: usize,
        pasted: bool,
        by: &mut Expander<'_>,
        run: &mut Run<'_>,
    ) -> Result<(Vec<Tok>, usize), Undecided> {
        let words = run.state.tables.words;
        let token = body[at];
        if token.sym == words.hash && self.of.params.is_some() {
            let param = body.get(at + 1).and_then(|next| self.param(next));
            let Some(param) = param else {
                return Err(run.unsupported("a macro makes a string of what is no parameter"));
            };
            let string = stringify(&self.arguments[param], run)?;
            return Ok((vec![Tok { space: token.space, ..string }], at + 2));
        }
        if token.sym == words.va_opt && self.of.rest == Rest::Last {
            return self.optional(body, at, by, run);
        }
        let Some(param) = self.param(&token) else {
            return Ok((vec![token], at + 1));
        };
        let pasted = pasted || body.get(at + 1).is_some_and(|next| next.sym == words.paste);
        let mut tokens = if pasted { self.arguments[param].clone() } else { self.expanded(param, by, run)? };
        if let Some(first) = tokens.first_mut() {
            first.space = token.space;
        }
        Ok((tokens, at + 1))
    }

    fn expanded(
        &mut self,
        param: usize,
        by: &mut Expander<'_>,
        run: &mut Run<'_>,
    ) -> Result<Vec<Tok>, Undecided> {
        if let Some(tokens) = &self.expanded[param] {
            return Ok(tokens.clone());
        }
        let tokens = by.expand(self.arguments[param].clone(), run)?;
        self.expanded[param] = Some(tokens.clone());
        Ok(tokens)
    }

    /// At `__VA_OPT__(…)`.
    fn optional(
        &mut self,
        body: &[Tok],
        at: usize,
        by: &mut Expander<'_>,
        run: &mut Run<'_>,
    ) -> Result<(Vec<Tok>, usize), Undecided> {
        let words = run.state.tables.words;
        let mut depth = 0;
        let length = body[at + 1..].iter().position(|token| {
            depth += i32::from(token.sym == words.open) - i32::from(token.sym == words.close);
            depth == 0
        });
        let Some(length) = length.filter(|&length| length > 0) else {
            return Err(run.unsupported("`__VA_OPT__` without its end"));
        };
        let inside = &body[at + 2..at + 1 + length];
        let end = at + 2 + length;
        let given = self.arguments.len() - 1;
        if self.expanded(given, by, run)?.is_empty() {
            return Ok((Vec::new(), end));
        }
        Ok((self.fill(inside, by, run)?, end))
    }
}

/// Joins the last of one to the first of the other.
fn paste(mut left: Vec<Tok>, right: Vec<Tok>, run: &Run<'_>) -> Result<Vec<Tok>, Undecided> {
    let Some((first, rest)) = right.split_first() else {
        return Ok(left);
    };
    let Some(last) = left.pop() else {
        return Ok(right);
    };
    let names = &run.state.tables.names;
    let joined = [names.get(last.sym), names.get(first.sym)].concat();
    match run.lex(&joined)?.as_slice() {
        [token] => left.push(Tok { space: last.space, ..*token }),
        _ => return Err(run.unsupported("two tokens are pasted to what is none")),
    }
    left.extend_from_slice(rest);
    Ok(left)
}

/// An argument as a string literal.
fn stringify(tokens: &[Tok], run: &Run<'_>) -> Result<Tok, Undecided> {
    let mut text = vec![b'"'];
    for (at, token) in tokens.iter().enumerate() {
        if at > 0 && token.space {
            text.push(b' ');
        }
        let spelled = run.state.tables.names.get(token.sym);
        match token.kind {
            Kind::String | Kind::Made | Kind::Char => push_escaped(&mut text, spelled),
            _ => text.extend_from_slice(spelled),
        }
    }
    text.push(b'"');
    Ok(Tok { sym: run.name(&text)?, kind: Kind::Made, space: false, painted: false })
}

/// A string literal of these bytes.
pub(crate) fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![b'"'];
    push_escaped(&mut text, bytes);
    text.push(b'"');
    text
}

fn push_escaped(text: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
}
