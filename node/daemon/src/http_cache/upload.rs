//! A body on its way into the store.
//!
//! It goes to a temporary file piece by piece; only when all of it has come, and is what its name says, does it become
//! a blob, and only then does the entry name it.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use barn_cache::{Store, StoreError};
use barn_protocol::limits::BLOB_BYTES_MAX;
use hyper::body::{Body as _, Bytes, Incoming};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use super::{Shared, route::Entry};

/// Longest pause between two pieces of a body.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Bytes of unfinished bodies on disk at once, which no eviction can take back: two of the largest.
const UPLOADING_BYTES_MAX: u64 = 2 * BLOB_BYTES_MAX;

/// Why a body was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// It is larger than any blob may be.
    #[error("over the limit of {BLOB_BYTES_MAX} bytes")]
    TooLarge,
    /// Too much is being uploaded at once.
    #[error("more than {UPLOADING_BYTES_MAX} bytes are being uploaded")]
    Busy,
    /// The tool said nothing for too long.
    #[error("no bytes for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The connection broke off, or what came is no HTTP.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// It is not what its name says.
    #[error("the contents do not have the SHA-256 that their name says")]
    Mismatch,
    /// The store cannot write; that pauses it.
    #[error("the store cannot write")]
    Write(#[source] io::Error),
    /// The store does not take it.
    #[error("the store takes nothing now")]
    Store(#[source] StoreError),
}

/// Makes a body the contents of an entry.
///
/// # Errors
/// As [`UploadError`]; the entry is then what it was before.
pub(super) async fn upload(shared: &Shared, entry: &Entry, mut body: Incoming) -> Result<(), UploadError> {
    if body.size_hint().lower() > BLOB_BYTES_MAX {
        return Err(UploadError::TooLarge);
    }
    let mut writer = blocking(&shared.store, |store| store.writer()).await?;
    let mut sha256 = entry.sha256.map(|_| Sha256::new());
    let mut reserved = Reserved { total: &shared.uploading, bytes: 0 };
    let mut size = 0_u64;
    while let Some(piece) = next_piece(&mut body).await? {
        size += piece.len() as u64;
        if size > BLOB_BYTES_MAX {
            return Err(UploadError::TooLarge);
        }
        reserved.add(piece.len() as u64)?;
        // To the page cache, piece by piece: that does not block for long.
        writer.write_all(&piece).map_err(UploadError::Write)?;
        if let Some(hasher) = &mut sha256 {
            hasher.update(&piece);
        }
    }
    let found: Option<[u8; 32]> = sha256.map(|hasher| hasher.finalize().into());
    if found != entry.sha256 {
        return Err(UploadError::Mismatch);
    }
    let key = entry.key();
    blocking(&shared.store, move |store| {
        let blob = writer.finish()?;
        store.put_foreign(&key, &blob.digest)
    })
    .await
}

/// Reads a body that does not matter, so that the connection can go on.
///
/// # Errors
/// When it is longer than `bytes_max`, silent, or breaks off.
pub(super) async fn discard(mut body: Incoming, bytes_max: u64) -> Result<(), UploadError> {
    let mut size = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        size += piece.len() as u64;
        if size > bytes_max {
            return Err(UploadError::TooLarge);
        }
    }
    Ok(())
}

async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, UploadError> {
    loop {
        let next = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let Some(frame) = tokio::time::timeout(SILENCE_MAX, next).await.map_err(|_| UploadError::Silent)?
        else {
            return Ok(None);
        };
        // What is no data is trailers, which mean nothing here.
        if let Ok(piece) = frame.map_err(UploadError::Broken)?.into_data() {
            return Ok(Some(piece));
        }
    }
}

async fn blocking<T: Send + 'static>(
    store: &Store,
    run: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, UploadError> {
    let store = store.clone();
    let done = spawn_blocking(move || run(&store)).await;
    done.unwrap_or(Err(StoreError::Paused)).map_err(UploadError::Store)
}

/// What one upload has of the bytes that may be on their way; given back when it ends, however it does.
struct Reserved<'a> {
    total: &'a AtomicU64,
    bytes: u64,
}

impl Reserved<'_> {
    fn add(&mut self, bytes: u64) -> Result<(), UploadError> {
        self.bytes += bytes;
        let before = self.total.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > UPLOADING_BYTES_MAX { Err(UploadError::Busy) } else { Ok(()) }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_uploaded_is_bounded_and_given_back() {
        let total = AtomicU64::new(0);
        let mut one = Reserved { total: &total, bytes: 0 };
        let mut two = Reserved { total: &total, bytes: 0 };
        one.add(BLOB_BYTES_MAX).unwrap();
        two.add(BLOB_BYTES_MAX).unwrap();
        assert!(matches!(two.add(1), Err(UploadError::Busy)));
        drop(two);
        one.add(1).unwrap();
        drop(one);
        assert_eq!(total.into_inner(), 0);
    }
}
