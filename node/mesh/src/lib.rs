//! The mesh on the wire.
//!
//! Two planes on one port number. The control plane (libp2p on TCP) finds peers, keeps a connection to each, spreads
//! rosters and adverts, and knows who has which toolchain. The data plane (QUIC on UDP) keeps one pooled connection
//! per peer, on which every action has a stream of its own. Both authenticate by the node's one ed25519 key, and both
//! ask the same [`RosterCell`] whether that key has a standing. `docs/mesh.md` draws the handshakes and lists the
//! limits.
//!
//! Goals: no configuration beyond one token; nothing but a handshake for strangers; a peer that vanished is noticed
//! within seconds; a struck peer is cut off at once.
//!
//! Non-goals: nodes behind NAT, relays, meshes of thousands.
//!
//! Invariants:
//! - Without a roster the node listens nowhere.
//! - Nothing of libp2p and no data stream runs with a key that has no standing on the roster in force.
//! - Everything that waits for a peer has a time limit, everything a peer can fill has a size limit ([`limits`]).

mod admission;
mod blob;
mod cell;
mod clock;
mod control;
mod data;
mod discovery;
mod join;
mod keys;
pub mod limits;
mod mesh;
mod packing;
mod shared;
pub mod stream;

pub use cell::{OfferError, Refusal, RosterCell};
pub use clock::unix_now_s;
pub use control::SwarmError;
pub use data::OpenError;
pub use join::{Admitter, JoinError, NoInvitations, join};
pub use mesh::{Listen, Mesh, MeshConfig, MeshEvent, PeerView, StartError};
pub use packing::{Cpu, Packing, UNKNOWN_LINE_BYTES_PER_S};
pub use quinn::{RecvStream, SendStream};
