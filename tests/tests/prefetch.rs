//! What the CI machine built, another fetches before it asks for it: prefetch through the real programs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    Ran,
    office::{HEAL_MAX, Mesh, SIGHT_MAX, count, join, report, start_node},
    pace::patience,
};
use serde_json::Value;

const COMPILE_MAX: Duration = Duration::from_secs(60);
/// A fetch of some MiB has come to its end by then.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// Lists are written by then.
const WRITTEN_MAX: Duration = Duration::from_secs(20);
/// Units of a project.
const UNITS: usize = 24;
/// Numbers in a unit's table: an object of 100 KB that does not shrink.
const TABLE: u32 = 25_000;

/// A project that every host sees at the same path.
struct Checkout {
    dir: tempfile::TempDir,
}

/// What a build wrote, by file name.
type Objects = BTreeMap<String, Vec<u8>>;

impl Checkout {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("barn-checkout").tempdir_in("/tmp").unwrap();
        fs::write(dir.path().join("part.h"), "inline int part(int a) { return a + 1; }\n").unwrap();
        let checkout = Self { dir };
        for number in 0..UNITS {
            fs::write(checkout.path().join(unit(number)), source(number)).unwrap();
        }
        checkout
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Builds all units on a host, one after the other; what that wrote is read and removed.
    fn build(&self, host: &Host, name: Option<&str>) -> Objects {
        (0..UNITS).for_each(|number| self.compile(host, number, name));
        self.take()
    }

    fn compile(&self, host: &Host, number: usize, name: Option<&str>) {
        let flags: &[&str] = if has_side(number) { &["-g", "-gsplit-dwarf"] } else { &["-O1"] };
        let unit = unit(number);
        let mut command = host.command("barn").unwrap().arg("gcc").args(flags).args(["-c", unit.as_str()]);
        if let Some(name) = name {
            command = command.env("BARN_BUILD", name);
        }
        let ran: Ran = command.current_dir(self.path()).output_within(patience(COMPILE_MAX)).unwrap().into();
        assert_eq!((ran.status, ran.err().as_str()), (0, ""), "{}", report(host));
    }

    fn take(&self) -> Objects {
        let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_output = |path: &PathBuf| path.extension().is_some_and(|end| end == "o" || end == "dwo");
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let written = files.filter(is_output).map(|path| {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            (name(&path), bytes)
        });
        written.collect()
    }
}

fn unit(number: usize) -> String {
    format!("unit{number}.c")
}

/// Whether a unit has its debug information in a file beside the object.
fn has_side(number: usize) -> bool {
    number % 6 == 1
}

/// Every other unit has a table; the others' objects are small enough for the owners of their keys.
fn source(number: usize) -> String {
    let mut text = format!("#include \"part.h\"\nint f{number}(int a) {{ return part(a) + {number}; }}\n");
    if number.is_multiple_of(2) {
        text.push_str("const unsigned table[] = {");
        let mut word = 2_654_435_769_u32.wrapping_add(u32::try_from(number).unwrap());
        for _ in 0..TABLE {
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            write!(text, "{word}u,").unwrap();
        }
        text.push_str("};\n");
    }
    text
}

