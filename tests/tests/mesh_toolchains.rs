//! Toolchains reach cold machines from each other, and survive what happens meanwhile.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::office::{Mesh, Project, Through, assert_same, count, report};

/// Everybody has the toolchain by then.
const SPREAD_MAX: Duration = Duration::from_secs(120);
/// Workers that start cold.
const COLD: usize = 4;
/// What the wire may carry beside pieces: actions, gossip, headers; by the share of an archive, whose compression is
/// stronger than that of the wire.
const OVERHEAD: f64 = 1.3;

/// Bytes that a host has sent on its link.
fn sent_bytes(host: &Host) -> u64 {
    let table = host.in_network(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    let links = table.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:"));
    links.map(|line| line.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap()).sum()
}

fn has_toolchain(host: &Host) -> bool {
    host.barn_text(["toolchain", "list"]).is_ok_and(|list| list.contains("fetched"))
}

/// Keeps `host` compiling until `holds`.
fn while_compiling(mesh: &Mesh, host: &Host, what: &str, holds: impl FnMut() -> bool) -> Duration {
    let project = Project::new(host, "spread");
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let build = scope.spawn(|| {
            for round in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let units: Vec<_> =
                    (0..12).map(|n| project.burner("gcc", 5000 + round * 12 + n, 1)).collect();
                let ran = project.build(&units, Through::Barn, 12);
                ran.iter().for_each(|ran| assert_eq!((ran.status, ran.err().as_str()), (0, "")));
            }
        });
        let took = mesh.until(SPREAD_MAX, what, holds);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        build.join().unwrap();
        took
    })
}

#[test]
fn cold_workers_get_the_toolchain_from_each_other() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let workers = (1..=COLD).map(|n| HostSpec::new(format!("w{n}")).bandwidth_mbit(200));
    let spec = workers.fold(spec.host(HostSpec::new("h1").bandwidth_mbit(200)), OfficeSpec::host);
    let Some(mesh) = Mesh::form(spec) else { return };
    let (h1, cold) = mesh.hosts().split_first().unwrap();
    for host in cold {
        // They have the same compiler as everybody on this machine.
        let settings = "[worker]\nadopt_toolchains = false\n";
        fs::write(host.barn_home().join("barn.toml"), settings).unwrap();
        mesh.renew(host, &[h1]);
    }
    let archive = h1.home().join("gcc.tar.zst");
    h1.barn_text(["toolchain", "export", "gcc", "--output", archive.to_str().unwrap()]).unwrap();
    let copy = fs::metadata(&archive).unwrap().len() as f64;

    let before = sent_bytes(h1);
    let took =
        while_compiling(&mesh, h1, "every worker has the toolchain", || cold.iter().all(has_toolchain));
    let copies = (sent_bytes(h1) - before) as f64 / copy;
    let from_others: u64 = cold.iter().map(sent_bytes).sum();
    println!(
        "{COLD} cold workers after {took:?}: the requester sent {copies:.2} archives, the others {from_others} bytes"
    );
    for host in cold {
        let log = fs::read_to_string(host.node_log()).unwrap();
        log.lines()
            .filter(|line| line.contains("fetched a toolchain"))
            .for_each(|line| println!("{}: {line}", host.name()));
    }
    assert!(copies <= 2.0 * OVERHEAD, "{copies:.2} archives were sent: {}", report(h1));
    assert!(from_others as f64 > copy, "they gave each other {from_others} bytes");
}

#[test]
fn a_worker_with_the_same_packages_fetches_no_bytes_of_them() {
    let spec = OfficeSpec::new(bin_dir_of_this_build())
        .host(HostSpec::new("h1").cpus(0.5))
        .host(HostSpec::new("h2"));
    let Some(mesh) = Mesh::form(spec) else { return };
    let (h1, h2) = (&mesh[0], &mesh[1]);
    let before = sent_bytes(h1);
    let took = while_compiling(&mesh, h1, "the worker has compiled", || count(h2, "/peers/h1/received") > 0);
    let sent = sent_bytes(h1) - before;
    println!("the first compile after {took:?} and {sent} bytes");
    let listed = h2.barn_text(["toolchain", "list"]).unwrap();
    assert!(listed.contains("fetched"), "{listed}");
    // A toolchain has 50 MB on the wire; units, their headers and its description have less than a tenth.
    assert!(sent < 5_000_000, "{sent} bytes were sent: {}", report(h1));
    assert_eq!(count(h1, "/compiles/failed"), 0, "{}", report(h1));
}

