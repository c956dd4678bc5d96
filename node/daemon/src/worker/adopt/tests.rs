use std::os::unix::fs::{PermissionsExt, symlink};

use barn_cache::Limits;
use barn_protocol::Tree;
use nix::{sys::stat::Mode as FileMode, unistd::mkfifo};

use super::*;

/// A machine whose packages are in `usr`.
struct Machine {
    room: tempfile::TempDir,
    adopter: Adopter,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let room = tempfile::tempdir().unwrap();
        let usr = room.path().join("usr");
        fs::create_dir_all(usr.join("lib")).unwrap();
        let adopter = Adopter::new(vec![usr.clone()], nix::unistd::geteuid().as_raw());
        let store = Store::open(&room.path().join("store"), Limits::new(1 << 30)).unwrap();
        let machine = Self { room, adopter, store };
        machine.mode("usr", 0o755);
        machine.mode("usr/lib", 0o755);
        machine.file("usr/lib/cc1", b"the compiler");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn file(&self, name: &str, contents: &[u8]) {
        fs::write(self.path(name), contents).unwrap();
        self.mode(name, 0o755);
    }

    fn entry(&self, name: &str, contents: &[u8]) -> (TreePath, Entry) {
        let entry =
            Entry::File { digest: Digest::of(contents), size: contents.len() as u64, executable: true };
        (TreePath::new(self.path(name).as_os_str().as_bytes()).unwrap(), entry)
    }

    fn toolchain(&self, files: &[(&str, &[u8])]) -> Toolchain {
        let mut tree = Tree::new();
        for (name, contents) in files {
            let (path, entry) = self.entry(name, contents);
            tree.insert(path, entry).unwrap();
        }
        Toolchain { name: "x".into(), machine: "x86_64".into(), tree, search_path: Vec::new() }
    }

    fn find(&self, name: &str, contents: &[u8]) -> Option<Own> {
        let (path, entry) = self.entry(name, contents);
        self.adopter.find(&path, &entry)
    }

    fn hashed(&self) -> usize {
        self.adopter.lock().len()
    }
}

#[test]
fn what_is_here_is_taken_over_and_nothing_else() {
    let machine = Machine::new();
    machine.file("usr/lib/other", b"another file");
    machine.file("store.so", b"not in a place");
    let toolchain = machine.toolchain(&[
        ("usr/lib/cc1", b"the compiler"),
        ("usr/lib/other", b"another size!"),
        ("usr/lib/absent", b"absent"),
        ("store.so", b"not in a place"),
    ]);
    let taken = machine.adopter.take_over(&toolchain, &machine.store);
    assert_eq!(taken, Taken { files: 1, bytes: 12 });
    assert_eq!(machine.store.read_blob(&Digest::of(b"the compiler")).as_deref(), Some(&b"the compiler"[..]));
    let rest: Vec<_> = toolchain.tree.blobs().filter(|(blob, _)| !machine.store.contains(blob)).collect();
    assert_eq!(rest.len(), 3, "the rest is fetched");
    assert_eq!(machine.adopter.take_over(&toolchain, &machine.store), Taken::default(), "it is here now");

    let machine = Machine { adopter: Adopter::nothing(), ..Machine::new() };
    let toolchain = machine.toolchain(&[("usr/lib/cc1", b"the compiler")]);
    assert_eq!(machine.adopter.take_over(&toolchain, &machine.store), Taken::default(), "switched off");
}

