//! Which waiting task goes where: list scheduling by earliest finish, redone at every event.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{
    BIAS_MAX, DEFAULT_SECONDS_PER_BYTE, Decision, FEEDING_MARGIN, FETCH_PENALTY, LOOKAHEAD_MAX, Place,
    Placement, REMOTE_MARGIN, WALL_MAX,
    horizon::{End, Horizon, Slots, WorkerSlots, remaining},
    rate,
    task::{Run, Tracked},
    worker::{Fit, Worker},
};
use crate::identity::NodeId;

/// Added to the time after which a run is overdue: short tasks are late by scheduling alone.
pub const OVERDUE_SLACK: Duration = Duration::from_millis(500);

/// A worker that has not ended any task well is sent none of more than this many times the usual work: the longest
/// go first, and on a slow machine that nobody knows yet they would take the whole build.
pub const UNPROVEN_WORK: f64 = 1.5;

/// A task is kept from a free slot here, for a slot of a proven worker that is not free yet, when it would end by this
/// factor sooner there, besides [`REMOTE_MARGIN`]: a long one begun on a slow machine is the end of the build.
pub const IDLE_MARGIN: f64 = 1.5;

/// A place for a task, from when, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) place: Place,
    /// When its slot is free, from now.
    pub(super) start: Duration,
    /// When its inputs can be there.
    pub(super) lead: Duration,
    pub(super) wall: Duration,
    /// Whether it can be sent there now, to a slot or to the queue.
    pub(super) open: bool,
}

impl Offer {
    pub(super) fn end(&self) -> Duration {
        self.start.max(self.lead) + self.wall
    }
}

/// A run on a worker, while the horizon is made.
struct Busy {
    task: u64,
    run: Run,
    work: f64,
}

impl Placement {
    /// Gives the first waiting task for which that is best a place that it can be sent to now.
    pub(super) fn bind_one(&mut self, now: Duration) -> Option<Decision> {
        if self.queue.is_empty() {
            return None;
        }
        let mut horizon = self.horizon(now);
        let mut found = None;
        for task in self.longest_first(now) {
            if !horizon.any_open() {
                break;
            }
            let Some(tracked) = self.tasks.get(&task) else { continue };
            let offer = self.best_offer(now, &horizon, tracked);
            if offer.open {
                found = Some((task, offer));
                break;
            }
            horizon.occupy(offer.place, offer.wall);
        }
        found.map(|(task, offer)| self.bind(now, task, offer))
    }

    /// The waiting tasks by what they need plus what they have waited. The longest first makes the end of a
    /// build short (LPT); what waits gains on what comes later, so nothing is overtaken for longer than the
    /// longest task takes.
    fn longest_first(&self, now: Duration) -> Vec<u64> {
        let rate = self.local_rate(now);
        let rank = |task: &u64| {
            let tracked = self.tasks.get(task)?;
            let need = rate::wall(rate, self.work(tracked));
            Some((need.mul_f64(4.0) + now.saturating_sub(tracked.submitted), *task))
        };
        let mut ranked: Vec<_> = self.queue.values().take(LOOKAHEAD_MAX).filter_map(rank).collect();
        // Stable, so equals go in the order of submission.
        ranked.sort_by_key(|(rank, _)| Reverse(*rank));
        ranked.into_iter().map(|(_, task)| task).collect()
    }

    pub(super) fn bind(&mut self, now: Duration, task: u64, offer: Offer) -> Decision {
        let run = self.begin(now, task, offer);
        let tracked = self.tasks.get_mut(&task).expect("only tracked tasks wait");
        tracked.run = Some(run);
        self.queue.remove(&tracked.order);
        Decision::Run { task, place: offer.place, why: tracked.why(offer.place) }
    }

    /// A run of `task` where it is offered, counted there.
    pub(super) fn begin(&mut self, now: Duration, task: u64, offer: Offer) -> Run {
        let Offer { place, start, lead, wall, .. } = offer;
        let straggles_at = self.spread.straggles_at();
        let mut run = Run {
            place,
            since: now,
            started: (place == Place::Local).then_some(now),
            has_slot: start.is_zero(),
            lead: start.max(lead),
            expected: wall,
            due: now + start.max(lead).mul_f64(straggles_at) + OVERDUE_SLACK,
        };
        match place {
            Place::Local => self.local_running += 1,
            Place::Worker(id) => {
                let toolchain = self.tasks.get(&task).map(|tracked| tracked.task.toolchain);
                if let (Some(worker), Some(toolchain)) = (self.workers.get_mut(&id), toolchain) {
                    worker.sent(now, toolchain, run.has_slot);
                    run.due += worker.handover.patience();
                }
            }
        }
        run
    }

