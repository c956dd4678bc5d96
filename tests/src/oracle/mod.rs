//! The scanner's judge: what a traced compiler really opens and probes.
//!
//! [`corpus`] names units of real code bases, [`trace`] compiles one under `strace` and collects what the compiler proper
//! asked the kernel for, [`asker`] and [`disk`] let the scanner answer the same, and [`judge`] holds the two against
//! each other:
//!
//! - a file the compiler opened or found, and the scan does not name, is missing: a failure;
//! - a path the compiler looked at in vain, and the scan does not name (nor a directory above it), is missing: a failure;
//! - what the scan names and the compiler never touched is surplus: counted;
//! - units that the scan does not decide are counted by reason, units that do not compile are skipped and counted.
//!
//! The compiler's own files (programs, libraries, locales) and what it writes are no inputs and left out. Precompiled headers
//! that are looked for in vain are left out too: the node looks for them by itself.

pub mod asker;
pub mod codes;
pub mod corpus;
pub mod disk;
mod fetch;
pub mod judge;
pub mod report;
pub mod trace;

pub use corpus::{Base, Unit};
pub use fetch::of_workspace;
pub use judge::{Court, Verdict};
pub use report::Report;
