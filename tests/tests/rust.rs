//! Rust through cargo: `RUSTC_WRAPPER=barn`, with the real cargo and rustc.
//!
//! One workspace without dependencies from elsewhere holds all that makes caching hard: a build script that generates code and a
//! native library, a procedural macro that reads a file and a variable, a library that is made into four kinds, and `env!`,
//! `option_env!`, `include_str!`.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use barn_tests::{Counts, Desk, Ran, Tree, snapshot};

const WORKSPACE: Tree<'static> = &[
    ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"deep\", \"mac\", \"many\"]\nresolver = \"2\"\n"),
    (
        "Cargo.lock",
        "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\n \"mac\",\n \"many\",\n]\n\n\
         [[package]]\nname = \"deep\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"mac\"\nversion = \"0.1.0\"\n\n\
         [[package]]\nname = \"many\"\nversion = \"0.1.0\"\ndependencies = [\n \"deep\",\n]\n",
    ),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\n\
         mac = { path = \"../mac\" }\nmany = { path = \"../many\" }\n",
    ),
    (
        "app/build.rs",
        r#"
use std::{env, fs, process::Command};
fn main() {
    println!("cargo:rerun-if-changed=gen.txt");
    println!("cargo:rerun-if-changed=secret.txt");
    println!("cargo:rerun-if-changed=native.c");
    let out = env::var("OUT_DIR").unwrap();
    let text = fs::read_to_string("gen.txt").unwrap();
    fs::create_dir_all(format!("{out}/target")).unwrap();
    fs::write(format!("{out}/target/secret"), fs::read_to_string("secret.txt").unwrap()).unwrap();
    fs::write(format!("{out}/gen.rs"), format!("pub const GENERATED: &str = {text:?};")).unwrap();
    let object = format!("{out}/native.o");
    let done = |command: &mut Command| assert!(command.status().unwrap().success());
    done(Command::new("cc").args(["-c", "native.c", "-o", &object]));
    done(Command::new("ar").args(["crsD", &format!("{out}/libnative.a"), &object]));
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static=native");
}
"#,
    ),
    ("app/gen.txt", "gen1"),
    ("app/secret.txt", "secret1"),
    ("app/native.c", "int native(void) { return 1; }\n"),
    ("app/query.sql", "select1"),
    ("app/src/bytes.bin", "b1"),
    ("app/src/included.rs", "1 + 1"),
    ("app/src/text.txt", "text1"),
    (
        "app/src/main.rs",
        r#"
include!(concat!(env!("OUT_DIR"), "/gen.rs"));
extern "C" { fn native() -> i32; }
mod part;
fn main() {
    let unused = 1;
    println!(
        "{GENERATED} {} {} {:?} {} {} {} {} {} {}",
        mac::query!(), include_str!("text.txt"), option_env!("WHO"), many::many(), part::part(), unsafe { native() },
        mac::generated!(), include_bytes!("bytes.bin")[1] - b'0', include!("included.rs"),
    );
}
#[test] fn works() { assert_eq!(many::many(), 7); }
"#,
    ),
    ("app/src/part.rs", "pub fn part() -> &'static str { \"part1\" }\n"),
    (
        "mac/Cargo.toml",
        "[package]\nname = \"mac\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
    ),
    (
        "mac/src/lib.rs",
        r#"
use proc_macro::TokenStream;
#[proc_macro]
pub fn query(_: TokenStream) -> TokenStream {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    format!("{:?}", std::fs::read_to_string(format!("{package}/query.sql")).unwrap()).parse().unwrap()
}
#[proc_macro]
pub fn generated(_: TokenStream) -> TokenStream {
    let out = std::env::var("OUT_DIR").unwrap();
    format!("{:?}", std::fs::read_to_string(format!("{out}/target/secret")).unwrap()).parse().unwrap()
}
"#,
    ),
    (
        "many/Cargo.toml",
        "[package]\nname = \"many\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\n\
         crate-type = [\"rlib\", \"cdylib\", \"staticlib\"]\n[dependencies]\ndeep = { path = \"../deep\" }\n",
    ),
    ("many/src/lib.rs", "pub fn many() -> i32 { deep::deep() }\n"),
    ("deep/Cargo.toml", "[package]\nname = \"deep\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    ("deep/src/lib.rs", "pub fn deep() -> i32 { 7 }\n"),
];

