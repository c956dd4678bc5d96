//! The control plane: who is there, who offers what, which roster is in force.
//!
//! One loop owns the libp2p swarm and the membership state machine. Everything it hears is turned into events of
//! [`Membership`]; what that decides is carried out here. What the node wants (its advert, what it provides, static
//! peers) and what the data plane should link to are kept as states that the loops compare, not as queues.
//!
//! ```text
//!   mDNS, Kademlia, identify, static peers ──discovered──▶┐
//!   swarm ──connected, disconnected, dial failed─────────▶├ Membership ──▶ dial, disconnect ──▶ swarm
//!   roster cell ──members────────────────────────────────▶┘           └──▶ up, down ──▶ node, data plane
//! ```
//!
//! A peer counts as connected while a control connection to it is open. TCP alone would notice a pulled cable after
//! a quarter of an hour, so a peer is also dropped when its data link died without a word, or when it has been silent
//! for too long.
//!
//! Invariant: whoever loses its standing (struck, or the roster expired) is disconnected in the same turn of the loop.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use barn_protocol::{
    NodeId,
    advert::Advert,
    membership::{Effect, Event as Member, Membership},
    roster::SignedRoster,
    wire,
};
use futures::StreamExt;
use libp2p::{
    Swarm,
    gossipsub::IdentTopic,
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    MeshEvent,
    clock::unix_now_s,
    data::Wanted,
    discovery::Found,
    keys,
    limits::{PEER_ADDRESSES_MAX, ROUTING_DELAY, ROUTING_INTERVAL, SILENCE_LINKED_MAX, SILENCE_MAX},
    shared::{Intent, PeerEntry, Shared},
};

mod behaviour;
mod gossip;
mod heard;
mod providers;
mod statics;

pub use behaviour::SwarmError;
use behaviour::{ADVERTS, BehaviourEvent, ROSTERS};
pub(crate) use behaviour::{Behaviour, swarm};
use gossip::{Pace, Pulse};
use providers::Providers;
pub(crate) use providers::Search;
use statics::Statics;

/// How often silence and expiry are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a new peer what this node provides is announced again; peers often come in swarms.
const ANNOUNCE_DELAY: Duration = Duration::from_secs(2);

/// What the control plane is given.
pub(crate) struct ControlConfig {
    pub(crate) shared: Arc<Shared>,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) searches: mpsc::Receiver<Search>,
    pub(crate) events: mpsc::Sender<MeshEvent>,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) vanished: mpsc::Receiver<NodeId>,
    pub(crate) discovery: Option<mpsc::Receiver<Found>>,
}

/// The control plane's loop.
pub(crate) struct Control {
    config: ControlConfig,
    origin: Instant,
    membership: Membership,
    changes: watch::Receiver<Option<Arc<SignedRoster>>>,
    intents: watch::Receiver<Intent>,
    stop: watch::Receiver<bool>,
    /// Events the node has not taken yet; at most two comings and goings and one advert per peer.
    outbox: VecDeque<MeshEvent>,
    /// For what each dial under way is.
    dials: HashMap<ConnectionId, Dialled>,
    /// Open connections by peer.
    open: HashMap<NodeId, HashSet<ConnectionId>>,
    peers: HashMap<NodeId, Peer>,
    statics: Statics,
    providers: Providers,
    adverts: Pace,
    /// What was published last.
    advertised: Option<Advert>,
    rosters: Pace,
    routing: Instant,
    announce: Option<Instant>,
    checked: Instant,
    expired: bool,
}

#[derive(Debug, Clone, Copy)]
enum Dialled {
    Member(NodeId),
    Static(SocketAddr),
}

/// Why the loop turns.
enum Turn {
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    Roster,
    Intent,
    Search(Search),
    Vanished(NodeId),
    Found(Found),
    Time,
    Stop,
}

/// What is known of a peer that has a connection.
struct Peer {
    /// The remote end of its newest connection.
    remote: SocketAddr,
    /// Where it can be dialled, as far as is known.
    address: Option<SocketAddr>,
    heard: Instant,
}

