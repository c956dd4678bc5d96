//! What goes when the store is over its limit.
//!
//! First what belongs to removed toolchains, found by a sweep over all items. Then by last use: a hand goes round
//! each kind of items and takes rows of neighbours; names are digests, so a row is a random sample. The oldest of a
//! sample go. In a store no larger than a sample that is exactly the order of last use; in a larger one it is close
//! to it, as Redis does it, without a structure that must be changed at every use.
//!
//! Every call does a bounded amount of work; the hands and the sweep go on where they stopped.

use std::collections::{HashSet, VecDeque};

use barn_protocol::Digest;

use crate::{
    error::StoreError,
    index::{Item, Kind, Meta},
    state::State,
};

type Result<T> = std::result::Result<T, StoreError>;

/// Items of each kind in one sample.
const SAMPLE_ITEMS: usize = 64;
/// Of a sample, the part that goes: one eighth. Less is closer to the order of use, and slower.
const SAMPLE_PART: usize = 8;
/// Items looked at in one step of the sweep.
const SWEEP_ITEMS: usize = 256;

/// How much one call may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Items removed at most.
    items_max: u64,
    /// Samples or steps of the sweep taken at most.
    looks_max: u64,
}

impl Effort {
    /// For a put: some milliseconds, and more than one put needs on average.
    pub(crate) const PUT: Self = Self { items_max: 256, looks_max: 8 };
    /// For one slice of a collection, between which others get in.
    pub(crate) const SLICE: Self = Self { items_max: 512, looks_max: 32 };
}

/// What an eviction removed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Evicted {
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

/// Where eviction is between two calls.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    /// Removed toolchains whose items go first.
    condemned: HashSet<Digest>,
    /// How far the sweep for them is.
    sweep: Hand,
    /// Where the next sample of each kind begins.
    hands: [Option<Digest>; Kind::ALL.len()],
    /// The oldest of the last sample with their ticks, the oldest first.
    candidates: VecDeque<(u64, Item)>,
    /// Items of each kind looked at since the last one was removed.
    barren: u64,
}

/// A place in the row of all items.
#[derive(Debug, Default, Clone, Copy)]
struct Hand {
    kind: usize,
    after: Option<Digest>,
}

impl Eviction {
    /// Makes a toolchain's items go first; the sweep begins anew.
    pub(crate) fn condemn(&mut self, toolchain: &Digest) {
        self.condemned.insert(*toolchain);
        self.sweep = Hand::default();
    }

    pub(crate) fn is_condemned(&self, toolchain: &Digest) -> bool {
        self.condemned.contains(toolchain)
    }

    pub(crate) fn pardon(&mut self, toolchain: &Digest) {
        self.condemned.remove(toolchain);
    }
}

impl State {
    /// Removes unpinned items while the store has more than `bytes_target`. Also says whether that is done, or
    /// nothing is left that could go.
    pub(crate) fn evict(&mut self, bytes_target: u64, effort: Effort) -> Result<(Evicted, bool)> {
        let mut evicted = Evicted::default();
        let mut looks = 0;
        while self.totals.bytes > bytes_target {
            if evicted.items >= effort.items_max || looks >= effort.looks_max {
                return Ok((evicted, false));
            }
            if !self.eviction.condemned.is_empty() {
                looks += 1;
                self.sweep_step(bytes_target, &mut evicted)?;
            } else if let Some((tick, item)) = self.eviction.candidates.pop_front() {
                self.evict_candidate(tick, item, &mut evicted)?;
            } else if self.eviction.barren > self.items() + SAMPLE_ITEMS as u64 {
                // Once round, and everything is pinned.
                self.eviction.barren = 0;
                return Ok((evicted, true));
            } else {
                looks += 1;
                self.sample()?;
            }
        }
        Ok((evicted, true))
    }

