//! Where tables are tried: a desk, and a machine of an office that compiles nothing itself.
//!
//! A [`Lane`] is both, for one test at a time, with one directory to build in. The machine of the office, the
//! *requester*, has one slot. While a line runs whose compile is to travel, that slot is held by a compile which has been
//! stopped: so the placement sends everything away that may go, however quick the machine is, and the processor is free.
//! Where a compile is to run on the requester, the slot is given back.
//!
//! All lanes share one worker, and are made when the first is wanted. Requesters do not look into the office's
//! cache, or one lane would be served what another has compiled.

use std::{
    fs,
    io::Write as _,
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Counts, Desk, Ran,
    office::{Mesh, Project, fallbacks, running_here, start_node},
    pace::patience,
};

/// A compile that has not been to a worker and back by then does not travel; the worker may have to fetch the compiler
/// first.
const TRAVEL_MAX: Duration = Duration::from_secs(25);
/// A slot is taken or free again by then.
const SLOT_MAX: Duration = Duration::from_secs(20);
/// How long the node may take to write down what became of a call after the wrapper has ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How often a running line is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How often the node is asked while one runs: each time is a process.
const ASK: Duration = Duration::from_millis(50);
/// Contents of the source that holds the slot beside what it computes, in bytes: it is to look like hours of work from
/// its first moment on.
const HOLDER_BYTES: usize = 8 << 20;

/// Where one user calls compilers.
pub(crate) trait Site {
    /// Forgets all results.
    fn clear(&mut self);
    /// Runs a line in the directory of `desk`; how it ended, and what it added to the counts. `expected` is what it should
    /// add.
    fn call(&mut self, desk: &Desk, line: &str, expected: Counts) -> (Ran, Counts);
    /// What the node tells of the last compile.
    fn explain(&self) -> String;
}

/// The desk, while nobody else calls there.
pub(crate) struct Alone<'a> {
    pub(crate) desk: &'a Desk,
    /// The counts after the last call.
    pub(crate) last: Option<Counts>,
}

impl Site for Alone<'_> {
    fn clear(&mut self) {
        self.desk.barn(&["cache", "clear"]).ok();
    }

    fn call(&mut self, _: &Desk, line: &str, _: Counts) -> (Ran, Counts) {
        let before = self.last.take().unwrap_or_else(|| self.desk.counts());
        let ran = self.desk.sh(line);
        let after = self.last.insert(self.desk.counts());
        (ran, after.since(&before))
    }

    fn explain(&self) -> String {
        self.desk.barn(&["explain"]).out()
    }
}

/// A desk, and a machine of an office where there can be one. Both see one directory at one path.
#[derive(Debug)]
pub struct Lane {
    pub(crate) desk: Desk,
    pub(crate) afar: Option<Requester>,
}

/// A machine of an office.
pub(crate) struct Requester {
    mesh: Arc<Mesh>,
    number: usize,
    holder: Option<Holder>,
    /// The counts after the last call, unless the holder has come or gone since.
    last: Option<Counts>,
}

/// The compile that holds the requester's slot.
struct Holder {
    wrapper: Child,
    stopped: Vec<Pid>,
}

impl std::fmt::Debug for Requester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requester").field("host", &self.host().name()).finish_non_exhaustive()
    }
}

impl Site for Requester {
    fn clear(&mut self) {
        self.host().barn_text(["cache", "clear"]).unwrap();
    }

    fn call(&mut self, desk: &Desk, line: &str, expected: Counts) -> (Ran, Counts) {
        let fails_there = expected.fallbacks.contains_key("remote-error");
        if expected.remote > 0 || fails_there {
            self.hold();
        } else if expected.ran + expected.failed > 0 {
            self.release();
        }
        let before = self.last.take().unwrap_or_else(|| self.counts());
        let held = self.holder.is_some();
        let ran = self.run(desk, line, held, fails_there);
        // The holder was killed meanwhile, and is a compile that failed.
        let holders = u64::from(held && self.holder.is_none());
        let end = Instant::now() + patience(SETTLE_MAX);
        loop {
            let now = self.counts();
            let mut counts = now.since(&before);
            counts.failed = counts.failed.saturating_sub(holders);
            if counts.is_settled() || Instant::now() > end {
                self.last = Some(now);
                return (ran, counts);
            }
            thread::sleep(POLL);
        }
    }

    fn explain(&self) -> String {
        self.host().barn_text(["explain"]).unwrap_or_else(|error| error.to_string())
    }
}

impl Requester {
    fn host(&self) -> &Host {
        &self.mesh[self.number]
    }

    fn counts(&self) -> Counts {
        Counts::of(&self.host().stats_json().unwrap())
    }

