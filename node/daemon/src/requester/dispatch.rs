//! Drives [`Placement`] for all requests of this machine.
//!
//! Each compile that missed holds a [`Ticket`]. A ticket is told where to run, says how it went, and may be told
//! another place: after a decline, a failure, when the worker it runs on is lost, or when it would end sooner
//! there; all other runs are then to be cancelled. It may also be told to race. Dropping a ticket cancels
//! its task, whatever state it is in.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barn_protocol::{
    Digest, NodeId,
    advert::Advert,
    placement::{Config, Decision, Event, Failure, Place, Placement, Task, Why},
    wire::Decline,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// Tasks that may wait: more wrappers than any build starts.
const QUEUE_MAX: usize = 16_384;
/// How many more inputs are looked for at once than there are local slots: one may wait for the disk. All at once
/// would share the cores, and the first worker would get its first task when the last search ends.
const FINDERS_MORE: usize = 1;
/// Verdicts a ticket may get before it looks: two remote tries, declines, moves, and the end.
const VERDICTS_MAX: usize = 16;

/// Where a ticket's task is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Run it there.
    Run {
        /// Where.
        place: Place,
        /// Why there.
        why: Why,
    },
    /// Run it on this worker too; the first result counts.
    Hedge {
        /// Where else.
        worker: NodeId,
    },
    /// The queue is full: run it here, outside the queue.
    GiveUp,
}

/// The placement of this machine's tasks; clones share it.
#[derive(Clone)]
pub struct Dispatch(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    started: Instant,
    next_task: AtomicU64,
    woken: Notify,
    finders: Arc<Semaphore>,
}

struct State {
    placement: Placement,
    tickets: HashMap<u64, mpsc::Sender<Verdict>>,
}

/// A turn at finding inputs; dropped, it goes to the next.
pub struct Finding {
    dispatch: Dispatch,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Finding {
    fn drop(&mut self) {
        self.turn.take();
        self.dispatch.handle(Event::FindingEnded);
    }
}

/// One task on its way.
pub struct Ticket {
    dispatch: Dispatch,
    task: u64,
    verdicts: mpsc::Receiver<Verdict>,
    outside: bool,
}

impl Dispatch {
    /// A placement with this many local slots. Must be called within a tokio runtime.
    pub fn start(local_slots: u32) -> Self {
        let config = Config { local_slots, queue_max: QUEUE_MAX, seed: rand::random() };
        let dispatch = Self(Arc::new(Inner {
            state: Mutex::new(State { placement: Placement::new(config), tickets: HashMap::new() }),
            started: Instant::now(),
            next_task: AtomicU64::new(1),
            woken: Notify::new(),
            finders: Arc::new(Semaphore::new(local_slots as usize + FINDERS_MORE)),
        }));
        tokio::spawn(dispatch.clone().keep_time());
        dispatch
    }

    /// Waits for its turn to find the inputs of a compile, which costs this machine's CPU: while many wait for
    /// theirs, feeding the workers comes before compiling here.
    pub async fn finding(&self) -> Finding {
        let mut finding = Finding { dispatch: self.clone(), turn: None };
        self.handle(Event::FindingStarted);
        // It is never closed; without a turn the search goes on all the same.
        finding.turn = self.0.finders.clone().acquire_owned().await.ok();
        finding
    }

    /// Hands in a task of `cost` bytes of input; `source` names what it compiles, so that its time is remembered.
    pub fn submit(&self, toolchain: Digest, cost: u64, source: &impl Hash, remote_allowed: bool) -> Ticket {
        let id = self.0.next_task.fetch_add(1, Ordering::Relaxed);
        let (sender, verdicts) = mpsc::channel(VERDICTS_MAX);
        self.lock().tickets.insert(id, sender);
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let source = Some(hasher.finish());
        self.handle(Event::Submitted(Task { id, toolchain, cost, source, remote_allowed }));
        Ticket { dispatch: self.clone(), task: id, verdicts, outside: false }
    }

    /// A worker's offer as it stands now. It takes tasks if it is a machine like this, or like one of `machines`.
    pub fn worker(&self, id: NodeId, advert: &Advert, machines: &[String]) {
        self.handle(Event::Worker {
            id,
            slots: advert.slots,
            free: advert.free,
            queued: advert.queued,
            queue_max: advert.queue_max,
            toolchains: advert.toolchains.clone(),
            machine_fits: advert.machine == std::env::consts::ARCH || machines.contains(&advert.machine),
        });
    }

    /// The connection to a worker is gone.
    pub fn worker_lost(&self, id: NodeId) {
        self.handle(Event::WorkerLost(id));
    }

    /// How many of this machine's tasks run here and how many wait.
    pub fn load(&self) -> (u32, usize) {
        let state = self.lock();
        (state.placement.local_running(), state.placement.waiting())
    }

    /// How many of this machine's tasks each worker has.
    pub fn in_flight(&self) -> HashMap<NodeId, u32> {
        let now = self.now();
        self.lock().placement.workers(now).map(|worker| (worker.id, worker.in_flight)).collect()
    }

    fn handle(&self, event: Event) {
        let now = self.now();
        let mut state = self.lock();
        state.placement.handle(now, event);
        state.decide(now);
        drop(state);
        self.0.woken.notify_one();
    }

