//! What sources were like when they were last compiled.
//!
//! Bytes of input say little about work: a template-heavy unit needs ten times what a plain one of the same size
//! does. But a source compiled again, after an edit or with another option, is mostly what it was.

use std::collections::{BTreeMap, VecDeque};

/// Sources remembered; the oldest go first. 16 bytes each.
const SOURCES_MAX: usize = 16_384;
/// How much denser or thinner than its bytes a source is believed to be.
const DENSITY: (f64, f64) = (1.0 / 16.0, 16.0);

/// The density of sources: the work they were over the work their bytes promised.
#[derive(Debug, Default)]
pub(super) struct Familiar {
    density: BTreeMap<u64, f64>,
    order: VecDeque<u64>,
}

impl Familiar {
    /// The work of a source of which the bytes promise `work`.
    pub(super) fn work(&self, source: Option<u64>, work: f64) -> f64 {
        let density = source.and_then(|source| self.density.get(&source));
        density.map_or(work, |density| work * density)
    }

    /// A source whose bytes promised `promised` was `work`. The last two compiles decide.
    pub(super) fn measured(&mut self, source: Option<u64>, promised: f64, work: f64) {
        let Some(source) = source else { return };
        let seen = (work / promised).clamp(DENSITY.0, DENSITY.1);
        if let Some(density) = self.density.get_mut(&source) {
            *density = (*density + seen) / 2.0;
            return;
        }
        if self.order.len() >= SOURCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.density.remove(&oldest);
        }
        self.order.push_back(source);
        self.density.insert(source, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_expected_to_be_as_it_was() {
        let mut familiar = Familiar::default();
        assert_eq!(familiar.work(Some(1), 10.0), 10.0);
        familiar.measured(Some(1), 10.0, 40.0);
        familiar.measured(None, 10.0, 40.0);
        assert_eq!(familiar.work(Some(1), 20.0), 80.0);
        assert_eq!(familiar.work(Some(2), 20.0), 20.0);
        assert_eq!(familiar.work(None, 20.0), 20.0);
        familiar.measured(Some(1), 10.0, 20.0);
        assert_eq!(familiar.work(Some(1), 10.0), 30.0);
        familiar.measured(Some(3), 1.0, 1e9);
        assert_eq!(familiar.work(Some(3), 1.0), 16.0);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut familiar = Familiar::default();
        for source in 0..=SOURCES_MAX as u64 {
            familiar.measured(Some(source), 1.0, 2.0);
        }
        assert_eq!(familiar.work(Some(0), 1.0), 1.0);
        assert_eq!(familiar.work(Some(1), 1.0), 2.0);
        assert_eq!(familiar.density.len(), SOURCES_MAX);
    }
}
