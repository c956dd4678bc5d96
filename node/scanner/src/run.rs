//! One scan: the include stack, and the directives run one after another.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    builtin,
    dialect::Answer,
    disk::{Disk, File},
    expand::{Expander, quoted},
    expr,
    lex::Kind,
    load::{Cond, Full, Loaded, NOTHING, Op, Tok},
    memo::{Effect, Key},
    mode::Mode,
    names::Sym,
    search::{Found, Search},
    state::{FILES, OTHER, State},
    text::Way,
    unit::{Define, Scan, Undecided, Unit},
    world::World,
};

/// Includes within each other, as in gcc.
const DEPTH_MAX: usize = 200;

/// A file being read.
pub(crate) struct Open {
    file: u32,
    loaded: Arc<Loaded>,
    /// How the compiler spells it, and its directory.
    pub(crate) path: Sym,
    pub(crate) dir: Sym,
    /// How it was found, for `#include_next`.
    pub(crate) found: Found,
    line: u32,
}

/// One scan.
pub(crate) struct Run<'a> {
    pub(crate) state: State<'a>,
    pub(crate) mode: Mode,
    world: &'a World,
    search: Arc<Search>,
    files: Vec<Open>,
    /// What the compiler must be asked.
    pending: BTreeSet<Vec<u8>>,
    /// By file number.
    loaded: FxHashMap<u32, Arc<Loaded>>,
    /// Whether there was an `#import`, so that any file may have been marked.
    imports: bool,
    source: &'a [u8],
}

impl<'a> Run<'a> {
    pub(crate) fn new(world: &'a World, unit: &'a Unit, disk: &'a mut dyn Disk) -> Result<Self, Undecided> {
        let mut state = State::new(&world.tables, disk);
        for &(sym, definition) in world.start(&unit.dialect).map_err(full)?.iter() {
            state.set(sym, definition);
        }
        Ok(Self {
            state,
            mode: Mode::of(&unit.dialect),
            world,
            search: world.search(&unit.search)?,
            files: Vec::new(),
            pending: BTreeSet::new(),
            loaded: FxHashMap::default(),
            imports: false,
            source: &unit.source,
        })
    }

    /// What `unit` reads.
    pub(crate) fn scan(mut self, unit: &Unit) -> Result<Scan, Undecided> {
        let result = self.run_unit(unit);
        if !self.pending.is_empty() {
            return Err(Undecided::Ask(self.questions(unit)));
        }
        result?;
        self.finish()
    }

    fn run_unit(&mut self, unit: &Unit) -> Result<(), Undecided> {
        let tables = self.state.tables;
        let source = self.name(&unit.source)?;
        let place = self.state.place(tables.words.empty, source).map_err(full)?;
        if self.state.at(place).code < FILES {
            return Err(missing(&unit.source, "the command line"));
        }
        self.state.opened(place);
        let file = self.state.at(place).code - FILES;
        let loaded = self.load(file)?;
        let dir = self.dir_of(source)?;
        self.files.push(Open { file, loaded, path: source, dir, found: Found::Main, line: 0 });
        self.predef(unit)?;
        for define in &unit.defines {
            self.define(define)?;
        }
        for name in unit.imacros.iter().chain(&unit.includes) {
            let name = self.name(name)?;
            let found = self.resolve_given(name)?;
            self.enter(name, found, Way::Include)?;
        }
        self.run_file()
    }

    /// gcc's own first include. What it defines is among the predefined macros.
    fn predef(&mut self, unit: &Unit) -> Result<(), Undecided> {
        let words = self.state.tables.words;
        let read = self.state.peek(words.predef_guard) != NOTHING;
        let hosted = unit.dialect.macro_text(b"__STDC_HOSTED__") == Some(b"1".as_slice());
        if !read && (self.mode.clang || !hosted) {
            return Ok(());
        }
        if let Some((place, _)) = self.resolve(words.predef, true, false)? {
            self.state.opened(place);
            self.load(self.state.at(place).code - FILES)?;
        }
        Ok(())
    }

