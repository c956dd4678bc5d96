//! Blobs between the store, the user's files and the network.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use barn_cache::{BlobWriter, Store, StoreError};
use barn_mesh::{
    Packing,
    stream::{StreamError, read_blob_body_unchecked, read_blob_header, write_blob_packed},
};
use barn_protocol::{Digest, action::Blob, limits::CHUNK_BYTES_MAX, wire::BlobHeader};
use tokio::io::{AsyncRead, AsyncWrite};

/// Where the bytes of some blobs lie among the user's files.
pub(crate) type Sources = HashMap<Digest, (PathBuf, u64)>;

/// Receives a blob into the store.
///
/// # Errors
/// When the stream fails, the blob is not `digest` of `size` bytes, or the store does not take it.
pub(crate) async fn receive(
    store: &Store,
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    size: u64,
) -> Result<(), StreamError> {
    finish(receive_unchecked(store, recv, digest, size).await?, &digest)
}

/// A blob that came whole and is not in the store yet.
#[derive(Debug)]
pub(crate) struct Arrived {
    digest: Digest,
    writer: Box<BlobWriter>,
}

impl Arrived {
    /// Receives a blob into a temporary file of the store.
    ///
    /// # Errors
    /// As [`receive`].
    pub(crate) async fn receive(
        store: &Store,
        recv: &mut (impl AsyncRead + Unpin),
        blob: Blob,
    ) -> Result<Self, StreamError> {
        Self::checked(receive_unchecked(store, recv, blob.digest, blob.size).await?, blob.digest)
    }

    /// Takes bytes that claim to be a blob.
    ///
    /// # Errors
    /// [`StreamError::Corrupt`] when they are not; otherwise when the store does not take them.
    pub(crate) fn of(store: &Store, bytes: &[u8], blob: &Blob) -> Result<Self, StreamError> {
        if bytes.len() as u64 != blob.size {
            return Err(StreamError::Corrupt(blob.digest));
        }
        let mut writer = store.writer().map_err(local)?;
        writer.write_all(bytes).map_err(StreamError::Local)?;
        Self::checked(writer, blob.digest)
    }

    fn checked(writer: BlobWriter, digest: Digest) -> Result<Self, StreamError> {
        if writer.is(&digest) {
            Ok(Self { digest, writer: Box::new(writer) })
        } else {
            Err(StreamError::Corrupt(digest))
        }
    }

    /// The blob at offset 0. It stays readable, whether it is kept or not.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(&self) -> Result<File, StreamError> {
        self.writer.reader().map_err(StreamError::Local)
    }

    /// Puts it into the store.
    ///
    /// # Errors
    /// When the store does not take it.
    pub(crate) fn keep(self) -> Result<(), StoreError> {
        self.writer.finish_as(&self.digest).map(|_| ())
    }
}

/// Sends a blob that lies among the user's files. Returns the bytes sent behind its header.
///
/// # Errors
/// When the file is not readable or no longer this blob, or the stream fails.
pub(crate) async fn send_file(
    send: &mut (impl AsyncWrite + Unpin),
    sources: &Sources,
    digest: Digest,
    packing: impl FnOnce(u64) -> Packing,
) -> Result<u64, StreamError> {
    let unknown = || StreamError::Local(io::Error::other("a blob was asked for that is not an input"));
    let (path, size) = sources.get(&digest).ok_or_else(unknown)?;
    let packing = packing(*size);
    if *size <= CHUNK_BYTES_MAX as u64 {
        // One hop to another thread, where a file that is read piece by piece takes five.
        let (path, limit) = (path.clone(), *size + 1);
        let read = tokio::task::spawn_blocking(move || read_at_most(&path, limit)).await;
        let bytes = read.map_err(io::Error::other).and_then(|read| read).map_err(StreamError::Local)?;
        return write_blob_packed(send, digest, *size, &mut &bytes[..], packing).await;
    }
    let mut file = tokio::fs::File::open(path).await.map_err(StreamError::Local)?;
    write_blob_packed(send, digest, *size, &mut file, packing).await
}

/// What is in a file, or its first `limit` bytes.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(limit).unwrap_or(0));
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Receives a blob whose bytes are compared with its digest when the writer is finished: they are hashed once.
async fn receive_unchecked(
    store: &Store,
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    size: u64,
) -> Result<BlobWriter, StreamError> {
    match read_blob_header(recv, digest, size).await? {
        BlobHeader::Present { size: sent, .. } if sent == size => {}
        BlobHeader::Present { .. } => return Err(StreamError::Corrupt(digest)),
        BlobHeader::Absent(_) => return Err(StreamError::Ended),
    }
    let mut sink = StoreSink(store.writer().map_err(local)?);
    read_blob_body_unchecked(recv, digest, size, &mut sink).await?;
    Ok(sink.0)
}

fn finish(writer: BlobWriter, digest: &Digest) -> Result<(), StreamError> {
    match writer.finish_as(digest) {
        Ok(_) => Ok(()),
        Err(StoreError::Mismatch { .. }) => Err(StreamError::Corrupt(*digest)),
        Err(error) => Err(local(error)),
    }
}

fn local(error: StoreError) -> StreamError {
    StreamError::Local(io::Error::other(error))
}

/// A writer of the store as a sink of a stream. Writes go to the page cache, chunk by chunk, so they do not
/// block for long.
struct StoreSink(BlobWriter);

impl AsyncWrite for StoreSink {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
