//! Types, canonical encoding, keys and sans-IO state machines of the mesh.
//!
//! Everything two machines must agree on lives here: what an action is and how its key is computed
//! ([`action`], [`canonical`], [`keys`], [`portable`]), who may take part ([`identity`], [`roster`], [`invite`]), what is said over
//! the network ([`wire`], [`delta`], [`known`], [`advert`]), and the decisions every node takes by itself ([`membership`],
//! [`placement`], [`transfer`], [`dht`], [`prefetch`]).
//!
//! Invariant: no clock, file system, network, environment or randomness. Time and random bytes come in as
//! arguments, effects go out as values; `clippy.toml` of this crate enforces it.

pub mod action;
pub mod advert;
pub mod canonical;
pub mod delta;
pub mod dht;
pub mod digest;
pub mod front;
pub mod identity;
pub mod invite;
pub mod keys;
pub mod known;
pub mod limits;
pub mod membership;
pub mod observed;
pub mod path;
pub mod placement;
pub mod portable;
pub mod prefetch;
mod random;
pub mod roster;
pub mod toolchain;
pub mod transfer;
pub mod tree;
pub mod wire;

pub use action::{Action, ActionKey, ActionRecord, ActionResult};
pub use digest::Digest;
pub use identity::{Identity, NodeId};
pub use observed::Observed;
pub use path::TreePath;
pub use portable::Places;
pub use toolchain::Toolchain;
pub use tree::{Entry, Tree};
