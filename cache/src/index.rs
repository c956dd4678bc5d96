//! The index: what is in the store, when it was used, and where the journal says more.
//!
//! One sled tree whose keys begin with a letter:
//!
//! | Key | Value | Meaning |
//! |---|---|---|
//! | `i` kind digest | [`Meta`] | an item that is in the store |
//! | `p` owner | [`Location`] | where the journal says what an owner pins |
//! | `c` toolchain | | a removed toolchain whose items go first |
//!
//! There is no key per last use: moving such a key at every use costs sled more than everything else together.
//! Digests are as good as random, so any row of neighbouring items is a sample, and the store evicts the oldest of
//! a sample ([`crate::evict`]).
//!
//! Everything here can be rebuilt from the blob files and the journal, and is whenever the store was not closed
//! in order; each change is one operation, and nothing is flushed before the end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use barn_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    journal::Location,
    layout::Place,
    limits::{BLOCK_BYTES, INDEX_CACHE_BYTES, INDEX_DISK_BYTES_MAX},
};

/// What kinds of things have a last use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    Blob,
    Record,
    Manifests,
    Foreign,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Blob, Self::Record, Self::Manifests, Self::Foreign];
}

/// The name of something the store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
}

impl Item {
    pub(crate) const fn blob(digest: &Digest) -> Self {
        Self { kind: Kind::Blob, digest: *digest }
    }

    pub(crate) const fn record(key: &Digest) -> Self {
        Self { kind: Kind::Record, digest: *key }
    }

    pub(crate) const fn manifests(key: &Digest) -> Self {
        Self { kind: Kind::Manifests, digest: *key }
    }

    pub(crate) const fn foreign(key: &Digest) -> Self {
        Self { kind: Kind::Foreign, digest: *key }
    }
}

/// In a toolchain's place: more than one named it, as they do what is printed when nothing is. It goes by use alone.
pub(crate) const SEVERAL: Digest = Digest::from_bytes([0; 32]);

/// What is known of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// When it was used last, on the store's own clock.
    pub(crate) tick: u64,
    /// Whose it is: the toolchain that named it, or [`SEVERAL`].
    pub(crate) toolchain: Option<Digest>,
    pub(crate) detail: Detail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Detail {
    /// Bytes of contents, and the set of places it is in.
    Blob {
        size: u64,
        places: u8,
    },
    Record(Location),
    /// Most recent first.
    Manifests(Vec<ManifestMeta>),
    /// Where the journal says which blob it is.
    Foreign(Location),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestMeta {
    pub(crate) tick: u64,
    pub(crate) blob: Digest,
    pub(crate) at: Location,
}

impl Meta {
    /// The places a blob is in.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let set = if let Detail::Blob { places, .. } = self.detail { places } else { 0 };
        Place::ALL.into_iter().filter(move |p| set & p.bit() != 0)
    }

    /// Bytes this item has in the journal.
    pub(crate) fn journal_bytes(&self) -> u64 {
        match &self.detail {
            Detail::Blob { .. } => 0,
            Detail::Record(at) | Detail::Foreign(at) => u64::from(at.len),
            Detail::Manifests(list) => list.iter().map(|m| u64::from(m.at.len)).sum(),
        }
    }

    /// Bytes this item counts against the store's limit.
    pub(crate) fn charge(&self) -> u64 {
        match &self.detail {
            Detail::Blob { size, places } => {
                size.max(&1).next_multiple_of(BLOCK_BYTES).saturating_mul(u64::from(places.count_ones()))
            }
            Detail::Record(_) | Detail::Manifests(_) | Detail::Foreign(_) => self.journal_bytes(),
        }
    }
}

/// The database failed or holds what it should not; either way it is to be rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("{0}")]
    Database(#[from] sled::Error),
    #[error("malformed value")]
    Malformed,
    #[error("panic while opening")]
    Panic,
    #[error("not the database that was closed in order")]
    NotOurs,
}

type Result<T> = std::result::Result<T, IndexError>;

#[derive(Debug)]
pub(crate) struct Index {
    db: sled::Db,
}

