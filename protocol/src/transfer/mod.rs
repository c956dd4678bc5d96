//! Toolchains on their way: what a piece is, how it is verified, and whom to ask for which.
//!
//! A toolchain's blobs, each once and in order of digests, are cut into pieces ([`PieceMap`]). Every member cuts
//! alike, so a piece is a number. A piece is verified by its value in BLAKE3's tree, and the values of a blob by
//! the blob's digest ([`PieceValues`]): a wrong piece is known before it is kept, and so is who sent it.
//! [`Swarm`] decides whom to ask.
//!
//! Goals: the member that wants the compile sends each piece about once, however many workers are cold; a transfer
//! is as fast as the links; it ends while any honest source is reachable.
//! Non-goals: fairness. Everybody is of one office, and wants the others to be done too.

mod gate;
mod pieces;
mod set;
mod swarm;

pub use gate::Gate;
pub use pieces::{PIECE_BYTES, PieceMap, PieceValue, PieceValues, Place, piece_value};
pub use set::PieceSet;
pub use swarm::{Ask, Swarm, limits};
