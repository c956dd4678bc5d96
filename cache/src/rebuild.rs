//! The index built anew from blob files and journal.
//!
//! For 10^5 actions that takes some seconds, so it is done from the disk alone, without the store's mutex: on a thread
//! of its own ([`Rebuild`]) while the store finds nothing and takes nothing. Nobody else changes files meanwhile, but for
//! deleting blobs that were found rotten.
//!
//! Memory is bounded by what is on disk: about 60 bytes for a blob, 80 for a record or foreign entry and 150 for a list
//! of manifests, until the index is filled. The filled database is closed and opened again, because what sled holds
//! after a long row of inserts is several times what it holds after an opening.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use barn_protocol::Digest;

use crate::{
    error::StoreError,
    index::{Detail, Index, Item, Kind, ManifestMeta, Meta},
    journal::{Entry, Journal, Location},
    layout::{Layout, Place},
    limits::MANIFESTS_PER_KEY_MAX,
    pins::{Pin, Pins},
    platform,
    recover::Totals,
    state::whose,
};

/// Items written to a new index at once: sled takes most memory for single ones and for large batches.
const BATCH_ITEMS: usize = 128;
/// An index of fewer items is not opened again after it was filled: sled takes a few MB for it anyway.
const SETTLED_ITEMS_MIN: u64 = 10_000;

type Result<T> = std::result::Result<T, StoreError>;

/// What a rebuild gives.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) index: Index,
    pub(crate) generation: u64,
    pub(crate) journal: Journal,
    pub(crate) totals: Totals,
    pub(crate) tick: u64,
    pub(crate) pins: Pins,
    /// Removed toolchains whose items go first.
    pub(crate) condemned: HashSet<Digest>,
}

/// A rebuild on a thread of its own. Dropping it stops it, and waits until it has stopped.
#[derive(Debug)]
pub(crate) struct Rebuild {
    thread: Option<JoinHandle<Result<Rebuilt>>>,
    stop: Arc<AtomicBool>,
}

impl Rebuild {
    /// Starts it; `journal` is not to be changed until it has ended.
    pub(crate) fn start(layout: &Layout, journal: &Journal) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (layout, sealed, stopped) = (layout.clone(), journal.is_sealed(), stop.clone());
        let root = layout.root().to_owned();
        let thread = thread::Builder::new()
            .name("barn-rebuild".to_owned())
            .spawn(move || run(&layout, sealed, &stopped))
            .map_err(StoreError::io("start a thread for the index of", &root))?;
        Ok(Self { thread: Some(thread), stop })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What it gave; waits for the end.
    pub(crate) fn finish(mut self) -> Result<Rebuilt> {
        let thread = self.thread.take().expect("it is taken only here and when dropped");
        thread.join().unwrap_or(Err(StoreError::Paused))
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the disk and fills a new index in a directory of its own. `sealed` says that the journal's last segment must not be
/// appended to.
///
/// # Errors
/// When the disk or the database fails, and `Paused` when it was told to stop.
pub(crate) fn run(layout: &Layout, sealed: bool, stop: &AtomicBool) -> Result<Rebuilt> {
    let root = layout.root();
    let mut journal = Journal::open(layout.journal()).map_err(StoreError::io("list the journal in", root))?;
    if sealed {
        journal.seal();
    }
    let mut found = Found::default();
    found.list_blobs(layout, stop)?;
    let segments: Vec<u64> = journal.segments().keys().copied().collect();
    for segment in segments {
        go_on(stop)?;
        let entries = journal.scan(segment).map_err(StoreError::io("read the journal in", root))?;
        for (at, entry) in entries {
            found.apply(at, entry);
        }
    }
    let generation = next_generation(layout).map_err(StoreError::io("list the indexes in", root))?;
    let dir = layout.index(generation);
    let index = Index::create(&dir).map_err(StoreError::index(root))?;
    let tick = found.tick;
    let fill = Fill { index: &index, root, totals: Totals::default(), batch: Vec::new() };
    let (totals, pins, condemned) = found.fill(fill, stop)?;
    let items = totals.blobs + totals.records + totals.manifests + totals.foreign;
    let index = if items < SETTLED_ITEMS_MIN {
        index
    } else {
        let index = index.settled(&dir).map_err(StoreError::index(root))?;
        platform::give_back();
        index
    };
    tracing::info!(blobs = totals.blobs, records = totals.records, "index rebuilt");
    Ok(Rebuilt { index, generation, journal, totals, tick, pins, condemned })
}

fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(StoreError::Paused) } else { Ok(()) }
}

fn next_generation(layout: &Layout) -> io::Result<u64> {
    let mut next = 1;
    for entry in fs::read_dir(layout.indexes())? {
        let number = entry?.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
        next = next.max(number.map_or(1, |n| n.saturating_add(1)));
    }
    Ok(next)
}

/// A toolchain's place in [`Toolchains`], or [`NONE`].
type Number = u32;
const NONE: Number = Number::MAX;

/// There are few toolchains and many items.
#[derive(Debug, Default)]
struct Toolchains {
    numbers: HashMap<Digest, Number>,
    digests: Vec<Digest>,
}

