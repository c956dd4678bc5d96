//! A member that answers what it likes when it is asked for the office's cache: it costs time, never a wrong object.
//!
//! A real node, and a member of its mesh that is played here. The node tells the member what it makes; then its own store
//! is cleared, and the member answers with what it was told, or with something else.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use barn_mesh::{
    Listen, Mesh, MeshConfig, MeshEvent, NoInvitations, RecvStream, RosterCell, SendStream,
    stream::{write_blob, write_frame},
    unix_now_s,
};
use barn_node::{home::Home, worker::read_request};
use barn_protocol::{
    ActionKey, ActionRecord, Digest, Identity, NodeId,
    action::Blob,
    dht::{Answer, Body, Entry, EntryKey, Get, SharedManifest, Told},
    front::FrontCoded,
    identity::SignedBytes,
    roster::{Capabilities, Member, Roster, SignedRoster},
    wire::{Bytes, OutputsReply, Request},
};
use barn_tests::Desk;
use serde_json::Value;

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// What it was told.
    None,
    /// A manifest names an action of which it has a wrong result.
    OtherAction,
    /// A manifest leaves out a file that was read.
    LeavesOut,
    /// A manifest lists a file more.
    ListsMore,
    /// A manifest says that nothing is where something is.
    SaysAbsent,
    /// A manifest is of another source.
    OtherSource,
    /// A manifest of the node's own, which it did not sign.
    InAnothersName,
    /// What it sends is no manifest.
    Rubbish,
    /// The outputs are others than the record names.
    OtherOutputs,
    /// It takes the question, and says nothing.
    Silence,
}

const IN_MANIFESTS: [Lie; 7] = [
    Lie::OtherAction,
    Lie::LeavesOut,
    Lie::ListsMore,
    Lie::SaysAbsent,
    Lie::OtherSource,
    Lie::InAnothersName,
    Lie::Rubbish,
];

/// The member.
struct Liar {
    identity: Identity,
    /// A path that is there.
    present: Vec<u8>,
    state: Mutex<State>,
}

struct State {
    lie: Lie,
    told: HashMap<EntryKey, Entry>,
    asked_in_vain: Vec<(SendStream, RecvStream)>,
}

impl Liar {
    async fn serve(self: Arc<Self>, mut events: tokio::sync::mpsc::Receiver<MeshEvent>) {
        while let Some(event) = events.recv().await {
            let MeshEvent::Incoming { mut send, mut recv, .. } = event else { continue };
            let this = self.clone();
            tokio::spawn(async move {
                match read_request(&mut recv).await {
                    Ok(Request::Tell(puts)) => puts.into_iter().for_each(|put| this.take(put.key, put.what)),
                    Ok(Request::Entries(_)) if this.lock().lie == Lie::Silence => {
                        this.lock().asked_in_vain.push((send, recv));
                        return;
                    }
                    Ok(Request::Entries(gets)) => {
                        let answers: Vec<Answer> = gets.iter().map(|get| this.answer(get)).collect();
                        write_frame(&mut send, &answers).await.unwrap();
                    }
                    Ok(Request::Outputs { blobs, .. }) => {
                        write_frame(&mut send, &OutputsReply::Coming).await.unwrap();
                        for digest in blobs {
                            let _ = write_blob(&mut send, digest, 5, &mut &b"wrong"[..]).await;
                        }
                    }
                    _ => {}
                }
                let _ = send.finish();
                let _ = send.stopped().await;
            });
        }
    }

    fn take(&self, key: EntryKey, what: Told) {
        if let Told::Entry { entry, .. } = what {
            self.lock().told.insert(key, entry);
        }
    }

    fn answer(&self, get: &Get) -> Answer {
        let state = self.lock();
        let told = state.told.get(&get.key).cloned();
        let entry = match told {
            Some(entry) if get.key.is_manifest() => Some(self.manifest(state.lie, entry)),
            Some(entry) if state.lie == Lie::OtherOutputs => Some(entry.without_outputs()),
            None if get.key == EntryKey::record(&made_up()) => self.wrong_record(&state.told),
            told => told,
        };
        let found = |entry| Answer::Found { entry, holders: vec![self.identity.id()] };
        entry.map_or(Answer::Nothing, found)
    }

