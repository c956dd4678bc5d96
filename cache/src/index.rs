//! The index: what is in the store, in which order it was used, and what is pinned.
//!
//! One sled tree whose keys begin with a letter:
//!
//! | Key | Value | Meaning |
//! |---|---|---|
//! | `i` kind digest | [`Meta`] | an item that is in the store |
//! | `u` tick (big-endian) kind digest | | unpinned items by last use |
//! | `t` toolchain kind digest | | items of a toolchain |
//! | `c` toolchain | | toolchains whose items go first |
//! | `p` owner | [`Location`] | where the journal says what an owner pins |
//! | `n` digest owner | | a pinned blob |
//!
//! Everything here can be rebuilt from the blob files and the journal, and is whenever the store was not closed
//! in order; each change is one batch, and nothing is flushed before the end.

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
}

/// What is known of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// When it was used last, on the store's own clock.
    pub(crate) tick: u64,
    /// Whose it is; the last one to name it counts.
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
            Detail::Record(at) => u64::from(at.len),
            Detail::Manifests(list) => list.iter().map(|m| u64::from(m.at.len)).sum(),
        }
    }

    /// Bytes this item counts against the store's limit.
    pub(crate) fn charge(&self) -> u64 {
        match &self.detail {
            Detail::Blob { size, places } => {
                size.max(&1).next_multiple_of(BLOCK_BYTES).saturating_mul(u64::from(places.count_ones()))
            }
            Detail::Record(_) | Detail::Manifests(_) => self.journal_bytes(),
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

    /// Writes everything out; only the closing of a store needs it.
    pub(crate) fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }

    pub(crate) fn get(&self, item: Item) -> Result<Option<Meta>> {
        self.db.get(item_key(item))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Replaces what is known of an item.
    pub(crate) fn set(&self, item: Item, old: Option<&Meta>, new: &Meta) -> Result<()> {
        let mut batch = sled::Batch::default();
        if let Some(old) = old {
            remove_references(&mut batch, item, old);
        }
        batch.insert(item_key(item), encode(new));
        if !self.is_pinned(item)? {
            batch.insert(order_key(new.tick, item), &[]);
        }
        if let Some(toolchain) = &new.toolchain {
            batch.insert(family_key(toolchain, item), &[]);
        }
        Ok(self.db.apply_batch(batch)?)
    }

    pub(crate) fn remove(&self, item: Item, old: &Meta) -> Result<()> {
        let mut batch = sled::Batch::default();
        remove_references(&mut batch, item, old);
        batch.remove(item_key(item));
        Ok(self.db.apply_batch(batch)?)
    }

    /// The unpinned item that was not used for longest.
    pub(crate) fn oldest(&self) -> Result<Option<Item>> {
        while let Some(entry) = self.db.scan_prefix(b"u").next() {
            let (key, _) = entry?;
            let item = parse_item(key.get(9..).ok_or(IndexError::Malformed)?)?;
            match self.get(item)? {
                Some(meta) if order_key(meta.tick, item) == *key => return Ok(Some(item)),
                _ => self.db.remove(key)?,
            };
        }
        Ok(None)
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

    /// Some item of a toolchain that was condemned; a toolchain without items is forgotten.
    pub(crate) fn condemned(&self) -> Result<Option<Item>> {
        while let Some(entry) = self.db.scan_prefix(b"c").next() {
            let (key, _) = entry?;
            let mut prefix = vec![b't'];
            prefix.extend_from_slice(&key[1..]);
            match self.db.scan_prefix(&prefix).next() {
                Some(member) => return parse_item(&member?.0[prefix.len()..]).map(Some),
                None => self.db.remove(key)?,
            };
        }
        Ok(None)
    }

    pub(crate) fn condemn(&self, toolchain: &Digest) -> Result<()> {
        self.db.insert(joined(b'c', &[toolchain]), &[])?;
        Ok(())
    }

    pub(crate) fn is_pinned(&self, item: Item) -> Result<bool> {
        if item.kind != Kind::Blob {
            return Ok(false);
        }
        Ok(self.db.scan_prefix(joined(b'n', &[&item.digest])).next().transpose()?.is_some())
    }

    /// Where the journal says what `owner` pins.
    pub(crate) fn pins_of(&self, owner: &Digest) -> Result<Option<Location>> {
        self.db.get(joined(b'p', &[owner]))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Every pinned blob, once per owner.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = Result<Digest>> + use<> {
        self.db.scan_prefix(b"n").keys().map(|key| {
            let key = key?;
            parse_digest(key.get(1..33).ok_or(IndexError::Malformed)?)
        })
    }

    /// Pins blobs; the toolchain is no longer condemned.
    pub(crate) fn pin(&self, owner: &Digest, at: &Location, blobs: &[Digest]) -> Result<()> {
        let mut batch = sled::Batch::default();
        batch.insert(joined(b'p', &[owner]), encode(at));
        batch.remove(joined(b'c', &[owner]));
        for blob in blobs {
            batch.insert(joined(b'n', &[blob, owner]), &[]);
            let item = Item::blob(blob);
            if let Some(meta) = self.get(item)? {
                batch.remove(order_key(meta.tick, item));
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    /// The entry about an owner's pins has moved.
    pub(crate) fn move_pins(&self, owner: &Digest, at: &Location) -> Result<()> {
        self.db.insert(joined(b'p', &[owner]), encode(at))?;
        Ok(())
    }

    /// Unpins blobs. Their items must be set again by the caller, which puts them into the order of use.
    pub(crate) fn unpin(&self, owner: &Digest, blobs: &[Digest]) -> Result<()> {
        let mut batch = sled::Batch::default();
        batch.remove(joined(b'p', &[owner]));
        for blob in blobs {
            batch.remove(joined(b'n', &[blob, owner]));
        }
        Ok(self.db.apply_batch(batch)?)
    }
}

fn remove_references(batch: &mut sled::Batch, item: Item, old: &Meta) {
    batch.remove(order_key(old.tick, item));
    if let Some(toolchain) = &old.toolchain {
        batch.remove(family_key(toolchain, item));
    }
}

fn item_key(item: Item) -> Vec<u8> {
    let mut key = vec![b'i', item.kind as u8];
    key.extend_from_slice(item.digest.as_bytes());
    key
}

fn order_key(tick: u64, item: Item) -> Vec<u8> {
    let mut key = vec![b'u'];
    key.extend_from_slice(&tick.to_be_bytes());
    key.extend_from_slice(&item_key(item)[1..]);
    key
}

fn family_key(toolchain: &Digest, item: Item) -> Vec<u8> {
    let mut key = joined(b't', &[toolchain]);
    key.extend_from_slice(&item_key(item)[1..]);
    key
}

fn joined(letter: u8, digests: &[&Digest]) -> Vec<u8> {
    let mut key = vec![letter];
    for digest in digests {
        key.extend_from_slice(digest.as_bytes());
    }
    key
}

fn parse_item(bytes: &[u8]) -> Result<Item> {
    let (kind, digest) = bytes.split_first().ok_or(IndexError::Malformed)?;
    let kinds = [Kind::Blob, Kind::Record, Kind::Manifests];
    let kind = kinds.into_iter().find(|k| *k as u8 == *kind).ok_or(IndexError::Malformed)?;
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

    fn blob(tick: u64, toolchain: Option<Digest>) -> Meta {
        Meta { tick, toolchain, detail: Detail::Blob { size: 1, places: 1 } }
    }

    fn index() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(&dir.path().join("0")).unwrap();
        (dir, index)
    }

    #[test]
    fn order_follows_use_and_skips_the_pinned() {
        let (_dir, index) = index();
        let at = Location { segment: 0, offset: 0, len: 9 };
        for byte in 1..=3 {
            index.set(Item::blob(&digest(byte)), None, &blob(byte.into(), None)).unwrap();
        }
        assert_eq!(index.oldest().unwrap(), Some(Item::blob(&digest(1))));
        index.set(Item::blob(&digest(1)), Some(&blob(1, None)), &blob(4, None)).unwrap();
        assert_eq!(index.oldest().unwrap(), Some(Item::blob(&digest(2))));
        index.pin(&digest(9), &at, &[digest(2)]).unwrap();
        assert_eq!(index.oldest().unwrap(), Some(Item::blob(&digest(3))));
        index.set(Item::blob(&digest(2)), Some(&blob(2, None)), &blob(2, None)).unwrap();
        assert_eq!(index.oldest().unwrap(), Some(Item::blob(&digest(3))), "setting keeps it pinned");
        index.unpin(&digest(9), &[digest(2)]).unwrap();
        index.set(Item::blob(&digest(2)), Some(&blob(2, None)), &blob(2, None)).unwrap();
        assert_eq!(index.oldest().unwrap(), Some(Item::blob(&digest(2))));
    }

    #[test]
    fn condemned_toolchains_give_their_items() {
        let (_dir, index) = index();
        let (item, meta) = (Item::record(&digest(1)), blob(1, Some(digest(7))));
        index.set(item, None, &meta).unwrap();
        assert_eq!(index.condemned().unwrap(), None);
        index.condemn(&digest(7)).unwrap();
        assert_eq!(index.condemned().unwrap(), Some(item));
        index.remove(item, &meta).unwrap();
        assert_eq!(index.condemned().unwrap(), None);
    }

    #[test]
    fn items_are_listed_in_pieces_by_kind() {
        let (_dir, index) = index();
        for byte in [1, 2, 255] {
            index.set(Item::blob(&digest(byte)), None, &blob(byte.into(), None)).unwrap();
        }
        index.set(Item::record(&digest(0)), None, &blob(300, None)).unwrap();
        let names = |after, count| -> Vec<_> {
            index.items(Kind::Blob, after, count).unwrap().into_iter().map(|(d, _)| d).collect()
        };
        assert_eq!(names(None, 2), [digest(1), digest(2)]);
        assert_eq!(names(Some(digest(2)), 2), [digest(255)]);
        assert_eq!(names(Some(digest(255)), 2), []);
    }
}
