//! The self-test: run as the compile, tries what a compile must not be able to do.
//!
//! Prints what it could do, one a line, and exits with 1; or writes its output and exits with 0.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
    process::ExitCode,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{geteuid, getuid},
};

pub(crate) const ARGUMENT: &str = "--try-the-walls";

/// The only names there may be in the root.
const ROOT_NAMES: [&str; 5] = [".barn", "dev", "proc", "tmp", "work"];
/// The highest process number a fresh namespace can have got to; a host's are in the thousands.
const PID_MAX: u32 = 32;

pub(crate) fn try_all() -> ExitCode {
    let holes: Vec<&str> = [
        (is_root(), "it runs as root"),
        (has_capabilities(), "it has capabilities"),
        (may_gain_privileges(), "it may gain privileges or call anything"),
        (sees_more_than_its_root(), "it sees files of the host"),
        (writes(), "it writes outside its own file systems"),
        (has_network(), "it has a network"),
        (makes_namespaces(), "it makes namespaces or mounts"),
        (sees_processes(), "it sees processes of the host"),
        (inherited(), "it inherited descriptors or an environment"),
        (lacks_inputs(), "its inputs are not what was sent"),
    ]
    .into_iter()
    .filter_map(|(hole, what)| hole.then_some(what))
    .collect();
    if !holes.is_empty() {
        println!("{}", holes.join("\n"));
        return ExitCode::from(1);
    }
    match fs::write("/work/out/proof", "contained\n") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

fn is_root() -> bool {
    getuid().is_root() || geteuid().is_root()
}

fn has_capabilities() -> bool {
    ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].into_iter().any(|set| status(set) != "0000000000000000")
}

fn may_gain_privileges() -> bool {
    status("NoNewPrivs:") != "1" || status("Seccomp:") != "2"
}

/// The value of a field of this process' status; empty, which no check takes for good, when it cannot be read.
fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    value.unwrap_or_default().trim().to_owned()
}

fn sees_more_than_its_root() -> bool {
    let Ok(names) = fs::read_dir("/") else { return true };
    names.flatten().any(|entry| !ROOT_NAMES.iter().any(|name| entry.file_name() == *name))
        || ["/etc/passwd", "/home", "/root", "/oldroot", "/newroot"]
            .iter()
            .any(|path| Path::new(path).exists())
}

fn writes() -> bool {
    ["/hole", "/.barn/hole", "/dev/hole", "/dev/shm/hole", "/proc/sys/kernel/hostname", "/.barn/room"]
        .iter()
        .any(|path| fs::OpenOptions::new().append(true).create(true).open(path).is_ok())
}

fn has_network() -> bool {
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let others = devices.lines().skip(2).any(|line| !line.trim_start().starts_with("lo:"));
    devices.is_empty()
        || others
        || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok()
        || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok()
}

fn makes_namespaces() -> bool {
    unshare(CloneFlags::CLONE_NEWUSER).is_ok()
        || mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>).is_ok()
}

fn sees_processes() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .any(|pid| pid > PID_MAX)
}

fn inherited() -> bool {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return true };
    // The standard three, and the one this listing is made with.
    entries.count() > 4 || std::env::vars_os().next().is_some()
}

fn lacks_inputs() -> bool {
    let sent = fs::read("/.barn/room");
    !sent.is_ok_and(|sent| fs::read("/work/link").is_ok_and(|laid_out| laid_out == sent))
}