/// An office of a CI machine, which may publish when it is told to, and others. Everybody compiles on its own.
fn office(checkout: &Checkout) -> Option<Mesh> {
    let host = |name| HostSpec::new(name).sees(checkout.path());
    let spec = OfficeSpec::new(bin_dir_of_this_build())
        .host(host("ci"))
        .host(host("dev"))
        .host(host("slow").bandwidth_mbit(4));
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

/// Lets the CI machine publish, or no longer; everybody knows of it.
fn let_publish(mesh: &Mesh, publish: bool) {
    let id = mesh[0].barn_text(["id"]).unwrap();
    let flag = if publish { &["--publish"][..] } else { &[] };
    mesh[0].barn_text([&["mesh", "allow", id.trim()][..], flag].concat()).unwrap();
    let epoch = |host: &Host| host.status_json().ok().and_then(|status| status["mesh"]["epoch"].as_u64());
    let newest = epoch(&mesh[0]).unwrap();
    mesh.until(SIGHT_MAX, "the roster is everywhere", || {
        mesh.hosts().iter().all(|host| epoch(host) == Some(newest))
    });
}

/// Fetches a build; the counts by their names.
fn warm(host: &Host, arguments: &[&str]) -> Value {
    let ran = try_warm(host, &[arguments, &["--json"]].concat());
    assert_eq!(ran.status, 0, "{} {}", ran.err(), report(host));
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn try_warm(host: &Host, arguments: &[&str]) -> Ran {
    let command = host.command("barn").unwrap().args(["cache", "warm", "--from"]).args(arguments);
    command.output_within(patience(FETCH_MAX)).unwrap().into()
}

fn refused(host: &Host, name: &str, why: &str) {
    let ran = try_warm(host, &[name]);
    assert!(ran.status == 1 && ran.stdout.is_empty(), "{}", ran.out());
    assert!(ran.err().contains(why), "not `{why}`: {}", ran.err());
}

fn begin_warm(host: &Host, name: &str) -> Child {
    let command = host.command("barn").unwrap().args(["cache", "warm", "--from", name]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn assert_counts(report: &Value, expect: &[(&str, usize)]) {
    for (name, count) in expect {
        assert_eq!(report[*name].as_u64(), Some(*count as u64), "{name} of {report}");
    }
    let all = ["present", "fetched", "missing", "refused", "failed", "left_out", "pending"];
    let sum: u64 = all.iter().map(|name| report[*name].as_u64().unwrap()).sum();
    assert_eq!(report["entries"].as_u64(), Some(sum), "{report}");
}

/// Builds on a host that has everything.
fn assert_all_hit(checkout: &Checkout, host: &Host, expect: &Objects) {
    let counts = || ["/hits/local", "/hits/mesh", "/misses"].map(|name| count(host, name));
    let before = counts();
    let built = checkout.build(host, None);
    assert!(built == *expect, "other objects than those of the CI machine");
    assert_eq!(counts(), [before[0] + UNITS as u64, before[1], before[2]], "{}", report(host));
}

fn assert_store_good(host: &Host) {
    let told = host.barn_text(["cache", "verify"]).unwrap();
    assert!(told.contains("all are whole"), "{told}");
}

#[test]
fn a_recorded_build_is_fetched_and_built_without_its_publisher() {
    let checkout = Checkout::new();
    let Some(mesh) = office(&checkout) else { return };
    let (ci, dev, slow) = (&mesh[0], &mesh[1], &mesh[2]);
    refused(dev, "4f2a", "no member may publish");
    checkout.compile(ci, 0, Some("too-early"));
    let told = ci.barn_text(["explain", unit(0).as_str()]).unwrap();
    assert!(told.contains("may not publish"), "{told}");

    let_publish(&mesh, true);
    let built = checkout.build(ci, Some("4f2a"));
    assert_eq!(built.len(), UNITS + UNITS.div_ceil(6));
    let hits = count(ci, "/hits/local");
    assert!(checkout.build(ci, Some("again")) == built);
    assert_eq!(count(ci, "/hits/local"), hits + UNITS as u64, "the second build only has hits");
    refused(dev, "too-early", "was not recorded by ci");

    assert_counts(&warm(dev, &["4f2a", "--limit", "0"]), &[("entries", UNITS), ("left_out", UNITS)]);
    let fetched = warm(dev, &["again"]);
    assert_counts(&fetched, &[("entries", UNITS), ("fetched", UNITS)]);
    assert_eq!(fetched["publisher"], "ci");
    assert_counts(&warm(dev, &["4f2a"]), &[("entries", UNITS), ("present", UNITS), ("bytes", 0)]);

    // What it recorded is on its disk before long.
    let is_list = |entry: &fs::DirEntry| entry.path().extension().is_none();
    let lists = || fs::read_dir(ci.barn_home().join("builds-v1")).into_iter().flatten().flatten();
    mesh.until(WRITTEN_MAX, "both lists are written", || lists().filter(is_list).count() == 2);
    mesh.renew(ci, &[dev, slow]);
    assert_counts(&warm(dev, &["4f2a"]), &[("entries", UNITS), ("present", UNITS)]);
    let_publish(&mesh, false);
    refused(dev, "4f2a", "no member may publish");
    let_publish(&mesh, true);
    ci.kill_node().unwrap();
    slow.kill_node().unwrap();
    assert_all_hit(&checkout, dev, &built);
    assert_store_good(dev);
    mesh.until(HEAL_MAX, "dev misses the CI machine", || barn_tests::office::connected(dev).is_empty());
    refused(dev, "4f2a", "no publisher is up: ci");
}

#[test]
fn a_fetch_is_safe_beside_a_build_and_may_be_killed() {
    let checkout = Checkout::new();
    let Some(mesh) = office(&checkout) else { return };
    let (ci, dev, slow) = (&mesh[0], &mesh[1], &mesh[2]);
    let_publish(&mesh, true);
    let built = checkout.build(ci, Some("4f2a"));

    let mut fetch = begin_warm(dev, "4f2a");
    assert!(checkout.build(dev, None) == built, "other objects than those of the CI machine");
    assert!(fetch.wait().unwrap().success());
    assert_counts(&warm(dev, &["4f2a"]), &[("present", UNITS)]);
    assert_store_good(dev);

    // Whoever gave the order goes away; the next one does not wait for it.
    let stat = || slow.barn_text(["cache", "stat", "--json"]).unwrap();
    let records = || serde_json::from_str::<Value>(&stat()).unwrap()["records"].as_u64().unwrap();
    let mut fetch = begin_warm(slow, "4f2a");
    mesh.until(FETCH_MAX, "something came", || records() > 0);
    fetch.kill().unwrap();
    fetch.wait().unwrap();
    let stopped = warm(slow, &["4f2a", "--limit", "0"]);
    assert!(stopped["left_out"].as_u64() > Some(0), "the first fetch was at an end: {stopped}");

    let before = stopped["present"].as_u64().unwrap();
    let mut fetch = begin_warm(slow, "4f2a");
    mesh.until(FETCH_MAX, "more came", || records() > before);
    slow.kill_node().unwrap();
    fetch.wait().unwrap();
    start_node(slow);
    mesh.await_sight(&[slow, ci], HEAL_MAX);
    assert_store_good(slow);
    let rest = warm(slow, &["4f2a"]);
    assert_counts(&rest, &[("entries", UNITS), ("failed", 0), ("missing", 0), ("left_out", 0)]);
    assert!(rest["present"].as_u64().unwrap() > before, "{rest}");
    ci.kill_node().unwrap();
    dev.kill_node().unwrap();
    assert_all_hit(&checkout, slow, &built);
}
