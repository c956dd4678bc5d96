//! What can go wrong, as callers see it.

use std::{
    io,
    path::{Path, PathBuf},
};

use barn_protocol::Digest;

use crate::index::IndexError;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another `Store` of this one) has it open.
    #[error(
        "another process uses the store {}\nhint: `barn status` tells whether a node runs here already",
        .0.display()
    )]
    Locked(PathBuf),
    /// The directory or one of its buckets cannot be made or used.
    #[error("cannot open the store at {}", path.display())]
    Io {
        /// What could not be made or used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why something was not stored. The cache is optional: every one of these means "go on without".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An earlier call returned the reason; a later put resumes by itself.
    #[error("the store is paused after an error")]
    Paused,
    /// Less space is free on the store's file system than the node wants to leave there.
    #[error("less than {wanted} bytes are free at {}", path.display())]
    NoSpace {
        /// The store's directory.
        path: PathBuf,
        /// How many bytes should be free.
        wanted: u64,
    },
    /// A file of the store could not be written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The index failed; it is rebuilt when the store resumes.
    #[error("the store's index at {} failed: {reason}", path.display())]
    Index {
        /// The store's directory.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The file to be stored could not be read; the store itself is fine.
    #[error("cannot read the file to be stored")]
    Source(#[source] io::Error),
    /// What should be stored is over a limit of this many bytes (or items).
    #[error("over the store's limit of {0}")]
    TooLarge(u64),
    /// The bytes are not those they were said to be.
    #[error("contents have the digest {actual}, not {expected}")]
    Mismatch {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// A record names a blob that is not here.
    #[error("blob {0} is not in the store")]
    MissingBlob(Digest),
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn index(path: &Path) -> impl FnOnce(IndexError) -> Self {
        move |error| Self::Index { path: path.to_owned(), reason: error.to_string() }
    }

    /// Whether the store itself is in trouble, as opposed to what it was given.
    pub(crate) const fn pauses(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Io { .. } | Self::Index { .. })
    }
}
