//! QUIC as strangers and impostors see it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use barn_protocol::{
    Identity,
    roster::{Capabilities, Member, Roster},
};
use quinn::Endpoint;

use super::*;
use crate::{Listen, Mesh, MeshConfig, join::NoInvitations};

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn member(seed: u8) -> Member {
    Member { id: identity(seed).id(), name: format!("n{seed}"), capabilities: Capabilities::OFFICE }
}

struct Open;

impl Admitter for Open {
    fn open(&self) -> bool {
        true
    }

    fn admit(
        &self,
        _: NodeId,
        _: &barn_protocol::invite::JoinRequest,
        _: &[u8; 32],
    ) -> barn_protocol::invite::JoinReply {
        barn_protocol::invite::JoinReply::NoSuchInvite
    }
}

/// Node 1 of a mesh of nodes 1 and 2, and a bare endpoint to attack it from.
async fn scene(admitter: Arc<dyn Admitter>) -> (Mesh, mpsc::Receiver<MeshEvent>, SocketAddr, Endpoint) {
    let admin = identity(200);
    let roster = Roster::found(&admin, member(1), unix_now_s(), 3600).with(member(2), unix_now_s()).unwrap();
    let cell = RosterCell::new(Some(roster.sign(&admin).unwrap()), |_| Ok(()));
    let local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let listen = Listen { ip: local, port: 0, fixed: false };
    let config = MeshConfig { identity: identity(1), listen, peers: vec![], mdns: false, admitter };
    let (mesh, events) = Mesh::start(config, cell).await.unwrap();
    let address = mesh.listen_addresses()[0];
    (mesh, events, address, endpoint(bind_udp(local, 0).unwrap()).unwrap())
}

/// Dials node 1 as `who` and tries to get an answer on a stream; says why that failed, if it did.
async fn try_stream(
    attacker: &Endpoint,
    address: SocketAddr,
    who: &Identity,
    expected: NodeId,
    alpn: &[u8],
) -> Result<(), ConnectionError> {
    let config = Tls::new(who).dialler(expected, alpn);
    let connection = attacker.connect_with(config, address, "barn").unwrap().await?;
    let (mut send, _recv) = connection.open_bi().await?;
    let _ = send.write_all(b"hello").await;
    match tokio::time::timeout(Duration::from_secs(1), connection.closed()).await {
        Ok(error) => Err(error),
        Err(_) => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_get_in_and_strangers_do_not() {
    let (mesh, mut events, address, attacker) = scene(Arc::new(NoInvitations)).await;
    let target = identity(1).id();
    try_stream(&attacker, address, &identity(2), target, DATA_ALPN).await.unwrap();
    let event = events.recv().await.unwrap();
    assert!(matches!(event, MeshEvent::Incoming { peer, .. } if peer == identity(2).id()), "{event:?}");
    for alpn in [DATA_ALPN, JOIN_ALPN, b"h3"] {
        let refused = try_stream(&attacker, address, &identity(9), target, alpn).await.unwrap_err();
        assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{alpn:?}: {refused:?}");
    }
    assert!(events.try_recv().is_err(), "nothing of a stranger reaches the node");
    mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_invitation_opens_the_join_protocol_only() {
    let (mesh, mut events, address, attacker) = scene(Arc::new(Open)).await;
    let refused =
        try_stream(&attacker, address, &identity(9), identity(1).id(), DATA_ALPN).await.unwrap_err();
    let ConnectionError::ApplicationClosed(closed) = refused else { panic!("{refused:?}") };
    assert_eq!(closed.error_code, close::NOT_LISTED);
    assert!(events.try_recv().is_err());
    mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_dialled_one_is_refused() {
    let (mesh, _events, address, attacker) = scene(Arc::new(NoInvitations)).await;
    let refused =
        try_stream(&attacker, address, &identity(2), identity(3).id(), DATA_ALPN).await.unwrap_err();
    assert!(matches!(refused, ConnectionError::TransportError(_)), "{refused:?}");
    mesh.shutdown().await;
}
