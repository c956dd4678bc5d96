//! The placement, told of one event after the other.

use super::*;
use crate::{Digest, Identity};

mod books;
mod choice;
mod declines;
mod failures;
mod limits;
mod preload;
mod rescue;

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
