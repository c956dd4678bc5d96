//! Drives [`Placement`] for all requests of this machine.
//!
//! Each compile that missed holds a [`Ticket`]. A ticket is told where to run, says how it went, and may be told
//! another place: after a decline, a failure, or when the worker it runs on is lost. Dropping a ticket cancels
//! its task, whatever state it is in.

use std::{
    collections::HashMap,
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
use tokio::sync::{Notify, mpsc};

/// Tasks that may wait: more wrappers than any build starts.
const QUEUE_MAX: usize = 16_384;
/// Verdicts a ticket may get before it looks: two remote tries, declines, and the end.
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
}

struct State {
    placement: Placement,
    tickets: HashMap<u64, mpsc::Sender<Verdict>>,
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
        }));
        tokio::spawn(dispatch.clone().keep_time());
        dispatch
    }

    /// Hands in a task of `cost` bytes of input.
    pub fn submit(&self, toolchain: Digest, cost: u64, remote_allowed: bool) -> Ticket {
        let task = self.0.next_task.fetch_add(1, Ordering::Relaxed);
        let (sender, verdicts) = mpsc::channel(VERDICTS_MAX);
        self.lock().tickets.insert(task, sender);
        self.handle(Event::Submitted(Task { id: task, toolchain, cost, remote_allowed }));
        Ticket { dispatch: self.clone(), task, verdicts, outside: false }
    }

    /// A worker's offer as it stands now.
    pub fn worker(&self, id: NodeId, advert: &Advert) {
        self.handle(Event::Worker {
            id,
            slots: advert.slots,
            free: advert.free,
            toolchains: advert.toolchains.clone(),
            machine_fits: advert.machine == std::env::consts::ARCH,
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
                Decision::Run { task, place, why } => (task, Verdict::Run { place, why }),
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

    /// How long the task may take on the worker it runs on.
    pub fn time_left(&self) -> Duration {
        let now = self.dispatch.now();
        let deadline = self.dispatch.lock().placement.deadline(self.task);
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

    #[tokio::test]
    async fn a_result_of_a_worker_just_lost_takes_no_slot() {
        let dispatch = Dispatch::start(1);
        let (worker, toolchain) = (Identity::from_seed(&[7; 32]).id(), Digest::of(b"gcc"));
        dispatch.worker(
            worker,
            &Advert {
                sequence: 1,
                started_unix_s: 1,
                version: String::new(),
                machine: std::env::consts::ARCH.to_owned(),
                cores: 1,
                slots: 1,
                free: 1,
                queued: 0,
                queue_max: 0,
                toolchains: vec![toolchain],
            },
        );
        let (mut here, mut there) = (None, None);
        for _ in 0..2 {
            let mut ticket = dispatch.submit(toolchain, 1 << 20, true);
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
