//! Serving toolchains to members that lack them.
//!
//! Only the parts of toolchains are served, whatever else the store holds: no member can read a colleague's
//! sources or objects by guessing digests. What is still coming is served as far as it has come. Pieces go at a low
//! priority: actions on the same link do not wait for them.

mod stock;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barn_cache::Store;
use barn_mesh::{
    RecvStream, SendStream,
    limits::BULK_PRIORITY,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Digest, NodeId,
    transfer::{Gate, limits::SOURCES_MAX},
    wire::{Offered, PieceAsk, PieceReply, SwarmNews, SwarmReply, ToolchainReply},
};
use stock::{Stock, Whole};
use tokio::sync::{OnceCell, watch};

use crate::{
    toolchain::ToolchainIndex,
    worker::{Fetcher, Shelf},
};

/// Toolchains whose values are remembered; an office uses a few.
const WHOLE_MAX: usize = 16;
/// Pieces in one ask; the asker's own limit is lower.
const ASK_PIECES_MAX: usize = 1024;
/// News are told at least so often, so that the other side knows that this one lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// News are told at most so often: pieces come every few milliseconds.
const NEWS_PAUSE: Duration = Duration::from_millis(10);
/// How long an asker may ask for nothing; a transfer takes less, or has given up.
const ASK_MAX: Duration = Duration::from_secs(600);
/// The level at which a gigabit link is the slower half.
const ZSTD_LEVEL: i32 = 1;

/// Who fetches which toolchain from here.
type Audience = HashMap<Digest, BTreeSet<NodeId>>;

/// What this machine can serve: the compilers installed here, the toolchains it fetched, and those it is fetching.
pub(crate) struct Offers {
    index: Arc<ToolchainIndex>,
    shelf: Arc<Shelf>,
    fetcher: Arc<Fetcher>,
    store: Store,
    whole: Mutex<HashMap<Digest, Arc<OnceCell<Arc<Whole>>>>>,
    audience: watch::Sender<Audience>,
    gate: Mutex<Gate>,
    began: Instant,
}

/// A member in the audience; dropped, it has left.
struct Seat<'a> {
    offers: &'a Offers,
    toolchain: Digest,
    peer: NodeId,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.offers.audience.send_modify(|audience| {
            if let Some(peers) = audience.get_mut(&self.toolchain) {
                peers.remove(&self.peer);
            }
            audience.retain(|_, peers| !peers.is_empty());
        });
    }
}

impl Offers {
    /// Serves what `index` and `shelf` know, and what `fetcher` has so far.
    pub(crate) fn new(
        index: Arc<ToolchainIndex>,
        shelf: Arc<Shelf>,
        fetcher: Arc<Fetcher>,
        store: Store,
    ) -> Self {
        Self {
            index,
            shelf,
            fetcher,
            store,
            whole: Mutex::default(),
            audience: watch::channel(Audience::new()).0,
            gate: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Answers a request for a toolchain's description.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn describe(&self, digest: Digest, send: &mut SendStream) -> Result<(), StreamError> {
        let installed = self.index.by_digest(&digest).map(|known| known.toolchain.clone());
        let found = installed.or_else(|| self.shelf.get(&digest).map(|toolchain| (*toolchain).clone()));
        let reply = found.map_or(ToolchainReply::NotFound, ToolchainReply::Found);
        write_frame(send, &reply).await
    }

    /// Says which toolchains are here whole.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn list(&self, send: &mut SendStream) -> Result<(), StreamError> {
        let offered = |digest: Digest, toolchain: &barn_protocol::Toolchain| Offered {
            digest,
            name: toolchain.name.clone(),
            machine: toolchain.machine.clone(),
            bytes: toolchain.tree.file_bytes(),
        };
        let installed = self.index.list();
        let mut all: Vec<Offered> =
            installed.iter().map(|known| offered(known.digest, &known.toolchain)).collect();
        for (digest, toolchain) in self.shelf.list() {
            if !all.iter().any(|other| other.digest == digest) {
                all.push(offered(digest, &toolchain));
            }
        }
        write_frame(send, &all).await
    }

