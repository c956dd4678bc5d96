//! In which order a build's results are fetched.
//!
//! The build takes from the front of the list, the download from the back, weighted by what it saves:
//!
//! ```text
//! worth(i) = (cost of all entries up to and including i) × cost(i) / time(i)
//! time(i)  = FETCH_US + bytes(i) / LINE_BYTES_PER_US
//! ```
//!
//! Saved cost for transfer time is the greedy order for a knapsack (Dantzig, *Discrete-variable extremum problems*, 1957):
//! wherever the download is stopped, little that is better was left out. The cost up to an entry is when a build on all
//! cores comes to it, whatever their number, so the product makes the two work towards each other.

use std::{cmp::Ordering, iter};

use super::BuildEntry;

/// What a fetch takes beside its bytes: a round trip and a few files, in microseconds.
const FETCH_US: u64 = 2_000;
/// What a line of 1 Gbit/s carries, in bytes a microsecond.
const LINE_BYTES_PER_US: u64 = 100;

/// What of an entry is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Everything but debug information beside the object.
    Main,
    /// The rest.
    Sides,
}

/// One fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Of which entry, by its place in the list.
    pub entry: usize,
    /// What of it.
    pub part: Part,
}

/// All fetches, the first first: the main part of every entry, then the sides of those that have some.
pub fn order(entries: &[BuildEntry]) -> Vec<Step> {
    let mut costs = 0_u64;
    let upto: Vec<u64> = entries.iter().map(|entry| (costs += cost(entry), costs).1).collect();
    let ranked = |part: Part| {
        let bytes = |entry: &BuildEntry| match part {
            Part::Main => entry.bytes - entry.side_bytes.min(entry.bytes),
            Part::Sides => entry.side_bytes,
        };
        let worth = |place: usize| Worth::new(upto[place], &entries[place], bytes(&entries[place]));
        let has = |place: &usize| part == Part::Main || entries[*place].side_outputs != 0;
        let mut places: Vec<(Worth, usize)> =
            (0..entries.len()).filter(has).map(|place| (worth(place), place)).collect();
        places.sort_unstable_by(|(one, at), (other, than)| other.cmp(one).then(than.cmp(at)));
        places.into_iter().map(move |(_, entry)| Step { entry, part })
    };
    iter::once(Part::Main).chain(iter::once(Part::Sides)).flat_map(ranked).collect()
}

/// What nobody measured still costs something.
fn cost(entry: &BuildEntry) -> u64 {
    u64::from(entry.cost_ms).max(1)
}

/// A fraction: 81 bits over 51 at most, so that products of two stay within 128.
#[derive(Debug, Clone, Copy)]
struct Worth {
    saved: u128,
    time_us: u64,
}