impl Control {
    pub(crate) fn new(config: ControlConfig) -> Self {
        let shared = &config.shared;
        let now = Instant::now();
        let changes = shared.roster.subscribe();
        let mut intents = shared.intent.subscribe();
        intents.mark_changed();
        let mut control = Self {
            origin: now,
            membership: Membership::new(shared.self_id, rand::random()),
            changes,
            intents,
            stop: shared.stop.subscribe(),
            outbox: VecDeque::new(),
            dials: HashMap::new(),
            open: HashMap::new(),
            peers: HashMap::new(),
            statics: Statics::default(),
            providers: Providers::default(),
            adverts: Pace::adverts(),
            advertised: None,
            rosters: Pace::rosters(),
            routing: now + ROUTING_INTERVAL,
            announce: None,
            checked: now,
            expired: false,
            config,
        };
        control.set_members();
        control
    }

    /// Runs until stopped, or until the node takes no more events.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next_turn().await {
                Turn::Swarm(event) => self.swarm_event(*event),
                Turn::Roster => self.roster_changed(),
                Turn::Intent => self.intent_changed(),
                Turn::Search(search) => {
                    let kad = &mut self.config.swarm.behaviour_mut().kad;
                    self.providers.search(kad, search, Instant::now());
                }
                Turn::Vanished(peer) => self.drop_peer(peer, "its data link died"),
                Turn::Found((peer, addresses)) => self.tell(Member::Discovered { peer, addresses }),
                Turn::Time => {}
                Turn::Stop => break,
            }
            self.settle();
        }
        self.config.shared.stop.send_replace(true);
    }

    async fn next_turn(&mut self) -> Turn {
        let wake = self.next_wake();
        tokio::select! {
            () = stopped(&mut self.stop) => Turn::Stop,
            () = self.config.events.closed() => Turn::Stop,
            event = self.config.swarm.select_next_some() => Turn::Swarm(Box::new(event)),
            Ok(()) = self.changes.changed() => Turn::Roster,
            Ok(()) = self.intents.changed() => Turn::Intent,
            Some(search) = self.config.searches.recv() => Turn::Search(search),
            Some(peer) = self.config.vanished.recv() => Turn::Vanished(peer),
            Some(found) = next_found(&mut self.config.discovery) => Turn::Found(found),
            permit = self.config.events.reserve(), if !self.outbox.is_empty() => {
                let Ok(permit) = permit else { return Turn::Stop };
                if let Some(event) = self.outbox.pop_front() {
                    permit.send(event);
                }
                Turn::Time
            }
            () = tokio::time::sleep_until(wake) => Turn::Time,
        }
    }

    /// Everything that is due after an event or with the time.
    fn settle(&mut self) {
        let now = Instant::now();
        if now >= self.checked + CHECK_INTERVAL {
            self.checked = now;
            self.check(now);
        }
        for address in self.due_statics(now) {
            let dial =
                DialOpts::unknown_peer_id().address(keys::multiaddr(address)).allocate_new_port().build();
            self.dial(dial, Dialled::Static(address));
        }
        while let Some(effect) = self.membership.poll(now - self.origin) {
            self.carry_out(effect);
        }
        if self.adverts.take(now) {
            let advert = self.config.shared.intent.borrow().advert.clone();
            let pulse = Pulse::new(self.config.shared.roster.epoch(), advert.as_ref());
            self.publish(ADVERTS, pulse.encode());
            self.advertised = advert;
        }
        if self.rosters.take(now)
            && let Some(roster) = self.config.shared.roster.current()
            && let Ok(bytes) = wire::encode(roster.bytes())
        {
            self.publish(ROSTERS, bytes);
        }
        let kad = &mut self.config.swarm.behaviour_mut().kad;
        self.providers.expire(kad, now);
        if self.announce.is_some_and(|due| due <= now) {
            self.announce = None;
            self.providers.announce_again(kad);
        }
        if self.routing <= now {
            self.routing = now + ROUTING_INTERVAL;
            if !self.peers.is_empty() {
                let myself = *self.config.swarm.local_peer_id();
                self.config.swarm.behaviour_mut().kad.get_closest_peers(myself);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let membership = self.membership.next_wake(now - self.origin).map(|at| self.origin + at);
        [
            Some(self.checked + CHECK_INTERVAL),
            Some(self.routing),
            membership,
            self.adverts.due(now),
            self.rosters.due(now),
            self.announce,
            self.statics.next(),
            self.providers.next(),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now)
    }

    /// Expiry and silence, which nothing else would tell.
    fn check(&mut self, now: Instant) {
        let expired = self.config.shared.roster.current().is_some_and(|r| r.roster().expired(unix_now_s()));
        if expired != self.expired {
            self.set_members();
        }
        let links = &self.config.shared.links;
        let silent: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                let patience = if links.is_up(id) { SILENCE_LINKED_MAX } else { SILENCE_MAX };
                now.duration_since(peer.heard) > patience
            })
            .map(|(id, _)| *id)
            .collect();
        for peer in silent {
            self.drop_peer(peer, "it is silent");
        }
    }

    fn due_statics(&mut self, now: Instant) -> Vec<SocketAddr> {
        let roster = self.config.shared.roster.current();
        self.statics.due(now, |peer| roster.as_ref().is_some_and(|r| r.roster().member(peer).is_some()))
    }

    fn tell(&mut self, event: Member) {
        self.membership.handle(self.origin.elapsed(), event);
    }

    fn post(&mut self, event: MeshEvent) {
        match &event {
            MeshEvent::RosterChanged => self.outbox.retain(|e| !matches!(e, MeshEvent::RosterChanged)),
            MeshEvent::Advert(peer, _) => {
                self.outbox.retain(|e| !matches!(e, MeshEvent::Advert(other, _) if other == peer));
            }
            // Nobody has heard that it was up; that it was down before, if so, still stands.
            MeshEvent::PeerDown(peer) => {
                let queued = self.outbox.len();
                self.outbox.retain(|e| !matches!(e, MeshEvent::PeerUp(other) if other == peer));
                if self.outbox.len() < queued {
                    return;
                }
            }
            _ => {}
        }
        self.outbox.push_back(event);
    }

    fn publish(&mut self, topic: &str, bytes: Vec<u8>) {
        if let Err(error) = self.config.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic), bytes) {
            tracing::trace!(topic, %error, "not published");
        }
    }
}

