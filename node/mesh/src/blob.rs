//! Blobs on a stream.
//!
//! A blob is its [`BlobHeader`] as a frame and then chunks. All chunks but the last unpack to exactly
//! [`CHUNK_BYTES_MAX`] bytes, so the reader knows what each must unpack to before it reads it:
//!
//! ```text
//! codec: u8 (0 as is, 1 zstd) · packed length: u32 little-endian · packed bytes
//! ```
//!
//! The sender chooses how hard it packs ([`Packing`]). A chunk that zstd does not shrink is sent as it is, so a packed chunk is never longer than its unpacked size and
//! a reader refuses one that claims to be. Unpacking goes into a buffer of the expected size and stops there:
//! a bomb costs its sender the stream and the reader nothing. Bytes are hashed as they pass; a sink may have
//! received bytes of a blob that is then found to be wrong, so it must be something that can be thrown away.

use barn_protocol::{
    Digest,
    limits::{BLOB_BYTES_MAX, CHUNK_BYTES_MAX},
    wire::BlobHeader,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    limits::STALL_TIMEOUT,
    packing::{Cpu, Packing, UNKNOWN_LINE_BYTES_PER_S, pack, unpack},
    stream::{StreamError, read_exact, read_frame, write_all, write_frame},
};

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Codec and length.
const CHUNK_HEADER_BYTES: usize = 5;
/// A blob of which the first chunk keeps more than so many parts of its bytes, of 16, is sent as it is from there on.
const LEFT_OF_16_MAX: usize = 15;

/// Most bytes a blob of `size` bytes may take on the wire behind its header.
pub fn blob_packed_bytes_max(size: u64) -> u64 {
    size + size.div_ceil(CHUNK_BYTES_MAX as u64) * CHUNK_HEADER_BYTES as u64
}

/// Sends the blob `digest` of `size` bytes, which `source` must yield, packed as for a LAN. Returns the bytes sent behind
/// the header.
///
/// # Errors
/// As [`write_blob_packed`].
pub async fn write_blob(
    send: &mut (impl AsyncWrite + Unpin),
    digest: Digest,
    size: u64,
    source: &mut (impl AsyncRead + Unpin),
) -> Result<u64, StreamError> {
    let packing = Packing::choose(size, UNKNOWN_LINE_BYTES_PER_S, Cpu::Spare);
    write_blob_packed(send, digest, size, source, packing).await
}

/// Sends the blob `digest` of `size` bytes, which `source` must yield. Returns the bytes sent behind the header.
///
/// # Errors
/// [`StreamError::SourceChanged`] when the source has other bytes: the stream must then be reset, as its header was
/// already sent. Otherwise when source or stream fail.
pub async fn write_blob_packed(
    send: &mut (impl AsyncWrite + Unpin),
    digest: Digest,
    size: u64,
    source: &mut (impl AsyncRead + Unpin),
    mut packing: Packing,
) -> Result<u64, StreamError> {
    write_frame(send, &BlobHeader::Present { digest, size }).await?;
    let mut hasher = blake3::Hasher::new();
    let mut plain = Vec::new();
    let mut packed = Vec::new();
    let (mut left, mut sent) = (size, 0);
    while left > 0 {
        fill(source, &mut plain, chunk_size(left), digest).await?;
        hasher.update(&plain);
        pack_chunk(packing, &plain, &mut packed);
        write_all(send, &packed).await?;
        if packed.len() > plain.len() / 16 * LEFT_OF_16_MAX {
            packing = Packing::Raw;
        }
        left -= plain.len() as u64;
        sent += packed.len() as u64;
    }
    let surplus = source.read(&mut [0]).await.map_err(StreamError::Local)?;
    if surplus > 0 || Digest::from(hasher.finalize()) != digest {
        return Err(StreamError::SourceChanged(digest));
    }
    Ok(sent)
}

/// Says that the blob `digest` is not here.
///
/// # Errors
/// When the stream fails.
pub async fn write_absent(send: &mut (impl AsyncWrite + Unpin), digest: Digest) -> Result<(), StreamError> {
    write_frame(send, &BlobHeader::Absent(digest)).await
}

