//! The few things that need `unsafe`: what a child does between fork and exec, and one system call without wrapper.
#![allow(unsafe_code)]

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    socket::{ControlMessage, MsgFlags, sendmsg},
};

use crate::notify;

/// First descriptor after the standard three.
const FIRST_OTHER: libc::c_uint = 3;

/// Makes `command` inherit exactly its standard descriptors and `fds`, and gain no privilege by running a program.
pub fn inherit_only(command: &mut Command, fds: [RawFd; 2]) {
    let hook = move || {
        prctl::set_no_new_privs()?;
        // SAFETY: the call takes three integers and touches no memory.
        let marked = unsafe {
            libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        if marked != 0 {
            return Err(io::Error::last_os_error());
        }
        for fd in fds {
            // SAFETY: the call takes three integers and touches no memory; a closed descriptor is an error.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes system calls only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(hook) };
}

/// What a confined program is held to. The kernel enforces these for each process on its own.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Resource limits; soft and hard are set alike, and never above the hard limit there was.
    pub rlimits: Vec<(Resource, u64)>,
    /// Whether it runs only when nothing else wants to.
    pub idle: bool,
    /// Where to send the listener for what the program looks for, if that is to be watched: one end of a socket pair
    /// whose other end stays.
    pub listener_to: Option<RawFd>,
}

/// Makes `command` run in a session of its own under `confinement`. For a process with one thread only.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let hook = move || {
        nix::unistd::setsid()?;
        // The room hides its own memory from the compile, which also takes its `/proc/self` files from it.
        prctl::set_dumpable(true)?;
        if confinement.idle {
            be_idle();
        }
        for &(resource, most) in &confinement.rlimits {
            let most = most.min(getrlimit(resource)?.1);
            setrlimit(resource, most, most)?;
        }
        if let Some(listener) = notify::install(confinement.listener_to.is_some())?
            && let Some(to) = confinement.listener_to
        {
            let fds = [listener.as_raw_fd()];
            let message = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(to, &[io::IoSlice::new(b"l")], &message, MsgFlags::empty(), None)?;
        }
        Ok(())
    };
    // SAFETY: the process has one thread, so the hook may allocate: no lock can be held by another.
    unsafe { command.pre_exec(hook) };
}

/// Best effort: a kernel that refuses leaves the process at normal priority.
fn be_idle() {
    // With autogrouping the new session is weighed as a whole, whatever its processes say.
    let _ = fs::write("/proc/self/autogroup", "19");
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls concern this process; the pointer is to a live value the kernel only reads.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters);
    }
}

/// A descriptor that becomes readable when the child `pid`, not yet waited for, ends.
///
/// # Errors
/// When the process is out of descriptors.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The listener whose descriptor has just been received with a message.
pub fn received(fd: RawFd) -> notify::Listener {
    // SAFETY: the kernel made this descriptor when the message was received, and nobody else has it.
    notify::Listener::new(unsafe { OwnedFd::from_raw_fd(fd) })
}
