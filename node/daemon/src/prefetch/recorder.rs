//! What builds need, noted call by call.
//!
//! ```text
//!          first note                      every 10 s                  not used for a minute
//! (file) ────────────▶ open, in memory ───────────────▶ written, open ───────────────────────▶ (file)
//!                            ▲                               │ note
//!                            └───────────────────────────────┘
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use barn_compilers::SideKind;
use barn_mesh::RosterCell;
use barn_protocol::{
    ActionKey, ActionResult, Digest, Identity,
    identity::SignedBytes,
    prefetch::{BuildEntry, BuildList, BuildName, ENTRIES_MAX, TOOLCHAINS_MAX},
};
use barn_wrapper::env_vars::BARN_BUILD;

use super::files::Files;
use crate::{enrol::unix_now_s, home::Home, requester::Call};

/// Builds recorded at once, of some 10 MB at most each; a further one is not recorded.
const OPEN_MAX: usize = 8;
/// A build to which nothing was added for so long leaves memory.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Arrivals of this run come after what was read from a file, which is numbered from 0.
const ARRIVALS_FROM: u64 = 1 << 32;

/// Notes what builds need.
#[derive(Debug)]
pub struct Recorder {
    identity: Identity,
    roster: RosterCell,
    files: Files,
    began: Instant,
    open: Mutex<Vec<Recording>>,
}

/// A build that is being recorded.
#[derive(Debug)]
struct Recording {
    name: BuildName,
    /// Each with its place: when it was first asked for.
    noted: HashMap<ActionKey, (u64, BuildEntry)>,
    toolchains: Vec<Digest>,
    left_out: u64,
    changed_unix_s: u64,
    used: Instant,
    /// Grows with every change.
    version: u64,
    written: u64,
}

impl Recorder {
    /// A recorder with what was recorded before.
    pub fn open(identity: Identity, roster: RosterCell, home: Home) -> Self {
        let files = Files::open(home);
        Self { identity, roster, files, began: Instant::now(), open: Mutex::default() }
    }

    /// Why a call that is to be recorded cannot be.
    pub(crate) fn obstacle(&self, call: &Call) -> Option<String> {
        let name = call.env.get(BARN_BUILD.as_bytes())?;
        let shown = String::from_utf8_lossy(name);
        match shown.parse::<BuildName>() {
            Err(error) => Some(format!("{BARN_BUILD}={shown}: {error}")),
            Ok(_) if !self.may_publish() => {
                Some(format!("{BARN_BUILD}={shown}: this machine may not publish"))
            }
            Ok(_) => None,
        }
    }

    /// Notes what a call got from the store or what was made for it, if it is to be recorded; the caller knows that it may be
    /// shared.
    pub(crate) fn note(&self, call: &Call, key: &ActionKey, result: &ActionResult) {
        if let Some(name) = self.name(call) {
            self.add(name, call, *key, result);
        }
    }

    /// The list of a build as it is now. Blocks on the disk.
    pub(crate) fn list(&self, name: &BuildName) -> Option<SignedBytes> {
        if !self.may_publish() {
            return None;
        }
        let open = self.lock().iter().find(|recording| recording.name == *name).map(|open| self.listed(open));
        match open {
            Some(list) => Some(list.sign(&self.identity)),
            None => self.files.read(name, &self.identity.id()).map(|(_, signed)| signed),
        }
    }

    /// Writes down what has changed. Blocks on the disk.
    pub(crate) fn save(&self) {
        let changed: Vec<(BuildList, u64)> = {
            let open = self.lock();
            let changed = open.iter().filter(|recording| recording.written < recording.version);
            changed.map(|recording| (self.listed(recording), recording.version)).collect()
        };
        for (list, version) in changed {
            match self.files.write(&list.name, &list.sign(&self.identity)) {
                Ok(()) => {
                    let mut open = self.lock();
                    let written = open.iter_mut().find(|recording| recording.name == list.name);
                    written.into_iter().for_each(|recording| recording.written = version);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(name = list.name.as_str(), error, "a build list was not written");
                }
            }
        }
        let is_needed = |recording: &Recording| {
            recording.written < recording.version || recording.used.elapsed() < IDLE_MAX
        };
        self.lock().retain(is_needed);
    }

