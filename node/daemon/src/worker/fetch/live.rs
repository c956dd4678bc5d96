//! A toolchain while it comes: its pieces on disk, readable by those who serve them on.
//!
//! A blob that is not whole lies in `incoming/<digest>.part`, as large as it will be; the rest of it is holes. There
//! is no record of which pieces are in it: after a restart each is read and held against its value. A whole blob
//! moves into the store at once, so that little is left to do when the last piece comes.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use barn_cache::Store;
use barn_protocol::{
    Digest, Entry, Toolchain,
    transfer::{PieceMap, PieceSet, PieceValues, Place},
};
use tokio::sync::watch;

/// Files kept open for reading, per toolchain.
const OPEN_MAX: usize = 32;
/// How long what is left of a transfer is kept for the next one.
const PARTIAL_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// The sandbox binds files from this size on; they are made ready for that as they come.
const BOUND_BYTES_MIN: u64 = 512 << 10;

/// What is here, and what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) have: PieceSet,
    pub(crate) coming: PieceSet,
}

/// A toolchain some of whose pieces are here.
pub(crate) struct Live {
    pub(crate) toolchain: Arc<Toolchain>,
    pub(crate) map: PieceMap,
    pub(crate) values: PieceValues,
    pub(crate) progress: watch::Sender<Progress>,
    store: Store,
    incoming: PathBuf,
    opened: Opened,
}

impl Live {
    /// Looks for what is here already, and reads what is left of an earlier transfer. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn open(
        toolchain: Toolchain,
        values: PieceValues,
        store: Store,
        incoming: &Path,
    ) -> io::Result<Self> {
        fs::create_dir_all(incoming)?;
        let map = PieceMap::of(&toolchain);
        let none = PieceSet::none(map.len());
        let live = Self {
            toolchain: Arc::new(toolchain),
            values,
            progress: watch::channel(Progress { have: none.clone(), coming: none }).0,
            store,
            incoming: incoming.to_owned(),
            opened: Opened::default(),
            map,
        };
        let have = live.find();
        live.progress.send_modify(|progress| progress.have = have);
        Ok(live)
    }

    /// The contents of a piece, if it is here and good.
    pub(crate) fn read(&self, piece: u32) -> Option<Vec<u8>> {
        let place = self.map.place(piece)?;
        let digest = self.map.blobs()[place.blob].0;
        let file = self.opened.get(place.blob, || {
            File::open(self.part(&digest)).ok().or_else(|| self.store.open_blob(&digest))
        })?;
        read_piece(&file, &self.map, &self.values, piece)
    }

    /// Keeps a piece that was verified.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn write(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        let Some(Place { blob, offset, .. }) = self.map.place(piece) else { return Ok(()) };
        let (digest, size) = self.map.blobs()[blob];
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(self.part(&digest))?;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        file.write_all_at(bytes, offset)
    }

    /// Puts a blob whose pieces are all here into the store.
    ///
    /// # Errors
    /// When the store does not take it, or the disk lost some of it; its part is then gone.
    pub(super) fn finish(&self, blob: usize) -> io::Result<()> {
        let (digest, size) = self.map.blobs()[blob];
        let part = self.part(&digest);
        let kept = if self.store.contains(&digest) { Ok(()) } else { self.keep(&part, &digest) };
        if kept.is_ok() && size >= BOUND_BYTES_MIN {
            // What it costs to make it ready is better spent while other blobs are still coming.
            let _ = self.store.blob_path(&digest, self.is_executable(&digest));
        }
        let _ = fs::remove_file(&part);
        kept
    }

    fn keep(&self, part: &Path, digest: &Digest) -> io::Result<()> {
        let mut writer = self.store.writer().map_err(io::Error::other)?;
        io::copy(&mut File::open(part)?, &mut writer)?;
        writer.finish_as(digest).map(drop).map_err(io::Error::other)
    }

    fn is_executable(&self, digest: &Digest) -> bool {
        let is =
            |entry: &Entry| matches!(entry, Entry::File { digest: d, executable: true, .. } if d == digest);
        self.toolchain.tree.iter().any(|(_, entry)| is(entry))
    }

    /// The blobs that are not in the store.
    pub(super) fn unfinished(&self) -> Vec<usize> {
        let blobs = self.map.blobs().iter().enumerate();
        blobs.filter(|(_, (digest, _))| !self.store.contains(digest)).map(|(blob, _)| blob).collect()
    }

    fn find(&self) -> PieceSet {
        let mut have = PieceSet::all(self.map.len());
        for blob in self.unfinished() {
            let part = File::open(self.part(&self.map.blobs()[blob].0)).ok();
            for piece in self.map.pieces(blob) {
                let good = part.as_ref().and_then(|file| read_piece(file, &self.map, &self.values, piece));
                if good.is_none() {
                    have.remove(piece);
                }
            }
        }
        have
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.incoming.join(format!("{digest}.part"))
    }
}

/// A piece of a blob's file, if it is what it should be.
pub(crate) fn read_piece(file: &File, map: &PieceMap, values: &PieceValues, piece: u32) -> Option<Vec<u8>> {
    let place = map.place(piece)?;
    let mut bytes = vec![0; usize::try_from(place.bytes).ok()?];
    file.read_exact_at(&mut bytes, place.offset).ok()?;
    values.accept(map, piece, &bytes).then_some(bytes)
}

