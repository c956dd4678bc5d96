//! The counters of `barn stats`, kept over restarts.
//!
//! Their JSON form is part of the command-line contract: all keys are always present and counts are integers.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};

/// Most different reasons, languages or peers that are counted by name.
const NAMES_MAX: usize = 4096;

/// All counters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Calls of the wrapper that reached the node.
    pub requests: Requests,
    /// Why compiles could not be cached or distributed.
    pub local_reasons: BTreeMap<String, u64>,
    /// Results that were there already.
    pub hits: Hits,
    /// Distributable or cacheable compiles that had to be run.
    pub misses: u64,
    /// Compiles that were run, by place.
    pub compiles: Compiles,
    /// Troubles that the user did not notice, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Hits and misses by language.
    pub languages: BTreeMap<String, Language>,
    /// Compiles sent to and received from each peer.
    pub peers: BTreeMap<String, Traffic>,
    /// Searches for inputs by the include scanner.
    pub scans: Scans,
    /// Look-ups in the office's cache.
    pub lookups: Lookups,
}

/// Calls by what they turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// All calls.
    pub total: u64,
    /// Compiles that may run anywhere.
    pub distributable: u64,
    /// Compiles that can be cached but must run here.
    pub cache_only: u64,
    /// Compiles that cannot be cached.
    pub local: u64,
    /// No compiles: version and print queries, pure preprocessing, pure links.
    pub other: u64,
}

/// Hits by where the result lay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hits {
    /// In this machine's store.
    pub local: u64,
    /// At a neighbour.
    pub mesh: u64,
    /// Of `local`: by an include manifest alone, without a search for inputs.
    pub direct: u64,
}

/// Compiles by where they ran and how they ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Compiles {
    /// Run here, successfully.
    pub local: u64,
    /// Run by a worker, successfully.
    pub remote: u64,
    /// Ended with an error that the user saw.
    pub failed: u64,
}

/// What the include scanner did, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scans {
    /// Compiles whose inputs it looked for.
    pub count: u64,
    /// CPU time that took, in microseconds, reading and hashing of new files included; of the threads that scan, so
    /// without that of compilers that were asked for their macros.
    pub microseconds: u64,
    /// Scans that were left to the compiler's own dependency run, by reason, whether that succeeded or not.
    pub undecided: BTreeMap<String, u64>,
}

/// What the office's cache costs those whom it does not help.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lookups {
    /// Compiles for which nobody had anything.
    pub in_vain: u64,
    /// How long compiles waited for answers that were of no use, in microseconds; waiting for what another was making included.
    pub microseconds: u64,
}

/// Hits and misses of one language.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Language {
    /// Results that were there.
    pub hits: u64,
    /// Results that were not.
    pub misses: u64,
}

/// Compiles exchanged with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Compiles it ran for this machine.
    pub sent: u64,
    /// Compiles this machine ran for it.
    pub received: u64,
}

/// The counters with their file.
#[derive(Debug)]
pub struct Stats {
    counters: Mutex<Counters>,
    path: PathBuf,
}

impl Stats {
    /// The counters kept at `path`; a missing or unreadable file starts them at zero.
    pub fn open(path: PathBuf) -> Self {
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { counters: Mutex::new(kept.unwrap_or_default()), path }
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock());
    }

    /// Adds one under `name` in a map of named counts.
    pub fn count_named(&self, map: impl FnOnce(&mut Counters) -> &mut BTreeMap<String, u64>, name: &str) {
        *entry(map(&mut self.lock()), name) += 1;
    }

    /// Counts a compile done by or for a peer.
    pub fn count_peer(&self, name: &str, change: impl FnOnce(&mut Traffic)) {
        change(entry(&mut self.lock().peers, name));
    }

    /// Counts a hit or miss of a language.
    pub fn count_language(&self, name: &str, change: impl FnOnce(&mut Language)) {
        change(entry(&mut self.lock().languages, name));
    }

    /// The counters now.
    pub fn snapshot(&self) -> Counters {
        self.lock().clone()
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.lock().requests.total
    }

    /// Starts all counters at zero.
    pub fn zero(&self) {
        *self.lock() = Counters::default();
    }

    /// Writes the counters to their file. Losing them is no harm, so a failure is only logged.
    pub fn save(&self) {
        let bytes = serde_json::to_vec(&self.snapshot()).expect("counters are plain data");
        let temp = self.path.with_extension("tmp");
        let written = write_private(&temp, &bytes).and_then(|()| std::fs::rename(&temp, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the counters were not saved");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().expect("no panic while the counters are held")
    }
}

/// Peers' names and what a user compiles are nobody else's business.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    let name = if map.len() < NAMES_MAX || map.contains_key(name) { name } else { "others" };
    map.entry(name.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_has_every_key_of_the_contract() {
        let json = serde_json::to_value(Counters::default()).unwrap();
        let expect = serde_json::json!({
            "requests": {"total": 0, "distributable": 0, "cache_only": 0, "local": 0, "other": 0},
            "local_reasons": {}, "hits": {"local": 0, "mesh": 0, "direct": 0}, "misses": 0,
            "compiles": {"local": 0, "remote": 0, "failed": 0},
            "fallbacks": {}, "languages": {}, "peers": {},
            "scans": {"count": 0, "microseconds": 0, "undecided": {}},
            "lookups": {"in_vain": 0, "microseconds": 0}
        });
        assert_eq!(json, expect);
    }

    #[test]
    fn counters_survive_a_restart_and_damage_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.json");
        let stats = Stats::open(path.clone());
        stats.count(|c| c.misses += 2);
        stats.count_named(|c| &mut c.fallbacks, "peer-lost");
        stats.save();
        assert_eq!(Stats::open(path.clone()).snapshot(), stats.snapshot());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Stats::open(path).snapshot(), Counters::default());
    }
}
