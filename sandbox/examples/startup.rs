//! Prints what a run costs beside the program itself: `cargo run --release -p barn-sandbox --example startup`.
//!
//! The program is `true`, and for the cost of watching a C++ compile. Each figure is the median of 20 runs, from the
//! request until everything is gone, and in brackets the part before the program started. With the file in which the
//! kernel counts the CPU time of this process' control group (`cpu.stat`, or `cpuacct.usage`), the mean CPU time of a
//! run, too.

use std::{
    error::Error,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use barn_sandbox::{
    CancelToken, Config, Entry, InsidePath, Kind, Limits, MemorySink, Mount, Priority, Sandbox, Spec,
};

const RUNS: usize = 20;
/// Together 10 MB, as many as a large unit reads.
const INPUTS: usize = 1000;
const INPUT_BYTES: usize = 10_000;
/// What a packed gcc or clang has.
const TOOLCHAIN_FILES: usize = 40;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let helper = std::env::current_exe()?.with_file_name("../barn-room");
    let sandbox = Sandbox::new(Config { helper, bwrap: "/usr/bin/bwrap".into(), drop_to: None })?;
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let blob = directory.path().join("blob");
    fs::write(&blob, vec![b'x'; INPUT_BYTES])?;
    let bare = spec()?;
    let mut inputs = bare.clone();
    inputs.inputs = (0..INPUTS).map(|index| input(&blob, index)).collect::<Outcome<_>>()?;
    let mut toolchain = bare.clone();
    for index in toolchain.toolchain.len()..TOOLCHAIN_FILES {
        let inside = InsidePath::new(format!("/usr/lib/tools/{index}"))?;
        toolchain.toolchain.push(Mount { host: blob.clone(), inside });
    }
    let both = Spec { toolchain: toolchain.toolchain.clone(), ..inputs.clone() };
    measure(&sandbox, "the program alone", &bare)?;
    measure(&sandbox, "and 1,000 inputs, 10 MB", &inputs)?;
    measure(&sandbox, "or 40 toolchain files", &toolchain)?;
    measure(&sandbox, "or both", &both)?;
    for count in [300, INPUTS] {
        let tree = tempfile::tempdir_in(directory.path())?;
        let laid = Spec { inputs: both.inputs[..count].to_vec(), ..both.clone() };
        let spec = over_tree(&laid, tree.path())?;
        measure(&sandbox, &format!("a tree of 40 and {count}"), &spec)?;
    }
    let mut compile = compile(&directory.path().join("x.cc"))?;
    for _ in 0..3 {
        compile.trace = false;
        measure(&sandbox, "a C++ compile", &compile)?;
        compile.trace = true;
        measure(&sandbox, "the same, watched", &compile)?;
    }
    Ok(())
}

/// The same files as a tree at `tree`, which is made.
fn over_tree(spec: &Spec, tree: &Path) -> Outcome<Spec> {
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755))?;
    let mut inputs = Vec::new();
    let files = spec.inputs.iter().filter_map(|entry| match &entry.kind {
        Kind::File { source, .. } => Some((&entry.path, source)),
        _ => None,
    });
    for (path, source) in files.chain(spec.toolchain.iter().map(|mount| (&mount.inside, &mount.host))) {
        let at = tree.join(path.as_path().strip_prefix("/")?);
        fs::create_dir_all(at.parent().ok_or("a file has a directory")?)?;
        fs::hard_link(source, &at).or_else(|_| fs::copy(source, &at).map(drop))?;
        let kind = Kind::Laid { size: at.metadata()?.len(), executable: true };
        inputs.push(Entry { path: path.clone(), kind });
    }
    let outputs = vec![InsidePath::new("/work/build/x.o")?];
    let cwd = InsidePath::new("/work/build")?;
    Ok(Spec { inputs, toolchain: Vec::new(), outputs, cwd, tree: Some(tree.to_owned()), ..spec.clone() })
}

