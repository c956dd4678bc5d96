//! Which task goes where.

use super::*;

#[test]
fn without_workers_tasks_run_here_in_order_as_slots_free() {
    Desk::new(2)
        .submit(0..4)
        .runs(&[(0, Place::Local), (1, Place::Local)])
        .finish(1, Place::Local, S)
        .runs(&[(2, Place::Local)])
        .finish(0, Place::Local, S)
        .finish(2, Place::Local, S)
        .runs(&[(3, Place::Local)]);
}

#[test]
fn an_equal_worker_gets_what_does_not_fit_here() {
    Desk::new(1).advert(1, 2, 2).submit(0..4).runs(&[(0, Place::Local), (1, on(1)), (2, on(1))]);
}

#[test]
fn a_new_worker_is_sent_three_tasks_at_first() {
    let three = [(0, Place::Local), (1, on(1)), (2, on(1)), (3, on(1))];
    Desk::new(1)
        .advert(1, 5, 5)
        .submit(0..10)
        .runs(&three)
        .wait(UNPROVEN_TIME)
        .runs(&[])
        .begin(1, 1)
        .wait(UNPROVEN_TIME)
        .runs(&[(6, on(1)), (7, on(1))]);
}

#[test]
fn a_much_quicker_worker_is_preferred_to_a_free_core() {
    let mut desk = Desk::experienced(1, 4 * S, S);
    desk.advert(1, 1, 1).submit(0..2).runs(&[(0, on(1)), (1, Place::Local)]);
    let mut desk = Desk::experienced(1, 4 * S, S * 7 / 2);
    desk.advert(1, 1, 1).submit(0..1).runs(&[(0, Place::Local)]);
}

#[test]
fn a_slow_worker_gets_only_what_would_wait_here_for_longer() {
    let mut desk = Desk::experienced(1, S, 10 * S);
    let mut expect = vec![(0, Place::Local)];
    desk.advert(1, 4, 4).trust(1).submit(0..8).runs(&expect);
    // Tasks 8 to 29 make the queue here longer than the worker is slow.
    desk.submit(8..30);
    let runs: Vec<_> = desk.decisions();
    assert_eq!(runs.len(), 4, "{runs:?}");
    expect.clear();
    for decision in runs {
        let Decision::Run { task, place, .. } = decision else { panic!("{decision:?}") };
        assert_eq!(place, on(1));
        assert!(task > 8, "the first in the queue wait for a core here");
    }
}

#[test]
fn when_the_mesh_does_not_pay_everything_is_local() {
    let mut desk = Desk::experienced(2, S, 200 * S);
    desk.advert(1, 64, 64).trust(1).submit(0..100);
    for n in 0..100 {
        desk.decisions();
        assert_eq!(desk.placement.place_of(n), Some(Place::Local));
        desk.wait(S / 2).finish(n, Place::Local, S);
    }
}

#[test]
fn a_free_core_never_waits_for_a_busy_worker() {
    let mut desk = Desk::experienced(1, 100 * S, S);
    desk.advert(1, 1, 1).submit(0..2).runs(&[(0, on(1)), (1, Place::Local)]);
}

#[test]
fn a_free_core_that_is_far_slower_waits_for_a_good_worker() {
    let mut desk = Desk::experienced(1, 100 * S, S);
    desk.advert(1, 1, 1).trust(1).submit(0..2).runs(&[(0, on(1))]);
    desk.begin(0, 1).wait(S).finish(0, on(1), S).runs(&[(1, on(1))]);
    // One that is late is waited for ever less.
    let mut desk = Desk::experienced(1, 10 * S, S);
    desk.advert(1, 1, 1).trust(1).submit(0..2).runs(&[(0, on(1))]).begin(0, 1);
    desk.wait(2 * S).runs(&[]).wait(20 * S).runs(&[(1, Place::Local)]);
}

#[test]
fn the_better_of_two_workers_is_taken_first() {
    let mut desk = Desk::experienced(1, 20 * S, 20 * S);
    desk.advert(1, 4, 4).trust(1).advert(2, 4, 4).trust(2);
    for n in [1, 2] {
        let worker = desk.placement.workers.get_mut(&id(n)).expect("advertised");
        let wall = if n == 1 { S } else { 2 * S };
        (0..200).for_each(|_| worker.rate.measured(S, 1.0, rate::work(task(0).cost), wall));
    }
    desk.submit(0..6)
        .runs(&[(0, on(1)), (1, on(1)), (2, on(1)), (3, on(1)), (4, on(2)), (5, on(2))])
        .submit(6..8)
        .runs(&[(6, on(2)), (7, on(2))]);
}