    fn define(&mut self, define: &Define) -> Result<(), Undecided> {
        let refused = |text: &[u8]| Undecided::Unsupported(format!("-D {}", String::from_utf8_lossy(text)));
        match define {
            Define::Define(text) => {
                if text.contains(&b'\n') {
                    return Err(refused(text));
                }
                let mut line = text.clone();
                match text.iter().position(|&byte| byte == b'=') {
                    Some(equals) => line[equals] = b' ',
                    None => line.extend_from_slice(b" 1"),
                }
                let tokens = self.lex(&line)?;
                let (name, rest) = tokens.split_first().ok_or_else(|| refused(text))?;
                if name.kind != Kind::Name {
                    return Err(refused(text));
                }
                if rest.iter().any(|token| self.state.tables.names.get(token.sym) == b"_Pragma") {
                    return Err(refused(text));
                }
                let definition = self.state.tables.define(rest).map_err(full)?;
                self.state.write(name.sym, definition.ok_or_else(|| refused(text))?);
            }
            Define::Undefine(name) => {
                let sym = self.name(name)?;
                self.undefine(sym)?;
            }
        }
        Ok(())
    }

    pub(crate) fn name(&self, text: &[u8]) -> Result<Sym, Undecided> {
        self.state.tables.name(text).map_err(full)
    }

    pub(crate) fn lex(&self, text: &[u8]) -> Result<Vec<Tok>, Undecided> {
        self.state.tables.lex(text).map_err(full)
    }

    pub(crate) fn search(&self) -> Arc<Search> {
        self.search.clone()
    }

    /// The file being read.
    pub(crate) fn current(&self) -> &Open {
        self.files.last().expect("the source stays open")
    }

    /// What cannot be decided, and where.
    pub(crate) fn unsupported(&self, what: &str) -> Undecided {
        let place = match self.files.last() {
            Some(open) => format!("{}:{}", self.shown(open.path), open.line),
            None => "the command line".to_owned(),
        };
        Undecided::Unsupported(format!("{place}: {what}"))
    }

    fn shown(&self, sym: Sym) -> String {
        String::from_utf8_lossy(self.state.tables.names.get(sym)).into_owned()
    }

    fn load(&mut self, file: u32) -> Result<Arc<Loaded>, Undecided> {
        if let Some(loaded) = self.loaded.get(&file) {
            return Ok(loaded.clone());
        }
        let what: File = *self.state.tables.files.get(file);
        let loaded = match self.world.loaded(&what.digest) {
            Some(loaded) => loaded,
            None => {
                let Some(text) = self.state.disk().text(&what) else {
                    return Err(self.unsupported("an include cannot be read"));
                };
                self.world.load(&what.digest, text).map_err(full)?
            }
        };
        self.loaded.insert(file, loaded.clone());
        Ok(loaded)
    }

    fn include(&mut self, name: Sym, angle: bool, way: Way) -> Result<(), Undecided> {
        if way == Way::Embed {
            return self.embed(name, angle);
        }
        let found = self.resolve(name, angle, way == Way::Next)?;
        self.enter(name, found, way)
    }

    fn enter(&mut self, name: Sym, found: Option<(u32, Found)>, way: Way) -> Result<(), Undecided> {
        let Some((place, found)) = found else {
            return Err(missing(self.state.tables.names.get(name), &self.shown(self.current().path)));
        };
        let file = self.state.at(place).code - FILES;
        let before = self.state.was_opened(file);
        self.state.opened(place);
        let loaded = self.load(file)?;
        if self.is_passed_over(file, &loaded, way, before)? {
            return Ok(());
        }
        let path = self.path_of(place)?;
        let key = Key { file, path, found, search: self.search.id, mode: self.mode };
        // Marks of an `#import` are looked at for every file, which effects made without one do not tell.
        let memorable = !loaded.cheap && !self.imports;
        if memorable && self.replay(&key) {
            return Ok(());
        }
        if self.files.len() > DEPTH_MAX {
            return Err(self.unsupported("includes are nested too deeply"));
        }
        let dir = self.dir_of(path)?;
        self.state.begin();
        self.files.push(Open { file, loaded, path, dir, found, line: 0 });
        self.run_file()?;
        self.files.pop();
        let traces = self.state.end();
        if memorable && self.pending.is_empty() && !self.imports {
            let loaded = |code: u32| self.loaded.get(&(code - FILES)).cloned();
            if let Some(effect) = traces.and_then(|traces| Effect::new(&traces, &self.state, loaded)) {
                self.world.memo().add(key, effect);
            }
        }
        Ok(())
    }

    /// Does what including the file did before, if that would be the same.
    fn replay(&mut self, key: &Key) -> bool {
        let variants = self.world.memo().variants(key);
        let room = (DEPTH_MAX - self.files.len().min(DEPTH_MAX)) as u32;
        let state = &mut self.state;
        let Some(effect) = variants.iter().find(|effect| effect.depth < room && effect.holds(state)) else {
            return false;
        };
        effect.apply(state, |code, loaded| {
            self.loaded.entry(code - FILES).or_insert_with(|| loaded.clone());
        });
        self.world.memo().used(key, effect);
        true
    }

