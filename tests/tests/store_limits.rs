//! What is kept, for how long, and what `barn cache` says and does.

use barn_tests::{Desk, workload::Workload};
use serde_json::Value;

const UNITS: u64 = 10;

fn stat(desk: &Desk) -> Value {
    desk.barn(&["cache", "stat", "--json"]).ok().json()
}

fn bytes(desk: &Desk) -> u64 {
    stat(desk)["bytes"].as_u64().unwrap()
}

#[test]
fn a_store_stays_within_its_size_and_keeps_what_is_used() {
    let desk = Desk::without_node();
    desk.configure("[cache]\nsize = \"600K\"\n");
    desk.barn(&["start"]).ok();
    let work = Workload::new(&desk, UNITS);
    assert_eq!(stat(&desk)["bytes_max"], 600_000);
    for value in 0..12 {
        work.build(value);
        // Used again and again; the others once.
        work.build(100);
        desk.counts();
        assert!(bytes(&desk) <= 600_000, "{}", stat(&desk));
    }
    assert!(stat(&desk)["evicted"].as_u64().unwrap() > 0);
    assert_eq!(work.counted(100).hits, UNITS, "what is used stays");
    assert!(work.counted(0).hits < UNITS, "what was used longest ago is gone");
}

#[test]
fn a_size_that_is_none_is_refused_with_its_line() {
    let desk = Desk::without_node();
    desk.configure("[cache]\nsize = \"plenty\"\n");
    let refused = desk.barn(&["start"]);
    assert_eq!(refused.status, 1);
    let said = refused.err();
    assert!(said.contains("line 2") && said.contains("`plenty` is no size: write \"20G\""), "{said}");
    let refused = desk.barn(&["cache", "gc", "--size", "plenty"]);
    assert!(refused.status == 2 && refused.err().contains("is no size"), "{}", refused.err());
}

/// With a node and without one it is the same, and looking after a store starts none.
#[test]
fn verbs_work_whether_or_not_a_node_runs() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    work.build(2);
    desk.counts();
    let all = bytes(&desk);
    for running in [true, false] {
        if !running {
            desk.barn(&["stop"]).ok();
        }
        let now = stat(&desk);
        // Each of the two builds' results is there for other checkouts as well.
        assert_eq!(
            (&now["records"], &now["paused"], &now["rebuilding"]),
            (&Value::from(2 * 2 * UNITS), &Value::Bool(false), &Value::Bool(false))
        );
        assert_eq!(now["path"], desk.state().join("cache").to_str().unwrap());
        let shown = desk.barn(&["cache", "stat"]).ok().out();
        assert!(shown.contains(" KiB of 20.0 GiB"), "{shown}");
        assert_eq!(desk.barn(&["cache", "gc", "--json"]).ok().json()["evicted"], 0);
        let checked = desk.barn(&["cache", "verify", "--json"]).ok().json();
        assert_eq!((&checked["records"], &checked["records_dropped"]), (&now["records"], &Value::from(0)));
    }
    let half = format!("{}K", all / 2000);
    let collected = desk.barn(&["cache", "gc", "--size", &half, "--json"]).ok().json();
    assert!(collected["evicted"].as_u64().unwrap() > 0, "{collected}");
    assert!(bytes(&desk) <= all / 2, "{}", stat(&desk));
    assert_eq!(desk.node_pid(), None, "none of it started a node");
    let said = desk.barn(&["cache", "clear"]).ok().out();
    assert!(said.starts_with("removed ") && said.contains("0 B are left"), "{said}");
    desk.barn(&["start"]).ok();
    assert_eq!(work.counted(1).hits, 0);
    assert_eq!(work.counted(1).hits, UNITS);
}

/// What a compiler that is no longer here made goes before everything else, however lately it was used.
#[test]
fn a_removed_compilers_results_go_first() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    desk.sh("mkdir -p other/bin other/lib; ln -s /usr/lib/gcc other/lib/gcc; cp /usr/bin/gcc other/bin/gcc")
        .ok();
    work.build(1);
    let (own, own_records) = (bytes(&desk), stat(&desk)["records"].as_u64().unwrap());
    let other = "for n in $(seq 0 9); do $B $PWD/other/bin/gcc -O1 -c u$n.c -o out/$n.o || exit 1; done";
    let hits = |line: &str| {
        let (ran, counts) = desk.counted(line);
        ran.ok();
        counts.hits
    };
    desk.sh("echo >> /dev/null; printf x >> other/bin/gcc").ok();
    assert_eq!((hits(other), hits(other)), (0, UNITS));
    let both = stat(&desk)["records"].clone();
    assert_eq!(both, own_records + UNITS);
    // It is known to be here, and then it is not.
    desk.barn(&["cache", "gc"]).ok();
    assert_eq!(stat(&desk)["records"], both, "both are installed");
    desk.sh("mv other gone").ok();
    let collected = desk.barn(&["cache", "gc", "--json"]).ok().json();
    assert!(collected["evicted"].as_u64().unwrap() >= UNITS, "{collected}");
    assert_eq!(stat(&desk)["records"], own_records);
    assert!(bytes(&desk) < own * 3 / 2, "{} after {own}", bytes(&desk));
    assert_eq!(work.counted(1).hits, UNITS, "the other's stayed");
    // It comes back, and is like any other.
    desk.sh("mv gone other").ok();
    assert_eq!((hits(other), hits(other)), (0, UNITS));
    desk.barn(&["cache", "gc"]).ok();
    assert_eq!(hits(other), UNITS);
}
