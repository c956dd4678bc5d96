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
    config::Share,
    office_cache::{LookedUp, Mark, OfficeCache, Parts, Refused},
    trust::{Policy, Trust},
    worker::read_request,
};
use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, Entry as TreeEntry, NodeId, Tree,
    action::{Blob, Output, OutputFile},
    dht::{Answer, Body, Entry, SharedManifest},
    front::FrontCoded,
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
            policy: Policy::of(trust),
            backlog: dir.join(format!("backlog-{seed}")),
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
        let looked_up = self.cache.look_up(self.cache.policy(), action, action.key());
        tokio::time::timeout(PATIENCE, looked_up).await.expect("it is bounded")
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
    assert!(matches!(three.find(&small).await, LookedUp::Refused(Refused::Untrusted)));
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
        let bodies = vec![Body { signed: body, inline: Vec::new() }];
        let entry = Entry { toolchain: Digest::of(b"gcc"), bodies };
        tokio::spawn(stranger_to_truth(events, entry, is_silent));
        linked(&node, 1).await;
        until("the liar has a link", || liar.peers().iter().any(|peer| peer.rtt.is_some())).await;
        let looked_up = if is_silent { node.look_up(&wanted).await } else { node.find(&wanted).await };
        match (looked_up, expect) {
            (LookedUp::Refused(why), Some(expect)) => assert_eq!(why, expect),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_wants_two_to_agree_finds_what_two_have_made() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Agree(2)).await;
    let three = Node::start(dir.path(), 3, &[one.address(), two.address()], Trust::Agree(2)).await;
    for node in [&one, &two, &three] {
        linked(node, 2).await;
    }
    let (same, other) = (action("same"), action("other"));
    for (maker, made, object) in [(&one, &same, "object"), (&one, &other, "a"), (&two, &other, "b")] {
        maker.make(made, object.as_bytes()).await;
    }
    let entries = || [&one, &two, &three].iter().map(|node| node.cache.entries()).sum::<usize>();
    until("two owners keep each entry", || entries() == 4).await;
    assert!(matches!(two.find(&same).await, LookedUp::Refused(Refused::TooFew)));
    two.make(&same, b"object").await;
    let mut looked_up = three.find(&same).await;
    for _ in 0..200 {
        if matches!(looked_up, LookedUp::Found(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        looked_up = three.find(&same).await;
    }
    let LookedUp::Found(found) = looked_up else { panic!("two have made it") };
    assert_eq!(found.record.result.outputs[0].digest, Digest::of(b"object"));
    assert!(matches!(three.find(&other).await, LookedUp::Refused(Refused::TooFew)), "they do not agree");

    // Kept in its own store, it is believed there as long as the setting lets it.
    let agreed = found.agreed.expect("several signed it");
    let record = found.record.clone();
    let cache = three.cache.clone();
    tokio::task::spawn_blocking(move || cache.keep_agreed(record.key, agreed)).await.unwrap();
    let check = |demand: &str, expect: bool| {
        let policy = three.cache.policy().demanded(Some(demand.as_bytes())).unwrap();
        assert_eq!(three.cache.believes_stored(&policy, &same, &found.record), expect, "{demand}");
    };
    check("", true);
    check("agree:3", false);
    check("publishers", false);
    check("own", false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_look_ups_the_one_that_goes_takes_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Members).await;
    for node in [&one, &two] {
        linked(node, 1).await;
    }
    // On a machine under load an owner may take longer than it is given; then both make it.
    for round in 0..20 {
        let wanted = action(&format!("wanted {round}"));
        let LookedUp::Nothing(Some(mark)) = one.look_up(&wanted).await else { panic!("it is new") };
        let second = tokio::time::timeout(Duration::from_millis(100), one.look_up(&wanted)).await;
        assert!(second.is_err() || round > 0, "another compile of the machine waits for the first");
        let (found, ()) = tokio::join!(two.look_up(&wanted), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            one.make(&wanted, b"object").await;
            drop::<Mark>(mark);
        });
        if matches!(found, LookedUp::Found(_)) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("nobody waits for what another makes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_machine_made_alone_it_offers_when_others_come() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let alone: Vec<Action> = (0..40).map(|n| action(&format!("alone {n}"))).collect();
    for made in &alone {
        one.make(made, b"object").await;
    }
    assert_eq!(one.cache.entries(), 0);
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Members).await;
    for node in [&one, &two] {
        linked(node, 1).await;
    }
    until("both owners have all", || one.cache.entries() == 40 && two.cache.entries() == 40).await;
    let LookedUp::Found(found) = two.find(&alone[7]).await else { panic!("not found") };
    assert_eq!(found.record.producer, id(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_source_includes_others_hear_of_from_whom_they_believe() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path(), 1, &[], Trust::Members).await;
    let two = Node::start(dir.path(), 2, &[one.address()], Trust::Members).await;
    for node in [&one, &two] {
        linked(node, 1).await;
    }
    let key = Digest::of(b"source");
    let seen = |action: &str| SharedManifest {
        key,
        action: key_of(action),
        present: FrontCoded::of([&b"/w/x.c"[..]]),
        absent: FrontCoded::default(),
        passed_over: FrontCoded::default(),
        producer: id(1),
    };
    for action in ["before", "after"] {
        one.cache.saw(&key, Digest::of(b"gcc"), &seen(action).sign(&identity(1)));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let ask = async |demand: &str| {
        let policy = two.cache.policy().demanded(Some(demand.as_bytes())).unwrap();
        let mut heard = Vec::new();
        for _ in 0..50 {
            // Two nodes own every key, so it is here, or the other has it.
            heard = two.cache.own_manifests(&policy, key).await;
            if heard.is_empty() {
                heard = two.cache.ask_manifests(&policy, key).await.map_or_else(Vec::new, |asked| asked.0);
            }
            if heard.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(if demand.is_empty() { 200 } else { 1 })).await;
        }
        heard
    };
    assert_eq!(ask("").await, [seen("after"), seen("before")], "the newest first");
    for stricter in ["own", "workers", "publishers", "agree:2", "workers:nobody"] {
        assert_eq!(ask(stricter).await, [], "{stricter}");
    }
}

fn key_of(action: &str) -> ActionKey {
    ActionKey(Digest::of(action.as_bytes()))
}
