//! What the node counted, and what a case expects it to count.

use std::collections::BTreeMap;

use serde_json::Value;

/// The counters of `barn stats --json` that one host moves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls that reached the node.
    pub total: u64,
    /// Compiles that may run anywhere.
    pub distributable: u64,
    /// Compiles that are cached but run here only.
    pub cache_only: u64,
    /// Compiles that are not cached.
    pub local: u64,
    /// No compiles.
    pub other: u64,
    /// Results served from this machine's store.
    pub hits: u64,
    /// Those of them for which nobody had to look for inputs.
    pub direct: u64,
    /// Results that were not there.
    pub misses: u64,
    /// Misses compiled here.
    pub ran: u64,
    /// Misses that the compiler refused.
    pub failed: u64,
    /// Why compiles were not cached.
    pub reasons: BTreeMap<String, u64>,
    /// Troubles.
    pub fallbacks: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads what `barn stats --json` printed; every key of the contract must be there.
    pub fn of(stats: &Value) -> Self {
        let number = |path: &str| {
            let value = stats.pointer(path).and_then(Value::as_u64);
            value.unwrap_or_else(|| panic!("no integer at {path} in {stats}"))
        };
        let map = |path: &str| {
            let value = stats.pointer(path).and_then(Value::as_object);
            let value = value.unwrap_or_else(|| panic!("no object at {path} in {stats}"));
            value.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
        };
        Self {
            total: number("/requests/total"),
            distributable: number("/requests/distributable"),
            cache_only: number("/requests/cache_only"),
            local: number("/requests/local"),
            other: number("/requests/other"),
            hits: number("/hits/local"),
            direct: number("/hits/direct"),
            misses: number("/misses"),
            ran: number("/compiles/local"),
            failed: number("/compiles/failed"),
            reasons: map("/local_reasons"),
            fallbacks: map("/fallbacks"),
        }
    }

    /// How much each count grew since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| {
            let growth = now.iter().map(|(name, n)| (name.clone(), n - then.get(name).unwrap_or(&0)));
            growth.filter(|(_, n)| *n > 0).collect()
        };
        Self {
            total: self.total - earlier.total,
            distributable: self.distributable - earlier.distributable,
            cache_only: self.cache_only - earlier.cache_only,
            local: self.local - earlier.local,
            other: self.other - earlier.other,
            hits: self.hits - earlier.hits,
            direct: self.direct - earlier.direct,
            misses: self.misses - earlier.misses,
            ran: self.ran - earlier.ran,
            failed: self.failed - earlier.failed,
            reasons: grown(&self.reasons, &earlier.reasons),
            fallbacks: grown(&self.fallbacks, &earlier.fallbacks),
        }
    }

    /// Whether all calls have been answered and every miss has been reported on.
    pub fn is_settled(&self) -> bool {
        self.total == self.other + self.local + self.distributable + self.cache_only
            && self.distributable + self.cache_only == self.hits + self.misses
            && self.misses == self.ran + self.failed
    }
}

/// What is expected of the two calls of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// May run anywhere: compiled, then served from the store.
    Hit,
    /// As [`Expect::Hit`], after the compiler was asked what it includes.
    Asked,
    /// The same, and asked again the second time, since what was looked for in vain is not known.
    AskedTwice,
    /// Runs here only: compiled, then served from the store.
    CacheOnly,
    /// May run anywhere, and the compiler refuses it both times.
    Failed,
    /// Left to the compiler both times, for this reason.
    Local(&'static str),
    /// No compile.
    Other,
    /// The node is not asked.
    Unasked,
}

impl Expect {
    /// What the node is to count for one call. `is_first`: nothing is known of it yet.
    pub fn counts(self, is_first: bool) -> Counts {
        let none = Counts::default();
        let call = Counts { total: 1, ..none.clone() };
        let kept = |call: Counts| {
            if is_first {
                Counts { misses: 1, ran: 1, ..call }
            } else {
                Counts { hits: 1, direct: 1, ..call }
            }
        };
        let asked = |call: Counts| Counts { fallbacks: [("scan-unsupported".to_owned(), 1)].into(), ..call };
        match self {
            Self::Asked if is_first => asked(Self::Hit.counts(true)),
            Self::Asked => Self::Hit.counts(false),
            Self::AskedTwice => Counts { direct: 0, ..asked(Self::Hit.counts(is_first)) },
            Self::Hit => kept(Counts { distributable: 1, ..call }),
            Self::CacheOnly => kept(Counts { cache_only: 1, ..call }),
            Self::Failed => Counts { distributable: 1, misses: 1, failed: 1, ..call },
            Self::Local(reason) => Counts { local: 1, reasons: [(reason.to_owned(), 1)].into(), ..call },
            Self::Other => Counts { other: 1, ..call },
            Self::Unasked => none,
        }
    }
}
