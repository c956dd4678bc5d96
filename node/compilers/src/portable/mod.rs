//! Whether a compile's result shows where the compile was.
//!
//! `docs/portable.md` has the whole argument. [`judge`] reads the command line: it marks the paths in it that lie in the compile's
//! places and refuses flags that could show a place in a form which nobody can search. [`words`] tells whether a text can name
//! the file that it is in, [`depfile`] takes places out of dependency files and puts others in, and [`traces`] searches what
//! was written.
//!
//! Invariant: whatever cannot be judged is refused; that costs sharing and nothing else.

pub mod depfile;
mod flags;
mod names;
pub mod traces;
pub mod words;

pub use flags::{Spelled, judge, prefix_maps};

/// Why a result is not shared with other checkouts, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// A refusal because of one of the arguments.
    fn of(arg: &[u8], why: &str) -> Self {
        Self(format!("`{}` {why}", String::from_utf8_lossy(arg)))
    }
}
