//! Enrolment over the network, both halves.
//!
//! ```text
//!   newcomer                                   inviter
//!      │ QUIC, ALPN barn-join/1, pins the inviter ─▶│  lets in unlisted keys only while an invitation is open
//!      │   both export keying material of this session
//!      │ JoinRequest: name, proof ─────────────────▶│  admits once per invitation, signs the next roster
//!      │◀─────────────────────────── JoinReply: roster
//! ```
//!
//! The proof is keyed by the token's secret over the exported material, so it is worth nothing in another session;
//! the inviter is pinned by the token, so nobody in between can be the other end of the session.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use barn_protocol::{
    Identity, NodeId,
    invite::{Invite, JOIN_EXPORTER_LABEL, JOIN_FRAME_BYTES_MAX, JoinReply, JoinRequest},
    limits::NAME_BYTES_MAX,
    roster::{RosterError, SignedRoster, clean_name},
    wire::{self, JOIN_ALPN},
};
use libp2p::PeerId;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use tokio::sync::watch;

use crate::{
    clock::unix_now_s,
    data::{Tls, bind_udp, close, connect_any, endpoint},
    discovery,
    limits::{JOIN_DIRECT, JOIN_LOOKUP_MAX, JOIN_TIMEOUT, JOINS_PER_SECOND_MAX},
    stream::{StreamError, read_body, write_frame},
};

/// Largest request a newcomer may send, in bytes: its name and a proof.
const REQUEST_BYTES_MAX: usize = NAME_BYTES_MAX + 128;
/// How long the inviter waits for the newcomer to take the reply and hang up.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often an inviter that was found but did not answer is dialled again.
const REDIAL: Duration = Duration::from_secs(2);

/// Whoever holds the open invitations and the admin key.
pub trait Admitter: Send + Sync {
    /// Whether an invitation is open, so that unlisted keys may try to join. Asked at every handshake; must be quick.
    fn open(&self) -> bool;

    /// Judges a request in the session with the given exported keying material. On success the invitation is used
    /// up and the new roster is in force before this returns. Runs on a thread that may block.
    fn admit(&self, peer: NodeId, request: &JoinRequest, exported: &[u8; 32]) -> JoinReply;
}

/// An admitter with nothing open, for nodes without the admin key.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoInvitations;

impl Admitter for NoInvitations {
    fn open(&self) -> bool {
        false
    }

    fn admit(&self, _: NodeId, _: &JoinRequest, _: &[u8; 32]) -> JoinReply {
        JoinReply::NoAdminKey
    }
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No socket could be opened.
    #[error("no UDP socket could be opened")]
    Socket(#[source] std::io::Error),
    /// The inviter answered at none of the token's addresses and was not found by mDNS.
    #[error("node {} did not answer at {}, nor by mDNS", .inviter.short(), list(.tried))]
    Unreachable {
        /// The inviter.
        inviter: NodeId,
        /// The addresses of the token.
        tried: Vec<SocketAddr>,
    },
    /// The invitation is used, expired, or was never made.
    #[error(
        "the invitation is no longer open\nhint: `barn mesh invite` prints a new one, where the first was made"
    )]
    NoSuchInvite,
    /// The inviter cannot sign rosters.
    #[error(
        "the inviting node does not hold the admin key\nhint: ask for a token of the machine where `barn mesh init` ran"
    )]
    NoAdminKey,
    /// The inviter was reached and then lost.
    #[error("the connection to the inviting node broke")]
    Broken(#[source] StreamError),
    /// The inviter took too long.
    #[error("the inviting node did not reply in time")]
    TimedOut,
    /// The roster received is not this mesh's, or has expired.
    #[error("the inviting node sent a roster that cannot be accepted")]
    BadRoster(#[source] RosterError),
    /// The roster received does not list this node.
    #[error("the inviting node sent a roster without this node")]
    NotListed,
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    if texts.is_empty() { "any address".into() } else { texts.join(", ") }
}

/// Joins the mesh of `invite` as `identity`, asking for the name `name`. Returns the verified roster that lists this
/// node; the caller puts it into its [`crate::RosterCell`].
///
/// The token's addresses are dialled first; if none answers within [`JOIN_DIRECT`], the inviter is also looked up by
/// mDNS, for [`JOIN_LOOKUP_MAX`] at most.
///
/// # Errors
/// Why not; nothing has changed then on this side.
pub async fn join(invite: &Invite, identity: &Identity, name: &str) -> Result<SignedRoster, JoinError> {
    let socket = bind_udp(None, 0).map_err(JoinError::Socket)?;
    let endpoint = endpoint(socket).map_err(JoinError::Socket)?;
    let config = Tls::new(identity).dialler(invite.inviter, JOIN_ALPN);
    let connection = reach(&endpoint, &config, invite)
        .await
        .ok_or_else(|| JoinError::Unreachable { inviter: invite.inviter, tried: invite.addresses.clone() })?;
    let asked = tokio::time::timeout(JOIN_TIMEOUT, ask(&connection, invite, name)).await;
    connection.close(close::JOINED, b"");
    let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
    let reply = asked.map_err(|_| JoinError::TimedOut)??;
    accept(reply, invite, identity)
}

async fn reach(endpoint: &Endpoint, config: &ClientConfig, invite: &Invite) -> Option<Connection> {
    let direct = connect_any(endpoint, config, &invite.addresses);
    let lookup = async {
        tokio::time::sleep(JOIN_DIRECT).await;
        tokio::time::timeout(JOIN_LOOKUP_MAX, look_up(endpoint, config, invite.inviter)).await.ok()
    };
    tokio::select! {
        Some(connection) = direct => Some(connection),
        Some(connection) = lookup => Some(connection),
        else => None,
    }
}

async fn look_up(endpoint: &Endpoint, config: &ClientConfig, inviter: NodeId) -> Connection {
    let (_nowhere, listening) = watch::channel(Vec::new());
    let mut findings = discovery::start(PeerId::random(), listening);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    loop {
        match tokio::time::timeout(REDIAL, findings.recv()).await {
            Ok(Some((node, found))) if node == inviter => {
                addresses.splice(0..0, found);
                addresses.truncate(crate::limits::PEER_ADDRESSES_MAX);
            }
            Ok(Some(_)) => continue,
            Ok(None) => tokio::time::sleep(REDIAL).await,
            Err(_) => {}
        }
        if let Some(connection) = connect_any(endpoint, config, &addresses).await {
            return connection;
        }
    }
}

async fn ask(connection: &Connection, invite: &Invite, name: &str) -> Result<JoinReply, JoinError> {
    let exported = exported(connection).ok_or(JoinError::NoSuchInvite)?;
    let mut name = clean_name(name);
    name.truncate(NAME_BYTES_MAX);
    let request = JoinRequest { name, proof: invite.proof(&exported) };
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| StreamError::Io(e.into()))?;
        write_frame(&mut send, &request).await?;
        let body = read_body(&mut recv, JOIN_FRAME_BYTES_MAX).await?;
        Ok(wire::decode(&body)?)
    };
    exchange.await.map_err(|error| match connection.close_reason() {
        // The listener ends the handshake like this when it lets in no unlisted keys: nothing is open.
        Some(ConnectionError::ConnectionClosed(_)) => JoinError::NoSuchInvite,
        _ => JoinError::Broken(error),
    })
}

