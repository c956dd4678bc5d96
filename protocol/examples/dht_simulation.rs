//! The office's cache at full size: 200 nodes that own 100,000 entries each, an hour in which every minute a machine goes
//! and as many come back. Takes some 2 GB of memory. Arguments: nodes, entries of each, minutes, seed.

#[path = "../tests/dht_simulation/world.rs"]
mod world;

use std::time::Duration;

use world::{Scenario, World};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |place: usize, default: u64| numbers.get(place).copied().unwrap_or(default);
    let scenario = Scenario {
        seed: number(3, 1),
        nodes: number(0, 200) as usize,
        entries: number(1, 100_000) as usize,
        length: Duration::from_secs(60 * number(2, 60)),
        churn_every: Duration::from_secs(60),
        lookup_every: Duration::from_secs(1),
    };
    let report = World::new(scenario).run();
    println!("{scenario:?}\n{report}");
    assert!(report.found * 100 >= report.existing * 99, "too many look-ups did not find what is there");
    assert!(report.bytes_per_s_worst <= 20_000.0, "too much control traffic");
}
