//! Who may run next: the worker's places and slots.
//!
//! ```text
//!            a place is free           all inputs are here           a slot is free, and it is its turn
//!  refused ◀──────────────── receiving ───────────────────▶ whole ───────────────────────────────────▶ running
//!            no                  │                            │                                            │
//!                                └────────── gone ◀───────────┴────────────── ended, reset ────────────────┘
//! ```
//!
//! There are as many places as slots and queue together. A slot is held only while a compiler runs, so nobody's slow
//! line keeps others from it. Of several requesters with whole actions, the one whose last start is longest ago is next, and
//! its oldest whole action starts.
//!
//! [`Line`] is the state alone; [`Queue`] lets tasks wait in it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use barn_protocol::NodeId;
use tokio::sync::{oneshot, watch};

/// Places beside the slots, for each slot: one whose inputs arrive, and one that waits whole, so that no slot idles for
/// a round trip.
const QUEUE_PER_SLOT: u32 = 2;
/// Most places beside the slots: more would only take choices away from the requesters.
const QUEUE_MAX: u32 = 64;
/// Bytes that all actions in the queue may still have to receive. One action alone may need more.
const MISSING_BYTES_MAX: u64 = 512 << 20;
/// Requesters that get one place each although all are taken: nobody is kept out by others that are many or quick.
const GUESTS_MAX: u32 = 8;

/// The actions a worker has accepted; clones share it.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    line: Line,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

/// A place in the queue, and the slot too once [`Place::slot`] has said so. Dropped, both are free.
pub(super) struct Place {
    queue: Queue,
    id: u64,
}

/// How full a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Slots that are neither taken nor will be by an action that has a place.
    pub(super) free: u32,
    /// Actions beyond the slots.
    pub(super) queued: u32,
}

impl Queue {
    /// An empty queue before so many slots; `changed` is told of every change.
    pub(super) fn new(slots: u32, changed: watch::Sender<()>) -> Self {
        let state = State { line: Line::new(slots), waiting: HashMap::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), changed }))
    }

    /// Takes a place for an action of `peer` that lacks so many bytes of its inputs; `None` when all are taken.
    pub(super) fn enter(&self, peer: NodeId, missing_bytes: u64) -> Option<Place> {
        let id = self.lock().line.enter(peer, missing_bytes)?;
        self.0.changed.send_replace(());
        Some(Place { queue: self.clone(), id })
    }

    /// How full it is.
    pub(super) fn load(&self) -> Load {
        self.lock().line.load()
    }

    /// How many actions may wait.
    pub(super) fn queue_max(&self) -> u32 {
        self.lock().line.queue_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while the queue is held")
    }
}

impl State {
    fn start(&mut self) {
        while let Some(id) = self.line.next() {
            // Nobody waits for it if it was cancelled just now; its place is dropped at once.
            self.waiting.remove(&id).map(|waiting| waiting.send(()));
        }
    }
}

impl Place {
    /// Says that all inputs are here and waits for a slot. Cancel-safe.
    pub(super) async fn slot(&self) {
        let (told, turn) = oneshot::channel();
        {
            let mut state = self.queue.lock();
            state.waiting.insert(self.id, told);
            state.line.whole(self.id);
            state.start();
        }
        let _ = turn.await;
        self.queue.0.changed.send_replace(());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.waiting.remove(&self.id);
        state.line.leave(self.id);
        state.start();
        drop(state);
        self.queue.0.changed.send_replace(());
    }
}

/// The state of the queue; see the module.
#[derive(Debug)]
struct Line {
    slots: u32,
    queue_max: u32,
    /// By number; a lower one entered earlier.
    actions: BTreeMap<u64, Held>,
    entered: u64,
    started: u64,
    /// For each requester with an action here, the number of its last start.
    turns: HashMap<NodeId, u64>,
}

#[derive(Debug)]
struct Held {
    peer: NodeId,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Receiving { missing_bytes: u64 },
    Whole,
    Running,
}

impl Line {
    fn new(slots: u32) -> Self {
        Self {
            slots,
            queue_max: slots.saturating_mul(QUEUE_PER_SLOT).min(QUEUE_MAX),
            actions: BTreeMap::new(),
            entered: 0,
            started: 0,
            turns: HashMap::new(),
        }
    }

    fn enter(&mut self, peer: NodeId, missing_bytes: u64) -> Option<u64> {
        let held = u32::try_from(self.actions.len()).unwrap_or(u32::MAX);
        let places = self.slots + self.queue_max;
        let is_guest = !self.turns.contains_key(&peer) && held < places + GUESTS_MAX;
        let bytes: u64 = self.actions.values().map(Held::missing_bytes).sum();
        let crowded = bytes > 0 && bytes.saturating_add(missing_bytes) > MISSING_BYTES_MAX;
        if self.slots == 0 || crowded || (held >= places && !is_guest) {
            return None;
        }
        self.entered += 1;
        self.turns.entry(peer).or_insert(0);
        self.actions.insert(self.entered, Held { peer, stage: Stage::Receiving { missing_bytes } });
        Some(self.entered)
    }

