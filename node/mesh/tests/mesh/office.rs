//! Members of one mesh: they find each other, hear of offers and rosters, and exchange streams.

use std::{sync::mpsc, time::Duration};

use crate::common::{Node, SOON, advert, eventually, identity, member, roster, sign};
use barn_mesh::{
    MeshEvent, OpenError,
    stream::{read_blob, read_frame, write_blob, write_frame},
};
use barn_protocol::{
    Digest,
    limits::{BLOB_BYTES_MAX, FRAME_BYTES_MAX},
    wire::{BlobHeader, Decline},
};
use rand::{RngCore, SeedableRng};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_each_other_through_one() {
    let roster = roster(&[1, 2, 3]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let two = Node::start(2, Some(&roster), &[one.address()]).await;
    let three = Node::start(3, Some(&roster), &[one.address()]).await;
    let nodes = [&one, &two, &three];
    let all = || nodes.iter().all(|n| nodes.iter().all(|other| n.id == other.id || n.sees(&other.id)));
    eventually(SOON, "everybody is connected to everybody", all).await;
    for (node, free) in nodes.iter().zip(1..) {
        node.mesh.set_advert(advert(1, free));
    }
    let told = || {
        nodes.iter().all(|node| {
            nodes.iter().zip(1..).all(|(other, free)| {
                node.id == other.id || node.advert_of(&other.id).is_some_and(|a| a.free == free)
            })
        })
    };
    eventually(SOON, "everybody knows all adverts", told).await;
    one.mesh.set_advert(advert(2, 7));
    let news = || [&two, &three].iter().all(|n| n.advert_of(&one.id).is_some_and(|a| a.free == 7));
    eventually(Duration::from_secs(3), "a change is told soon", news).await;
    assert!(two.logged(&format!("up {:?}", one.id)));
    assert!(two.logged(&format!("advert {:?} 7", one.id)));
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id != node.id) {
            assert_eq!(node.echo(other.id, b"hello").await.unwrap(), b"hello");
        }
    }
    let view = one.mesh.peers().into_iter().find(|peer| peer.id == two.id).unwrap();
    assert_eq!(view.name, "node-2");
    assert!(view.rtt.is_some_and(|rtt| rtt < Duration::from_millis(200)), "{view:?}");
    assert!(view.address.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_found() {
    let roster = roster(&[1, 2, 3]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let two = Node::start(2, Some(&roster), &[one.address()]).await;
    let three = Node::start(3, Some(&roster), &[one.address()]).await;
    let toolchain = Digest::of(b"gcc");
    two.mesh.provide(toolchain);
    eventually(SOON, "all connected", || three.sees(&two.id) && three.sees(&one.id)).await;
    let mut found = Vec::new();
    for _ in 0..20 {
        found = three.mesh.providers(toolchain).await;
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(found, [two.id]);
    assert!(three.mesh.providers(Digest::of(b"clang")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_spreads_and_opens_the_door() {
    let first = roster(&[1, 2]);
    let one = Node::start(1, Some(&first), &[]).await;
    let two = Node::start(2, Some(&first), &[one.address()]).await;
    eventually(SOON, "connected", || one.sees(&two.id) && two.sees(&one.id)).await;
    let second = first.with(member(3), barn_mesh::unix_now_s()).unwrap();
    one.cell.offer(sign(&second).bytes().clone(), barn_mesh::unix_now_s()).unwrap();
    eventually(SOON, "the roster is gossiped", || two.cell.epoch() == second.epoch).await;
    eventually(SOON, "the node is told", || two.logged("roster")).await;
    let three = Node::start(3, Some(&second), &[two.address()]).await;
    eventually(SOON, "the new member is connected", || three.sees(&one.id) && three.sees(&two.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_is_brought_up_to_date() {
    // The sleeper knows a roster with only itself and node 1; node 2 was admitted later and is the only one up.
    let old = roster(&[1, 3]);
    let new = old.with(member(2), barn_mesh::unix_now_s()).unwrap();
    let two = Node::start(2, Some(&new), &[]).await;
    let sleeper = Node::start(3, Some(&old), &[two.address()]).await;
    eventually(SOON, "the handshake brings the roster", || sleeper.cell.epoch() == new.epoch).await;
    eventually(SOON, "and they are connected", || sleeper.sees(&two.id) && two.sees(&sleeper.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_roster_a_node_listens_nowhere() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let two = Node::start(2, None, &[one.address()]).await;
    assert!(two.mesh.listen_addresses().is_empty());
    assert!(two.mesh.peers().is_empty());
    assert!(matches!(two.mesh.open(one.id).await, Err(OpenError::NoLink(_))));
    two.cell.establish(sign(&roster)).unwrap();
    eventually(SOON, "it listens once it has one", || !two.mesh.listen_addresses().is_empty()).await;
    eventually(SOON, "and connects", || two.sees(&one.id) && one.sees(&two.id)).await;
    two.mesh.shutdown().await;
    assert!(two.mesh.listen_addresses().is_empty());
    eventually(Duration::from_secs(5), "a goodbye is heard", || !one.sees(&two.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_is_found_again() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let two = Node::start(2, Some(&roster), &[one.address()]).await;
    eventually(SOON, "connected", || one.sees(&two.id)).await;
    two.mesh.shutdown().await;
    eventually(SOON, "gone", || !one.sees(&two.id)).await;
    let again = Node::start(2, Some(&roster), &[one.address()]).await;
    eventually(SOON, "back", || one.sees(&again.id) && again.sees(&one.id)).await;
    assert_eq!(one.echo(again.id, b"again").await.unwrap(), b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_streams_share_a_connection() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let two = Node::start(2, Some(&roster), &[one.address()]).await;
    eventually(SOON, "connected", || one.sees(&two.id)).await;
    let streams = (0..300u32).map(|n| {
        let (mesh, peer) = (one.mesh.clone(), two.id);
        tokio::spawn(async move {
            let (mut send, mut recv) = mesh.open(peer).await.unwrap();
            send.write_all(&n.to_le_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            send.finish().unwrap();
            assert_eq!(recv.read_to_end(100).await.unwrap(), n.to_le_bytes());
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_cross_the_wire() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let (two, mut events) = Node::start_raw(2, Some(&roster), &[one.address()]).await;
    let mut noise = vec![0; 10_000_000];
    rand::rngs::StdRng::seed_from_u64(1).fill_bytes(&mut noise);
    let blobs = [vec![], vec![7], noise, vec![0; 10_000_000]];
    let asked: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
    let served = blobs.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let MeshEvent::Incoming { mut send, mut recv, .. } = event else { continue };
            let asked: Vec<Digest> = read_frame(&mut recv, SOON).await.unwrap();
            for (digest, blob) in asked.into_iter().zip(&served) {
                write_blob(&mut send, digest, blob.len() as u64, &mut &blob[..]).await.unwrap();
            }
            send.finish().unwrap();
            let _ = send.stopped().await;
        }
    });
    eventually(SOON, "connected", || one.sees(&two.id)).await;
    let (mut send, mut recv) = one.mesh.open(two.id).await.unwrap();
    write_frame(&mut send, &asked).await.unwrap();
    for (digest, blob) in asked.into_iter().zip(&blobs) {
        let mut sink = tokio::fs::File::from_std(tempfile::tempfile().unwrap());
        let header = read_blob(&mut recv, digest, BLOB_BYTES_MAX, &mut sink).await.unwrap();
        assert_eq!(header, BlobHeader::Present { digest, size: blob.len() as u64 });
        assert_eq!(sink.metadata().await.unwrap().len(), blob.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_is_refused_by_its_length() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let (two, mut events) = Node::start_raw(2, Some(&roster), &[one.address()]).await;
    eventually(SOON, "connected", || one.sees(&two.id)).await;
    let (mut send, _recv) = one.mesh.open(two.id).await.unwrap();
    send.write_all(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes()).await.unwrap();
    send.write_all(&[0; 1000]).await.unwrap();
    send.flush().await.unwrap();
    let refused = loop {
        if let MeshEvent::Incoming { mut recv, .. } = events.recv().await.unwrap() {
            break read_frame::<Decline>(&mut recv, SOON).await.unwrap_err();
        }
    };
    assert!(refused.to_string().contains("frame"), "{refused}");
}

/// A node on a runtime and thread of its own, which can be frozen or killed.
fn separate_node(address: std::net::SocketAddr) -> mpsc::Sender<()> {
    let (freeze, frozen) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _node = runtime.block_on(Node::start(2, Some(&roster(&[1, 2])), &[address]));
        // While this thread runs the runtime, the node lives.
        while frozen.try_recv().is_err() {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        }
        // Frozen: all sockets are open and nobody answers. Thawed or dropped when the channel closes.
        let _ = frozen.recv();
    });
    freeze
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_peer_is_noticed_and_its_streams_fail() {
    let one = Node::start(1, Some(&roster(&[1, 2])), &[]).await;
    let freeze = separate_node(one.address());
    let two = identity(2).id();
    eventually(SOON, "connected", || one.sees(&two)).await;
    assert_eq!(one.echo(two, b"alive").await.unwrap(), b"alive");
    let (mut send, mut recv) = one.mesh.open(two).await.unwrap();
    send.write_all(b"never answered").await.unwrap();
    freeze.send(()).unwrap();
    let start = std::time::Instant::now();
    let failed = tokio::time::timeout(SOON, recv.read_to_end(100)).await.unwrap();
    assert!(failed.is_err());
    // The promise is 3 s; the rest is for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    eventually(Duration::from_secs(5), "the peer is down", || !one.sees(&two)).await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_is_noticed_at_once() {
    let one = Node::start(1, Some(&roster(&[1, 2])), &[]).await;
    let freeze = separate_node(one.address());
    let two = identity(2).id();
    eventually(SOON, "connected", || one.sees(&two)).await;
    let (mut send, mut recv) = one.mesh.open(two).await.unwrap();
    send.write_all(b"never answered").await.unwrap();
    freeze.send(()).unwrap();
    // Closes the channel: the thread ends, and drops runtime and sockets without a goodbye.
    drop(freeze);
    let start = std::time::Instant::now();
    assert!(tokio::time::timeout(SOON, recv.read_to_end(100)).await.unwrap().is_err());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    eventually(Duration::from_secs(5), "the peer is down", || !one.sees(&two)).await;
}
