//! Runs on workers that would end sooner elsewhere: taken back while they wait, raced when they have begun.
//!
//! ```text
//!  in a worker's queue, or sent and not begun ── a free slot elsewhere ends it clearly sooner ──▶ taken back
//!  begun ── overdue, or (nothing waits) a free slot of a worker ends it clearly sooner ──▶ hedged there
//!        └─ nothing waits, and a free slot here ends it twice as soon, or it seems stuck ──▶ taken back
//! ```
//!
//! A hedge is a second run on another worker; the first result counts. Here there is no race: once the wrapper
//! compiles, its outputs are the ones. So a task that has begun on a worker comes here only when that is clearly
//! better, and is then cancelled there. Of a good worker's late task we believe that it is larger than it looked, here
//! as well as there; only when it is late beyond reason, that the worker is stuck.

use std::time::Duration;

use super::{
    Decision, Place, Placement, Why,
    choice::{OVERDUE_SLACK, Offer},
    horizon::{End, Horizon},
    task::{Run, Tracked},
};

/// How often one task may be sent to another worker, instead or too: it must not wander for ever. After that it
/// can still be taken back to this machine.
pub const MOVES_MAX: u32 = 2;
/// A task that has not begun is taken back when it ends by this factor sooner elsewhere: what its inputs took to
/// travel is lost, and predictions are rough.
pub const TAKE_BACK_MARGIN: f64 = 1.25;
/// A begun one is hedged when it ends by this factor sooner: that costs a second slot.
pub const HEDGE_MARGIN: f64 = 1.25;
/// A begun one is given up for a run here when it ends by this factor sooner.
pub const GIVE_UP_MARGIN: f64 = 2.0;
/// A begun run that takes this many times what makes it overdue is believed to be stuck: its worker stopped, and the task
/// is as large as it looked.
pub const STUCK_RATIO: f64 = 2.0;
/// Once a worker was too late, its other tasks are overdue after this many times their prediction.
pub const SUSPECT_RATIO: f64 = 1.25;
/// Less than this is not worth a message.
pub const GAIN_MIN: Duration = Duration::from_millis(100);
/// While tasks wait, at most one in this many remote runs is hedged (but always two): a hedge takes a slot that
/// a waiting task could have.
pub const HEDGED_SHARE: usize = 8;

/// A better place for a running task.
struct Rescue {
    task: u64,
    offer: Offer,
    hedge: bool,
    gain: Duration,
    why: Why,
}

impl Placement {
    /// Overdue runs: looked at before waiting tasks.
    pub(super) fn rescue_overdue(&mut self, now: Duration) -> Option<Decision> {
        let overdue = |run: &Run| run.is_overdue(now);
        if !self.tasks.values().any(|tracked| tracked.run.as_ref().is_some_and(overdue)) {
            return None;
        }
        let hedged = self.tasks.values().filter(|tracked| tracked.hedge.is_some()).count();
        let remote: u32 = self.workers.values().map(|worker| worker.in_flight).sum();
        let may_hedge = hedged < (remote as usize / HEDGED_SHARE).max(2);
        let horizon = self.horizon(now);
        let found = self.best_rescue(now, &horizon, |tracked, run| {
            run.is_overdue(now) && (run.started.is_none() || may_hedge || tracked.hedge.is_some())
        });
        found.map(|rescue| self.carry_out(now, rescue))
    }

    /// With nothing waiting, whatever ends sooner elsewhere.
    pub(super) fn rescue_any(&mut self, now: Duration) -> Option<Decision> {
        // What is being found will want the free slots.
        if !self.queue.is_empty() || self.finding > 0 || self.workers.values().all(|w| w.in_flight == 0) {
            return None;
        }
        let horizon = self.horizon(now);
        let found = self.best_rescue(now, &horizon, |_, _| true);
        found.map(|rescue| self.carry_out(now, rescue))
    }

    fn best_rescue(
        &self,
        now: Duration,
        horizon: &Horizon,
        wanted: impl Fn(&Tracked, &Run) -> bool,
    ) -> Option<Rescue> {
        let mut best: Option<Rescue> = None;
        for end in &horizon.ends {
            let Some(tracked) = self.tasks.get(&end.task) else { continue };
            let Some(run) = tracked.run.filter(|run| run.worker() == Some(end.worker)) else { continue };
            if !wanted(tracked, &run) {
                continue;
            }
            let there = there(horizon, end, tracked);
            let rescue = self.rescue_of(now, horizon, tracked, &run, there);
            best = rescue.into_iter().chain(best).max_by_key(|rescue| rescue.gain);
        }
        best
    }

