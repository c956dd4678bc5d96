//! Two hundred nodes, machines that come and go, and what the office's cache makes of it. The numbers of entries are a
//! hundredth of what is promised, so that it runs in seconds; `make simulate-cache` runs it at full size.

mod world;

use std::time::Duration;

use world::{Scenario, World};

#[test]
fn an_office_finds_what_it_has() {
    for seed in [1, 2] {
        let scenario = Scenario {
            seed,
            nodes: 200,
            entries: 1000,
            length: Duration::from_secs(1200),
            churn_every: Duration::from_secs(30),
            lookup_every: Duration::from_secs(5),
        };
        let report = World::new(scenario).run();
        println!("seed {seed}: {report}");
        assert!(report.existing > 10_000, "seed {seed}: {report}");
        assert!(report.found * 100 >= report.existing * 99, "seed {seed}: {report}");
        assert!(report.bytes_per_s_worst <= 20_000.0, "seed {seed}: {report}");
        assert!(report.churned > 30 && report.handed > 1000 && report.shared > 10, "seed {seed}: {report}");
    }
}
