//! The simulated office: one requester, its build system, and the workers.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use barn_protocol::{
    Digest, Identity, NodeId,
    placement::{
        Config, DECLINES_MAX, Decision, Event, Failure, MOVES_MAX, Place, Placement, REMOTE_TRIES_MAX, Task,
    },
    wire::Decline,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::host::Host;

const ADVERT_PERIOD: Duration = Duration::from_millis(500);
const ADVERT_DELAY: Duration = Duration::from_millis(100);
const ROUND_TRIP: Duration = Duration::from_millis(3);
const FETCH: Duration = Duration::from_secs(5);

/// How a worker behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Temper {
    Honest,
    /// Other requesters take and leave its slots at random.
    Shared,
    /// Advertises many free slots and declines everything.
    Boaster,
    /// Every compile ends at once with an error.
    Failing,
    /// Takes work and never answers.
    Silent,
    /// Takes work, says that it begins, and never answers again.
    Stopped,
    /// Stops like that after it has ended so many tasks well.
    StopsAfter(u32),
    /// Its connection breaks and comes back every few seconds.
    Flapping,
    /// Its blobs do not match.
    Liar,
}

#[derive(Debug, Clone)]
pub(crate) struct WorkerKind {
    pub(crate) count: usize,
    pub(crate) slots: u32,
    pub(crate) queue_max: u32,
    /// CPU seconds a second of all slots together; 0 for as many as it has slots, times `speed`.
    pub(crate) cpu: f64,
    /// How much quicker one slot is than a whole core.
    pub(crate) speed: f64,
    pub(crate) temper: Temper,
    pub(crate) has_toolchain: bool,
    /// How long the inputs of a task travel.
    pub(crate) shipping: Duration,
    /// CPU seconds it needs for each task besides the compile.
    pub(crate) overhead: f64,
}

pub(crate) const HONEST: WorkerKind = WorkerKind {
    count: 1,
    slots: 8,
    queue_max: 8,
    cpu: 0.0,
    speed: 1.0,
    temper: Temper::Honest,
    has_toolchain: true,
    shipping: Duration::from_millis(3),
    overhead: 0.0,
};

/// How the times of tasks are spread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sizes {
    /// From 0.1 to 4 s, evenly on a logarithmic scale.
    Wide,
    /// Log-normal about this mean.
    LogNormal(f64),
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) local_slots: u32,
    /// CPU seconds a second of this machine; 0 for as many as it has slots.
    pub(crate) cpu: f64,
    pub(crate) tasks: u64,
    /// How many the build system runs at once.
    pub(crate) at_once: u64,
    /// CPU seconds it takes here to find the inputs of a task.
    pub(crate) finding: f64,
    /// CPU seconds it takes here to receive what a worker made.
    pub(crate) serving: f64,
    /// How much more or less than its mean one run of a task may take; 0.3 for 30 % either way.
    pub(crate) noise: f64,
    pub(crate) sizes: Sizes,
    pub(crate) workers: Vec<WorkerKind>,
}

#[derive(Debug)]
enum Happening {
    /// A worker writes down what it has free; the requester reads it a little later.
    Advertise(usize),
    AdvertArrives(usize, Event),
    Arrives(u64),
    /// The worker has all inputs.
    Shipped(u64),
    Replies(u64, Event),
    /// A cancellation reaches the worker.
    Cancelled(usize, u64),
    Due {
        host: usize,
        generation: u64,
    },
    Fetched(usize),
    Flap {
        worker: usize,
        online: bool,
    },
    GivesUp(u64),
    Look,
}

/// The requester's own machine among the hosts.
const HERE: usize = usize::MAX;

struct Worker {
    id: NodeId,
    kind: WorkerKind,
    host: Host,
    online: bool,
    /// Runs in slots, and those that wait with their inputs or for them.
    running: Vec<u64>,
    queue: Vec<u64>,
    shipped: Vec<u64>,
    others: u32,
    fetching: bool,
    /// Tasks it has ended well.
    done: u32,
}

/// One run of a task.
#[derive(Debug, Clone, Copy)]
struct Run {
    task: u64,
    place: Place,
    since: Duration,
}

