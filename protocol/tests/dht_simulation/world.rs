//! An office in virtual time: real [`Dht`]s, and between them a network that counts what the real codec makes of every
//! message.
//!
//! Only what the entries hold is left out: of what a node keeps on disk the world knows the keys, and every body is alike.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use barn_protocol::{
    ActionKey, Digest, Identity, NodeId,
    dht::{
        Answer, Body, Dht, Effect, Entry, EntryKey, Event, Get, Intent, Outcome, Put, Standing, Told,
        limits::{ANSWER_MAX, GET_WAIT_MAX, WAIT_MAX},
    },
    wire::{self, Bytes},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A signed record of one object, as measured.
const BODY_BYTES: usize = 260;
/// A signed include manifest of a C++ unit with 260 headers, packed as it travels, as measured.
const MANIFEST_BYTES: usize = 2800;
/// What a message costs beside its frame: headers of IP, UDP and QUIC, and the acknowledgement.
const OVERHEAD_BYTES: u64 = 120;
/// How long a dead connection goes unnoticed.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// Size and course of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// Entries that each node owns at the beginning, in the mean.
    pub(crate) entries: usize,
    pub(crate) length: Duration,
    /// Between one machine that goes and the next.
    pub(crate) churn_every: Duration,
    /// Between two compiles that one node looks up.
    pub(crate) lookup_every: Duration,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Look-ups of what somebody had made, and how many found it.
    pub(crate) existing: u64,
    pub(crate) found: u64,
    /// Look-ups of what nobody had made.
    pub(crate) new: u64,
    /// Look-ups of what another was making that waited for it and found it.
    pub(crate) shared: u64,
    /// Include manifests of what somebody had made that were found before.
    pub(crate) manifests: u64,
    pub(crate) churned: u64,
    pub(crate) handed: u64,
    /// Bytes sent and received by each node, for each second it was up.
    pub(crate) bytes_per_s_mean: f64,
    pub(crate) bytes_per_s_worst: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} look-ups of existing entries found them ({:.3} %), {} of new ones, {} shared; {} machines \
             came or went, {} entries handed over; {} manifests found; control traffic per node {:.2} KB/s in the \
             mean, {:.2} KB/s at worst",
            self.found,
            self.existing,
            100.0 * self.found as f64 / self.existing.max(1) as f64,
            self.new,
            self.shared,
            self.churned,
            self.handed,
            self.manifests,
            self.bytes_per_s_mean / 1000.0,
            self.bytes_per_s_worst / 1000.0,
        )
    }
}

enum Happening {
    Wake { node: usize, life: u32 },
    Asks { from: usize, to: usize, life: u32, message: u64, gets: Vec<Get> },
    Answers { to: usize, life: u32, message: u64, answers: Vec<Answer> },
    Tells { from: usize, to: usize, puts: Vec<Put> },
    PeerUp { at: usize, life: u32, peer: usize },
    PeerDown { at: usize, life: u32, peer: usize },
    Compile { node: usize },
    Compiled { node: usize, life: u32, key: u32 },
    Goes,
    Comes { node: usize, restarted: bool },
}

struct Node {
    id: NodeId,
    dht: Dht,
    /// What earlier lives kept: it is on disk still.
    shelves: Vec<Dht>,
    /// The manifests it keeps that were made since the beginning.
    manifests: HashSet<EntryKey>,
    up: bool,
    life: u32,
    wake: Option<Duration>,
    bytes: u64,
    up_since: Duration,
    up_for: Duration,
}

/// A look-up on its way.
struct Pending {
    key: u32,
    node: usize,
    existed: bool,
    since: Duration,
}

pub(crate) struct World {
    scenario: Scenario,
    now: Duration,
    random: StdRng,
    nodes: Vec<Node>,
    index: HashMap<NodeId, usize>,
    agenda: BTreeMap<(Duration, u64), Happening>,
    counter: u64,
    keys: u32,
    /// The manifests that were made before, and the office of then, which tells who keeps them.
    first_manifests: HashSet<EntryKey>,
    first: Dht,
    pending: BTreeMap<u64, Pending>,
    report: Report,
}

fn key(n: u32) -> EntryKey {
    EntryKey::record(&ActionKey(Digest::of(&n.to_le_bytes())))
}

fn manifest(n: u32) -> EntryKey {
    EntryKey::manifest(&Digest::of(&n.to_le_bytes()))
}

fn entry() -> Entry {
    entry_of(BODY_BYTES)
}

