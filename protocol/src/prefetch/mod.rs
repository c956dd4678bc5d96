//! Prefetch: what a build needed, signed by whoever may publish, and the order in which another machine fetches it.
//!
//! `docs/prefetch.md` has the design. A [`BuildList`] says what is worth asking for and vouches for no result: each result
//! is believed by its own record.

mod list;
mod order;

pub use list::{
    BuildEntry, BuildList, BuildName, ENTRIES_MAX, LIST_CONTEXT, ListError, NAME_BYTES_MAX, NameError,
    TOOLCHAINS_MAX,
};
pub use order::{Part, Step, order};