/// A desk with the workspace, and the cargo that runs this test.
struct Bench {
    desk: Desk,
    tools: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
        let sysroot = String::from_utf8(output.stdout).unwrap();
        let desk = Desk::new();
        desk.lay(WORKSPACE);
        Self { desk, tools: PathBuf::from(sysroot.trim()).join("bin") }
    }

    /// Puts a wrapper there that runs barn with so little memory that nothing else can be run.
    fn lay_starving_wrapper(&self) {
        self.desk.write("wrapper", &format!("#!/bin/sh\n{TOO_LITTLE}\nexec \"$B\" \"$@\"\n"));
        self.desk.sh("chmod +x wrapper").ok();
    }

    fn line(&self, line: &str) -> String {
        format!("PATH={}:$PATH; export PATH CARGO_NET_OFFLINE=true; {line}", self.tools.display())
    }

    /// Runs a line of shell with the wrapper set; what it added to the counts.
    fn wrapped(&self, line: &str) -> (Ran, Counts) {
        let (ran, counts) = self.desk.counted(&self.line(&format!("export RUSTC_WRAPPER=$B; {line}")));
        (ran.ok(), counts)
    }

    /// The same after `cargo clean`.
    fn cleaned(&self, line: &str) -> (Ran, Counts) {
        self.wrapped(&format!("cargo clean -q && {line}"))
    }

    /// Runs a line twice, each time from nothing, and finds that the second time everything is served, with the same words.
    fn twice(&self, line: &str) -> Counts {
        let (first, _) = self.cleaned(line);
        let (second, counts) = self.cleaned(line);
        assert_eq!((counts.misses, counts.local), (0, 0), "{line}: {counts:?}");
        assert!(counts.hits >= 2, "{line}: {counts:?}");
        let warnings = |ran: &Ran| ran.err().lines().filter(|line| line.contains("unused")).count();
        assert_eq!(warnings(&first), warnings(&second), "{line}");
        counts
    }

    /// Builds from nothing and runs the program; what it says, and how many crates were compiled.
    fn says(&self, settings: &str) -> (String, u64) {
        let (ran, counts) = self.cleaned(&format!("{settings} cargo build -q && target/debug/app"));
        assert_eq!(counts.local, 0, "{counts:?}");
        (ran.out().trim().to_owned(), counts.misses)
    }
}

#[test]
fn every_crate_of_a_build_is_served_again_and_is_the_same() {
    let bench = Bench::new();
    // In `libmany.d` cargo names one of three libraries, now this and now that.
    let sums = "cd target/debug && find . -type f ! -path '*/incremental/*' ! -path '*/.fingerprint/*' ! -name '*.json' \
        ! -name 'invoked.timestamp' ! -path './libmany.d' | sort | xargs sha256sum && find . -type f -perm -100 | sort";
    // Incremental libraries hold random names of their parts.
    let build = "CARGO_INCREMENTAL=0 cargo build -q";
    bench.desk.plain(&bench.line(build)).ok();
    let plain = bench.desk.plain(&bench.line(sums)).ok().out();
    let (_, counts) = bench.cleaned(build);
    assert_eq!((counts.hits, counts.local), (0, 0), "{counts:?}");
    assert_eq!(bench.desk.plain(&bench.line(sums)).out(), plain, "compiled through barn");
    // Six crates: one is a build script.
    let counts = bench.twice(build);
    assert_eq!(counts.hits, 5, "{counts:?}");
    assert_eq!(bench.desk.plain(&bench.line(sums)).out(), plain, "served");
    assert_eq!(
        bench.desk.sh("target/debug/app").out().trim(),
        "gen1 select1 text1 None 7 part1 1 secret1 1 2"
    );
}

#[test]
fn other_ways_to_build_are_served_too() {
    let bench = Bench::new();
    bench.twice("cargo check -q");
    bench.twice("cargo test -q");
    bench.twice("cargo build -q --release");
    bench.twice("CARGO_INCREMENTAL=0 cargo build -q -p many");
    bench.twice("cargo build -q --target x86_64-unknown-linux-gnu -p deep -p many");
    bench.twice("RUSTC_WORKSPACE_WRAPPER=$RUSTC_WRAPPER RUSTC_WRAPPER= cargo build -q");
    if bench.tools.join("clippy-driver").exists() {
        bench.twice("cargo clippy -q");
    }
    let (_, counts) = bench.wrapped("cargo doc -q --no-deps");
    assert_eq!(counts.local, 0, "rustdoc is not called through the wrapper: {counts:?}");
}

/// A change of anything that a crate reads is seen, and undone again it is served.
#[test]
fn what_differs_is_never_served() {
    let bench = Bench::new();
    assert_eq!(bench.says(""), ("gen1 select1 text1 None 7 part1 1 secret1 1 2".to_owned(), 5));
    let check = |path: &str, contents: &str, expect: &str| {
        let before = std::fs::read_to_string(bench.desk.at(path)).unwrap();
        bench.desk.write(path, contents);
        let (said, compiled) = bench.says("");
        assert_eq!(said, expect, "{path}");
        assert!(compiled > 0, "{path}");
        bench.desk.write(path, &before);
        assert_eq!(
            bench.says(""),
            ("gen1 select1 text1 None 7 part1 1 secret1 1 2".to_owned(), 0),
            "{path} as before"
        );
    };
    check(
        "app/src/part.rs",
        "pub fn part() -> &'static str { \"part2\" }\n",
        "gen1 select1 text1 None 7 part2 1 secret1 1 2",
    );
    check("app/src/text.txt", "text2", "gen1 select1 text2 None 7 part1 1 secret1 1 2");
    // Generated code, under the same name.
    check("app/gen.txt", "gen2", "gen2 select1 text1 None 7 part1 1 secret1 1 2");
    // A native library, under the same name.
    check(
        "app/native.c",
        "int native(void) { return 2; }\n",
        "gen1 select1 text1 None 7 part1 2 secret1 1 2",
    );
    check("app/src/bytes.bin", "b2", "gen1 select1 text1 None 7 part1 1 secret1 2 2");
    check("app/src/included.rs", "2 + 2", "gen1 select1 text1 None 7 part1 1 secret1 1 4");
    // What a macro reads without saying so, in its user's package and in what that generated.
    check("app/secret.txt", "secret2", "gen1 select1 text1 None 7 part1 1 secret2 1 2");
    check("app/query.sql", "select2", "gen1 select2 text1 None 7 part1 1 secret1 1 2");
    // A crate behind a crate.
    check("deep/src/lib.rs", "pub fn deep() -> i32 { 8 }\n", "gen1 select1 text1 None 8 part1 1 secret1 1 2");
    // What rustc is told otherwise.
    assert_eq!(bench.says("RUSTFLAGS=-Cdebug-assertions=off").1, 5);
    assert_eq!(bench.says("RUSTFLAGS=-Cdebug-assertions=off").1, 0);
    let (said, compiled) = bench.says("WHO=me");
    assert_eq!((said.as_str(), compiled), ("gen1 select1 text1 Some(\"me\") 7 part1 1 secret1 1 2", 1));
    let (said, compiled) = bench.says("WHO=you");
    assert_eq!((said.as_str(), compiled), ("gen1 select1 text1 Some(\"you\") 7 part1 1 secret1 1 2", 1));
    assert_eq!(bench.says("WHO=me").1, 0);
}

