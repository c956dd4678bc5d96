//! Enrolment: the one-time token, and the words exchanged over it.
//!
//! `barn mesh invite` makes a token: whose mesh, which node to ask, where it was last seen, and a secret. The
//! newcomer dials that node on the join protocol, proves that it knows the secret in this very TLS session, and
//! is given a roster that lists it. The inviter keeps only a hash of the secret, and forgets it once used.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    identity::{NodeId, SignedBytes},
    keys::domain,
    limits::ROSTER_BYTES_MAX,
};

/// How long an invitation stays open unless said otherwise, in seconds: one hour, the time of a walk to
/// another desk and a coffee.
pub const INVITE_LIFETIME_S: u64 = 3600;
/// Most addresses in a token; more only make it longer.
pub const INVITE_ADDRESSES_MAX: usize = 8;
/// Label under which keying material is exported from the TLS session for the proof.
pub const JOIN_EXPORTER_LABEL: &[u8] = b"barnraise join v1";
/// Largest frame of the join protocol, in bytes.
pub const JOIN_FRAME_BYTES_MAX: usize = ROSTER_BYTES_MAX + 1024;

const PREFIX: &str = "barn1";

/// What a token says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The mesh to join: its admin's key.
    pub mesh: NodeId,
    /// The node that admits.
    pub inviter: NodeId,
    /// Where it was reachable when it made the token (TCP and UDP port of the same number).
    pub addresses: Vec<SocketAddr>,
    /// The one-time secret.
    pub secret: [u8; 16],
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no invitation: a token starts with `barn1` and is printed by `barn mesh invite`")]
pub struct ParseInviteError;

impl Invite {
    /// The name under which the inviter remembers the open invitation.
    pub fn id(&self) -> Digest {
        secret_id(&self.secret)
    }

    /// The proof that the newcomer knows the secret, bound to one TLS session by its exported keying material.
    pub fn proof(&self, exported: &[u8; 32]) -> [u8; 32] {
        proof(&self.id(), exported)
    }
}

/// The inviter's name for an open invitation: a hash, from which the token cannot be made again.
pub fn secret_id(secret: &[u8; 16]) -> Digest {
    blake3::Hasher::new_derive_key(domain::INVITE).update(secret).finalize().into()
}

/// The proof for an open invitation in the session with this exported keying material.
pub fn proof(invite: &Digest, exported: &[u8; 32]) -> [u8; 32] {
    *blake3::keyed_hash(invite.as_bytes(), exported).as_bytes()
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        let check = blake3::hash(&bytes);
        let whole = [&bytes[..], &check.as_bytes()[..4]].concat();
        write!(f, "{PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&whole).to_lowercase())
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invite to {:?} by {:?}", self.mesh, self.inviter)
    }
}

impl FromStr for Invite {
    type Err = ParseInviteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(ParseInviteError)?;
        let whole = data_encoding::BASE32_NOPAD
            .decode(encoded.to_uppercase().as_bytes())
            .map_err(|_| ParseInviteError)?;
        let (bytes, check) = whole.split_at_checked(whole.len().saturating_sub(4)).ok_or(ParseInviteError)?;
        if blake3::hash(bytes).as_bytes()[..4] != *check {
            return Err(ParseInviteError);
        }
        let invite: Self = postcard::from_bytes(bytes).map_err(|_| ParseInviteError)?;
        if invite.addresses.len() > INVITE_ADDRESSES_MAX {
            return Err(ParseInviteError);
        }
        Ok(invite)
    }
}

/// What the newcomer says first on the join protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name it would like; the inviter makes it unique.
    pub name: String,
    /// [`Invite::proof`] of this session.
    pub proof: [u8; 32],
}

/// What the inviter answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// The newcomer is a member by this roster.
    Admitted(SignedBytes),
    /// No open invitation has this secret (used, expired, or never made).
    NoSuchInvite,
    /// The inviter does not hold the admin key, so it cannot sign.
    NoAdminKey,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn invite() -> Invite {
        Invite {
            mesh: Identity::from_seed(&[1; 32]).id(),
            inviter: Identity::from_seed(&[2; 32]).id(),
            addresses: vec!["10.0.0.1:7117".parse().unwrap(), "[fe80::1]:7117".parse().unwrap()],
            secret: [3; 16],
        }
    }

    #[test]
    fn tokens_survive_copy_and_paste_and_notice_typing_errors() {
        let token = invite().to_string();
        assert_eq!(format!(" {token}\n").parse(), Ok(invite()));
        assert_eq!(token[..token.len() - 1].parse::<Invite>(), Err(ParseInviteError));
        let typo: String = token
            .char_indices()
            .map(|(i, c)| if i == 20 { if c == 'a' { 'b' } else { 'a' } } else { c })
            .collect();
        assert_eq!(typo.parse::<Invite>(), Err(ParseInviteError));
        assert_eq!("barn1".parse::<Invite>(), Err(ParseInviteError));
        assert_eq!("".parse::<Invite>(), Err(ParseInviteError));
    }

    #[test]
    fn proofs_are_bound_to_the_session() {
        assert_eq!(invite().proof(&[5; 32]), proof(&secret_id(&[3; 16]), &[5; 32]));
        assert_ne!(invite().proof(&[5; 32]), invite().proof(&[6; 32]));
    }
}
