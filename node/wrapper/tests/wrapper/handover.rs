//! How long the wrapper stays after a local compile: until the node has the outputs, but never for long.

use std::{
    fs,
    io::Write,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Output, Stdio},
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use barn_wrapper::messages::{Message, ToWrapper};

use crate::support::{Connection, Room, kill, text, timed};

/// How long the played node takes for the outputs.
const TAKING_IN: Duration = Duration::from_millis(200);
/// A `gcc` that succeeds.
const SUCCEEDS: &str = "echo local out; echo local object > x.o";

/// A room whose `gcc` does this.
fn room_with(gcc: &str) -> Room {
    let room = Room::new();
    room.script("bin/gcc", gcc);
    room
}

/// Plays a node that lets the wrapper compile with the output `x.o` and then never closes: the receiver keeps the
/// connections.
fn node_that_never_closes(room: &Room) -> Receiver<Connection> {
    room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &["x.o"]);
        node
    })
}

/// Runs a `gcc` that does this beside a node that never closes.
fn run_beside_a_stuck_node(gcc: &str) -> (Output, Duration) {
    let room = room_with(gcc);
    let _connections = node_that_never_closes(&room);
    timed(&mut room.barn("gcc"))
}

fn check_bounded((output, elapsed): &(Output, Duration)) {
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("local out\n", Some(0)));
    assert!((Duration::from_millis(850)..Duration::from_millis(1300)).contains(elapsed), "{elapsed:?}");
}

#[test]
fn the_wrapper_stays_until_the_outputs_are_taken_in() {
    let room = room_with(SUCCEEDS);
    let closings = room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &["missing.d", "x.o"]);
        thread::sleep(TAKING_IN);
        let closing = Instant::now();
        drop(node);
        closing
    });
    let (output, elapsed) = timed(&mut room.barn("gcc -c x.c"));
    let exited = Instant::now();
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("local out\n", Some(0)));
    assert!(closings.recv().unwrap() < exited, "the wrapper exited first");
    assert!(elapsed < Duration::from_millis(800), "the wrapper did not see the end: {elapsed:?}");
}

#[test]
fn what_the_build_does_next_does_not_touch_an_output_that_is_being_taken_in() {
    let room = room_with("echo local object > x.Tpo");
    let taken = room.node(|mut node| {
        let directory = PathBuf::from(text(&node.request().cwd));
        let (compiled, _) = node.compile(&["gcc"], &["x.Tpo"]);
        thread::sleep(TAKING_IN);
        (compiled.outputs[0].unwrap(), fs::metadata(directory.join("x.Tpo")))
    });
    let build = "$BARN gcc && mv -f x.Tpo x.Po && echo stripped > x.Po";
    assert!(room.shell(build).status().unwrap().success());
    let (produced, metadata) = taken.recv().unwrap();
    let metadata = metadata.expect("the output was moved before the node had it");
    assert_eq!(produced.ctime_ns, metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec());
    assert_eq!(room.read("work/x.Po"), "stripped\n");
}

#[test]
fn a_node_that_never_closes_costs_a_second() {
    check_bounded(&run_beside_a_stuck_node(SUCCEEDS));
}

#[test]
fn a_node_that_talks_instead_of_closing_gets_no_more_time() {
    let room = room_with(SUCCEEDS);
    room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &["x.o"]);
        let beat = ToWrapper::Heartbeat.encode().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) && node.stream.write_all(&beat).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    check_bounded(&timed(&mut room.barn("gcc")));
}

#[test]
fn what_is_not_kept_holds_nobody_up() {
    for (gcc, code) in [
        ("echo local object > x.o; exit 3", Some(3)),
        ("echo local object > x.o; kill -SEGV $$", None),
        ("echo the output is missing", Some(0)),
    ] {
        let (output, elapsed) = run_beside_a_stuck_node(gcc);
        assert_eq!(output.status.code(), code, "{gcc}");
        assert!(elapsed < Duration::from_millis(600), "{gcc}: {elapsed:?}");
    }
}

#[test]
fn a_signal_ends_the_wait() {
    let room = room_with(SUCCEEDS);
    let connections = node_that_never_closes(&room);
    let begun = Instant::now();
    let mut wrapper = room.barn("gcc").stdout(Stdio::null()).spawn().unwrap();
    let _connection = connections.recv().unwrap();
    kill(wrapper.id(), "INT");
    assert_eq!(wrapper.wait().unwrap().signal(), Some(2));
    assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
}
