//! Hundreds of nodes in virtual time: does the mesh come together, and is whom the admin struck cut off?
//!
//! Each node is a real [`Membership`] and a real [`SignedRoster`]; the network between them is simulated from
//! a seed: delays, lost packets, partitions of both kinds, nodes that die and come back, and an admin who admits
//! and revokes meanwhile. Named invariants are checked after every event, the rest 30 s after the last
//! trouble. A failure prints the seed and the last events.
//!
//! How rosters travel here is how the mesh layer must do it: both sides of a handshake hand over the newer one
//! before the connection is reported, and whoever takes a newer one tells all its connections.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use barn_protocol::{
    Identity, NodeId,
    membership::{DIAL_TIME_MAX, DIALS_MAX, Effect, Event, Membership, PeerState},
    roster::{Capabilities, Member, Roster, SignedRoster},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// How long a dead connection goes unnoticed.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// How often mDNS asks and answers.
const ANNOUNCE: Duration = Duration::from_secs(10);
/// Fault 9: a healed partition is whole again within this time.
const REJOIN_MAX: Duration = Duration::from_secs(30);
const UNIX_NOW: u64 = 1_700_000_000;
const LOG_LINES: usize = 60;

/// Size and course of one run.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    seed: u64,
    members: usize,
    /// Nodes that are only admitted on the way.
    newcomers: usize,
    troubles: usize,
    /// The share of packets lost.
    loss: f64,
    /// The longest a packet travels, in seconds.
    delay_max: f64,
}

/// What happens in the virtual world.
#[derive(Debug, Clone)]
enum Happening {
    Wake { node: usize, life: u32 },
    Announce { node: usize, life: u32 },
    Heard { node: usize, of: usize },
    DialArrives { from: usize, to: usize, dial: u64 },
    DialEnds { from: usize, to: usize, dial: u64, link: Option<u64>, roster: Option<Sheet> },
    Gossip { link: u64, to: usize, roster: Sheet },
    LinkBreaks { link: u64, at: usize },
    LinkStalls { link: u64 },
    Trouble,
}

/// A roster in somebody's hands.
#[derive(Clone)]
struct Sheet(Rc<SignedRoster>);

impl Sheet {
    fn roster(&self) -> &Roster {
        self.0.roster()
    }
}

impl fmt::Debug for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.roster().epoch)
    }
}

struct Node {
    id: NodeId,
    roster: Sheet,
    /// Whom the roster lists, by number.
    listed: BTreeSet<usize>,
    epoch_seen: u64,
    membership: Membership,
    alive: bool,
    /// Counts restarts, so that what was meant for an earlier life is dropped.
    life: u32,
    started: Duration,
    dials: BTreeMap<usize, u64>,
    links: BTreeMap<usize, BTreeSet<u64>>,
    up: BTreeSet<usize>,
    wake: Option<Duration>,
}

/// A connection, seen from both ends.
struct Link {
    ends: [usize; 2],
    up: [bool; 2],
}

struct World {
    scenario: Scenario,
    now: Duration,
    random: StdRng,
    admin: Identity,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    links: BTreeMap<u64, Link>,
    agenda: BTreeMap<(Duration, u64), Happening>,
    counter: u64,
    /// What cannot be reached from where.
    blocked: BTreeSet<(usize, usize)>,
    troubles_left: usize,
    /// The nodes of which anything changed in this step. Most steps change nothing: somebody is heard again.
    changed: BTreeSet<usize>,
    log: VecDeque<String>,
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + node as u16))
}

fn identity(n: usize) -> Identity {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Identity::from_seed(&seed)
}

