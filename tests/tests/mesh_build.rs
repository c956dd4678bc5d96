//! A build across the mesh is byte for byte a local one: objects, dependency files, words and exit statuses.

use std::{thread, time::Duration};

use barn_testnet::{HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    Ran,
    office::{Mesh, Project, Through, Unit, assert_same, count, fallbacks, report, running_here},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest wait for a machine under load to get something under way.
const UNDER_WAY_MAX: Duration = Duration::from_secs(60);

/// A link or a debugger's script that takes longer has hung.
const TOOL_MAX: Duration = Duration::from_secs(120);

/// Warnings in every unit, from a header and from the source.
const HEADER: &str = "#ifndef SHARED_H\n#define SHARED_H\n#include <math.h>\n#include <stdio.h>\n\
                      static inline int shared(int a) { int left_over; return a + __LINE__; }\n#endif\n";

/// About 0.3 s of a core.
fn c_source(number: usize) -> String {
    let mut source = "#include \"shared.h\"\n".to_owned();
    for function in 0..60 {
        source += &format!(
            "double f{number}_{function}(const double *v, int k) {{\n    double s = 0;\n    int unused;\n    \
             for (int i = 0; i < k; i++)\n        for (int j = i; j < k; j++) {{\n            \
             s += v[i] * {function} + sin(v[j]) / (j + {number}.5);\n            if (s > 1e9) s = sqrt(s);\n        \
             }}\n    printf(\"%s %g\\n\", __FILE__, s + shared({function}));\n    return s;\n}}\n"
        );
    }
    source
}

/// About 0.4 s of a core; one with regular expressions takes 2 s.
fn cxx_source(number: usize) -> String {
    let (include, condition) = match number {
        7 => ("#include <regex>\n", "std::regex_match(name, std::regex(\"a+b\"))"),
        _ => ("", "name.empty()"),
    };
    format!(
        "#include <algorithm>\n#include <map>\n#include <string>\n#include <vector>\n{include}#include \"shared.h\"\n\
         std::map<std::string, std::vector<int>> table{number};\n\
         int find{number}(const std::string &name) {{\n    int unused;\n    auto &row = table{number}[name];\n    \
         std::sort(row.begin(), row.end());\n    if ({condition}) row.push_back(shared({number}));\n    \
         return row.front();\n}}\n"
    )
}

fn units(project: &Project<'_>) -> Vec<Unit> {
    std::fs::write(project.at("shared.h"), HEADER).unwrap();
    let flags = ["-O1", "-g", "-Wall", "-I.", "-MD"];
    let c = (0..22).map(|n| project.unit("gcc", &format!("c{n}.c"), &c_source(n), &flags));
    let cxx = (0..20).map(|n| project.unit("g++", &format!("cxx{n}.cc"), &cxx_source(n), &flags));
    // In turn, as in a real tree.
    let (c, cxx): (Vec<_>, Vec<_>) = (c.collect(), cxx.collect());
    let mut mixed = Vec::new();
    for number in 0..c.len().max(cxx.len()) {
        mixed.extend(c.get(number).cloned());
        mixed.extend(cxx.get(number).cloned());
    }
    mixed
}

#[test]
fn a_build_across_the_mesh_is_a_local_one() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    // Lent work has the lowest priority: a requester that may use a whole core of two would leave half to the others.
    let spec = spec.host(HostSpec::new("h1").cpus(0.5)).host(HostSpec::new("h2")).host(HostSpec::new("h3"));
    let Some(mesh) = Mesh::form(spec) else { return };
    let (h1, workers) = (&mesh[0], [&mesh[1], &mesh[2]]);
    mesh.warm(h1, &workers, "gcc");
    mesh.warm(h1, &workers, "g++");

    let project = Project::new(h1, "project");
    let units = units(&project);
    let first = project.build(&units, Through::Barn, 12);
    let written = project.take_outputs();
    let (remote, local) = (count(h1, "/compiles/remote"), count(h1, "/compiles/local"));
    println!("{remote} remote, {local} local, troubles {:?}", fallbacks(h1));
    assert_eq!(remote + local, units.len() as u64, "{}", report(h1));
    assert!(remote * 2 > units.len() as u64, "{}", report(h1));
    h1.slow(Some(1.0)).unwrap();
    project.assert_local(&units, &first, &written);
    assert!(first.iter().all(|ran| ran.status == 0 && ran.err().contains("warning: unused variable")));

    h1.barn_text(["stats", "--zero"]).unwrap();
    let second = project.build(&units, Through::Barn, 12);
    assert_eq!(second, first);
    assert_same(&project.take_outputs(), &written);
    assert_eq!(count(h1, "/hits/local"), units.len() as u64, "{}", report(h1));
    assert_eq!(count(h1, "/hits/direct"), units.len() as u64, "a manifest was not made: {}", report(h1));
    assert_eq!(count(h1, "/misses"), 0, "{}", report(h1));

    a_debugger_finds_the_sources(&mesh);
    diagnostics_are_the_local_compilers(&mesh);
    clang_travels_too(&mesh);
}

