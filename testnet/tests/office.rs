//! The office itself, with ordinary programs on its hosts: network, cores, files, faults and taking down.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use barn_testnet::{Error, Host, HostSpec, Office, OfficeSpec, bin_dir_of_this_build, office_or_skip};

const MOMENT: Duration = Duration::from_secs(10);
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

fn office(hosts: usize) -> Option<Office> {
    office_or_skip(OfficeSpec::new(bin_dir_of_this_build()).hosts(hosts, None))
}

/// The output of a shell line on a host, which must succeed.
fn say(host: &Host, line: &str) -> String {
    let output = host.command("sh").unwrap().args(["-c", line]).output_within(MOMENT).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether a datagram from one host reaches another within half a second.
fn hears(listener: &UdpSocket, speaker: &UdpSocket, to: SocketAddr) -> bool {
    speaker.send_to(b"hello", to).ok();
    listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    match listener.recv(&mut [0; 16]) {
        Ok(length) => length == 5,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("{error}"),
    }
}

fn socket(host: &Host, port: u16) -> UdpSocket {
    host.in_network(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap()
}

/// Pulls TCP data from one host to another and returns Mbit/s.
fn throughput(from: &Host, to: &Host, bytes: usize) -> f64 {
    let listener = to.in_network(|| TcpListener::bind((to.address(), 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let sender = from.in_network(|| TcpStream::connect(address)).unwrap().unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::io::copy(&mut std::io::Read::take(std::io::repeat(7), bytes as u64), &mut &sender)
        });
        let received = std::io::copy(&mut receiver, &mut std::io::sink()).unwrap();
        assert_eq!(received, bytes as u64);
    });
    bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

/// Everything an office of this process could leave: cgroups and files by name, mounts and cables by count.
fn traces() -> BTreeSet<String> {
    let mine = format!("barn-office-{}-", std::process::id());
    let mut traces = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup"), std::env::temp_dir()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&mine) {
                traces.insert(entry.path().display().to_string());
            } else if dir.starts_with("/sys/fs/cgroup") && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains("barn-office")).map(str::to_owned));
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
    let links = String::from_utf8(links).unwrap();
    traces.extend(
        links.lines().filter(|line| line.contains("cable") || line.contains("br0")).map(str::to_owned),
    );
    traces
}

fn of_office(traces: &BTreeSet<String>, office: &Path) -> usize {
    let name = office.file_name().unwrap().to_str().unwrap();
    traces.iter().filter(|trace| trace.contains(name)).count()
}

/// A zombie is dead: it only waits to be collected.
fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with(['Z', 'X']))
}

#[test]
fn every_host_has_its_own_name_address_and_environment() {
    let Some(office) = office(2) else { return };
    for (host, name, address) in [(&office[0], "h1", "10.77.0.1"), (&office[1], "h2", "10.77.0.2")] {
        assert_eq!(say(host, "uname -n"), name);
        assert_eq!(
            say(host, "ip -4 -o address show dev eth0 | tr -s ' ' | cut -d' ' -f4"),
            format!("{address}/24")
        );
        assert_eq!(say(host, "echo $BARN_HOME"), host.barn_home().display().to_string());
        assert_eq!(say(host, "pwd"), host.home().display().to_string());
        assert_eq!(say(host, "env | grep -c '^CARGO' || true"), "0");
    }
    assert_eq!(office.host("h2").unwrap().address(), Ipv4Addr::new(10, 77, 0, 2));
    assert!(office.host("h3").is_none());
}

#[test]
fn a_host_sees_its_own_files_and_not_those_of_the_others() {
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("note"), "for h1").unwrap();
    let spec = OfficeSpec::new(bin_dir_of_this_build())
        .host(HostSpec::new("h1").sees(shared.path()))
        .host(HostSpec::new("h2"));
    let Some(office) = office_or_skip(spec) else { return };
    let (one, two) = (&office[0], &office[1]);
    let note = shared.path().join("note");
    assert_eq!(say(one, &format!("cat {}", note.display())), "for h1");
    assert_eq!(say(two, &format!("test -e {} || echo none", note.display())), "none");

    say(one, "echo mine > /tmp/mine; echo home > $HOME/file");
    assert_eq!(say(two, "test -e /tmp/mine || echo none"), "none");
    assert_eq!(say(two, &format!("test -e {} || echo none", one.home().display())), "none");
    assert_eq!(fs::read_to_string(one.home().join("file")).unwrap(), "home\n");
    assert!(!Path::new("/tmp/mine").exists());
    // A worker of another user id gets to the state directory.
    assert_eq!(
        say(one, "setpriv --reuid 65534 --clear-groups sh -c 'cd $BARN_HOME && pwd'"),
        say(one, "echo $BARN_HOME")
    );
}

