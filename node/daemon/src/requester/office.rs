//! A compile that somebody in the office has done: finding its record, and fetching its outputs.
//!
//! What is asked of others is bounded: the look-up by the state machine of the office's cache, the fetch by a time for its
//! first frame and one for all of it. Whatever goes wrong, the compile goes on as if nothing had been found.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barn_mesh::stream::{StreamError, read_frame, write_frame};
use barn_protocol::{
    ActionKey, NodeId,
    action::Blob,
    wire::{OutputsReply, Request},
};

use super::{Answer, Call, Done, Prepared, Requester, remote::RemoteError, story::Story, writers::Claim};
use crate::{
    blobs::receive,
    office_cache::{Found, LookedUp},
};

/// How long a holder may take to say whether it has the outputs: a disk that was asleep, a busy machine.
const FIRST_MAX: Duration = Duration::from_millis(300);
/// How long the outputs may take beside [`BYTES_PER_S_MIN`]; after that they are made anew.
const FETCH_MAX: Duration = Duration::from_secs(2);
/// A line that is slower than this is not worth waiting for.
const BYTES_PER_S_MIN: u64 = 4 << 20;
/// Holders that are tried; more would keep the compile waiting.
const TRIES_MAX: usize = 2;

impl Requester {
    /// The result of the action, if somebody in the office has it, under its own key or that of any checkout. If not, and if it may be
    /// shared, this node is marked as making it.
    pub(super) async fn from_office(
        self: &Arc<Self>,
        prepared: &Arc<Prepared>,
        story: &mut Story,
    ) -> Option<Answer> {
        if !prepared.may_be_shared() {
            return None;
        }
        let (policy, began) = (self.policy(&prepared.call), Instant::now());
        let anywhere = async {
            let form = prepared.anywhere.as_ref().ok()?;
            Some((form, self.office.look_up(&policy, &form.action, form.key).await))
        };
        // At once, or whoever finds nothing would wait for one round trip more.
        let own = self.office.look_up(&policy, &prepared.action, prepared.key);
        let (own, anywhere) = tokio::join!(own, anywhere);
        let waited = began.elapsed();
        if let Some(answer) = self.taken(prepared, own, waited, story).await {
            return Some(answer);
        }
        let (form, looked_up) = anywhere?;
        self.taken(form, looked_up, Duration::ZERO, story).await
    }

    /// What a look-up that took so long found, brought here.
    async fn taken(
        self: &Arc<Self>,
        prepared: &Arc<Prepared>,
        looked_up: LookedUp,
        waited: Duration,
        story: &mut Story,
    ) -> Option<Answer> {
        let found = match looked_up {
            LookedUp::Found(found) if !prepared.is_served_by(&found.record.result) => return None,
            LookedUp::Found(found) => found,
            LookedUp::Nothing(mark) => {
                self.asked_in_vain(waited, u64::from(!prepared.only_quiet && !prepared.is_anywhere));
                if let Some(mark) = mark.filter(|_| prepared.may_be_awaited()) {
                    let _ = prepared.mark.set(Arc::new(mark));
                }
                return None;
            }
            LookedUp::MadeHere => return self.made_meanwhile(prepared, story).await,
            LookedUp::Refused(why) => {
                self.stats.count_named(|c| &mut c.fallbacks, "record-refused");
                story.tell(format!("a record of the office's cache was not believed: {why}"));
                return None;
            }
        };
        let missing = self.missing(&found);
        let from = self.first_to_give(prepared.key, &missing, &found, story).await?;
        let (known, result) = (prepared.clone(), found.record.result.clone());
        let keep = move |this: &Arc<Self>, found: &Found| {
            let result = &found.record.result;
            this.keep(&known, result, &found.signed)?;
            this.builds.note(&known.call, &known.key, result);
            Ok(())
        };
        let answer = self.office_done(&prepared.call, &prepared.claim, *found, from, keep, story).await?;
        match answer {
            Answer::Done(done, claim, keep) => {
                Some(Answer::Done(self.at_home(prepared, done, &result)?, claim, keep))
            }
            other => Some(other),
        }
    }

    /// Counts what asking cost; `done` if that was all of it.
    pub(super) fn asked_in_vain(&self, waited: Duration, done: u64) {
        self.stats.count(|c| {
            c.lookups.in_vain += done;
            c.lookups.microseconds += u64::try_from(waited.as_micros()).unwrap_or(0);
        });
    }

    /// Another compile of this machine has just put it into the store.
    async fn made_meanwhile(self: &Arc<Self>, prepared: &Arc<Prepared>, story: &mut Story) -> Option<Answer> {
        let (this, known) = (self.clone(), prepared.clone());
        let stored = tokio::task::spawn_blocking(move || this.stored_for(&known));
        let done = stored.await.ok().flatten()?;
        story.tell("waited for another compile of this machine that made it".to_owned());
        self.stats.count(|c| c.hits.local += 1);
        self.stats.count_language(prepared.call.language(), |language| language.hits += 1);
        Some(Answer::Done(done, prepared.claim.clone(), None))
    }

