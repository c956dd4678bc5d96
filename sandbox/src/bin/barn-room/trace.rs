//! What the compile looks for: each path once, judged by a look of the room's own.
//!
//! Only an observation. The compile may change the path after it was read here, and what is there after it was
//! looked for.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use barn_sandbox::{
    InsidePath,
    notify::{Call, Listener, read_path},
    wire::{REPLY_BYTES_MAX, kind, put_bytes, seen},
};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use crate::host::{End, Host};

/// Most different paths remembered. The largest real unit asks for some 5,000.
const PATHS_MAX: usize = 32_768;
/// Their bytes.
const PATH_BYTES_MAX: usize = 4 << 20;

/// Watches one run.
pub(crate) struct Trace {
    listener: Listener,
    /// Every path as it was asked for, made absolute, and whether it has been opened.
    asked: HashMap<Vec<u8>, bool>,
    asked_bytes: usize,
    opened: BTreeSet<Vec<u8>>,
    in_vain: BTreeSet<Vec<u8>>,
    /// Whether a call could not be understood, or there were too many.
    lost: bool,
    path: Vec<u8>,
}

impl Trace {
    pub(crate) fn new(listener: Listener) -> Self {
        let (asked, opened, in_vain) = Default::default();
        Self { listener, asked, asked_bytes: 0, opened, in_vain, lost: false, path: Vec::new() }
    }

    /// Readable when a call waits.
    pub(crate) fn signal(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes the call that waits, and lets it go on.
    pub(crate) fn take(&mut self) {
        // A caller that is dead by now needs no answer.
        let Ok(call) = self.listener.next() else { return };
        if !self.lost {
            self.look(&call);
        }
        self.listener.go_on(&call);
    }

    /// Tells the host, unless something was lost.
    pub(crate) fn send(self, host: &mut Host) -> Result<(), End> {
        if self.lost {
            return Ok(());
        }
        for (what, paths) in [(seen::OPENED, self.opened), (seen::IN_VAIN, self.in_vain)] {
            let mut paths = paths.into_iter().peekable();
            while paths.peek().is_some() {
                host.reply(kind::SEEN, |to| {
                    to.push(what);
                    while let Some(path) = paths.next_if(|path| to.len() + path.len() + 4 <= REPLY_BYTES_MAX)
                    {
                        put_bytes(to, &path);
                    }
                })?;
            }
        }
        host.reply(kind::SEEN_ALL, |_| {})
    }

    fn look(&mut self, call: &Call) {
        let mut path = std::mem::take(&mut self.path);
        match read_path(call.thread, call.path, &mut path) {
            Ok(()) => match absolute(call, &path) {
                Some(full) => self.note(&full, call.opens),
                None => self.lost |= !path.is_empty(),
            },
            // No path, or nobody who asks any more.
            Err(Errno::EFAULT | Errno::ENAMETOOLONG | Errno::ESRCH) => {}
            Err(_) => self.lost = true,
        }
        self.path = path;
    }

    fn note(&mut self, path: &[u8], opens: bool) {
        if is_ours(path) {
            return;
        }
        match self.asked.get_mut(path) {
            Some(opened) if *opened || !opens => return,
            Some(opened) => *opened = true,
            None => {
                self.asked_bytes += path.len();
                self.lost = self.asked.len() >= PATHS_MAX || self.asked_bytes > PATH_BYTES_MAX;
                self.asked.insert(path.to_owned(), opens);
            }
        }
        match real(path) {
            Ok(real) if opens => drop(self.opened.insert(real)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => drop(failure(path).map(|path| self.in_vain.insert(path))),
            _ => {}
        }
    }
}

/// What is the same for every compile, or its own temporary file.
fn is_ours(path: &[u8]) -> bool {
    path.starts_with(b"/proc/")
        || path.starts_with(b"/dev/")
        || path.strip_prefix(b"/tmp/").is_some_and(|name| !name.contains(&b'/'))
}

/// The path from the root, as the caller means it.
fn absolute(call: &Call, path: &[u8]) -> Option<Vec<u8>> {
    if path.first() == Some(&b'/') {
        return Some(path.to_owned());
    }
    if path.is_empty() {
        return None;
    }
    let from = match call.directory {
        None => format!("/proc/{}/cwd", call.thread),
        Some(fd) => format!("/proc/{}/fd/{fd}", call.thread),
    };
    let mut full = fs::read_link(from).ok()?.into_os_string().into_vec();
    full.push(b'/');
    full.extend_from_slice(path);
    Some(full)
}

/// Where a path ends, all links followed.
fn real(path: &[u8]) -> nix::Result<Vec<u8>> {
    let there = open(OsStr::from_bytes(path), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let name = fs::read_link(format!("/proc/self/fd/{}", there.as_raw_fd()));
    name.map(|name| name.into_os_string().into_vec())
        .map_err(|error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// The path in normal form whose absence made the kernel say no to `path`. `..` is taken of directories that exist; if
/// one does not, it is what was missing.
fn failure(path: &[u8]) -> Option<Vec<u8>> {
    let mut done: Vec<u8> = Vec::new();
    for part in path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        if part != b".." {
            done.push(b'/');
            done.extend_from_slice(part);
        } else if !done.is_empty() {
            match real(&done) {
                Ok(directory) => done = parent(&directory).to_owned(),
                Err(_) => break,
            }
        }
    }
    // Longer names than a file system takes are missing everywhere.
    InsidePath::new(done).ok().map(|path| path.as_bytes().to_owned())
}

fn parent(path: &[u8]) -> &[u8] {
    let above =
        Path::new(OsStr::from_bytes(path)).parent().map_or(&b"/"[..], |above| above.as_os_str().as_bytes());
    if above == b"/" { b"" } else { above }
}
