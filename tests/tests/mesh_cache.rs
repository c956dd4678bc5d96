//! What one machine compiled, another need not: the office's cache through the real programs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    Ran,
    office::{HEAL_MAX, Mesh, SIGHT_MAX, count, fallbacks, join, report, start_node},
    pace::patience,
};

/// News of a result have reached its owners by then.
const TOLD_MAX: Duration = Duration::from_secs(10);
const COMPILE_MAX: Duration = Duration::from_secs(60);

/// A directory that every host sees at the same path.
struct Checkout {
    dir: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Self {
        let checkout =
            Self { dir: tempfile::Builder::new().prefix("barn-checkout").tempdir_in("/tmp").unwrap() };
        checkout.write("part.h", "inline int part(int a) { return a + 1; }\n");
        checkout
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// A unit whose object is small.
    fn small(&self, name: &str) -> String {
        self.write(name, &format!("#include \"part.h\"\nint {}(int a) {{ return part(a); }}\n", &name[..2]));
        name.to_owned()
    }

    /// A unit whose object is too large to be kept by the owners.
    fn large(&self, name: &str) -> String {
        self.write(
            name,
            "#include \"part.h\"\nchar table[100000] = {1, 2, 3};\nint f(int a) { return part(a); }\n",
        );
        name.to_owned()
    }

    fn object(&self, unit: &str) -> PathBuf {
        self.path().join(unit).with_extension("o")
    }

    /// Compiles on a host; what it wrote is read and removed.
    fn compile(&self, host: &Host, unit: &str) -> Vec<u8> {
        self.compile_as(host, unit, "")
    }

    /// The same, with a demand of the build's.
    fn compile_as(&self, host: &Host, unit: &str, demand: &str) -> Vec<u8> {
        let object = self.object(unit);
        let command = host.command("barn").unwrap().args(["gcc", "-O1", "-Wall", "-c", unit, "-o"]);
        let command = command.env("BARN_TRUST", demand);
        let output = command.arg(&object).current_dir(self.path()).output_within(patience(COMPILE_MAX));
        let ran: Ran = output.unwrap().into();
        assert_eq!((ran.status, ran.err().as_str()), (0, ""), "{}", report(host));
        let written = fs::read(&object).unwrap();
        fs::remove_file(object).unwrap();
        written
    }

    /// What the compiler alone makes of it.
    fn expected(&self, host: &Host, unit: &str) -> Vec<u8> {
        let object = self.object(unit);
        let command = host.command("gcc").unwrap().args(["-O1", "-Wall", "-c", unit, "-o"]);
        let output = command.arg(&object).current_dir(self.path()).output_within(patience(COMPILE_MAX));
        assert!(output.unwrap().status.success());
        let written = fs::read(&object).unwrap();
        fs::remove_file(object).unwrap();
        written
    }
}

/// An office in which everybody compiles on its own and sees these checkouts. Before it is one, the first host compiles `first` of
/// the first of them.
fn office(checkouts: &[&Checkout], first: Option<&str>) -> Option<Mesh> {
    let host = |name| checkouts.iter().fold(HostSpec::new(name), |host, checkout| host.sees(checkout.path()));
    let spec = OfficeSpec::new(bin_dir_of_this_build()).host(host("h1")).host(host("h2")).host(host("h3"));
    let mesh = Mesh::empty(spec)?;
    for host in mesh.hosts() {
        fs::create_dir_all(host.barn_home()).unwrap();
        fs::write(host.barn_home().join("barn.toml"), "[worker]\nslots = 0\n").unwrap();
        start_node(host);
    }
    first.iter().for_each(|unit| drop(checkouts[0].compile(&mesh[0], unit)));
    mesh[0].barn_text(["mesh", "init"]).unwrap();
    mesh.hosts()[1..].iter().for_each(|host| join(&mesh[0], host));
    let all: Vec<&Host> = mesh.hosts().iter().collect();
    mesh.await_sight(&all, SIGHT_MAX);
    Some(mesh)
}

fn kept(mesh: &Mesh) -> u64 {
    let of = |host: &Host| host.status_json().ok().and_then(|s| s["cache"]["kept_for_office"].as_u64());
    mesh.hosts().iter().filter_map(of).sum()
}

/// Compiles on a host and waits until both owners know of it.
fn publish(mesh: &Mesh, checkout: &Checkout, host: &Host, unit: &str) -> Vec<u8> {
    let mut before = kept(mesh);
    mesh.until(TOLD_MAX, "earlier news are told", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, kept(mesh)) == before
    });
    let object = checkout.compile(host, unit);
    mesh.until(TOLD_MAX, "the owners are told", || kept(mesh) >= before + 2);
    object
}

