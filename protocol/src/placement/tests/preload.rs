//! What is sent to a worker ahead of its slots.

use super::*;

#[test]
fn inputs_travel_while_the_worker_still_compiles() {
    busy_office(1, 4)
        .submit(1..6)
        .runs(&[(1, on(1)), (2, on(1))])
        .begin(1, 1)
        .runs(&[])
        .wait(S)
        .finish(1, on(1), S)
        .runs(&[])
        .begin(2, 1)
        // A place in the queue is free again.
        .runs(&[(3, on(1))]);
}

#[test]
fn a_worker_without_a_queue_gets_what_it_has_slots_for() {
    busy_office(1, 0).submit(1..6).runs(&[(1, on(1))]);
}

#[test]
fn short_tasks_queue_deeper() {
    let mut desk = Desk::experienced(1, S / 100, S / 100);
    desk.queueing(1, 4, 4, 8).trust(1);
    let worker = desk.placement.workers.get_mut(&id(1)).expect("advertised");
    (0..40).for_each(|_| worker.handover.measured(S / 100));
    desk.submit(0..60);
    let queued = desk.decisions().len() - 1 - 4;
    assert_eq!(queued, 5, "all four slots come free while one task is on its way");
}

#[test]
fn another_requesters_full_slots_leave_a_place_in_the_queue() {
    let full = Event::Worker {
        id: id(1),
        slots: 1,
        free: 0,
        queued: 1,
        queue_max: 2,
        toolchains: vec![toolchain(0)],
        machine_fits: true,
    };
    busy_office(0, 0).tell(full).trust(1).submit(1..9).runs(&[(1, on(1))]);
}

/// The next compiler begins while the outputs of the last one still travel.
#[test]
fn the_wait_in_the_queue_is_not_taken_for_work() {
    let mut desk = busy_office(1, 4);
    desk.submit(1..3).runs(&[(1, on(1)), (2, on(1))]);
    for n in 1..15 {
        desk.begin(n, 1).wait(S / 20);
        if n > 1 {
            desk.finish(n - 1, on(1), S);
        }
        desk.submit(n + 2..n + 3).decisions();
        desk.wait(S * 19 / 20);
    }
    let view = desk.placement.workers(desk.now).next().expect("known");
    let wall = rate::wall(view.seconds_per_byte, rate::work(task(0).cost));
    assert!((S..S * 11 / 10).contains(&wall), "{wall:?}");
}
