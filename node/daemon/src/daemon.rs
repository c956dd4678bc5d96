//! The daemon: a node put together, and the loop that listens to the mesh.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use barn_cache::{Limits, Store};
use barn_mesh::{Listen, Mesh, MeshConfig, MeshEvent, RosterCell};
use barn_protocol::roster::Member;
use tokio::sync::mpsc;

use crate::{
    config::{Config, PORT_DEFAULT},
    enrol::Doorkeeper,
    history::History,
    housekeeping,
    http_cache::Endpoint,
    node::{Life, Node, cores},
    offers::Offers,
    office_cache::{self, OfficeCache},
    prefetch::{Recorder, Warmer},
    requester::{
        Carrier, HeldManifests, Requester, Wording,
        dispatch::Dispatch,
        files::Files,
        inputs::{scan::IncludeScan, texts::Texts},
        recollection::Recollection,
        sight::Sight,
    },
    seeding::chain,
    session::Door,
    setup::Setup,
    stats::Stats,
    toolchain::{ToolchainIndex, locale::Locales, stand_in::StandIns},
    trust::Policy,
    worker::{self, Shelf, Worker},
};

/// How often counters, and lists of builds that changed, are written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How often what is known of files is written to disk, if more was read. It is also written at the end.
const RECORD_EVERY: Duration = Duration::from_secs(600);
/// How often the advert is renewed although nothing changed.
const ADVERTISE_EVERY: Duration = Duration::from_secs(5);
/// How often what is over a limit or too old is removed. Puts and actions do so as well; this is for quiet times.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How long the start waits for a store that was not closed in order. A small one is ready by then; with a large one
/// the node serves without it. Wrappers that wait for the node's socket give it a second.
const REBUILD_WAIT: Duration = Duration::from_millis(300);

