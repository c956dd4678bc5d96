//! The data plane: QUIC between members, one pooled connection per peer.
//!
//! The control plane says to whom links are wanted, and where they may be found; this loop dials, accepts, judges
//! and replaces them. To keep two nodes from dialling each other at once, the one with the smaller id dials, and the
//! other only if nothing has come after [`DIAL_PATIENCE`]. If two links meet all the same, both sides keep the one
//! the smaller id dialled; the other finishes its streams and is closed after [`RETIRE_GRACE`].
//!
//! ```text
//!            wanted, our turn               handshake done
//!   Waiting ────────────────▶ Dialling ───────────────────▶ Up
//!      ▲                          │                          │
//!      ├──────── failed: pause ───┘                          │
//!      └──────── link lost: pause grows if it was short ─────┘
//! ```
//!
//! Links carry a keep-alive, so a peer that vanished is noticed within the idle timeout; the control plane is told
//! and drops its connection too. What a peer opens is handed to the node as [`MeshEvent::Incoming`]; when the node
//! does not take it, streams wait at the peer.
//!
//! Invariants: a connection whose key has no standing on the roster is closed at once, whenever it lost it; a
//! newcomer that was let in for joining is served the join protocol and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use barn_protocol::{
    NodeId,
    roster::SignedRoster,
    wire::{DATA_ALPN, JOIN_ALPN},
};
use quinn::{Connection, ConnectionError, Endpoint, Incoming};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, Interval},
};

use crate::{
    MeshEvent,
    cell::RosterCell,
    clock::unix_now_s,
    control::stopped,
    join::{Admitter, JoinDesk},
    limits::{
        DATA_CONNECTIONS_MAX, DATA_PENDING_MAX, DIAL_PATIENCE, HANDSHAKE_TIMEOUT, REDIAL_MAX, REDIAL_MIN,
        RETIRE_GRACE,
    },
};

mod links;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

use links::Link;
pub(crate) use links::Links;
pub use links::OpenError;
pub(crate) use tls::{Tls, alpn_of, peer_of};
pub(crate) use transport::{bind_udp, connect_any, endpoint};

/// To whom links are wanted, and where they may be found.
pub(crate) type Wanted = BTreeMap<NodeId, Vec<SocketAddr>>;

/// How often standing is checked without a change of roster: a roster expires silently.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long peers are given to hear a goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// Application close codes of QUIC connections.
pub(crate) mod close {
    use quinn::VarInt;

    /// The node stops.
    pub(crate) const STOPPED: VarInt = VarInt::from_u32(0);
    /// The peer has no standing on the roster.
    pub(crate) const NOT_LISTED: VarInt = VarInt::from_u32(1);
    /// Another connection to the same peer took this one's place.
    pub(crate) const REPLACED: VarInt = VarInt::from_u32(2);
    /// The link is no longer wanted.
    pub(crate) const UNWANTED: VarInt = VarInt::from_u32(3);
    /// Too many join attempts.
    pub(crate) const TOO_MANY: VarInt = VarInt::from_u32(4);
    /// The join is over.
    pub(crate) const JOINED: VarInt = VarInt::from_u32(5);
}

/// What the data plane shares with the rest of the mesh.
pub(crate) struct DataConfig {
    pub(crate) self_id: NodeId,
    pub(crate) tls: Arc<Tls>,
    pub(crate) roster: RosterCell,
    pub(crate) admitter: Arc<dyn Admitter>,
    pub(crate) links: Arc<Links>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) events: mpsc::Sender<MeshEvent>,
    /// Told of peers whose link died without a word.
    pub(crate) vanished: mpsc::Sender<NodeId>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Lets in members, and anybody while an invitation is open; who was let in for that only is sorted out by the
/// protocol it asks for.
struct Door {
    roster: RosterCell,
    admitter: Arc<dyn Admitter>,
}

impl tls::Doorkeeper for Door {
    fn lets_in(&self, peer: &NodeId) -> bool {
        self.roster.standing(peer, unix_now_s()).is_ok() || self.admitter.open()
    }
}

/// The data plane's loop; ends when `stop` says so.
pub(crate) struct DataPlane {
    config: DataConfig,
    endpoint: Endpoint,
    changes: watch::Receiver<Option<Arc<SignedRoster>>>,
    desk: JoinDesk,
    dials: HashMap<NodeId, Dial>,
    /// All connections that are served, pooled or retired, by their stable id.
    served: HashMap<usize, (NodeId, Connection)>,
    tasks: JoinSet<Done>,
    /// Handshakes of others under way.
    handshakes: usize,
}

/// Where a wanted link stands; drawn in the module's documentation.
#[derive(Debug, Clone, Copy)]
enum Dial {
    Waiting { due: Instant, pause: Duration },
    Dialling { pause: Duration },
    Up { pause: Duration },
}

