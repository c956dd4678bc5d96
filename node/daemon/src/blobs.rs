//! Blobs between the store, the user's files and the network.

use std::{collections::HashMap, io, path::PathBuf};

use barn_cache::Store;
use barn_mesh::stream::{StreamError, read_blob, write_blob};
use barn_protocol::Digest;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where the bytes of some blobs lie among the user's files.
pub(crate) type Sources = HashMap<Digest, (PathBuf, u64)>;

/// Receives a blob into the store.
///
/// # Errors
/// When the stream fails, the blob is over `bytes_max` or is not `digest`, or the store does not take it.
pub(crate) async fn receive(
    store: &Store,
    recv: &mut (impl AsyncRead + Unpin),
    digest: Digest,
    bytes_max: u64,
) -> Result<(), StreamError> {
    let local = |error: barn_cache::StoreError| StreamError::Local(io::Error::other(error));
    let mut sink = StoreSink(store.writer().map_err(local)?);
    read_blob(recv, digest, bytes_max, &mut sink).await?;
    sink.0.finish_as(&digest).map(drop).map_err(local)
}

/// Sends a blob that lies among the user's files.
///
/// # Errors
/// When the file is not readable or no longer this blob, or the stream fails.
pub(crate) async fn send_file(
    send: &mut (impl AsyncWrite + Unpin),
    sources: &Sources,
    digest: Digest,
) -> Result<u64, StreamError> {
    let unknown = || StreamError::Local(io::Error::other("a blob was asked for that is not an input"));
    let (path, size) = sources.get(&digest).ok_or_else(unknown)?;
    let mut file = tokio::fs::File::open(path).await.map_err(StreamError::Local)?;
    write_blob(send, digest, *size, &mut file).await
}

/// A writer of the store as a sink of a stream. Writes go to the page cache, chunk by chunk, so they do not
/// block for long.
struct StoreSink(barn_cache::BlobWriter);

impl tokio::io::AsyncWrite for StoreSink {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(io::Write::write(&mut self.0, bytes))
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(io::Write::flush(&mut self.0))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
