//! Namespaces: made in a thread of their own, kept by descriptors, entered by threads and by children.
//!
//! A namespace that no name and no process holds lives exactly as long as its descriptor, so the owner's
//! death ends it without anybody's help.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::{Error, Result};

/// The namespaces of one host.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) network: OwnedFd,
    name: OwnedFd,
    files: OwnedFd,
}

impl Rooms {
    /// Makes the namespaces of a host called `name`; `furnish` runs inside and prepares its view of files.
    pub(crate) fn make(name: &str, furnish: impl FnOnce() -> Result<()> + Send) -> Result<Rooms> {
        in_thread(|| {
            let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
            unshare(flags).map_err(refused)?;
            sethostname(name).map_err(Error::system(format!("cannot name host {name}")))?;
            furnish()?;
            Ok(Rooms { network: own("net")?, name: own("uts")?, files: own("mnt")? })
        })
    }

    /// Moves the calling process in. For a child between fork and exec: allocates nothing, and needs a process
    /// of one thread. The working directory becomes the root.
    pub(crate) fn enter(&self) -> nix::Result<()> {
        setns(&self.network, CloneFlags::CLONE_NEWNET)?;
        setns(&self.name, CloneFlags::CLONE_NEWUTS)?;
        setns(&self.files, CloneFlags::CLONE_NEWNS)
    }
}

/// Makes a network namespace with nothing else to it.
pub(crate) fn make_network() -> Result<OwnedFd> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(refused)?;
        own("net")
    })
}

/// Runs `work` in a thread that stands in `network`; children it starts stand there too.
pub(crate) fn in_network<T: Send>(network: &OwnedFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(|| {
        setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(Error::system("cannot enter a network namespace"))?;
        work()
    })
}

/// A path by which another program of this machine reaches a descriptor of ours.
pub(crate) fn path_of(fd: &impl AsFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd()).into()
}

fn refused(errno: nix::Error) -> Error {
    Error::Unavailable(format!("the kernel refuses new namespaces: {}", errno.desc()))
}

fn own(kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/thread-self/ns/{kind}");
    Ok(File::open(&path).map_err(Error::path("cannot open", &path))?.into())
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|cause| panic::resume_unwind(cause)))
}
