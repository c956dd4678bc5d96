//! Trees that the host keeps: what is inside, and that nothing inside changes or leaves them.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use barn_sandbox::{CancelToken, Entry, Kind, MemorySink, OutputState, RunError, Spec};
use common::{open_directory, path, printed, probe, run, sandbox};
use tempfile::TempDir;

/// Large enough to be bound even alone.
const LARGE: usize = 300_000;

/// Inode, mode, names, times and contents or target.
type State = (u64, u32, u64, i64, i64, Vec<u8>);

/// A tree on the host and the entries it consists of.
struct Tree {
    directory: TempDir,
    entries: Vec<Entry>,
}

impl Tree {
    fn new() -> Self {
        Self { directory: open_directory(), entries: Vec::new() }
    }

    fn at(&self, inside: &str) -> PathBuf {
        let at = self.directory.path().join(&inside[1..]);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }

    fn file(mut self, inside: &str, size: usize) -> Self {
        let at = self.at(inside);
        fs::write(&at, vec![b'x'; size]).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o444)).unwrap();
        let kind = Kind::Laid { size: size as u64, executable: false };
        self.entries.push(Entry { path: path(inside), kind });
        self
    }

    fn link(mut self, inside: &str, target: &str) -> Self {
        symlink(target, self.at(inside)).unwrap();
        self.entries.push(Entry { path: path(inside), kind: Kind::Symlink { target: target.into() } });
        self
    }

    fn directory(mut self, inside: &str) -> Self {
        fs::create_dir_all(self.at(inside)).unwrap();
        self.entries.push(Entry { path: path(inside), kind: Kind::Directory });
        self
    }

    /// The probe with `arguments` over this tree.
    fn probe(&self, arguments: &[&str]) -> Spec {
        let tree = Some(self.directory.path().to_owned());
        Spec { inputs: self.entries.clone(), tree, ..probe(arguments) }
    }

    /// Everything about every file of the tree that a change would change.
    fn state(&self) -> BTreeMap<PathBuf, State> {
        let mut state = BTreeMap::new();
        let mut todo = vec![self.directory.path().to_owned()];
        while let Some(at) = todo.pop() {
            let meta = fs::symlink_metadata(&at).unwrap();
            let mut bytes = Vec::new();
            if meta.is_dir() {
                todo.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            } else if meta.is_symlink() {
                bytes = fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec();
            } else {
                bytes = fs::read(&at).unwrap();
            }
            state.insert(
                at,
                (meta.ino(), meta.mode(), meta.nlink(), meta.mtime_nsec(), meta.ctime_nsec(), bytes),
            );
        }
        state
    }
}

/// A project with everything a tree can hold.
fn project() -> Tree {
    Tree::new()
        .file("/p/include/a.h", LARGE)
        .file("/p/include/deep/er/b.h", 10)
        .file("/p/src/x.c", LARGE)
        .file("/p/src/build/old.h", 7)
        .file("/p/small.h", 5)
        .file("/p/large.h", LARGE)
        .directory("/p/include/empty")
        .directory("/p/nothing")
        .link("/p/include/link.h", "a.h")
        .link("/p/link", "include")
        .file("/usr/include/std.h", 3)
        .link("/lib", "usr/lib")
        .file("/usr/lib/l.so", 4)
}

#[track_caller]
fn check_inside(spec: &Spec, expect: &[&str]) {
    let mut lines: Vec<_> = printed(spec).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, expect);
}

#[test]
fn inside_is_the_tree_and_the_way_to_the_outputs() {
    let tree = project();
    let mut spec = tree.probe(&["walk", "/"]);
    // The probe lies in the tree's own /usr/bin, beside nothing.
    spec.cwd = path("/p/build");
    spec.outputs = ["/p/build/sub/x.o", "/p/src/build/y.o", "/other/z.o"].map(path).to_vec();
    let probe_size = fs::metadata(&spec.toolchain[0].host).unwrap().len();
    let probe = format!("/usr/bin/probe {probe_size}");
    let expect = [
        "/lib -> usr/lib",
        "/other/",
        "/p/",
        "/p/build/",
        "/p/build/sub/",
        "/p/include/",
        "/p/include/a.h 300000",
        "/p/include/deep/",
        "/p/include/deep/er/",
        "/p/include/deep/er/b.h 10",
        "/p/include/empty/",
        "/p/include/link.h -> a.h",
        "/p/large.h 300000",
        "/p/link -> include",
        "/p/nothing/",
        "/p/small.h 5",
        "/p/src/",
        "/p/src/build/",
        "/p/src/build/old.h 7",
        "/p/src/x.c 300000",
        "/tmp/",
        "/usr/",
        "/usr/bin/",
        &probe,
        "/usr/include/",
        "/usr/include/std.h 3",
        "/usr/lib/",
        "/usr/lib/l.so 4",
    ];
    check_inside(&spec, &expect);
    assert!(matches!(&run(&spec).unwrap().0.outputs[..], [o, ..] if o.state == OutputState::Missing));
}

