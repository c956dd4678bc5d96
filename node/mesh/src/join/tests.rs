//! Joining, against a real inviter.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
};

use barn_protocol::{
    Digest, invite,
    roster::{Capabilities, Member, Roster},
};
use tokio::sync::mpsc;

use super::*;
use crate::{Listen, Mesh, MeshConfig, MeshEvent, RosterCell};

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn admin() -> Identity {
    identity(200)
}

fn member(id: NodeId, name: &str) -> Member {
    Member { id, name: name.into(), capabilities: Capabilities::OFFICE }
}

/// What the node does with its admin key, in little.
struct Desk {
    cell: RosterCell,
    open: Mutex<Vec<Digest>>,
    seen: Mutex<Vec<JoinRequest>>,
}

impl Admitter for Desk {
    fn open(&self) -> bool {
        !self.open.lock().unwrap().is_empty()
    }

    fn admit(&self, peer: NodeId, request: &JoinRequest, exported: &[u8; 32]) -> JoinReply {
        self.seen.lock().unwrap().push(request.clone());
        let mut open = self.open.lock().unwrap();
        let Some(place) = open.iter().position(|id| invite::proof(id, exported) == request.proof) else {
            return JoinReply::NoSuchInvite;
        };
        let current = self.cell.current().unwrap();
        let name = current.roster().free_name(&request.name, &peer);
        let next = current.roster().with(member(peer, &name), unix_now_s()).unwrap().sign(&admin()).unwrap();
        self.cell.offer(next.bytes().clone(), unix_now_s()).unwrap();
        open.remove(place);
        JoinReply::Admitted(next.bytes().clone())
    }
}

struct Scene {
    mesh: Mesh,
    desk: Arc<Desk>,
    _events: mpsc::Receiver<MeshEvent>,
}

impl Scene {
    async fn new() -> Self {
        let roster = Roster::found(&admin(), member(identity(1).id(), "one"), unix_now_s(), 3600);
        let cell = RosterCell::new(Some(roster.sign(&admin()).unwrap()), |_| Ok(()));
        let desk = Arc::new(Desk { cell: cell.clone(), open: Mutex::default(), seen: Mutex::default() });
        let config = MeshConfig {
            identity: identity(1),
            listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0, fixed: false },
            peers: vec![],
            mdns: false,
            admitter: desk.clone(),
        };
        let (mesh, events) = Mesh::start(config, cell).await.unwrap();
        Self { mesh, desk, _events: events }
    }

    fn invite(&self, secret: u8) -> Invite {
        let invite = Invite {
            mesh: admin().id(),
            inviter: identity(1).id(),
            // The first one answers nothing.
            addresses: vec!["127.0.0.1:9".parse().unwrap(), self.mesh.listen_addresses()[0]],
            secret: [secret; 16],
        };
        self.desk.open.lock().unwrap().push(invite.id());
        invite
    }

    /// Joins by hand with this proof, and says what the inviter replies.
    async fn join_with(&self, seed: u8, proof: [u8; 32]) -> JoinReply {
        let local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let endpoint = endpoint(bind_udp(local, 0).unwrap()).unwrap();
        let config = Tls::new(&identity(seed)).dialler(identity(1).id(), JOIN_ALPN);
        let connection = connect_any(&endpoint, &config, &self.mesh.listen_addresses()).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        write_frame(&mut send, &JoinRequest { name: "x".into(), proof }).await.unwrap();
        wire::decode(&read_body(&mut recv, JOIN_FRAME_BYTES_MAX).await.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_joins_once() {
    let scene = Scene::new().await;
    let invite = scene.invite(1);
    let roster = join(&invite, &identity(2), "My Laptop").await.unwrap();
    assert_eq!(roster.roster().member(&identity(2).id()).unwrap().name, "my-laptop");
    assert_eq!(scene.desk.cell.epoch(), 2);
    let again = join(&invite, &identity(3), "other").await;
    assert!(matches!(again, Err(JoinError::NoSuchInvite)), "{again:?}");
    scene.invite(2);
    let again = join(&invite, &identity(3), "other").await;
    assert!(matches!(again, Err(JoinError::NoSuchInvite)), "used, while another is open: {again:?}");
    assert_eq!(scene.desk.cell.epoch(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_becomes_a_peer() {
    let scene = Scene::new().await;
    let roster = join(&scene.invite(1), &identity(2), "two").await.unwrap();
    let config = MeshConfig {
        identity: identity(2),
        listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0, fixed: false },
        peers: scene.mesh.listen_addresses(),
        mdns: false,
        admitter: Arc::new(NoInvitations),
    };
    let (two, mut events) = Mesh::start(config, RosterCell::new(Some(roster), |_| Ok(()))).await.unwrap();
    let up = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let MeshEvent::PeerUp(peer) = events.recv().await.unwrap() {
                break peer;
            }
        }
    });
    assert_eq!(up.await.unwrap(), identity(1).id());
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_replayed_proofs_are_refused() {
    let scene = Scene::new().await;
    let mut wrong = scene.invite(1);
    wrong.secret = [9; 16];
    let refused = join(&wrong, &identity(2), "two").await;
    assert!(matches!(refused, Err(JoinError::NoSuchInvite)), "{refused:?}");
    let right = scene.invite(2);
    let listened_in = {
        join(&right, &identity(2), "two").await.unwrap();
        scene.desk.seen.lock().unwrap().last().unwrap().proof
    };
    scene.desk.open.lock().unwrap().push(right.id());
    assert_eq!(scene.join_with(3, listened_in).await, JoinReply::NoSuchInvite);
    assert_eq!(scene.join_with(3, [0; 32]).await, JoinReply::NoSuchInvite);
    assert_eq!(scene.desk.cell.epoch(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_at_the_address_is_not_the_inviter() {
    let scene = Scene::new().await;
    let mut invite = scene.invite(1);
    invite.inviter = identity(7).id();
    let attempt = tokio::time::timeout(Duration::from_secs(4), join(&invite, &identity(2), "two")).await;
    assert!(attempt.is_err(), "it goes on looking: {attempt:?}");
    assert!(scene.desk.seen.lock().unwrap().is_empty());
}
