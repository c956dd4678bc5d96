//! Runs one program in bubblewrap: a spec (data), a plan (pure), an execution.
//!
//! Participants: the *host* (this library inside a node), *bubblewrap*, the *room* (the binary `barn-room`, the
//! first program inside), and the *compile* (any program at all, assumed hostile). [`Spec`] says what the compile
//! may see and use; [`Plan::new`] turns it into bubblewrap's arguments without touching anything;
//! [`Sandbox::run`] carries the plan out and talks to the room over two pipes ([`wire`]).
//!
//! Goals: the compile sees exactly the spec's files at the spec's paths; it changes nothing outside; it ends,
//! with everything it started, within the limits; its outputs come out as bytes, never as paths.
//! Non-goals: hiding that it is sandboxed; protecting one compile from itself.
//!
//! Invariants: bubblewrap never runs as host uid 0; the host never opens a path the compile made; every reply of
//! the room is checked as hostile (`receive`); a machine that cannot sandbox gets an error, never a
//! weaker sandbox. `docs/sandbox.md` has the threat notes.

mod access;
mod arrange;
mod cancel;
mod loader;
pub mod notify;
mod path;
mod plan;
mod receive;
mod run;
mod sandbox;
mod seccomp;
mod selftest;
mod sink;
mod spawner;
mod spec;
pub mod sys;
pub mod wire;

pub use access::AccessError;
pub use cancel::CancelToken;
pub use loader::{Helper, LoaderError};
pub use path::{InsidePath, PathError};
pub use plan::{ENTRIES_MAX, MOUNTS_MAX, OUTPUTS_MAX, Plan, PlanError, TEXT_BYTES_MAX, TOPS_MAX};
pub use receive::{Exit, Finished, Limit, Observed, Output, OutputState, Refusal, Violation};
pub use run::RunError;
pub use sandbox::{Config, DROP_TO_DEFAULT, Sandbox, SetupError};
pub use sink::{DirectorySink, MemorySink, OutputSink};
pub use spec::{Entry, Kind, Limits, Mount, Priority, Spec};
