//! Rust through cargo: `RUSTC_WRAPPER=barn`, with the real cargo and rustc.
//!
//! One workspace without dependencies from elsewhere holds all that makes caching hard: a build script that generates code and a
//! native library, a procedural macro that reads a file and a variable, a library that is made into four kinds, and `env!`,
//! `option_env!`, `include_str!`.

use std::{path::PathBuf, process::Command};

use barn_tests::{Counts, Desk, Ran, Tree};

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
    println!("cargo:rerun-if-changed=native.c");
    let out = env::var("OUT_DIR").unwrap();
    let text = fs::read_to_string("gen.txt").unwrap();
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
    ("app/native.c", "int native(void) { return 1; }\n"),
    ("app/query.sql", "select1"),
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
        "{GENERATED} {} {} {:?} {} {} {}",
        mac::query!(), include_str!("text.txt"), option_env!("WHO"), many::many(), part::part(), unsafe { native() },
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
    assert_eq!(bench.desk.sh("target/debug/app").out().trim(), "gen1 select1 text1 None 7 part1 1");
}

#[test]
fn other_ways_to_build_are_served_too() {
    let bench = Bench::new();
    bench.twice("cargo check -q");
    bench.twice("cargo test -q");
    bench.twice("cargo build -q --release");
    bench.twice("CARGO_INCREMENTAL=0 cargo build -q -p many");
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
    assert_eq!(bench.says(""), ("gen1 select1 text1 None 7 part1 1".to_owned(), 5));
    let check = |path: &str, contents: &str, expect: &str| {
        let before = std::fs::read_to_string(bench.desk.at(path)).unwrap();
        bench.desk.write(path, contents);
        let (said, compiled) = bench.says("");
        assert_eq!(said, expect, "{path}");
        assert!(compiled > 0, "{path}");
        bench.desk.write(path, &before);
        assert_eq!(bench.says(""), ("gen1 select1 text1 None 7 part1 1".to_owned(), 0), "{path} as before");
    };
    check(
        "app/src/part.rs",
        "pub fn part() -> &'static str { \"part2\" }\n",
        "gen1 select1 text1 None 7 part2 1",
    );
    check("app/src/text.txt", "text2", "gen1 select1 text2 None 7 part1 1");
    // Generated code, under the same name.
    check("app/gen.txt", "gen2", "gen2 select1 text1 None 7 part1 1");
    // A native library, under the same name.
    check("app/native.c", "int native(void) { return 2; }\n", "gen1 select1 text1 None 7 part1 2");
    // What a macro reads without saying so.
    check("app/query.sql", "select2", "gen1 select2 text1 None 7 part1 1");
    // A crate behind a crate.
    check("deep/src/lib.rs", "pub fn deep() -> i32 { 8 }\n", "gen1 select1 text1 None 8 part1 1");
    let (said, compiled) = bench.says("WHO=me");
    assert_eq!((said.as_str(), compiled), ("gen1 select1 text1 Some(\"me\") 7 part1 1", 1));
    let (said, compiled) = bench.says("WHO=you");
    assert_eq!((said.as_str(), compiled), ("gen1 select1 text1 Some(\"you\") 7 part1 1", 1));
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
