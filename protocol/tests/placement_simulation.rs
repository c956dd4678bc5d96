//! One requester and an office of workers in virtual time: is the build as quick as it could be, and does it
//! end whatever the workers do?
//!
//! The workers are quick, slow, busy with others' work, lying about their slots, failing, flapping or silent;
//! adverts arrive late. Every run is a pure function of its seed.

use std::{collections::BTreeMap, fmt, time::Duration};

use barn_protocol::{
    Digest, Identity, NodeId,
    placement::{Config, DECLINES_MAX, Decision, Event, Failure, Place, Placement, REMOTE_TRIES_MAX, Task},
    wire::Decline,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const ADVERT_PERIOD: Duration = Duration::from_millis(500);
const ADVERT_DELAY: Duration = Duration::from_millis(100);
const ROUND_TRIP: Duration = Duration::from_millis(3);
const FETCH: Duration = Duration::from_secs(5);

/// How a worker behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Temper {
    Honest,
    /// Other requesters take and leave its slots at random.
    Shared,
    /// Advertises many free slots and declines everything.
    Boaster,
    /// Every compile ends at once with an error.
    Failing,
    /// Takes work and never answers.
    Silent,
    /// Its connection breaks and comes back every few seconds.
    Flapping,
    /// Its blobs do not match.
    Liar,
}

#[derive(Debug, Clone)]
struct WorkerKind {
    count: usize,
    slots: u32,
    /// How much quicker than this machine's cores.
    speed: f64,
    temper: Temper,
    has_toolchain: bool,
}

const HONEST: WorkerKind =
    WorkerKind { count: 1, slots: 8, speed: 1.0, temper: Temper::Honest, has_toolchain: true };

struct Scenario {
    name: &'static str,
    seed: u64,
    local_slots: u32,
    tasks: u64,
    workers: Vec<WorkerKind>,
}

#[derive(Debug)]
enum Happening {
    /// A worker writes down what it has free; the requester reads it a little later.
    Advertise(usize),
    AdvertArrives(usize, Event),
    Arrives {
        task: u64,
        run: u64,
        worker: usize,
    },
    Replies(Event),
    Ends {
        task: u64,
        run: u64,
        place: Place,
    },
    Fetched(usize),
    Flap {
        worker: usize,
        online: bool,
    },
    GivesUp {
        task: u64,
        run: u64,
        worker: usize,
    },
    Look,
}

struct Worker {
    id: NodeId,
    kind: WorkerKind,
    online: bool,
    ours: u32,
    others: u32,
    fetching: bool,
}

struct World {
    name: &'static str,
    seed: u64,
    now: Duration,
    random: StdRng,
    placement: Placement,
    workers: Vec<Worker>,
    index: BTreeMap<NodeId, usize>,
    agenda: BTreeMap<(Duration, u64), Happening>,
    counter: u64,
    /// Seconds each task takes on a core of this machine.
    works: Vec<f64>,
    /// The current run of each live task.
    runs: BTreeMap<u64, (u64, Place, Duration)>,
    ended: usize,
    lost_tries: BTreeMap<u64, u32>,
    declines: BTreeMap<u64, u32>,
    local: u32,
    local_slots: u32,
    sent: BTreeMap<usize, u32>,
}

/// What a build took, and what it could have taken.
struct Outcome {
    took: Duration,
    ideal: Duration,
    alone: Duration,
    sent: BTreeMap<usize, u32>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, ideal, alone, sent } = self;
        write!(f, "took {took:.1?}, ideal {ideal:.1?}, alone {alone:.1?}, sent {sent:?}")
    }
}