impl Worth {
    fn new(cost_upto: u64, entry: &BuildEntry, bytes: u64) -> Self {
        // 2^32 ms for 2^16 entries, times 2^32 ms.
        let saved = u128::from(cost_upto) * u128::from(cost(entry));
        // More than any entry of a list may have; what is larger is the same.
        let bytes = bytes.min(1 << 40);
        Self { saved, time_us: FETCH_US + bytes / LINE_BYTES_PER_US }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        (self.saved * u128::from(other.time_us)).cmp(&(other.saved * u128::from(self.time_us)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{ActionKey, Digest};

    fn entry(cost_ms: u32, bytes: u64, side_bytes: u64) -> BuildEntry {
        BuildEntry {
            key: ActionKey(Digest::of(b"x")),
            toolchain: 0,
            cost_ms,
            bytes: bytes + side_bytes,
            side_bytes,
            side_outputs: u64::from(side_bytes > 0),
        }
    }

    fn places(entries: &[BuildEntry], part: Part) -> Vec<usize> {
        order(entries).iter().filter(|step| step.part == part).map(|step| step.entry).collect()
    }

    #[test]
    fn expensive_and_late_comes_first() {
        let check = |entries: &[(u32, u64)], expect: &[usize]| {
            let entries: Vec<_> = entries.iter().map(|&(cost, bytes)| entry(cost, bytes, 0)).collect();
            assert_eq!(places(&entries, Part::Main), expect, "{entries:?}");
        };
        check(&[], &[]);
        // All alike: from the back.
        check(&[(100, 5000); 4], &[3, 2, 1, 0]);
        check(&[(0, 0); 3], &[2, 1, 0]);
        // What costs most.
        check(&[(100, 5000), (900, 5000), (100, 5000)], &[1, 2, 0]);
        // At what is cheap to fetch.
        check(&[(100, 5000), (100, 5000), (100, 50_000_000)], &[1, 0, 2]);
        // What was early and cost a little more is still early.
        check(&[(110, 5000), (100, 5000), (100, 5000)], &[2, 1, 0]);
        // The widest numbers.
        check(&[(u32::MAX, u64::MAX), (u32::MAX, 0)], &[1, 0]);
    }

    #[test]
    fn debug_information_comes_last() {
        let entries = [entry(100, 5000, 900_000), entry(100, 5000, 0), entry(100, 5000, 10)];
        let steps: Vec<_> = order(&entries).iter().map(|step| (step.entry, step.part)).collect();
        let (main, sides) = (Part::Main, Part::Sides);
        assert_eq!(steps, [(2, main), (1, main), (0, main), (2, sides), (0, sides)]);
    }

    /// A build of `cores` takes from the front, compiling what has not been fetched; a download takes from the order what
    /// has not been begun. Returns when the build ends and how many entries came too late, in microseconds and entries.
    fn simulate(entries: &[BuildEntry], steps: &[Step], cores: usize) -> (u64, usize) {
        let mut fetched_at = vec![u64::MAX; entries.len()];
        let mut free = vec![0_u64; cores];
        let (mut line, mut next, mut late) = (0_u64, 0, 0);
        let mut begun = vec![false; entries.len()];
        for place in 0..entries.len() {
            free.sort_unstable();
            // The download goes on until the build comes to this entry.
            while line <= free[0] && next < steps.len() {
                let entry = steps[next].entry;
                next += 1;
                if !begun[entry] {
                    line += FETCH_US + entries[entry].bytes / LINE_BYTES_PER_US;
                    fetched_at[entry] = line;
                }
            }
            begun[place] = true;
            let is_here = fetched_at[place] <= free[0];
            late += usize::from(fetched_at[place] != u64::MAX && !is_here);
            free[0] += if is_here { FETCH_US } else { cost(&entries[place]) * 1000 };
        }
        (free.into_iter().max().unwrap_or(0), late)
    }

    proptest! {
        #[test]
        fn every_part_comes_once_and_sides_after_all_else(
            sizes in vec((any::<u32>(), 0..1_u64 << 40, prop_oneof![Just(0), 0..1_u64 << 40]), 0..50)
        ) {
            let entries: Vec<_> = sizes.iter().map(|&(cost, bytes, sides)| entry(cost, bytes, sides)).collect();
            let steps = order(&entries);
            prop_assert!(steps.is_sorted_by_key(|step| step.part));
            let mut main = places(&entries, Part::Main);
            main.sort_unstable();
            prop_assert!(main.into_iter().eq(0..entries.len()));
            let mut sides = places(&entries, Part::Sides);
            sides.sort_unstable();
            let with: Vec<usize> = (0..entries.len()).filter(|&i| entries[i].side_outputs != 0).collect();
            prop_assert_eq!(sides, with);
        }

        #[test]
        fn what_is_needed_later_and_no_worse_comes_first(
            sizes in vec((0..5_000_u32, 0..5_000_000_u64), 2..50)
        ) {
            let entries: Vec<_> = sizes.iter().map(|&(cost, bytes)| entry(cost, bytes, 0)).collect();
            let order = places(&entries, Part::Main);
            for (at, &first) in order.iter().enumerate() {
                for &then in &order[at + 1..] {
                    let (one, other) = (&entries[first], &entries[then]);
                    let is_beaten = then > first && cost(other) >= cost(one) && other.bytes <= one.bytes;
                    prop_assert!(!is_beaten, "{} before {}", first, then);
                }
            }
        }

        #[test]
        fn a_build_and_the_download_meet(
            sizes in vec((50..3_000_u32, 1_000..2_000_000_u64), 20..200),
            cores in 1..9_usize,
        ) {
            let entries: Vec<_> = sizes.iter().map(|&(cost, bytes)| entry(cost, bytes, 0)).collect();
            let (alone, _) = simulate(&entries, &[], cores);
            let (together, late) = simulate(&entries, &order(&entries), cores);
            prop_assert!(together < alone);
            // Only what is on its way as the build comes to it is fetched in vain.
            prop_assert!(late <= cores, "{} of {} came too late", late, entries.len());
        }
    }
}
