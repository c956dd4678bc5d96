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
        tree: None,
        trace: false,
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

fn laid(text: &str, size: u64) -> Entry {
    Entry { path: path(text), kind: Kind::Laid { size, executable: false } }
}

/// A spec over a tree at `/tree`, with one output and working directory.
fn over_tree(inputs: Vec<Entry>, output: &str, cwd: &str) -> Spec {
    let tree = Some(PathBuf::from("/tree"));
    Spec { toolchain: Vec::new(), outputs: vec![path(output)], cwd: path(cwd), inputs, tree, ..spec() }
}

/// What is bound, what is copied, and the sandbox's own file systems.
#[track_caller]
fn arranged(spec: &Spec, bound: &[&str], copied: &[&str], tops: &[&str]) {
    let plan = Plan::new(spec, &helper()).unwrap();
    for mount in plan.bound() {
        assert_eq!(mount.host, PathBuf::from(format!("/tree{}", mount.inside)));
    }
    let inside: Vec<_> = plan.bound().iter().map(|mount| mount.inside.to_string()).collect();
    let laid_out: Vec<_> = plan.laid_out().iter().map(|entry| entry.path.to_string()).collect();
    let own: Vec<_> = plan.job().tops.iter().map(|top| String::from_utf8_lossy(top).into_owned()).collect();
    assert_eq!(inside, bound);
    assert_eq!(laid_out, copied);
    assert_eq!(own, tops);
}

const LARGE: u64 = 1 << 20;

#[test]
fn a_tree_is_bound_beside_the_way_to_the_outputs() {
    let inputs = || {
        let link = link("/lib64", "usr/lib64");
        let inputs = ["/usr/bin/cc", "/home/u/p/include/deep/a.h", "/home/u/p/src/x.c", "/home/u/q.h"];
        inputs.iter().map(|at| laid(at, LARGE)).chain([laid("/home/u/p/config.h", 10), link]).collect()
    };
    arranged(
        &over_tree(inputs(), "/home/u/p/build/x.o", "/home/u/p/build"),
        &["/home/u/p/include", "/home/u/p/src", "/home/u/q.h", "/usr"],
        &["/home/u/p/config.h"],
        &["/home", "/tmp"],
    );
    // An output beside its source: what else lies there is copied or bound by itself.
    arranged(
        &over_tree(inputs(), "/home/u/p/src/x.o", "/usr/work"),
        &["/home/u/p/include", "/home/u/p/src/x.c", "/home/u/q.h", "/usr/bin"],
        &["/home/u/p/config.h"],
        &["/home", "/tmp", "/usr"],
    );
}

#[test]
fn small_leaves_are_copied_and_the_dearest_bound() {
    let many = (0..40).map(|n| laid(&format!("/p/d{n:02}/f"), LARGE + n)).chain([laid("/p/small/f", 9)]);
    let plan = Plan::new(&over_tree(many.collect(), "/p/o", "/p"), &helper()).unwrap();
    let bound: Vec<_> = plan.bound().iter().map(|mount| mount.inside.to_string()).collect();
    assert_eq!(bound, (24..40).map(|n| format!("/p/d{n}")).collect::<Vec<_>>());
    assert_eq!(plan.laid_out().len(), 25);
    let source =
        |entry: &Entry| matches!(&entry.kind, Kind::File { source, .. } if source.starts_with("/tree/p"));
    assert!(plan.laid_out().iter().all(source));
}

#[test]
fn nothing_is_bound_where_a_link_leads_an_output() {
    let inputs =
        vec![link("/p/out", "../s/o"), laid("/s/o/f", LARGE), laid("/s/i/f", LARGE), laid("/p/i/f", LARGE)];
    arranged(
        &over_tree(inputs, "/p/out/x/o", "/p"),
        &["/p/i", "/s/i", "/s/o/f"],
        &["/p/out"],
        &["/p", "/s", "/tmp"],
    );
    // Links that lead out of the tree, or nowhere, add nothing.
    for target in ["/oldroot/etc", "/newroot", "/proc/1/root", "/.barn", "out", "../../../proc"] {
        let inputs = vec![link("/p/out", target), laid("/p/i/f", LARGE)];
        arranged(&over_tree(inputs, "/p/out/x/o", "/p"), &["/p/i"], &["/p/out"], &["/p", "/tmp"]);
    }
    let endless = link("/p/out", &"n".repeat(300));
    arranged(&over_tree(vec![endless], "/p/out/x/o", "/p"), &[], &["/p/out"], &["/p", "/tmp"]);
}

