//! The claims of this crate, held against the gcc and clang of this machine.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "runs real compilers on real files")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use barn_compilers::directives::{Form, Include, IncludeKind};
use barn_compilers::search::{candidates, parse_search_dirs};
use barn_compilers::{
    Compile, Family, Invocation, Probe, Request, classify, dependency_argv, parse_depfile, parse_probe,
    probe_argv,
};

const COMPILERS: [(Family, &str); 2] = [(Family::Gcc, "gcc"), (Family::Clang, "clang")];

/// A directory of its own for each test, removed at the end.
struct Room(PathBuf);

impl Room {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("barn-compilers-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("src")).unwrap();
        fs::create_dir_all(path.join("out")).unwrap();
        let room = Room(path);
        room.write("src/h.h", "extern int hidden;\n");
        room.write(
            "src/a.c",
            "#include \"h.h\"\n#include <stddef.h>\nint f(int x) { if (x) return x + 1; return 0; }\n",
        );
        room
    }

    fn write(&self, path: impl AsRef<Path>, content: &str) {
        fs::write(self.0.join(path), content).unwrap();
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.0.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.insert(path.strip_prefix(&self.0).unwrap().to_owned());
                }
            }
        }
        found
    }

    fn run(&self, program: &str, args: &[Vec<u8>]) -> Output {
        let args = args.iter().map(|arg| OsStr::from_bytes(arg));
        Command::new(program).args(args).current_dir(&self.0).env("LC_ALL", "C").output().unwrap()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.0.join(path)).unwrap()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn understand(family: Family, program: &str, args: &[Vec<u8>], terminal: bool) -> Compile {
    let env = BTreeMap::from([(b"TERM".to_vec(), b"xterm-256color".to_vec())]);
    let request = Request {
        family,
        program_name: program.as_bytes(),
        args,
        env: &env,
        cwd: b"/",
        pwd_names_cwd: false,
        stderr_is_terminal: terminal,
    };
    match classify(&request, &|_: &[u8]| None) {
        Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => *compile,
        other => panic!("{program} {}: {other:?}", String::from_utf8_lossy(&args.join(b" ".as_slice()))),
    }
}

/// What is promised must appear unless optional, and nothing else may.
fn check_outputs(family: Family, program: &str, line: &str) {
    let room = Room::new();
    let compile = understand(family, program, &words(line), false);
    let before = room.files();
    let output = room.run(program, &compile.argv);
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    let made: BTreeSet<PathBuf> = room.files().difference(&before).cloned().collect();
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let mut required: BTreeSet<PathBuf> = compile.output.iter().map(|output| path(output)).collect();
    let mut allowed = required.clone();
    for side in &compile.side_outputs {
        allowed.insert(path(&side.path));
        if !side.optional {
            required.insert(path(&side.path));
        }
    }
    assert!(required.is_subset(&made), "{program} {line}: {required:?} not all in {made:?}");
    assert!(made.is_subset(&allowed), "{program} {line}: {made:?} not all in {allowed:?}");
}

#[test]
fn outputs_are_where_they_are_said_to_be() {
    let flags = [
        "",
        "-g",
        "-g -gsplit-dwarf",
        "-gsplit-dwarf",
        "-g0 -gsplit-dwarf",
        "-fstack-usage",
        "--coverage",
        "-fprofile-arcs -ftest-coverage",
        "-MD",
        "-MMD",
        "-MD -MF out/deps",
        "-MD -MF /dev/null",
        "-MD -MMD -MP -MT x",
        "-Wp,-MMD,out/.a.o.d",
        "-fprofile-generate",
        "-O2 -g -gsplit-dwarf -fstack-usage -MD --coverage",
        "-flto",
    ];
    let outputs = ["-o out/foo.o", "-o out/foo", "-o out/foo.c.o", "-oout/a.obj", "-o out/.hidden.o", ""];
    for (family, program) in COMPILERS {
        for flag in flags {
            for output in outputs {
                check_outputs(family, program, &format!("{flag} -c src/a.c {output}"));
            }
        }
        for flag in ["", "-fstack-usage", "--coverage", "-MD", "-MMD -MF out/d"] {
            check_outputs(family, program, &format!("{flag} -S src/a.c"));
            check_outputs(family, program, &format!("{flag} -S src/a.c -o out/x.y.s"));
        }
        for flag in ["", "-MD", "-MD -o out/foo.o", "-MMD -MF out/d"] {
            check_outputs(family, program, &format!("{flag} -c -fsyntax-only src/a.c"));
        }
    }
}

