//! The compiler must not notice that the wrapper called it.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use barn_wrapper::messages::ToWrapper;

use crate::support::{Connection, Room, done, text};

/// The same with every way in which the wrapper can run a program.
fn with_each_way(check: impl Fn(&Room, &str)) {
    let exec: fn(Connection) = |mut node| {
        node.request();
        node.send(&ToWrapper::Exec);
    };
    let compile: fn(Connection) = |mut node| {
        let argv: Vec<String> = node.request().argv.iter().map(|argument| text(argument)).collect();
        node.compile(&argv.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    };
    for (way, play) in [("exec", Some(exec)), ("compile", Some(compile)), ("no node", None)] {
        let room = Room::new();
        let _node = play.map(|play| room.node(play));
        check(&room, way);
    }
}

/// Runs a shell script with the wrapper and without it; both must say the same.
fn check_same(script: &str) {
    with_each_way(|room, way| {
        let wrapped = room.shell(script).output().unwrap();
        let direct = room.shell(script).env("BARN", "").output().unwrap();
        assert_eq!(text(&wrapped.stdout), text(&direct.stdout), "{way}: {script}");
        assert_eq!(text(&wrapped.stderr), text(&direct.stderr), "{way}: {script}");
        assert_eq!(wrapped.status, direct.status, "{way}: {script}");
        assert!(!direct.stdout.is_empty(), "{script} says something");
    });
}

#[test]
fn arguments_and_standard_input() {
    check_same("printf 'one two' | $BARN cat -");
    check_same("$BARN printf '<%s>' 'a b' '' '*' \"$(printf 'new\\nline')\"");
    check_same("$BARN cat /proc/self/cmdline | tr '\\0' '\\n'");
}

#[test]
fn environment_but_for_the_recursion_guard() {
    check_same("EMPTY= ODD='a=b c' $BARN env | grep -v BARN_CHAIN | grep -v '^_=' | grep -v '^BARN=' | sort");
}

#[test]
fn working_directory_umask_limits_and_priority() {
    check_same(
        "mkdir -p deep; cd deep; umask 031; ulimit -n 77; nice -n 3 $BARN sh -c 'pwd; umask; ulimit -n; nice'",
    );
}

#[test]
fn inherited_descriptors_such_as_a_jobserver() {
    let look = "for fd in 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$fd && echo $fd; done; echo token >&7";
    check_same(&format!("exec 7>seven 8</dev/null; $BARN sh -c '{look}'; cat seven"));
}

#[test]
fn signal_mask_and_dispositions() {
    let look = "$BARN grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status";
    check_same(look);
    check_same(&format!("trap '' PIPE HUP INT; {look}"));
    check_same(&format!("env --ignore-signal=CHLD --block-signal=USR1 --block-signal=TERM {look}"));
}

#[test]
fn exit_codes() {
    check_same("for code in 0 1 4 77 255; do $BARN sh -c \"exit $code\"; echo $?; done");
}

#[test]
fn a_script_without_an_interpreter_line() {
    with_each_way(|room, way| {
        let script = room.script("bin/oldcc", "");
        fs::write(script, "echo old \"$@\"").unwrap();
        let output = room.barn("oldcc -c").output().unwrap();
        assert_eq!(text(&output.stdout), "old -c\n", "{way}");
    });
}

#[test]
fn closed_standard_descriptors_stay_closed() {
    // A wrapper that connects here would give its socket the number 0.
    let room = Room::new();
    let asked = room.node(|mut node| {
        node.request();
    });
    let output = room.shell("$BARN sh -c 'test -e /proc/$$/fd/0 || echo closed' <&-").output().unwrap();
    assert_eq!(text(&output.stdout), "closed\n");
    assert!(asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn barn_disable_asks_nobody() {
    let room = Room::new();
    let asked = room.node(|_| ());
    room.check_local(&room.barn("gcc").env("BARN_DISABLE", "1").output().unwrap());
    assert!(asked.try_recv().is_err());
}

#[test]
fn masquerading_links_lead_to_the_real_compiler() {
    let room = Room::new();
    let requests = room.node(|mut node| {
        let request = node.request();
        node.send(&ToWrapper::Exec);
        request
    });
    let link = room.link("links/gcc");
    let path = format!("{}:{}:/usr/bin:/bin", room.at("links").display(), room.at("bin").display());
    let by_name = || room.command(&link).env("PATH", &path).arg0("gcc").arg("-c").output().unwrap();
    room.check_local(&by_name());
    // The bare name would lead gcc's own search for itself to the link.
    let real = room.at("bin/gcc").into_os_string().into_encoded_bytes();
    assert_eq!(requests.recv().unwrap().argv, [&real[..], b"-c"]);
    room.check_local(&room.command(&link).output().unwrap());
    assert_eq!(requests.recv().unwrap().argv, [&b"gcc"[..]], "not in PATH: nothing to be misled by");
}

#[test]
fn a_compiler_that_calls_barn_does_not_go_round_for_ever() {
    let room = Room::new();
    room.script("scripts/gcc", "echo round >&2; exec $BARN gcc \"$@\"");
    let path = format!("{}:{}:/usr/bin:/bin", room.at("scripts").display(), room.at("bin").display());
    let output = room.shell("exec $BARN gcc").env("PATH", path).output().unwrap();
    assert_eq!(text(&output.stdout), "local out\n");
    assert_eq!(text(&output.stderr).matches("round").count(), 8);

    let path = format!("{}:/nowhere", room.at("scripts").display());
    let output = room.shell("exec $BARN gcc").env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("runs barn on itself without end\nhint: "));
}

#[test]
fn a_wrapper_below_a_compile_for_the_node_asks_nobody() {
    let room = Room::new();
    let reports = room.node(|mut node| {
        node.request();
        node.compile(&["outer"], &[]).0
    });
    room.script("bin/outer", "$BARN gcc");
    room.check_local(&room.barn("outer").env("BARN", crate::support::BARN).output().unwrap());
    reports.recv().unwrap();
    assert!(reports.try_recv().is_err(), "only the outer one asked");
}

#[test]
fn a_socket_path_longer_than_an_address() {
    let room = Room::below(&"long/".repeat(40));
    room.node(|mut node| {
        node.request();
        node.send_done(done(&[]), &[]);
        node.finish();
    });
    assert!(room.socket().as_os_str().len() > 108);
    assert_eq!(room.barn("true").output().unwrap().status.code(), Some(5));
}

#[test]
fn the_real_compiler_compiles() {
    with_each_way(|room, way| {
        fs::remove_file(room.at("bin/gcc")).unwrap();
        let compile = |program: &mut Command| {
            let child = program
                .args(["-x", "c", "-c", "-", "-o", "x.o", "-Wall"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = child.spawn().unwrap();
            child.stdin.take().unwrap().write_all(b"int f(void) { int unused; return 1; }").unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.code(), text(&output.stderr), fs::read(room.at("work/x.o")).unwrap())
        };
        let wrapped = compile(&mut room.barn("gcc"));
        let direct = compile(&mut room.command("gcc"));
        assert!(direct.1.contains("unused"));
        assert_eq!(wrapped, direct, "{way}");
    });
}

#[test]
fn parallel_calls_do_not_disturb_each_other() {
    let room = Room::new();
    let _node = room.node(|mut node| {
        let request = node.request();
        let object = text(request.argv.last().unwrap());
        thread::sleep(Duration::from_millis(1));
        node.send_done(done(&[(&object, object.len())]), &[object.as_bytes()]);
        node.finish();
    });
    thread::scope(|scope| {
        for index in 0..50 {
            let room = &room;
            scope.spawn(move || {
                let object = format!("x{index}.o");
                assert_eq!(room.barn(&format!("gcc {object}")).output().unwrap().status.code(), Some(5));
                assert_eq!(room.read(&format!("work/{object}")), object);
            });
        }
    });
    assert_eq!(room.temporaries(), 0);
}
