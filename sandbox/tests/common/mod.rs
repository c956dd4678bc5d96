//! What the tests share: the sandbox itself, specs, and this machine's compilers as toolchains.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Component, Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use barn_sandbox::{
    CancelToken, Config, Entry, Finished, InsidePath, Kind, Limits, MemorySink, Mount, Priority, RunError,
    Sandbox, Spec,
};
use tempfile::TempDir;

const BWRAP: &str = "/usr/bin/bwrap";

/// The sandbox under test, one for the whole test binary.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        assert!(Path::new(BWRAP).exists(), "these tests need bubblewrap: install the package bubblewrap");
        let helper = PathBuf::from(env!("CARGO_BIN_EXE_barn-room"));
        let config = Config { helper, bwrap: BWRAP.into(), drop_to: None };
        Sandbox::new(config)
            .unwrap_or_else(|error| panic!("this machine cannot sandbox: {error} {:?}", error.hint()))
    })
}

/// A directory the sandbox' uid can reach.
pub fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

pub fn path(text: impl AsRef<Path>) -> InsidePath {
    InsidePath::new(text.as_ref().as_os_str().as_bytes()).unwrap()
}

/// Adds a small input at `/work/in`, for probes that need a file.
pub fn with_input(mut spec: Spec) -> Spec {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let size = source.metadata().unwrap().len();
    spec.inputs.push(Entry { path: path("/work/in"), kind: Kind::File { source, size, executable: false } });
    spec
}

pub fn limits() -> Limits {
    Limits {
        memory_bytes: 1 << 30,
        processes: 64,
        file_bytes: 64 << 20,
        room_bytes: 64 << 20,
        room_entries: 10_000,
        stdio_bytes: 1 << 20,
        outputs_bytes: 32 << 20,
        open_files: 256,
        wall: Duration::from_secs(60),
    }
}

/// The hostile program `probe.c`, linked statically; made once and kept among the build's own files.
fn probe_file() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe.c");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
        let modified = |file: &Path| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        if modified(&made) <= modified(&source) {
            // Under another name first: test processes may do this at the same time.
            let making = made.with_file_name(format!("probe-{}", std::process::id()));
            let mut gcc = Command::new("gcc");
            let status = gcc.args(["-static", "-O1", "-w", "-o"]).arg(&making).arg(source).status().unwrap();
            assert!(status.success(), "the probe must compile");
            fs::rename(making, &made).unwrap();
        }
        made
    })
}

/// The probe as the compile, with `arguments`.
pub fn probe(arguments: &[&str]) -> Spec {
    let host = probe_file().to_owned();
    Spec {
        program: path("/usr/bin/probe"),
        argv: ["probe"].iter().chain(arguments).map(|argument| argument.as_bytes().to_vec()).collect(),
        env: Vec::new(),
        cwd: path("/work"),
        toolchain: vec![Mount { host, inside: path("/usr/bin/probe") }],
        inputs: Vec::new(),
        tree: None,
        trace: false,
        outputs: Vec::new(),
        limits: limits(),
        priority: Priority::Normal,
    }
}

/// Outputs by their index.
pub type Outputs = Vec<(usize, Vec<u8>)>;

/// What `run` gives, with the outputs in memory.
pub fn run(spec: &Spec) -> Result<(Finished, Outputs), RunError> {
    let mut sink = MemorySink::default();
    let finished = sandbox().run(spec, &CancelToken::new().unwrap(), &mut sink)?;
    Ok((finished, sink.0))
}

/// What a program that ends printed.
#[track_caller]
pub fn printed(spec: &Spec) -> String {
    let (finished, _) = run(spec).unwrap();
    String::from_utf8(finished.stdout).unwrap()
}

/// Whether a process of this machine has `mark` among its arguments.
pub fn is_running(mark: &str) -> bool {
    !uids(mark).is_empty()
}

/// The uids, as this namespace counts them, of the processes that have `mark` among their arguments.
pub fn uids(mark: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let marked = processes.filter(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == mark.as_bytes())
    });
    let status = marked.filter_map(|process| fs::read_to_string(process.join("status")).ok());
    status
        .filter_map(|status| status.split("\nUid:").nth(1)?.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Waits until `condition` holds, at most ten seconds.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not after ten seconds: {what}");
}

