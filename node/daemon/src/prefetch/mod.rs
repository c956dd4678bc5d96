//! Prefetch: a publisher records what a build needed, and another machine fetches it before it asks for it.
//!
//! `docs/prefetch.md` has the design. [`Recorder`] notes what calls with `BARN_BUILD` needed, signs that and writes it down;
//! [`Warmer`] finds such a list and brings what it names into the store, in the order that
//! [`barn_protocol::prefetch::order`] says and no faster than [`pace`] allows.
//!
//! Invariant: nothing is believed because a list names it, and no build waits for anything here.

mod bring;
mod files;
mod pace;
mod recorder;
mod warm;

pub use recorder::Recorder;
pub use warm::{Report, WarmError, Warmer};