/// A node that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory is at fault.
    #[error(transparent)]
    Home(#[from] crate::home::HomeError),
    /// The store cannot be opened; most often another node has it.
    #[error("cannot open the store")]
    Store(#[from] barn_cache::OpenError),
    /// The mesh cannot be started.
    #[error("cannot join the network")]
    Mesh(#[from] barn_mesh::StartError),
    /// The socket cannot be made.
    #[error("cannot listen at {path}")]
    Socket {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A signal handler cannot be set.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub async fn run(setup: Setup, peers: Vec<SocketAddr>) -> Result<(), NodeError> {
    let (node, mut events) = start(setup, peers).await?;
    let path = &node.setup.socket;
    let door = Door::open(path).map_err(|source| NodeError::Socket { path: path.clone(), source })?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(NodeError::Signals)?;
    tracing::info!(id = %node.id, version = env!("CARGO_PKG_VERSION"), socket = %path.display(), "the node runs");
    if let Some(why) = node.worker.refusal() {
        tracing::warn!("this machine runs nothing for others: {why}");
    }
    tokio::select! {
        () = door.serve(&node) => {}
        () = listen(&node, &mut events) => {}
        () = keep_advertising(&node) => {}
        () = keep_saving(&node) => {}
        () = keep_tidy(&node) => {}
        () = keep_recording(&node) => {}
        () = serve_others_tools(&node) => {}
        () = node.stopped() => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("the node stops");
    let _ = std::fs::remove_file(path);
    node.worker.close();
    node.requester.keeper.settle_all().await;
    node.stats.save();
    node.requester.builds.save();
    node.recollection.record(&node.setup.home);
    node.mesh.shutdown().await;
    Ok(())
}

async fn start(
    setup: Setup,
    peers: Vec<SocketAddr>,
) -> Result<(Arc<Node>, mpsc::Receiver<MeshEvent>), NodeError> {
    let identity = setup.home.identity()?;
    let limits = Limits::new(setup.config.cache_bytes_max());
    let store = Store::open_soon(&setup.home.cache_dir(), limits)?;
    if !store.wait_at_most(REBUILD_WAIT) {
        tracing::info!("the store's index is rebuilt; nothing is found in it until that is done");
    }
    let sandbox = tokio::task::spawn_blocking({
        let config = setup.config.clone();
        move || crate::containment::set_up(&config)
    });
    let roster = roster_cell(&setup)?;
    let (mesh, events) = Mesh::start(mesh_config(&setup, peers, &identity, &roster), roster.clone()).await?;
    let stats = Arc::new(Stats::open(setup.home.stats_path()));
    let history = Arc::new(History::default());
    let (files, sight) = (Arc::new(Files::default()), Arc::new(Sight::default()));
    let texts = Arc::new(Texts::default());
    let path = setup.home.recollection_path();
    let recollection = Arc::new(Recollection::new(path, files.clone(), texts.clone()));
    let index = Arc::new(ToolchainIndex::open(&setup.home.toolchains_dir()));
    let shelf = Arc::new(Shelf::open(setup.home.clone(), store.clone()));
    let stand_ins = Arc::new(StandIns::new(&setup.config.toolchain, shelf.clone()));
    let cores = cores();
    let worker = Worker::new(worker::Parts {
        identity: identity.clone(),
        store: store.clone(),
        stats: stats.clone(),
        shelf: shelf.clone(),
        home: setup.home.dir().to_owned(),
        sandbox: sandbox.await.unwrap_or_else(|_| Err("the self-test panicked".to_owned())),
        limits: crate::containment::limits(&setup.config),
        slots: setup.config.worker.slots.unwrap_or(cores),
        adopts: setup.config.worker.adopt_toolchains.unwrap_or(true),
    });
    let office = OfficeCache::start(office_cache::Parts {
        self_id: identity.id(),
        mesh: mesh.clone(),
        store: store.clone(),
        roster: roster.clone(),
        share: setup.config.cache.share,
        policy: Policy::of(setup.config.cache.trust.clone()),
        backlog: setup.home.backlog_path(),
    });
    let requester = Arc::new(Requester {
        identity: identity.clone(),
        roster: roster.clone(),
        store: store.clone(),
        mesh: mesh.clone(),
        carrier: Carrier::new(),
        office: office.clone(),
        dispatch: Dispatch::start(cores),
        toolchains: index.clone(),
        tools: Arc::default(),
        closures: Arc::default(),
        answers: Arc::default(),
        stand_ins: stand_ins.clone(),
        locales: Locales::default(),
        files: files.clone(),
        sight: sight.clone(),
        held: HeldManifests::default(),
        wording: Wording::default(),
        writers: Arc::default(),
        keeper: Arc::default(),
        builds: Arc::new(Recorder::open(identity.clone(), roster.clone(), setup.home.clone())),
        finder: IncludeScan::new(files, sight, texts, stats.clone(), cores as usize + 1),
        stats: stats.clone(),
        history: history.clone(),
    });
    let warmer = Warmer::new(requester.clone(), &setup.config);
    let (home, archives, recalled) = (setup.home.clone(), store.clone(), shelf.clone());
    // Compiles need not wait for any of it: they are local, and files are read, until it is done.
    tokio::task::spawn_blocking(move || {
        if archives.is_rebuilding() {
            archives.wait();
            recalled.recall();
        }
        stand_ins.read(&home, &archives);
    });
    let recalling = recollection.clone();
    tokio::task::spawn_blocking(move || recalling.recall());
    let http_cache = open_http_cache(&setup, &store).await;
    let node = Node {
        id: identity.id(),
        roster,
        mesh,
        offers: Offers::new(index, shelf, worker.fetcher.clone(), store.clone()),
        store,
        stats,
        history,
        requester,
        recollection,
        worker,
        http_cache,
        office,
        warmer,
        life: Life::begin(),
        setup,
    };
    Ok((Arc::new(node), events))
}

/// The endpoint, if one is configured. Whatever is wrong with it keeps nobody from compiling.
async fn open_http_cache(setup: &Setup, store: &Store) -> Option<Result<Endpoint, String>> {
    let address = setup.config.http_cache.listen?.get();
    let opened = Endpoint::open(address, &setup.home, store.clone()).await;
    Some(opened.map_err(|error| {
        let error = chain(&error);
        tracing::warn!("there is no HTTP cache endpoint: {error}");
        error
    }))
}

async fn serve_others_tools(node: &Node) {
    match &node.http_cache {
        Some(Ok(endpoint)) => endpoint.serve().await,
        _ => std::future::pending().await,
    }
}

fn roster_cell(setup: &Setup) -> Result<RosterCell, NodeError> {
    let home = setup.home.clone();
    let persist = move |roster: &_| home.keep_roster(roster).map_err(io::Error::other);
    Ok(RosterCell::new(setup.home.roster()?, persist))
}

fn mesh_config(
    setup: &Setup,
    mut peers: Vec<SocketAddr>,
    identity: &barn_protocol::Identity,
    roster: &RosterCell,
) -> MeshConfig {
    let Config { network, .. } = &setup.config;
    peers.extend(&network.peers);
    MeshConfig {
        identity: identity.clone(),
        listen: Listen {
            ip: None,
            port: network.port.unwrap_or(PORT_DEFAULT),
            fixed: network.port.is_some(),
        },
        peers,
        mdns: network.mdns,
        admitter: Doorkeeper::new(setup.home.clone(), roster.clone()),
    }
}

/// Applies what happens in the mesh, one event after the other.
async fn listen(node: &Arc<Node>, events: &mut mpsc::Receiver<MeshEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            MeshEvent::PeerUp(peer) => {
                tracing::info!(peer = node.name_of(&peer), "connected");
                node.office.peer_up(peer);
            }
            MeshEvent::PeerDown(peer) => {
                tracing::info!(peer = node.name_of(&peer), "disconnected");
                node.requester.dispatch.worker_lost(peer);
                node.office.peer_down(peer);
            }
            MeshEvent::Advert(peer, advert) => {
                let policy = node.office.policy();
                // What is not believed is not asked for either.
                let is_worker =
                    |member: &Member| member.capabilities.execute && policy.believes_worker(member);
                if node.member(&peer).as_ref().is_some_and(is_worker) {
                    let machines = node.requester.stand_ins.machines();
                    node.requester.dispatch.worker(peer, &advert, &machines);
                }
            }
            MeshEvent::RosterChanged => node.advertise(),
            MeshEvent::Incoming { peer, send, recv } => {
                let node = node.clone();
                tokio::spawn(async move {
                    if let Err(error) = node.serve(peer, send, recv).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(peer = node.name_of(&peer), error, "a request of a peer ended early");
                    }
                });
            }
        }
    }
}

async fn keep_advertising(node: &Node) {
    let mut changes = node.worker.changes();
    loop {
        node.advertise();
        let _ = tokio::time::timeout(ADVERTISE_EVERY, changes.changed()).await;
    }
}

async fn keep_saving(node: &Node) {
    let mut saved = node.stats.snapshot();
    loop {
        tokio::time::sleep(SAVE_EVERY).await;
        let builds = node.requester.builds.clone();
        // If it panics, it is tried again with the next turn.
        let _ = tokio::task::spawn_blocking(move || builds.save()).await;
        let now = node.stats.snapshot();
        if now != saved {
            node.stats.save();
            saved = now;
        }
    }
}

/// A turn does a bounded amount of work, off the threads that serve.
async fn keep_tidy(node: &Arc<Node>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let node = node.clone();
        let turn = move || {
            node.worker.tidy();
            housekeeping::name_toolchains(&node.store, &node.requester.toolchains);
            node.store.tidy()
        };
        match tokio::task::spawn_blocking(turn).await {
            Ok(report) if report.items > 0 => {
                tracing::info!(items = report.items, bytes = report.bytes, "evicted");
            }
            Ok(_) => {}
            Err(_) => tracing::warn!("a turn of tidying panicked"),
        }
    }
}

async fn keep_recording(node: &Arc<Node>) {
    let mut recorded = 0;
    loop {
        tokio::time::sleep(RECORD_EVERY).await;
        let reads = node.recollection.reads();
        if reads != recorded {
            let node = node.clone();
            // If it panics, it is tried again with the next read.
            let _ = tokio::task::spawn_blocking(move || node.recollection.record(&node.setup.home)).await;
            recorded = reads;
        }
    }
}