fn toolchain() -> Digest {
    Digest::of(b"gcc")
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let kinds = scenario.workers.iter().flat_map(|k| std::iter::repeat_n(k.clone(), k.count));
        let workers: Vec<Worker> = kinds
            .enumerate()
            .map(|(n, kind)| Worker {
                id: Identity::from_seed(&[n as u8 + 1; 32]).id(),
                kind,
                online: true,
                ours: 0,
                others: 0,
                fetching: false,
            })
            .collect();
        let mut world = Self {
            name: scenario.name,
            seed: scenario.seed,
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(scenario.seed),
            placement: Placement::new(Config {
                local_slots: scenario.local_slots,
                queue_max: 100_000,
                seed: scenario.seed,
            }),
            index: workers.iter().enumerate().map(|(n, w)| (w.id, n)).collect(),
            workers,
            agenda: BTreeMap::new(),
            counter: 0,
            works: Vec::new(),
            runs: BTreeMap::new(),
            ended: 0,
            lost_tries: BTreeMap::new(),
            declines: BTreeMap::new(),
            local: 0,
            local_slots: scenario.local_slots,
            sent: BTreeMap::new(),
        };
        for worker in 0..world.workers.len() {
            world.later(Duration::ZERO, Happening::Advertise(worker));
            if world.workers[worker].kind.temper == Temper::Flapping {
                world.later(Duration::from_secs(7), Happening::Flap { worker, online: false });
            }
        }
        // The adverts are known before the build starts.
        world.later(ADVERT_PERIOD, Happening::Look);
        world.run_until(|world| world.now >= ADVERT_PERIOD);
        world.submit(scenario.tasks);
        world
    }

    /// All at once, as `make -j1000` does; sizes are spread over two orders of magnitude, and the bytes of
    /// input tell the work only roughly.
    fn submit(&mut self, tasks: u64) {
        for id in 0..tasks {
            let seconds = 0.1 * 40_f64.powf(self.random.gen_range(0.0..1.0));
            let guess = seconds * self.random.gen_range(0.6..1.6);
            self.works.push(seconds);
            let cost = (guess * 2.0 * f64::from(1 << 20)) as u64;
            self.tell(Event::Submitted(Task { id, toolchain: toolchain(), cost, remote_allowed: true }));
        }
    }

    fn run(mut self) -> Outcome {
        let start = self.now;
        let total = self.works.len();
        self.run_until(|world| world.ended == total);
        let seconds: f64 = self.works.iter().sum();
        let longest = self.works.iter().copied().fold(0.0, f64::max);
        let useful = |w: &&Worker| w.kind.temper == Temper::Honest;
        let mesh: f64 =
            self.workers.iter().filter(useful).map(|w| f64::from(w.kind.slots) * w.kind.speed).sum();
        let own = f64::from(self.local_slots);
        let bound = |speed: f64| Duration::from_secs_f64((seconds / speed).max(longest / 4.0));
        Outcome { took: self.now - start, ideal: bound(own + mesh), alone: bound(own), sent: self.sent }
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let ((at, _), happening) = self.agenda.pop_first().expect("adverts never end");
            self.now = at;
            self.happen(happening);
            self.check("the build ends", self.now < Duration::from_secs(3600));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Advertise(worker) => {
                self.advertise(worker);
                self.later(ADVERT_PERIOD, Happening::Advertise(worker));
            }
            Happening::AdvertArrives(worker, event) if self.workers[worker].online => self.tell(event),
            Happening::Arrives { task, run, worker } => self.arrives(task, run, worker),
            Happening::Replies(event) => self.tell(event),
            Happening::Ends { task, run, place } => self.ends(task, run, place),
            Happening::Fetched(worker) => {
                self.workers[worker].kind.has_toolchain = true;
                self.advertise(worker);
            }
            Happening::Flap { worker, online } => self.flap(worker, online),
            Happening::GivesUp { task, run, worker } => {
                if self.runs.get(&task).is_some_and(|(current, ..)| *current == run) {
                    self.fails(task, worker, Failure::Timeout);
                }
            }
            Happening::Look => self.obey(),
            Happening::AdvertArrives(..) => {}
        }
    }

    fn advertise(&mut self, worker: usize) {
        let others = match self.workers[worker].kind.temper {
            Temper::Shared => self.random.gen_range(0..=self.workers[worker].kind.slots),
            _ => 0,
        };
        let it = &mut self.workers[worker];
        it.others = others.min(it.kind.slots - it.ours.min(it.kind.slots));
        let free = it.kind.slots - (it.ours + it.others).min(it.kind.slots);
        let toolchains = if it.kind.has_toolchain { vec![toolchain()] } else { Vec::new() };
        let slots = it.kind.slots;
        let advert = Event::Worker { id: it.id, slots, free, toolchains, machine_fits: true };
        self.later(ADVERT_DELAY, Happening::AdvertArrives(worker, advert));
    }

    fn tell(&mut self, event: Event) {
        self.placement.handle(self.now, event);
        self.obey();
    }

    fn obey(&mut self) {
        while let Some(decision) = self.placement.poll(self.now) {
            let Decision::Run { task, place, .. } = decision else { panic!("{decision:?}") };
            self.counter += 1;
            let run = self.counter;
            let before = self.runs.insert(task, (run, place, self.now));
            self.check("a task runs at one place", before.is_none());
            match place {
                Place::Local => {
                    self.local += 1;
                    self.check("local slots are not exceeded", self.local <= self.local_slots);
                    let wall = Duration::from_secs_f64(self.works[task as usize]);
                    self.later(wall, Happening::Ends { task, run, place });
                }
                Place::Worker(id) => {
                    let worker = self.index[&id];
                    *self.sent.entry(worker).or_default() += 1;
                    self.later(ROUND_TRIP, Happening::Arrives { task, run, worker });
                    let deadline = self.placement.deadline(task).expect("it runs on a worker");
                    self.at(deadline, Happening::GivesUp { task, run, worker });
                }
            }
        }
        if let Some(at) = self.placement.next_wake(self.now) {
            self.at(at, Happening::Look);
        }
    }

    fn arrives(&mut self, task: u64, run: u64, worker: usize) {
        let it = &mut self.workers[worker];
        if !it.online || self.runs.get(&task).is_none_or(|(current, ..)| *current != run) {
            return;
        }
        let id = it.id;
        let place = Place::Worker(id);
        if !it.kind.has_toolchain {
            if !it.fetching {
                it.fetching = true;
                self.later(FETCH, Happening::Fetched(worker));
            }
            return self.declines(task, id, Decline::FetchingToolchain);
        }
        if it.kind.temper == Temper::Boaster || it.ours + it.others >= it.kind.slots {
            return self.declines(task, id, Decline::Busy);
        }
        it.ours += 1;
        match it.kind.temper {
            Temper::Failing => self.fails(task, worker, Failure::RemoteExit),
            Temper::Liar => self.fails(task, worker, Failure::BadResult),
            Temper::Silent => {}
            _ => {
                let wall = Duration::from_secs_f64(self.works[task as usize] / it.kind.speed);
                self.later(wall + ROUND_TRIP, Happening::Ends { task, run, place });
            }
        }
    }

    fn declines(&mut self, task: u64, worker: NodeId, why: Decline) {
        self.runs.remove(&task);
        let declines = self.declines.entry(task).or_default();
        *declines += 1;
        let bounded = *declines <= DECLINES_MAX;
        self.check("declines are bounded", bounded);
        self.later(ROUND_TRIP, Happening::Replies(Event::Declined { task, worker, why }));
    }

    fn fails(&mut self, task: u64, worker: usize, kind: Failure) {
        self.runs.remove(&task);
        let it = &mut self.workers[worker];
        it.ours = it.ours.saturating_sub(1);
        let failed = Event::Failed { task, worker: it.id, kind };
        self.count_lost_try(task);
        self.later(ROUND_TRIP, Happening::Replies(failed));
    }

    fn count_lost_try(&mut self, task: u64) {
        let tries = self.lost_tries.entry(task).or_default();
        *tries += 1;
        let bounded = *tries <= REMOTE_TRIES_MAX;
        self.check("lost tries are bounded", bounded);
    }

    fn ends(&mut self, task: u64, run: u64, place: Place) {
        if self.runs.get(&task).is_none_or(|(current, ..)| *current != run) {
            return;
        }
        let (_, _, since) = self.runs.remove(&task).expect("just looked up");
        match place {
            Place::Local => self.local -= 1,
            Place::Worker(id) => self.workers[self.index[&id]].ours -= 1,
        }
        self.ended += 1;
        self.tell(Event::Finished { task, place, wall: self.now - since, ok: true });
    }

    fn flap(&mut self, worker: usize, online: bool) {
        self.later(Duration::from_secs(7), Happening::Flap { worker, online: !online });
        let it = &mut self.workers[worker];
        it.online = online;
        it.ours = 0;
        let id = it.id;
        if online {
            return;
        }
        let there = |(_, (_, place, _)): &(&u64, &(u64, Place, Duration))| *place == Place::Worker(id);
        let lost: Vec<u64> = self.runs.iter().filter(there).map(|(task, _)| *task).collect();
        for task in lost {
            self.runs.remove(&task);
            self.count_lost_try(task);
        }
        self.tell(Event::WorkerLost(id));
    }

    fn check(&self, invariant: &str, holds: bool) {
        let Self { name, seed, now, .. } = self;
        assert!(holds, "{invariant}: broken in {name:?}, seed {seed}, at {now:?}");
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), happening);
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }
}