    /// Tells `peer` which pieces of a toolchain are here, until it has heard enough.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn swarm(
        &self,
        peer: NodeId,
        toolchain: Digest,
        send: &mut SendStream,
    ) -> Result<(), StreamError> {
        let Some(stock) = self.stock(toolchain).await else {
            return write_frame(send, &SwarmReply::NotFound).await;
        };
        let (description, values) = (Box::new(stock.toolchain().clone()), stock.values().to_vec());
        write_frame(send, &SwarmReply::Found { toolchain: description, values }).await?;
        self.audience.send_modify(|audience| {
            audience.entry(toolchain).or_default().insert(peer);
        });
        let _seat = Seat { offers: self, toolchain, peer };
        let mut audience = self.audience.subscribe();
        let mut progress = stock.progress();
        let mut told = None;
        loop {
            let others = others_for(audience.borrow_and_update().get(&toolchain), &peer);
            let (have, coming) = stock.news(&mut progress);
            let news = SwarmNews { have, coming, others };
            let due = told
                .as_ref()
                .is_none_or(|(told, at): &(_, Instant)| *told != news || at.elapsed() >= HEARTBEAT);
            if due {
                write_frame(send, &news).await?;
                told = Some((news, Instant::now()));
            }
            tokio::time::sleep(NEWS_PAUSE).await;
            tokio::select! {
                _ = audience.changed() => {}
                () = stock::changed(&mut progress) => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
                _ = send.stopped() => return Ok(()),
            }
        }
    }

    /// Sends `peer` the pieces it asks for.
    ///
    /// # Errors
    /// When the stream fails.
    pub(crate) async fn pieces(
        &self,
        peer: NodeId,
        toolchain: Digest,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        // A stream that has just been opened takes any priority.
        let _ = send.set_priority(BULK_PRIORITY);
        loop {
            let PieceAsk(pieces) = match read_frame(recv, ASK_MAX).await {
                Err(StreamError::Ended) => return Ok(()),
                other => other?,
            };
            for piece in pieces.into_iter().take(ASK_PIECES_MAX) {
                if !self.gate.lock().expect("no panic while held").enter(self.began.elapsed(), peer) {
                    write_frame(send, &PieceReply::Busy(piece)).await?;
                    continue;
                }
                let sent = self.piece(toolchain, piece, send).await;
                self.gate.lock().expect("no panic while held").sent(self.began.elapsed(), &peer);
                sent?;
            }
        }
    }

    async fn piece(&self, toolchain: Digest, piece: u32, send: &mut SendStream) -> Result<(), StreamError> {
        let Some(stock) = self.stock(toolchain).await else {
            return write_frame(send, &PieceReply::Absent(piece)).await;
        };
        let read = tokio::task::spawn_blocking(move || stock.read(piece).map(pack));
        let Some(packed) = read.await.ok().flatten() else {
            return write_frame(send, &PieceReply::Absent(piece)).await;
        };
        let packed_bytes = u32::try_from(packed.len()).expect("a piece is a megabyte");
        write_frame(send, &PieceReply::Present { piece, packed_bytes }).await?;
        tokio::time::timeout(ASK_MAX, send.write_all(&packed))
            .await
            .map_err(|_| StreamError::Stalled(ASK_MAX))?
            .map_err(|error| StreamError::Io(error.into()))
    }

    /// Where the pieces of a toolchain come from.
    async fn stock(&self, toolchain: Digest) -> Option<Stock> {
        if let Some(live) = self.fetcher.live(&toolchain) {
            return Some(Stock::Coming(live));
        }
        let cell = self.cell(toolchain);
        let whole = cell.get_or_try_init(|| self.read_whole(toolchain)).await;
        whole.ok().map(|whole| Stock::Whole(whole.clone()))
    }

    fn cell(&self, toolchain: Digest) -> Arc<OnceCell<Arc<Whole>>> {
        let mut all = self.whole.lock().expect("no panic while held");
        if all.len() >= WHOLE_MAX && !all.contains_key(&toolchain) {
            all.clear();
        }
        all.entry(toolchain).or_default().clone()
    }

    async fn read_whole(&self, digest: Digest) -> Result<Arc<Whole>, ()> {
        let known = self.index.by_digest(&digest);
        let shelved = self.shelf.get(&digest);
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let installed = known.and_then(|known| Whole::installed(&known));
            installed.or_else(|| Whole::stored(shelved?, store)).map(Arc::new)
        });
        read.await.ok().flatten().ok_or(())
    }
}

/// Some of those who fetch the same, for `peer` to ask: another choice for each, so that they form one mesh.
fn others_for(peers: Option<&BTreeSet<NodeId>>, peer: &NodeId) -> Vec<NodeId> {
    let Some(peers) = peers else { return Vec::new() };
    let after = peers.range((std::ops::Bound::Excluded(*peer), std::ops::Bound::Unbounded));
    let ring: Vec<NodeId> = after.chain(peers.range(..*peer)).copied().collect();
    ring.iter().step_by(ring.len().div_ceil(SOURCES_MAX).max(1)).copied().collect()
}

/// The piece as it travels.
fn pack(plain: Vec<u8>) -> Vec<u8> {
    match zstd::bulk::compress(&plain, ZSTD_LEVEL) {
        Ok(packed) if packed.len() < plain.len() => packed,
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    #[test]
    fn everybody_is_told_of_others_and_never_of_itself() {
        for count in [1_u8, 2, 17, 60] {
            let ids: BTreeSet<NodeId> = (0..count).map(|n| Identity::from_seed(&[n; 32]).id()).collect();
            let mut known = BTreeSet::new();
            for id in &ids {
                let others = others_for(Some(&ids), id);
                assert!(!others.contains(id) && others.len() <= SOURCES_MAX);
                assert_eq!(others.len(), (usize::from(count) - 1).min(others.len().max(1)));
                known.extend(others);
            }
            assert!(count == 1 || known == ids, "of {count} everybody is known to somebody");
        }
    }
}