#[test]
fn what_one_machine_compiled_another_finds() {
    let (checkout, elsewhere) = (Checkout::new(), Checkout::new());
    let alone = checkout.large("fa.c");
    let Some(mesh) = office(&[&checkout, &elsewhere], Some(&alone)) else { return };
    let (one, two) = (&mesh[0], &mesh[1]);
    what_was_made_before_is_offered(&mesh, &checkout, one, two, &alone);
    a_neighbour_has_it(&mesh, &checkout, one, two);
    so_does_one_with_another_checkout(&mesh, [&checkout, &elsewhere], one, two);
    no_search_for_what_a_neighbour_found(&mesh, &checkout, one, two);
    a_header_that_appears_is_seen(&mesh, &checkout, one, two);
    another_header_is_another_compile(&mesh, &checkout, one, two);
    a_failure_is_not_shared(&checkout, one, two);
    silent_owners_do_not_stop_a_build(&mesh, &checkout, one, two);
    what_left_with_its_machine_is_a_miss(&mesh, &checkout, one, two);
}

/// An owner has 30 ms to answer; on a machine under load it may take longer, so there are some tries.
fn a_neighbour_has_it(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    for kind in ["a", "b"] {
        let found = (0..5).any(|round| {
            let name = format!("{kind}{round}.c");
            let unit = if kind == "a" { checkout.small(&name) } else { checkout.large(&name) };
            let (hits, compiled) = (count(two, "/hits/mesh"), count(two, "/compiles/local"));
            let made = publish(mesh, checkout, one, &unit);
            let found = checkout.compile(two, &unit);
            assert!(found == made && found == checkout.expected(two, &unit), "{unit}");
            let is_hit = count(two, "/hits/mesh") == hits + 1;
            assert_eq!(count(two, "/compiles/local"), compiled + u64::from(!is_hit));
            if is_hit {
                let told = two.barn_text(["explain", unit.as_str()]).unwrap();
                assert!(told.contains("'s cache"), "{told}");
            }
            // Now it is in the own store.
            let hits = count(two, "/hits/local");
            checkout.compile(two, &unit);
            assert_eq!(count(two, "/hits/local"), hits + 1);
            is_hit
        });
        assert!(found, "{kind}: {}", report(two));
    }
}

/// Everybody joins within the first minute of its node, or is trusted with keys a minute later.
const OFFERED_MAX: Duration = Duration::from_secs(150);

fn what_was_made_before_is_offered(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host, unit: &str) {
    mesh.until(OFFERED_MAX, "the owners are told", || kept(mesh) >= 2);
    let hits = count(two, "/hits/mesh");
    let found = (0..5).any(|_| {
        let found = checkout.compile(two, unit);
        assert!(found == checkout.expected(two, unit));
        count(two, "/hits/mesh") > hits || count(two, "/hits/local") > 0
    });
    assert!(found && count(one, "/compiles/local") == 1, "{}", report(two));
}

/// A hit by a neighbour's include manifest, without a look for inputs.
fn no_search_for_what_a_neighbour_found(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    let found = (0..8).any(|round| {
        let unit = checkout.small(&format!("g{round}.c"));
        let made = publish(mesh, checkout, one, &unit);
        let (hits, scans) = (count(two, "/hits/mesh"), count(two, "/scans/count"));
        assert!(checkout.compile(two, &unit) == made);
        let direct = count(two, "/hits/mesh") == hits + 1 && count(two, "/scans/count") == scans;
        if direct {
            let told = two.barn_text(["explain", unit.as_str()]).unwrap();
            assert!(told.contains("the include manifest of h1 holds"), "{told}");
            // So it does when the result is in the own store.
            let hits = count(two, "/hits/local");
            assert!(checkout.compile(two, &unit) == made);
            assert_eq!((count(two, "/hits/local"), count(two, "/scans/count")), (hits + 1, scans));
        }
        direct
    });
    assert!(found, "{}", report(two));
}

fn a_header_that_appears_is_seen(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    let text = "#if __has_include(\"opt.h\")\n#include \"opt.h\"\n#endif\nint ha(void) { return 1; }\n";
    checkout.write("ha.c", text);
    let made = publish(mesh, checkout, one, "ha.c");
    checkout.write("opt.h", "int more(void) { return 2; }\n");
    let compiled = checkout.compile(two, "ha.c");
    assert!(compiled != made && compiled == checkout.expected(two, "ha.c"));
}

