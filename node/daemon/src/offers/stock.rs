//! Where the pieces of one toolchain come from.

use std::{fs::File, path::PathBuf, sync::Arc};

use barn_cache::Store;
use barn_protocol::{
    Toolchain,
    transfer::{PIECE_BYTES, PieceMap, PieceSet, PieceValue, PieceValues, piece_value},
};
use tokio::sync::watch;

use crate::{
    toolchain::Known,
    worker::{Live, Opened, read_piece},
};

/// A toolchain that is here, or coming.
#[derive(Clone)]
pub(super) enum Stock {
    Coming(Arc<Live>),
    Whole(Arc<Whole>),
}

/// A toolchain that is here, with the values of its pieces.
pub(super) struct Whole {
    toolchain: Arc<Toolchain>,
    map: PieceMap,
    values: PieceValues,
    place: Place,
    opened: Opened,
}

/// Where the blobs are.
enum Place {
    /// At their own paths, in order of digests.
    Installed(Vec<PathBuf>),
    Stored(Store),
}

impl Stock {
    pub(super) fn toolchain(&self) -> &Toolchain {
        match self {
            Self::Coming(live) => &live.toolchain,
            Self::Whole(whole) => &whole.toolchain,
        }
    }

    pub(super) fn values(&self) -> &[PieceValue] {
        match self {
            Self::Coming(live) => live.values.values(),
            Self::Whole(whole) => whole.values.values(),
        }
    }

    /// Tells of changes; what is whole does not change.
    pub(super) fn progress(&self) -> Option<watch::Receiver<crate::worker::Progress>> {
        match self {
            Self::Coming(live) => Some(live.progress.subscribe()),
            Self::Whole(_) => None,
        }
    }

    /// What is here and what is awaited.
    pub(super) fn news(
        &self,
        progress: &mut Option<watch::Receiver<crate::worker::Progress>>,
    ) -> (PieceSet, PieceSet) {
        match (self, progress) {
            (Self::Coming(_), Some(progress)) => {
                let now = progress.borrow_and_update();
                (now.have.clone(), now.coming.clone())
            }
            (Self::Coming(live), None) => (PieceSet::none(live.map.len()), PieceSet::none(live.map.len())),
            (Self::Whole(whole), _) => (PieceSet::all(whole.map.len()), PieceSet::none(whole.map.len())),
        }
    }

    /// A piece, if it is here and still what it was. Blocks on the disk.
    pub(super) fn read(&self, piece: u32) -> Option<Vec<u8>> {
        match self {
            Self::Coming(live) => live.read(piece),
            Self::Whole(whole) => whole.read(piece),
        }
    }
}

/// Resolves at the next change, if there can be one.
pub(super) async fn changed(progress: &mut Option<watch::Receiver<crate::worker::Progress>>) {
    let open = match progress {
        Some(progress) => progress.changed().await.is_ok(),
        None => false,
    };
    if !open {
        std::future::pending::<()>().await;
    }
}

impl Whole {
    /// A compiler of this machine; `None` if its files are no longer what they were.
    pub(super) fn installed(known: &Known) -> Option<Self> {
        let map = PieceMap::of(&known.toolchain);
        let paths: Option<Vec<PathBuf>> =
            map.blobs().iter().map(|(digest, _)| known.files.get(digest).cloned()).collect();
        Self::read_all(Arc::new(known.toolchain.clone()), map, Place::Installed(paths?))
    }

    /// A toolchain on the shelf; `None` if the store has lost some of it.
    pub(super) fn stored(toolchain: Arc<Toolchain>, store: Store) -> Option<Self> {
        let map = PieceMap::of(&toolchain);
        Self::read_all(toolchain, map, Place::Stored(store))
    }

    fn read_all(toolchain: Arc<Toolchain>, map: PieceMap, place: Place) -> Option<Self> {
        let mut values = Vec::with_capacity(map.len() as usize);
        for (blob, (_, size)) in map.blobs().iter().enumerate() {
            let mut file = place.open(&map, blob)?;
            let mut bytes = Vec::new();
            for piece in map.pieces(blob) {
                let at = map.place(piece)?;
                bytes.clear();
                std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, PIECE_BYTES), &mut bytes)
                    .ok()?;
                values.push(piece_value(*size, at.offset, &bytes));
            }
        }
        let values = PieceValues::verified(&map, values).ok()?;
        Some(Self { toolchain, map, values, place, opened: Opened::default() })
    }

    fn read(&self, piece: u32) -> Option<Vec<u8>> {
        let blob = self.map.place(piece)?.blob;
        let file = self.opened.get(blob, || self.place.open(&self.map, blob))?;
        read_piece(&file, &self.map, &self.values, piece)
    }
}

impl Place {
    fn open(&self, map: &PieceMap, blob: usize) -> Option<File> {
        match self {
            Self::Installed(paths) => File::open(paths.get(blob)?).ok(),
            Self::Stored(store) => store.open_blob(&map.blobs()[blob].0),
        }
    }
}
