//! How many members a source serves at once.
//!
//! Two hundred cold workers that all ask the one source there is would get two hundred times the same start of a
//! queue. So it serves few at a time, and those serve the others.

use std::{collections::BTreeMap, time::Duration};

use crate::identity::NodeId;

/// Members served at once: enough that each link of an office's eight desks is busy.
const SERVED_MAX: usize = 8;
/// How long a member that asks for nothing keeps its turn: as long as it may be busy passing on what it has.
const TURN_KEPT: Duration = Duration::from_millis(500);

/// Who is being served.
#[derive(Debug, Default)]
pub struct Gate {
    served: BTreeMap<NodeId, Turn>,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Pieces it waits for.
    queued: usize,
    idle_since: Duration,
}

impl Gate {
    /// Whether a piece may be sent to `id`; if so, [`Gate::sent`] must follow.
    pub fn enter(&mut self, now: Duration, id: NodeId) -> bool {
        self.served.retain(|_, turn| turn.queued > 0 || now < turn.idle_since + TURN_KEPT);
        if self.served.len() >= SERVED_MAX && !self.served.contains_key(&id) {
            return false;
        }
        self.served.entry(id).or_insert(Turn { queued: 0, idle_since: now }).queued += 1;
        true
    }

    /// A piece that was let through is sent, or will not be.
    pub fn sent(&mut self, now: Duration, id: &NodeId) {
        if let Some(turn) = self.served.get_mut(id) {
            turn.queued = turn.queued.saturating_sub(1);
            turn.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_turn_lasts_while_pieces_are_asked_for() {
        let ids: Vec<NodeId> = (0..=8).map(|n| Identity::from_seed(&[n; 32]).id()).collect();
        let mut gate = Gate::default();
        let start = Duration::ZERO;
        assert!(ids[..8].iter().all(|id| gate.enter(start, *id)));
        assert!(gate.enter(start, ids[0]), "one that is served may go on");
        assert!(!gate.enter(start, ids[8]));
        gate.sent(start, &ids[0]);
        let later = start + 2 * TURN_KEPT;
        assert!(!gate.enter(later, ids[8]), "one of its two pieces is still queued");
        gate.sent(later, &ids[0]);
        assert!(!gate.enter(later, ids[8]));
        assert!(gate.enter(later + TURN_KEPT, ids[8]));
        assert!(!gate.enter(later + TURN_KEPT, ids[0]));
    }
}
