//! What a compile asks the kernel for.
//!
//! `strace` writes one file per process; strings are in hexadecimal, so that any name can be read back. Of all processes
//! only compilers proper and assemblers count: what drivers look for are programs.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
};

/// Files and paths of one compile: absolute, without `.` and doubled slashes, else as the compiler spelled them.
#[derive(Debug, Default)]
pub struct Trace {
    /// Files that were opened for reading, or seen to be there.
    pub touched: BTreeSet<PathBuf>,
    /// Paths at which nothing was.
    pub absent: BTreeSet<PathBuf>,
}

/// One call of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    name: String,
    path: PathBuf,
    writes: bool,
    result: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Nothing,
    Failed,
}

/// Runs a compile under `strace`, with its notes and the compiler's temporary files in `scratch`, which must be empty. `None`
/// if the compile fails.
///
/// # Errors
/// If it cannot be run, or the notes cannot be read.
pub fn trace(program: &str, args: &[String], cwd: &Path, scratch: &Path) -> io::Result<Option<Trace>> {
    let notes = scratch.join("notes");
    let temporary = scratch.join("tmp");
    fs::create_dir(&notes)?;
    fs::create_dir(&temporary)?;
    let status = Command::new("strace")
        .args([
            "-ff",
            "--seccomp-bpf",
            "-qq",
            "-xx",
            "-s",
            "256",
            "-e",
            "trace=%file",
            "-e",
            "signal=none",
            "-o",
        ])
        .arg(notes.join("of"))
        .arg("--")
        .arg(program)
        .args(args)
        .current_dir(cwd)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Ok(None);
    }
    let mut processes = Vec::new();
    for note in fs::read_dir(&notes)? {
        let text = fs::read_to_string(note?.path())?;
        let calls: Vec<Call> = text.lines().filter_map(read_call).collect();
        processes.push((compiles(&text), calls));
    }
    let written = |calls: &[Call]| -> Vec<PathBuf> {
        calls.iter().filter(|call| call.writes).map(|call| normal(cwd, &call.path)).collect()
    };
    let written: BTreeSet<_> = processes.iter().flat_map(|(_, calls)| written(calls)).collect();
    // Where libraries were looked for, which the loader tells by the directory.
    let all = || processes.iter().flat_map(|(_, calls)| calls).map(|call| normal(cwd, &call.path));
    let libraries: Vec<_> = all().filter(|path| is_library(path)).collect();
    let shelves: BTreeSet<_> = libraries.iter().flat_map(|path| path.ancestors()).collect();
    let mut found = Trace::default();
    for call in processes.iter().filter(|(compiles, _)| *compiles).flat_map(|(_, calls)| calls) {
        let path = normal(cwd, &call.path);
        let own = written.contains(&path) || path.starts_with(scratch) || is_toolchain(&path);
        match call.result {
            _ if own || call.writes => {}
            Outcome::Done if path.is_file() => drop(found.touched.insert(path)),
            Outcome::Nothing if is_precompiled(&path) || shelves.contains(path.as_path()) => {}
            Outcome::Nothing => drop(found.absent.insert(path)),
            _ => {}
        }
    }
    Ok(Some(found))
}

/// `path` seen from `cwd`, without `.` and doubled slashes. `..` stays: it may lead over a link.
pub fn normal(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

/// Whether the notes are those of a compiler proper or an assembler.
fn compiles(notes: &str) -> bool {
    let run = notes.lines().rfind(|line| line.starts_with("execve(") && line.ends_with(" = 0"));
    let Some(run) = run else { return false };
    let mut strings = strings(run);
    let program = strings.next().unwrap_or_default();
    let first = strings.nth(1).unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let assembles = name == b"as" || name.ends_with(b"-as");
    is_gcc_proper(name) || assembles || first == b"-cc1" || first == b"-cc1as"
}

/// Reads a line such as `openat(AT_FDCWD, "\x61", O_RDONLY) = 3`. `None` if it names no file.
fn read_call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ")?;
    let path = strings(arguments).next().filter(|path| !path.is_empty())?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let relative_to = arguments.split(',').next().unwrap_or_default();
    let at_descriptor = relative_to.starts_with(|digit: char| digit.is_ascii_digit());
    assert!(!at_descriptor || path.is_absolute(), "a path relative to a descriptor: {line}");
    let flags = ["O_WRONLY", "O_RDWR", "O_CREAT"];
    let changes = ["unlink", "rename", "mkdir", "chmod"].iter().any(|change| name.starts_with(change));
    let writes = changes || flags.iter().any(|flag| arguments.contains(flag));
    let result = match result.split(' ').nth(1) {
        None => Outcome::Done,
        Some("ENOENT" | "ENOTDIR") => Outcome::Nothing,
        Some(_) => Outcome::Failed,
    };
    Some(Call { name: name.to_owned(), path, writes, result })
}

