//! Whom to dial, who is connected, who is cut off.
//!
//! Every node of an office is connected to every other; this machine decides when to dial whom so that this
//! comes true again after every trouble. It knows the members (from the roster), their addresses (from mDNS,
//! Kademlia, or a person) and the connections (from the mesh layer), and says what to do about them.
//!
//! How a peer's state changes:
//!
//! ```text
//!            discovered                poll             connected
//!  Unknown ─────────────▶ Known ─────────────▶ Dialing ────────────▶ Connected
//!     ▲                                         │    ▲                    │
//!     │                     failed or timed out │    │ `until` passed     │ disconnected,
//!     │                                         ▼    │                    │ address known
//!     │                                        Backoff ◀──────────────────┤
//!     │                                                                   │
//!     └───────────────────────────────────────────────────────────────────┘
//!                            disconnected, no address known
//! ```
//!
//! Besides, every state goes to `Connected` when the peer dials us, and a peer that is struck from the roster
//! leaves from every state at once. Both sides dialling at the same time is fine: a peer is up while at least
//! one connection to it exists, and the mesh layer, which counts them, reports the first and the last.
//!
//! Non-goals: spreading the roster (the admission handshake and gossip do that, before a connection is reported
//! here) and choosing routes.
//!
//! Invariants: a peer that is no member is never dialled and never up; `PeerUp` and `PeerDown` alternate for
//! every peer, `PeerUp` first; at most [`DIALS_MAX`] dials are under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::{identity::NodeId, limits::ROSTER_MEMBERS_MAX, random::Random};

mod addresses;
#[cfg(test)]
mod tests;

use addresses::Addresses;
pub use addresses::{ADDRESSES_MAX, STRANGER_AGE_MAX, STRANGERS_MAX};

/// Most dials under way at once. A dial to a machine that is switched off holds its place for
/// [`DIAL_TIME_MAX`]; with 64 places even 200 such machines delay a healthy one by only about 16 s.
pub const DIALS_MAX: usize = 64;
/// Longest a dial may take, all addresses and the handshake included; later it counts as failed. On a LAN that
/// leaves time for two lost packets. The mesh layer should use the same limit.
pub const DIAL_TIME_MAX: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest pause, before jitter: a healed partition must be whole again within 30 s.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Pauses are multiplied by a random factor in this range, so that nodes do not dial in step.
pub const BACKOFF_JITTER: (f64, f64) = (0.8, 1.2);
/// How long a connection must have lived for its loss to count as the first failure again; the pause for a
/// peer that flaps faster keeps growing.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What happened, as told by the roster's keeper, by discovery, or by the mesh layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The members of the newest roster; this node itself may be among them. When it is not, it has been struck
    /// and lets go of everybody.
    Roster(Vec<NodeId>),
    /// A peer, perhaps a member, says that it listens at these addresses.
    Discovered {
        /// Who.
        peer: NodeId,
        /// Where; the best first.
        addresses: Vec<SocketAddr>,
    },
    /// A connection to an authenticated peer is up. May come again for each further connection.
    Connected {
        /// Who.
        peer: NodeId,
        /// The remote address of the connection.
        address: SocketAddr,
        /// Whether we dialled; only then is the address one that can be dialled again.
        outbound: bool,
    },
    /// The last connection to the peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// The dial asked for by [`Effect::Dial`] led to no connection.
    DialFailed {
        /// Who.
        peer: NodeId,
    },
}

/// What the mesh layer shall do or know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Dial the peer at any of these addresses, the best first, within [`DIAL_TIME_MAX`].
    Dial {
        /// Whom.
        peer: NodeId,
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// Close all connections to the peer and give up dialling it.
    Disconnect {
        /// Whom.
        peer: NodeId,
    },
    /// The peer is a member and connected.
    PeerUp(NodeId),
    /// It no longer is.
    PeerDown(NodeId),
}

/// Where a member stands; drawn in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// No address is known.
    Unknown,
    /// Waiting for its first dial.
    Known {
        /// When its address became known.
        since: Duration,
    },
    /// A dial is under way.
    Dialing {
        /// When it counts as failed.
        give_up: Duration,
    },
    /// At least one connection exists.
    Connected {
        /// When the first of them came up.
        since: Duration,
    },
    /// Waiting for the next dial after a failure.
    Backoff {
        /// When that is due.
        until: Duration,
        /// When the failure was.
        failed: Duration,
    },
}

/// One member as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView<'a> {
    /// Who.
    pub id: NodeId,
    /// Where it stands.
    pub state: PeerState,
    /// Where it can be dialled, the newest address first.
    pub addresses: &'a [SocketAddr],
}

