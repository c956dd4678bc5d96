//! The limits of the office's cache, with their reasons.

use std::time::Duration;

/// How long a member must have been up to be given keys: machines that come and go at once move nothing. A node that has
/// just started takes all it finds within this time for stable: it cannot tell since when they are there.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);
/// How long a stable member may be away before its keys go to others: a restart, a cable, a short suspend.
pub const GONE_AFTER: Duration = Duration::from_secs(300);
/// The longest an owner may take to answer before it counts as silent. A LAN's round trip takes a hundredth of it.
pub const ANSWER_MAX: Duration = Duration::from_millis(30);
/// How long a silent owner is not asked.
pub const SILENT_FOR: Duration = Duration::from_secs(10);
/// How long a question waits for company while another message to the same owner is not answered yet (Nagle's way): a
/// quiet mesh answers at once, and a storm shares messages.
pub const GET_WAIT_MAX: Duration = Duration::from_millis(2);
/// How long what is told to an owner waits for company. Nobody is kept waiting by it but who waits for this very entry.
pub const PUT_WAIT_MAX: Duration = Duration::from_millis(20);
/// Keys in one message.
pub const KEYS_MAX: usize = 64;
/// Bytes of entries in one message, beyond which it goes at once.
pub const PUT_BYTES_MAX: usize = 256 << 10;
/// Largest signed part of an entry that is shared, in bytes. Records have some 300, manifests of large units 10,000.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// What members signed under one key. More would let whoever asks for one record be sent many.
pub const BODIES_MAX: usize = 4;
/// Small outputs of one record together, in bytes: messages, dependency files, the smallest objects.
pub const INLINE_BYTES_MAX: usize = 8 << 10;
/// Members that are noted to have what an entry names.
pub const HOLDERS_MAX: usize = 4;
/// Entries an owner knows of, at some 60 bytes of memory each; beyond it a random one is forgotten.
pub const ENTRIES_MAX: usize = 200_000;
/// Look-ups under way; beyond it nothing is looked up. More than any build starts.
pub const LOOKUPS_MAX: usize = 4096;
/// How long an owner believes that a member is making an entry.
pub const MARK_MAX: Duration = Duration::from_secs(60);
/// Marks an owner keeps; beyond it none are made, and work may be done twice.
pub const MARKS_MAX: usize = 4096;
/// Members that are told when a marked entry is there; others that ask are told to make it themselves.
pub const WAITERS_MAX: usize = 16;
/// How long somebody waits for what another makes, before making it as well: a typical compile.
pub const WAIT_MAX: Duration = Duration::from_secs(4);
/// How long a node does not wait for others after it has waited in vain: whoever claims to make everything, or takes for
/// ever, costs a build one wait a minute.
pub const IMPATIENT_FOR: Duration = Duration::from_secs(60);
/// What a node hands over to new owners in the background, in bytes a second.
pub const HAND_BYTES_PER_S: u64 = 8 << 10;
/// What all members together may hand to one new owner, in bytes a second; each takes its share of it.
pub const HANDED_BYTES_PER_S: u64 = 8 << 10;
/// Keys handed over in one message.
pub const HAND_KEYS_MAX: usize = 32;
/// Keys waiting to be handed over; a full queue pauses the sweep that fills it.
pub const HAND_QUEUE_MAX: usize = 65_536;
/// Entries looked at in one step of a sweep: some 100 µs.
pub const SWEEP_STEP: usize = 2048;
/// Pause between two steps, so that a sweep of 100,000 entries takes a few seconds of which it works a part.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(50);