    /// Whether nothing of the file is read this time.
    fn is_passed_over(
        &mut self,
        file: u32,
        loaded: &Loaded,
        way: Way,
        before: bool,
    ) -> Result<bool, Undecided> {
        let mut over = false;
        if loaded.once || self.imports || way == Way::Import {
            let mark = self.once_mark(file)?;
            over = self.state.read(mark) != NOTHING;
            if way == Way::Import {
                self.imports = true;
                self.state.write(mark, self.world.marked);
                // Which files were read before is not noted.
                self.state.record().unique = true;
                over |= before;
            }
        }
        over |= loaded.guard.is_some_and(|guard| self.state.read(guard) != NOTHING);
        Ok(over)
    }

    /// The name under which it stands among the macros that a file is not to be read again.
    fn once_mark(&mut self, file: u32) -> Result<Sym, Undecided> {
        let file: &File = self.state.tables.files.get(file);
        let mut name = vec![2];
        if self.mode.clang {
            name.extend(file.identity.0.to_le_bytes());
            name.extend(file.identity.1.to_le_bytes());
        } else {
            name.extend(file.digest);
            name.extend(file.mtime_ns.div_euclid(1_000_000_000).to_le_bytes());
        }
        self.name(&name)
    }

    fn embed(&mut self, name: Sym, angle: bool) -> Result<(), Undecided> {
        let beside = if angle { None } else { self.resolve(name, false, false)? };
        match beside {
            Some((place, Found::Beside)) if self.mode.embed => {
                self.state.opened(place);
                let file = self.state.at(place).code - FILES;
                self.loaded.entry(file).or_insert_with(|| self.world.nothing.clone());
                Ok(())
            }
            _ => Err(self.unsupported("`#embed`")),
        }
    }

    /// Whether the compiler finds a file by that name.
    pub(crate) fn probe(&mut self, name: Sym, angle: bool, next: bool) -> Result<bool, Undecided> {
        Ok(self.resolve(name, angle, next)?.is_some())
    }

    /// Refuses what cannot be read without knowing more.
    fn check(&self, loaded: &Loaded) -> Result<(), Undecided> {
        let odd = loaded.text.body.odd;
        let reasons = [
            (odd.unbalanced, "its conditional groups do not match"),
            (odd.raw_strings && !self.mode.raw_strings, "raw strings in a language without them"),
            (odd.separators && !self.mode.separators, "digit separators in a language without them"),
            (odd.starred_comments && !self.mode.line_comments, "`//*` in a language without line comments"),
            // clang takes all others for comments.
            (
                odd.line_comments && !self.mode.line_comments && !self.mode.clang,
                "line comments in a language without them",
            ),
            (odd.digraphs && !self.mode.digraphs, "digraphs in a language without them"),
            (odd.dollars && self.mode.assembler, "`$` in the name of a macro"),
            (odd.trigraphs, "trigraphs"),
            (odd.carriage_returns, "carriage returns alone"),
            (odd.hidden_pragmas, "a macro may make a pragma that changes what is read"),
            (self.mode.modules && loaded.text.flags.modules, "modules"),
        ];
        match reasons.iter().find(|(holds, _)| *holds) {
            Some((_, reason)) => Err(self.unsupported(reason)),
            None => Ok(()),
        }
    }

    /// Runs the directives of the file on top.
    fn run_file(&mut self) -> Result<(), Undecided> {
        let loaded = self.current().loaded.clone();
        self.check(&loaded)?;
        // Looked up wherever they stand, so that a wrong turn here cannot hide one.
        for probe in &loaded.probes {
            self.resolve_carefully(probe.name, probe.angle, probe.next)?;
        }
        let mut at = 0;
        while let Some(op) = loaded.ops.get(at) {
            self.files.last_mut().expect("the source stays open").line = loaded.lines[at];
            at = match op {
                Op::If { test, next } => {
                    if self.holds(test, &loaded)? {
                        at + 1
                    } else {
                        self.branch(*next as usize, &loaded)?
                    }
                }
                // The branch before was taken.
                Op::Elif { new, .. } if *new && !self.mode.elifdef => at + 1,
                Op::Elif { end, .. } | Op::Else { end } => *end as usize + 1,
                op => {
                    self.run_op(op, &loaded)?;
                    at + 1
                }
            };
        }
        Ok(())
    }

