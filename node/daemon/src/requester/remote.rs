//! One action on one worker, from the requester's side.
//!
//! `docs/protocol.md` draws the exchange. What the worker is believed to have, trees and blobs, is remembered by the
//! [`Carrier`]; being wrong costs a round trip, never a wrong result.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read as _,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use barn_cache::Store;
use barn_mesh::{
    Cpu, Mesh, OpenError, RecvStream, SendStream,
    limits::ACTION_PRIORITY,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Action, ActionRecord, ActionResult, Digest, NodeId, Tree,
    action::{Blob, RECORD_CONTEXT},
    delta::TreeForm,
    identity::SignedBytes,
    known::{ENTRIES_MAX, KnownTrees, SENT_PER_PEER_MAX},
    observed::Observed,
    placement::Failure,
    wire::{
        AHEAD_BLOBS_MAX, AHEAD_BYTES_MAX, Bytes, Decline, NEEDS_MAX, Request, Run, RunDone, RunFailure,
        RunReply,
    },
};

use crate::blobs::{Sources, keep_open, receive_open, send_file};

/// How long a worker may take to say whether it accepts. It answers at once; the rest is a busy network.
const REPLY_MAX: Duration = Duration::from_secs(3);
/// Longest from the request to the start of the compiler: the inputs travel, and actions of others run first. The
/// placement takes an action back long before, if there is a better place.
const HANDOVER_MAX: Duration = Duration::from_secs(300);
/// How long to wait for the reason when a worker does not read on.
const REASON_MAX: Duration = Duration::from_millis(500);
/// Blobs remembered of one worker, 8 bytes each; a large project has 20,000 files.
const BLOBS_PER_WORKER_MAX: usize = 65_536;
/// Workers remembered.
const WORKERS_MAX: usize = 256;

/// How a try on a worker ended, if not with a result.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// The worker does not take it now.
    #[error("the worker declined: {0:?}")]
    Declined(Decline),
    /// No stream to the worker.
    #[error("the worker cannot be reached")]
    Open(#[from] OpenError),
    /// The stream failed.
    #[error("the stream to the worker failed")]
    Stream(#[from] StreamError),
    /// The worker could not run it to its end.
    #[error("the worker failed: {0:?}")]
    Failed(RunFailure),
    /// The result is not one of this action, or not signed by the worker.
    #[error("the worker's result is not one of this action")]
    Bad,
    /// It takes too long.
    #[error("the worker takes too long")]
    TooLong,
}

impl RemoteError {
    /// What the placement is told.
    pub(super) fn kind(&self) -> Failure {
        match self {
            Self::Failed(failure) => Failure::from(failure),
            Self::Bad | Self::Stream(StreamError::Corrupt(_) | StreamError::WrongBlob { .. }) => {
                Failure::BadResult
            }
            Self::Stream(StreamError::Local(_) | StreamError::SourceChanged(_)) => Failure::Inputs,
            Self::TooLong => Failure::Timeout,
            Self::Declined(_) | Self::Open(_) | Self::Stream(_) => Failure::Lost,
        }
    }

    /// The stable name counted in `barn stats`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Declined(_) => "declined",
            Self::Open(_) => "unreachable",
            Self::Stream(_) => "connection-lost",
            Self::Failed(RunFailure::Killed { .. }) => "killed-on-worker",
            Self::Failed(RunFailure::TimedOut) | Self::TooLong => "timeout",
            Self::Failed(RunFailure::Refused) => "refused-by-sandbox",
            Self::Failed(RunFailure::Sandbox) => "sandbox-failed",
            Self::Failed(RunFailure::Inputs) => "inputs-failed",
            Self::Bad => "bad-result",
        }
    }
}

/// What the workers are believed to have.
pub(crate) struct Carrier {
    trees: Mutex<KnownTrees>,
    blobs: Mutex<HashMap<NodeId, HashSet<u64>>>,
}

/// One action to be run on one worker.
pub(super) struct Errand<'a> {
    pub(super) carrier: &'a Carrier,
    pub(super) mesh: &'a Mesh,
    pub(super) store: &'a Store,
    pub(super) worker: NodeId,
    pub(super) action: &'a Action,
    pub(super) sources: &'a Sources,
}

