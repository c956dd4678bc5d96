//! One action on one worker, from the requester's side.

use std::time::Duration;

use barn_cache::Store;
use barn_mesh::{
    Mesh, OpenError, RecvStream, SendStream,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Action, ActionRecord, ActionResult, NodeId,
    action::RECORD_CONTEXT,
    identity::SignedBytes,
    placement::Failure,
    wire::{Decline, Request, RunDone, RunFailure, RunReply},
};

use crate::blobs::{Sources, receive, send_file};

/// How long a worker may take to say whether it accepts. It answers at once; the rest is a busy network.
const REPLY_MAX: Duration = Duration::from_secs(3);
/// How long a worker may stay silent in the middle of sending a result.
const BLOB_MAX: Duration = Duration::from_secs(10);

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

/// Runs `action` on `worker`; its blobs are in the store afterwards. Dropping the future cancels the action.
///
/// # Errors
/// How it ended otherwise; the caller tries elsewhere.
pub(super) async fn run(
    mesh: &Mesh,
    store: &Store,
    worker: NodeId,
    action: &Action,
    sources: &Sources,
    time_left: Duration,
) -> Result<(ActionResult, SignedBytes), RemoteError> {
    let (mut send, mut recv) = mesh.open(worker).await?;
    let outcome =
        tokio::time::timeout(time_left, converse(&mut send, &mut recv, store, worker, action, sources))
            .await
            .unwrap_or(Err(RemoteError::TooLong));
    if outcome.is_err() {
        // A reset is what tells the worker to stop. It may have been reset already.
        let _ = send.reset(0_u8.into());
    }
    outcome
}

async fn converse(
    send: &mut SendStream,
    recv: &mut RecvStream,
    store: &Store,
    worker: NodeId,
    action: &Action,
    sources: &Sources,
) -> Result<(ActionResult, SignedBytes), RemoteError> {
    write_frame(send, &Request::Run(Box::new(action.clone()))).await?;
    let need = match read_frame(recv, REPLY_MAX).await? {
        RunReply::Declined(why) => return Err(RemoteError::Declined(why)),
        RunReply::Accepted { need } => need,
    };
    for digest in need {
        send_file(send, sources, digest).await?;
    }
    let (result, record) = match read_frame(recv, Duration::MAX).await? {
        RunDone::Finished { result, record } => (result, record),
        RunDone::Failed(failure) => return Err(RemoteError::Failed(failure)),
    };
    check(worker, action, &result, &record)?;
    for blob in result.blobs() {
        tokio::time::timeout(BLOB_MAX, receive(store, recv, blob.digest, blob.size))
            .await
            .map_err(|_| StreamError::Stalled(BLOB_MAX))??;
    }
    Ok((result, record))
}

fn check(
    worker: NodeId,
    action: &Action,
    result: &ActionResult,
    record: &SignedBytes,
) -> Result<(), RemoteError> {
    result.check(action).map_err(|_| RemoteError::Bad)?;
    let payload = record.verified(RECORD_CONTEXT, &worker).ok_or(RemoteError::Bad)?;
    let record: ActionRecord = postcard::from_bytes(payload).map_err(|_| RemoteError::Bad)?;
    let honest = record.key == action.key() && record.result == *result && record.producer == worker;
    if honest { Ok(()) } else { Err(RemoteError::Bad) }
}
