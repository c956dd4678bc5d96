//! The roster: the admin-signed allowlist of a mesh.
//!
//! A roster has an epoch; a higher epoch replaces a lower one, and a node that is not on the newest roster is
//! cut off. The mesh's identity is the admin's public key.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{Identity, NodeId, SignedBytes},
    limits::{NAME_BYTES_MAX, ROSTER_BYTES_MAX, ROSTER_MEMBERS_MAX},
};

/// Context string of a roster's signature.
pub const ROSTER_CONTEXT: &str = "barnraise roster v1";

/// How far a node's clock may be off before an expired roster is refused, in seconds: two days, because
/// machines with a dead clock battery are off by whole days and nobody notices.
pub const EXPIRY_SKEW_S: u64 = 2 * 24 * 3600;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Have its compiles run by others.
    pub submit: bool,
    /// Run the compiles of others.
    pub execute: bool,
    /// Publish results that others believe without having run them.
    pub publish: bool,
}

impl Capabilities {
    /// What an office machine gets: submit and execute.
    pub const OFFICE: Self = Self { submit: true, execute: true, publish: false };
}

/// One machine of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key.
    pub id: NodeId,
    /// What people call it; unique on the roster.
    pub name: String,
    /// What it may do.
    pub capabilities: Capabilities,
}

/// The members of a mesh at one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The admin's key, which names the mesh.
    pub mesh: NodeId,
    /// Grows with every change.
    pub epoch: u64,
    /// When the admin signed it, in seconds since the Unix epoch.
    pub issued_unix_s: u64,
    /// When it ends, likewise.
    pub expires_unix_s: u64,
    /// All members, in order of admission.
    pub members: Vec<Member>,
}

/// Why a roster was not accepted or not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// The signature is not the admin's, or the bytes are no roster.
    #[error("the roster is not signed by the mesh's admin key")]
    Signature,
    /// It is of another mesh.
    #[error("the roster is of another mesh")]
    OtherMesh,
    /// It is not newer than the one that is known.
    #[error("the roster has epoch {offered}, not above {known}")]
    Stale {
        /// The offered epoch.
        offered: u64,
        /// The epoch already known.
        known: u64,
    },
    /// Its time is over.
    #[error("the roster has expired")]
    Expired,
    /// Over the limits, or a name or key comes twice.
    #[error("the roster is malformed: {0}")]
    Malformed(&'static str),
}

impl Roster {
    /// The first roster of a new mesh, with the founder on it.
    pub fn found(admin: &Identity, founder: Member, now_unix_s: u64, lifetime_s: u64) -> Self {
        Self {
            mesh: admin.id(),
            epoch: 1,
            issued_unix_s: now_unix_s,
            expires_unix_s: now_unix_s.saturating_add(lifetime_s),
            members: vec![founder],
        }
    }

    /// The next epoch with `member` added, or its name and capabilities changed.
    ///
    /// # Errors
    /// When the roster would break its limits or the name is another member's.
    pub fn with(&self, member: Member, now_unix_s: u64) -> Result<Self, RosterError> {
        let mut next = self.renewed(now_unix_s);
        match next.members.iter_mut().find(|m| m.id == member.id) {
            Some(there) => *there = member,
            None => next.members.push(member),
        }
        next.check()?;
        Ok(next)
    }

    /// The next epoch without `id`; `None` when it is no member.
    pub fn without(&self, id: &NodeId, now_unix_s: u64) -> Option<Self> {
        self.member(id)?;
        let mut next = self.renewed(now_unix_s);
        next.members.retain(|m| m.id != *id);
        Some(next)
    }

    /// The next epoch with the same members and lifetime, issued now.
    pub fn renewed(&self, now_unix_s: u64) -> Self {
        let lifetime_s = self.expires_unix_s.saturating_sub(self.issued_unix_s);
        Self {
            epoch: self.epoch + 1,
            issued_unix_s: now_unix_s,
            expires_unix_s: now_unix_s.saturating_add(lifetime_s),
            ..self.clone()
        }
    }

    /// The member with this key.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == *id)
    }

    /// The member with this name.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name == name)
    }

    /// A name like `wanted` that no other member has: `wanted`, else `wanted-2`, `wanted-3`, ….
    pub fn free_name(&self, wanted: &str, id: &NodeId) -> String {
        let cleaned = clean_name(wanted);
        let taken = |name: &str| self.members.iter().any(|m| m.name == name && m.id != *id);
        let numbered = |n: usize| {
            let suffix = format!("-{n}");
            let room = NAME_BYTES_MAX - suffix.len();
            // Clean names are ASCII, so every byte is a border.
            format!("{}{suffix}", &cleaned[..cleaned.len().min(room)])
        };
        (1..=ROSTER_MEMBERS_MAX + 1)
            .map(|n| if n == 1 { cleaned.clone() } else { numbered(n) })
            .find(|name| !taken(name))
            .unwrap_or_else(|| id.short())
    }

    /// Whether the roster's time is over, with allowance for a wrong clock.
    pub fn expired(&self, now_unix_s: u64) -> bool {
        now_unix_s > self.expires_unix_s.saturating_add(EXPIRY_SKEW_S)
    }

    /// Signs the roster with the admin's key.
    ///
    /// # Errors
    /// When `admin` is not this mesh's admin, or the roster is malformed.
    pub fn sign(self, admin: &Identity) -> Result<SignedRoster, RosterError> {
        if admin.id() != self.mesh {
            return Err(RosterError::OtherMesh);
        }
        self.check()?;
        let payload =
            postcard::to_stdvec(&self).map_err(|_| RosterError::Malformed("it cannot be encoded"))?;
        Ok(SignedRoster { bytes: admin.sign(ROSTER_CONTEXT, payload), roster: self })
    }

    fn check(&self) -> Result<(), RosterError> {
        if self.members.len() > ROSTER_MEMBERS_MAX {
            return Err(RosterError::Malformed("too many members"));
        }
        let mut names = std::collections::HashSet::new();
        let mut ids = std::collections::HashSet::new();
        for member in &self.members {
            if member.name != clean_name(&member.name) {
                return Err(RosterError::Malformed(
                    "a member's name has other characters than a-z 0-9 - . _",
                ));
            }
            if !names.insert(&member.name) || !ids.insert(member.id) {
                return Err(RosterError::Malformed("a name or key comes twice"));
            }
        }
        Ok(())
    }
}