/// What came back. All of it is in the store, and the outputs are open: they need not be looked up or read again.
#[derive(Debug)]
pub(super) struct Returned {
    /// The result, checked against the action.
    pub(super) result: ActionResult,
    /// The worker's record of it, its signature checked.
    pub(super) record: SignedBytes,
    /// What the compiler opened and looked for in vain, as the worker says; it is not checked.
    pub(super) observed: Option<Observed>,
    /// Standard output.
    pub(super) stdout: Vec<u8>,
    /// Standard error.
    pub(super) stderr: Vec<u8>,
    /// The files, in order of [`ActionResult::outputs`], at offset 0.
    pub(super) outputs: Vec<File>,
}

impl Returned {
    /// A result whose blobs all came, in order.
    ///
    /// # Errors
    /// When one is not what it should be, or the store does not take it.
    pub(super) fn of(
        store: &Store,
        result: ActionResult,
        record: SignedBytes,
        observed: Option<Observed>,
        came: Vec<Came>,
    ) -> Result<Self, RemoteError> {
        let mut came = came.into_iter().zip(result.blobs());
        let mut stream = || match came.next() {
            Some((came, blob)) => came.stream(store, &blob),
            None => Err(RemoteError::Bad),
        };
        let (stdout, stderr) = (stream()?, stream()?);
        let outputs = came.map(|(came, blob)| came.output(store, &blob)).collect::<Result<_, _>>()?;
        Ok(Self { result, record, observed, stdout, stderr, outputs })
    }
}

impl Errand<'_> {
    /// Runs the action; `on_started` is called when the compiler starts there, and it may run for `time_left` from
    /// then on. Dropping the future cancels the action.
    ///
    /// # Errors
    /// How it ended otherwise; the caller tries elsewhere.
    pub(super) async fn run(
        &self,
        time_left: Duration,
        on_started: impl FnOnce() + Send,
    ) -> Result<Returned, RemoteError> {
        let (send, recv) = self.mesh.open(self.worker).await?;
        let mut talk = Talk { errand: self, send, recv };
        let outcome = talk.all(time_left, on_started).await;
        if outcome.is_err() {
            // A reset is what tells the worker to stop. It may have been reset already.
            let _ = talk.send.reset(0_u8.into());
        }
        outcome
    }
}

/// An errand on its stream.
struct Talk<'a> {
    errand: &'a Errand<'a>,
    send: SendStream,
    recv: RecvStream,
}

