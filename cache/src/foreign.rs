//! Entries of other tools: named bytes whose names and meanings are theirs.
//!
//! A foreign entry is a blob under a name of its own kind, so that no name of another tool can ever be taken for an action
//! key. It lives and goes like a record: it is given only while its blob is there, it has a last use, and it counts
//! against the same limit.
//! Invariant: which blob an entry is, is read from the journal, whose checksum covers the key; never from the index.

use std::fs::File;

use barn_protocol::{Digest, action::Blob, canonical::Canonical, keys::domain};

use crate::{
    error::StoreError,
    index::{Detail, Item, Meta},
    journal::{self, Entry},
    state::State,
    store::Store,
};

type Result<T> = std::result::Result<T, StoreError>;

/// The name of a foreign entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForeignKey(Digest);

impl ForeignKey {
    /// The entry that a tool calls `name`. The same name in another namespace is another entry.
    pub fn new(namespace: &str, name: &[u8]) -> Self {
        let mut encoder = Canonical::new(domain::FOREIGN_ENTRY);
        Self(encoder.bytes(namespace.as_bytes()).bytes(name).finish())
    }
}

impl Store {
    /// Makes a blob, which must have been stored before, the contents of an entry; whatever it had before is forgotten.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], or when the store cannot write.
    pub fn put_foreign(&self, key: &ForeignKey, blob: &Digest) -> Result<()> {
        self.change(|state| state.put_foreign(&key.0, blob))
    }

    /// The size and digest of an entry's contents, if they are here as far as their size tells.
    pub fn foreign(&self, key: &ForeignKey) -> Option<Blob> {
        self.look(|state| state.foreign(&key.0))
    }

    /// An entry's contents as a read-only file at offset 0, checked against their digest, and their size. Rotten ones are
    /// dropped and give `None`.
    pub fn open_foreign(&self, key: &ForeignKey) -> Option<(File, u64)> {
        let blob = self.foreign(key)?;
        Some((self.open_blob(&blob.digest)?, blob.size))
    }

    /// Forgets an entry; says whether it was there. Its contents go with their last use.
    ///
    /// # Errors
    /// When the store cannot write.
    pub fn drop_foreign(&self, key: &ForeignKey) -> Result<bool> {
        self.change(|state| state.drop_foreign(&key.0))
    }
}

impl State {
    fn put_foreign(&mut self, key: &Digest, blob: &Digest) -> Result<()> {
        if self.blob(blob)?.is_none() {
            return Err(StoreError::MissingBlob(*blob));
        }
        self.touch(Item::blob(blob));
        let item = Item::foreign(key);
        let tick = self.touch(item);
        // Build tools put again what is there: that is a use, and nothing to write down.
        if self.load_foreign(key)?.is_some_and(|known| known.digest == *blob) {
            return self.settle();
        }
        let at = self.append(&Entry::Foreign { key: *key, tick, blob: *blob })?;
        self.set(item, Meta { tick, toolchain: None, detail: Detail::Foreign(at) })?;
        self.settle()
    }

    /// An entry whose blob is there, now used; any other is dropped.
    fn foreign(&mut self, key: &Digest) -> Result<Option<Blob>> {
        let found = self.load_foreign(key)?;
        if let Some(blob) = &found {
            self.touch(Item::blob(&blob.digest));
            self.touch(Item::foreign(key));
        }
        Ok(found)
    }

    /// An entry whose blob is there; any other is dropped.
    pub(crate) fn load_foreign(&mut self, key: &Digest) -> Result<Option<Blob>> {
        let item = Item::foreign(key);
        let Some(Meta { detail: Detail::Foreign(at), .. }) = self.get(item)? else { return Ok(None) };
        let digest = match self.journal.read(&at) {
            Ok(Entry::Foreign { key: found, blob, .. }) if found == *key => blob,
            Err(error) if !journal::is_lost(&error) => return Ok(None),
            _ => {
                self.rotten += 1;
                self.remove(item)?;
                return Ok(None);
            }
        };
        match self.blob(&digest)?.map(|meta| meta.detail) {
            Some(Detail::Blob { size, .. }) => Ok(Some(Blob { digest, size })),
            _ => {
                self.remove(item)?;
                Ok(None)
            }
        }
    }

    fn drop_foreign(&mut self, key: &Digest) -> Result<bool> {
        let item = Item::foreign(key);
        if self.get(item)?.is_none() {
            return Ok(false);
        }
        self.append(&Entry::DropForeign { key: *key })?;
        self.remove(item)?;
        self.maintain_journal()?;
        Ok(true)
    }
}
