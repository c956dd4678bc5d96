//! Names of offices: `barn-office-<pid>-<start time>-<counter>`.
//!
//! The owner's start time (clock ticks since boot) stands beside its pid, so that a pid used again is not
//! taken for the owner.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "barn-office-";

/// The name of one office, unique on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OfficeName {
    pid: u32,
    started: u64,
    counter: u32,
}

impl OfficeName {
    /// A fresh name owned by this process.
    pub(crate) fn next() -> OfficeName {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        OfficeName {
            pid,
            started: start_time(pid).unwrap_or(0),
            counter: COUNTER.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The name a directory or cgroup bears, if it is an office's.
    pub(crate) fn parse(text: &str) -> Option<OfficeName> {
        let mut parts = text.strip_prefix(PREFIX)?.split('-');
        let name = OfficeName {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            counter: parts.next()?.parse().ok()?,
        };
        // A second spelling of the same name must not pass for it.
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }

    /// Whether the owner still runs.
    pub(crate) fn owner_lives(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

impl fmt::Display for OfficeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}-{}", self.pid, self.started, self.counter)
    }
}

/// Field 22 of `/proc/PID/stat`; the fields are counted after the command name, which may hold anything.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(") ")?;
    after.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_printing() {
        let name = OfficeName::next();
        assert_eq!(OfficeName::parse(&name.to_string()), Some(name));
    }

    #[test]
    fn names_differ() {
        assert_ne!(OfficeName::next(), OfficeName::next());
    }

    #[test]
    fn foreign_names_are_not_offices() {
        for text in [
            "",
            "barn-office-",
            "barn-office-1-2",
            "barn-office-1-2-3-4",
            "barn-office-01-2-3",
            "office-1-2-3",
        ] {
            assert_eq!(OfficeName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_this_very_process_is_its_owner() {
        let name = OfficeName::next();
        assert!(name.owner_lives());
        let earlier = OfficeName { started: name.started + 1, ..name };
        assert!(!earlier.owner_lives());
    }
}
