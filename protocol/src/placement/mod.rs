//! Where each action of this requester runs: here or on which worker.
//!
//! The machine takes tasks, adverts and outcomes, and says which task to run where. It keeps no global state:
//! every requester decides for itself from what workers advertise and from how long they took before, the
//! worker accepts or declines at once, and a stale advert costs only a decline.
//!
//! How a task goes:
//!
//! ```text
//!             submitted        it is predicted to end soonest at a place that has a slot, or a place to wait
//!   (none) ───────────────▶ Waiting ───────────────────────────────────────────▶ Running(place)
//!      ▲                     ▲                                                    │  │  │   ▲
//!      │                     └──── declined, failed on a worker, worker lost ─────┘  │  └───┘ taken back, hedged
//!      └──────────────────────── finished, cancelled ────────────────────────────────┘
//! ```
//!
//! Tasks bind late: one that waits belongs to no place until a slot is free for it, or until a worker should
//! have its inputs before a slot there comes free. Even then it can be taken back. The formulae, their sources
//! and the reasons are in `docs/placement.md`.
//!
//! Invariants: a task runs at one place at a time, or on two workers when that was decided; at most
//! `local_slots` tasks of the queue run here; a task waits only while every slot here is taken or a worker is believed
//! to end it much sooner; after
//! [`REMOTE_TRIES_MAX`] failed tries, or a failure that may be the task's own, it runs here; it is sent to another
//! worker without a failure at most [`MOVES_MAX`] times.

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
mod choice;
mod familiar;
mod handover;
mod horizon;
mod losses;
mod rate;
mod rescue;
mod spread;
mod task;
#[cfg(test)]
mod tests;
mod types;
mod worker;

pub use breaker::{FAILURES_MAX, OPEN_TIME, QUARANTINE_TIME, UNPROVEN_TIME};
pub use choice::{IDLE_MARGIN, OVERDUE_SLACK, UNPROVEN_WORK};
use familiar::Familiar;
pub use handover::{FIRST_PATIENCE, HANDOVER_DEFAULT};
use losses::Losses;
pub use losses::{LOSSES_MIN, LOSSES_TOGETHER};
use rate::Rate;
pub use rate::{COST_FIXED_BYTES, DEFAULT_SECONDS_PER_BYTE, FORGET_AFTER, MEMORY, WALL_MAX};
pub use rescue::{
    GAIN_MIN, GIVE_UP_MARGIN, HEDGE_MARGIN, HEDGED_SHARE, MOVES_MAX, STUCK_RATIO, SUSPECT_RATIO,
    TAKE_BACK_MARGIN,
};
use spread::Spread;
use task::{Run, Tracked};
pub use types::{Config, Decision, Event, Failure, Place, Task, Why, WorkerView};
pub use worker::{DOUBT_MAX, EXCLUDED_TIME, FETCH_TIME, SLOTS_MAX};
use worker::{Load, Worker};

/// A worker is chosen over our own cores only if it is predicted to need less than the own time divided by
/// this: predictions are rough, and the network is not only ours.
pub const REMOTE_MARGIN: f64 = 1.25;
/// While inputs are being found here, a worker that has room is chosen even if it is predicted to need this much
/// longer than our own cores: a compile here would slow the finding down, on which all workers wait.
pub const FEEDING_MARGIN: f64 = 4.0;
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
/// While tasks wait for workers or run there, how often to look again although nothing happened: an overdue task
/// makes waiting for it less attractive.
pub const RECHECK: Duration = Duration::from_millis(250);
/// A remote task is given up after this many times its predicted wall time …
pub const DEADLINE_FACTOR: u32 = 10;
/// … and this. It is a last resort: a dead connection shows itself within seconds.
pub const DEADLINE_SLACK: Duration = Duration::from_secs(60);