/// Forgets transfers that nobody resumed for days.
pub(super) fn sweep(incoming: &Path) {
    let Ok(entries) = fs::read_dir(incoming) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > PARTIAL_KEPT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Files open for reading, most recently used last.
#[derive(Default)]
pub(crate) struct Opened(Mutex<VecDeque<(usize, Arc<File>)>>);

impl Opened {
    /// The file of this number; it is opened if need be.
    pub(crate) fn get(&self, number: usize, open: impl FnOnce() -> Option<File>) -> Option<Arc<File>> {
        if let Some(file) = self.take(number) {
            return Some(file);
        }
        let file = Arc::new(open()?);
        let mut files = self.0.lock().expect("no panic while held");
        if files.len() >= OPEN_MAX {
            files.pop_front();
        }
        files.push_back((number, file.clone()));
        Some(file)
    }

    fn take(&self, number: usize) -> Option<Arc<File>> {
        let mut files = self.0.lock().expect("no panic while held");
        let at = files.iter().position(|(other, _)| *other == number)?;
        let entry = files.remove(at)?;
        let file = entry.1.clone();
        files.push_back(entry);
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use barn_cache::Limits;
    use barn_protocol::{
        Tree, TreePath,
        transfer::{PIECE_BYTES, piece_value},
    };

    use super::*;

    /// A toolchain of one large and one small file, and their contents.
    fn toolchain() -> (Toolchain, Vec<Vec<u8>>) {
        let large: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|n| (n % 251) as u8).collect();
        let blobs = vec![large, b"small".to_vec()];
        let mut tree = Tree::new();
        for (number, blob) in blobs.iter().enumerate() {
            let path = TreePath::new(format!("/usr/{number}").into_bytes()).unwrap();
            let file = Entry::File { digest: Digest::of(blob), size: blob.len() as u64, executable: true };
            tree.insert(path, file).unwrap();
        }
        (Toolchain { name: "x".into(), machine: "x86_64".into(), tree, search_path: Vec::new() }, blobs)
    }

    fn piece_of<'a>(map: &PieceMap, blobs: &'a [Vec<u8>], piece: u32) -> &'a [u8] {
        let at = map.place(piece).unwrap();
        let blob = blobs.iter().find(|blob| Digest::of(blob) == map.blobs()[at.blob].0).unwrap();
        &blob[at.offset as usize..(at.offset + at.bytes) as usize]
    }

    fn open(store: &Store, incoming: &Path) -> (Live, Vec<Vec<u8>>) {
        let (toolchain, blobs) = toolchain();
        let map = PieceMap::of(&toolchain);
        let value = |piece: u32| {
            let at = map.place(piece).unwrap();
            piece_value(map.blobs()[at.blob].1, at.offset, piece_of(&map, &blobs, piece))
        };
        let values = PieceValues::verified(&map, (0..map.len()).map(value).collect()).unwrap();
        (Live::open(toolchain, values, store.clone(), incoming).unwrap(), blobs)
    }

    fn have(live: &Live) -> Vec<u32> {
        let progress = live.progress.borrow();
        (0..live.map.len()).filter(|piece| progress.have.contains(*piece)).collect()
    }

    #[test]
    fn pieces_outlive_a_restart_and_rotten_ones_do_not() {
        let room = tempfile::tempdir().unwrap();
        let incoming = room.path().join("incoming");
        let store = Store::open(&room.path().join("store"), Limits::new(1 << 30)).unwrap();
        let (live, blobs) = open(&store, &incoming);
        assert_eq!(have(&live), Vec::<u32>::new());
        let large = live.map.pieces(if live.map.blobs()[0].1 > PIECE_BYTES { 0 } else { 1 });
        let [first, second, last] = [large.start, large.start + 1, large.end - 1];
        for piece in [first, second, last] {
            assert_eq!(live.read(piece), None);
            live.write(piece, piece_of(&live.map, &blobs, piece)).unwrap();
            assert_eq!(live.read(piece).as_deref(), Some(piece_of(&live.map, &blobs, piece)));
        }
        live.write(second, b"rot").unwrap();
        assert_eq!(live.read(second), None, "a rotten piece is not served");

        let (live, _) = open(&store, &incoming);
        assert_eq!(have(&live), [first, last]);
        for piece in 0..live.map.len() {
            live.write(piece, piece_of(&live.map, &blobs, piece)).unwrap();
        }
        for blob in live.unfinished() {
            live.finish(blob).unwrap();
        }
        assert!(blobs.iter().all(|blob| store.contains(&Digest::of(blob))));
        assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0, "nothing is left beside the store");
        assert_eq!(
            live.read(last).as_deref(),
            Some(piece_of(&live.map, &blobs, last)),
            "and it is still served"
        );
        let (live, _) = open(&store, &incoming);
        assert_eq!(have(&live).len(), live.map.len() as usize);
    }

    #[test]
    fn a_blob_that_rotted_before_it_was_stored_is_not_stored() {
        let room = tempfile::tempdir().unwrap();
        let store = Store::open(&room.path().join("store"), Limits::new(1 << 30)).unwrap();
        let (live, blobs) = open(&store, room.path());
        for piece in 0..live.map.len() {
            live.write(piece, piece_of(&live.map, &blobs, piece)).unwrap();
        }
        let large = usize::from(live.map.blobs()[0].1 < PIECE_BYTES);
        live.write(live.map.pieces(large).start, b"rot").unwrap();
        assert!(live.finish(large).is_err());
        assert!(!store.contains(&live.map.blobs()[large].0));
    }
}
