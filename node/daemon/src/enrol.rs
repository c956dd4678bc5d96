//! Who may take part: founding a mesh, inviting, admitting and striking members.
//!
//! Everything here works on the state directory, so the commands do the same whether or not the node runs; a
//! running node is told afterwards to read the roster again. Changes are made under a lock and are a new epoch
//! each, signed with the admin key, which only the founding machine has.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use barn_mesh::{Admitter, RosterCell};
use barn_protocol::{
    Digest, NodeId,
    invite::{INVITE_ADDRESSES_MAX, Invite, JoinReply, JoinRequest, proof, secret_id},
    roster::{Capabilities, Member, Roster, RosterError, SignedRoster},
};
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};

/// How long a roster is valid, in seconds: a year. Every change renews it.
const ROSTER_LIFETIME_S: u64 = 365 * 24 * 3600;
/// Most invitations open at once: a whole office may be invited in one go, an endless script not.
const INVITES_MAX: usize = 256;

/// Why a change of the mesh was not made.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The state directory is at fault.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The roster would not be valid.
    #[error("the roster cannot be changed")]
    Roster(#[from] RosterError),
    /// `mesh init` on a member.
    #[error("this machine is in mesh {} already\nhint: move {dir}/mesh away to leave it", mesh.short())]
    InMesh {
        /// Which mesh.
        mesh: NodeId,
        /// The state directory.
        dir: String,
    },
    /// Nobody of that name or key.
    #[error("no member is called or has the key `{0}`\nhint: `barn mesh members` lists them")]
    NoMember(String),
    /// The name is not unique.
    #[error("another member is called `{0}`\nhint: give another name with --name")]
    NameTaken(String),
    /// Too many invitations are open.
    #[error("{INVITES_MAX} invitations are open\nhint: they expire by themselves")]
    TooManyInvites,
}

/// An invitation as the inviter remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenInvite {
    id: Digest,
    expires_unix_s: u64,
}

/// Seconds since the Unix epoch.
pub fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Founds a mesh with this machine as its first member; the admin key is made here.
///
/// # Errors
/// When the machine is in a mesh already, or nothing can be written.
pub fn found_mesh(home: &Home, name: &str) -> Result<SignedRoster, EnrolError> {
    let _lock = home.lock_mesh()?;
    if let Some(roster) = home.roster()? {
        let dir = home.dir().display().to_string();
        return Err(EnrolError::InMesh { mesh: roster.roster().mesh, dir });
    }
    let admin = if home.has_admin() { home.admin()? } else { home.create_admin()? };
    let founder =
        Member { id: home.identity()?.id(), name: name.to_owned(), capabilities: Capabilities::OFFICE };
    let roster = Roster::found(&admin, founder, unix_now_s(), ROSTER_LIFETIME_S).sign(&admin)?;
    home.keep_roster(&roster)?;
    Ok(roster)
}

/// Opens an invitation for one machine.
///
/// # Errors
/// Without a mesh or the admin key, and when too many invitations are open.
pub fn invite(home: &Home, addresses: &[SocketAddr], lifetime_s: u64) -> Result<Invite, EnrolError> {
    let _lock = home.lock_mesh()?;
    let roster = home.roster()?.ok_or(HomeError::NoMesh)?;
    home.admin()?;
    let secret: [u8; 16] = rand::random();
    let mut open = read_invites(home)?;
    if open.len() >= INVITES_MAX {
        return Err(EnrolError::TooManyInvites);
    }
    open.push(OpenInvite { id: secret_id(&secret), expires_unix_s: unix_now_s().saturating_add(lifetime_s) });
    write_invites(home, &open)?;
    Ok(Invite {
        mesh: roster.roster().mesh,
        inviter: home.identity()?.id(),
        addresses: addresses.iter().copied().take(INVITE_ADDRESSES_MAX).collect(),
        secret,
    })
}

