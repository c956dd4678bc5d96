//! What follows from a worker that says no.

use super::*;

#[test]
fn a_busy_worker_is_not_asked_again_before_its_next_advert() {
    let mut desk = Desk::new(1);
    desk.advert(1, 8, 8)
        .submit(0..2)
        .runs(&[(0, Place::Local), (1, on(1))])
        .decline(1, 1, Decline::Busy)
        .runs(&[])
        .wait(5 * S)
        .runs(&[])
        .advert(1, 8, 1)
        .runs(&[(1, on(1))]);
}

#[test]
fn each_empty_promise_halves_what_is_believed() {
    let mut desk = Desk::new(1);
    desk.advert(1, 8, 8).trust(1).submit(0..900);
    let mut sent = Vec::new();
    for _ in 0..6 {
        let runs = desk.advert(1, 8, 8).decisions();
        let remote = runs.into_iter().filter_map(|d| match d {
            Decision::Run { task, place: Place::Worker(_), .. } => Some(task),
            _ => None,
        });
        let remote: Vec<u64> = remote.collect();
        remote.iter().for_each(|task| {
            desk.decline(*task, 1, Decline::Busy);
        });
        sent.push(remote.len());
    }
    assert_eq!(sent, [8, 4, 2, 1, 1, 1]);
    let next = desk.advert(1, 8, 8).decisions();
    let [Decision::Run { task, place, .. }] = next[..] else { panic!("{next:?}") };
    desk.finish(task, place, S / 4).advert(1, 8, 8);
    assert_eq!(desk.decisions().len(), 8, "one good end mends it");
}

#[test]
fn one_task_makes_a_worker_fetch_a_toolchain_and_the_others_wait_for_it() {
    let lacking = |desk: &mut Desk| {
        let nothing = Event::Worker {
            id: id(1),
            slots: 8,
            free: 8,
            queued: 0,
            queue_max: 8,
            toolchains: vec![],
            machine_fits: true,
        };
        desk.tell(nothing);
    };
    let mut desk = Desk::new(1);
    lacking(&mut desk);
    desk.submit(0..3)
        .runs(&[(0, Place::Local), (1, on(1))])
        .decline(1, 1, Decline::FetchingToolchain)
        .runs(&[])
        .wait(FETCH_TIME - S);
    lacking(&mut desk);
    desk.runs(&[]).advert(1, 8, 8).runs(&[(1, on(1)), (2, on(1))]);

    let mut slow = Desk::new(1);
    lacking(&mut slow);
    slow.submit(0..3)
        .runs(&[(0, Place::Local), (1, on(1))])
        .decline(1, 1, Decline::FetchingToolchain)
        .wait(FETCH_TIME)
        .runs(&[(1, on(1))]);
}

#[test]
fn a_worker_that_may_not_is_left_alone_for_this_toolchain_for_a_while() {
    for why in [Decline::NotAllowed, Decline::NotAWorker, Decline::OtherMachine] {
        let mut desk = Desk::new(1);
        desk.advert(1, 1, 1)
            .submit(0..2)
            .runs(&[(0, Place::Local), (1, on(1))])
            .decline(1, 1, why)
            .runs(&[])
            .wait(EXCLUDED_TIME - S)
            .runs(&[])
            .wait(S)
            .runs(&[(1, on(1))]);
    }
}

#[test]
fn an_unfit_task_is_not_shown_to_the_same_worker_again() {
    Desk::new(1)
        .advert(1, 4, 4)
        .submit(0..2)
        .runs(&[(0, Place::Local), (1, on(1))])
        .decline(1, 1, Decline::Unfit)
        .runs(&[])
        .submit(2..3)
        .runs(&[(2, on(1))]);
}

#[test]
fn too_many_declines_end_here() {
    let mut desk = Desk::new(1);
    desk.submit(0..2).runs(&[(0, Place::Local)]);
    for _ in 0..DECLINES_MAX {
        desk.advert(1, 1, 1).runs(&[(1, on(1))]).decline(1, 1, Decline::Busy);
    }
    desk.advert(1, 1, 1).runs(&[]).finish(0, Place::Local, S).decides(1, Place::Local, Why::Declined);
}