fn member(n: usize) -> Member {
    Member { id: identity(n).id(), name: format!("host{n}"), capabilities: Capabilities::OFFICE }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let admin = identity(1_000_000);
        let mut roster = Roster::found(&admin, member(0), UNIX_NOW, 1_000_000);
        roster.members.extend((1..scenario.members).map(member));
        let roster = Sheet(Rc::new(roster.sign(&admin).expect("a good roster")));
        let total = scenario.members + scenario.newcomers;
        let ids: Vec<NodeId> = (0..total).map(|n| identity(n).id()).collect();
        let nodes = ids.iter().enumerate().map(|(n, id)| Node {
            id: *id,
            roster: roster.clone(),
            listed: (0..scenario.members).collect(),
            epoch_seen: 0,
            membership: Membership::new(*id, n as u64),
            alive: false,
            life: 0,
            started: Duration::ZERO,
            dials: BTreeMap::new(),
            links: BTreeMap::new(),
            up: BTreeSet::new(),
            wake: None,
        });
        let mut world = Self {
            scenario,
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(scenario.seed),
            admin,
            nodes: nodes.collect(),
            index: ids.into_iter().enumerate().map(|(n, id)| (id, n)).collect(),
            links: BTreeMap::new(),
            agenda: BTreeMap::new(),
            counter: 0,
            blocked: BTreeSet::new(),
            troubles_left: scenario.troubles,
            changed: BTreeSet::new(),
            log: VecDeque::new(),
        };
        for node in 0..scenario.members {
            world.start(node);
        }
        world.at(seconds(5.0), Happening::Trouble);
        world
    }

    /// Runs all troubles, then 30 quiet seconds, then checks that the mesh is whole.
    fn run(mut self) {
        while self.troubles_left > 0 {
            self.step();
        }
        self.note("all troubles are over");
        self.blocked.clear();
        for node in 0..self.nodes.len() {
            if !self.nodes[node].alive && self.ever_admitted(node) {
                self.start(node);
            }
        }
        let end = self.now + REJOIN_MAX;
        while self.agenda.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
        self.check_quiescence();
    }

    fn step(&mut self) {
        let ((at, _), happening) = self.agenda.pop_first().expect("announcements never end");
        self.now = at;
        if !matches!(happening, Happening::Heard { .. } | Happening::Wake { .. } | Happening::Gossip { .. }) {
            self.note(&happening);
        }
        self.happen(happening);
        for node in std::mem::take(&mut self.changed) {
            let (seen, epoch) = (self.nodes[node].epoch_seen, self.nodes[node].epoch());
            self.check("epochs never decrease", seen <= epoch);
            self.nodes[node].epoch_seen = epoch;
            self.check_node(node);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { node, life } if self.lives(node, life) => {
                self.nodes[node].wake = None;
                self.obey(node);
            }
            Happening::Announce { node, life } if self.lives(node, life) => {
                self.announce(node);
                self.later(ANNOUNCE, Happening::Announce { node, life });
            }
            Happening::Heard { node, of } if self.nodes[node].alive => {
                let peer = self.nodes[of].id;
                self.tell(node, Event::Discovered { peer, addresses: vec![address(of)] });
            }
            Happening::DialArrives { from, to, dial } => self.dial_arrives(from, to, dial),
            Happening::DialEnds { from, to, dial, link, roster } => {
                self.dial_ends(from, to, dial, link, roster);
            }
            Happening::Gossip { link, to, roster } => self.gossip_arrives(link, to, roster),
            Happening::LinkBreaks { link, at } => self.lose_link(link, at),
            Happening::LinkStalls { link } => {
                let ends = self.links.get(&link).map(|l| l.ends);
                if let Some([a, b]) = ends.filter(|[a, b]| self.cut(*a, *b)) {
                    self.lose_link(link, a);
                    self.lose_link(link, b);
                }
            }
            Happening::Trouble => self.trouble(),
            Happening::Wake { .. } | Happening::Announce { .. } | Happening::Heard { .. } => {}
        }
    }

    // What a node does.

    fn start(&mut self, node: usize) {
        let now = self.now;
        let it = &mut self.nodes[node];
        it.alive = true;
        it.life += 1;
        it.started = now;
        it.membership = Membership::new(it.id, (node as u64) << 32 | u64::from(it.life));
        let (life, members) = (it.life, it.member_ids());
        self.tell(node, Event::Roster(members));
        // mDNS asks at once and twice more; everybody who hears a question answers.
        for delay in [0.0, 1.0, 3.0] {
            self.later(seconds(delay), Happening::Announce { node, life });
            for other in 0..self.nodes.len() {
                if self.nodes[other].alive && !self.cut(other, node) && !self.lost() {
                    let delay = seconds(delay) + self.delay();
                    self.later(delay, Happening::Heard { node, of: other });
                }
            }
        }
    }

    fn stop(&mut self, node: usize) {
        let links: Vec<u64> = self.nodes[node].links.values().flatten().copied().collect();
        let it = &mut self.nodes[node];
        it.alive = false;
        it.wake = None;
        it.dials.clear();
        it.up.clear();
        it.links.clear();
        for link in links {
            self.close(link, node);
        }
    }

    fn announce(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if other != node && !self.cut(node, other) && !self.lost() {
                let delay = self.delay();
                self.later(delay, Happening::Heard { node: other, of: node });
            }
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let it = &mut self.nodes[node];
        let own_time = self.now - it.started;
        it.membership.handle(own_time, event);
        self.obey(node);
    }

    fn obey(&mut self, node: usize) {
        let own_time = self.now - self.nodes[node].started;
        while let Some(effect) = self.nodes[node].membership.poll(own_time) {
            self.changed.insert(node);
            match effect {
                Effect::Dial { peer, addresses } => self.dial(node, self.index[&peer], &addresses),
                Effect::Disconnect { peer } => self.hang_up(node, self.index[&peer]),
                Effect::PeerUp(peer) => {
                    let new = self.nodes[node].up.insert(self.index[&peer]);
                    self.check("a peer comes up once", new);
                }
                Effect::PeerDown(peer) => {
                    let was = self.nodes[node].up.remove(&self.index[&peer]);
                    self.check("only a peer that is up goes down", was);
                }
            }
        }
        let it = &mut self.nodes[node];
        let wake = it.membership.next_wake(own_time).map(|at| at + it.started);
        if wake != it.wake {
            it.wake = wake;
            let life = it.life;
            if let Some(at) = wake {
                self.at(at, Happening::Wake { node, life });
            }
        }
    }

    fn dial(&mut self, from: usize, to: usize, addresses: &[SocketAddr]) {
        self.check("a dial goes to an address of the peer", addresses == [address(to)]);
        let dial = self.next();
        self.nodes[from].dials.insert(to, dial);
        // A lost packet of the handshake is sent again after a second.
        let again = if self.lost() { seconds(1.0) } else { Duration::ZERO };
        let delay = self.delay() + again;
        self.later(delay, Happening::DialArrives { from, to, dial });
        let late = Happening::DialEnds { from, to, dial, link: None, roster: None };
        self.later(DIAL_TIME_MAX, late);
    }

    fn dial_arrives(&mut self, from: usize, to: usize, dial: u64) {
        if self.cut(from, to) || self.nodes[from].dials.get(&to) != Some(&dial) {
            return;
        }
        let delay = self.delay();
        if !self.nodes[to].alive {
            let refused = Happening::DialEnds { from, to, dial, link: None, roster: None };
            self.later(delay, refused);
            return;
        }
        let offered = self.hands_over(from, to);
        self.adopt(to, &offered);
        let mut link = None;
        if [from, to].iter().all(|n| self.nodes[to].listed.contains(n)) {
            let number = self.next();
            self.links.insert(number, Link { ends: [from, to], up: [false, true] });
            self.nodes[to].links.entry(from).or_default().insert(number);
            let peer = self.nodes[from].id;
            self.tell(to, Event::Connected { peer, address: address(from), outbound: false });
            link = Some(number);
        }
        let roster = Some(self.hands_over(to, from));
        self.later(delay, Happening::DialEnds { from, to, dial, link, roster });
    }

    /// In a handshake `from` shows its roster to whom it finds on it; others get nothing new.
    fn hands_over(&self, from: usize, to: usize) -> Sheet {
        let shown = if self.nodes[from].listed.contains(&to) { from } else { to };
        self.nodes[shown].roster.clone()
    }

    fn dial_ends(&mut self, from: usize, to: usize, dial: u64, link: Option<u64>, roster: Option<Sheet>) {
        let current = self.nodes[from].dials.get(&to) == Some(&dial);
        if !current || (link.is_some() && self.cut(from, to)) {
            if let Some(link) = link {
                self.later(KEEPALIVE, Happening::LinkBreaks { link, at: to });
            }
            return;
        }
        self.nodes[from].dials.remove(&to);
        if let Some(roster) = &roster {
            self.adopt(from, roster);
        }
        let peer = self.nodes[to].id;
        let Some(number) = link.filter(|_| self.nodes[from].listed.contains(&to)) else {
            if let Some(link) = link {
                self.close(link, from);
            }
            self.tell(from, Event::DialFailed { peer });
            return;
        };
        let Some(link) = self.links.get_mut(&number) else {
            self.tell(from, Event::DialFailed { peer });
            return;
        };
        link.up[0] = true;
        self.changed.insert(from);
        self.nodes[from].links.entry(to).or_default().insert(number);
        self.tell(from, Event::Connected { peer, address: address(to), outbound: true });
        // Our roster may have become newer while the answer travelled.
        if roster.is_some_and(|theirs| theirs.roster().epoch < self.nodes[from].epoch()) {
            self.send_roster(from, to, number);
        }
    }

    fn hang_up(&mut self, node: usize, peer: usize) {
        self.nodes[node].dials.remove(&peer);
        for link in self.nodes[node].links.remove(&peer).unwrap_or_default() {
            self.close(link, node);
        }
    }

    /// `node` no longer uses the link; the other end learns of it a little later.
    fn close(&mut self, number: u64, node: usize) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let side = usize::from(link.ends[1] == node);
        link.up[side] = false;
        let other = link.ends[1 - side];
        if link.up[1 - side] {
            let delay = if self.cut(node, other) { KEEPALIVE } else { self.delay() };
            self.later(delay, Happening::LinkBreaks { link: number, at: other });
        } else {
            self.links.remove(&number);
        }
    }

    /// The end `at` of a link notices that it is dead.
    fn lose_link(&mut self, number: u64, at: usize) {
        let Some(link) = self.links.get(&number) else { return };
        let side = usize::from(link.ends[1] == at);
        let (was_up, peer) = (link.up[side], link.ends[1 - side]);
        self.close(number, at);
        if !was_up || !self.nodes[at].alive {
            return;
        }
        self.changed.insert(at);
        if let Some(links) = self.nodes[at].links.get_mut(&peer)
            && links.remove(&number)
            && links.is_empty()
        {
            self.nodes[at].links.remove(&peer);
            let peer = self.nodes[peer].id;
            self.tell(at, Event::Disconnected { peer });
        }
    }

    /// Takes a roster if it is newer, and passes it on.
    fn adopt(&mut self, node: usize, offered: &Sheet) {
        if offered.roster().epoch <= self.nodes[node].epoch() {
            return;
        }
        let taken = self.nodes[node].roster.0.replaced_by(offered.0.bytes().clone(), UNIX_NOW);
        let taken = Rc::new(taken.expect("it is newer and signed by the admin"));
        self.hold(node, Sheet(taken));
        let members = self.nodes[node].member_ids();
        self.tell(node, Event::Roster(members));
        let links: Vec<(usize, u64)> = self.nodes[node]
            .links
            .iter()
            .flat_map(|(peer, links)| links.iter().map(|link| (*peer, *link)))
            .collect();
        for (peer, link) in links {
            self.send_roster(node, peer, link);
        }
    }

    fn hold(&mut self, node: usize, roster: Sheet) {
        self.changed.insert(node);
        let index = &self.index;
        let it = &mut self.nodes[node];
        it.listed = roster.roster().members.iter().map(|m| index[&m.id]).collect();
        it.roster = roster;
    }

    fn send_roster(&mut self, from: usize, to: usize, link: u64) {
        let roster = self.nodes[from].roster.clone();
        let delay = self.delay();
        self.later(delay, Happening::Gossip { link, to, roster });
    }

    fn gossip_arrives(&mut self, number: u64, to: usize, roster: Sheet) {
        let Some(link) = self.links.get(&number) else { return };
        let side = usize::from(link.ends[1] == to);
        let sender = link.ends[1 - side];
        if self.cut(sender, to) || !link.up[side] {
            // A stream delivers late, but in order, while it lives.
            self.later(seconds(0.5), Happening::Gossip { link: number, to, roster });
            return;
        }
        self.adopt(to, &roster);
    }

    // What befalls the world.

    fn trouble(&mut self) {
        if self.troubles_left == 0 {
            return;
        }
        self.troubles_left -= 1;
        let pause = seconds(self.random.gen_range(0.05..8.0));
        self.later(pause, Happening::Trouble);
        let victim = self.random.gen_range(1..self.nodes.len());
        match self.random.gen_range(0..10) {
            0 | 1 => self.partition(),
            2 | 3 => {
                self.note("the network heals");
                self.blocked.clear();
            }
            4 | 5 if self.nodes[victim].alive => {
                self.note(format_args!("node {victim} dies"));
                self.stop(victim);
            }
            4..=6 if self.ever_admitted(victim) && !self.nodes[victim].alive => {
                self.note(format_args!("node {victim} starts"));
                self.start(victim);
            }
            7 => self.revoke(victim),
            _ => self.admit(victim),
        }
    }

    /// Cuts a random part off, in both directions or, every third time, in one.
    fn partition(&mut self) {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.shuffle(&mut self.random);
        let (part, rest) = order.split_at(self.random.gen_range(1..order.len()));
        let one_way = self.random.gen_ratio(1, 3);
        for a in part {
            for b in rest {
                self.blocked.insert((*a, *b));
                if !one_way {
                    self.blocked.insert((*b, *a));
                }
            }
        }
        let (size, links) = (part.len(), self.links.iter());
        let crossing = links.filter(|(_, l)| self.cut(l.ends[0], l.ends[1])).map(|(n, _)| *n);
        for link in crossing.collect::<Vec<_>>() {
            self.later(KEEPALIVE, Happening::LinkStalls { link });
        }
        self.note(format_args!("{size} nodes are cut off, one way: {one_way}"));
    }

    fn revoke(&mut self, victim: usize) {
        let newest = self.nodes[0].roster.roster();
        if let Some(next) = newest.without(&self.nodes[victim].id, UNIX_NOW) {
            self.note(format_args!("the admin revokes node {victim}"));
            let signed = Sheet(Rc::new(next.sign(&self.admin).expect("the admin signs")));
            self.adopt(0, &signed);
        }
    }

    /// The admin's node admits `newcomer`, which is handed the roster when it joins; a member's admission is
    /// renewed.
    fn admit(&mut self, newcomer: usize) {
        if self.nodes[0].listed.contains(&newcomer) {
            self.note("the admin renews the roster");
            let renewed = self.nodes[0].roster.roster().renewed(UNIX_NOW);
            let signed = Sheet(Rc::new(renewed.sign(&self.admin).expect("the admin signs")));
            self.adopt(0, &signed);
            return;
        }
        if self.cut(0, newcomer) {
            return;
        }
        self.note(format_args!("the admin admits node {newcomer}"));
        let next = self.nodes[0].roster.roster().with(member(newcomer), UNIX_NOW);
        let signed = next.and_then(|next| next.sign(&self.admin)).expect("the admin signs");
        let signed = Sheet(Rc::new(signed));
        self.adopt(0, &signed);
        if self.nodes[newcomer].alive {
            self.adopt(newcomer, &signed);
        } else {
            self.hold(newcomer, signed);
            self.start(newcomer);
        }
    }

    // What must hold.

    fn check_node(&self, node: usize) {
        let it = &self.nodes[node];
        if !it.alive {
            return;
        }
        self.check("nobody is connected to a peer that its own roster does not list", {
            it.links.keys().all(|peer| it.listed.contains(peer))
        });
        self.check("nobody who knows to be struck is connected", {
            it.listed.contains(&node) || it.links.is_empty()
        });
        self.check("a peer is up while a connection exists", it.links.keys().eq(it.up.iter()));
        let (mut connected, mut dialing) = (0, 0);
        for peer in it.membership.peers() {
            connected += usize::from(matches!(peer.state, PeerState::Connected { .. }));
            dialing += usize::from(matches!(peer.state, PeerState::Dialing { .. }));
        }
        self.check("what was reported up is up", connected == it.up.len());
        self.check("dials are bounded", dialing <= DIALS_MAX);
    }

    fn check_quiescence(&self) {
        let newest = self.nodes[0].roster.roster();
        let is_member = |n: &usize| newest.member(&self.nodes[*n].id).is_some();
        let (members, others): (Vec<usize>, Vec<usize>) = (0..self.nodes.len()).partition(is_member);
        for &node in &members {
            let it = &self.nodes[node];
            self.check("all members are alive in the end", it.alive);
            let connected = it.membership.connected_peers().map(|id| self.index[&id]);
            self.check("what was reported up is up", connected.collect::<BTreeSet<_>>() == it.up);
            self.check("all members have the newest roster", it.epoch() == newest.epoch);
            for other in &members {
                let good = node == *other || it.up.contains(other);
                self.check_with("all members are connected", good, || format!("{node} to {other}"));
            }
            for other in &others {
                let good = !it.up.contains(other) && !self.nodes[*other].links.contains_key(&node);
                self.check_with("nobody who was struck is connected", good, || format!("{node} to {other}"));
            }
        }
    }

    fn check(&self, invariant: &str, holds: bool) {
        self.check_with(invariant, holds, String::new);
    }

    fn check_with(&self, invariant: &str, holds: bool, detail: impl Fn() -> String) {
        if !holds {
            let log: Vec<&str> = self.log.iter().map(String::as_str).collect();
            panic!("{invariant}: broken {}\n{:?}\n{}", detail(), self.scenario, log.join("\n"));
        }
    }

    // Small helpers.

    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].alive && self.nodes[node].life == life
    }

    fn ever_admitted(&self, node: usize) -> bool {
        node < self.scenario.members || self.nodes[node].life > 0
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        self.blocked.contains(&(a, b)) || self.blocked.contains(&(b, a))
    }

    fn lost(&mut self) -> bool {
        self.random.gen_bool(self.scenario.loss)
    }

    fn delay(&mut self) -> Duration {
        seconds(self.random.gen_range(0.0002..self.scenario.delay_max))
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        let number = self.next();
        self.agenda.insert((at, number), happening);
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn note(&mut self, line: impl fmt::Debug) {
        if self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:>12.6} {line:?}", self.now.as_secs_f64()));
    }
}

