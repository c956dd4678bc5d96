//! A node that is killed at random instants while builds run.
//!
//! One thread builds, each time with a value of its header that makes hits, misses and evictions alike; another starts the
//! node, waits for a random while and kills it. What must hold: the node starts again each time, no build fails, every
//! object is the compiler's own, and in the end nothing in the store is damaged and what is built is found again.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{Desk, workload::Workload};

/// A store of half of what the builds make, so that it evicts all the time.
const SETTINGS: &str = "[cache]\nsize = \"400K\"\n";
const UNITS: u64 = 8;
const VALUES: u64 = 8;
/// Longest life of a node between its start and its death: a few compiles.
const LIFE_MS_MAX: u64 = 300;

/// What a run of kills saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Nodes killed.
    pub kills: u32,
    /// Builds meanwhile, each of some units.
    pub builds: u32,
    /// Units compiled in all.
    pub units: u64,
    /// How long it took.
    pub took: Duration,
}

/// Kills a node so often; `seed` says at which instants. Fails when anything is lost or wrong.
pub fn run(kills: u32, seed: u64) -> Report {
    println!("seed {seed}");
    let begun = Instant::now();
    let desk = Desk::without_node();
    desk.configure(SETTINGS);
    let work = Workload::new(&desk, UNITS);
    let over = AtomicBool::new(false);
    let builds = thread::scope(|scope| {
        let builder = scope.spawn(|| {
            let mut builds = 0;
            while !over.load(Ordering::Relaxed) {
                let value = draw(seed, "value", builds) % VALUES;
                work.build(u32::try_from(value).expect("there are few values"));
                builds += 1;
            }
            builds
        });
        for kill in 0..kills {
            if builder.is_finished() {
                break;
            }
            desk.barn(&["start"]).ok();
            thread::sleep(Duration::from_millis(draw(seed, "life", u64::from(kill)) % LIFE_MS_MAX));
            desk.kill_node();
        }
        over.store(true, Ordering::Relaxed);
        builder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    desk.barn(&["start"]).ok();
    let checked = desk.barn(&["cache", "verify"]).ok();
    assert!(checked.out().ends_with("all are whole\n"), "{}", checked.out());
    work.build(0);
    let counts = work.counted(0);
    assert_eq!(counts.hits, UNITS, "{counts:?}");
    let units = (builds + 2) * UNITS;
    Report { kills, builds: u32::try_from(builds + 2).expect("few builds"), units, took: begun.elapsed() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, builds, units, took } = self;
        write!(f, "{kills} kills, {builds} builds, {units} compiles, none wrong, in {} s", took.as_secs())
    }
}

/// The `number`th of a row of random numbers.
pub fn draw(seed: u64, row: &str, number: u64) -> u64 {
    let digest = blake3::hash(format!("{seed} {row} {number}").as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest is longer"))
}
