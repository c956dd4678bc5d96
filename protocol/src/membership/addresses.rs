//! Where peers can be dialled: bounded lists, for members and for strangers.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::identity::NodeId;

/// Most addresses kept for one peer, the newest first: a laptop has a cable, a radio and a few virtual
/// interfaces, each with IPv4 and IPv6.
pub const ADDRESSES_MAX: usize = 8;
/// Most strangers remembered. Anybody on the LAN can announce itself, so the list is short and the one seen
/// longest ago makes room.
pub const STRANGERS_MAX: usize = 256;
/// How long a stranger is remembered: longer than a new roster needs to arrive, shorter than mDNS takes to
/// forget an address.
pub const STRANGER_AGE_MAX: Duration = Duration::from_secs(300);

/// The addresses of one peer, the newest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses(Vec<SocketAddr>);

impl Addresses {
    /// Puts `addresses` in front, in their order; says whether one of them is new.
    pub(super) fn add(&mut self, addresses: &[SocketAddr]) -> bool {
        let mut news = false;
        for address in addresses.iter().take(ADDRESSES_MAX).rev().filter(|a| can_be_dialled(a)) {
            match self.0.iter().position(|a| a == address) {
                Some(there) => self.0[..=there].rotate_right(1),
                None => {
                    news = true;
                    self.0.truncate(ADDRESSES_MAX - 1);
                    self.0.insert(0, *address);
                }
            }
        }
        news
    }

    pub(super) fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }
}

fn can_be_dialled(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// Addresses of peers that are on no roster we know; a newer one may list them.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<NodeId, (Duration, Addresses)>);

impl Strangers {
    pub(super) fn remember(&mut self, now: Duration, id: NodeId, addresses: &[SocketAddr]) {
        if self.0.len() >= STRANGERS_MAX
            && !self.0.contains_key(&id)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (seen, _))| *seen).map(|(id, _)| *id)
        {
            self.0.remove(&oldest);
        }
        let (seen, known) = self.0.entry(id).or_default();
        *seen = now;
        known.add(addresses);
    }

    /// What is known of `id`, which is no stranger from now on.
    pub(super) fn take(&mut self, now: Duration, id: &NodeId) -> Addresses {
        match self.0.remove(id) {
            Some((seen, addresses)) if now.saturating_sub(seen) <= STRANGER_AGE_MAX => addresses,
            _ => Addresses::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
