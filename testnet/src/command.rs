//! Running a program on a host.
//!
//! The child itself moves into the host's cgroups and namespaces between fork and exec; no shell and no helper
//! program stand between.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{chdir, write};

use crate::rooms::Rooms;
use crate::{Error, Result};

/// How often a running program is looked at; short beside any compile.
const POLL: Duration = Duration::from_millis(5);

/// A program to be run on a host, built like [`std::process::Command`].
///
/// Its environment starts from the host's own and nothing else.
#[derive(Debug)]
pub struct HostCommand {
    command: Command,
    directory: PathBuf,
    rooms: Arc<Rooms>,
    doors: Vec<File>,
}

impl HostCommand {
    pub(crate) fn new(program: &OsStr, directory: &Path, rooms: Arc<Rooms>, doors: Vec<File>) -> HostCommand {
        let mut command = Command::new(program);
        command.env_clear();
        HostCommand { command, directory: directory.to_owned(), rooms, doors }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> HostCommand {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> HostCommand {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> HostCommand {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> HostCommand {
        self.command.env_remove(name);
        self
    }

    /// Sets the working directory, as the host sees it.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> HostCommand {
        self.directory = dir.into();
        self
    }

    /// Sets standard input.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> HostCommand {
        self.command.stdin(stdio);
        self
    }

    /// Sets standard output.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> HostCommand {
        self.command.stdout(stdio);
        self
    }

    /// Sets standard error.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> HostCommand {
        self.command.stderr(stdio);
        self
    }

    /// Starts the program.
    pub fn spawn(self) -> Result<Child> {
        let mut command = self.into_std();
        command.spawn().map_err(Error::path("cannot start", command.get_program()))
    }

    /// Runs the program with the caller's standard streams, and waits without limit.
    pub fn status(self) -> Result<ExitStatus> {
        let mut command = self.into_std();
        command.status().map_err(Error::path("cannot start", command.get_program()))
    }

    /// Runs the program and collects what it prints; standard input is empty unless set before.
    ///
    /// Processes it leaves behind are not waited for. When `limit` is over it is killed and the call fails.
    pub fn output_within(self, limit: Duration) -> Result<Output> {
        // Files and not pipes: a node started by the program may inherit them and keep them open for ever.
        let scratch =
            || tempfile::tempfile().map_err(Error::path("cannot make a file in", std::env::temp_dir()));
        let (out, err) = (scratch()?, scratch()?);
        let copy = |file: &File| {
            file.try_clone().map_err(Error::path("cannot copy a descriptor of", "a scratch file"))
        };
        let what = self.describe();
        let child = self.stdout(copy(&out)?).stderr(copy(&err)?).spawn()?;
        let status = wait_within(child, limit, &what)?;
        Ok(Output { status, stdout: contents(out)?, stderr: contents(err)? })
    }

    /// The command line, for messages.
    pub(crate) fn describe(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    /// The same as a [`Command`], for what has no method here. Its `current_dir` has no effect.
    pub fn into_std(self) -> Command {
        let HostCommand { mut command, directory, rooms, doors } = self;
        let move_in = move || {
            for door in &doors {
                write(door, b"0")?;
            }
            rooms.enter()?;
            Ok(chdir(&directory)?)
        };
        // SAFETY: between fork and exec only system calls run: write, setns and chdir. chdir copies a path of
        // ordinary length to the stack and allocates nothing.
        unsafe { command.pre_exec(move_in) };
        command
    }
}

fn wait_within(mut child: Child, limit: Duration, what: &str) -> Result<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().map_err(Error::path("cannot wait for", what))? {
            return Ok(status);
        }
        if start.elapsed() >= limit {
            // It may have ended in this very moment; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Timeout { what: what.to_owned(), limit });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(POLL);
    }
}

fn contents(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(Error::path("cannot read", "a scratch file"))?;
    Ok(bytes)
}
