//! What the swarm tells: connections, addresses, providers, gossip. All of it comes from peers, so all of it is judged
//! here before anything is made of it.

use std::net::SocketAddr;

use barn_protocol::{NodeId, advert::Advert, identity::SignedBytes, membership::Event as Member, wire};
use libp2p::{
    PeerId,
    core::ConnectedPoint,
    gossipsub::{self, IdentTopic, MessageAcceptance},
    identify,
    kad::{self, GetClosestPeersError, GetClosestPeersOk, PeerInfo, QueryResult},
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use tokio::time::Instant;

use super::{
    Control, Dialled, Peer,
    behaviour::{BehaviourEvent, ROSTERS, author},
    gossip::Pulse,
};
use crate::{MeshEvent, clock::unix_now_s, keys, limits::PEER_ADDRESSES_MAX};

/// What the swarm tells.
impl Control {
    pub(super) fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(&peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "control connection closed");
                if let Some(peer) = keys::node_id(&peer_id) {
                    self.disconnected(peer, connection_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(error = reason(&error), "dial failed");
                if let Some(what) = self.dials.remove(&connection_id) {
                    self.dial_failed(what);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "refused");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                let listening = self.config.swarm.listeners().filter_map(keys::socket_addr).collect();
                self.config.shared.set_listening(listening);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listening failed"),
            _ => {}
        }
    }

    fn connected(&mut self, peer_id: &PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let dialled = self.dials.remove(&connection);
        let node = keys::node_id(peer_id);
        let (Some(peer), Some(remote)) = (node, keys::socket_addr(endpoint.get_remote_address())) else {
            self.config.swarm.close_connection(connection);
            return;
        };
        // The roster may have changed since the handshake.
        if let Err(refusal) = self.config.shared.roster.standing(&peer, unix_now_s()) {
            tracing::debug!(?peer, %refusal, "cut");
            self.config.swarm.close_connection(connection);
            return;
        }
        if let Some(Dialled::Static(address)) = dialled {
            self.statics.found(address, peer);
        }
        let outbound = endpoint.is_dialer();
        self.open.entry(peer).or_default().insert(connection);
        let address = outbound.then_some(remote);
        let known = self.peers.entry(peer).or_insert(Peer { remote, address, heard: Instant::now() });
        (known.remote, known.address) = (remote, address.or(known.address));
        self.tell(Member::Connected { peer, address: remote, outbound });
    }

    fn disconnected(&mut self, peer: NodeId, connection: ConnectionId) {
        let Some(connections) = self.open.get_mut(&peer) else { return };
        if connections.remove(&connection) && connections.is_empty() {
            self.drop_peer(peer, "its last connection closed");
        }
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.identified(&peer_id, &info);
            }
            BehaviourEvent::Kad(event) => self.kad_event(event),
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let acceptance = self.gossiped(&message);
                self.config.swarm.behaviour_mut().gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    acceptance,
                );
            }
            BehaviourEvent::Gossip(gossipsub::Event::Subscribed { .. }) => self.adverts.want(),
            _ => {}
        }
    }

    /// A peer says where it listens; where it is seen to come from counts most.
    fn identified(&mut self, peer_id: &PeerId, info: &identify::Info) {
        let Some(peer) = keys::node_id(peer_id) else { return };
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let said: Vec<SocketAddr> =
            info.listen_addrs.iter().filter_map(keys::socket_addr).take(2 * PEER_ADDRESSES_MAX).collect();
        let Some(first) = said.first() else { return };
        let seen = SocketAddr::new(known.remote.ip(), first.port());
        known.address.get_or_insert(seen);
        let local = known.remote.ip().is_loopback();
        let mut addresses = vec![seen];
        addresses.extend(said.into_iter().filter(|a| a.ip().is_loopback() == local && *a != seen));
        addresses.truncate(PEER_ADDRESSES_MAX);
        if let Some(entry) = self.config.shared.peers().get_mut(&peer) {
            entry.address = known.address;
        }
        self.tell(Member::Discovered { peer, addresses });
        if self.config.shared.peers().contains_key(&peer) {
            self.located(peer);
        }
    }

    fn kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: kad::InboundRequest::AddProvider { record: Some(record) },
            } => {
                let member = keys::node_id(&record.provider)
                    .is_some_and(|node| self.config.shared.roster.standing(&node, unix_now_s()).is_ok());
                if member {
                    self.providers.remember(&mut self.config.swarm.behaviour_mut().kad, record);
                }
            }
            kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::GetProviders(found),
                step,
                ..
            } => {
                let roster = &self.config.shared.roster;
                let (myself, now) = (self.config.shared.self_id, unix_now_s());
                let is_member = |node: &NodeId| *node != myself && roster.standing(node, now).is_ok();
                let kad = &mut self.config.swarm.behaviour_mut().kad;
                self.providers.progressed(kad, id, found.ok(), step.last, is_member);
            }
            kad::Event::OutboundQueryProgressed { result: QueryResult::GetClosestPeers(found), .. } => {
                let (Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. })) =
                    found;
                peers.into_iter().for_each(|peer| self.routed(peer));
            }
            _ => {}
        }
    }

    fn routed(&mut self, info: PeerInfo) {
        let Some(peer) = keys::node_id(&info.peer_id) else { return };
        let addresses: Vec<SocketAddr> =
            info.addrs.iter().filter_map(keys::socket_addr).take(PEER_ADDRESSES_MAX).collect();
        if !addresses.is_empty() {
            self.tell(Member::Discovered { peer, addresses });
        }
    }

    /// Judges a gossiped message; only members' messages are passed on.
    fn gossiped(&mut self, message: &gossipsub::Message) -> MessageAcceptance {
        let Some(author) = author(message) else { return MessageAcceptance::Reject };
        if self.config.shared.roster.standing(&author, unix_now_s()).is_err() {
            // Perhaps it is on a newer roster than ours, so it is no reason to think badly of who passed it on.
            return MessageAcceptance::Ignore;
        }
        if message.topic == IdentTopic::new(ROSTERS).hash() {
            return self.roster_gossiped(&message.data);
        }
        match Pulse::decode(&message.data) {
            Some((epoch, advert)) => {
                self.heard(author, epoch, advert);
                MessageAcceptance::Accept
            }
            None => MessageAcceptance::Reject,
        }
    }

    fn roster_gossiped(&mut self, bytes: &[u8]) -> MessageAcceptance {
        let Ok(offered) = wire::decode::<SignedBytes>(bytes) else { return MessageAcceptance::Reject };
        match self.config.shared.roster.offer(offered, unix_now_s()) {
            Ok(_) => MessageAcceptance::Accept,
            // Most often it is only not news.
            Err(_) => MessageAcceptance::Ignore,
        }
    }

    fn heard(&mut self, peer: NodeId, epoch: u64, advert: Option<Advert>) {
        if epoch < self.config.shared.roster.epoch() {
            self.rosters.want();
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.heard = Instant::now();
        let Some(advert) = advert else { return };
        let news = match self.config.shared.peers().get_mut(&peer) {
            Some(entry) if entry.advert.as_ref().is_none_or(|old| advert.is_newer_than(old)) => {
                entry.advert = Some(advert.clone());
                true
            }
            _ => false,
        };
        if news {
            self.post(MeshEvent::Advert(peer, advert));
        }
    }
}

/// A dial error in one line; libp2p's own text has several.
fn reason(error: &DialError) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}
