//! Who owns a key: rendezvous hashing.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (IEEE/ACM Transactions on Networking 6(1),
//! 1998): every member gets a score for the key, and the members with the highest scores own it. When a member comes or
//! goes, only the keys change owners of which it has or had one of the highest scores. There is no ring to balance and
//! nothing to agree on but the members.

use serde::{Deserialize, Serialize};

use crate::{ActionKey, Digest, NodeId, canonical::Canonical, keys::domain};

/// Owners of a key. One may be switched off without a word; three would make every put half as dear again.
pub const OWNERS: usize = 2;

/// The byte of a key that tells what it names, and the bit in it.
const LAST: usize = 15;
const MANIFEST: u8 = 1;

/// The name of an entry of the office's cache: 127 bits of a digest, and one that tells records from include manifests. It
/// finds an entry and vouches for nothing: what is found says itself what it is about, and the reader compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryKey([u8; 16]);

impl EntryKey {
    /// Under which an action's record is found.
    pub fn record(action: &ActionKey) -> Self {
        let mut key = Self::new(domain::OFFICE_RECORD, &action.0);
        key.0[LAST] &= !MANIFEST;
        key
    }

    /// Under which the newest include manifests of a manifest key are found.
    pub fn manifest(key: &Digest) -> Self {
        let mut key = Self::new(domain::OFFICE_MANIFEST, key);
        key.0[LAST] |= MANIFEST;
        key
    }

    /// Whether it names include manifests. They have no outputs, so nobody holds them, nobody makes them for others, and
    /// they are not handed over when owners change: without them inputs are looked for, no more.
    pub const fn is_manifest(&self) -> bool {
        self.0[LAST] & MANIFEST != 0
    }

    fn new(domain: &'static str, name: &Digest) -> Self {
        let whole = Canonical::new(domain).digest(name).finish();
        let (first, _) = whole.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        Self(*first)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn point(self) -> u64 {
        let (first, _) = self.0.split_first_chunk().expect("a key has 16 bytes");
        u64::from_le_bytes(*first)
    }
}

/// What of a member goes into its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point(u64);

impl Point {
    pub(super) fn of(member: &NodeId) -> Self {
        let whole = Canonical::new(domain::OFFICE_OWNER).bytes(member.as_bytes()).finish();
        let (first, _) = whole.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        Self(u64::from_le_bytes(*first))
    }

    /// The member's score for a key. The finaliser of SplitMix64 (Steele, Lea and Flood 2014) is a bijection, so two
    /// members with different points never tie.
    pub(super) const fn score(self, key: EntryPoint) -> u64 {
        let mut z = self.0 ^ key.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What of a key goes into its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryPoint(u64);

impl From<EntryKey> for EntryPoint {
    fn from(key: EntryKey) -> Self {
        Self(key.point())
    }
}

/// The highest scorers for `key`, the best first.
pub(super) fn owners<T: Copy>(
    key: EntryKey,
    members: impl Iterator<Item = (T, Point)>,
) -> [Option<T>; OWNERS] {
    let point = EntryPoint::from(key);
    let mut best: [Option<(u64, T)>; OWNERS] = [None; OWNERS];
    for (member, of) in members {
        let score = of.score(point);
        if best[0].is_none_or(|(first, _)| score > first) {
            best = [Some((score, member)), best[0]];
        } else if best[1].is_none_or(|(second, _)| score > second) {
            best[1] = Some((score, member));
        }
    }
    best.map(|owner| owner.map(|(_, member)| member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn members(count: u8) -> Vec<(u8, Point)> {
        (0..count).map(|n| (n, Point::of(&Identity::from_seed(&[n; 32]).id()))).collect()
    }

    fn key(n: u32) -> EntryKey {
        EntryKey::record(&ActionKey(Digest::of(&n.to_le_bytes())))
    }

    #[test]
    fn golden_vector() {
        assert_eq!(data_encoding::HEXLOWER.encode(&key(7).0), "4d61c7916e29f09b10ad0abe31568fcc");
        let found: Vec<_> =
            (0..8).map(|n| owners(key(n), members(20).into_iter()).map(Option::unwrap)).collect();
        assert_eq!(found, [[0, 2], [1, 14], [14, 16], [9, 17], [18, 1], [0, 7], [2, 12], [1, 14]]);
        for n in 0..20 {
            let name = Digest::of(&[n]);
            assert!(
                EntryKey::manifest(&name).is_manifest() && !EntryKey::record(&ActionKey(name)).is_manifest()
            );
        }
    }

    #[test]
    fn keys_are_spread_evenly() {
        let members = members(50);
        let mut owned = [0_u32; 50];
        for n in 0..10_000 {
            for owner in owners(key(n), members.iter().copied()).into_iter().flatten() {
                owned[usize::from(owner)] += 1;
            }
        }
        // 400 each; five times the deviation of a binomial distribution.
        assert!(owned.iter().all(|count| (300..500).contains(count)), "{owned:?}");
    }

    #[test]
    fn only_the_keys_of_whoever_leaves_change_owners() {
        let all = members(50);
        for n in 0..2000 {
            let before = owners(key(n), all.iter().copied()).map(Option::unwrap);
            let after = owners(key(n), all.iter().copied().filter(|(m, _)| *m != 7)).map(Option::unwrap);
            match before {
                [7, second] => assert_eq!(after[0], second),
                [first, 7] => assert_eq!(after[0], first),
                _ => assert_eq!(after, before),
            }
        }
        assert_eq!(owners(key(1), all.iter().copied().take(1)), [Some(0), None]);
        assert_eq!(owners(key(1), std::iter::empty::<(u8, Point)>()), [None, None]);
    }
}
