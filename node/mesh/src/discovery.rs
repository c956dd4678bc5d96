//! mDNS on a thread of its own.
//!
//! libp2p's mDNS behaviour is driven here by hand, in a small runtime of its own, for three reasons: its tasks end
//! only with their runtime; it remembers every stranger that announces itself, so it is begun anew when that becomes
//! too many; and a newcomer needs it without a swarm.

use std::{future::poll_fn, net::SocketAddr, task::Poll, time::Duration};

use barn_protocol::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    mdns,
    swarm::{FromSwarm, NetworkBehaviour, NewListenAddr, ToSwarm},
};
use tokio::sync::{mpsc, watch};

use crate::{
    keys,
    limits::{MDNS_QUERY_INTERVAL, MDNS_TTL},
};

/// Most peers remembered by mDNS before it is begun anew.
const REMEMBERED_MAX: usize = 4096;
/// Findings not yet taken.
const FOUND_MAX: usize = 64;
/// How long to wait after mDNS could not be begun.
const RETRY: Duration = Duration::from_secs(5);

/// Who announces itself, and where.
pub(crate) type Found = (NodeId, Vec<SocketAddr>);

/// Looks for nodes, and announces `peer` at the addresses in `listening`, until the receiver is dropped.
pub(crate) fn start(peer: PeerId, listening: watch::Receiver<Vec<SocketAddr>>) -> mpsc::Receiver<Found> {
    let (found, receiver) = mpsc::channel(FOUND_MAX);
    let body = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                () = found.closed() => {}
                () = run(peer, listening, &found) => {}
            }
        }),
        Err(error) => tracing::warn!(%error, "mDNS could not be started"),
    };
    if let Err(error) = std::thread::Builder::new().name("barn-mdns".into()).spawn(body) {
        tracing::warn!(%error, "mDNS could not be started");
    }
    receiver
}

async fn run(peer: PeerId, listening: watch::Receiver<Vec<SocketAddr>>, found: &mpsc::Sender<Found>) {
    loop {
        let config = mdns::Config { ttl: MDNS_TTL, query_interval: MDNS_QUERY_INTERVAL, enable_ipv6: false };
        match mdns::tokio::Behaviour::new(config, peer) {
            Ok(mdns) => look(mdns, listening.clone(), found).await,
            Err(error) => {
                tracing::warn!(%error, "mDNS could not be started");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns when the behaviour remembers too much.
async fn look(
    mut mdns: mdns::tokio::Behaviour,
    mut listening: watch::Receiver<Vec<SocketAddr>>,
    found: &mpsc::Sender<Found>,
) {
    let mut listener = Listening::default();
    listening.mark_changed();
    while mdns.discovered_nodes().len() < REMEMBERED_MAX {
        tokio::select! {
            Ok(()) = listening.changed() => listener.announce(&mut mdns, &listening.borrow_and_update()),
            discovered = discovered(&mut mdns) => for finding in discovered {
                if found.send(finding).await.is_err() {
                    return;
                }
            },
        }
    }
}

/// What the behaviour has been told of the swarm it believes to be part of.
#[derive(Default)]
struct Listening(Vec<(ListenerId, Multiaddr)>);

impl Listening {
    fn announce(&mut self, mdns: &mut mdns::tokio::Behaviour, addresses: &[SocketAddr]) {
        let addresses: Vec<Multiaddr> = addresses.iter().copied().map(keys::multiaddr).collect();
        self.0.retain(|(listener_id, addr)| {
            let stays = addresses.contains(addr);
            if !stays {
                let gone = libp2p::swarm::ExpiredListenAddr { listener_id: *listener_id, addr };
                mdns.on_swarm_event(FromSwarm::ExpiredListenAddr(gone));
            }
            stays
        });
        for addr in addresses {
            if !self.0.iter().any(|(_, known)| *known == addr) {
                let listener_id = ListenerId::next();
                mdns.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &addr }));
                self.0.push((listener_id, addr));
            }
        }
    }
}

async fn discovered(mdns: &mut mdns::tokio::Behaviour) -> Vec<Found> {
    let records = poll_fn(|cx| {
        loop {
            match NetworkBehaviour::poll(mdns, cx) {
                Poll::Ready(ToSwarm::GenerateEvent(mdns::Event::Discovered(records))) => {
                    return Poll::Ready(records);
                }
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    let mut found: Vec<Found> = Vec::new();
    for (peer, address) in records {
        let (Some(node), Some(address)) = (keys::node_id(&peer), keys::socket_addr(&address)) else {
            continue;
        };
        match found.iter_mut().find(|(id, _)| *id == node) {
            Some((_, addresses)) => addresses.push(address),
            None => found.push((node, vec![address])),
        }
    }
    found
}
