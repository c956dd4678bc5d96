//! Admission to the control plane, inside the security upgrade.
//!
//! Noise has just proved which key the other side holds. Before anything of libp2p runs, both sides say which mesh
//! they belong to and how new their roster is; the one with the older roster is given the newer, if the newer lists
//! it; then each checks the other and says its verdict. Only two welcomes make a connection:
//!
//! ```text
//!   dialler                         listener
//!      │◀────────── noise XX ──────────▶│
//!      │ hello: version, mesh, epoch ──▶│
//!      │◀── hello: version, mesh, epoch │
//!      │   roster of the higher epoch   │   (only when the epochs differ; of length 0 for who is not on it)
//!      │◀──────────────────────────────▶│
//!      │ verdict: welcome or not ──────▶│
//!      │◀────── verdict: welcome or not │
//! ```
//!
//! So a stranger learns that there is a node, which mesh it is of (as a hash) and its epoch, and nothing more; and a
//! member that slept through a change is brought up to date before it is judged.

use std::{io, pin::Pin};

use barn_protocol::{
    NodeId,
    identity::SignedBytes,
    keys::domain,
    limits::ROSTER_BYTES_MAX,
    roster::SignedRoster,
    wire::{self, FrameError},
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    noise,
};

use crate::{
    cell::{OfferError, Refusal, RosterCell},
    clock::unix_now_s,
    keys,
    limits::HANDSHAKE_TIMEOUT,
};

/// The upgrade's name; what speaks plain libp2p finds no common protocol.
const PROTOCOL: &str = "/barn/noise/1";
const HELLO_VERSION: u8 = 1;
const HELLO_BYTES: usize = 1 + 32 + 8;
/// A roster and its signature, encoded.
const SIGNED_ROSTER_BYTES_MAX: usize = ROSTER_BYTES_MAX + 128;
const WELCOME: u8 = 1;
const NOT_WELCOME: u8 = 0;

/// Noise, then the exchange of rosters and verdicts.
#[derive(Clone)]
pub(crate) struct Admission {
    noise: noise::Config,
    roster: RosterCell,
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("the noise handshake failed")]
    Noise(#[from] noise::Error),
    #[error("the connection broke during admission")]
    Io(#[from] io::Error),
    #[error("the peer's key is no ed25519 key")]
    OtherKey,
    #[error("the peer speaks version {0} of the handshake")]
    OtherVersion(u8),
    #[error("the peer is of another mesh")]
    OtherMesh,
    #[error("the peer's roster was not taken")]
    Roster(#[from] OfferError),
    #[error("the peer's roster is malformed")]
    Malformed(#[from] FrameError),
    #[error("not admitted here")]
    Refused(#[from] Refusal),
    #[error("the peer does not admit this node")]
    RefusedByPeer,
    #[error("the handshake took too long")]
    TimedOut,
}

impl Admission {
    pub(crate) fn new(keypair: &Keypair, roster: RosterCell) -> Result<Self, noise::Error> {
        Ok(Self { noise: noise::Config::new(keypair)?, roster })
    }
}

impl UpgradeInfo for Admission {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

type Upgraded<T> = (PeerId, noise::Output<T>);
type Upgrading<T> = Pin<Box<dyn Future<Output = Result<Upgraded<T>, AdmissionError>> + Send>>;

impl<T> InboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Upgraded<T>;
    type Error = AdmissionError;
    type Future = Upgrading<T>;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(admit(self.noise.upgrade_inbound(socket, info), self.roster))
    }
}

impl<T> OutboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Upgraded<T>;
    type Error = AdmissionError;
    type Future = Upgrading<T>;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(admit(self.noise.upgrade_outbound(socket, info), self.roster))
    }
}

async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    noise: impl Future<Output = Result<(PeerId, S), noise::Error>>,
    roster: RosterCell,
) -> Result<(PeerId, S), AdmissionError> {
    let admitted = async {
        let (peer, mut stream) = noise.await?;
        let node = keys::node_id(&peer).ok_or(AdmissionError::OtherKey)?;
        match exchange(&mut stream, &node, &roster).await {
            Ok(()) => Ok((peer, stream)),
            Err(error) => {
                tracing::debug!(peer = ?node, %error, "not admitted");
                Err(error)
            }
        }
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, admitted).await.map_err(|_| AdmissionError::TimedOut)?
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    peer: &NodeId,
    cell: &RosterCell,
) -> Result<(), AdmissionError> {
    let mine = cell.current().ok_or(Refusal::NoMesh)?;
    stream.write_all(&hello(&mine)).await?;
    stream.flush().await?;
    let mut theirs = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs).await?;
    let their_epoch = check_hello(&theirs, &mine)?;
    let my_epoch = mine.roster().epoch;
    if my_epoch > their_epoch {
        send_roster(stream, peer, &mine).await?;
    } else if my_epoch < their_epoch {
        receive_roster(stream, cell).await?;
    }
    let verdict = cell.standing(peer, unix_now_s());
    let said = say(stream, if verdict.is_ok() { WELCOME } else { NOT_WELCOME }).await;
    verdict?;
    said?;
    let mut theirs = [NOT_WELCOME];
    stream.read_exact(&mut theirs).await?;
    if theirs == [WELCOME] { Ok(()) } else { Err(AdmissionError::RefusedByPeer) }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), verdict: u8) -> io::Result<()> {
    stream.write_all(&[verdict]).await?;
    stream.flush().await
}

