//! Several machines in one mesh, and the projects they build: for tests of what one machine cannot show.
//!
//! The hosts are network namespaces of `barn-testnet`. Everything goes through the real programs; what a test
//! knows about a node it reads from `barn status --json` and `barn stats --json`.
//!
//! The tests measure time, so only one office stands at a time, over all test processes of one build. When a test
//! fails, the end of every node's log is printed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::Deref,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Output},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use barn_testnet::{Host, Office, OfficeSpec, office_or_skip};
use serde_json::Value;

use crate::{
    Ran, Snapshot,
    pace::{burner, lasting, pace, patience},
    snapshot,
};

/// A node that does not answer by then has not started.
const START_MAX: Duration = Duration::from_secs(20);
/// Every member sees every other by then.
pub const SIGHT_MAX: Duration = Duration::from_secs(10);
/// After a break, every member sees every other again by then.
pub const HEAL_MAX: Duration = Duration::from_secs(30);
/// A compile that takes longer has hung; alone, none takes more than ten seconds.
const COMPILE_MAX: Duration = Duration::from_secs(120);
/// A toolchain has reached every worker by then.
const WARM_MAX: Duration = Duration::from_secs(120);
/// Lines of a node's log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// An office whose nodes run.
pub struct Mesh {
    office: Office,
    _turn: File,
}

impl Mesh {
    /// The office of `spec` with a running node on each host, all of them members of the first one's mesh and in
    /// sight of each other; `None` where no office can be made.
    pub fn form(spec: OfficeSpec) -> Option<Self> {
        let mesh = Self::start(spec)?;
        mesh.unite();
        Some(mesh)
    }

    /// The same without a mesh.
    pub fn start(spec: OfficeSpec) -> Option<Self> {
        let mesh = Self::empty(spec)?;
        mesh.hosts().iter().for_each(start_node);
        Some(mesh)
    }

    /// The same without nodes.
    pub fn empty(spec: OfficeSpec) -> Option<Self> {
        let turn = File::open(&spec.bin_dir).expect("the programs have been built");
        turn.lock().expect("a directory can be locked");
        // Before anything runs that the measurement would take time from.
        pace();
        let office = office_or_skip(spec)?;
        Some(Self { office, _turn: turn })
    }

    /// Makes the nodes of all hosts members of the first one's mesh and waits until they are in sight of each other.
    pub fn unite(&self) {
        let (first, others) = self.hosts().split_first().expect("an office has hosts");
        first.barn_text(["mesh", "init"]).unwrap();
        others.iter().for_each(|host| join(first, host));
        let all: Vec<&Host> = self.hosts().iter().collect();
        self.await_sight(&all, SIGHT_MAX);
    }

    /// Waits until these hosts all see each other.
    pub fn await_sight(&self, hosts: &[&Host], limit: Duration) {
        for host in hosts {
            for other in hosts.iter().filter(|other| other.name() != host.name()) {
                self.until(limit, &format!("{} sees {}", host.name(), other.name()), || sees(host, other));
            }
        }
    }

    /// Waits until `holds`, and returns how long that took. The limit is that of a quick machine.
    pub fn until(&self, limit: Duration, what: &str, holds: impl FnMut() -> bool) -> Duration {
        self.office.wait_until(patience(limit), what, holds).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Has `requester` compile with `compiler` until each of `workers` has done something for it, so that all of
    /// them have the toolchain.
    pub fn warm(&self, requester: &Host, workers: &[&Host], compiler: &str) {
        let name = format!("warm-{compiler}");
        let project = Project::new(requester, &name);
        let served = |worker: &&&Host| count(requester, &format!("/peers/{}/sent", worker.name())) > 0;
        requester.barn_text(["stats", "--zero"]).unwrap();
        let began = Instant::now();
        let mut round = 0;
        while workers.iter().filter(served).count() < workers.len() {
            assert!(
                began.elapsed() < patience(WARM_MAX),
                "not every worker has {compiler}: {}",
                report(requester)
            );
            let units: Vec<Unit> = (0..6).map(|n| project.burner(compiler, round * 6 + n, 1)).collect();
            let ran = project.build(&units, Through::Barn, 6);
            ran.iter().for_each(|ran| assert_eq!((ran.status, ran.err().as_str()), (0, "")));
            round += 1;
        }
        requester.barn_text(["stats", "--zero"]).unwrap();
    }

    /// Replaces the node of `host` by a new one, which remembers none of its peers' failures, and waits until it
    /// sees all of `others`.
    pub fn renew(&self, host: &Host, others: &[&Host]) {
        host.kill_node().unwrap();
        start_node(host);
        let mut all = others.to_vec();
        all.push(host);
        self.await_sight(&all, HEAL_MAX);
        host.barn_text(["stats", "--zero"]).unwrap();
    }
}

impl Deref for Mesh {
    type Target = Office;