/// Why the loop turns.
enum Turn {
    Incoming(Box<Incoming>),
    Done(Done),
    Wanted,
    Check,
    Time,
    Stop,
}

/// How a task of the loop ended.
enum Done {
    Dialled(NodeId, Option<Connection>),
    Accepted(Option<Connection>),
    Closed(NodeId, usize, ConnectionError),
    /// Nothing left to do.
    Over,
}

impl DataPlane {
    /// Lets `endpoint` listen.
    pub(crate) fn new(config: DataConfig, endpoint: Endpoint) -> Self {
        let door = Door { roster: config.roster.clone(), admitter: config.admitter.clone() };
        endpoint.set_server_config(Some(config.tls.listener(Arc::new(door))));
        let mut changes = config.roster.subscribe();
        changes.mark_changed();
        Self {
            desk: JoinDesk::new(config.admitter.clone()),
            config,
            endpoint,
            changes,
            dials: HashMap::new(),
            served: HashMap::new(),
            tasks: JoinSet::new(),
            handshakes: 0,
        }
    }

    /// Runs until stopped; then says goodbye to everybody.
    pub(crate) async fn run(mut self) {
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        self.reconcile();
        loop {
            match self.next_turn(&mut check).await {
                Turn::Incoming(incoming) => self.incoming(*incoming),
                Turn::Done(done) => self.done(done),
                Turn::Wanted => self.reconcile(),
                Turn::Check => self.cut(),
                Turn::Time => {}
                Turn::Stop => break,
            }
            self.dial_due();
        }
        self.endpoint.close(close::STOPPED, b"stopped");
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }

    async fn next_turn(&mut self, check: &mut Interval) -> Turn {
        let due = self.next_dial();
        tokio::select! {
            () = stopped(&mut self.config.stop) => Turn::Stop,
            incoming = self.endpoint.accept() => match incoming {
                Some(incoming) => Turn::Incoming(Box::new(incoming)),
                None => Turn::Stop,
            },
            Some(done) = self.tasks.join_next() => Turn::Done(done.unwrap_or(Done::Over)),
            Ok(()) = self.config.wanted.changed() => Turn::Wanted,
            Ok(()) = self.changes.changed() => Turn::Check,
            _ = check.tick() => Turn::Check,
            () = sleep_until(due) => Turn::Time,
        }
    }

