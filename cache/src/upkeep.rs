//! What people and timers ask of a store: figures, collection, emptying, checking.

use std::ops::ControlFlow;

use barn_protocol::Digest;

use crate::{
    blobs::{self, Verdict},
    error::StoreError,
    evict::{Effort, Evicted},
    index::{Detail, Item, Kind, Meta},
    layout::Place,
    state::State,
    store::Store,
};

/// Items handled between two releases of the store's mutex: a put waits some milliseconds at most.
const SLICE_ITEMS: usize = 256;
/// Slices in one turn of a timer: at most about a second, on a disk that takes 0.2 ms to delete a file.
const TIDY_SLICES: usize = 8;

/// A store's figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// How many blobs it has.
    pub blobs: u64,
    /// How many action records.
    pub records: u64,
    /// How many include manifests.
    pub manifests: u64,
    /// How many foreign entries.
    pub foreign: u64,
    /// What counts against the limit (blobs in whole blocks, live journal entries), in bytes.
    pub bytes: u64,
    /// The limit, in bytes.
    pub bytes_max: u64,
    /// How much of it is pinned, in bytes.
    pub pinned_bytes: u64,
    /// The journal on disk, dead entries included, in bytes.
    pub journal_bytes: u64,
    /// Items evicted since the store was opened.
    pub evicted: u64,
    /// Blobs and entries found damaged since the store was opened.
    pub rotten: u64,
    /// Why it does not write at the moment, if it does not.
    pub paused: Option<String>,
    /// Whether the index is being rebuilt: nothing is found and nothing is taken meanwhile, and the other figures are not
    /// known.
    pub rebuilding: bool,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs, records, manifest lists and foreign entries.
    pub items: u64,
    /// By how much the store shrank, in bytes.
    pub bytes: u64,
}

/// What a check found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs read.
    pub blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Blobs that were rotten or gone, and dropped.
    pub blobs_dropped: u64,
    /// Blobs on disk that the index did not know, and now knows.
    pub blobs_found: u64,
    /// Records read.
    pub records: u64,
    /// Records that were damaged or lacked a blob, and dropped.
    pub records_dropped: u64,
    /// Foreign entries read.
    pub foreign: u64,
    /// Foreign entries that were damaged or lacked their blob, and dropped.
    pub foreign_dropped: u64,
}

impl Store {
    /// The store's figures now.
    pub fn stat(&self) -> Stat {
        let state = self.lock();
        let pinned = state.pins.blobs().filter_map(|digest| state.get(Item::blob(digest)).ok().flatten());
        let pinned_bytes = pinned.map(|meta| meta.charge()).sum();
        Stat {
            blobs: state.totals.blobs,
            records: state.totals.records,
            manifests: state.totals.manifests,
            foreign: state.totals.foreign,
            bytes: state.totals.bytes,
            bytes_max: state.limits.bytes_max,
            pinned_bytes,
            journal_bytes: state.journal.bytes(),
            evicted: state.evicted,
            rotten: state.rotten,
            paused: state.paused.as_ref().map(|pause| pause.why.clone()),
            rebuilding: state.rebuild.is_some(),
        }
    }

    /// Removes what removed toolchains left and what is over the limit, and cleans the journal. Works in slices:
    /// others get in between. Stops early if the disk fails, which pauses the store.
    pub fn gc(&self) -> GcReport {
        self.gc_to(u64::MAX)
    }

    /// Like `gc`, down to `bytes` if that is less than the limit.
    pub fn gc_to(&self, bytes: u64) -> GcReport {
        let swept = self.collect(State::sweep_condemned);
        let evicted = self.collect(|state| state.evict(bytes.min(state.limits.bytes_max), Effort::SLICE));
        self.clean_journal();
        GcReport { items: swept.items + evicted.items, bytes: swept.bytes + evicted.bytes }
    }

    /// The part of [`Store::gc`] for a timer: a bounded number of slices while the store is over its limit, and one
    /// segment of the journal if that is mostly dead. What is left over comes next time.
    pub fn tidy(&self) -> GcReport {
        let mut report = GcReport::default();
        for _ in 0..TIDY_SLICES {
            let slice = self.change(|state| state.evict(state.limits.bytes_max, Effort::SLICE));
            let Ok((evicted, done)) = slice else { return report };
            report.items += evicted.items;
            report.bytes += evicted.bytes;
            if done {
                break;
            }
        }
        // It fails if the disk does, which pauses the store.
        let _ = self.change(State::maintain_journal);
        report
    }

