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
    /// Misses that a worker compiled.
    pub remote: u64,
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
            remote: number("/compiles/remote"),
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
            remote: self.remote - earlier.remote,
            failed: self.failed - earlier.failed,
            reasons: grown(&self.reasons, &earlier.reasons),
            fallbacks: grown(&self.fallbacks, &earlier.fallbacks),
        }
    }

    /// What as many calls as this add, each of which adds these.
    #[must_use]
    fn times(&self, count: u64) -> Self {
        Self {
            total: self.total * count,
            distributable: self.distributable * count,
            hits: self.hits * count,
            direct: self.direct * count,
            misses: self.misses * count,
            ran: self.ran * count,
            remote: self.remote * count,
            failed: self.failed * count,
            ..self.clone()
        }
    }

    /// Whether all calls have been answered and every miss has been reported on.
    pub fn is_settled(&self) -> bool {
        self.total == self.other + self.local + self.distributable + self.cache_only
            && self.distributable + self.cache_only == self.hits + self.misses
            && self.misses == self.ran + self.remote + self.failed
    }
}

/// What is expected of a case: what its node is to make of each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// May run anywhere: compiled, then served from the store.
    Hit,
    /// So many of these.
    Hits(u64),
    /// As [`Expect::Hit`], after the compiler was asked what it includes.
    Asked,
    /// The same, and asked again the second time, since what was looked for in vain is not known.
    AskedTwice,
    /// Runs here only: compiled, then served from the store.
    CacheOnly,
    /// May run anywhere, and the compiler refuses it each time.
    Failed,
    /// So many of these, one after the other.
    Failures(u64),
    /// Left to the compiler each time, for this reason.
    Local(&'static str),
    /// No compile.
    Other,
    /// The node is not asked.
    Unasked,
}

/// Where compiles run that may run anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On the machine of the user, which has no others.
    Here,
    /// On a worker.
    Afar,
}

impl Expect {
    /// What the node is to count for one call. `is_first`: nothing is known of it yet.
    pub fn counts(self, is_first: bool, place: Where) -> Counts {
        let afar = place == Where::Afar;
        let again = |expect: Self| expect.counts(is_first, place);
        let call = Counts { total: 1, ..Counts::default() };
        let asked = |call: Counts| Counts { fallbacks: [("scan-unsupported".to_owned(), 1)].into(), ..call };
        let distributable = Counts { distributable: 1, ..call.clone() };
        match self {
            Self::Asked if is_first => asked(again(Self::Hit)),
            Self::Asked => again(Self::Hit),
            Self::AskedTwice => Counts { direct: 0, ..asked(again(Self::Hit)) },
            Self::Hit if !is_first => Counts { hits: 1, direct: 1, ..distributable },
            Self::Hit if afar => Counts { misses: 1, remote: 1, ..distributable },
            Self::Hit => Counts { misses: 1, ran: 1, ..distributable },
            Self::CacheOnly if is_first => Counts { cache_only: 1, misses: 1, ran: 1, ..call },
            Self::CacheOnly => Counts { cache_only: 1, hits: 1, direct: 1, ..call },
            // The error of a worker is never shown, but seen again here.
            Self::Failed if afar => {
                let fallbacks = [("remote-error".to_owned(), 1)].into();
                Counts { fallbacks, ..self.counts(is_first, Where::Here) }
            }
            Self::Failed => Counts { misses: 1, failed: 1, ..distributable },
            Self::Hits(count) => again(Self::Hit).times(count),
            // Where each is tried is left to the placement.
            Self::Failures(count) => Self::Failed.counts(is_first, Where::Here).times(count),
            Self::Local(reason) => Counts { local: 1, reasons: [(reason.to_owned(), 1)].into(), ..call },
            Self::Other => Counts { other: 1, ..call },
            Self::Unasked => Counts::default(),
        }
    }

    /// Whether a worker may be asked.
    pub fn may_travel(self) -> bool {
        self.counts(true, Where::Here).distributable > 0
    }

    /// Whether the second call is another thing than the first.
    pub fn is_kept(self) -> bool {
        self.counts(true, Where::Here) != self.counts(false, Where::Here)
    }
}
