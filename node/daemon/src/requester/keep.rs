//! Results of workers on their way into the store, after the wrapper has been answered.
//!
//! ```text
//! result ─▶ reserved ─▶ wrapper answered ─▶ its turn ─▶ kept, or not
//!              ▲ full: the answer waits         │
//!              └──── a look-up of it waits ─────┘
//! ```
//!
//! What came is checked and lies in temporary files of the store; the wrapper reads it from there. Taking it in, the record
//! and the manifest are done later, one result after the other, so that they compete with nothing the user waits
//! for. Whatever is lost on the way, by a crash or because the store cannot write, is a miss later.
//! Invariant: a look-up that begins after the wrapper was answered finds what was kept: it waits for it, but at most
//! [`PATIENCE`]. So does an answer for which there is no place, and then its result is not kept.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use barn_protocol::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Results that are not kept yet. Each has temporary files on disk and, in memory, what is known of its inputs, some
/// 150 KB; when so many wait, further answers wait too.
const WAITING_MAX: usize = 64;
/// Longest wait for a result that is being kept; it takes some milliseconds, and longer only on a sick disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The results on their way into the store.
#[derive(Debug)]
pub struct Keeper {
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    /// How many there are, by the key of their manifests.
    waiting: watch::Sender<HashMap<Digest, u32>>,
}

/// A place for one result; dropped, the result is kept, or lost.
#[derive(Debug)]
pub struct Reserved {
    keeper: Weak<Keeper>,
    turn: Arc<Semaphore>,
    keys: Vec<Digest>,
    _place: Option<OwnedSemaphorePermit>,
}

/// What is still to be done for a result; dropped, it is not kept.
pub struct Keep {
    reserved: Reserved,
    work: Box<dyn FnOnce() + Send>,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            waiting: watch::Sender::default(),
        }
    }
}

impl Keeper {
    /// Waits for a place for a result whose manifests have these keys. `None` if none is free within [`PATIENCE`], as when a
    /// file system hangs: such a result is not kept, and no answer waits for it longer.
    pub async fn reserve(self: &Arc<Self>, keys: impl IntoIterator<Item = Digest>) -> Option<Reserved> {
        let place = tokio::time::timeout(PATIENCE, self.places.clone().acquire_owned()).await.ok()?;
        let mut reserved = self.announce(keys);
        // It is never closed.
        reserved._place = place.ok();
        Some(reserved)
    }

    /// As [`Keeper::reserve`], for a result that the caller bounds.
    pub fn announce(self: &Arc<Self>, keys: impl IntoIterator<Item = Digest>) -> Reserved {
        let keys: Vec<Digest> = keys.into_iter().collect();
        self.waiting
            .send_modify(|waiting| keys.iter().for_each(|key| *waiting.entry(*key).or_default() += 1));
        Reserved { keeper: Arc::downgrade(self), turn: self.turn.clone(), keys, _place: None }
    }

    /// Whether no result with this key is on its way.
    pub fn is_settled(&self, key: &Digest) -> bool {
        !self.waiting.borrow().contains_key(key)
    }

    /// Waits until no result with this key is on its way.
    pub async fn settle(&self, key: &Digest) {
        self.wait_until(|waiting| !waiting.contains_key(key)).await;
    }

    /// Waits for all results that are on their way now; not for those that come meanwhile.
    pub async fn settle_all(&self) {
        let now: Vec<Digest> = self.waiting.borrow().keys().copied().collect();
        self.wait_until(|waiting| now.iter().all(|key| !waiting.contains_key(key))).await;
    }

    async fn wait_until(&self, is_so: impl FnMut(&HashMap<Digest, u32>) -> bool) {
        let mut waiting = self.waiting.subscribe();
        let _ = tokio::time::timeout(PATIENCE, waiting.wait_for(is_so)).await;
    }
}

impl Reserved {
    /// Fills the place with what is to be done.
    pub fn fill(self, work: impl FnOnce() + Send + 'static) -> Keep {
        Keep { reserved: self, work: Box::new(work) }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.upgrade() else { return };
        keeper.waiting.send_modify(|waiting| {
            for key in &self.keys {
                let Some(count) = waiting.get_mut(key) else { continue };
                *count -= 1;
                if *count == 0 {
                    waiting.remove(key);
                }
            }
        });
    }
}

impl Keep {
    /// Does it when its turn comes. Must be called within a tokio runtime.
    pub fn begin(self) {
        let Self { reserved, work } = self;
        tokio::spawn(async move {
            let _turn = reserved.turn.clone().acquire_owned().await;
            if tokio::task::spawn_blocking(work).await.is_err() {
                tracing::warn!("keeping a result panicked");
            }
            drop(reserved);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn a_look_up_waits_for_its_own_result_only() {
        let keeper = Arc::new(Keeper::default());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let (go, wait) = mpsc::channel::<()>();
        let done = Arc::new(AtomicUsize::new(0));
        let kept = done.clone();
        let reserved = keeper.reserve([one]).await.unwrap();
        reserved
            .fill(move || {
                wait.recv().unwrap();
                kept.fetch_add(1, Ordering::Relaxed);
            })
            .begin();
        keeper.settle(&other).await;
        assert_eq!(done.load(Ordering::Relaxed), 0);
        go.send(()).unwrap();
        keeper.settle(&one).await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_place_is_free_again_whatever_became_of_the_result() {
        let keeper = Arc::new(Keeper::default());
        let key = Digest::of(b"key");
        for _ in 0..WAITING_MAX {
            drop(keeper.reserve([key]).await.unwrap().fill(|| {}));
            keeper.reserve([key]).await.unwrap().fill(|| panic!("as a store may")).begin();
        }
        keeper.settle_all().await;
        let mut all = Vec::new();
        for _ in 0..WAITING_MAX {
            all.push(keeper.reserve([key]).await.unwrap());
        }
        let more = tokio::time::timeout(Duration::from_millis(20), keeper.reserve([key])).await;
        assert!(more.is_err(), "the next answer waits");
        assert!(keeper.reserve([key]).await.is_none(), "but not for ever");
        drop(all);
        drop(keeper.reserve([key]).await.unwrap());
        assert!(keeper.waiting.borrow().is_empty());
    }
}
