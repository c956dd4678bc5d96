//! How long it takes until a task that was sent to a free slot begins there.

use std::time::Duration;

/// What is believed before anything was measured: little, or nothing ever would be.
pub const HANDOVER_DEFAULT: Duration = Duration::from_millis(20);
/// How long the first task may take to begin before it is called late: it brings all headers.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// The longest hand-over believed: 100 MB over a line of 10 Mbit/s.
const HANDOVER_MAX: Duration = Duration::from_secs(80);
/// The weight of the newest measurement. The first ones bring all headers and soon do not count any more.
const NEWEST: f64 = 0.5;

/// The hand-over times of one worker, as a moving average.
#[derive(Debug, Default)]
pub(super) struct Handover(Option<Duration>);

impl Handover {
    pub(super) fn measured(&mut self, took: Duration) {
        let took = took.min(HANDOVER_MAX);
        self.0 = Some(match self.0 {
            None => took,
            Some(before) => before.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST),
        });
    }

    pub(super) fn expected(&self) -> Duration {
        self.0.unwrap_or(HANDOVER_DEFAULT)
    }

    /// What is added to the time after which a task that has not begun is late.
    pub(super) fn patience(&self) -> Duration {
        if self.0.is_none() { FIRST_PATIENCE } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_first_time_is_soon_forgotten() {
        let ms = Duration::from_millis;
        let mut handover = Handover::default();
        assert_eq!((handover.expected(), handover.patience()), (HANDOVER_DEFAULT, FIRST_PATIENCE));
        handover.measured(ms(3000));
        assert_eq!((handover.expected(), handover.patience()), (ms(3000), Duration::ZERO));
        (0..12).for_each(|_| handover.measured(ms(10)));
        assert!(handover.expected() < ms(60), "{:?}", handover.expected());
        handover.measured(Duration::MAX);
        assert!(handover.expected() <= HANDOVER_MAX);
    }
}