    /// From a branch not taken to the first line of the one that is.
    fn branch(&mut self, mut at: usize, loaded: &Loaded) -> Result<usize, Undecided> {
        loop {
            self.files.last_mut().expect("the source stays open").line = loaded.lines[at];
            match &loaded.ops[at] {
                Op::Elif { test, new, next, .. } => {
                    let ignored = *new && !self.mode.elifdef;
                    if !ignored && self.holds(test, loaded)? {
                        return Ok(at + 1);
                    }
                    at = *next as usize;
                }
                _ => return Ok(at + 1),
            }
        }
    }

    fn holds(&mut self, test: &Cond, loaded: &Loaded) -> Result<bool, Undecided> {
        match test {
            Cond::If(tokens) => expr::is_true(loaded.slice(tokens), self),
            Cond::Defined(name) => self.is_defined(*name),
            Cond::Undefined(name) => Ok(!self.is_defined(*name)?),
            Cond::Malformed => Err(self.unsupported("a condition that is not understood")),
        }
    }

    fn run_op(&mut self, op: &Op, loaded: &Loaded) -> Result<(), Undecided> {
        match op {
            Op::Define(name, definition) => self.state.write(*name, *definition),
            Op::Undefine(name) => self.undefine(*name)?,
            Op::Include { way, angle, name } => self.include(*name, *angle, *way)?,
            Op::Computed { way, tokens } => {
                let (angle, name) = Expander::new(loaded.slice(tokens)).header_name(self)?;
                let name = self.name(&name)?;
                self.include(name, angle, *way)?;
            }
            Op::Once => self.mark_once()?,
            Op::Push(name) => self.state.push(*name),
            Op::Pop(name) => self.state.pop(*name),
            Op::Error => return Err(self.unsupported("`#error`")),
            Op::Malformed => return Err(self.unsupported("a directive that is not understood")),
            Op::If { .. } | Op::Elif { .. } | Op::Else { .. } | Op::Endif => {}
        }
        Ok(())
    }

    /// What compilers know by themselves stays known here: its absence has no definition.
    fn undefine(&mut self, sym: Sym) -> Result<(), Undecided> {
        self.state.write(sym, NOTHING);
        if self.is_defined(sym)? { Err(self.unsupported("`#undef` of a built-in macro")) } else { Ok(()) }
    }

    fn mark_once(&mut self) -> Result<(), Undecided> {
        // In the source itself it means nothing to clang but a warning.
        if self.files.len() > 1 || !self.mode.clang {
            let mark = self.once_mark(self.current().file)?;
            self.state.write(mark, self.world.marked);
        }
        Ok(())
    }

    /// Whether `#ifdef` finds the name defined.
    pub(crate) fn is_defined(&mut self, sym: Sym) -> Result<bool, Undecided> {
        if self.state.read(sym) != NOTHING {
            return Ok(true);
        }
        let name = self.state.tables.names.get(sym);
        if !name.starts_with(b"__") {
            return Ok(false);
        }
        if builtin::is_include_test(name) || builtin::is_dynamic(name) {
            return Ok(true);
        }
        Ok(builtin::is_operator(name) && self.answer(name)? != 0)
    }

    /// What the compiler answers; a guess if it has still to be asked.
    pub(crate) fn answer(&mut self, question: &[u8]) -> Result<i64, Undecided> {
        let sym = self.name(&builtin::answer_name(question))?;
        let definition = self.state.read(sym);
        if definition == NOTHING {
            if self.pending.len() < builtin::QUESTIONS_MAX {
                self.pending.insert(question.to_vec());
            }
            return Ok(i64::from(builtin::is_likely(question, self.mode.clang)));
        }
        match self.world.answer(definition) {
            Answer::Value(value) => Ok(value),
            Answer::Refused => Err(self.unsupported("the compiler refuses an operator")),
        }
    }

    /// Whether some answers are made up by now.
    pub(crate) fn is_asking(&self) -> bool {
        !self.pending.is_empty()
    }

    /// All there is to ask: what was met, and what else is spelled out in the files read.
    fn questions(&mut self, unit: &Unit) -> Vec<crate::dialect::Question> {
        let mut all = std::mem::take(&mut self.pending);
        for loaded in self.loaded.values() {
            for question in &loaded.questions {
                if all.len() < builtin::QUESTIONS_MAX && !unit.dialect.answers.contains_key(&**question) {
                    all.insert(question.to_vec());
                }
            }
        }
        all.into_iter().map(crate::dialect::Question).collect()
    }

