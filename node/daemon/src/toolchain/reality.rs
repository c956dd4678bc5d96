//! Discovery against the real compilers: what they open is in the tree, and the tree is all they need.
//!
//! Needs strace and bubblewrap; without them these tests fail.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use barn_protocol::{path::TreePath, tree::Entry};

use super::{
    discover::{Discovered, discover},
    policy,
    stamp::Witnesses,
    walk::{Walk, path_of},
};

const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Opened by the C library without an effect on what is compiled, and different on every machine: the cache only
/// speeds up the loader (aliases stand in for it); the other two list character sets and locale names, of which
/// `C` and `C.UTF-8` need none.
const NOT_NEEDED: [&str; 3] = ["etc/ld.so.cache", "gconv/gconv-modules.cache", "share/locale/locale.alias"];

const C: &str = "#include <stdio.h>\nint f(int unused) { int x = \"s\"; return printf(\"%s\", x); }\n";
const CXX: &str = "#include <vector>\n#include <string>\nint f(int unused) { std::vector<std::string> v(3); return v.size(); }\n";
const ASSEMBLER: &str = "#define NAME f\n.text\n.globl NAME\nNAME:\n  ret\n.warning \"look\"\n";
const OBJECTIVE_C: &str = "@interface A\n- (int)m;\n@end\nint f(int unused) { return 1; }\n";

/// One compile: the compiler, its arguments, and the source's name and text.
struct Case(&'static str, &'static [&'static str], &'static str, &'static str);

const CASES: [Case; 18] = [
    Case("gcc", &[], "a.c", C),
    Case("cc", &["-g", "-O2"], "a.c", C),
    Case("gcc", &["-pipe", "-Os"], "a.c", C),
    // Without a seed, gcc puts random numbers into the names of LTO sections.
    Case("gcc", &["-flto", "-frandom-seed=1"], "a.c", C),
    Case("gcc", &["-g", "-gsplit-dwarf"], "a.c", C),
    Case("gcc", &["-fsanitize=address,undefined"], "a.c", C),
    Case("gcc", &["-m32", "-ffreestanding"], "a.c", "int f(int unused) { return 1; }\n"),
    Case("gcc", &["-S"], "a.c", C),
    Case("gcc", &[], "a.S", ASSEMBLER),
    Case("gcc", &[], "a.m", OBJECTIVE_C),
    Case("g++", &["-g"], "a.cc", CXX),
    Case("c++", &["-O1", "-std=c++20"], "a.cc", CXX),
    Case("clang", &["-g"], "a.c", C),
    Case("clang", &["-flto=thin"], "a.c", C),
    Case("clang", &["-fsanitize=address"], "a.c", C),
    Case("clang", &[], "a.S", ASSEMBLER),
    Case("clang", &[], "a.m", OBJECTIVE_C),
    Case("clang++", &["-O2"], "a.cc", CXX),
];

impl Case {
    fn label(&self) -> String {
        format!("{} {} {}", self.0, self.1.join(" "), self.2)
    }

    fn program(&self) -> PathBuf {
        Path::new("/usr/bin").join(self.0)
    }

    /// Writes the source into `room` and returns the arguments after the compiler's name.
    fn prepare(&self, room: &Path) -> Vec<String> {
        fs::write(room.join(self.2), self.3).unwrap();
        let mut args: Vec<String> = ["-Wall", "-Wextra", "-c"].map(String::from).into();
        args.extend(self.1.iter().map(ToString::to_string));
        args.extend([self.2.into(), "-o".into(), "out.o".into()]);
        args
    }

    /// Headers and source, as the compiler lists them.
    fn inputs(&self, room: &Path) -> BTreeSet<PathBuf> {
        let mut args: Vec<String> = self.prepare(room).into_iter().filter(|arg| arg != "-S").collect();
        args.extend(["-M".into(), "-MF".into(), "deps".into()]);
        run(Command::new(self.program()).args(&args).current_dir(room));
        let deps = fs::read_to_string(room.join("deps")).unwrap();
        fs::remove_file(room.join("deps")).unwrap();
        let _ = fs::remove_file(room.join("out.o"));
        deps.split_whitespace().skip(1).filter(|word| *word != "\\").map(|word| room.join(word)).collect()
    }

    fn discover(&self) -> Discovered {
        let found = discover(&self.program(), OsStr::new(SEARCH_PATH)).unwrap();
        policy::check(&found.toolchain).unwrap();
        found
    }
}

fn run(command: &mut Command) -> Output {
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .output()
        .unwrap_or_else(|error| panic!("{} must be installed: {error}", command.get_program().display()))
}

/// What `path` leads to in the tree, following the tree's links alone.
fn look_up<'a>(found: &'a Discovered, path: &Path) -> Option<&'a Entry> {
    let mut todo: Vec<Vec<u8>> = components(path.as_os_str().as_bytes());
    let mut at = PathBuf::from("/");
    let mut entry = None;
    let mut steps = 0;
    while let Some(name) = todo.pop() {
        steps += 1;
        assert!(steps < 200, "links of {} go in circles", path.display());
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let next = at.join(path_of(&name));
        entry = found.toolchain.tree.get(&TreePath::new(next.as_os_str().as_bytes()).unwrap());
        let Some(Entry::Symlink { target }) = entry else {
            at = next;
            continue;
        };
        if target.starts_with(b"/") {
            at = PathBuf::from("/");
        }
        todo.extend(components(target));
    }
    entry
}

