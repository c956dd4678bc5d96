use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
};

use barn_protocol::Identity;

use super::*;
use crate::requester::{files::Files, manifest::Absent, sight::Sight};

/// A machine's disk as far as a source is concerned: a header, a link to it, a directory that is searched.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        fs::write(disk.at("x.c"), "#include <x.h>\n").unwrap();
        fs::create_dir(disk.at("sub")).unwrap();
        fs::write(disk.at("sub/x.h"), "one").unwrap();
        symlink("x.h", disk.at("sub/link.h")).unwrap();
        fs::create_dir(disk.at("as-file")).unwrap();
        disk
    }

    fn root(&self) -> std::path::PathBuf {
        fs::canonicalize(self.0.path()).unwrap()
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.root().join(name)
    }

    fn stem(&self) -> Action {
        Action {
            toolchain: Digest::of(b"gcc"),
            program: TreePath::new("/usr/bin/gcc").unwrap(),
            argv: vec![b"gcc".to_vec()],
            env: [].into(),
            cwd: TreePath::new(self.root().as_os_str().as_bytes()).unwrap(),
            inputs: Arc::default(),
            outputs: Vec::new(),
        }
    }

    /// What somebody with the same disk says who saw these paths, and these in vain.
    fn manifest(&self, present: &[&str], absent: &[&str]) -> SharedManifest {
        let (files, sight) = (Files::default(), Sight::default());
        let mut look = Look::new(&sight, &files, &self.root());
        let mut tree = Tree::new();
        for name in present {
            let path = self.at(name).as_os_str().as_bytes().to_vec();
            let entry = entry_at(&path, &mut look).unwrap();
            tree.insert(TreePath::new(path).unwrap(), entry).unwrap();
        }
        let mut nowhere = Absent::default();
        absent.iter().for_each(|name| nowhere.add(self.at(name).as_os_str().as_bytes()));
        nowhere.pass_over(b"as-file");
        let paths = FrontCoded::of(tree.iter().map(|(path, _)| path.as_bytes()));
        let action = Action { inputs: Arc::new(tree.clone()), ..self.stem() }.key();
        SharedManifest {
            key: Digest::of(b"key"),
            action,
            present: paths,
            absent: FrontCoded::of(nowhere.sorted().iter().map(Vec::as_slice)),
            passed_over: FrontCoded::of(nowhere.passed_over()),
            producer: Identity::from_seed(&[1; 32]).id(),
        }
    }

    fn holds(&self, manifest: &SharedManifest) -> bool {
        let (files, sight) = (Files::default(), Sight::default());
        holds(&self.stem(), manifest, &mut Look::new(&sight, &files, &self.root())).is_some()
    }
}

const PRESENT: [&str; 4] = ["x.c", "sub", "sub/link.h", "sub/x.h"];

#[test]
fn it_holds_until_something_that_was_seen_differs() {
    let check = |what: &str, change: &dyn Fn(&Disk)| {
        let disk = Disk::new();
        let manifest = disk.manifest(&PRESENT, &["first/x.h", "x.h"]);
        assert!(disk.holds(&manifest), "before: {what}");
        change(&disk);
        assert!(!disk.holds(&manifest), "{what}");
    };
    let put = |path: &Path, text: &str| fs::write(path, text).unwrap();
    check("another header", &|disk| put(&disk.at("sub/x.h"), "two"));
    check("no header", &|disk| fs::remove_file(disk.at("sub/x.h")).unwrap());
    check("a header before it", &|disk| put(&disk.at("x.h"), "one"));
    check("a directory before it", &|disk| {
        fs::create_dir(disk.at("first")).unwrap();
        put(&disk.at("first/x.h"), "one");
    });
    check("a link in place of a file", &|disk| {
        fs::rename(disk.at("sub/x.h"), disk.at("sub/y.h")).unwrap();
        symlink("y.h", disk.at("sub/x.h")).unwrap();
    });
    check("another target", &|disk| {
        fs::remove_file(disk.at("sub/link.h")).unwrap();
        symlink("./x.h", disk.at("sub/link.h")).unwrap();
    });
    check("a file in place of a directory", &|disk| {
        fs::remove_dir(disk.at("as-file")).unwrap();
        put(&disk.at("as-file"), "");
    });
    check("a program", &|disk| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(disk.at("x.c"), fs::Permissions::from_mode(0o755)).unwrap();
    });
}

#[test]
fn whatever_is_listed_the_action_is_that_of_these_files() {
    let disk = Disk::new();
    let honest = disk.manifest(&PRESENT, &[]);
    assert!(disk.holds(&honest));
    // It says another action, or lists less or more than that has.
    assert!(!disk.holds(&SharedManifest { action: disk.manifest(&["x.c"], &[]).action, ..honest.clone() }));
    assert!(!disk.holds(&SharedManifest { present: disk.manifest(&["x.c"], &[]).present, ..honest.clone() }));
    let path = disk.at("x.c").as_os_str().as_bytes().to_vec();
    let present = FrontCoded::of([&path[..], &path[..]]);
    assert!(!disk.holds(&SharedManifest { present, ..honest.clone() }), "twice");
    for odd in [&b"x.c"[..], b"/", b"", b"/../x"] {
        let present = FrontCoded::of([odd]);
        assert!(!disk.holds(&SharedManifest { present, ..honest.clone() }), "{odd:?}");
    }
}
