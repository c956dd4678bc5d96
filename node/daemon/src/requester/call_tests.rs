use std::os::unix::fs::symlink;

use super::*;
use crate::toolchain::stand_in::tests::{pack, setting};

/// A directory with scripts for which an archive of gcc stands in.
struct Bench {
    dir: tempfile::TempDir,
    toolchains: ToolchainIndex,
    stand_ins: StandIns,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        pack("/usr/bin/gcc", &at("gcc.tar.zst"));
        for script in ["one-cc", "two-cc", "gcc"] {
            fs::write(at(script), "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n").unwrap();
        }
        symlink("/usr/bin/ccache", at("cached-cc")).unwrap();
        let archive = at("gcc.tar.zst").to_str().unwrap().to_owned();
        let settings = ["one-cc", "two-cc", "cached-cc"].map(|name| setting(&(name, archive.as_str())));
        let (stand_ins, home, store) = StandIns::in_dir(dir.path(), &settings);
        stand_ins.read(&home, &store);
        let toolchains = ToolchainIndex::open(&at("toolchains"));
        Self { dir, toolchains, stand_ins }
    }

    fn understand(&self, words: &str) -> Result<Call, Unknown> {
        let name = words.split(' ').next().unwrap();
        understood(self.dir.path(), &self.dir.path().join(name), words, &self.toolchains, &self.stand_ins)
    }
}

/// What becomes of `words`, by which `program` is called in `dir`.
pub(in crate::requester) fn understood(
    dir: &Path,
    program: &Path,
    words: &str,
    toolchains: &ToolchainIndex,
    stand_ins: &StandIns,
) -> Result<Call, Unknown> {
    let request = Request {
        program: program.as_os_str().as_bytes().to_vec(),
        argv: words.split(' ').map(|word| word.as_bytes().to_vec()).collect(),
        cwd: dir.canonicalize().unwrap().into_os_string().into_vec(),
        env: vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())],
        ..Request::default()
    };
    match understand(
        &request,
        Compilers { toolchains, stand_ins, locales: &Locales::default(), tools: &Tools::default() },
    ) {
        Understood::Call(call) => Ok(*call),
        Understood::Local(why) => Err(why),
        Understood::Rust(call) => panic!("{call:?}"),
        Understood::Question(question) => panic!("{question:?}"),
        Understood::Other(what) => panic!("{what}"),
    }
}

#[test]
fn the_archive_s_driver_runs_elsewhere_and_the_own_compiler_here() {
    let bench = Bench::new();
    let itself = bench.understand("/usr/bin/gcc -O2 -c x.c").unwrap();
    let one = bench.understand("one-cc -O2 -c x.c").unwrap();
    let two = bench.understand("two-cc -O2 -c x.c").unwrap();
    assert_eq!(one.stem, itself.stem, "the archive is of the same compiler");
    assert_eq!(one.own_argv()[0], b"one-cc");
    assert_eq!(one.own_argv()[1..], one.stem.argv[1..]);
    assert!(itself.may_be_kept() && !one.may_be_kept() && one.may_travel());

    // Their results may be shared, what is known of their headers not.
    let source = Digest::of(b"x.c");
    assert_eq!((one.stem.key(), itself.manifest_source(source)), (two.stem.key(), source));
    let names = [&itself, &one, &two].map(|call| call.manifest_source(source));
    let asked = [&itself, &one, &two].map(Call::asked);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(names[a] != names[b] && asked[a] != asked[b], "{a} {b}");
    }
}

#[test]
fn what_cannot_travel_is_not_looked_at() {
    let bench = Bench::new();
    let check = |words: &str, expected: &str| {
        let why = bench.understand(words).unwrap_err();
        assert_eq!(why.name, expected, "{words}: {}", why.detail);
    };
    check("one-cc -c x.s", "plain-assembler");
    check("one-cc -march=native -c x.c", "native-cpu");
    check("cached-cc -c x.c", "compiler-wrapper");
    check("gcc -c x.c", "compiler-is-script");
    bench.understand("/usr/bin/gcc -c x.s").unwrap();
}
