//! Taking back and hedging.

use super::*;

#[test]
fn what_waits_at_a_worker_is_taken_back_when_nothing_waits_here() {
    busy_office(1, 4)
        .submit(1..3)
        .runs(&[(1, on(1)), (2, on(1))])
        .begin(1, 1)
        .wait(S / 10)
        .finish(0, Place::Local, 20 * S)
        .takes_back(2, Place::Local, Why::Sooner);
}

#[test]
fn what_waits_at_a_worker_goes_to_an_idle_one() {
    let mut desk = busy_office(1, 4);
    desk.submit(1..3).runs(&[(1, on(1)), (2, on(1))]).begin(1, 1).queueing(2, 1, 1, 4);
    desk.placement.workers.get_mut(&id(2)).expect("advertised").handover.measured(Duration::ZERO);
    desk.takes_back(2, on(2), Why::Sooner).runs(&[]);
}

#[test]
fn no_task_is_taken_back_for_a_small_gain() {
    busy_office(1, 4)
        .submit(1..3)
        .runs(&[(1, on(1)), (2, on(1))])
        .begin(1, 1)
        .wait(S * 19 / 20)
        .finish(0, Place::Local, 20 * S)
        .runs(&[]);
}

/// A busy office in which task 1 has begun on worker 1 five seconds ago, and worker 2 has come.
fn raced() -> Desk {
    let mut desk = busy_office(1, 0);
    desk.submit(1..2).runs(&[(1, on(1))]).begin(1, 1).queueing(2, 1, 1, 0).trust(2).runs(&[]).wait(5 * S);
    assert_eq!(desk.decisions(), [Decision::Hedge { task: 1, worker: id(2) }]);
    desk
}

#[test]
fn a_straggler_is_raced_on_a_free_worker_and_the_first_result_counts() {
    let mut desk = raced();
    assert_eq!(desk.placement.hedge_of(1), Some(on(2)));
    desk.begin(1, 2).wait(S).finish(1, on(2), S);
    assert_eq!((desk.placement.place_of(1), desk.placement.hedge_of(1)), (None, None));
    assert!(desk.placement.workers(desk.now).all(|worker| worker.in_flight == 0));
    let view = |n| desk.placement.workers(desk.now).find(|w| w.id == id(n)).expect("known").seconds_per_byte;
    assert!(view(1) > 1.3 * view(2), "{} {}", view(1), view(2));
}

#[test]
fn a_straggler_of_a_good_worker_comes_home_only_when_it_seems_stuck() {
    let mut desk = busy_office(1, 0);
    desk.submit(1..2).runs(&[(1, on(1))]).begin(1, 1);
    // Overdue after 3.5 s: it is larger than it looked, and would be so here.
    desk.wait(S).finish(0, Place::Local, 20 * S).runs(&[]).wait(4 * S).runs(&[]).wait(S).runs(&[]);
    desk.wait(2 * S).takes_back(1, Place::Local, Why::Overdue);
    // The stale result of the worker does no harm.
    desk.finish(1, on(1), S).runs(&[]);
    assert_eq!(desk.placement.place_of(1), Some(Place::Local));
}

#[test]
fn a_straggler_comes_home_to_a_machine_that_is_far_quicker() {
    let mut desk = Desk::experienced(1, S, 8 * S);
    desk.advert(1, 1, 1).trust(1).submit(0..12).wait(S / 2).decisions();
    let there = (0..12).find(|task| desk.placement.place_of(*task) == Some(on(1))).expect("one is sent away");
    desk.begin(there, 1);
    for task in (0..12).filter(|task| *task != there) {
        desk.decisions();
        desk.wait(S).finish(task, Place::Local, S);
    }
    desk.takes_back(there, Place::Local, Why::Sooner);
}

#[test]
fn what_is_late_does_not_come_home_while_inputs_are_sought() {
    let mut desk = busy_office(1, 0);
    desk.submit(1..2).runs(&[(1, on(1))]).begin(1, 1).finish(0, Place::Local, 20 * S);
    desk.placement.local = Rate::default();
    let work = rate::work(task(0).cost);
    (0..40).for_each(|_| desk.placement.local.measured(desk.now, DEFAULT_SECONDS_PER_BYTE, work, S / 10));
    desk.tell(Event::FindingStarted).wait(4 * S).runs(&[]);
    desk.tell(Event::FindingEnded).takes_back(1, Place::Local, Why::Overdue);
}

#[test]
fn one_of_two_runs_may_fail() {
    for failure in [Failure::Lost, Failure::RemoteExit] {
        for (fails, stays) in [(1, 2), (2, 1)] {
            let mut desk = raced();
            desk.fail(1, fails, failure).runs(&[]);
            assert_eq!(desk.placement.place_of(1), Some(on(stays)));
            desk.finish(1, on(stays), S);
            assert_eq!(desk.placement.place_of(1), None);
        }
    }
}

#[test]
fn a_begun_task_is_not_given_up_for_a_little() {
    busy_office(1, 0)
        .submit(1..2)
        .runs(&[(1, on(1))])
        .begin(1, 1)
        .wait(S / 20)
        .finish(0, Place::Local, 20 * S)
        .runs(&[])
        .wait(S)
        .runs(&[]);
}