#[test]
fn files_are_private_under_any_root() {
    let root = tempfile::Builder::new().prefix("office-root-").tempdir_in("/var").unwrap();
    let mut spec = OfficeSpec::new(bin_dir_of_this_build()).hosts(2, None);
    spec.root = root.path().to_owned();
    let Some(office) = office_or_skip(spec) else { return };
    say(&office[0], "echo home > $HOME/file");
    assert_eq!(say(&office[0], "cat $HOME/file"), "home");
    let file = office[0].home().join("file");
    assert_eq!(say(&office[1], &format!("test -e {} || echo none", file.display())), "none");
    let directory = office.directory().to_owned();
    drop(office);
    assert!(!directory.exists());
}

#[test]
fn datagrams_and_multicast_pass_between_hosts() {
    let Some(office) = office(3) else { return };
    let listeners: Vec<_> = office
        .hosts()
        .iter()
        .skip(1)
        .map(|host| {
            let listener = socket(host, 5353);
            listener.join_multicast_v4(&MDNS, &host.address()).unwrap();
            listener
        })
        .collect();
    let speaker = socket(&office[0], 5353);
    let to = |address: Ipv4Addr| SocketAddr::from((address, 5353));
    for (host, listener) in office.hosts()[1..].iter().zip(&listeners) {
        assert!(hears(listener, &speaker, to(host.address())), "unicast to {}", host.name());
    }
    speaker.send_to(b"query", to(MDNS)).unwrap();
    for listener in &listeners {
        listener.set_read_timeout(Some(MOMENT)).unwrap();
        assert_eq!(listener.recv_from(&mut [0; 16]).unwrap(), (5, to(office[0].address())));
    }
}

#[test]
fn a_cut_cable_carries_nothing_until_it_heals() {
    let Some(office) = office(2) else { return };
    let sockets = [socket(&office[0], 7000), socket(&office[1], 7000)];
    let passes =
        |from: usize, to: usize| hears(&sockets[to], &sockets[from], (office[to].address(), 7000).into());
    let expect = |to_second: bool, to_first: bool, when: &str| {
        assert_eq!((passes(0, 1), passes(1, 0)), (to_second, to_first), "{when}");
    };
    let heal = || {
        office[1].heal().unwrap();
        office.wait_until(MOMENT, "healing", || passes(0, 1) && passes(1, 0)).unwrap();
        // Late datagrams of the tries before must not count below.
        while passes(0, 1) && sockets.iter().any(|socket| socket.recv(&mut [0; 16]).is_ok()) {}
    };
    expect(true, true, "at first");
    office[1].cut().unwrap();
    expect(false, false, "cut");
    heal();
    office[1].mute().unwrap();
    expect(true, false, "mute");
    heal();
    office[1].deafen().unwrap();
    expect(false, true, "deaf");
    heal();
    expect(true, true, "healed");
}

#[test]
fn bandwidth_is_what_was_asked() {
    let spec = OfficeSpec::new(bin_dir_of_this_build())
        .host(HostSpec::new("fast"))
        .host(HostSpec::new("slow").bandwidth_mbit(20));
    let Some(office) = office_or_skip(spec) else { return };
    for (from, to) in [(0, 1), (1, 0)] {
        let mbit = throughput(&office[from], &office[to], 5_000_000);
        assert!((10.0..26.0).contains(&mbit), "{mbit:.1} Mbit/s on a cable of 20");
    }
}