#[test]
fn a_thousand_files_arrive() {
    let mut tree = Tree::new();
    let names: Vec<_> = (0..1000).map(|n| format!("/p/include/d{}/h{n:03}.h", n % 20)).collect();
    for name in &names {
        tree = tree.file(name, 100);
    }
    let mut spec = tree.probe(&["walk", "/p/include"]);
    spec.outputs = vec![path("/p/o")];
    let text = printed(&spec);
    assert!(names.iter().all(|name| text.contains(&format!("{name} 100\n"))));
    assert_eq!(text.lines().count(), 1020);
}

#[test]
fn nothing_in_a_tree_can_be_changed() {
    let tree = project();
    let before = tree.state();
    let probing = |files: &[&str]| {
        let mut spec = tree.probe(&[&["change"], files].concat());
        // Where it takes no directory of the tree apart.
        spec.toolchain[0].inside = path("/tools/bin/probe");
        spec.program = path("/tools/bin/probe");
        spec.outputs = vec![path("/p/build/x.o")];
        spec.cwd = path("/p/build");
        printed(&spec)
    };
    let text = probing(&["/p/include/a.h", "/p/include/deep/er/b.h", "/p/src/x.c", "/usr/include/std.h"]);
    let tried = text.strip_prefix("tried ").and_then(|count| count.trim().parse::<u32>().ok());
    assert!(tried.is_some_and(|tried| tried > 4 * 65), "{text}");
    // Bound by itself, in a directory of the compile's own in which it may do as it likes.
    let beside = probing(&["/p/large.h"]);
    assert!(!beside.contains("HOLE it changed") && !beside.contains("/tmp/linked"), "{beside}");
    assert_eq!(tree.state(), before);
}

#[test]
fn a_killed_or_cancelled_run_leaves_the_tree_as_it_was() {
    let tree = project();
    let before = tree.state();
    let mut spec = tree.probe(&["sleep"]);
    spec.outputs = vec![path("/p/build/x.o")];
    let cancel = CancelToken::new().unwrap();
    let (sent, received) = (cancel.clone(), spec.clone());
    let running =
        std::thread::spawn(move || sandbox().run(&received, &cancel, &mut MemorySink::default()).map(|_| ()));
    std::thread::sleep(std::time::Duration::from_millis(100));
    sent.cancel();
    assert!(matches!(running.join().unwrap(), Err(RunError::Cancelled)));
    let mut killer = tree.probe(&["kill", "-1", "9"]);
    killer.limits.wall = std::time::Duration::from_secs(5);
    drop(run(&killer));
    assert_eq!(tree.state(), before);
    assert!(printed(&tree.probe(&["read", "/p/small.h"])).ends_with("xxxxx"));
}

#[test]
fn links_of_a_tree_lead_nowhere() {
    let host = open_directory();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(host.path().join("secret"), "secret").unwrap();
    let up = "../".repeat(20);
    for root in ["/oldroot", "/newroot", "/newroot/oldroot", "/proc/1/root", "/proc/self/root", "", &up] {
        let target = format!("{root}{}", host.path().display());
        for at in ["/p/include/link", "/p/link", "/link"] {
            let tree = Tree::new().file("/p/include/a.h", LARGE).link(at, &target);
            let mut reading = tree.probe(&["read", &format!("{at}/secret")]);
            reading.outputs = vec![path("/p/build/o")];
            assert!(!printed(&reading).contains("secret"), "{at} -> {target}");
            let inside = format!("{at}/evil");
            for output in [inside.as_str(), "/p/build/o"] {
                let mut writing = tree.probe(&["write", &inside, "evil"]);
                writing.outputs = vec![path(output)];
                let _ = run(&writing);
                assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1, "{at} -> {target}");
            }
        }
    }
}

#[test]
fn a_tree_that_is_not_what_the_spec_says_is_refused() {
    let secret = open_directory();
    fs::write(secret.path().join("a.h"), vec![b's'; LARGE]).unwrap();
    // Somebody has put links where the spec has a directory, and where it has a file.
    for swapped in ["p/include", "p"] {
        let tree = Tree::new().file("/p/include/a.h", LARGE);
        let at = tree.directory.path().join(swapped);
        fs::rename(&at, tree.directory.path().join("away")).unwrap();
        symlink(secret.path(), &at).unwrap();
        let mut spec = tree.probe(&["walk", "/p"]);
        spec.outputs = vec![path("/p/o")];
        let error = run(&spec).unwrap_err();
        assert!(matches!(&error, RunError::Tree { .. }), "{swapped}: {error:?}");
    }
    let mut gone = Tree::new().file("/p/include/a.h", LARGE).probe(&["walk", "/p"]);
    gone.tree = Some(Path::new("/no/such/tree").to_owned());
    assert!(matches!(run(&gone), Err(RunError::Tree { .. })));
}

#[test]
fn outputs_are_written_beside_inputs_and_over_them() {
    let tree = project();
    let before = tree.state();
    for output in
        ["/p/src/build/old.h", "/p/large.h", "/p/src/x.o", "/p/include/deep/er/new.o", "/p/link/l.o"]
    {
        let mut spec = tree.probe(&["write", output, "made"]);
        spec.outputs = vec![path(output)];
        let (finished, outputs) = run(&spec).unwrap();
        assert_eq!(outputs, [(0, b"made".to_vec())], "{output} {finished:?}");
    }
    assert_eq!(tree.state(), before);
}
