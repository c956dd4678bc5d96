//! How a toolchain is cut, and how each piece is verified.

use std::collections::BTreeMap;

use blake3::hazmat::{HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, toolchain::Toolchain};

/// Size of all pieces of a blob but the last, in bytes: 1024 chunks of BLAKE3, so that each is a subtree. At
/// 1 Gbit/s one takes 8 ms; a value of 32 bytes for each is nothing.
pub const PIECE_BYTES: u64 = 1 << 20;

/// The value of a piece's subtree in its blob's BLAKE3 tree; of a blob of one piece, the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceValue([u8; 32]);

/// Where a piece lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// In which of the map's blobs.
    pub blob: usize,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// The pieces of a toolchain, numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceMap {
    blobs: Vec<(Digest, u64)>,
    /// The first piece of each blob, and at the end the number of pieces.
    first: Vec<u32>,
}

impl PieceMap {
    /// Cuts a toolchain that keeps to [`crate::limits`]. An empty blob has one piece.
    pub fn of(toolchain: &Toolchain) -> Self {
        let blobs: BTreeMap<Digest, u64> = toolchain.tree.blobs().collect();
        let blobs: Vec<(Digest, u64)> = blobs.into_iter().collect();
        let mut first = vec![0];
        let mut next = 0_u32;
        for (_, size) in &blobs {
            next = next.saturating_add(u32::try_from(pieces_of(*size)).unwrap_or(u32::MAX));
            first.push(next);
        }
        Self { blobs, first }
    }

    /// How many pieces there are.
    pub fn len(&self) -> u32 {
        *self.first.last().expect("there is always a first number")
    }

    /// Whether there is no blob at all.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// The blobs with their sizes, in order of digests.
    pub fn blobs(&self) -> &[(Digest, u64)] {
        &self.blobs
    }

    /// The pieces of a blob of [`PieceMap::blobs`].
    pub fn pieces(&self, blob: usize) -> std::ops::Range<u32> {
        self.first[blob]..self.first[blob + 1]
    }

    /// Where a piece lies; `None` if there is no such piece.
    pub fn place(&self, piece: u32) -> Option<Place> {
        if piece >= self.len() {
            return None;
        }
        let blob = self.first.partition_point(|first| *first <= piece) - 1;
        let offset = u64::from(piece - self.first[blob]) * PIECE_BYTES;
        Some(Place { blob, offset, bytes: (self.blobs[blob].1 - offset).min(PIECE_BYTES) })
    }
}

/// The values of all pieces of a toolchain, verified against the digests of its blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceValues(Vec<PieceValue>);

impl PieceValues {
    /// Checks the values of all pieces, in order, against the blobs' digests.
    ///
    /// # Errors
    /// The first blob whose digest they do not give.
    pub fn verified(map: &PieceMap, values: Vec<PieceValue>) -> Result<Self, Digest> {
        for (blob, (digest, size)) in map.blobs().iter().enumerate() {
            let pieces = map.pieces(blob);
            let own = values.get(pieces.start as usize..pieces.end as usize).ok_or(*digest)?;
            if root(own, *size) != *digest {
                return Err(*digest);
            }
        }
        if values.len() == map.len() as usize { Ok(Self(values)) } else { Err(Digest::from_bytes([0; 32])) }
    }

    /// The values, in order.
    pub fn values(&self) -> &[PieceValue] {
        &self.0
    }

    /// Whether `bytes` are this piece.
    pub fn accept(&self, map: &PieceMap, piece: u32, bytes: &[u8]) -> bool {
        let Some(place) = map.place(piece) else { return false };
        place.bytes == bytes.len() as u64
            && self.0[piece as usize] == piece_value(map.blobs()[place.blob].1, place.offset, bytes)
    }
}

/// The value of the piece that begins at `offset` (a multiple of [`PIECE_BYTES`]) of a blob of `size` bytes.
pub fn piece_value(size: u64, offset: u64, bytes: &[u8]) -> PieceValue {
    if size <= PIECE_BYTES {
        return PieceValue(*blake3::hash(bytes).as_bytes());
    }
    let mut hasher = blake3::Hasher::new();
    PieceValue(hasher.set_input_offset(offset).update(bytes).finalize_non_root())
}

fn pieces_of(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES).max(1)
}

