//! What can go wrong while an office is made, used or taken down.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine or this user cannot have an office; a test may skip, saying why.
    #[error("no office can be made here: {0}")]
    Unavailable(String),
    /// The specification asks for something that cannot be.
    #[error("bad office specification: {0}")]
    Spec(String),
    /// A file, directory, mount or cgroup could not be made, read or written.
    #[error("{what} {}", path.display())]
    Path {
        /// What was tried, as a verb phrase: "cannot make directory".
        what: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a namespace or a signal.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{command} failed: {said}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status and last words.
        said: String,
    },
    /// Something did not happen in time.
    #[error("{what} took longer than {:.1} s", limit.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A program's output is not the JSON it should be.
    #[error("{command} printed no JSON")]
    Json {
        /// The command line.
        command: String,
        /// Where the parser gave up.
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn path(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Path { what, path, source }
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Error {
        let what = what.into();
        move |errno| Error::System { what, source: errno.into() }
    }
}
