//! Compilers that are scripts, laid out as nix does, and archives that stand in for them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use barn_tests::{Desk, Ran, snapshot};

/// What the real wrapper of nix comes to: flags from beside it around the user's, and the unwrapped compiler by its path.
const WRAPPER: &str = r#"#! /bin/bash
set -eu -o pipefail +o posix
shopt -s nullglob
out=@out@
extraBefore=(-fstack-protector-strong)
extraAfter=($(< "$out/nix-support/cc-cflags"))
if (( "${NIX_DEBUG:-0}" >= 1 )); then printf '  %q\n' "$@" >&2; fi
exec @unwrapped@/bin/gcc ${extraBefore+"${extraBefore[@]}"} "$@" ${extraAfter+"${extraAfter[@]}"}
"#;
const WRAPPED: &str = "nix/store/8fcs9i0z-gcc-wrapper-12.2.0";
const UNWRAPPED: &str = "nix/store/bvy1xk3r-gcc-12.2.0";

/// Lays a store out below the directory to build in, with a source.
fn lay_store(desk: &Desk) {
    for (directory, below) in [(WRAPPED, "bin"), (WRAPPED, "nix-support"), (UNWRAPPED, "bin")] {
        fs::create_dir_all(desk.at(directory).join(below)).unwrap();
    }
    let path = |at: &str| desk.at(at).to_str().unwrap().to_owned();
    let script = WRAPPER.replace("@out@", &path(WRAPPED)).replace("@unwrapped@", &path(UNWRAPPED));
    let wrapper = desk.at(WRAPPED).join("bin/gcc");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/usr/bin/gcc", desk.at(UNWRAPPED).join("bin/gcc")).unwrap();
    desk.write("x.c", "int answer(void) { return ANSWER; }\n");
    set_flags(desk, "-DANSWER=42");
}

/// The script does not change by this.
fn set_flags(desk: &Desk, flags: &str) {
    fs::write(desk.at(WRAPPED).join("nix-support/cc-cflags"), flags).unwrap();
}

/// Compiles by the wrapper, twice through barn and once without; the object that all three wrote.
#[track_caller]
fn compile(desk: &Desk) -> Vec<u8> {
    let line = |front: &str| format!("{front} $PWD/{WRAPPED}/bin/gcc -O2 -Wall -c x.c -o x.o");
    let object = |ran: Ran| {
        assert_eq!((ran.status, ran.err().as_str()), (0, ""));
        let object = fs::read(desk.at("x.o")).unwrap();
        fs::remove_file(desk.at("x.o")).unwrap();
        object
    };
    let bare = object(desk.plain(&line("")));
    for _ in 0..2 {
        assert!(object(desk.sh(&line("$B"))) == bare, "through barn it wrote another object");
    }
    bare
}

fn records(desk: &Desk) -> u64 {
    desk.barn(&["cache", "stat", "--json"]).ok().json()["records"].as_u64().unwrap()
}

#[test]
fn a_script_runs_here_and_is_named() {
    let desk = Desk::new();
    lay_store(&desk);
    let first = compile(&desk);
    set_flags(&desk, "-DANSWER=43");
    assert!(compile(&desk) != first, "other flags make another object");
    assert_eq!(desk.stats()["local_reasons"], serde_json::json!({ "compiler-is-script": 4 }));
    assert_eq!(records(&desk), 0);
    let told = desk.barn(&["explain"]).ok().out();
    assert!(told.contains("gcc-wrapper-12.2.0/bin/gcc is a script; hint: put"), "{told}");
    let doctor = desk.sh(&format!("PATH=$PWD/{WRAPPED}/bin:$PATH $B doctor")).out();
    let compilers = doctor.lines().skip_while(|line| !line.starts_with("wrong compilers"));
    let compilers: Vec<_> = compilers.take(2).collect();
    assert!(compilers.concat().contains("bin/gcc is a script") && compilers[1].contains("PATH"), "{doctor}");

    // The remedy: the real compiler first in PATH, and the flags in the build.
    let line = format!("PATH=$PWD/{UNWRAPPED}/bin:$PATH; $B gcc -DANSWER=43 -c x.c");
    desk.sh(&line).ok();
    let (_, counts) = desk.counted(&line);
    assert_eq!((counts.hits, records(&desk)), (1, 1));
    let doctor = desk.sh(&format!("PATH=$PWD/{UNWRAPPED}/bin:$PATH $B doctor")).out();
    assert!(doctor.contains("ok    compilers"), "{doctor}");
}

#[test]
fn what_an_archive_stands_in_for_is_not_kept_when_it_ran_here() {
    let desk = Desk::without_node();
    lay_store(&desk);
    let archive = desk.at("gcc.tar.zst");
    desk.barn(&["toolchain", "export", "gcc", "-o", archive.to_str().unwrap()]).ok();
    let section = |compiler: String, archive: &str| {
        format!("[[toolchain]]\ncompiler = \"{compiler}\"\narchive = \"{archive}\"\n")
    };
    let wrapper = desk.at(WRAPPED).join("bin/gcc").to_str().unwrap().to_owned();
    let settings = section(wrapper, archive.to_str().unwrap()) + &section("clang".into(), "/none.tar.zst");
    fs::write(desk.state().join("barn.toml"), settings).unwrap();
    desk.barn(&["start"]).ok();
    let finding = "stands in for /";
    desk.await_that("the archive is read", |desk| desk.barn(&["doctor"]).out().contains(finding));

    let first = compile(&desk);
    set_flags(&desk, "-DANSWER=43");
    assert!(compile(&desk) != first, "other flags make another object");
    assert_eq!((records(&desk), desk.counts().hits), (0, 0));
    let told = desk.barn(&["explain"]).ok().out();
    assert!(told.contains("elsewhere /usr/bin/gcc of gcc 12") && told.contains("not kept"), "{told}");

    // One setting is wrong: it is named, and costs what it is about.
    let doctor = desk.barn(&["doctor"]).out();
    assert!(doctor.contains("wrong toolchain  for clang: cannot open archive /none.tar.zst"), "{doctor}");
    desk.sh("$B clang -DANSWER=1 -c x.c && $B gcc -DANSWER=1 -c x.c && $B gcc -DANSWER=1 -c x.c").ok();
    assert_eq!((desk.stats()["local_reasons"]["stand-in"].as_u64(), desk.counts().hits), (Some(1), 1));
}

/// Streams, files and exit status of a script called rustc pass through, by prefix and by masquerade.
#[test]
fn a_script_called_rustc_is_left_alone() {
    let desk = Desk::new();
    let script = "#!/bin/sh\necho \"rustc $*\"; cat; echo warning >&2; touch libx.rlib; exit 3\n";
    for line in [
        "$B bin/rustc --crate-type lib x.rs",
        "PATH=$M:$PWD/bin:$PATH; export PATH; rustc --crate-type lib x.rs",
        "PATH=$PWD/bin:$PATH; export PATH; $B rustc - < x.rs",
    ] {
        let mut seen = Vec::new();
        for with_barn in [false, true, true] {
            desk.lay(&[("x.rs", "pub fn x() { let unused = 1; }\n"), ("bin/rustc", script)]);
            let ran = if with_barn { desk.sh(line) } else { desk.plain(line) };
            assert_eq!(ran.status, 3, "{line}: {}", ran.err());
            seen.push((ran, snapshot(&desk.at(""))));
        }
        assert!(seen.iter().all(|each| *each == seen[0]), "{line}");
    }
    assert_eq!(desk.counts().local, 6);
}
