//! The node's life, as a build and its user see it: started, stopped, hanging, killed, asked.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use barn_tests::{Counts, Desk, Tree, pace::patience};

const TREE: Tree<'_> = &[("x.c", "#include \"x.h\"\nint x = X;\n"), ("x.h", "#define X 1\n"), ("out/", "")];

/// A compile that lasts some seconds.
const SLOW: &str = "constexpr int spin(int n) { int s = 0; for (int i = 0; i < n; ++i) s ^= i; return s; }\n\
                    static_assert(spin(400000) >= 0);\nint value;\n";
const SLOW_COMPILE: &str =
    "exec $B clang++ -std=c++17 -fconstexpr-steps=2000000000 -c slow.cc -o out/slow.o -MD";

#[test]
fn the_wrapper_starts_the_node() {
    let desk = Desk::without_node();
    desk.lay(TREE);
    let missing = desk.barn(&["stats", "--json"]);
    assert_eq!(missing.status, 1);
    assert!(missing.err().contains("hint: "), "{}", missing.err());
    desk.sh("$B gcc -c x.c").ok();
    desk.sh("$B gcc -c x.c").ok();
    let counts = desk.counts();
    assert_eq!((counts.total, counts.misses, counts.hits), (2, 1, 1), "{counts:?}");
}

#[test]
fn a_wrapper_that_may_not_start_a_node_compiles() {
    let desk = Desk::without_node();
    desk.lay(TREE);
    desk.sh("export BARN_NO_START=1; $B gcc -c x.c && $B gcc --version > /dev/null && test -f x.o").ok();
    desk.sh("export BARN_DISABLE=1; rm x.o; $B gcc -c x.c && test -f x.o").ok();
    assert_eq!(desk.node_pid(), None);
    assert!(!desk.state().exists(), "nothing is made by looking");
    // Fifty compiles of nothing: the wrapper's own share stays far below what one start of a node takes.
    let begun = Instant::now();
    desk.sh("export BARN_NO_START=1; for n in $(seq 50); do $B true; done").ok();
    assert!(begun.elapsed() < patience(Duration::from_millis(50 * 50)), "{:?}", begun.elapsed());
}

#[test]
fn results_and_counts_outlive_the_node() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c").ok();
    desk.barn(&["stop"]).ok();
    assert_eq!(desk.node_pid(), None);
    desk.barn(&["stop"]).ok();
    desk.barn(&["start"]).ok();
    desk.barn(&["start"]).ok();
    let (_, counts) = desk.counted("$B gcc -c x.c");
    assert_eq!(counts.hits, 1, "{counts:?}");
    assert_eq!(desk.counts().total, 2);
    assert_eq!(Counts::of(&desk.barn(&["stats", "--json", "--zero"]).json()).total, 2);
    assert_eq!(desk.counts(), Counts::default());
    // The same after a crash, for what was stored before it.
    desk.signal_node("KILL");
    desk.await_that("the node has gone", |desk| desk.node_pid().is_none());
    let (_, counts) = {
        desk.barn(&["start"]).ok();
        desk.counted("$B gcc -c x.c")
    };
    assert_eq!(counts.hits, 1, "{counts:?}");
}

#[test]
fn one_node_for_one_state_directory() {
    let desk = Desk::new();
    let first = desk.node_pid();
    let second = desk.barn(&["node"]);
    assert_ne!(second.status, 0);
    let said = second.err();
    assert!(said.contains("another process uses the store") && said.contains("hint: "), "{said}");
    assert_eq!(desk.node_pid(), first, "the first one goes on");
    desk.barn(&["status", "--json"]).ok();
    // Nor does a hundred wrappers that come at once start more than one.
    desk.barn(&["stop"]).ok();
    desk.lay(TREE);
    desk.sh("for n in $(seq 100); do $B gcc -c x.c -o out/$n.o & done; wait; ls out | wc -l | grep -qx 100")
        .ok();
    desk.barn(&["stop"]).ok();
    assert_eq!(desk.node_pid(), None, "a second node ran");
}

