//! Offices of up to two hundred machines that fetch one toolchain, from a seed: links are queues, time is virtual.
//!
//! Invariants after every run: every honest member that stays has every piece; nobody keeps a piece that was bad;
//! a member asks nobody for what it has or for more than the limits allow.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use barn_protocol::{
    Digest, Entry, Identity, NodeId, Toolchain, Tree, TreePath,
    transfer::{Gate, PieceMap, PieceSet, Swarm, limits},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Half a round trip in an office.
const LATENCY: Duration = Duration::from_micros(300);
/// How often a member tells what it has.
const NEWS_EVERY: Duration = Duration::from_millis(10);
/// 1 Gbit/s, in bytes a second.
const GIGABIT: f64 = 125e6;
/// Nothing takes longer in virtual time.
const END: Duration = Duration::from_secs(600);

struct Office {
    map: PieceMap,
    nodes: Vec<Machine>,
    index: BTreeMap<NodeId, usize>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
    now: Duration,
    random: StdRng,
    /// Who has a control stream to whom: fetchers of each source.
    audience: Vec<BTreeSet<usize>>,
}

struct Machine {
    id: NodeId,
    swarm: Swarm,
    bytes_per_s: f64,
    up_free: Duration,
    down_free: Duration,
    sent_bytes: u64,
    received_bytes: u64,
    gate: Gate,
    lies: bool,
    is_gone: bool,
    tells: bool,
    done_at: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick(usize),
    Tell(usize),
    /// A source's news, as they were when they were sent.
    News {
        from: usize,
        to: usize,
        have: Vec<u32>,
        coming: Vec<u32>,
    },
    Meet {
        from: usize,
        to: usize,
    },
    Ask {
        from: usize,
        to: usize,
        piece: u32,
    },
    Busy {
        from: usize,
        to: usize,
        piece: u32,
    },
    Absent {
        from: usize,
        to: usize,
        piece: u32,
    },
    Sent {
        from: usize,
        to: usize,
    },
    Piece {
        from: usize,
        to: usize,
        piece: u32,
    },
    Leave(usize),
}

/// A toolchain like gcc's, packed: 52 MB in 60 pieces of 1 MiB and some small ones.
fn gcc() -> PieceMap {
    let sizes = [30 << 20, 14 << 20, 9 << 20, 3 << 20, 2 << 20].into_iter().chain((1..40).map(|n| n * 2000));
    let mut tree = Tree::new();
    for (number, size) in sizes.enumerate() {
        let digest = Digest::of(&number.to_le_bytes());
        let path = TreePath::new(format!("/usr/{number}").into_bytes()).unwrap();
        tree.insert(path, Entry::File { digest, size, executable: true }).unwrap();
    }
    PieceMap::of(&Toolchain { name: "gcc".into(), machine: "x86_64".into(), tree, search_path: Vec::new() })
}

impl Office {
    /// Machine 0 has everything; all others start cold.
    fn new(machines: usize, seed: u64) -> Self {
        let map = gcc();
        let mut random = StdRng::seed_from_u64(seed);
        let nodes: Vec<Machine> = (0..machines)
            .map(|number| {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&(number as u64).to_le_bytes());
                let here = if number == 0 { PieceSet::all(map.len()) } else { PieceSet::none(map.len()) };
                Machine {
                    id: Identity::from_seed(&key).id(),
                    swarm: Swarm::new(&map, here, random.r#gen()),
                    bytes_per_s: GIGABIT,
                    up_free: Duration::ZERO,
                    down_free: Duration::ZERO,
                    sent_bytes: 0,
                    received_bytes: 0,
                    gate: Gate::default(),
                    lies: false,
                    is_gone: false,
                    tells: false,
                    done_at: None,
                }
            })
            .collect();
        let index = nodes.iter().enumerate().map(|(number, node)| (node.id, number)).collect();
        let audience = vec![BTreeSet::new(); machines];
        Self { map, nodes, index, events: BinaryHeap::new(), count: 0, now: Duration::ZERO, random, audience }
    }

    fn bytes(&self) -> u64 {
        self.map.blobs().iter().map(|(_, size)| size).sum()
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    /// All cold machines begin at once, knowing machine 0 alone.
    fn run(&mut self) {
        for number in 1..self.nodes.len() {
            let jitter = Duration::from_micros(self.random.gen_range(0..5000));
            self.at(jitter, Event::Meet { from: 0, to: number });
            self.at(jitter, Event::Tick(number));
        }
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            self.now = when;
            assert!(self.now < END, "not done after {END:?}");
            self.apply(event);
            if self.is_over() {
                break;
            }
        }
        assert!(self.is_over(), "nothing is left to happen");
    }

    fn is_over(&self) -> bool {
        self.nodes.iter().all(|node| node.is_gone || node.lies || node.swarm.is_done())
    }

