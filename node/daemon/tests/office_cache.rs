//! Parts of the office's cache on three nodes over loopback QUIC; and a member that lies, and one that says nothing.

mod common;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use barn_cache::{Limits, Store};
use barn_mesh::{
    Mesh, MeshEvent, RecvStream, SendStream,
    stream::{read_blob, read_frame, write_frame},
};
use barn_node::{
    config::{Share, Trust},
    office_cache::{LookedUp, OfficeCache, Parts, Refused},
    worker::read_request,
};
use barn_protocol::{
    Action, ActionRecord, ActionResult, Digest, Entry as TreeEntry, NodeId, Tree,
    action::{Blob, Output, OutputFile},
    dht::{Answer, Entry},
    identity::SignedBytes,
    limits::BLOB_BYTES_MAX,
    wire::{Bytes, OutputsReply, Request},
};
use common::{identity, mesh, path, roster};
use tokio::sync::mpsc;

/// Longest wait on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

fn id(seed: u8) -> NodeId {
    identity(seed).id()
}

fn action(name: &str) -> Action {
    let mut inputs = Tree::new();
    let source =
        TreeEntry::File { digest: Digest::of(name.as_bytes()), size: name.len() as u64, executable: false };
    inputs.insert(path("/w/x.c"), source).unwrap();
    Action {
        toolchain: Digest::of(b"gcc"),
        program: path("/usr/bin/gcc"),
        argv: ["gcc", "-c", "x.c"].map(|arg| arg.as_bytes().to_vec()).to_vec(),
        env: [].into(),
        cwd: path("/w"),
        inputs: inputs.into(),
        outputs: vec![Output { path: path("/w/x.o"), optional: false }],
    }
}

fn result(object: &[u8]) -> ActionResult {
    let (none, object) = (Blob::of(b""), Blob::of(object));
    let output = OutputFile { output: 0, digest: object.digest, size: object.size };
    ActionResult { exit_code: 0, stdout: none, stderr: none, outputs: vec![output], wall_ms: 1 }
}