impl Toolchains {
    fn number(&mut self, toolchain: &Digest) -> Number {
        *self.numbers.entry(*toolchain).or_insert_with(|| {
            self.digests.push(*toolchain);
            Number::try_from(self.digests.len() - 1).expect("fewer toolchains than bytes in a journal")
        })
    }

    fn digest(&self, number: Number) -> Option<Digest> {
        self.digests.get(number as usize).copied()
    }
}

#[derive(Debug, Clone, Copy)]
struct FoundBlob {
    digest: Digest,
    size: u64,
    tick: u64,
    toolchain: Number,
    places: u8,
}

/// A record or a foreign entry.
#[derive(Debug, Clone, Copy)]
struct FoundEntry {
    tick: u64,
    at: Location,
    toolchain: Number,
    /// Whether all its blobs are here.
    whole: bool,
}

#[derive(Debug)]
struct FoundManifests {
    tick: u64,
    toolchain: Number,
    list: Vec<FoundManifest>,
}

#[derive(Debug, Clone, Copy)]
struct FoundManifest {
    tick: u64,
    at: Location,
    /// Its place in the row of blobs.
    blob: u32,
}

/// What the disk was found to hold.
#[derive(Debug, Default)]
struct Found {
    /// In the order of their digests.
    blobs: Vec<FoundBlob>,
    records: HashMap<Digest, FoundEntry>,
    manifests: HashMap<Digest, FoundManifests>,
    foreign: HashMap<Digest, FoundEntry>,
    toolchains: Toolchains,
    pins: Pins,
    condemned: HashSet<Digest>,
    tick: u64,
}

