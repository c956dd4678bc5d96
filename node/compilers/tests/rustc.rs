//! Command lines of rustc and what becomes of them; the predictions held against the rustc of this machine.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "runs the real compiler on real files"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use barn_compilers::rustc::{CrateKind, RustFile, RustOutput, SearchKind};
use barn_compilers::{Environment, Family, Invocation, Request, RustCompile, classify, parse_dep_info};

const BASE: &str = "--crate-name x --emit=dep-info,metadata,link --crate-type lib x.rs";

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn run(line: &str, env: &Environment, terminal: bool) -> Invocation {
    let args = words(line);
    let (program, args) = args.split_first().expect("a program");
    let request = Request {
        family: Family::Rustc,
        program_name: program,
        args,
        env,
        cwd: b"/work",
        pwd_names_cwd: true,
        stderr_is_terminal: terminal,
    };
    let files = |path: &[u8]| (path == b"args").then(|| b"--cfg\nfeature=\"a b\"\n".to_vec());
    classify(&request, &files)
}

fn verdict(invocation: &Invocation) -> String {
    match invocation {
        Invocation::Rust(_) => "ok".to_owned(),
        Invocation::RustQuestion(question) if question.reads_stdin => "question on a source".to_owned(),
        Invocation::RustQuestion(_) => "question".to_owned(),
        Invocation::Local(reason) => format!("local {}", reason.kind.name()),
        Invocation::Other(kind) => format!("other {}", kind.name()),
        other => panic!("{other:?} is no Rust"),
    }
}

#[track_caller]
fn compile(line: &str) -> RustCompile {
    match run(line, &BTreeMap::new(), false) {
        Invocation::Rust(compile) => *compile,
        other => panic!("{line}: {other:?}"),
    }
}

/// Checks what becomes of [`BASE`] with these arguments behind it.
fn check(cases: &[(&str, &str)]) {
    for (more, expect) in cases {
        let line = format!("rustc {BASE} {more}");
        assert_eq!(verdict(&run(&line, &BTreeMap::new(), false)), *expect, "{line}");
    }
}

#[test]
fn options() {
    check(&[
        ("", "ok"),
        ("--edition=2021 --error-format=json --json=artifacts --cap-lints allow -Awarnings -g", "ok"),
        ("-C opt-level=3 -Cpanic=abort --codegen lto=thin -C debug_assertions=off -C incremental=/x", "ok"),
        ("--extern a=liba.rmeta --extern priv,noprelude:b=libb.rlib --extern proc_macro", "ok"),
        ("-L dependency=d -L native=n -Lall=a -l static=z -lz --remap-path-prefix=/a=/b", "ok"),
        (
            "-C profile-use=p.profdata -C target-cpu=x86-64-v3 -C linker-plugin-lto -C split-debuginfo=off",
            "ok",
        ),
        ("@args", "ok"),
        ("@missing", "local response-file"),
        ("--brand-new", "local unknown-flag"),
        ("-C brand-new=1", "local unknown-flag"),
        ("-C", "local malformed-arguments"),
        ("-Z threads=2", "local unstable-flag"),
        ("--sysroot /x", "local other-sysroot"),
        ("-o y", "local crate-outputs"),
        ("--extern serde", "local crate-search"),
        ("-C target-cpu=native", "local native-cpu"),
        ("-C save-temps", "local save-temps"),
        ("-C llvm-args=-x", "local pass-through"),
        ("-C linker-plugin-lto=/x.so", "local pass-through"),
        ("-C split-debuginfo=packed", "local extra-output-file"),
        ("--emit=asm", "local extra-output-file"),
        ("--emit=dep-info=-", "local special-output"),
        ("y.rs", "local multiple-sources"),
        ("-v", "local verbose"),
        ("--print cfg", "other query"),
        ("-vV", "other query"),
        ("-L crate=d", "local crate-search"),
        ("-l static:+verbatim=z.lib", "ok"),
    ]);
}

/// What is asked of the compiler and depends on its files and the arguments alone.
#[test]
fn questions() {
    for (line, expect) in [
        ("rustc -vV", "question"),
        ("rustc --version --verbose", "question"),
        ("rustc --print cfg --target wasm32-unknown-unknown -C target-cpu=native", "question"),
        ("rustc - --crate-name ___ --print=file-names --crate-type bin --print=cfg", "question on a source"),
        ("clippy-driver rustc -vV", "question"),
        ("rustc --print native-static-libs x.rs", "other query"),
        ("rustc --print cfg --print link-args", "other query"),
        ("rustc --print cfg=out.txt", "other query"),
        ("rustc --print cfg --target x.json", "other query"),
        ("rustc --print cfg --sysroot /x", "other query"),
        ("rustc --print cfg -Z unstable-options", "other query"),
        ("rustc --print crate-name x.rs", "other query"),
        ("rustc -C help", "other query"),
        ("rustc --explain E0001", "other query"),
    ] {
        assert_eq!(verdict(&run(line, &BTreeMap::new(), false)), expect, "{line}");
    }
    let env = |name: &str| [(name.as_bytes().to_vec(), b"x".to_vec())].into();
    assert_eq!(verdict(&run("rustc -vV", &env("RUSTC_FORCE_RUSTC_VERSION"), false)), "other query");
    let Invocation::RustQuestion(question) = run("rustc -vV", &env("CARGO_PKG_NAME"), false) else {
        panic!()
    };
    assert!(question.env.is_empty());
}

