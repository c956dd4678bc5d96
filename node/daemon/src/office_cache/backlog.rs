//! What this machine made while it was alone: offered when others are there.
//!
//! A file of names, in the order in which results were made; the results themselves lie in the store. It outlives the node: a
//! machine may have built for weeks before it joins an office. A torn end, or a name whose result is gone, is left out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard},
};

use barn_protocol::{ActionKey, Digest};

/// One result: the action and the toolchain it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) action: ActionKey,
    pub(super) toolchain: Digest,
}

const MADE_BYTES: usize = 64;
/// Results remembered, in 4 MiB of disk; beyond it the older half is forgotten.
const MADE_MAX: u64 = 65_536;

/// The results nobody has been told of.
#[derive(Debug)]
pub(super) struct Backlog(Mutex<File>);

impl Backlog {
    /// The backlog in the file at `path`, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        file.set_len(bytes - bytes % MADE_BYTES as u64)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Notes a result.
    ///
    /// # Errors
    /// When the file cannot be written; then the result is never offered.
    pub(super) fn add(&self, made: Made) -> io::Result<()> {
        let mut file = self.lock();
        let end = file.seek(SeekFrom::End(0))?;
        if end >= MADE_MAX * MADE_BYTES as u64 {
            forget_half(&mut file)?;
        }
        file.write_all(&[made.action.0.as_bytes().as_slice(), made.toolchain.as_bytes()].concat())
    }

    /// Takes the newest results, at most `count`, the newest first.
    ///
    /// # Errors
    /// When the file cannot be read or cut.
    pub(super) fn take(&self, count: usize) -> io::Result<Vec<Made>> {
        let mut file = self.lock();
        let end = file.seek(SeekFrom::End(0))?;
        let begin = end.saturating_sub((count * MADE_BYTES) as u64);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        file.set_len(begin)?;
        Ok(bytes.chunks_exact(MADE_BYTES).rev().filter_map(read).collect())
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        self.0.lock().expect("no panic while the backlog is held")
    }
}

fn forget_half(file: &mut File) -> io::Result<()> {
    file.seek(SeekFrom::Start(MADE_MAX / 2 * MADE_BYTES as u64))?;
    let mut newer = Vec::new();
    file.read_to_end(&mut newer)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&newer)
}

fn read(bytes: &[u8]) -> Option<Made> {
    let (action, toolchain) = bytes.split_first_chunk()?;
    let toolchain = toolchain.try_into().ok()?;
    Some(Made { action: ActionKey(Digest::from_bytes(*action)), toolchain: Digest::from_bytes(toolchain) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(n: u64) -> Made {
        let digest = |text: &str| Digest::of(format!("{text} {n}").as_bytes());
        Made { action: ActionKey(digest("action")), toolchain: digest("toolchain") }
    }

    #[test]
    fn the_newest_come_first_once_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backlog");
        let backlog = Backlog::open(&path).unwrap();
        (0..5).for_each(|n| backlog.add(made(n)).unwrap());
        assert_eq!(backlog.take(2).unwrap(), [made(4), made(3)]);
        drop(backlog);
        // The power failed in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[7; 20]).unwrap();
        let backlog = Backlog::open(&path).unwrap();
        backlog.add(made(9)).unwrap();
        assert_eq!(backlog.take(3).unwrap(), [made(9), made(2), made(1)]);
        assert_eq!(backlog.take(3).unwrap(), [made(0)]);
        assert_eq!(backlog.take(3).unwrap(), []);
    }

    #[test]
    fn it_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backlog");
        let backlog = Backlog::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len((MADE_MAX - 1) * 64).unwrap();
        (0..3).for_each(|n| backlog.add(made(n)).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (MADE_MAX / 2 + 2) * 64);
        assert_eq!(backlog.take(4).unwrap()[..3], [made(2), made(1), made(0)]);
    }
}
