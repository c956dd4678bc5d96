//! What the store's mutex guards: journal, index, totals, and the decisions taken on them.
//!
//! Every method is short; hashing and copying of contents happen outside. Errors of the disk or the index go up
//! as [`StoreError`]s and pause the store there ([`State::guard`]).

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::Path,
    time::Instant,
};

use barn_protocol::{Digest, identity::SignedBytes};

use crate::{
    error::StoreError,
    evict::{Effort, Eviction},
    index::{Detail, Index, IndexError, Item, Kind, ManifestMeta, Meta, SEVERAL},
    journal::{self, Entry, Journal, Location},
    layout::{Layout, Place},
    limits::{
        CHECKED_PATHS_MAX, JOURNAL_SLACK_BYTES, Limits, MANIFESTS_PER_KEY_MAX, PIN_OWNERS_MAX, TOUCHES_MAX,
    },
    pins::{Pin, Pins},
    platform::{self, Stamp},
    rebuild::{Rebuild, Rebuilt},
    recover::Totals,
};

type Result<T> = std::result::Result<T, StoreError>;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    pub(crate) journal: Journal,
    /// `None` after it failed and while it is rebuilt.
    pub(crate) index: Option<Index>,
    /// The rebuild of the index that is under way.
    pub(crate) rebuild: Option<Rebuild>,
    /// Which of the index directories is in use.
    pub(crate) generation: u64,
    pub(crate) totals: Totals,
    /// Counts uses; the last one given out.
    pub(crate) tick: u64,
    /// Uses not yet written to index and journal.
    pub(crate) touched: HashMap<Item, u64>,
    /// Since when nothing is written, and why.
    pub(crate) paused: Option<Pause>,
    /// Public files that were verified, as they looked then.
    pub(crate) checked: HashMap<(Digest, Place), Stamp>,
    pub(crate) pins: Pins,
    pub(crate) eviction: Eviction,
    pub(crate) evicted: u64,
    pub(crate) rotten: u64,
}

/// A time in which nothing is written.
#[derive(Debug)]
pub(crate) struct Pause {
    pub(crate) since: Instant,
    /// What failed, for a person.
    pub(crate) why: String,
}