/// Receives the blob `asked` of at most `size_max` bytes into `sink`, or learns that it is absent.
///
/// # Errors
/// When something else arrives, or stream or sink fail; what is in the sink is then worthless.
pub async fn read_blob(
    recv: &mut (impl AsyncRead + Unpin),
    asked: Digest,
    size_max: u64,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<BlobHeader, StreamError> {
    let header = read_blob_header(recv, asked, size_max).await?;
    if let BlobHeader::Present { digest, size } = header {
        read_blob_body(recv, digest, size, sink).await?;
    }
    Ok(header)
}

/// Receives a blob's header alone, for a reader that opens its sink only for a blob that is there; then
/// [`read_blob_body`] must follow.
///
/// # Errors
/// When the header is of another blob or over `size_max` (or over [`BLOB_BYTES_MAX`]), or the stream fails.
pub async fn read_blob_header(
    recv: &mut (impl AsyncRead + Unpin),
    asked: Digest,
    size_max: u64,
) -> Result<BlobHeader, StreamError> {
    let header: BlobHeader = read_frame(recv, STALL_TIMEOUT).await?;
    let (got, size) = match header {
        BlobHeader::Present { digest, size } => (digest, size),
        BlobHeader::Absent(digest) => (digest, 0),
    };
    if got != asked {
        return Err(StreamError::WrongBlob { asked, got });
    }
    let limit = size_max.min(BLOB_BYTES_MAX);
    if size > limit { Err(StreamError::BlobTooLarge { digest: got, size, limit }) } else { Ok(header) }
}

/// Receives the chunks of a blob whose header was read, and flushes `sink`.
///
/// # Errors
/// When a chunk is malformed, the bytes do not have the digest, or stream or sink fail.
pub async fn read_blob_body(
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    size: u64,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<(), StreamError> {
    let mut hasher = blake3::Hasher::new();
    read_chunks(recv, digest, size, sink, |bytes| {
        hasher.update(bytes);
    })
    .await?;
    if Digest::from(hasher.finalize()) == digest { Ok(()) } else { Err(StreamError::Corrupt(digest)) }
}

/// As [`read_blob_body`], for a sink that hashes by itself: the caller must compare the digest.
///
/// # Errors
/// When a chunk is malformed, or stream or sink fail.
pub async fn read_blob_body_unchecked(
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    size: u64,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<(), StreamError> {
    read_chunks(recv, digest, size, sink, |_| {}).await
}

async fn read_chunks(
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    size: u64,
    sink: &mut (impl AsyncWrite + Unpin),
    mut seen: impl FnMut(&[u8]),
) -> Result<(), StreamError> {
    let mut packed = Vec::new();
    let mut plain = Vec::new();
    let mut left = size;
    while left > 0 {
        let expected = chunk_size(left);
        let codec = read_chunk(recv, &mut packed, expected, digest).await?;
        let bytes = match codec {
            CODEC_RAW => &packed,
            _ if unpack(&packed, expected, &mut plain) => &plain,
            _ => return Err(StreamError::BadChunk(digest)),
        };
        seen(bytes);
        sink.write_all(bytes).await.map_err(StreamError::Local)?;
        left -= expected as u64;
    }
    sink.flush().await.map_err(StreamError::Local)
}

fn chunk_size(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX)
}

async fn fill(
    source: &mut (impl AsyncRead + Unpin),
    plain: &mut Vec<u8>,
    length: usize,
    digest: Digest,
) -> Result<(), StreamError> {
    plain.resize(length, 0);
    match source.read_exact(plain).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(StreamError::SourceChanged(digest))
        }
        Err(error) => Err(StreamError::Local(error)),
    }
}