/// Crates in the directory that rustc searches by itself are inputs, whatever the direct one says.
#[test]
fn a_library_that_is_dragged_in_is_an_input() {
    let bench = Bench::new();
    bench.desk.lay(&[
        ("a.rs", "pub fn a() -> i32 { 1 }\n"),
        ("b.rs", "pub fn b() -> i32 { a::a() }\n"),
        ("c.rs", "fn main() { println!(\"{}\", b::b()); }\n"),
        ("d/keep", ""),
        ("o/keep", ""),
    ]);
    let lib = |name: &str, more: &str| {
        format!(
            "$B rustc --crate-name {name} --crate-type lib --emit=dep-info,link --out-dir d -C extra-filename=-0 {name}.rs {more}"
        )
    };
    let main = "$B rustc --crate-name c --crate-type bin --emit=dep-info,link --out-dir o c.rs --extern b=d/libb-0.rlib -L dependency=d";
    let depend = lib("b", "--extern a=d/liba-0.rlib -L dependency=d");
    let (ran, counts) = bench.wrapped(&format!("{} && {depend} && {main} && o/c", lib("a", "")));
    assert_eq!((ran.out().trim(), counts.misses, counts.local), ("1", 3, 0), "{counts:?}");
    let (_, counts) = bench.wrapped(&format!("{main} && {depend}"));
    assert_eq!((counts.hits, counts.misses), (2, 0), "{counts:?}");
    // The same crate with other code and the same interface: `b` is as it was, and is not asked for.
    bench.desk.write("a.rs", "pub fn a() -> i32 { 2 }\n");
    let (_, counts) = bench.wrapped(&lib("a", ""));
    assert_eq!((counts.hits, counts.misses), (0, 1), "{counts:?}");
    let both = |prefix: &str| {
        let ran = bench.desk.sh(&bench.line(&main.replace("$B", prefix)));
        (ran.status, ran.err())
    };
    assert_eq!(both("$B"), both("env"), "what rustc itself says of it");
    // A library from before is not known, and neither is what it depends on.
    bench.desk.sh(&bench.line(&lib("a", "-C opt-level=1").replace("$B ", ""))).ok();
    let (_, counts) = bench.wrapped(&depend);
    assert_eq!(counts.reasons, [("unknown-crate".to_owned(), 1)].into(), "{counts:?}");
}

/// A directory that takes another's place while rustc runs holds files as old as any, which rustc has not read.
#[test]
fn a_directory_that_is_swapped_during_a_compile_is_noticed() {
    let bench = Bench::new();
    bench.desk.lay(&[
        (
            "swap.rs",
            r#"
extern crate proc_macro;
#[proc_macro]
pub fn swap(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    if std::fs::rename("src/next", "src/kept").is_ok() {
        std::fs::rename("src/part", "src/last").unwrap();
        std::fs::rename("src/kept", "src/part").unwrap();
    }
    Default::default()
}
"#,
        ),
        ("src/main.rs", "mod part;\nfn main() { println!(\"{}\", part::SAYS); }\n"),
        ("src/part/mod.rs", "swap::swap!();\npub const SAYS: &str = \"old\";\n"),
        ("src/next/mod.rs", "swap::swap!();\npub const SAYS: &str = \"new\";\n"),
        ("o/keep", ""),
        // What is in the package is watched otherwise.
        ("package/keep", ""),
    ]);
    let rustc = "$B rustc --emit=dep-info,link --out-dir o --edition=2021";
    bench.wrapped(&format!("{rustc} --crate-name swap --crate-type proc-macro swap.rs"));
    let main = format!(
        "CARGO_MANIFEST_DIR=$PWD/package {rustc} --crate-name main --crate-type bin --extern swap=o/libswap.so src/main.rs && o/main"
    );
    for (expect, hits) in [("old", 0), ("new", 0), ("new", 1)] {
        let (ran, counts) = bench.wrapped(&main);
        assert_eq!((ran.out().trim(), counts.hits, counts.local), (expect, hits, 0), "{counts:?}");
    }
}

