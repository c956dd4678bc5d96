use std::time::Duration;

use super::{
    limits::{ANSWER_MAX, GONE_AFTER, IMPATIENT_FOR, PUT_WAIT_MAX, SILENT_FOR, STABLE_AFTER, WAIT_MAX},
    *,
};
use crate::{ActionKey, Digest, Identity, wire::Bytes};

fn id(n: u8) -> NodeId {
    Identity::from_seed(&[n; 32]).id()
}

fn key(n: u32) -> EntryKey {
    EntryKey::record(&ActionKey(Digest::of(&n.to_le_bytes())))
}

fn entry(n: u8) -> Entry {
    let body = Body { signed: Bytes(vec![n; 300]), inline: vec![Bytes(vec![n])] };
    Entry { toolchain: Digest::of(b"gcc"), bodies: vec![body] }
}

const MS: Duration = Duration::from_millis(1);

/// A few nodes, a network that takes no time, and what became of look-ups.
struct Trio {
    now: Duration,
    nodes: Vec<(NodeId, Dht)>,
    /// Takes messages and gives nothing back.
    frozen: Option<NodeId>,
    ended: Vec<(NodeId, u64, Outcome)>,
    asked: Vec<(NodeId, NodeId, Vec<Get>)>,
    kept: Vec<(NodeId, EntryKey)>,
}

impl Trio {
    fn new(count: u8) -> Self {
        let now = Duration::ZERO;
        let nodes: Vec<_> = (1..=count).map(|n| (id(n), Dht::new(now, id(n)))).collect();
        let mut trio =
            Self { now, nodes, frozen: None, ended: Vec::new(), asked: Vec::new(), kept: Vec::new() };
        for n in 1..=count {
            for other in (1..=count).filter(|other| *other != n) {
                trio.tell(n, Event::PeerUp(id(other)));
            }
        }
        trio
    }

    fn dht(&mut self, node: NodeId) -> &mut Dht {
        &mut self.nodes.iter_mut().find(|(id, _)| *id == node).expect("a node").1
    }

    fn tell(&mut self, n: u8, event: Event) {
        let now = self.now;
        self.dht(id(n)).handle(now, event);
        self.run();
    }

    /// Runs until nothing is left to do at this time.
    fn run(&mut self) {
        let now = self.now;
        while let Some((from, effect)) = self
            .nodes
            .iter_mut()
            .filter(|(id, _)| Some(*id) != self.frozen)
            .find_map(|(id, dht)| Some((*id, dht.poll(now)?)))
        {
            self.obey(from, effect);
        }
    }

    fn obey(&mut self, from: NodeId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Ask { peer, message, gets } => {
                self.asked.push((from, peer, gets.clone()));
                if Some(peer) == self.frozen {
                    return;
                }
                let dht = self.dht(peer);
                let known: Vec<_> = gets.iter().map(|get| (*get, dht.keeps(&get.key))).collect();
                let standings = dht.serve(now, from, &known);
                let answers = standings.into_iter().map(|standing| match standing {
                    Standing::Here(holders) => Answer::Found { entry: entry(9), holders },
                    Standing::Making(left) => Answer::Making { left_ms: left.as_millis() as u32 },
                    Standing::Nothing => Answer::Nothing,
                });
                let answers = answers.collect();
                self.dht(from).handle(now, Event::Answered { message, answers });
            }
            Effect::Tell { peer, puts } => {
                if Some(peer) != self.frozen {
                    self.dht(peer).handle(now, Event::Told { from, puts });
                }
            }
            Effect::Hand { peer, entries } => {
                let put = |(key, holders)| Put { key, what: Told::Entry { entry: entry(9), holders } };
                let puts: Vec<Put> = entries.into_iter().map(put).collect();
                self.dht(peer).handle(now, Event::Told { from, puts });
                self.dht(from).handle(now, Event::Handed { bytes: 1000 });
            }
            Effect::Keep { key, .. } => self.kept.push((from, key)),
            Effect::Ended { lookup, outcome } => self.ended.push((from, lookup, outcome)),
        }
    }

    /// Lets time pass, in steps in which whoever wants to be woken is.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.run();
            let now = self.now;
            let awake = self.nodes.iter().filter(|(id, _)| Some(*id) != self.frozen);
            match awake.filter_map(|(_, dht)| dht.next_wake(now)).min() {
                // A wake that changes nothing must not stop time.
                Some(wake) if wake < end => self.now = wake.max(now + MS / 10),
                _ => break,
            }
        }
        self.now = end;
        self.run();
    }

    fn want(&mut self, n: u8, lookup: u64, key: EntryKey) {
        self.want_for(n, lookup, key, Intent::Make);
    }

    fn want_for(&mut self, n: u8, lookup: u64, key: EntryKey, intent: Intent) {
        self.tell(n, Event::Wanted { lookup, key, intent });
    }

    fn outcome(&mut self, n: u8, lookup: u64) -> Option<Outcome> {
        let at = self.ended.iter().position(|(who, which, _)| (*who, *which) == (id(n), lookup))?;
        Some(self.ended.remove(at).2)
    }

    fn found(&mut self, n: u8, lookup: u64) -> bool {
        matches!(self.outcome(n, lookup), Some(Outcome::Found { .. }))
    }

    /// A key with these owners, as the first node sees them.
    fn key_of(&self, owners: [u8; 2]) -> EntryKey {
        let wanted = owners.map(|n| Some(id(n)));
        (0..).map(key).find(|key| self.nodes[0].1.owners(*key) == wanted).expect("there are many keys")
    }
}