/// The chunk with its header, packed if that makes it shorter.
fn pack_chunk(packing: Packing, plain: &[u8], chunk: &mut Vec<u8>) {
    chunk.clear();
    chunk.resize(CHUNK_HEADER_BYTES, 0);
    let shorter = plain.len().saturating_sub(1);
    let codec = match packing {
        Packing::Zstd(level) if pack(plain, level, chunk, shorter) => CODEC_ZSTD,
        _ => {
            chunk.extend_from_slice(plain);
            CODEC_RAW
        }
    };
    let length = u32::try_from(chunk.len() - CHUNK_HEADER_BYTES).expect("a chunk is far below 4 GiB");
    chunk[0] = codec;
    chunk[1..CHUNK_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

async fn read_chunk(
    recv: &mut (impl AsyncRead + Unpin),
    packed: &mut Vec<u8>,
    expected: usize,
    digest: Digest,
) -> Result<u8, StreamError> {
    let mut header = [0; CHUNK_HEADER_BYTES];
    read_exact(recv, &mut header).await?;
    let [codec, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    let fits = match codec {
        CODEC_RAW => length == expected,
        CODEC_ZSTD => length < expected,
        _ => false,
    };
    if !fits {
        return Err(StreamError::BadChunk(digest));
    }
    packed.resize(length, 0);
    read_exact(recv, packed).await?;
    Ok(codec)
}

#[cfg(test)]
mod tests {
    use barn_protocol::wire;
    use rand::{RngCore, SeedableRng};

    use super::*;

    fn header_bytes(digest: Digest, size: u64) -> Vec<u8> {
        let body = wire::encode(&BlobHeader::Present { digest, size }).unwrap();
        [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        rand::rngs::StdRng::seed_from_u64(length as u64).fill_bytes(&mut bytes);
        bytes
    }

    async fn packed_as(bytes: &[u8], packing: Packing) -> Vec<u8> {
        let (mut wire, size) = (Vec::new(), bytes.len() as u64);
        let sent = write_blob_packed(&mut wire, Digest::of(bytes), size, &mut &bytes[..], packing).await;
        let header = header_bytes(Digest::of(bytes), size).len();
        assert_eq!(sent.unwrap(), (wire.len() - header) as u64);
        wire
    }

    async fn packed(bytes: &[u8]) -> Vec<u8> {
        packed_as(bytes, Packing::Zstd(1)).await
    }

    async fn unpacked(wire: &[u8], digest: Digest) -> Result<Vec<u8>, StreamError> {
        let mut bytes = Vec::new();
        read_blob(&mut &wire[..], digest, BLOB_BYTES_MAX, &mut bytes).await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn blobs_of_all_sizes_round_trip_and_never_grow_much() {
        for length in [0, 1, 2, 3, 100, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 1 << 20] {
            for bytes in [noise(length), vec![0; length]] {
                let wire = packed(&bytes).await;
                let header = header_bytes(Digest::of(&bytes), length as u64).len();
                assert!((wire.len() - header) as u64 <= blob_packed_bytes_max(length as u64));
                assert!(unpacked(&wire, Digest::of(&bytes)).await.unwrap() == bytes, "{length}");
            }
        }
        assert!(packed(&vec![0; 1 << 20]).await.len() < 1000, "zeros are packed");
    }

    #[tokio::test]
    async fn every_packing_is_read() {
        let text = b"/usr/include/c++/12/bits/stl_vector.h\n".repeat(20_000);
        let mut lengths = Vec::new();
        for packing in [Packing::Raw, Packing::Zstd(1), Packing::Zstd(9)] {
            let wire = packed_as(&text, packing).await;
            assert!(unpacked(&wire, Digest::of(&text)).await.unwrap() == text);
            lengths.push(wire.len());
        }
        assert!(lengths[0] > text.len() && lengths[1] < text.len() / 10, "{lengths:?}");
        // What does not pack at first is not tried again.
        let late = [noise(CHUNK_BYTES_MAX), vec![0; CHUNK_BYTES_MAX]].concat();
        let wire = packed(&late).await;
        assert!(wire.len() > late.len());
        assert!(unpacked(&wire, Digest::of(&late)).await.unwrap() == late);
    }

    #[tokio::test]
    async fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        let digest = Digest::of(b"bomb");
        let mut wire = header_bytes(digest, 200_000);
        wire.push(CODEC_ZSTD);
        wire.extend_from_slice(&u32::try_from(bomb.len()).unwrap().to_le_bytes());
        wire.extend_from_slice(&bomb);
        let refused = unpacked(&wire, digest).await;
        assert!(matches!(refused, Err(StreamError::BadChunk(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn malformed_blobs_are_refused() {
        let bytes = noise(1000);
        let digest = Digest::of(&bytes);
        let wire = packed(&bytes).await;
        let last = wire.len() - 1;
        let check = async |bend: &dyn Fn(&mut Vec<u8>)| {
            let mut bent = wire.clone();
            bend(&mut bent);
            unpacked(&bent, digest).await.unwrap_err()
        };
        let body = wire.len() - 1000;
        assert!(matches!(check(&|w| w[last] ^= 1).await, StreamError::Corrupt(_)));
        assert!(matches!(check(&|w| w.truncate(last)).await, StreamError::Ended));
        assert!(matches!(check(&|w| w[body - 5] = 7).await, StreamError::BadChunk(_)));
        assert!(matches!(check(&|w| w[body - 5] = CODEC_ZSTD).await, StreamError::BadChunk(_)));
        assert!(matches!(check(&|w| w[body - 4] ^= 1).await, StreamError::BadChunk(_)));
        let other = unpacked(&wire, Digest::of(b"other")).await.unwrap_err();
        assert!(matches!(other, StreamError::WrongBlob { .. }));
        let large = read_blob(&mut &wire[..], digest, 999, &mut Vec::new()).await.unwrap_err();
        assert!(matches!(large, StreamError::BlobTooLarge { size: 1000, limit: 999, .. }));
    }

    #[tokio::test]
    async fn a_source_that_changed_is_noticed() {
        let digest = Digest::of(b"four");
        for other in [&b"fou"[..], b"fours", b"five"] {
            let sent = write_blob(&mut Vec::new(), digest, 4, &mut &other[..]).await;
            assert!(matches!(sent, Err(StreamError::SourceChanged(_))), "{other:?}");
        }
    }
}
