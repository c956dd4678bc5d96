//! One machine of the office.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cgroup::Group;
use crate::command::HostCommand;
use crate::link::{Bridge, Cable, Traffic, traffic};
use crate::rooms::{Rooms, in_network};
use crate::spec::check_cpus;
use crate::{Error, Result};

/// Longest wait for a `barn` verb run by [`Host::barn`]. `join` may have to look for the mesh; a verb that takes
/// longer than this has hung.
pub const VERB_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for a signal to take effect on every process of a host.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);

/// The kernel brings links up behind our back, within a second even when it is busy.
const CABLE_LIMIT: Duration = Duration::from_secs(10);

/// A machine of the office: its own name, network, files, cores and processes.
///
/// It is taken down with its office.
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) dir: PathBuf,
    pub(crate) bin_dir: PathBuf,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) group: Group,
    pub(crate) cable: Cable,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) node: Mutex<Option<Child>>,
}

/// A process of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id on this machine.
    pub pid: i32,
    /// The name of its program, at most 15 bytes: `cc1plus`, `barn-node`.
    pub name: String,
    /// Its state as `ps` writes it: `R` running, `S` sleeping, `T` stopped, `Z` dead but not yet collected.
    pub state: char,
}

impl Host {
    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address on the office's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The home directory, the same path inside and outside; a good place for a project.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// `BARN_HOME`: the node's state.
    pub fn barn_home(&self) -> PathBuf {
        self.dir.join("barn")
    }

