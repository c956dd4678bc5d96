//! The libp2p swarm of the control plane: transport, protocols, limits.

use std::time::Duration;

use barn_protocol::{
    NodeId,
    limits::{ADVERT_BYTES_MAX, ROSTER_BYTES_MAX},
};
use libp2p::{
    PeerId, StreamProtocol, Swarm, Transport as _,
    connection_limits::{self, ConnectionLimits},
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode},
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore, store::MemoryStoreConfig},
    noise, swarm, tcp, yamux,
};

use crate::{
    admission::Admission,
    cell::RosterCell,
    limits::{
        CONTROL_CONNECTIONS_MAX, CONTROL_PENDING_IN_MAX, CONTROL_PENDING_OUT_MAX, CONTROL_PER_PEER_MAX,
        CONTROL_STREAMS_MAX, GOSSIP_OVERHEAD_BYTES, HANDSHAKE_TIMEOUT, KAD_QUERY_TIMEOUT, PROVIDED_KEYS_MAX,
        PROVIDERS_PER_KEY_MAX,
    },
};

/// Adverts of all members.
pub(super) const ADVERTS: &str = "adverts/1";
/// New rosters.
pub(super) const ROSTERS: &str = "rosters/1";

/// How often a provider record is published again, so that members that came later hold it too.
const PROVIDER_INTERVAL: Duration = Duration::from_secs(600);
/// How long a provider record is believed: three publications were missed.
const PROVIDER_TTL: Duration = Duration::from_secs(1800);
/// Connections are closed by membership, never for being idle.
const IDLE_CONNECTION: Duration = Duration::from_secs(365 * 24 * 3600);
/// Messages queued for one slow peer.
const GOSSIP_QUEUE_MAX: usize = 256;

/// Everything libp2p does for us.
#[derive(swarm::NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) gossip: gossipsub::Behaviour,
}

/// Why the swarm could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// The noise keys could not be made.
    #[error("the noise keys could not be made")]
    Noise(#[from] noise::Error),
    /// The gossip parameters contradict each other.
    #[error("gossip could not be set up: {0}")]
    Gossip(String),
}

/// A swarm that neither listens nor dials yet. Must run within the runtime.
pub(crate) fn swarm(keypair: &Keypair, roster: RosterCell) -> Result<Swarm<Behaviour>, SwarmError> {
    let local = keypair.public().to_peer_id();
    let transport = transport(Admission::new(keypair, roster)?);
    let identify = identify::Config::new("/barn/1".into(), keypair.public())
        .with_agent_version("barn".into())
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        identify: identify::Behaviour::new(identify),
        kad: kademlia(local),
        gossip: gossip(keypair)?,
    };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_CONNECTION);
    Ok(Swarm::new(transport, behaviour, local, config))
}

/// The provider key of a digest.
pub(super) fn provider_key(digest: &barn_protocol::Digest) -> kad::RecordKey {
    kad::RecordKey::new(digest.as_bytes())
}

/// The node that a gossiped message names as its author; the signature was checked.
pub(super) fn author(message: &gossipsub::Message) -> Option<NodeId> {
    crate::keys::node_id(message.source.as_ref()?)
}

fn transport(admission: Admission) -> Boxed<(PeerId, StreamMuxerBox)> {
    let mut streams = yamux::Config::default();
    streams.set_max_num_streams(CONTROL_STREAMS_MAX);
    tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1)
        .authenticate(admission)
        .multiplex(streams)
        .timeout(HANDSHAKE_TIMEOUT)
        .boxed()
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(CONTROL_PENDING_IN_MAX))
        .with_max_pending_outgoing(Some(CONTROL_PENDING_OUT_MAX))
        .with_max_established_per_peer(Some(CONTROL_PER_PEER_MAX))
        .with_max_established(Some(CONTROL_CONNECTIONS_MAX))
}

fn kademlia(local: PeerId) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: PROVIDERS_PER_KEY_MAX,
        max_provided_keys: PROVIDED_KEYS_MAX,
    };
    let mut config = kad::Config::new(StreamProtocol::new("/barn/kad/1"));
    config
        .set_query_timeout(KAD_QUERY_TIMEOUT)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_provider_publication_interval(Some(PROVIDER_INTERVAL))
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_periodic_bootstrap_interval(None);
    let store = MemoryStore::with_config(local, store);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    // In client mode, which is where libp2p begins without a public address, nobody would ask this node.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn gossip(keypair: &Keypair) -> Result<gossipsub::Behaviour, SwarmError> {
    let (adverts, rosters) = (IdentTopic::new(ADVERTS), IdentTopic::new(ROSTERS));
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix("/barn/gossip")
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(ROSTER_BYTES_MAX + GOSSIP_OVERHEAD_BYTES)
        .max_transmit_size_for_topic(ADVERT_BYTES_MAX + GOSSIP_OVERHEAD_BYTES, adverts.hash())
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        // Everybody is connected to everybody and publishes to all, so few need to pass things on.
        .flood_publish(true)
        .mesh_outbound_min(1)
        .mesh_n_low(2)
        .mesh_n(3)
        .mesh_n_high(5)
        .gossip_lazy(2)
        .build()
        .map_err(|error| SwarmError::Gossip(error.to_string()))?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config)
        .map_err(|error| SwarmError::Gossip(error.into()))?;
    for topic in [adverts, rosters] {
        gossip.subscribe(&topic).map_err(|error| SwarmError::Gossip(error.to_string()))?;
    }
    Ok(gossip)
}
