//! One entry of a list on its way into the store.

use std::{sync::Arc, time::Duration};

use barn_mesh::{
    OpenError,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    ActionResult, Digest, NodeId,
    action::Blob,
    prefetch::{BuildEntry, Part},
    wire::{OutputsReply, Request},
};

use crate::{blobs::receive, office_cache::Found, requester::Requester};

/// How long a holder may take to say whether it has the outputs.
const FIRST_MAX: Duration = Duration::from_secs(5);
/// How long all of them may take beside [`BYTES_PER_S_MIN`].
const FETCH_MAX: Duration = Duration::from_secs(10);
/// What is slower is left to the build.
const BYTES_PER_S_MIN: u64 = 1 << 20;
/// Holders that are tried.
const TRIES_MAX: usize = 3;
/// Files take whole blocks on disk, so this is how the store counts them, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// What is brought.
pub(super) struct Errand {
    pub(super) requester: Arc<Requester>,
    pub(super) entry: BuildEntry,
    pub(super) part: Part,
    pub(super) toolchain: Digest,
    pub(super) publisher: NodeId,
    pub(super) found: Found,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BringError {
    /// No stream to the holder.
    #[error("the holder cannot be reached")]
    Open(#[from] OpenError),
    /// The stream failed, or the holder does not have it.
    #[error("the stream from the holder failed")]
    Stream(#[from] StreamError),
}

impl Errand {
    /// What is not in the store yet of the part, each blob once. Blocks on the disk.
    pub(super) fn missing(&self) -> Vec<Blob> {
        let mut missing = part_of(&self.found.record.result, &self.entry, self.part);
        missing.retain(|blob| blob.size > 0 && !self.requester.store.contains(&blob.digest));
        missing.sort_unstable_by_key(|blob| blob.digest);
        missing.dedup();
        missing
    }

    /// Fetches blobs, but for those that came with the record, from the first holder that has them all; `false` if nobody
    /// gives them.
    pub(super) async fn fetch(&self, mut missing: Vec<Blob>) -> bool {
        missing.retain(|blob| !self.found.inline.contains_key(&blob.digest));
        if missing.is_empty() {
            return true;
        }
        let bytes: u64 = missing.iter().map(|blob| blob.size).sum();
        let limit = FETCH_MAX + Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_S_MIN);
        for holder in self.holders() {
            match tokio::time::timeout(limit, self.fetch_from(holder, &missing)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => {
                    let (holder, error) = (holder.short(), &error as &dyn std::error::Error);
                    tracing::debug!(holder, error, "a holder does not give what is to be prefetched");
                }
                Err(_) => tracing::debug!(holder = holder.short(), "a holder takes too long"),
            }
        }
        false
    }

    /// Puts into the store what came with the record, and the record when nothing of it is missing. `Ok(true)` then. Blocks
    /// on the disk.
    pub(super) fn keep(&self) -> Result<bool, barn_cache::StoreError> {
        let Self { requester, found, entry, .. } = self;
        let store = &requester.store;
        for blob in found.record.result.blobs() {
            // Nobody sends what is empty, but a record is kept only with all its blobs.
            let came = found.inline.get(&blob.digest).map(Vec::as_slice);
            if let Some(bytes) = if blob.size == 0 { Some(&[][..]) } else { came } {
                store.put_bytes(bytes)?;
            }
        }
        if self.part == Part::Main && entry.side_outputs != 0 {
            return Ok(false);
        }
        let blobs: Vec<Digest> = found.record.result.blobs().map(|blob| blob.digest).collect();
        store.put_record(&entry.key, &self.toolchain, &found.signed, &blobs)?;
        if let Some(agreed) = &found.agreed {
            requester.office.keep_agreed(entry.key, agreed.clone());
        }
        requester.office.holding(entry.key);
        Ok(true)
    }

    /// Whom to ask: another one first for each entry, the publisher last.
    fn holders(&self) -> Vec<NodeId> {
        let peers = self.requester.mesh.peers();
        let is_linked = |id: &NodeId| peers.iter().any(|peer| peer.id == *id && peer.rtt.is_some());
        let mut holders = self.found.holders.clone();
        if !holders.is_empty() {
            let first = usize::from(self.entry.key.0.as_bytes()[0]) % holders.len();
            holders.rotate_left(first);
        }
        holders.retain(|holder| *holder != self.publisher);
        holders.truncate(TRIES_MAX - 1);
        holders.push(self.publisher);
        holders.retain(is_linked);
        holders
    }

    async fn fetch_from(&self, holder: NodeId, missing: &[Blob]) -> Result<(), BringError> {
        let Requester { mesh, store, .. } = &*self.requester;
        let (mut send, mut recv) = mesh.open(holder).await?;
        let blobs = missing.iter().map(|blob| blob.digest).collect();
        write_frame(&mut send, &Request::Prefetch { action: self.entry.key, blobs }).await?;
        let _ = send.finish();
        match read_frame(&mut recv, FIRST_MAX).await? {
            OutputsReply::Coming => {}
            OutputsReply::Absent => return Err(StreamError::Ended.into()),
        }
        for blob in missing {
            receive(store, &mut recv, blob.digest, blob.size).await?;
        }
        Ok(())
    }
}

/// What blobs take in the store, in bytes.
pub(super) fn room_for(blobs: &[Blob]) -> u64 {
    blobs.iter().map(|blob| blob.size.next_multiple_of(BLOCK_BYTES)).sum()
}

/// The blobs of a part; the sides are what is left when the main part is here, so all are looked at.
fn part_of(result: &ActionResult, entry: &BuildEntry, part: Part) -> Vec<Blob> {
    let is_wanted = |output: u32| part == Part::Sides || !entry.is_side(output);
    let outputs = result.outputs.iter().filter(|file| is_wanted(file.output));
    let files = outputs.map(|file| Blob { digest: file.digest, size: file.size });
    [result.stdout, result.stderr].into_iter().chain(files).collect()
}

#[cfg(test)]
mod tests {
    use barn_protocol::{ActionKey, action::OutputFile};

    use super::*;

    #[test]
    fn the_main_part_is_all_but_the_sides() {
        let blob = |size| Blob { digest: Digest::of(&[size as u8]), size };
        let file = |output, size| OutputFile { output, digest: blob(size).digest, size };
        let outputs = vec![file(0, 10), file(1, 20), file(2, 30)];
        let result = ActionResult { exit_code: 0, stdout: blob(1), stderr: blob(2), outputs, wall_ms: 1 };
        let sizes = |sides, part| {
            let entry = BuildEntry::of(ActionKey(Digest::of(b"key")), 0, &result, sides);
            part_of(&result, &entry, part).iter().map(|blob| blob.size).collect::<Vec<_>>()
        };
        assert_eq!(sizes(0, Part::Main), [1, 2, 10, 20, 30]);
        assert_eq!(sizes(0b10, Part::Main), [1, 2, 10, 30]);
        assert_eq!(sizes(0b10, Part::Sides), [1, 2, 10, 20, 30]);
        assert_eq!(room_for(&[blob(0), blob(1), Blob { size: 4097, ..blob(1) }]), 3 * BLOCK_BYTES);
    }
}
