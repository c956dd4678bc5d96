//! Which blobs must stay, and for whom.

use std::collections::HashMap;

use barn_protocol::Digest;

use crate::journal::Location;

/// What one owner pins.
#[derive(Debug)]
pub(crate) struct Pin {
    /// The journal's entry that says so.
    pub(crate) at: Location,
    pub(crate) blobs: Vec<Digest>,
}

#[derive(Debug, Default)]
pub(crate) struct Pins {
    owners: HashMap<Digest, Pin>,
    /// How often each blob is pinned.
    counts: HashMap<Digest, u32>,
}

impl Pins {
    /// Replaces what an owner pins; gives back what it pinned before.
    pub(crate) fn set(&mut self, owner: &Digest, pin: Pin) -> Option<Pin> {
        for blob in &pin.blobs {
            *self.counts.entry(*blob).or_default() += 1;
        }
        let before = self.owners.insert(*owner, pin);
        self.release(before.as_ref());
        before
    }

    pub(crate) fn remove(&mut self, owner: &Digest) -> Option<Pin> {
        let before = self.owners.remove(owner);
        self.release(before.as_ref());
        before
    }

    pub(crate) fn of(&self, owner: &Digest) -> Option<&Pin> {
        self.owners.get(owner)
    }

    pub(crate) fn owners(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Digest, &Pin)> {
        self.owners.iter()
    }

    /// Whether a blob must stay.
    pub(crate) fn holds(&self, blob: &Digest) -> bool {
        self.counts.contains_key(blob)
    }

    /// Every pinned blob, once.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.counts.keys()
    }

    fn release(&mut self, pin: Option<&Pin>) {
        for blob in pin.into_iter().flat_map(|pin| &pin.blobs) {
            if let Some(count) = self.counts.get_mut(blob) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(blob);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_stays_while_anybody_pins_it() {
        let digest = |byte| Digest::from_bytes([byte; 32]);
        let pin = |blobs: &[u8]| Pin {
            at: Location { segment: 0, offset: 0, len: 0 },
            blobs: blobs.iter().map(|b| digest(*b)).collect(),
        };
        let mut pins = Pins::default();
        pins.set(&digest(1), pin(&[7, 8, 8]));
        pins.set(&digest(2), pin(&[8]));
        pins.set(&digest(1), pin(&[9]));
        assert_eq!([7, 8, 9].map(|b| pins.holds(&digest(b))), [false, true, true]);
        pins.remove(&digest(2));
        pins.remove(&digest(2));
        assert_eq!([7, 8, 9].map(|b| pins.holds(&digest(b))), [false, false, true]);
    }
}
