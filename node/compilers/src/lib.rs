//! What Barnraise knows of compilers: pure functions from argv and text to facts.
//!
//! A request passes through the modules in this order:
//! [`detect`] guesses from the program's name (and tells from a probe's output) which compiler it is,
//! [`mod@classify`] says what the command line asks for and whether the result can be cached or made
//! elsewhere, [`depend`] derives the compiler's own dependency run and reads its answer, and
//! [`directives`] with [`search`] find the files which that answer leaves out. [`dialect`] says what to ask the compiler
//! so that files can be found without such a run. [`flags`], [`response`],
//! [`environment`] and [`color`] are the parts of `classify`, [`rustc`] is its half for Rust; [`portable`] says whether a result can be
//! one of another checkout as well; [`reason`] is the closed list of answers to
//! "why did this run here".
//!
//! Invariant: running locally is always right, everything else is a claim. A flag that is not in the
//! tables makes the compile local; no flag is ever dropped from what is run.
//!
//! Invariant: no file system, process, environment or clock; `clippy.toml` of this crate enforces it.
//! Arguments and paths are bytes, since neither need be UTF-8.

pub mod classify;
pub mod color;
mod compile;
pub mod depend;
pub mod detect;
pub mod dialect;
pub mod directives;
pub mod environment;
pub mod flags;
mod language;
mod outputs;
mod parse;
pub mod portable;
pub mod reason;
pub mod response;
pub mod rustc;
pub mod search;

pub use classify::{Invocation, OtherKind, Request, classify};
pub use compile::{Compile, Depfile, Mode, Shown, SideKind, SideOutput};
pub use depend::{dependency_argv, parse_depfile};
pub use detect::{CompilerIdentity, Driver, Family, Probe, WrapperKind, guess, parse_probe, probe_argv};
pub use dialect::{MacroFlag, NotScannable, Preprocessing};
pub use directives::{Directives, scan};
pub use environment::Environment;
pub use language::Language;
pub use reason::{Reason, ReasonKind};
pub use response::Files;
pub use rustc::{RustCompile, RustQuestion, parse_dep_info};
