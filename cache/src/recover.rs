//! Opening and closing: from what is on disk to a [`State`], and back.
//!
//! Invariant: an index is trusted only if the store was closed in order. The marker that says so is deleted, and
//! the deletion made durable, before the database is started.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    path::Path,
};

use barn_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    evict::Eviction,
    index::{Detail, Index, IndexError, Kind, Meta},
    journal::{Entry, Journal},
    layout::Layout,
    limits::Limits,
    pins::{Pin, Pins},
    platform,
    state::State,
};

/// Sums over the index, kept beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// What counts against the limit.
    pub(crate) bytes: u64,
    pub(crate) blobs: u64,
    pub(crate) records: u64,
    pub(crate) manifests: u64,
    pub(crate) foreign: u64,
    /// Bytes of the journal's live entries, pins included.
    pub(crate) journal_live: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, kind: Kind, meta: &Meta) {
        self.bytes += meta.charge();
        self.journal_live += meta.journal_bytes();
        *self.count(kind) += Self::number(meta);
    }

    pub(crate) fn subtract(&mut self, kind: Kind, meta: &Meta) {
        self.bytes -= meta.charge();
        self.journal_live -= meta.journal_bytes();
        *self.count(kind) -= Self::number(meta);
    }

    fn number(meta: &Meta) -> u64 {
        if let Detail::Manifests(list) = &meta.detail { list.len() as u64 } else { 1 }
    }

    const fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Record => &mut self.records,
            Kind::Manifests => &mut self.manifests,
            Kind::Foreign => &mut self.foreign,
        }
    }
}

/// What the marker of an orderly close says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Clean {
    generation: u64,
    tick: u64,
    totals: Totals,
    segments: BTreeMap<u64, u64>,
}

/// Opens a store whose directories are made and locked. Without an index if that has to be rebuilt.
///
/// # Errors
/// When the journal's directory cannot be read.
pub(crate) fn open(layout: Layout, limits: Limits) -> io::Result<State> {
    Layout::empty(&layout.temporary(), Path::new(""));
    let mut state = State {
        journal: Journal::open(layout.journal())?,
        layout,
        limits,
        index: None,
        generation: 0,
        totals: Totals::default(),
        tick: 0,
        rebuild: None,
        touched: HashMap::new(),
        paused: None,
        checked: HashMap::new(),
        pins: Pins::default(),
        eviction: Eviction::default(),
        evicted: 0,
        rotten: 0,
    };
    if let Some(clean) = take_clean_marker(&state)
        && let Err(error) = reopen(&mut state, &clean)
    {
        tracing::warn!(%error, "the index is rebuilt");
        state.index = None;
    }
    if state.index.is_some() {
        let _ = state.guard(State::settle);
    }
    Ok(state)
}

/// Takes up the index that was closed in order.
fn reopen(state: &mut State, clean: &Clean) -> Result<(), IndexError> {
    let index = Index::reopen(&state.layout.index(clean.generation))?;
    for (owner, at) in index.pins()? {
        match state.journal.read(&at) {
            Ok(Entry::Pin { owner: found, blobs }) if found == owner => {
                state.pins.set(&owner, Pin { at, blobs });
            }
            _ => return Err(IndexError::NotOurs),
        }
    }
    index.condemned()?.iter().for_each(|toolchain| state.eviction.condemn(toolchain));
    state.index = Some(index);
    (state.generation, state.tick, state.totals) = (clean.generation, clean.tick, clean.totals);
    Ok(())
}

/// Closes in order, unless something fails; then the next open rebuilds.
pub(crate) fn close(state: &mut State) {
    state.take_in_rebuilt();
    // What is not done by now is done at the next open.
    if state.rebuild.take().is_some() || state.paused.is_some() {
        return;
    }
    let closed = state.write_touches().and_then(|()| {
        let Some(index) = state.index.take() else { return Err(StoreError::Paused) };
        index.flush().map_err(StoreError::index(state.layout.root()))?;
        drop(index);
        let marker = state.layout.clean_marker();
        state
            .journal
            .sync()
            .and_then(|()| write_clean_marker(state))
            .map_err(StoreError::io("write", &marker))
    });
    if let Err(error) = closed {
        tracing::warn!(%error, source = ?std::error::Error::source(&error), "the store was not closed in order");
    }
}

fn write_clean_marker(state: &State) -> io::Result<()> {
    let clean = Clean {
        generation: state.generation,
        tick: state.tick,
        totals: state.totals,
        segments: state.journal.segments().clone(),
    };
    let body = postcard::to_stdvec(&clean).map_err(io::Error::other)?;
    let temporary = state.layout.temporary().join("clean");
    let mut file = platform::private().write(true).create_new(true).open(&temporary)?;
    file.write_all(Digest::of(&body).as_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, state.layout.clean_marker())?;
    platform::sync_dir(&state.layout.indexes())
}

/// The marker, if it is there, well-formed, of this journal, and now durably gone.
fn take_clean_marker(state: &State) -> Option<Clean> {
    let path = state.layout.clean_marker();
    let bytes = fs::read(&path).ok()?;
    fs::remove_file(&path).and_then(|()| platform::sync_dir(&state.layout.indexes())).ok()?;
    let (sum, body) = bytes.split_first_chunk::<32>()?;
    if Digest::of(body) != Digest::from_bytes(*sum) {
        return None;
    }
    let clean: Clean = postcard::from_bytes(body).ok()?;
    (clean.segments == *state.journal.segments()).then_some(clean)
}