#[test]
fn a_machine_without_a_compiler_takes_the_office_s() {
    let spec = OfficeSpec::new(bin_dir_of_this_build()).host(HostSpec::new("h1")).host(HostSpec::new("h2"));
    let Some(mesh) = Mesh::form(spec) else { return };
    let (h1, h2) = (&mesh[0], &mesh[1]);
    let nothing = h2.barn(["toolchain", "fetch", "gcc"]).unwrap();
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(!nothing.status.success() && said.contains("no connected member has a toolchain gcc"), "{said}");

    // The office knows a compiler once somebody has used it.
    let project = Project::new(h1, "known");
    let unit = project.unit("gcc", "x.c", "int twice(int a) { return 2 * a; }\n", &["-O2"]);
    assert_eq!(project.compile(&unit, Through::Barn).status, 0);
    let listed = h2.barn_text(["toolchain", "list", "--mesh"]).unwrap();
    assert!(listed.contains("h1") && listed.contains("gcc "), "{listed}");
    let digest = listed.split_whitespace().next().unwrap();

    let bin = h2.barn_text(["toolchain", "fetch", digest]).unwrap();
    let gcc = std::path::Path::new(bin.trim()).join("gcc");
    assert!(gcc.starts_with(h2.barn_home()), "{bin}");
    fs::write(h2.home().join("x.c"), "int twice(int a) { return 2 * a; }\n").unwrap();
    let compile = |program: &str, words: &[&str], output: &str| {
        let command = h2.command(program).unwrap().args(words).args(["-O2", "-c", "x.c", "-o", output]);
        let ran = command.current_dir(h2.home()).output_within(SPREAD_MAX).unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        fs::read(h2.home().join(output)).unwrap()
    };
    let own = compile("gcc", &[], "own.o");
    let (name, no_words): (&str, &[&str]) = (gcc.to_str().unwrap(), &[]);
    assert!(compile(name, no_words, "direct.o") == own, "the fetched compiler wrote another object");
    assert!(compile("barn", &[name], "through.o") == own, "through barn it wrote another object");
    let again = h2.barn(["toolchain", "fetch", digest]).unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"), "{again:?}");
}

/// Takes every compiler, header, start-up file and program of binutils away from `host`, which has file mounts of its own.
fn take_compilers_away(host: &Host) {
    let script = r#"set -e
        for dir in /usr/include /usr/local/include /usr/lib/gcc /usr/lib/llvm-* /usr/lib/ccache /usr/lib/distcc; do
            [ ! -d "$dir" ] || mount -t tmpfs none "$dir"
        done
        cd /usr/bin
        for name in *gcc* *g++* *cpp* *clang* cc c++ c89 c99 as ld ld.bfd ld.gold ar nm strip ranlib readelf objcopy objdump *-as *-ld; do
            [ ! -f "$name" ] || mount --bind /dev/null "$(readlink -f "$name")"
        done
        for lib in /usr/lib/*-linux-gnu*; do
            for name in "$lib"/*crt1.o "$lib"/crt?.o "$lib"/libc.* "$lib"/libm.* "$lib"/libc_nonshared.a \
                "$lib"/libmpc.so.? "$lib"/libmpfr.so.? "$lib"/libisl.so.* "$lib"/libbfd* "$lib"/libopcodes* "$lib"/libctf*; do
                case "$name" in */libc.so.*|*/libm.so.*) continue;; esac
                [ ! -f "$name" ] || mount --bind /dev/null "$(readlink -f "$name")"
            done
        done"#;
    let ran = host.command("sh").unwrap().args(["-c", script]).output_within(SPREAD_MAX).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for gone in ["gcc", "g++", "cc", "clang", "as", "ld"] {
        let ran = host.command("sh").unwrap().args(["-c", &format!("{gone} --version")]);
        assert!(!ran.output_within(SPREAD_MAX).unwrap().status.success(), "{gone} still works");
    }
}

