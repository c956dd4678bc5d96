//! Where each action of this requester runs: here or on which worker.
//!
//! The machine takes tasks, adverts and outcomes, and says which task to run where. It keeps no global state:
//! every requester decides for itself from what workers advertise and from how long they took before, the
//! worker accepts or declines at once, and a stale advert costs only a decline.
//!
//! How a task goes:
//!
//! ```text
//!             submitted              a slot is free, and no other is predicted to end it sooner
//!   (none) ───────────────▶ Waiting ───────────────────────────────────────────▶ Running(place)
//!      ▲                     ▲                                                     │  │
//!      │                     └──── declined, failed on a worker, worker lost ──────┘  │
//!      └──────────────────────── finished, cancelled ─────────────────────────────────┘
//! ```
//!
//! Tasks bind late: one that waits belongs to no place until a slot is free for it. The formulae, their sources
//! and the reasons are in `docs/placement.md`.
//!
//! Invariants: a task runs at one place at a time; at most `local_slots` tasks of the queue run here; a task
//! waits only while every slot here is taken; after [`REMOTE_TRIES_MAX`] failed tries, or a failure that may be
//! the task's own, it runs here.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    identity::NodeId,
    limits::{ADVERT_TOOLCHAINS_MAX, ROSTER_MEMBERS_MAX},
    random::Random,
    wire::Decline,
};

mod breaker;
mod horizon;
mod rate;
#[cfg(test)]
mod tests;
mod types;
mod worker;

pub use breaker::{FAILURES_MAX, OPEN_TIME, QUARANTINE_TIME, UNPROVEN_TIME};
use horizon::{Horizon, Slots, WorkerSlots, remaining};
use rate::Rate;
pub use rate::{COST_FIXED_BYTES, DEFAULT_SECONDS_PER_BYTE, FORGET_AFTER, MEMORY, WALL_MAX};
pub use types::{Config, Decision, Event, Failure, Place, Task, Why, WorkerView};
pub use worker::{DOUBT_MAX, EXCLUDED_TIME, FETCH_TIME, SLOTS_MAX};
use worker::{Fit, Worker};

/// A worker is chosen over our own cores only if it is predicted to need less than the own time divided by
/// this: predictions are rough, and the network is not only ours.
pub const REMOTE_MARGIN: f64 = 1.25;
/// Predictions of workers are multiplied by a random factor between 1 and this.
pub const BIAS_MAX: f64 = 1.1;
/// What it is taken to cost to send a task to a worker that lacks the toolchain and will decline it: a round
/// trip with the list of inputs.
pub const FETCH_PENALTY: Duration = Duration::from_millis(50);
/// Failed tries on workers after which a task runs here.
pub const REMOTE_TRIES_MAX: u32 = 2;
/// Declines after which a task runs here; each costs a round trip.
pub const DECLINES_MAX: u32 = 4;
/// How many waiting tasks are looked at to fill a free slot that the first ones do not want.
pub const LOOKAHEAD_MAX: usize = 1024;
/// While tasks wait and there are workers, how often to look again although nothing happened: an overdue task
/// makes waiting for its slot less attractive.
pub const RECHECK: Duration = Duration::from_millis(250);
/// A remote task is given up after this many times its predicted wall time …
pub const DEADLINE_FACTOR: u32 = 10;
/// … and this. It is a last resort: a dead connection shows itself within seconds.
pub const DEADLINE_SLACK: Duration = Duration::from_secs(60);

/// The placement of one requester. Drive it with [`Placement::handle`]; after every event and at
/// [`Placement::next_wake`], call [`Placement::poll`] until it returns `None`.
#[derive(Debug)]
pub struct Placement {
    local_slots: u32,
    queue_max: usize,
    tasks: BTreeMap<u64, Tracked>,
    /// Waiting tasks in order of submission.
    queue: BTreeMap<u64, u64>,
    given_up: VecDeque<u64>,
    submitted: u64,
    workers: BTreeMap<NodeId, Worker>,
    local_running: u32,
    /// Compiles here outside the queue.
    outside: u32,
    local: Rate,
    /// All workers taken together: what a new one is believed to be like.
    mesh: Rate,
    random: Random,
    /// Whether something happened since the last look at the queue.
    stale: bool,
    recheck: Duration,
}

#[derive(Debug)]
struct Tracked {
    task: Task,
    order: u64,
    run: Option<Run>,
    tries: u32,
    declines: u32,
    /// Workers it failed on or does not fit.
    avoid: Vec<NodeId>,
    failure: Option<Failure>,
    /// The worker whose fault the failure may be, until the local run has ended.
    suspect: Option<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    place: Place,
    since: Duration,
    expected: Duration,
}

impl Tracked {
    fn runs_at(&self, place: Place) -> bool {
        self.run.is_some_and(|run| run.place == place)
    }