    /// A manifest as told, or changed and signed anew.
    fn manifest(&self, lie: Lie, told: Entry) -> Entry {
        let signed: SignedBytes = postcard::from_bytes(&told.bodies[0].signed.0).unwrap();
        let mut manifest = SharedManifest::read(&signed).unwrap();
        let in_anothers_name = manifest.producer;
        manifest.producer = self.identity.id();
        let mut paths = manifest.present.unfold().unwrap();
        match lie {
            Lie::None | Lie::OtherOutputs | Lie::Silence => return told,
            Lie::OtherAction => manifest.action = made_up(),
            Lie::LeavesOut => paths.retain(|path| !path.ends_with(b"own.h")),
            Lie::ListsMore => paths.push(self.present.clone()),
            Lie::SaysAbsent => manifest.absent = FrontCoded::of([&self.present[..]]),
            Lie::OtherSource => manifest.key = Digest::of(b"another"),
            Lie::InAnothersName => manifest.producer = in_anothers_name,
            Lie::Rubbish => return entry(told.toolchain, b"rubbish".to_vec(), Vec::new()),
        }
        paths.sort();
        manifest.present = FrontCoded::of(paths.iter().map(Vec::as_slice));
        entry(told.toolchain, postcard::to_stdvec(&manifest.sign(&self.identity)).unwrap(), Vec::new())
    }

    /// A wrong result of the action that there is not, of the form that any unit's has.
    fn wrong_record(&self, told: &HashMap<EntryKey, Entry>) -> Option<Entry> {
        let (_, like) = told.iter().find(|(key, _)| !key.is_manifest())?;
        let signed: SignedBytes = postcard::from_bytes(&like.bodies[0].signed.0).unwrap();
        let mut record: ActionRecord = postcard::from_bytes(signed.unverified_payload()).unwrap();
        (record.key, record.producer) = (made_up(), self.identity.id());
        let blob = Blob::of(WRONG);
        record.result.outputs.iter_mut().for_each(|output| {
            (output.digest, output.size) = (blob.digest, blob.size);
        });
        let signed = postcard::to_stdvec(&record.sign(&self.identity)).unwrap();
        Some(entry(like.toolchain, signed, vec![Bytes(WRONG.to_vec())]))
    }