    fn whole(&mut self, id: u64) {
        if let Some(held) = self.actions.get_mut(&id).filter(|held| held.stage != Stage::Running) {
            held.stage = Stage::Whole;
        }
    }

    /// The action that starts now, if a slot is free and one is whole.
    fn next(&mut self) -> Option<u64> {
        if self.running() >= self.slots {
            return None;
        }
        let whole = self.actions.iter().filter(|(_, held)| held.stage == Stage::Whole);
        let (id, _) = whole.min_by_key(|(id, held)| (self.turns.get(&held.peer), **id))?;
        let id = *id;
        let held = self.actions.get_mut(&id)?;
        held.stage = Stage::Running;
        self.started += 1;
        self.turns.insert(held.peer, self.started);
        Some(id)
    }

    fn leave(&mut self, id: u64) {
        let Some(gone) = self.actions.remove(&id) else { return };
        if !self.actions.values().any(|held| held.peer == gone.peer) {
            self.turns.remove(&gone.peer);
        }
    }

    fn running(&self) -> u32 {
        let running = self.actions.values().filter(|held| held.stage == Stage::Running);
        u32::try_from(running.count()).unwrap_or(u32::MAX)
    }

    fn load(&self) -> Load {
        let held = u32::try_from(self.actions.len()).unwrap_or(u32::MAX);
        Load { free: self.slots.saturating_sub(held), queued: held.saturating_sub(self.slots) }
    }
}

impl Held {
    fn missing_bytes(&self) -> u64 {
        match self.stage {
            Stage::Receiving { missing_bytes } => missing_bytes,
            Stage::Whole | Stage::Running => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    fn peer(seed: u8) -> NodeId {
        Identity::from_seed(&[seed; 32]).id()
    }

    /// Enters whole actions of these requesters and returns their numbers.
    fn fill(line: &mut Line, peers: &[u8]) -> Vec<u64> {
        let enter = |seed: &u8| {
            let id = line.enter(peer(*seed), 0).expect("a place is free");
            line.whole(id);
            id
        };
        peers.iter().map(enter).collect()
    }

    #[test]
    fn a_slow_uploader_holds_no_slot() {
        let mut line = Line::new(1);
        let slow = line.enter(peer(1), 1000).unwrap();
        let quick = line.enter(peer(1), 10).unwrap();
        assert_eq!(line.next(), None);
        line.whole(quick);
        assert_eq!(line.next(), Some(quick));
        line.whole(slow);
        assert_eq!(line.next(), None, "the slot is taken");
        line.leave(quick);
        assert_eq!(line.next(), Some(slow));
    }

    #[test]
    fn requesters_take_turns_and_each_its_oldest() {
        let mut line = Line::new(1);
        let ids = fill(&mut line, &[1, 1, 2]);
        let mut order = Vec::new();
        while let Some(id) = line.next() {
            order.push(id);
            line.leave(id);
        }
        assert_eq!(order, [ids[0], ids[2], ids[1]]);
        assert!(line.actions.is_empty() && line.turns.is_empty());
    }

    #[test]
    fn places_are_bounded_and_free_again_at_once() {
        let mut line = Line::new(2);
        let ids = fill(&mut line, &[1; 6]);
        assert_eq!(line.enter(peer(1), 0), None);
        assert_eq!(line.load(), Load { free: 0, queued: 4 });
        line.leave(ids[3]);
        assert!(line.enter(peer(1), 0).is_some());
        // Others get in, one action each, and not without end.
        for guest in 2..2 + u8::try_from(GUESTS_MAX).unwrap() {
            assert!(line.enter(peer(guest), 0).is_some());
            assert_eq!(line.enter(peer(guest), 0), None);
        }
        assert_eq!(line.enter(peer(100), 0), None);
        assert_eq!(Line::new(0).enter(peer(1), 0), None, "without slots there is no queue");
    }

    #[test]
    fn missing_bytes_are_bounded_but_for_one() {
        let mut line = Line::new(4);
        let large = line.enter(peer(1), 2 * MISSING_BYTES_MAX).unwrap();
        assert_eq!(line.enter(peer(1), 1), None);
        line.whole(large);
        let half = line.enter(peer(1), MISSING_BYTES_MAX / 2).unwrap();
        assert!(line.enter(peer(1), MISSING_BYTES_MAX / 2).is_some());
        assert_eq!(line.enter(peer(2), 1), None);
        line.leave(half);
        assert!(line.enter(peer(2), 1).is_some());
    }

    #[tokio::test]
    async fn a_place_given_up_lets_the_next_start() {
        let (changed, _) = watch::channel(());
        let queue = Queue::new(1, changed);
        let [first, second, third] = [(); 3].map(|()| queue.enter(peer(1), 0).unwrap());
        first.slot().await;
        // The second gives up while it waits; the third is told when the first ends.
        let waits = tokio::spawn(async move { second.slot().await });
        tokio::task::yield_now().await;
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        let third = tokio::spawn(async move {
            third.slot().await;
            third
        });
        drop(first);
        let third = third.await.unwrap();
        assert_eq!(queue.load(), Load { free: 0, queued: 0 });
        drop(third);
        assert_eq!(queue.load(), Load { free: 1, queued: 0 });
    }
}