fn accept(reply: JoinReply, invite: &Invite, identity: &Identity) -> Result<SignedRoster, JoinError> {
    let bytes = match reply {
        JoinReply::Admitted(bytes) => bytes,
        JoinReply::NoSuchInvite => return Err(JoinError::NoSuchInvite),
        JoinReply::NoAdminKey => return Err(JoinError::NoAdminKey),
    };
    let roster = SignedRoster::verify(&invite.mesh, bytes).map_err(JoinError::BadRoster)?;
    if roster.roster().expired(unix_now_s()) {
        return Err(JoinError::BadRoster(RosterError::Expired));
    }
    if roster.roster().member(&identity.id()).is_none() {
        return Err(JoinError::NotListed);
    }
    Ok(roster)
}

fn exported(connection: &Connection) -> Option<[u8; 32]> {
    let mut exported = [0; 32];
    connection.export_keying_material(&mut exported, JOIN_EXPORTER_LABEL, b"").ok()?;
    Some(exported)
}

/// The inviter's side: serves newcomers, a few a second.
pub(crate) struct JoinDesk {
    admitter: Arc<dyn Admitter>,
    second: Instant,
    served: u32,
}

impl JoinDesk {
    pub(crate) fn new(admitter: Arc<dyn Admitter>) -> Self {
        Self { admitter, second: Instant::now(), served: 0 }
    }

    /// What to run for this newcomer; `None` when it has been turned away.
    pub(crate) fn serve(
        &mut self,
        peer: NodeId,
        connection: Connection,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.served) = (Instant::now(), 0);
        }
        if self.served >= JOINS_PER_SECOND_MAX {
            connection.close(close::TOO_MANY, b"too many attempts");
            return None;
        }
        self.served += 1;
        let admitter = self.admitter.clone();
        Some(async move {
            match tokio::time::timeout(JOIN_TIMEOUT, answer(peer, &connection, admitter)).await {
                Ok(Ok(())) => {
                    let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
                }
                Ok(Err(error)) => tracing::debug!(?peer, %error, "a join failed"),
                Err(_) => tracing::debug!(?peer, "a join took too long"),
            }
            connection.close(close::JOINED, b"");
        })
    }
}

/// One request on one stream; there is no second try on a connection.
async fn answer(
    peer: NodeId,
    connection: &Connection,
    admitter: Arc<dyn Admitter>,
) -> Result<(), StreamError> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|e| StreamError::Io(e.into()))?;
    let body = read_body(&mut recv, REQUEST_BYTES_MAX).await?;
    let request: JoinRequest = wire::decode(&body)?;
    let reply = match exported(connection) {
        Some(exported) => tokio::task::spawn_blocking(move || admitter.admit(peer, &request, &exported))
            .await
            .unwrap_or(JoinReply::NoSuchInvite),
        None => JoinReply::NoSuchInvite,
    };
    tracing::info!(peer = %peer, admitted = matches!(reply, JoinReply::Admitted(_)), "a node asked to join");
    write_frame(&mut send, &reply).await?;
    let _ = send.finish();
    Ok(())
}

#[cfg(test)]
mod tests;
