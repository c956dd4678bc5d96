//! One transfer: events of its sources in, asks out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use barn_mesh::Mesh;
use barn_protocol::{
    NodeId, Toolchain,
    transfer::{PieceMap, PieceValue, PieceValues, Swarm, limits},
    wire::SwarmNews,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    FetchError, Fetcher, Transfer,
    live::{Live, Progress},
    source::{self, Event},
};
use crate::worker::adopt;

/// Events of sources not yet taken; pieces are on disk by then.
const EVENTS_MAX: usize = 64;
/// How long a transfer goes on without anything coming.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// When the DHT is asked, too: by then whoever is near has answered.
const SEARCH_AFTER: Duration = Duration::from_secs(2);
/// A member that failed is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often a transfer says in the log how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Fetches what is missing of a toolchain and puts it on the shelf.
pub(super) async fn run(
    fetcher: &Fetcher,
    mesh: &Mesh,
    transfer: &Arc<Transfer>,
    spared: Option<NodeId>,
) -> Result<(), FetchError> {
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let mut drive = Drive {
        fetcher,
        mesh,
        transfer,
        spared,
        sender,
        began: Instant::now(),
        last_came: Instant::now(),
        told: Instant::now(),
        searched: false,
        sources: BTreeMap::new(),
        failed: BTreeMap::new(),
        tasks: JoinSet::new(),
        stores: JoinSet::new(),
        unfinished: BTreeSet::new(),
        going: None,
    };
    drive.connect(transfer.from);
    let mut tick = tokio::time::interval(limits::TICK);
    while !drive.is_done() {
        tokio::select! {
            Some(event) = events.recv() => drive.apply(event).await?,
            Some(stored) = drive.stores.join_next() => {
                stored.map_err(std::io::Error::other)??;
            }
            _ = tick.tick() => drive.tick()?,
        }
        drive.ask();
    }
    let toolchain = drive.going.as_ref().expect("a done transfer has begun").live.toolchain.clone();
    let shelf = fetcher.shelf.clone();
    let put = tokio::task::spawn_blocking(move || shelf.put((*toolchain).clone()));
    put.await.map_err(std::io::Error::other)??;
    Ok(())
}

struct Drive<'a> {
    fetcher: &'a Fetcher,
    mesh: &'a Mesh,
    transfer: &'a Arc<Transfer>,
    spared: Option<NodeId>,
    sender: mpsc::Sender<Event>,
    began: Instant,
    last_came: Instant,
    told: Instant,
    searched: bool,
    sources: BTreeMap<NodeId, Source>,
    failed: BTreeMap<NodeId, Instant>,
    /// What talks to sources; dropped, it ends.
    tasks: JoinSet<()>,
    /// Blobs on their way into the store.
    stores: JoinSet<std::io::Result<()>>,
    /// Blobs that are not in the store and not on their way there.
    unfinished: BTreeSet<usize>,
    going: Option<Going>,
}

/// What there is once a source has described the toolchain.
struct Going {
    live: Arc<Live>,
    swarm: Swarm,
}

/// A member that is talked to.
struct Source {
    tasks: Vec<AbortHandle>,
    asks: Option<mpsc::UnboundedSender<Vec<u32>>>,
    news: Option<SwarmNews>,
}

