//! What a hostile compile tries to see and do, and does not get.

mod common;

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
};

use barn_sandbox::{AccessError, Config, Entry, Exit, Kind, Mount, Priority, RunError, Sandbox, SetupError};
use common::{open_directory, path, printed, probe, run, sandbox, with_input};

fn link(at: &str, target: &str) -> Entry {
    Entry { path: path(at), kind: Kind::Symlink { target: target.into() } }
}

/// The probe got through at least `tries` tries, and none was a hole.
#[track_caller]
fn nothing_worked(arguments: &[&str], tries: u32) {
    let text = printed(&with_input(probe(arguments)));
    let tried = text.strip_prefix("tried ").and_then(|count| count.trim().parse::<u32>().ok());
    assert!(tried.is_some_and(|tried| tried >= tries), "{text}");
}

#[test]
fn the_self_test_passes() {
    sandbox().self_test().unwrap();
}

#[test]
fn the_self_test_says_why_it_cannot() {
    let config = |bwrap: &Path| Config {
        helper: env!("CARGO_BIN_EXE_barn-room").into(),
        bwrap: bwrap.to_owned(),
        drop_to: None,
    };
    let missing = Sandbox::new(config(Path::new("/usr/bin/no-bwrap"))).unwrap_err();
    assert_eq!(missing.hint(), Some("install the package bubblewrap"));
    // A bubblewrap that answers as one does on a machine without user namespaces.
    let directory = open_directory();
    let fake = directory.path().join("bwrap");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo bubblewrap 0.8.0 && exit\n\
                  echo 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n";
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = Sandbox::new(config(&fake)).unwrap().self_test().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the sandbox does not work: bwrap: No permissions to create a new namespace"
    );
    assert!(
        matches!(&error, SetupError::Broken(_)) && error.hint().is_some_and(|hint| hint.contains("sysctl"))
    );
}

#[test]
fn no_forbidden_call_succeeds() {
    let host_pid = std::process::id().to_string();
    nothing_worked(&["calls", &host_pid], 130);
}

#[test]
fn no_forbidden_file_opens() {
    nothing_worked(&["files"], 35);
}

#[test]
fn another_abi_is_the_end() {
    let (finished, _) = run(&probe(&["int80"])).unwrap();
    assert_eq!((finished.exit, finished.stdout.as_slice()), (Exit::Signal(libc::SIGSYS), &b""[..]));
}

#[test]
fn the_host_cannot_be_read() {
    let secret = open_directory();
    let file = secret.path().join("secret");
    std::fs::write(&file, "secret").unwrap();
    for at in ["/etc/passwd", "/etc/shadow", "/root/.ssh/id_rsa", "/home", file.to_str().unwrap()] {
        assert_eq!(printed(&probe(&["read", at])), format!("error {}\n", libc::ENOENT), "{at}");
    }
    assert_eq!(printed(&probe(&["list", "/home"])), "cannot list /home\n");
    let path_variable = std::env::var("PATH").unwrap();
    assert!(!printed(&probe(&["read", "/proc/1/environ"])).contains(&path_variable));
    let mut names: Vec<_> = printed(&probe(&["list", "/"])).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, [".barn -> ", "dev -> ", "proc -> ", "tmp -> ", "usr -> ", "work -> "]);
}

#[test]
fn only_its_own_environment_descriptors_and_ids() {
    let mut spec = probe(&["environment"]);
    assert_eq!(printed(&spec), "");
    spec.env = vec![(b"A".to_vec(), b"b=c".to_vec())];
    assert_eq!(printed(&spec), "A=b=c\n");
    assert_eq!(printed(&probe(&["ids"])), "1000 1000 1000 1000\n");
    assert_eq!(printed(&probe(&["stdin"])), "0\n");
    // A descriptor that this process would pass on to any child.
    let inherited = File::open("/etc/passwd").unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&inherited, flags).unwrap();
    let listing = printed(&probe(&["list", "/proc/self/fd"]));
    drop(inherited);
    assert_eq!(listing.lines().count(), 3, "{listing}");
    assert!(listing.contains("0 -> /dev/null") && !listing.contains("passwd"), "{listing}");
}

#[test]
fn sockets_of_the_host_are_out_of_reach() {
    let directory = open_directory();
    let at = directory.path().join("socket");
    let _listening = UnixListener::bind(&at).unwrap();
    let name = format!("barn-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let abstract_listener = UnixListener::bind_addr(&address).unwrap();
    assert!(abstract_listener.as_raw_fd() > 0);
    assert_eq!(
        printed(&probe(&["connect", "path", at.to_str().unwrap()])),
        format!("error {}\n", libc::ENOENT)
    );
    assert_eq!(printed(&probe(&["connect", "abstract", &name])), format!("error {}\n", libc::ECONNREFUSED));
}

#[test]
fn links_to_bubblewraps_roots_lead_nowhere() {
    let directory = open_directory();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let host = directory.path().display();
    for root in ["/oldroot", "/newroot", "/proc/1/root", ""] {
        for (at, output) in
            [("/work/link", "/work/link/evil"), ("/evil", "/evil/evil"), ("/work/a/l", "/work/a/l/x/evil")]
        {
            let mut spec = probe(&["write", output, "evil"]);
            spec.inputs.push(link(at, &format!("{root}{host}")));
            spec.outputs.push(path(output));
            // Whether the room gives up or writes to a place of its own: nothing of it is on the host.
            let _ = run(&spec);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{root} {at}");
        }
    }
}

#[test]
fn toolchain_files_the_sandbox_cannot_read_are_named() {
    let directory = open_directory();
    let host = directory.path().join("blob");
    std::fs::write(&host, "x").unwrap();
    std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let mut spec = probe(&["exit", "0"]);
    spec.toolchain.push(Mount { host: host.clone(), inside: path("/usr/lib/blob") });
    let error = run(&spec).unwrap_err();
    let RunError::Toolchain { source: AccessError::Denied { path: denied, .. }, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(denied, host);
}

#[test]
fn one_run_leaves_nothing_for_the_next() {
    let mut first = probe(&["write", "/tmp/left", "x"]);
    first.outputs.push(path("/tmp/left"));
    assert_eq!(run(&first).unwrap().1, [(0, b"x".to_vec())]);
    assert_eq!(printed(&probe(&["list", "/tmp"])), "");
}

#[test]
fn lent_work_is_idle_work() {
    let mut spec = probe(&["idle"]);
    assert_eq!(printed(&spec), "0 0\n");
    spec.priority = Priority::Idle;
    assert_eq!(printed(&spec), format!("{} 19\n", libc::SCHED_IDLE));
}