impl Index {
    /// An empty index in a fresh directory.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let index = Self::start(dir)?;
        if index.db.was_recovered() { Err(IndexError::NotOurs) } else { Ok(index) }
    }

    /// The index that was closed in order in this directory.
    pub(crate) fn reopen(dir: &Path) -> Result<Self> {
        let index = Self::start(dir)?;
        if index.db.was_recovered() && index.db.size_on_disk()? <= INDEX_DISK_BYTES_MAX {
            Ok(index)
        } else {
            Err(IndexError::NotOurs)
        }
    }

    fn start(dir: &Path) -> Result<Self> {
        let config = sled::Config::new().path(dir).cache_capacity(INDEX_CACHE_BYTES).flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|_| IndexError::Panic)?;
        Ok(Self { db: opened? })
    }

    /// The same database, written out and started again.
    pub(crate) fn settled(self, dir: &Path) -> Result<Self> {
        self.flush()?;
        drop(self);
        Self::reopen(dir)
    }

    /// Writes everything out; only the closing of a store needs it.
    pub(crate) fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }

    pub(crate) fn get(&self, item: Item) -> Result<Option<Meta>> {
        self.db.get(item_key(item))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Replaces what is known of an item.
    pub(crate) fn set(&self, item: Item, meta: &Meta) -> Result<()> {
        self.db.insert(item_key(item), encode(meta))?;
        Ok(())
    }

    /// Replaces what is known of many items, faster. Sorted by key it is fastest.
    pub(crate) fn set_all<'a>(&self, items: impl IntoIterator<Item = (Item, &'a Meta)>) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (item, meta) in items {
            batch.insert(item_key(item), encode(meta));
        }
        Ok(self.db.apply_batch(batch)?)
    }

    pub(crate) fn remove(&self, item: Item) -> Result<()> {
        self.db.remove(item_key(item))?;
        Ok(())
    }

    /// Up to `count` items of a kind whose digests come after `after`, in order.
    pub(crate) fn items(
        &self,
        kind: Kind,
        after: Option<Digest>,
        count: usize,
    ) -> Result<Vec<(Digest, Meta)>> {
        let mut from = vec![b'i', kind as u8];
        let end = [b'i', kind as u8 + 1];
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        let mut items = Vec::new();
        for entry in self.db.range(from.as_slice()..&end).take(count) {
            let (key, value) = entry?;
            items.push((parse_item(&key[1..])?.digest, decode(&value)?));
        }
        Ok(items)
    }

    /// Notes where the journal says what `owner` pins.
    pub(crate) fn set_pins(&self, owner: &Digest, at: &Location) -> Result<()> {
        self.db.insert(lettered(b'p', owner), encode(at))?;
        Ok(())
    }

    pub(crate) fn remove_pins(&self, owner: &Digest) -> Result<()> {
        self.db.remove(lettered(b'p', owner))?;
        Ok(())
    }

    /// All owners that pin something.
    pub(crate) fn pins(&self) -> Result<Vec<(Digest, Location)>> {
        let all = self.db.scan_prefix(b"p").map(|entry| {
            let (key, value) = entry?;
            Ok((parse_digest(&key[1..])?, decode(&value)?))
        });
        all.collect()
    }

    pub(crate) fn condemn(&self, toolchain: &Digest) -> Result<()> {
        self.db.insert(lettered(b'c', toolchain), &[])?;
        Ok(())
    }

    pub(crate) fn pardon(&self, toolchain: &Digest) -> Result<()> {
        self.db.remove(lettered(b'c', toolchain))?;
        Ok(())
    }

    /// All toolchains whose items go first.
    pub(crate) fn condemned(&self) -> Result<Vec<Digest>> {
        self.db.scan_prefix(b"c").keys().map(|key| parse_digest(&key?[1..])).collect()
    }
}

fn item_key(item: Item) -> Vec<u8> {
    let mut key = vec![b'i', item.kind as u8];
    key.extend_from_slice(item.digest.as_bytes());
    key
}

fn lettered(letter: u8, digest: &Digest) -> Vec<u8> {
    let mut key = vec![letter];
    key.extend_from_slice(digest.as_bytes());
    key
}

fn parse_item(bytes: &[u8]) -> Result<Item> {
    let (kind, digest) = bytes.split_first().ok_or(IndexError::Malformed)?;
    let kind = Kind::ALL.into_iter().find(|k| *k as u8 == *kind).ok_or(IndexError::Malformed)?;
    Ok(Item { kind, digest: parse_digest(digest)? })
}

fn parse_digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest::from_bytes).map_err(|_| IndexError::Malformed)
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("encoding into memory does not fail")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|_| IndexError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    fn blob(tick: u64) -> Meta {
        Meta { tick, toolchain: None, detail: Detail::Blob { size: 1, places: 1 } }
    }

    fn index() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(&dir.path().join("0")).unwrap();
        (dir, index)
    }

    #[test]
    fn only_an_index_that_is_there_is_reopened_and_only_a_fresh_one_created() {
        let (dir, index) = index();
        index.set(Item::blob(&digest(1)), &blob(5)).unwrap();
        index.flush().unwrap();
        drop(index);
        assert!(matches!(Index::create(&dir.path().join("0")), Err(IndexError::NotOurs)));
        let again = Index::reopen(&dir.path().join("0")).unwrap();
        assert_eq!(again.get(Item::blob(&digest(1))).unwrap(), Some(blob(5)));
        assert!(matches!(Index::reopen(&dir.path().join("1")), Err(IndexError::NotOurs)));
    }

    #[test]
    fn items_are_listed_in_pieces_by_kind() {
        let (_dir, index) = index();
        for byte in [1, 2, 255] {
            index.set(Item::blob(&digest(byte)), &blob(byte.into())).unwrap();
        }
        index.set(Item::record(&digest(0)), &blob(300)).unwrap();
        index.set_pins(&digest(0), &Location { segment: 1, offset: 2, len: 3 }).unwrap();
        index.condemn(&digest(0)).unwrap();
        let names = |after, count| -> Vec<_> {
            index.items(Kind::Blob, after, count).unwrap().into_iter().map(|(d, _)| d).collect()
        };
        assert_eq!(names(None, 2), [digest(1), digest(2)]);
        assert_eq!(names(Some(digest(2)), 2), [digest(255)]);
        assert_eq!(names(Some(digest(255)), 2), []);
    }
}
