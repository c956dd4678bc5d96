//! How fast is fetched beside what this machine's users do.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::requester::Requester;

/// Entries fetched at once on an idle machine: they hide each other's round trips.
const AT_ONCE: u32 = 8;
/// What a busy machine fetches, in bytes a second: an eighth of 1 Gbit/s.
const BUSY_BYTES_PER_S: u64 = 16 << 20;
/// A machine is busy for so long after a call: a build that only has hits runs nothing.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// Hands out turns to fetch.
pub(super) struct Pace {
    requester: Arc<Requester>,
    places: Arc<Semaphore>,
    /// How many calls there were when there last were more, and when that was noticed.
    calls: Mutex<(u64, Option<Instant>)>,
}

/// A turn; dropped, it goes to the next.
pub(super) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
    is_alone: bool,
    began: Instant,
}

impl Pace {
    pub(super) fn new(requester: Arc<Requester>) -> Self {
        let calls = Mutex::new((requester.stats.calls(), None));
        Self { requester, places: Arc::new(Semaphore::new(AT_ONCE as usize)), calls }
    }

    /// Waits for a turn. On a busy machine there is one at a time.
    pub(super) async fn turn(&self) -> Turn {
        let is_alone = self.is_busy();
        let places = if is_alone { AT_ONCE } else { 1 };
        // It is never closed; and it is fair, so what wants all places gets them.
        let place = self.places.clone().acquire_many_owned(places).await.ok();
        Turn { _place: place, is_alone, began: Instant::now() }
    }

    fn is_busy(&self) -> bool {
        let (running, waiting) = self.requester.dispatch.load();
        if running > 0 || waiting > 0 || self.requester.dispatch.in_flight().values().any(|tasks| *tasks > 0)
        {
            return true;
        }
        let now = self.requester.stats.calls();
        let mut calls = self.calls.lock().expect("no panic while the count of calls is held");
        if calls.0 != now {
            *calls = (now, Some(Instant::now()));
        }
        calls.1.is_some_and(|at| at.elapsed() < BUSY_FOR)
    }
}

impl Turn {
    /// Ends the turn after so many bytes; on a busy machine when they are paid for.
    pub(super) async fn end(self, bytes: u64) {
        if self.is_alone {
            let paid = Duration::from_micros(bytes.saturating_mul(1_000_000) / BUSY_BYTES_PER_S);
            tokio::time::sleep(paid.saturating_sub(self.began.elapsed())).await;
        }
    }
}
