//! Workers that die, sleep, are cut off or struck from the roster: a build goes on, and is a local one.

use std::{thread, time::Duration};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    Ran,
    office::{
        HEAL_MAX, Mesh, Project, Through, Unit, connected, count, fallbacks, peer, report,
        running_for_others, running_on, start_node,
    },
    pace::patience,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A worker has been given something by then.
const BUSY_MAX: Duration = Duration::from_secs(60);
/// What a machine that runs other things as well may add to a promise.
const SLACK: Duration = Duration::from_secs(3);
/// Compiles of one scene; more than the requester and one worker run at once.
const UNITS: usize = 6;

/// One trouble with a worker.
struct Scene {
    name: &'static str,
    /// What happens to the worker while it compiles.
    inflict: fn(&Host),
    /// How long the requester may go on believing in it.
    noticed_within: Duration,
    /// How it ends; may be while the build still runs.
    mend: fn(&Host),
    /// Whether it ends as soon as it was noticed.
    is_short: bool,
    /// Whether what the worker sends still arrives: a compile that ends in time is then no loss.
    may_answer: bool,
}

const SCENES: [Scene; 5] = [
    Scene {
        name: "killed",
        inflict: |worker| worker.kill_node().unwrap(),
        noticed_within: Duration::from_secs(2),
        mend: start_node,
        is_short: false,
        may_answer: false,
    },
    Scene {
        name: "frozen",
        inflict: |worker| worker.freeze().unwrap(),
        noticed_within: Duration::from_secs(3),
        // It wakes up with a result that nobody wants any more.
        mend: |worker| worker.thaw().unwrap(),
        is_short: true,
        may_answer: false,
    },
    Scene {
        name: "cut",
        inflict: |worker| worker.cut().unwrap(),
        noticed_within: Duration::from_secs(3),
        mend: |worker| worker.heal().unwrap(),
        is_short: true,
        may_answer: false,
    },
    Scene {
        name: "mute",
        inflict: |worker| worker.mute().unwrap(),
        noticed_within: Duration::from_secs(3),
        mend: |worker| worker.heal().unwrap(),
        is_short: false,
        may_answer: false,
    },
    Scene {
        name: "deaf",
        inflict: |worker| worker.deafen().unwrap(),
        // It is still heard until it gives up itself; only then does its silence begin to count.
        noticed_within: Duration::from_secs(5),
        mend: |worker| worker.heal().unwrap(),
        is_short: false,
        may_answer: true,
    },
];

fn office() -> Option<Mesh> {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let spec = spec.host(HostSpec::new("h1").cpus(1.0)).host(HostSpec::new("h2")).host(HostSpec::new("h3"));
    let mesh = Mesh::form(spec)?;
    mesh.warm(&mesh[0], &[&mesh[1], &mesh[2]], "g++");
    Some(mesh)
}

#[test]
fn troubled_workers_cost_only_time() {
    let Some(mesh) = office() else { return };
    for scene in &SCENES {
        play(&mesh, scene);
    }
    a_killed_compiler_is_not_shown(&mesh);
    a_partitioned_requester_compiles_alone(&mesh);
    a_revoked_worker_is_cut_off(&mesh);
}

/// Builds on h1, makes trouble for h2 while it compiles, and compares.
fn play(mesh: &Mesh, scene: &Scene) {
    let (requester, worker, other) = (&mesh[0], &mesh[1], &mesh[2]);
    mesh.renew(requester, &[worker, other]);
    let project = Project::new(requester, scene.name);
    let units = burners(&project, 3);
    let (ran, noticed) = while_building(&project, &units, || {
        mesh.until(BUSY_MAX, "h2 compiles for h1", || is_busy(requester, worker));
        (scene.inflict)(worker);
        let what = format!("h1 notices that h2 is {}", scene.name);
        let noticed = mesh.until(scene.noticed_within + SLACK, &what, || running_on(requester, worker) == 0);
        if scene.is_short {
            (scene.mend)(worker);
        }
        noticed
    });
    let seen = fallbacks(requester);
    println!("{}: noticed after {noticed:?}, troubles {seen:?}", scene.name);
    // Its work may have been raced or taken back before it was known to be in trouble.
    let troubles = ["worker-lost", "connection-lost", "unreachable", "hedged", "overdue"];
    let lost = troubles.iter().filter_map(|name| seen.get(*name));
    let answered = if scene.may_answer { count(requester, "/compiles/remote") } else { 0 };
    assert!(lost.sum::<u64>() + answered > 0, "{}: {}", scene.name, report(requester));
    let compiles = count(requester, "/compiles/local") + count(requester, "/compiles/remote");
    assert_eq!(compiles, UNITS as u64, "{}: {}", scene.name, report(requester));
    let written = project.take_outputs();
    project.assert_local(&units, &ran, &written);
    if !scene.is_short {
        (scene.mend)(worker);
    }
    mesh.await_sight(&[requester, worker, other], HEAL_MAX);
    mesh.until(Duration::from_secs(5), "h2 runs nothing any more", || running_for_others(worker) == 0);
}

