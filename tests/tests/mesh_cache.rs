//! What one machine compiled, another need not: the office's cache through the real programs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    Ran,
    office::{HEAL_MAX, Mesh, SIGHT_MAX, count, join, report, start_node},
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
        let object = self.object(unit);
        let command = host.command("barn").unwrap().args(["gcc", "-O1", "-Wall", "-c", unit, "-o"]);
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

/// An office in which everybody compiles on its own.
fn office(checkout: &Checkout, other: &Checkout) -> Option<Mesh> {
    let host = |name| HostSpec::new(name).sees(checkout.path()).sees(other.path());
    let spec = OfficeSpec::new(bin_dir_of_this_build()).host(host("h1")).host(host("h2")).host(host("h3"));
    let mesh = Mesh::empty(spec)?;
    for host in mesh.hosts() {
        fs::create_dir_all(host.barn_home()).unwrap();
        fs::write(host.barn_home().join("barn.toml"), "[worker]\nslots = 0\n").unwrap();
        start_node(host);
    }
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
    let Some(mesh) = office(&checkout, &elsewhere) else { return };
    let (one, two) = (&mesh[0], &mesh[1]);
    a_neighbour_has_it(&mesh, &checkout, one, two);
    so_does_one_with_another_checkout(&mesh, [&checkout, &elsewhere], one, two);
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
