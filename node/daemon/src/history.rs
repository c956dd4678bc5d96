//! What happened to the last compiles, for `barn explain`.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};

/// Compiles remembered: a few full builds of a large project.
const ENTRIES_MAX: usize = 16_384;

/// One compile as it is told to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The source as an absolute path, as far as the call had one; else the working directory.
    pub file: String,
    /// The compiler as called.
    pub compiler: String,
    /// Where the answer came from: `hit`, `remote`, `local` or `uncached`.
    pub outcome: String,
    /// What was decided and why, in order.
    pub story: Vec<String>,
    /// When it was asked for, in seconds since the Unix epoch.
    pub at_unix_s: u64,
    /// From the request to the answer, in milliseconds.
    pub took_ms: u64,
}

/// The last compiles of this node's life.
#[derive(Debug, Default)]
pub struct History {
    entries: Mutex<VecDeque<Entry>>,
}

impl History {
    /// Adds a compile, dropping the oldest over the limit.
    pub fn add(&self, entry: Entry) {
        let mut entries = self.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The last compile of `file`, which may be given by the end of its path; without one, the last of all.
    pub fn last(&self, file: Option<&str>) -> Option<Entry> {
        let entries = self.lock();
        let matches = |entry: &&Entry| file.is_none_or(|file| names(&entry.file, file));
        entries.iter().rev().find(matches).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().expect("no panic while the history is held")
    }
}

/// Whether `path` is `file` or ends with it at a component's border.
fn names(path: &str, file: &str) -> bool {
    let file = file.trim_start_matches("./");
    path.strip_suffix(file)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/') || file.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_the_end_of_their_path() {
        assert!(names("/src/a/x.c", "x.c"));
        assert!(names("/src/a/x.c", "./a/x.c"));
        assert!(names("/src/a/x.c", "/src/a/x.c"));
        assert!(!names("/src/a/xx.c", "x.c"));
        assert!(!names("/src/a/x.c", "y.c"));
    }
}
