//! The one thread that starts bubblewrap.
//!
//! `--die-with-parent` fires when the *thread* that started bubblewrap ends, and callers' threads come and go. So
//! one thread, which lives as long as the [`Sandbox`](crate::Sandbox), starts them all; when it ends, by drop or by
//! the death of the process, every sandbox dies with it.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys;

/// Requests waiting for the thread; each caller waits for his own, so this is no more than a hand-over.
const QUEUE_MAX: usize = 1;

/// What does not change from run to run.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) bwrap: PathBuf,
    pub(crate) command: Vec<Vec<u8>>,
    pub(crate) filter: Vec<u8>,
    pub(crate) drop_to: Option<(u32, u32)>,
}

#[derive(Debug)]
pub(crate) struct Spawner {
    requests: Option<mpsc::SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    options: OwnedFd,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

impl Spawner {
    pub(crate) fn new(launch: Launch) -> io::Result<Self> {
        let (requests, queue) = mpsc::sync_channel::<Request>(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("barn-sandbox".to_owned()).spawn(move || {
            for Request { options, reply } in queue {
                let _ = reply.send(launch.spawn(&options));
            }
        })?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Starts bubblewrap with `options`; its standard descriptors are pipes.
    pub(crate) fn spawn(&self, options: &[Vec<u8>]) -> io::Result<Child> {
        let mut text = options.join(&0);
        text.push(0);
        let (reply, answer) = mpsc::sync_channel(1);
        let request = Request { options: in_memory(c"options", &text)?, reply };
        let gone = || io::Error::other("the thread that starts sandboxes is gone");
        self.requests.as_ref().ok_or_else(gone)?.send(request).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Launch {
    fn spawn(&self, options: &OwnedFd) -> io::Result<Child> {
        let filter = in_memory(c"filter", &self.filter)?;
        let mut command = Command::new(&self.bwrap);
        command
            .args([
                "--args",
                &options.as_raw_fd().to_string(),
                "--seccomp",
                &filter.as_raw_fd().to_string(),
                "--",
            ])
            .args(self.command.iter().map(|part| std::ffi::OsStr::from_bytes(part)))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own reaches bubblewrap's first child before that has asked to die with its parent.
            .process_group(0);
        if let Some((uid, gid)) = self.drop_to {
            // As root, this also leaves every supplementary group.
            command.gid(gid).uid(uid);
        }
        sys::inherit_only(&mut command, [options.as_raw_fd(), filter.as_raw_fd()]);
        command.spawn()
    }
}

/// `bytes` as an open file, at its start.
fn in_memory(name: &std::ffi::CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
