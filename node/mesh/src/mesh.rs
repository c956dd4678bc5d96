//! The handle by which the rest of the node uses the mesh.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use barn_protocol::{Digest, Identity, NodeId, advert::Advert};
use futures::StreamExt;
use libp2p::{Swarm, identity::Keypair};
use quinn::{Endpoint, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    RosterCell,
    control::{Behaviour, Control, ControlConfig, Search, SwarmError, swarm},
    data::{DataConfig, DataPlane, OpenError, Tls, Wanted, bind_udp, endpoint},
    discovery,
    join::Admitter,
    keys,
    limits::{COMMANDS_MAX, DEFAULT_PORT, EVENTS_MAX, PORTS_TRIED_MAX, PROVIDERS_TIMEOUT},
    packing::{Cpu, Packing, UNKNOWN_LINE_BYTES_PER_S},
    shared::Shared,
};

/// How often an ephemeral port is drawn whose TCP half turns out to be taken.
const EPHEMERAL_TRIES: usize = 8;
/// How long a start waits to learn the addresses it listens at.
const LISTENING_WAIT: Duration = Duration::from_millis(500);
/// How long after a failure a node that got its first roster tries to listen again.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// Longest a shutdown takes.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address; `None` means all, IPv4 and IPv6.
    pub ip: Option<IpAddr>,
    /// The port, for TCP and UDP; 0 draws a free one.
    pub port: u16,
    /// Whether it must be this port, because the user said so. Otherwise the next free one is taken.
    pub fixed: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self { ip: None, port: DEFAULT_PORT, fixed: false }
    }
}

/// What a mesh needs to start.
pub struct MeshConfig {
    /// The node's key.
    pub identity: Identity,
    /// Where to listen.
    pub listen: Listen,
    /// Addresses of peers, for networks without multicast.
    pub peers: Vec<SocketAddr>,
    /// Whether to announce this node and look for others by mDNS.
    pub mdns: bool,
    /// Who judges newcomers.
    pub admitter: Arc<dyn Admitter>,
}

/// Why a mesh could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port (or all of the ports tried) is taken or not allowed.
    #[error("cannot listen on port {port}")]
    Port {
        /// The port; the last one, if several were tried.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The protocols could not be set up.
    #[error("the control plane could not be set up")]
    Swarm(#[from] SwarmError),
    /// The UDP socket could not be given to QUIC.
    #[error("the data plane could not be set up")]
    Endpoint(#[source] io::Error),
}

/// What happens in the mesh.
#[derive(Debug)]
pub enum MeshEvent {
    /// A member is connected.
    PeerUp(NodeId),
    /// It no longer is. Its data link is closed.
    PeerDown(NodeId),
    /// A connected member has a new offer.
    Advert(NodeId, Advert),
    /// The roster in force is another one.
    RosterChanged,
    /// A member opened a stream.
    Incoming {
        /// Who.
        peer: NodeId,
        /// For answers; dropping it unfinished resets it.
        send: SendStream,
        /// The request.
        recv: RecvStream,
    },
}

/// A member of the mesh as this node sees it.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Its key.
    pub id: NodeId,
    /// Its name on the roster.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Where it was reached or can be dialled.
    pub address: Option<SocketAddr>,
    /// Round-trip time of the data link.
    pub rtt: Option<Duration>,
    /// Its newest offer, while connected.
    pub advert: Option<Advert>,
}

/// A running mesh; clones are handles to the same one. It runs until [`Mesh::shutdown`], or until the receiver of its
/// events is dropped.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
    searches: mpsc::Sender<Search>,
    done: watch::Receiver<bool>,
}

/// The parts the loops need, kept until there is a roster.
struct Parts {
    identity: Identity,
    listen: Listen,
    mdns: bool,
    admitter: Arc<dyn Admitter>,
    shared: Arc<Shared>,
    searches: mpsc::Receiver<Search>,
    events: mpsc::Sender<MeshEvent>,
}

/// Sockets of both planes on one port.
struct Bound {
    swarm: Swarm<Behaviour>,
    endpoint: Endpoint,
}

