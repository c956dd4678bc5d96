//! The frames of the data plane, version 4.
//!
//! A requester opens one bidirectional stream per request on the pooled QUIC connection and writes one
//! [`Request`]. What follows depends on the request; the exchange is drawn in `docs/protocol.md`. A frame is a
//! 32-bit little-endian length and that many bytes of postcard, packed with zstd if [`FRAME_PACKED`] is set in the
//! length. A blob follows its [`BlobHeader`] as chunks: a codec byte (0 as is, 1 zstd), a 32-bit little-endian packed
//! length, and the packed bytes. All chunks but the last unpack to exactly [`crate::limits::CHUNK_BYTES_MAX`] bytes,
//! and a zstd chunk is shorter than what it unpacks to. Resetting the stream cancels.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    action::{Action, ActionKey, Output},
    delta::TreeForm,
    dht::{Get, Put},
    digest::Digest,
    front::FrontCoded,
    identity::{NodeId, SignedBytes},
    limits::FRAME_BYTES_MAX,
    observed::Observed,
    path::TreePath,
    prefetch::BuildName,
    toolchain::Toolchain,
    transfer::{PieceSet, PieceValue},
    tree::Tree,
};

/// The data plane's protocol name in TLS (ALPN); a node of another version finds no common one.
pub const DATA_ALPN: &[u8] = b"barn/4";
/// The join protocol's name in TLS.
pub const JOIN_ALPN: &[u8] = b"barn-join/1";
/// Set in a frame's length when its body is packed.
pub const FRAME_PACKED: u32 = 1 << 31;

/// Bytes of outputs inside [`RunDone::Finished`]: warnings, dependency files and small objects.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Blobs sent without being asked for, at most: the source and a few headers of its own.
pub const AHEAD_BLOBS_MAX: usize = 16;
/// Those together, unpacked. Sent in vain they cost 10 ms of a 100 Mbit/s link.
pub const AHEAD_BYTES_MAX: u64 = 128 << 10;
/// Times a worker may ask for blobs of one action: once, and after another action that was to bring some was given
/// up. More than that is a worker that asks in circles.
pub const NEEDS_MAX: usize = 8;

/// The first frame on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run this action. Answered with [`RunReply`]s.
    Run(Box<Run>),
    /// Send this toolchain's description. Answered with [`ToolchainReply`].
    Toolchain(Digest),
    /// Say which pieces of this toolchain are here. Answered with [`SwarmReply`] and then with [`SwarmNews`] whenever
    /// something changed, until the asker ends the stream.
    Swarm(Digest),
    /// Send pieces of this toolchain. [`PieceAsk`]s follow; each piece is answered with one [`PieceReply`], in order.
    Pieces(Digest),
    /// Say which toolchains are here whole. Answered with a list of [`Offered`].
    Toolchains,
    /// What is kept under these keys of the office's cache? Answered with a list of [`crate::dht::Answer`]s in the same order.
    Entries(Vec<Get>),
    /// News of entries of the office's cache. Not answered.
    Tell(Vec<Put>),
    /// Send outputs of an action. Answered with an [`OutputsReply`] and, if it says so, the blobs in this order.
    Outputs {
        /// Whoever knows an action's key knows all its inputs; nobody gets a blob by guessing digests.
        action: ActionKey,
        /// Which of its outputs.
        blobs: Vec<Digest>,
    },
    /// What did this build need? Answered with a [`BuildReply`].
    Build(BuildName),
    /// Send the records of these actions that are in the store, of which the asked member published a list. Answered with a
    /// list of encoded [`SignedBytes`], or nothing, in the same order.
    Records(Vec<ActionKey>),
    /// As [`Request::Outputs`], for somebody who does not wait for them: they go after all else.
    Prefetch {
        /// Of which action.
        action: ActionKey,
        /// Which of its outputs.
        blobs: Vec<Digest>,
    },
}

/// The answer to [`Request::Build`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildReply {
    /// No such build was recorded here.
    Unknown,
    /// A signed [`crate::prefetch::BuildList`].
    Recorded(SignedBytes),
}

/// The answer to [`Request::Outputs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputsReply {
    /// They follow.
    Coming,
    /// Not all of them are here.
    Absent,
}

/// An [`Action`] on the wire; its tree may be a difference to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    toolchain: Digest,
    program: TreePath,
    argv: Vec<Vec<u8>>,
    env: BTreeMap<Vec<u8>, Vec<u8>>,
    cwd: TreePath,
    outputs: Vec<Output>,
    /// The input tree.
    pub inputs: TreeForm,
    /// The blobs that follow at once, in this order.
    pub ahead: Vec<Digest>,
}

impl Run {
    /// What is sent for `action`.
    pub fn of(action: &Action, inputs: TreeForm, ahead: Vec<Digest>) -> Self {
        Self {
            toolchain: action.toolchain,
            program: action.program.clone(),
            argv: action.argv.clone(),
            env: action.env.clone(),
            cwd: action.cwd.clone(),
            outputs: action.outputs.clone(),
            inputs,
            ahead,
        }
    }

