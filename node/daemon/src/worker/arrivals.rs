//! Blobs on their way here, so that nobody is asked twice for the same.
//!
//! The first actions of a project share their headers and come at the same time. Whoever is first claims a
//! blob and asks for it; the others wait until the claim is gone and look whether the blob came. Only streams of
//! one requester wait for each other: nobody is held up by another's slow line.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_protocol::{Digest, NodeId};
use tokio::sync::watch;

/// The claims of all streams.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<HashMap<(NodeId, Digest), watch::Receiver<()>>>);

/// Who receives a blob.
pub(super) enum Arrival {
    /// The caller; the claim ends when this is dropped.
    Ours(Claim),
    /// Another stream of the same requester.
    Theirs(Awaited),
}

/// The right and duty to receive a blob.
pub(super) struct Claim {
    arrivals: Arc<Arrivals>,
    key: (NodeId, Digest),
    // Dropped after the claim is taken out, which wakes those who wait.
    _end: watch::Sender<()>,
}

/// A claim of another stream.
pub(super) struct Awaited(watch::Receiver<()>);

impl Arrivals {
    /// Claims a blob that `peer` is to send, unless that is done already.
    pub(super) fn claim(self: &Arc<Self>, peer: NodeId, digest: Digest) -> Arrival {
        let key = (peer, digest);
        let mut claims = self.lock();
        if let Some(claimed) = claims.get(&key) {
            return Arrival::Theirs(Awaited(claimed.clone()));
        }
        let (end, ended) = watch::channel(());
        claims.insert(key, ended);
        Arrival::Ours(Claim { arrivals: self.clone(), key, _end: end })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NodeId, Digest), watch::Receiver<()>>> {
        self.0.lock().expect("no panic while the claims are held")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.arrivals.lock().remove(&self.key);
    }
}

impl Awaited {
    /// Resolves when the blob is here or will not come on that stream.
    pub(super) async fn over(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use barn_protocol::Identity;

    use super::*;

    #[tokio::test]
    async fn a_blob_is_claimed_once_until_the_claim_ends() {
        let arrivals = Arc::new(Arrivals::default());
        let [one, two] = [1, 2].map(|seed| Identity::from_seed(&[seed; 32]).id());
        let blob = Digest::of(b"stdio.h");
        let Arrival::Ours(claim) = arrivals.claim(one, blob) else { panic!("nobody else has it") };
        assert!(matches!(arrivals.claim(two, blob), Arrival::Ours(_)), "another requester's own business");
        let Arrival::Theirs(awaited) = arrivals.claim(one, blob) else { panic!("it is claimed") };
        let mut over = tokio::spawn(awaited.over());
        let early = tokio::time::timeout(Duration::from_millis(20), &mut over).await;
        assert!(early.is_err(), "the claim still stands");
        drop(claim);
        over.await.unwrap();
        assert!(matches!(arrivals.claim(one, blob), Arrival::Ours(_)));
        assert!(arrivals.lock().is_empty());
    }
}