#[test]
fn forms() {
    for (line, expect) in [
        ("rustdoc --crate-name x x.rs", "other document"),
        ("rustc --edition=2021", "other no-input"),
        ("rustc x.rs", "local crate-outputs"),
        ("rustc --crate-name x x.rs --emit=dep-info,link", "local crate-outputs"),
        ("rustc --crate-name x --crate-type lib x.rs", "local no-dependency-list"),
        ("rustc --crate-name x --crate-type lib --emit dep-info,link -", "local standard-input"),
        ("clippy-driver rustc --crate-name x --crate-type lib --emit=dep-info,metadata x.rs", "ok"),
        ("clippy-driver /a/rustc --crate-name x --crate-type lib --emit=dep-info,metadata x.rs", "ok"),
        ("clippy-driver --crate-name x --crate-type lib --emit=dep-info,metadata x.rs", "ok"),
    ] {
        assert_eq!(verdict(&run(line, &BTreeMap::new(), false)), expect, "{line}");
    }
}

#[test]
fn linkers() {
    let check = |more: &str, expect: Result<&str, &str>| {
        let line = format!("rustc --crate-name x --crate-type bin --emit=dep-info,link x.rs {more}");
        let found = match run(&line, &BTreeMap::new(), false) {
            Invocation::Rust(compile) => Ok(String::from_utf8(compile.linker.unwrap().program).unwrap()),
            Invocation::Local(reason) => Err(reason.kind.name()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found.as_deref().map_err(|name| *name), expect, "{line}");
    };
    check("", Ok("cc"));
    check("-C linker=clang -C link-arg=-fuse-ld=lld -C link-arg=-s", Ok("clang"));
    check("--target x86_64-unknown-linux-gnu", Ok("cc"));
    check("--target wasm32-unknown-unknown", Err("linker"));
    check("--target wasm32-unknown-unknown -C linker=/opt/cc", Ok("/opt/cc"));
    check("-C linker-flavor=ld", Err("linker"));
    check("-C link-arg=-Tx.ld", Err("linker-argument"));
    let given = compile(
        "rustc --crate-name x --crate-type bin --emit=dep-info,link x.rs -Clink-arg=-fuse-ld=gold -Clink-arg=-Ldir",
    );
    let linker = given.linker.unwrap();
    assert_eq!((linker.uses, linker.directories), (vec![b"ld.gold".to_vec()], vec![b"dir".to_vec()]));
    // No linker runs, so it does not matter that none is known.
    compile(
        "rustc --crate-name x --crate-type bin --emit=dep-info,metadata x.rs --target wasm32-unknown-unknown",
    );
}

#[test]
fn what_belongs_to_the_key() {
    let plain = compile(&format!("rustc {BASE} -C incremental=/one --color always --diagnostic-width=80"));
    let other = compile(&format!("rustc {BASE} -Cincremental=/two --diagnostic-width 90"));
    assert_eq!(plain.key_args, other.key_args);
    assert_ne!(plain.presentation, other.presentation);
    assert_ne!(plain.key_args, compile(&format!("rustc {BASE}")).key_args);
    let clippy = compile("clippy-driver rustc --crate-name x --crate-type lib --emit=dep-info,metadata x.rs");
    assert_eq!(clippy.key_args[0], b"rustc");
}

#[test]
fn crates_and_directories() {
    let found = compile(&format!(
        "rustc {BASE} --extern a=d/liba.rmeta -L dependency=d -L native=n -L e --target t.json"
    ));
    assert_eq!((found.externs.len(), found.externs[0].path.as_slice()), (1, b"d/liba.rmeta".as_slice()));
    let kinds: Vec<_> = found.search.iter().map(|dir| dir.kind).collect();
    assert_eq!(kinds, [SearchKind::Crates, SearchKind::Native, SearchKind::All]);
    assert_eq!(found.extra_inputs, [b"t.json".to_vec()]);
    assert_eq!((found.kinds.as_slice(), found.bundles), ([CrateKind::Rlib].as_slice(), false));
}

#[test]
fn surroundings() {
    let env = BTreeMap::from([(b"RUSTC_LOG".to_vec(), b"debug".to_vec())]);
    assert_eq!(verdict(&run(&format!("rustc {BASE}"), &env, false)), "local environment");
    assert_eq!(verdict(&run(&format!("rustc {BASE}"), &BTreeMap::new(), true)), "local terminal");
    assert_eq!(verdict(&run(&format!("rustc {BASE} --error-format=json"), &BTreeMap::new(), true)), "ok");
}

/// A directory of its own for each test, removed at the end.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        fs::create_dir(room.0.path().join("out")).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn rustc(&self, line: &str) -> String {
        let mut args = line.split_whitespace();
        let mut command = Command::new(args.next().unwrap());
        let ran = command.args(args).current_dir(self.0.path()).env("FOO", "x\\y\nz").output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }
}

