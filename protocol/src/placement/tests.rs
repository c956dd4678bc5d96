use super::*;
use crate::{Digest, Identity};

const S: Duration = Duration::from_secs(1);
const KIB: u64 = 1 << 10;

fn id(n: u8) -> NodeId {
    Identity::from_seed(&[n; 32]).id()
}

fn toolchain(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn task(id: u64) -> Task {
    Task { id, toolchain: toolchain(0), cost: 448 * KIB, source: None, remote_allowed: true }
}

fn on(n: u8) -> Place {
    Place::Worker(id(n))
}

/// A requester at one moment in time, which the tests move on.
struct Desk {
    placement: Placement,
    now: Duration,
}

impl Desk {
    fn new(local_slots: u32) -> Self {
        let config = Config { local_slots, queue_max: 1000, seed: 3 };
        Self { placement: Placement::new(config), now: S }
    }

    /// A desk that has measured that this machine takes `local` for a task, and workers `remote`.
    fn experienced(local_slots: u32, local: Duration, remote: Duration) -> Self {
        let mut desk = Self::new(local_slots);
        let work = rate::work(task(0).cost);
        for _ in 0..40 {
            desk.placement.local.measured(desk.now, DEFAULT_SECONDS_PER_BYTE, work, local);
            desk.placement.mesh.measured(desk.now, DEFAULT_SECONDS_PER_BYTE, work, remote);
        }
        desk
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        self.placement.handle(self.now, event);
        self
    }

    fn advert(&mut self, n: u8, slots: u32, free: u32) -> &mut Self {
        self.queueing(n, slots, free, 0)
    }

    /// The advert of a worker with a queue.
    fn queueing(&mut self, n: u8, slots: u32, free: u32, queue_max: u32) -> &mut Self {
        let toolchains = vec![toolchain(0)];
        self.tell(Event::Worker {
            id: id(n),
            slots,
            free,
            queued: 0,
            queue_max,
            toolchains,
            machine_fits: true,
        })
    }

    /// The worker has ended a task well before.
    fn trust(&mut self, n: u8) -> &mut Self {
        self.placement.workers.get_mut(&id(n)).expect("advertised").breaker.succeeded();
        self
    }

    fn submit(&mut self, tasks: std::ops::Range<u64>) -> &mut Self {
        for n in tasks {
            self.tell(Event::Submitted(task(n)));
        }
        self
    }

    fn finish(&mut self, task: u64, place: Place, wall: Duration) -> &mut Self {
        self.tell(Event::Finished { task, place, wall, ok: true })
    }

    fn begin(&mut self, task: u64, n: u8) -> &mut Self {
        self.tell(Event::Started { task, worker: id(n) })
    }

    fn fail(&mut self, task: u64, n: u8, kind: Failure) -> &mut Self {
        self.tell(Event::Failed { task, worker: id(n), kind })
    }

    fn decline(&mut self, task: u64, n: u8, why: Decline) -> &mut Self {
        self.tell(Event::Declined { task, worker: id(n), why })
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn decisions(&mut self) -> Vec<Decision> {
        std::iter::from_fn(|| self.placement.poll(self.now)).collect()
    }

    /// The runs decided now.
    #[track_caller]
    fn runs(&mut self, expect: &[(u64, Place)]) -> &mut Self {
        let runs: Vec<_> = self
            .decisions()
            .into_iter()
            .map(|decision| match decision {
                Decision::Run { task, place, .. } => (task, place),
                _ => panic!("{decision:?}"),
            })
            .collect();
        assert_eq!(runs, expect);
        self
    }

    #[track_caller]
    fn takes_back(&mut self, task: u64, place: Place, why: Why) -> &mut Self {
        assert_eq!(self.decisions(), [Decision::TakeBack { task, place, why }]);
        self
    }

    #[track_caller]
    fn decides(&mut self, task: u64, place: Place, why: Why) -> &mut Self {
        assert_eq!(self.decisions(), [Decision::Run { task, place, why }]);
        self
    }
}

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
fn the_better_of_two_workers_is_taken_first() {
    let mut desk = Desk::experienced(1, 20 * S, 20 * S);
    desk.advert(1, 4, 4).trust(1).advert(2, 4, 4).trust(2);
    for n in [1, 2] {
        let worker = desk.placement.workers.get_mut(&id(n)).expect("advertised");
        let wall = if n == 1 { S } else { 4 * S };
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
fn a_slot_that_comes_back_is_used_without_an_advert() {
    Desk::new(1)
        .advert(1, 1, 1)
        .submit(0..3)
        .runs(&[(0, Place::Local), (1, on(1))])
        .finish(1, on(1), S / 4)
        .runs(&[(2, on(1))]);
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

/// Task 0, which keeps the only slot here for 20 s, and workers that have proven themselves; all other tasks take a
/// second everywhere.
fn busy_office(workers: u8, queue_max: u32) -> Desk {
    let mut desk = Desk::experienced(1, S, S);
    let long = Task { cost: 20 * 512 * KIB - COST_FIXED_BYTES, remote_allowed: false, ..task(0) };
    desk.tell(Event::Submitted(long)).runs(&[(0, Place::Local)]);
    for n in 1..=workers {
        desk.queueing(n, 1, 1, queue_max).trust(n);
    }
    desk
}

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
fn a_straggler_comes_home_when_no_worker_is_free() {
    let mut desk = busy_office(1, 0);
    desk.submit(1..2).runs(&[(1, on(1))]).begin(1, 1);
    desk.wait(S).finish(0, Place::Local, 20 * S).runs(&[]).wait(4 * S).takes_back(
        1,
        Place::Local,
        Why::Overdue,
    );
    // The stale result of the worker does no harm.
    desk.finish(1, on(1), S).runs(&[]);
    assert_eq!(desk.placement.place_of(1), Some(Place::Local));
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

mod properties {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LOCAL_SLOTS: u32 = 2;

    /// What a fuzzer may do; tasks and places are picked among what exists, or at random.
    #[derive(Debug, Clone)]
    enum Step {
        Submit { remote_allowed: bool, toolchain: u8 },
        Advert { worker: u8, slots: u32, free: u32, toolchains: Vec<u8> },
        Lose(u8),
        Outcome { pick: usize, kind: u8 },
        Begin(usize),
        Finding(bool),
        Stray { task: u64, worker: u8, kind: u8 },
        Outside(bool),
        Cancel(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any::<bool>(), 0..2_u8)
                .prop_map(|(remote_allowed, toolchain)| Step::Submit { remote_allowed, toolchain }),
            3 => (1..4_u8, 0..5_u32, 0..5_u32, vec(0..2_u8, 0..3)).prop_map(
                |(worker, slots, free, toolchains)| Step::Advert { worker, slots, free, toolchains }
            ),
            1 => (1..4_u8).prop_map(Step::Lose),
            6 => (any::<usize>(), 0..20_u8).prop_map(|(pick, kind)| Step::Outcome { pick, kind }),
            5 => any::<usize>().prop_map(Step::Begin),
            1 => any::<bool>().prop_map(Step::Finding),
            1 => (0..60_u64, 1..4_u8, 0..20_u8)
                .prop_map(|(task, worker, kind)| Step::Stray { task, worker, kind }),
            1 => any::<bool>().prop_map(Step::Outside),
            1 => any::<usize>().prop_map(Step::Cancel),
        ]
    }

    /// The end of a run at a worker, and whether it ends the task.
    fn outcome(task: u64, worker: NodeId, kind: u8) -> (Event, bool) {
        let declines = [
            Decline::Busy,
            Decline::FetchingToolchain,
            Decline::NotAWorker,
            Decline::OtherMachine,
            Decline::NotAllowed,
            Decline::Unfit,
        ];
        let failures = [
            Failure::Lost,
            Failure::Timeout,
            Failure::RemoteExit,
            Failure::Killed,
            Failure::Refused,
            Failure::Sandbox,
            Failure::Inputs,
            Failure::BadResult,
        ];
        match usize::from(kind) {
            n @ 0..6 => (Event::Declined { task, worker, why: declines[n] }, false),
            n @ 6..14 => (Event::Failed { task, worker, kind: failures[n - 6] }, false),
            n => {
                let (place, wall) = (Place::Worker(worker), S * n as u32 / 10);
                (Event::Finished { task, place, wall, ok: n > 14 }, n > 14)
            }
        }
    }

    /// A driver that keeps its own books and compares them with every decision.
    struct Auditor {
        placement: Placement,
        now: Duration,
        next: u64,
        waiting: BTreeMap<u64, bool>,
        running: BTreeMap<u64, (Place, bool)>,
        hedged: BTreeMap<u64, NodeId>,
        moves: BTreeMap<u64, u32>,
    }

    impl Auditor {
        fn tell(&mut self, event: Event) {
            self.placement.handle(self.now, event);
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Submit { remote_allowed, toolchain: n } => {
                    let id = self.next;
                    self.next += 1;
                    self.waiting.insert(id, remote_allowed);
                    let toolchain = toolchain(n);
                    let task = Task { id, toolchain, cost: 1000 * id, source: Some(id % 7), remote_allowed };
                    self.tell(Event::Submitted(task));
                }
                Step::Advert { worker, slots, free, toolchains } => {
                    let toolchains = toolchains.into_iter().map(toolchain).collect();
                    let id = id(worker);
                    let (queued, queue_max) = (free / 2, slots);
                    self.tell(Event::Worker {
                        id,
                        slots,
                        free,
                        queued,
                        queue_max,
                        toolchains,
                        machine_fits: true,
                    });
                }
                Step::Lose(worker) => {
                    let tasks: Vec<u64> = self.running.keys().copied().collect();
                    tasks.into_iter().for_each(|task| self.end_at(task, id(worker)));
                    self.tell(Event::WorkerLost(id(worker)));
                }
                Step::Begin(pick) => {
                    let mut there = self.running.iter().filter_map(|(task, (place, _))| match place {
                        Place::Worker(worker) => Some((*task, *worker)),
                        Place::Local => None,
                    });
                    if let Some((task, worker)) = there.nth(pick % self.running.len().max(1)) {
                        self.tell(Event::Started { task, worker });
                    }
                }
                Step::Finding(started) => {
                    self.tell(if started { Event::FindingStarted } else { Event::FindingEnded });
                }
                Step::Outcome { pick, kind } => self.end_a_run(pick, kind),
                Step::Stray { task, worker, kind } => {
                    let runs = self.running.get(&task).is_some_and(|(place, _)| *place == on(worker));
                    if !runs && self.hedged.get(&task) != Some(&id(worker)) {
                        self.tell(outcome(task, id(worker), kind).0);
                    }
                }
                Step::Outside(started) => {
                    self.tell(if started { Event::LocalStarted } else { Event::LocalFinished });
                }
                Step::Cancel(pick) => {
                    let live: Vec<u64> = self.waiting.keys().chain(self.running.keys()).copied().collect();
                    if let Some(task) = live.get(pick % live.len().max(1)).copied() {
                        self.waiting.remove(&task);
                        self.running.remove(&task);
                        self.hedged.remove(&task);
                        self.tell(Event::Cancelled { task });
                    }
                }
            }
        }

        /// A run at a worker is over without a result; the task waits again unless it runs elsewhere too.
        fn end_at(&mut self, task: u64, worker: NodeId) {
            let Some(&(place, remote_allowed)) = self.running.get(&task) else { return };
            if self.hedged.get(&task) == Some(&worker) {
                self.hedged.remove(&task);
            } else if place == Place::Worker(worker) {
                self.running.remove(&task);
                match self.hedged.remove(&task) {
                    Some(other) => self.running.insert(task, (Place::Worker(other), remote_allowed)),
                    None => self.waiting.insert(task, remote_allowed).map(|_| (Place::Local, false)),
                };
            }
        }

        fn end_a_run(&mut self, pick: usize, kind: u8) {
            let Some((&task, &(place, _))) = self.running.iter().nth(pick % self.running.len().max(1)) else {
                return;
            };
            let hedge = self.hedged.get(&task).filter(|_| pick % 2 == 1);
            let ended = match hedge.map_or(place, |worker| Place::Worker(*worker)) {
                Place::Local => {
                    self.tell(Event::Finished { task, place, wall: S, ok: kind.is_multiple_of(2) });
                    true
                }
                Place::Worker(worker) => {
                    let (event, ends) = outcome(task, worker, kind);
                    if !ends {
                        self.end_at(task, worker);
                    }
                    self.tell(event);
                    ends
                }
            };
            if ended {
                self.running.remove(&task);
                self.hedged.remove(&task);
            }
        }

        /// Enters a decision into the books.
        fn obey(&mut self, decision: Decision) -> Result<(), TestCaseError> {
            match decision {
                Decision::Run { task, place, .. } => {
                    let remote_allowed = self.waiting.remove(&task);
                    prop_assert!(remote_allowed.is_some(), "task {} was not waiting", task);
                    prop_assert!(place == Place::Local || remote_allowed == Some(true));
                    self.running.insert(task, (place, remote_allowed == Some(true)));
                }
                Decision::TakeBack { task, place, .. } => {
                    let from = self.running.insert(task, (place, true));
                    prop_assert!(from.is_some_and(|(from, _)| from != Place::Local && from != place));
                    self.hedged.remove(&task);
                    *self.moves.entry(task).or_default() += 1;
                }
                Decision::Hedge { task, worker } => {
                    let beside = self.running.get(&task).map(|(place, _)| *place);
                    prop_assert!(beside.is_some_and(|p| p != Place::Local && p != Place::Worker(worker)));
                    prop_assert_eq!(self.hedged.insert(task, worker), None);
                    *self.moves.entry(task).or_default() += 1;
                }
                Decision::GiveUp { .. } => {
                    return Err(TestCaseError::fail("nothing is given up while the queue has room"));
                }
            }
            Ok(())
        }

        fn drain(&mut self) -> Result<(), TestCaseError> {
            while let Some(decision) = self.placement.poll(self.now) {
                self.obey(decision)?;
            }
            prop_assert!(self.moves.values().all(|moves| *moves <= MOVES_MAX + 1));
            let local = self.running.values().filter(|(place, _)| *place == Place::Local).count();
            prop_assert!(local <= LOCAL_SLOTS as usize);
            prop_assert_eq!(local, self.placement.local_running() as usize);
            prop_assert_eq!(self.waiting.len(), self.placement.waiting());
            for (task, (place, _)) in &self.running {
                prop_assert_eq!(self.placement.place_of(*task), Some(*place));
                let hedge = self.hedged.get(task).map(|worker| Place::Worker(*worker));
                prop_assert_eq!(self.placement.hedge_of(*task), hedge);
            }
            for view in self.placement.workers(self.now) {
                let there = self.running.values().filter(|(p, _)| *p == Place::Worker(view.id)).count();
                let raced = self.hedged.values().filter(|worker| **worker == view.id).count();
                prop_assert_eq!(there + raced, view.in_flight as usize);
                prop_assert!(view.queued <= view.in_flight);
            }
            prop_assert!(self.waiting.is_empty() || local > 0, "a core idles while tasks wait");
            prop_assert!(self.placement.next_wake(self.now).is_none_or(|at| at > self.now), "it spins");
            Ok(())
        }
    }

    proptest! {
        /// No order of events loses or doubles a task, and without workers everything ends here.
        #[test]
        fn the_books_agree_whatever_happens(steps in vec((step(), 0..3000_u64), 0..250)) {
            let config = Config { local_slots: LOCAL_SLOTS, queue_max: 1000, seed: 4 };
            let mut auditor = Auditor {
                placement: Placement::new(config),
                now: S,
                next: 0,
                waiting: BTreeMap::new(),
                running: BTreeMap::new(),
                hedged: BTreeMap::new(),
                moves: BTreeMap::new(),
            };
            for (step, pause_ms) in steps {
                auditor.now += Duration::from_millis(pause_ms);
                auditor.take(step);
                auditor.drain()?;
            }
            for worker in 1..4 {
                auditor.take(Step::Lose(worker));
            }
            auditor.drain()?;
            for _ in 0..2000 {
                auditor.end_a_run(0, 0);
                auditor.drain()?;
            }
            prop_assert!(auditor.waiting.is_empty() && auditor.running.is_empty());
        }
    }
}
