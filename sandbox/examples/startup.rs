//! Prints what a run costs beside the program itself: `cargo run --release -p barn-sandbox --example startup`.
//!
//! The program is `true`. Each figure is the median of 20 runs, from the request until everything is gone, and in
//! brackets the part before the program started.

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
    measure(&sandbox, "or both", &both)
}

fn measure(sandbox: &Sandbox, what: &str, spec: &Spec) -> Outcome<()> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let finished = sandbox.run(spec, &CancelToken::new()?, &mut MemorySink::default())?;
        times.push((finished.wall, finished.setup));
    }
    times.sort();
    let (wall, setup) = times[RUNS / 2];
    println!("{what:24} {:6.1} ms ({:.1} ms)", wall.as_secs_f64() * 1e3, setup.as_secs_f64() * 1e3);
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
