//! What a watched program is seen to look for, against what `strace` sees of the same program over the same files.

mod common;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use barn_sandbox::{Exit, InsidePath, Kind, Observed, Spec};
use common::{compile_spec, open_directory, path, probe, run};

#[track_caller]
fn observed(spec: &Spec) -> Observed {
    let spec = Spec { trace: true, ..spec.clone() };
    run(&spec).unwrap().0.observed.expect("this kernel lets the room watch")
}

fn texts(paths: &[InsidePath]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

/// What the probe asks for and what is reported of it.
#[track_caller]
fn check(arguments: &[&str], opened: &[&str], in_vain: &[&str]) {
    let mut spec = probe(arguments);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let size = fs::metadata(&source).unwrap().len();
    for (at, kind) in [
        ("/work/a/f", Kind::File { source, size, executable: false }),
        ("/work/l", Kind::Symlink { target: b"a/f".to_vec() }),
        ("/work/d", Kind::Symlink { target: b"a".to_vec() }),
    ] {
        spec.inputs.push(barn_sandbox::Entry { path: path(at), kind });
    }
    let seen = observed(&spec);
    assert_eq!((texts(&seen.opened), texts(&seen.in_vain)), (owned(opened), owned(in_vain)), "{arguments:?}");
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn paths_are_told_as_they_are() {
    check(&["look", "/work/a/f"], &["/work/a/f"], &[]);
    check(&["look", "/work/l", "a/f", "d/f", "./a//f", "a/../l"], &["/work/a/f"], &[]);
    check(&["look", "/work/none", "none", "./a/./none"], &[], &["/work/a/none", "/work/none"]);
    // Through a link, `..` leads to where the directory really lies.
    check(&["look", "d/../none", "/work/d/none"], &[], &["/work/d/none", "/work/none"]);
    // What is missing is the directory, whatever comes after it.
    check(&["look", "gone/../../x", "a/f/x"], &[], &["/work/a/f/x", "/work/gone"]);
    check(&["look", "/proc/none", "/dev/none", "/tmp/none", "/tmp/deep/none"], &[], &["/tmp/deep/none"]);
    check(&["look-far", "/work/a", "f"], &["/work/a", "/work/a/f"], &["/child/asks"]);
    check(&["look-far", "/work/a", "none"], &["/work/a"], &["/child/asks", "/work/a/none"]);
}

#[test]
fn nothing_said_about_runs_that_are_not_watched() {
    assert_eq!(run(&probe(&["look", "/none"])).unwrap().0.observed, None);
}

#[test]
fn too_much_is_nothing() {
    assert_eq!(observed(&probe(&["look-much", "20000"])).in_vain.len(), 20_000);
    let spec = Spec { trace: true, ..probe(&["look-much", "40000"]) };
    let (finished, _) = run(&spec).unwrap();
    assert_eq!((finished.exit, finished.observed), (Exit::Code(0), None));
}

#[test]
fn paths_that_are_none_do_no_harm() {
    check(&["look-badly"], &[], &[]);
}

/// The files of `spec` as a directory of the host.
fn laid_out(spec: &Spec) -> tempfile::TempDir {
    let tree = open_directory();
    let at = |path: &InsidePath| {
        let at = tree.path().join(path.as_path().strip_prefix("/").unwrap());
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    };
    for mount in &spec.toolchain {
        fs::copy(&mount.host, at(&mount.inside)).unwrap();
    }
    for entry in &spec.inputs {
        match &entry.kind {
            Kind::File { source, .. } => drop(fs::copy(source, at(&entry.path)).unwrap()),
            Kind::Symlink { target } => symlink(OsStr::from_bytes(target), at(&entry.path)).unwrap(),
            Kind::Directory => fs::create_dir_all(at(&entry.path)).unwrap(),
            Kind::Laid { .. } => panic!("there is no tree"),
        }
    }
    for own in ["proc", "dev", "tmp"] {
        fs::create_dir_all(tree.path().join(own)).unwrap();
    }
    fs::set_permissions(tree.path().join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    tree
}

/// The lines `strace` writes about the programs of `spec` when it runs over `tree`.
fn strace(spec: &Spec, tree: &Path) -> Vec<String> {
    let logs = open_directory();
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let output = Command::new("strace")
        .args(["-f", "-ff", "-s", "4096", "-e", "trace=%file,execve", "-o"])
        .arg(logs.path().join("log"))
        .args(["/usr/bin/bwrap", "--unshare-user", "--bind"])
        .arg(tree)
        .args(["/", "--proc", "/proc", "--dev", "/dev", "--chdir"])
        .arg(spec.cwd.as_path())
        .arg(spec.program.as_path())
        .args(spec.argv[1..].iter().map(|argument| text(argument)))
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (text(name), text(value))))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = Vec::new();
    for log in fs::read_dir(logs.path()).unwrap() {
        let log = fs::read_to_string(log.unwrap().path()).unwrap();
        // The compile begins where a process executes something else than bubblewrap.
        let foreign =
            |line: &&str| line.starts_with("execve(") && line.ends_with("= 0") && !line.contains("bwrap");
        lines.extend(log.lines().skip_while(|line| !foreign(line)).map(str::to_owned));
    }
    lines
}

/// Where `path`, asked for in `cwd`, lies in `tree`; for what is missing, where it would lie.
fn place(tree: &Path, cwd: &Path, path: &str) -> String {
    let mut done = PathBuf::from("/");
    for part in cwd.join(path).components().skip(1) {
        match part.as_os_str().to_str().unwrap() {
            ".." if tree.join(done.strip_prefix("/").unwrap()).exists() => drop(done.pop()),
            // Then this is what was missing.
            ".." => break,
            name => done.push(name),
        }
        let there = tree.join(done.strip_prefix("/").unwrap());
        if let Ok(real) = fs::canonicalize(there) {
            done = Path::new("/").join(real.strip_prefix(tree).unwrap_or(Path::new("outside")));
        }
    }
    done.to_str().unwrap().to_owned()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    opened: BTreeSet<String>,
    in_vain: BTreeSet<String>,
    links_in_vain: BTreeSet<String>,
}

fn read_log(lines: &[String], tree: &Path, cwd: &Path) -> Seen {
    let mut seen = Seen::default();
    for line in lines {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let Some(path) = rest.split('"').nth(1) else { continue };
        let own = |prefix: &str| path.starts_with(prefix);
        if path.is_empty()
            || own("/proc/")
            || own("/dev/")
            || path.strip_prefix("/tmp/").is_some_and(|n| !n.contains('/'))
        {
            continue;
        }
        let is_writing = line.contains("O_WRONLY") || line.contains("O_RDWR");
        let missing = line.contains("= -1 ENOENT") || line.contains("= -1 ENOTDIR");
        let place = place(tree, cwd, path);
        match call {
            "readlink" | "readlinkat" if missing => drop(seen.links_in_vain.insert(place)),
            "open" | "openat" if !is_writing && !line.contains("= -1") => drop(seen.opened.insert(place)),
            "open" | "openat" | "stat" | "lstat" | "newfstatat" | "statx" | "access" | "faccessat"
            | "faccessat2"
                if missing && !is_writing =>
            {
                seen.in_vain.insert(place);
            }
            _ => {}
        }
    }
    seen
}

#[track_caller]
fn check_compile(compiler: &str, name: &str, text: &str, extra: &[&str]) {
    let directory = open_directory();
    let cwd = directory.path().join("a project");
    fs::create_dir_all(cwd.join("inc")).unwrap();
    fs::write(cwd.join(name), text).unwrap();
    fs::write(cwd.join("own.h"), "#if __has_include(\"absent.h\")\n#endif\n#define OWN 42\n").unwrap();
    let arguments = [&["-c", "-O1", "-Iinc", "-Inone/../inc", "-o", "x.o"], extra].concat();
    let spec = compile_spec(compiler, &arguments, name, &cwd);
    let tree = laid_out(&spec);
    let traced = read_log(&strace(&spec, tree.path()), tree.path(), &cwd);
    let seen = observed(&spec);
    let is_file = |path: &String| tree.path().join(&path[1..]).is_file();
    let in_room = |paths: &[InsidePath]| -> BTreeSet<String> {
        // Missing places are compared where they would lie, links in the way followed.
        paths.iter().map(|path| place(tree.path(), &cwd, &path.to_string())).collect()
    };
    let opened: BTreeSet<_> = in_room(&seen.opened).into_iter().filter(is_file).collect();
    let expected: BTreeSet<_> = traced.opened.into_iter().filter(is_file).collect();
    assert!(expected.len() > 5 && traced.in_vain.len() > 5, "{compiler}: {expected:?}");
    assert_eq!(opened, expected, "{compiler}: opened");
    let in_vain = in_room(&seen.in_vain);
    let difference: Vec<_> = in_vain.symmetric_difference(&traced.in_vain).collect();
    assert!(difference.is_empty(), "{compiler}: in vain by one only: {difference:?}");
    // Why links need not be watched.
    let by_link_only = traced
        .links_in_vain
        .iter()
        .find(|link| !in_vain.iter().any(|path| path == *link || path.starts_with(&format!("{link}/"))));
    assert_eq!(by_link_only, None, "{compiler}");
    assert!(in_vain.iter().any(|path| path.ends_with("/absent.h")), "{in_vain:?}");
}

const C: &str = "#include <stdio.h>\n#include \"own.h\"\nint main(void) { return printf(\"%d\", OWN); }\n";
const CXX: &str =
    "#include <map>\n#include <string>\n#include \"own.h\"\nstd::map<std::string, int> m{{\"a\", OWN}};\n";

#[test]
fn gcc_is_seen_as_strace_sees_it() {
    check_compile("/usr/bin/gcc", "x.c", C, &[]);
}

#[test]
fn gxx_with_all_its_parts_is_seen_as_strace_sees_it() {
    check_compile("/usr/bin/g++", "x.cc", CXX, &["-pipe"]);
}

#[test]
fn clang_is_seen_as_strace_sees_it() {
    check_compile("/usr/bin/clang", "x.c", C, &[]);
    check_compile("/usr/bin/clang++", "x.cc", CXX, &[]);
}