/// The digest of a blob of `size` bytes whose pieces have these values.
fn root(values: &[PieceValue], size: u64) -> Digest {
    match values {
        [only] => Digest::from_bytes(only.0),
        _ => {
            let (left, right) = halves(values, size);
            merge_subtrees_root(&left, &right, Mode::Hash).into()
        }
    }
}

fn halves(values: &[PieceValue], size: u64) -> ([u8; 32], [u8; 32]) {
    let left_size = left_subtree_len(size);
    let at = usize::try_from(left_size / PIECE_BYTES).expect("there are as many values as pieces");
    let (left, right) = values.split_at(at);
    (subtree(left, left_size), subtree(right, size - left_size))
}

fn subtree(values: &[PieceValue], size: u64) -> [u8; 32] {
    match values {
        [only] => only.0,
        _ => {
            let (left, right) = halves(values, size);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{path::TreePath, tree::Entry, tree::Tree};

    fn bytes(size: u64) -> Vec<u8> {
        (0..size).map(|n| (n * 31 % 251) as u8).collect()
    }

    fn toolchain(blobs: &[Vec<u8>]) -> Toolchain {
        let mut tree = Tree::new();
        for (number, blob) in blobs.iter().enumerate() {
            let path = TreePath::new(format!("/usr/{number}").into_bytes()).unwrap();
            let file = Entry::File { digest: Digest::of(blob), size: blob.len() as u64, executable: true };
            tree.insert(path, file).unwrap();
        }
        Toolchain { name: "x".into(), machine: "x86_64".into(), tree, search_path: Vec::new() }
    }

    fn values(map: &PieceMap, blobs: &[Vec<u8>]) -> Vec<PieceValue> {
        let pieces = (0..map.len()).map(|piece| (piece, map.place(piece).unwrap()));
        pieces
            .map(|(_, at)| piece_value(map.blobs()[at.blob].1, at.offset, piece_of(map, blobs, at)))
            .collect()
    }

    fn piece_of<'a>(map: &PieceMap, blobs: &'a [Vec<u8>], at: Place) -> &'a [u8] {
        let blob = blobs.iter().find(|blob| Digest::of(blob) == map.blobs()[at.blob].0).unwrap();
        &blob[at.offset as usize..(at.offset + at.bytes) as usize]
    }

    #[test]
    fn pieces_of_all_sizes_add_up_to_the_digest() {
        let mib = PIECE_BYTES;
        let sizes = [0, 1, 1024, 1025, mib - 1, mib, mib + 1, 2 * mib, 2 * mib + 1, 3 * mib, 5 * mib + 7];
        let mut blobs: Vec<Vec<u8>> = sizes.into_iter().map(bytes).collect();
        blobs.push(bytes(1025));
        let map = PieceMap::of(&toolchain(&blobs));
        assert_eq!(map.blobs().len(), sizes.len(), "each blob once");
        let good = PieceValues::verified(&map, values(&map, &blobs)).unwrap();
        for piece in 0..map.len() {
            let at = map.place(piece).unwrap();
            assert!(map.pieces(at.blob).contains(&piece));
            let mut own = piece_of(&map, &blobs, at).to_vec();
            assert!(good.accept(&map, piece, &own), "{at:?}");
            own.push(0);
            assert!(!good.accept(&map, piece, &own));
            own.pop();
            let Some(first) = own.first_mut() else { continue };
            *first ^= 1;
            assert!(!good.accept(&map, piece, &own), "{at:?}");
        }
        assert_eq!(map.place(map.len()), None);
    }

    #[test]
    fn wrong_values_name_their_blob() {
        let blobs = [bytes(3 * PIECE_BYTES + 1), bytes(10)];
        let map = PieceMap::of(&toolchain(&blobs));
        let good = values(&map, &blobs);
        for piece in 0..map.len() {
            let mut bad = good.clone();
            bad[piece as usize].0[7] ^= 1;
            let blob = map.blobs()[map.place(piece).unwrap().blob].0;
            assert_eq!(PieceValues::verified(&map, bad), Err(blob));
        }
        assert!(PieceValues::verified(&map, good[1..].to_vec()).is_err());
        assert!(PieceValues::verified(&map, [&good[..], &good[..1]].concat()).is_err());
    }
}
