//! Opening and closing: from what is on disk to a [`State`], and back.
//!
//! Invariant: an index is trusted only if the store was closed in order. The marker that says so is deleted, and
//! the deletion made durable, before the database is started.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{self, Write},
    path::Path,
};

use barn_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    evict::Eviction,
    index::{Detail, Index, IndexError, Item, Kind, ManifestMeta, Meta},
    journal::{Entry, Journal, Location},
    layout::Layout,
    limits::{Limits, MANIFESTS_PER_KEY_MAX},
    pins::{Pin, Pins},
    platform,
    state::State,
};

/// Items written to a new index at once: sled takes most memory for single ones and for large batches.
const BATCH_ITEMS: usize = 128;

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

/// Opens a store whose directories are made and locked. If no index can be had, the store starts paused.
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
    if state.index.is_none() {
        // An error pauses the store: the node starts, and a later put tries again.
        let _ = state.guard(rebuild);
    }
    let _ = state.guard(State::settle);
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
    if state.paused.is_some() {
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

/// Builds the index anew from blob files and journal, in a directory of its own.
pub(crate) fn rebuild(state: &mut State) -> Result<(), StoreError> {
    let root = state.layout.root().to_owned();
    let mut found = Found::default();
    found.list_blobs(&state.layout).map_err(StoreError::io("list the blobs in", &root))?;
    let segments: Vec<u64> = state.journal.segments().keys().copied().collect();
    for segment in segments {
        let entries = state.journal.scan(segment).map_err(StoreError::io("read the journal in", &root))?;
        for (at, entry) in entries {
            found.apply(at, entry);
        }
    }
    found.drop_incomplete();
    let generation = next_generation(&state.layout).map_err(StoreError::io("list the indexes in", &root))?;
    let index = Index::create(&state.layout.index(generation)).map_err(StoreError::index(&root))?;
    let totals = found.fill(&index).map_err(StoreError::index(&root))?;
    tracing::info!(blobs = totals.blobs, records = totals.records, "index rebuilt");
    state.tick = state.tick.max(found.tick);
    state.touched.clear();
    state.checked.clear();
    state.eviction = Eviction::default();
    found.condemned.iter().for_each(|toolchain| state.eviction.condemn(toolchain));
    state.pins = found.pins;
    (state.index, state.generation, state.totals) = (Some(index), generation, totals);
    Layout::empty(&state.layout.indexes(), &state.layout.index(generation));
    Ok(())
}

fn next_generation(layout: &Layout) -> io::Result<u64> {
    let mut next = 1;
    for entry in fs::read_dir(layout.indexes())? {
        let number = entry?.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
        next = next.max(number.map_or(1, |n| n.saturating_add(1)));
    }
    Ok(next)
}

/// What the disk was found to hold. Takes some hundred bytes of memory per item, for the time of a rebuild.
#[derive(Debug, Default)]
struct Found {
    items: HashMap<Item, Meta>,
    /// The blobs each record needs.
    needs: HashMap<Digest, Vec<Digest>>,
    /// The blob each foreign entry is.
    contents: HashMap<Digest, Digest>,
    pins: Pins,
    condemned: HashSet<Digest>,
    tick: u64,
}

impl Found {
    fn list_blobs(&mut self, layout: &Layout) -> io::Result<()> {
        let empty = Digest::of(b"");
        layout.for_each_blob(|digest, place, metadata| {
            let path = layout.blob(&digest, place);
            let meta = self.items.entry(Item::blob(&digest)).or_insert(Meta {
                tick: 0,
                toolchain: None,
                detail: Detail::Blob { size: metadata.len(), places: 0 },
            });
            let Detail::Blob { size, places } = &mut meta.detail else { return };
            // Of two places that differ one is torn; the digest judges the one that stays when it is read.
            let torn = (metadata.len() == 0 && digest != empty) || metadata.len() != *size;
            if torn && let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete a torn blob");
            }
            *places |= if torn { 0 } else { place.bit() };
        })?;
        self.items.retain(|_, meta| meta.places().next().is_some());
        Ok(())
    }

    fn apply(&mut self, at: Location, entry: Entry) {
        match entry {
            Entry::Record { key, toolchain, tick, blobs, .. } => {
                for blob in &blobs {
                    self.used(Item::blob(blob), tick, Some(toolchain));
                }
                self.used(Item::record(&key), tick, None);
                let meta = Meta { tick, toolchain: Some(toolchain), detail: Detail::Record(at) };
                self.items.insert(Item::record(&key), meta);
                self.needs.insert(key, blobs);
            }
            Entry::Manifest { key, toolchain, tick, blob } => {
                self.used(Item::blob(&blob), tick, Some(toolchain));
                self.add_manifest(&key, toolchain, ManifestMeta { tick, blob, at });
            }
            Entry::Pin { owner, blobs } => {
                self.condemned.remove(&owner);
                self.pins.set(&owner, Pin { at, blobs });
            }
            Entry::Unpin { owner } => {
                for blob in self.pins.remove(&owner).into_iter().flat_map(|pin| pin.blobs) {
                    self.used(Item::blob(&blob), 0, Some(owner));
                }
                self.condemned.insert(owner);
            }
            Entry::Uses(uses) => {
                for (item, tick) in uses {
                    self.used(item, tick, None);
                }
            }
            Entry::Foreign { key, tick, blob } => {
                self.used(Item::blob(&blob), tick, None);
                self.used(Item::foreign(&key), tick, None);
                let meta = Meta { tick, toolchain: None, detail: Detail::Foreign(at) };
                self.items.insert(Item::foreign(&key), meta);
                self.contents.insert(key, blob);
            }
            Entry::DropForeign { key } => {
                self.items.remove(&Item::foreign(&key));
            }
        }
    }

    fn add_manifest(&mut self, key: &Digest, toolchain: Digest, manifest: ManifestMeta) {
        let item = Item::manifests(key);
        self.used(item, manifest.tick, Some(toolchain));
        let meta = self.items.entry(item).or_insert(Meta {
            tick: manifest.tick,
            toolchain: Some(toolchain),
            detail: Detail::Manifests(Vec::new()),
        });
        let Detail::Manifests(list) = &mut meta.detail else { return };
        list.retain(|m| m.blob != manifest.blob);
        list.push(manifest);
        list.sort_unstable_by_key(|m| std::cmp::Reverse(m.tick));
        list.truncate(MANIFESTS_PER_KEY_MAX);
    }

    fn used(&mut self, item: Item, tick: u64, toolchain: Option<Digest>) {
        self.tick = self.tick.max(tick);
        if let Some(meta) = self.items.get_mut(&item) {
            meta.tick = meta.tick.max(tick);
            meta.toolchain = toolchain.or(meta.toolchain);
        }
    }

    /// Forgets records, manifests and foreign entries whose blobs are not here.
    fn drop_incomplete(&mut self) {
        let blobs: HashSet<Digest> =
            self.items.keys().filter(|i| i.kind == Kind::Blob).map(|i| i.digest).collect();
        let (needs, contents) = (&self.needs, &self.contents);
        self.items.retain(|item, meta| match &mut meta.detail {
            Detail::Blob { .. } => true,
            Detail::Record(_) => needs[&item.digest].iter().all(|b| blobs.contains(b)),
            Detail::Manifests(list) => {
                list.retain(|m| blobs.contains(&m.blob));
                !list.is_empty()
            }
            Detail::Foreign(_) => blobs.contains(&contents[&item.digest]),
        });
    }

    fn fill(&self, index: &Index) -> Result<Totals, IndexError> {
        let mut totals = Totals::default();
        for (owner, pin) in self.pins.iter() {
            index.set_pins(owner, &pin.at)?;
            totals.journal_live += u64::from(pin.at.len);
        }
        let mut items: Vec<_> = self.items.iter().map(|(item, meta)| (*item, meta)).collect();
        items.sort_unstable_by_key(|(item, _)| *item);
        for some in items.chunks(BATCH_ITEMS) {
            index.set_all(some.iter().copied())?;
            some.iter().for_each(|(item, meta)| totals.add(item.kind, meta));
        }
        for toolchain in &self.condemned {
            index.condemn(toolchain)?;
        }
        Ok(totals)
    }
}