/// Messages come in order while rustc still works, and again from the store.
#[test]
fn messages_are_those_of_rustc() {
    let bench = Bench::new();
    bench.desk.lay(&[("x.rs", "pub fn f() { let unused = 1; }\n"), ("o/keep", "")]);
    let line = "rustc --crate-name x --crate-type lib --emit=dep-info,metadata,link --out-dir o x.rs --error-format=json \
        --json=artifacts,diagnostic-rendered-ansi";
    let plain = bench.desk.plain(&bench.line(line)).ok();
    let (first, _) = bench.wrapped(&format!("$B {line}"));
    let (second, counts) = bench.wrapped(&format!("$B {line} --diagnostic-width=140"));
    assert_eq!((&first.stderr, &first.stdout), (&plain.stderr, &plain.stdout));
    assert_eq!(counts.misses, 1, "a message was laid out for another width");
    let (third, counts) = bench.wrapped(&format!("$B {line}"));
    assert_eq!((counts.hits, &third.stderr), (1, &plain.stderr));
    assert!(second.err().contains("unused"));
    // Without messages the width is of no account.
    bench.desk.write("x.rs", "pub fn f() {}\n");
    bench.wrapped(&format!("$B {line}"));
    let (_, counts) = bench.wrapped(&format!("$B {line} --diagnostic-width=140"));
    assert_eq!(counts.hits, 1, "{counts:?}");
}

/// The descriptors of a jobserver reach the rustc that the wrapper runs.
#[test]
fn the_jobserver_is_inherited() {
    let bench = Bench::new();
    bench.desk.write("Makefile", "all:\n\t+@cargo build -q --release\n");
    let (ran, counts) = bench.wrapped("make -j2 2>&1");
    assert!(!ran.out().contains("jobserver"), "{}", ran.out());
    assert_eq!((counts.local, counts.failed), (0, 0), "{counts:?}");
}

/// What a call comes to.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// Kept, and served the second time.
    Kept,
    /// Left to rustc, for this reason.
    Local(&'static str),
    /// Refused by rustc.
    Failed,
    /// No compile.
    Other,
}

impl Is {
    fn counts(self, is_first: bool) -> Counts {
        let call = Counts { total: 1, ..Counts::default() };
        let compile = Counts { cache_only: 1, ..call.clone() };
        match self {
            Self::Kept if is_first => Counts { misses: 1, ran: 1, ..compile },
            Self::Kept => Counts { hits: 1, ..compile },
            Self::Failed => Counts { misses: 1, failed: 1, ..compile },
            Self::Local(why) => Counts { local: 1, reasons: [(why.to_owned(), 1)].into(), ..call },
            Self::Other => Counts { other: 1, ..call },
        }
    }
}

/// Single calls, each as rustc alone does it, then twice with barn: the same status, words, files and modes.
fn check(tree: Tree<'_>, cases: &[(&str, Is)]) {
    let bench = Bench::new();
    for (line, is) in cases {
        let line = bench.line(line);
        bench.desk.lay(tree);
        let plain = (bench.desk.plain(&line), snapshot(&bench.desk.at("")));
        for is_first in [true, false] {
            bench.desk.lay(tree);
            let (ran, counts) = bench.desk.counted(&line);
            assert_eq!(
                (ran.status, ran.out(), ran.err()),
                (plain.0.status, plain.0.out(), plain.0.err()),
                "{line}"
            );
            let names = |files: &BTreeMap<PathBuf, (u32, Vec<u8>)>| {
                files.iter().map(|(path, (mode, _))| (path.clone(), *mode)).collect::<Vec<_>>()
            };
            let files = snapshot(&bench.desk.at(""));
            assert_eq!(names(&files), names(&plain.1), "{line}");
            for (path, file) in &files {
                assert!(plain.1[path] == *file, "{line}: {} differs", path.display());
            }
            assert_eq!(counts, is.counts(is_first), "{line}: {}", bench.desk.barn(&["explain"]).out());
        }
        bench.desk.barn(&["cache", "clear"]).ok();
    }
}

const SINGLE: Tree<'static> = &[
    ("x.rs", "#[no_mangle]\npub extern \"C\" fn f() -> u32 { line!() }\npub fn g() { panic!(\"here\") }\n"),
    ("main.rs", "fn main() { let unused = 1; println!(\"{}\", file!()); }\n#[test] fn t() {}\n"),
    (
        "mac.rs",
        "extern crate proc_macro;\n#[proc_macro] pub fn m(t: proc_macro::TokenStream) -> proc_macro::TokenStream { t }\n",
    ),
    ("bad.rs", "fn main() { let x: u32 = \"\"; }\n"),
    ("args", "--cfg\nfeature=\"a b\"\n"),
    ("target.json", "{}"),
    ("with blank/x y.rs", "pub fn f() {}\n"),
    ("n/libz.a", "!<arch>\n"),
    ("script", "#!/bin/sh\nexec cc \"$@\"\n"),
    ("o/keep", ""),
];

