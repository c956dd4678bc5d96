//! The requester's own troubles: an impatient user, and a node that is killed, stopped or absent.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use barn_testnet::{HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    office::{
        Mesh, Project, Through, Unit, assert_same, count, report, running_for_others, running_here,
        running_on,
    },
    pace::patience,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest wait for a machine under load to get something under way.
const UNDER_WAY_MAX: Duration = Duration::from_secs(60);
/// What a machine that runs other things as well may add to a promise.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn a_requester_in_trouble_gets_a_local_build() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let spec = spec.host(HostSpec::new("h1").cpus(1.0)).host(HostSpec::new("h2"));
    let Some(mesh) = Mesh::form(spec) else { return };
    mesh.warm(&mesh[0], &[&mesh[1]], "g++");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        an_interrupted_compile_ends_everywhere(&mesh, signal);
    }
    what_was_edited_meanwhile_is_not_kept(&mesh);
    a_stopped_node_is_not_waited_for(&mesh);
    a_killed_node_leaves_its_wrappers_to_finish(&mesh);
    an_absent_node_costs_next_to_nothing(&mesh);
}

/// One compile that runs on h1 and one that runs on h2 for it.
struct Pair<'a> {
    project: Project<'a>,
    units: [Unit; 2],
    here: Child,
    there: Child,
}

impl<'a> Pair<'a> {
    /// Begins both; the second is sent away because the first has the only core.
    fn begin(mesh: &'a Mesh, name: &'a str, seed: usize) -> Self {
        let (requester, worker) = (&mesh[0], &mesh[1]);
        mesh.renew(requester, &[worker]);
        mesh.until(SLACK, "h2 is idle", || running_for_others(worker) == 0);
        let project = Project::new(requester, name);
        let units = [project.burner("g++", seed, 10), project.burner("g++", seed + 1, 8)];
        let here = project.begin(&units[0]);
        mesh.until(UNDER_WAY_MAX, "the first runs here", || running_here(requester) == 1);
        let there = project.begin(&units[1]);
        mesh.until(UNDER_WAY_MAX, "the second runs there", || {
            running_on(requester, worker) == 1 && running_for_others(worker) == 1
        });
        Self { project, units, here, there }
    }

    /// Both end well, and what they wrote is what the bare compiler writes.
    fn end(mut self) {
        assert!(self.here.wait().unwrap().success());
        assert!(self.there.wait().unwrap().success());
        let written = self.project.take_outputs();
        let local = self.project.build(&self.units, Through::Nothing, 2);
        assert!(local.iter().all(|ran| ran.status == 0));
        assert_same(&written, &self.project.take_outputs());
    }
}

fn an_interrupted_compile_ends_everywhere(mesh: &Mesh, signal: Signal) {
    let worker = &mesh[1];
    let mut pair = Pair::begin(mesh, signal.as_str(), signal as usize * 10);
    send(&pair.there, signal);
    let began = Instant::now();
    let ended = ended_within(mesh, &mut pair.there, Duration::from_secs(1) + SLACK);
    assert_eq!(ended.signal(), Some(signal as i32), "the wrapper dies as a compiler would");
    mesh.until(Duration::from_secs(1) + SLACK, "h2 ends it too", || running_for_others(worker) == 0);
    println!("{signal}: over everywhere after {:?}", began.elapsed());
    mesh.until(SLACK, "no compiler is left on h2", || {
        worker.processes().iter().all(|process| process.name != "cc1plus" || process.state == 'Z')
    });

    // The same for one that runs here.
    send(&pair.here, signal);
    let ended = ended_within(mesh, &mut pair.here, Duration::from_secs(1) + SLACK);
    assert_eq!(ended.signal(), Some(signal as i32));
    assert!(pair.project.take_outputs().is_empty(), "something half done was left");
}