/// A unit with some 260 headers, over this machine's own `/usr`.
fn compile(source: &Path) -> Outcome<Spec> {
    fs::write(source, "#include <iostream>\n#include <map>\n#include <regex>\n#include <vector>\nint x;\n")?;
    let size = source.metadata()?.len();
    let source = Kind::File { source: source.to_owned(), size, executable: false };
    let mut inputs = vec![
        Entry { path: InsidePath::new("/usr")?, kind: Kind::Directory },
        Entry { path: InsidePath::new("/work/x.cc")?, kind: source },
    ];
    for link in ["/lib", "/lib64", "/bin"] {
        if let Ok(target) = fs::read_link(link) {
            let kind = Kind::Symlink { target: target.as_os_str().as_bytes().to_vec() };
            inputs.push(Entry { path: InsidePath::new(link)?, kind });
        }
    }
    let argv = ["g++", "-c", "-O1", "x.cc", "-o", "x.o"].map(|word| word.as_bytes().to_vec()).to_vec();
    Ok(Spec {
        program: InsidePath::new("/usr/bin/g++")?,
        argv,
        env: vec![(b"PATH".to_vec(), b"/usr/bin".to_vec())],
        toolchain: Vec::new(),
        inputs,
        tree: Some(PathBuf::from("/")),
        outputs: vec![InsidePath::new("/work/x.o")?],
        ..spec()?
    })
}

/// CPU time of the control group so far, in milliseconds.
fn cpu_ms(counter: &Path) -> Outcome<f64> {
    let text = fs::read_to_string(counter)?;
    match text.strip_prefix("usage_usec ") {
        Some(micros) => Ok(micros.lines().next().unwrap_or_default().parse::<f64>()? / 1e3),
        None => Ok(text.trim().parse::<f64>()? / 1e6),
    }
}

fn measure(sandbox: &Sandbox, what: &str, spec: &Spec) -> Outcome<()> {
    let counter = std::env::args_os().nth(1).map(PathBuf::from);
    let before = counter.as_deref().map(cpu_ms).transpose()?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let finished = sandbox.run(spec, &CancelToken::new()?, &mut MemorySink::default())?;
        times.push((finished.wall, finished.setup));
    }
    times.sort();
    let (wall, setup) = times[RUNS / 2];
    print!("{what:24} {:6.1} ms ({:.1} ms)", wall.as_secs_f64() * 1e3, setup.as_secs_f64() * 1e3);
    if let (Some(counter), Some(before)) = (counter, before) {
        print!("  {:.2} ms of CPU", (cpu_ms(&counter)? - before) / RUNS as f64);
    }
    println!();
    Ok(())
}

fn input(blob: &Path, index: usize) -> Outcome<Entry> {
    let path = InsidePath::new(format!("/work/include/d{}/h{index}.h", index % 20))?;
    let kind = Kind::File { source: blob.to_owned(), size: INPUT_BYTES as u64, executable: false };
    Ok(Entry { path, kind })
}

fn spec() -> Outcome<Spec> {
    let program = fs::canonicalize("/usr/bin/true")?;
    let mut toolchain = vec![Mount { host: program.clone(), inside: InsidePath::new("/usr/bin/true")? }];
    let listing = Command::new("ldd").arg(&program).output()?;
    for word in String::from_utf8(listing.stdout)?.split_whitespace().filter(|word| word.starts_with('/')) {
        let host: PathBuf = fs::canonicalize(word)?;
        toolchain.push(Mount { host, inside: InsidePath::new(Path::new(word).as_os_str().as_bytes())? });
    }
    Ok(Spec {
        program: InsidePath::new("/usr/bin/true")?,
        argv: vec![b"true".to_vec()],
        env: Vec::new(),
        cwd: InsidePath::new("/work")?,
        toolchain,
        inputs: Vec::new(),
        tree: None,
        trace: false,
        outputs: Vec::new(),
        limits: Limits::default(),
        priority: Priority::Normal,
    })
}
