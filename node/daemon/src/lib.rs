//! The node: requester, worker, toolchains and the command line.
//!
//! [`daemon`] puts a [`node`] together and listens to the mesh. A call of the wrapper arrives in [`session`] and
//! is answered by [`requester`], which asks the [`office_cache`]; a request of a peer arrives through the mesh and is
//! answered by [`worker`], [`offers`] or [`office_cache`], and [`seeding`] gives this machine a compiler of theirs; a
//! command arrives in [`session`] too and is answered by [`control`], or works on the state directory ([`home`],
//! [`enrol`]) by itself. Other tools' caches come to [`http_cache`]. What builds need is recorded and fetched by [`prefetch`].

mod blobs;
pub mod cli;
pub mod config;
pub mod containment;
mod control;
pub mod daemon;
pub mod enrol;
pub mod history;
pub mod home;
mod housekeeping;
mod http_cache;
pub mod node;
mod offers;
pub mod office_cache;
mod platform;
pub mod prefetch;
pub mod requester;
mod seeding;
pub mod session;
pub mod setup;
pub mod stats;
pub mod toolchain;
pub mod trust;
pub mod worker;