#[test]
fn outputs_of_one_family() {
    for output in ["-o out/foo.o", "-o out/foo", ""] {
        check_outputs(Family::Gcc, "gcc", &format!("-fcallgraph-info=su,da -c src/a.c {output}"));
        check_outputs(
            Family::Clang,
            "clang",
            &format!("--serialize-diagnostics out/d.dia -c src/a.c {output}"),
        );
        check_outputs(Family::Clang, "clang", &format!("-emit-llvm -c src/a.c {output}"));
        check_outputs(Family::Clang, "clang", &format!("-emit-llvm -S src/a.c {output}"));
        check_outputs(Family::Clang, "clang", &format!("-gsplit-dwarf=single -g -c src/a.c {output}"));
        check_outputs(Family::Clang, "clang", &format!("-gsplit-dwarf=split -g -c src/a.c {output}"));
    }
}

#[test]
fn default_names_of_other_languages() {
    for (family, program) in COMPILERS {
        for (source, flags) in
            [("src/k.S", ""), ("src/k.m", ""), ("src/k.cc", ""), ("src/noext", "-x c"), ("src/a.b.c", "")]
        {
            let room = Room::new();
            room.write(source, "");
            let compile = understand(family, program, &words(&format!("{flags} -MD -c {source}")), false);
            let output = room.run(program, &compile.argv);
            assert!(
                output.status.success(),
                "{program} {source}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let name = |bytes: &[u8]| room.0.join(OsStr::from_bytes(bytes));
            assert!(name(&compile.output.unwrap()).is_file(), "{program} {source}");
            assert!(name(&compile.side_outputs[0].path).is_file(), "{program} {source}");
        }
    }
}

#[test]
fn dependency_runs_list_every_header_and_write_nothing() {
    let lines = [
        "-c src/b.c -o out/b.o",
        "-O2 -g -gsplit-dwarf -fstack-usage --coverage -MD -MP -MF out/b.d -MT t -c src/b.c",
        "-c -fsyntax-only -MMD src/b.c",
        "-Wp,-MD,out/b.d -Wp,-DX -c src/b.c",
        "-x c -std=gnu11 -c src/b.c -pipe -fdiagnostics-color=always",
    ];
    for (family, program) in COMPILERS {
        for line in lines {
            let room = Room::new();
            room.write(
                "src/b.c",
                "#include <stddef.h>\n#include \"h.h\"\n#include \"sp ace$#.h\"\n#include \"p:q.h\"\n",
            );
            room.write("src/sp ace$#.h", "int q;\n");
            room.write("src/p:q.h", "int p;\n");
            let compile = understand(family, program, &words(line), false);
            let before = room.files();
            let output = room.run(program, &dependency_argv(&compile).unwrap());
            assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(room.files(), before, "{program} {line}");
            let files = parse_depfile(&output.stdout).unwrap();
            for wanted in ["src/b.c", "src/h.h", "src/sp ace$#.h", "src/p:q.h"] {
                assert!(
                    files.contains(&wanted.as_bytes().to_vec()),
                    "{program} {line}: {wanted} not in {files:?}"
                );
            }
            assert!(files.iter().any(|file| file.ends_with(b"/stddef.h")), "{program} {line}");
            fs::remove_file(room.0.join("src/h.h")).unwrap();
            let output = room.run(program, &dependency_argv(&compile).unwrap());
            assert!(!output.status.success(), "{program} {line}: a missing header must fail");
        }
    }
}

#[test]
fn gcc_dependency_runs_write_no_other_files() {
    let room = Room::new();
    let compile =
        understand(Family::Gcc, "gcc", &words("-fcallgraph-info=su,da -c src/a.c -o out/a.o"), false);
    let before = room.files();
    assert!(room.run("gcc", &dependency_argv(&compile).unwrap()).status.success());
    let clang =
        understand(Family::Clang, "clang", &words("--serialize-diagnostics out/d.dia -c src/a.c"), false);
    assert!(room.run("clang", &dependency_argv(&clang).unwrap()).status.success());
    assert_eq!(room.files(), before);
}

#[test]
fn colour_shows_in_diagnostics_and_nowhere_else() {
    for (family, program) in COMPILERS {
        for flags in ["-g", "-g -O2 -frecord-gcc-switches", "-S", "-S -fverbose-asm"] {
            if family == Family::Clang && flags.contains("record") {
                continue;
            }
            let room = Room::new();
            room.write("src/w.c", "int f(void) { int unused; return 0; }\n");
            let line = format!("{flags} -Wall -c src/w.c -o out/w.o")
                .replace("-c", if flags.contains("-S") { "" } else { "-c" });
            let compile = understand(family, program, &words(&line), true);
            assert!(!compile.presentation.is_empty());
            let plain = room.run(program, &words(&line));
            let object = room.read("out/w.o");
            let colored = room.run(program, &compile.argv);
            assert!(
                !plain.stderr.contains(&b'\x1b') && colored.stderr.contains(&b'\x1b'),
                "{program} {line}"
            );
            assert_eq!(object, room.read("out/w.o"), "{program} {line}");
        }
    }
}

#[test]
fn expanded_response_files_give_the_same_object() {
    for (family, program) in COMPILERS {
        for flag in ["-g", "-g -frecord-gcc-switches"] {
            let room = Room::new();
            room.write("args", &format!("{flag} \"-DX=a b\"\n'-DY=c\\\\d' @more -DQ=\\\"q\\\""));
            room.write("more", "-O2 -o out/a.o");
            let args = words("-c @args src/a.c");
            let files = |path: &[u8]| fs::read(room.0.join(OsStr::from_bytes(path))).ok();
            let env = BTreeMap::new();
            let request = Request {
                family,
                program_name: program.as_bytes(),
                args: &args,
                env: &env,
                cwd: b"/",
                pwd_names_cwd: false,
                stderr_is_terminal: false,
            };
            let Invocation::Distributable(compile) = classify(&request, &files) else {
                panic!("distributable")
            };
            assert!(room.run(program, &args).status.success());
            let object = room.read("out/a.o");
            assert!(room.run(program, &compile.argv).status.success());
            assert_eq!(object, room.read("out/a.o"), "{program} {flag}");
        }
    }
}

#[test]
fn probes_are_understood() {
    for (family, program) in COMPILERS {
        for args in [probe_argv(family), &["--version"]] {
            let output = Command::new(program).args(args).env("LC_ALL", "C").output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            let Probe::Compiler(identity) = parse_probe(&text) else { panic!("{program} {args:?}") };
            assert_eq!(identity.family, family);
            assert!(identity.target.is_some() || args[0] == "--version", "{program} {args:?}");
        }
    }
}

#[test]
fn probed_headers_are_found_by_search() {
    for (family, program) in COMPILERS {
        let room = Room::new();
        fs::create_dir(room.0.join("inc")).unwrap();
        room.write("inc/probed.h", "");
        room.write("src/p.c", "#if __has_include(<probed.h>)\nint yes;\n#endif\n");
        let output = room.run(program, &words("-E -v -iquote src -Iinc -Inowhere src/p.c"));
        let dirs = parse_search_dirs(&output.stderr).expect("search lists");
        assert_eq!(dirs.quote, [b"src".to_vec()], "{program}");
        assert_eq!(dirs.angle[0], b"inc", "{program}");
        assert!(dirs.missing.contains(&b"nowhere".to_vec()), "{program}");
        let scanned = barn_compilers::scan(&room.read("src/p.c"));
        let expect = Include { kind: IncludeKind::HasInclude, form: Form::Angle, name: b"probed.h".to_vec() };
        assert_eq!(scanned.includes, [expect]);
        assert_eq!(candidates(&scanned.includes[0], b"src", &dirs).next(), Some(b"inc/probed.h".to_vec()));
        let compile = understand(family, program, &words("-Iinc -c src/p.c"), false);
        let listed = parse_depfile(&room.run(program, &dependency_argv(&compile).unwrap()).stdout).unwrap();
        // clang lists probed headers, gcc does not.
        assert_eq!(listed.contains(&b"inc/probed.h".to_vec()), family == Family::Clang, "{program}");
    }
}

/// Why `#line` files are reported: gcc quotes them.
#[test]
fn gcc_quotes_files_named_by_line_directives() {
    let room = Room::new();
    room.write("gram.y", "a\nb\nTHIS IS THE GRAMMAR\n");
    room.write("src/l.c", "#line 3 \"gram.y\"\nint f(void) { int unused; return 0; }\n");
    let stderr = room.run("gcc", &words("-Wall -c src/l.c -o out/l.o")).stderr;
    assert!(String::from_utf8_lossy(&stderr).contains("THIS IS THE GRAMMAR"));
    assert_eq!(barn_compilers::scan(&room.read("src/l.c")).line_files, [b"gram.y".to_vec()]);
}

/// Every include a compiler follows must be one the scan saw.
#[test]
fn the_scan_sees_every_include_of_real_headers() {
    for (family, program) in COMPILERS {
        let room = Room::new();
        room.write(
            "src/big.cc",
            "#include <algorithm>\n#include <regex>\n#include <thread>\n#include <sys/socket.h>\n",
        );
        let compile = understand(family, program, &words("-c src/big.cc"), false);
        let listed = parse_depfile(&room.run(program, &dependency_argv(&compile).unwrap()).stdout).unwrap();
        assert!(listed.len() > 100, "{program}: {}", listed.len());
        let mut named = BTreeSet::new();
        for file in &listed {
            let content = fs::read(room.0.join(OsStr::from_bytes(file))).unwrap();
            named.extend(barn_compilers::scan(&content).includes.into_iter().map(|include| include.name));
        }
        for file in &listed[1..] {
            let seen = named.iter().any(|name| file.ends_with(name));
            // gcc includes this one before the first line.
            assert!(
                seen || file.ends_with(b"/stdc-predef.h"),
                "{program}: {}",
                String::from_utf8_lossy(file)
            );
        }
    }
}
