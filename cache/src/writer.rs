//! Blobs on their way into the store.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use barn_protocol::{Digest, action::Blob, limits::BLOB_BYTES_MAX};

use crate::{error::StoreError, layout::Place, platform, store::Store};

/// Takes the bytes of one blob. Nothing of it is in the store before `finish`, and dropping it leaves nothing behind.
///
/// Writes go straight to a file: hand over pieces of some KiB or more.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    size: u64,
    too_large: bool,
    failed: bool,
}

impl BlobWriter {
    pub(crate) fn create(store: Store, path: PathBuf) -> Result<Self, StoreError> {
        let file = platform::private()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok(Self {
            store,
            file,
            path,
            hasher: blake3::Hasher::new(),
            size: 0,
            too_large: false,
            failed: false,
        })
    }

    /// A file of its own, for reading from the beginning what was written so far. It stays readable whatever becomes of
    /// the blob.
    ///
    /// # Errors
    /// When the file cannot be opened again.
    pub fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Whether all that was written so far is this blob.
    pub fn is(&self, digest: &Digest) -> bool {
        !self.failed && !self.too_large && Digest::from(self.hasher.finalize()) == *digest
    }

    /// Puts what was written into the store.
    ///
    /// # Errors
    /// When it was too large, or the store cannot write. After a failed `write`, whose error was the reason, this
    /// is `Paused`.
    pub fn finish(mut self) -> Result<Blob, StoreError> {
        self.admit()
    }

    /// Puts what was written into the store if it is the blob that was expected.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is another, and as `finish`.
    pub fn finish_as(mut self, expected: &Digest) -> Result<Blob, StoreError> {
        let actual: Digest = self.hasher.finalize().into();
        if actual != *expected && !self.failed && !self.too_large {
            return Err(StoreError::Mismatch { expected: *expected, actual });
        }
        self.admit()
    }

    /// Puts a copy of a stored blob into a further place.
    pub(crate) fn finish_in(self, digest: &Digest, place: Place) -> Result<(), StoreError> {
        if Digest::from(self.hasher.finalize()) != *digest || self.failed {
            return Err(StoreError::Paused);
        }
        platform::set_mode(&self.file, place.mode())
            .map_err(StoreError::io("change the mode of", &self.path))
            .and_then(|()| self.store.lock().admit_copy(&self.path, digest, place, self.size))
            .inspect_err(|error| self.store.lock().note(error))
    }

    pub(crate) const fn is_too_large(&self) -> bool {
        self.too_large
    }

    fn admit(&mut self) -> Result<Blob, StoreError> {
        if self.too_large {
            return Err(StoreError::TooLarge(BLOB_BYTES_MAX));
        }
        if self.failed {
            return Err(StoreError::Paused);
        }
        let blob = Blob { digest: self.hasher.finalize().into(), size: self.size };
        platform::set_mode(&self.file, Place::Private.mode())
            .map_err(StoreError::io("change the mode of", &self.path))
            .and_then(|()| self.store.lock().admit(&self.path, &blob.digest, blob.size))
            .inspect_err(|error| self.store.lock().note(error))?;
        Ok(blob)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size.saturating_add(bytes.len() as u64) > BLOB_BYTES_MAX {
            self.too_large = true;
        }
        if self.too_large {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match self.file.write(bytes) {
            Ok(count) => {
                self.hasher.update(&bytes[..count]);
                self.size += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failed = true;
                let told = io::Error::new(error.kind(), error.to_string());
                self.store.lock().note(&StoreError::io("write", &self.path)(error));
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After `finish` the file has gone to its blob's name.
        let _ = fs::remove_file(&self.path);
    }
}
