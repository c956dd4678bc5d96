//! Compiles that want too much, or do not want to end.

mod common;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use barn_sandbox::{CancelToken, Exit, Limit, MemorySink, RunError, Spec};
use common::{eventually, is_running, printed, probe, run, sandbox, uids};

/// Set for the process that is to be killed by [`everything_dies_with_the_node`].
const DOOMED: &str = "BARN_TEST_DOOMED";

/// A spec whose processes carry a mark that `is_running` finds.
fn marked(arguments: &[&str], mark: &str) -> Spec {
    let mut spec = probe(arguments);
    spec.argv.push(mark.as_bytes().to_vec());
    spec
}

fn mark(name: &str) -> String {
    format!("barn-mark-{name}-{}", std::process::id())
}

#[track_caller]
fn over(spec: &Spec, expect: Limit) {
    let begun = Instant::now();
    let error = run(spec).unwrap_err();
    assert!(matches!(&error, RunError::Limit(limit) if *limit == expect), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_wall_clock_ends_what_does_not_end() {
    for mode in ["sleep", "spin"] {
        let mark = mark(mode);
        let mut spec = marked(&[mode], &mark);
        spec.limits.wall = Duration::from_millis(500);
        let begun = Instant::now();
        let error = run(&spec).unwrap_err();
        assert!(matches!(error, RunError::TimedOut(_)), "{error:?}");
        assert!((500..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        eventually("it is gone", || !is_running(&mark));
    }
}

#[test]
fn cancelling_ends_a_run_at_once() {
    let mark = mark("cancel");
    let spec = marked(&["sleep"], &mark);
    let token = CancelToken::new().unwrap();
    let (ended, cancelled) = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let error = sandbox().run(&spec, &token, &mut MemorySink::default()).unwrap_err();
            assert!(matches!(error, RunError::Cancelled), "{error:?}");
            Instant::now()
        });
        eventually("it runs", || is_running(&mark));
        let cancelled = Instant::now();
        token.cancel();
        (run.join().unwrap(), cancelled)
    });
    let took = ended.duration_since(cancelled);
    assert!(took < Duration::from_millis(500), "{took:?}");
    eventually("it is gone", || !is_running(&mark));
}

#[test]
fn a_thrown_token_lets_nothing_run() {
    let token = CancelToken::new().unwrap();
    token.cancel();
    for _ in 0..5 {
        let mark = mark("thrown");
        let spec = marked(&["sleep"], &mark);
        let error = sandbox().run(&spec, &token, &mut MemorySink::default()).unwrap_err();
        assert!(matches!(error, RunError::Cancelled), "{error:?}");
        eventually("it is gone", || !is_running(&mark));
    }
}

#[test]
fn a_daemon_does_not_outlive_the_run() {
    let mark = mark("daemon");
    let begun = Instant::now();
    let (finished, _) = run(&marked(&["daemon"], &mark)).unwrap();
    assert_eq!((finished.exit, finished.stdout.as_slice()), (Exit::Code(0), &b"parent\n"[..]));
    assert!(begun.elapsed() < Duration::from_secs(5), "the daemon's open pipe is not waited for");
    eventually("it is gone", || !is_running(&mark));
}

#[test]
fn everything_dies_with_the_node() {
    if let Ok(mark) = std::env::var(DOOMED) {
        let error = run(&marked(&["sleep"], &mark));
        panic!("the node outlived its compile: {error:?}");
    }
    let mark = mark("doomed");
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "everything_dies_with_the_node"])
        .env(DOOMED, &mark)
        .spawn()
        .unwrap();
    eventually("it runs", || is_running(&mark));
    node.kill().unwrap();
    node.wait().unwrap();
    eventually("it is gone", || !is_running(&mark));
}

#[test]
fn fork_bombs_are_bounded() {
    let mut spec = probe(&["forks"]);
    spec.limits.processes = 20;
    // Bubblewrap, the room and the probe itself are three of the twenty.
    let children: u32 = printed(&spec).trim().parse().unwrap();
    assert!((15..18).contains(&children), "{children}");
    let mark = mark("bomb");
    let mut spec = marked(&["fork-bomb"], &mark);
    spec.limits.wall = Duration::from_secs(1);
    let error = run(&spec).unwrap_err();
    assert!(matches!(error, RunError::TimedOut(_)), "{error:?}");
    eventually("it is gone", || !is_running(&mark));
}

#[test]
fn memory_is_bounded() {
    let mut spec = probe(&["memory"]);
    spec.limits.memory_bytes = 256 << 20;
    let refused = printed(&spec);
    let at: u64 =
        refused.trim().strip_prefix("refused at ").unwrap_or_else(|| panic!("{refused}")).parse().unwrap();
    assert!(at <= 256 << 20, "{at}");
    let mut spec = probe(&["memory-many"]);
    spec.limits.memory_bytes = 256 << 20;
    over(&spec, Limit::Memory);
    let mut spec = probe(&["memory-shared"]);
    spec.limits.memory_bytes = 128 << 20;
    over(&spec, Limit::Memory);
}

#[test]
fn files_are_bounded() {
    let mut spec = probe(&["fill", "/work", "/tmp"]);
    spec.limits.room_bytes = 24 << 20;
    match run(&spec) {
        // Each file system alone holds back what is written to it ...
        Ok((finished, _)) => {
            let text = String::from_utf8(finished.stdout).unwrap();
            for line in text.lines() {
                let bytes: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
                assert!(bytes <= 26 << 20, "{text}");
            }
        }
        // ... and all of them together are looked at.
        Err(error) => assert!(matches!(error, RunError::Limit(Limit::Room)), "{error:?}"),
    }
    let (finished, _) = run(&probe(&["fill-file"])).unwrap();
    assert_eq!(finished.exit, Exit::Signal(libc::SIGXFSZ));
    over(&probe(&["inodes"]), Limit::Entries);
}

#[test]
fn a_compile_that_attacks_the_room_ends_its_run() {
    let error = run(&probe(&["kill", "2", "9"])).unwrap_err();
    assert!(matches!(error, RunError::Died { .. }), "{error:?}");
    let mut spec = probe(&["kill", "2", "19"]);
    spec.limits.wall = Duration::from_secs(1);
    let error = run(&spec).unwrap_err();
    assert!(matches!(error, RunError::TimedOut(_)), "{error:?}");
}

#[test]
fn nothing_runs_as_root_of_the_host() {
    let mark = mark("uid");
    let token = CancelToken::new().unwrap();
    let spec = marked(&["sleep"], &mark);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| sandbox().run(&spec, &token, &mut MemorySink::default()));
        eventually("it runs", || is_running(&mark));
        let expect = sandbox().drop_to().map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
        let uids = uids(&mark);
        token.cancel();
        assert!(!uids.is_empty() && uids.iter().all(|&uid| uid == expect && uid != 0), "{uids:?}");
        assert!(matches!(run.join().unwrap(), Err(RunError::Cancelled)));
    });
}

#[test]
fn floods_are_bounded() {
    over(&probe(&["flood", "1"]), Limit::Stdio);
    over(&probe(&["flood", "2"]), Limit::Stdio);
}
