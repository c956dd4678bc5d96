//! Frames on a stream: a 32-bit little-endian length and that many bytes of postcard.
//!
//! If [`FRAME_PACKED`] is set in the length, the bytes are the length of the unpacked body, 32-bit little-endian, and the
//! body packed by zstd. A packed frame unpacks to at most [`PACKED_FREE_BYTES`] and [`PACKED_RATIO_MAX`] times
//! what arrived: many streams with a small bomb each cost their sender more than the reader.
//!
//! Nothing is allocated on the word of a peer: a frame over its limit is refused by its length, and a buffer grows
//! only with the bytes that have arrived. Every wait ends.

use std::{io, time::Duration};

use barn_protocol::{
    Digest,
    limits::FRAME_BYTES_MAX,
    wire::{self, FRAME_PACKED, FrameError},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use crate::blob::{
    blob_packed_bytes_max, read_blob, read_blob_body, read_blob_body_unchecked, read_blob_header,
    write_absent, write_blob, write_blob_packed,
};
use crate::packing::{pack, unpack};

/// How much a buffer grows at once.
const READ_STEP_BYTES: usize = 64 << 10;
/// Shorter bodies are sent as they are: they fit into one packet anyhow.
const PACK_BYTES_MIN: usize = 512;
/// Frames hold digests, which do not pack, and paths and text, which pack at any level.
const PACK_LEVEL: i32 = 1;
/// What a packed frame may unpack to however short it is.
const PACKED_FREE_BYTES: usize = 64 << 10;
/// What it may unpack to for each of its bytes, beside that.
const PACKED_RATIO_MAX: usize = 64;

/// Why a stream failed. All but [`StreamError::Local`] and [`StreamError::SourceChanged`] are the peer's doing or
/// the network's.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection or stream broke, or was reset.
    #[error("the stream broke")]
    Io(#[source] io::Error),
    /// The other side ended the stream in the middle of something.
    #[error("the stream ended early")]
    Ended,
    /// Nothing arrived, or nothing could be sent, for this long.
    #[error("the stream stalled for {0:?}")]
    Stalled(Duration),
    /// A frame over its limit, or malformed.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// A blob's header says another digest than was asked for.
    #[error("asked for blob {asked}, got {got}")]
    WrongBlob {
        /// What was asked for.
        asked: Digest,
        /// What the header says.
        got: Digest,
    },
    /// A blob is larger than allowed.
    #[error("blob {digest} of {size} bytes is over the limit of {limit}")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// Its size by its header, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A chunk of a blob does not unpack to its size.
    #[error("blob {0} has a malformed chunk")]
    BadChunk(Digest),
    /// A blob's bytes do not have its digest.
    #[error("blob {0} does not match its digest")]
    Corrupt(Digest),
    /// What should be sent as this blob has other bytes or another size by now.
    #[error("blob {0} changed while it was sent")]
    SourceChanged(Digest),
    /// Reading the blob here, or writing it, failed.
    #[error("local storage failed")]
    Local(#[source] io::Error),
}

impl StreamError {
    /// A failed read or write of the stream itself.
    pub(crate) fn of_stream(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Ended } else { Self::Io(error) }
    }
}

/// Writes `value` as one frame.
///
/// # Errors
/// When it is over the limit, the stream breaks, or the peer takes nothing for [`crate::limits::STALL_TIMEOUT`].
pub async fn write_frame<T: Serialize>(
    send: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), StreamError> {
    let frame = frame(&wire::encode(value)?);
    write_all(send, &frame).await
}

/// The body with its length, packed if that is worth it.
fn frame(body: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).expect("the frame limit is far below 2 GiB");
    let mut frame = Vec::with_capacity(4 + body.len());
    if body.len() >= PACK_BYTES_MIN {
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&length(body.len()).to_le_bytes());
        let packed = pack(body, PACK_LEVEL, &mut frame, body.len() - 4);
        let packed_bytes = frame.len() - 4;
        if packed && body.len() <= unpacked_max(packed_bytes) {
            frame[..4].copy_from_slice(&(length(packed_bytes) | FRAME_PACKED).to_le_bytes());
            return frame;
        }
        frame.clear();
    }
    frame.extend_from_slice(&length(body.len()).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// What a packed frame of so many bytes may unpack to.
fn unpacked_max(packed: usize) -> usize {
    (PACKED_FREE_BYTES + packed.saturating_mul(PACKED_RATIO_MAX)).min(FRAME_BYTES_MAX)
}

/// Reads one frame, waiting at most `deadline` for the whole of it.
///
/// # Errors
/// When it is over the limit of [`FRAME_BYTES_MAX`], malformed or late, or the stream breaks.
pub async fn read_frame<T: DeserializeOwned>(
    recv: &mut (impl AsyncRead + Unpin),
    deadline: Duration,
) -> Result<T, StreamError> {
    let body = tokio::time::timeout(deadline, read_frame_body(recv))
        .await
        .map_err(|_| StreamError::Stalled(deadline))??;
    Ok(wire::decode(&body)?)
}

async fn read_frame_body(recv: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, StreamError> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.map_err(StreamError::of_stream)?;
    let length = u32::from_le_bytes(length);
    let bytes = read_bytes(recv, (length & !FRAME_PACKED) as usize, FRAME_BYTES_MAX).await?;
    if length & FRAME_PACKED == 0 {
        return Ok(bytes);
    }
    let (length, packed) = bytes.split_first_chunk().ok_or(FrameError::Malformed)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > unpacked_max(bytes.len()) {
        return Err(FrameError::TooLarge(length).into());
    }
    let mut body = Vec::new();
    if unpack(packed, length, &mut body) { Ok(body) } else { Err(FrameError::Malformed.into()) }
}

/// Reads a length and that many bytes, at most `limit`.
pub(crate) async fn read_body(
    recv: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Vec<u8>, StreamError> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.map_err(StreamError::of_stream)?;
    read_bytes(recv, u32::from_le_bytes(length) as usize, limit).await
}

async fn read_bytes(
    recv: &mut (impl AsyncRead + Unpin),
    length: usize,
    limit: usize,
) -> Result<Vec<u8>, StreamError> {
    if length > limit {
        return Err(FrameError::TooLarge(length).into());
    }
    let mut body = Vec::with_capacity(length.min(READ_STEP_BYTES));
    let read = recv.take(length as u64).read_to_end(&mut body).await.map_err(StreamError::of_stream)?;
    if read < length { Err(StreamError::Ended) } else { Ok(body) }
}

/// Writes all of `bytes`; each [`READ_STEP_BYTES`] of it must be taken within the stall timeout.
pub(crate) async fn write_all(send: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), StreamError> {
    let patience = crate::limits::STALL_TIMEOUT;
    for step in bytes.chunks(READ_STEP_BYTES) {
        tokio::time::timeout(patience, send.write_all(step))
            .await
            .map_err(|_| StreamError::Stalled(patience))?
            .map_err(StreamError::of_stream)?;
    }
    Ok(())
}

/// Fills `buffer` from the stream within the stall timeout.
pub(crate) async fn read_exact(
    recv: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Result<(), StreamError> {
    let patience = crate::limits::STALL_TIMEOUT;
    tokio::time::timeout(patience, recv.read_exact(buffer))
        .await
        .map_err(|_| StreamError::Stalled(patience))?
        .map_err(StreamError::of_stream)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn frames_round_trip() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        write_frame(&mut near, &vec![7u8; 300_000]).await.unwrap();
        write_frame(&mut near, &"next".to_owned()).await.unwrap();
        assert_eq!(read_frame::<Vec<u8>>(&mut far, SOON).await.unwrap(), vec![7; 300_000]);
        assert_eq!(read_frame::<String>(&mut far, SOON).await.unwrap(), "next");
        assert!(matches!(read_frame::<String>(&mut far, SOON).await, Err(StreamError::Stalled(_))));
    }

    #[tokio::test]
    async fn a_frame_is_packed_when_that_is_shorter() {
        let check = async |value: &Vec<u8>, packed: bool| {
            let mut wire = Vec::new();
            write_frame(&mut wire, value).await.unwrap();
            let first = u32::from_le_bytes(wire[..4].try_into().unwrap());
            assert_eq!(first & FRAME_PACKED != 0, packed, "{} bytes", value.len());
            assert_eq!(wire.len() - 4, (first & !FRAME_PACKED) as usize);
            assert_eq!(read_frame::<Vec<u8>>(&mut &wire[..], SOON).await.unwrap(), *value);
        };
        let digests: Vec<u8> = (0..100_u32).flat_map(|n| *Digest::of(&n.to_le_bytes()).as_bytes()).collect();
        check(&vec![7; 100], false).await;
        check(&b"/usr/include/".repeat(100), true).await;
        check(&digests, false).await;
        // Packs better than a frame may.
        check(&vec![7; 8 << 20], false).await;
    }

    #[tokio::test]
    async fn packed_frames_that_lie_are_refused() {
        let body = wire::encode(&b"/usr/include/".repeat(100)).unwrap();
        let good = frame(&body);
        let check = async |bend: &dyn Fn(&mut Vec<u8>)| {
            let mut bent = good.clone();
            bend(&mut bent);
            read_frame::<Vec<u8>>(&mut &bent[..], SOON).await.unwrap_err()
        };
        let malformed = |error| matches!(error, StreamError::Frame(FrameError::Malformed));
        let claim = |wire: &mut Vec<u8>, length: usize| {
            wire[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        };
        assert!(malformed(check(&|wire| claim(wire, body.len() - 1)).await));
        assert!(malformed(check(&|wire| claim(wire, body.len() + 1)).await));
        assert!(malformed(check(&|wire| wire[8] ^= 1).await));
        assert!(malformed(check(&|wire| wire[..4].copy_from_slice(&(3 | FRAME_PACKED).to_le_bytes())).await));
        let over = check(&|wire| claim(wire, unpacked_max(good.len() - 4) + 1)).await;
        assert!(matches!(over, StreamError::Frame(FrameError::TooLarge(_))), "{over:?}");
    }

    #[tokio::test]
    async fn oversized_and_broken_frames_are_refused() {
        let over = u32::try_from(FRAME_BYTES_MAX).unwrap() + 1;
        let mut huge = &over.to_le_bytes()[..];
        let refused = read_frame::<String>(&mut huge, SOON).await;
        assert!(matches!(refused, Err(StreamError::Frame(FrameError::TooLarge(_)))), "{refused:?}");
        let mut short = &[9, 0, 0, 0, 1][..];
        assert!(matches!(read_frame::<String>(&mut short, SOON).await, Err(StreamError::Ended)));
        let mut trailing = &[3, 0, 0, 0, 1, b'a', b'b'][..];
        let refused = read_frame::<String>(&mut trailing, SOON).await;
        assert!(matches!(refused, Err(StreamError::Frame(FrameError::Malformed))), "{refused:?}");
        let (mut near, _far) = tokio::io::duplex(64);
        let refused = write_frame(&mut near, &vec![0u8; FRAME_BYTES_MAX + 1]).await;
        assert!(matches!(refused, Err(StreamError::Frame(FrameError::TooLarge(_)))), "{refused:?}");
    }
}
