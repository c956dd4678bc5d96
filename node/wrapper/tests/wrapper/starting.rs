//! Starting the node on demand. The wrapper is copied into a folder with a program `barn-node` beside it.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use crate::support::{BARN, Connection, Room, await_condition, done, text, timed};

/// Installs the wrapper with this script as the node's program; `$HOME` is the room.
fn install(room: &Room, node: &str) -> PathBuf {
    room.script("inst/barn-node", node);
    let barn = room.at("inst/barn");
    fs::copy(BARN, &barn).unwrap();
    barn
}

fn wrapper(room: &Room, barn: &PathBuf) -> Command {
    let mut command = room.command(barn);
    command
        .arg("gcc")
        .env_remove("BARN_NO_START")
        .env("HOME", room.at(""))
        .env("MAKEFLAGS", "-j --jobserver");
    command
}

#[test]
fn a_started_node_serves_the_call_that_started_it() {
    let room = Room::new();
    let barn = install(&room, "echo started >> $HOME/log");
    thread::scope(|scope| {
        scope.spawn(|| {
            await_condition("the node is started", || room.at("log").exists());
            let listener = UnixListener::bind(room.socket()).unwrap();
            let mut connection = Connection::accept(&listener);
            connection.request();
            connection.send_done(done(&[("x.o", 4)]), &[b"mesh"]);
            connection.finish();
        });
        assert_eq!(wrapper(&room, &barn).output().unwrap().status.code(), Some(5));
    });
    assert_eq!(room.read("work/x.o"), "mesh");
}

#[test]
fn many_wrappers_start_one_node_and_none_waits_long() {
    let room = Room::new();
    let barn = install(&room, "echo started >> $HOME/log; exec sleep 3");
    let begun = Instant::now();
    let outputs: Vec<Output> = thread::scope(|scope| {
        let wrappers: Vec<_> =
            (0..40).map(|_| scope.spawn(|| wrapper(&room, &barn).output().unwrap())).collect();
        wrappers.into_iter().map(|wrapper| wrapper.join().unwrap()).collect()
    });
    let elapsed = begun.elapsed();
    assert!(outputs.iter().all(|output| output.status.code() == Some(3)));
    assert_eq!(room.read("log"), "started\n");
    // That these ended at all shows that the node, which sleeps on, does not hold their pipes.
    assert!(elapsed < Duration::from_millis(2500), "{elapsed:?}");

    let (output, elapsed) = timed(&mut wrapper(&room, &barn));
    room.check_local(&output);
    assert!(elapsed < Duration::from_millis(200), "the failure is remembered: {elapsed:?}");
    assert_eq!(room.read("log"), "started\n");
}

#[test]
fn the_node_inherits_nothing_of_the_build() {
    let room = Room::new();
    let look = "ls -l /proc/$$/fd > $HOME/fds; session=$(cut -d' ' -f6 /proc/$$/stat); \
                { echo $1; pwd; env; cat $HOME/fds; echo $session; } > $HOME/new; mv $HOME/new $HOME/log";
    let barn = install(&room, look);
    let mut command = room.shell("exec 7<>seven; exec $BARN gcc");
    command.env("BARN", &barn).env_remove("BARN_NO_START").env("HOME", room.at("")).env("MAKEFLAGS", "-j");
    room.check_local(&command.output().unwrap());
    await_condition("the node is started", || room.at("log").exists());
    let seen = room.read("log");
    assert!(seen.starts_with("start\n/\n"), "{seen}");
    assert!(seen.contains("BARN_HOME=") && !seen.contains("MAKEFLAGS"), "{seen}");
    for fd in [0, 2] {
        assert!(seen.contains(&format!(" {fd} -> /dev/null")), "{seen}");
    }
    assert!(!seen.contains("pipe:") && !seen.contains("socket:") && !seen.contains("seven"), "{seen}");
    let own_session = fs::read_to_string("/proc/self/stat").unwrap().split(' ').nth(5).unwrap().to_owned();
    assert_ne!(seen.lines().last(), Some(own_session.as_str()));
}

#[test]
fn without_the_nodes_program_nothing_is_lost() {
    let room = Room::new();
    let barn = install(&room, "");
    fs::remove_file(room.at("inst/barn-node")).unwrap();
    let (output, elapsed) = timed(&mut wrapper(&room, &barn));
    room.check_local(&output);
    assert!(elapsed < Duration::from_millis(300), "{elapsed:?}");
}

#[test]
fn verbs_are_handed_to_the_nodes_program() {
    let room = Room::new();
    let barn = install(&room, "echo node \"$@\"; exit 9");
    for arguments in ["status --json", "mesh init", "--version", "run -- make -j4", ""] {
        let output = room.command(&barn).args(arguments.split_whitespace()).output().unwrap();
        assert_eq!(text(&output.stdout).trim_end(), format!("node {arguments}").trim_end());
        assert_eq!(output.status.code(), Some(9));
    }
}