fn entry_of(bytes: usize) -> Entry {
    let body = Body { signed: Bytes(vec![7; bytes]), inline: Vec::new() };
    Entry { toolchain: Digest::of(b"gcc"), bodies: vec![body] }
}

fn seconds(random: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(random.gen_range(from..to))
}

impl World {
    /// An office that has been together for long and has compiled much.
    pub(crate) fn new(scenario: Scenario) -> Self {
        let node = |n: usize| {
            let mut seed = [3; 32];
            seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let id = Identity::from_seed(&seed).id();
            let dht = Dht::new(Duration::ZERO, id);
            let (wake, shelves) = (None, Vec::new());
            let none = Duration::ZERO;
            let manifests = HashSet::new();
            Node {
                id,
                dht,
                shelves,
                manifests,
                up: true,
                life: 0,
                wake,
                bytes: 0,
                up_since: none,
                up_for: none,
            }
        };
        let nodes: Vec<Node> = (0..scenario.nodes).map(node).collect();
        let nodes_first = nodes[0].id;
        let index = nodes.iter().enumerate().map(|(n, node)| (node.id, n)).collect();
        let mut world = Self {
            scenario,
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(scenario.seed),
            nodes,
            index,
            agenda: BTreeMap::new(),
            counter: 0,
            keys: 0,
            first_manifests: HashSet::new(),
            first: Dht::new(Duration::ZERO, nodes_first),
            pending: BTreeMap::new(),
            report: Report::default(),
        };
        world.introduce();
        world.fill();
        for node in 0..scenario.nodes {
            let after = seconds(&mut world.random, 0.0, 2.0 * scenario.lookup_every.as_secs_f64());
            world.plan(after, Happening::Compile { node });
        }
        world.plan(scenario.churn_every, Happening::Goes);
        world
    }