/// The components, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').map(<[u8]>::to_vec).rev().collect()
}

/// The files that a compile found at their paths, by strace's account.
fn traced(case: &Case, room: &Path) -> BTreeSet<PathBuf> {
    let trace = room.join("trace");
    fs::create_dir_all(&trace).unwrap();
    let calls = "open,openat,openat2,execve,readlink,readlinkat,access,faccessat,faccessat2,stat,lstat,newfstatat,statx";
    let output = run(Command::new("strace")
        .args(["-ff", "-qq", "-s", "4096", "-e", &format!("trace={calls}"), "-o"])
        .arg(trace.join("t"))
        .args(["env", "LC_ALL=C.UTF-8"])
        .arg(case.program())
        .args(case.prepare(room))
        .current_dir(room));
    assert!(output.status.success(), "{}: {}", case.label(), String::from_utf8_lossy(&output.stderr));
    let mut paths = BTreeSet::new();
    for file in fs::read_dir(&trace).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        // The first process is `env`, until it becomes the compiler.
        let compiler = format!("execve(\"{}\"", case.program().display());
        let start = text.find(&compiler).unwrap_or(0);
        paths.extend(text[start..].lines().filter_map(successful_path).map(|path| room.join(path)));
    }
    fs::remove_dir_all(&trace).unwrap();
    assert!(paths.len() > 10, "{}: the trace is empty", case.label());
    paths
}

/// The path in a line such as `openat(AT_FDCWD, "/etc/x", O_RDONLY) = 3`.
fn successful_path(line: &str) -> Option<&str> {
    let (call, result) = line.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let (_, rest) = call.split_once('"')?;
    let (path, _) = rest.split_once('"')?;
    (!path.is_empty()).then_some(path)
}

#[test]
fn everything_a_compile_opens_is_in_the_tree() {
    for case in CASES {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        let found = case.discover();
        let inputs: BTreeSet<PathBuf> =
            case.inputs(&room).iter().map(|path| path.canonicalize().unwrap()).collect();
        for path in traced(&case, &room) {
            let Ok(real) = path.canonicalize() else { continue };
            // `/proc/self/…` was another process's.
            let is_ours = |top: &Path| real.starts_with(top) || path.starts_with(top);
            let ours = ["/proc", "/dev", "/tmp"].iter().any(|top| is_ours(Path::new(top))) || is_ours(&room);
            let exempt = NOT_NEEDED.iter().any(|file| path.ends_with(file));
            if !real.is_file() || ours || exempt || inputs.contains(&real) {
                continue;
            }
            let entry = look_up(&found, &path);
            assert!(
                matches!(entry, Some(Entry::File { .. })),
                "{}: {} is not in the tree: {entry:?}",
                case.label(),
                path.display()
            );
        }
    }
}

/// Runs the compile in a sandbox of the discovered files and the inputs alone.
fn run_in_tree(case: &Case, found: &Discovered, room: &Path, locale: &str) -> Output {
    let mut walk = Walk::default();
    let mut binds: BTreeSet<PathBuf> = found.files.iter().map(|(_, host)| host.clone()).collect();
    for input in case.inputs(room) {
        let real = walk.resolve(&input, &mut Witnesses::default()).unwrap();
        if !real.starts_with(room) {
            binds.insert(real);
        }
    }
    for (path, entry) in found.toolchain.tree.iter() {
        let path = path_of(path.as_bytes());
        match entry {
            Entry::Symlink { target } => drop(walk.links.insert(path, target.clone())),
            Entry::Directory => drop(walk.directories.insert(path)),
            Entry::File { .. } => assert!(binds.contains(&path), "{}", path.display()),
        }
    }
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--clearenv", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    let path: Vec<String> = found.toolchain.search_path.iter().map(ToString::to_string).collect();
    command.args(["--setenv", "PATH", &path.join(":"), "--setenv", "LC_ALL", locale]);
    for directory in &walk.directories {
        command.arg("--dir").arg(directory);
    }
    for file in &binds {
        command.arg("--ro-bind").arg(file).arg(file);
    }
    for (place, target) in &walk.links {
        command.arg("--symlink").arg(path_of(target)).arg(place);
    }
    command.arg("--bind").arg(room).arg(room).arg("--chdir").arg(room);
    command.arg("--").arg(case.program()).args(case.prepare(room));
    run(&mut command)
}