    /// One slice of removing what removed toolchains left, whatever the limit; also says whether that is done.
    pub(crate) fn sweep_condemned(&mut self) -> Result<(Evicted, bool)> {
        let mut evicted = Evicted::default();
        for _ in 0..Effort::SLICE.looks_max {
            if self.eviction.condemned.is_empty() {
                return Ok((evicted, true));
            }
            self.sweep_step(0, &mut evicted)?;
        }
        Ok((evicted, false))
    }

    /// Looks at the next items, and removes those of removed toolchains while the store is over `bytes_target`.
    fn sweep_step(&mut self, bytes_target: u64, evicted: &mut Evicted) -> Result<()> {
        let Hand { kind: place, after } = self.eviction.sweep;
        let kind = Kind::ALL[place];
        let items = self.items_after(kind, after, SWEEP_ITEMS)?;
        let at_end = items.len() < SWEEP_ITEMS;
        for (digest, meta) in items {
            if self.totals.bytes <= bytes_target {
                return Ok(());
            }
            self.eviction.sweep.after = Some(digest);
            let goes = meta.toolchain.is_some_and(|toolchain| self.eviction.is_condemned(&toolchain));
            if goes && !self.is_pinned(kind, &digest) {
                self.evict_item(Item { kind, digest }, evicted)?;
            }
        }
        match (at_end, place + 1 < Kind::ALL.len()) {
            (false, _) => Ok(()),
            (true, true) => {
                self.eviction.sweep = Hand { kind: place + 1, after: None };
                Ok(())
            }
            (true, false) => self.end_sweep(),
        }
    }

    fn end_sweep(&mut self) -> Result<()> {
        for toolchain in std::mem::take(&mut self.eviction.condemned) {
            self.indexed(|index| index.pardon(&toolchain))?;
        }
        self.eviction.sweep = Hand::default();
        Ok(())
    }

    /// Takes the next sample of each kind, and its oldest as candidates.
    fn sample(&mut self) -> Result<()> {
        self.eviction.barren += SAMPLE_ITEMS as u64;
        let mut sample = Vec::new();
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            let items = self.items_after(kind, self.eviction.hands[place], SAMPLE_ITEMS)?;
            // A short row ends at the last item: the next one begins at the first.
            let at_end = items.len() < SAMPLE_ITEMS;
            self.eviction.hands[place] = items.last().map(|(digest, _)| *digest).filter(|_| !at_end);
            let unpinned = items.iter().filter(|(digest, _)| !self.is_pinned(kind, digest));
            sample.extend(unpinned.map(|(digest, meta)| {
                let item = Item { kind, digest: *digest };
                (self.last_use(item, meta), item)
            }));
        }
        sample.sort_unstable();
        sample.truncate(sample.len().div_ceil(SAMPLE_PART));
        self.eviction.candidates = sample.into();
        Ok(())
    }

    /// Removes a candidate unless it was used or pinned since the sample.
    fn evict_candidate(&mut self, tick: u64, item: Item, evicted: &mut Evicted) -> Result<()> {
        let Some(meta) = self.get(item)? else { return Ok(()) };
        if self.last_use(item, &meta) == tick && !self.is_pinned(item.kind, &item.digest) {
            self.evict_item(item, evicted)?;
        }
        Ok(())
    }

    fn evict_item(&mut self, item: Item, evicted: &mut Evicted) -> Result<()> {
        let before = self.totals.bytes;
        self.remove(item)?;
        self.eviction.barren = 0;
        self.evicted += 1;
        evicted.items += 1;
        evicted.bytes += before - self.totals.bytes;
        Ok(())
    }

    fn last_use(&self, item: Item, meta: &Meta) -> u64 {
        self.touched.get(&item).copied().unwrap_or(meta.tick)
    }

    fn is_pinned(&self, kind: Kind, digest: &Digest) -> bool {
        kind == Kind::Blob && self.pins.holds(digest)
    }

    const fn items(&self) -> u64 {
        // Lists of manifests are fewer than manifests.
        self.totals.blobs + self.totals.records + self.totals.manifests + self.totals.foreign
    }
}
