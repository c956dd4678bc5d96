//! What other members ask of this node's part.

use std::{collections::HashSet, sync::Arc, time::Duration};

use barn_mesh::{
    Cpu, SendStream,
    stream::{StreamError, write_blob_packed, write_frame},
};
use barn_protocol::{
    ActionKey, ActionRecord, Digest, NodeId,
    dht::{
        Answer, Event, Get, Put, Standing,
        limits::{BODY_BYTES_MAX, KEYS_MAX},
    },
    limits::OUTPUTS_MAX,
    wire::{Bytes, OutputsReply},
};

use super::{
    OfficeCache,
    kept::{Kept, encode},
};

/// Blobs of one action: its outputs and its messages.
const BLOBS_MAX: usize = OUTPUTS_MAX + 2;

impl OfficeCache {
    /// Answers what is kept under keys.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn answer(
        self: &Arc<Self>,
        peer: NodeId,
        mut gets: Vec<Get>,
        send: &mut SendStream,
    ) -> Result<(), StreamError> {
        gets.truncate(KEYS_MAX);
        let this = self.clone();
        let read = move || gets.into_iter().map(|get| (get, this.read(get.key))).collect::<Vec<_>>();
        let kept = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let answers = self.standings(peer, kept);
        write_frame(send, &answers).await
    }

    fn standings(self: &Arc<Self>, peer: NodeId, kept: Vec<(Get, Option<Kept>)>) -> Vec<Answer> {
        let now = self.now();
        let known: Vec<(Get, bool)> = kept.iter().map(|(get, kept)| (*get, kept.is_some())).collect();
        let (standings, effects) = {
            let mut state = self.lock();
            for (get, kept) in &kept {
                // It was kept before this node started.
                if let Some(kept) = kept.as_ref().filter(|_| !state.dht.keeps(&get.key)) {
                    state.dht.handle(now, Event::Kept { key: get.key, holders: kept.holders.clone() });
                }
            }
            (state.dht.serve(now, peer, &known), state.effects(now))
        };
        self.obey(effects);
        let answer = |(standing, (get, kept)): (Standing, (Get, Option<Kept>))| match (standing, kept) {
            (Standing::Here(holders), Some(Kept { mut entry, .. })) => {
                if !get.inline {
                    entry = entry.without_outputs();
                }
                Answer::Found { entry, holders }
            }
            (Standing::Making(left), _) => Answer::Making { left_ms: millis(left) },
            (Standing::Here(_) | Standing::Nothing, _) => Answer::Nothing,
        };
        standings.into_iter().zip(kept).map(answer).collect()
    }

    /// Takes note of news.
    pub async fn hear(self: &Arc<Self>, peer: NodeId, mut puts: Vec<Put>) {
        puts.truncate(KEYS_MAX);
        let this = self.clone();
        // Each signature takes some 50 µs.
        let check = move || {
            puts.retain(|put| this.is_fit(put));
            puts.iter_mut().for_each(|put| this.leave_members(put));
            puts
        };
        let Ok(puts) = tokio::task::spawn_blocking(check).await else { return };
        if !puts.is_empty() {
            self.handle(Event::Told { from: peer, puts });
        }
    }

    /// Sends outputs of an action, if they are in the store and belong to the record that is there, and if not too many are
    /// sent already.
    ///
    /// # Errors
    /// When the stream fails, or an output can no longer be read.
    pub async fn give(
        self: &Arc<Self>,
        peer: NodeId,
        action: ActionKey,
        blobs: Vec<Digest>,
        send: &mut SendStream,
    ) -> Result<(), StreamError> {
        let Some(_place) = self.gates.enter(peer).await else {
            return write_frame(send, &OutputsReply::Absent).await;
        };
        let this = self.clone();
        let open = move || this.outputs(action, &blobs);
        let Some(files) = tokio::task::spawn_blocking(open).await.ok().flatten() else {
            return write_frame(send, &OutputsReply::Absent).await;
        };
        write_frame(send, &OutputsReply::Coming).await?;
        for (digest, size, file) in files {
            let packing = self.parts.mesh.packing(&peer, size, Cpu::Spare);
            let mut file = tokio::fs::File::from_std(file);
            write_blob_packed(send, digest, size, &mut file, packing).await?;
        }
        Ok(())
    }

    /// Answers with the records of actions that are in the store.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn records(
        self: &Arc<Self>,
        mut keys: Vec<ActionKey>,
        send: &mut SendStream,
    ) -> Result<(), StreamError> {
        keys.truncate(KEYS_MAX);
        let this = self.clone();
        let read = move || {
            let shares = this.parts.share.writes();
            let record = |key: &ActionKey| {
                let signed = this.parts.store.record(key).filter(|_| shares)?;
                let body = encode(&signed);
                (body.len() <= BODY_BYTES_MAX).then_some(Bytes(body))
            };
            keys.iter().map(record).collect::<Vec<Option<Bytes>>>()
        };
        let records = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        write_frame(send, &records).await
    }

    fn outputs(&self, action: ActionKey, blobs: &[Digest]) -> Option<Vec<(Digest, u64, std::fs::File)>> {
        // Each is open until it is sent, so nobody gets one twice.
        let unlike: HashSet<&Digest> = blobs.iter().collect();
        if blobs.len() > BLOBS_MAX || unlike.len() < blobs.len() {
            return None;
        }
        let signed = self.parts.store.record(&action)?;
        let record: ActionRecord = postcard::from_bytes(signed.unverified_payload()).ok()?;
        if record.result.exit_code != 0 || !self.parts.share.writes() {
            return None;
        }
        let open = |digest: &Digest| {
            let blob = record.result.blobs().find(|blob| blob.digest == *digest)?;
            Some((*digest, blob.size, self.parts.store.open_blob(digest)?))
        };
        blobs.iter().map(open).collect()
    }
}

fn millis(left: Duration) -> u32 {
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}
