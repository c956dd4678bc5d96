//! Whole behaviours through the real barn binaries against real compilers.
//!
//! A [`Desk`] is one user at one machine: a node with a state directory of its own, and a directory to build in.
//! A [`Case`] is one line of shell in which `$B` stands for what is put in front of the compiler. A [`Group`] of them is tried
//! in one tree at one path: without barn, with barn, with barn again, then on a machine of an office that has a worker compile, and
//! there again. All are held against the first: exit status, standard output, standard error, and every file that is there
//! afterwards with its bytes and mode. What the node made of each call is read from `barn stats --json`.
//!
//! [`kills`] and [`workload`] are for what goes wrong while builds run.
//!
//! [`oracle`] is another matter: it holds the include scanner against traced compilers.
//!
//! The programs under test are those beside this test's own (`target/debug`, `target/release`); they must have been
//! built, as `make test` does.

mod counts;
mod desk;
pub mod kills;
mod lanes;
pub mod office;
pub mod oracle;
pub mod pace;
mod table;
mod tree;
pub mod workload;

pub use counts::{Counts, Expect, Where};
pub use desk::{Desk, Ran};
pub use lanes::{Lane, Lanes};
pub use table::{Case, Family, Group, Then, both, clang, gcc};
pub use tree::{Snapshot, Tree, lay, snapshot};
