//! Real meshes on loopback.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barn_mesh::{Listen, Mesh, MeshConfig, MeshEvent, NoInvitations, RosterCell, unix_now_s};
use barn_protocol::{
    Identity, NodeId,
    advert::Advert,
    roster::{Capabilities, Member, Roster, SignedRoster},
};

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

pub(crate) fn admin() -> Identity {
    identity(200)
}

pub(crate) fn member(seed: u8) -> Member {
    Member { id: identity(seed).id(), name: format!("node-{seed}"), capabilities: Capabilities::OFFICE }
}

/// The first roster that lists all of `seeds`; its epoch is their number.
pub(crate) fn roster(seeds: &[u8]) -> Roster {
    let mut roster = Roster::found(&admin(), member(seeds[0]), unix_now_s(), 3600);
    for seed in &seeds[1..] {
        roster = roster.with(member(*seed), unix_now_s()).unwrap();
    }
    roster
}

pub(crate) fn sign(roster: &Roster) -> SignedRoster {
    roster.clone().sign(&admin()).unwrap()
}

pub(crate) fn advert(sequence: u64, free: u32) -> Advert {
    Advert {
        sequence,
        started_unix_s: 1,
        version: "0.0.0".into(),
        machine: "x86_64".into(),
        cores: 8,
        slots: 8,
        free,
        queued: 0,
        queue_max: 8,
        toolchains: vec![],
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) mesh: Mesh,
    pub(crate) cell: RosterCell,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node that echoes what is sent to it.
    pub(crate) async fn start(seed: u8, roster: Option<&Roster>, peers: &[SocketAddr]) -> Self {
        let (node, mut events) = Self::start_raw(seed, roster, peers).await;
        let log = node.log.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let line = match event {
                    MeshEvent::PeerUp(peer) => format!("up {peer:?}"),
                    MeshEvent::PeerDown(peer) => format!("down {peer:?}"),
                    MeshEvent::Advert(peer, advert) => format!("advert {peer:?} {}", advert.free),
                    MeshEvent::RosterChanged => "roster".into(),
                    MeshEvent::Incoming { peer, mut send, mut recv } => {
                        tokio::spawn(async move {
                            if tokio::io::copy(&mut recv, &mut send).await.is_ok() {
                                let _ = send.finish();
                                let _ = send.stopped().await;
                            }
                        });
                        format!("stream {peer:?}")
                    }
                };
                log.lock().unwrap().push(line);
            }
        });
        node
    }

    pub(crate) async fn start_raw(
        seed: u8,
        roster: Option<&Roster>,
        peers: &[SocketAddr],
    ) -> (Self, tokio::sync::mpsc::Receiver<MeshEvent>) {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("BARN_LOG"))
            .with_test_writer()
            .try_init();
        let cell = RosterCell::new(roster.map(sign), |_| Ok(()));
        let config = MeshConfig {
            identity: identity(seed),
            listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0, fixed: false },
            peers: peers.to_vec(),
            mdns: false,
            admitter: Arc::new(NoInvitations),
        };
        let (mesh, events) = Mesh::start(config, cell.clone()).await.unwrap();
        (Self { id: identity(seed).id(), mesh, cell, log: Arc::default() }, events)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.mesh.listen_addresses()[0]
    }

    pub(crate) fn sees(&self, other: &NodeId) -> bool {
        self.mesh.peers().iter().any(|peer| peer.id == *other && peer.connected)
    }

    pub(crate) fn advert_of(&self, other: &NodeId) -> Option<Advert> {
        self.mesh.peers().into_iter().find(|peer| peer.id == *other)?.advert
    }

    pub(crate) fn logged(&self, line: &str) -> bool {
        self.log.lock().unwrap().iter().any(|l| l == line)
    }

    /// Sends `bytes` on a new stream and returns what comes back.
    pub(crate) async fn echo(
        &self,
        peer: NodeId,
        bytes: &[u8],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let (mut send, mut recv) = self.mesh.open(peer).await?;
        send.write_all(bytes).await?;
        send.finish()?;
        Ok(recv.read_to_end(1 << 20).await?)
    }
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub(crate) async fn eventually(limit: Duration, what: &str, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

pub(crate) const SOON: Duration = Duration::from_secs(10);