#[test]
fn nothing_unsound_is_read() {
    #[track_caller]
    fn check(what: &str, spoil: impl Fn(&Machine)) {
        let machine = Machine::new();
        spoil(&machine);
        assert!(machine.find("usr/lib/cc1", b"the compiler").is_none(), "{what}");
        assert_eq!(machine.hashed(), 0, "{what}: it was read");
    }
    let replaced =
        |machine: &Machine| fs::rename(machine.path("usr/lib/cc1"), machine.path("usr/real")).unwrap();
    check("others may write", |machine| machine.mode("usr/lib/cc1", 0o757));
    check("the group may write", |machine| machine.mode("usr/lib/cc1", 0o775));
    check("it is not for everybody to read", |machine| machine.mode("usr/lib/cc1", 0o750));
    check("it gives rights", |machine| machine.mode("usr/lib/cc1", 0o4755));
    check("some may execute it", |machine| machine.mode("usr/lib/cc1", 0o744));
    check("its directory is closed", |machine| machine.mode("usr/lib", 0o750));
    check("its directory is everybody's", |machine| machine.mode("usr/lib", 0o777));
    check("the size is another", |machine| machine.file("usr/lib/cc1", b"shorter"));
    check("it is a link", |machine| {
        replaced(machine);
        symlink(machine.path("usr/real"), machine.path("usr/lib/cc1")).unwrap();
    });
    check("a link leads to it", |machine| {
        fs::rename(machine.path("usr/lib"), machine.path("usr/real")).unwrap();
        symlink(machine.path("usr/real"), machine.path("usr/lib")).unwrap();
    });
    check("it is a pipe", |machine| {
        replaced(machine);
        mkfifo(&machine.path("usr/lib/cc1"), FileMode::from_bits_truncate(0o755)).unwrap();
    });
    check("it is a directory", |machine| {
        replaced(machine);
        fs::create_dir(machine.path("usr/lib/cc1")).unwrap();
    });
}

#[test]
fn only_the_owners_files_are_read() {
    let mut machine = Machine::new();
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_some());
    machine.adopter = Adopter::new(vec![machine.path("usr")], nix::unistd::geteuid().as_raw() + 1);
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_none());
    machine.adopter = Adopter::system();
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_none(), "it is in none of the places");
    assert_eq!(machine.hashed(), 0);
}

#[test]
fn a_change_is_noticed_and_looked_at_anew() {
    let machine = Machine::new();
    let own = machine.find("usr/lib/cc1", b"the compiler").unwrap();
    assert!(own.is_unchanged());
    machine.file("usr/lib/cc1", b"THE COMPILER");
    assert!(!own.is_unchanged());
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_none());
    let new = machine.find("usr/lib/cc1", b"THE COMPILER").unwrap();
    machine.mode("usr/lib/cc1", 0o644);
    assert!(!new.is_unchanged());
    assert!(machine.find("usr/lib/cc1", b"THE COMPILER").is_none(), "it cannot be executed any more");
    fs::remove_file(machine.path("usr/lib/cc1")).unwrap();
    assert!(!new.is_unchanged());
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_none());
}

#[test]
fn what_is_hashed_is_bounded() {
    let machine = Machine::new();
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_some());
    let known = machine.adopter.lock()[&machine.path("usr/lib/cc1")];
    for n in machine.hashed()..KNOWN_MAX {
        machine.adopter.lock().insert(PathBuf::from(format!("/{n}")), known);
    }
    machine.file("usr/lib/as", b"the assembler");
    assert!(machine.find("usr/lib/as", b"the assembler").is_none(), "no more are read");
    assert!(machine.find("usr/lib/cc1", b"the compiler").is_some(), "what is known stays so");
    machine.file("usr/lib/cc1", b"THE COMPILER");
    assert!(machine.find("usr/lib/cc1", b"THE COMPILER").is_some(), "and may change");
}

#[test]
fn the_largest_files_are_bound() {
    let machine = Machine::new();
    let large = |n: usize| vec![0; BOUND_BYTES_MIN as usize + n];
    let names: Vec<String> = (0..=BOUND_MAX).map(|n| format!("usr/lib/large{n}")).collect();
    let contents: Vec<Vec<u8>> = (0..=BOUND_MAX).map(large).collect();
    names.iter().zip(&contents).for_each(|(name, contents)| machine.file(name, contents));
    machine.file(&names[4], b"of another version");
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&contents).map(|(name, contents)| (name.as_str(), contents.as_slice())).collect();
    files.push(("usr/lib/cc1", b"the compiler"));
    let toolchain = machine.toolchain(&files);
    let bound: Vec<_> =
        machine.adopter.bound(&toolchain).iter().map(|(_, own)| own.path().to_owned()).collect();
    let expect: Vec<_> = (0..=BOUND_MAX).rev().filter(|n| *n != 4).map(|n| machine.path(&names[n])).collect();
    assert_eq!(bound, expect);

    machine.file(&names[4], &contents[4]);
    let bound: Vec<_> =
        machine.adopter.bound(&toolchain).iter().map(|(_, own)| own.path().to_owned()).collect();
    assert_eq!(bound.len(), BOUND_MAX, "the smallest of them lies in the tree");
    assert!(!bound.contains(&machine.path(&names[0])));
}