/// Runs a build of 300 tasks on a machine with 4 cores, with three seeds, and compares its time with the ideal
/// one and with that of this machine alone. The ideal counts honest workers only.
fn check(name: &'static str, workers: &[WorkerKind], over_ideal_max: f64, of_alone_max: f64) {
    for seed in 0..3 {
        let scenario = Scenario { name, seed, local_slots: 4, tasks: 300, workers: workers.to_vec() };
        let outcome = World::new(&scenario).run();
        let took = outcome.took.as_secs_f64();
        let (ideal, alone) = (outcome.ideal.as_secs_f64(), outcome.alone.as_secs_f64());
        assert!(took <= ideal * over_ideal_max, "{name}, seed {seed}: {outcome}");
        assert!(took <= alone * of_alone_max, "{name}, seed {seed}: {outcome}");
    }
}

fn office(temper: Temper) -> [WorkerKind; 2] {
    [WorkerKind { count: 3, ..HONEST }, WorkerKind { count: 2, slots: 16, temper, ..HONEST }]
}

#[test]
fn alone_all_cores_are_busy() {
    check("alone", &[], 1.1, 1.1);
}

#[test]
fn equal_workers_share_the_work() {
    check("equal", &[WorkerKind { count: 4, ..HONEST }], 1.6, 0.25);
}

