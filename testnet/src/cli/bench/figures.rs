//! Medians and their spread.

use std::fmt;

/// Several measurements of the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures(Vec<f64>);

impl Figures {
    /// The middle one, or the mean of the two in the middle; NaN without any.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    /// Measurement by measurement, divided by another one taken in the same round.
    pub(super) fn over(&self, other: &Figures) -> Figures {
        self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect()
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Figures {
        Figures(figures.into_iter().collect())
    }
}

/// The median and the range: `1.70 (1.52 to 2.10)`.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        write!(f, "{:.places$} ({:.places$} to {:.places$})", self.median(), self.least(), self.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(figures: &[f64], median: f64, text: &str) {
        let figures: Figures = figures.iter().copied().collect();
        assert_eq!(figures.median(), median);
        assert_eq!(figures.to_string(), text);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        check(&[3.0], 3.0, "3.00 (3.00 to 3.00)");
        check(&[9.0, 1.0, 2.0], 2.0, "2.00 (1.00 to 9.00)");
        check(&[4.0, 1.0, 2.0, 9.0], 3.0, "3.00 (1.00 to 9.00)");
        assert!(Figures::default().median().is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ours: Figures = [2.0, 40.0, 6.0].into_iter().collect();
        let theirs: Figures = [1.0, 10.0, 2.0].into_iter().collect();
        assert_eq!(ours.over(&theirs), [2.0, 4.0, 3.0].into_iter().collect());
    }
}