    /// Accepts, defers or refuses a handshake that somebody wants.
    fn incoming(&mut self, incoming: Incoming) {
        let crowded = self.handshakes >= DATA_PENDING_MAX / 2;
        if self.handshakes >= DATA_PENDING_MAX || self.endpoint.open_connections() >= DATA_CONNECTIONS_MAX {
            incoming.refuse();
        } else if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
        } else if let Ok(connecting) = incoming.accept() {
            self.handshakes += 1;
            self.tasks.spawn(async {
                let done = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
                Done::Accepted(done.ok().and_then(Result::ok))
            });
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Dialled(peer, Some(connection)) => self.link(peer, connection, true),
            Done::Dialled(peer, None) => self.pause(peer),
            Done::Accepted(connection) => {
                self.handshakes -= 1;
                if let Some(connection) = connection {
                    self.accepted(connection);
                }
            }
            Done::Closed(peer, id, error) => self.closed(peer, id, &error),
            Done::Over => {}
        }
    }

    fn accepted(&mut self, connection: Connection) {
        let Some(peer) = peer_of(&connection) else { return };
        match alpn_of(&connection).as_deref() {
            Some(DATA_ALPN) => self.link(peer, connection, false),
            Some(JOIN_ALPN) => match self.desk.serve(peer, connection) {
                Some(serving) => {
                    self.tasks.spawn(async {
                        serving.await;
                        Done::Over
                    });
                }
                None => tracing::debug!(?peer, "too many join attempts"),
            },
            _ => connection.close(close::NOT_LISTED, b"no such protocol"),
        }
    }

    /// Takes a new connection into the pool, unless a better one is there.
    fn link(&mut self, peer: NodeId, connection: Connection, dialled: bool) {
        if let Err(refusal) = self.config.roster.standing(&peer, unix_now_s()) {
            connection.close(close::NOT_LISTED, refusal.to_string().as_bytes());
            self.pause(peer);
            return;
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            *dial = Dial::Up { pause: dial.pause() };
        }
        self.serve(peer, connection.clone());
        let preferred = dialled == (self.config.self_id < peer);
        match self.config.links.get(&peer).filter(Link::alive) {
            Some(old) if old.dialled == dialled => {
                // The same side dialled again, so it has lost the old one.
                old.connection.close(close::REPLACED, b"replaced");
            }
            Some(old) if preferred => self.retire(old.connection),
            Some(_) => return self.retire(connection),
            None => {}
        }
        tracing::debug!(?peer, dialled, "data link up");
        self.config.links.set(peer, Link { connection, dialled, since: Instant::now() });
    }

    /// Hands the streams of a connection to the node until it ends.
    fn serve(&mut self, peer: NodeId, connection: Connection) {
        self.served.insert(connection.stable_id(), (peer, connection.clone()));
        let events = self.config.events.clone();
        self.tasks.spawn(async move {
            let error = hand_over(peer, &connection, &events).await;
            Done::Closed(peer, connection.stable_id(), error)
        });
    }

    fn retire(&mut self, connection: Connection) {
        self.tasks.spawn(async move {
            tokio::time::sleep(RETIRE_GRACE).await;
            connection.close(close::REPLACED, b"replaced");
            Done::Over
        });
    }

    fn closed(&mut self, peer: NodeId, id: usize, error: &ConnectionError) {
        self.served.remove(&id);
        let Some(link) = self.config.links.remove(&peer, id) else { return };
        tracing::debug!(?peer, %error, "data link lost");
        let vanished = matches!(error, ConnectionError::TimedOut | ConnectionError::Reset);
        if vanished {
            // When the channel is full, the silence of the peer tells the same a little later.
            let _ = self.config.vanished.try_send(peer);
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            self.config.links.expect(peer);
            if link.since.elapsed() > REDIAL_MAX {
                *dial = Dial::Up { pause: REDIAL_MIN };
            }
        }
        self.pause(peer);
    }

    /// Lets the next dial of `peer` wait, each time longer.
    fn pause(&mut self, peer: NodeId) {
        let ours = self.config.self_id < peer;
        if self.config.links.is_up(&peer) {
            return;
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            let pause = dial.pause();
            let wait = if ours { pause } else { pause.max(DIAL_PATIENCE) };
            *dial = Dial::Waiting { due: Instant::now() + wait, pause: (pause * 2).min(REDIAL_MAX) };
        }
    }

    /// Brings the dials in line with what is wanted.
    fn reconcile(&mut self) {
        let wanted = self.config.wanted.borrow_and_update().clone();
        for (peer, connection) in self.served.values() {
            // A peer that connected before it was wanted here stays: its control connection is about to follow.
            if self.dials.contains_key(peer) && !wanted.contains_key(peer) {
                connection.close(close::UNWANTED, b"no longer wanted");
            }
        }
        self.dials.retain(|peer, _| {
            let stays = wanted.contains_key(peer);
            if !stays {
                self.config.links.forget(peer);
            }
            stays
        });
        let now = Instant::now();
        for peer in wanted.into_keys() {
            let up = self.config.links.is_up(&peer);
            if self.dials.contains_key(&peer) {
                continue;
            }
            let due = if self.config.self_id < peer { now } else { now + DIAL_PATIENCE };
            let dial = match up {
                true => Dial::Up { pause: REDIAL_MIN },
                false => Dial::Waiting { due, pause: REDIAL_MIN },
            };
            self.config.links.expect(peer);
            self.dials.insert(peer, dial);
        }
    }

    /// Closes what has no standing any more.
    fn cut(&mut self) {
        let now = unix_now_s();
        for (peer, connection) in self.served.values() {
            if let Err(refusal) = self.config.roster.standing(peer, now) {
                connection.close(close::NOT_LISTED, refusal.to_string().as_bytes());
            }
        }
    }

    fn next_dial(&self) -> Option<Instant> {
        let due = |dial: &Dial| if let Dial::Waiting { due, .. } = dial { Some(*due) } else { None };
        self.dials.values().filter_map(due).min()
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        let wanted = self.config.wanted.borrow();
        for (peer, dial) in &mut self.dials {
            let Dial::Waiting { due, pause } = *dial else { continue };
            let Some(addresses) = wanted.get(peer).filter(|_| due <= now) else { continue };
            if addresses.is_empty() {
                // Whoever dialled us has not said yet where it listens.
                *dial = Dial::Waiting { due: now + REDIAL_MIN, pause };
                continue;
            }
            *dial = Dial::Dialling { pause };
            let (peer, addresses, endpoint) = (*peer, addresses.clone(), self.endpoint.clone());
            let config = self.config.tls.dialler(peer, DATA_ALPN);
            self.tasks
                .spawn(async move { Done::Dialled(peer, connect_any(&endpoint, &config, &addresses).await) });
        }
    }
}

impl Dial {
    fn pause(&self) -> Duration {
        let (Self::Waiting { pause, .. } | Self::Dialling { pause } | Self::Up { pause }) = *self;
        pause
    }
}

async fn hand_over(
    peer: NodeId,
    connection: &Connection,
    events: &mpsc::Sender<MeshEvent>,
) -> ConnectionError {
    loop {
        let (send, recv) = match connection.accept_bi().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        tokio::select! {
            permit = events.reserve() => match permit {
                Ok(permit) => permit.send(MeshEvent::Incoming { peer, send, recv }),
                Err(_) => connection.close(close::STOPPED, b"stopped"),
            },
            error = connection.closed() => return error,
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