/// Every kind of crate, and what its options do to it.
#[test]
fn kinds_of_crates() {
    let lib =
        "$B rustc --crate-name x --emit=dep-info,metadata,link --out-dir o x.rs -C metadata=1 --crate-type";
    let bin = "$B rustc --crate-name main --emit=dep-info,link --out-dir o main.rs";
    let case = |prefix: &str, rest: &str, is| (format!("{prefix} {rest}"), is);
    let cases = [
        case(lib, "lib", Is::Kept),
        case(lib, "rlib -C extra-filename=-abc", Is::Kept),
        case(lib, "staticlib", Is::Kept),
        case(lib, "cdylib", Is::Kept),
        case(lib, "dylib -C prefer-dynamic", Is::Kept),
        case(lib, "rlib --crate-type cdylib --crate-type staticlib", Is::Kept),
        case(lib, "lib -g --remap-path-prefix=$PWD=/src", Is::Kept),
        case(lib, "lib -O -C lto=off -C codegen-units=1 @args", Is::Kept),
        case(lib, "lib -L native=n -l static=z", Is::Kept),
        case(lib, "lib -C target-cpu=native", Is::Local("native-cpu")),
        case(lib, "lib -Z threads=2", Is::Local("unstable-flag")),
        case(lib, "lib --target target.json", Is::Failed),
        case(bin, "--crate-type bin", Is::Kept),
        case(bin, "--crate-type bin -g -C split-debuginfo=off", Is::Kept),
        case(
            bin,
            "--crate-type bin -C split-debuginfo=unpacked -g -C codegen-units=1",
            Is::Local("extra-output-file"),
        ),
        case(bin, "--crate-type bin -C link-arg=-s -C link-arg=-Wl,-z,now -C rpath", Is::Kept),
        case(bin, "--crate-type bin -C link-arg=-Wl,-Map,o/map", Is::Local("linker-argument")),
        case(bin, "--crate-type bin -C linker=clang", Is::Kept),
        case(bin, "--crate-type bin -C linker=./script", Is::Local("linker")),
        case(bin, "--crate-type bin -o o/x", Is::Local("crate-outputs")),
        case(bin, "--test --crate-type bin", Is::Kept),
        case(bin, "--crate-type bin -D warnings", Is::Failed),
        case(
            "$B rustc --crate-name mac --emit=dep-info,link --out-dir o mac.rs",
            "--crate-type proc-macro",
            Is::Kept,
        ),
        case(
            "$B rustc --crate-name bad --emit=dep-info,link --out-dir o bad.rs",
            "--crate-type bin",
            Is::Failed,
        ),
        case(
            "$B rustc --crate-name none --emit=dep-info,link --out-dir o none.rs",
            "--crate-type bin",
            Is::Local("source"),
        ),
        case(
            "$B rustc --crate-name xy --emit=dep-info,metadata --out-dir 'with blank' 'with blank/x y.rs'",
            "--crate-type lib",
            Is::Kept,
        ),
        case(
            "$B rustc --crate-name x --emit=metadata --out-dir o x.rs",
            "--crate-type lib",
            Is::Local("no-dependency-list"),
        ),
        case("$B rustc", "x.rs --crate-type lib", Is::Local("crate-outputs")),
        case("$B rustc", "-C help", Is::Other),
        case(
            "$B rustc",
            "--emit=dep-info,metadata --crate-name x --crate-type lib - <x.rs",
            Is::Local("standard-input"),
        ),
        case(
            "PATH=$M:$PATH rustc --crate-name x --emit=dep-info,metadata --out-dir o x.rs",
            "--crate-type lib",
            Is::Kept,
        ),
    ];
    let cases: Vec<_> = cases.iter().map(|(line, is)| (line.as_str(), *is)).collect();
    check(SINGLE, &cases);
}

/// What is no Rust compiler of a known form passes through unchanged.
#[test]
fn strange_rustcs_are_left_alone() {
    let tree: Tree<'_> = &[
        ("x.rs", "pub fn x() { let unused = 1; }\n"),
        ("bin/rustc", "#!/bin/sh\necho \"rustc $*\"; echo warning >&2; touch libx.rlib; exit 3\n"),
    ];
    let known = "--crate-name x --crate-type lib --emit=dep-info,metadata x.rs";
    check(
        tree,
        &[
            ("$B bin/rustc --crate-type lib x.rs", Is::Local("crate-outputs")),
            (&format!("$B bin/rustc {known}"), Is::Local("rust-compiler")),
            ("PATH=$M:$PWD/bin:$PATH; export PATH; rustc --crate-type lib x.rs", Is::Local("crate-outputs")),
            ("PATH=$PWD/bin:$PATH; export PATH; $B rustc - < x.rs", Is::Local("standard-input")),
        ],
    );
}

