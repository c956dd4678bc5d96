//! Real compilers in the sandbox: the same bytes, messages and statuses as outside.

mod common;

use std::{fs, process::Command};

use barn_sandbox::{Exit, OutputState, RunError};
use common::{compile_spec, open_directory, path, probe, run};

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include "own.h"
int main(void) { printf("%s %d %s\n", __FILE__, OWN, getenv("HOME")); return 0; }
"#;

const CXX: &str = r#"
#include <iostream>
#include <map>
#include <string>
#include <vector>
#include "own.h"
int main() { std::map<std::string, std::vector<int>> m; m["a"].push_back(OWN); std::cout << m.size(); }
"#;

const BROKEN: &str = "#include \"own.h\"\nint main(void) { int unused; return OWN + nothing; }\n";

/// Compiles `text` outside and inside with the same words at the same paths, and compares everything.
#[track_caller]
fn check(compiler: &str, name: &str, text: &str, extra: &[&str], expect: u8) {
    let directory = open_directory();
    let cwd = directory.path().join("a project");
    fs::create_dir(&cwd).unwrap();
    let source = cwd.join(name);
    fs::write(&source, text).unwrap();
    fs::write(cwd.join("own.h"), "#define OWN 42\n").unwrap();
    let arguments = [&["-c", "-g", "-O1", "-Wall", "-o", "x.o"], extra].concat();
    let local = Command::new(compiler)
        .args(&arguments)
        .arg(name)
        .current_dir(&cwd)
        .env_clear()
        .env("PATH", "/usr/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let spec = compile_spec(compiler, &arguments, name, &cwd);
    let (finished, outputs) = run(&spec).unwrap();
    assert_eq!(String::from_utf8_lossy(&finished.stderr), String::from_utf8_lossy(&local.stderr));
    assert_eq!(finished.exit, Exit::Code(expect));
    assert_eq!(local.status.code(), Some(i32::from(expect)));
    assert_eq!(finished.stdout, local.stdout);
    if expect == 0 {
        let bytes = fs::read(cwd.join("x.o")).unwrap();
        assert_eq!(outputs.len(), 1);
        assert!(outputs[0].1 == bytes, "the object differs from the local one");
        assert!(
            finished.max_rss_bytes > 1 << 20 && !finished.cpu.is_zero() && finished.setup < finished.wall
        );
    } else {
        assert_eq!(finished.outputs[0].state, OutputState::Missing);
    }
}

#[test]
fn gcc_compiles_c() {
    check("/usr/bin/gcc", "x.c", C, &[], 0);
}

#[test]
fn gcc_compiles_cxx_through_pipes() {
    check("/usr/bin/g++", "x.cc", CXX, &["-pipe"], 0);
}

#[test]
fn clang_compiles_c() {
    check("/usr/bin/clang", "x.c", C, &[], 0);
}

#[test]
fn clang_compiles_cxx() {
    check("/usr/bin/clang++", "x.cc", CXX, &[], 0);
}

#[test]
fn a_failing_compile_says_the_same() {
    check("/usr/bin/gcc", "x.c", BROKEN, &[], 1);
    check("/usr/bin/clang", "x.c", BROKEN, &[], 1);
}

#[test]
fn a_program_that_is_not_there_cannot_be_executed() {
    let mut spec = probe(&[]);
    spec.program = path("/usr/bin/none");
    let error = run(&spec).unwrap_err();
    assert!(matches!(&error, RunError::CannotExecute { errno: libc::ENOENT, .. }), "{error:?}");
}
