//! Whose fault it is that connections broke.
//!
//! When one peer is lost, that peer is in trouble. When most are lost at one moment, this machine is: it was asleep, or
//! stalled for so long that every connection timed out, or its cable was pulled. That says nothing about the workers.

use std::{collections::BTreeMap, time::Duration};

use crate::identity::NodeId;

/// Losses within this time are one event: all timers of a machine that wakes up fire together, but on a slow one it takes
/// a while until all are heard of.
pub const LOSSES_TOGETHER: Duration = Duration::from_secs(2);
/// So many peers, and at least half of all, make a loss this machine's own trouble.
pub const LOSSES_MIN: usize = 2;

/// The peers lost lately, at most as many as there are workers.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<NodeId, Duration>);

impl Losses {
    /// The connection to `id` broke at `now`, while these peers were believed connected (`id` may be among them or not).
    /// Returns who was lost through this machine's own fault, as far as is known by now.
    pub(super) fn lost(
        &mut self,
        now: Duration,
        id: NodeId,
        online: impl Iterator<Item = NodeId>,
    ) -> Vec<NodeId> {
        self.0.retain(|_, at| now.saturating_sub(*at) <= LOSSES_TOGETHER);
        self.0.insert(id, now);
        let others = online.filter(|id| !self.0.contains_key(id)).count();
        let count = self.0.len();
        if count < LOSSES_MIN || count < others { Vec::new() } else { self.0.keys().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    const S: Duration = Duration::from_secs(1);

    fn ids(count: u8) -> Vec<NodeId> {
        (1..=count).map(|n| Identity::from_seed(&[n; 32]).id()).collect()
    }

    /// How many are forgiven when peers are lost so long after each other, after each loss.
    fn check(peers: u8, apart: Duration, expect: &[usize]) {
        let ids = ids(peers);
        let mut losses = Losses::default();
        let forgiven: Vec<usize> = (0..expect.len())
            .map(|n| losses.lost(apart * n as u32, ids[n], ids[n + 1..].iter().copied()).len())
            .collect();
        assert_eq!(forgiven, expect, "{peers} peers, {apart:?} apart");
    }

    #[test]
    fn half_of_all_at_one_moment_are_forgiven() {
        check(7, S / 100, &[0, 0, 0, 4, 5, 6, 7]);
        check(4, S / 100, &[0, 2]);
        check(2, Duration::ZERO, &[0, 2]);
        check(1, Duration::ZERO, &[0]);
    }

    #[test]
    fn one_after_the_other_is_their_own_fault() {
        check(4, LOSSES_TOGETHER + S, &[0, 0, 0, 0]);
    }

    #[test]
    fn a_peer_that_flaps_is_one() {
        let ids = ids(3);
        let mut losses = Losses::default();
        for _ in 0..9 {
            assert!(losses.lost(S, ids[0], ids.iter().copied()).is_empty());
        }
    }
}
