//! The trees two nodes have told each other, so that the next ones can be told as differences.
//!
//! Each side keeps its own memory of each peer. The two need not agree: what is forgotten is told again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{digest::Digest, identity::NodeId, tree::Tree};

/// Trees a receiver remembers of one peer.
pub const RECEIVED_PER_PEER_MAX: usize = 64;
/// Trees a sender remembers of one peer: fewer than the receiver, so that what it names is still there although
/// streams overtake each other.
pub const SENT_PER_PEER_MAX: usize = 32;
/// Trees looked at for a base: the most recent ones. Comparing with one costs some 10 µs.
pub const CANDIDATES_MAX: usize = 16;
/// Entries of all remembered trees of all peers; at some 200 bytes each, 50 MB at worst.
pub const ENTRIES_MAX: usize = 256 << 10;

/// Trees by peer, bounded; the least recently used go first.
#[derive(Debug)]
pub struct KnownTrees {
    per_peer_max: usize,
    entries_max: usize,
    entries: usize,
    uses: u64,
    peers: HashMap<NodeId, VecDeque<Known>>,
}

#[derive(Debug)]
struct Known {
    digest: Digest,
    tree: Arc<Tree>,
    /// Grows with every use of any tree.
    used: u64,
}

impl KnownTrees {
    /// An empty memory with these limits.
    pub fn new(per_peer_max: usize, entries_max: usize) -> Self {
        Self { per_peer_max, entries_max, entries: 0, uses: 0, peers: HashMap::new() }
    }

    /// Notes that `peer` and this node both have `tree`.
    pub fn remember(&mut self, peer: NodeId, digest: Digest, tree: &Arc<Tree>) {
        if self.recall(&peer, &digest).is_some() {
            return;
        }
        self.uses += 1;
        self.entries += tree.len();
        let trees = self.peers.entry(peer).or_default();
        trees.push_front(Known { digest, tree: tree.clone(), used: self.uses });
        if trees.len() > self.per_peer_max {
            self.forget_last(&peer);
        }
        while self.entries > self.entries_max {
            let oldest = |trees: &VecDeque<Known>| trees.back().map(|known| known.used);
            let Some(peer) = self.peers.iter().min_by_key(|(_, trees)| oldest(trees)).map(|(peer, _)| *peer)
            else {
                return;
            };
            self.forget_last(&peer);
        }
    }

    /// A tree of `peer` by its digest; it counts as used.
    pub fn recall(&mut self, peer: &NodeId, digest: &Digest) -> Option<Arc<Tree>> {
        let trees = self.peers.get_mut(peer)?;
        let place = trees.iter().position(|known| known.digest == *digest)?;
        let mut known = trees.remove(place)?;
        self.uses += 1;
        known.used = self.uses;
        let tree = known.tree.clone();
        trees.push_front(known);
        Some(tree)
    }

    /// The trees of `peer` that may be near to the next one, most recently used first.
    pub fn candidates(&self, peer: &NodeId) -> Vec<(Digest, Arc<Tree>)> {
        let trees = self.peers.get(peer).into_iter().flatten().take(CANDIDATES_MAX);
        trees.map(|known| (known.digest, known.tree.clone())).collect()
    }

    /// Forgets all trees of `peer`: it said that it lacks one, so it has probably been restarted.
    pub fn forget(&mut self, peer: &NodeId) {
        while self.peers.contains_key(peer) {
            self.forget_last(peer);
        }
    }

    fn forget_last(&mut self, peer: &NodeId) {
        let Some(trees) = self.peers.get_mut(peer) else { return };
        if let Some(known) = trees.pop_back() {
            self.entries -= known.tree.len();
        }
        if trees.is_empty() {
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Identity, TreePath};

    fn peer(seed: u8) -> NodeId {
        Identity::from_seed(&[seed; 32]).id()
    }

    /// A tree of `size` entries that no other call gives.
    fn tree(number: usize, size: usize) -> Arc<Tree> {
        let mut tree = Tree::new();
        for entry in 0..size {
            let path = TreePath::new(format!("/{number}/{entry}")).unwrap();
            tree.insert(path, Entry::Directory).unwrap();
        }
        Arc::new(tree)
    }

    fn remember(known: &mut KnownTrees, who: u8, number: usize, size: usize) -> Digest {
        let tree = tree(number, size);
        known.remember(peer(who), tree.digest(), &tree);
        tree.digest()
    }

    #[test]
    fn the_least_recently_used_of_a_peer_goes_first() {
        let mut known = KnownTrees::new(2, 1000);
        let one = remember(&mut known, 1, 1, 1);
        let two = remember(&mut known, 1, 2, 1);
        assert!(known.recall(&peer(1), &one).is_some());
        let three = remember(&mut known, 1, 3, 1);
        let digests: Vec<Digest> = known.candidates(&peer(1)).into_iter().map(|(digest, _)| digest).collect();
        assert_eq!(digests, [three, one]);
        assert!(known.recall(&peer(1), &two).is_none());
        assert!(known.recall(&peer(2), &one).is_none(), "each peer has its own");
    }

    #[test]
    fn entries_of_all_peers_together_are_bounded() {
        let mut known = KnownTrees::new(8, 100);
        let first = remember(&mut known, 1, 1, 40);
        let second = remember(&mut known, 2, 2, 40);
        assert!(known.recall(&peer(1), &first).is_some());
        remember(&mut known, 3, 3, 40);
        assert!(known.recall(&peer(2), &second).is_none(), "the least recently used of all went");
        assert!(known.recall(&peer(1), &first).is_some());
        let large = remember(&mut known, 1, 4, 101);
        assert!(known.recall(&peer(1), &large).is_none());
        assert_eq!((known.entries, known.peers.len()), (0, 0));
    }

    #[test]
    fn what_is_remembered_twice_counts_once() {
        let mut known = KnownTrees::new(8, 100);
        let digest = remember(&mut known, 1, 1, 60);
        assert_eq!(remember(&mut known, 1, 1, 60), digest);
        assert_eq!(known.entries, 60);
        remember(&mut known, 2, 2, 30);
        known.forget(&peer(1));
        assert_eq!(known.entries, 30);
        assert!(known.candidates(&peer(1)).is_empty());
    }
}
