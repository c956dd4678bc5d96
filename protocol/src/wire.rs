//! The frames of the data plane, version 1.
//!
//! A requester opens one bidirectional stream per request on the pooled QUIC connection and writes one
//! [`Request`]. What follows depends on the request; the exchange is drawn in `docs/protocol.md`. A frame is a
//! 32-bit little-endian length and that many bytes of postcard. A blob follows its [`BlobHeader`] as chunks: a codec byte
//! (0 as is, 1 zstd), a 32-bit little-endian packed length, and the packed bytes. All chunks but the last unpack to
//! exactly [`crate::limits::CHUNK_BYTES_MAX`] bytes, and a zstd chunk is shorter than what it unpacks to.
//! Resetting the stream cancels.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    action::{Action, ActionResult},
    digest::Digest,
    identity::{NodeId, SignedBytes},
    limits::FRAME_BYTES_MAX,
    toolchain::Toolchain,
    transfer::{PieceSet, PieceValue},
};

/// The data plane's protocol name in TLS (ALPN); a node of another version finds no common one.
pub const DATA_ALPN: &[u8] = b"barn/1";
/// The join protocol's name in TLS.
pub const JOIN_ALPN: &[u8] = b"barn-join/1";

/// The first frame on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run this action. Answered with [`RunReply`].
    Run(Box<Action>),
    /// Send this toolchain's description. Answered with [`ToolchainReply`].
    Toolchain(Digest),
    /// Say which pieces of this toolchain are here. Answered with [`SwarmReply`] and then with [`SwarmNews`] whenever
    /// something changed, until the asker ends the stream.
    Swarm(Digest),
    /// Send pieces of this toolchain. [`PieceAsk`]s follow; each piece is answered with one [`PieceReply`], in order.
    Pieces(Digest),
    /// Say which toolchains are here whole. Answered with a list of [`Offered`].
    Toolchains,
}

/// A worker's first answer to [`Request::Run`], at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunReply {
    /// Not here; ask another.
    Declined(Decline),
    /// Send these blobs, in this order; then wait for [`RunDone`].
    Accepted {
        /// The blobs of the input tree that the worker lacks.
        need: Vec<Digest>,
    },
}

/// Why a worker declines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decline {
    /// All slots are taken.
    Busy,
    /// It lacks the toolchain and has begun to fetch it from the requester.
    FetchingToolchain,
    /// It cannot or may not run remote work at all.
    NotAWorker,
    /// It cannot run this toolchain's machine.
    OtherMachine,
    /// The requester may not submit.
    NotAllowed,
    /// The action is malformed or over this worker's limits.
    Unfit,
}

/// A worker's last frame for a run; on success the blobs of the result follow in the order of
/// [`ActionResult::blobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunDone {
    /// The compiler ran to its end.
    Finished {
        /// What it did.
        result: ActionResult,
        /// The worker's signed record of it.
        record: SignedBytes,
    },
    /// It did not; the requester runs the action elsewhere or locally.
    Failed(RunFailure),
}

/// Why an action did not run to its end on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunFailure {
    /// The compiler died of this signal (out of memory, crash).
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// It took longer than the worker allows.
    TimedOut,
    /// It broke a limit of the sandbox, or wrote something that is no regular file.
    Refused,
    /// The sandbox could not be set up.
    Sandbox,
    /// A blob that arrived was not the one asked for, or the store failed.
    Inputs,
}

/// The answer to [`Request::Toolchain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolchainReply {
    /// Here it is; its digest is the one asked for.
    Found(Toolchain),
    /// Not here.
    NotFound,
}

/// The first answer to [`Request::Swarm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwarmReply {
    /// Nothing of it is here.
    NotFound,
    /// What it consists of.
    Found {
        /// Its description; its digest is the one asked for.
        toolchain: Box<Toolchain>,
        /// The values of all its pieces.
        values: Vec<PieceValue>,
    },
}

/// What a source has by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmNews {
    /// The pieces that it can send.
    pub have: PieceSet,
    /// The pieces that it has asked for itself.
    pub coming: PieceSet,
    /// Some others that fetch this toolchain from it, and so have pieces of it.
    pub others: Vec<NodeId>,
}

/// Asks for pieces, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceAsk(pub Vec<u32>);

/// The answer to each piece of a [`PieceAsk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceReply {
    /// It follows, in so many bytes: as it is if these are as many as it has, else packed by zstd.
    Present {
        /// Which piece.
        piece: u32,
        /// Bytes that follow this frame.
        packed_bytes: u32,
    },
    /// It is not here.
    Absent(u32),
    /// Others are being served; ask again soon.
    Busy(u32),
}

/// A toolchain that a member can give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Its digest.
    pub digest: Digest,
    /// What a person calls it.
    pub name: String,
    /// The machine it runs on.
    pub machine: String,
    /// The size of its files.
    pub bytes: u64,
}

/// What precedes a blob's chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobHeader {
    /// A blob of this digest and size follows.
    Present {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes, unpacked.
        size: u64,
    },
    /// The sender does not have it.
    Absent(Digest),
}

/// A frame that cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than allowed.
    #[error("frame of {0} bytes is over the limit")]
    TooLarge(usize),
    /// The bytes are not a value of the expected type, or something follows it.
    #[error("malformed frame")]
    Malformed,
}

/// A value as a frame's body.
///
/// # Errors
/// When it is over the frame limit.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_stdvec(value).map_err(|_| FrameError::Malformed)?;
    if bytes.len() > FRAME_BYTES_MAX { Err(FrameError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

/// A frame's body as a value.
///
/// # Errors
/// When it is over the limit, malformed, or has trailing bytes.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(body.len()));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut body = encode(&Decline::Busy).unwrap();
        assert_eq!(decode::<Decline>(&body), Ok(Decline::Busy));
        body.push(0);
        assert_eq!(decode::<Decline>(&body), Err(FrameError::Malformed));
        assert_eq!(decode::<Decline>(&[]), Err(FrameError::Malformed));
    }
}
