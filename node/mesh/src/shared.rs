//! What the loops and the handles share: small states, never locked for longer than a look-up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use barn_protocol::{Digest, NodeId, advert::Advert};
use tokio::sync::watch;

use crate::{cell::RosterCell, data::Links};

/// What the node wants of the mesh.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intent {
    pub(crate) advert: Option<Advert>,
    pub(crate) provided: BTreeSet<Digest>,
    pub(crate) peers: Vec<SocketAddr>,
}

/// A peer that is up.
#[derive(Debug, Clone)]
pub(crate) struct PeerEntry {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) advert: Option<Advert>,
}

/// Shared by both planes and all handles of one mesh.
pub(crate) struct Shared {
    pub(crate) self_id: NodeId,
    pub(crate) roster: RosterCell,
    pub(crate) links: Arc<Links>,
    pub(crate) intent: watch::Sender<Intent>,
    pub(crate) listening: watch::Sender<Vec<SocketAddr>>,
    pub(crate) stop: watch::Sender<bool>,
    peers: Mutex<BTreeMap<NodeId, PeerEntry>>,
}

impl Shared {
    pub(crate) fn new(self_id: NodeId, roster: RosterCell, peers: Vec<SocketAddr>) -> Self {
        Self {
            self_id,
            roster,
            links: Arc::new(Links::new()),
            intent: watch::Sender::new(Intent { peers, ..Intent::default() }),
            listening: watch::Sender::new(Vec::new()),
            stop: watch::Sender::new(false),
            peers: Mutex::default(),
        }
    }

    /// The peers that are up.
    pub(crate) fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, PeerEntry>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of where the node listens. Loopback is left out where there is something else.
    pub(crate) fn set_listening(&self, mut addresses: Vec<SocketAddr>) {
        if addresses.iter().any(|address| !address.ip().is_loopback()) {
            addresses.retain(|address| !address.ip().is_loopback());
        }
        addresses.sort_unstable();
        addresses.dedup();
        self.listening.send_if_modified(|known| {
            let news = *known != addresses;
            *known = addresses;
            news
        });
    }
}
