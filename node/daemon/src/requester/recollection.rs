//! What a node knew of files when it ended: their digests and texts. The next one need neither read nor parse them again.
//!
//! One file, written when the node stops and now and then: a line that names the version, a BLAKE3 checksum, and the rest
//! packed with zstd. A file that is damaged, of another version, or over the limit is as good as none: everything in it is
//! found again by reading. It holds what the process held, under the same rule: a digest counts while `stat` says what it said
//! then, and files that were changed just before they were read, or in the last two minutes, are left out.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use barn_protocol::Digest;
use serde::{Deserialize, Serialize};

use super::{
    files::{Files, Known},
    inputs::texts::{Lasting, Texts},
};
use crate::home::Home;

/// Names what follows; another number where anything in it is laid out otherwise.
const HEADER: &[u8] = b"barnraise recollection v1\n";
/// Bytes of texts that are kept: those of some 8,000 headers.
const TEXT_BYTES_MAX: usize = 48 << 20;
/// Bytes unpacked: the texts, and 131,072 files with paths of 100 bytes.
const BYTES_MAX: u64 = 96 << 20;
/// Files that changed later are left out: a file that is overwritten in place may lose its new bytes, and keep its new time,
/// when the power fails before the kernel has written them. It does so after 30 s (`vm.dirty_expire_centisecs`), on a busy disk
/// later.
const WRITTEN_BACK: Duration = Duration::from_secs(120);
/// What takes longer to pack than to read is no gain.
const ZSTD_LEVEL: i32 = 1;

/// What is known of files now, and the file that outlives it.
pub struct Recollection {
    path: PathBuf,
    files: Arc<Files>,
    texts: Arc<Texts>,
    /// Set when what an earlier node knew was taken up; before, it must not be written over.
    recalled: OnceLock<()>,
}

impl Recollection {
    /// Of these tables, in the file at `path`.
    pub fn new(path: PathBuf, files: Arc<Files>, texts: Arc<Texts>) -> Self {
        Self { path, files, texts, recalled: OnceLock::new() }
    }

    /// How many files were read so far.
    pub fn reads(&self) -> u64 {
        self.files.reads()
    }

    /// Takes up what an earlier node knew. Without it files are read again, so a failure is only told.
    pub fn recall(&self) {
        match recall(&self.path, &self.files, &self.texts) {
            Ok(found) => {
                tracing::debug!(found, "took up what was known of files");
                // It runs once.
                let _ = self.recalled.set(());
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read what was known of files");
            }
        }
    }

    /// Writes down what is known. Without it the next node reads the files again, so a failure is only told.
    pub fn record(&self, home: &Home) {
        if self.recalled.get().is_none() {
            return;
        }
        let recorded = record(&self.files, &self.texts)
            .map_err(|error| error.to_string())
            .and_then(|bytes| home.replace(&self.path, &bytes, 0o600).map_err(|error| error.to_string()));
        if let Err(error) = recorded {
            tracing::warn!(path = %self.path.display(), error, "what is known of files is not kept");
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    files: Vec<(Box<[u8]>, Known)>,
    texts: Vec<Lasting>,
}

/// What files and texts hold now, as the bytes of the file.
///
/// # Errors
/// When packing fails.
fn record(files: &Files, texts: &Texts) -> io::Result<Vec<u8>> {
    record_older(files, texts, WRITTEN_BACK)
}

fn record_older(files: &Files, texts: &Texts, unchanged: Duration) -> io::Result<Vec<u8>> {
    let all = Recorded { files: files.lasting(unchanged), texts: texts.lasting(TEXT_BYTES_MAX) };
    let bytes = postcard::to_stdvec(&all).map_err(io::Error::other)?;
    let packed = zstd::bulk::compress(&bytes, ZSTD_LEVEL)?;
    Ok([HEADER, Digest::of(&packed).as_bytes(), &packed].concat())
}

/// Gives files and texts what the file at `path` holds; `false` if that is nothing they could use.
///
/// # Errors
/// When it is there and cannot be read.
fn recall(path: &Path, files: &Files, texts: &Texts) -> io::Result<bool> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(all) = unpack(&bytes) else { return Ok(false) };
    files.take_up(all.files);
    texts.take_up(all.texts);
    Ok(true)
}

fn unpack(bytes: &[u8]) -> Option<Recorded> {
    let (sum, packed) = bytes.strip_prefix(HEADER)?.split_first_chunk::<32>()?;
    if Digest::of(packed).as_bytes() != sum {
        return None;
    }
    let mut plain = Vec::new();
    let unpacked = zstd::Decoder::new(packed).ok()?.take(BYTES_MAX + 1).read_to_end(&mut plain);
    (unpacked.ok()? as u64 <= BYTES_MAX).then_some(())?;
    postcard::from_bytes(&plain).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// A directory with a header that was written long enough ago to be trusted, and what a node knows of it.
    fn read_once() -> (tempfile::TempDir, Files, Texts) {
        let dir = tempfile::tempdir().unwrap();
        let header = dir.path().join("x.h");
        fs::write(&header, "#include <y.h>\n").unwrap();
        let (files, texts) = (Files::default(), Texts::default());
        while files.lasting(Duration::ZERO).is_empty() {
            thread::sleep(Duration::from_millis(50));
            files.known(&header, |blob, contents| texts.read(blob, contents)).unwrap();
        }
        (dir, files, texts)
    }

    fn is_read_again(dir: &Path, files: &Files) -> bool {
        let mut read = false;
        files.known(&dir.join("x.h"), |_, _| read = true).unwrap();
        read
    }

    #[test]
    fn what_was_read_once_is_known_to_the_next_node() {
        let (dir, files, texts) = read_once();
        let path = dir.path().join("recollection");
        fs::write(&path, record_older(&files, &texts, Duration::ZERO).unwrap()).unwrap();
        let (next, next_texts) = (Files::default(), Texts::default());
        assert!(is_read_again(dir.path(), &Files::default()));
        assert!(recall(&path, &next, &next_texts).unwrap());
        assert!(!is_read_again(dir.path(), &next));
        assert!(next_texts.get(&Digest::of(b"#include <y.h>\n")).is_some());
        fs::write(dir.path().join("x.h"), "#include <z.h>\n").unwrap();
        assert!(is_read_again(dir.path(), &next));
    }

    #[test]
    fn what_may_not_be_on_the_disk_yet_is_left_out() {
        let (dir, files, texts) = read_once();
        let path = dir.path().join("recollection");
        fs::write(&path, record(&files, &texts).unwrap()).unwrap();
        let next = Files::default();
        assert!(recall(&path, &next, &Texts::default()).unwrap());
        assert!(is_read_again(dir.path(), &next));
    }

    #[test]
    fn nothing_is_written_over_before_it_was_taken_up() {
        let (dir, files, texts) = read_once();
        let home = Home::open(dir.path()).unwrap();
        let path = home.recollection_path();
        let recollection = Recollection::new(path.clone(), Arc::new(files), Arc::new(texts));
        recollection.record(&home);
        assert!(!path.exists());
        recollection.recall();
        recollection.record(&home);
        assert!(path.exists());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (dir, files, texts) = read_once();
        let path = dir.path().join("recollection");
        let good = record_older(&files, &texts, Duration::ZERO).unwrap();
        assert!(!recall(&path, &Files::default(), &Texts::default()).unwrap());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            let next = Files::default();
            assert!(!recall(&path, &next, &Texts::default()).unwrap(), "byte {at}");
            assert!(next.lasting(Duration::ZERO).is_empty());
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(!recall(&path, &Files::default(), &Texts::default()).unwrap());
    }
}