    fn introduce(&mut self) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        ids[1..].iter().for_each(|peer| self.first.handle(Duration::ZERO, Event::PeerUp(*peer)));
        for node in &mut self.nodes {
            for peer in ids.iter().filter(|peer| **peer != node.id) {
                node.dht.handle(Duration::ZERO, Event::PeerUp(*peer));
            }
        }
    }

    fn fill(&mut self) {
        let keys = self.scenario.nodes * self.scenario.entries / 2;
        self.keys = u32::try_from(keys).expect("a world of fewer than four thousand million keys");
        self.first_manifests = (0..self.keys).map(manifest).collect();
        for n in 0..self.keys {
            let key = key(n);
            let maker = self.nodes[n as usize % self.nodes.len()].id;
            for owner in self.nodes[0].dht.owners(key).into_iter().flatten() {
                let owner = self.index[&owner];
                self.nodes[owner].dht.handle(Duration::ZERO, Event::Kept { key, holders: vec![maker] });
            }
        }
    }

    /// Lets it all happen.
    pub(crate) fn run(mut self) -> Report {
        while let Some(((at, _), happening)) = self.agenda.pop_first() {
            if at > self.scenario.length {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
        self.sum_up()
    }

    fn sum_up(mut self) -> Report {
        let bound = GET_WAIT_MAX + ANSWER_MAX + WAIT_MAX + Duration::from_secs(1);
        let late = self
            .pending
            .values()
            .filter(|pending| pending.since + bound < self.now && self.nodes[pending.node].up);
        assert_eq!(late.count(), 0, "look-ups without an end, seed {}", self.scenario.seed);
        let now = self.now;
        let rates = self.nodes.iter().map(|node| {
            let last = if node.up { now - node.up_since } else { Duration::ZERO };
            node.bytes as f64 / (node.up_for + last).as_secs_f64().max(60.0)
        });
        let rates: Vec<f64> = rates.collect();
        self.report.bytes_per_s_mean = rates.iter().sum::<f64>() / rates.len() as f64;
        self.report.bytes_per_s_worst = rates.iter().copied().fold(0.0, f64::max);
        self.report
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.counter += 1;
        self.agenda.insert((self.now + after, self.counter), happening);
    }

    fn is_due(&self, node: usize) -> bool {
        self.nodes[node].wake.is_some_and(|wake| wake <= self.now)
    }

    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].up && self.nodes[node].life == life
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { node, life } if self.lives(node, life) && self.is_due(node) => {
                self.nodes[node].wake = None;
                self.drive(node);
            }
            Happening::Asks { from, to, life, message, gets } if self.nodes[to].up => {
                self.serve(from, to, life, message, &gets);
            }
            Happening::Answers { to, life, message, answers } if self.lives(to, life) => {
                self.tell(to, Event::Answered { message, answers });
            }
            Happening::Tells { from, to, puts } if self.nodes[to].up => {
                let from = self.nodes[from].id;
                self.tell(to, Event::Told { from, puts });
            }
            Happening::PeerUp { at, life, peer } if self.lives(at, life) && self.nodes[peer].up => {
                let peer = self.nodes[peer].id;
                self.tell(at, Event::PeerUp(peer));
            }
            Happening::PeerDown { at, life, peer } if self.lives(at, life) && !self.nodes[peer].up => {
                let peer = self.nodes[peer].id;
                self.tell(at, Event::PeerDown(peer));
            }
            Happening::Compile { node } => self.compile(node),
            Happening::Compiled { node, life, key: n } if self.lives(node, life) => {
                self.tell(node, Event::Made { key: key(n), entry: entry() });
                self.tell(node, Event::Made { key: manifest(n), entry: entry_of(MANIFEST_BYTES) });
            }
            Happening::Goes => self.one_goes(),
            Happening::Comes { node, restarted } => self.comes(node, restarted),
            _ => {}
        }
    }

    /// Somebody compiles: half of it has been compiled before.
    fn compile(&mut self, node: usize) {
        let mean = self.scenario.lookup_every.as_secs_f64();
        let again = seconds(&mut self.random, 0.5 * mean, 1.5 * mean);
        self.plan(again, Happening::Compile { node });
        if !self.nodes[node].up {
            return;
        }
        // The last few are still being made.
        let old = self.keys.saturating_sub(50);
        let existed = self.random.gen_bool(0.5) && old > 0;
        let made = if existed {
            self.random.gen_range(0..old)
        } else {
            // Now and then two build the same at once.
            self.keys += u32::from(self.random.gen_bool(0.9));
            self.keys
        };
        self.counter += 1;
        self.tell(node, Event::Wanted { lookup: self.counter, key: manifest(made), intent: Intent::Peek });
        self.counter += 1;
        let lookup = self.counter;
        self.pending.insert(lookup, Pending { key: made, node, existed, since: self.now });
        self.tell(node, Event::Wanted { lookup, key: key(made), intent: Intent::Make });
    }

    fn ended(&mut self, node: usize, lookup: u64, outcome: &Outcome) {
        let Some(pending) = self.pending.remove(&lookup) else {
            self.report.manifests += u64::from(matches!(outcome, Outcome::Found { .. }));
            return;
        };
        let found = matches!(outcome, Outcome::Found { .. } | Outcome::MadeHere);
        match (pending.existed, found) {
            (true, _) => {
                self.report.existing += 1;
                self.report.found += u64::from(found);
            }
            (false, false) => self.report.new += 1,
            (false, true) => self.report.shared += 1,
        }
        if !found {
            let (took, life) = (seconds(&mut self.random, 0.2, 3.0), self.nodes[node].life);
            self.plan(took, Happening::Compiled { node, life, key: pending.key });
        }
    }

    /// A machine is switched off, its node is restarted, or it is suspended.
    fn one_goes(&mut self) {
        self.plan(self.scenario.churn_every, Happening::Goes);
        let node = self.random.gen_range(0..self.nodes.len());
        if !self.nodes[node].up {
            return;
        }
        self.report.churned += 1;
        let now = self.now;
        let gone = &mut self.nodes[node];
        gone.up = false;
        gone.up_for += now - gone.up_since;
        let restarted = self.random.gen_bool(0.5);
        let noticed = if restarted { Duration::ZERO } else { KEEPALIVE };
        for at in (0..self.nodes.len()).filter(|at| *at != node) {
            let life = self.nodes[at].life;
            self.plan(noticed, Happening::PeerDown { at, life, peer: node });
        }
        let away = match self.random.gen_range(0..3) {
            0 => seconds(&mut self.random, 1.0, 60.0),
            1 => seconds(&mut self.random, 60.0, 600.0),
            _ => seconds(&mut self.random, 600.0, 3600.0),
        };
        self.plan(away.max(KEEPALIVE * 2), Happening::Comes { node, restarted });
    }

    fn comes(&mut self, node: usize, restarted: bool) {
        self.report.churned += 1;
        let now = self.now;
        let back = &mut self.nodes[node];
        (back.up, back.up_since, back.wake) = (true, now, None);
        if restarted {
            // Nobody waits any more for what an earlier life was asked.
            self.pending.retain(|_, pending| pending.node != node);
            back.life += 1;
            back.shelves.push(std::mem::replace(&mut back.dht, Dht::new(now, back.id)));
        }
        let life = back.life;
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        for other in others {
            if !restarted {
                // It has not seen the others go, but its connections are dead.
                let peer = self.nodes[other].id;
                self.nodes[node].dht.handle(now, Event::PeerDown(peer));
            }
            let other_life = self.nodes[other].life;
            let soon = seconds(&mut self.random, 0.1, 2.0);
            self.plan(soon, Happening::PeerUp { at: node, life, peer: other });
            self.plan(soon, Happening::PeerUp { at: other, life: other_life, peer: node });
        }
        self.drive(node);
    }

    fn tell(&mut self, node: usize, event: Event) {
        let now = self.now;
        self.nodes[node].dht.handle(now, event);
        self.drive(node);
    }

    fn drive(&mut self, node: usize) {
        let now = self.now;
        while let Some(effect) = self.nodes[node].dht.poll(now) {
            self.obey(node, effect);
        }
        let Node { dht, wake, life, .. } = &mut self.nodes[node];
        let Some(next) = dht.next_wake(now) else { return };
        // Polling at the same instant again would change nothing.
        let next = next.max(now + Duration::from_micros(10));
        if wake.is_none_or(|wake| next < wake) {
            *wake = Some(next);
            let life = *life;
            self.plan(next - now, Happening::Wake { node, life });
        }
    }

    fn obey(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Ask { peer, message, gets } => {
                let (to, life) = (self.index[&peer], self.nodes[node].life);
                self.carry(node, to, &gets);
                let way = self.way();
                self.plan(way, Happening::Asks { from: node, to, life, message, gets });
            }
            Effect::Tell { peer, puts } => self.send_puts(node, peer, puts),
            Effect::Hand { peer, entries } => {
                self.report.handed += entries.len() as u64;
                let put = |(key, holders)| Put { key, what: Told::Entry { entry: entry(), holders } };
                let puts: Vec<Put> = entries.into_iter().map(put).collect();
                let bytes = encoded(&puts);
                self.send_puts(node, peer, puts);
                let now = self.now;
                self.nodes[node].dht.handle(now, Event::Handed { bytes });
            }
            Effect::Keep { key, .. } if key.is_manifest() => drop(self.nodes[node].manifests.insert(key)),
            Effect::Keep { .. } => {}
            Effect::Ended { lookup, outcome } => self.ended(node, lookup, &outcome),
        }
    }

    fn send_puts(&mut self, from: usize, peer: NodeId, puts: Vec<Put>) {
        let to = self.index[&peer];
        self.carry(from, to, &puts);
        let way = self.way();
        self.plan(way, Happening::Tells { from, to, puts });
    }

    fn serve(&mut self, from: usize, to: usize, life: u32, message: u64, gets: &[Get]) {
        let now = self.now;
        let Node { id, dht, shelves, manifests, .. } = &mut self.nodes[to];
        let here = |get: &Get| match get.key.is_manifest() {
            true => {
                let is_old = self.first_manifests.contains(&get.key);
                manifests.contains(&get.key) || (is_old && self.first.owners(get.key)[0] == Some(*id))
            }
            false => dht.keeps(&get.key) || shelves.iter().any(|shelf| shelf.keeps(&get.key)),
        };
        let known: Vec<(Get, bool)> = gets.iter().map(|get| (*get, here(get))).collect();
        let asker = self.nodes[from].id;
        let standings = self.nodes[to].dht.serve(now, asker, &known);
        let answers = standings.into_iter().zip(gets).map(|(standing, get)| match standing {
            Standing::Here(holders) if get.key.is_manifest() => {
                Answer::Found { entry: entry_of(MANIFEST_BYTES), holders }
            }
            Standing::Here(holders) => Answer::Found { entry: entry(), holders },
            Standing::Making(left) => {
                Answer::Making { left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX) }
            }
            Standing::Nothing => Answer::Nothing,
        });
        let answers: Vec<Answer> = answers.collect();
        self.carry(to, from, &answers);
        let way = self.way();
        self.plan(way, Happening::Answers { to: from, life, message, answers });
        self.drive(to);
    }

    /// Counts a message at both ends.
    fn carry(&mut self, from: usize, to: usize, message: &impl serde::Serialize) {
        let bytes = encoded(message);
        self.nodes[from].bytes += bytes;
        if self.nodes[to].up {
            self.nodes[to].bytes += bytes;
        }
    }

    fn way(&mut self) -> Duration {
        seconds(&mut self.random, 0.000_1, 0.001)
    }
}

fn encoded(message: &impl serde::Serialize) -> u64 {
    wire::encode(message).expect("a message is below the frame limit").len() as u64 + OVERHEAD_BYTES
}