#[test]
fn what_one_made_another_finds() {
    let mut trio = Trio::new(4);
    let key = trio.key_of([2, 3]);
    trio.want(1, 1, key);
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    trio.tell(1, Event::Made { key, entry: entry(1) });
    trio.pass(PUT_WAIT_MAX);
    trio.want(4, 2, key);
    let Some(Outcome::Found { holders, owner, .. }) = trio.outcome(4, 2) else { panic!("not found") };
    assert_eq!((holders, owner), (vec![id(1)], id(2)));
    trio.tell(4, Event::Holding { key });
    trio.pass(PUT_WAIT_MAX);
    trio.want(1, 3, key);
    let Some(Outcome::Found { holders, .. }) = trio.outcome(1, 3) else { panic!("not found") };
    assert_eq!(holders, [id(1), id(4)]);
    // Only the first owner sends small outputs, and only it may be given a mark.
    let asked = trio.asked.iter().filter(|(_, _, gets)| gets[0].key == key);
    assert!(asked.clone().all(|(_, peer, gets)| gets[0].inline == (*peer == id(2))));
    assert!(asked.clone().all(|(_, peer, gets)| gets[0].mark == (*peer == id(2))));
}

#[test]
fn nobody_is_asked_without_peers() {
    let mut trio = Trio::new(1);
    trio.want(1, 1, key(1));
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    assert_eq!(trio.asked.len(), 0);
    let now = trio.now;
    assert_eq!(trio.nodes[0].1.next_wake(now), None);
    trio.tell(1, Event::Made { key: key(1), entry: entry(1) });
    assert!(trio.nodes[0].1.is_alone() && trio.nodes[0].1.is_empty());
}

#[test]
fn a_silent_owner_costs_once() {
    let mut trio = Trio::new(4);
    let key = trio.key_of([2, 3]);
    trio.frozen = Some(id(2));
    trio.want(1, 1, key);
    assert_eq!(trio.outcome(1, 1), None);
    trio.pass(ANSWER_MAX);
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    trio.tell(1, Event::Made { key, entry: entry(1) });
    trio.pass(PUT_WAIT_MAX);
    trio.asked.clear();
    trio.want(1, 2, key);
    assert!(trio.found(1, 2), "the second owner has it");
    assert!(trio.asked.iter().all(|(_, peer, _)| *peer == id(3)));
    // Another asks the silent one first, and finds at once all the same.
    trio.want(4, 3, key);
    assert!(trio.found(4, 3));
    trio.pass(SILENT_FOR);
    trio.asked.clear();
    trio.want(1, 4, key);
    assert!(trio.asked.iter().any(|(_, peer, _)| *peer == id(2)), "it is tried again");
}