    /// Whether macros are expanded in the arguments of an operator.
    pub(crate) fn expands_arguments(&self, operator: &[u8]) -> bool {
        !self.mode.clang || operator.ends_with(b"attribute")
    }

    pub(crate) fn is_true_word(&self, word: &[u8]) -> bool {
        self.mode.knows_true && word == b"true"
    }

    /// `__FILE__` and others that depend on where they stand.
    pub(crate) fn dynamic(&mut self, name: &[u8]) -> Result<Tok, Undecided> {
        let open = self.current();
        let renumbered = open.loaded.text.body.odd.renumbered;
        let (kind, text) = match name {
            b"__LINE__" if !renumbered && !open.loaded.text.body.odd.long_lines => {
                (Kind::Number, open.line.to_string().into_bytes())
            }
            b"__FILE__" if !renumbered => (Kind::String, quoted(self.state.tables.names.get(open.path))),
            b"__BASE_FILE__" if !self.is_renumbered() => (Kind::String, quoted(self.source)),
            b"__INCLUDE_LEVEL__" if !self.is_renumbered() => {
                (Kind::Number, (self.files.len() - 1).to_string().into_bytes())
            }
            _ => {
                let what = format!("`{}` in a directive", String::from_utf8_lossy(name));
                return Err(self.unsupported(&what));
            }
        };
        if matches!(name, b"__BASE_FILE__" | b"__INCLUDE_LEVEL__") {
            self.state.record().unique = true;
        }
        Ok(Tok { sym: self.name(&text)?, kind, space: false, painted: false })
    }

    /// Whether a linemarker may have changed which files the compiler believes to be open.
    fn is_renumbered(&self) -> bool {
        self.loaded.values().any(|loaded| loaded.text.body.odd.renumbered)
    }

    /// The path of a place as the compiler spells it.
    fn path_of(&self, place: u32) -> Result<Sym, Undecided> {
        let at = self.state.at(place);
        let names = &self.state.tables.names;
        self.name(&crate::search::join(names.get(at.dir), names.get(at.name)))
    }

    /// The directory in which a file's `#include "x"` looks first.
    fn dir_of(&self, path: Sym) -> Result<Sym, Undecided> {
        let path = self.state.tables.names.get(path);
        match path.iter().rposition(|&byte| byte == b'/') {
            Some(0) => self.name(b"/"),
            Some(slash) => self.name(&path[..slash]),
            // gcc says `x.h` where clang says `./x.h`.
            None if self.mode.clang => self.name(b"."),
            None => Ok(self.state.tables.words.empty),
        }
    }

    fn finish(mut self) -> Result<Scan, Undecided> {
        let (looked, opened) = self.state.visited();
        let (looked, opened): (Vec<u32>, Vec<u32>) = (looked.collect(), opened.collect());
        let mut scan = Scan::default();
        let mut seen = FxHashSet::default();
        for place in opened {
            let path = self.path(place);
            if seen.insert(path.clone()) {
                let file = self.state.at(place).code - FILES;
                let text = self.load(file)?.text.clone();
                scan.opened.push((path, *self.state.tables.files.get(file), text));
            }
        }
        for place in looked {
            let at = self.state.at(place);
            let path = self.path(place);
            if !seen.insert(path.clone()) {
                continue;
            }
            if at.code == crate::state::ABSENT {
                scan.absent.push(path);
            } else if at.code >= FILES {
                scan.probed.push((path, *self.state.tables.files.get(at.code - FILES)));
            }
        }
        Ok(scan)
    }

    fn path(&self, place: u32) -> Vec<u8> {
        let at = self.state.at(place);
        let names = &self.state.tables.names;
        crate::search::join(names.get(at.dir), names.get(at.name))
    }

    /// Whether something was found that cannot be read.
    pub(crate) fn refuse_other(&self, code: u32) -> Result<(), Undecided> {
        if code == OTHER { Err(self.unsupported("an include is no regular file")) } else { Ok(()) }
    }
}

fn missing(name: &[u8], by: &str) -> Undecided {
    Undecided::Missing { name: String::from_utf8_lossy(name).into_owned(), by: by.to_owned() }
}

/// The tables are full; the next scan gets new ones.
pub(crate) fn full(Full: Full) -> Undecided {
    Undecided::Unsupported("the scanner's tables are full".to_owned())
}