    fn apply(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Tick(node) => {
                self.nodes[node].swarm.drop_dead(now);
                self.ask(node);
                if !self.nodes[node].swarm.is_done() && !self.nodes[node].is_gone {
                    self.at(now + limits::TICK, Event::Tick(node));
                }
            }
            Event::Tell(node) => {
                self.nodes[node].tells = false;
                let audience = self.audience[node].clone();
                for to in
                    audience.into_iter().filter(|to| !self.nodes[*to].swarm.is_done()).collect::<Vec<_>>()
                {
                    self.tell(node, to);
                }
            }
            Event::Meet { from, to } => self.meet(from, to),
            Event::News { from, to, have, coming } => {
                let id = self.nodes[from].id;
                let (have, coming) = (self.set(&have), self.set(&coming));
                self.nodes[to].swarm.source_has(now, &id, have, coming);
                self.ask(to);
            }
            Event::Ask { from, to, piece } => self.serve(to, from, piece),
            Event::Busy { from, to, piece } => {
                let id = self.nodes[from].id;
                self.nodes[to].swarm.busy(now, &id, piece);
                self.ask(to);
            }
            Event::Absent { from, to, piece } => {
                let id = self.nodes[from].id;
                self.nodes[to].swarm.absent(now, &id, piece);
                self.ask(to);
            }
            Event::Sent { from, to } => {
                let id = self.nodes[to].id;
                self.nodes[from].gate.sent(now, &id);
            }
            Event::Piece { from, to, piece } => self.arrive(from, to, piece),
            Event::Leave(node) => {
                self.nodes[node].is_gone = true;
                let id = self.nodes[node].id;
                self.nodes.iter_mut().for_each(|other| other.swarm.source_down(&id));
            }
        }
    }

    /// `to` opens a control stream to `from`, which tells it of its audience.
    fn meet(&mut self, from: usize, to: usize) {
        let id = self.nodes[from].id;
        let fit = from != to && !self.nodes[from].is_gone && !self.nodes[to].swarm.is_done();
        if !fit || !self.nodes[to].swarm.wants_source(&id) {
            return;
        }
        self.nodes[to].swarm.source_up(self.now, id, from == 0);
        self.audience[from].insert(to);
        self.tell(from, to);
        let others: Vec<usize> = self.audience[from].iter().copied().filter(|other| *other != to).collect();
        let some =
            rand::seq::index::sample(&mut self.random, others.len(), others.len().min(limits::SOURCES_MAX));
        for other in some.iter().map(|at| others[at]) {
            self.at(self.now + LATENCY * 2, Event::Meet { from: other, to });
            self.at(self.now + LATENCY * 2, Event::Meet { from: to, to: other });
        }
    }

    fn tell(&mut self, from: usize, to: usize) {
        let list = |set: &PieceSet| (0..self.map.len()).filter(|piece| set.contains(*piece)).collect();
        let swarm = &self.nodes[from].swarm;
        let event = Event::News { from, to, have: list(swarm.here()), coming: list(&swarm.coming()) };
        self.at(self.now + LATENCY, event);
    }

    fn set(&self, pieces: &[u32]) -> PieceSet {
        let mut set = PieceSet::none(self.map.len());
        pieces.iter().for_each(|piece| set.insert(*piece));
        set
    }

    fn ask(&mut self, node: usize) {
        if self.nodes[node].is_gone || self.nodes[node].lies {
            return;
        }
        let asks = self.nodes[node].swarm.asks(self.now);
        let asked_something = !asks.is_empty();
        for ask in asks {
            let to = self.index[&ask.source];
            assert!(ask.pieces.len() <= limits::SOURCE_PIECES_MAX);
            for piece in ask.pieces {
                assert!(!self.nodes[node].swarm.here().contains(piece), "asked for what is here");
                self.at(self.now + LATENCY, Event::Ask { from: node, to, piece });
            }
        }
        if asked_something {
            self.tell_all(node);
        }
    }

    /// News are gathered for a moment.
    fn tell_all(&mut self, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].tells, true) {
            self.at(self.now + NEWS_EVERY, Event::Tell(node));
        }
    }

    fn serve(&mut self, source: usize, to: usize, piece: u32) {
        let (now, id) = (self.now, self.nodes[to].id);
        if self.nodes[source].is_gone {
            return;
        }
        if !self.nodes[source].lies && !self.nodes[source].swarm.here().contains(piece) {
            self.at(now + LATENCY, Event::Absent { from: source, to, piece });
            return;
        }
        if !self.nodes[source].gate.enter(now, id) {
            self.at(now + LATENCY, Event::Busy { from: source, to, piece });
            return;
        }
        let bytes = self.map.place(piece).unwrap().bytes;
        let takes = |node: &Machine| Duration::from_secs_f64(bytes as f64 / node.bytes_per_s);
        let sent = self.nodes[source].up_free.max(now) + takes(&self.nodes[source]);
        self.nodes[source].up_free = sent;
        self.nodes[source].sent_bytes += bytes;
        // Receiving goes on while it is sent; only what comes from several at once queues.
        let begun = self.nodes[to].down_free.max(sent - takes(&self.nodes[to]).min(sent));
        let arrived = (begun + takes(&self.nodes[to])).max(sent);
        self.nodes[to].down_free = arrived;
        self.at(sent, Event::Sent { from: source, to });
        self.at(arrived + LATENCY, Event::Piece { from: source, to, piece });
    }

    fn arrive(&mut self, from: usize, to: usize, piece: u32) {
        if self.nodes[from].is_gone || self.nodes[to].is_gone {
            return;
        }
        let (now, id, good) = (self.now, self.nodes[from].id, !self.nodes[from].lies);
        let honest = self.nodes[to].swarm.arrived(now, &id, piece, good);
        assert_eq!(honest, good, "a liar is known at its first piece");
        assert!(good || !self.nodes[to].swarm.wants_source(&id), "and not asked again");
        self.nodes[to].received_bytes += self.map.place(piece).unwrap().bytes;
        if self.nodes[to].swarm.is_done() {
            self.nodes[to].done_at.get_or_insert(now);
        }
        self.tell_all(to);
        self.ask(to);
    }

    /// Copies of the toolchain that machine 0 sent, and the last arrival.
    fn outcome(&self) -> (f64, Duration) {
        let last = self.nodes.iter().filter_map(|node| node.done_at).max().unwrap_or_default();
        (self.nodes[0].sent_bytes as f64 / self.bytes() as f64, last)
    }

    fn assert_little_came_twice(&self) {
        for node in self.nodes.iter().filter(|node| node.swarm.is_done()) {
            let surplus = node.received_bytes.saturating_sub(self.bytes());
            assert!(surplus <= 8 << 20, "{surplus} bytes came twice");
        }
    }
}