/// As above, in a directory of another name, with another home.
fn so_does_one_with_another_checkout(
    mesh: &Mesh,
    [checkout, elsewhere]: [&Checkout; 2],
    one: &Host,
    two: &Host,
) {
    let found = (0..5).any(|round| {
        let unit = checkout.small(&format!("p{round}.c"));
        elsewhere.small(&unit);
        let (hits, compiled) = (count(two, "/hits/mesh"), count(two, "/compiles/local"));
        publish(mesh, checkout, one, &unit);
        let found = elsewhere.compile(two, &unit);
        assert!(found == elsewhere.expected(two, &unit), "{unit}");
        let is_hit = count(two, "/hits/mesh") == hits + 1;
        assert_eq!(count(two, "/compiles/local"), compiled + u64::from(!is_hit));
        // Now it is in the own store, and no scan is needed.
        let hits = count(two, "/hits/local");
        elsewhere.compile(two, &unit);
        assert_eq!(count(two, "/hits/local"), hits + 1);
        is_hit
    });
    assert!(found, "{}", report(two));
    // The same source, another header.
    let unit = checkout.small("qa.c");
    elsewhere.small(&unit);
    elsewhere.write("part.h", "inline int part(int a) { return a - 1; }\n");
    let made = publish(mesh, checkout, one, &unit);
    let compiled = elsewhere.compile(two, &unit);
    assert!(compiled != made && compiled == elsewhere.expected(two, &unit));
}

fn another_header_is_another_compile(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    let unit = checkout.small("ba.c");
    let made = publish(mesh, checkout, one, &unit);
    checkout.write("part.h", "inline int part(int a) { return a + 2; }\n");
    let hits = count(two, "/hits/mesh");
    let compiled = checkout.compile(two, &unit);
    assert_eq!(count(two, "/hits/mesh"), hits);
    assert!(compiled != made && compiled == checkout.expected(two, &unit));
}

fn a_failure_is_not_shared(checkout: &Checkout, one: &Host, two: &Host) {
    checkout.write("ca.c", "int f(void) { return missing; }\n");
    for host in [one, two] {
        let failed = count(host, "/compiles/failed");
        let command = host.command("barn").unwrap().args(["gcc", "-c", "ca.c", "-o", "ca.o"]);
        let ran: Ran =
            command.current_dir(checkout.path()).output_within(patience(COMPILE_MAX)).unwrap().into();
        assert_eq!(ran.status, 1);
        assert_eq!(count(host, "/compiles/failed"), failed + 1, "everybody sees it for himself");
    }
}

fn silent_owners_do_not_stop_a_build(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    let three = &mesh[2];
    three.freeze().unwrap();
    one.freeze().unwrap();
    for number in 0..6 {
        let unit = checkout.small(&format!("d{number}.c"));
        let found = checkout.compile(two, &unit);
        assert!(found == checkout.expected(two, &unit));
    }
    one.thaw().unwrap();
    three.thaw().unwrap();
    let all: Vec<&Host> = mesh.hosts().iter().collect();
    mesh.await_sight(&all, HEAL_MAX);
}

fn what_left_with_its_machine_is_a_miss(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    let unit = checkout.large("ea.c");
    let made = publish(mesh, checkout, one, &unit);
    one.kill_node().unwrap();
    let (hits, compiled) = (count(two, "/hits/mesh"), count(two, "/compiles/local"));
    let found = checkout.compile(two, &unit);
    assert_eq!((count(two, "/hits/mesh"), count(two, "/compiles/local")), (hits, compiled + 1));
    assert!(found == made, "the same compiler makes the same of it");
}

/// What a host did for one compile: hits from others, hits in its own store, compiles.
fn counts(host: &Host) -> [u64; 3] {
    ["/hits/mesh", "/hits/local", "/compiles/local"].map(|pointer| count(host, pointer))
}

/// Compiles under a demand; says what was done for it.
fn done_for(checkout: &Checkout, host: &Host, unit: &str, demand: &str) -> [u64; 3] {
    let before = counts(host);
    let written = checkout.compile_as(host, unit, demand);
    assert!(written == checkout.expected(host, unit), "{unit} {demand}");
    let after = counts(host);
    [0, 1, 2].map(|at| after[at] - before[at])
}

const FROM_OTHERS: [u64; 3] = [1, 0, 0];
const OWN: [u64; 3] = [0, 1, 0];
const COMPILED: [u64; 3] = [0, 0, 1];

/// Somebody on `maker` compiles; `reader` believes it or not. On a machine under load an owner may not answer in time.
fn believes(mesh: &Mesh, checkout: &Checkout, maker: &Host, reader: &Host, demand: &str) -> bool {
    (0..5).any(|round| {
        let number = fs::read_dir(checkout.path()).unwrap().count();
        let unit = checkout.small(&format!("p{number}r{round}.c"));
        publish(mesh, checkout, maker, &unit);
        done_for(checkout, reader, &unit, demand) == FROM_OTHERS
    })
}