/// The membership state machine of one node. Drive it with [`Membership::handle`]; after every event and at
/// [`Membership::next_wake`], call [`Membership::poll`] until it returns `None`.
#[derive(Debug)]
pub struct Membership {
    self_id: NodeId,
    members: BTreeMap<NodeId, Peer>,
    /// Addresses of peers that are no members (yet).
    strangers: addresses::Strangers,
    /// Members in `Known` or `Backoff`, by the time their dial is due.
    due: BTreeSet<(Duration, NodeId)>,
    /// Members in `Dialing`, by the time they count as failed.
    dialing: BTreeSet<(Duration, NodeId)>,
    effects: VecDeque<Effect>,
    random: Random,
}

#[derive(Debug)]
struct Peer {
    state: PeerState,
    addresses: Addresses,
    /// Failures since the last stable connection.
    failures: u32,
}

impl Membership {
    /// A node that knows nobody yet. `seed` drives the jitter; any value is good, nodes should differ.
    pub fn new(self_id: NodeId, seed: u64) -> Self {
        Self {
            self_id,
            members: BTreeMap::new(),
            strangers: addresses::Strangers::default(),
            due: BTreeSet::new(),
            dialing: BTreeSet::new(),
            effects: VecDeque::new(),
            random: Random::new(seed),
        }
    }