    /// Removes everything that is not pinned. Works in slices, like `gc`.
    pub fn clear(&self) -> GcReport {
        let report = self.collect(|state| state.evict(0, Effort::SLICE));
        self.clean_journal();
        report
    }

    /// Reads every blob, record and foreign entry, drops what is damaged, and takes in blobs the index does not know.
    pub fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport::default();
        self.each_item(Kind::Blob, |digest, meta| self.verify_blob(digest, meta, &mut report));
        self.find_unknown_blobs(&mut report);
        self.each_item(Kind::Record, |key, _| {
            report.records += 1;
            let good = self.look(|state| state.load_record(key));
            report.records_dropped += u64::from(good.is_none());
        });
        self.each_item(Kind::Foreign, |key, _| {
            report.foreign += 1;
            let good = self.look(|state| state.load_foreign(key));
            report.foreign_dropped += u64::from(good.is_none());
        });
        report
    }

    /// Lets `slice` evict until it is done.
    fn collect(&self, slice: impl Fn(&mut State) -> Result<(Evicted, bool), StoreError>) -> GcReport {
        let mut report = GcReport::default();
        while let Ok((evicted, done)) = self.change(&slice) {
            report.items += evicted.items;
            report.bytes += evicted.bytes;
            if done {
                break;
            }
        }
        report
    }

    /// One round over the segments there are now.
    fn clean_journal(&self) {
        let last = self.lock().journal.segments().last_key_value().map(|(number, _)| *number);
        let clean_one = || {
            self.change(|state| {
                let first = state.journal.segments().first_key_value().map(|(number, _)| *number);
                let dead = state.journal.bytes() > state.totals.journal_live;
                if first.is_none() || first > last || !dead {
                    return Ok(false);
                }
                state.clean_oldest_segment()?;
                Ok(true)
            })
        };
        while clean_one().unwrap_or(false) {}
    }

    fn verify_blob(&self, digest: &Digest, meta: &Meta, report: &mut VerifyReport) {
        let Detail::Blob { size, .. } = meta.detail else { return };
        report.blobs += 1;
        let mut good = false;
        for place in meta.places() {
            let found = blobs::open_checked(&self.layout().blob(digest, place), digest, size);
            good |= self.judge(digest, place, found).is_some();
        }
        report.bytes += size;
        report.blobs_dropped += u64::from(!good);
    }

    fn find_unknown_blobs(&self, report: &mut VerifyReport) {
        let mut unknown: Vec<(Digest, Place, u64)> = Vec::new();
        let listed = self.layout().for_each_blob(|digest, place, metadata| {
            let known = self.look(|state| state.get(Item::blob(&digest)));
            if !known.is_some_and(|meta| meta.places().any(|p| p == place)) {
                unknown.push((digest, place, metadata.len()));
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            tracing::warn!(%error, "cannot list all blobs");
        }
        for (digest, place, size) in unknown {
            let path = self.layout().blob(&digest, place);
            match blobs::open_checked(&path, &digest, size) {
                Ok(_) => {
                    let taken = self.change(|state| state.take_in(&digest, place, size));
                    report.blobs_found += u64::from(taken.unwrap_or(false));
                }
                Err(Verdict::Rotten) => {
                    report.blobs_dropped += 1;
                    self.judge::<()>(&digest, place, Err(Verdict::Rotten));
                }
                Err(Verdict::Gone | Verdict::Unreadable) => {}
            }
        }
    }

    fn each_item(&self, kind: Kind, mut each: impl FnMut(&Digest, &Meta)) {
        let mut after = None;
        loop {
            let items =
                self.look(|state| state.items_after(kind, after, SLICE_ITEMS).map(Some)).unwrap_or_default();
            let Some((last, _)) = items.last() else { return };
            after = Some(*last);
            for (digest, meta) in &items {
                each(digest, meta);
            }
        }
    }
}