impl State {
    /// Lets `run` change the store; pauses it if that fails for a reason of its own.
    pub(crate) fn guard<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = run(self);
        if let Err(error) = &result {
            self.note(error);
        }
        result
    }

    /// Pauses the store if the error is one of the store itself.
    pub(crate) fn note(&mut self, error: &StoreError) {
        if !error.pauses() {
            return;
        }
        if let StoreError::Index { .. } = error {
            self.index = None;
        }
        tracing::warn!(%error, source = ?std::error::Error::source(error), "the store pauses");
        let source = std::error::Error::source(error).map(|source| format!(": {source}"));
        let why = format!("{error}{}", source.unwrap_or_default());
        self.paused = Some(Pause { since: Instant::now(), why });
    }

    /// Whether writing may be tried; a paused store resumes here.
    ///
    /// # Errors
    /// `Paused`, also while the index is rebuilt, which begins here; `NoSpace`.
    pub(crate) fn writable(&mut self) -> Result<()> {
        if self.paused.as_ref().is_some_and(|pause| pause.since.elapsed() < self.limits.retry_after) {
            return Err(StoreError::Paused);
        }
        let wanted = self.limits.free_bytes_min;
        if platform::free_bytes(self.layout.root()).is_some_and(|free| free < wanted) {
            return Err(StoreError::NoSpace { path: self.layout.root().to_owned(), wanted });
        }
        if self.index.is_none() {
            self.begin_rebuild()?;
            return Err(StoreError::Paused);
        }
        if self.paused.take().is_some() {
            tracing::info!(path = %self.layout.root().display(), "the store resumes");
        }
        Ok(())
    }

    /// Starts to rebuild the index, unless that is under way.
    pub(crate) fn begin_rebuild(&mut self) -> Result<()> {
        if self.rebuild.is_none() {
            self.rebuild = Some(Rebuild::start(&self.layout, &self.journal)?);
        }
        Ok(())
    }

    /// Takes up the index of a rebuild that has ended. If it failed, the store pauses, and a later put tries again.
    pub(crate) fn take_in_rebuilt(&mut self) {
        if let Some(rebuild) = self.rebuild.take_if(|rebuild| rebuild.has_ended()) {
            let _ = self.guard(|state| rebuild.finish().and_then(|rebuilt| state.take_in_index(rebuilt)));
        }
    }

    fn take_in_index(&mut self, rebuilt: Rebuilt) -> Result<()> {
        self.tick = self.tick.max(rebuilt.tick);
        self.touched.clear();
        self.checked.clear();
        self.eviction = Eviction::default();
        rebuilt.condemned.iter().for_each(|toolchain| self.eviction.condemn(toolchain));
        (self.journal, self.pins, self.totals) = (rebuilt.journal, rebuilt.pins, rebuilt.totals);
        (self.index, self.generation) = (Some(rebuilt.index), rebuilt.generation);
        Layout::empty(&self.layout.indexes(), &self.layout.index(self.generation));
        self.settle()
    }

    /// A blob that is there, as far as its size tells.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Meta>> {
        let meta = self.get(Item::blob(digest))?;
        Ok(meta.filter(|m| {
            let Detail::Blob { size, .. } = m.detail else { return false };
            m.places().all(|place| {
                fs::symlink_metadata(self.layout.blob(digest, place))
                    .is_ok_and(|f| f.is_file() && f.len() == size)
            })
        }))
    }

    /// Moves a finished temporary file to its blob's name. A blob that is there already stays.
    pub(crate) fn admit(&mut self, temporary: &Path, digest: &Digest, size: u64) -> Result<()> {
        let item = Item::blob(digest);
        if self.blob(digest)?.is_some() {
            self.touch(item);
            let _ = fs::remove_file(temporary);
            return Ok(());
        }
        self.remove(item)?;
        let place = Place::Private;
        self.layout
            .rename_to_blob(temporary, digest, place)
            .map_err(StoreError::io("rename", &self.layout.blob(digest, place)))?;
        let tick = self.touch(item);
        self.set(item, Meta { tick, toolchain: None, detail: Detail::Blob { size, places: place.bit() } })?;
        self.settle()
    }

    /// Turns a blob's private file into a public one. `false` if it has no private one, or is public already.
    pub(crate) fn make_public(&mut self, digest: &Digest, place: Place) -> Result<bool> {
        let Some(mut meta) = self.get(Item::blob(digest))? else { return Ok(false) };
        if meta.places().any(|p| p == place) {
            return Ok(true);
        }
        let Detail::Blob { places, .. } = &mut meta.detail else { return Ok(false) };
        if *places & Place::Private.bit() == 0 {
            return Ok(false);
        }
        let private = self.layout.blob(digest, Place::Private);
        let published = File::open(&private)
            .and_then(|file| platform::set_mode(&file, place.mode()))
            .and_then(|()| self.layout.rename_to_blob(&private, digest, place));
        match published {
            Ok(()) => {
                *places = (*places & !Place::Private.bit()) | place.bit();
                self.set(Item::blob(digest), meta)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("publish", &private)(error)),
        }
    }

    /// Moves a finished copy of a blob that is here to a further place.
    pub(crate) fn admit_copy(
        &mut self,
        temporary: &Path,
        digest: &Digest,
        place: Place,
        size: u64,
    ) -> Result<()> {
        self.layout
            .rename_to_blob(temporary, digest, place)
            .map_err(StoreError::io("rename", &self.layout.blob(digest, place)))?;
        self.take_in(digest, place, size)?;
        self.settle()
    }

    /// Enters a file that is in its place. `false` if a file of another size is known by that digest.
    pub(crate) fn take_in(&mut self, digest: &Digest, place: Place, size: u64) -> Result<bool> {
        let item = Item::blob(digest);
        let tick = self.touch(item);
        let mut meta = self.get(item)?.unwrap_or(Meta {
            tick,
            toolchain: None,
            detail: Detail::Blob { size, places: 0 },
        });
        match &mut meta.detail {
            Detail::Blob { size: known, places } if *known == size => *places |= place.bit(),
            _ => return Ok(false),
        }
        self.set(item, meta)?;
        Ok(true)
    }

    /// Takes a blob out of one place: it is rotten, or gone, there.
    pub(crate) fn discard(&mut self, digest: &Digest, place: Place) -> Result<()> {
        let item = Item::blob(digest);
        self.checked.remove(&(*digest, place));
        remove_file(&self.layout.blob(digest, place))?;
        let Some(mut meta) = self.get(item)? else { return Ok(()) };
        if let Detail::Blob { places, .. } = &mut meta.detail {
            *places &= !place.bit();
        }
        if meta.places().next().is_none() { self.remove(item) } else { self.set(item, meta) }
    }

    /// Adds a record; its blobs must be there.
    pub(crate) fn put_record(
        &mut self,
        key: &Digest,
        toolchain: &Digest,
        signed: &SignedBytes,
        blobs: &[Digest],
    ) -> Result<()> {
        for blob in blobs {
            if self.blob(blob)?.is_none() {
                return Err(StoreError::MissingBlob(*blob));
            }
        }
        let item = Item::record(key);
        for blob in blobs {
            self.name_user(blob, toolchain)?;
        }
        let tick = self.touch(item);
        let entry = Entry::Record {
            key: *key,
            toolchain: *toolchain,
            tick,
            blobs: blobs.to_vec(),
            signed: signed.clone(),
        };
        let at = self.append(&entry)?;
        self.set(item, Meta { tick, toolchain: Some(*toolchain), detail: Detail::Record(at) })?;
        self.settle()
    }

    /// A record all of whose blobs are there, now used; any other is dropped.
    pub(crate) fn record(&mut self, key: &Digest) -> Result<Option<SignedBytes>> {
        let Some((blobs, signed)) = self.load_record(key)? else { return Ok(None) };
        for used in blobs.iter().map(Item::blob).chain([Item::record(key)]) {
            self.touch(used);
        }
        Ok(Some(signed))
    }

    /// Where an action's record is.
    pub(crate) fn record_at(&self, key: &Digest) -> Result<Option<Location>> {
        Ok(match self.get(Item::record(key))? {
            Some(Meta { detail: Detail::Record(at), .. }) => Some(at),
            _ => None,
        })
    }

    /// A record and its blobs, which are all there; any other is dropped.
    pub(crate) fn load_record(&mut self, key: &Digest) -> Result<Option<(Vec<Digest>, SignedBytes)>> {
        let item = Item::record(key);
        let Some(Meta { detail: Detail::Record(at), .. }) = self.get(item)? else { return Ok(None) };
        let (blobs, signed) = match self.journal.read(&at) {
            Ok(Entry::Record { key: found, blobs, signed, .. }) if found == *key => (blobs, signed),
            Err(error) if !journal::is_lost(&error) => return Ok(None),
            _ => {
                self.rotten += 1;
                self.remove(item)?;
                return Ok(None);
            }
        };
        for blob in &blobs {
            if self.blob(blob)?.is_none() {
                self.remove(item)?;
                return Ok(None);
            }
        }
        Ok(Some((blobs, signed)))
    }

    /// Adds a manifest, whose bytes are the blob, in front of the others of its key.
    pub(crate) fn put_manifest(&mut self, key: &Digest, toolchain: &Digest, blob: &Digest) -> Result<()> {
        let item = Item::manifests(key);
        self.name_user(blob, toolchain)?;
        let tick = self.touch(item);
        let entry = Entry::Manifest { key: *key, toolchain: *toolchain, tick, blob: *blob };
        let at = self.append(&entry)?;
        let mut list = self.manifests(key)?;
        list.retain(|m| m.blob != *blob);
        list.insert(0, ManifestMeta { tick, blob: *blob, at });
        list.truncate(MANIFESTS_PER_KEY_MAX);
        self.set(item, Meta { tick, toolchain: Some(*toolchain), detail: Detail::Manifests(list) })?;
        self.settle()
    }

    /// The manifests of a key, most recent first.
    pub(crate) fn manifests(&self, key: &Digest) -> Result<Vec<ManifestMeta>> {
        Ok(match self.get(Item::manifests(key))? {
            Some(Meta { detail: Detail::Manifests(list), .. }) => list,
            _ => Vec::new(),
        })
    }

    /// Notes that a key's manifests were read, and forgets those whose blobs are gone.
    pub(crate) fn manifests_read(&mut self, key: &Digest, gone: &[Digest]) -> Result<()> {
        let item = Item::manifests(key);
        self.touch(item);
        let Some(mut meta) = self.get(item)?.filter(|_| !gone.is_empty()) else { return Ok(()) };
        let Detail::Manifests(list) = &mut meta.detail else { return Ok(()) };
        list.retain(|m| !gone.contains(&m.blob));
        if list.is_empty() { self.remove(item) } else { self.set(item, meta) }
    }

    /// Pins exactly these blobs for `owner`, whether they are here yet or not.
    pub(crate) fn pin(&mut self, owner: &Digest, blobs: &[Digest]) -> Result<()> {
        if self.pins.of(owner).is_some_and(|pin| pin.blobs == blobs) {
            return Ok(());
        }
        if self.pins.of(owner).is_none() && self.pins.owners() >= PIN_OWNERS_MAX {
            return Err(StoreError::TooLarge(PIN_OWNERS_MAX as u64));
        }
        let at = self.append(&Entry::Pin { owner: *owner, blobs: blobs.to_vec() })?;
        self.indexed(|index| index.set_pins(owner, &at))?;
        self.indexed(|index| index.pardon(owner))?;
        self.eviction.pardon(owner);
        self.totals.journal_live += u64::from(at.len);
        if let Some(before) = self.pins.set(owner, Pin { at, blobs: blobs.to_vec() }) {
            self.totals.journal_live -= u64::from(before.at.len);
        }
        self.maintain_journal()
    }

    /// Removes an owner's pins; what it pinned, and what was stored under it, goes first from now on.
    pub(crate) fn unpin(&mut self, owner: &Digest) -> Result<()> {
        if self.pins.of(owner).is_none() {
            return Ok(());
        }
        self.append(&Entry::Unpin { owner: *owner })?;
        self.indexed(|index| index.remove_pins(owner))?;
        self.indexed(|index| index.condemn(owner))?;
        self.eviction.condemn(owner);
        let Some(before) = self.pins.remove(owner) else { return Ok(()) };
        self.totals.journal_live -= u64::from(before.at.len);
        for blob in &before.blobs {
            self.adopt(blob, owner, |state, other| state.pins.of(other).is_some())?;
        }
        self.maintain_journal()
    }

    /// Installed toolchains pin nothing: what is theirs goes by use. Being pinned only tells them from removed ones.
    pub(crate) fn name_installed(&mut self, toolchains: &HashSet<Digest>) -> Result<()> {
        let bare = self.pins.iter().filter(|(_, pin)| pin.blobs.is_empty()).map(|(owner, _)| *owner);
        let removed: Vec<Digest> = bare.filter(|owner| !toolchains.contains(owner)).collect();
        removed.iter().try_for_each(|owner| self.unpin(owner))?;
        let unknown: Vec<&Digest> = toolchains.iter().filter(|t| self.pins.of(t).is_none()).collect();
        unknown.into_iter().try_for_each(|toolchain| self.pin(toolchain, &[]))
    }

    /// Notes a use; returns its tick.
    pub(crate) fn touch(&mut self, item: Item) -> u64 {
        self.tick += 1;
        self.touched.insert(item, self.tick);
        self.tick
    }

    /// Writes the gathered uses if there are many. A paused store forgets them.
    pub(crate) fn write_touches_if_many(&mut self) -> Result<()> {
        if self.touched.len() < TOUCHES_MAX {
            return Ok(());
        }
        if self.paused.is_some() {
            self.touched.clear();
            return Ok(());
        }
        self.write_touches()?;
        self.maintain_journal()
    }

    pub(crate) fn write_touches(&mut self) -> Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        let mut uses: Vec<_> = self.touched.drain().collect();
        uses.sort_unstable_by_key(|(_, tick)| *tick);
        let mut changed = Vec::new();
        for (item, tick) in &uses {
            if let Some(meta) = self.get(*item)?.filter(|m| m.tick < *tick) {
                changed.push((*item, Meta { tick: *tick, ..meta }));
            }
        }
        self.indexed(|index| index.set_all(changed.iter().map(|(item, meta)| (*item, meta))))?;
        for some in uses.chunks(TOUCHES_MAX) {
            self.append(&Entry::Uses(some.to_vec()))?;
        }
        Ok(())
    }

    /// After a put: back under the limits, by a bounded amount of work.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.write_touches_if_many()?;
        self.evict(self.limits.bytes_max, Effort::PUT)?;
        self.maintain_journal()
    }

    /// Cleans the oldest segment if the journal is mostly dead.
    pub(crate) fn maintain_journal(&mut self) -> Result<()> {
        let live = self.totals.journal_live;
        if self.journal.bytes() > live.saturating_mul(2).saturating_add(JOURNAL_SLACK_BYTES) {
            self.clean_oldest_segment()?;
        }
        Ok(())
    }

    /// Copies what is live of the oldest segment to the head and deletes the segment. The copies are made durable
    /// before.
    pub(crate) fn clean_oldest_segment(&mut self) -> Result<()> {
        let Some((&oldest, _)) = self.journal.segments().first_key_value() else { return Ok(()) };
        if self.journal.segments().len() == 1 {
            self.journal.seal();
        }
        let dir = self.journal.dir().to_owned();
        let entries = self.journal.scan(oldest).map_err(StoreError::io("read the journal in", &dir))?;
        for (at, entry) in entries {
            self.keep_if_live(&at, entry)?;
        }
        self.journal.sync().map_err(StoreError::io("sync the journal in", &dir))?;
        self.journal.remove(oldest).map_err(StoreError::io("delete from the journal in", &dir))
    }

    fn keep_if_live(&mut self, at: &Location, entry: Entry) -> Result<()> {
        match entry {
            Entry::Record { key, toolchain, blobs, signed, .. } => {
                let item = Item::record(&key);
                let Some(meta) = self.get(item)?.filter(|m| m.detail == Detail::Record(*at)) else {
                    return Ok(());
                };
                let moved = self.append(&Entry::Record { key, toolchain, tick: meta.tick, blobs, signed })?;
                self.set(item, Meta { detail: Detail::Record(moved), ..meta })
            }
            Entry::Manifest { key, toolchain, tick, blob } => {
                let item = Item::manifests(&key);
                let Some(mut meta) = self.get(item)? else { return Ok(()) };
                let Detail::Manifests(list) = &mut meta.detail else { return Ok(()) };
                let Some(place) = list.iter().position(|m| m.at == *at) else { return Ok(()) };
                let moved = self.append(&Entry::Manifest { key, toolchain, tick, blob })?;
                list[place].at = moved;
                self.set(item, meta)
            }
            Entry::Pin { owner, blobs } => {
                if self.pins.of(&owner).map(|pin| pin.at) != Some(*at) {
                    return Ok(());
                }
                let moved = self.append(&Entry::Pin { owner, blobs: blobs.clone() })?;
                self.pins.set(&owner, Pin { at: moved, blobs });
                self.indexed(|index| index.set_pins(&owner, &moved))
            }
            Entry::Foreign { key, blob, .. } => {
                let item = Item::foreign(&key);
                let Some(meta) = self.get(item)?.filter(|m| m.detail == Detail::Foreign(*at)) else {
                    return Ok(());
                };
                let moved = self.append(&Entry::Foreign { key, tick: meta.tick, blob })?;
                self.set(item, Meta { detail: Detail::Foreign(moved), ..meta })
            }
            // What they undo or refine is older than the oldest segment, or repeated in the index.
            Entry::Unpin { .. } | Entry::Uses(_) | Entry::DropForeign { .. } => Ok(()),
        }
    }

    /// Notes that a result of `toolchain` names a blob.
    fn name_user(&mut self, blob: &Digest, toolchain: &Digest) -> Result<()> {
        self.adopt(blob, toolchain, |state, other| !state.eviction.is_condemned(other))?;
        self.touch(Item::blob(blob));
        Ok(())
    }

    /// Makes a blob go with `toolchain`, or with nobody if another one has it that still `counts`.
    fn adopt(&mut self, blob: &Digest, toolchain: &Digest, counts: fn(&Self, &Digest) -> bool) -> Result<()> {
        let item = Item::blob(blob);
        let Some(meta) = self.get(item)? else { return Ok(()) };
        let whose = whose(meta.toolchain, *toolchain, |other| counts(self, other));
        if meta.toolchain == Some(whose) {
            return Ok(());
        }
        self.set(item, Meta { toolchain: Some(whose), ..meta })
    }

    /// Forgets an item and deletes a blob's files.
    pub(crate) fn remove(&mut self, item: Item) -> Result<()> {
        let Some(meta) = self.get(item)? else { return Ok(()) };
        for place in meta.places() {
            self.checked.remove(&(item.digest, place));
            remove_file(&self.layout.blob(&item.digest, place))?;
        }
        self.touched.remove(&item);
        self.indexed(|index| index.remove(item))?;
        self.totals.subtract(item.kind, &meta);
        Ok(())
    }

    pub(crate) fn get(&self, item: Item) -> Result<Option<Meta>> {
        self.indexed(|index| index.get(item))
    }

    pub(crate) fn set(&mut self, item: Item, meta: Meta) -> Result<()> {
        let old = self.get(item)?;
        self.indexed(|index| index.set(item, &meta))?;
        if let Some(old) = old {
            self.totals.subtract(item.kind, &old);
        }
        self.totals.add(item.kind, &meta);
        Ok(())
    }

    /// Whether a public file was found good and is unchanged. Notes the use, unless it is pinned.
    pub(crate) fn public_file(&mut self, digest: &Digest, place: Place, seen: &Stamp) -> bool {
        // A toolchain's blobs are asked for with every action, and pinned ones need no last use.
        if !self.pins.holds(digest) {
            self.touch(Item::blob(digest));
        }
        self.checked.get(&(*digest, place)) == Some(seen)
    }

    /// Remembers that a public file was found good.
    pub(crate) fn set_checked(&mut self, digest: &Digest, place: Place, stamp: Stamp) {
        if self.checked.len() >= CHECKED_PATHS_MAX {
            self.checked.clear();
        }
        self.checked.insert((*digest, place), stamp);
    }

    pub(crate) fn items_after(
        &self,
        kind: Kind,
        after: Option<Digest>,
        count: usize,
    ) -> Result<Vec<(Digest, Meta)>> {
        self.indexed(|index| index.items(kind, after, count))
    }

    pub(crate) fn indexed<T>(
        &self,
        run: impl FnOnce(&Index) -> std::result::Result<T, IndexError>,
    ) -> Result<T> {
        let index = self.index.as_ref().ok_or(StoreError::Paused)?;
        run(index).map_err(StoreError::index(self.layout.root()))
    }

    pub(crate) fn append(&mut self, entry: &Entry) -> Result<Location> {
        let dir = self.journal.dir().to_owned();
        self.journal.append(entry).map_err(StoreError::io("write to the journal in", &dir))
    }
}

/// Whose a blob is that was `before`'s and is now named by `next`.
pub(crate) fn whose(before: Option<Digest>, next: Digest, counts: impl FnOnce(&Digest) -> bool) -> Digest {
    match before {
        Some(SEVERAL) => SEVERAL,
        Some(other) if other != next && counts(&other) => SEVERAL,
        _ => next,
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
