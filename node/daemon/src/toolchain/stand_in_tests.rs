use std::{fs, os::unix::fs::symlink};

use super::*;
use crate::toolchain::{archive, discover};

/// A directory with an archive of this machine's gcc in it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Packs the compiler at `program`, and returns the archive.
    fn pack(&self, program: &str, name: &str) -> String {
        let path = self.at(name);
        pack(program, &path);
        path.to_str().unwrap().to_owned()
    }

    fn open(&self, rows: &[(&str, &str)]) -> (StandIns, Home, Store) {
        StandIns::in_dir(self.dir.path(), &rows.iter().map(setting).collect::<Vec<_>>())
    }
}

/// Writes an archive of the compiler at `program`.
pub(crate) fn pack(program: &str, archive: &Path) {
    let found = discover(Path::new(program), "/usr/bin:/bin".as_ref()).unwrap();
    let digests = found.toolchain.tree.blobs().map(|(digest, _)| digest);
    let hosts: BTreeMap<_, _> = digests.zip(found.files.iter().map(|(_, host)| host.clone())).collect();
    let open = |digest: Digest| File::open(&hosts[&digest]);
    archive::export(&found.toolchain, open, File::create(archive).unwrap()).unwrap();
}

pub(crate) fn setting((compiler, archive): &(&str, &str)) -> ToolchainSetting {
    ToolchainSetting {
        compiler: CompilerName::try_from((*compiler).to_owned()).unwrap(),
        archive: ArchiveName::try_from((*archive).to_owned()).unwrap(),
    }
}

fn wrong(found: Option<Result<StandIn, StandInError>>) -> String {
    found.expect("it is set").unwrap_err().parts().0
}

#[test]
fn an_archive_stands_in_and_is_read_once() {
    let bench = Bench::new();
    let archive = bench.pack("/usr/bin/gcc", "gcc.tar.zst");
    fs::write(bench.at("my-cc"), "#!/bin/sh\nexec gcc \"$@\"\n").unwrap();
    let script = bench.at("my-cc");
    let rows = [(script.to_str().unwrap(), archive.as_str()), ("g++", archive.as_str()), ("gcc-7", "gcc ")];
    let first = {
        let (stand_ins, home, store) = bench.open(&rows);
        assert_eq!(stand_ins.find(Path::new("/usr/bin/gcc")), None);
        assert!(wrong(stand_ins.find(&script)).ends_with("is still being read"));
        stand_ins.read(&home, &store);
        let found = stand_ins.find(&script).unwrap().unwrap();
        assert_eq!((found.driver.as_bytes(), found.family), (&b"/usr/bin/gcc"[..], Family::Gcc));
        assert!(found.name.starts_with("gcc ") && found.machine == std::env::consts::ARCH, "{found:?}");
        let by_name = stand_ins.find(Path::new("/opt/gcc-7")).unwrap().unwrap();
        assert_eq!((by_name.toolchain, &by_name.driver), (found.toolchain, &found.driver));
        assert_ne!(by_name.own, found.own);
        assert!(wrong(stand_ins.find(Path::new("/usr/bin/g++"))).ends_with("has no C++ compiler"));
        found
    };
    // The archive is not read again: with the same stamp, it could not be.
    let (stand_ins, home, store) = bench.open(&rows);
    let memory = fs::read(home.toolchains_dir().join(MEMORY)).unwrap();
    let known: Memory = postcard::from_bytes(&memory).unwrap();
    assert_eq!(known[&archive].1, first.toolchain);
    stand_ins.read(&home, &store);
    assert_eq!(stand_ins.find(&script).unwrap().unwrap(), first);
    fs::write(&script, "#!/bin/sh\nexec gcc -DA \"$@\"\n").unwrap();
    let replaced = stand_ins.find(&script).unwrap().unwrap();
    assert!(replaced.own != first.own && replaced.toolchain == first.toolchain);
}