#[test]
fn a_hundred_compiles_at_once_into_one_directory() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("for n in $(seq 100); do echo \"#include \\\"x.h\\\"\nint v$n = X;\" > v$n.c; done").ok();
    let line = "for n in $(seq 100); do $B gcc -c v$n.c -o out/v$n.o -MD & done; \
                for n in $(seq 20); do $B gcc -c x.c -o out/same.o & done; wait; \
                for n in $(seq 100); do nm out/v$n.o | grep -q \" v$n\\$\" && test -f out/v$n.d || exit 1; done; \
                ls -A out | wc -l";
    let plain = desk.plain(line).ok();
    assert_eq!(plain.out().trim(), "201");
    let objects = |desk: &Desk| desk.sh("cat out/*").ok().stdout;
    let expected = objects(&desk);
    for round in 0..2 {
        desk.sh("rm -r out; mkdir out").ok();
        let (ran, counts) = desk.counted(line);
        assert_eq!(ran.ok(), plain, "round {round}");
        assert!(expected == objects(&desk), "round {round}");
        assert_eq!((counts.total, counts.failed), (120, 0), "{counts:?}");
        // Of those that write one file at once none may be kept: whose it is cannot be told.
        assert!(round == 0 || counts.hits >= 100, "{counts:?}");
    }
}

#[test]
fn a_hanging_node_holds_nobody_up() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c").ok();
    desk.signal_node("STOP");
    let begun = Instant::now();
    desk.sh("rm x.o; $B gcc -c x.c && test -f x.o").ok();
    assert!(begun.elapsed() < patience(Duration::from_secs(3)), "{:?}", begun.elapsed());
    desk.signal_node("CONT");
}

/// What happens to the node while a compile runs does not happen to the compile.
#[test]
fn the_node_may_go_during_a_compile() {
    for signal in ["KILL", "TERM", "STOP"] {
        let desk = Desk::new();
        desk.lay(&[("slow.cc", SLOW), ("out/", "")]);
        let mut during = desk.command(SLOW_COMPILE, true).spawn().unwrap();
        desk.await_running(1);
        desk.signal_node(signal);
        assert!(during.wait().unwrap().success(), "{signal}");
        if signal == "STOP" {
            desk.signal_node("CONT");
        }
        assert!(desk.at("out/slow.o").is_file() && desk.at("out/slow.d").is_file(), "{signal}");
    }
}

/// Ctrl-C ends the compile at once, with the status that the compiler would give and nothing half done.
#[test]
fn an_interrupted_compile_leaves_nothing() {
    let desk = Desk::new();
    desk.lay(&[("slow.cc", SLOW), ("out/", "")]);
    // `timeout` passes the signal on to the group that it leads, as a terminal does.
    let during = desk.command(SLOW_COMPILE, true).stderr(Stdio::piped()).spawn().unwrap();
    desk.await_running(1);
    let begun = Instant::now();
    desk.sh(&format!("kill -INT {}", during.id())).ok();
    let ended = during.wait_with_output().unwrap();
    assert!(!ended.status.success());
    assert!(begun.elapsed() < patience(Duration::from_secs(2)), "{:?}", begun.elapsed());
    let left: Vec<_> = fs::read_dir(desk.at("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?} was left");
    desk.await_that("the node has noticed", |desk| {
        desk.barn(&["status", "--json"]).json()["running"]["local"] == 0
    });
}

#[test]
fn verbs_of_the_store() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c && $B gcc -g -c x.c").ok();
    let stat = |desk: &Desk| desk.barn(&["cache", "stat", "--json"]).json();
    // The one without debug information is kept for other checkouts as well.
    assert_eq!(stat(&desk)["records"], 3);
    assert!(stat(&desk)["bytes"].as_u64().unwrap() > 0);
    let shown = desk.barn(&["cache", "stat"]).ok().out();
    assert!(shown.lines().any(|line| line.starts_with("results") && line.ends_with(" 3")), "{shown}");
    assert!(desk.barn(&["cache", "verify"]).ok().out().ends_with("all are whole\n"));
    desk.barn(&["cache", "gc"]).ok();
    desk.barn(&["cache", "clear"]).ok();
    assert_eq!(stat(&desk)["records"], 0);
    let (_, counts) = desk.counted("$B gcc -c x.c");
    assert_eq!(counts.misses, 1, "{counts:?}");
}

/// A blob that rots on disk is found by `verify`, and is a miss before that.
#[test]
fn rot_is_a_miss() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c").ok();
    let expected = fs::read(desk.at("x.o")).unwrap();
    let rot = "find \"$BARN_HOME\"/cache -type f -size +0 -path '*blob*' | while read -r f; do \
               chmod u+w \"$f\"; printf rotten | dd of=\"$f\" conv=notrunc status=none; done";
    desk.sh(rot).ok();
    desk.sh("rm x.o; $B gcc -c x.c").ok();
    assert!(expected == fs::read(desk.at("x.o")).unwrap(), "a rotten object was served");
    desk.sh(rot).ok();
    desk.barn(&["cache", "verify"]);
    assert!(desk.barn(&["cache", "verify"]).ok().out().ends_with("all are whole\n"));
    desk.sh("rm x.o; $B gcc -c x.c").ok();
    assert!(expected == fs::read(desk.at("x.o")).unwrap(), "a rotten object was served");
}

