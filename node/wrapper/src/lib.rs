//! The wrapper that build systems call, and what it shares with its node.
//!
//! The wrapper (program `barn`) is tiny, for its start is part of every cache hit: the standard library and the
//! system's calls, one thread, no runtime. It finds the real compiler ([`call`], [`search`], [`guard`]), asks the
//! node ([`start`], [`link`], [`messages`]) and does what the node answers; whatever goes wrong, it becomes the
//! compiler. `docs/wrapper.md` has its states and waits.
//!
//! The node uses [`messages`], [`link`], [`places`] and [`env_vars`] as well, so that both agree by construction.

pub mod call;
pub mod env_vars;
pub mod guard;
pub mod link;
mod local;
pub mod messages;
mod outputs;
pub mod places;
mod platform;
pub mod search;
mod session;
pub mod start;

pub use platform::effective_uid;
pub use session::run;