pub(crate) struct World {
    scenario: Scenario,
    now: Duration,
    random: StdRng,
    placement: Placement,
    here: Host,
    workers: Vec<Worker>,
    index: BTreeMap<NodeId, usize>,
    agenda: BTreeMap<(Duration, u64), Happening>,
    counter: u64,
    /// Seconds each task takes on a core, and what it looks like.
    works: Vec<(f64, u64)>,
    submitted: u64,
    /// Tasks whose inputs are to be found.
    calls: VecDeque<u64>,
    /// Tasks whose inputs are being found, by the number of that work.
    finding: BTreeMap<u64, u64>,
    /// Runs on workers whose outputs are being received, by the number of that work.
    serving: BTreeMap<u64, u64>,
    runs: BTreeMap<u64, Run>,
    ended: BTreeMap<u64, Duration>,
    lost_tries: BTreeMap<u64, u32>,
    declines: BTreeMap<u64, u32>,
    moves: BTreeMap<u64, u32>,
    sent: BTreeMap<usize, u32>,
    local: u32,
    taken_back: u32,
    hedged: u32,
}

/// What a build took, and what it could have taken.
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    pub(crate) ideal: Duration,
    /// The ideal with what finding inputs and laying them out costs.
    pub(crate) attainable: Duration,
    pub(crate) alone: Duration,
    pub(crate) sent: BTreeMap<usize, u32>,
    pub(crate) local: u32,
    pub(crate) taken_back: u32,
    pub(crate) hedged: u32,
    /// The mean share of the build in which a worker had nothing to do: at its beginning, between, at the end.
    pub(crate) idle: [f64; 3],
}

impl Outcome {
    pub(crate) fn share(&self) -> f64 {
        self.ideal.as_secs_f64() / self.took.as_secs_f64()
    }

    pub(crate) fn share_of_attainable(&self) -> f64 {
        self.attainable.as_secs_f64() / self.took.as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, ideal, attainable, alone, sent, local, taken_back, hedged, idle } = self;
        write!(f, "took {took:.1?}, ideal {ideal:.1?}, attainable {attainable:.1?}, alone {alone:.1?}, ")?;
        write!(f, "here {local}, sent {sent:?}, taken back {taken_back}, hedged {hedged}, idle {idle:.2?}")
    }
}

fn toolchain() -> Digest {
    Digest::of(b"gcc")
}

fn cpu_of(cpu: f64, slots: u32, speed: f64) -> f64 {
    if cpu > 0.0 { cpu } else { f64::from(slots) * speed }
}

impl Worker {
    fn new(n: usize, kind: WorkerKind) -> Self {
        let cpu = cpu_of(kind.cpu, kind.slots, kind.speed);
        Self {
            id: Identity::from_seed(&[n as u8 + 1; 32]).id(),
            host: Host::new(cpu, kind.speed.min(cpu)),
            kind,
            online: true,
            running: Vec::new(),
            queue: Vec::new(),
            shipped: Vec::new(),
            others: 0,
            fetching: false,
            done: 0,
        }
    }

    fn free(&self) -> u32 {
        self.kind.slots.saturating_sub(self.running.len() as u32 + self.others)
    }

