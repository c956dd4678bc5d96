//! Static peers: addresses somebody wrote down, without knowing whose they are.
//!
//! Each is dialled until somebody is found there. From then on membership looks after that node, unless it is struck
//! from the roster; then the address is tried again.

use std::{net::SocketAddr, time::Duration};

use barn_protocol::NodeId;
use tokio::time::Instant;

use crate::limits::{STATIC_PEERS_MAX, STATIC_RETRY_MAX, STATIC_RETRY_MIN};

/// The static addresses and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Statics(Vec<Static>);

#[derive(Debug)]
struct Static {
    address: SocketAddr,
    /// Who was found there.
    peer: Option<NodeId>,
    due: Instant,
    pause: Duration,
}

impl Statics {
    /// Takes up addresses that are not known yet.
    pub(super) fn add(&mut self, now: Instant, addresses: &[SocketAddr]) {
        for &address in addresses {
            if self.0.len() < STATIC_PEERS_MAX && !self.0.iter().any(|known| known.address == address) {
                self.0.push(Static { address, peer: None, due: now, pause: STATIC_RETRY_MIN });
            }
        }
    }

    /// Which addresses to dial now; each counts as failed until [`Statics::found`] says otherwise.
    pub(super) fn due(&mut self, now: Instant, is_member: impl Fn(&NodeId) -> bool) -> Vec<SocketAddr> {
        let mut due = Vec::new();
        for one in self.0.iter_mut().filter(|one| one.due <= now) {
            one.due = now + one.pause;
            if one.peer.is_some_and(|peer| is_member(&peer)) {
                continue;
            }
            one.peer = None;
            one.pause = (one.pause * 2).min(STATIC_RETRY_MAX);
            due.push(one.address);
        }
        due
    }

    /// `peer` answered at `address`.
    pub(super) fn found(&mut self, address: SocketAddr, peer: NodeId) {
        for one in self.0.iter_mut().filter(|one| one.address == address) {
            one.peer = Some(peer);
            one.pause = STATIC_RETRY_MIN;
        }
    }

    /// When [`Statics::due`] is to be asked next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|one| one.due).min()
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    #[test]
    fn addresses_are_dialled_until_a_member_is_found() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let address: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let peer = Identity::from_seed(&[1; 32]).id();
        let mut statics = Statics::default();
        statics.add(start, &[address, address]);
        assert_eq!(statics.due(at(0), |_| true), [address]);
        assert!(statics.due(at(0), |_| true).is_empty());
        assert_eq!(statics.due(at(1), |_| true), [address]);
        assert!(statics.due(at(2), |_| true).is_empty(), "the pause doubles");
        assert_eq!(statics.due(at(3), |_| true), [address]);
        statics.found(address, peer);
        assert!(statics.due(at(60), |_| true).is_empty());
        assert_eq!(statics.due(at(120), |_| false), [address], "who was found is a member no more");
    }
}