/// `barn run` leads a whole build to barn, what build scripts compile by `cc` or by a variable too.
#[test]
fn a_whole_build_goes_through_barn() {
    let bench = Bench::new();
    let run = |settings: &str| {
        let (ran, counts) = bench.desk.counted(&bench.line(&format!(
            "cargo clean -q; {settings} $B run -- cargo build -q -p app 2>err; status=$?; cat err >&2; target/debug/app && exit $status"
        )));
        let ran = ran.ok();
        assert_eq!(ran.out().trim(), "gen1 select1 text1 None 7 part1 1 secret1 1 2", "{}", ran.err());
        (ran.err(), counts)
    };
    // Five crates and one file of C.
    let (said, counts) = run("");
    assert_eq!((counts.hits, counts.misses, counts.local), (0, 6, 0), "{counts:?}");
    assert!(!said.contains("barn:"), "{said}");
    let (_, counts) = run("");
    assert_eq!((counts.hits, counts.misses, counts.local), (6, 0, 0), "{counts:?}");
    // The compiler that the user names by path goes through barn under that name.
    let script = std::fs::read_to_string(bench.desk.at("app/build.rs")).unwrap();
    let by_variable = "let cc = env::var(\"CC\").unwrap(); let mut cc = cc.split_whitespace(); \
        done(Command::new(cc.next().unwrap()).args(cc).args";
    bench.desk.write("app/build.rs", &script.replace("done(Command::new(\"cc\").args", by_variable));
    let (_, counts) = run("CC=/usr/bin/cc");
    assert_eq!((counts.hits, counts.misses, counts.local), (4, 2, 0), "the script and the C: {counts:?}");
    let (_, counts) = run("CC=/usr/bin/cc");
    assert_eq!((counts.hits, counts.misses), (6, 0), "{counts:?}");
    // Another wrapper of the user's stays.
    bench.desk.write("other", "#!/bin/sh\nexec \"$@\"\n");
    bench.desk.sh("chmod +x other").ok();
    let (said, counts) = run("CC=cc RUSTC_WRAPPER=$PWD/other");
    assert!(said.contains("RUSTC_WRAPPER is "), "{said}");
    assert_eq!((counts.hits + counts.misses, counts.local), (1, 0), "the C alone: {counts:?}");
    let ran = bench.desk.sh("$B run -- no/such/program");
    assert_eq!((ran.status, ran.out().as_str()), (127, ""), "{}", ran.err());
}

/// So little memory, in KiB, that rustc cannot even be loaded.
const TOO_LITTLE: &str = "ulimit -v 65536";

/// What cargo and build scripts ask of the compiler is answered without it.
#[test]
fn questions_are_answered_from_memory() {
    let bench = Bench::new();
    let cargos = "rustc - --crate-name ___ --print=file-names --crate-type bin --crate-type proc-macro --print=sysroot \
        --print=split-debuginfo --print=crate-name --print=cfg -Wwarnings";
    for question in ["rustc -vV", "rustc --version", "rustc --print cfg -C target-cpu=native", cargos] {
        let plain = bench.desk.plain(&bench.line(question)).ok();
        let first = bench.desk.sh(&bench.line(&format!("$B {question}"))).ok();
        assert_eq!((first.out(), first.err()), (plain.out(), plain.err()), "{question}");
        let again = bench.desk.sh(&bench.line(&format!("{TOO_LITTLE}; $B {question}"))).ok();
        assert_eq!((again.out(), again.err()), (plain.out(), plain.err()), "{question}");
        let without = bench.desk.sh(&bench.line(&format!("{TOO_LITTLE}; {question}")));
        assert_ne!(without.status, 0, "rustc can be run with so little memory");
    }
    // What comes from elsewhere is asked for every time.
    let line = "echo '#![crate_name = \"one\"]' | $B rustc - --print crate-name";
    assert_eq!(bench.desk.sh(&bench.line(line)).out().trim(), "one");
    assert_eq!(bench.desk.sh(&bench.line(&line.replace("one", "two"))).out().trim(), "two");
}

/// A clean build that is served starts no process of rustc.
#[test]
fn a_served_build_runs_no_rustc() {
    let bench = Bench::new();
    bench.lay_starving_wrapper();
    let build = "RUSTC_WRAPPER=$PWD/wrapper cargo build -q";
    bench.cleaned("cargo build -q");
    let (_, counts) = bench.cleaned(build);
    assert_eq!((counts.hits, counts.misses, counts.local), (5, 0, 0), "{counts:?}");
    bench.desk.barn(&["cache", "clear"]).ok();
    let ran = bench.desk.sh(&bench.line(&format!("cargo clean -q && {build}")));
    assert_ne!(ran.status, 0, "rustc can be run with so little memory");
}

/// cargo's own view of what is fresh holds for what was served, and what is edited is built from there.
#[test]
fn cargo_finds_what_was_served_fresh() {
    let bench = Bench::new();
    bench.cleaned("cargo build -q");
    let (_, counts) = bench.cleaned("cargo build -q");
    assert_eq!((counts.hits, counts.misses), (5, 0), "{counts:?}");
    let (ran, counts) = bench.wrapped("cargo build -v 2>&1 | grep -c Fresh");
    assert_eq!((ran.out().trim(), counts.hits + counts.misses + counts.local), ("4", 0), "{counts:?}");
    // An edit, undone without cleaning: the outputs have a second name by now.
    let part = std::fs::read_to_string(bench.desk.at("app/src/part.rs")).unwrap();
    bench.lay_starving_wrapper();
    for (word, wrapper) in [("part2", "$B"), ("part1", "$PWD/wrapper"), ("part2", "$PWD/wrapper")] {
        bench.desk.write("app/src/part.rs", &part.replace("part1", word));
        let (ran, _) = bench.wrapped(&format!("RUSTC_WRAPPER={wrapper} cargo build -q && target/debug/app"));
        assert!(ran.out().contains(word), "{}", ran.out());
    }
    // A build script is run again for what it named, and not for anything else.
    bench.desk.write("app/gen.txt", "gen3");
    let (ran, counts) = bench.wrapped("cargo build -q && target/debug/app");
    assert!(ran.out().starts_with("gen3"), "{}", ran.out());
    assert_eq!(counts.misses, 1, "{counts:?}");
}

