//! What a node tells everybody about itself, a few times a second at most.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    limits::{ADVERT_BYTES_MAX, ADVERT_TOOLCHAINS_MAX},
};

/// A node's offer. Adverts may be stale: a stale one only costs a decline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Grows with every advert of one run of the node; older ones are dropped.
    pub sequence: u64,
    /// When the node started, in seconds since the Unix epoch; with `sequence` it orders adverts across restarts.
    pub started_unix_s: u64,
    /// The version of the node, for people.
    pub version: String,
    /// The machine, as the kernel names it, e.g. `x86_64`.
    pub machine: String,
    /// How many cores the machine has (or its quota gives).
    pub cores: u32,
    /// How many actions it would run at once for others; 0 when it cannot or may not.
    pub slots: u32,
    /// How many of them are free now.
    pub free: u32,
    /// How many actions wait there for a slot, their inputs already there or on their way.
    pub queued: u32,
    /// How many may; 0 when it runs nothing for others.
    pub queue_max: u32,
    /// The toolchains it has whole, most recently used first.
    pub toolchains: Vec<Digest>,
}

impl Advert {
    /// Whether this advert replaces `other` of the same node.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.started_unix_s, self.sequence) > (other.started_unix_s, other.sequence)
    }

    /// Whether who only knows `other` would send work to the wrong node: whether there is a free slot, or for which
    /// toolchains, is another. How many are free or queued can wait; a stale number costs a decline.
    pub fn surprises(&self, other: &Self) -> bool {
        let offer = |advert: &Self| (advert.free > 0, advert.slots, advert.queue_max);
        offer(self) != offer(other) || self.toolchains.iter().ne(&other.toolchains)
    }

    /// The bytes to gossip; toolchains over the limit are left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut advert = self.clone();
        advert.toolchains.truncate(ADVERT_TOOLCHAINS_MAX);
        advert.version = shortened(&advert.version);
        advert.machine = shortened(&advert.machine);
        advert.free = advert.free.min(advert.slots);
        advert.queued = advert.queued.min(advert.queue_max);
        postcard::to_stdvec(&advert).expect("encoding into memory does not fail")
    }

    /// An advert as received; `None` if it is malformed or over the limits.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > ADVERT_BYTES_MAX {
            return None;
        }
        let advert: Self = postcard::from_bytes(bytes).ok()?;
        let sound = advert.toolchains.len() <= ADVERT_TOOLCHAINS_MAX
            && advert.free <= advert.slots
            && advert.queued <= advert.queue_max;
        sound.then_some(advert)
    }
}

/// The first 32 characters, which is more than any version or machine name has.
fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_alone_surprise_nobody() {
        let check = |change: fn(&mut Advert), expect| {
            let mut changed = advert();
            change(&mut changed);
            assert_eq!(changed.surprises(&advert()), expect, "{changed:?}");
        };
        check(|advert| advert.sequence += 1, false);
        check(|advert| advert.queued += 1, false);
        check(|advert| advert.free -= 1, false);
        check(|advert| advert.free = 0, true);
        check(|advert| advert.slots += 1, true);
        check(|advert| advert.queue_max = 0, true);
        check(|advert| advert.toolchains.push(Digest::of(b"new")), true);
    }

    fn advert() -> Advert {
        Advert {
            sequence: 1,
            started_unix_s: 1000,
            version: "0.1.0".into(),
            machine: "x86_64".into(),
            cores: 8,
            slots: 6,
            free: 6,
            queued: 0,
            queue_max: 6,
            toolchains: vec![Digest::of(b"gcc")],
        }
    }

    #[test]
    fn a_restart_begins_a_newer_series() {
        let older = advert();
        let next = Advert { sequence: 2, ..advert() };
        let restarted = Advert { sequence: 0, started_unix_s: 1001, ..advert() };
        assert!(next.is_newer_than(&older) && !older.is_newer_than(&next));
        assert!(restarted.is_newer_than(&next) && !next.is_newer_than(&restarted));
        assert!(!older.is_newer_than(&older));
    }

    #[test]
    fn what_fits_round_trips_and_the_rest_is_cut() {
        assert_eq!(Advert::decode(&advert().encode()), Some(advert()));
        let digests = (0..200_u32).map(|n| Digest::of(&n.to_le_bytes()));
        let large = Advert { toolchains: digests.collect(), version: "v".repeat(5000), ..advert() };
        let received = Advert::decode(&large.encode()).expect("it was cut to the limits");
        assert_eq!(received.toolchains, large.toolchains[..ADVERT_TOOLCHAINS_MAX]);
        assert!(large.encode().len() <= ADVERT_BYTES_MAX);
    }

    #[test]
    fn malformed_adverts_are_dropped() {
        let raw = |advert: &Advert| postcard::to_stdvec(advert).expect("encodes");
        assert_eq!(Advert::decode(&raw(&Advert { free: 7, ..advert() })), None);
        assert_eq!(Advert::decode(&raw(&Advert { queued: 7, ..advert() })), None);
        let many = vec![Digest::of(b""); ADVERT_TOOLCHAINS_MAX + 1];
        assert_eq!(Advert::decode(&raw(&Advert { toolchains: many, ..advert() })), None);
        assert_eq!(Advert::decode(&raw(&Advert { version: "v".repeat(9000), ..advert() })), None);
        let bytes = advert().encode();
        for cut in 0..bytes.len() {
            assert_eq!(Advert::decode(&bytes[..cut]), None, "cut to {cut} bytes");
        }
    }
}