/// The input of a task where none was ever seen, in bytes.
const TYPICAL_COST: u64 = 1 << 20;
/// No run is believed to have taken less.
const MEASURED_MIN: Duration = Duration::from_millis(1);

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
    /// Compiles here whose inputs are being found.
    finding: u32,
    local: Rate,
    /// All workers taken together: what a new one is believed to be like.
    mesh: Rate,
    /// How far workers' times are from their predictions.
    spread: Spread,
    losses: Losses,
    familiar: Familiar,
    /// The work of the last tasks, as a moving average, in bytes.
    typical_work: f64,
    random: Random,
    /// Whether something happened since the last look at the queue.
    stale: bool,
    recheck: Duration,
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
            finding: 0,
            local: Rate::default(),
            mesh: Rate::default(),
            spread: Spread::default(),
            losses: Losses::default(),
            familiar: Familiar::default(),
            typical_work: rate::work(TYPICAL_COST),
            random: Random::new(config.seed),
            stale: false,
            recheck: Duration::ZERO,
        }
    }

    /// Takes note of what happened at `now` (monotonic, since the node's start).
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.stale = true;
        match event {
            Event::Submitted(task) => self.submit(now, task),
            Event::Worker { id, slots, free, queued, queue_max, toolchains, machine_fits } => {
                if let Some(worker) = self.worker_entry(id) {
                    worker.machine_fits = machine_fits;
                    let listed = toolchains.into_iter().take(ADVERT_TOOLCHAINS_MAX).collect();
                    let load = Load { slots, free, queued, queue_max };
                    worker.advertised(now, load, listed);
                }
            }
            Event::WorkerLost(id) => self.worker_lost(now, id),
            Event::Started { task, worker } => self.started(now, task, Place::Worker(worker)),
            Event::Declined { task, worker, why } => self.declined(now, task, worker, why),
            Event::Finished { task, place: Place::Worker(worker), ok: false, .. } => {
                self.failed(now, task, worker, Failure::RemoteExit);
            }
            Event::Finished { task, place, wall, ok } => self.finished(now, task, place, wall, ok),
            Event::Failed { task, worker, kind } => self.failed(now, task, worker, kind),
            Event::LocalStarted => self.outside = self.outside.saturating_add(1),
            Event::LocalFinished => self.outside = self.outside.saturating_sub(1),
            Event::FindingStarted => self.finding = self.finding.saturating_add(1),
            Event::FindingEnded => self.finding = self.finding.saturating_sub(1),
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
        let decided =
            self.rescue_overdue(now).or_else(|| self.bind_one(now)).or_else(|| self.rescue_any(now));
        self.stale = decided.is_some();
        self.recheck = now + RECHECK;
        decided
    }

    /// When to call [`Placement::poll`] next although nothing happened; not before `now`.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        if self.stale || !self.given_up.is_empty() {
            return Some(now);
        }
        let waits = !self.queue.is_empty();
        let worth_it = self.workers.values().any(|w| (waits && w.online) || w.in_flight > 0);
        worth_it.then(|| self.recheck.max(now))
    }

    /// When the driver should give up a task's run on `worker` and report [`Failure::Timeout`]; `None` when it
    /// does not run there.
    pub fn deadline(&self, task: u64, worker: NodeId) -> Option<Duration> {
        let run = self.tasks.get(&task)?.runs().find(|run| run.place == Place::Worker(worker))?;
        let expected = run.lead.saturating_add(run.expected);
        let allowed = expected.saturating_mul(DEADLINE_FACTOR).saturating_add(DEADLINE_SLACK);
        Some(run.since + allowed.min(WALL_MAX))
    }

    /// When a running task is predicted to end.
    pub fn expected_end(&self, task: u64) -> Option<Duration> {
        let end = |run: &Run| run.started.unwrap_or(run.since + run.lead) + run.expected;
        self.tasks.get(&task)?.runs().map(end).min()
    }

    /// Where a task runs; `None` while it waits and when it is unknown. Of a hedged one, the older place.
    pub fn place_of(&self, task: u64) -> Option<Place> {
        self.tasks.get(&task)?.run.map(|run| run.place)
    }

    /// Where a task runs a second time.
    pub fn hedge_of(&self, task: u64) -> Option<Place> {
        self.tasks.get(&task)?.hedge.map(|run| run.place)
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
            queued: worker.queued,
            seconds_per_byte: worker.rate.seconds_per_byte(now, prior),
            paused_until: worker.breaker.open_until(now),
        })
    }

    fn submit(&mut self, now: Duration, task: Task) {
        if self.tasks.contains_key(&task.id) {
            return;
        }
        if self.queue.len() >= self.queue_max {
            self.given_up.push_back(task.id);
            return;
        }
        self.submitted += 1;
        self.queue.insert(self.submitted, task.id);
        let tracked = Tracked::new(task, self.submitted, now);
        self.typical_work = self.typical_work * MEMORY + self.work(&tracked) * (1.0 - MEMORY);
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
            let was_online = std::mem::replace(&mut worker.online, false);
            worker.free = 0;
            if was_online {
                self.count_loss(now, id);
            }
        }
    }

    /// When most peers are lost at one moment, that is not held against them: they get tasks again as soon as they
    /// are connected.
    fn count_loss(&mut self, now: Duration, id: NodeId) {
        let online = self.workers.iter().filter(|(_, worker)| worker.online).map(|(id, _)| *id);
        let forgiven = self.losses.lost(now, id, online);
        for id in &forgiven {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.forgive_loss();
            }
        }
        for tracked in self.tasks.values_mut().filter(|tracked| tracked.failure == Some(Failure::Lost)) {
            tracked.avoid.retain(|id| !forgiven.contains(id));
        }
    }

    fn declined(&mut self, now: Duration, task: u64, id: NodeId, why: Decline) {
        let Some((tracked, run)) = self.end_run(task, Place::Worker(id)) else { return };
        tracked.declines += 1;
        if why == Decline::Unfit {
            tracked.avoid.push(id);
        }
        let toolchain = tracked.task.toolchain;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.declined(now, &run, toolchain, why);
        }
    }

    fn failed(&mut self, now: Duration, task: u64, id: NodeId, failure: Failure) {
        let prior = self.mesh_rate(now);
        let Some(work) = self.tasks.get(&task).map(|tracked| self.work(tracked)) else { return };
        let Some((tracked, run)) = self.end_run(task, Place::Worker(id)) else { return };
        tracked.tries += 1;
        tracked.avoid.push(id);
        tracked.failure = Some(failure);
        let own = failure.may_be_the_tasks_own().then_some(id);
        let other = std::mem::replace(&mut tracked.suspect, own);
        // Of two suspects, one that failed like the other is none.
        self.settle(now, other, false);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.returned(now, &run);
            worker.failed(now, failure);
            if failure == Failure::Lost {
                return self.count_loss(now, id);
            }
            if failure == Failure::Timeout {
                worker.rate.measured(now, prior, work, now.saturating_sub(run.since));
            }
        }
    }

    fn finished(&mut self, now: Duration, task: u64, place: Place, wall: Duration, ok: bool) {
        if !self.tasks.get(&task).is_some_and(|tracked| tracked.runs_at(place)) {
            return;
        }
        let Some(mut tracked) = self.tasks.remove(&task) else { return };
        let Some(run) = tracked.end_run(place) else { return };
        let promised = rate::work(tracked.task.cost);
        let work = self.work(&tracked);
        let mut took = None;
        match place {
            Place::Local => {
                self.local_running -= 1;
                // A compile that fails ends early and says nothing about speed.
                if ok {
                    took = Some((wall, self.local_rate(now)));
                    self.local.measured(now, DEFAULT_SECONDS_PER_BYTE, work, wall);
                }
            }
            Place::Worker(id) => {
                let prior = self.mesh_rate(now);
                let began = run.started.unwrap_or(run.since + run.lead);
                let wall = now.saturating_sub(began).max(MEASURED_MIN);
                self.spread.measured(run.expected, wall);
                self.mesh.measured(now, prior, work, wall);
                if let Some(worker) = self.workers.get_mut(&id) {
                    took = Some((wall, worker.rate.seconds_per_byte(now, prior)));
                    worker.returned(now, &run);
                    worker.succeeded(tracked.task.toolchain);
                    worker.rate.measured(now, prior, work, wall);
                }
            }
        }
        if let Some((wall, rate)) = took {
            self.familiar.measured(tracked.task.source, promised, wall.as_secs_f64() / rate);
        }
        self.settle(now, tracked.suspect, ok);
        if let Some(other) = tracked.run {
            self.abandon(now, &other, work);
        }
    }

    fn cancel(&mut self, now: Duration, task: u64) {
        self.given_up.retain(|given_up| *given_up != task);
        let Some(tracked) = self.tasks.remove(&task) else { return };
        self.queue.remove(&tracked.order);
        self.settle(now, tracked.suspect, false);
        for run in tracked.runs() {
            match run.worker().map(|id| self.workers.get_mut(&id)) {
                None => self.local_running -= 1,
                Some(Some(worker)) => {
                    worker.returned(now, run);
                    worker.breaker.undecided(now);
                }
                Some(None) => {}
            }
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

    /// Ends a task's run at `place`. If it has no other, it is back at its old position in the queue.
    fn end_run(&mut self, task: u64, place: Place) -> Option<(&mut Tracked, Run)> {
        let tracked = self.tasks.get_mut(&task)?;
        let ended = tracked.end_run(place)?;
        if tracked.run.is_none() {
            self.queue.insert(tracked.order, task);
        }
        Some((tracked, ended))
    }
}