#[test]
fn explanations() {
    let desk = Desk::new();
    desk.lay(TREE);
    assert_eq!(desk.barn(&["explain"]).status, 1);
    desk.sh("$B gcc -c x.c").ok();
    let first = desk.barn(&["explain", "x.c"]).ok().out();
    assert!(first.contains("compiled here") && first.contains("x.c"), "{first}");
    desk.sh("$B gcc -c x.c").ok();
    assert!(desk.barn(&["explain", "x.c"]).ok().out().contains("served from the store"));
    desk.sh("echo '#define X 2' > x.h; $B gcc -c x.c").ok();
    let changed = desk.barn(&["explain", "./x.c"]).ok().out();
    assert!(changed.contains("x.h has changed"), "{changed}");
    desk.sh("$B gcc -march=native -c x.c").ok();
    let native = desk.barn(&["explain"]).ok().out();
    assert!(native.contains("native-cpu") && native.contains("-march=native"), "{native}");
    let unknown = desk.barn(&["explain", "y.c"]);
    assert!(unknown.status == 1 && unknown.err().contains("y.c"), "{}", unknown.err());
}

#[test]
fn doctor_and_mistakes() {
    let desk = Desk::new();
    for (running, state) in [(true, "ok"), (false, "wrong")] {
        let doctor = desk.barn(&["doctor"]);
        let findings = doctor.out();
        let finding = |what: &str, state: &str| {
            findings
                .lines()
                .any(|line| line.starts_with(state) && line.split_whitespace().nth(1) == Some(what))
        };
        assert!(finding("node", state) && finding("compilers", "ok"), "{findings}");
        assert_eq!(findings.contains("hint: "), findings.contains("wrong"), "{findings}");
        assert_eq!(doctor.status, i32::from(findings.contains("wrong ")), "{findings}");
        if running {
            desk.barn(&["stop"]).ok();
        }
    }
    for (arguments, status, said) in [
        (&["frobnicate"][..], 127, "neither a compiler nor a barn command"),
        (&["gcc-99", "-c", "x.c"], 127, "cannot find 'gcc-99' in PATH"),
        (&["--"], 2, "no compiler"),
        (&["./nothing/gcc"], 127, "nothing/gcc"),
        (&["stats", "--frobnicate"], 2, "--frobnicate"),
        (&["cache"], 2, "verify"),
        (&["cache", "frobnicate"], 2, "frobnicate"),
    ] {
        let ran = desk.barn(arguments);
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.err());
        assert!(ran.err().contains(said) && ran.stdout.is_empty(), "{arguments:?}: {}", ran.err());
    }
    assert!(desk.barn(&["--version"]).ok().out().starts_with("barn "));
    assert!(desk.barn(&["help"]).ok().out().contains("explain"));
}

/// What a script captures stands alone on standard output, and keeps its shape.
#[test]
fn what_scripts_read() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c; $B gcc -c x.c; $B gcc --version; $B g++ -march=native -c x.c").ok();
    let stats = desk.stats();
    let counts = desk.counts();
    assert_eq!((counts.total, counts.distributable, counts.local, counts.other), (4, 2, 1, 1), "{stats}");
    assert_eq!(stats["languages"]["c"], serde_json::json!({ "hits": 1, "misses": 1 }));
    assert_eq!(stats["local_reasons"], serde_json::json!({ "native-cpu": 1 }));
    assert_eq!(stats["peers"], serde_json::json!({}));
    assert_eq!(stats["compiles"]["remote"], 0);
    let status = desk.barn(&["status", "--json"]).json();
    assert_eq!(status["mesh"], serde_json::Value::Null);
    assert_eq!(status["peers"], serde_json::json!([]));
    let id = desk.barn(&["id"]).ok();
    assert_eq!(status["node"]["id"].as_str(), Some(id.out().trim()));
    assert!(id.stderr.is_empty(), "{}", id.err());
    for key in ["name", "version", "addresses"] {
        assert!(!status["node"][key].is_null(), "{key}: {status}");
    }
    assert_eq!(status["cores"]["local"], status["cores"]["mesh"]);
}