    /// The best free slot elsewhere for a task that is predicted to end after `there`, if one is worth it.
    fn rescue_of(
        &self,
        now: Duration,
        horizon: &Horizon,
        tracked: &Tracked,
        run: &Run,
        there: Duration,
    ) -> Option<Rescue> {
        let begun = run.started.is_some();
        let overdue = run.is_overdue(now);
        let alive = begun && self.is_alive(now, run);
        let here_margin = if alive { GIVE_UP_MARGIN } else { TAKE_BACK_MARGIN };
        // One that is raced already comes here only when both are late.
        let may_come = tracked.hedge.is_none_or(|hedge| hedge.is_overdue(now));
        // What is being found is for workers that wait.
        let here =
            Some(self.offer_here(horizon, tracked)).filter(|_| may_come && (!alive || self.finding == 0));
        let here = here.map(|offer| match run.started {
            Some(started) if alive => larger(offer, now.saturating_sub(started), run.expected),
            _ => offer,
        });
        let workers = horizon.workers.iter().filter(|_| tracked.may_wander());
        let elsewhere = workers.filter_map(|worker| {
            let offer = self.offer_of(now, worker, tracked)?;
            // Nothing is gained by waiting for all headers at another worker instead.
            Some(Offer { lead: offer.lead + worker.patience, ..offer })
        });
        let elsewhere = elsewhere.map(|offer| (offer, if begun { HEDGE_MARGIN } else { TAKE_BACK_MARGIN }));
        let offers = elsewhere.chain(here.map(|offer| (offer, here_margin)));
        let good = offers.filter(|(offer, margin)| {
            let far = begun && overdue && offer.place != Place::Local;
            // A straggler's own prediction is worth nothing; a race costs little.
            offer.start.is_zero() && (far || offer.end().mul_f64(*margin) + GAIN_MIN < there)
        });
        let (offer, _) = good.min_by_key(|(offer, margin)| offer.end().mul_f64(*margin))?;
        let hedge = begun && offer.place != Place::Local;
        let why = if overdue { Why::Overdue } else { Why::Sooner };
        Some(Rescue { task: tracked.task.id, offer, hedge, gain: there.saturating_sub(offer.end()), why })
    }

    /// Whether a begun run is believed to go on, however late it is.
    fn is_alive(&self, now: Duration, run: &Run) -> bool {
        let worker = run.worker().and_then(|id| self.workers.get(&id));
        let Some(started) = run.started else { return false };
        let stuck = now.saturating_sub(started) > run.due.saturating_sub(started).mul_f64(STUCK_RATIO);
        worker.is_some_and(|worker| worker.breaker.is_proven()) && !stuck
    }

    fn carry_out(&mut self, now: Duration, rescue: Rescue) -> Decision {
        let Rescue { task, offer, hedge, why, .. } = rescue;
        if !hedge {
            self.end_all_runs(now, task);
        }
        let run = self.begin(now, task, offer);
        let tracked = self.tasks.get_mut(&task).expect("it runs");
        tracked.moves += 1;
        match offer.place {
            Place::Worker(worker) if hedge => {
                tracked.hedge = Some(run);
                Decision::Hedge { task, worker }
            }
            place => {
                tracked.run = Some(run);
                Decision::TakeBack { task, place, why }
            }
        }
    }

    /// The task is of no interest at the workers that have it.
    fn end_all_runs(&mut self, now: Duration, task: u64) {
        let Some(work) = self.tasks.get(&task).map(|tracked| self.work(tracked)) else { return };
        let Some(tracked) = self.tasks.get_mut(&task) else { return };
        for run in [tracked.run.take(), tracked.hedge.take()].into_iter().flatten() {
            self.abandon(now, &run, work);
        }
    }

    /// A run on a worker that is not wanted any more. If it was late, that is what we know of the worker.
    pub(super) fn abandon(&mut self, now: Duration, run: &Run, work: f64) {
        let prior = self.mesh_rate(now);
        let Some(worker) = run.worker().and_then(|id| self.workers.get_mut(&id)) else { return };
        worker.returned(now, run);
        worker.breaker.undecided(now);
        if !run.is_overdue(now) {
            return;
        }
        match run.started {
            Some(started) => {
                worker.rate.measured(now, prior, work, now.saturating_sub(started));
                worker.overtaken(now);
            }
            // It would have taken longer still.
            None if run.has_slot => return worker.handover.measured(now.saturating_sub(run.since) * 2),
            None => return,
        }
        // Where one straggles for no reason of its own, others will.
        for other in
            self.tasks.values_mut().flat_map(Tracked::runs_mut).filter(|other| other.place == run.place)
        {
            let Some(started) = other.started else { continue };
            other.due = other.due.min(started + other.expected.mul_f64(SUSPECT_RATIO) + OVERDUE_SLACK);
        }
    }

    /// A worker says that the compiler of a task begins.
    pub(super) fn started(&mut self, now: Duration, task: u64, place: Place) {
        let straggles_at = self.spread.straggles_at();
        let Some(tracked) = self.tasks.get_mut(&task) else { return };
        let mut sent = tracked.runs_mut().filter(|run| run.started.is_none());
        let Some(run) = sent.find(|run| run.place == place) else { return };
        let Some(worker) = run.worker().and_then(|id| self.workers.get_mut(&id)) else { return };
        worker.started(now, run);
        run.due = now + run.expected.mul_f64(straggles_at) + OVERDUE_SLACK;
    }
}

/// An offer for a task that has taken `elapsed` elsewhere and not `expected`: it is that much larger.
fn larger(offer: Offer, elapsed: Duration, expected: Duration) -> Offer {
    let factor = elapsed.as_secs_f64() / expected.as_secs_f64().max(0.001);
    Offer { wall: offer.wall.mul_f64(factor.max(1.0)), ..offer }
}

/// When the first of a task's runs is predicted to end.
fn there(horizon: &Horizon, end: &End, tracked: &Tracked) -> Duration {
    let raced = tracked.hedge.and_then(|hedge| hedge.worker());
    let ends = horizon.ends.iter().filter(|other| other.task == end.task && Some(other.worker) == raced);
    ends.map(|other| other.at).fold(end.at, Duration::min)
}