fn results(room: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(room).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_compile_from_the_tree_alone_is_the_same() {
    for case in CASES {
        let found = case.discover();
        for locale in ["C", "C.UTF-8"] {
            let label = format!("{} in {locale}", case.label());
            let room = tempfile::tempdir().unwrap();
            let room = room.path().canonicalize().unwrap();
            let args = case.prepare(&room);
            let mut local = Command::new("env");
            local.arg(format!("LC_ALL={locale}")).arg(case.program()).args(&args).current_dir(&room);
            let local = run(&mut local);
            let expect = results(&room);
            let _ = fs::remove_file(room.join("out.o"));
            let remote = run_in_tree(&case, &found, &room, locale);
            let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(text(&remote), text(&local), "{label}");
            assert_eq!(remote.status, local.status, "{label}");
            assert!(results(&room) == expect, "{label}: outputs differ");
            assert!(!local.stderr.is_empty(), "{label}: there should be a warning to compare");
        }
    }
}

#[test]
fn quotes_are_curly_in_utf8_from_the_tree_alone() {
    let case = &CASES[0];
    let room = tempfile::tempdir().unwrap();
    let room = room.path().canonicalize().unwrap();
    let found = case.discover();
    case.prepare(&room);
    let stderr = run_in_tree(case, &found, &room, "C.UTF-8").stderr;
    assert!(String::from_utf8(stderr).unwrap().contains("parameter ‘unused’"));
}

#[test]
fn a_character_set_that_is_not_carried_is_an_error_and_not_other_bytes() {
    let case =
        Case("gcc", &["-fexec-charset=ISO-8859-1"], "a.c", "const char *f(void) { return \"\u{e9}\"; }\n");
    let room = tempfile::tempdir().unwrap();
    let room = room.path().canonicalize().unwrap();
    let output = run_in_tree(&case, &case.discover(), &room, "C");
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn equal_installations_have_equal_toolchains() {
    let path = |text: &str| OsStr::new(text).to_owned();
    let digest = |program: &str, search_path: &str| {
        discover(Path::new(program), &path(search_path)).unwrap().toolchain.digest()
    };
    let usual = digest("/usr/bin/gcc", SEARCH_PATH);
    assert_eq!(
        usual,
        digest("/usr/bin/gcc", "/root/bin:/usr/local/bin:/usr/bin:/usr/games"),
        "PATH is reduced"
    );
    assert_ne!(usual, digest("/usr/bin/cc", SEARCH_PATH), "other links lead to it");
}

#[test]
fn wrappers_and_scripts_are_told_apart() {
    let name = |program: &Path| discover(program, OsStr::new(SEARCH_PATH)).unwrap_err().name();
    for wrapper in ["/usr/lib/ccache/gcc", "/usr/lib/distcc/gcc", "/usr/bin/ccache"] {
        assert_eq!(name(Path::new(wrapper)), "compiler-is-wrapper", "{wrapper}");
    }
    let room = tempfile::tempdir().unwrap();
    let script = room.path().join("gcc");
    fs::write(&script, "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n").unwrap();
    assert_eq!(name(&script), "compiler-is-script");
    assert_eq!(name(Path::new("gcc")), "compiler-path");
    assert_eq!(name(Path::new("/nowhere/gcc")), "compiler-unreadable");
    assert_eq!(name(Path::new("/bin/true")), "unknown-compiler");
    assert_eq!(name(Path::new("/usr/lib")), "compiler-incomplete");
    fs::write(&script, "object?").unwrap();
    assert_eq!(name(&script), "unknown-compiler");
}

#[test]
fn a_relative_directory_before_the_assembler_is_refused() {
    let name = |search_path: &str| {
        discover(Path::new("/usr/bin/gcc"), OsStr::new(search_path)).map(drop).map_err(|error| error.name())
    };
    assert_eq!(name(".:/usr/bin"), Err("relative-search-path"));
    assert_eq!(name(":/usr/bin"), Err("relative-search-path"));
    assert_eq!(name("/usr/bin:."), Ok(()));
    assert_eq!(name("/nowhere"), Err("compiler-incomplete"));
}