/// What the out-of-memory killer of a worker's machine would do.
fn a_killed_compiler_is_not_shown(mesh: &Mesh) {
    let (requester, worker, other) = (&mesh[0], &mesh[1], &mesh[2]);
    mesh.renew(requester, &[worker, other]);
    let project = Project::new(requester, "crashed");
    let units = burners(&project, 3);
    let (ran, ()) = while_building(&project, &units, || {
        let mut victims = Vec::new();
        mesh.until(BUSY_MAX, "a compiler runs on h2", || {
            victims = worker.processes();
            victims.retain(|process| process.name == "cc1plus" && process.state != 'Z');
            !victims.is_empty()
        });
        for victim in victims {
            kill(Pid::from_raw(victim.pid), Signal::SIGKILL).unwrap();
        }
    });
    let seen = fallbacks(requester);
    println!("compiler killed: troubles {seen:?}");
    let crashes = ["remote-error", "killed-on-worker"].iter().filter_map(|name| seen.get(*name));
    assert!(crashes.sum::<u64>() > 0, "{}", report(requester));
    let written = project.take_outputs();
    project.assert_local(&units, &ran, &written);
}

fn a_partitioned_requester_compiles_alone(mesh: &Mesh) {
    let hosts: Vec<&Host> = mesh.hosts().iter().collect();
    let requester = hosts[0];
    mesh.renew(requester, &hosts[1..]);
    let project = Project::new(requester, "alone");
    requester.cut().unwrap();
    mesh.until(Duration::from_secs(5), "h1 sees nobody", || connected(requester).is_empty());
    let units = burners(&project, 1);
    let began = std::time::Instant::now();
    let ran = project.build(&units, Through::Barn, 2);
    let with_barn = began.elapsed();
    let written = project.take_outputs();
    assert_eq!(count(requester, "/compiles/local"), UNITS as u64, "{}", report(requester));
    assert!(fallbacks(requester).is_empty(), "{}", report(requester));
    let began = std::time::Instant::now();
    project.assert_local(&units, &ran, &written);
    let without = began.elapsed();
    println!("alone: {with_barn:?} with barn, {without:?} without");
    assert!(with_barn < without * 2 + patience(SLACK), "{with_barn:?} with barn, {without:?} without");

    requester.heal().unwrap();
    mesh.await_sight(&hosts, HEAL_MAX);
    let again = Project::new(requester, "together");
    let units = burners(&again, 2);
    let ran = again.build(&units, Through::Barn, UNITS);
    assert!(count(requester, "/compiles/remote") > 0, "{}", report(requester));
    let written = again.take_outputs();
    again.assert_local(&units, &ran, &written);
}

fn a_revoked_worker_is_cut_off(mesh: &Mesh) {
    let (admin, staying, leaving) = (&mesh[0], &mesh[1], &mesh[2]);
    mesh.renew(admin, &[staying, leaving]);
    let project = Project::new(admin, "revoked");
    let units = burners(&project, 3);
    let promise = Duration::from_secs(5);
    let (ran, took) = while_building(&project, &units, || {
        mesh.until(BUSY_MAX, "h3 compiles for h1", || is_busy(admin, leaving));
        admin.barn_text(["mesh", "revoke", "h3"]).unwrap();
        mesh.until(promise, "h3 is gone from every status and runs nothing", || {
            let unlisted = |host: &Host| peer(&host.status_json().unwrap(), "h3").is_none();
            unlisted(admin)
                && unlisted(staying)
                && running_on(admin, leaving) == 0
                && connected(leaving).is_empty()
                && running_for_others(leaving) == 0
        })
    });
    println!("revoked: cut off after {took:?}, troubles {:?}", fallbacks(admin));
    assert_eq!(running_for_others(leaving), 0);
    let written = project.take_outputs();
    project.assert_local(&units, &ran, &written);

    // It stays out, and is a machine of its own.
    let alone = Project::new(leaving, "struck");
    let units = burners(&alone, 1);
    let ran = alone.build(&units, Through::Barn, 2);
    let written = alone.take_outputs();
    alone.assert_local(&units, &ran, &written);
    assert_eq!(count(leaving, "/compiles/remote"), 0);
    assert_eq!(connected(leaving), Vec::<String>::new());
    assert_eq!(connected(admin), ["h2"]);
    assert_eq!(connected(staying), ["h1"]);
}

/// Units that no other scene compiles: numbers are seeds.
fn burners(project: &Project<'_>, steps: usize) -> Vec<Unit> {
    let first = seed();
    (first..first + UNITS).map(|number| project.burner("g++", number, steps)).collect()
}

fn seed() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1000);
    NEXT.fetch_add(UNITS, Ordering::Relaxed)
}

/// Builds all units at once and runs `meanwhile` beside that.
fn while_building<T>(project: &Project<'_>, units: &[Unit], meanwhile: impl FnOnce() -> T) -> (Vec<Ran>, T) {
    thread::scope(|scope| {
        let build = scope.spawn(|| project.build(units, Through::Barn, units.len()));
        let meanwhile = meanwhile();
        (build.join().expect("the build does not panic"), meanwhile)
    })
}

/// Both sides say that `worker` is at work for `requester`.
fn is_busy(requester: &Host, worker: &Host) -> bool {
    running_for_others(worker) > 0 && running_on(requester, worker) > 0
}