#[test]
fn a_peer_that_goes_down_ends_what_was_asked_of_it() {
    let mut trio = Trio::new(4);
    let key = trio.key_of([2, 3]);
    trio.frozen = Some(id(2));
    trio.want(1, 1, key);
    trio.tell(1, Event::PeerDown(id(2)));
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    trio.asked.clear();
    let owned = |key: &EntryKey| trio.nodes[0].1.owners(*key) == [Some(id(2)), Some(id(3))];
    let another = (1000..).map(super::tests::key).find(owned).expect("there are many keys");
    trio.want(1, 2, another);
    assert!(!trio.asked.is_empty() && trio.asked.iter().all(|(_, peer, _)| *peer == id(3)));
}

#[test]
fn what_two_want_at_once_is_made_once() {
    let mut trio = Trio::new(4);
    for (round, owners) in [[2, 3], [1, 2], [4, 1]].into_iter().enumerate() {
        let lookup = 10 * round as u64;
        let key = trio.key_of(owners);
        trio.want(1, lookup, key);
        assert_eq!(trio.outcome(1, lookup), Some(Outcome::Nothing), "{owners:?}");
        // Another machine, and another process of the same machine.
        trio.want(4, lookup + 1, key);
        trio.want(1, lookup + 2, key);
        trio.pass(WAIT_MAX / 2);
        assert_eq!((trio.outcome(4, lookup + 1), trio.outcome(1, lookup + 2)), (None, None), "{owners:?}");
        trio.tell(1, Event::Made { key, entry: entry(1) });
        trio.pass(PUT_WAIT_MAX);
        assert!(trio.found(4, lookup + 1), "{owners:?}");
        assert_eq!(trio.outcome(1, lookup + 2), Some(Outcome::MadeHere));
    }
}

#[test]
fn whoever_waits_is_let_go() {
    let mut trio = Trio::new(4);
    let check = |trio: &mut Trio, lookup: u64, end: &dyn Fn(&mut Trio, EntryKey)| {
        let owned = |key: &EntryKey| trio.nodes[0].1.owners(*key) == [Some(id(2)), Some(id(3))];
        let key = (1000 * lookup as u32..).map(key).find(owned).expect("there are many keys");
        trio.want(1, lookup, key);
        trio.want(4, lookup, key);
        assert_eq!((trio.outcome(1, lookup), trio.outcome(4, lookup)), (Some(Outcome::Nothing), None));
        end(trio, key);
        assert_eq!(trio.outcome(4, lookup), Some(Outcome::Nothing));
    };
    check(&mut trio, 1, &|trio, key| {
        trio.tell(1, Event::GaveUp { lookup: 1, key });
        trio.pass(PUT_WAIT_MAX);
    });
    check(&mut trio, 2, &|trio, _| {
        trio.tell(2, Event::PeerDown(id(1)));
        trio.pass(PUT_WAIT_MAX);
    });
    check(&mut trio, 3, &|trio, _| trio.pass(WAIT_MAX));
    // It waits for nobody for a while.
    let key = key(1_000_000);
    trio.want(1, 8, key);
    assert_eq!(trio.outcome(1, 8), Some(Outcome::Nothing));
    trio.want(4, 8, key);
    assert_eq!(trio.outcome(4, 8), Some(Outcome::Nothing));
    trio.pass(IMPATIENT_FOR);
    trio.want(1, 9, key);
    trio.want(4, 9, key);
    assert_eq!(trio.outcome(4, 9), None);
}

#[test]
fn questions_share_messages_while_an_owner_is_busy() {
    let mut trio = Trio::new(2);
    trio.frozen = Some(id(2));
    for lookup in 0..50 {
        trio.want(1, lookup, key(lookup as u32));
    }
    trio.pass(MS);
    assert_eq!(trio.asked.len(), 1);
    trio.pass(3 * MS);
    let sizes: Vec<usize> = trio.asked.iter().map(|(_, _, gets)| gets.len()).collect();
    assert_eq!(sizes, [1, 49]);
}

