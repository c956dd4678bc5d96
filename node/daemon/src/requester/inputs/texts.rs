//! What scans know of the texts of files, by the digest of the contents.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_protocol::{Digest, action::Blob};
use barn_scanner::Text;
use serde::{Deserialize, Serialize};

/// Texts kept.
const TEXTS_MAX: usize = 16_384;
/// Bytes of the files whose texts are kept; a text takes about a tenth of its file.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A text as it is kept beyond the process.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::requester) struct Lasting {
    digest: Digest,
    /// Size of the file in bytes.
    size: u64,
    text: Vec<u8>,
}

/// Texts by the digest of the file they are of. Shared by all requests.
#[derive(Debug, Default)]
pub struct Texts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    texts: HashMap<Digest, Held>,
    file_bytes: u64,
}

#[derive(Debug)]
struct Held {
    text: Arc<Text>,
    /// Size of the file.
    bytes: u64,
}

impl Texts {
    /// The text with this digest, if it is known.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Text>> {
        self.lock().texts.get(digest).map(|held| held.text.clone())
    }

    /// Takes note of the contents of a file that was just read.
    pub fn read(&self, blob: &Blob, contents: &[u8]) {
        if self.get(&blob.digest).is_none() {
            self.add(blob.digest, contents);
        }
    }

    /// The text of these contents, whose digest is `digest`.
    pub fn add(&self, digest: Digest, contents: &[u8]) -> Arc<Text> {
        let text = Arc::new(Text::parse(contents));
        let bytes = contents.len() as u64;
        let mut table = self.lock();
        if !table.has_room(bytes) {
            *table = Table::default();
        }
        table.insert(digest, text.clone(), bytes);
        text
    }

    /// All texts, encoded, with the digests and sizes of their files: to be remembered beyond this process. No more than
    /// `bytes_max` bytes.
    pub(in crate::requester) fn lasting(&self, bytes_max: usize) -> Vec<Lasting> {
        let all: Vec<_> = {
            let table = self.lock();
            table.texts.iter().map(|(digest, held)| (*digest, held.bytes, held.text.clone())).collect()
        };
        let mut bytes = 0;
        let encoded =
            all.into_iter().map(|(digest, size, text)| Lasting { digest, size, text: text.encode() });
        encoded
            .take_while(|lasting| {
                bytes += lasting.text.len();
                bytes <= bytes_max
            })
            .collect()
    }

    /// Takes up what an earlier process remembered; what this version cannot read is left out.
    pub(in crate::requester) fn take_up(&self, lasting: Vec<Lasting>) {
        for Lasting { digest, size, text } in lasting {
            let Some(text) = Text::decode(&text) else { continue };
            let mut table = self.lock();
            if table.has_room(size) {
                table.insert(digest, Arc::new(text), size);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while the texts are held")
    }
}

impl Table {
    fn has_room(&self, bytes: u64) -> bool {
        self.texts.len() < TEXTS_MAX && self.file_bytes.saturating_add(bytes) <= FILE_BYTES_MAX
    }

    fn insert(&mut self, digest: Digest, text: Arc<Text>, bytes: u64) {
        if self.texts.insert(digest, Held { text, bytes }).is_none() {
            self.file_bytes += bytes;
        }
    }
}
