//! Whom to ask for which piece.
//!
//! ```text
//!             asks()                    arrived(good)
//!  missing ───────────▶ asked of one ─────────────────▶ here
//!     ▲                   │   │  silent for SILENT_MAX, or the last few: asked of a second one too
//!     └───────────────────┘   └──────────────▶ asked of two
//!       refused, bad, or the source is gone
//! ```
//!
//! Rarest first: of the pieces a source has, the one fewest others have or await; ties are broken by a shuffle of
//! each node's own. So cold workers that start together take different pieces from the one source there is, and
//! have something for each other at once. The member that wants the compile is *spared*: it is asked only for what
//! no other live source has or is about to have. That alone keeps its uplink near one copy.
//!
//! Time is what has passed since any fixed instant. Nothing here waits: the driver calls [`Swarm::asks`] after every
//! event and every [`limits::TICK`].

use std::{collections::BTreeMap, time::Duration};

use super::{PieceMap, PieceSet};
use crate::{identity::NodeId, random::Random};

/// The limits of a transfer.
pub mod limits {
    use std::time::Duration;

    /// Members asked by one transfer. More links than that do not make it faster.
    pub const SOURCES_MAX: usize = 16;
    /// Bytes asked of one source and not yet here: enough to hide the round trip, little enough to be given to
    /// another when the source turns out slow.
    pub const SOURCE_BYTES_MAX: u64 = 3 << 20;
    /// Bytes asked of all sources and not yet here, at first: two sources' worth.
    pub const WINDOW_BYTES_START: u64 = 6 << 20;
    /// Likewise at least, however slow the link is: four pieces.
    pub const WINDOW_BYTES_MIN: u64 = 4 << 20;
    /// Likewise at most; it bounds memory, too.
    pub const WINDOW_BYTES_MAX: u64 = 32 << 20;
    /// How often the window is set to twice what came in that time. On a slow link many pieces at once would each take
    /// so long that all sources seem silent.
    pub const WINDOW_EPOCH: Duration = Duration::from_secs(1);
    /// Pieces asked of one source and not yet here; most are far smaller than a full one.
    pub const SOURCE_PIECES_MAX: usize = 32;
    /// A source that delivers nothing for so long is not relied on: what it was asked for is asked elsewhere too.
    pub const SILENT_MAX: Duration = Duration::from_secs(3);
    /// A source that delivers nothing for so long is given up.
    pub const DEAD_AFTER: Duration = Duration::from_secs(20);
    /// How long others leave a piece to a source that awaits it.
    pub const COMING_MAX: Duration = Duration::from_secs(1);
    /// How long a source that is busy is left alone.
    pub const BUSY_PAUSE: Duration = Duration::from_millis(200);
    /// When no more than this is missing, pieces are asked of a second source…
    pub const ENDGAME_PIECES: u32 = 4;
    /// … if they have been on their way for this long.
    pub const ENDGAME_AFTER: Duration = Duration::from_millis(500);
    /// Sources asked for one piece at a time.
    pub const COPIES_MAX: usize = 2;
    /// How often a transfer looks at its clock.
    pub const TICK: Duration = Duration::from_millis(100);
}

/// Pieces to ask of a source, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Whom.
    pub source: NodeId,
    /// For what.
    pub pieces: Vec<u32>,
}

/// One transfer.
#[derive(Debug)]
pub struct Swarm {
    sizes: Vec<u64>,
    /// A shuffle of the pieces that breaks ties.
    rank: Vec<u64>,
    here: PieceSet,
    missing: u32,
    /// Who has been asked, and when first.
    asked: BTreeMap<u32, Asked>,
    sources: BTreeMap<NodeId, Source>,
    /// Who sent a bad piece; not asked again.
    liars: Vec<NodeId>,
    window: Window,
    random: Random,
}

/// How many bytes may be on their way.
#[derive(Debug)]
struct Window {
    bytes_max: u64,
    in_flight: u64,
    epoch: Duration,
    arrived: u64,
}

#[derive(Debug)]
struct Asked {
    since: Duration,
    of: Vec<NodeId>,
}