#[test]
fn unequal_workers_share_the_work() {
    let kinds = [
        WorkerKind { speed: 2.0, ..HONEST },
        WorkerKind { count: 2, ..HONEST },
        WorkerKind { count: 2, speed: 0.3, ..HONEST },
    ];
    check("unequal", &kinds, 1.8, 0.3);
}

#[test]
fn slow_workers_do_not_slow_the_build_down() {
    check("slow", &[WorkerKind { count: 4, slots: 2, speed: 0.02, ..HONEST }], 1.3, 1.15);
}

#[test]
fn workers_without_the_toolchain_join_in_when_they_have_it() {
    check("fetching", &[WorkerKind { count: 4, has_toolchain: false, ..HONEST }], 2.5, 0.4);
}

#[test]
fn bad_workers_hardly_cost_anything() {
    for (temper, over_ideal_max) in [
        (Temper::Boaster, 1.8),
        (Temper::Failing, 1.8),
        (Temper::Flapping, 1.8),
        (Temper::Liar, 1.8),
        (Temper::Shared, 1.8),
    ] {
        check("office with a bad worker", &office(temper), over_ideal_max, 0.35);
    }
}

#[test]
fn silent_workers_cost_one_deadline() {
    for seed in 0..3 {
        let workers = office(Temper::Silent).to_vec();
        let scenario = Scenario { name: "silent", seed, local_slots: 4, tasks: 300, workers };
        let outcome = World::new(&scenario).run();
        // Without hedging, what a silent worker holds comes back at the deadline, over a minute later.
        assert!(outcome.took < outcome.ideal + Duration::from_secs(200), "seed {seed}: {outcome}");
    }
}

#[test]
fn only_bad_workers_are_nearly_as_good_as_none() {
    for temper in [Temper::Boaster, Temper::Failing, Temper::Flapping, Temper::Liar] {
        check("only bad workers", &[WorkerKind { count: 5, temper, ..HONEST }], 1.2, 1.2);
    }
}

#[test]
fn a_bad_worker_attracts_little() {
    for (temper, most) in [(Temper::Failing, 3), (Temper::Liar, 3), (Temper::Boaster, 50)] {
        let workers = office(temper).to_vec();
        let scenario = Scenario { name: "attraction", seed: 1, local_slots: 4, tasks: 300, workers };
        let outcome = World::new(&scenario).run();
        for bad in 3..5 {
            let sent = outcome.sent.get(&bad).copied().unwrap_or_default();
            assert!(sent <= most, "{temper:?}: {outcome}");
        }
    }
}