fn record(action: &Action, object: &[u8], producer: NodeId) -> ActionRecord {
    ActionRecord { key: action.key(), result: result(object), producer, sandboxed: true, epoch: 1 }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Waits until a node has a link to so many peers, and its part of the cache has heard of them.
async fn linked(node: &Node, peers: usize) {
    let links = || node.mesh.peers().iter().filter(|peer| peer.rtt.is_some()).count();
    until("the links are up", || links() == peers && node.cache.stable_members() == peers + 1).await;
}

/// A node with a part of the office's cache and nothing else.
struct Node {
    seed: u8,
    cache: Arc<OfficeCache>,
    mesh: Mesh,
    store: Store,
}

impl Node {
    async fn start(dir: &Path, seed: u8, peers: &[SocketAddr], trust: Trust) -> Self {
        let store = Store::open(&dir.join(seed.to_string()), Limits::new(1 << 30)).unwrap();
        let (mesh, events) = mesh(seed, peers).await;
        let cache = OfficeCache::start(Parts {
            self_id: id(seed),
            mesh: mesh.clone(),
            store: store.clone(),
            roster: roster(),
            share: Share::Both,
            trust,
        });
        tokio::spawn(serve(cache.clone(), events));
        Self { seed, cache, mesh, store }
    }

    fn address(&self) -> SocketAddr {
        self.mesh.listen_addresses()[0]
    }

    /// Compiles, as it were.
    async fn make(&self, action: &Action, object: &[u8]) {
        let record = record(action, object, id(self.seed)).sign(&identity(self.seed));
        let blobs: Vec<Digest> =
            [&b""[..], object].map(|bytes| self.store.put_bytes(bytes).unwrap().digest).into();
        self.store.put_record(&action.key(), &action.toolchain, &record, &blobs).unwrap();
        let (cache, toolchain) = (self.cache.clone(), action.toolchain);
        tokio::task::spawn_blocking(move || cache.made(&record, toolchain)).await.unwrap();
    }

    async fn look_up(&self, action: &Action) -> LookedUp {
        tokio::time::timeout(PATIENCE, self.cache.look_up(action, action.key())).await.expect("it is bounded")
    }

    /// Looks up what is there. On a machine under load an owner may take longer than it is given.
    async fn find(&self, action: &Action) -> LookedUp {
        for _ in 0..200 {
            match self.look_up(action).await {
                LookedUp::Nothing(mark) => drop(mark),
                found => return found,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("nothing is found");
    }
}

async fn serve(cache: Arc<OfficeCache>, mut events: mpsc::Receiver<MeshEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            MeshEvent::PeerUp(peer) => cache.peer_up(peer),
            MeshEvent::PeerDown(peer) => cache.peer_down(peer),
            MeshEvent::Incoming { peer, mut send, mut recv } => {
                let cache = cache.clone();
                tokio::spawn(async move {
                    match read_request(&mut recv).await.unwrap() {
                        Request::Entries(gets) => cache.answer(peer, gets, &mut send).await.unwrap(),
                        Request::Tell(puts) => cache.hear(peer, puts).await,
                        Request::Outputs { action, blobs } => {
                            cache.give(peer, action, blobs, &mut send).await.unwrap();
                        }
                        other => panic!("unexpected {other:?}"),
                    }
                    let _ = send.finish();
                    let _ = send.stopped().await;
                });
            }
            MeshEvent::Advert(..) | MeshEvent::RosterChanged => {}
        }
    }
}

async fn outputs(from: &Mesh, action: &Action, blob: Digest) -> (OutputsReply, RecvStream, SendStream) {
    let (mut send, mut recv) = from.open(id(1)).await.unwrap();
    let request = Request::Outputs { action: action.key(), blobs: vec![blob] };
    write_frame(&mut send, &request).await.unwrap();
    let reply = read_frame(&mut recv, PATIENCE).await.unwrap();
    (reply, recv, send)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_made_the_others_find() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Members).await;
    let three = Node::start(dir.path(), 3, &[one.address(), two.address()], Trust::Publishers).await;
    for node in [&one, &two, &three] {
        linked(node, 2).await;
    }
    let (small, large) = (action("small"), action("large"));
    let object = vec![7; 100_000];
    one.make(&small, b"object").await;
    one.make(&large, &object).await;
    let entries = || [&one, &two, &three].iter().map(|node| node.cache.entries()).sum::<usize>();
    until("two owners keep each entry", || entries() == 4).await;

    let LookedUp::Found(found) = two.find(&small).await else { panic!("not found") };
    assert_eq!((found.record.producer, &found.holders[..]), (id(1), &[id(1)][..]));
    assert!(found.inline.is_empty() || found.inline[&Digest::of(b"object")] == b"object");
    let LookedUp::Found(found) = two.find(&large).await else { panic!("not found") };
    assert!(found.inline.is_empty(), "it is too large");

    // The outputs are had by the action's key, and nothing else is.
    let (reply, mut recv, _send) = outputs(&two.mesh, &large, Digest::of(&object)).await;
    assert_eq!(reply, OutputsReply::Coming);
    let mut came = Vec::new();
    read_blob(&mut recv, Digest::of(&object), BLOB_BYTES_MAX, &mut came).await.unwrap();
    assert!(came == object);
    let (reply, ..) = outputs(&two.mesh, &large, Digest::of(b"object")).await;
    assert_eq!(reply, OutputsReply::Absent, "it is an output of another action");
    let (reply, ..) = outputs(&two.mesh, &action("unknown"), Digest::of(&object)).await;
    assert_eq!(reply, OutputsReply::Absent);

    // Nobody here may publish.
    assert!(matches!(three.find(&small).await, LookedUp::Refused(Refused::Untrusted, _)));
    let mut took = Vec::new();
    for round in 0..51 {
        let new = action(&format!("new {round}"));
        let began = Instant::now();
        assert!(matches!(two.look_up(&new).await, LookedUp::Nothing(_)));
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("a look-up that finds nothing takes {:?} in the median, {:?} at worst", took[25], took[50]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_nodes_want_is_made_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Members).await;
    for node in [&one, &two] {
        linked(node, 1).await;
    }
    // On a machine under load an owner may take longer than it is given; then both make it.
    let mut waited = (0, 0);
    for round in 0..20 {
        let (made, given_up) = (action(&format!("made {round}")), action(&format!("given up {round}")));
        let LookedUp::Nothing(mark) = one.look_up(&made).await else { panic!("it is new") };
        let (found, ()) = tokio::join!(two.look_up(&made), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            one.make(&made, b"object").await;
            drop(mark);
        });
        waited.0 += u32::from(matches!(found, LookedUp::Found(_)));
        let LookedUp::Nothing(mark) = one.look_up(&given_up).await else { panic!("it is new") };
        let (found, ()) = tokio::join!(two.look_up(&given_up), async { drop(mark) });
        waited.1 += u32::from(matches!(found, LookedUp::Nothing(_)));
        if waited.0 > 0 && waited.1 > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("nobody waits for what another makes: {waited:?}");
}

/// A member that answers every question with the same entry, or takes it and says nothing.
async fn stranger_to_truth(mut events: mpsc::Receiver<MeshEvent>, entry: Entry, is_silent: bool) {
    let mut kept = Vec::new();
    while let Some(event) = events.recv().await {
        let MeshEvent::Incoming { mut send, mut recv, .. } = event else { continue };
        let Ok(Request::Entries(gets)) = read_request(&mut recv).await else { continue };
        if is_silent {
            kept.push((send, recv));
            continue;
        }
        let answer = Answer::Found { entry: entry.clone(), holders: vec![id(2)] };
        let answers: Vec<Answer> = gets.iter().map(|_| answer.clone()).collect();
        write_frame(&mut send, &answers).await.unwrap();
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_not_believed_and_a_silent_owner_not_waited_for() {
    let wanted = action("wanted");
    let check = async |signed: SignedBytes, is_silent: bool, expect: Option<Refused>| {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(dir.path(), 1, &[], Trust::Members).await;
        let (liar, events) = mesh(2, &[node.address()]).await;
        let body = Bytes(postcard::to_stdvec(&signed).unwrap());
        let entry = Entry { toolchain: Digest::of(b"gcc"), body, inline: Vec::new() };
        tokio::spawn(stranger_to_truth(events, entry, is_silent));
        linked(&node, 1).await;
        until("the liar has a link", || liar.peers().iter().any(|peer| peer.rtt.is_some())).await;
        let looked_up = if is_silent { node.look_up(&wanted).await } else { node.find(&wanted).await };
        match (looked_up, expect) {
            (LookedUp::Refused(why, _), Some(expect)) => assert_eq!(why, expect),
            (LookedUp::Nothing(_), None) => {}
            (LookedUp::Found(_), expect) => panic!("found, not {expect:?}"),
            _ => panic!("not {expect:?}"),
        }
    };
    let (liar, honest) = (identity(2), identity(1));
    let other = record(&action("other"), b"object", liar.id());
    check(other.sign(&liar), false, Some(Refused::OtherAction)).await;
    let forged = record(&wanted, b"object", honest.id());
    check(forged.sign(&liar), false, Some(Refused::Signature)).await;
    let outsider = record(&wanted, b"object", id(9));
    check(outsider.sign(&identity(9)), false, Some(Refused::Stranger)).await;
    let mut failed = record(&wanted, b"object", liar.id());
    failed.result.exit_code = 1;
    check(failed.sign(&liar), false, Some(Refused::Malformed)).await;
    let mut lacking = record(&wanted, b"object", liar.id());
    lacking.result.outputs.clear();
    check(lacking.sign(&liar), false, Some(Refused::OtherAction)).await;
    check(record(&wanted, b"object", liar.id()).sign(&liar), true, None).await;
}