    /// The action, with the tree that [`Run::inputs`] stands for.
    pub fn into_action(self, inputs: Tree) -> Action {
        Action {
            toolchain: self.toolchain,
            program: self.program,
            argv: self.argv,
            env: self.env,
            cwd: self.cwd,
            inputs: Arc::new(inputs),
            outputs: self.outputs,
        }
    }
}

/// What a worker answers to [`Request::Run`] until the compiler runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunReply {
    /// Not here; ask another. At once or never.
    Declined(Decline),
    /// The tree is told by trees that are not known here: send it whole ([`TreeForm::Whole`]) on this stream. Then one
    /// of the other answers follows.
    UnknownBase,
    /// Accepted, as an answer to the request; send these blobs, in this order, if any. Comes again when blobs that another
    /// action was to bring did not come; at most [`NEEDS_MAX`] times.
    Need(Vec<Digest>),
    /// All inputs are here and the compiler starts now. [`RunDone`] follows.
    Started,
    /// It was accepted but cannot be started.
    Failed(RunFailure),
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

/// A worker's last frame for a run; on success the blobs of the result follow that are not inside, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunDone {
    /// The compiler ran to its end.
    Finished {
        /// The worker's signed [`crate::ActionRecord`], with the result.
        record: SignedBytes,
        /// The blobs that [`crate::ActionResult::sent_blobs`] says are inside, in order.
        inline: Vec<Bytes>,
        /// What the compiler opened and looked for in vain, if the worker could watch it.
        observed: Option<Sighting>,
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

/// Bytes in a frame, copied as a whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// An [`Observed`] on the wire: the files opened as distances, the paths front-coded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    opened: Vec<u32>,
    in_vain: FrontCoded,
}

impl From<&Observed> for Sighting {
    fn from(observed: &Observed) -> Self {
        let mut before = 0;
        let distances = observed.opened().iter().map(|index| {
            let distance = index - before;
            before = *index;
            distance
        });
        Self {
            opened: distances.collect(),
            in_vain: FrontCoded::of(observed.in_vain().iter().map(Vec::as_slice)),
        }
    }
}

impl Sighting {
    /// What was observed; `None` if it is malformed or over its limits.
    pub fn observed(&self) -> Option<Observed> {
        let mut before = 0_u32;
        let mut opened = Vec::with_capacity(self.opened.len());
        for distance in &self.opened {
            before = before.checked_add(*distance)?;
            opened.push(before);
        }
        Observed::new(opened, self.in_vain.unfold().ok()?).ok()
    }
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

    #[test]
    fn an_action_is_the_same_after_the_way() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let mut inputs = Tree::new();
        let entry = crate::Entry::File { digest: Digest::of(b"int x;"), size: 6, executable: false };
        inputs.insert(path("/src/x.c"), entry).unwrap();
        let action = Action {
            toolchain: Digest::of(b"gcc"),
            program: path("/usr/bin/gcc"),
            argv: vec![b"gcc".to_vec(), b"-c".to_vec(), b"x.c".to_vec()],
            env: [(b"LANG".to_vec(), b"C".to_vec())].into(),
            cwd: path("/src"),
            inputs: Arc::new(inputs),
            outputs: vec![Output { path: path("/src/x.o"), optional: false }],
        };
        let ahead = vec![Digest::of(b"int x;")];
        let run = Run::of(&action, TreeForm::of(&action.inputs, &[]), ahead);
        let sent = Request::Run(Box::new(run.clone()));
        assert_eq!(decode::<Request>(&encode(&sent).unwrap()), Ok(sent));
        let tree = run.inputs.tree(|_| None::<Tree>).unwrap();
        assert_eq!(run.into_action(tree).key(), action.key());
    }

    #[test]
    fn bytes_are_as_long_as_they_are() {
        for length in [0, 1, 127, 128, 70_000] {
            let bytes = Bytes((0..length).map(|n| (n % 251) as u8).collect());
            let body = encode(&bytes).unwrap();
            assert!(body.len() <= length + 3);
            assert_eq!(decode::<Bytes>(&body), Ok(bytes));
            assert_eq!(decode::<Bytes>(&body[..body.len() - 1]), Err(FrameError::Malformed));
        }
    }

    #[test]
    fn a_sighting_is_compact_and_what_was_observed() {
        let in_vain = (0..500).map(|n| format!("/usr/include/c++/12/bits/header_{n}.h").into_bytes());
        let observed = Observed::new((0..300).collect(), in_vain.collect()).unwrap();
        let sighting = Sighting::from(&observed);
        let body = encode(&sighting).unwrap();
        assert!(body.len() < 300 + 500 * 9 + 50, "{}", body.len());
        assert_eq!(decode::<Sighting>(&body).unwrap().observed(), Some(observed));
        let hostile = Sighting { opened: vec![u32::MAX, 1], in_vain: FrontCoded::default() };
        assert_eq!(hostile.observed(), None);
        let relative = Sighting { opened: vec![], in_vain: FrontCoded::of([&b"a"[..]]) };
        assert_eq!(relative.observed(), None);
    }
}