fn diagnostics_are_the_local_compilers(mesh: &Mesh) {
    let h1 = &mesh[0];
    let project = Project::new(h1, "wrong");
    std::fs::write(project.at("wrong.h"), "static int helper(void) { return 1 }\n").unwrap();
    let template = "#include <map>\nstruct Key {};\nstd::map<Key, int> m;\nint f() { return m[Key()]; }\n";
    // Each with the number of tries on a worker it must have had: the error of a worker is never shown, but seen
    // again here. What the node cannot resolve does not travel.
    let cases = [
        (project.unit("gcc", "syntax.c", "int f(void) { return 1 }\n", &["-Wall"]), 1),
        (project.unit("gcc", "included.c", "#include \"wrong.h\"\nint g(void) { return 2; }\n", &["-O1"]), 1),
        (project.unit("g++", "template.cc", template, &["-O1", "-MD"]), 1),
        (project.unit("gcc", "strict.c", "int f(void) { int x; return 1; }\n", &["-Wall", "-Werror"]), 1),
        (project.unit("gcc", "absent.c", "#include \"nowhere.h\"\n", &["-MD"]), 0),
    ];
    for (number, (unit, tries)) in cases.into_iter().enumerate() {
        mesh.renew(h1, &[&mesh[1], &mesh[2]]);
        let ran = compile_elsewhere(mesh, &project, &unit, number, tries);
        assert_ne!(ran.status, 0, "{unit:?}");
        let written = project.take_outputs();
        project.assert_local(&[unit], &[ran], &written);
    }
}

/// What a worker compiled with `-g` leads a debugger to the lines of the sources on the requester's disk.
fn a_debugger_finds_the_sources(mesh: &Mesh) {
    let h1 = &mesh[0];
    mesh.renew(h1, &[&mesh[1], &mesh[2]]);
    let project = Project::new(h1, "debugged");
    std::fs::create_dir(project.at("deep")).unwrap();
    std::fs::write(
        project.at("deep/twice.h"),
        "static inline int twice(int number)\n{\n    return number + number;\n}\n",
    )
    .unwrap();
    let main = "#include \"deep/twice.h\"\nint helper(int);\nint main(int argc, char **argv)\n{\n    \
                return helper(twice(argc)) == 5 && argv ? 0 : 1;\n}\n";
    let helper = "template <typename T> T more(T value)\n{\n    return value + 1;\n}\n\
                  extern \"C\" int helper(int value)\n{\n    int answer = more(value) + 2;\n    return answer;\n}\n";
    let flags = ["-g", "-O0", "-Wall", "-Wextra", "-MD"];
    let units =
        [project.unit("gcc", "main.c", main, &flags), project.unit("g++", "helper.cc", helper, &flags)];
    let ran: Vec<Ran> = units
        .iter()
        .enumerate()
        .map(|(number, unit)| compile_afar(mesh, &project, unit, 60 + number))
        .collect();
    assert_eq!(count(h1, "/compiles/remote"), units.len() as u64, "{}", report(h1));

    let link = h1
        .command("gcc")
        .unwrap()
        .args(["out/main.o", "out/helper.o", "-o", "linked"])
        .current_dir(project.at(""));
    let linked: Ran = link.output_within(TOOL_MAX).unwrap().into();
    assert_eq!((linked.status, linked.err().as_str()), (0, ""));
    // Each with what it must say: where a line is, the text of it, and stops in a header and in a template.
    let asked = [
        ("info line main", "Line 4 of \"main.c\" starts at address"),
        ("list helper", "int answer = more(value) + 2;"),
        ("break twice.h:3", "deep/twice.h, line 3."),
        ("run", "twice (number=1) at deep/twice.h:3"),
        ("break more<int>(int)", "helper.cc, line 3."),
        ("continue", "more<int> (value=2) at helper.cc:3"),
        ("backtrace", "helper (value=2) at helper.cc:7"),
    ];
    let words = asked.iter().flat_map(|(command, _)| ["-ex", command]);
    let gdb = h1.command("gdb").unwrap().args(["-batch", "-nx", "-iex", "set debuginfod enabled off"]);
    // Not every container lets a program be run without a random layout.
    let gdb = gdb
        .args(["-iex", "set disable-randomization off"])
        .args(words)
        .arg("linked")
        .current_dir(project.at(""));
    let said: Ran = gdb.output_within(TOOL_MAX).unwrap().into();
    let text = String::from_utf8_lossy(&said.stdout);
    for (command, expect) in asked {
        assert!(text.contains(expect), "{command}: {expect:?} is not in {text}\n{}", said.err());
    }
    let written = project.take_outputs();
    project.assert_local(&units, &ran, &written);
}

