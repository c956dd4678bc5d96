//! One user at one machine.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Counts, Tree, lay,
    pace::{pace, patience},
};

/// Longest run of one line of shell, in seconds. What takes longer hangs.
const LINE_SECONDS_MAX: u32 = 120;
/// How long the node may take to write down what became of a call after the wrapper has ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// The names that the masquerade directory holds.
const COMPILERS: [&str; 7] = ["gcc", "g++", "cc", "c++", "clang", "clang++", "rustc"];

/// A state directory, a home, and a directory to build in. Dropping it stops its node.
#[derive(Debug)]
pub struct Desk {
    directory: tempfile::TempDir,
    /// Its path without symbolic links, which compilers would record.
    root: PathBuf,
}

/// How a line of shell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Exit status; 128 and more for a signal.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Desk {
    /// A desk whose node runs.
    pub fn new() -> Self {
        let desk = Self::without_node();
        desk.start();
        desk
    }

    /// Starts its node.
    pub fn start(&self) {
        let started = self.barn(&["start"]);
        assert_eq!(started.status, 0, "the node did not start: {}", started.err());
    }

    /// A desk at which nothing runs.
    pub fn without_node() -> Self {
        Self::below(&env::temp_dir())
    }

    /// The same in a new directory below this one.
    pub fn below(place: &Path) -> Self {
        // Before anything runs that the measurement would take time from.
        pace();
        let directory = tempfile::Builder::new().prefix("barn-desk-").tempdir_in(place).unwrap();
        let root = directory.path().canonicalize().unwrap();
        for folder in ["bin", "masquerade", "nothing", "home", "work"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        fs::DirBuilder::new().mode(0o700).create(root.join("run")).unwrap();
        // Links into the build's own directory, whose path may hold blanks.
        let barn = program("barn");
        program("barn-node");
        symlink(&barn, root.join("bin/barn")).unwrap();
        for name in COMPILERS {
            symlink(&barn, root.join("masquerade").join(name)).unwrap();
        }
        Self { directory, root }
    }

    /// A path in the directory to build in.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("work").join(path)
    }

    /// The node's state directory.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Writes the node's settings. It reads them when it starts.
    pub fn configure(&self, settings: &str) {
        fs::create_dir_all(self.state()).unwrap();
        fs::write(self.state().join("barn.toml"), settings).unwrap();
    }

    /// Writes a file in the directory to build in, in place.
    pub fn write(&self, path: &str, contents: &str) {
        fs::write(self.at(path), contents).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Makes the directory to build in hold this and nothing else.
    pub fn lay(&self, tree: Tree<'_>) {
        lay(&self.at(""), tree);
    }

    /// Runs `barn` with these arguments.
    pub fn barn(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(self.root.join("bin/barn"));
        self.furnish(&mut command, true).args(arguments);
        Ran::of(command.output().expect("barn can be run"))
    }

    /// Runs a line of shell with barn in `$B`, and its links under the names of compilers in `$M`.
    pub fn sh(&self, line: &str) -> Ran {
        Ran::of(self.command(line, true).output().expect("the shell can be run"))
    }

    /// Runs a line of shell in which `$B` is empty and `$M` a directory without links.
    pub fn plain(&self, line: &str) -> Ran {
        Ran::of(self.command(line, false).output().expect("the shell can be run"))
    }

    /// The command that runs a line of shell.
    pub fn command(&self, line: &str, with_barn: bool) -> Command {
        let mut command = Command::new("timeout");
        command.args(Self::limited(line));
        self.furnish(&mut command, with_barn);
        command
    }

    /// What `timeout` is to be given to run a line of shell.
    pub(crate) fn limited(line: &str) -> [String; 6] {
        ["-k", "5", &LINE_SECONDS_MAX.to_string(), "sh", "-c", line].map(str::to_owned)
    }

    /// What `barn stats --json` prints.
    pub fn stats(&self) -> Value {
        self.barn(&["stats", "--json"]).json()
    }

    /// The counts once all calls have been dealt with.
    pub fn counts(&self) -> Counts {
        let end = Instant::now() + patience(SETTLE_MAX);
        loop {
            let counts = Counts::of(&self.stats());
            if counts.is_settled() || Instant::now() > end {
                return counts;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What one line of shell adds to the counts.
    pub fn counted(&self, line: &str) -> (Ran, Counts) {
        let before = self.counts();
        let ran = self.sh(line);
        (ran, self.counts().since(&before))
    }

    /// Waits until this many compiles run here for the node.
    pub fn await_running(&self, count: u64) {
        self.await_that("compiles run", |desk| {
            desk.barn(&["status", "--json"]).json()["running"]["local"].as_u64() == Some(count)
        });
    }

    /// Waits until something holds.
    pub fn await_that(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + patience(Duration::from_secs(30));
        while !holds(self) {
            assert!(Instant::now() < end, "waited in vain until {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process id of the node that holds the state directory.
    pub fn node_pid(&self) -> Option<String> {
        let wanted = format!("BARN_HOME={}", self.state().display());
        let holds = |process: &Path| {
            let part = |name: &str| fs::read(process.join(name)).unwrap_or_default();
            let words = |bytes: Vec<u8>, word: &str| bytes.split(|b| *b == 0).any(|w| w == word.as_bytes());
            words(part("cmdline"), "node") && words(part("environ"), &wanted)
        };
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let node = processes.into_iter().find(|process| holds(process))?;
        Some(node.file_name()?.to_str()?.to_owned())
    }

    /// Sends a signal to the node.
    pub fn signal_node(&self, signal: &str) {
        let pid = self.node_pid().expect("a node runs");
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills the node and waits until it is gone. A node that died meanwhile, or was never there, is no matter.
    pub fn kill_node(&self) {
        let Some(pid) = self.node_pid() else { return };
        // It may have ended by itself: then `kill` finds nobody.
        let _ = Command::new("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status().unwrap();
        self.await_that("the node is gone", |desk| desk.node_pid().as_ref() != Some(&pid));
    }

    /// The variables that every line finds, and no others.
    pub fn variables(&self, with_barn: bool) -> [(&'static str, PathBuf); 6] {
        let at = |path: &str| self.root.join(path);
        [
            ("PATH", "/usr/bin:/bin".into()),
            ("HOME", at("home")),
            ("BARN_HOME", self.state()),
            ("XDG_RUNTIME_DIR", at("run")),
            ("B", if with_barn { at("bin/barn") } else { PathBuf::new() }),
            ("M", at(if with_barn { "masquerade" } else { "nothing" })),
        ]
    }

    fn furnish<'a>(&self, command: &'a mut Command, with_barn: bool) -> &'a mut Command {
        command.env_clear().envs(self.variables(with_barn)).current_dir(self.at("")).stdin(Stdio::null())
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.state().join("node.log")).unwrap_or_default();
        if thread::panicking() && !log.is_empty() {
            eprintln!("log of the node of {}:\n{log}", self.directory.path().display());
        }
        // A test may have left it stopped by a signal, deaf to `barn stop`.
        if self.node_pid().is_some() {
            self.signal_node("CONT");
            self.barn(&["stop"]);
        }
    }
}

impl Ran {
    fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        Self {
            status: status.expect("a process exits or is killed"),
            stdout: output.stdout,
            stderr: output.stderr,
        }
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        let value = serde_json::from_slice(&self.stdout);
        value.unwrap_or_else(|error| panic!("{error}: {}{}", self.out(), self.err()))
    }

    /// Itself, if it went well.
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}{}", self.out(), self.err());
        self
    }
}

/// A program of this build.
fn program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a test knows its program");
    // target/<profile>/deps/<test>
    let profile = own.parent().and_then(Path::parent).expect("tests lie two folders deep");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run make test, or cargo build --workspace --bins first",
        path.display()
    );
    path
}
