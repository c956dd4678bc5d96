//! A worker over loopback QUIC, spoken to frame by frame: what it remembers, asks for, and lets wait. The compiler is
//! a shell, in the real sandbox.

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use barn_cache::{Limits, Store};
use barn_mesh::{
    Mesh, MeshEvent, RecvStream, SendStream,
    stream::{read_blob, read_frame, write_blob, write_frame},
};
use barn_node::{
    home::Home,
    stats::Stats,
    worker::{Parts, Shelf, Worker, read_request},
};
use barn_protocol::{
    Action, ActionRecord, ActionResult, Digest, Entry, NodeId, Toolchain, Tree,
    action::{Output, RECORD_CONTEXT},
    delta::TreeForm,
    wire::{Decline, INLINE_BYTES_MAX, Request, Run, RunDone, RunReply},
};
use barn_sandbox::{Config, Sandbox};
use common::{identity, member, mesh, path};

/// Longest wait for a frame on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a frame that must not come.
const QUIET: Duration = Duration::from_millis(300);

fn file(bytes: &[u8], executable: bool) -> Entry {
    Entry::File { digest: Digest::of(bytes), size: bytes.len() as u64, executable }
}

/// A shell and what it needs, and `others`, put into `store`.
fn shell(store: &Store, others: &[&str]) -> Toolchain {
    let mut tree = Tree::new();
    let shell = ["/bin/sh", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];
    for at in shell.iter().chain(others) {
        let bytes = std::fs::read(at).unwrap();
        store.put_bytes(&bytes).unwrap();
        tree.insert(path(at), file(&bytes, true)).unwrap();
    }
    Toolchain {
        name: "sh".to_owned(),
        machine: std::env::consts::ARCH.to_owned(),
        tree,
        search_path: vec![path("/bin")],
    }
}

/// A worker with one slot (node 1), and two requesters (nodes 2 and 3).
struct Scene {
    requesters: [Mesh; 2],
    worker: Arc<Worker>,
    toolchain: Digest,
    _events: Vec<tokio::sync::mpsc::Receiver<MeshEvent>>,
}