    fn deref(&self) -> &Office {
        &self.office
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for host in self.office.hosts() {
            let log = fs::read_to_string(host.node_log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- the node of {}\n{}", host.name(), last.join("\n"));
        }
    }
}

/// Starts a host's node and waits until it answers.
pub fn start_node(host: &Host) {
    host.start_node().unwrap();
    host.wait_for_node(patience(START_MAX)).unwrap();
}

/// Lets `host` into the mesh of `admin` by a token alone.
pub fn join(admin: &Host, host: &Host) {
    let token = admin.barn_text(["mesh", "invite"]).unwrap();
    host.barn_text(["join", token.as_str()]).unwrap();
}

/// Whether `host` is connected to `other` and has heard what it offers.
pub fn sees(host: &Host, other: &Host) -> bool {
    host.status_json().is_ok_and(|status| peer(&status, other.name()).is_some_and(is_connected))
}

/// The names of the peers that `host` is connected to.
pub fn connected(host: &Host) -> Vec<String> {
    let status = host.status_json().unwrap();
    let peers = status["peers"].as_array().expect("peers are always listed");
    let connected = peers.iter().filter(|peer| is_connected(peer));
    connected.map(|peer| peer["name"].as_str().expect("a peer has a name").to_owned()).collect()
}

/// A peer's entry in a status.
pub fn peer<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["peers"].as_array()?.iter().find(|peer| peer["name"] == name)
}

fn is_connected(peer: &Value) -> bool {
    // The round-trip time is known once there is a data link.
    peer["state"] == "connected" && peer["rtt_ms"].is_number()
}

/// One number of `barn stats --json`; what is not counted yet is 0.
pub fn count(host: &Host, pointer: &str) -> u64 {
    host.stats_json().unwrap().pointer(pointer).map_or(0, |count| count.as_u64().expect("an integer"))
}

/// The troubles that a host's node has counted.
pub fn fallbacks(host: &Host) -> BTreeMap<String, u64> {
    serde_json::from_value(host.stats_json().unwrap()["fallbacks"].clone()).expect("reasons with counts")
}

/// How many actions of others a host's node runs at this moment; 0 if it does not answer.
pub fn running_for_others(host: &Host) -> u64 {
    host.status_json().ok().and_then(|status| status["running"]["for_others"].as_u64()).unwrap_or(0)
}

/// How many actions of `host` are with `worker`; 0 if its node does not answer.
pub fn running_on(host: &Host, worker: &Host) -> u64 {
    let status = host.status_json().unwrap_or_default();
    status["running"]["remote"][worker.name()].as_u64().unwrap_or(0)
}

/// How many of its own compiles a host's node has placed on the host itself.
pub fn running_here(host: &Host) -> u64 {
    host.status_json().unwrap_or_default()["running"]["local"].as_u64().unwrap_or(0)
}

/// All that a node can say of what became of compiles, for messages.
pub fn report(host: &Host) -> String {
    let text = |value: barn_testnet::Result<Value>| value.map_or_else(|e| e.to_string(), |v| v.to_string());
    format!("{} {}", text(host.stats_json()), text(host.status_json()))
}

/// How a compiler is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// With `barn` in front.
    Barn,
    /// As it is.
    Nothing,
}

/// One compile: the words of its command line without barn.
#[derive(Debug, Clone)]
pub struct Unit {
    words: Vec<String>,
}

impl Unit {
    /// With one more flag.
    #[must_use]
    pub fn with(mut self, flag: &str) -> Self {
        self.words.insert(1, flag.to_owned());
        self
    }
}