impl Drive<'_> {
    fn is_done(&self) -> bool {
        let whole = self.going.as_ref().is_some_and(|going| going.swarm.is_done());
        whole && self.unfinished.is_empty() && self.stores.is_empty()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Begins to talk to a member, if there is room for it and it did not fail just now.
    fn connect(&mut self, peer: NodeId) {
        let failed = self.failed.get(&peer).is_some_and(|since| since.elapsed() < RETRY_AFTER);
        let wanted = self.going.as_ref().is_none_or(|going| going.swarm.wants_source(&peer));
        if failed || !wanted || self.sources.contains_key(&peer) || self.sources.len() >= limits::SOURCES_MAX
        {
            return;
        }
        let listen = source::listen(self.mesh.clone(), peer, self.transfer.toolchain, self.sender.clone());
        let tasks = vec![self.tasks.spawn(listen)];
        self.sources.insert(peer, Source { tasks, asks: None, news: None });
    }

    fn disconnect(&mut self, peer: &NodeId) {
        if let Some(source) = self.sources.remove(peer) {
            source.tasks.iter().for_each(AbortHandle::abort);
        }
        self.failed.insert(*peer, Instant::now());
        if let Some(going) = &mut self.going {
            going.swarm.source_down(peer);
        }
    }

    async fn apply(&mut self, event: Event) -> Result<(), FetchError> {
        let now = self.now();
        match event {
            Event::Hello(peer, toolchain, values) => self.hello(peer, *toolchain, values).await?,
            Event::News(peer, news) => self.news(peer, news),
            Event::Piece(peer, piece, good) => self.piece(now, peer, piece, good),
            Event::Absent(peer, piece) => self.with_swarm(|swarm| swarm.absent(now, &peer, piece)),
            Event::Busy(peer, piece) => self.with_swarm(|swarm| swarm.busy(now, &peer, piece)),
            Event::Lost(peer, error) => {
                let (peer_shown, error) = (peer.short(), &error as &dyn std::error::Error);
                tracing::debug!(peer = peer_shown, error, "a member gives no more of a toolchain");
                self.disconnect(&peer);
            }
            Event::Disk(error) => return Err(error.into()),
            Event::Providers(peers) => peers.into_iter().for_each(|peer| self.connect(peer)),
        }
        Ok(())
    }

    fn with_swarm(&mut self, change: impl FnOnce(&mut Swarm)) {
        if let Some(going) = &mut self.going {
            change(&mut going.swarm);
        }
    }

    /// The first description begins the transfer; all are the same, since their digest is.
    async fn hello(
        &mut self,
        peer: NodeId,
        toolchain: Toolchain,
        values: Vec<PieceValue>,
    ) -> Result<(), FetchError> {
        if self.going.is_none() {
            match PieceValues::verified(&PieceMap::of(&toolchain), values) {
                Ok(values) => self.begin(toolchain, values).await?,
                Err(blob) => {
                    tracing::warn!(peer = peer.short(), %blob, "a member sent wrong values of a toolchain's pieces");
                    self.disconnect(&peer);
                }
            }
        }
        let (Some(going), Some(source)) = (&mut self.going, self.sources.get_mut(&peer)) else {
            return Ok(());
        };
        going.swarm.source_up(self.began.elapsed(), peer, self.spared == Some(peer));
        let (asks, asked) = mpsc::unbounded_channel();
        source.asks = Some(asks);
        let (mesh, sender) = (self.mesh.clone(), self.sender.clone());
        let carry = source::carry(mesh, peer, self.transfer.toolchain, going.live.clone(), asked, sender);
        source.tasks.push(self.tasks.spawn(carry));
        if let Some(news) = source.news.take() {
            self.news(peer, news);
        }
        Ok(())
    }

    async fn begin(&mut self, toolchain: Toolchain, values: PieceValues) -> Result<(), FetchError> {
        let Fetcher { shelf, adopter, incoming, .. } = self.fetcher;
        shelf.pin(&toolchain);
        let (store, adopter, incoming) = (shelf.store().clone(), adopter.clone(), incoming.clone());
        let open = tokio::task::spawn_blocking(move || {
            let adopt::Taken { files, bytes } = adopter.take_over(&toolchain, &store);
            tracing::info!(files, bytes, "took files of this machine for a toolchain");
            Live::open(toolchain, values, store, &incoming)
        });
        let live = Arc::new(open.await.map_err(std::io::Error::other)??);
        self.unfinished = live.unfinished().into_iter().collect();
        let here = live.progress.borrow().have.clone();
        let swarm = Swarm::new(&live.map, here, rand::random());
        let total = self.unfinished.iter().map(|blob| live.map.blobs()[*blob].1).sum();
        self.transfer.set_progress(total, swarm.missing_bytes());
        let _ = self.transfer.live.set(live.clone());
        self.going = Some(Going { live, swarm });
        for blob in self.unfinished.clone() {
            self.store_if_whole(blob);
        }
        Ok(())
    }

    fn news(&mut self, peer: NodeId, news: SwarmNews) {
        let now = self.now();
        news.others.iter().take(limits::SOURCES_MAX).for_each(|other| self.connect(*other));
        let Some(source) = self.sources.get_mut(&peer) else { return };
        match &mut self.going {
            Some(going) if source.asks.is_some() => {
                going.swarm.source_has(now, &peer, news.have, news.coming);
            }
            _ => source.news = Some(news),
        }
    }

    fn piece(&mut self, now: Duration, peer: NodeId, piece: u32, good: bool) {
        let Some(going) = &mut self.going else { return };
        if !going.swarm.arrived(now, &peer, piece, good) {
            let toolchain = self.transfer.toolchain;
            tracing::warn!(peer = peer.short(), %toolchain, piece, "a member sent a bad piece; it is not asked again");
            self.disconnect(&peer);
            return;
        }
        self.last_came = Instant::now();
        let (total, missing) = (self.transfer.progress().1, going.swarm.missing_bytes());
        self.transfer.set_progress(total, missing);
        if let Some(place) = going.live.map.place(piece) {
            self.store_if_whole(place.blob);
        }
    }

    fn store_if_whole(&mut self, blob: usize) {
        let Some(going) = &self.going else { return };
        let whole = going.live.map.pieces(blob).all(|piece| going.swarm.here().contains(piece));
        if whole && self.unfinished.remove(&blob) {
            let live = going.live.clone();
            self.stores.spawn_blocking(move || live.finish(blob));
        }
    }

    /// Looks at the clock: members that are silent, members that are new, and whether to give up.
    fn tick(&mut self) -> Result<(), FetchError> {
        let now = self.now();
        let dead = self.going.as_mut().map(|going| going.swarm.drop_dead(now)).unwrap_or_default();
        dead.iter().for_each(|peer| self.disconnect(peer));
        while self.tasks.try_join_next().is_some() {}
        self.tell();
        if self.sources.len() < limits::SOURCES_MAX {
            for peer in self.mesh.peers().into_iter().filter(|peer| peer.connected) {
                let lists =
                    |a: &barn_protocol::advert::Advert| a.toolchains.contains(&self.transfer.toolchain);
                if peer.advert.as_ref().is_some_and(lists) {
                    self.connect(peer.id);
                }
            }
        }
        if !self.searched && (self.sources.is_empty() || self.last_came.elapsed() > SEARCH_AFTER) {
            self.search();
        }
        let alone = self.sources.is_empty() && now > SEARCH_AFTER + RETRY_AFTER;
        if alone || self.last_came.elapsed() > IDLE_MAX { Err(FetchError::NoSource) } else { Ok(()) }
    }

    fn search(&mut self) {
        self.searched = true;
        let (mesh, sender, digest) = (self.mesh.clone(), self.sender.clone(), self.transfer.toolchain);
        self.tasks.spawn(async move {
            let _ = sender.send(Event::Providers(mesh.providers(digest).await)).await;
        });
    }

    /// Sends what is to be asked, and tells those who fetch from here.
    fn ask(&mut self) {
        let now = self.now();
        let Some(going) = &mut self.going else { return };
        for ask in going.swarm.asks(now) {
            if let Some(asks) = self.sources.get(&ask.source).and_then(|source| source.asks.as_ref()) {
                // A task that ended is an event of its own.
                let _ = asks.send(ask.pieces);
            }
        }
        let progress = Progress { have: going.swarm.here().clone(), coming: going.swarm.coming() };
        going.live.progress.send_if_modified(|current| {
            let news = *current != progress;
            *current = progress;
            news
        });
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (done, total) = self.transfer.progress();
            let (done_mib, total_mib, sources) = (done >> 20, total >> 20, self.sources.len());
            tracing::info!(toolchain = %self.transfer.toolchain, done_mib, total_mib, sources, "fetching a toolchain");
        }
    }
}