    fn forget(&mut self, run: u64) {
        self.running.retain(|other| *other != run);
        self.queue.retain(|other| *other != run);
        self.shipped.retain(|other| *other != run);
    }
}

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let kinds = scenario.workers.iter().flat_map(|k| std::iter::repeat_n(k.clone(), k.count));
        let workers: Vec<Worker> = kinds.enumerate().map(|(n, kind)| Worker::new(n, kind)).collect();
        let cpu = cpu_of(scenario.cpu, scenario.local_slots, 1.0);
        let mut world = Self {
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(scenario.seed),
            placement: Placement::new(Config {
                local_slots: scenario.local_slots,
                queue_max: 100_000,
                seed: scenario.seed,
            }),
            here: Host::new(cpu, cpu.min(1.0)),
            index: workers.iter().enumerate().map(|(n, w)| (w.id, n)).collect(),
            workers,
            agenda: BTreeMap::new(),
            counter: 0,
            works: Vec::new(),
            submitted: 0,
            calls: VecDeque::new(),
            finding: BTreeMap::new(),
            serving: BTreeMap::new(),
            runs: BTreeMap::new(),
            ended: BTreeMap::new(),
            lost_tries: BTreeMap::new(),
            declines: BTreeMap::new(),
            moves: BTreeMap::new(),
            sent: BTreeMap::new(),
            local: 0,
            taken_back: 0,
            hedged: 0,
            scenario: scenario.clone(),
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
        world.invent();
        (0..scenario.at_once.min(scenario.tasks)).for_each(|_| world.call());
        world
    }

    /// The bytes of input tell the work only roughly.
    fn invent(&mut self) {
        for _ in 0..self.scenario.tasks {
            let seconds = match self.scenario.sizes {
                Sizes::Wide => 0.1 * 40_f64.powf(self.random.gen_range(0.0..1.0)),
                // The sum of twelve evenly spread numbers is nearly normal (Irwin and Hall).
                Sizes::LogNormal(mean) => {
                    let normal = (0..12).map(|_| self.random.gen_range(-0.5..0.5)).sum::<f64>();
                    mean * (0.6 * normal - 0.18).exp()
                }
            };
            let guess = seconds * self.random.gen_range(0.6..1.6);
            self.works.push((seconds, (guess * 2.0 * f64::from(1 << 20)) as u64));
        }
    }

    /// The build system calls the compiler once more.
    fn call(&mut self) {
        if self.submitted == self.scenario.tasks {
            return;
        }
        let task = self.submitted;
        self.submitted += 1;
        self.calls.push_back(task);
        self.placement.handle(self.now, Event::FindingStarted);
        self.find();
        self.obey();
    }

    /// As many inputs are looked for at once as this machine has slots, and one more.
    fn find(&mut self) {
        while self.finding.len() <= self.scenario.local_slots as usize {
            let Some(task) = self.calls.pop_front() else { return };
            self.counter += 1;
            self.finding.insert(self.counter, task);
            self.here.begin(self.now, self.counter, self.scenario.finding);
            self.due(HERE);
        }
    }

    fn found(&mut self, task: u64) {
        let cost = self.works[task as usize].1;
        // The two events come together; what is decided between them does not count.
        self.placement.handle(self.now, Event::FindingEnded);
        let task = Task { id: task, toolchain: toolchain(), cost, source: None, remote_allowed: true };
        self.tell(Event::Submitted(task));
        self.find();
    }

    pub(crate) fn run(mut self) -> Outcome {
        let start = self.now;
        let total = self.works.len();
        self.run_until(|world| world.ended.len() == total);
        let took = self.now - start;
        self.check("no task of the queue runs here any more", self.placement.local_running() == 0);
        self.check("nothing waits any more", self.placement.waiting() == 0);
        let there: u32 = self.placement.workers(self.now).map(|worker| worker.in_flight).sum();
        self.check("no worker has a task any more", there == 0);
        let seconds: f64 = self.works.iter().map(|(seconds, _)| seconds).sum();
        let longest = self.works.iter().map(|(seconds, _)| *seconds).fold(0.0, f64::max);
        let useful = |w: &&Worker| w.kind.temper == Temper::Honest;
        let cpu = |w: &Worker| cpu_of(w.kind.cpu, w.kind.slots, w.kind.speed);
        let mesh: f64 = self.workers.iter().filter(useful).map(cpu).sum();
        let own = cpu_of(self.scenario.cpu, self.scenario.local_slots, 1.0);
        let idle = |worker: &Worker| {
            worker.host.idle(start, self.now).map(|idle| idle.as_secs_f64() / took.as_secs_f64())
        };
        let idles: Vec<_> = self.workers.iter().map(idle).collect();
        let idle =
            [0, 1, 2].map(|part| idles.iter().map(|idle| idle[part]).sum::<f64>() / idles.len() as f64);
        let overhead = self.workers.iter().map(|worker| worker.kind.overhead).fold(0.0, f64::max);
        // What runs here need not be received.
        let there = mesh / (own + mesh) * (overhead + self.scenario.serving);
        let all = seconds + total as f64 * (self.scenario.finding + there);
        let bound = |work: f64, speed: f64| Duration::from_secs_f64((work / speed).max(longest / 4.0));
        Outcome {
            took,
            ideal: bound(seconds, own + mesh),
            attainable: bound(all, own + mesh),
            alone: bound(seconds, own),
            sent: self.sent,
            local: self.local,
            taken_back: self.taken_back,
            hedged: self.hedged,
            idle,
        }
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
            Happening::Arrives(run) => self.arrives(run),
            Happening::Shipped(run) => self.shipped(run),
            Happening::Replies(run, event) => self.replies(run, event),
            Happening::Cancelled(worker, run) => {
                let it = &mut self.workers[worker];
                it.forget(run);
                it.host.stop(self.now, run);
                self.pull(worker);
            }
            Happening::Due { host, generation } => self.host_due(host, generation),
            Happening::Fetched(worker) => {
                self.workers[worker].kind.has_toolchain = true;
                self.advertise(worker);
            }
            Happening::Flap { worker, online } => self.flap(worker, online),
            Happening::GivesUp(run) => {
                if let Some(Run { place: Place::Worker(id), .. }) = self.runs.get(&run).copied() {
                    self.fails(run, self.index[&id], Failure::Timeout);
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
        it.others = others.min(it.kind.slots.saturating_sub(it.running.len() as u32));
        let toolchains = if it.kind.has_toolchain { vec![toolchain()] } else { Vec::new() };
        let advert = Event::Worker {
            id: it.id,
            slots: it.kind.slots,
            free: it.free(),
            queued: it.queue.len() as u32,
            queue_max: it.kind.queue_max,
            toolchains,
            machine_fits: true,
        };
        self.later(ADVERT_DELAY, Happening::AdvertArrives(worker, advert));
        self.pull(worker);
    }

    fn tell(&mut self, event: Event) {
        self.placement.handle(self.now, event);
        self.obey();
    }

    fn obey(&mut self) {
        while let Some(decision) = self.placement.poll(self.now) {
            match decision {
                Decision::Run { task, place, .. } => {
                    let alone = self.runs.values().all(|run| run.task != task);
                    self.check("a task runs at one place", alone);
                    self.start(task, place);
                }
                Decision::TakeBack { task, place, .. } => {
                    self.taken_back += 1;
                    self.count_move(task);
                    self.stop_all(task);
                    self.start(task, place);
                }
                Decision::Hedge { task, worker } => {
                    self.hedged += 1;
                    self.count_move(task);
                    let beside = self.runs.values().filter(|run| run.task == task).count();
                    self.check("one run is raced by one other", beside == 1);
                    self.start(task, Place::Worker(worker));
                }
                Decision::GiveUp { .. } => panic!("{decision:?}"),
            }
        }
        if let Some(at) = self.placement.next_wake(self.now) {
            self.at(at, Happening::Look);
        }
    }

    fn count_move(&mut self, task: u64) {
        let moves = self.moves.entry(task).or_default();
        *moves += 1;
        // The last one is home.
        let bounded = *moves <= MOVES_MAX + 1;
        self.check("a task does not wander", bounded);
    }

    fn start(&mut self, task: u64, place: Place) {
        self.check("what has ended does not start", !self.ended.contains_key(&task));
        self.counter += 1;
        let run = self.counter;
        self.runs.insert(run, Run { task, place, since: self.now });
        match place {
            Place::Local => {
                self.local += 1;
                let here = self.runs.values().filter(|run| run.place == Place::Local).count();
                self.check("local slots are not exceeded", here <= self.scenario.local_slots as usize);
                let seconds = self.one_run(task);
                self.here.begin(self.now, run, seconds);
                self.due(HERE);
            }
            Place::Worker(id) => {
                *self.sent.entry(self.index[&id]).or_default() += 1;
                self.later(ROUND_TRIP / 2, Happening::Arrives(run));
                let deadline = self.placement.deadline(task, id).expect("it runs on a worker");
                self.at(deadline, Happening::GivesUp(run));
            }
        }
    }

    /// CPU seconds that a run of a task takes this time.
    fn one_run(&mut self, task: u64) -> f64 {
        let noise = self.scenario.noise;
        let factor = if noise > 0.0 { self.random.gen_range(1.0 - noise..1.0 + noise) } else { 1.0 };
        self.works[task as usize].0 * factor
    }

    /// Cancels all runs of a task on workers.
    fn stop_all(&mut self, task: u64) {
        let runs: Vec<u64> =
            self.runs.iter().filter(|(_, run)| run.task == task).map(|(number, _)| *number).collect();
        for number in runs {
            let Some(Run { place: Place::Worker(id), .. }) = self.runs.remove(&number) else {
                panic!("a task that runs here is not taken back");
            };
            self.later(ROUND_TRIP / 2, Happening::Cancelled(self.index[&id], number));
        }
    }

    fn arrives(&mut self, run: u64) {
        let Some(Run { place: Place::Worker(id), .. }) = self.runs.get(&run).copied() else { return };
        let worker = self.index[&id];
        let it = &mut self.workers[worker];
        if !it.online {
            return;
        }
        if !it.kind.has_toolchain {
            if !it.fetching {
                it.fetching = true;
                self.later(FETCH, Happening::Fetched(worker));
            }
            return self.declines(run, id, Decline::FetchingToolchain);
        }
        let begin = it.free().saturating_sub(it.queue.len() as u32);
        let room = it.kind.queue_max.saturating_sub((it.queue.len() as u32).saturating_sub(it.free()));
        if it.kind.temper == Temper::Boaster || (begin == 0 && room == 0) {
            return self.declines(run, id, Decline::Busy);
        }
        match it.kind.temper {
            Temper::Failing => self.fails(run, worker, Failure::RemoteExit),
            Temper::Liar => self.fails(run, worker, Failure::BadResult),
            Temper::Silent => it.running.push(run),
            _ => {
                it.queue.push(run);
                let shipping = it.kind.shipping;
                self.later(ROUND_TRIP + shipping, Happening::Shipped(run));
            }
        }
    }

    fn shipped(&mut self, run: u64) {
        let Some(Run { place: Place::Worker(id), .. }) = self.runs.get(&run).copied() else { return };
        let worker = self.index[&id];
        self.workers[worker].shipped.push(run);
        self.pull(worker);
    }

    /// Free slots of a worker take what waits there, in order, once its inputs are there.
    fn pull(&mut self, worker: usize) {
        while self.workers[worker].free() > 0 {
            let it = &mut self.workers[worker];
            let ready = it.queue.iter().copied().find(|run| it.shipped.contains(run));
            let Some(number) = ready else { break };
            it.forget(number);
            it.running.push(number);
            let stops = match it.kind.temper {
                Temper::Stopped => true,
                Temper::StopsAfter(tasks) => it.done >= tasks,
                _ => false,
            };
            if let Some(run) = self.runs.get(&number).copied() {
                let started = Event::Started { task: run.task, worker: it.id };
                if !stops {
                    let seconds = self.one_run(run.task) + self.workers[worker].kind.overhead;
                    self.workers[worker].host.begin(self.now, number, seconds);
                }
                self.later(ROUND_TRIP / 2, Happening::Replies(number, started));
            }
        }
        self.due(worker);
    }

    /// A message of a worker about a run, which is void if that is over.
    fn replies(&mut self, run: u64, event: Event) {
        let about_live = self.runs.contains_key(&run);
        match event {
            Event::Finished { .. } if about_live => self.serve(run),
            Event::Started { .. } if about_live => self.tell(event),
            Event::Finished { .. } | Event::Started { .. } => {}
            // The end of these runs was already entered into the books.
            _ => self.tell(event),
        }
    }

    /// A worker has ended a task: this machine receives what it made.
    fn serve(&mut self, run: u64) {
        self.counter += 1;
        self.serving.insert(self.counter, run);
        self.here.begin(self.now, self.counter, self.scenario.serving);
        self.due(HERE);
    }

    fn served(&mut self, run: u64) {
        if let Some(Run { task, place, .. }) = self.runs.get(&run).copied() {
            self.finish(run, task, place);
        }
    }

    fn declines(&mut self, run: u64, worker: NodeId, why: Decline) {
        let Some(Run { task, .. }) = self.runs.remove(&run) else { return };
        let declines = self.declines.entry(task).or_default();
        *declines += 1;
        let bounded = *declines <= DECLINES_MAX + 1;
        self.check("declines are bounded", bounded);
        self.later(ROUND_TRIP / 2, Happening::Replies(run, Event::Declined { task, worker, why }));
    }

    fn fails(&mut self, run: u64, worker: usize, kind: Failure) {
        let Some(Run { task, .. }) = self.runs.remove(&run) else { return };
        let it = &mut self.workers[worker];
        it.forget(run);
        it.host.stop(self.now, run);
        let failed = Event::Failed { task, worker: it.id, kind };
        self.count_lost_try(task);
        self.later(ROUND_TRIP / 2, Happening::Replies(run, failed));
        self.pull(worker);
    }

    fn count_lost_try(&mut self, task: u64) {
        let tries = self.lost_tries.entry(task).or_default();
        *tries += 1;
        // A hedge may fail as well.
        let bounded = *tries <= REMOTE_TRIES_MAX + 1;
        self.check("lost tries are bounded", bounded);
    }

    fn host_due(&mut self, number: usize, generation: u64) {
        let now = self.now;
        let host = if number == HERE { &mut self.here } else { &mut self.workers[number].host };
        if host.generation != generation {
            return;
        }
        for ended in host.ended(now) {
            if number == HERE {
                if let Some(task) = self.finding.remove(&ended) {
                    self.found(task);
                } else if let Some(run) = self.serving.remove(&ended) {
                    self.served(run);
                } else {
                    self.finish(ended, self.runs[&ended].task, Place::Local);
                }
                continue;
            }
            // The slot is free before the outputs have travelled.
            self.workers[number].forget(ended);
            self.workers[number].done += 1;
            if let Some(run) = self.runs.get(&ended).copied() {
                let wall = now - run.since;
                let finished = Event::Finished { task: run.task, place: run.place, wall, ok: true };
                self.later(ROUND_TRIP / 2, Happening::Replies(ended, finished));
            }
            self.pull(number);
        }
        self.due(number);
    }

    fn finish(&mut self, run: u64, task: u64, place: Place) {
        let since = self.runs.remove(&run).expect("it is live").since;
        self.stop_all(task);
        let twice = self.ended.insert(task, self.now);
        self.check("a task ends once", twice.is_none());
        self.tell(Event::Finished { task, place, wall: self.now - since, ok: true });
        self.call();
    }

    fn due(&mut self, number: usize) {
        let host = if number == HERE { &self.here } else { &self.workers[number].host };
        if let Some(at) = host.due() {
            let generation = host.generation;
            self.at(at.max(self.now), Happening::Due { host: number, generation });
        }
    }

    fn flap(&mut self, worker: usize, online: bool) {
        self.later(Duration::from_secs(7), Happening::Flap { worker, online: !online });
        let it = &mut self.workers[worker];
        it.online = online;
        let id = it.id;
        if online {
            return;
        }
        it.queue.clear();
        it.shipped.clear();
        it.running.clear();
        let there = |(_, run): &(&u64, &Run)| run.place == Place::Worker(id);
        let lost: Vec<(u64, u64)> = self.runs.iter().filter(there).map(|(n, run)| (*n, run.task)).collect();
        for (run, task) in lost {
            self.runs.remove(&run);
            self.workers[worker].host.stop(self.now, run);
            self.count_lost_try(task);
        }
        self.tell(Event::WorkerLost(id));
    }

    fn check(&self, invariant: &str, holds: bool) {
        let Scenario { name, seed, .. } = &self.scenario;
        assert!(holds, "{invariant}: broken in {name:?}, seed {seed}, at {:?}", self.now);
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), happening);
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }
}
