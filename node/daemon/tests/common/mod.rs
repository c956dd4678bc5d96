//! Three nodes of one roster, known by their seeds.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use barn_mesh::{Listen, Mesh, MeshConfig, MeshEvent, NoInvitations, RosterCell, unix_now_s};
use barn_protocol::{
    Identity, TreePath,
    roster::{Capabilities, Member, Roster},
};
use tokio::sync::mpsc;

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

pub(crate) fn member(seed: u8) -> Member {
    Member { id: identity(seed).id(), name: format!("node-{seed}"), capabilities: Capabilities::OFFICE }
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

/// A cell with the roster of nodes 1, 2 and 3.
pub(crate) fn roster() -> RosterCell {
    let admin = identity(200);
    let roster = Roster::found(&admin, member(1), unix_now_s(), 3600);
    let roster = [2, 3].iter().fold(roster, |roster, seed| roster.with(member(*seed), unix_now_s()).unwrap());
    RosterCell::new(Some(roster.sign(&admin).unwrap()), |_| Ok(()))
}

pub(crate) async fn mesh(seed: u8, peers: &[SocketAddr]) -> (Mesh, mpsc::Receiver<MeshEvent>) {
    let config = MeshConfig {
        identity: identity(seed),
        listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0, fixed: false },
        peers: peers.to_vec(),
        mdns: false,
        admitter: Arc::new(NoInvitations),
    };
    Mesh::start(config, roster()).await.unwrap()
}