    fn only_local(&self) -> bool {
        !self.task.remote_allowed
            || self.tries >= REMOTE_TRIES_MAX
            || self.declines >= DECLINES_MAX
            || self.failure.is_some_and(|failure| !failure.may_retry_remotely())
    }

    fn why(&self, place: Place) -> Why {
        match (place, self.failure) {
            (Place::Worker(_), _) => Why::Quickest,
            (Place::Local, Some(failure)) => Why::FellBack(failure),
            (Place::Local, None) if !self.task.remote_allowed => Why::OnlyLocal,
            (Place::Local, None) if self.declines >= DECLINES_MAX => Why::Declined,
            (Place::Local, None) => Why::Quickest,
        }
    }
}

/// A place for a task, from when, and for how long.
#[derive(Debug, Clone, Copy)]
struct Offer {
    place: Place,
    start: Duration,
    wall: Duration,
}

impl Placement {
    /// A requester that knows no worker yet.
    pub fn new(config: Config) -> Self {
        Self {
            local_slots: config.local_slots.max(1),
            queue_max: config.queue_max,
            tasks: BTreeMap::new(),
            queue: BTreeMap::new(),
            given_up: VecDeque::new(),
            submitted: 0,
            workers: BTreeMap::new(),
            local_running: 0,
            outside: 0,
            local: Rate::default(),
            mesh: Rate::default(),
            random: Random::new(config.seed),
            stale: false,
            recheck: Duration::ZERO,
        }
    }