    /// Runs a line, and gives the slot back where that is needed.
    fn run(&mut self, desk: &Desk, line: &str, held: bool, fails_there: bool) -> Ran {
        let variables = desk.variables(true);
        let command =
            self.host().command("timeout").unwrap().args(Desk::limited(line)).current_dir(desk.at(""));
        let command =
            ["LANG", "USER", "TERM", "BARN_LOG"].into_iter().fold(command, |c, name| c.env_remove(name));
        let command = variables.into_iter().fold(command, |command, (name, value)| command.env(name, value));
        let command = command
            .env("BARN_HOME", self.host().barn_home())
            .env("XDG_RUNTIME_DIR", self.host().runtime_dir());
        let errors = fails_there.then(|| self.errors());
        thread::scope(|scope| {
            // Through pipes, as at the desk: compilers look at what they write to.
            let running = scope.spawn(|| command.into_std().output());
            if held {
                self.watch(|| running.is_finished(), errors);
            }
            let ran = running.join().expect("a line does not panic");
            ran.unwrap_or_else(|error| panic!("{line}: {error}")).into()
        })
    }

    /// Gives the slot back when a compile needs it that was to travel: because it has failed there, where `errors` had
    /// before, or because it does not come back.
    fn watch(&mut self, is_over: impl Fn() -> bool, errors: Option<u64>) {
        let began = Instant::now();
        let mut asked = began;
        while !is_over() {
            let mut has_failed = false;
            if let Some(before) = errors.filter(|_| asked.elapsed() > ASK) {
                has_failed = self.errors() > before;
                asked = Instant::now();
            }
            if has_failed || began.elapsed() > patience(TRAVEL_MAX) {
                return self.release();
            }
            thread::sleep(POLL);
        }
    }

    /// How many compiles have failed on a worker.
    fn errors(&self) -> u64 {
        fallbacks(self.host()).get("remote-error").copied().unwrap_or(0)
    }

    /// Takes the only slot.
    fn hold(&mut self) {
        if self.holder.is_some() {
            return;
        }
        let project = Project::new(self.host(), "holder");
        // By the name it is called by it is known to stay here.
        let unit = project.burner("clang++", 1, 10).with("-no-canonical-prefixes");
        let mut source = fs::OpenOptions::new().append(true).open(project.at("burner1.cc")).unwrap();
        source.write_all(&b"// Nothing.\n".repeat(HOLDER_BYTES / 12)).unwrap();
        let wrapper = project.begin(&unit);
        self.mesh.until(SLOT_MAX, "the slot is taken", || running_here(self.host()) == 1);
        let mut stopped = Vec::new();
        self.mesh.until(SLOT_MAX, "the compiler that holds it runs", || {
            let processes = self.host().processes();
            let compilers = processes.iter().filter(|process| process.name.starts_with("clang"));
            stopped = compilers.map(|process| Pid::from_raw(process.pid)).collect();
            !stopped.is_empty()
        });
        stopped.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        self.holder = Some(Holder { wrapper, stopped });
        self.last = None;
    }

    /// Gives the slot back.
    fn release(&mut self) {
        let Some(mut holder) = self.holder.take() else { return };
        self.last = None;
        holder.stopped.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
        holder.wrapper.wait().unwrap();
        self.mesh.until(SLOT_MAX, "the slot is free", || running_here(self.host()) == 0);
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            // The office takes down whatever is left.
            for pid in &holder.stopped {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            let _ = holder.wrapper.wait();
        }
    }
}

/// Lanes for as many tests at once.
#[derive(Debug)]
pub struct Lanes {
    count: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    is_open: bool,
    free: Vec<Lane>,
}

impl Lanes {
    /// So many, which are not made yet.
    pub fn new(count: usize) -> Self {
        let state = Mutex::new(State { is_open: false, free: Vec::new() });
        Self { count: count.max(1), state, returned: Condvar::new() }
    }

    /// Does something in a lane as soon as one is free.
    pub fn with<T>(&self, work: impl FnOnce(&mut Lane) -> T) -> T {
        let mut state = self.lock();
        if !state.is_open {
            state.free = open(self.count);
            state.is_open = true;
        }
        let mut lane = loop {
            match state.free.pop() {
                Some(lane) => break lane,
                None => state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut lane)));
        self.lock().free.push(lane);
        self.returned.notify_one();
        worked.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    /// Takes all of them down.
    pub fn close(&self) {
        self.lock().free.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(count: usize) -> Vec<Lane> {
    let Some(mesh) = office(count) else {
        let desks = (0..count).map(|_| Desk::new());
        return desks.map(|desk| Lane { desk, afar: None }).collect();
    };
    let mesh = Arc::new(mesh);
    let lane = |number| {
        // On a host, for they do not see each other's files in `/tmp`.
        let desk = Desk::below(&mesh[number].home());
        desk.start();
        Lane { desk, afar: Some(Requester { mesh: mesh.clone(), number, holder: None, last: None }) }
    };
    (0..count).map(lane).collect()
}

/// Requesters, and at the end a worker.
fn office(requesters: usize) -> Option<Mesh> {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let hosts = (1..=requesters).map(|number| HostSpec::new(format!("r{number}")).cpus(1.0));
    let spec = hosts.fold(spec, OfficeSpec::host).host(HostSpec::new("worker"));
    let mesh = Mesh::empty(spec)?;
    for host in &mesh.hosts()[..requesters] {
        let settings = "[worker]\nslots = 0\n[cache]\nshare = \"off\"\n";
        fs::write(host.barn_home().join("barn.toml"), settings).unwrap();
    }
    mesh.hosts().iter().for_each(start_node);
    mesh.unite();
    Some(mesh)
}