impl Talk<'_> {
    async fn all(
        &mut self,
        time_left: Duration,
        on_started: impl FnOnce() + Send,
    ) -> Result<Returned, RemoteError> {
        let late = |_| RemoteError::TooLong;
        tokio::time::timeout(HANDOVER_MAX, self.hand_over()).await.map_err(late)??;
        on_started();
        let done = tokio::time::timeout(time_left, read_frame(&mut self.recv, Duration::MAX));
        match done.await.map_err(late)?? {
            RunDone::Failed(failure) => Err(RemoteError::Failed(failure)),
            RunDone::Finished { record, inline, observed } => {
                let observed = observed.and_then(|sighting| sighting.observed());
                self.take_back(record, inline, observed).await
            }
        }
    }

    /// Brings the action and its inputs to the worker; returns when the compiler starts.
    async fn hand_over(&mut self) -> Result<(), RemoteError> {
        let Errand { carrier, worker, action, .. } = self.errand;
        let _ = self.send.set_priority(ACTION_PRIORITY);
        let tree_digest = action.inputs.digest();
        let sent = self.offer().await;
        self.or_reason(sent).await?;
        let mut needs = 0;
        loop {
            let patience = if needs == 0 { REPLY_MAX } else { HANDOVER_MAX };
            match read_frame(&mut self.recv, patience).await? {
                RunReply::Declined(why) => return Err(RemoteError::Declined(why)),
                RunReply::Failed(failure) => return Err(RemoteError::Failed(failure)),
                RunReply::UnknownBase if needs == 0 => {
                    carrier.forget(worker);
                    let whole = TreeForm::of(&action.inputs, &[]);
                    let sent = write_frame(&mut self.send, &whole).await;
                    self.or_reason(sent).await?;
                }
                RunReply::Need(blobs) if needs < NEEDS_MAX => {
                    needs += 1;
                    carrier.remember(worker, tree_digest, &action.inputs);
                    let sent = self.send_blobs(blobs).await;
                    self.or_reason(sent).await?;
                }
                RunReply::Started if needs > 0 => return Ok(()),
                _ => return Err(RemoteError::Bad),
            }
        }
    }

    /// Sends the action and what the worker probably lacks.
    async fn offer(&mut self) -> Result<(), StreamError> {
        let Errand { carrier, worker, action, .. } = self.errand;
        let bases = carrier.trees().candidates(worker);
        let bases: Vec<(Digest, &Tree)> = bases.iter().map(|(digest, tree)| (*digest, &**tree)).collect();
        let ahead = carrier.probably_new(worker, &action.inputs);
        let run = Run::of(action, TreeForm::of(&action.inputs, &bases), ahead.clone());
        write_frame(&mut self.send, &Request::Run(Box::new(run))).await?;
        self.send_blobs(ahead).await
    }

    async fn send_blobs(&mut self, blobs: Vec<Digest>) -> Result<(), StreamError> {
        let Errand { mesh, worker, sources, .. } = self.errand;
        for digest in blobs {
            let packing = |size| mesh.packing(worker, size, Cpu::Scarce);
            send_file(&mut self.send, sources, digest, packing).await?;
        }
        Ok(())
    }

    /// When the worker does not read on, it has usually said why.
    async fn or_reason(&mut self, sent: Result<(), StreamError>) -> Result<(), RemoteError> {
        let Err(error) = sent else { return Ok(()) };
        if matches!(error, StreamError::Io(_)) {
            match read_frame(&mut self.recv, REASON_MAX).await {
                Ok(RunReply::Declined(why)) => return Err(RemoteError::Declined(why)),
                Ok(RunReply::Failed(failure)) => return Err(RemoteError::Failed(failure)),
                _ => {}
            }
        }
        Err(error.into())
    }

    /// Checks the record and receives the outputs.
    async fn take_back(
        &mut self,
        record: SignedBytes,
        inline: Vec<Bytes>,
        observed: Option<Observed>,
    ) -> Result<Returned, RemoteError> {
        let Errand { store, worker, action, .. } = self.errand;
        let result = check(worker, action, &record)?;
        let came = self.receive(&result, inline).await?;
        Returned::of(store, result, record, observed, came)
    }

    /// All blobs of the result, in order.
    async fn receive(&mut self, result: &ActionResult, inline: Vec<Bytes>) -> Result<Vec<Came>, RemoteError> {
        let mut inline = inline.into_iter();
        let mut sent = result.sent_blobs();
        let mut came = Vec::with_capacity(result.outputs.len() + 2);
        for blob in result.blobs() {
            came.push(match (blob.size > 0).then(|| sent.next()).flatten() {
                None => Came::Bytes(Vec::new()),
                Some((_, true)) => Came::Bytes(inline.next().ok_or(RemoteError::Bad)?.0),
                Some((_, false)) => Came::File(receive_open(self.errand.store, &mut self.recv, blob).await?),
            });
        }
        Ok(came)
    }
}

/// One blob of a result.
pub(super) enum Came {
    /// Inside the frame; not checked or stored yet.
    Bytes(Vec<u8>),
    /// After it: checked, stored and opened.
    File(File),
}

impl Came {
    /// The blob as what the wrapper replays; it is in the store then.
    pub(super) fn stream(self, store: &Store, blob: &Blob) -> Result<Vec<u8>, RemoteError> {
        match self {
            // Most compiles say nothing, and nothing is in the store already.
            Self::Bytes(bytes)
                if bytes.is_empty() && *blob == Blob::of(&[]) && store.contains(&blob.digest) =>
            {
                Ok(bytes)
            }
            Self::Bytes(bytes) => keep_open(store, &bytes, blob).map(|_| bytes).map_err(Into::into),
            Self::File(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(StreamError::Local)?;
                Ok(bytes)
            }
        }
    }

    /// The blob as what the wrapper writes; it is in the store then.
    pub(super) fn output(self, store: &Store, blob: &Blob) -> Result<File, RemoteError> {
        match self {
            Self::Bytes(bytes) => keep_open(store, &bytes, blob).map_err(Into::into),
            Self::File(file) => Ok(file),
        }
    }
}

impl Carrier {
    /// Believes that no worker has anything.
    pub(crate) fn new() -> Self {
        Self { trees: Mutex::new(KnownTrees::new(SENT_PER_PEER_MAX, ENTRIES_MAX)), blobs: Mutex::default() }
    }