/// Files of this machine as the sandbox is to see them: programs and libraries bound, the rest copied.
#[derive(Default, Clone)]
pub struct Files {
    mounts: BTreeMap<PathBuf, PathBuf>,
    entries: BTreeMap<PathBuf, Kind>,
}

impl Files {
    /// Adds a program with the libraries it needs.
    pub fn program(&mut self, file: &Path) {
        self.bind(file);
        let output = Command::new("ldd").arg(file).output().unwrap();
        for word in
            String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
        {
            self.bind(Path::new(word));
        }
    }

    /// Adds a file by copying it in.
    pub fn copy(&mut self, file: &Path) {
        let real = self.links(file);
        let metadata = fs::metadata(&real).unwrap();
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let kind = Kind::File { source: real.clone(), size: metadata.len(), executable };
        self.entries.insert(real, kind);
    }

    fn bind(&mut self, file: &Path) {
        let real = self.links(file);
        self.mounts.insert(real.clone(), real);
    }

    /// Adds every symbolic link on the way to `file` and returns where it ends.
    fn links(&mut self, file: &Path) -> PathBuf {
        let mut real = PathBuf::from("/");
        for component in file.components() {
            match component {
                Component::ParentDir => drop(real.pop()),
                Component::Normal(name) => real.push(name),
                _ => continue,
            }
            if let Ok(target) = fs::read_link(&real) {
                let kind = Kind::Symlink { target: target.as_os_str().as_bytes().to_vec() };
                self.entries.insert(real.clone(), kind);
                let resolved = real.parent().unwrap().join(target);
                real = self.links(&resolved);
            }
        }
        real
    }

    pub fn toolchain(&self) -> Vec<Mount> {
        self.mounts.iter().map(|(inside, host)| Mount { host: host.clone(), inside: path(inside) }).collect()
    }

    pub fn inputs(&self) -> Vec<Entry> {
        self.entries.iter().map(|(at, kind)| Entry { path: path(at), kind: kind.clone() }).collect()
    }
}

/// A compiler of this machine with what one compile of `source` in `cwd` needs.
pub fn compiler_files(compiler: &str, arguments: &[&str], source: &Path, cwd: &Path) -> Files {
    let run = |extra: &[&str], tail: &[&str]| {
        let output = Command::new(compiler).args(extra).args(tail).current_dir(cwd).output().unwrap();
        assert!(output.status.success(), "{compiler} {extra:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut files = Files::default();
    files.program(Path::new(compiler));
    for part in ["cc1", "cc1plus", "as"] {
        let printed = run(&[&format!("-print-prog-name={part}")], &[]);
        let part = match printed.trim() {
            absolute if absolute.starts_with('/') => PathBuf::from(absolute),
            name => Path::new("/usr/bin").join(name),
        };
        if part.exists() {
            files.program(&part);
        }
    }
    // Clang takes the headers of the GCC whose start file it finds.
    files.copy(Path::new(run(&["-print-file-name=crtbegin.o"], &[]).trim()));
    // Without what would send the list elsewhere.
    let flags: Vec<_> =
        arguments.iter().copied().filter(|word| !matches!(*word, "-c" | "-o" | "x.o")).collect();
    let depends = run(&["-M", source.to_str().unwrap()], &flags);
    for word in depends.replace("\\\n", " ").split_whitespace().skip(1) {
        files.copy(&cwd.join(word));
    }
    files
}

/// One compile of `name` in `cwd`, where `own.h` lies beside it, into `x.o`.
pub fn compile_spec(compiler: &str, arguments: &[&str], name: &str, cwd: &Path) -> Spec {
    let mut files = compiler_files(compiler, arguments, Path::new(name), cwd);
    files.copy(&cwd.join("own.h"));
    let argv =
        [compiler].iter().chain(arguments).chain([&name]).map(|word| word.as_bytes().to_vec()).collect();
    Spec {
        program: path(compiler),
        argv,
        env: vec![(b"PATH".to_vec(), b"/usr/bin".to_vec()), (b"LC_ALL".to_vec(), b"C".to_vec())],
        cwd: path(cwd),
        toolchain: files.toolchain(),
        inputs: files.inputs(),
        outputs: vec![path(cwd.join("x.o"))],
        limits: limits(),
        ..probe(&[])
    }
}
