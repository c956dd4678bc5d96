//! Talking to one source: what it has comes on one stream, pieces on another.

use std::{sync::Arc, time::Duration};

use barn_mesh::{
    Mesh, RecvStream, SendStream,
    stream::{StreamError, read_frame, write_frame},
};
use barn_protocol::{
    Digest, NodeId, Toolchain,
    transfer::{PIECE_BYTES, PieceValue},
    wire::{PieceAsk, PieceReply, Request, SwarmNews, SwarmReply},
};
use tokio::sync::mpsc;

use super::{FetchError, live::Live};
use crate::toolchain::policy;

/// How long a source may take to describe a toolchain. It may have to read all of it first.
const DESCRIBE_MAX: Duration = Duration::from_secs(30);
/// How long a source may say nothing; it says something every five seconds.
const NEWS_MAX: Duration = Duration::from_secs(20);
/// How long a source may take for a piece; the transfer gives up earlier.
const PIECE_MAX: Duration = Duration::from_secs(60);

/// What happens at a source.
pub(super) enum Event {
    /// It has described the toolchain.
    Hello(NodeId, Box<Toolchain>, Vec<PieceValue>),
    /// What it has.
    News(NodeId, SwarmNews),
    /// A piece was kept, or was bad.
    Piece(NodeId, u32, bool),
    /// It does not have a piece.
    Absent(NodeId, u32),
    /// It serves others.
    Busy(NodeId, u32),
    /// It is no source any more.
    Lost(NodeId, FetchError),
    /// This machine cannot keep what comes.
    Disk(std::io::Error),
    /// Members that say on the DHT that they have it.
    Providers(Vec<NodeId>),
}

/// Listens to what `peer` has until it fails.
pub(super) async fn listen(mesh: Mesh, peer: NodeId, digest: Digest, events: mpsc::Sender<Event>) {
    if let Err(error) = hear(&mesh, peer, digest, &events).await {
        let _ = events.send(Event::Lost(peer, error)).await;
    }
}

async fn hear(
    mesh: &Mesh,
    peer: NodeId,
    digest: Digest,
    events: &mpsc::Sender<Event>,
) -> Result<(), FetchError> {
    let (mut send, mut recv) = mesh.open(peer).await?;
    write_frame(&mut send, &Request::Swarm(digest)).await?;
    let reply: SwarmReply = read_frame(&mut recv, DESCRIBE_MAX).await?;
    let SwarmReply::Found { toolchain, values } = reply else { return Err(FetchError::NotFound) };
    if toolchain.digest() != digest {
        return Err(FetchError::Wrong);
    }
    policy::check(&toolchain)?;
    let mut news = Ok(());
    let _ = events.send(Event::Hello(peer, toolchain, values)).await;
    while news.is_ok() {
        news = match read_frame(&mut recv, NEWS_MAX).await {
            Ok(news) => events.send(Event::News(peer, news)).await.map_err(|_| FetchError::NotFound),
            Err(error) => Err(error.into()),
        };
    }
    news
}

/// Asks `peer` for pieces as they are wanted, and keeps what comes.
pub(super) async fn carry(
    mesh: Mesh,
    peer: NodeId,
    digest: Digest,
    live: Arc<Live>,
    mut asks: mpsc::UnboundedReceiver<Vec<u32>>,
    events: mpsc::Sender<Event>,
) {
    let outcome = async {
        let (mut send, mut recv) = mesh.open(peer).await?;
        write_frame(&mut send, &Request::Pieces(digest)).await?;
        let (waiting, mut expected) = mpsc::unbounded_channel();
        tokio::try_join!(
            ask(&mut send, &mut asks, waiting),
            receive(&mut recv, &mut expected, peer, &live, &events),
        )
        .map(drop)
    };
    if let Err(error) = outcome.await {
        let _ = events.send(Event::Lost(peer, error)).await;
    }
}

/// Writes what is asked for. The queues are bounded by what the transfer asks of one source.
async fn ask(
    send: &mut SendStream,
    asks: &mut mpsc::UnboundedReceiver<Vec<u32>>,
    waiting: mpsc::UnboundedSender<u32>,
) -> Result<(), FetchError> {
    while let Some(pieces) = asks.recv().await {
        for piece in &pieces {
            // Whoever waits for it has failed if this does, and says so.
            let _ = waiting.send(*piece);
        }
        write_frame(send, &PieceAsk(pieces)).await?;
    }
    Ok(())
}

async fn receive(
    recv: &mut RecvStream,
    expected: &mut mpsc::UnboundedReceiver<u32>,
    peer: NodeId,
    live: &Arc<Live>,
    events: &mpsc::Sender<Event>,
) -> Result<(), FetchError> {
    while let Some(piece) = expected.recv().await {
        let event = match read_frame(recv, PIECE_MAX).await? {
            PieceReply::Present { piece: p, packed_bytes } if p == piece => {
                let packed = read_packed(recv, packed_bytes).await?;
                keep(live.clone(), peer, piece, packed).await
            }
            PieceReply::Absent(p) if p == piece => Event::Absent(peer, piece),
            PieceReply::Busy(p) if p == piece => Event::Busy(peer, piece),
            _ => return Err(FetchError::Wrong),
        };
        let _ = events.send(event).await;
    }
    Ok(())
}

async fn read_packed(recv: &mut RecvStream, bytes: u32) -> Result<Vec<u8>, FetchError> {
    if u64::from(bytes) > PIECE_BYTES {
        return Err(FetchError::Wrong);
    }
    let mut packed = vec![0; bytes as usize];
    tokio::time::timeout(PIECE_MAX, recv.read_exact(&mut packed))
        .await
        .map_err(|_| StreamError::Stalled(PIECE_MAX))?
        .map_err(|_| StreamError::Ended)?;
    Ok(packed)
}

/// Verifies a piece, and keeps it if it is good.
async fn keep(live: Arc<Live>, peer: NodeId, piece: u32, packed: Vec<u8>) -> Event {
    let work = move || {
        let bytes = live.map.place(piece).map_or(0, |place| place.bytes);
        let good = unpack(packed, bytes).filter(|bytes| live.values.accept(&live.map, piece, bytes));
        let Some(bytes) = good else { return Event::Piece(peer, piece, false) };
        match live.write(piece, &bytes) {
            Ok(()) => Event::Piece(peer, piece, true),
            Err(error) => Event::Disk(error),
        }
    };
    let lost = |_| Event::Disk(std::io::Error::other("the piece's thread panicked"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(lost)
}

/// The piece, if it unpacks to its size.
fn unpack(packed: Vec<u8>, bytes: u64) -> Option<Vec<u8>> {
    let size = usize::try_from(bytes).ok()?;
    if packed.len() == size {
        return Some(packed);
    }
    zstd::bulk::decompress(&packed, size).ok().filter(|plain| plain.len() == size)
}