    /// Takes note of what happened at `now` (monotonic, since the node's start).
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.stale = true;
        match event {
            Event::Submitted(task) => self.submit(task),
            Event::Worker { id, slots, free, toolchains, machine_fits } => {
                if let Some(worker) = self.worker_entry(id) {
                    worker.machine_fits = machine_fits;
                    let listed = toolchains.into_iter().take(ADVERT_TOOLCHAINS_MAX).collect();
                    worker.advertised(now, slots, free, listed);
                }
            }
            Event::WorkerLost(id) => self.worker_lost(now, id),
            Event::Declined { task, worker, why } => self.declined(now, task, worker, why),
            Event::Finished { task, place: Place::Worker(worker), ok: false, .. } => {
                self.failed(now, task, worker, Failure::RemoteExit);
            }
            Event::Finished { task, place, wall, ok } => self.finished(now, task, place, wall, ok),
            Event::Failed { task, worker, kind } => self.failed(now, task, worker, kind),
            Event::LocalStarted => self.outside = self.outside.saturating_add(1),
            Event::LocalFinished => self.outside = self.outside.saturating_sub(1),
            Event::Cancelled { task } => self.cancel(now, task),
        }
    }

    /// The next decision at `now`, if there is one.
    pub fn poll(&mut self, now: Duration) -> Option<Decision> {
        if let Some(task) = self.given_up.pop_front() {
            return Some(Decision::GiveUp { task });
        }
        if !self.stale && now < self.recheck {
            return None;
        }
        let bound = self.bind_one(now);
        self.stale = bound.is_some();
        self.recheck = now + RECHECK;
        bound
    }

    /// When to call [`Placement::poll`] next although nothing happened; not before `now`.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        if self.stale || !self.given_up.is_empty() {
            return Some(now);
        }
        let worth_it = !self.queue.is_empty() && self.workers.values().any(|w| w.online);
        worth_it.then(|| self.recheck.max(now))
    }

    /// When the driver should give up a remote run and report [`Failure::Timeout`]; `None` for a task that
    /// does not run on a worker.
    pub fn deadline(&self, task: u64) -> Option<Duration> {
        let run = self.tasks.get(&task)?.run.filter(|run| run.place != Place::Local)?;
        let allowed = run.expected.saturating_mul(DEADLINE_FACTOR).saturating_add(DEADLINE_SLACK);
        Some(run.since + allowed.min(WALL_MAX))
    }

    /// When a running task is predicted to end.
    pub fn expected_end(&self, task: u64) -> Option<Duration> {
        self.tasks.get(&task)?.run.map(|run| run.since + run.expected)
    }

    /// Where a task runs; `None` while it waits and when it is unknown.
    pub fn place_of(&self, task: u64) -> Option<Place> {
        self.tasks.get(&task)?.run.map(|run| run.place)
    }

    /// How many tasks wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many tasks of the queue run here.
    pub fn local_running(&self) -> u32 {
        self.local_running
    }

    /// All workers known, as believed at `now`.
    pub fn workers(&self, now: Duration) -> impl Iterator<Item = WorkerView> {
        let prior = self.mesh_rate(now);
        self.workers.iter().map(move |(&id, worker)| WorkerView {
            id,
            online: worker.online,
            slots: worker.slots,
            free: worker.free,
            in_flight: worker.in_flight,
            seconds_per_byte: worker.rate.seconds_per_byte(now, prior),
            paused_until: worker.breaker.open_until(now),
        })
    }

    fn submit(&mut self, task: Task) {
        if self.tasks.contains_key(&task.id) {
            return;
        }
        if self.queue.len() >= self.queue_max {
            self.given_up.push_back(task.id);
            return;
        }
        self.submitted += 1;
        self.queue.insert(self.submitted, task.id);
        let tracked = Tracked {
            order: self.submitted,
            run: None,
            tries: 0,
            declines: 0,
            avoid: Vec::new(),
            failure: None,
            suspect: None,
            task,
        };
        self.tasks.insert(tracked.task.id, tracked);
    }

    /// The record of a worker; `None` when too many others are connected.
    fn worker_entry(&mut self, id: NodeId) -> Option<&mut Worker> {
        if !self.workers.contains_key(&id) && self.workers.len() >= ROSTER_MEMBERS_MAX {
            let offline = self.workers.iter().filter(|(_, worker)| !worker.online);
            let oldest = offline.min_by_key(|(_, worker)| worker.seen).map(|(id, _)| *id)?;
            self.workers.remove(&oldest);
        }
        Some(self.workers.entry(id).or_default())
    }

    fn worker_lost(&mut self, now: Duration, id: NodeId) {
        let there = |tracked: &&Tracked| tracked.runs_at(Place::Worker(id));
        let lost: Vec<u64> = self.tasks.values().filter(there).map(|tracked| tracked.task.id).collect();
        for task in lost {
            self.failed(now, task, id, Failure::Lost);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.online = false;
            worker.free = 0;
        }
    }

    fn declined(&mut self, now: Duration, task: u64, id: NodeId, why: Decline) {
        let Some(tracked) = self.unbind(task, Place::Worker(id)) else { return };
        tracked.declines += 1;
        if why == Decline::Unfit {
            tracked.avoid.push(id);
        }
        let toolchain = tracked.task.toolchain;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.declined(now, toolchain, why);
        }
    }

    fn failed(&mut self, now: Duration, task: u64, id: NodeId, failure: Failure) {
        let Some(run) = self.tasks.get(&task).and_then(|tracked| tracked.run) else { return };
        let prior = self.mesh_rate(now);
        let Some(tracked) = self.unbind(task, Place::Worker(id)) else { return };
        tracked.tries += 1;
        tracked.avoid.push(id);
        tracked.failure = Some(failure);
        tracked.suspect = failure.may_be_the_tasks_own().then_some(id);
        let work = rate::work(tracked.task.cost);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.returned();
            worker.failed(now, failure);
            if failure == Failure::Timeout {
                worker.rate.measured(now, prior, work, now.saturating_sub(run.since));
            }
        }
    }

    fn finished(&mut self, now: Duration, task: u64, place: Place, wall: Duration, ok: bool) {
        if !self.tasks.get(&task).is_some_and(|tracked| tracked.runs_at(place)) {
            return;
        }
        let Some(tracked) = self.tasks.remove(&task) else { return };
        let (work, prior) = (rate::work(tracked.task.cost), self.mesh_rate(now));
        match place {
            Place::Local => {
                self.local_running -= 1;
                // A compile that fails ends early and says nothing about speed.
                if ok {
                    self.local.measured(now, DEFAULT_SECONDS_PER_BYTE, work, wall);
                }
                self.settle(now, tracked.suspect, ok);
            }
            Place::Worker(id) => {
                self.mesh.measured(now, prior, work, wall);
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.returned();
                    worker.succeeded(tracked.task.toolchain);
                    worker.rate.measured(now, prior, work, wall);
                }
            }
        }
    }

    fn cancel(&mut self, now: Duration, task: u64) {
        self.given_up.retain(|given_up| *given_up != task);
        let Some(tracked) = self.tasks.remove(&task) else { return };
        self.queue.remove(&tracked.order);
        self.settle(now, tracked.suspect, false);
        match tracked.run.map(|run| run.place) {
            Some(Place::Local) => self.local_running -= 1,
            Some(Place::Worker(id)) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.returned();
                    worker.breaker.undecided(now);
                }
            }
            None => {}
        }
    }

    /// The task that failed on `suspect` has ended here: well, then it was the worker's fault.
    fn settle(&mut self, now: Duration, suspect: Option<NodeId>, ok: bool) {
        let Some(worker) = suspect.and_then(|id| self.workers.get_mut(&id)) else { return };
        if ok {
            worker.breaker.proven(now);
        } else {
            worker.breaker.absolved(now);
        }
    }

    /// Puts a task that runs at `place` back to its old position in the queue.
    fn unbind(&mut self, task: u64, place: Place) -> Option<&mut Tracked> {
        let tracked = self.tasks.get_mut(&task).filter(|tracked| tracked.runs_at(place))?;
        tracked.run = None;
        self.queue.insert(tracked.order, task);
        Some(tracked)
    }

    /// Gives the first waiting task for which that is best a slot that is free now.
    fn bind_one(&mut self, now: Duration) -> Option<Decision> {
        if self.queue.is_empty() {
            return None;
        }
        let mut horizon = self.horizon(now);
        let mut found = None;
        for task in self.queue.values().take(LOOKAHEAD_MAX) {
            if !horizon.any_free() {
                break;
            }
            let Some(tracked) = self.tasks.get(task) else { continue };
            let offer = self.best_offer(now, &horizon, tracked);
            if offer.start.is_zero() {
                found = Some((*task, offer));
                break;
            }
            horizon.occupy(offer.place, offer.wall);
        }
        found.map(|(task, offer)| self.bind(now, task, offer))
    }

    fn bind(&mut self, now: Duration, task: u64, offer: Offer) -> Decision {
        let Offer { place, wall, .. } = offer;
        let tracked = self.tasks.get_mut(&task).expect("only tracked tasks wait");
        tracked.run = Some(Run { place, since: now, expected: wall });
        self.queue.remove(&tracked.order);
        match place {
            Place::Local => self.local_running += 1,
            Place::Worker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.sent(now, tracked.task.toolchain);
                }
            }
        }
        Decision::Run { task, place, why: tracked.why(place) }
    }

    /// The slot in which a task is predicted to end first. With a free slot here, slots that are not free yet
    /// do not count: a core that idles while a task waits must not happen.
    fn best_offer(&self, now: Duration, horizon: &Horizon, tracked: &Tracked) -> Offer {
        let work = rate::work(tracked.task.cost);
        let here = Offer {
            place: Place::Local,
            start: horizon.local.first().unwrap_or(WALL_MAX),
            wall: rate::wall(horizon.local_seconds_per_byte, work),
        };
        if tracked.only_local() {
            return here;
        }
        let mut best = (here.start + here.wall, here);
        for candidate in &horizon.workers {
            let Some(start) = candidate.slots.first() else { continue };
            let fit = self.fit(now, candidate.id, tracked);
            let must_wait = !start.is_zero() && (here.start.is_zero() || fit == Fit::MustFetch);
            if fit == Fit::No || must_wait {
                continue;
            }
            let penalty = if fit == Fit::MustFetch { FETCH_PENALTY } else { Duration::ZERO };
            let wall = rate::wall(candidate.seconds_per_byte, work);
            let score = (start + wall + penalty).mul_f64(REMOTE_MARGIN * candidate.bias);
            if score < best.0 {
                best = (score, Offer { place: Place::Worker(candidate.id), start, wall });
            }
        }
        best.1
    }

    fn fit(&self, now: Duration, id: NodeId, tracked: &Tracked) -> Fit {
        match self.workers.get(&id) {
            Some(worker) if !tracked.avoid.contains(&id) => worker.fit(now, &tracked.task.toolchain),
            _ => Fit::No,
        }
    }

    fn horizon(&mut self, now: Duration) -> Horizon {
        let mut busy: BTreeMap<Place, Vec<Duration>> = BTreeMap::new();
        for run in self.tasks.values().filter_map(|tracked| tracked.run) {
            let left = remaining(run.expected, now.saturating_sub(run.since));
            busy.entry(run.place).or_default().push(left);
        }
        let mut busy_at = |place| busy.remove(&place).unwrap_or_default();
        // Compiles outside the queue never take the last slot: one of them may wait, through a pipe, for a
        // task of the queue.
        let here = self.local_slots.saturating_sub(self.outside).max(1);
        let local = Slots::crowded(here as usize, busy_at(Place::Local));
        let prior = self.mesh_rate(now);
        let open = self.workers.iter().filter(|(_, worker)| worker.takes_work(now));
        let workers = open.map(|(&id, worker)| WorkerSlots {
            id,
            slots: Slots::new(worker.capacity(now) as usize, busy_at(Place::Worker(id))),
            seconds_per_byte: worker.rate.seconds_per_byte(now, prior),
            bias: self.random.between(1.0, BIAS_MAX),
        });
        let workers = workers.collect();
        Horizon { local, local_seconds_per_byte: self.local_rate(now), workers }
    }

    fn local_rate(&self, now: Duration) -> f64 {
        self.local.seconds_per_byte(now, DEFAULT_SECONDS_PER_BYTE)
    }

    /// What a worker of which nothing is known is believed to be like.
    fn mesh_rate(&self, now: Duration) -> f64 {
        self.mesh.seconds_per_byte(now, self.local_rate(now))
    }
}