/// Admits the machine with this key, or renames it.
///
/// # Errors
/// Without a mesh or the admin key, and when the name is another member's.
pub fn allow(
    home: &Home,
    id: NodeId,
    name: Option<&str>,
    capabilities: Capabilities,
) -> Result<SignedRoster, EnrolError> {
    change(home, |roster| {
        let name = match name {
            Some(name) if roster.member_named(name).is_some_and(|m| m.id != id) => {
                return Err(EnrolError::NameTaken(name.to_owned()));
            }
            Some(name) => name.to_owned(),
            None => roster.member(&id).map_or_else(|| roster.free_name(&id.short(), &id), |m| m.name.clone()),
        };
        let member = Member { id, name, capabilities };
        Ok(roster.with(member, unix_now_s())?)
    })
}

/// Strikes the member with this name or key.
///
/// # Errors
/// Without a mesh or the admin key, and when nobody is called so.
pub fn revoke(home: &Home, who: &str) -> Result<SignedRoster, EnrolError> {
    change(home, |roster| {
        let id = roster.member_named(who).map(|m| m.id).or_else(|| who.parse().ok());
        id.and_then(|id| roster.without(&id, unix_now_s()))
            .ok_or_else(|| EnrolError::NoMember(who.to_owned()))
    })
}

fn change(
    home: &Home,
    next: impl FnOnce(&Roster) -> Result<Roster, EnrolError>,
) -> Result<SignedRoster, EnrolError> {
    let _lock = home.lock_mesh()?;
    let roster = home.roster()?.ok_or(HomeError::NoMesh)?;
    let admin = home.admin()?;
    let roster = next(roster.roster())?.sign(&admin)?;
    home.keep_roster(&roster)?;
    Ok(roster)
}

fn read_invites(home: &Home) -> Result<Vec<OpenInvite>, HomeError> {
    let path = home.invites_path();
    let Some(bytes) = home.read_if_there(&path)? else { return Ok(Vec::new()) };
    let mut open: Vec<OpenInvite> = postcard::from_bytes(&bytes).map_err(|_| HomeError::Damaged(path))?;
    open.retain(|invite| invite.expires_unix_s > unix_now_s());
    Ok(open)
}

fn write_invites(home: &Home, open: &[OpenInvite]) -> Result<(), HomeError> {
    let bytes = postcard::to_stdvec(open).expect("encoding into memory does not fail");
    home.replace(&home.invites_path(), &bytes, 0o600)
}

/// The inviter's side of the join protocol.
pub struct Doorkeeper {
    home: Home,
    roster: RosterCell,
}

impl Doorkeeper {
    /// A doorkeeper that admits into the mesh of `home` and tells `roster` of it.
    pub fn new(home: Home, roster: RosterCell) -> Arc<Self> {
        Arc::new(Self { home, roster })
    }

    fn try_admit(
        &self,
        peer: NodeId,
        request: &JoinRequest,
        exported: &[u8; 32],
    ) -> Result<JoinReply, EnrolError> {
        if !self.home.has_admin() {
            return Ok(JoinReply::NoAdminKey);
        }
        {
            let _lock = self.home.lock_mesh()?;
            let mut open = read_invites(&self.home)?;
            let found = open.iter().position(|invite| {
                // Compared as hashes, in constant time.
                blake3::Hash::from(proof(&invite.id, exported)) == blake3::Hash::from(request.proof)
            });
            let Some(index) = found else { return Ok(JoinReply::NoSuchInvite) };
            open.remove(index);
            write_invites(&self.home, &open)?;
        }
        let signed = change(&self.home, |roster| {
            let name = roster.free_name(&request.name, &peer);
            let member = Member { id: peer, name, capabilities: Capabilities::OFFICE };
            Ok(roster.with(member, unix_now_s())?)
        })?;
        // A refusal can only mean that the cell has this roster or a newer one already.
        let _ = self.roster.offer(signed.bytes().clone(), unix_now_s());
        Ok(JoinReply::Admitted(signed.bytes().clone()))
    }
}

impl Admitter for Doorkeeper {
    fn open(&self) -> bool {
        read_invites(&self.home).is_ok_and(|open| !open.is_empty())
    }

    fn admit(&self, peer: NodeId, request: &JoinRequest, exported: &[u8; 32]) -> JoinReply {
        self.try_admit(peer, request, exported).unwrap_or_else(|error| {
            tracing::warn!(peer = %peer.short(), error = %error, "a newcomer could not be admitted");
            JoinReply::NoAdminKey
        })
    }
}
