//! What members say to each other about entries. Each message is one short stream of the data plane.

use serde::{Deserialize, Serialize};

use super::{
    EntryKey,
    limits::{BODIES_MAX, HOLDERS_MAX},
};
use crate::{Digest, NodeId, wire::Bytes};

/// What is kept under a key: what members signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// For which toolchain it was made, so that it goes when the toolchain does.
    pub toolchain: Digest,
    /// What each signed; at most [`BODIES_MAX`] are kept.
    pub bodies: Vec<Body>,
}

/// What one member signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The signed bytes, encoded.
    pub signed: Bytes,
    /// Small outputs that a record names, each once, in any order: named by their digests.
    pub inline: Vec<Bytes>,
}

impl Entry {
    /// The bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bodies.iter().map(Body::bytes).sum()
    }

    /// Adds what others signed and is not here yet. Twice [`BODIES_MAX`] are enough: two owners have no more.
    pub fn join(&mut self, other: Self) {
        for body in other.bodies {
            if self.bodies.len() < 2 * BODIES_MAX && self.bodies.iter().all(|own| own.signed != body.signed) {
                self.bodies.push(body);
            }
        }
    }

    /// It, without small outputs.
    pub fn without_outputs(mut self) -> Self {
        self.bodies.iter_mut().for_each(|body| body.inline.clear());
        self
    }
}

impl Body {
    /// The bytes it holds.
    pub fn bytes(&self) -> usize {
        self.signed.0.len() + self.inline.iter().map(|blob| blob.0.len()).sum::<usize>()
    }
}

/// Asks an owner what it keeps under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// The key.
    pub key: EntryKey,
    /// The asker will make the entry if nobody has it or makes it: this owner keeps the mark.
    pub mark: bool,
    /// With the small outputs; the other owner is asked without.
    pub inline: bool,
}

/// An owner's answer to one [`Get`], in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing is here, and nobody is known to make it.
    Nothing,
    /// Somebody else makes it; the owner will tell when it is there or given up.
    Making {
        /// For how long that is believed, in milliseconds.
        left_ms: u32,
    },
    /// Here it is.
    Found {
        /// What is kept.
        entry: Entry,
        /// Who has what it names; at most [`HOLDERS_MAX`].
        holders: Vec<NodeId>,
    },
}

/// Tells an owner, or one who waits, about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: EntryKey,
    /// What is told.
    pub what: Told,
}

/// What is told of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The entry.
    Entry {
        /// What is to be kept.
        entry: Entry,
        /// Who has what it names.
        holders: Vec<NodeId>,
    },
    /// The teller has what the entry names, too.
    Holding,
    /// Whoever was making it does not any more.
    GivenUp,
}

/// Adds `new` to `holders` while there is room.
pub(super) fn merge<T: PartialEq + Copy>(holders: &mut Vec<T>, new: impl IntoIterator<Item = T>) {
    for holder in new {
        if holders.len() < HOLDERS_MAX && !holders.contains(&holder) {
            holders.push(holder);
        }
    }
}
