use super::*;
use crate::Identity;

const S: Duration = Duration::from_secs(1);

fn id(n: u8) -> NodeId {
    Identity::from_seed(&[n; 32]).id()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn discovered(n: u8, ports: &[u16]) -> Event {
    Event::Discovered { peer: id(n), addresses: ports.iter().map(|p| address(*p)).collect() }
}

fn connected(n: u8) -> Event {
    Event::Connected { peer: id(n), address: address(9), outbound: false }
}

fn dial(n: u8, ports: &[u16]) -> Effect {
    Effect::Dial { peer: id(n), addresses: ports.iter().map(|p| address(*p)).collect() }
}

fn drain(node: &mut Membership, now: Duration) -> Vec<Effect> {
    std::iter::from_fn(|| node.poll(now)).collect()
}

/// Node 0 with members 0 to 3 feels `events` at the given seconds; what does it do at each?
fn check(events: &[(f64, Event, &[Effect])]) {
    let mut node = Membership::new(id(0), 1);
    node.handle(Duration::ZERO, Event::Roster((0..4).map(id).collect()));
    for (number, (at, event, expect)) in events.iter().enumerate() {
        let now = Duration::from_secs_f64(*at);
        assert_eq!(drain(&mut node, now), [], "before event {number}: {event:?}");
        node.handle(now, event.clone());
        assert_eq!(drain(&mut node, now), *expect, "after event {number}: {event:?}");
    }
}

#[test]
fn a_discovered_member_is_dialled_at_once_and_once() {
    check(&[
        (0.0, discovered(1, &[7, 8]), &[dial(1, &[7, 8])]),
        (0.1, discovered(1, &[7, 8]), &[]),
        (0.2, connected(1), &[Effect::PeerUp(id(1))]),
        (0.3, connected(1), &[]),
        (0.4, Event::DialFailed { peer: id(1) }, &[]),
        (0.5, discovered(0, &[5]), &[]),
    ]);
}

#[test]
fn an_order_of_roster_and_discovery_does_not_matter() {
    let mut node = Membership::new(id(0), 1);
    node.handle(Duration::ZERO, discovered(1, &[7]));
    assert_eq!(drain(&mut node, Duration::ZERO), []);
    node.handle(S, Event::Roster(vec![id(0), id(1)]));
    assert_eq!(drain(&mut node, S), [dial(1, &[7])]);
}

#[test]
fn strangers_are_turned_away_and_forgotten_after_a_while() {
    check(&[
        (0.0, discovered(9, &[7]), &[]),
        (0.1, connected(9), &[Effect::Disconnect { peer: id(9) }]),
        (0.2, Event::Disconnected { peer: id(9) }, &[]),
        (300.0, Event::Roster([0, 9].map(id).to_vec()), &[dial(9, &[7])]),
    ]);
    check(&[(0.0, discovered(9, &[7]), &[]), (300.1, Event::Roster([0, 9].map(id).to_vec()), &[])]);
}

#[test]
fn a_struck_member_is_let_go_from_every_state() {
    let without_1 = || Event::Roster([0, 2, 3].map(id).to_vec());
    let let_go = Effect::Disconnect { peer: id(1) };
    check(&[
        (0.0, connected(1), &[Effect::PeerUp(id(1))]),
        (0.1, without_1(), &[let_go.clone(), Effect::PeerDown(id(1))]),
        (0.2, Event::Disconnected { peer: id(1) }, &[]),
        (0.3, discovered(1, &[7]), &[]),
    ]);
    check(&[
        (0.0, discovered(1, &[7]), &[dial(1, &[7])]),
        (0.1, without_1(), std::slice::from_ref(&let_go)),
        (0.2, connected(1), std::slice::from_ref(&let_go)),
        (0.3, Event::DialFailed { peer: id(1) }, &[]),
        (60.0, discovered(2, &[7]), &[dial(2, &[7])]),
    ]);
    check(&[
        (0.0, discovered(1, &[7]), &[dial(1, &[7])]),
        (0.1, Event::DialFailed { peer: id(1) }, &[]),
        (0.2, without_1(), &[]),
        (60.0, connected(2), &[Effect::PeerUp(id(2))]),
        (60.1, Event::Roster((0..4).map(id).collect()), &[dial(1, &[7])]),
    ]);
}

#[test]
fn a_node_that_is_struck_itself_lets_go_of_everybody() {
    check(&[
        (0.0, connected(1), &[Effect::PeerUp(id(1))]),
        (
            0.1,
            Event::Roster([1, 2, 3].map(id).to_vec()),
            &[Effect::Disconnect { peer: id(1) }, Effect::PeerDown(id(1))],
        ),
        (0.2, discovered(2, &[7]), &[]),
    ]);
}

#[test]
fn an_inbound_address_is_not_dialled_but_an_outbound_one_is() {
    check(&[
        (0.0, connected(1), &[Effect::PeerUp(id(1))]),
        (0.1, Event::Disconnected { peer: id(1) }, &[Effect::PeerDown(id(1))]),
        (60.0, discovered(1, &[7]), &[dial(1, &[7])]),
    ]);
    check(&[
        (
            0.0,
            Event::Connected { peer: id(1), address: address(6), outbound: true },
            &[Effect::PeerUp(id(1))],
        ),
        (0.1, Event::Disconnected { peer: id(1) }, &[Effect::PeerDown(id(1))]),
        (0.2, discovered(2, &[8]), &[dial(2, &[8])]),
    ]);
}

/// The pauses of a peer whose dials or connections end as `end` says, which returns when they did.
fn pauses(count: usize, mut end: impl FnMut(&mut Membership, Duration) -> Duration) -> Vec<f64> {
    let mut node = Membership::new(id(0), 5);
    node.handle(Duration::ZERO, Event::Roster(vec![id(0), id(1)]));
    node.handle(Duration::ZERO, discovered(1, &[7]));
    assert_eq!(drain(&mut node, Duration::ZERO), [dial(1, &[7])]);
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..count {
        now = end(&mut node, now);
        assert!(!drain(&mut node, now).contains(&dial(1, &[7])), "no dial without a pause");
        let next = node.next_wake(now).expect("it is dialled again");
        pauses.push((next - now).as_secs_f64());
        assert_eq!(drain(&mut node, next - Duration::from_nanos(1)), []);
        assert_eq!(drain(&mut node, next), [dial(1, &[7])]);
        now = next;
    }
    pauses
}

fn assert_pauses(pauses: &[f64], expect: &[f64]) {
    for (pause, expect) in pauses.iter().zip(expect) {
        let range = expect * BACKOFF_JITTER.0..=expect * BACKOFF_JITTER.1;
        assert!(range.contains(pause), "{pauses:?} instead of about {expect}");
    }
    assert_eq!(pauses.len(), expect.len());
}

#[test]
fn pauses_double_up_to_the_limit() {
    let failing = pauses(6, |node, now| {
        node.handle(now + S, Event::DialFailed { peer: id(1) });
        now + S
    });
    assert_pauses(&failing, &[1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
}

#[test]
fn a_dial_without_an_answer_counts_as_failed() {
    let silent = pauses(3, |_, now| now + DIAL_TIME_MAX);
    assert_pauses(&silent, &[1.0, 2.0, 4.0]);
}

#[test]
fn a_flapping_peer_is_dialled_ever_less_a_stable_one_at_once() {
    let live_for = |time: Duration| {
        pauses(5, move |node, now| {
            node.handle(now, connected(1));
            node.handle(now + time, Event::Disconnected { peer: id(1) });
            now + time
        })
    };
    assert_pauses(&live_for(S), &[1.0, 2.0, 4.0, 8.0, 10.0]);
    assert_pauses(&live_for(STABLE_AFTER), &[1.0; 5]);
}

#[test]
fn a_new_address_shortens_the_pause_but_never_below_the_first() {
    let mut node = Membership::new(id(0), 1);
    node.handle(Duration::ZERO, Event::Roster(vec![id(0), id(1)]));
    node.handle(Duration::ZERO, discovered(1, &[1]));
    let mut dials = 0;
    let mut last: Option<Duration> = None;
    // The peer announces another address every tenth of a second, and never answers.
    for tenth in 0..1000_u32 {
        let now = Duration::from_millis(100) * tenth;
        node.handle(now, discovered(1, &[100 + tenth as u16]));
        for effect in drain(&mut node, now) {
            assert!(matches!(effect, Effect::Dial { .. }));
            assert!(last.is_none_or(|last| now - last >= BACKOFF_MIN), "dialled again too soon");
            last = Some(now);
            dials += 1;
            node.handle(now, Event::DialFailed { peer: id(1) });
        }
    }
    assert!((90..=100).contains(&dials), "{dials} dials in 100 s");
}

#[test]
fn everything_that_strangers_could_fill_is_bounded() {
    let mut node = Membership::new(id(0), 1);
    for n in 0..2000_u32 {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_le_bytes());
        let peer = Identity::from_seed(&seed).id();
        node.handle(S * n, Event::Discovered { peer, addresses: vec![address(1)] });
    }
    assert_eq!(node.strangers.len(), STRANGERS_MAX);

    node.handle(S, Event::Roster(vec![id(0), id(1)]));
    for port in 1..100 {
        node.handle(S, discovered(1, &[port, port + 1, port + 2]));
    }
    let newest: Vec<_> = [99, 100, 101, 98, 97, 96, 95, 94].map(address).to_vec();
    assert_eq!(node.peer(&id(1)).expect("a member").addresses, newest);
    assert_eq!(newest.len(), ADDRESSES_MAX);
}

#[test]
fn addresses_that_cannot_be_dialled_are_no_addresses() {
    let bad = ["0.0.0.0:7", "[::]:7", "10.0.0.1:0", "224.0.0.251:7"].map(|a| a.parse().expect("an address"));
    check(&[(0.0, Event::Discovered { peer: id(1), addresses: bad.to_vec() }, &[])]);
}

#[test]
fn dials_are_bounded_and_machines_that_are_off_do_not_hold_up_a_new_one() {
    let ids: Vec<NodeId> = (0..=255).map(id).collect();
    let mut node = Membership::new(id(0), 1);
    node.handle(Duration::ZERO, Event::Roster(ids.clone()));
    let off = &ids[1..200];
    for peer in off {
        node.handle(Duration::ZERO, Event::Discovered { peer: *peer, addresses: vec![address(7)] });
    }
    let mut under_way = BTreeMap::new();
    let mut step = |node: &mut Membership, now: Duration| -> Vec<NodeId> {
        under_way.retain(|_, since| now - *since < DIAL_TIME_MAX);
        let mut dialled = Vec::new();
        for effect in drain(node, now) {
            let Effect::Dial { peer, .. } = effect else { panic!("{effect:?}") };
            under_way.insert(peer, now);
            dialled.push(peer);
        }
        assert!(under_way.len() <= DIALS_MAX);
        dialled
    };
    for tenth in 0..600 {
        step(&mut node, S * tenth / 10);
    }
    node.handle(60 * S, discovered(250, &[7]));
    let waited = (0..).find(|tenth| step(&mut node, 60 * S + S * *tenth / 10).contains(&id(250)));
    assert!(waited.is_some_and(|tenths| tenths <= 50), "waited {waited:?} tenths of a second");
}

mod properties {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let peer = 0..6_u8;
        prop_oneof![
            vec(0..6_u8, 0..6).prop_map(|ns| Event::Roster(ns.into_iter().map(id).collect())),
            (peer.clone(), vec(0..20_u16, 0..4)).prop_map(|(n, ports)| discovered(n, &ports)),
            (peer.clone(), any::<bool>()).prop_map(|(n, outbound)| Event::Connected {
                peer: id(n),
                address: address(3),
                outbound
            }),
            peer.clone().prop_map(|n| Event::Disconnected { peer: id(n) }),
            peer.prop_map(|n| Event::DialFailed { peer: id(n) }),
        ]
    }

    proptest! {
        /// Whatever the mesh layer reports, in whatever order.
        #[test]
        fn up_and_down_alternate_and_only_members_are_dialled(
            events in vec((event(), 0..4000_u64), 0..200),
        ) {
            let mut node = Membership::new(id(0), 9);
            let mut now = Duration::ZERO;
            let mut members = Vec::new();
            let mut up = BTreeSet::new();
            for (event, pause_ms) in events {
                now += Duration::from_millis(pause_ms);
                if let Event::Roster(listed) = &event {
                    members = if listed.contains(&id(0)) { listed.clone() } else { Vec::new() };
                }
                node.handle(now, event);
                for effect in drain(&mut node, now) {
                    match effect {
                        Effect::PeerUp(peer) => prop_assert!(members.contains(&peer) && up.insert(peer)),
                        Effect::PeerDown(peer) => prop_assert!(up.remove(&peer)),
                        Effect::Dial { peer, addresses } => {
                            prop_assert!(peer != id(0) && members.contains(&peer));
                            prop_assert!(!up.contains(&peer) && !addresses.is_empty());
                        }
                        Effect::Disconnect { .. } => {}
                    }
                }
                prop_assert!(up.iter().all(|peer| members.contains(peer)));
                prop_assert_eq!(&node.connected_peers().collect::<BTreeSet<_>>(), &up);
                prop_assert!(node.next_wake(now).is_none_or(|at| at > now), "a drained machine spins");
            }
        }
    }
}