fn written(directory: &Path) -> BTreeMap<String, bool> {
    let state = |entry: fs::DirEntry| {
        let executable = entry.metadata().unwrap().permissions().mode() & 0o111 != 0;
        (format!("out/{}", entry.file_name().into_string().unwrap()), executable)
    };
    fs::read_dir(directory).unwrap().map(|entry| state(entry.unwrap())).collect()
}

/// Runs rustc and finds exactly the predicted files, with the predicted modes; `--print file-names` agrees.
fn check_written(source: &str, more: &str) {
    let room = Room::new();
    fs::write(room.path("x.rs"), source).unwrap();
    let line = format!("rustc x.rs --crate-name x_y --out-dir out {more}");
    let found = compile(&line);
    room.rustc(&line);
    let name = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    let predicted: BTreeMap<String, bool> =
        found.outputs.iter().map(|output| (name(&output.path), output.kind == RustFile::Program)).collect();
    assert_eq!(predicted, written(&room.path("out")), "{line}");
    // Written again, with second names: which of them see it?
    let second = |output: &RustOutput| room.path(&format!("{}.second", name(&output.path)));
    for output in &found.outputs {
        fs::rename(room.path(&name(&output.path)), second(output)).unwrap();
        fs::write(second(output), "old").unwrap();
        fs::hard_link(second(output), room.path(&name(&output.path))).unwrap();
    }
    room.rustc(&line);
    for output in &found.outputs {
        let is_replaced = fs::read(second(output)).unwrap() == b"old";
        assert_eq!(is_replaced, output.kind != RustFile::List, "{line}: {}", name(&output.path));
        fs::remove_file(second(output)).unwrap();
    }
    // They are the derived names of the linked outputs, whether these are asked for or not.
    if !found.kinds.is_empty() && !line.contains("link=") {
        let printed = room.rustc(&format!("{line} --print file-names"));
        let printed: BTreeSet<String> = printed.lines().map(|file| format!("out/{file}")).collect();
        assert!(printed.iter().all(|file| predicted.contains_key(file)), "{line}: {printed:?}");
    }
    let list = fs::read(room.path(&name(&found.outputs[found.dep_info].path))).unwrap();
    assert!(parse_dep_info(&list).unwrap().files.contains(&b"x.rs".to_vec()), "{line}");
}

#[test]
fn outputs_are_those_of_rustc() {
    let library = "pub fn f() {}\n";
    let program = "fn main() {}\n";
    let both = "--emit=dep-info,metadata,link";
    check_written(library, &format!("--crate-type lib {both} -C extra-filename=-abc"));
    check_written(library, &format!("--crate-type rlib,cdylib --crate-type staticlib {both}"));
    check_written(library, &format!("--crate-type dylib {both} -C prefer-dynamic"));
    check_written("", &format!("--crate-type proc-macro {both} -C extra-filename=-abc"));
    check_written(program, "--crate-type bin --emit=dep-info,link -C extra-filename=-abc -g");
    check_written(program, "--crate-type bin --emit=dep-info,metadata");
    check_written(library, "--crate-type cdylib --emit=dep-info,metadata");
    check_written(library, "--test --emit=dep-info,link -C extra-filename=-t");
    check_written(library, "--test --emit=dep-info,metadata -C codegen-units=4");
    check_written(library, "--crate-type lib --emit=dep-info=out/deps,link=out/lib.other");
}

#[test]
fn the_dependency_list_names_files_and_variables() {
    let room = Room::new();
    let source = "pub mod m;\npub const A: &str = concat!(env!(\"FOO\"), include_str!(\"a b.txt\"));\n\
        pub const B: Option<&str> = option_env!(\"NOT_SET\");\n";
    fs::write(room.path("x.rs"), source).unwrap();
    fs::write(room.path("m.rs"), "include!(\"i.rs\");\n").unwrap();
    fs::write(room.path("i.rs"), "").unwrap();
    fs::write(room.path("a b.txt"), "text").unwrap();
    room.rustc("rustc x.rs --crate-name x --crate-type lib --emit=dep-info,metadata --out-dir out");
    let found = parse_dep_info(&fs::read(room.path("out/x.d")).unwrap()).unwrap();
    let files: BTreeSet<_> = found.files.iter().map(|file| String::from_utf8_lossy(file)).collect();
    assert_eq!(files, ["a b.txt", "i.rs", "m.rs", "x.rs"].map(Into::into).into());
    let foo = (b"FOO".to_vec(), Some(b"x\\y\nz".to_vec()));
    assert_eq!(found.env, [foo, (b"NOT_SET".to_vec(), None)]);
}
