//! How far times differ from what was predicted.

use std::time::Duration;

/// How many runs are remembered; with 64 the three longest lie beyond the quantile.
const RUNS_MAX: usize = 64;
/// Runs after which the measured quantile is believed.
const RUNS_MIN: usize = 8;
/// What is believed before: bytes of input are wrong by a factor of three now and then.
pub(super) const RATIO_DEFAULT: f64 = 3.0;
/// The measured quantile is believed within these bounds: below, every small delay would be a straggler; above,
/// nothing.
const RATIO_BELIEVED: (f64, f64) = (2.0, 8.0);
/// What makes a run a straggler: it takes longer than this share of all, measured by its prediction.
const QUANTILE: f64 = 0.95;

/// The last runs' times over their predictions.
#[derive(Debug, Default)]
pub(super) struct Spread {
    ratios: Vec<f64>,
    next: usize,
}

impl Spread {
    /// A run that was expected to take `expected` took `took`.
    pub(super) fn measured(&mut self, expected: Duration, took: Duration) {
        let ratio = took.as_secs_f64() / expected.as_secs_f64().max(0.001);
        if self.ratios.len() < RUNS_MAX {
            self.ratios.push(ratio);
        } else {
            self.ratios[self.next % RUNS_MAX] = ratio;
        }
        self.next = (self.next + 1) % RUNS_MAX;
    }

    /// How many times its prediction a run may take before it is called overdue.
    pub(super) fn straggles_at(&self) -> f64 {
        if self.ratios.len() < RUNS_MIN {
            return RATIO_DEFAULT;
        }
        let mut sorted = self.ratios.clone();
        sorted.sort_by(f64::total_cmp);
        let index = ((sorted.len() as f64 * QUANTILE) as usize).min(sorted.len() - 1);
        sorted[index].clamp(RATIO_BELIEVED.0, RATIO_BELIEVED.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_quantile_is_believed_after_eight_runs_and_within_bounds() {
        let mut spread = Spread::default();
        for _ in 0..RUNS_MIN - 1 {
            spread.measured(S, S);
        }
        assert_eq!(spread.straggles_at(), RATIO_DEFAULT);
        spread.measured(S, S);
        assert_eq!(spread.straggles_at(), 2.0);
        for n in 0..100 {
            spread.measured(S, S * n / 25);
        }
        assert!((3.5..4.0).contains(&spread.straggles_at()), "{}", spread.straggles_at());
        (0..RUNS_MAX).for_each(|_| spread.measured(S, 100 * S));
        assert_eq!(spread.straggles_at(), 8.0);
    }
}