fn hello(mine: &SignedRoster) -> [u8; HELLO_BYTES] {
    let mut hello = [HELLO_VERSION; HELLO_BYTES];
    hello[1..33].copy_from_slice(&mesh_hash(&mine.roster().mesh));
    hello[33..].copy_from_slice(&mine.roster().epoch.to_le_bytes());
    hello
}

/// The peer's epoch, if it is of this mesh.
fn check_hello(hello: &[u8; HELLO_BYTES], mine: &SignedRoster) -> Result<u64, AdmissionError> {
    if hello[0] != HELLO_VERSION {
        return Err(AdmissionError::OtherVersion(hello[0]));
    }
    if hello[1..33] != mesh_hash(&mine.roster().mesh) {
        return Err(AdmissionError::OtherMesh);
    }
    let mut epoch = [0; 8];
    epoch.copy_from_slice(&hello[33..]);
    Ok(u64::from_le_bytes(epoch))
}

fn mesh_hash(mesh: &NodeId) -> [u8; 32] {
    blake3::derive_key(domain::MESH_HELLO, mesh.as_bytes())
}

async fn send_roster(
    stream: &mut (impl AsyncWrite + Unpin),
    peer: &NodeId,
    mine: &SignedRoster,
) -> Result<(), AdmissionError> {
    let bytes = match mine.roster().member(peer) {
        Some(_) => wire::encode(mine.bytes())?,
        None => Vec::new(),
    };
    let length = u32::try_from(bytes.len()).map_err(|_| FrameError::TooLarge(bytes.len()))?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn receive_roster(
    stream: &mut (impl AsyncRead + Unpin),
    cell: &RosterCell,
) -> Result<(), AdmissionError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 {
        return Err(AdmissionError::RefusedByPeer);
    }
    if length > SIGNED_ROSTER_BYTES_MAX {
        return Err(FrameError::TooLarge(length).into());
    }
    let mut body = Vec::new();
    if stream.take(length as u64).read_to_end(&mut body).await? < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let offered: SignedBytes = wire::decode(&body)?;
    match cell.offer(offered, unix_now_s()) {
        // Another handshake was quicker; what counts is what is in force now.
        Err(OfferError::Roster(barn_protocol::roster::RosterError::Stale { .. })) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{
        Identity,
        roster::{Capabilities, Member, Roster},
    };

    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_seed(&[seed; 32])
    }

    fn member(seed: u8) -> Member {
        Member { id: identity(seed).id(), name: format!("n{seed}"), capabilities: Capabilities::OFFICE }
    }

    fn cell(roster: &Roster) -> RosterCell {
        RosterCell::new(Some(roster.clone().sign(&identity(1)).unwrap()), |_| Ok(()))
    }

    /// Lets node 2 with `near` and node 3 with `far` meet.
    async fn meet(
        near: &RosterCell,
        far: &RosterCell,
    ) -> (Result<(), AdmissionError>, Result<(), AdmissionError>) {
        let (a, b) = tokio::io::duplex(1024);
        let (mut a, mut b) = (Compat(a), Compat(b));
        let (two, three) = (identity(2).id(), identity(3).id());
        tokio::join!(
            async {
                let result = exchange(&mut a, &three, near).await;
                drop(a);
                result
            },
            async {
                let result = exchange(&mut b, &two, far).await;
                drop(b);
                result
            }
        )
    }

    /// A tokio stream as a futures stream.
    struct Compat(tokio::io::DuplexStream);

    impl AsyncRead for Compat {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            let mut buf = tokio::io::ReadBuf::new(buf);
            tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut buf)
                .map_ok(|()| buf.filled().len())
        }
    }

    impl AsyncWrite for Compat {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, buf)
        }

        fn poll_flush(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
        }

        fn poll_close(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
        }
    }

    fn both() -> Roster {
        Roster::found(&identity(1), member(2), unix_now_s(), 3600).with(member(3), unix_now_s()).unwrap()
    }

    #[tokio::test]
    async fn members_welcome_each_other() {
        let roster = both();
        let (near, far) = meet(&cell(&roster), &cell(&roster)).await;
        near.unwrap();
        far.unwrap();
    }

    #[tokio::test]
    async fn the_older_roster_is_replaced_before_judging() {
        let old = Roster::found(&identity(1), member(3), unix_now_s(), 3600);
        let (newer, older) = (cell(&both().renewed(unix_now_s())), cell(&old));
        let (near, far) = meet(&newer, &older).await;
        near.unwrap();
        far.unwrap();
        assert_eq!(older.epoch(), newer.epoch());
        let (newer, older) = (cell(&both()), cell(&old));
        let (far, near) = meet(&older, &newer).await;
        near.unwrap();
        far.unwrap();
        assert_eq!(older.epoch(), newer.epoch());
    }

    #[tokio::test]
    async fn a_struck_member_gets_no_roster() {
        let old = cell(&both());
        let new = cell(&both().without(&identity(3).id(), unix_now_s()).unwrap());
        let (near, far) = meet(&new, &old).await;
        assert!(matches!(near, Err(AdmissionError::Refused(Refusal::NotListed))), "{near:?}");
        assert!(matches!(far, Err(AdmissionError::RefusedByPeer)), "{far:?}");
        assert_eq!(old.epoch(), both().epoch);
    }

    #[tokio::test]
    async fn strangers_and_other_meshes_are_refused() {
        let alone = Roster::found(&identity(1), member(2), unix_now_s(), 3600);
        let (near, far) = meet(&cell(&alone), &cell(&alone)).await;
        assert!(matches!(near, Err(AdmissionError::Refused(Refusal::NotListed))), "{near:?}");
        assert!(far.is_err());
        let elsewhere = Roster::found(&identity(9), member(3), unix_now_s(), 3600);
        let elsewhere = RosterCell::new(Some(elsewhere.sign(&identity(9)).unwrap()), |_| Ok(()));
        let (near, far) = meet(&cell(&both()), &elsewhere).await;
        assert!(matches!(near, Err(AdmissionError::OtherMesh)), "{near:?}");
        assert!(far.is_err());
    }

    #[tokio::test]
    async fn an_expired_roster_admits_nobody_but_can_be_renewed() {
        let expired = Roster { issued_unix_s: 1, expires_unix_s: 2, ..both() };
        let (near, _) = meet(&cell(&expired), &cell(&expired)).await;
        assert!(matches!(near, Err(AdmissionError::Refused(Refusal::Expired))), "{near:?}");
        let renewed = both().renewed(unix_now_s());
        let sleeper = cell(&expired);
        let (near, far) = meet(&cell(&renewed), &sleeper).await;
        near.unwrap();
        far.unwrap();
        assert_eq!(sleeper.epoch(), renewed.epoch);
    }
}