    /// Small blobs of `tree` that `worker` was never seen to have. None if there are many: then either nothing is known of
    /// the worker, which may have them all, or it is to ask for what it needs.
    fn probably_new(&self, worker: &NodeId, tree: &Tree) -> Vec<Digest> {
        let blobs = self.blobs();
        let known = blobs.get(worker);
        let is_new = |digest: &Digest| known.is_none_or(|known| !known.contains(&short(digest)));
        let mut new: Vec<(Digest, u64)> = Vec::new();
        for (digest, size) in tree.blobs().filter(|(digest, _)| is_new(digest)) {
            if new.len() == AHEAD_BLOBS_MAX {
                return Vec::new();
            }
            if new.iter().all(|(other, _)| *other != digest) {
                new.push((digest, size));
            }
        }
        let mut left = AHEAD_BYTES_MAX;
        new.retain(|(_, size)| {
            let fits = *size <= left;
            if fits {
                left -= size;
            }
            fits
        });
        new.into_iter().map(|(digest, _)| digest).collect()
    }

    /// `worker` has `tree`, and has or will have all its blobs.
    fn remember(&self, worker: &NodeId, digest: Digest, tree: &Tree) {
        let mut blobs = self.blobs();
        if blobs.len() >= WORKERS_MAX && !blobs.contains_key(worker) {
            blobs.clear();
        }
        let known = blobs.entry(*worker).or_default();
        if known.len() >= BLOBS_PER_WORKER_MAX {
            known.clear();
        }
        known.extend(tree.blobs().map(|(digest, _)| short(&digest)));
        drop(blobs);
        self.trees().remember(*worker, digest, &Arc::new(tree.clone()));
    }

    /// `worker` lacks what it was believed to have.
    fn forget(&self, worker: &NodeId) {
        self.blobs().remove(worker);
        self.trees().forget(worker);
    }

    fn trees(&self) -> MutexGuard<'_, KnownTrees> {
        self.trees.lock().expect("no panic while the trees are held")
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<NodeId, HashSet<u64>>> {
        self.blobs.lock().expect("no panic while the blobs are held")
    }
}

/// Enough of a digest for a belief.
fn short(digest: &Digest) -> u64 {
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    u64::from_le_bytes(*first)
}

/// The result, if it is one of `action` and signed by `worker`.
fn check(worker: &NodeId, action: &Action, record: &SignedBytes) -> Result<ActionResult, RemoteError> {
    let payload = record.verified(RECORD_CONTEXT, worker).ok_or(RemoteError::Bad)?;
    let record: ActionRecord = postcard::from_bytes(payload).map_err(|_| RemoteError::Bad)?;
    record.result.check(action).map_err(|_| RemoteError::Bad)?;
    let honest = record.key == action.key() && record.producer == *worker;
    if honest { Ok(record.result) } else { Err(RemoteError::Bad) }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{Entry, Identity, TreePath};

    use super::*;

    fn tree(blobs: &[(&str, u64)]) -> Tree {
        let mut tree = Tree::new();
        for (name, size) in blobs {
            let entry = Entry::File { digest: Digest::of(name.as_bytes()), size: *size, executable: false };
            tree.insert(TreePath::new(format!("/{name}")).unwrap(), entry).unwrap();
        }
        tree
    }

    #[test]
    fn small_blobs_that_are_new_to_a_worker_go_ahead() {
        let carrier = Carrier::new();
        let [one, two] = [1, 2].map(|seed| Identity::from_seed(&[seed; 32]).id());
        let check = |worker: &NodeId, tree: &Tree, expect: &[&str]| {
            let expect: Vec<Digest> = expect.iter().map(|name| Digest::of(name.as_bytes())).collect();
            assert_eq!(carrier.probably_new(worker, tree), expect);
        };
        let first = tree(&[("a.c", 1000), ("b.h", 10), ("c.h", AHEAD_BYTES_MAX)]);
        check(&one, &first, &["a.c", "b.h"]);
        carrier.remember(&one, first.digest(), &first);
        check(&one, &first, &[]);
        check(&two, &first, &["a.c", "b.h"]);
        check(&one, &tree(&[("b.h", 10), ("n.c", 5)]), &["n.c"]);
        carrier.forget(&one);
        check(&one, &first, &["a.c", "b.h"]);
        let names: Vec<String> = (0..=AHEAD_BLOBS_MAX).map(|n| format!("h{n}")).collect();
        let many: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        check(&one, &tree(&many), &[]);
    }
}
