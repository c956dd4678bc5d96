//! A set of pieces.

use serde::{Deserialize, Serialize};

/// Which pieces of a toolchain somebody has; one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PieceSet(Vec<u8>);

impl PieceSet {
    /// No piece out of `pieces`.
    pub fn none(pieces: u32) -> Self {
        Self(vec![0; pieces.div_ceil(8) as usize])
    }

    /// All of `pieces` pieces.
    pub fn all(pieces: u32) -> Self {
        let mut set = Self::none(pieces);
        (0..pieces).for_each(|piece| set.insert(piece));
        set
    }

    /// Whether it is a set out of `pieces` pieces, as a set from somebody else need not be.
    pub fn is_of(&self, pieces: u32) -> bool {
        let spare = (self.0.len() * 8).saturating_sub(pieces as usize);
        let last = self.0.last().copied().unwrap_or(0);
        self.0.len() == pieces.div_ceil(8) as usize && last.leading_zeros() as usize >= spare
    }

    /// Whether `piece` is in it.
    pub fn contains(&self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte >> (piece % 8) & 1 == 1)
    }

    /// Adds a piece; one beyond the end is not added.
    pub fn insert(&mut self, piece: u32) {
        if let Some(byte) = self.0.get_mut(piece as usize / 8) {
            *byte |= 1 << (piece % 8);
        }
    }

    /// Takes a piece out.
    pub fn remove(&mut self, piece: u32) {
        if let Some(byte) = self.0.get_mut(piece as usize / 8) {
            *byte &= !(1 << (piece % 8));
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in_and_know_their_size() {
        for pieces in [0, 1, 7, 8, 9, 64, 65] {
            let mut set = PieceSet::none(pieces);
            assert!(set.is_empty() && set.is_of(pieces));
            (0..pieces).step_by(3).for_each(|piece| set.insert(piece));
            assert_eq!(set.len(), pieces.div_ceil(3));
            assert!((0..pieces + 9).all(|piece| set.contains(piece) == (piece < pieces && piece % 3 == 0)));
            set.insert(pieces + 8);
            set.remove(0);
            assert!(!set.contains(0) && set.is_of(pieces));
            assert_eq!(PieceSet::all(pieces).len(), pieces);
        }
    }

    #[test]
    fn a_set_of_another_size_is_recognised() {
        assert!(!PieceSet::all(9).is_of(8) && !PieceSet::all(8).is_of(9));
        assert!(!PieceSet(vec![0xff]).is_of(7), "a bit beyond the end");
        assert!(PieceSet(vec![0x7f]).is_of(7));
    }
}