/// The user's incremental state is used by what is compiled here, and left alone by what is served.
#[test]
fn incremental_state_is_the_users() {
    let bench = Bench::new();
    bench.cleaned("cargo build -q");
    let (_, counts) = bench.cleaned("cargo build -q");
    assert_eq!(counts.misses, 0, "{counts:?}");
    assert!(!bench.desk.at("target/debug/incremental").join("app").exists());
    bench.desk.write("app/src/part.rs", "pub fn part() -> &'static str { \"part3\" }\n");
    let (ran, _) =
        bench.wrapped("cargo build -q && target/debug/app && ls -d target/debug/incremental/app-*/s-*");
    assert!(ran.out().contains("part3") && ran.out().contains("/s-"), "{}", ran.out());
}

/// A linker that is replaced is another one.
#[test]
fn a_changed_linker_is_noticed() {
    let bench = Bench::new();
    bench.desk.lay(SINGLE);
    let link = |cc: &str| bench.desk.sh(&format!("mkdir -p bin && ln -sf /usr/bin/{cc} bin/cc")).ok();
    let counts = |kind: &str| {
        let (_, counts) = bench.wrapped(&format!(
            "PATH=$PWD/bin:$PATH $B rustc --crate-name main --emit=dep-info,link --out-dir o main.rs -Awarnings \
             --crate-type {kind}"
        ));
        (counts.hits, counts.misses)
    };
    link("gcc");
    assert_eq!((counts("bin"), counts("bin")), ((0, 1), (1, 0)));
    assert_eq!((counts("lib"), counts("lib")), ((0, 1), (1, 0)));
    link("clang");
    assert_eq!(counts("bin"), (0, 1));
    // A crate that is not linked does not ask for it.
    assert_eq!(counts("lib"), (1, 0));
}

/// Crates as they come from a registry, and two checkouts of one program that uses them.
const PUBLISHED: Tree<'static> = &[
    ("vendor/deep/Cargo.toml", "[package]\nname = \"deep\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"),
    (
        "vendor/deep/src/lib.rs",
        "pub fn deep() -> &'static str { file!() }\npub fn fail() { panic!(\"deep down\") }\n",
    ),
    ("vendor/deep/.cargo-checksum.json", "{\"files\":{}}"),
    ("vendor/native/Cargo.toml", "[package]\nname = \"native\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"),
    (
        "vendor/native/build.rs",
        r#"
use std::{env, process::Command};
fn main() {
    println!("cargo:rerun-if-env-changed=WHO");
    let out = env::var("OUT_DIR").unwrap();
    let who = format!("-DWHO={}", env::var("WHO").unwrap_or("1".into()));
    let done = |command: &mut Command| assert!(command.status().unwrap().success());
    done(Command::new("cc").args(["-c", "native.c", &who, "-o", &format!("{out}/native.o")]));
    done(Command::new("ar").args(["crsD", &format!("{out}/libnative.a"), &format!("{out}/native.o")]));
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static=native");
}
"#,
    ),
    ("vendor/native/native.c", "int native(void) { return WHO; }\n"),
    (
        "vendor/native/src/lib.rs",
        "extern \"C\" { fn native() -> i32; }\npub fn who() -> i32 { unsafe { native() } }\n",
    ),
    ("vendor/native/.cargo-checksum.json", "{\"files\":{}}"),
    (
        "vendor/generated/Cargo.toml",
        "[package]\nname = \"generated\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
    ),
    (
        "vendor/generated/build.rs",
        r#"
fn main() {
    println!("cargo:rerun-if-env-changed=TEXT");
    let out = std::env::var("OUT_DIR").unwrap();
    let text = std::env::var("TEXT").unwrap_or("text".into());
    std::fs::write(format!("{out}/gen.rs"), format!("pub fn text() -> &'static str {{ {text:?} }}")).unwrap();
}
"#,
    ),
    ("vendor/generated/src/lib.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/gen.rs\"));\n"),
    ("vendor/generated/.cargo-checksum.json", "{\"files\":{}}"),
    (
        "vendor/mac/Cargo.toml",
        "[package]\nname = \"mac\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
    ),
    (
        "vendor/mac/src/lib.rs",
        r#"
use proc_macro::TokenStream;
#[proc_macro] pub fn seven(_: TokenStream) -> TokenStream { "7".parse().unwrap() }
#[proc_macro] pub fn directory(_: TokenStream) -> TokenStream {
    format!("{:?}", std::env::var("OUT_DIR").unwrap()).parse().unwrap()
}
"#,
    ),
    ("vendor/mac/.cargo-checksum.json", "{\"files\":{}}"),
    (
        "vendor/quiet/Cargo.toml",
        "[package]\nname = \"quiet\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\nmac = \"1\"\ndeep = \"1\"\n",
    ),
    ("vendor/quiet/src/lib.rs", "pub fn seven() -> i32 { let unused = 1; deep::deep(); mac::seven!() }\n"),
    ("vendor/quiet/.cargo-checksum.json", "{\"files\":{}}"),
    (
        "vendor/telling/Cargo.toml",
        "[package]\nname = \"telling\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\nmac = \"1\"\n",
    ),
    ("vendor/telling/build.rs", "fn main() {}\n"),
    ("vendor/telling/src/lib.rs", "pub fn directory() -> &'static str { mac::directory!() }\n"),
    ("vendor/telling/.cargo-checksum.json", "{\"files\":{}}"),
];