/// Runs a shell command on `host` with `bin` first in `PATH`; what it printed.
fn shell(host: &Host, bin: &str, script: &str) -> String {
    let script = format!("set -e; PATH={bin}:$PATH; {script}");
    let ran = host.command("sh").unwrap().args(["-c", &script]).output_within(SPREAD_MAX).unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

const HELLO_C: &str = "#include <errno.h>\n#include <math.h>\n#include <pthread.h>\n#include <stdio.h>\n\
    #include <sys/epoll.h>\n#include <linux/types.h>\n\
    int main(int argc, char **argv) { (void)argv; printf(\"%.0f\\n\", sqrt(argc * 9.0)); return 0; }\n";
const HELLO_CXX: &str = "#include <iostream>\n#include <map>\n#include <regex>\n#include <thread>\n\
    int main() { std::thread t([] { std::map<std::string, int> m{{\"a\", 4}}; std::cout << m[\"a\"] << std::endl; });\n\
    t.join(); try { throw 1; } catch (int n) { return n - 1; } }\n";

#[test]
fn a_machine_without_headers_and_linker_builds_programs_with_the_office_s() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let names = ["h1", "bare-a", "bare-b"];
    let Some(mesh) = Mesh::form(names.into_iter().fold(spec, |spec, name| spec.host(HostSpec::new(name))))
    else {
        return;
    };
    let (h1, bare) = mesh.hosts().split_first().unwrap();
    let packed = h1.barn_text(["toolchain", "pack", "--with-sysroot", "gcc"]).unwrap();
    for host in bare {
        take_compilers_away(host);
        // Each host has a /tmp of its own, so that this is one path of two machines.
        let bin = host.barn_text(["toolchain", "fetch", "gcc+sysroot", "--into", "/tmp/office-gcc"]).unwrap();
        assert_eq!(bin.trim(), "/tmp/office-gcc/bin");
        let listed = host.barn_text(["toolchain", "list"]).unwrap();
        assert!(listed.contains(&packed.trim()[..16]), "{listed}");
    }
    let (a, b) = (&bare[0], &bare[1]);
    let bin = "/tmp/office-gcc/bin";

    // By itself: compiled, linked in every way, run.
    for host in bare {
        let src = host.home().parent().unwrap().join("tmp/src");
        fs::create_dir(&src).unwrap();
        fs::write(src.join("x.c"), HELLO_C).unwrap();
        fs::write(src.join("y.cc"), HELLO_CXX).unwrap();
    }
    for flags in ["", "-static", "-O2 -flto", "-g -pie -Wl,--as-needed"] {
        let said =
            shell(a, bin, &format!("cd /tmp/src; gcc {flags} x.c -o x -lm; ./x; g++ {flags} y.cc -o y; ./y"));
        assert_eq!(said, "3\n4\n", "{flags}");
    }

    // Through barn: somewhere else too, with what the bare machine has fetched, and on the other bare one.
    let link = "gcc x.o -o x -lm; ./x; g++ y.o -o y; ./y; cat x.o y.o | cksum; cat y.d";
    let build = |barn: &str| {
        format!("cd /tmp/src; {barn} gcc -O2 -g -c x.c -o x.o; {barn} g++ -O2 -g -MD -c y.cc -o y.o; {link}")
    };
    let own = shell(a, bin, &build(""));
    mesh.until(SPREAD_MAX, "something has been compiled elsewhere", || {
        // More at once than the machine has cores, or none would leave it.
        let unit = "n=1$i$(date +%N); printf '#include <regex>\\nlong f%s = %s;' $n $n > $n.cc; barn g++ -O2 -c $n.cc -o $n.o";
        let units = format!("cd /tmp/src; for i in $(seq 12); do ({unit}) & done; wait");
        shell(a, bin, &units);
        count(a, "/compiles/remote") > 0
    });
    assert_eq!(shell(a, bin, &build("barn")), own);
    let stats = report(a);
    assert_eq!(count(a, "/requests/local"), 0, "{stats}");
    assert_eq!(
        shell(b, bin, &build("barn")),
        own,
        "the same directory on another machine gives the same bytes"
    );
}

#[test]
fn an_archive_stands_in_for_a_compiler_that_cannot_be_packed() {
    let spec = OfficeSpec::new(bin_dir_of_this_build());
    let spec = spec.host(HostSpec::new("h1").cpus(1.0)).host(HostSpec::new("h2"));
    let Some(mesh) = Mesh::form(spec) else { return };
    let (h1, h2) = (&mesh[0], &mesh[1]);
    let (script, archive) = (h1.home().join("wrapped-g++"), h1.home().join("g++.tar.zst"));
    fs::write(&script, "#!/bin/sh\nexec /usr/bin/g++ \"$@\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (compiler, archive) = (script.to_str().unwrap(), archive.to_str().unwrap());
    h1.barn_text(["toolchain", "export", "g++", "--output", archive]).unwrap();
    let setting = format!("[[toolchain]]\ncompiler = \"{compiler}\"\narchive = \"{archive}\"\n");
    fs::write(h1.barn_home().join("barn.toml"), setting).unwrap();
    mesh.renew(h1, &[h2]);
    mesh.until(SPREAD_MAX, "the archive is read", || {
        h1.barn(["doctor"])
            .is_ok_and(|doctor| String::from_utf8_lossy(&doctor.stdout).contains("stands in for"))
    });
    mesh.warm(h1, &[h2], compiler);

    let records = || {
        let stat = h1.barn_text(["cache", "stat", "--json"]).unwrap();
        serde_json::from_str::<serde_json::Value>(&stat).unwrap()["records"].as_u64().unwrap()
    };
    let kept_before = records();
    let project = Project::new(h1, "stand-in");
    let units: Vec<_> = (0..8).map(|n| project.burner(compiler, 9000 + n, 1)).collect();
    let ran = project.build(&units, Through::Barn, 8);
    let written = project.take_outputs();
    let remote = count(h1, "/compiles/remote");
    assert!(remote > 0, "{}", report(h1));
    assert_eq!(records() - kept_before, remote, "what ran here is not kept: {}", report(h1));
    project.assert_local(&units, &ran, &written);
    project.build(&units, Through::Barn, 8);
    assert_eq!(count(h1, "/hits/local"), remote, "{}", report(h1));
    assert_same(&written, &project.take_outputs());
}