#[test]
fn whose_word_counts_is_for_the_reader_to_say() {
    let checkout = Checkout::new();
    let Some(mesh) = office(&[&checkout], None) else { return };
    let (one, two, three) = (&mesh[0], &mesh[1], &mesh[2]);
    a_build_may_demand_more(&mesh, &checkout, one, two);
    what_several_made_counts_for_whoever_wants_several(&mesh, &checkout, [one, two, three]);
    the_setting_says_whom(&mesh, &checkout, [one, two, three]);
}

fn a_build_may_demand_more(mesh: &Mesh, checkout: &Checkout, one: &Host, two: &Host) {
    for demand in ["members", "workers:h1", "workers:h3,h1"] {
        assert!(believes(mesh, checkout, one, two, demand), "{demand}: {}", report(two));
    }
    let refused = |host: &Host| fallbacks(host).get("record-refused").copied().unwrap_or(0);
    for demand in ["own", "workers", "publishers", "workers:h3", "agree:2", "nonsense"] {
        let number = fs::read_dir(checkout.path()).unwrap().count();
        let unit = checkout.small(&format!("r{number}.c"));
        publish(mesh, checkout, one, &unit);
        assert_eq!(done_for(checkout, two, &unit, demand), COMPILED, "{demand}");
        let told = two.barn_text(["explain", unit.as_str()]).unwrap();
        let is_kept_here = told.contains("BARN_TRUST does not include every worker");
        assert_eq!(is_kept_here, demand != "workers", "{demand}: {told}");
        // Now it is its own.
        assert_eq!(done_for(checkout, two, &unit, demand), OWN, "{demand}");
    }
    let told = two.barn_text(["explain"]).unwrap();
    assert!(told.contains("BARN_TRUST: \"nonsense\" names nobody to trust"), "{told}");
    // What lies in the own store is no better for it.
    let unit = checkout.small("sa.c");
    publish(mesh, checkout, one, &unit);
    // If an owner is late, it is compiled here the first time.
    let is_anothers = done_for(checkout, two, &unit, "") == FROM_OTHERS;
    assert_eq!(done_for(checkout, two, &unit, ""), OWN);
    let before = refused(two);
    assert_eq!(done_for(checkout, two, &unit, "publishers"), if is_anothers { COMPILED } else { OWN });
    assert_eq!(refused(two) > before, is_anothers);
    assert_eq!(done_for(checkout, two, &unit, "publishers"), OWN);
}

fn what_several_made_counts_for_whoever_wants_several(
    mesh: &Mesh,
    checkout: &Checkout,
    [one, two, three]: [&Host; 3],
) {
    let found = (0..5).any(|round| {
        let unit = checkout.small(&format!("t{round}.c"));
        publish(mesh, checkout, one, &unit);
        assert_eq!(done_for(checkout, two, &unit, "agree:2"), COMPILED, "one is not enough");
        // The second one's record is on its way.
        std::thread::sleep(Duration::from_secs(1));
        let found = done_for(checkout, three, &unit, "agree:2") == FROM_OTHERS;
        if found {
            assert_eq!(done_for(checkout, three, &unit, "agree:2"), OWN, "what they signed is kept");
            assert_eq!(done_for(checkout, three, &unit, "agree:3"), COMPILED, "three have not made it");
        }
        found
    });
    assert!(found, "{}", report(three));
}

fn the_setting_says_whom(mesh: &Mesh, checkout: &Checkout, [one, two, three]: [&Host; 3]) {
    let unit = checkout.small("ua.c");
    publish(mesh, checkout, one, &unit);
    let had = done_for(checkout, three, &unit, "") == FROM_OTHERS;
    let settings = "[worker]\nslots = 0\n[cache]\ntrust = { workers = [\"h2\"] }\n";
    fs::write(three.barn_home().join("barn.toml"), settings).unwrap();
    mesh.renew(three, &[one, two]);
    let again = done_for(checkout, three, &unit, "");
    assert_eq!(again, if had { COMPILED } else { OWN }, "a stricter setting holds for what is there already");
    assert!(believes(mesh, checkout, two, three, ""), "{}", report(three));
    let other = checkout.small("va.c");
    publish(mesh, checkout, one, &other);
    assert_eq!(done_for(checkout, three, &other, ""), COMPILED);
    assert_eq!(done_for(checkout, three, &other, "members"), OWN, "a demand does not make it laxer");
}
