//! The one place where the node's current roster lives.
//!
//! Whoever learns of a roster (a handshake, gossip, a join, the command line) offers it here; only a newer one
//! of the same mesh is taken, it is persisted before anybody sees it, and everybody who watches is told. So an
//! epoch never falls, and a revocation reaches both planes at once.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use barn_protocol::{
    NodeId,
    identity::SignedBytes,
    roster::{RosterError, SignedRoster},
};
use tokio::sync::watch;

type Persist = dyn Fn(&SignedRoster) -> io::Result<()> + Send + Sync;

/// A shared cell with the current roster; clones share it.
#[derive(Clone)]
pub struct RosterCell(Arc<Inner>);

struct Inner {
    current: watch::Sender<Option<Arc<SignedRoster>>>,
    /// Held while an offer is judged, persisted and published, so that two offers cannot cross.
    offering: Mutex<()>,
    persist: Box<Persist>,
}

/// Why a roster was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The node has no mesh yet, so it cannot judge rosters of one.
    #[error("this node belongs to no mesh")]
    NoMesh,
    /// It is not valid, not newer, or expired.
    #[error("the roster was not taken")]
    Roster(#[from] RosterError),
    /// The first roster of a mesh could not be persisted.
    #[error("the roster could not be stored")]
    Persist(#[from] io::Error),
}

/// Why a peer has no standing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node has no mesh.
    #[error("this node belongs to no mesh")]
    NoMesh,
    /// The roster's time is over; the admin has to sign a new one.
    #[error("the roster has expired")]
    Expired,
    /// The peer is not on the roster.
    #[error("the peer is not on the roster")]
    NotListed,
}

impl RosterCell {
    /// A cell that starts with `current` (as loaded from disk, and already verified) and calls `persist` with
    /// every roster before it is taken. `persist` runs on the caller's thread and should take milliseconds.
    pub fn new(
        current: Option<SignedRoster>,
        persist: impl Fn(&SignedRoster) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (current, _) = watch::channel(current.map(Arc::new));
        Self(Arc::new(Inner { current, offering: Mutex::new(()), persist: Box::new(persist) }))
    }

    /// The roster in force, expired or not.
    pub fn current(&self) -> Option<Arc<SignedRoster>> {
        self.0.current.borrow().clone()
    }

    /// Its epoch; 0 without a roster.
    pub fn epoch(&self) -> u64 {
        self.current().map_or(0, |roster| roster.roster().epoch)
    }

    /// Told of every adoption; the present roster counts as seen.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<SignedRoster>>> {
        self.0.current.subscribe()
    }

    /// Makes `roster` the first one: this node has founded or joined its mesh. A newer roster of the same mesh
    /// is taken as well, so that joining twice does no harm.
    ///
    /// # Errors
    /// When the node belongs to another mesh, knows a newer roster, or cannot persist this one.
    pub fn establish(&self, roster: SignedRoster) -> Result<Arc<SignedRoster>, OfferError> {
        let _offering = self.0.offering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.current() {
            let (known, offered) = (known.roster(), roster.roster());
            if known.mesh != offered.mesh {
                return Err(RosterError::OtherMesh.into());
            }
            if offered.epoch <= known.epoch {
                return Err(RosterError::Stale { offered: offered.epoch, known: known.epoch }.into());
            }
        }
        (self.0.persist)(&roster)?;
        Ok(self.publish(roster))
    }

    /// Takes `bytes` if they are a newer roster of this mesh.
    ///
    /// A roster that cannot be persisted is taken nevertheless: forgetting a revocation at the next start is
    /// bad, not knowing it now is worse.
    ///
    /// # Errors
    /// Why it was not taken; the roster in force stays.
    pub fn offer(&self, bytes: SignedBytes, now_unix_s: u64) -> Result<Arc<SignedRoster>, OfferError> {
        let _offering = self.0.offering.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.current().ok_or(OfferError::NoMesh)?;
        let roster = known.replaced_by(bytes, now_unix_s)?;
        if let Err(error) = (self.0.persist)(&roster) {
            tracing::error!(%error, epoch = roster.roster().epoch, "the new roster could not be stored");
        }
        Ok(self.publish(roster))
    }

    /// Whether `peer` may be talked to.
    ///
    /// # Errors
    /// Why not.
    pub fn standing(&self, peer: &NodeId, now_unix_s: u64) -> Result<(), Refusal> {
        let current = self.current().ok_or(Refusal::NoMesh)?;
        let roster = current.roster();
        if roster.expired(now_unix_s) {
            return Err(Refusal::Expired);
        }
        roster.member(peer).map(|_| ()).ok_or(Refusal::NotListed)
    }

    fn publish(&self, roster: SignedRoster) -> Arc<SignedRoster> {
        let roster = Arc::new(roster);
        tracing::info!(epoch = roster.roster().epoch, members = roster.roster().members.len(), "new roster");
        self.0.current.send_replace(Some(roster.clone()));
        roster
    }
}