/// The roster and what the node wants.
impl Control {
    fn roster_changed(&mut self) {
        self.changes.mark_unchanged();
        self.set_members();
        self.rosters.renew();
        self.adverts.want();
        self.post(MeshEvent::RosterChanged);
    }

    /// Tells membership who is a member; nobody, once the roster has expired.
    fn set_members(&mut self) {
        let Some(current) = self.config.shared.roster.current() else { return };
        let roster = current.roster();
        self.expired = roster.expired(unix_now_s());
        if self.expired {
            tracing::warn!(
                epoch = roster.epoch,
                "the roster has expired; the mesh is closed until the admin renews it"
            );
        }
        let members = match self.expired {
            true => Vec::new(),
            false => roster.members.iter().map(|member| member.id).collect(),
        };
        let listed: BTreeSet<NodeId> = members.iter().copied().collect();
        let gone: Vec<NodeId> = self.open.keys().filter(|peer| !listed.contains(peer)).copied().collect();
        self.tell(Member::Roster(members));
        for peer in gone {
            self.drop_peer(peer, "it is not on the roster");
        }
    }

    fn intent_changed(&mut self) {
        let intent = self.intents.borrow_and_update().clone();
        match (&intent.advert, &self.advertised) {
            (Some(new), Some(told)) if !new.surprises(told) => self.adverts.want_calmly(),
            _ => self.adverts.want(),
        }
        self.statics.add(Instant::now(), &intent.peers);
        self.providers.provide(&mut self.config.swarm.behaviour_mut().kad, &intent.provided);
    }
}

