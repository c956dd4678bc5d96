//! What happens to a node's part of the office's cache, and what it wants done.

use std::time::Duration;

use super::{Answer, Entry, EntryKey, Get, Put};
use crate::NodeId;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member is connected.
    PeerUp(NodeId),
    /// It no longer is.
    PeerDown(NodeId),
    /// This node wants an entry that it does not keep itself.
    Wanted {
        /// Names the look-up; never used twice.
        lookup: u64,
        /// The key.
        key: EntryKey,
        /// What for.
        intent: Intent,
    },
    /// Nobody waits for the look-up any more.
    Dropped {
        /// Which.
        lookup: u64,
    },
    /// This node made an entry; its owners are to keep it.
    Made {
        /// The key.
        key: EntryKey,
        /// The entry.
        entry: Entry,
    },
    /// A look-up that was told to make the entry does not after all.
    GaveUp {
        /// Which.
        lookup: u64,
        /// The key.
        key: EntryKey,
    },
    /// This node has got what an entry names.
    Holding {
        /// The key.
        key: EntryKey,
    },
    /// The answers to [`Effect::Ask`], in order; empty when the stream failed.
    Answered {
        /// Which message.
        message: u64,
        /// The answers.
        answers: Vec<Answer>,
    },
    /// A peer tells something.
    Told {
        /// Who.
        from: NodeId,
        /// What. Entries were checked to be signed by a member.
        puts: Vec<Put>,
    },
    /// What [`Effect::Hand`] asked for was sent, in so many bytes.
    Handed {
        /// Bytes of the message.
        bytes: u64,
    },
    /// An entry was found where this node keeps those it owns.
    Kept {
        /// The key.
        key: EntryKey,
        /// Who has what it names.
        holders: Vec<NodeId>,
    },
    /// An entry is not there any more.
    Evicted {
        /// The key.
        key: EntryKey,
    },
}

/// What an entry is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It is made if nobody has it. Whoever has it, or is making it, is believed.
    Make,
    /// It is made if nobody has it, or nobody who is believed: all owners are heard, and nobody but this node waited for.
    MakeAnyhow,
    /// It is used if the first owner has it; else nothing follows.
    Peek,
    /// It is used if what all owners have is believed; else nothing follows.
    PeekAll,
}

impl Intent {
    /// Whether the look-up goes on when one owner has something.
    pub(super) const fn hears_all(self) -> bool {
        matches!(self, Self::MakeAnyhow | Self::PeekAll)
    }

    /// Whether the entry is made if it is not there.
    pub(super) const fn makes(self) -> bool {
        matches!(self, Self::Make | Self::MakeAnyhow)
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask a peer. [`Event::Answered`] must follow.
    Ask {
        /// Whom.
        peer: NodeId,
        /// Names the message.
        message: u64,
        /// What.
        gets: Vec<Get>,
    },
    /// Tell a peer; nothing is answered.
    Tell {
        /// Whom.
        peer: NodeId,
        /// What.
        puts: Vec<Put>,
    },
    /// Keep what was told under a key that this node owns, beside what is kept there already.
    Keep {
        /// The key.
        key: EntryKey,
        /// The entry.
        entry: Entry,
        /// Who has what it names, as far as is known now.
        holders: Vec<NodeId>,
    },
    /// Send a peer these entries, without small outputs. [`Event::Handed`] must follow.
    Hand {
        /// Whom.
        peer: NodeId,
        /// The keys, and who has what they name.
        entries: Vec<(EntryKey, Vec<NodeId>)>,
    },
    /// A look-up has ended.
    Ended {
        /// Which.
        lookup: u64,
        /// How.
        outcome: Outcome,
    },
}

/// How a look-up ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An owner has it.
    Found {
        /// The entry, not yet judged.
        entry: Entry,
        /// Who has what it names.
        holders: Vec<NodeId>,
        /// Who gave it.
        owner: NodeId,
    },
    /// Nobody asked has it. If the intent was to make it, this node is believed to do so now: [`Event::Made`] or
    /// [`Event::GaveUp`] is to follow.
    Nothing,
    /// Another look-up of this node has made it meanwhile.
    MadeHere,
}

/// What an owner knows of a key it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is kept here; these have what it names.
    Here(Vec<NodeId>),
    /// The asker is to wait: [`Answer::Making`].
    Making(Duration),
    /// [`Answer::Nothing`].
    Nothing,
}
