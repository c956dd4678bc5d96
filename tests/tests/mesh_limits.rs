//! Machines that can do little or nothing for others: they say so, and nobody who builds notices.

use std::{fs, time::Duration};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::office::{
    Mesh, Project, SIGHT_MAX, Through, Unit, count, fallbacks, join, peer, report, start_node,
};

/// A toolchain has been sent and a compile has been tried on it by then.
const TRIED_MAX: Duration = Duration::from_secs(90);

#[test]
fn weak_and_unfit_workers_are_never_noticed() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let spec = ["cramped", "unwilling", "bare"]
        .into_iter()
        .fold(spec.host(HostSpec::new("h1").cpus(1.0)), |spec, name| spec.host(HostSpec::new(name)));
    let Some(mesh) = Mesh::empty(spec) else { return };
    let [requester, cramped, unwilling, bare] = [0, 1, 2, 3].map(|number| &mesh[number]);
    // Too little for a compiler to do anything with its input, enough for it to start.
    configure(cramped, "memory_mib = 48");
    configure(unwilling, "slots = 0");
    // Covers the program for this host alone.
    let hidden = bare.command("mount").unwrap().args(["--bind", "/dev/null", "/usr/bin/bwrap"]);
    assert!(hidden.output_within(Duration::from_secs(10)).unwrap().status.success());
    mesh.hosts().iter().for_each(start_node);
    requester.barn_text(["mesh", "init"]).unwrap();
    mesh.hosts()[1..].iter().for_each(|host| join(requester, host));
    mesh.await_sight(&mesh.hosts().iter().collect::<Vec<_>>(), SIGHT_MAX);

    says_why(requester, unwilling, "worker.slots is 0");
    says_why(requester, bare, "bubblewrap is not installed");
    let doctor = cramped.barn(["doctor"]).unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("ok    sandbox"), "{doctor:?}");

    let mut round = 0;
    // The first rounds only bring the toolchain there.
    mesh.until(TRIED_MAX, "a compile fails on the cramped worker", || {
        let project = Project::new(requester, ["even", "odd"][round % 2]);
        let units: Vec<Unit> = (0..6).map(|n| hungry(&project, round * 6 + n)).collect();
        let ran = project.build(&units, Through::Barn, units.len());
        let written = project.take_outputs();
        project.assert_local(&units, &ran, &written);
        round += 1;
        fallbacks(requester).keys().any(|name| name != "declined")
    });
    let seen = fallbacks(requester);
    println!("after {round} rounds: troubles {seen:?}");
    let known = ["declined", "remote-error", "killed-on-worker", "refused-by-sandbox", "sandbox-failed"];
    assert!(seen.keys().all(|name| known.contains(&name.as_str())), "{}", report(requester));
    assert_eq!(count(requester, "/compiles/local"), round as u64 * 6, "{}", report(requester));
    assert_eq!(count(requester, "/compiles/remote"), 0, "{}", report(requester));
    assert_eq!(count(requester, "/compiles/failed"), 0, "{}", report(requester));
    for host in [unwilling, bare] {
        assert_eq!(count(host, "/peers/h1/received"), 0, "{}", host.name());
    }
}

fn configure(host: &Host, worker: &str) {
    fs::write(host.barn_home().join("barn.toml"), format!("[worker]\n{worker}\n")).unwrap();
}

/// The machine's owner is told by `doctor`, and everybody else that it lends nothing.
fn says_why(requester: &Host, host: &Host, why: &str) {
    let doctor = host.barn(["doctor"]).unwrap();
    let words = String::from_utf8_lossy(&doctor.stdout);
    assert!(!doctor.status.success() && words.contains("wrong sandbox") && words.contains(why), "{words}");
    let status = requester.status_json().unwrap();
    let seen = peer(&status, host.name()).unwrap();
    assert_eq!((&seen["state"], &seen["cores"]), (&"connected".into(), &0.into()), "{status}");
}

/// A unit whose compiler needs more than 100 MiB, and about a second.
fn hungry(project: &Project<'_>, number: usize) -> Unit {
    let source = format!(
        "#include <algorithm>\n#include <map>\n#include <regex>\n#include <string>\n#include <vector>\n\
         std::map<std::string, std::vector<int>> table{number};\n\
         int find{number}(const std::string &name) {{\n    auto &row = table{number}[name];\n    \
         std::sort(row.begin(), row.end());\n    return row.front();\n}}\n"
    );
    project.unit("g++", &format!("hungry{number}.cc"), &source, &["-O1", "-g", "-Wall", "-MD"])
}