/// What membership decides.
impl Control {
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { peer, addresses } => self.dial_member(peer, &addresses),
            Effect::Disconnect { peer } => self.drop_peer(peer, "membership says so"),
            Effect::PeerUp(peer) => self.peer_up(peer),
            Effect::PeerDown(peer) => self.peer_down(peer),
        }
    }

    fn dial_member(&mut self, peer: NodeId, addresses: &[SocketAddr]) {
        let Some(id) = keys::peer_id(&peer) else {
            return self.tell(Member::DialFailed { peer });
        };
        let dial = DialOpts::peer_id(id)
            .condition(PeerCondition::Always)
            .addresses(addresses.iter().copied().map(keys::multiaddr).collect())
            .allocate_new_port()
            .build();
        self.dial(dial, Dialled::Member(peer));
    }

    fn dial(&mut self, dial: DialOpts, what: Dialled) {
        let id = dial.connection_id();
        match self.config.swarm.dial(dial) {
            Ok(()) => {
                self.dials.insert(id, what);
            }
            Err(error) => {
                tracing::debug!(?what, %error, "not dialled");
                self.dial_failed(what);
            }
        }
    }

    fn dial_failed(&mut self, what: Dialled) {
        if let Dialled::Member(peer) = what {
            self.tell(Member::DialFailed { peer });
        }
    }

    fn peer_up(&mut self, peer: NodeId) {
        tracing::info!(peer = %peer.short(), "peer up");
        let address = self.peers.get(&peer).and_then(|known| known.address);
        self.config.shared.peers().insert(peer, PeerEntry { address, advert: None });
        self.post(MeshEvent::PeerUp(peer));
        self.adverts.want();
        let now = Instant::now();
        self.routing = self.routing.min(now + ROUTING_DELAY);
        self.announce.get_or_insert(now + ANNOUNCE_DELAY);
        self.located(peer);
    }

    fn peer_down(&mut self, peer: NodeId) {
        tracing::info!(peer = %peer.short(), "peer down");
        self.config.shared.peers().remove(&peer);
        self.outbox.retain(|event| !matches!(event, MeshEvent::Advert(other, _) if *other == peer));
        self.post(MeshEvent::PeerDown(peer));
        self.config.wanted.send_modify(|wanted| {
            wanted.remove(&peer);
        });
        if let Some(id) = keys::peer_id(&peer) {
            self.config.swarm.behaviour_mut().kad.remove_peer(&id);
        }
    }

    /// Tells the data plane and Kademlia where a connected peer can be dialled.
    fn located(&mut self, peer: NodeId) {
        let mut addresses: Vec<SocketAddr> =
            self.peers.get(&peer).and_then(|p| p.address).into_iter().collect();
        for address in self.membership.peer(&peer).map(|view| view.addresses).unwrap_or_default() {
            if !addresses.contains(address) && addresses.len() < PEER_ADDRESSES_MAX {
                addresses.push(*address);
            }
        }
        if let (Some(id), Some(first)) = (keys::peer_id(&peer), addresses.first()) {
            self.config.swarm.behaviour_mut().kad.add_address(&id, keys::multiaddr(*first));
        }
        self.config.wanted.send_if_modified(|wanted| {
            wanted.get(&peer) != Some(&addresses) && {
                wanted.insert(peer, addresses);
                true
            }
        });
    }

    /// Closes all connections to the peer. The swarm may take long to let go of a dead one, so they count as closed
    /// from now on.
    fn drop_peer(&mut self, peer: NodeId, reason: &str) {
        let Some(connections) = self.open.remove(&peer) else { return };
        tracing::debug!(?peer, reason, "dropping");
        for connection in connections {
            self.config.swarm.close_connection(connection);
        }
        self.peers.remove(&peer);
        self.tell(Member::Disconnected { peer });
    }
}

/// Returns when the mesh is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn next_found(discovery: &mut Option<mpsc::Receiver<Found>>) -> Option<Found> {
    match discovery {
        Some(found) => found.recv().await,
        None => std::future::pending().await,
    }
}