    /// `XDG_RUNTIME_DIR`: the node's socket.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What the node started by [`Host::start_node`] wrote to its standard output and error.
    pub fn node_log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// A program to be run on this host, in its home directory.
    ///
    /// The environment is the host's own: `PATH` (programs under test first), `HOME`, `BARN_HOME`,
    /// `XDG_RUNTIME_DIR`, `USER`, `LANG`, and `BARN_NO_START=1`, because a node that was killed shall stay dead.
    /// Only `TERM` and `BARN_LOG` come from the owner's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<HostCommand> {
        self.command_with_cores_of(self, program)
    }

    /// The same, but it uses the cores of another host: as if that one had this one's files.
    pub fn command_with_cores_of(&self, other: &Host, program: impl AsRef<OsStr>) -> Result<HostCommand> {
        let doors = other.group.doors()?;
        let mut command = HostCommand::new(program.as_ref(), &self.home(), self.rooms.clone(), doors)
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", self.bin_dir.display()))
            .env("HOME", self.home())
            .env("BARN_HOME", self.barn_home())
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .env("BARN_NO_START", "1")
            .env("USER", "root")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        for name in ["TERM", "BARN_LOG"] {
            if let Some(value) = std::env::var_os(name) {
                command = command.env(name, value);
            }
        }
        Ok(command)
    }

    /// Runs `barn` with these arguments and returns its output, whatever its exit status.
    pub fn barn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.command("barn")?.args(args).output_within(VERB_LIMIT)
    }

    /// Runs `barn` with these arguments and returns its standard output without the last newline. An exit
    /// status other than 0 is an error that quotes its standard error.
    pub fn barn_text(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let command = self.command("barn")?.args(args);
        let what = format!("{}: {}", self.name, command.describe());
        let output = command.output_within(VERB_LIMIT)?;
        if !output.status.success() {
            let said = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
            return Err(Error::Failed { command: what, said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
    }

    /// `barn status --json`.
    pub fn status_json(&self) -> Result<Value> {
        self.barn_json("status")
    }

    /// `barn stats --json`.
    pub fn stats_json(&self) -> Result<Value> {
        self.barn_json("stats")
    }

    fn barn_json(&self, verb: &str) -> Result<Value> {
        let text = self.barn_text([verb, "--json"])?;
        let command = format!("{}: barn {verb} --json", self.name);
        serde_json::from_str(&text).map_err(|source| Error::Json { command, source })
    }

    /// Starts `barn-node node` with its output going to [`Host::node_log`]. Returns at once;
    /// [`Host::wait_for_node`] waits until it answers.
    pub fn start_node(&self) -> Result<()> {
        let mut node = self.lock_node();
        if let Some(child) = node.as_mut()
            && child.try_wait().map_err(Error::path("cannot wait for", "barn-node"))?.is_none()
        {
            return Err(Error::Spec(format!("host {} already runs a node", self.name)));
        }
        let path = self.node_log();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::path("cannot open", &path))?;
        let copy = log.try_clone().map_err(Error::path("cannot open", &path))?;
        *node = Some(self.command("barn-node")?.arg("node").stdout(log).stderr(copy).spawn()?);
        Ok(())
    }

    /// Waits until the node answers `barn status`.
    pub fn wait_for_node(&self, limit: Duration) -> Result<()> {
        wait_until(limit, &format!("start of the node on {}", self.name), || self.status_json().is_ok())
            .map(drop)
    }

    /// The most that the running node has had in memory at once, in bytes (`VmHWM`).
    pub fn node_memory_peak(&self) -> Result<u64> {
        let node = self.processes().into_iter().find(|process| process.name == "barn-node");
        let pid = node.ok_or_else(|| Error::Spec(format!("host {} runs no node", self.name)))?.pid;
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(Error::path("cannot read", &path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kibibytes.map(|kibibytes| kibibytes * 1024).ok_or_else(|| Error::Spec(format!("{path} has no VmHWM")))
    }

    /// Kills the node started by [`Host::start_node`] with SIGKILL, and only it: what it started is left to its
    /// fate, as in a crash.
    pub fn kill_node(&self) -> Result<()> {
        let Some(mut child) = self.lock_node().take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(Error::path("cannot kill", "barn-node"))
    }

    /// Stops the node itself with SIGSTOP while the rest of the host goes on.
    pub fn pause_node(&self) -> Result<()> {
        self.signal_node(Signal::SIGSTOP)
    }

    /// Lets a paused node go on.
    pub fn resume_node(&self) -> Result<()> {
        self.signal_node(Signal::SIGCONT)
    }

    fn signal_node(&self, signal: Signal) -> Result<()> {
        let node = self.lock_node();
        let Some(child) = node.as_ref() else {
            return Err(Error::Spec(format!("host {} runs no node", self.name)));
        };
        signal_one(child.id().cast_signed(), signal)
    }

    /// Stops every process of the host, as a machine that sleeps.
    pub fn freeze(&self) -> Result<()> {
        self.signal_until(Signal::SIGSTOP, Process::stands_still)
    }

    /// Whether the host has processes and all are stopped.
    pub fn is_frozen(&self) -> bool {
        let processes = self.processes();
        processes.iter().any(|process| process.state == 'T') && processes.iter().all(Process::stands_still)
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal_until(Signal::SIGCONT, |process| process.state != 'T')
    }

    /// Kills every process of the host, as a machine that loses power. Its files stay.
    pub fn power_off(&self) -> Result<()> {
        let child = self.lock_node().take();
        let killed = self.signal_until(Signal::SIGKILL, |process| process.state == 'Z');
        if let Some(mut child) = child {
            child.wait().map_err(Error::path("cannot wait for", "barn-node"))?;
        }
        killed
    }

    /// Pulls the network cable.
    pub fn cut(&self) -> Result<()> {
        self.bridge.plug(&self.cable, "down")
    }

    /// Cuts one direction: the host hears the others, they do not hear it.
    pub fn mute(&self) -> Result<()> {
        self.cable.mute(&self.rooms.network)
    }

    /// Cuts one direction: the others hear the host, it does not hear them.
    pub fn deafen(&self) -> Result<()> {
        self.cable.deafen(&self.bridge)
    }

    /// Mends the cable after [`Host::cut`], [`Host::mute`] or [`Host::deafen`].
    pub fn heal(&self) -> Result<()> {
        self.cable.shape_both(&self.bridge, &self.rooms.network)?;
        self.bridge.plug(&self.cable, "up")?;
        self.wait_for_cable()
    }

    /// Runs `work` in a thread of this process that stands in the host's network, to open sockets there.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_network(&self.rooms.network, || Ok(work()))
    }

    /// Waits until the cable carries.
    pub(crate) fn wait_for_cable(&self) -> Result<()> {
        let mut result = Ok(false);
        wait_until(CABLE_LIMIT, &format!("the cable of {}", self.name), || {
            result = self.bridge.carries(&self.cable, &self.rooms.network);
            !matches!(result, Ok(false))
        })?;
        result.map(drop)
    }

    /// Changes the cores the host may use; `None` gives it the whole machine.
    pub fn slow(&self, cpus: Option<f64>) -> Result<()> {
        cpus.map_or(Ok(()), check_cpus)?;
        self.group.set_cpus(cpus)
    }

    /// What has passed the host's cable since it was laid.
    pub fn traffic(&self) -> Result<Traffic> {
        traffic(&self.rooms.network)
    }

    /// The processes of this host, by its cgroups.
    pub fn processes(&self) -> Vec<Process> {
        self.group.pids().into_iter().filter_map(Process::read).collect()
    }

    fn signal_until(&self, signal: Signal, done: impl Fn(&Process) -> bool) -> Result<()> {
        // Again and again, for a process may fork between being listed and being signalled.
        let what = format!("{signal} on every process of {}", self.name);
        let mut signalled = BTreeSet::new();
        let mut result = Ok(());
        wait_until(SIGNAL_LIMIT, &what, || {
            let processes = self.processes();
            let fresh: Vec<_> =
                processes.iter().map(|process| process.pid).filter(|pid| signalled.insert(*pid)).collect();
            for pid in &fresh {
                if let Err(error) = signal_one(*pid, signal) {
                    result = Err(error);
                }
            }
            result.is_err() || (fresh.is_empty() && processes.iter().all(&done))
        })?;
        result
    }

    fn lock_node(&self) -> MutexGuard<'_, Option<Child>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the dead node when the office is gone.
    pub(crate) fn bury_node(&self) {
        if let Some(mut child) = self.lock_node().take() {
            // The guard has killed it; this only keeps it from staying a zombie.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        let name = before.split_once('(')?.1.to_owned();
        Some(Process { pid, name, state: after.chars().next()? })
    }

    /// Stopped, dead, or in a wait from which it returns into the stop: a parent in vfork whose child was stopped
    /// before its exec stays in `D`.
    fn stands_still(&self) -> bool {
        matches!(self.state, 'T' | 'D' | 'Z' | 'X')
    }
}

/// A process that is gone already has what the signal wanted.
fn signal_one(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(errno) => Err(Error::system(format!("cannot send {signal} to process {pid}"))(errno)),
    }
}

/// Asks `done` until it says yes, and returns how long that took.
pub(crate) fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if done() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= limit {
            return Err(Error::Timeout { what: what.to_owned(), limit });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