    fn has_manifest_told(&self) -> usize {
        self.lock().told.keys().filter(|key| key.is_manifest()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

const WRONG: &[u8] = b"no object of anything";

/// An action that nobody has done.
fn made_up() -> ActionKey {
    ActionKey(Digest::of(b"nothing"))
}

fn entry(toolchain: Digest, signed: Vec<u8>, inline: Vec<Bytes>) -> Entry {
    Entry { toolchain, bodies: vec![Body { signed: Bytes(signed), inline }] }
}

/// A desk whose node has one neighbour, who lies.
struct Office {
    desk: Desk,
    liar: Arc<Liar>,
    units: usize,
    _runtime: tokio::runtime::Runtime,
    _mesh: Mesh,
}

impl Office {
    fn new() -> Self {
        let desk = Desk::without_node();
        let home = Home::open(&desk.state()).unwrap();
        let identity = Identity::from_seed(&[7; 32]);
        let roster = roster([home.identity().unwrap().id(), identity.id()]);
        home.keep_roster(&roster).unwrap();
        desk.write("own.h", "int own(void);\n");
        desk.write("more.h", "int more(void);\n");
        let liar = Arc::new(Liar {
            identity: identity.clone(),
            present: desk.at("more.h").into_os_string().into_encoded_bytes(),
            state: Mutex::new(State { lie: Lie::None, told: HashMap::new(), asked_in_vain: Vec::new() }),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = MeshConfig {
            identity,
            listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0, fixed: false },
            peers: Vec::new(),
            mdns: false,
            admitter: Arc::new(NoInvitations),
        };
        let cell = RosterCell::new(Some(roster), |_| Ok(()));
        let (mesh, events) = runtime.block_on(Mesh::start(config, cell)).unwrap();
        runtime.spawn(liar.clone().serve(events));
        let office = Self { desk, liar, units: 0, _runtime: runtime, _mesh: mesh };
        office.start(office._mesh.listen_addresses()[0]);
        office
    }

    fn start(&self, neighbour: SocketAddr) {
        let settings = format!("[worker]\nslots = 0\n[network]\nmdns = false\npeers = [\"{neighbour}\"]\n");
        fs::write(self.desk.state().join("barn.toml"), settings).unwrap();
        self.desk.barn(&["start"]).ok();
        self.desk.await_that("there is a link", |desk| {
            let status = desk.barn(&["status", "--json"]).json();
            status.pointer("/peers/0/rtt_ms").is_some_and(Value::is_number)
        });
    }

    /// A unit that the node has made, of which it told the neighbour what it includes; and its object.
    fn unit(&mut self) -> (String, Vec<u8>) {
        // The node tells itself of about every other.
        for _ in 0..64 {
            self.units += 1;
            let (known, number) = (self.liar.has_manifest_told(), self.units);
            let unit = format!("u{number}.c");
            self.desk.write(&unit, &format!("#include \"own.h\"\nint f{number}(void) {{ return own(); }}\n"));
            let object = self.compile(&unit);
            for _ in 0..20 {
                if self.liar.has_manifest_told() > known {
                    return (unit, object);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("the neighbour is told of nothing");
    }

    fn compile(&self, unit: &str) -> Vec<u8> {
        let ran = self.desk.sh(&format!("$B gcc -c {unit} -o out.o"));
        assert_eq!((ran.status, ran.err().as_str()), (0, ""));
        let object = fs::read(self.desk.at("out.o")).unwrap();
        fs::remove_file(self.desk.at("out.o")).unwrap();
        object
    }

    /// Compiles what the neighbour has been told of with an empty store, while it lies.
    fn again(&self, unit: &str, lie: Lie) -> (Vec<u8>, Did) {
        self.desk.barn(&["cache", "clear"]).ok();
        self.liar.lock().lie = lie;
        let before = Did::of(&self.desk);
        let object = self.compile(unit);
        let after = Did::of(&self.desk);
        self.liar.lock().lie = Lie::None;
        self.liar.lock().asked_in_vain.clear();
        (object, after.since(&before))
    }
}

/// What the node has done.
#[derive(Debug, PartialEq, Eq)]
struct Did {
    /// Hits from neighbours.
    found: u64,
    /// Searches for inputs.
    searched: u64,
    /// Compiles.
    made: u64,
}

const FOUND_AT_ONCE: Did = Did { found: 1, searched: 0, made: 0 };
const FOUND: Did = Did { found: 1, searched: 1, made: 0 };
const MADE: Did = Did { found: 0, searched: 1, made: 1 };

impl Did {
    /// What it has done once all calls have been dealt with.
    fn of(desk: &Desk) -> Self {
        let read = || {
            let stats = desk.stats();
            let number = |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap();
            let [found, made] = ["/hits/mesh", "/compiles/local"].map(number);
            let is_settled = found + made + number("/hits/local") == number("/requests/distributable");
            is_settled.then(|| Self { found, searched: number("/scans/count"), made })
        };
        desk.await_that("all is counted", |_| read().is_some());
        read().expect("nothing else compiles")
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            found: self.found - earlier.found,
            searched: self.searched - earlier.searched,
            made: self.made - earlier.made,
        }
    }
}

fn roster(members: [NodeId; 2]) -> SignedRoster {
    let admin = Identity::from_seed(&[200; 32]);
    let member = |id, name: &str| Member { id, name: name.to_owned(), capabilities: Capabilities::OFFICE };
    let first = Roster::found(&admin, member(members[0], "desk"), unix_now_s(), 3600);
    first.with(member(members[1], "liar"), unix_now_s()).unwrap().sign(&admin).unwrap()
}

#[test]
fn a_lying_neighbour_costs_a_search_and_never_a_wrong_object() {
    let mut office = Office::new();
    // On a machine under load the neighbour may not be heard in time; then nothing is known of what it would have cost.
    let mut check = |lie: Lie, expect: Did| {
        let mut did = Vec::new();
        for _ in 0..8 {
            let (unit, made) = office.unit();
            let (object, now) = office.again(&unit, lie);
            assert!(object == made, "{lie:?} {now:?}");
            if now == expect {
                return;
            }
            // A lie in a manifest is never of use.
            assert!(now == MADE, "{lie:?} {now:?}");
            did.push(now);
        }
        panic!("{lie:?}: {did:?}");
    };
    check(Lie::None, FOUND_AT_ONCE);
    IN_MANIFESTS.iter().for_each(|lie| check(*lie, FOUND));
    check(Lie::OtherOutputs, MADE);
    check(Lie::Silence, MADE);
}