impl Found {
    fn list_blobs(&mut self, layout: &Layout, stop: &AtomicBool) -> Result<()> {
        let empty = Digest::of(b"");
        let listed = layout.for_each_blob(|digest, place, metadata| {
            let size = metadata.len();
            if size == 0 && digest != empty {
                remove_torn(layout, &digest, place);
            } else {
                let places = place.bit();
                self.blobs.push(FoundBlob { digest, size, tick: 0, toolchain: NONE, places });
            }
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        listed.map_err(StoreError::io("list the blobs in", layout.root()))?;
        go_on(stop)?;
        self.blobs.sort_unstable_by_key(|blob| (blob.digest, blob.places));
        self.blobs.dedup_by(|next, kept| {
            if next.digest != kept.digest {
                return false;
            }
            if next.size == kept.size {
                kept.places |= next.places;
            } else {
                // One of the two is torn; the digest judges the one that stays when it is read.
                Place::ALL.iter().filter(|place| next.places & place.bit() != 0).for_each(|place| {
                    remove_torn(layout, &next.digest, *place);
                });
            }
            true
        });
        Ok(())
    }

    fn apply(&mut self, at: Location, entry: Entry) {
        match entry {
            Entry::Record { key, toolchain, tick, blobs, .. } => {
                let mut whole = true;
                for blob in &blobs {
                    whole &= self.named_blob(blob, tick, &toolchain).is_some();
                }
                let toolchain = self.toolchains.number(&toolchain);
                self.records.insert(key, FoundEntry { tick, at, toolchain, whole });
            }
            Entry::Manifest { key, toolchain, tick, blob } => {
                if let Some(blob) = self.named_blob(&blob, tick, &toolchain) {
                    let toolchain = self.toolchains.number(&toolchain);
                    self.add_manifest(key, toolchain, FoundManifest { tick, at, blob });
                }
            }
            Entry::Pin { owner, blobs } => {
                self.condemned.remove(&owner);
                self.pins.set(&owner, Pin { at, blobs });
            }
            Entry::Unpin { owner } => {
                for blob in self.pins.remove(&owner).into_iter().flat_map(|pin| pin.blobs) {
                    if let Some(place) = self.used_blob(&blob, 0) {
                        self.adopt(place, &owner, |found, other| found.pins.of(other).is_some());
                    }
                }
                self.condemned.insert(owner);
            }
            Entry::Uses(uses) => {
                for (item, tick) in uses {
                    self.used(item, tick);
                }
            }
            Entry::Foreign { key, tick, blob } => {
                let whole = self.used_blob(&blob, tick).is_some();
                self.foreign.insert(key, FoundEntry { tick, at, toolchain: NONE, whole });
            }
            Entry::DropForeign { key } => {
                self.foreign.remove(&key);
            }
        }
    }

    fn add_manifest(&mut self, key: Digest, toolchain: Number, manifest: FoundManifest) {
        let fresh = || FoundManifests { tick: 0, toolchain, list: Vec::with_capacity(1) };
        let found = self.manifests.entry(key).or_insert_with(fresh);
        found.toolchain = toolchain;
        found.tick = found.tick.max(manifest.tick);
        found.list.retain(|m| m.blob != manifest.blob);
        found.list.push(manifest);
        found.list.sort_unstable_by_key(|m| std::cmp::Reverse(m.tick));
        found.list.truncate(MANIFESTS_PER_KEY_MAX);
    }

    /// Notes that a result of a toolchain names a blob; its place in the row, if it is here.
    fn named_blob(&mut self, digest: &Digest, tick: u64, toolchain: &Digest) -> Option<u32> {
        let place = self.used_blob(digest, tick)?;
        self.adopt(place, toolchain, |found, other| !found.condemned.contains(other));
        Some(place)
    }

    /// Notes a blob's use; its place in the row, if it is here.
    fn used_blob(&mut self, digest: &Digest, tick: u64) -> Option<u32> {
        self.tick = self.tick.max(tick);
        let place = self.blobs.binary_search_by_key(digest, |blob| blob.digest).ok()?;
        let blob = &mut self.blobs[place];
        blob.tick = blob.tick.max(tick);
        u32::try_from(place).ok()
    }

    /// As the store does it while it is open.
    fn adopt(&mut self, place: u32, toolchain: &Digest, counts: fn(&Self, &Digest) -> bool) {
        let before = self.toolchains.digest(self.blobs[place as usize].toolchain);
        let whose = whose(before, *toolchain, |other| counts(self, other));
        self.blobs[place as usize].toolchain = self.toolchains.number(&whose);
    }

    fn used(&mut self, item: Item, tick: u64) {
        self.tick = self.tick.max(tick);
        let known = match item.kind {
            Kind::Blob => {
                self.used_blob(&item.digest, tick);
                None
            }
            Kind::Record => self.records.get_mut(&item.digest).map(|found| &mut found.tick),
            Kind::Manifests => self.manifests.get_mut(&item.digest).map(|found| &mut found.tick),
            Kind::Foreign => self.foreign.get_mut(&item.digest).map(|found| &mut found.tick),
        };
        if let Some(known) = known {
            *known = (*known).max(tick);
        }
    }

    /// Writes everything that is whole, in the order of the index's keys, and lets go of it on the way.
    fn fill(self, mut to: Fill<'_>, stop: &AtomicBool) -> Result<(Totals, Pins, HashSet<Digest>)> {
        let Self { blobs, records, manifests, foreign, toolchains, pins, condemned, .. } = self;
        for blob in &blobs {
            let detail = Detail::Blob { size: blob.size, places: blob.places };
            let toolchain = toolchains.digest(blob.toolchain);
            to.add(Item::blob(&blob.digest), Meta { tick: blob.tick, toolchain, detail })?;
            go_on(stop)?;
        }
        to.add_entries(records, Item::record, Detail::Record, &toolchains)?;
        go_on(stop)?;
        for (key, found) in sorted(manifests) {
            let list = found.list.iter().map(|m| {
                let blob = blobs[m.blob as usize].digest;
                ManifestMeta { tick: m.tick, blob, at: m.at }
            });
            let detail = Detail::Manifests(list.collect());
            let toolchain = toolchains.digest(found.toolchain);
            to.add(Item::manifests(&key), Meta { tick: found.tick, toolchain, detail })?;
        }
        go_on(stop)?;
        to.add_entries(foreign, Item::foreign, Detail::Foreign, &toolchains)?;
        to.write()?;
        to.name_owners(&pins, &condemned)?;
        Ok((to.totals, pins, condemned))
    }
}

/// An index being filled.
struct Fill<'a> {
    index: &'a Index,
    root: &'a Path,
    totals: Totals,
    batch: Vec<(Item, Meta)>,
}

impl Fill<'_> {
    fn add(&mut self, item: Item, meta: Meta) -> Result<()> {
        self.totals.add(item.kind, &meta);
        self.batch.push((item, meta));
        if self.batch.len() < BATCH_ITEMS { Ok(()) } else { self.write() }
    }

    fn add_entries(
        &mut self,
        entries: HashMap<Digest, FoundEntry>,
        item: fn(&Digest) -> Item,
        detail: fn(Location) -> Detail,
        toolchains: &Toolchains,
    ) -> Result<()> {
        for (key, FoundEntry { tick, at, toolchain, whole }) in sorted(entries) {
            if whole {
                let toolchain = toolchains.digest(toolchain);
                self.add(item(&key), Meta { tick, toolchain, detail: detail(at) })?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let batch = self.batch.iter().map(|(item, meta)| (*item, meta));
        self.index.set_all(batch).map_err(StoreError::index(self.root))?;
        self.batch.clear();
        Ok(())
    }

    fn name_owners(&mut self, pins: &Pins, condemned: &HashSet<Digest>) -> Result<()> {
        for (owner, pin) in pins.iter() {
            self.index.set_pins(owner, &pin.at).map_err(StoreError::index(self.root))?;
            self.totals.journal_live += u64::from(pin.at.len);
        }
        let named = condemned.iter().try_for_each(|toolchain| self.index.condemn(toolchain));
        named.map_err(StoreError::index(self.root))
    }
}

fn sorted<T>(found: HashMap<Digest, T>) -> Vec<(Digest, T)> {
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable_by_key(|(key, _)| *key);
    found
}

fn remove_torn(layout: &Layout, digest: &Digest, place: Place) {
    let path = layout.blob(digest, place);
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "cannot delete a torn blob");
    }
}