    fn name(&self, call: &Call) -> Option<BuildName> {
        let name = call.env.get(BARN_BUILD.as_bytes())?;
        let name = std::str::from_utf8(name).ok()?.parse().ok()?;
        (call.may_travel() && self.may_publish()).then_some(name)
    }

    fn may_publish(&self) -> bool {
        let roster = self.roster.current();
        let own = roster.as_ref().and_then(|roster| roster.roster().member(&self.identity.id()));
        own.is_some_and(|member| member.capabilities.publish)
    }

    fn add(&self, name: BuildName, call: &Call, key: ActionKey, result: &ActionResult) {
        let since = call.arrived.saturating_duration_since(self.began);
        let arrival = ARRIVALS_FROM + u64::try_from(since.as_micros()).unwrap_or(u64::MAX >> 1);
        let entry = BuildEntry::of(key, 0, result, sides(call));
        let mut open = self.lock();
        let at = match open.iter().position(|recording| recording.name == name) {
            Some(at) => at,
            None if open.len() == OPEN_MAX => {
                tracing::warn!(name = name.as_str(), "not recorded: {OPEN_MAX} builds are being recorded");
                return;
            }
            None => {
                let known = self.files.read(&name, &self.identity.id()).map(|(list, _)| list);
                open.push(Recording::of(name, known));
                open.len() - 1
            }
        };
        open[at].add(arrival, entry, call.stem.toolchain);
    }

    fn listed(&self, recording: &Recording) -> BuildList {
        let mut noted: Vec<&(u64, BuildEntry)> = recording.noted.values().collect();
        noted.sort_unstable_by_key(|(arrival, entry)| (*arrival, entry.key));
        BuildList {
            name: recording.name.clone(),
            publisher: self.identity.id(),
            recorded_unix_s: recording.changed_unix_s,
            left_out: recording.left_out,
            toolchains: recording.toolchains.clone(),
            entries: noted.into_iter().map(|(_, entry)| *entry).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Recording>> {
        self.open.lock().expect("no panic while the recordings are held")
    }
}

impl Recording {
    /// A recording that goes on where `known` stopped.
    fn of(name: BuildName, known: Option<BuildList>) -> Self {
        let known =
            known.map_or_else(Default::default, |list| (list.entries, list.toolchains, list.left_out));
        let (entries, toolchains, left_out) = known;
        let noted = (0..).zip(entries).map(|(place, entry)| (entry.key, (place, entry))).collect();
        Self {
            name,
            noted,
            toolchains,
            left_out,
            changed_unix_s: unix_now_s(),
            used: Instant::now(),
            version: 0,
            written: 0,
        }
    }

    fn add(&mut self, arrival: u64, entry: BuildEntry, toolchain: Digest) {
        self.used = Instant::now();
        if let Some((first, _)) = self.noted.get_mut(&entry.key) {
            if arrival < *first {
                *first = arrival;
                self.version += 1;
            }
            return;
        }
        self.version += 1;
        self.changed_unix_s = unix_now_s();
        let known = self.toolchains.iter().position(|known| *known == toolchain);
        if self.noted.len() == ENTRIES_MAX || (known.is_none() && self.toolchains.len() == TOOLCHAINS_MAX) {
            self.left_out += 1;
            return;
        }
        let place = known.unwrap_or_else(|| {
            self.toolchains.push(toolchain);
            self.toolchains.len() - 1
        });
        let toolchain = u32::try_from(place).expect("there are few toolchains");
        self.noted.insert(entry.key, (arrival, BuildEntry { toolchain, ..entry }));
    }
}

/// Which of a call's outputs are debug information beside the object, a bit each.
fn sides(call: &Call) -> u64 {
    let first = u32::from(call.compile.output.is_some());
    let outputs = (first..).zip(&call.compile.side_outputs);
    let split = outputs.filter(|(_, side)| side.kind == SideKind::SplitDwarf);
    split.filter_map(|(output, _)| 1_u64.checked_shl(output)).fold(0, |bits, bit| bits | bit)
}

#[cfg(test)]
mod tests {
    use barn_protocol::{
        action::Blob,
        roster::{Capabilities, Member, Roster},
    };

    use super::*;

    fn entry(name: &str) -> BuildEntry {
        let none = Blob::of(b"");
        let result = ActionResult { exit_code: 0, stdout: none, stderr: none, outputs: vec![], wall_ms: 7 };
        BuildEntry::of(ActionKey(Digest::of(name.as_bytes())), 0, &result, 0)
    }

    fn recorder(dir: &std::path::Path, publish: bool) -> Recorder {
        let (own, admin) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[200; 32]));
        let capabilities = Capabilities { publish, ..Capabilities::OFFICE };
        let member = Member { id: own.id(), name: "ci".to_owned(), capabilities };
        let roster = Roster::found(&admin, member, unix_now_s(), 100).sign(&admin).unwrap();
        Recorder::open(own, RosterCell::new(Some(roster), |_| Ok(())), Home::open(dir).unwrap())
    }

