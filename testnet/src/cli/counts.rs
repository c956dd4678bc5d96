//! What the requester's node counted, read from `barn stats --json`.

use std::collections::BTreeMap;

use barn_testnet::Host;
use serde::Deserialize;

use super::Failure;

/// The part of the statistics that the demonstration and the benchmarks tell about.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) hits: Hits,
    pub(super) misses: u64,
    pub(super) compiles: Compiles,
    pub(super) fallbacks: BTreeMap<String, u64>,
    pub(super) local_reasons: BTreeMap<String, u64>,
    pub(super) peers: BTreeMap<String, Traffic>,
    pub(super) scans: Scans,
    pub(super) lookups: Lookups,
}

/// Compiles whose inputs the scanner looked for, and the CPU time of that.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Scans {
    pub(super) count: u64,
    pub(super) microseconds: u64,
}

/// Compiles for which nobody had anything, and how long they waited to hear so.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Lookups {
    pub(super) in_vain: u64,
    pub(super) microseconds: u64,
}

/// Compiles that were not run.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Hits {
    pub(super) local: u64,
    pub(super) mesh: u64,
}

/// Compiles that were run.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Compiles {
    pub(super) local: u64,
    pub(super) remote: u64,
    pub(super) failed: u64,
}

/// Compiles exchanged with a peer.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) sent: u64,
}

impl Counts {
    /// Asks a host's node.
    pub(super) fn of(host: &Host) -> Result<Counts, Failure> {
        let stats = host.stats_json()?;
        serde_json::from_value(stats)
            .map_err(|error| format!("barn stats --json lacks a count: {error}").into())
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Counts) -> Counts {
        let named = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let less = |(name, count): (&String, &u64)| {
                let count = count.saturating_sub(before.get(name).copied().unwrap_or(0));
                (count > 0).then(|| (name.clone(), count))
            };
            now.iter().filter_map(less).collect()
        };
        let peers = self.peers.iter().map(|(name, traffic)| {
            let before = earlier.peers.get(name).map_or(0, |traffic| traffic.sent);
            (name.clone(), Traffic { sent: traffic.sent.saturating_sub(before) })
        });
        Counts {
            hits: Hits {
                local: self.hits.local.saturating_sub(earlier.hits.local),
                mesh: self.hits.mesh.saturating_sub(earlier.hits.mesh),
            },
            misses: self.misses.saturating_sub(earlier.misses),
            compiles: Compiles {
                local: self.compiles.local.saturating_sub(earlier.compiles.local),
                remote: self.compiles.remote.saturating_sub(earlier.compiles.remote),
                failed: self.compiles.failed.saturating_sub(earlier.compiles.failed),
            },
            fallbacks: named(&self.fallbacks, &earlier.fallbacks),
            local_reasons: named(&self.local_reasons, &earlier.local_reasons),
            peers: peers.collect(),
            scans: Scans {
                count: self.scans.count.saturating_sub(earlier.scans.count),
                microseconds: self.scans.microseconds.saturating_sub(earlier.scans.microseconds),
            },
            lookups: Lookups {
                in_vain: self.lookups.in_vain.saturating_sub(earlier.lookups.in_vain),
                microseconds: self.lookups.microseconds.saturating_sub(earlier.lookups.microseconds),
            },
        }
    }

    /// All hits.
    pub(super) fn all_hits(&self) -> u64 {
        self.hits.local + self.hits.mesh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = r#"{"requests":{"total":9}, "local_reasons":{"assembler":2}, "hits":{"local":1,"mesh":2},
        "misses":6, "compiles":{"local":4,"remote":5,"failed":0}, "fallbacks":{}, "languages":{},
        "peers":{"h2":{"sent":5,"received":1}},
        "scans":{"count":6,"microseconds":9000,"undecided":{}}, "lookups":{"in_vain":3,"microseconds":900}}"#;

    #[test]
    fn the_contract_is_read_and_subtracted() {
        let now: Counts = serde_json::from_str(STATS).unwrap();
        assert_eq!(now.since(&Counts::default()), now);
        let mut nothing = Counts::default();
        nothing.peers.insert("h2".into(), Traffic { sent: 0 });
        assert_eq!(now.since(&now), nothing);
        assert_eq!(now.all_hits(), 3);
    }
}