struct Wanted {
    piece: u32,
    holders: usize,
}

#[derive(Debug)]
struct Source {
    have: PieceSet,
    /// Since when it has been awaiting pieces.
    coming: BTreeMap<u32, Duration>,
    spared: bool,
    in_flight: Vec<u32>,
    bytes_in_flight: u64,
    /// When it last delivered, told of something new, or was first asked after idling.
    heard: Duration,
    resting_until: Duration,
}

impl Swarm {
    /// A transfer of what `here` lacks of `map`.
    pub fn new(map: &PieceMap, here: PieceSet, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let places = (0..map.len()).filter_map(|piece| map.place(piece));
        Self {
            sizes: places.map(|place| place.bytes).collect(),
            rank: (0..map.len()).map(|_| random.next()).collect(),
            missing: map.len() - here.len(),
            here,
            asked: BTreeMap::new(),
            sources: BTreeMap::new(),
            liars: Vec::new(),
            window: Window {
                bytes_max: limits::WINDOW_BYTES_START,
                in_flight: 0,
                epoch: Duration::ZERO,
                arrived: 0,
            },
            random,
        }
    }

    /// Whether every piece is here.
    pub fn is_done(&self) -> bool {
        self.missing == 0
    }

    /// What is here.
    pub fn here(&self) -> &PieceSet {
        &self.here
    }

    /// What was asked for and is not here yet.
    pub fn coming(&self) -> PieceSet {
        let mut set = PieceSet::none(self.pieces());
        self.asked.keys().for_each(|piece| set.insert(*piece));
        set
    }

    /// Bytes that are not here yet.
    pub fn missing_bytes(&self) -> u64 {
        let missing = (0..self.pieces()).filter(|piece| !self.here.contains(*piece));
        missing.map(|piece| self.sizes[piece as usize]).sum()
    }

    /// Whether this member may become a source: there is room, and it never lied.
    pub fn wants_source(&self, id: &NodeId) -> bool {
        self.sources.len() < limits::SOURCES_MAX && !self.sources.contains_key(id) && !self.liars.contains(id)
    }

    /// A member can be asked from now on. `spared` means: only for what nobody else has. Nothing happens when it
    /// is not wanted.
    pub fn source_up(&mut self, now: Duration, id: NodeId, spared: bool) {
        if self.wants_source(&id) {
            let source = Source {
                have: PieceSet::none(self.pieces()),
                coming: BTreeMap::new(),
                spared,
                in_flight: Vec::new(),
                bytes_in_flight: 0,
                heard: now,
                resting_until: now,
            };
            self.sources.insert(id, source);
        }
    }

    /// A source has told what it has and what it awaits. Sets of another size are ignored.
    pub fn source_has(&mut self, now: Duration, id: &NodeId, have: PieceSet, coming: PieceSet) {
        let pieces = self.pieces();
        let Some(source) = self.sources.get_mut(id) else { return };
        if have.is_of(pieces) && coming.is_of(pieces) {
            if source.have != have && source.in_flight.is_empty() {
                source.heard = now;
            }
            source.have = have;
            let awaited = (0..pieces).filter(|piece| coming.contains(*piece));
            let since = |piece: u32| (piece, source.coming.get(&piece).copied().unwrap_or(now));
            source.coming = awaited.map(since).collect();
        }
    }

    /// A source is gone.
    pub fn source_down(&mut self, id: &NodeId) {
        if let Some(source) = self.sources.remove(id) {
            self.window.in_flight -= source.bytes_in_flight;
            source.in_flight.iter().for_each(|piece| self.unask(*piece, id));
        }
    }

    /// How many sources there are.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// A piece has come from `id`. A bad one ends its sender's part: `false` means that it lied.
    pub fn arrived(&mut self, now: Duration, id: &NodeId, piece: u32, good: bool) -> bool {
        self.settle(now, id, piece);
        if !good {
            self.liars.push(*id);
            self.source_down(id);
            return false;
        }
        if piece < self.pieces() && !self.here.contains(piece) {
            self.here.insert(piece);
            self.window.arrived(self.sizes[piece as usize]);
            self.missing -= 1;
            self.asked.remove(&piece);
        }
        true
    }

