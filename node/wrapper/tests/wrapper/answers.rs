//! Every answer of the node, and what the wrapper makes of it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    process::Stdio,
    time::Duration,
};

use barn_wrapper::messages::{CAPTURE_BYTES_MAX, Ended, ToWrapper};

use crate::support::{Room, await_condition, done, kill, text, timed};

#[test]
fn a_result_is_written_replayed_and_its_status_returned() {
    let room = Room::new();
    let requests = room.node(|mut node| {
        let request = node.request();
        node.send(&ToWrapper::Heartbeat);
        node.send_done(done(&[("x.o", 4), ("sub/x.d", 0)]), &[b"mesh", b""]);
        node.finish();
        request
    });
    fs::create_dir(room.at("work/sub")).unwrap();
    let output = room.shell("umask 027; FOO='a=b' exec $BARN gcc -c 'x y.c'").output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("mesh out\n".into(), "mesh err\n".into()));
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(room.read("work/x.o"), "mesh");
    for path in ["work/x.o", "work/sub/x.d"] {
        assert_eq!(fs::metadata(room.at(path)).unwrap().permissions().mode() & 0o7777, 0o640, "{path}");
    }
    assert_eq!(room.temporaries(), 0);

    let request = requests.recv().unwrap();
    assert_eq!(request.argv, [&b"gcc"[..], b"-c", b"x y.c"]);
    assert_eq!(request.program, room.at("bin/gcc").into_os_string().into_encoded_bytes());
    assert_eq!(request.cwd, room.at("work").into_os_string().into_encoded_bytes());
    assert!(request.env.contains(&(b"FOO".to_vec(), b"a=b".to_vec())));
    assert_eq!(request.umask, 0o027);
    assert!(!request.stdout_is_terminal && !request.stderr_is_terminal);
}

#[test]
fn exec_becomes_the_compiler() {
    let room = Room::new();
    room.node(|mut node| {
        node.request();
        node.send(&ToWrapper::Exec);
        node.finish();
    });
    room.check_local(&room.barn("gcc -c x.c").output().unwrap());
}

#[test]
fn compile_runs_a_child_and_reports() {
    let room = Room::new();
    let reports = room.node(|mut node| {
        node.request();
        let report = node.compile(&["gcc", "-c", "other.c"], &["x.o", "missing.d", ".", "argv"]);
        node.finish();
        report
    });
    room.script("bin/gcc", "echo out; echo err >&2; echo object > x.o; echo \"$@\" > argv; exit 4");
    let output = room.barn("gcc -c x.c").output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(4));

    let (compiled, contents) = reports.recv().unwrap();
    assert_eq!(compiled.ended, Ended::Exited(4));
    assert_eq!((text(&compiled.stdout), text(&compiled.stderr)), ("out\n".into(), "err\n".into()));
    assert!(!compiled.truncated);
    assert!(compiled.max_rss_bytes > 100 << 10, "{} bytes of memory", compiled.max_rss_bytes);
    assert_eq!(contents, ["object\n", "-c other.c\n"]);
    let sizes: Vec<_> = compiled.outputs.iter().map(|output| output.map(|produced| produced.size)).collect();
    assert_eq!(sizes, [Some(7), None, None, Some(11)]);
}

#[test]
fn an_output_may_vanish_as_soon_as_the_wrapper_is_gone() {
    let room = Room::new();
    let reports = room.node(|mut node| {
        node.request();
        node.send(&ToWrapper::Heartbeat);
        std::thread::sleep(Duration::from_millis(50));
        // The wrapper does not read this; its report must arrive all the same.
        node.send(&ToWrapper::Heartbeat);
        node.compile(&["gcc"], &["x.o"])
    });
    let output = room.shell("$BARN gcc; echo other > new; mv new x.o").output().unwrap();
    assert_eq!(text(&output.stdout), "local out\n");
    let (_, contents) = reports.recv().unwrap();
    assert_eq!(contents, ["local object\n"]);
}

#[test]
fn long_streams_pass_whole_and_are_kept_in_part() {
    let room = Room::new();
    let reports = room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &[]).0
    });
    room.script("bin/gcc", "head -c 3000000 /dev/zero; head -c 70000 /dev/zero >&2");
    let output = room.barn("gcc").output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_000, 70_000));
    let compiled = reports.recv().unwrap();
    assert!(compiled.truncated);
    assert_eq!((compiled.stdout.len(), compiled.stderr.len()), (CAPTURE_BYTES_MAX, 70_000));
}

#[test]
fn a_process_that_the_compiler_leaves_behind_holds_nobody_up() {
    let room = Room::new();
    room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &[]).0
    });
    room.script("bin/gcc", "sleep 20 & echo done");
    let mut command = room.barn("gcc");
    // Files, because the sleeper would hold this test's pipes as well if it had them.
    let (status, elapsed) = {
        let begun = std::time::Instant::now();
        command.stdout(fs::File::create(room.at("out")).unwrap()).stderr(Stdio::null());
        (command.status().unwrap(), begun.elapsed())
    };
    assert!(status.success());
    assert_eq!(room.read("out"), "done\n");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[test]
fn the_wrapper_dies_by_the_signal_of_its_compiler() {
    let room = Room::new();
    let reports = room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &[]).0
    });
    for (name, number) in [("SEGV", 11), ("KILL", 9), ("PIPE", 13)] {
        room.script("bin/gcc", &format!("kill -{name} $$"));
        let status = room.barn("gcc").output().unwrap().status;
        assert_eq!(status.signal(), Some(number));
        assert_eq!(reports.recv().unwrap().ended, Ended::Signalled(number));
    }
}

#[test]
fn signals_sent_to_the_wrapper_reach_the_compiler() {
    let room = Room::new();
    room.node(|mut node| {
        node.request();
        node.compile(&["gcc"], &[]).0
    });
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let body = format!("trap 'echo got; exit 7' {signal}; echo > ready; while :; do sleep 0.02; done");
        room.script("bin/gcc", &body);
        let wrapper = room.barn("gcc").stdout(Stdio::piped()).spawn().unwrap();
        await_condition("the compiler runs", || room.at("work/ready").exists());
        kill(wrapper.id(), signal);
        let output = wrapper.wait_with_output().unwrap();
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("got\n", Some(7)), "{signal}");
        fs::remove_file(room.at("work/ready")).unwrap();
    }
}

#[test]
fn a_signal_while_waiting_for_the_node_ends_the_wrapper() {
    let room = Room::new();
    let asked = room.node(|mut node| {
        node.request();
        let ours = node.stream.try_clone().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            let beat = barn_wrapper::messages::Message::encode(&ToWrapper::Heartbeat).unwrap();
            while (&ours).write_all(&beat).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    });
    let mut wrapper = room.barn("gcc").stdout(Stdio::null()).spawn().unwrap();
    asked.recv().unwrap();
    kill(wrapper.id(), "INT");
    assert_eq!(wrapper.wait().unwrap().signal(), Some(2));
    assert!(!room.at("work/x.o").exists(), "the compiler did not run");
}

#[test]
fn heartbeats_keep_a_slow_answer_alive() {
    let room = Room::new();
    room.node(|mut node| {
        node.request();
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(200));
            node.send(&ToWrapper::Heartbeat);
        }
        node.send_done(done(&[("x.o", 4)]), &[b"mesh"]);
        node.finish();
    });
    let (output, elapsed) = timed(&mut room.barn("gcc"));
    assert_eq!((output.status.code(), room.read("work/x.o").as_str()), (Some(5), "mesh"));
    assert!(elapsed > Duration::from_millis(1500));
}