    /// The slot in which a task is predicted to end first. With a free slot here, slots that are not free yet
    /// hardly count: a core should not idle while a task waits, unless it is far slower. But while inputs are being found here
    /// for other tasks, this machine's CPU first serves those that can keep the workers busy.
    fn best_offer(&self, now: Duration, horizon: &Horizon, tracked: &Tracked) -> Offer {
        let here = self.offer_here(horizon, tracked);
        if tracked.only_local() {
            return here;
        }
        let feeding = self.finding > self.local_slots;
        let mut best = (if feeding { here.end().mul_f64(FEEDING_MARGIN) } else { here.end() }, here);
        for candidate in &horizon.workers {
            let Some(offer) = self.offer_of(now, candidate, tracked) else { continue };
            if !candidate.proven && self.work(tracked) > self.typical_work * UNPROVEN_WORK {
                continue;
            }
            let mut score = self.score(now, candidate, tracked, &offer);
            if !(offer.start.is_zero() || !here.start.is_zero() || (feeding && offer.open)) {
                if !candidate.proven {
                    continue;
                }
                score = score.mul_f64(IDLE_MARGIN);
            }
            if score < best.0 {
                best = (score, offer);
            }
        }
        best.1
    }

    pub(super) fn offer_here(&self, horizon: &Horizon, tracked: &Tracked) -> Offer {
        let start = horizon.local.first().unwrap_or(WALL_MAX);
        let wall = rate::wall(horizon.local_seconds_per_byte, self.work(tracked));
        Offer { place: Place::Local, start, lead: Duration::ZERO, wall, open: start.is_zero() }
    }

    /// What a worker has to offer; `None` when it cannot have this task.
    pub(super) fn offer_of(&self, now: Duration, worker: &WorkerSlots, tracked: &Tracked) -> Option<Offer> {
        let start = worker.slots.first()?;
        let fit = self.fit(now, worker.id, tracked);
        if fit == Fit::No || (fit == Fit::MustFetch && !start.is_zero()) {
            return None;
        }
        let wall = rate::wall(worker.seconds_per_byte, self.work(tracked));
        let place = Place::Worker(worker.id);
        Some(Offer { place, start, lead: worker.handover, wall, open: worker.is_open() })
    }

    fn score(&self, now: Duration, worker: &WorkerSlots, tracked: &Tracked, offer: &Offer) -> Duration {
        let must_fetch = self.fit(now, worker.id, tracked) == Fit::MustFetch;
        let penalty = if must_fetch { FETCH_PENALTY } else { Duration::ZERO };
        (offer.end() + penalty).mul_f64(REMOTE_MARGIN * worker.bias)
    }

    fn fit(&self, now: Duration, id: NodeId, tracked: &Tracked) -> Fit {
        match self.workers.get(&id) {
            Some(worker) if !tracked.avoid.contains(&id) && !tracked.runs_at(Place::Worker(id)) => {
                worker.fit(now, &tracked.task.toolchain)
            }
            _ => Fit::No,
        }
    }

    /// What a task needs, in bytes: those of its inputs, or what the same source needed before.
    pub(super) fn work(&self, tracked: &Tracked) -> f64 {
        self.familiar.work(tracked.task.source, rate::work(tracked.task.cost))
    }

