//! Bounds, and tasks that leave early.

use super::*;

#[test]
fn a_full_queue_gives_tasks_back() {
    let mut placement = Placement::new(Config { local_slots: 1, queue_max: 2, seed: 0 });
    for n in 0..4 {
        placement.handle(S, Event::Submitted(task(n)));
    }
    placement.handle(S, Event::Cancelled { task: 3 });
    let decisions: Vec<_> = std::iter::from_fn(|| placement.poll(S)).collect();
    let first = Decision::Run { task: 0, place: Place::Local, why: Why::Quickest };
    assert_eq!(decisions, [Decision::GiveUp { task: 2 }, first]);
}

#[test]
fn a_cancelled_task_leaves_its_place() {
    let mut desk = Desk::new(1);
    desk.advert(1, 1, 1).submit(0..4).runs(&[(0, Place::Local), (1, on(1))]);
    desk.tell(Event::Cancelled { task: 1 }).tell(Event::Cancelled { task: 2 }).runs(&[(3, on(1))]);
    desk.tell(Event::Cancelled { task: 0 }).submit(4..5).runs(&[(4, Place::Local)]);
}

#[test]
fn deadlines_are_for_remote_runs_and_bounded() {
    let mut desk = Desk::experienced(1, 2 * S, 2 * S);
    desk.advert(1, 1, 1).submit(0..3).runs(&[(0, Place::Local), (1, on(1))]);
    assert_eq!(desk.placement.deadline(0, id(1)), None);
    assert_eq!(desk.placement.deadline(2, id(1)), None);
    let deadline = desk.placement.deadline(1, id(1)).expect("it is remote") - desk.now;
    assert!((79 * S..81 * S).contains(&deadline), "{deadline:?}");
    let end = desk.placement.expected_end(1).expect("it runs") - desk.now;
    assert!((S * 19 / 10..S * 21 / 10).contains(&end), "{end:?}");
    let mut slow = Desk::experienced(1, 1000 * S, 1000 * S);
    slow.advert(1, 1, 1).submit(0..2).runs(&[(0, Place::Local), (1, on(1))]);
    assert_eq!(slow.placement.deadline(1, id(1)), Some(slow.now + WALL_MAX));
}

#[test]
fn absurd_adverts_are_bounded() {
    let mut desk = Desk::new(1);
    desk.advert(1, u32::MAX, u32::MAX).trust(1).submit(0..900);
    assert_eq!(desk.decisions().len(), 1 + SLOTS_MAX as usize);
    let mut desk = Desk::new(1);
    let other = Event::Worker {
        id: id(1),
        slots: 4,
        free: 4,
        queued: 0,
        queue_max: 4,
        toolchains: vec![toolchain(0)],
        machine_fits: false,
    };
    desk.tell(other).submit(0..9).runs(&[(0, Place::Local)]);
}