/// The source of each compile is edited while it runs, here and there, and is as before when they are through.
fn what_was_edited_meanwhile_is_not_kept(mesh: &Mesh) {
    let requester = &mesh[0];
    let mut pair = Pair::begin(mesh, "edited", 2000);
    let sources = [2000, 2001].map(|seed| pair.project.at(format!("burner{seed}.cc")));
    let before = sources.each_ref().map(|path| fs::read(path).unwrap());
    for (path, text) in sources.iter().zip(&before) {
        fs::write(path, [text, &b"// more\n"[..]].concat()).unwrap();
    }
    assert!(pair.here.wait().unwrap().success() && pair.there.wait().unwrap().success());
    pair.project.take_outputs();
    for (path, text) in sources.iter().zip(&before) {
        fs::write(path, text).unwrap();
    }
    let ran = pair.project.build(&pair.units, Through::Barn, 2);
    let written = pair.project.take_outputs();
    pair.project.assert_local(&pair.units, &ran, &written);
    assert_eq!(count(requester, "/hits/local") + count(requester, "/hits/mesh"), 0, "{}", report(requester));
    assert_eq!(count(requester, "/fallbacks/input-changed"), 2, "{}", report(requester));
    // Undisturbed they are kept.
    mesh.until(SLACK, "both are kept", || {
        pair.project.build(&pair.units, Through::Barn, 2);
        count(requester, "/hits/local") >= 2
    });
}

fn a_stopped_node_is_not_waited_for(mesh: &Mesh) {
    let requester = &mesh[0];
    let mut pair = Pair::begin(mesh, "stopped", 3000);
    requester.pause_node().unwrap();
    let took = mesh.until(Duration::from_secs(1) + SLACK, "the wrapper becomes the compiler", || {
        name_of(&pair.there).is_some_and(|name| name == "g++")
    });
    println!("stopped: local after {took:?}");
    // With the node still stopped.
    assert!(pair.there.wait().unwrap().success());
    assert!(pair.here.wait().unwrap().success());
    requester.resume_node().unwrap();
    mesh.until(Duration::from_secs(5), "h2 ends it too", || running_for_others(&mesh[1]) == 0);
    pair.end();
}

fn a_killed_node_leaves_its_wrappers_to_finish(mesh: &Mesh) {
    let (requester, worker) = (&mesh[0], &mesh[1]);
    let pair = Pair::begin(mesh, "killed", 4000);
    requester.kill_node().unwrap();
    let took = mesh.until(Duration::from_secs(1) + SLACK, "the wrapper becomes the compiler", || {
        name_of(&pair.there).is_some_and(|name| name == "g++")
    });
    println!("killed: local after {took:?}");
    // The promise is 30 s, and at once for a connection that is seen to be dead.
    let took = mesh.until(Duration::from_secs(5), "h2 ends it too", || running_for_others(worker) == 0);
    println!("killed: cancelled on the worker after {took:?}");
    pair.end();
}

/// The node is dead since the scene before, and no wrapper may start one.
fn an_absent_node_costs_next_to_nothing(mesh: &Mesh) {
    let requester = &mesh[0];
    assert!(requester.status_json().is_err());
    let project = Project::new(requester, "absent");
    let unit = project.unit("gcc", "small.c", "int f(int a) { return a + 1; }\n", &["-O1", "-Wall"]);
    // The quickest of several: whatever else the machine does is in the others.
    let quickest = |through| {
        let time = || {
            let began = Instant::now();
            let ran = project.compile(&unit, through);
            assert_eq!((ran.status, ran.err().as_str()), (0, ""));
            began.elapsed()
        };
        let best = (0..10).map(|_| time()).min().unwrap();
        (best, project.take_outputs())
    };
    let (with_barn, written) = quickest(Through::Barn);
    let (without, expected) = quickest(Through::Nothing);
    println!("absent: {with_barn:?} with barn, {without:?} without");
    assert!(with_barn < without + patience(Duration::from_millis(50)), "{with_barn:?} and {without:?}");
    assert_same(&written, &expected);
    assert!(requester.status_json().is_err(), "a node was started");
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn ended_within(mesh: &Mesh, child: &mut Child, limit: Duration) -> ExitStatus {
    let mut ended = None;
    mesh.until(limit, "the wrapper ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.expect("it has ended")
}

/// What a process is called now: `barn` until it becomes the compiler.
fn name_of(child: &Child) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).ok()?;
    Some(name.trim_end().to_owned())
}