impl Mesh {
    /// Starts the mesh. With a roster in the cell it listens when this returns; without one it listens nowhere until
    /// the cell gets one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When it cannot listen. A failure after a first roster came later is only logged and tried again.
    pub async fn start(
        config: MeshConfig,
        roster: RosterCell,
    ) -> Result<(Self, mpsc::Receiver<MeshEvent>), StartError> {
        let MeshConfig { identity, listen, peers, mdns, admitter } = config;
        let shared = Arc::new(Shared::new(identity.id(), roster, peers));
        let (searches, searches_in) = mpsc::channel(COMMANDS_MAX);
        let (events, events_out) = mpsc::channel(EVENTS_MAX);
        let parts =
            Parts { identity, listen, mdns, admitter, shared: shared.clone(), searches: searches_in, events };
        let bound = match shared.roster.current() {
            Some(_) => Some(parts.bind().await?),
            None => None,
        };
        let (finished, done) = watch::channel(false);
        tokio::spawn(async move {
            parts.run(bound).await;
            finished.send_replace(true);
        });
        Ok((Self { shared, searches, done }, events_out))
    }

    /// This node's offer from now on. Told at once if it surprises and the last one was told a quarter of a second ago or
    /// earlier, else within two seconds, and again every few seconds.
    pub fn set_advert(&self, advert: Advert) {
        self.shared.intent.send_modify(|intent| intent.advert = Some(advert));
    }

    /// All other members on the roster, connected or not, in the order of the roster.
    pub fn peers(&self) -> Vec<PeerView> {
        let Some(roster) = self.shared.roster.current() else { return Vec::new() };
        let up = self.shared.peers().clone();
        let others = roster.roster().members.iter().filter(|member| member.id != self.shared.self_id);
        others
            .map(|member| {
                let entry = up.get(&member.id);
                PeerView {
                    id: member.id,
                    name: member.name.clone(),
                    connected: entry.is_some(),
                    address: entry
                        .and_then(|entry| entry.address)
                        .or_else(|| self.shared.links.address(&member.id)),
                    rtt: self.shared.links.rtt(&member.id),
                    advert: entry.and_then(|entry| entry.advert.clone()),
                }
            })
            .collect()
    }

    /// Opens a stream to a connected peer. Dropping the sender unfinished resets the stream.
    ///
    /// # Errors
    /// When there is no link to the peer and none comes up, or the peer takes no more streams, both within
    /// [`crate::limits::OPEN_TIMEOUT`]. A link that has been missing for that long is not waited for.
    pub async fn open(&self, peer: NodeId) -> Result<(SendStream, RecvStream), OpenError> {
        self.shared.links.open(peer).await
    }

    /// How a blob of `size` bytes is best sent to `peer`, by what its line seems to carry.
    pub fn packing(&self, peer: &NodeId, size: u64, cpu: Cpu) -> Packing {
        let line = self.shared.links.line_bytes_per_s(peer).unwrap_or(UNKNOWN_LINE_BYTES_PER_S);
        Packing::choose(size, line, cpu)
    }

    /// Bytes sent to and received from `peer` on the data link as it stands, datagrams and all; `None` without one.
    pub fn traffic(&self, peer: &NodeId) -> Option<(u64, u64)> {
        self.shared.links.traffic(peer)
    }

    /// Tells the mesh that this node has the blobs of this toolchain.
    pub fn provide(&self, digest: Digest) {
        self.shared.intent.send_if_modified(|intent| intent.provided.insert(digest));
    }

    /// Takes [`Mesh::provide`] back; others forget within half an hour.
    pub fn stop_providing(&self, digest: &Digest) {
        self.shared.intent.send_if_modified(|intent| intent.provided.remove(digest));
    }