    pub(super) fn horizon(&mut self, now: Duration) -> Horizon {
        let mut local = Vec::new();
        let mut remote: BTreeMap<NodeId, Vec<Busy>> = BTreeMap::new();
        for tracked in self.tasks.values() {
            for run in tracked.runs() {
                match run.place {
                    Place::Local => local.push(remaining(run.expected, now.saturating_sub(run.since))),
                    Place::Worker(id) => {
                        let (task, work) = (tracked.task.id, self.work(tracked));
                        remote.entry(id).or_default().push(Busy { task, run: *run, work });
                    }
                }
            }
        }
        // Compiles outside the queue never take the last slot: one of them may wait, through a pipe, for a
        // task of the queue.
        let here = self.local_slots.saturating_sub(self.outside).max(1);
        let prior = self.mesh_rate(now);
        let mut horizon = Horizon {
            local: Slots::new(here as usize, local),
            local_seconds_per_byte: self.local_rate(now),
            workers: Vec::new(),
            ends: Vec::new(),
        };
        for (&id, worker) in &self.workers {
            let mut busy = remote.remove(&id).unwrap_or_default();
            let seconds_per_byte = worker.rate.seconds_per_byte(now, prior);
            // What was learnt since it was sent counts if it makes the task longer.
            busy.iter_mut().for_each(|busy| {
                busy.run.expected = busy.run.expected.max(rate::wall(seconds_per_byte, busy.work));
            });
            let wall = rate::wall(seconds_per_byte, self.typical_work);
            let slots = worker_slots(now, id, worker, wall, busy, &mut horizon.ends);
            if worker.takes_work(now) {
                let (handover, patience) = (worker.handover.expected(), worker.handover.patience());
                let room = worker.room(now, depth(worker.slots, handover, wall));
                let bias = self.random.between(1.0, BIAS_MAX);
                let known = WorkerSlots {
                    id,
                    slots,
                    seconds_per_byte,
                    handover,
                    patience,
                    room,
                    proven: worker.breaker.is_proven(),
                    bias,
                };
                horizon.workers.push(known);
            }
        }
        horizon
    }

    pub(super) fn local_rate(&self, now: Duration) -> f64 {
        self.local.seconds_per_byte(now, DEFAULT_SECONDS_PER_BYTE)
    }

    /// What a worker of which nothing is known is believed to be like.
    pub(super) fn mesh_rate(&self, now: Duration) -> f64 {
        self.mesh.seconds_per_byte(now, self.local_rate(now))
    }
}

/// How many tasks may wait at a worker whose tasks take `wall`: as many as are expected to end there while the
/// next one is on its way, and one more.
fn depth(slots: u32, handover: Duration, wall: Duration) -> u32 {
    let ending = f64::from(slots) * handover.as_secs_f64() / wall.as_secs_f64().max(0.001);
    // The cast saturates.
    1 + (ending.round() as u32).min(slots)
}

/// When the slots of a worker are free, our tasks there considered, and when those end.
fn worker_slots(
    now: Duration,
    id: NodeId,
    worker: &Worker,
    wall: Duration,
    mut busy: Vec<Busy>,
    ends: &mut Vec<End>,
) -> Slots {
    let free = if worker.takes_work(now) { worker.capacity(now) } else { 0 };
    busy.sort_by_key(|busy| (busy.run.is_queued(), busy.run.since));
    let (queued, in_slots): (Vec<_>, Vec<_>) = busy.into_iter().partition(|busy| busy.run.is_queued());
    let mut end_of = |task, at| {
        ends.push(End { task, worker: id, at });
        at
    };
    let proven = worker.breaker.is_proven();
    let taken: Vec<_> = in_slots.iter().map(|busy| end_of(busy.task, left(now, &busy.run, proven))).collect();
    // A task whose outputs are on their way counts here, though its slot has been given on.
    let count = (free as usize + taken.len()).min(worker.slots as usize);
    let mut slots = Slots::new(count, taken);
    if slots.first().is_none() && worker.slots > 0 {
        // All slots are others': ours is the turn after those that wait already.
        let turns = f64::from(worker.others_queued() + 1) / f64::from(worker.slots);
        slots = Slots::new(1, [wall.mul_f64(turns)]);
    }
    for Busy { task, run, .. } in queued {
        // Whether its inputs have arrived is not told before it begins.
        let arrival = worker.handover.expected().saturating_sub(now.saturating_sub(run.since));
        let start = slots.first().unwrap_or_default().max(arrival);
        end_of(task, start + run.expected);
        slots.occupy(run.expected);
    }
    slots
}

/// How long a run that has a slot keeps it. On a worker that has not ended any task well, one that takes longer
/// than predicted says that the prediction is worth nothing: then it is half-way, for all we know.
fn left(now: Duration, run: &Run, proven: bool) -> Duration {
    let Some(started) = run.started else {
        return remaining(run.lead, now.saturating_sub(run.since)) + run.expected;
    };
    let elapsed = now.saturating_sub(started);
    if proven || elapsed < run.expected { remaining(run.expected, elapsed) } else { elapsed }
}
