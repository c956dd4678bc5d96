//! What this node tells the office of its own: results, what sources include, and what it made before others were there.

use std::{sync::Arc, time::Duration};

use barn_protocol::{
    ActionRecord, Digest,
    dht::{
        Body, Entry, EntryKey, Event,
        limits::{BODY_BYTES_MAX, INLINE_BYTES_MAX},
    },
    identity::SignedBytes,
    wire::Bytes,
};

use super::{OfficeCache, backlog::Made, kept::encode};

/// How often it is looked whether somebody is there to be offered what was made before.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Results offered in one go.
const OFFERED_MAX: usize = 16;
/// What a node offers so in the background, in bytes a second, to both owners together. Less than what it hands over when owners
/// change: both may go on at once.
const OFFER_BYTES_PER_S: u64 = 4 << 10;

impl OfficeCache {
    /// Lets the office have a result that is in the store. Reads small outputs; blocks for that.
    pub fn made(self: &Arc<Self>, record: &SignedBytes, toolchain: Digest) {
        let Some(read) = self.to_be_told(record) else { return };
        if self.lock().dht.is_alone() {
            self.remember(Made { action: read.key, toolchain });
        }
        let inline = if self.lock().dht.is_alone() { Vec::new() } else { self.small_outputs(&read) };
        self.tell_made(&read, record, toolchain, inline);
    }

    /// Lets the office have what a source was seen to include; `signed` is a [`barn_protocol::dht::SharedManifest`] of `key`.
    pub fn saw(self: &Arc<Self>, key: &Digest, toolchain: Digest, signed: &SignedBytes) {
        let bytes = Bytes(encode(signed));
        if !self.parts.share.writes() || bytes.0.len() > BODY_BYTES_MAX {
            return;
        }
        let entry = Entry { toolchain, bodies: vec![Body { signed: bytes, inline: Vec::new() }] };
        self.handle(Event::Made { key: EntryKey::manifest(key), entry });
    }

    /// Whether what [`OfficeCache::saw`] would be told is of use to anybody.
    pub fn has_listeners(&self) -> bool {
        self.parts.share.writes() && !self.lock().dht.is_alone()
    }

    /// The record, if others may have it.
    fn to_be_told(&self, record: &SignedBytes) -> Option<ActionRecord> {
        let read: ActionRecord = postcard::from_bytes(record.unverified_payload()).ok()?;
        (self.parts.share.writes() && read.result.exit_code == 0).then_some(read)
    }

    fn tell_made(
        self: &Arc<Self>,
        read: &ActionRecord,
        record: &SignedBytes,
        toolchain: Digest,
        inline: Vec<Bytes>,
    ) -> u64 {
        let signed = Bytes(encode(record));
        if signed.0.len() > BODY_BYTES_MAX {
            return 0;
        }
        let entry = Entry { toolchain, bodies: vec![Body { signed, inline }] };
        let bytes = entry.bytes() as u64;
        self.handle(Event::Made { key: EntryKey::record(&read.key), entry });
        bytes
    }

    fn small_outputs(&self, read: &ActionRecord) -> Vec<Bytes> {
        let mut left = INLINE_BYTES_MAX as u64;
        let mut inline = Vec::new();
        for blob in read.result.blobs().filter(|blob| blob.size > 0) {
            if blob.size <= left
                && let Some(bytes) = self.parts.store.read_blob(&blob.digest)
            {
                left -= blob.size;
                inline.push(Bytes(bytes));
            }
        }
        inline
    }

    fn remember(&self, made: Made) {
        let Some(backlog) = &self.backlog else { return };
        if let Err(error) = backlog.add(made) {
            tracing::debug!(%error, "a result made alone will not be offered later");
        }
    }

    /// Offers what was made while this node was alone, slowly, when others are there.
    pub(super) async fn keep_offering(self: Arc<Self>) {
        loop {
            let bytes = if self.lock().dht.is_alone() { None } else { self.offer_some().await };
            let wait = bytes.map_or(LOOK_EVERY, |bytes| {
                Duration::from_millis(2 * bytes.saturating_mul(1000) / OFFER_BYTES_PER_S)
            });
            tokio::time::sleep(wait.max(Duration::from_millis(100))).await;
        }
    }

    /// Offers the next few; returns their bytes, or nothing if there are none.
    async fn offer_some(self: &Arc<Self>) -> Option<u64> {
        let this = self.clone();
        let offer = move || {
            let taken = this.backlog.as_ref()?.take(OFFERED_MAX);
            let some = taken.inspect_err(|error| tracing::debug!(%error, "cannot read the backlog")).ok()?;
            if some.is_empty() {
                return None;
            }
            // Without small outputs: they are for what somebody compiles this minute.
            let offered = some.iter().filter_map(|made| {
                let record = this.parts.store.record(&made.action)?;
                let read = this.to_be_told(&record)?;
                Some(this.tell_made(&read, &record, made.toolchain, Vec::new()))
            });
            Some(offered.sum())
        };
        tokio::task::spawn_blocking(offer).await.ok().flatten()
    }
}