    /// Which other members say that they have this toolchain; a few of them, within
    /// [`crate::limits::PROVIDERS_TIMEOUT`].
    pub async fn providers(&self, digest: Digest) -> Vec<NodeId> {
        if self.shared.roster.current().is_none() {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        let search = async {
            self.searches.send(Search { digest, reply }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(2 * PROVIDERS_TIMEOUT, search).await.ok().flatten().unwrap_or_default()
    }

    /// Where this node listens; nowhere without a roster.
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        self.shared.listening.borrow().clone()
    }

    /// Dials this address until a member is found there.
    pub fn add_peer_address(&self, address: SocketAddr) {
        self.shared.intent.send_if_modified(|intent| {
            let news =
                !intent.peers.contains(&address) && intent.peers.len() < crate::limits::STATIC_PEERS_MAX;
            if news {
                intent.peers.push(address);
            }
            news
        });
    }

    /// Stops the mesh: says goodbye, closes everything, and returns when that is done, within seconds.
    pub async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let mut done = self.done.clone();
        let _ = tokio::time::timeout(SHUTDOWN_WAIT, done.wait_for(|done| *done)).await;
    }
}

impl Parts {
    async fn run(self, bound: Option<Bound>) {
        let mut stop = self.shared.stop.subscribe();
        let late = bound.is_none();
        let bound = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            bound = self.bound(bound) => bound,
        };
        if late {
            let _ = self.events.send(MeshEvent::RosterChanged).await;
        }
        let Bound { swarm, endpoint } = bound;
        let (wanted, wanted_in) = watch::channel(Wanted::new());
        let (vanished, vanished_in) = mpsc::channel(COMMANDS_MAX);
        let data = DataConfig {
            self_id: self.shared.self_id,
            tls: Arc::new(Tls::new(&self.identity)),
            roster: self.shared.roster.clone(),
            admitter: self.admitter,
            links: self.shared.links.clone(),
            wanted: wanted_in,
            events: self.events.clone(),
            vanished,
            stop,
        };
        let data = tokio::spawn(DataPlane::new(data, endpoint).run());
        let discovery =
            self.mdns.then(|| discovery::start(*swarm.local_peer_id(), self.shared.listening.subscribe()));
        let control = Control::new(ControlConfig {
            shared: self.shared.clone(),
            swarm,
            searches: self.searches,
            events: self.events,
            wanted,
            vanished: vanished_in,
            discovery,
        });
        control.run().await;
        let _ = data.await;
        self.shared.peers().clear();
        self.shared.set_listening(Vec::new());
    }

    /// The sockets, as soon as there is a roster and they can be had.
    async fn bound(&self, bound: Option<Bound>) -> Bound {
        if let Some(bound) = bound {
            return bound;
        }
        let mut roster = self.shared.roster.subscribe();
        let _ = roster.wait_for(Option::is_some).await;
        loop {
            match self.bind().await {
                Ok(bound) => return bound,
                Err(error) => tracing::error!(%error, "the mesh is not reachable"),
            }
            tokio::time::sleep(BIND_RETRY).await;
        }
    }

    /// Binds TCP and UDP on the same port, and waits a moment to learn at which addresses that is. UDP goes first: it
    /// shares a port with nobody, while two listeners of one user can share a TCP port.
    async fn bind(&self) -> Result<Bound, StartError> {
        let mut swarm = swarm(&self.keypair(), self.shared.roster.clone())?;
        let mut failure = None;
        for port in self.listen.candidates() {
            match bind_both(&mut swarm, self.listen.ip, port) {
                Ok(socket) => {
                    let endpoint = endpoint(socket).map_err(StartError::Endpoint)?;
                    let learn = tokio::time::timeout(LISTENING_WAIT, learn_addresses(&mut swarm));
                    self.shared.set_listening(learn.await.unwrap_or_default());
                    return Ok(Bound { swarm, endpoint });
                }
                Err(source) => failure = Some(StartError::Port { port, source }),
            }
        }
        Err(failure.expect("there is at least one candidate"))
    }

    fn keypair(&self) -> Keypair {
        keys::keypair(&self.identity)
    }
}

impl Listen {
    fn candidates(self) -> Vec<u16> {
        match self {
            Self { port: 0, .. } => vec![0; EPHEMERAL_TRIES],
            Self { port, fixed: true, .. } => vec![port],
            Self { port, .. } => (port..=port.saturating_add(PORTS_TRIED_MAX)).collect(),
        }
    }
}

fn bind_both(swarm: &mut Swarm<Behaviour>, ip: Option<IpAddr>, port: u16) -> io::Result<UdpSocket> {
    let socket = bind_udp(ip, port)?;
    let port = socket.local_addr()?.port();
    let listen = |swarm: &mut Swarm<Behaviour>, ip: IpAddr| {
        swarm.listen_on(keys::multiaddr(SocketAddr::new(ip, port))).map_err(io::Error::other)
    };
    match ip {
        Some(ip) => listen(swarm, ip)?,
        None => {
            let listener = listen(swarm, Ipv4Addr::UNSPECIFIED.into())?;
            if let Err(error) = listen(swarm, Ipv6Addr::UNSPECIFIED.into()) {
                tracing::debug!(%error, "no IPv6");
            }
            listener
        }
    };
    Ok(socket)
}

/// Drives the swarm until it knows an address, and then for as long as it knows more at once.
async fn learn_addresses(swarm: &mut Swarm<Behaviour>) -> Vec<SocketAddr> {
    while swarm.listeners().next().is_none() {
        swarm.select_next_some().await;
    }
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(20), swarm.next()).await {}
    swarm.listeners().filter_map(keys::socket_addr).collect()
}
