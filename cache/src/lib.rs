//! Content-addressed store and action cache on disk.
//!
//! One [`Store`] is one directory of one node. It keeps blobs (by digest), signed action records (by action key)
//! include manifests (by the caller's key) and entries of other tools (by theirs: [`ForeignKey`]), within a limit, and gives back exactly what it was given, or
//! nothing. `docs/cache.md` has the layout on disk, the states, and what happens when things go wrong.
//!
//! - Truth is the blob files and a checksummed `journal`; the sled `index` is rebuilt from them at need
//!   (`rebuild`, `recover`).
//! - `state` takes all decisions under one mutex; contents are hashed and copied outside it (`writer`,
//!   `blobs`). `evict` and `pins` say what goes and what stays; `foreign` is all about other tools' entries.
//!
//! Invariants: contents are checked against their digest before they are given out; a file gets a blob's name only
//! when complete; nothing in the index is needed to be right.

mod blobs;
mod error;
mod evict;
mod foreign;
mod index;
mod journal;
mod layout;
mod limits;
mod pins;
mod platform;
mod rebuild;
mod recover;
mod state;
mod store;
mod upkeep;
mod verified;
mod writer;

pub use barn_protocol::action::Blob;

pub use crate::{
    error::{OpenError, StoreError},
    foreign::ForeignKey,
    limits::{Limits, MANIFEST_BYTES_MAX, MANIFESTS_PER_KEY_MAX, RECORD_BLOBS_MAX, RECORD_BYTES_MAX},
    store::{RecordPlace, Store},
    upkeep::{GcReport, Stat, VerifyReport},
    writer::BlobWriter,
};