const PROGRAM: Tree<'static> = &[
    (
        "Cargo.toml",
        "[package]\nname = \"program\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\ndeep = \"1\"\n\
         native = \"1\"\ngenerated = \"1\"\nquiet = \"1\"\ntelling = \"1\"\n",
    ),
    (
        "src/main.rs",
        r#"
fn main() {
    println!("{} {} {} {}", native::who(), generated::text(), quiet::seven(), telling::directory());
    deep::fail();
}
"#,
    ),
];

/// Published crates, and a program in `one` and in `two/deeper`.
fn checkouts() -> Bench {
    let bench = Bench::new();
    let program = |place: &str| {
        PROGRAM.iter().map(move |(path, text)| (format!("{place}/{path}"), *text)).collect::<Vec<_>>()
    };
    let (one, two) = (program("one"), program("two/deeper"));
    let settings = format!(
        "[source.crates-io]\nreplace-with = \"all\"\n[source.all]\ndirectory = {:?}\n",
        bench.desk.at("vendor")
    );
    let mut tree = PUBLISHED.to_vec();
    tree.extend(one.iter().chain(&two).map(|(path, text)| (path.as_str(), *text)));
    tree.push((".cargo/config.toml", &settings));
    bench.desk.lay(&tree);
    bench
}

/// What crates of a registry are made into for one checkout is served in another, unless it shows the checkout, and is what rustc
/// would have made there.
#[test]
fn published_crates_are_served_in_another_checkout() {
    let bench = checkouts();
    let sums = "cd two/deeper/target && find . -type f ! -path '*/.fingerprint/*' ! -path '*/incremental/*' ! -name '*.json' \
        ! -name invoked.timestamp | sort | xargs sha256sum";
    for build in
        ["cargo build -q", "cargo build -q --release", "cargo build -q --target x86_64-unknown-linux-gnu"]
    {
        let build = format!("CARGO_INCREMENTAL=0 {build}");
        bench.desk.plain(&bench.line(&format!("cd two/deeper; {build}"))).ok();
        let plain = bench.desk.plain(sums).ok().out();
        bench.desk.sh("rm -rf two/deeper/target").ok();
        let (_, counts) = bench.wrapped(&format!("cd one; {build}"));
        assert_eq!((counts.hits, counts.local), (0, 0), "{counts:?}");
        // Generated code, what a macro makes of the directory, and the program itself.
        let (_, counts) = bench.wrapped(&format!("cd two/deeper; HOME=/nonexistent {build}"));
        assert_eq!((counts.hits, counts.misses, counts.local), (7, 3, 0), "{build}: {counts:?}");
        assert_eq!(bench.desk.plain(sums).out(), plain, "{build}");
        let ran = bench.desk.sh("$(find two/deeper/target -name program -type f -perm -100 | head -n 1)");
        assert!(
            ran.out().starts_with("1 text 7 ") && ran.out().contains("/two/deeper/target/"),
            "{}",
            ran.out()
        );
        assert!(ran.err().contains("vendor/deep/src/lib.rs:2"), "{}", ran.err());
        // What was served is this checkout's own from then on.
        let (_, counts) = bench.wrapped(&format!("cd two/deeper; rm -rf target; {build}"));
        assert_eq!((counts.hits, counts.misses), (10, 0), "{build}: {counts:?}");
        bench.desk.sh("rm -rf one/target two/deeper/target").ok();
        bench.desk.barn(&["cache", "clear"]).ok();
    }
}

/// Under the same names and with the same sources, two checkouts do not share what differs.
#[test]
fn what_differs_between_checkouts_is_not_shared() {
    let bench = checkouts();
    let build = |place: &str, settings: &str| {
        let (ran, counts) = bench.wrapped(&format!(
            "cd {place}; {settings} cargo build -q; target/debug/program 2>/dev/null || true"
        ));
        (ran.out(), counts.misses)
    };
    assert_eq!(build("one", "").1, 10);
    let (said, compiled) = build("two/deeper", "WHO=2");
    assert!(said.starts_with("2 text 7 ") && said.contains("/two/deeper/"), "{said}");
    assert_eq!(compiled, 4, "the library with other native code");
    let (said, compiled) = build("two/deeper", "TEXT=other");
    assert!(said.starts_with("1 other 7 "), "{said}");
    assert_eq!(compiled, 2);
    // A directory that is reached through a link has two names, and only one is searched for.
    bench.desk.barn(&["cache", "clear"]).ok();
    bench.desk.sh("mkdir real && ln -s real link && rm -rf two/deeper/target").ok();
    let (_, counts) =
        bench.wrapped("CARGO_TARGET_DIR=$PWD/link; export CARGO_TARGET_DIR; cd one; cargo build -q");
    assert_eq!(counts.misses, 10, "{counts:?}");
    assert_eq!(build("two/deeper", "").1, 10);
}