/// A roster together with the very bytes its admin signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoster {
    bytes: SignedBytes,
    roster: Roster,
}

impl SignedRoster {
    /// Checks a roster of the mesh `mesh` as it came from a peer or from disk.
    ///
    /// # Errors
    /// When it is not validly signed by `mesh`, or is malformed. Expiry is not checked here.
    pub fn verify(mesh: &NodeId, bytes: SignedBytes) -> Result<Self, RosterError> {
        if bytes.unverified_payload().len() > ROSTER_BYTES_MAX {
            return Err(RosterError::Malformed("too large"));
        }
        let payload = bytes.verified(ROSTER_CONTEXT, mesh).ok_or(RosterError::Signature)?;
        let roster: Roster = postcard::from_bytes(payload).map_err(|_| RosterError::Signature)?;
        if roster.mesh != *mesh {
            return Err(RosterError::OtherMesh);
        }
        roster.check()?;
        Ok(Self { bytes, roster })
    }

    /// Takes `offered` in place of this roster if it is of the same mesh, newer, and has not expired.
    ///
    /// # Errors
    /// Why it was not taken; this roster then stays in force.
    pub fn replaced_by(&self, offered: SignedBytes, now_unix_s: u64) -> Result<Self, RosterError> {
        let offered = Self::verify(&self.roster.mesh, offered)?;
        let known = self.roster.epoch;
        if offered.roster.epoch <= known {
            return Err(RosterError::Stale { offered: offered.roster.epoch, known });
        }
        if offered.roster.expired(now_unix_s) {
            return Err(RosterError::Expired);
        }
        Ok(offered)
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The bytes as signed.
    pub fn bytes(&self) -> &SignedBytes {
        &self.bytes
    }
}

/// `name` in lower case with everything but letters, digits, `-`, `.` and `_` replaced by `-`, cut to the limit.
pub fn clean_name(name: &str) -> String {
    let cleaned: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') { c } else { '-' })
        .take(NAME_BYTES_MAX)
        .collect();
    if cleaned.is_empty() { "node".to_owned() } else { cleaned }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn member(n: u8) -> Member {
        Member { id: identity(n).id(), name: format!("host{n}"), capabilities: Capabilities::OFFICE }
    }

    fn first() -> Roster {
        Roster::found(&identity(0), member(1), 1000, 100)
    }

    #[test]
    fn every_change_is_a_new_epoch() {
        let two = first().with(member(2), 2000).unwrap();
        assert_eq!((two.epoch, two.members.len(), two.expires_unix_s), (2, 2, 2100));
        let one = two.without(&member(1).id, 3000).unwrap();
        assert_eq!((one.epoch, one.members), (3, vec![member(2)]));
        assert_eq!(two.without(&member(9).id, 0), None);
    }

    #[test]
    fn only_the_admin_signs_and_only_newer_rosters_are_taken() {
        let (admin, thief) = (identity(0), identity(9));
        let old = first().sign(&admin).unwrap();
        let new = first().with(member(2), 1001).unwrap().sign(&admin).unwrap();
        assert_eq!(old.replaced_by(new.bytes().clone(), 1001).unwrap(), new);
        assert_eq!(
            new.replaced_by(old.bytes().clone(), 1001),
            Err(RosterError::Stale { offered: 1, known: 2 })
        );
        assert_eq!(
            new.replaced_by(new.bytes().clone(), 1001),
            Err(RosterError::Stale { offered: 2, known: 2 })
        );
        assert_eq!(first().sign(&thief), Err(RosterError::OtherMesh));
        let mut forged = first();
        forged.mesh = thief.id();
        let forged = forged.with(member(3), 0).unwrap().sign(&thief).unwrap();
        assert_eq!(old.replaced_by(forged.bytes().clone(), 1001), Err(RosterError::Signature));
    }

    #[test]
    fn expiry_allows_for_wrong_clocks() {
        let old = first().sign(&identity(0)).unwrap();
        let new = first().renewed(1000).sign(&identity(0)).unwrap();
        let end = 1100 + EXPIRY_SKEW_S;
        assert!(old.replaced_by(new.bytes().clone(), end).is_ok());
        assert_eq!(old.replaced_by(new.bytes().clone(), end + 1), Err(RosterError::Expired));
    }

    #[test]
    fn names_are_clean_and_unique() {
        let roster = first();
        assert_eq!(roster.free_name("host1", &member(1).id), "host1");
        assert_eq!(roster.free_name("host1", &member(2).id), "host1-2");
        let long = "x".repeat(NAME_BYTES_MAX);
        let crowded = roster.with(Member { name: long.clone(), ..member(3) }, 0).unwrap();
        let name = crowded.free_name(&long, &member(4).id);
        assert!(crowded.with(Member { name, ..member(4) }, 0).is_ok());
        assert_eq!(clean_name("Émil's Mac"), "-mil-s-mac");
        assert_eq!(clean_name(""), "node");
        let twin = Member { id: identity(2).id(), ..member(1) };
        assert!(roster.with(twin, 0).is_err());
    }
}