fn line_time(office: &Office) -> f64 {
    office.bytes() as f64 / GIGABIT
}

#[test]
fn cold_workers_take_each_piece_about_once_from_the_one_that_has_it() {
    for (machines, seeds) in [(2, 3), (3, 3), (9, 10), (33, 1), (201, 1)] {
        for seed in 0..seeds {
            let mut office = Office::new(machines, seed);
            office.run();
            let (copies, last) = office.outcome();
            let ideal = line_time(&office);
            let share = last.as_secs_f64() / ideal;
            println!("{machines} machines, seed {seed}: {copies:.2} copies, {share:.2} of the ideal");
            assert!(copies <= 2.0, "seed {seed}: {copies} copies of {machines} machines");
            // Pieces go from hand to hand: a generation more for every doubling of the office.
            let bound = ideal * (1.0 + 0.5 * (machines as f64).log2());
            assert!(last.as_secs_f64() <= bound, "seed {seed}: {machines} machines took {last:?}");
            office.assert_little_came_twice();
        }
    }
}

#[test]
fn liars_are_left_out() {
    for seed in 0..4 {
        let mut office = Office::new(20, seed);
        // They say that they have everything, and are not spared as the requester is.
        for liar in 1..6 {
            office.nodes[liar].lies = true;
            office.nodes[liar].swarm = Swarm::new(&office.map, PieceSet::all(office.map.len()), seed);
            office.audience[0].insert(liar);
        }
        office.run();
        let (copies, _) = office.outcome();
        println!("liars, seed {seed}: {copies:.2} copies");
    }
}

#[test]
fn slow_and_vanishing_members_hold_up_nobody_for_long() {
    for seed in 0..4 {
        let mut office = Office::new(24, seed);
        for slow in 1..4 {
            office.nodes[slow].bytes_per_s = GIGABIT / 200.0;
        }
        for leaver in 4..12 {
            let when = Duration::from_millis(100 + 50 * leaver as u64);
            office.at(when, Event::Leave(leaver));
        }
        office.run();
        let fast = office.nodes[12..].iter().filter_map(|node| node.done_at).max().unwrap();
        println!("slow and leaving, seed {seed}: the others were done after {fast:?}");
        assert!(fast < Duration::from_secs(20), "seed {seed}: {fast:?}");
    }
}

#[test]
fn what_is_here_already_is_not_asked_for() {
    let mut office = Office::new(2, 7);
    let mut here = PieceSet::all(office.map.len());
    (0..office.map.len()).step_by(2).for_each(|piece| here.remove(piece));
    office.nodes[1].swarm = Swarm::new(&office.map, here.clone(), 7);
    let missing = office.nodes[1].swarm.missing_bytes();
    office.run();
    assert_eq!(office.nodes[0].sent_bytes, missing);
}
