//! What all scans share: numbers, texts made ready to run, dialects as macro tables.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barn_compilers::search::SearchDirs;
use rustc_hash::FxHashMap;

use crate::{
    builtin::answer_name,
    dialect::{Answer, Dialect},
    lex::Kind,
    load::{Def, Full, Loaded, Macro, Rest, Tables, Tok},
    memo::Memo,
    names::{NUMBERED_MAX, Sym},
    run::full,
    search::Search,
    text::Text,
    unit::Undecided,
};

/// Names, definitions and files may take that much memory, in bytes, before all is begun anew.
const TABLES_BYTES_MAX: usize = 24 << 20;
/// Texts made ready to run may take that much, in bytes: some 3,000 headers.
const LOADED_BYTES_MAX: usize = 24 << 20;
/// Dialects kept as macro tables, of some 3 KB each.
const STARTS_MAX: usize = 256;
/// Search lists kept.
const SEARCHES_MAX: usize = 1024;

/// The directories of a search list: for `"x"`, for both forms, frameworks.
type Lists = [Vec<Vec<u8>>; 3];
/// What a dialect defines.
type Start = Arc<[(Sym, Def)]>;

/// What all scans share.
pub(crate) struct World {
    pub(crate) tables: Tables,
    /// The definition of marks that stand among the macros.
    pub(crate) marked: Def,
    /// What is loaded for a file that holds no text.
    pub(crate) nothing: Arc<Loaded>,
    starts: Mutex<FxHashMap<u64, Start>>,
    searches: Mutex<FxHashMap<Lists, Arc<Search>>>,
    loaded: Mutex<Texts>,
    memo: Mutex<Memo>,
}

/// Texts made ready to run, by digest, and when each was used last.
#[derive(Default)]
struct Texts {
    known: FxHashMap<[u8; 32], (Arc<Loaded>, u64)>,
    bytes: usize,
    uses: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let tables = Tables::new();
        let blank = Macro { params: None, rest: Rest::No, body: Box::default() };
        let marked = tables.add(blank).expect("the tables are empty");
        let nothing = Arc::new(Loaded::new(Arc::default(), &tables).expect("the tables are empty"));
        Self {
            tables,
            marked,
            nothing,
            starts: Mutex::default(),
            searches: Mutex::default(),
            loaded: Mutex::default(),
            memo: Mutex::default(),
        }
    }

    /// Whether it is time for another.
    pub(crate) fn is_full(&self) -> bool {
        let tables = &self.tables;
        let bytes = tables.names.bytes() + tables.macros.bytes() + tables.files.bytes();
        let count = tables.names.len().max(tables.macros.len()).max(tables.files.len());
        bytes > TABLES_BYTES_MAX || count > NUMBERED_MAX / 2
    }

    /// What the compiler defines by itself, its answers included.
    pub(crate) fn start(&self, dialect: &Dialect) -> Result<Start, Full> {
        if let Some(start) = lock(&self.starts).get(&dialect.id) {
            return Ok(start.clone());
        }
        let tables = &self.tables;
        let mut start = Vec::new();
        for (name, text) in &dialect.predefined {
            if let Some(definition) = tables.define(&tables.lex(text)?)? {
                start.push((tables.name(name)?, definition));
            }
        }
        for (question, &answer) in &dialect.answers {
            start.push((tables.name(&answer_name(question))?, self.answer_definition(answer)?));
        }
        let start: Start = start.into();
        let mut starts = lock(&self.starts);
        if starts.len() >= STARTS_MAX {
            starts.clear();
        }
        starts.insert(dialect.id, start.clone());
        Ok(start)
    }

    fn answer_definition(&self, answer: Answer) -> Result<Def, Full> {
        let Answer::Value(value) = answer else {
            return Ok(self.marked);
        };
        let sym = self.tables.name(value.to_string().as_bytes())?;
        let token = Tok { sym, kind: Kind::Number, space: false, painted: false };
        self.tables.add(Macro { params: None, rest: Rest::No, body: Box::new([token]) })
    }

    /// The answer that a definition stands for.
    pub(crate) fn answer(&self, definition: Def) -> Answer {
        let value =
            self.tables.definition(definition).body.first().map(|token| self.tables.names.get(token.sym));
        let value = value.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        value.map_or(Answer::Refused, Answer::Value)
    }

    pub(crate) fn search(&self, dirs: &SearchDirs) -> Result<Arc<Search>, Undecided> {
        let key = [dirs.quote.clone(), dirs.angle.clone(), dirs.frameworks.clone()];
        if let Some(search) = lock(&self.searches).get(&key) {
            return Ok(search.clone());
        }
        let search = Arc::new(Search::new(dirs, |dir| self.tables.name(dir).map_err(full))?);
        let mut searches = lock(&self.searches);
        if searches.len() >= SEARCHES_MAX {
            searches.clear();
        }
        searches.insert(key, search.clone());
        Ok(search)
    }

    /// What includes did before. To be held briefly.
    pub(crate) fn memo(&self) -> MutexGuard<'_, Memo> {
        lock(&self.memo)
    }

    /// The text of that digest, if it is ready.
    pub(crate) fn loaded(&self, digest: &[u8; 32]) -> Option<Arc<Loaded>> {
        let mut texts = lock(&self.loaded);
        texts.uses += 1;
        let now = texts.uses;
        let (loaded, used) = texts.known.get_mut(digest)?;
        *used = now;
        Some(loaded.clone())
    }

    /// Makes a text ready.
    pub(crate) fn load(&self, digest: &[u8; 32], text: Arc<Text>) -> Result<Arc<Loaded>, Full> {
        let loaded = Arc::new(Loaded::new(text, &self.tables)?);
        let bytes = loaded.bytes() + loaded.text.bytes();
        let mut texts = lock(&self.loaded);
        texts.bytes += bytes;
        let now = texts.uses;
        if let Some((before, _)) = texts.known.insert(*digest, (loaded.clone(), now)) {
            texts.bytes -= before.bytes() + before.text.bytes();
        }
        if texts.bytes > LOADED_BYTES_MAX {
            texts.drop_older_half();
        }
        Ok(loaded)
    }
}

impl Texts {
    fn drop_older_half(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|(_, used)| *used).collect();
        let middle = uses.len() / 2;
        let (_, &mut middle, _) = uses.select_nth_unstable(middle);
        self.known.retain(|_, (_, used)| *used >= middle);
        self.bytes = self.known.values().map(|(loaded, _)| loaded.bytes() + loaded.text.bytes()).sum();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in these maps is whole between two calls; whoever panicked left it so.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