#[test]
fn what_lies_at_an_outputs_place_is_copied() {
    arranged(&over_tree(vec![laid("/p/o", LARGE)], "/p/o", "/p"), &[], &["/p/o"], &["/p", "/tmp"]);
    let behind = vec![link("/p/l", "/s"), laid("/s/o", LARGE), laid("/s/i", LARGE)];
    arranged(&over_tree(behind, "/p/l/o", "/p"), &["/s/i"], &["/p/l", "/s/o"], &["/p", "/s", "/tmp"]);
}

#[test]
fn toolchain_files_bound_one_by_one_are_never_below_a_leaf() {
    let mut spec = over_tree(vec![laid("/usr/lib/a", LARGE), laid("/usr/bin/b", LARGE)], "/w/o", "/w");
    spec.toolchain = vec![mount("/usr/bin/cc")];
    arranged(&spec, &["/usr/bin/b", "/usr/lib"], &[], &["/tmp", "/usr", "/w"]);
}

#[test]
fn trees_keep_to_the_limits() {
    let tops = (0..40).map(|n| laid(&format!("/d{n}/f"), 1)).collect();
    let error = Plan::new(&over_tree(tops, "/w/o", "/w"), &helper()).unwrap_err();
    assert_eq!(error.to_string(), "more than 32 top-level directories");
    refused("/x/laid lies in no tree", |s| s.inputs.push(laid("/x/laid", 1)));
}

mod any_tree {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            4 => prop_oneof![Just(10u64), Just(LARGE)].prop_map(|size| Kind::Laid { size, executable: false }),
            1 => Just(Kind::Directory),
            1 => "(/|\\.\\./)?[abc](/[abc]){0,2}".prop_map(|t| Kind::Symlink { target: t.into_bytes() }),
        ];
        ("(/[abc]){1,4}", kind).prop_map(|(at, kind)| Entry { path: path(&at), kind })
    }

    fn is_at_or_below(path: &InsidePath, leaf: &InsidePath) -> bool {
        path == leaf || path.ancestors().any(|above| above == leaf.as_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Every entry comes in exactly one way, and nothing is made at or below a leaf.
        #[test]
        fn is_inside_once(entries in vec(entry(), 0..14), output in "(/[abc]){2,4}", cwd in "(/[abc]){1,3}", tool in "(/[abc]){2,3}") {
            let mut spec = over_tree(entries, &output, &cwd);
            if tool.len() > 5 {
                spec.toolchain = vec![mount(&tool)];
            }
            let Ok(plan) = Plan::new(&spec, &helper()) else { return Ok(()) };
            let bound: Vec<_> = plan.bound().iter().map(|mount| &mount.inside).collect();
            for entry in &spec.inputs {
                let ways = bound.iter().filter(|leaf| is_at_or_below(&entry.path, leaf)).count()
                    + plan.laid_out().iter().filter(|laid_out| laid_out.path == entry.path).count().min(1);
                let by_bubblewrap = entry.path.is_top() && !matches!(entry.kind, Kind::Laid { .. });
                prop_assert!(ways == 1 || by_bubblewrap, "{:?} {ways}", entry);
            }
            for leaf in &bound {
                for made in spec.outputs.iter().chain([&spec.cwd]).chain(spec.toolchain.iter().map(|m| &m.inside)) {
                    prop_assert!(!is_at_or_below(made, leaf), "{made} in {leaf}");
                }
                prop_assert!(bound.iter().all(|other| other == leaf || !is_at_or_below(other, leaf)));
                prop_assert!(!plan.job().tops.iter().any(|top| top == leaf.as_bytes()));
                let is_link = |e: &Entry| e.path == **leaf && matches!(e.kind, Kind::Symlink { .. });
                prop_assert!(!spec.inputs.iter().any(is_link));
            }
        }
    }
}
