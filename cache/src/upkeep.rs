//! What people and timers ask of a store: figures, collection, emptying, checking.

use barn_protocol::Digest;

use crate::{
    blobs::{self, Verdict},
    error::StoreError,
    index::{Detail, Index, Item, Kind, Meta},
    layout::Place,
    state::Evicted,
    store::Store,
};

/// Items handled between two releases of the store's mutex: a put waits some milliseconds at most.
const SLICE_ITEMS: usize = 256;

/// A store's figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// How many blobs it has.
    pub blobs: u64,
    /// How many action records.
    pub records: u64,
    /// How many include manifests.
    pub manifests: u64,
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
    /// Whether it does not write at the moment.
    pub paused: bool,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs, records and manifest lists.
    pub items: u64,
    /// By how much the store shrank, in bytes.
    pub bytes: u64,
}

impl GcReport {
    const fn add(&mut self, evicted: Evicted) {
        self.items += evicted.items;
        self.bytes += evicted.bytes;
    }
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
}

impl Store {
    /// The store's figures now.
    pub fn stat(&self) -> Stat {
        let state = self.lock();
        let pinned = state.index.as_ref().map(pinned_bytes).unwrap_or_default();
        Stat {
            blobs: state.totals.blobs,
            records: state.totals.records,
            manifests: state.totals.manifests,
            bytes: state.totals.bytes,
            bytes_max: state.limits.bytes_max,
            pinned_bytes: pinned,
            journal_bytes: state.journal.bytes(),
            evicted: state.evicted,
            rotten: state.rotten,
            paused: state.paused.is_some(),
        }
    }

    /// Removes what removed toolchains left and what is over the limit, and cleans the journal. Works in slices:
    /// others get in between. Stops early if the disk fails, which pauses the store.
    pub fn gc(&self) -> GcReport {
        let bytes_max = self.lock().limits.bytes_max;
        self.collect(bytes_max)
    }

    /// Removes everything that is not pinned.
    pub fn clear(&self) -> GcReport {
        self.collect(0)
    }

    /// Reads every blob and record, drops what is damaged, and takes in blobs the index does not know.
    pub fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport::default();
        self.each_item(Kind::Blob, |digest, meta| self.verify_blob(digest, meta, &mut report));
        self.find_unknown_blobs(&mut report);
        self.each_item(Kind::Record, |key, _| {
            report.records += 1;
            let good = self.look(|state| state.load_record(key));
            report.records_dropped += u64::from(good.is_none());
        });
        report
    }

    fn collect(&self, bytes_target: u64) -> GcReport {
        let mut report = GcReport::default();
        let mut slice = |evicted: Result<Evicted, StoreError>| {
            let Ok(evicted) = evicted else { return false };
            report.add(evicted);
            evicted.items > 0
        };
        while slice(self.change(|state| state.evict_condemned(SLICE_ITEMS))) {}
        while slice(self.change(|state| state.evict(bytes_target, SLICE_ITEMS))) {}
        self.clean_journal();
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
                self.look(|state| state.items(kind, after, SLICE_ITEMS).map(Some)).unwrap_or_default();
            let Some((last, _)) = items.last() else { return };
            after = Some(*last);
            for (digest, meta) in &items {
                each(digest, meta);
            }
        }
    }
}

fn pinned_bytes(index: &Index) -> u64 {
    let mut blobs: Vec<Digest> = index.pinned().filter_map(Result::ok).collect();
    blobs.dedup();
    let metas = blobs.iter().filter_map(|digest| index.get(Item::blob(digest)).ok().flatten());
    metas.map(|meta| meta.charge()).sum()
}
