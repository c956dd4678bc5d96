//! Finds what a translation unit includes, without running a compiler.
//!
//! See `docs/scanner.md` for the design. The scanner is pure: what lies on the disk comes in through [`Disk`], what
//! the compiler knows by itself through [`Dialect`].

mod builtin;
mod dialect;
mod disk;
mod expand;
mod expr;
mod lex;
mod load;
mod memo;
mod mode;
mod names;
mod parse;
mod run;
mod scan;
mod search;
mod state;
mod text;
mod unit;
mod world;

pub use dialect::{Dialect, Question, Questions};
pub use disk::{Disk, File, Look};
pub use scan::Scanner;
pub use text::Text;
pub use unit::{Define, Scan, Undecided, Unit};