#[test]
fn keys_move_when_a_member_is_gone_for_good_or_has_come_to_stay() {
    let mut trio = Trio::new(4);
    let keys: Vec<EntryKey> = (0..60).map(key).collect();
    trio.pass(STABLE_AFTER);
    for key in &keys {
        trio.tell(1, Event::Made { key: *key, entry: entry(1) });
    }
    trio.pass(PUT_WAIT_MAX);
    let gone = trio.nodes.remove(3);
    for n in 1..=3 {
        trio.tell(n, Event::PeerDown(gone.0));
    }
    let copies = |trio: &Trio, key: &EntryKey| trio.nodes.iter().filter(|(_, dht)| dht.keeps(key)).count();
    let whole = |trio: &Trio| keys.iter().all(|key| copies(trio, key) >= 2);
    trio.pass(GONE_AFTER - MS);
    assert!(!whole(&trio), "its keys stay its own for a while");
    trio.pass(STABLE_AFTER);
    assert!(whole(&trio), "they went to others");
    // A stranger comes.
    let now = trio.now;
    trio.nodes.push((id(5), Dht::new(now, id(5))));
    for n in 1..=3 {
        trio.tell(5, Event::PeerUp(id(n)));
        trio.tell(n, Event::PeerUp(id(5)));
    }
    let owned = |trio: &Trio| {
        let (dht, new) = (&trio.nodes[0].1, &trio.nodes[3].1);
        let owned = keys.iter().filter(|key| dht.owners(**key).contains(&Some(id(5))));
        owned.fold((0, 0), |(all, kept), key| (all + 1, kept + usize::from(new.keeps(key))))
    };
    trio.pass(STABLE_AFTER - MS);
    assert_eq!(owned(&trio), (0, 0));
    trio.pass(STABLE_AFTER);
    let (all, kept) = owned(&trio);
    assert!(all > 10 && kept == all, "{kept} of {all}");
}

#[test]
fn whatever_is_told_under_a_key_is_kept() {
    let mut dht = Dht::new(Duration::ZERO, id(1));
    dht.handle(MS, Event::PeerUp(id(2)));
    let put = |n: u8| {
        let what = Told::Entry { entry: entry(n), holders: vec![id(n)] };
        Event::Told { from: id(2), puts: vec![Put { key: key(1), what }] }
    };
    dht.handle(MS, put(1));
    assert_eq!(dht.poll(MS), Some(Effect::Keep { key: key(1), entry: entry(1), holders: vec![id(1)] }));
    dht.handle(MS, put(2));
    assert_eq!(dht.poll(MS), Some(Effect::Keep { key: key(1), entry: entry(2), holders: vec![id(2)] }));
    let get = Get { key: key(1), mark: false, inline: false };
    assert_eq!(dht.serve(MS, id(2), &[(get, true)]), [Standing::Here(vec![id(1), id(2)])]);
    // What is not there any more is not claimed.
    assert_eq!(dht.serve(MS, id(2), &[(get, false)]), [Standing::Nothing]);
    assert!(dht.is_empty());
}

#[test]
fn only_the_look_up_that_makes_it_gives_it_up() {
    let mut trio = Trio::new(4);
    let key = trio.key_of([2, 3]);
    trio.want(1, 1, key);
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    trio.want(1, 2, key);
    trio.want(4, 3, key);
    // The second look-up of the same node goes away.
    trio.tell(1, Event::Dropped { lookup: 2 });
    trio.tell(1, Event::GaveUp { lookup: 2, key });
    trio.pass(PUT_WAIT_MAX);
    assert_eq!(trio.outcome(4, 3), None, "the first still makes it");
    trio.tell(1, Event::Made { key, entry: entry(1) });
    trio.pass(PUT_WAIT_MAX);
    assert!(trio.found(4, 3));
}