#[test]
fn many_requesters_spread_over_equal_workers() {
    let mut chosen = [0_u32; 4];
    for seed in 0..400 {
        let mut desk = Desk::experienced(1, 4 * S, S);
        desk.placement.random = Random::new(seed);
        desk.advert(0, 8, 8).advert(1, 8, 8).advert(2, 8, 8).advert(3, 8, 8).submit(0..1);
        let decisions = desk.decisions();
        let [Decision::Run { place, .. }] = decisions[..] else { panic!("{decisions:?}") };
        chosen[(0..4).position(|n| place == on(n)).expect("a worker")] += 1;
    }
    assert!(chosen.iter().all(|times| (60..140).contains(times)), "{chosen:?}");
}

#[test]
fn a_slot_that_comes_back_is_used_without_an_advert() {
    Desk::new(1)
        .advert(1, 1, 1)
        .submit(0..3)
        .runs(&[(0, Place::Local), (1, on(1))])
        .finish(1, on(1), S / 4)
        .runs(&[(2, on(1))]);
}

#[test]
fn while_many_inputs_are_sought_workers_are_fed_first() {
    let mut desk = busy_office(1, 4);
    desk.finish(0, Place::Local, 20 * S).tell(Event::FindingStarted).tell(Event::FindingStarted);
    // The core here is free, but two more compiles wait for it to find their inputs.
    desk.submit(1..2).runs(&[(1, on(1))]).submit(2..3).runs(&[(2, on(1))]);
    // Now the worker has enough.
    desk.submit(3..4).runs(&[(3, Place::Local)]).tell(Event::FindingEnded).submit(4..5).runs(&[]);
}

#[test]
fn the_longest_goes_first_but_none_waits_for_ever() {
    let sized = |id, kib| Event::Submitted(Task { cost: kib * KIB, ..task(id) });
    let mut desk = Desk::experienced(1, S, S);
    desk.tell(sized(0, 448)).runs(&[(0, Place::Local)]);
    desk.tell(sized(1, 100))
        .tell(sized(2, 2000))
        .wait(S)
        .finish(0, Place::Local, S)
        .runs(&[(2, Place::Local)]);
    // What has waited for long goes before what came just now.
    desk.wait(20 * S).tell(sized(3, 2000)).finish(2, Place::Local, 4 * S).runs(&[(1, Place::Local)]);
}

#[test]
fn a_source_is_expected_to_take_what_it_took() {
    let known = |id, source| Event::Submitted(Task { source: Some(source), ..task(id) });
    let mut desk = Desk::experienced(1, S, S);
    desk.tell(known(0, 7)).runs(&[(0, Place::Local)]).wait(6 * S).finish(0, Place::Local, 6 * S);
    desk.tell(known(1, 7)).runs(&[(1, Place::Local)]);
    let expected = desk.placement.expected_end(1).expect("it runs") - desk.now;
    assert!(expected > 4 * S, "{expected:?}");
}

#[test]
fn tasks_that_must_stay_do_not_hold_up_those_that_need_not() {
    let stay = |n| Event::Submitted(Task { remote_allowed: false, ..task(n) });
    Desk::new(1)
        .advert(1, 1, 1)
        .tell(stay(0))
        .decides(0, Place::Local, Why::OnlyLocal)
        .tell(stay(1))
        .submit(2..3)
        .runs(&[(2, on(1))]);
}

#[test]
fn compiles_outside_the_queue_take_cores_but_never_the_last() {
    Desk::new(2)
        .tell(Event::LocalStarted)
        .submit(0..3)
        .runs(&[(0, Place::Local)])
        .tell(Event::LocalStarted)
        .runs(&[])
        .finish(0, Place::Local, S)
        .runs(&[(1, Place::Local)])
        .tell(Event::LocalFinished)
        .tell(Event::LocalFinished)
        .runs(&[(2, Place::Local)]);
}
