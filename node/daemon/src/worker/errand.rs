//! One action of another member, from its first frame to its last output.

use std::{sync::Arc, time::Duration};

use barn_mesh::{
    Cpu, Mesh, RecvStream, SendStream,
    limits::ACTION_PRIORITY,
    stream::{StreamError, read_blob, read_frame, write_blob_packed, write_frame},
};
use barn_protocol::{
    Action, ActionRecord, ActionResult, Digest, Toolchain, Tree,
    delta::{DeltaError, TreeForm},
    observed::Observed,
    roster::Member,
    wire::{
        AHEAD_BLOBS_MAX, AHEAD_BYTES_MAX, Bytes, Decline, NEEDS_MAX, Run, RunDone, RunFailure, RunReply,
        Sighting,
    },
};
use barn_sandbox::CancelToken;

use super::{
    Contained, Worker,
    arrivals::{Arrival, Awaited, Claim},
    queue::Place,
    room,
    trees::Owner,
};

/// Longest an action's inputs may take to come: 200 MB at 20 Mbit/s take 80 s. Meanwhile it holds a place, no slot.
const INPUTS_MAX: Duration = Duration::from_secs(120);
/// Longest wait for a tree that is sent again: one round trip and a frame.
const TREE_MAX: Duration = Duration::from_secs(10);

/// An action being served.
pub(super) struct Errand<'a> {
    pub(super) worker: &'a Worker,
    pub(super) mesh: &'a Mesh,
    pub(super) peer: &'a Member,
    pub(super) epoch: u64,
    pub(super) send: &'a mut SendStream,
    pub(super) recv: &'a mut RecvStream,
}

/// What an action needs to run, beside its inputs.
pub(super) struct Admitted {
    pub(super) toolchain: Arc<Toolchain>,
    pub(super) contained: Arc<Contained>,
    pub(super) place: Place,
    /// The blobs that are not here, each once.
    pub(super) missing: Vec<(Digest, u64)>,
}

/// Blobs that this stream is to bring, with their sizes.
type Ours = Vec<(Digest, u64, Claim)>;
/// Blobs that another stream brings.
type Theirs = Vec<(Digest, u64, Awaited)>;
/// Blobs that came without being asked for.
type Brought = Vec<(Digest, Vec<u8>)>;

/// Why an action did not get its inputs.
enum Trouble {
    /// The stream is gone, and the requester knows.
    Stream(StreamError),
    /// The requester is to be told.
    Failed(RunFailure),
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Local(_) => Self::Failed(RunFailure::Inputs),
            error => Self::Stream(error),
        }
    }
}

