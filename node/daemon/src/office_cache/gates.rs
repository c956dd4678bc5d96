//! How many streams of outputs are sent at once.
//!
//! Each holds open files and a piece of them in memory, and reads the disk. A peer that asks for many and reads none must not
//! take the places of all others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use barn_protocol::NodeId;
use tokio::sync::Notify;

/// Streams of outputs at once: 128 times 256 KiB of memory, and some 400 open files.
const ALL_MAX: usize = 128;
/// Those to one peer: what `-j32` asks for if all of it is here.
const PEER_MAX: usize = 32;
/// How long one waits for a place. Whoever asked goes to the next holder soon after.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// The places.
#[derive(Debug, Default)]
pub(super) struct Gates {
    taken: Mutex<HashMap<NodeId, usize>>,
    freed: Notify,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gates: Arc<Gates>,
    peer: NodeId,
}

impl Gates {
    /// A place for a stream to `peer`; `None` if none is free in time.
    pub(super) async fn enter(self: &Arc<Self>, peer: NodeId) -> Option<Pass> {
        let enter = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // From here on, a place that becomes free is not missed.
                freed.as_mut().enable();
                if let Some(pass) = self.try_enter(peer) {
                    return pass;
                }
                freed.await;
            }
        };
        tokio::time::timeout(WAIT_MAX, enter).await.ok()
    }

    fn try_enter(self: &Arc<Self>, peer: NodeId) -> Option<Pass> {
        let mut taken = self.lock();
        let all: usize = taken.values().sum();
        let own = taken.get(&peer).copied().unwrap_or(0);
        if all >= ALL_MAX || own >= PEER_MAX {
            return None;
        }
        taken.insert(peer, own + 1);
        Some(Pass { gates: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, usize>> {
        self.taken.lock().expect("no panic while places are counted")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut taken = self.gates.lock();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
        drop(taken);
        self.gates.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    fn peer(seed: u8) -> NodeId {
        Identity::from_seed(&[seed; 32]).id()
    }

    #[tokio::test]
    async fn one_peer_leaves_places_for_others_and_all_are_bounded() {
        let gates = Arc::new(Gates::default());
        let mut all = Vec::new();
        for seed in 1..=4 {
            for _ in 0..PEER_MAX {
                all.push(gates.enter(peer(seed)).await.expect("there is a place"));
            }
            assert!(gates.try_enter(peer(seed)).is_none(), "it has its share");
        }
        assert!(gates.enter(peer(5)).await.is_none(), "all are taken");
        let waiting = tokio::spawn({
            let gates = gates.clone();
            async move { gates.enter(peer(5)).await.is_some() }
        });
        tokio::task::yield_now().await;
        all.pop();
        assert!(waiting.await.unwrap(), "whoever waits gets what becomes free");
        all.clear();
        assert!(gates.lock().is_empty());
    }
}
