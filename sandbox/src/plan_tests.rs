//! What a spec comes to, as text, and what is refused.

use std::path::PathBuf;

use super::*;
use crate::spec::Mount;

fn path(text: &str) -> InsidePath {
    InsidePath::new(text).unwrap()
}

fn mount(text: &str) -> Mount {
    Mount { host: PathBuf::from(format!("/blobs{text}")), inside: path(text) }
}

fn directory(text: &str) -> Entry {
    Entry { path: path(text), kind: Kind::Directory }
}

fn file(text: &str, size: u64) -> Entry {
    Entry { path: path(text), kind: Kind::File { source: PathBuf::from("/blob"), size, executable: false } }
}

fn link(text: &str, target: &str) -> Entry {
    Entry { path: path(text), kind: Kind::Symlink { target: target.into() } }
}

fn helper() -> Helper {
    Helper { mounts: vec![mount("/.barn/room")], command: vec![b"/.barn/room".to_vec()] }
}

fn spec() -> Spec {
    Spec {
        program: path("/usr/bin/cc"),
        argv: vec![b"cc".to_vec()],
        env: vec![(b"LANG".to_vec(), b"C".to_vec())],
        cwd: path("/home/u/p"),
        toolchain: vec![mount("/usr/lib/cc1"), mount("/usr/bin/cc")],
        inputs: vec![file("/home/u/p/a.c", 5000), file("/opt/h/b.h", 1), link("/lib64", "usr/lib64")],
        outputs: vec![path("/home/u/p/a.o")],
        limits: Limits { room_bytes: 64 << 20, ..Limits::default() },
        priority: Priority::Idle,
    }
}

fn with(change: impl FnOnce(&mut Spec)) -> Result<Plan, PlanError> {
    let mut spec = spec();
    change(&mut spec);
    Plan::new(&spec, &helper())
}

#[track_caller]
fn refused(expect: &str, change: impl FnOnce(&mut Spec)) {
    assert_eq!(with(change).err().map(|error| error.to_string()).as_deref(), Some(expect));
}

/// Options as text, one option with its arguments a line.
fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for option in plan.options() {
        let separator = if option.starts_with(b"--") && !text.ends_with("--size 0") { "\n" } else { " " };
        text.push_str(separator);
        text.push_str(std::str::from_utf8(option).unwrap());
    }
    text
}

#[test]
fn a_compile_as_options() {
    let expect = "
--unshare-user
--unshare-pid
--unshare-net
--unshare-ipc
--unshare-uts
--unshare-cgroup
--disable-userns
--die-with-parent
--new-session
--cap-drop ALL
--uid 1000
--gid 1000
--hostname barn
--clearenv
--size 67121152
--tmpfs /home
--size 1056768
--tmpfs /opt
--size 67108864
--tmpfs /tmp
--size 1048576
--tmpfs /usr
--ro-bind /blobs/.barn/room /.barn/room
--ro-bind /blobs/usr/bin/cc /usr/bin/cc
--ro-bind /blobs/usr/lib/cc1 /usr/lib/cc1
--proc /proc
--dev /dev
--remount-ro /dev
--symlink usr/lib64 /lib64
--remount-ro /";
    assert_eq!(text(&with(|_| {}).unwrap()), expect);
}

#[test]
fn the_room_lays_out_everything_but_links_in_the_root() {
    let plan = with(|spec| spec.inputs.push(directory("/opt"))).unwrap();
    let paths: Vec<_> = plan.laid_out().iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["/home/u/p/a.c", "/opt/h/b.h"]);
    assert_eq!(plan.job().tops, [&b"/home"[..], b"/opt", b"/tmp", b"/usr"]);
}

#[test]
fn what_belongs_to_the_sandbox_is_refused() {
    refused("/proc/self/x lies where the sandbox keeps its own", |s| s.inputs.push(file("/proc/self/x", 1)));
    refused("/dev lies where the sandbox keeps its own", |s| s.inputs.push(link("/dev", "/tmp")));
    refused("/.barn/room lies where the sandbox keeps its own", |s| s.toolchain.push(mount("/.barn/room")));
    refused("/dev/shm/o lies where the sandbox keeps its own", |s| s.outputs.push(path("/dev/shm/o")));
    refused("/proc/1 lies where the sandbox keeps its own", |s| s.cwd = path("/proc/1"));
    assert!(with(|s| s.inputs.push(file("/process/x", 1))).is_ok());
}

#[test]
fn nothing_lies_below_a_link_or_file() {
    refused("/lib64/x lies below a file or symbolic link", |s| s.toolchain.push(mount("/lib64/x")));
    refused("/lib64/x lies below a file or symbolic link", |s| s.inputs.push(file("/lib64/x", 1)));
    refused("/usr/bin/cc/x lies below a file or symbolic link", |s| {
        s.inputs.push(directory("/usr/bin/cc/x"))
    });
    refused("/opt/h/b.h/o lies below a file or symbolic link", |s| s.outputs.push(path("/opt/h/b.h/o")));
    assert!(with(|s| s.outputs.push(path("/lib64/o"))).is_ok(), "an output may lie behind a link");
}

#[test]
fn the_root_holds_directories_and_links_only() {
    refused("/x.h lies directly in the root", |s| s.inputs.push(file("/x.h", 1)));
    refused("/cc lies directly in the root", |s| s.toolchain.push(mount("/cc")));
    refused("/a.o lies directly in the root", |s| s.outputs.push(path("/a.o")));
}

#[test]
fn entries_may_not_disagree() {
    refused("two different entries at /opt/h/b.h", |s| s.inputs.push(file("/opt/h/b.h", 1)));
    refused("two different entries at /usr/bin/cc", |s| s.inputs.push(link("/usr/bin/cc", "gcc")));
    refused("two different entries at /lib64", |s| s.inputs.push(link("/lib64", "/oldroot")));
    refused("two different entries at /tmp", |s| s.inputs.push(link("/tmp", "/oldroot/tmp")));
    assert!(with(|s| s.inputs.push(link("/lib64", "usr/lib64"))).is_ok());
}

#[test]
fn text_and_targets_are_checked() {
    let bad = "argument or environment holds a NUL byte or a nameless variable";
    refused(bad, |s| s.argv.push(b"a\0b".to_vec()));
    refused(bad, |s| s.env.push((b"A=B".to_vec(), Vec::new())));
    refused(bad, |s| s.env.push((Vec::new(), b"x".to_vec())));
    refused("symbolic link /opt/l has no usable target", |s| s.inputs.push(link("/opt/l", "")));
    refused("symbolic link /l has no usable target", |s| s.inputs.push(link("/l", "a\0--bind")));
}

#[test]
fn counts_are_limited() {
    refused("more than 32 top-level directories", |s| {
        s.inputs.extend((0..40).map(|n| directory(&format!("/d{n}"))));
    });
    refused("more than 256 outputs", |s| s.outputs = vec![path("/o/o"); 257]);
    refused("more than 2048 toolchain files", |s| {
        s.toolchain.extend((0..2048).map(|n| mount(&format!("/usr/{n}"))));
    });
    refused("more than 8589934592 bytes of inputs", |s| {
        s.inputs.extend([file("/opt/a", u64::MAX), file("/opt/b", u64::MAX)]);
    });
}