impl Errand<'_> {
    /// Serves the action; the end of the stream or connection cancels it.
    pub(super) async fn serve(mut self, mut run: Run) -> Result<(), StreamError> {
        let _ = self.send.set_priority(ACTION_PRIORITY);
        if let Err(why) = self.worker.may(self.peer) {
            return self.decline(why).await;
        }
        let ahead = std::mem::take(&mut run.ahead);
        if ahead.len() > AHEAD_BLOBS_MAX {
            return self.decline(Decline::Unfit).await;
        }
        let mut brought = None;
        let tree = match self.worker.tree(&self.peer.id, &run.inputs) {
            Err(DeltaError::UnknownBase(_)) => {
                write_frame(self.send, &RunReply::UnknownBase).await?;
                brought = Some(self.receive_ahead(&ahead).await?);
                let whole: TreeForm = read_frame(self.recv, TREE_MAX).await?;
                whole.tree(|_| None::<Tree>)
            }
            known => known,
        };
        let Ok(tree) = tree else { return self.decline(Decline::Unfit).await };
        let action = Arc::new(run.into_action(tree));
        let admitted = match self.worker.admit(self.mesh, self.peer, &action) {
            Ok(admitted) => admitted,
            Err(why) => return self.decline(why).await,
        };
        self.worker.remember(&self.peer.id, &action.inputs);
        let inputs = self.inputs(&action, &admitted.missing, &ahead, brought);
        match tokio::time::timeout(INPUTS_MAX, inputs).await {
            Ok(Ok(())) => self.start(action, admitted).await,
            Ok(Err(Trouble::Failed(failure))) => write_frame(self.send, &RunReply::Failed(failure)).await,
            Ok(Err(Trouble::Stream(error))) => Err(error),
            Err(_) => Err(StreamError::Stalled(INPUTS_MAX)),
        }
    }

    async fn decline(&mut self, why: Decline) -> Result<(), StreamError> {
        write_frame(self.send, &RunReply::Declined(why)).await
    }

    /// Gets all inputs into the store.
    async fn inputs(
        &mut self,
        action: &Action,
        missing: &[(Digest, u64)],
        ahead: &[Digest],
        brought: Option<Brought>,
    ) -> Result<(), Trouble> {
        let (mut ours, mut theirs) = self.claim(missing);
        let is_ahead = |digest: &Digest| ahead.contains(digest);
        let (coming, asked): (Ours, Ours) = ours.into_iter().partition(|(digest, ..)| is_ahead(digest));
        self.ask(&asked).await?;
        let brought = match brought {
            Some(brought) => brought,
            None => self.receive_ahead(ahead).await?,
        };
        self.take_in(action, brought)?;
        drop(coming);
        self.receive(asked).await?;
        for _ in 1..NEEDS_MAX {
            let mut lost = Vec::new();
            for (digest, size, awaited) in theirs {
                awaited.over().await;
                if !self.worker.store.contains(&digest) {
                    lost.push((digest, size));
                }
            }
            if lost.is_empty() {
                return Ok(());
            }
            (ours, theirs) = self.claim(&lost);
            if !ours.is_empty() {
                self.ask(&ours).await?;
                self.receive(ours).await?;
            }
        }
        Err(Trouble::Failed(RunFailure::Inputs))
    }

    /// Which of the blobs this stream is to bring, and for which another is waited.
    fn claim(&self, missing: &[(Digest, u64)]) -> (Ours, Theirs) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (digest, size) in missing {
            match self.worker.arrivals.claim(self.peer.id, *digest) {
                Arrival::Ours(claim) => ours.push((*digest, *size, claim)),
                Arrival::Theirs(awaited) => theirs.push((*digest, *size, awaited)),
            }
        }
        (ours, theirs)
    }

    async fn ask(&mut self, blobs: &[(Digest, u64, Claim)]) -> Result<(), StreamError> {
        let need = blobs.iter().map(|(digest, ..)| *digest).collect();
        write_frame(self.send, &RunReply::Need(need)).await
    }

    async fn receive(&mut self, blobs: Ours) -> Result<(), StreamError> {
        for (digest, size, claim) in blobs {
            crate::blobs::receive(&self.worker.store, self.recv, digest, size).await?;
            drop(claim);
        }
        Ok(())
    }

    /// Receives what the requester sends without being asked, into memory: it may be here already, or no input at all.
    async fn receive_ahead(&mut self, ahead: &[Digest]) -> Result<Brought, StreamError> {
        let mut left = AHEAD_BYTES_MAX;
        let mut brought = Vec::with_capacity(ahead.len());
        for digest in ahead {
            let mut bytes = Vec::new();
            read_blob(self.recv, *digest, left, &mut bytes).await?;
            left -= bytes.len() as u64;
            brought.push((*digest, bytes));
        }
        Ok(brought)
    }

    /// Keeps those that are inputs and were missing.
    fn take_in(&self, action: &Action, brought: Brought) -> Result<(), Trouble> {
        let store = &self.worker.store;
        for (digest, bytes) in brought {
            if store.contains(&digest) || !action.inputs.blobs().any(|(input, _)| input == digest) {
                continue;
            }
            store.put_bytes(&bytes).map_err(|_| Trouble::Failed(RunFailure::Inputs))?;
        }
        Ok(())
    }

    /// Waits for a slot, runs the action, and sends what came of it.
    async fn start(mut self, action: Arc<Action>, admitted: Admitted) -> Result<(), StreamError> {
        let Admitted { toolchain, contained, place, .. } = admitted;
        tokio::select! {
            () = place.slot() => {}
            () = gone(self.send, self.recv) => return Ok(()),
        }
        write_frame(self.send, &RunReply::Started).await?;
        self.worker.stats.count_peer(&self.peer.name, |traffic| traffic.received += 1);
        let outcome = self.run(contained, toolchain, action.clone()).await;
        // The next one may compile while these outputs travel.
        drop(place);
        match outcome {
            Ok((result, observed)) => self.answer(&action, result, observed.as_ref()).await,
            Err(failure) => write_frame(self.send, &RunDone::Failed(failure)).await,
        }
    }

    async fn run(
        &mut self,
        contained: Arc<Contained>,
        toolchain: Arc<Toolchain>,
        action: Arc<Action>,
    ) -> Result<(ActionResult, Option<Observed>), RunFailure> {
        let cancel = CancelToken::new().map_err(|_| RunFailure::Sandbox)?;
        let (store, limits) = (self.worker.store.clone(), self.worker.limits.clone());
        let (token, owner) = (cancel.clone(), Owner { requester: self.peer.id, toolchain: action.toolchain });
        let mut run = tokio::task::spawn_blocking(move || {
            let trace = contained.watch.wants(owner);
            let own = contained.adopter.bound(&toolchain);
            let room = room::prepare(&toolchain, own, owner, &action, limits, trace)?;
            room::run(&contained.sandbox, &contained.trees, room, &token, store)
        });
        let outcome = tokio::select! {
            outcome = &mut run => outcome,
            () = gone(self.send, self.recv) => {
                cancel.cancel();
                run.await
            }
        };
        outcome.map_err(|_| RunFailure::Sandbox)?
    }

    async fn answer(
        &mut self,
        action: &Action,
        result: ActionResult,
        observed: Option<&Observed>,
    ) -> Result<(), StreamError> {
        let store = &self.worker.store;
        let lost = || StreamError::Local(std::io::Error::other("an output was evicted before it was sent"));
        let (inline, rest): (Vec<_>, Vec<_>) = result.sent_blobs().partition(|(_, inline)| *inline);
        let read = |digest: &Digest| store.read_blob(digest).map(Bytes).ok_or_else(lost);
        let inline = inline.iter().map(|(blob, _)| read(&blob.digest)).collect::<Result<_, _>>()?;
        let record = ActionRecord {
            key: action.key(),
            result,
            producer: self.worker.identity.id(),
            sandboxed: true,
            epoch: self.epoch,
        };
        let record = record.sign(&self.worker.identity);
        let done = RunDone::Finished { record, inline, observed: observed.map(Sighting::from) };
        write_frame(self.send, &done).await?;
        for (blob, _) in rest {
            let mut file = tokio::fs::File::from_std(store.open_blob(&blob.digest).ok_or_else(lost)?);
            let packing = self.mesh.packing(&self.peer.id, blob.size, Cpu::Spare);
            write_blob_packed(self.send, blob.digest, blob.size, &mut file, packing).await?;
        }
        Ok(())
    }
}

/// Resolves when the requester has given up: it reset or stopped the stream, or the connection ended.
async fn gone(send: &SendStream, recv: &mut RecvStream) {
    tokio::select! {
        _ = send.stopped() => {}
        () = reset(recv) => {}
    }
}

/// Resolves when the requester's half is reset or lost; that it has merely said all means nothing.
async fn reset(recv: &mut RecvStream) {
    if let Ok(None) = recv.received_reset().await {
        std::future::pending::<()>().await;
    }
}
