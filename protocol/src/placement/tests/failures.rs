//! What follows from a worker that fails, and from one that is lost.

use super::*;

#[test]
fn a_lost_task_goes_to_another_worker_then_here() {
    Desk::new(1)
        .advert(1, 1, 1)
        .submit(0..2)
        .runs(&[(0, Place::Local), (1, on(1))])
        .tell(Event::WorkerLost(id(1)))
        .fail(1, 1, Failure::Lost)
        .runs(&[])
        .advert(2, 1, 1)
        .runs(&[(1, on(2))])
        .fail(1, 2, Failure::Sandbox)
        .advert(3, 1, 1)
        .runs(&[])
        .finish(0, Place::Local, S)
        .decides(1, Place::Local, Why::FellBack(Failure::Sandbox));
}

#[test]
fn what_may_be_the_tasks_own_fault_is_repeated_here() {
    for kind in [Failure::RemoteExit, Failure::Killed, Failure::Refused, Failure::Timeout] {
        Desk::new(1)
            .advert(1, 1, 1)
            .advert(2, 0, 0)
            .submit(0..2)
            .runs(&[(0, Place::Local), (1, on(1))])
            .fail(1, 1, kind)
            .advert(2, 1, 1)
            .runs(&[])
            .finish(0, Place::Local, S)
            .decides(1, Place::Local, Why::FellBack(kind));
    }
}

#[test]
fn a_worker_that_fails_everything_at_once_gets_three_tasks() {
    let mut desk = Desk::new(1);
    desk.advert(1, 1, 1).submit(0..20).runs(&[(0, Place::Local), (1, on(1))]);
    for n in 1..=2 {
        desk.tell(Event::Finished { task: n, place: on(1), wall: S / 1000, ok: false });
        // The failed task now waits at the head of the queue for a core here.
        desk.runs(&[(n + 1, on(1))]);
    }
    desk.fail(3, 1, Failure::RemoteExit).runs(&[]);
    // The tasks are fine here, so it was the worker.
    let mut local = 0;
    for n in [1, 2, 3] {
        desk.wait(S).finish(local, Place::Local, S).runs(&[(n, Place::Local)]);
        local = n;
    }
    desk.finish(3, Place::Local, S).runs(&[(4, Place::Local)]);
    let paused = desk.placement.workers(desk.now).find_map(|w| w.paused_until);
    assert_eq!(paused, Some(desk.now + OPEN_TIME));
    // After the pause there is one probe, and its success ends the affair.
    desk.advert(1, 4, 4).wait(OPEN_TIME).runs(&[(5, on(1))]).finish(5, on(1), S).runs(&[
        (6, on(1)),
        (7, on(1)),
        (8, on(1)),
        (9, on(1)),
    ]);
}

#[test]
fn real_compile_errors_are_not_held_against_workers() {
    let mut desk = Desk::new(1);
    desk.advert(1, 1, 1);
    for n in 0..50 {
        let (here, there) = (2 * n, 2 * n + 1);
        desk.submit(here..there + 1).runs(&[(here, Place::Local), (there, on(1))]);
        desk.fail(there, 1, Failure::RemoteExit).finish(here, Place::Local, S);
        desk.runs(&[(there, Place::Local)]);
        desk.tell(Event::Finished { task: there, place: Place::Local, wall: S, ok: false });
    }
}

#[test]
fn a_flapping_worker_costs_one_lost_try_a_minute() {
    let mut desk = Desk::new(1);
    desk.submit(0..900).runs(&[(0, Place::Local)]);
    let mut lost_at: Vec<Duration> = Vec::new();
    for _ in 0..120 {
        desk.advert(1, 1, 1);
        for decision in desk.decisions() {
            let Decision::Run { place, .. } = decision else { panic!("{decision:?}") };
            assert_eq!(place, on(1));
            assert!(lost_at.last().is_none_or(|last| desk.now - *last >= OPEN_TIME));
            lost_at.push(desk.now);
        }
        desk.tell(Event::WorkerLost(id(1))).wait(5 * S);
    }
    assert_eq!(lost_at.len(), 10, "in ten minutes");
}

/// Three workers with a task each, and one here.
fn three_at_work() -> Desk {
    let mut desk = Desk::new(1);
    (1..=3).for_each(|n| {
        desk.advert(n, 1, 1).trust(n);
    });
    desk.submit(0..4);
    assert_eq!(desk.decisions().len(), 4);
    desk
}

#[test]
fn a_stall_of_this_machine_is_not_held_against_the_workers() {
    for lost in [2, 3] {
        let mut desk = three_at_work();
        (1..=lost).for_each(|n| {
            desk.tell(Event::WorkerLost(id(n))).wait(S / 100);
        });
        desk.decisions();
        assert_eq!(desk.placement.waiting(), usize::from(lost), "{lost} lost");
        desk.wait(S);
        (1..=lost).for_each(|n| {
            desk.advert(n, 1, 1);
        });
        assert_eq!(desk.decisions().len(), usize::from(lost), "{lost} lost");
        assert!(desk.placement.workers(desk.now).all(|worker| worker.paused_until.is_none()));
    }
}

/// The streams of a connection may break before the connection is said to be gone.
#[test]
fn broken_streams_count_as_the_loss_of_their_worker() {
    let mut desk = three_at_work();
    for n in 1..=3 {
        let there = (0..4).find(|task| desk.placement.place_of(*task) == Some(on(n))).expect("one is there");
        desk.fail(there, n, Failure::Lost);
    }
    (1..=3).for_each(|n| {
        desk.tell(Event::WorkerLost(id(n)));
    });
    assert!(desk.placement.workers(desk.now).all(|worker| worker.paused_until.is_none()));
}

#[test]
fn one_worker_lost_alone_is_paused() {
    let mut desk = three_at_work();
    desk.tell(Event::WorkerLost(id(1))).wait(LOSSES_TOGETHER + S).tell(Event::WorkerLost(id(2)));
    desk.advert(1, 1, 1).advert(2, 1, 1).runs(&[]);
    let paused = desk.placement.workers(desk.now).filter(|worker| worker.paused_until.is_some()).count();
    assert_eq!(paused, 2);
}

#[test]
fn a_liar_is_sent_away_for_the_day() {
    Desk::new(1)
        .advert(1, 1, 1)
        .submit(0..3)
        .runs(&[(0, Place::Local), (1, on(1))])
        .fail(1, 1, Failure::BadResult)
        .wait(3600 * S)
        .runs(&[]);
}

#[test]
fn outcomes_of_other_places_are_ignored() {
    let mut desk = Desk::new(1);
    desk.advert(1, 1, 1).submit(0..2).runs(&[(0, Place::Local), (1, on(1))]);
    desk.tell(Event::WorkerLost(id(1))).advert(2, 1, 1).runs(&[(1, on(2))]);
    // The first worker wakes up and sends its stale result.
    desk.finish(1, on(1), S).decline(1, 1, Decline::Busy).fail(1, 1, Failure::Lost).finish(
        7,
        Place::Local,
        S,
    );
    assert_eq!(desk.placement.place_of(1), Some(on(2)));
    assert_eq!(desk.placement.local_running(), 1);
    desk.finish(1, on(2), S);
    assert_eq!(desk.placement.place_of(1), None);
}