#[test]
fn whoever_believes_few_waits_for_nobody_and_hears_all() {
    let mut trio = Trio::new(4);
    let key = trio.key_of([2, 3]);
    trio.want(1, 1, key);
    for (n, lookup) in [(4, 2), (3, 3), (2, 4)] {
        trio.want_for(n, lookup, key, Intent::MakeAnyhow);
        assert_eq!(trio.outcome(n, lookup), Some(Outcome::Nothing), "node {n}");
    }
    // Whoever makes it tells the owners, who keep them all.
    for n in [1, 4] {
        trio.tell(n, Event::Made { key, entry: entry(n) });
    }
    trio.pass(PUT_WAIT_MAX);
    trio.asked.clear();
    trio.want_for(1, 5, key, Intent::MakeAnyhow);
    assert!(trio.found(1, 5));
    assert_eq!(trio.asked.len(), 2, "both owners were asked");
}

#[test]
fn what_all_owners_have_is_heard_together() {
    let mut lookups = lookups::Lookups::default();
    let mut members = Members::new(Duration::ZERO, id(1));
    let [two, three] = [2, 3].map(|n| members.handle(id(n)).expect("there are names left"));
    let answer = |n: u8, holder: u8| Some(Answer::Found { entry: entry(n), holders: vec![id(holder)] });
    for intent in [Intent::MakeAnyhow, Intent::PeekAll] {
        lookups.ask(1, key(1), intent, &[two, three], None);
        assert!(lookups.heard(1, two, id(2), answer(7, 5)).is_none(), "{intent:?}");
        let step = lookups.heard(1, three, id(3), answer(8, 6));
        let Some(Step::Found(found, holders, owner)) = step else { panic!("{step:?}") };
        assert_eq!(found.bodies, [entry(7).bodies, entry(8).bodies].concat());
        assert_eq!((holders, owner), (vec![id(5), id(6)], id(2)));
    }
}

#[test]
fn whoever_peeks_asks_one_owner_and_leaves_no_mark() {
    let mut trio = Trio::new(4);
    let record = trio.key_of([2, 3]);
    trio.want_for(1, 1, record, Intent::Peek);
    assert_eq!(trio.outcome(1, 1), Some(Outcome::Nothing));
    assert_eq!(trio.asked.len(), 1);
    trio.want(4, 2, record);
    assert_eq!(trio.outcome(4, 2), Some(Outcome::Nothing), "nobody is said to make it");
    trio.want_for(1, 3, record, Intent::Peek);
    assert_eq!(trio.outcome(1, 3), Some(Outcome::Nothing), "nobody is waited for");
}

#[test]
fn manifests_are_told_to_the_first_owner_and_not_handed_over() {
    let mut trio = Trio::new(4);
    let owned = |key: &EntryKey| trio.nodes[0].1.owners(*key) == [Some(id(2)), Some(id(3))];
    let names = (0_u32..).map(|n| EntryKey::manifest(&Digest::of(&n.to_le_bytes())));
    let key = names.into_iter().find(owned).expect("there are many keys");
    trio.tell(1, Event::Made { key, entry: entry(1) });
    trio.pass(PUT_WAIT_MAX);
    let kept = trio.kept.iter().filter(|(_, kept)| *kept == key).map(|(who, _)| *who);
    assert_eq!(kept.collect::<Vec<_>>(), [id(2)]);
    // Whoever looks for it asks the same one, and while that is silent the other.
    for (frozen, expect) in [(None, 2), (Some(id(2)), 3)] {
        trio.frozen = frozen;
        if frozen.is_some() {
            let another = trio.key_of([2, 3]);
            trio.want(4, 10, another);
            trio.pass(ANSWER_MAX);
        }
        trio.asked.clear();
        trio.want_for(4, 20 + expect, key, Intent::PeekAll);
        let asked: Vec<NodeId> = trio.asked.iter().map(|(_, peer, _)| *peer).collect();
        assert_eq!(asked, [id(u8::try_from(expect).expect("small"))]);
    }
    trio.frozen = None;
    let get = Get { key, mark: false, inline: true };
    let now = trio.now;
    assert_eq!(trio.dht(id(2)).serve(now, id(1), &[(get, true)]), [Standing::Here(Vec::new())]);
    assert_eq!(trio.dht(id(2)).serve(now, id(1), &[(get, false)]), [Standing::Nothing]);
    assert!(trio.nodes.iter().all(|(_, dht)| dht.is_empty()));
}
