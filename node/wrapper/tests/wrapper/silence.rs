//! A node that does not answer: stopped, stuck, starved, or not ours. These nodes are processes of their own, for the
//! wrapper looks at the state of the process.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::{net::UnixListener, process::CommandExt},
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use barn_wrapper::{
    effective_uid,
    messages::{Compile, Message, ToWrapper},
};

use crate::support::{Room, await_condition, done, kill, timed};

/// The socket that [`node_process`] listens on, and how it behaves.
const LISTEN: &str = "BARN_TEST_LISTEN";
const BEHAVIOUR: &str = "BARN_TEST_BEHAVIOUR";
/// An ordinary user that is not the tests' own.
const NOBODY: u32 = 65_534;

/// Not a test but the body of a process that the others start; without its variables it does nothing.
#[test]
fn node_process() {
    let Some(socket) = env::var_os(LISTEN) else {
        return;
    };
    // Renamed, for a socket is there a moment before it can be connected to.
    let unready = Path::new(&socket).with_extension("new");
    let listener = UnixListener::bind(&unready).unwrap();
    fs::rename(unready, socket).unwrap();
    let behaviour = env::var(BEHAVIOUR).unwrap();
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        match behaviour.as_str() {
            "silent" => std::mem::forget(stream),
            "busy" => thread::spawn(move || {
                let _kept_open = stream;
                loop {
                    std::hint::spin_loop();
                }
            })
            .thread()
            .unpark(),
            "answers" => {
                // The request of these tests is short. Whoever sent it may have given up.
                let _ = (&stream).read(&mut [0; 4096]);
                let _ = (&stream).write_all(&ToWrapper::Done(done(&[])).encode().unwrap());
            }
            "compiles" => {
                let _ = (&stream).read(&mut [0; 4096]);
                let order = Compile { argv: vec![b"gcc".to_vec()], outputs: vec![b"x.o".to_vec()] };
                (&stream).write_all(&ToWrapper::Compile(order).encode().unwrap()).unwrap();
                // The report, of which this node knows nothing; then it has taken it in.
                let _ = (&stream).read(&mut [0; 4096]);
            }
            other => panic!("no behaviour {other}"),
        }
    }
}

/// A process that is killed when dropped.
struct NodeProcess(Child);

impl NodeProcess {
    fn start(room: &Room, behaviour: &str, uid: Option<u32>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "silence::node_process"])
            .env(LISTEN, room.socket())
            .env(BEHAVIOUR, behaviour);
        command.stdout(std::process::Stdio::null());
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let node = Self(command.spawn().unwrap());
        await_condition("the node listens", || room.socket().exists());
        node
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_silent_node_costs_a_second_and_then_less() {
    let room = Room::new();
    let _node = NodeProcess::start(&room, "silent", None);
    let (output, first) = timed(&mut room.barn("gcc"));
    room.check_local(&output);
    assert!((Duration::from_millis(850)..Duration::from_millis(1300)).contains(&first), "{first:?}");
    let (output, second) = timed(&mut room.barn("gcc"));
    room.check_local(&output);
    assert!(second < Duration::from_millis(600), "{second:?}");
}

#[test]
fn a_stopped_node_costs_a_second_once() {
    let room = Room::new();
    let node = NodeProcess::start(&room, "answers", None);
    assert_eq!(room.barn("gcc").output().unwrap().status.code(), Some(5));
    kill(node.0.id(), "STOP");
    let (output, first) = timed(&mut room.barn("gcc"));
    room.check_local(&output);
    assert!(first < Duration::from_millis(1300), "{first:?}");
    let (output, second) = timed(&mut room.barn("gcc"));
    room.check_local(&output);
    assert!(second < Duration::from_millis(250), "{second:?}");
    kill(node.0.id(), "CONT");
    assert_eq!(room.barn("gcc").output().unwrap().status.code(), Some(5), "used again at once");
    assert!(!room.at("home/run/node.silent").exists(), "and forgiven");
}

#[test]
fn a_node_stopped_during_a_local_compile_costs_a_second() {
    let room = Room::new();
    let node = NodeProcess::start(&room, "compiles", None);
    let id = node.0.id();
    // Each thread stops when it next gets the processor.
    let stop = format!("kill -STOP {id}; while grep -qv ') T ' /proc/{id}/task/*/stat; do sleep 0.01; done");
    let end = format!("kill -KILL {id}");
    for (signal, limits_ms) in [("", 0..600), (&stop, 850..1300), (&end, 0..600)] {
        room.script("bin/gcc", &format!("{signal}\necho object > x.o"));
        let (output, elapsed) = timed(&mut room.barn("gcc"));
        assert!(output.status.success());
        assert!(limits_ms.contains(&elapsed.as_millis()), "{signal}: {elapsed:?}");
        kill(id, "CONT");
    }
}

#[test]
fn a_starved_node_is_given_more_time_but_not_for_ever() {
    let room = Room::new();
    let _node = NodeProcess::start(&room, "busy", None);
    let (output, elapsed) = timed(&mut room.barn("gcc"));
    room.check_local(&output);
    assert!((Duration::from_millis(2500)..Duration::from_millis(5000)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_node_of_another_user_is_not_asked() {
    // Only root can play another user; as an ordinary user there is nobody to play.
    if effective_uid() != 0 {
        return;
    }
    let room = Room::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    for path in ["", "home", "home/run"] {
        std::fs::set_permissions(room.at(path), std::fs::Permissions::clone(&open)).unwrap();
    }
    let _node = NodeProcess::start(&room, "answers", Some(NOBODY));
    room.check_local(&room.barn("gcc").output().unwrap());
}