    fn names(recorder: &Recorder, name: &BuildName) -> Vec<ActionKey> {
        let signed = recorder.list(name).unwrap();
        let list = BuildList::signed_by(&signed, name, &recorder.identity.id()).unwrap();
        list.entries.iter().map(|entry| entry.key).collect()
    }

    #[test]
    fn a_list_is_in_the_order_of_need_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let name: BuildName = "4f2a".parse().unwrap();
        let first = recorder(dir.path(), true);
        let mut recording = Recording::of(name.clone(), None);
        for (arrival, unit) in [(30, "c"), (10, "a"), (20, "b"), (40, "a"), (5, "c")] {
            recording.add(ARRIVALS_FROM + arrival, entry(unit), Digest::of(b"gcc"));
        }
        first.lock().push(recording);
        let expect = ["c", "a", "b"].map(|unit| entry(unit).key);
        assert_eq!(names(&first, &name), expect);
        first.save();
        drop(first);
        let second = recorder(dir.path(), true);
        assert_eq!(names(&second, &name), expect, "from the file");
        let known = second.files.read(&name, &second.identity.id()).map(|(list, _)| list);
        let mut recording = Recording::of(name.clone(), known);
        for (arrival, unit) in [(2, "b"), (1, "d")] {
            recording.add(ARRIVALS_FROM + arrival, entry(unit), Digest::of(b"clang"));
        }
        second.lock().push(recording);
        assert_eq!(names(&second, &name), ["c", "a", "b", "d"].map(|unit| entry(unit).key));
        let signed = second.list(&name).unwrap();
        let list = BuildList::signed_by(&signed, &name, &second.identity.id()).unwrap();
        assert_eq!(list.toolchain(&list.entries[3]), Some(&Digest::of(b"clang")));
    }

    #[test]
    fn whoever_may_not_publish_has_no_lists() {
        let dir = tempfile::tempdir().unwrap();
        let name: BuildName = "4f2a".parse().unwrap();
        let publisher = recorder(dir.path(), true);
        publisher.lock().push(Recording::of(name.clone(), None));
        assert!(publisher.list(&name).is_some());
        publisher.lock()[0].version = 1;
        publisher.save();
        assert!(recorder(dir.path(), true).list(&name).is_some());
        assert!(recorder(dir.path(), false).list(&name).is_none());
    }

    #[test]
    fn what_is_over_a_limit_is_counted() {
        let mut recording = Recording::of("4f2a".parse().unwrap(), None);
        for number in 0..=TOOLCHAINS_MAX {
            let name = number.to_string();
            recording.add(number as u64, entry(&name), Digest::of(name.as_bytes()));
        }
        assert_eq!((recording.noted.len(), recording.left_out), (TOOLCHAINS_MAX, 1));
    }
}