    /// Wakes the placement when it asked to be.
    async fn keep_time(self) {
        loop {
            let wake = {
                let now = self.now();
                let mut state = self.lock();
                state.decide(now);
                state.placement.next_wake(now).map(|at| at.saturating_sub(now))
            };
            match wake {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait.max(Duration::from_millis(1)), self.0.woken.notified())
                        .await;
                }
                None => self.0.woken.notified().await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while the placement is held")
    }
}

impl State {
    fn decide(&mut self, now: Duration) {
        while let Some(decision) = self.placement.poll(now) {
            let (task, verdict) = match decision {
                Decision::Run { task, place, why } | Decision::TakeBack { task, place, why } => {
                    (task, Verdict::Run { place, why })
                }
                Decision::Hedge { task, worker } => (task, Verdict::Hedge { worker }),
                Decision::GiveUp { task } => (task, Verdict::GiveUp),
            };
            let told = self.tickets.get(&task).is_some_and(|ticket| ticket.try_send(verdict).is_ok());
            if !told {
                self.placement.handle(now, Event::Cancelled { task });
            }
        }
    }
}

impl Ticket {
    /// The next place to run at.
    pub async fn verdict(&mut self) -> Verdict {
        let verdict = self.verdicts.recv().await.unwrap_or(Verdict::GiveUp);
        if verdict == Verdict::GiveUp && !self.outside {
            self.outside = true;
            self.dispatch.handle(Event::LocalStarted);
        }
        verdict
    }

    /// To be called when the compiler begins on `worker`.
    pub fn on_started(&self, worker: NodeId) -> impl FnOnce() + Send + 'static {
        let (dispatch, task) = (self.dispatch.clone(), self.task);
        move || dispatch.handle(Event::Started { task, worker })
    }

    /// How long the task may take on a worker it runs on.
    pub fn time_left(&self, worker: NodeId) -> Duration {
        let now = self.dispatch.now();
        let deadline = self.dispatch.lock().placement.deadline(self.task, worker);
        deadline.map_or(Duration::from_secs(60), |at| at.saturating_sub(now))
    }

    /// The worker declined; another verdict follows.
    pub fn declined(&self, worker: NodeId, why: Decline) {
        self.dispatch.handle(Event::Declined { task: self.task, worker, why });
    }

    /// The worker failed; another verdict follows.
    pub fn failed(&self, worker: NodeId, kind: Failure) {
        self.dispatch.handle(Event::Failed { task: self.task, worker, kind });
    }

    /// The task ran to its end.
    pub fn finished(self, place: Place, wall: Duration, ok: bool) {
        if !self.outside {
            self.dispatch.handle(Event::Finished { task: self.task, place, wall, ok });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.dispatch.lock().tickets.remove(&self.task);
        if self.outside {
            self.dispatch.handle(Event::LocalFinished);
        } else {
            // Also after the end: the worker may have been counted as lost, and the task bound anew, just as its result
            // arrived. To the placement the end of a task that it does not know is nothing.
            self.dispatch.handle(Event::Cancelled { task: self.task });
        }
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    fn advert(machine: &str, toolchain: Digest) -> Advert {
        Advert {
            sequence: 1,
            started_unix_s: 1,
            version: String::new(),
            machine: machine.to_owned(),
            cores: 1,
            slots: 1,
            free: 1,
            queued: 0,
            queue_max: 0,
            toolchains: vec![toolchain],
        }
    }

    #[tokio::test]
    async fn another_machine_gets_tasks_if_an_archive_is_for_it() {
        for (machines, waiting) in [(vec![], 1), (vec!["vax".to_owned()], 0)] {
            let dispatch = Dispatch::start(1);
            let (worker, toolchain) = (Identity::from_seed(&[7; 32]).id(), Digest::of(b"gcc"));
            dispatch.worker(worker, &advert("vax", toolchain), &machines);
            let _tickets = [1, 2].map(|_| dispatch.submit(toolchain, 1 << 20, &"x.c", true));
            assert_eq!(dispatch.load(), (1, waiting), "{machines:?}");
        }
    }

    #[tokio::test]
    async fn a_result_of_a_worker_just_lost_takes_no_slot() {
        let dispatch = Dispatch::start(1);
        let (worker, toolchain) = (Identity::from_seed(&[7; 32]).id(), Digest::of(b"gcc"));
        dispatch.worker(worker, &advert(std::env::consts::ARCH, toolchain), &[]);
        let (mut here, mut there) = (None, None);
        for _ in 0..2 {
            let mut ticket = dispatch.submit(toolchain, 1 << 20, &"x.c", true);
            match ticket.verdict().await {
                Verdict::Run { place: Place::Local, .. } => here = Some(ticket),
                _ => there = Some(ticket),
            }
        }
        let (here, there) = (here.unwrap(), there.unwrap());
        dispatch.worker_lost(worker);
        here.finished(Place::Local, Duration::from_secs(1), true);
        assert_eq!(dispatch.load(), (1, 0), "the lost task is bound here");
        there.finished(Place::Worker(worker), Duration::from_secs(1), true);
        assert_eq!(dispatch.load(), (0, 0));
    }
}
