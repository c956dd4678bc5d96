//! What is told of one compile, for `barn explain` and the log.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use barn_wrapper::messages::Request;

use super::{Call, sight::path_of};
use crate::{
    enrol::unix_now_s,
    history::{Entry, History},
};

/// How the names of sources end.
const SOURCES: [&str; 13] = ["C", "S", "c", "c++", "cc", "cpp", "cxx", "i", "ii", "m", "mm", "rs", "s"];

/// The story of one compile, written down when it ends.
pub(super) struct Story {
    history: Arc<History>,
    entry: Entry,
    began: Instant,
}

impl Story {
    /// A story that begins with a call.
    pub(super) fn begin(request: &Request, history: Arc<History>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entry = Entry {
            file: text(&request.cwd),
            compiler: request.argv.first().map_or_else(String::new, |argv0| text(argv0)),
            outcome: String::new(),
            story: Vec::new(),
            at_unix_s: unix_now_s(),
            took_ms: 0,
        };
        Self { history, entry, began: Instant::now() }
    }

    /// It is about this compile.
    pub(super) fn about(&mut self, call: &Call) {
        self.is_about(&call.source_path());
    }

    /// It is about this source.
    pub(super) fn is_about(&mut self, source: &Path) {
        self.entry.file = source.display().to_string();
    }

    /// Adds what was decided.
    pub(super) fn tell(&mut self, what: String) {
        self.entry.story.push(what);
    }

    /// The story's end.
    pub(super) fn end(mut self, outcome: &str) {
        self.entry.outcome = outcome.to_owned();
        self.entry.took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(file = self.entry.file, outcome, story = ?self.entry.story, "answered");
        self.history.add(self.entry);
    }
}

/// What a compile that is not understood seems to be about: the last source among its arguments, else the directory.
pub(super) fn seems_about(request: &Request) -> PathBuf {
    let is_source = |argument: &&Vec<u8>| {
        let suffix = path_of(argument).extension().and_then(OsStr::to_str);
        !argument.starts_with(b"-") && suffix.is_some_and(|suffix| SOURCES.contains(&suffix))
    };
    let directory = path_of(&request.cwd);
    let source = request.argv.iter().skip(1).rfind(is_source);
    source.map_or_else(|| directory.to_owned(), |source| directory.join(path_of(source)))
}
