//! Who is up, who is stable, who is silent.
//!
//! ```text
//!             up           STABLE_AFTER              down
//!  unknown ───────▶ fresh ──────────────▶ stable ◀──────────▶ away
//!     ▲               │ down                 ▲        up       │ GONE_AFTER
//!     └───────────────┴──────────────────────┼─────────────────┘
//!                                  at once while this node is young
//! ```
//!
//! Stable and away members own keys; those that are away are not asked.

use std::{collections::BTreeMap, time::Duration};

use super::{
    EntryKey,
    limits::{GONE_AFTER, SILENT_FOR, STABLE_AFTER},
    rendezvous::{OWNERS, Point, owners},
};
use crate::NodeId;

/// The owners of a key, the first first.
pub(super) type Owners = [Option<Handle>; OWNERS];

/// A member's short name here; never used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(u16);

impl Handle {
    /// This node.
    pub(super) const SELF: Self = Self(0);
}

#[derive(Debug)]
pub(super) struct Members {
    started: Duration,
    handles: BTreeMap<NodeId, Handle>,
    /// By handle; whoever was ever seen.
    seen: Vec<Seen>,
    /// This node and all that are stable or away.
    stable: Vec<(Handle, Point)>,
}

#[derive(Debug)]
struct Seen {
    id: NodeId,
    point: Point,
    state: State,
    silent_until: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Fresh { since: Duration },
    Stable,
    Away { since: Duration },
}

/// A change of the stable members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Joined(Handle),
    Left,
}

impl Members {
    pub(super) fn new(now: Duration, self_id: NodeId) -> Self {
        let mut members =
            Self { started: now, handles: BTreeMap::new(), seen: Vec::new(), stable: Vec::new() };
        if let Some(handle) = members.handle(self_id) {
            members.join(handle);
        }
        members
    }

    /// The short name of a member; none when more were seen than there are names.
    pub(super) fn handle(&mut self, id: NodeId) -> Option<Handle> {
        if let Some(handle) = self.handles.get(&id) {
            return Some(*handle);
        }
        let handle = Handle(u16::try_from(self.seen.len()).ok()?);
        let point = Point::of(&id);
        self.seen.push(Seen { id, point, state: State::Unknown, silent_until: Duration::ZERO });
        self.handles.insert(id, handle);
        Some(handle)
    }

    pub(super) fn id(&self, handle: Handle) -> NodeId {
        self.at(handle).id
    }

    /// A peer is connected.
    pub(super) fn up(&mut self, now: Duration, id: NodeId) -> Option<Change> {
        let handle = self.handle(id).filter(|handle| *handle != Handle::SELF)?;
        let young = now < self.started + STABLE_AFTER;
        let seen = self.at_mut(handle);
        seen.silent_until = Duration::ZERO;
        match seen.state {
            State::Away { .. } => seen.state = State::Stable,
            State::Unknown if young => return Some(self.join(handle)),
            State::Unknown => seen.state = State::Fresh { since: now },
            State::Fresh { .. } | State::Stable => {}
        }
        None
    }

    /// It no longer is.
    pub(super) fn down(&mut self, now: Duration, id: &NodeId) {
        let Some(&handle) = self.handles.get(id).filter(|handle| **handle != Handle::SELF) else { return };
        let seen = self.at_mut(handle);
        match seen.state {
            State::Stable => seen.state = State::Away { since: now },
            State::Fresh { .. } => seen.state = State::Unknown,
            State::Away { .. } | State::Unknown => {}
        }
    }

    /// Who has become stable, or is gone for good, by now; one change at a time.
    pub(super) fn settle(&mut self, now: Duration) -> Option<Change> {
        let at = self.seen.iter().position(|seen| seen.due().is_some_and(|due| due <= now))?;
        let handle = Handle(u16::try_from(at).ok()?);
        if let State::Fresh { .. } = self.seen[at].state {
            return Some(self.join(handle));
        }
        self.seen[at].state = State::Unknown;
        self.stable.retain(|(stable, _)| *stable != handle);
        Some(Change::Left)
    }

    /// When [`Members::settle`] has something to do next.
    pub(super) fn next_change(&self) -> Option<Duration> {
        self.seen.iter().filter_map(Seen::due).min()
    }

    fn join(&mut self, handle: Handle) -> Change {
        let seen = self.at_mut(handle);
        seen.state = State::Stable;
        let point = seen.point;
        self.stable.push((handle, point));
        Change::Joined(handle)
    }

    /// A peer did not answer in time.
    pub(super) fn silent(&mut self, now: Duration, handle: Handle) {
        self.at_mut(handle).silent_until = now + SILENT_FOR;
    }

