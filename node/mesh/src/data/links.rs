//! The pool: one QUIC connection per peer, shared by everybody who opens streams.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use barn_protocol::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::{sync::watch, time::Instant};

use crate::{
    limits::{OPEN_TIMEOUT, OPEN_TIMEOUT_UNEXPECTED},
    packing::line_speed,
};

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no data link to the peer, and none came up in time.
    #[error("no link to {0:?}")]
    NoLink(NodeId),
    /// The link broke.
    #[error("the link to {peer:?} broke")]
    Broken {
        /// The peer.
        peer: NodeId,
        /// How.
        #[source]
        source: ConnectionError,
    },
    /// The peer allows no further stream just now.
    #[error("{0:?} takes no more streams")]
    Busy(NodeId),
}

/// One pooled connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: Connection,
    /// Whether this node dialled it.
    pub(super) dialled: bool,
    pub(super) since: Instant,
}

impl Link {
    pub(super) fn alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

/// The pooled connections. The locks are held for look-ups only.
pub(crate) struct Links {
    links: Mutex<HashMap<NodeId, Link>>,
    /// Since when a link to a peer is wanted but missing, or was last.
    missing: Mutex<HashMap<NodeId, Instant>>,
    /// Bumped whenever a link comes up.
    news: watch::Sender<u64>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self { links: Mutex::default(), missing: Mutex::default(), news: watch::channel(0).0 }
    }

    /// Opens a stream, waiting for the link to come up and for the peer to allow a further stream.
    pub(crate) async fn open(&self, peer: NodeId) -> Result<(SendStream, RecvStream), OpenError> {
        let connection = tokio::time::timeout_at(self.patience(&peer), self.wait_for(&peer))
            .await
            .map_err(|_| OpenError::NoLink(peer))?;
        tokio::time::timeout(OPEN_TIMEOUT, connection.open_bi())
            .await
            .map_err(|_| OpenError::Busy(peer))?
            .map_err(|source| OpenError::Broken { peer, source })
    }

    /// Round-trip time to the peer as the transport sees it.
    pub(crate) fn rtt(&self, peer: &NodeId) -> Option<Duration> {
        self.live(peer).map(|connection| connection.rtt())
    }

    /// What the congestion control takes the line to the peer for, in bytes a second.
    pub(crate) fn line_bytes_per_s(&self, peer: &NodeId) -> Option<u64> {
        let path = self.live(peer)?.stats().path;
        Some(line_speed(path.cwnd, path.rtt))
    }

    /// Bytes sent to and received from the peer on the link as it stands, datagrams and all.
    pub(crate) fn traffic(&self, peer: &NodeId) -> Option<(u64, u64)> {
        let stats = self.live(peer)?.stats();
        Some((stats.udp_tx.bytes, stats.udp_rx.bytes))
    }

    /// Where the peer's end of the link is.
    pub(crate) fn address(&self, peer: &NodeId) -> Option<SocketAddr> {
        let address = self.live(peer)?.remote_address();
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Whether there is a working link to the peer, as far as is known.
    pub(crate) fn is_up(&self, peer: &NodeId) -> bool {
        self.live(peer).is_some()
    }

    /// A link to the peer is missing from now on, and is being made.
    pub(super) fn expect(&self, peer: NodeId) {
        self.missing().insert(peer, Instant::now());
    }

    /// No link to the peer is being made any more.
    pub(super) fn forget(&self, peer: &NodeId) {
        self.missing().remove(peer);
    }

    pub(super) fn get(&self, peer: &NodeId) -> Option<Link> {
        self.lock().get(peer).cloned()
    }

    pub(super) fn set(&self, peer: NodeId, link: Link) {
        self.lock().insert(peer, link);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes the link out if it is this connection.
    pub(super) fn remove(&self, peer: &NodeId, connection: usize) -> Option<Link> {
        let mut links = self.lock();
        links.get(peer).filter(|link| link.connection.stable_id() == connection)?;
        links.remove(peer)
    }

    /// Until when to wait for a link: a peer to which none can be made must not cost every stream the same wait.
    fn patience(&self, peer: &NodeId) -> Instant {
        let now = Instant::now();
        match self.missing().get(peer) {
            Some(since) => (*since + OPEN_TIMEOUT).max(now),
            None => now + OPEN_TIMEOUT_UNEXPECTED,
        }
    }

    async fn wait_for(&self, peer: &NodeId) -> Connection {
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            if let Some(connection) = self.live(peer) {
                return connection;
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn live(&self, peer: &NodeId) -> Option<Connection> {
        self.lock().get(peer).filter(|link| link.alive()).map(|link| link.connection.clone())
    }

    fn missing(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