/// The strings of a line, in hexadecimal between quotes.
fn strings(line: &str) -> impl Iterator<Item = Vec<u8>> + '_ {
    line.split('"').skip(1).step_by(2).map(|text| {
        let digits = text.split("\\x").skip(1);
        digits.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
    })
}

/// Whether a path is no input but part of the compiler or the system.
fn is_toolchain(path: &Path) -> bool {
    let systems = ["/proc", "/sys", "/dev", "/usr/lib/locale", "/usr/share/locale"];
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let program = path.parent().is_some_and(|parent| parent.ends_with("bin")) || is_gcc_proper(name);
    systems.iter().any(|system| path.starts_with(system)) || is_library(path) || program
}

/// gcc reads its own program, for its checksum is in precompiled headers.
fn is_gcc_proper(name: &[u8]) -> bool {
    [&b"cc1"[..], b"cc1plus", b"cc1obj", b"cc1objplus"].contains(&name)
}

/// Whether a path is one of a shared library, or of the loader.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".so") || name.contains(".so.") || name == "gconv-modules.cache"
}

/// Whether a path is one at which only precompiled headers are looked for.
fn is_precompiled(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gch" || extension == "pch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let check = |line: &str, expect: Option<(&str, bool, Outcome)>| {
            let found = read_call(line);
            let found = found.as_ref().map(|call| (call.path.to_str().unwrap(), call.writes, call.result));
            assert_eq!(found, expect, "{line}");
        };
        check(
            r#"openat(AT_FDCWD, "\x61\x2e\x68", O_RDONLY|O_NOCTTY) = 4"#,
            Some(("a.h", false, Outcome::Done)),
        );
        check(
            r#"open("\x61", O_RDONLY) = -1 ENOENT (No such file or directory)"#,
            Some(("a", false, Outcome::Nothing)),
        );
        check(
            r#"newfstatat(AT_FDCWD, "\x2f\x61", {st_mode=S_IFREG|0644, st_size=3, ...}, 0) = 0"#,
            Some(("/a", false, Outcome::Done)),
        );
        check(
            r#"openat(AT_FDCWD, "\x62", O_RDWR|O_CREAT|O_TRUNC, 0666) = 4"#,
            Some(("b", true, Outcome::Done)),
        );
        check(
            r#"readlink("\x61", 0x7ffd, 1023) = -1 EINVAL (Invalid argument)"#,
            Some(("a", false, Outcome::Failed)),
        );
        check(r#"newfstatat(3, "", {st_mode=S_IFREG|0644, ...}, AT_EMPTY_PATH) = 0"#, None);
        check("+++ exited with 0 +++", None);
    }

    #[test]
    fn compilers_are_told_from_drivers() {
        let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let check = |program: &str, argument: &str, expect: bool| {
            let (program, argument) = (hex(program), hex(argument));
            let note =
                format!("execve(\"{program}\", [\"{program}\", \"{argument}\"], 0x1 /* 3 vars */) = 0\n");
            assert_eq!(compiles(&note), expect);
        };
        check("/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", "-quiet", true);
        check("/usr/bin/as", "--64", true);
        check("/usr/bin/gcc", "-c", false);
        check("/usr/bin/clang", "-c", false);
        check("/usr/lib/llvm-14/bin/clang", "-cc1", true);
        check("/usr/lib/gcc/x86_64-linux-gnu/12/collect2", "x", false);
    }
}
