//! What including a file did, to be done again without reading it.
//!
//! An [`Effect`] holds if every name it saw has the definition it saw, and every look-up finds what it found. Nothing
//! else enters into a run of directives: where the file is spelled to be and how it was found, the search list and
//! the compiler's habits are the [`Key`]; what else there is (`__INCLUDE_LEVEL__`, `#import`, macros restored from
//! outside) makes no effect. See `docs/scanner.md` for the argument.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustc_hash::FxHashMap;

use crate::{
    load::{Def, Loaded},
    mode::Mode,
    names::Sym,
    search::Found,
    state::{Code, State, Traces},
};

/// Effects may take that much memory, in bytes, by [`Effect::bytes`]'s account.
const BYTES_MAX: usize = 32 << 20;
/// Effects of one file in one position: units differ in what they include before.
const VARIANTS_MAX: usize = 12;

/// Which file, in which position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) file: u32,
    pub(crate) path: Sym,
    pub(crate) found: Found,
    pub(crate) search: u64,
    pub(crate) mode: Mode,
}

/// What including a file did.
pub(crate) struct Effect {
    reads: Box<[(Sym, Def)]>,
    writes: Box<[(Sym, Def)]>,
    looked: Box<[(Sym, Sym, Code)]>,
    /// Which of those were opened, in order.
    opened: Box<[(u32, Arc<Loaded>)]>,
    pub(crate) depth: u32,
    used: AtomicU64,
}

impl Effect {
    /// From traces, and what was loaded by file number.
    pub(crate) fn new(
        traces: &Traces,
        state: &State<'_>,
        loaded: impl Fn(Code) -> Option<Arc<Loaded>>,
    ) -> Option<Self> {
        let place = |&place: &u32| {
            let at = state.at(place);
            (at.dir, at.name, at.code)
        };
        let index: FxHashMap<u32, u32> = traces.looked.iter().copied().zip(0..).collect();
        let opened = traces.opened.iter().map(|place| {
            let code = state.at(*place).code;
            Some((*index.get(place)?, loaded(code)?))
        });
        Some(Self {
            reads: traces.reads.as_slice().into(),
            writes: traces.writes.as_slice().into(),
            looked: traces.looked.iter().map(place).collect(),
            opened: opened.collect::<Option<_>>()?,
            depth: traces.depth,
            used: AtomicU64::new(0),
        })
    }

    /// Whether it would be the same again. The places looked up on the way are of no consequence until then.
    pub(crate) fn holds(&self, state: &mut State<'_>) -> bool {
        self.reads.iter().all(|&(sym, seen)| state.peek(sym) == seen)
            && self.looked.iter().all(|&(dir, name, code)| {
                state.place(dir, name).is_ok_and(|place| state.at(place).code == code)
            })
    }

    /// Does it again.
    pub(crate) fn apply(&self, state: &mut State<'_>, mut opened: impl FnMut(Code, &Arc<Loaded>)) {
        for &(sym, _) in &self.reads {
            state.read(sym);
        }
        let mut places = Vec::with_capacity(self.looked.len());
        for &(dir, name, _) in &self.looked {
            // It was there when the effect was found to hold.
            if let Ok(place) = state.place(dir, name) {
                state.looked(place);
                places.push(place);
            }
        }
        for (at, loaded) in &self.opened {
            let place = places[*at as usize];
            state.opened(place);
            opened(state.at(place).code, loaded);
        }
        for &(sym, definition) in &self.writes {
            state.write(sym, definition);
        }
        let record = state.record();
        record.depth = record.depth.max(self.depth + 1);
    }

    /// Memory taken, in bytes. What is loaded is counted elsewhere.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + (self.reads.len() + self.writes.len()) * size_of::<(Sym, Def)>()
            + self.looked.len() * size_of::<(Sym, Sym, Code)>()
            + self.opened.len() * size_of::<(u32, Arc<Loaded>)>()
    }
}

/// Effects by key.
#[derive(Default)]
pub(crate) struct Memo {
    known: FxHashMap<Key, Vec<Arc<Effect>>>,
    bytes: usize,
    uses: u64,
}

impl Memo {
    /// All effects of a key, the one used last first.
    pub(crate) fn variants(&self, key: &Key) -> Vec<Arc<Effect>> {
        self.known.get(key).cloned().unwrap_or_default()
    }

    /// Notes that an effect was of use.
    pub(crate) fn used(&mut self, key: &Key, effect: &Arc<Effect>) {
        self.uses += 1;
        effect.used.store(self.uses, Ordering::Relaxed);
        if let Some(variants) = self.known.get_mut(key)
            && let Some(at) = variants.iter().position(|known| Arc::ptr_eq(known, effect))
        {
            variants[..=at].rotate_right(1);
        }
    }

    pub(crate) fn add(&mut self, key: Key, effect: Effect) {
        self.uses += 1;
        effect.used.store(self.uses, Ordering::Relaxed);
        self.bytes += effect.bytes();
        let variants = self.known.entry(key).or_default();
        variants.insert(0, Arc::new(effect));
        if variants.len() > VARIANTS_MAX
            && let Some(last) = variants.pop()
        {
            self.bytes -= last.bytes();
        }
        if self.bytes > BYTES_MAX {
            self.drop_older_half();
        }
    }

    fn drop_older_half(&mut self) {
        let used = |effect: &Arc<Effect>| effect.used.load(Ordering::Relaxed);
        let mut uses: Vec<u64> = self.known.values().flatten().map(used).collect();
        let middle = uses.len() / 2;
        let (_, &mut middle, _) = uses.select_nth_unstable(middle);
        for variants in self.known.values_mut() {
            variants.retain(|effect| used(effect) >= middle);
        }
        self.known.retain(|_, variants| !variants.is_empty());
        self.bytes = self.known.values().flatten().map(|effect| effect.bytes()).sum();
    }
}