#[test]
fn what_cannot_stand_in_is_named_and_costs_nothing_else() {
    let bench = Bench::new();
    let archive = bench.pack("/usr/bin/clang", "clang.tar.zst");
    fs::write(bench.at("text"), "no archive").unwrap();
    let (text, missing) = (bench.at("text"), bench.at("missing"));
    let (text, missing) = (text.to_str().unwrap(), missing.to_str().unwrap());
    let rows = [
        ("a-gcc", missing),
        ("b-gcc", text),
        ("c-gcc", "0123456789"),
        (missing, &archive),
        ("good", &archive),
    ];
    let (stand_ins, home, store) = bench.open(&rows);
    stand_ins.read(&home, &store);
    let listed = stand_ins.list();
    let expected = [
        format!("cannot open archive {missing}: No such file"),
        format!("archive {text} cannot be imported: "),
        "no toolchain here is called 0123456789".to_owned(),
        format!("compiler {missing} is not there"),
    ];
    for ((_, found), expected) in listed.iter().zip(&expected) {
        let (wrong, hint) = found.as_ref().unwrap_err().parts();
        assert!(wrong.starts_with(expected) && !wrong.contains('\n') && !hint.is_empty(), "{wrong}");
    }
    assert!(listed[4].1.as_ref().unwrap().starts_with("clang "), "{:?}", listed[4]);
    let good = stand_ins.find(Path::new("/x/good")).unwrap().unwrap();
    assert_eq!(good.family, Family::Clang);
    assert_eq!(stand_ins.machines(), [std::env::consts::ARCH]);
}

#[test]
fn the_driver_is_the_one_of_that_name_or_the_nearest() {
    let mut tree = barn_protocol::Tree::new();
    let path = |text: &str| TreePath::new(text).unwrap();
    let file = |executable| Entry::File { digest: Digest::of(b"x"), size: 1, executable };
    let link = |target: &str| Entry::Symlink { target: target.into() };
    for (at, entry) in [
        ("/usr/bin/x86_64-linux-gnu-gcc-12", file(true)),
        ("/usr/bin/gcc", link("gcc-12")),
        ("/usr/bin/gcc-12", link("x86_64-linux-gnu-gcc-12")),
        ("/usr/bin/cc", link("/etc/alternatives/cc")),
        ("/etc/alternatives/cc", link("/usr/bin/gcc")),
        ("/usr/bin/clang", link("nowhere")),
        ("/usr/bin/g++", file(false)),
        ("/usr/lib/gcc/x/cc1", file(true)),
    ] {
        tree.insert(path(at), entry).unwrap();
    }
    let toolchain = Toolchain { name: "t".into(), machine: "m".into(), tree, search_path: Vec::new() };
    let check = |wanted, name: &str, expected: Option<&str>| {
        let found = choose(&toolchain, wanted, name.as_bytes());
        assert_eq!(found, expected.map(|at| (path(at), Family::Gcc)), "{name}");
    };
    check(Driver::C, "gcc", Some("/usr/bin/gcc"));
    check(Driver::C, "gcc-12", Some("/usr/bin/gcc-12"));
    check(Driver::C, "gcc-13", Some("/usr/bin/cc"));
    check(Driver::Cxx, "g++", None);
}

#[test]
fn an_unknown_name_is_looked_through() {
    let bench = Bench::new();
    let archive = bench.pack("/usr/bin/gcc", "gcc.tar.zst");
    let real = |program: &str| Path::new(program).canonicalize().unwrap();
    symlink(real("/usr/bin/g++"), bench.at("a-compiler")).unwrap();
    symlink(real("/usr/bin/gcc"), bench.at("b-compiler")).unwrap();
    fs::write(bench.at("c-compiler"), "#!/bin/sh\n").unwrap();
    fs::write(bench.at("d-compiler++"), "#!/bin/sh\n").unwrap();
    let rows =
        ["a-compiler", "b-compiler", "c-compiler", "d-compiler++"].map(|name| (name, archive.as_str()));
    let (stand_ins, home, store) = bench.open(&rows);
    stand_ins.read(&home, &store);
    for (name, _) in rows {
        let found = stand_ins.find(&bench.at(name)).expect("it is set");
        let is_cxx = matches!(&found, Err(StandInError::NoDriver { kind: "C++", .. }));
        assert_eq!(
            (is_cxx, found.is_ok()),
            (["a-compiler", "d-compiler++"].contains(&name), !is_cxx),
            "{name}"
        );
    }
}
