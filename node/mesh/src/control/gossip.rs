//! What is gossiped, and how often.

use std::time::Duration;

use barn_protocol::{advert::Advert, wire};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::limits::{ADVERT_INTERVAL_CALM, ADVERT_INTERVAL_MAX, ADVERT_INTERVAL_MIN, ROSTER_INTERVAL_MIN};

/// A member's sign of life on the advert topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulse {
    /// The epoch of its roster, so that who has a newer one can help.
    pub(super) epoch: u64,
    /// [`Advert::encode`]; empty before the node has anything to offer.
    advert: Vec<u8>,
}

impl Pulse {
    pub(super) fn new(epoch: u64, advert: Option<&Advert>) -> Self {
        Self { epoch, advert: advert.map(Advert::encode).unwrap_or_default() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        wire::encode(self).expect("a pulse is far smaller than a frame")
    }

    /// The pulse and its advert; `None` when malformed.
    pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Option<Advert>)> {
        let pulse: Self = wire::decode(bytes).ok()?;
        if pulse.advert.is_empty() {
            return Some((pulse.epoch, None));
        }
        Some((pulse.epoch, Some(Advert::decode(&pulse.advert)?)))
    }
}

/// When to publish something that changes now and then and is repeated anyway.
#[derive(Debug)]
pub(super) struct Pace {
    min: Duration,
    /// The shortest time before what is new but not urgent.
    calm: Duration,
    /// `None`: never without a reason.
    max: Option<Duration>,
    last: Option<Instant>,
    wanted: bool,
    /// Something changed that is not urgent.
    stale: bool,
}

impl Pace {
    pub(super) fn adverts() -> Self {
        let (min, calm, max) = (ADVERT_INTERVAL_MIN, ADVERT_INTERVAL_CALM, ADVERT_INTERVAL_MAX);
        Self { min, calm, max: Some(max), last: None, wanted: true, stale: false }
    }

    pub(super) fn rosters() -> Self {
        let min = ROSTER_INTERVAL_MIN;
        Self { min, calm: min, max: None, last: None, wanted: false, stale: false }
    }

    /// There is a reason to publish.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// There is something new, and no hurry.
    pub(super) fn want_calmly(&mut self) {
        self.stale = true;
    }

    /// There is something nobody has seen yet, so what was published before does not count.
    pub(super) fn renew(&mut self) {
        (self.wanted, self.last) = (true, None);
    }

    /// When the next publication is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let Some(last) = self.last else { return self.wanted.then_some(now) };
        let pause = match (self.wanted, self.stale) {
            (true, _) => Some(self.min),
            (false, true) => Some(self.calm),
            (false, false) => self.max,
        };
        pause.map(|pause| last + pause)
    }

    /// Whether to publish now; if so, it counts as done.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.due(now).is_some_and(|due| due <= now);
        if due {
            (self.last, self.wanted, self.stale) = (Some(now), false, false);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_are_paced_and_repeated() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::adverts();
        assert!(pace.take(at(1000)));
        assert!(!pace.take(at(1100)));
        pace.want();
        assert!(!pace.take(at(1200)), "at most four a second");
        assert!(pace.take(at(1250)));
        assert!(!pace.take(at(6249)));
        assert!(pace.take(at(6250)), "repeated after five seconds");
        pace.want_calmly();
        assert!(!pace.take(at(8249)));
        assert!(pace.take(at(8250)), "what is not urgent waits two seconds");
        pace.want_calmly();
        pace.want();
        assert!(pace.take(at(8500)));
        assert!(!pace.take(at(13_499)), "and is told with what is");
    }

    #[test]
    fn rosters_go_out_at_once_and_again_on_demand() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::rosters();
        assert!(!pace.take(at(100_000)));
        pace.renew();
        assert!(pace.take(at(100_000)));
        pace.want();
        assert!(!pace.take(at(101_000)));
        pace.renew();
        assert!(pace.take(at(101_000)));
        pace.want();
        assert!(pace.take(at(103_000)));
        assert!(!pace.take(at(200_000)));
    }

    #[test]
    fn pulses_round_trip() {
        assert_eq!(Pulse::decode(&Pulse::new(7, None).encode()), Some((7, None)));
        let advert = Advert {
            sequence: 1,
            started_unix_s: 2,
            version: "0.1.0".into(),
            machine: "x86_64".into(),
            cores: 8,
            slots: 6,
            free: 4,
            queued: 1,
            queue_max: 6,
            toolchains: vec![],
        };
        let bytes = Pulse::new(7, Some(&advert)).encode();
        assert_eq!(Pulse::decode(&bytes), Some((7, Some(advert))));
        assert_eq!(Pulse::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Pulse::decode(&[7, 1, 0]), None);
    }
}
