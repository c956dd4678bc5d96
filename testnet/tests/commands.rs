//! The program `testnet`: orders, ends of every kind, and the removal of leftovers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TESTNET: &str = env!("CARGO_BIN_EXE_testnet");

/// Longest wait for the guard: its own bound is 10 s.
const MOMENT: Duration = Duration::from_secs(15);

/// A running `testnet up --bare`.
struct Up {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Up {
    /// Starts it and waits until it is ready; `None` where no office can be made and CI does not insist.
    fn start() -> Option<Up> {
        let mut child = Command::new(TESTNET)
            .args(["up", "--bare", "--hosts", "2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
                assert!(
                    said.contains("no office can be made here") && std::env::var_os("CI").is_none(),
                    "{said}"
                );
                eprintln!("skipped: {said}");
                return None;
            }
        }
        Some(Up { child, input, output })
    }

    fn order(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Has a host run a process that ignores everything but SIGKILL, and returns its id.
    fn stubborn(&mut self) -> i32 {
        // Through files, for orders are split at white space and know no quotes.
        let home = self.home();
        fs::write(home.join("stubborn.sh"), "trap '' TERM HUP INT\nwhile :; do sleep 1; done\n").unwrap();
        fs::write(
            home.join("start.sh"),
            "setsid sh $HOME/stubborn.sh >/dev/null 2>&1 </dev/null &\necho $!\n",
        )
        .unwrap();
        self.order(&format!("exec h1 sh {}", home.join("start.sh").display()));
        self.answer().parse().unwrap()
    }

    fn directory(&self) -> PathBuf {
        let prefix = format!("barn-office-{}-", self.child.id());
        let found = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        found.map(|entry| entry.path()).find(|path| name(path).starts_with(&prefix)).unwrap()
    }

    fn home(&self) -> PathBuf {
        self.directory().join("hosts/h1/home")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with(['Z', 'X']))
}

/// What is left of an office: its directory and its cgroups.
fn left(office: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup"), std::env::temp_dir()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy() == office {
                left.push(entry.path());
            } else if dir.starts_with("/sys/fs/cgroup") && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    left
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < MOMENT, "{what} took too long");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The guard of an office, by its command line, which names the office's directory.
fn guard_of(office: &str) -> i32 {
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("barn-office-guard") && line.contains(office)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_guard).unwrap()
}

/// An office that ends by `end` leaves nothing, and exits with `status` if it exits at all.
fn check_end(end: impl FnOnce(&mut Up), status: Option<i32>) {
    let Some(mut up) = Up::start() else { return };
    let office = name(&up.directory());
    let pid = up.stubborn();
    assert!(alive(pid));
    assert!(left(&office).len() >= 2);
    end(&mut up);
    drop(up.input);
    assert_eq!(up.child.wait().unwrap().code(), status);
    if status.is_none() {
        // Killed outright: the guard works on its own.
        wait_until("the guard", || left(&office).is_empty());
    }
    assert_eq!(left(&office), Vec::<PathBuf>::new());
    assert!(!alive(pid));
}

#[test]
fn quitting_leaves_nothing() {
    check_end(|up| up.order("quit"), Some(0));
}

#[test]
fn the_end_of_input_leaves_nothing() {
    check_end(|_| (), Some(0));
}

#[test]
fn an_interrupt_leaves_nothing() {
    check_end(|up| up.signal(Signal::SIGINT), Some(130));
}

#[test]
fn termination_leaves_nothing() {
    check_end(|up| up.signal(Signal::SIGTERM), Some(143));
}

#[test]
fn sigkill_leaves_nothing() {
    check_end(|up| up.signal(Signal::SIGKILL), None);
}

#[test]
fn orders_reach_the_hosts() {
    let Some(mut up) = Up::start() else { return };
    up.order("exec h2 uname -n");
    assert_eq!(up.answer(), "h2");
    let pid = up.stubborn();
    let state = || {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1.chars().next()
    };
    up.order("freeze h1");
    wait_until("freezing", || state() == Some('T'));
    up.order("status");
    assert_eq!(up.answer(), "h1       frozen");
    up.order("thaw h1");
    wait_until("thawing", || state() != Some('T'));
    up.order("off h1");
    wait_until("power off", || !alive(pid));
    up.order("slow h2 0.3");
    up.order("cut h3");
    up.order("cut h2");
    up.order("exec h2 cat /sys/class/net/nothing");
    up.order("quit");
    drop(up.input);
    let output = up.child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no host is named h3"), "{said}");
    assert!(said.contains("cat on h2: exit status: 1"), "{said}");
}

#[test]
fn clean_removes_the_dead_and_spares_the_living() {
    let Some(mut dead) = Up::start() else { return };
    let Some(living) = Up::start() else { return };
    let (office, other) = (name(&dead.directory()), name(&living.directory()));
    let pid = dead.stubborn();
    kill(Pid::from_raw(guard_of(&office)), Signal::SIGKILL).unwrap();
    dead.signal(Signal::SIGKILL);
    dead.child.wait().unwrap();
    assert!(alive(pid) && left(&office).len() >= 2);

    let output = Command::new(TESTNET).arg("clean").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(&office) && !said.contains(&other), "{said}");
    assert_eq!(left(&office), Vec::<PathBuf>::new());
    assert!(!alive(pid));
    assert!(left(&other).len() >= 2);
    drop(living.input);
    let mut child = living.child;
    assert!(child.wait().unwrap().success());
    assert_eq!(left(&other), Vec::<PathBuf>::new());
}