/// Sources on one host's disk, and the directory `out` beside them that every build writes to.
#[derive(Clone, Copy, Debug)]
pub struct Project<'a> {
    host: &'a Host,
    name: &'a str,
}

impl<'a> Project<'a> {
    /// An empty project.
    pub fn new(host: &'a Host, name: &'a str) -> Self {
        let project = Self { host, name };
        fs::create_dir_all(project.at("out")).unwrap();
        project
    }

    /// A path in the project; the same inside the host and outside.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.host.home().join(self.name).join(path)
    }

    /// A unit with this source, its object `out/STEM.o` and whatever `flags` say.
    pub fn unit(&self, compiler: &str, file: &str, source: &str, flags: &[&str]) -> Unit {
        fs::write(self.at(file), source).unwrap();
        let stem = file.split_once('.').map_or(file, |(stem, _)| stem);
        let fixed = ["-c".to_owned(), file.to_owned(), "-o".to_owned(), format!("out/{stem}.o")];
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        let words = std::iter::once(compiler.to_owned()).chain(flags).chain(fixed).collect();
        Unit { words }
    }

    /// A C++ unit that takes at least as many times 0.3 s of a core as `steps` says, and nothing but the compiler.
    pub fn burner(&self, compiler: &str, number: usize, steps: usize) -> Unit {
        let source = burner(number, lasting(steps));
        self.unit(compiler, &format!("burner{number}.cc"), &source, &["-O1", "-g", "-std=c++17"])
    }

    /// Builds all units, `jobs` at once.
    pub fn build(&self, units: &[Unit], through: Through, jobs: usize) -> Vec<Ran> {
        let next = AtomicUsize::new(0);
        let ran = Mutex::new(vec![None; units.len()]);
        let work = || {
            while let Some((number, unit)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, units.get(n)?)))
            {
                let result = self.compile(unit, through);
                ran.lock().unwrap()[number] = Some(result);
            }
        };
        thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
        ran.into_inner().unwrap().into_iter().map(|ran| ran.expect("every unit was built")).collect()
    }

    /// Builds one unit.
    pub fn compile(&self, unit: &Unit, through: Through) -> Ran {
        self.command(unit, through).output_within(patience(COMPILE_MAX)).unwrap().into()
    }

    /// Begins to build one unit through barn. Nobody reads what it says.
    pub fn begin(&self, unit: &Unit) -> Child {
        let child = self.command(unit, Through::Barn);
        child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    fn command(&self, unit: &Unit, through: Through) -> barn_testnet::HostCommand {
        let (compiler, rest) = unit.words.split_first().expect("a unit has a compiler");
        let command = match through {
            Through::Barn => self.host.command("barn").unwrap().arg(compiler),
            Through::Nothing => self.host.command(compiler).unwrap(),
        };
        command.args(rest).current_dir(self.at(""))
    }

    /// Everything that the last build wrote; `out` is empty afterwards.
    pub fn take_outputs(&self) -> Snapshot {
        let found = snapshot(&self.at("out"));
        fs::remove_dir_all(self.at("out")).unwrap();
        fs::create_dir(self.at("out")).unwrap();
        found
    }

    /// Builds all units with the bare compiler and holds what it said and wrote against what a build through barn
    /// did.
    pub fn assert_local(&self, units: &[Unit], mesh: &[Ran], written: &Snapshot) {
        let local = self.build(units, Through::Nothing, 2);
        for (unit, (mesh, local)) in units.iter().zip(mesh.iter().zip(&local)) {
            assert_eq!(mesh, local, "{}", unit.words.join(" "));
        }
        assert_same(written, &self.take_outputs());
    }
}

/// Fails with the names of files that are not the same on both sides.
pub fn assert_same(one: &Snapshot, two: &Snapshot) {
    let paths = one.keys().chain(two.keys());
    let differing: Vec<_> = paths.filter(|path| one.get(*path) != two.get(*path)).collect();
    assert!(differing.is_empty(), "not the same: {differing:?}");
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let status = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        let status = status.expect("it exited or was killed");
        Self { status, stdout: output.stdout, stderr: output.stderr }
    }
}