impl Node {
    fn epoch(&self) -> u64 {
        self.roster.roster().epoch
    }

    fn member_ids(&self) -> Vec<NodeId> {
        self.roster.roster().members.iter().map(|m| m.id).collect()
    }
}

const LAN: Scenario =
    Scenario { seed: 0, members: 6, newcomers: 3, troubles: 60, loss: 0.1, delay_max: 0.02 };

/// Small meshes with much trouble find most mistakes.
#[test]
fn small_meshes_come_together_after_every_trouble() {
    for seed in 0..60 {
        World::new(Scenario { seed, ..LAN }).run();
    }
}

/// Long ways and few nodes: rosters change while handshakes are under way, and no third node mends it.
#[test]
fn changes_during_handshakes_are_not_lost() {
    for seed in 0..500 {
        let pair = Scenario { members: 2, newcomers: 0, troubles: 12, loss: 0.5, delay_max: 1.5, ..LAN };
        World::new(Scenario { seed, ..pair }).run();
    }
}

#[test]
fn an_office_comes_together_after_trouble() {
    for seed in 0..3 {
        let office = Scenario { members: 36, newcomers: 4, troubles: 30, loss: 0.3, ..LAN };
        World::new(Scenario { seed, ..office }).run();
    }
}

#[test]
fn two_hundred_nodes_come_together() {
    World::new(Scenario { members: 200, troubles: 4, loss: 0.05, ..LAN }).run();
}