    /// A source does not have a piece after all.
    pub fn absent(&mut self, now: Duration, id: &NodeId, piece: u32) {
        self.settle(now, id, piece);
        if let Some(source) = self.sources.get_mut(id) {
            source.have.remove(piece);
        }
    }

    /// A source serves others just now.
    pub fn busy(&mut self, now: Duration, id: &NodeId, piece: u32) {
        self.settle(now, id, piece);
        let pause = limits::BUSY_PAUSE.mul_f64(self.random.between(0.5, 1.5));
        if let Some(source) = self.sources.get_mut(id) {
            source.resting_until = now + pause;
        }
    }

    /// Sources that have been silent for too long; they are gone from now on.
    pub fn drop_dead(&mut self, now: Duration) -> Vec<NodeId> {
        let dead = |source: &Source| !source.in_flight.is_empty() && now >= source.heard + limits::DEAD_AFTER;
        let dead: Vec<NodeId> = self.sources.iter().filter(|(_, s)| dead(s)).map(|(id, _)| *id).collect();
        dead.iter().for_each(|id| self.source_down(id));
        dead
    }

    /// What to ask now.
    pub fn asks(&mut self, now: Duration) -> Vec<Ask> {
        self.window.turn(now);
        let mut asks: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        let mut order = self.askable(now);
        let mut wanted = self.wanted(now);
        // One piece of each source in turn, so that the first does not get them all.
        while !order.is_empty() && !wanted.is_empty() {
            order.retain(|(_, _, id)| {
                let Some(at) = self.best_for(now, id, &wanted) else { return false };
                let piece = wanted[at].piece;
                self.ask(now, id, piece);
                asks.entry(*id).or_default().push(piece);
                if self.asked[&piece].of.len() >= limits::COPIES_MAX || !self.may_ask_again(now, piece) {
                    wanted.swap_remove(at);
                }
                true
            });
        }
        asks.into_iter().map(|(source, pieces)| Ask { source, pieces }).collect()
    }

    fn pieces(&self) -> u32 {
        u32::try_from(self.sizes.len()).expect("pieces are counted in 32 bits")
    }

    /// The sources with room, spared ones last, else in random order.
    fn askable(&mut self, now: Duration) -> Vec<(bool, u64, NodeId)> {
        let with_room = self.sources.iter().filter(|(_, source)| source.has_room(now));
        let mut order: Vec<_> =
            with_room.map(|(id, source)| (source.spared, self.random.next(), *id)).collect();
        order.sort_unstable();
        order
    }

    /// The pieces that may be asked of somebody, with the number of live sources that have or await them.
    fn wanted(&self, now: Duration) -> Vec<Wanted> {
        let missing = (0..self.pieces()).filter(|piece| !self.here.contains(*piece));
        let open = missing.filter(|piece| !self.asked.contains_key(piece) || self.may_ask_again(now, *piece));
        let mut wanted: Vec<Wanted> = open.map(|piece| Wanted { piece, holders: 0 }).collect();
        for source in self.sources.values().filter(|source| source.is_live(now)) {
            let held = wanted.iter_mut().filter(|wanted| source.holds(now, wanted.piece));
            held.for_each(|wanted| wanted.holders += 1);
        }
        wanted
    }

    /// Where in `wanted` the piece is that a source should be asked for now, if any.
    fn best_for(&self, now: Duration, id: &NodeId, wanted: &[Wanted]) -> Option<usize> {
        let source = self.sources.get(id).filter(|source| source.has_room(now))?;
        let counted = usize::from(source.is_live(now));
        let fits = |size: u64| {
            (source.in_flight.is_empty() || source.bytes_in_flight + size <= limits::SOURCE_BYTES_MAX)
                && self.window.has_room(size)
        };
        let fitting = wanted.iter().enumerate().filter(|(_, wanted)| {
            source.have.contains(wanted.piece)
                && fits(self.sizes[wanted.piece as usize])
                && self.may_ask(now, id, wanted.piece)
        });
        let rarest = fitting.min_by_key(|(_, wanted)| (wanted.holders, self.rank[wanted.piece as usize]));
        rarest.filter(|(_, wanted)| !source.spared || wanted.holders <= counted).map(|(at, _)| at)
    }

