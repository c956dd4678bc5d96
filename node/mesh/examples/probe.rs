use barn_mesh::*;
use barn_protocol::{Identity, NodeId, invite::*, roster::*};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}
struct Yes(RosterCell);
impl Admitter for Yes {
    fn open(&self) -> bool {
        true
    }
    fn admit(&self, peer: NodeId, r: &JoinRequest, e: &[u8; 32]) -> JoinReply {
        if proof(&secret_id(&[5; 16]), e) != r.proof {
            return JoinReply::NoSuchInvite;
        }
        let c = self.0.current().unwrap();
        let m = Member {
            id: peer,
            name: c.roster().free_name(&r.name, &peer),
            capabilities: Capabilities::OFFICE,
        };
        let n = c.roster().with(m, unix_now_s()).unwrap().sign(&identity(200)).unwrap();
        self.0.offer(n.bytes().clone(), unix_now_s()).unwrap();
        JoinReply::Admitted(n.bytes().clone())
    }
}
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_env("BARN_LOG")).init();
    let args: Vec<String> = std::env::args().collect();
    let seed: u8 = args[1].parse().unwrap();
    let t = Instant::now();
    let roster = if args[2] == "join" {
        let invite = Invite {
            mesh: identity(200).id(),
            inviter: identity(1).id(),
            addresses: args[3..].iter().map(|a| a.parse().unwrap()).collect(),
            secret: [5; 16],
        };
        let r = join(&invite, &identity(seed), "new").await;
        println!("{:?} join {:?}", t.elapsed(), r.as_ref().map(|r| r.roster().epoch));
        r.unwrap()
    } else {
        let n: u8 = args[2].parse().unwrap();
        let m = |s: u8| Member {
            id: identity(s).id(),
            name: format!("n{s}"),
            capabilities: Capabilities::OFFICE,
        };
        let mut r = Roster::found(&identity(200), m(1), 1_700_000_000, 3_000_000_000);
        for s in 2..=n {
            r = r.with(m(s), 1_700_000_000).unwrap();
        }
        r.sign(&identity(200)).unwrap()
    };
    let cell = RosterCell::new(Some(roster), |_| Ok(()));
    let (mesh, mut events) = Mesh::start(
        MeshConfig {
            identity: identity(seed),
            listen: Listen::default(),
            peers: vec![],
            mdns: true,
            admitter: Arc::new(Yes(cell.clone())),
        },
        cell,
    )
    .await
    .unwrap();
    println!("{:?} listening {:?}", t.elapsed(), mesh.listen_addresses());
    let m2 = mesh.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            println!(
                "{:?} peers {:?}",
                t.elapsed(),
                m2.peers()
                    .iter()
                    .map(|p| (p.name.clone(), p.connected, p.address, p.rtt))
                    .collect::<Vec<_>>()
            );
        }
    });
    while let Some(e) = events.recv().await {
        println!("{:?} {}", t.elapsed(), format!("{e:?}").chars().take(60).collect::<String>());
    }
}