/// CPU seconds a busy loop gets in one second of wall time.
fn cores_of(host: &Host) -> f64 {
    let said = say(host, "timeout 1 sh -c 'while :; do :; done'; times");
    let seconds = |text: &str| {
        let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    said.lines().last().unwrap().split_whitespace().map(seconds).sum()
}

#[test]
fn the_quota_bounds_a_host_and_can_change() {
    let spec = OfficeSpec::new(bin_dir_of_this_build()).host(HostSpec::new("h1").cpus(0.2));
    let Some(office) = office_or_skip(spec) else { return };
    // Other work on the machine can only lower what the loop gets.
    let cores = cores_of(&office[0]);
    assert!((0.05..0.27).contains(&cores), "{cores} cores with a quota of 0.2");
    office[0].slow(None).unwrap();
    let whole = cores_of(&office[0]);
    assert!(whole > cores * 1.5, "{whole} cores without a quota, {cores} with");
    office[0].slow(Some(0.1)).unwrap();
    let cores = cores_of(&office[0]);
    assert!(cores < 0.15, "{cores} cores with a quota of 0.1");
    assert!(office[0].slow(Some(0.0)).is_err());
}

#[test]
fn a_frozen_host_stands_still() {
    let Some(office) = office(1) else { return };
    let host = &office[0];
    let line = "while :; do echo x; sleep 0.01; done >$HOME/ticks & while :; do sleep 0.01; done";
    let mut child = host.command("sh").unwrap().args(["-c", line]).spawn().unwrap();
    let ticks = || fs::metadata(host.home().join("ticks")).map_or(0, |file| file.len());
    let moves = || {
        let before = ticks();
        std::thread::sleep(Duration::from_millis(300));
        ticks() > before
    };
    office.wait_until(MOMENT, "the first tick", || ticks() > 0).unwrap();
    host.freeze().unwrap();
    assert!(host.processes().len() >= 2);
    assert!(host.is_frozen(), "{:?}", host.processes());
    assert!(!moves());
    host.thaw().unwrap();
    office.wait_until(MOMENT, "ticks after thawing", moves).unwrap();
    assert!(!host.is_frozen());
    host.freeze().unwrap();
    host.power_off().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(host.processes(), []);
}

#[test]
fn commands_have_a_limit_and_do_not_wait_for_what_they_leave_behind() {
    let Some(office) = office(1) else { return };
    let host = &office[0];
    let start = Instant::now();
    let late = host.command("sleep").unwrap().arg("60").output_within(Duration::from_millis(200));
    assert_eq!(late.unwrap_err().to_string(), "sleep 60 took longer than 0.2 s");
    assert_eq!(say(host, "sleep 60 & echo started"), "started");
    assert!(start.elapsed() < MOMENT);
    let missing = host.command("no-such-program").unwrap().output_within(MOMENT);
    assert_eq!(missing.unwrap_err().to_string(), "cannot start no-such-program");
    let failing =
        host.command("sh").unwrap().args(["-c", "echo why >&2; exit 3"]).output_within(MOMENT).unwrap();
    assert_eq!((failing.status.code(), failing.stderr.as_slice()), (Some(3), b"why\n".as_slice()));
}

#[test]
fn several_offices_live_side_by_side_and_leave_nothing() {
    let Some(first) = office(2) else { return };
    let Some(second) = office(2) else { return };
    let mut pids = Vec::new();
    for office in [&first, &second] {
        // A stubborn grandchild in a session of its own, as a daemon would be.
        say(&office[0], "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 &");
        say(&office[1], "mkdir $BARN_HOME/store && echo x > $BARN_HOME/store/blob");
        pids.extend(office[0].processes().iter().map(|process| process.pid));
    }
    assert!(pids.len() >= 2 && pids.iter().all(|pid| alive(*pid)), "{pids:?}");
    assert_ne!(first.directory(), second.directory());
    let (one, two) = (first.directory().to_owned(), second.directory().to_owned());
    assert!(of_office(&traces(), &one) >= 2);
    drop(first);
    assert_eq!(of_office(&traces(), &one), 0, "{:?}", traces());
    assert!(of_office(&traces(), &two) >= 2);
    assert_eq!(say(&second[0], "uname -n"), "h1");
    drop(second);
    assert_eq!(of_office(&traces(), &two), 0, "{:?}", traces());
    assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
}

#[test]
fn a_panic_takes_the_office_down() {
    let Some(office) = office(1) else { return };
    let directory = office.directory().to_owned();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        say(&office[0], "sleep 60 >/dev/null 2>&1 &");
        panic!("as planned");
    }));
    assert!(result.is_err());
    assert_eq!(of_office(&traces(), &directory), 0);
}

#[test]
fn what_cannot_be_made_is_taken_down_again() {
    let root = tempfile::tempdir().unwrap();
    let mut spec = OfficeSpec::new(bin_dir_of_this_build())
        .host(HostSpec::new("half-made"))
        .host(HostSpec::new("unmade").sees("/tmp/there-is-no-such-path"));
    spec.root = root.path().to_owned();
    let error = match Office::build(spec) {
        Err(Error::Unavailable(reason)) if std::env::var_os("CI").is_none() => {
            return eprintln!("skipped: {reason}");
        }
        result => result.unwrap_err(),
    };
    assert_eq!(error.to_string(), "cannot resolve /tmp/there-is-no-such-path");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    let half_made = |trace: &String| Path::new(trace).join("half-made").exists();
    assert!(!traces().iter().any(half_made), "{:?}", traces());
}

#[test]
fn without_root_it_says_so() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let exe = std::env::current_exe().unwrap();
    // The same test binary as nobody: a directory on the way to it may be closed, so a copy goes where all can read.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("office-test");
    fs::copy(exe, &copy).unwrap();
    Command::new("chmod").args(["-R", "a+rx"]).arg(dir.path()).status().unwrap();
    let run = |ci: bool| {
        let mut command = Command::new(&copy);
        command.args(["--exact", "a_panic_takes_the_office_down", "--nocapture"]).current_dir("/");
        command.uid(65534).gid(65534).env_remove("CI").stdin(Stdio::null());
        if ci {
            command.env("CI", "1");
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (passed, said) = run(false);
    assert!(passed && said.contains("skipped: no office can be made here: only root"), "{said}");
    let (passed, said) = run(true);
    assert!(!passed && said.contains("only root may make network namespaces"), "{said}");
}
