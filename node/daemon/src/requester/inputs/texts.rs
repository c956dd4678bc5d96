//! What scans know of the texts of files, by the digest of the contents.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_protocol::{Digest, action::Blob};
use barn_scanner::Text;

/// Texts kept.
const TEXTS_MAX: usize = 16_384;
/// Bytes of the files whose texts are kept; a text takes about a tenth of its file.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Texts by the digest of the file they are of. Shared by all requests.
#[derive(Debug, Default)]
pub struct Texts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    texts: HashMap<Digest, Arc<Text>>,
    file_bytes: u64,
}

impl Texts {
    /// The text with this digest, if it is known.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Text>> {
        self.lock().texts.get(digest).cloned()
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
        if table.texts.len() >= TEXTS_MAX || table.file_bytes + bytes > FILE_BYTES_MAX {
            *table = Table::default();
        }
        if table.texts.insert(digest, text.clone()).is_none() {
            table.file_bytes += bytes;
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while the texts are held")
    }
}