    /// The blobs of a record that are neither here nor came with it, each once.
    pub(super) fn missing(&self, found: &Found) -> Vec<Blob> {
        let is_here = |blob: &Blob| {
            blob.size == 0 || found.inline.contains_key(&blob.digest) || self.store.contains(&blob.digest)
        };
        let mut missing: Vec<Blob> = found.record.result.blobs().filter(|blob| !is_here(blob)).collect();
        missing.sort_unstable_by_key(|blob| blob.digest);
        missing.dedup();
        missing
    }

    /// Brings the blobs into the store, from the first holder that has them all. Returns from whom they, or at least the
    /// record, came.
    pub(super) async fn first_to_give(
        &self,
        key: ActionKey,
        missing: &[Blob],
        found: &Found,
        story: &mut Story,
    ) -> Option<NodeId> {
        if missing.is_empty() {
            return Some(found.owner);
        }
        let peers = self.mesh.peers();
        let is_linked = |holder: &&NodeId| peers.iter().any(|peer| peer.id == **holder && peer.rtt.is_some());
        let bytes: u64 = missing.iter().map(|blob| blob.size).sum();
        let limit = FETCH_MAX + Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_S_MIN);
        for holder in found.holders.iter().filter(is_linked).take(TRIES_MAX) {
            match tokio::time::timeout(limit, self.fetch_from(*holder, key, missing)).await {
                Ok(Ok(())) => return Some(*holder),
                Ok(Err(error)) => {
                    let (holder, error) = (self.name_of(holder), &error as &dyn std::error::Error);
                    tracing::debug!(holder, error, "a holder does not give what it is said to have");
                }
                Err(_) => tracing::debug!(holder = self.name_of(holder), "a holder takes too long"),
            }
        }
        self.stats.count_named(|c| &mut c.fallbacks, "outputs-not-fetched");
        story.tell("a record is in the office's cache, but nobody gave its outputs".to_owned());
        None
    }

    async fn fetch_from(&self, holder: NodeId, key: ActionKey, missing: &[Blob]) -> Result<(), RemoteError> {
        let open = tokio::time::timeout(FIRST_MAX, self.mesh.open(holder));
        let (mut send, mut recv) = open.await.map_err(|_| RemoteError::TooLong)??;
        let blobs = missing.iter().map(|blob| blob.digest).collect();
        write_frame(&mut send, &Request::Outputs { action: key, blobs }).await?;
        let _ = send.finish();
        match read_frame(&mut recv, FIRST_MAX).await? {
            OutputsReply::Coming => {}
            OutputsReply::Absent => return Err(StreamError::Ended.into()),
        }
        for blob in missing {
            receive(&self.store, &mut recv, blob.digest, blob.size).await?;
        }
        Ok(())
    }

    /// What was found, ready for the wrapper: what came with the record joins the other blobs in the store.
    fn whole(&self, call: &Call, found: &Found) -> Option<Done> {
        let result = &found.record.result;
        for blob in result.blobs() {
            // Nobody sends what is empty, but a record is kept only with all its blobs.
            let came = found.inline.get(&blob.digest).map(Vec::as_slice);
            let bytes = if blob.size == 0 { Some(&[][..]) } else { came };
            if let Some(bytes) = bytes {
                let put = self.store.put_bytes(bytes);
                put.inspect_err(|error| tracing::debug!(%error, "cannot take in a small output")).ok()?;
            }
        }
        self.done(&call.targets(), result)
    }

    /// Answers with what was found, and has it kept by `keep`, which says why not.
    pub(super) async fn office_done(
        self: &Arc<Self>,
        call: &Arc<Call>,
        claim: &Arc<Claim>,
        found: Found,
        from: NodeId,
        keep: impl FnOnce(&Arc<Self>, &Found) -> Result<(), String> + Send + 'static,
        story: &mut Story,
    ) -> Option<Answer> {
        let (this, known, key) = (self.clone(), call.clone(), found.record.key);
        let kept = tokio::task::spawn_blocking(move || {
            let done = this.whole(&known, &found)?;
            let kept = keep(&this, &found);
            if let Some(agreed) = found.agreed {
                this.office.keep_agreed(key, agreed);
            }
            Some((done, kept))
        });
        let (done, kept) = kept.await.ok().flatten()?;
        self.office.holding(key);
        let name = if from == self.identity.id() { "this machine".to_owned() } else { self.name_of(&from) };
        story.tell(match kept {
            Ok(()) => format!("from {name}'s cache, and kept"),
            Err(why) => format!("from {name}'s cache, not kept: {why}"),
        });
        self.stats.count(|c| c.hits.mesh += 1);
        self.stats.count_language(call.language(), |language| language.hits += 1);
        Some(Answer::Done(done, claim.clone(), None))
    }
}
