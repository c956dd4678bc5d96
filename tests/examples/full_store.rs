//! The memory of a node whose store is full of results, and how soon it serves after an orderly stop and after a kill:
//! `full_store [ACTIONS]`, 100,000 actions by default (an object, a record and a manifest each).
//!
//! The store is filled by `measure` of the store's own package, which is built beside this: `make bench-store`.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use barn_tests::{Desk, workload::Workload};

/// Units built in between, so that the node serves.
const UNITS: u64 = 20;
/// Longest rebuild waited for.
const REBUILD_MAX: Duration = Duration::from_secs(120);

fn main() {
    let actions = env::args().nth(1).unwrap_or_else(|| "100000".to_owned());
    let desk = Desk::without_node();
    let filled = Command::new(measure()).arg(desk.state()).arg(&actions).status();
    assert!(filled.expect("measure is built beside this").success(), "the store cannot be filled");

    start(&desk, "after an orderly stop");
    serve(&desk);
    desk.kill_node();
    start(&desk, "after a kill");
    serve(&desk);
    desk.barn(&["cache", "verify"]).ok();
    tell(&desk, "everything read back");
}

fn measure() -> PathBuf {
    env::current_exe().expect("this program has a path").with_file_name("measure")
}

/// Starts the node, and says when it answered and when all of its store was found again.
fn start(desk: &Desk, when: &str) {
    let begun = Instant::now();
    desk.barn(&["start"]).ok();
    let served = begun.elapsed();
    while desk.barn(&["cache", "stat", "--json"]).ok().json()["rebuilding"] == true {
        assert!(begun.elapsed() < REBUILD_MAX, "the index is still being rebuilt");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ms = |time: Duration| time.as_millis();
    println!("started {when}: answers after {} ms, finds all after {} ms", ms(served), ms(begun.elapsed()));
    tell(desk, "started");
}

fn serve(desk: &Desk) {
    let work = Workload::new(desk, UNITS);
    work.build(1);
    assert_eq!(work.counted(1).hits, UNITS, "what was built is found again");
    tell(desk, "after misses and hits");
}

/// The node's memory now and at most, where the system tells.
fn tell(desk: &Desk, when: &str) {
    let pid = desk.node_pid().expect("a node runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("unknown").trim();
    let records = &desk.barn(&["cache", "stat", "--json"]).ok().json()["records"];
    println!("{when}: {records} records, memory {}, at most {}", field("VmRSS:"), field("VmHWM:"));
}