impl fmt::Debug for RosterCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RosterCell(epoch {})", self.epoch())
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{
        Identity,
        roster::{Capabilities, EXPIRY_SKEW_S, Member, Roster},
    };

    use super::*;

    fn member(seed: u8) -> Member {
        Member {
            id: Identity::from_seed(&[seed; 32]).id(),
            name: format!("node-{seed}"),
            capabilities: Capabilities::OFFICE,
        }
    }

    #[test]
    fn epochs_only_grow_and_are_persisted_first() {
        let admin = Identity::from_seed(&[1; 32]);
        let first = Roster::found(&admin, member(2), 100, 1000);
        let second = first.with(member(3), 200).unwrap();
        let stored = Arc::new(Mutex::new(Vec::new()));
        let log = stored.clone();
        let cell = RosterCell::new(None, move |roster| {
            log.lock().unwrap().push(roster.roster().epoch);
            Ok(())
        });
        let sign = |roster: &Roster| roster.clone().sign(&admin).unwrap();
        assert_eq!(cell.standing(&member(2).id, 0), Err(Refusal::NoMesh));
        assert!(matches!(cell.offer(sign(&first).bytes().clone(), 100), Err(OfferError::NoMesh)));
        cell.establish(sign(&first)).unwrap();
        let mut watch = cell.subscribe();
        assert_eq!(cell.standing(&member(3).id, 100), Err(Refusal::NotListed));
        cell.offer(sign(&second).bytes().clone(), 200).unwrap();
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        assert!(cell.offer(sign(&first).bytes().clone(), 200).is_err());
        assert!(cell.establish(sign(&second)).is_err());
        assert!(!watch.has_changed().unwrap());
        assert_eq!(cell.standing(&member(3).id, 200), Ok(()));
        assert_eq!(cell.standing(&member(3).id, 1201 + EXPIRY_SKEW_S), Err(Refusal::Expired));
        assert_eq!(*stored.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn a_revocation_holds_even_when_the_disk_is_full() {
        let admin = Identity::from_seed(&[1; 32]);
        let first = Roster::found(&admin, member(2), 100, 1000).with(member(3), 100).unwrap();
        let without = first.without(&member(3).id, 100).unwrap();
        let full = |_: &SignedRoster| Err(io::Error::from(io::ErrorKind::StorageFull));
        let cell = RosterCell::new(Some(first.clone().sign(&admin).unwrap()), full);
        cell.offer(without.sign(&admin).unwrap().bytes().clone(), 100).unwrap();
        assert_eq!(cell.standing(&member(3).id, 100), Err(Refusal::NotListed));
        let fresh = RosterCell::new(None, full);
        assert!(matches!(fresh.establish(first.sign(&admin).unwrap()), Err(OfferError::Persist(_))));
    }
}
