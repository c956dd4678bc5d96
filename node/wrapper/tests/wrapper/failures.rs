//! A node that misbehaves costs nothing but the cache.

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, symlink},
    process::{Command, Stdio},
    time::Duration,
};

use barn_wrapper::messages::{ControlReply, FRAME_BYTES_MAX, Message, ToWrapper};

use crate::support::{Connection, LOCAL_OBJECT, Room, done, text, timed};

/// The compiler runs, at once, whatever this node does.
fn check_local(play: fn(&mut Connection)) {
    check_local_in(&Room::new(), play);
}

fn check_local_in(room: &Room, play: fn(&mut Connection)) {
    let socket = room.socket();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = Connection::accept(&listener);
            connection.request();
            play(&mut connection);
        });
        let (output, elapsed) = timed(&mut room.barn("gcc -c x.c"));
        room.check_local(&output);
        assert!(elapsed < Duration::from_millis(900), "{elapsed:?}");
    });
}

#[test]
fn the_end_instead_of_an_answer() {
    check_local(|_| {});
    check_local(|node| node.send(&ToWrapper::Heartbeat));
}

#[test]
fn the_end_in_the_middle_of_an_answer() {
    check_local(|node| {
        let frame = ToWrapper::Done(done(&[])).encode().unwrap();
        node.stream.write_all(&frame[..frame.len() - 1]).unwrap();
    });
}

#[test]
fn garbage() {
    check_local(|node| node.stream.write_all(&[0xff; 100]).unwrap());
    check_local(|node| node.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap());
    check_local(|node| {
        let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
        node.stream.write_all(&length.to_le_bytes()).unwrap();
    });
}

#[test]
fn another_version_or_direction() {
    check_local(|node| {
        let mut frame = ToWrapper::Exec.encode().unwrap();
        frame[4] += 1;
        node.stream.write_all(&frame).unwrap();
    });
    check_local(|node| node.send(&ToWrapper::ControlReply(ControlReply::default())));
}

#[test]
fn too_few_descriptors() {
    check_local(|node| node.send_done(done(&[("x.o", 4), ("x.d", 3)]), &[b"mesh"]));
}

#[test]
fn a_descriptor_with_less_or_more_than_announced() {
    check_local(|node| node.send_done(done(&[("x.d", 3), ("x.o", 5)]), &[b"dep", b"mesh"]));
    check_local(|node| node.send_done(done(&[("x.d", 3), ("x.o", 3)]), &[b"dep", b"mesh"]));
}

#[test]
fn an_output_that_cannot_be_written() {
    check_local(|node| node.send_done(done(&[("x.o", 4), ("missing/x.d", 3)]), &[b"mesh", b"dep"]));
    check_local(|node| node.send_done(done(&[("x.o", 4), ("", 3)]), &[b"mesh", b"dep"]));
    let room = Room::new();
    fs::write(room.at("work/file"), "").unwrap();
    check_local_in(&room, |node| node.send_done(done(&[("x.o", 4), ("file/x.d", 3)]), &[b"mesh", b"dep"]));
}

#[test]
fn a_target_that_is_no_plain_file() {
    let room = Room::new();
    fs::write(room.at("work/real"), "old").unwrap();
    symlink("real", room.at("work/x.o")).unwrap();
    check_local_in(&room, |node| node.send_done(done(&[("x.o", 4)]), &[b"mesh"]));
    assert_eq!(room.read("work/real"), LOCAL_OBJECT, "the compiler followed the link");

    let room = Room::new();
    assert!(Command::new("mkfifo").arg(room.at("work/fifo")).status().unwrap().success());
    check_local_in(&room, |node| node.send_done(done(&[("x.o", 4), ("fifo", 3)]), &[b"mesh", b"dep"]));
    assert!(fs::metadata(room.at("work/fifo")).unwrap().file_type().is_fifo());

    check_local(|node| node.send_done(done(&[("x.o", 4), ("/dev/null", 0)]), &[b"mesh", b""]));
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn a_compile_that_cannot_be_run_is_run_as_asked() {
    // argv with a NUL: no process can have it.
    check_local(|node| {
        let argv = vec![b"gcc".to_vec(), b"a\0b".to_vec()];
        node.send(&ToWrapper::Compile(barn_wrapper::messages::Compile { argv, outputs: Vec::new() }));
    });
}

#[test]
fn a_node_that_dies_during_a_local_compile_changes_nothing() {
    let room = Room::new();
    room.node(|mut node| {
        node.request();
        let compile = barn_wrapper::messages::Compile { argv: vec![b"gcc".to_vec()], outputs: Vec::new() };
        node.send(&ToWrapper::Compile(compile));
    });
    room.script("bin/gcc", "sleep 0.1; echo local out; echo local err >&2; echo local object > x.o; exit 3");
    room.check_local(&room.barn("gcc").output().unwrap());
}

#[test]
fn without_a_node_nothing_is_lost() {
    let room = Room::new();
    let best = |program: fn(&Room) -> Command| (0..10).map(|_| timed(&mut program(&room)).1).min().unwrap();
    room.check_local(&room.barn("gcc -c x.c").output().unwrap());
    let (wrapped, direct) = (best(|room| room.barn("gcc")), best(|room| room.command(room.at("bin/gcc"))));
    assert!(wrapped < direct + Duration::from_millis(50), "{wrapped:?} against {direct:?}");
}

#[test]
fn a_socket_whose_node_is_dead_is_like_none() {
    let room = Room::new();
    drop(std::os::unix::net::UnixListener::bind(room.socket()).unwrap());
    room.check_local(&room.barn("gcc -c x.c").output().unwrap());
}

#[test]
fn words_that_mean_nothing_get_a_clear_error() {
    let room = Room::new();
    let check = |arguments: &str, code: i32, expect: &str| {
        let output = room.barn(arguments).stdout(Stdio::piped()).output().unwrap();
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("", Some(code)), "{arguments}");
        let said = text(&output.stderr);
        assert!(said.starts_with(expect) && said.contains("\nhint: "), "{said}");
    };
    check("frobnicate", 127, "barn: 'frobnicate' is neither a compiler nor a barn command\n");
    check("mips-gcc-99 -c x.c", 127, "barn: cannot find 'mips-gcc-99' in PATH\n");
    check("/no/such/gcc", 127, "barn: cannot run /no/such/gcc: No such file");
    fs::write(room.at("work/plain"), "").unwrap();
    let plain = room.at("work/./plain");
    check("./plain", 126, &format!("barn: cannot run {}: Permission denied", plain.display()));
    check("--", 2, "barn: no compiler after '--'\n");
}