    /// Takes note of what happened at `now` (monotonic, since the node's start).
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Roster(members) => self.set_members(now, &members),
            Event::Discovered { peer, addresses } => self.discovered(now, peer, &addresses),
            Event::Connected { peer, address, outbound } => {
                self.connected(now, peer, outbound.then_some(address));
            }
            Event::Disconnected { peer } => self.disconnected(now, peer),
            Event::DialFailed { peer } => {
                if matches!(self.state(&peer), Some(PeerState::Dialing { .. })) {
                    self.failed(now, peer);
                }
            }
        }
    }

    /// The next thing to do at `now`, if there is one.
    pub fn poll(&mut self, now: Duration) -> Option<Effect> {
        while let Some(&(give_up, peer)) = self.dialing.first()
            && give_up <= now
        {
            self.failed(now, peer);
        }
        self.effects.pop_front().or_else(|| self.next_dial(now))
    }

    /// When to call [`Membership::poll`] next although nothing happened; not before `now`.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        if !self.effects.is_empty() {
            return Some(now);
        }
        let dial = self.due.first().filter(|_| self.dialing.len() < DIALS_MAX);
        dial.into_iter().chain(self.dialing.first()).map(|&(at, _)| at.max(now)).min()
    }

    /// All members but this node.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.members.iter().map(|(&id, peer)| PeerView {
            id,
            state: peer.state,
            addresses: peer.addresses.as_slice(),
        })
    }

    /// One member.
    pub fn peer(&self, id: &NodeId) -> Option<PeerView<'_>> {
        let (&id, peer) = self.members.get_key_value(id)?;
        Some(PeerView { id, state: peer.state, addresses: peer.addresses.as_slice() })
    }

    /// The members that are up.
    pub fn connected_peers(&self) -> impl Iterator<Item = NodeId> {
        self.members
            .iter()
            .filter(|(_, peer)| matches!(peer.state, PeerState::Connected { .. }))
            .map(|(&id, _)| id)
    }

    fn set_members(&mut self, now: Duration, members: &[NodeId]) {
        let cut_off = !members.contains(&self.self_id);
        let members: BTreeSet<NodeId> = members
            .iter()
            .copied()
            .filter(|id| *id != self.self_id && !cut_off)
            .take(ROSTER_MEMBERS_MAX)
            .collect();
        let struck: Vec<NodeId> = self.members.keys().filter(|id| !members.contains(id)).copied().collect();
        for id in struck {
            self.strike(now, id);
        }
        for id in members {
            if !self.members.contains_key(&id) {
                self.admit(now, id);
            }
        }
    }

    fn strike(&mut self, now: Duration, id: NodeId) {
        let Some(peer) = self.members.remove(&id) else { return };
        self.unschedule(id, peer.state);
        match peer.state {
            PeerState::Connected { .. } => {
                self.effects.push_back(Effect::Disconnect { peer: id });
                self.effects.push_back(Effect::PeerDown(id));
            }
            PeerState::Dialing { .. } => self.effects.push_back(Effect::Disconnect { peer: id }),
            PeerState::Unknown | PeerState::Known { .. } | PeerState::Backoff { .. } => {}
        }
        // The next roster may list it again.
        self.strangers.remember(now, id, peer.addresses.as_slice());
    }

    fn admit(&mut self, now: Duration, id: NodeId) {
        let addresses = self.strangers.take(now, &id);
        let known = !addresses.as_slice().is_empty();
        self.members.insert(id, Peer { state: PeerState::Unknown, addresses, failures: 0 });
        if known {
            self.transition(id, PeerState::Known { since: now });
        }
    }

    fn discovered(&mut self, now: Duration, id: NodeId, addresses: &[SocketAddr]) {
        if id == self.self_id {
            return;
        }
        let Some(peer) = self.members.get_mut(&id) else {
            self.strangers.remember(now, id, addresses);
            return;
        };
        let news = peer.addresses.add(addresses);
        match peer.state {
            PeerState::Unknown if news => self.transition(id, PeerState::Known { since: now }),
            // A new address is worth a try before the pause is over, but a peer that announces new addresses
            // without end is not dialled faster than after a first failure.
            PeerState::Backoff { until, failed } if news => {
                let until = until.min(now.max(failed + BACKOFF_MIN));
                self.transition(id, PeerState::Backoff { until, failed });
            }
            _ => {}
        }
    }

    fn connected(&mut self, now: Duration, id: NodeId, dialled: Option<SocketAddr>) {
        let Some(peer) = self.members.get_mut(&id) else {
            self.effects.push_back(Effect::Disconnect { peer: id });
            return;
        };
        peer.addresses.add(dialled.as_slice());
        if !matches!(peer.state, PeerState::Connected { .. }) {
            self.transition(id, PeerState::Connected { since: now });
            self.effects.push_back(Effect::PeerUp(id));
        }
    }

    fn disconnected(&mut self, now: Duration, id: NodeId) {
        let Some(peer) = self.members.get_mut(&id) else { return };
        let PeerState::Connected { since } = peer.state else { return };
        if now.saturating_sub(since) >= STABLE_AFTER {
            peer.failures = 0;
        }
        self.effects.push_back(Effect::PeerDown(id));
        self.failed(now, id);
    }

    /// A dial failed or a connection was lost: pause, longer each time.
    fn failed(&mut self, now: Duration, id: NodeId) {
        let Some(peer) = self.members.get_mut(&id) else { return };
        if peer.addresses.as_slice().is_empty() {
            self.transition(id, PeerState::Unknown);
            return;
        }
        peer.failures = peer.failures.saturating_add(1);
        let pause = BACKOFF_MIN.saturating_mul(1 << (peer.failures - 1).min(16)).min(BACKOFF_MAX);
        let pause = pause.mul_f64(self.random.between(BACKOFF_JITTER.0, BACKOFF_JITTER.1));
        self.transition(id, PeerState::Backoff { until: now + pause, failed: now });
    }

    /// Of the members whose dial is due, the one that failed least often: machines that have been off for
    /// long do not hold up one that just came.
    fn next_dial(&mut self, now: Duration) -> Option<Effect> {
        if self.dialing.len() >= DIALS_MAX {
            return None;
        }
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let &(_, id) = due.min_by_key(|(due, id)| (self.members.get(id).map(|p| p.failures), *due))?;
        self.transition(id, PeerState::Dialing { give_up: now + DIAL_TIME_MAX });
        let addresses = self.members.get(&id)?.addresses.as_slice().to_vec();
        Some(Effect::Dial { peer: id, addresses })
    }

    fn state(&self, id: &NodeId) -> Option<PeerState> {
        self.members.get(id).map(|peer| peer.state)
    }

    fn transition(&mut self, id: NodeId, next: PeerState) {
        let Some(peer) = self.members.get_mut(&id) else { return };
        let from = std::mem::replace(&mut peer.state, next);
        debug_assert!(from.may_become(next), "{from:?} does not become {next:?}");
        self.unschedule(id, from);
        match next {
            PeerState::Known { since: at } | PeerState::Backoff { until: at, .. } => {
                self.due.insert((at, id));
            }
            PeerState::Dialing { give_up } => {
                self.dialing.insert((give_up, id));
            }
            PeerState::Unknown | PeerState::Connected { .. } => {}
        }
    }

    fn unschedule(&mut self, id: NodeId, from: PeerState) {
        match from {
            PeerState::Known { since: at } | PeerState::Backoff { until: at, .. } => {
                self.due.remove(&(at, id));
            }
            PeerState::Dialing { give_up } => {
                self.dialing.remove(&(give_up, id));
            }
            PeerState::Unknown | PeerState::Connected { .. } => {}
        }
    }
}

impl PeerState {
    const fn may_become(self, next: Self) -> bool {
        use PeerState::{Backoff, Connected, Dialing, Known, Unknown};
        matches!(
            (self, next),
            (Unknown, Known { .. } | Connected { .. })
                | (Known { .. }, Dialing { .. } | Connected { .. })
                | (Dialing { .. }, Connected { .. } | Backoff { .. })
                | (Connected { .. }, Backoff { .. } | Unknown)
                | (Backoff { .. }, Dialing { .. } | Connected { .. } | Backoff { .. })
        )
    }
}
