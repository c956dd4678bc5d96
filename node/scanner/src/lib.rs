//! Finds what a translation unit includes, without running a compiler.
//!
//! See `docs/scanner.md` for the design. The scanner is pure: what lies on the disk comes in through [`Disk`], what
//! the compiler knows by itself through [`Dialect`].

mod dialect;
mod disk;
mod scan;
mod text;
mod unit;

pub use dialect::{Dialect, Question, Questions};
pub use disk::{Disk, File, Look};
pub use scan::Scanner;
pub use text::Text;
pub use unit::{Define, Scan, Undecided, Unit};
