//! An office on one machine: hosts as network namespaces with their own cores, links and file views.
//!
//! Participants: the *owner* (the process that calls [`Office::build`]), one *bridge* in a network namespace
//! of its own, one [`Host`] per machine of the office, and a *guard*, a small process that waits for the
//! owner to let go and then takes the office down. Real programs run on the hosts, over a real network stack,
//! under a real CPU quota; nothing is simulated.
//!
//! Goals: several offices at once, nothing visible on the machine's own network, nothing left behind however
//! the owner ends (return, panic, signal, SIGKILL). Non-goals: security (a program on a host runs as root
//! and could break out) and other systems than Linux.
//!
//! Invariants:
//! - Namespaces have no names: they live as long as the owner's descriptors and the processes in them.
//! - Every process of a host is in that host's cgroups; the office kills what it finds there and nothing else.
//! - What has a name (cgroups, one directory of files) bears the owner's pid and start time, so that
//!   [`clean()`] can tell a leftover from a living office.

mod cgroup;
mod clean;
mod command;
mod error;
mod guard;
mod host;
mod link;
mod name;
mod office;
mod rooms;
mod spec;
mod view;

pub use clean::{Leftover, clean};
pub use command::HostCommand;
pub use error::Error;
pub use guard::take_down_all;
pub use host::{Host, Process, VERB_LIMIT};
pub use link::Traffic;
pub use office::{Office, office_or_skip};
pub use spec::{HostSpec, OfficeSpec, QUOTA_PERIOD, bin_dir_of_this_build};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