/// Compiles a unit while the only core of h1 is taken, so that a worker does it.
fn compile_afar(mesh: &Mesh, project: &Project<'_>, unit: &Unit, number: usize) -> Ran {
    let h1 = &mesh[0];
    let other = Project::new(h1, "blocker");
    let mut blocker = other.begin(&other.burner("g++", 7000 + number, 30));
    mesh.until(UNDER_WAY_MAX, "the core is taken", || running_here(h1) == 1);
    let ran = project.compile(unit, Through::Barn);
    // It may be over already on a machine that took long for the other.
    let _ = kill(Pid::from_raw(blocker.id().cast_signed()), Signal::SIGTERM);
    blocker.wait().unwrap();
    ran
}

/// Compiles a unit while the only core of h1 is taken, so that it travels, until it has failed so many times.
fn compile_elsewhere(mesh: &Mesh, project: &Project<'_>, unit: &Unit, number: usize, tries: u64) -> Ran {
    let h1 = &mesh[0];
    let other = Project::new(h1, "blocker");
    let mut blocker = other.begin(&other.burner("g++", 7000 + number, 30));
    mesh.until(UNDER_WAY_MAX, "the core is taken", || running_here(h1) == 1);
    let failed = || fallbacks(h1).get("remote-error").copied().unwrap_or(0);
    let ran = thread::scope(|scope| {
        let compile = scope.spawn(|| project.compile(unit, Through::Barn));
        mesh.until(UNDER_WAY_MAX, &format!("{unit:?} has failed on a worker"), || failed() == tries);
        // The user is to see what it says here, which needs the core.
        kill(Pid::from_raw(blocker.id().cast_signed()), Signal::SIGTERM).unwrap();
        blocker.wait().unwrap();
        compile.join().expect("a compile does not panic")
    });
    assert_eq!(failed(), tries, "{unit:?}: {}", report(h1));
    ran
}

fn clang_travels_too(mesh: &Mesh) {
    let (h1, workers) = (&mesh[0], [&mesh[1], &mesh[2]]);
    mesh.warm(h1, &workers, "clang++");
    let project = Project::new(h1, "clang");
    std::fs::write(project.at("shared.h"), HEADER).unwrap();
    let flags = ["-O1", "-g", "-Wall", "-MD"];
    let units: Vec<Unit> = (100..106)
        .map(|n| project.unit("clang++", &format!("cxx{n}.cc"), &cxx_source(n), &flags))
        .chain((100..104).map(|n| project.unit("clang", &format!("c{n}.c"), &c_source(n), &flags)))
        .collect();
    let ran = project.build(&units, Through::Barn, 10);
    let written = project.take_outputs();
    assert!(count(h1, "/compiles/remote") > 0, "{}", report(h1));
    project.assert_local(&units, &ran, &written);
    h1.barn_text(["stats", "--zero"]).unwrap();
    assert_eq!(project.build(&units, Through::Barn, 10), ran);
    assert_same(&project.take_outputs(), &written);
    assert_eq!(count(h1, "/hits/direct"), units.len() as u64, "a manifest was not made: {}", report(h1));
}