impl Scene {
    async fn begin(dir: &Path, others: &[&str]) -> Self {
        // A sandboxed uid must get through to the toolchain.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let home = Home::open(dir).unwrap();
        let store = Store::open(&home.cache_dir(), Limits::new(1 << 30)).unwrap();
        let shelf = Arc::new(Shelf::open(home.clone(), store.clone()));
        let toolchain = shelf.put(shell(&store, others)).unwrap();
        let helper = std::env::current_exe().unwrap().parent().unwrap().with_file_name("barn-room");
        let sandbox = Config { helper, bwrap: "/usr/bin/bwrap".into(), drop_to: None };
        let worker = Arc::new(Worker::new(Parts {
            identity: identity(1),
            store,
            stats: Arc::new(Stats::open(home.stats_path())),
            shelf,
            home: dir.to_owned(),
            sandbox: Ok(Arc::new(Sandbox::new(sandbox).unwrap())),
            limits: barn_sandbox::Limits::default(),
            slots: 1,
            adopts: true,
        }));
        let (listening, events) = mesh(1, &[]).await;
        tokio::spawn(serve(worker.clone(), listening.clone(), events));
        let address = listening.listen_addresses()[0];
        let (one, one_events) = mesh(2, &[address]).await;
        let (two, two_events) = mesh(3, &[address]).await;
        let requesters = [one, two];
        for requester in &requesters {
            while requester.peers().iter().all(|peer| !peer.connected) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Self { requesters, worker, toolchain, _events: vec![one_events, two_events] }
    }

    /// Copies `/src/<name>.c` to `/src/<name>.o`, in the sight of some headers.
    fn action(&self, name: &str, source: &str, headers: &[&str]) -> Action {
        let mut inputs = Tree::new();
        inputs.insert(path(&format!("/src/{name}.c")), file(source.as_bytes(), false)).unwrap();
        for header in headers {
            inputs.insert(path(&format!("/src/{header}")), file(header.as_bytes(), false)).unwrap();
        }
        let script = format!("while read line; do echo $line; done < {name}.c > {name}.o");
        Action {
            toolchain: self.toolchain,
            program: path("/bin/sh"),
            argv: ["sh", "-c", &script].map(|word| word.as_bytes().to_vec()).to_vec(),
            env: [].into(),
            cwd: path("/src"),
            inputs: Arc::new(inputs),
            outputs: vec![Output { path: path(&format!("/src/{name}.o")), optional: false }],
        }
    }

    async fn ask(&self, requester: usize, action: &Action, bases: &[&Action], ahead: &[&str]) -> Talk {
        let (mut send, recv) = self.requesters[requester].open(identity(1).id()).await.unwrap();
        let bases: Vec<(Digest, &Tree)> = bases.iter().map(|a| (a.inputs.digest(), &*a.inputs)).collect();
        let form = TreeForm::of(&action.inputs, &bases);
        let digests = ahead.iter().map(|blob| Digest::of(blob.as_bytes())).collect();
        let run = Run::of(action, form, digests);
        write_frame(&mut send, &Request::Run(Box::new(run))).await.unwrap();
        let mut talk = Talk { send, recv, action: action.clone() };
        talk.give(ahead).await;
        talk
    }

    async fn until(&self, what: &str, holds: impl Fn(&Worker) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(&self.worker) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}

async fn serve(worker: Arc<Worker>, mesh: Mesh, mut events: tokio::sync::mpsc::Receiver<MeshEvent>) {
    while let Some(event) = events.recv().await {
        let MeshEvent::Incoming { peer, mut send, mut recv } = event else { continue };
        let seed = [2, 3].into_iter().find(|seed| identity(*seed).id() == peer).unwrap();
        let (worker, mesh) = (worker.clone(), mesh.clone());
        tokio::spawn(async move {
            let Ok(Request::Run(run)) = read_request(&mut recv).await else { return };
            if worker.serve(&mesh, &member(seed), 1, *run, &mut send, &mut recv).await.is_ok() {
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        });
    }
}

/// One action on its stream.
struct Talk {
    send: SendStream,
    recv: RecvStream,
    action: Action,
}

impl Talk {
    #[track_caller]
    fn expect(&mut self, expect: RunReply) -> impl Future<Output = ()> {
        let from = std::panic::Location::caller();
        async move {
            let reply: RunReply = read_frame(&mut self.recv, PATIENCE).await.unwrap();
            assert_eq!(reply, expect, "at {from}");
        }
    }

    async fn expect_need(&mut self, blobs: &[&str]) {
        let mut expect: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob.as_bytes())).collect();
        expect.sort_unstable();
        self.expect(RunReply::Need(expect)).await;
    }

    async fn expect_nothing(&mut self) {
        let reply = read_frame::<RunReply>(&mut self.recv, QUIET).await;
        assert!(matches!(reply, Err(barn_mesh::stream::StreamError::Stalled(_))), "{reply:?}");
    }

    /// Sends these blobs, in the order in which they are asked for.
    async fn give(&mut self, blobs: &[&str]) {
        for blob in blobs {
            let (digest, size) = (Digest::of(blob.as_bytes()), blob.len() as u64);
            write_blob(&mut self.send, digest, size, &mut blob.as_bytes()).await.unwrap();
        }
    }

    async fn give_needed(&mut self, blobs: &[&str]) {
        let mut blobs = blobs.to_vec();
        blobs.sort_by_key(|blob| Digest::of(blob.as_bytes()));
        self.give(&blobs).await;
    }

    /// The compiler starts and writes `output`.
    async fn expect_output(self, output: &str) {
        let found = self.output().await;
        assert!(found == output.as_bytes(), "{} bytes", found.len());
    }

    /// The compiler starts, and writes this.
    async fn output(mut self) -> Vec<u8> {
        self.expect(RunReply::Started).await;
        let done = read_frame(&mut self.recv, PATIENCE).await.unwrap();
        let RunDone::Finished { record, inline, .. } = done else { panic!("{done:?}") };
        let worker: NodeId = identity(1).id();
        let payload = record.verified(RECORD_CONTEXT, &worker).unwrap();
        let record: ActionRecord = postcard::from_bytes(payload).unwrap();
        assert_eq!(record.key, self.action.key());
        let result: ActionResult = record.result;
        result.check(&self.action).unwrap();
        assert_eq!((result.exit_code, result.outputs.len()), (0, 1));
        let mut inline = inline.into_iter();
        let mut last = Vec::new();
        for (blob, is_inline) in result.sent_blobs() {
            last = match is_inline {
                true => inline.next().unwrap().0,
                false => {
                    let mut bytes = Vec::new();
                    read_blob(&mut self.recv, blob.digest, blob.size, &mut bytes).await.unwrap();
                    bytes
                }
            };
            assert_eq!(Digest::of(&last), blob.digest);
        }
        assert_eq!(inline.next(), None);
        last
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_actions_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::begin(dir.path(), &[]).await;
    trees_and_blobs_are_told_once(&scene).await;
    a_forgotten_tree_is_sent_again(&scene).await;
    outputs_travel_inside_or_behind(&scene).await;
    a_slow_uploader_holds_no_slot(&scene).await;
    nobody_is_asked_twice(&scene).await;
    places_are_bounded(&scene).await;
}

async fn trees_and_blobs_are_told_once(scene: &Scene) {
    let first = scene.action("one", "first\n", &["a.h", "b.h"]);
    let mut talk = scene.ask(0, &first, &[], &[]).await;
    talk.expect_need(&["first\n", "a.h", "b.h"]).await;
    talk.give_needed(&["first\n", "a.h", "b.h"]).await;
    talk.expect_output("first\n").await;
    // A tree as a difference, with its source ahead; what is ahead in vain does no harm.
    let second = scene.action("two", "second\n", &["a.h", "b.h"]);
    let mut talk = scene.ask(0, &second, &[&first], &["second\n", "a.h", "no input at all"]).await;
    talk.expect_need(&[]).await;
    talk.expect_output("second\n").await;
}

async fn a_forgotten_tree_is_sent_again(scene: &Scene) {
    let never_sent = scene.action("zero", "zero\n", &["a.h", "b.h", "c.h"]);
    let action = scene.action("three", "third\n", &["a.h", "b.h", "c.h"]);
    let mut talk = scene.ask(0, &action, &[&never_sent], &["third\n"]).await;
    talk.expect(RunReply::UnknownBase).await;
    write_frame(&mut talk.send, &TreeForm::of(&action.inputs, &[])).await.unwrap();
    talk.expect_need(&["c.h"]).await;
    talk.give(&["c.h"]).await;
    talk.expect_output("third\n").await;
    // Trees of one requester are not another's.
    let mut talk = scene.ask(1, &action, &[&action], &[]).await;
    talk.expect(RunReply::UnknownBase).await;
    // And one who insists is declined.
    write_frame(&mut talk.send, &TreeForm::of(&action.inputs, &[(action.inputs.digest(), &action.inputs)]))
        .await
        .unwrap();
    talk.expect(RunReply::Declined(Decline::Unfit)).await;
}

async fn outputs_travel_inside_or_behind(scene: &Scene) {
    for lines in [10, usize::try_from(INLINE_BYTES_MAX).unwrap()] {
        let source = "x\n".repeat(lines);
        let action = scene.action("large", &source, &[]);
        let mut talk = scene.ask(0, &action, &[], &[]).await;
        talk.expect_need(&[&source]).await;
        talk.give(&[&source]).await;
        talk.expect_output(&source).await;
    }
}

async fn a_slow_uploader_holds_no_slot(scene: &Scene) {
    let mut slow = scene.ask(0, &scene.action("slow", "slow\n", &[]), &[], &[]).await;
    slow.expect_need(&["slow\n"]).await;
    let mut quick = scene.ask(1, &scene.action("quick", "quick\n", &[]), &[], &["quick\n"]).await;
    quick.expect_need(&[]).await;
    quick.expect_output("quick\n").await;
    slow.expect_nothing().await;
    slow.give(&["slow\n"]).await;
    slow.expect_output("slow\n").await;
    scene.until("the slot is free", |worker| worker.free() == 1).await;
}

async fn nobody_is_asked_twice(scene: &Scene) {
    let mut first = scene.ask(0, &scene.action("p", "p\n", &["shared.h"]), &[], &["p\n"]).await;
    first.expect_need(&["shared.h"]).await;
    let mut second = scene.ask(0, &scene.action("q", "q\n", &["shared.h"]), &[], &["q\n"]).await;
    second.expect_need(&[]).await;
    second.expect_nothing().await;
    // Its bringer gives up, so it is asked for after all.
    drop(first);
    second.expect_need(&["shared.h"]).await;
    second.give(&["shared.h"]).await;
    second.expect_output("q\n").await;
}

async fn places_are_bounded(scene: &Scene) {
    let places = 1 + scene.worker.queue_max();
    let mut held = Vec::new();
    for number in 0..places {
        let source = format!("held {number}\n");
        let mut talk = scene.ask(0, &scene.action("held", &source, &[]), &[], &[]).await;
        talk.expect_need(&[&source]).await;
        held.push(talk);
    }
    assert_eq!((scene.worker.free(), scene.worker.queued()), (0, scene.worker.queue_max()));
    let further = scene.action("further", "further\n", &[]);
    scene.ask(0, &further, &[], &[]).await.expect(RunReply::Declined(Decline::Busy)).await;
    // Another requester gets in, and the one who gives up makes room.
    scene.ask(1, &further, &[], &[]).await.expect_need(&["further\n"]).await;
    scene.until("the other is gone", |worker| worker.queued() == worker.queue_max()).await;
    held.pop();
    scene.until("a place is free", |worker| worker.queued() < worker.queue_max()).await;
    scene.ask(0, &further, &[], &[]).await.expect_need(&["further\n"]).await;
    drop(held);
    scene.until("all are gone", |worker| worker.free() == 1 && worker.queued() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_of_this_machine_is_bound_where_it_lies() {
    let asked = std::process::Command::new("gcc").arg("-print-prog-name=cc1").output().unwrap();
    let cc1 = std::fs::canonicalize(String::from_utf8(asked.stdout).unwrap().trim()).unwrap();
    let cc1 = cc1.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::begin(dir.path(), &[cc1]).await;
    let mut action = scene.action("mounts", "none", &[]);
    let script = format!(
        "while read line; do echo $line; done < /proc/self/mountinfo > mounts.o; read line < {cc1} && echo read >> mounts.o"
    );
    action.argv = ["sh", "-c", &script].map(|word| word.as_bytes().to_vec()).to_vec();
    let mut talk = scene.ask(0, &action, &[], &[]).await;
    talk.expect_need(&["none"]).await;
    talk.give_needed(&["none"]).await;
    let seen = String::from_utf8(talk.output().await).unwrap();
    // The file system's own path of what is mounted, where, and how.
    let mount =
        seen.lines().find(|line| line.split(' ').nth(4) == Some(cc1)).unwrap_or_else(|| panic!("{seen}"));
    let words: Vec<&str> = mount.split(' ').collect();
    assert!(cc1.ends_with(words[3]) && words[5].starts_with("ro,"), "{mount}");
    assert!(seen.ends_with("read\n"), "the sandbox cannot read it: {seen}");
}