    /// Whether a piece may be asked of this source: nobody was asked, or those who were are slow.
    fn may_ask(&self, now: Duration, id: &NodeId, piece: u32) -> bool {
        let Some(asked) = self.asked.get(&piece) else { return true };
        !asked.of.contains(id) && self.may_ask_again(now, piece)
    }

    fn may_ask_again(&self, now: Duration, piece: u32) -> bool {
        let Some(asked) = self.asked.get(&piece) else { return true };
        if asked.of.len() >= limits::COPIES_MAX {
            return false;
        }
        let silent = asked.of.iter().all(|other| !self.is_live(now, other));
        let last = self.missing <= limits::ENDGAME_PIECES && now >= asked.since + limits::ENDGAME_AFTER;
        silent || last
    }

    fn is_live(&self, now: Duration, id: &NodeId) -> bool {
        self.sources.get(id).is_some_and(|source| source.is_live(now))
    }

    fn ask(&mut self, now: Duration, id: &NodeId, piece: u32) {
        let size = self.sizes[piece as usize];
        let source = self.sources.get_mut(id).expect("only a source is asked");
        if source.in_flight.is_empty() {
            source.heard = now;
        }
        source.in_flight.push(piece);
        source.bytes_in_flight += size;
        self.window.in_flight += size;
        self.asked.entry(piece).or_insert(Asked { since: now, of: Vec::new() }).of.push(*id);
    }

    /// An answer of any kind has come.
    fn settle(&mut self, now: Duration, id: &NodeId, piece: u32) {
        let Some(source) = self.sources.get_mut(id) else { return };
        source.heard = now;
        if let Some(at) = source.in_flight.iter().position(|other| *other == piece) {
            source.in_flight.swap_remove(at);
            source.bytes_in_flight -= self.sizes[piece as usize];
            self.window.in_flight -= self.sizes[piece as usize];
            self.unask(piece, id);
        }
    }

    fn unask(&mut self, piece: u32, id: &NodeId) {
        if let Some(asked) = self.asked.get_mut(&piece) {
            asked.of.retain(|other| other != id);
            if asked.of.is_empty() {
                self.asked.remove(&piece);
            }
        }
    }
}

impl Window {
    fn has_room(&self, bytes: u64) -> bool {
        self.in_flight == 0 || self.in_flight + bytes <= self.bytes_max
    }

    fn arrived(&mut self, bytes: u64) {
        self.arrived += bytes;
        self.bytes_max = (self.bytes_max + bytes).min(limits::WINDOW_BYTES_MAX);
    }

    fn turn(&mut self, now: Duration) {
        if now >= self.epoch + limits::WINDOW_EPOCH {
            if self.in_flight > 0 {
                self.bytes_max = (2 * self.arrived).clamp(limits::WINDOW_BYTES_MIN, limits::WINDOW_BYTES_MAX);
            }
            self.epoch = now;
            self.arrived = 0;
        }
    }
}

impl Source {
    /// Whether it has a piece or is about to.
    fn holds(&self, now: Duration, piece: u32) -> bool {
        let soon = |since: &Duration| now < *since + limits::COMING_MAX;
        self.have.contains(piece) || self.coming.get(&piece).is_some_and(soon)
    }

    fn has_room(&self, now: Duration) -> bool {
        self.in_flight.len() < limits::SOURCE_PIECES_MAX
            && self.bytes_in_flight < limits::SOURCE_BYTES_MAX
            && now >= self.resting_until
            && (self.in_flight.is_empty() || self.is_live(now))
    }

    /// Whether it can be relied on: it delivered lately. One that has nothing in flight and nothing new for long
    /// counts by what it has, unless it is only waiting itself.
    fn is_live(&self, now: Duration) -> bool {
        let waits = !self.in_flight.is_empty() || !self.coming.is_empty();
        !waits || now < self.heard + limits::SILENT_MAX
    }
}