    /// The owners of a key, the first first.
    pub(super) fn owners(&self, key: EntryKey) -> Owners {
        owners(key, self.stable.iter().copied())
    }

    /// The owners of a key that was owned by `before`, when since then at most those in `joined` have become stable.
    /// Looks at all members only if an owner is gone.
    pub(super) fn owners_since(&self, key: EntryKey, before: Owners, joined: &[Handle]) -> Owners {
        if !before.iter().all(|owner| owner.is_some_and(|owner| self.owns(owner))) {
            return self.owners(key);
        }
        let joined = joined.iter().filter(|handle| self.owns(**handle) && !before.contains(&Some(**handle)));
        let candidates = before.iter().flatten().chain(joined);
        owners(key, candidates.map(|handle| (*handle, self.at(*handle).point)))
    }

    fn owns(&self, handle: Handle) -> bool {
        matches!(self.at(handle).state, State::Stable | State::Away { .. })
    }

    /// Whether a member is connected, or this node.
    pub(super) fn is_up(&self, handle: Handle) -> bool {
        matches!(self.at(handle).state, State::Stable | State::Fresh { .. })
    }

    /// Whether a peer is connected and answers.
    pub(super) fn answers(&self, now: Duration, handle: Handle) -> bool {
        handle != Handle::SELF && self.is_up(handle) && self.at(handle).silent_until <= now
    }

    /// How many own keys, this node among them.
    pub(super) fn stable_count(&self) -> usize {
        self.stable.len()
    }

    fn at(&self, handle: Handle) -> &Seen {
        &self.seen[usize::from(handle.0)]
    }

    fn at_mut(&mut self, handle: Handle) -> &mut Seen {
        &mut self.seen[usize::from(handle.0)]
    }
}

impl Seen {
    fn due(&self) -> Option<Duration> {
        match self.state {
            State::Fresh { since } => Some(since + STABLE_AFTER),
            State::Away { since } => Some(since + GONE_AFTER),
            State::Stable | State::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u8) -> NodeId {
        Identity::from_seed(&[n; 32]).id()
    }

    #[test]
    fn a_member_becomes_stable_and_is_gone_in_the_end() {
        let late = 10 * STABLE_AFTER;
        let mut members = Members::new(Duration::ZERO, id(0));
        assert!(matches!(members.up(SECOND, id(1)), Some(Change::Joined(_))), "this node is young");
        assert_eq!(members.up(late, id(2)), None);
        assert_eq!((members.settle(late), members.stable_count()), (None, 2));
        assert_eq!(members.next_change(), Some(late + STABLE_AFTER));
        assert!(matches!(members.settle(late + STABLE_AFTER), Some(Change::Joined(_))));
        assert_eq!(members.stable_count(), 3);

        // A short absence changes nothing but that it is not asked.
        let two = members.handle(id(2)).expect("there are names left");
        let away = late + 2 * STABLE_AFTER;
        members.down(away, &id(2));
        assert!(!members.answers(away, two));
        assert_eq!(members.settle(away + GONE_AFTER - SECOND), None);
        assert_eq!(members.up(away + GONE_AFTER - SECOND, id(2)), None);
        assert_eq!((members.settle(away + GONE_AFTER), members.stable_count()), (None, 3));
        assert!(members.answers(away + GONE_AFTER, two));

        members.down(away, &id(2));
        assert_eq!((members.settle(away + GONE_AFTER), members.stable_count()), (Some(Change::Left), 2));
        assert_eq!(members.up(away + GONE_AFTER, id(2)), None, "it begins anew");
    }

    #[test]
    fn whoever_leaves_before_it_is_stable_was_never_there() {
        let late = 10 * STABLE_AFTER;
        let mut members = Members::new(Duration::ZERO, id(0));
        members.up(late, id(1));
        members.down(late + SECOND, &id(1));
        assert_eq!((members.next_change(), members.stable_count()), (None, 1));
        members.down(late, &id(0));
        members.up(late, id(0));
        assert_eq!(members.stable_count(), 1, "this node is no peer of its own");
    }

    #[test]
    fn a_silent_peer_is_left_out_for_a_while() {
        let mut members = Members::new(Duration::ZERO, id(0));
        members.up(SECOND, id(1));
        let one = members.handle(id(1)).expect("there are names left");
        members.silent(SECOND, one);
        assert!(!members.answers(SECOND, one) && members.is_up(one));
        assert!(members.answers(SECOND + SILENT_FOR, one));
        members.silent(SECOND, one);
        members.up(2 * SECOND, id(1));
        assert!(members.answers(2 * SECOND, one), "it has come back");
    }
}
