//! Whatever happens, the books agree.

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
        let all_wait = self.running.is_empty() && !self.waiting.is_empty();
        prop_assert!(!all_wait, "a core idles while tasks wait, and no worker has any");
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
