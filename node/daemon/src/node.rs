//! One node: its parts, its offer to the mesh, and what it answers to its peers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barn_cache::Store;
use barn_mesh::{
    Mesh, RecvStream, RosterCell, SendStream,
    limits::BULK_PRIORITY,
    stream::{StreamError, write_frame},
};
use barn_protocol::{
    NodeId,
    advert::Advert,
    prefetch::BuildName,
    roster::Member,
    wire::{BuildReply, Request},
};
use tokio::sync::Notify;

use crate::{
    enrol::unix_now_s,
    history::History,
    http_cache::Endpoint,
    offers::Offers,
    office_cache::OfficeCache,
    prefetch::Warmer,
    requester::{Requester, recollection::Recollection},
    setup::Setup,
    stats::Stats,
    worker::{self, Worker},
};

/// A running node.
pub struct Node {
    /// Settings and places.
    pub setup: Setup,
    /// This node's id.
    pub id: NodeId,
    /// The roster in force.
    pub roster: RosterCell,
    /// The network.
    pub mesh: Mesh,
    /// The store.
    pub store: Store,
    /// The counters.
    pub stats: Arc<Stats>,
    /// What `barn explain` tells.
    pub history: Arc<History>,
    /// This machine's own compiles.
    pub requester: Arc<Requester>,
    /// What is known of files, and outlives the node.
    pub(crate) recollection: Arc<Recollection>,
    /// The compiles of others.
    pub worker: Worker,
    /// Where other tools' caches come, or why they cannot; `None` unless configured.
    pub(crate) http_cache: Option<Result<Endpoint, String>>,
    /// The toolchains it serves.
    pub(crate) offers: Offers,
    /// Its part of the office's cache.
    pub(crate) office: Arc<OfficeCache>,
    /// What fetches what a build needs.
    pub(crate) warmer: Warmer,
    /// This run of it.
    pub(crate) life: Life,
}

/// One run of a node, from its start to its stop.
pub(crate) struct Life {
    started_unix_s: u64,
    adverts: AtomicU64,
    stopping: Notify,
}

impl Life {
    /// A run that starts now.
    pub(crate) fn begin() -> Self {
        Self { started_unix_s: unix_now_s(), adverts: AtomicU64::new(0), stopping: Notify::new() }
    }
}

/// The cores this process may use: what the quota of its cgroup leaves.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

impl Node {
    /// Tells the daemon to end.
    pub fn stop(&self) {
        self.life.stopping.notify_one();
    }

    /// Resolves when the node has been told to end.
    pub(crate) async fn stopped(&self) {
        self.life.stopping.notified().await;
    }

    /// The member with this id, if it is one.
    pub fn member(&self, id: &NodeId) -> Option<Member> {
        self.roster.current().and_then(|roster| roster.roster().member(id).cloned())
    }

    /// What to call a peer.
    pub fn name_of(&self, id: &NodeId) -> String {
        self.member(id).map_or_else(|| id.short(), |member| member.name)
    }

    /// Tells the mesh what this machine offers now.
    pub(crate) fn advertise(&self) {
        if self.roster.current().is_none() {
            return;
        }
        let toolchains: Vec<_> = self.worker.shelf.list().into_iter().map(|(digest, _)| digest).collect();
        for digest in &toolchains {
            self.mesh.provide(*digest);
        }
        self.mesh.set_advert(Advert {
            sequence: self.life.adverts.fetch_add(1, Ordering::Relaxed),
            started_unix_s: self.life.started_unix_s,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: std::env::consts::ARCH.to_owned(),
            cores: cores(),
            slots: self.worker.slots(),
            free: self.worker.free(),
            queued: self.worker.queued(),
            queue_max: self.worker.queue_max(),
            toolchains,
        });
    }

    /// What this machine recorded of a build, what is just being kept included.
    async fn build_list(&self, name: BuildName) -> BuildReply {
        if !self.setup.config.cache.share.writes() {
            return BuildReply::Unknown;
        }
        self.requester.keeper.settle_all().await;
        let builds = self.requester.builds.clone();
        let listed = tokio::task::spawn_blocking(move || builds.list(&name)).await;
        listed.ok().flatten().map_or(BuildReply::Unknown, BuildReply::Recorded)
    }

    /// Serves one stream of a peer.
    pub(crate) async fn serve(
        &self,
        peer: NodeId,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        // The verifier let only members in, but the roster may have changed since.
        let Some(member) = self.member(&peer) else { return Ok(()) };
        match worker::read_request(&mut recv).await? {
            Request::Run(run) => {
                let epoch = self.roster.epoch();
                self.worker.serve(&self.mesh, &member, epoch, *run, &mut send, &mut recv).await?;
            }
            Request::Toolchain(digest) => self.offers.describe(digest, &mut send).await?,
            Request::Swarm(digest) => self.offers.swarm(peer, digest, &mut send).await?,
            Request::Pieces(digest) => self.offers.pieces(peer, digest, &mut send, &mut recv).await?,
            Request::Toolchains => self.offers.list(&mut send).await?,
            Request::Entries(gets) => self.office.answer(peer, gets, &mut send).await?,
            Request::Tell(puts) => self.office.hear(peer, puts).await,
            Request::Outputs { action, blobs } => self.office.give(peer, action, blobs, &mut send).await?,
            Request::Build(name) => write_frame(&mut send, &self.build_list(name).await).await?,
            Request::Records(keys) => self.office.records(keys, &mut send).await?,
            Request::Prefetch { action, blobs } => {
                // A stream that is gone is noticed below.
                let _ = send.set_priority(BULK_PRIORITY);
                self.office.give(peer, action, blobs, &mut send).await?;
            }
        }
        // Whatever is left unsent goes on in the background.
        let _ = send.finish();
        let _ = tokio::time::timeout(Duration::from_secs(30), send.stopped()).await;
        Ok(())
    }
}
