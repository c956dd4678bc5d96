//! Runs the compile: starts it under its limits, passes on what it prints, and makes sure that nothing is left.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use barn_sandbox::{
    sys::{self, Confinement},
    wire::{Job, failed, kind, limit, put_u64},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, UsageWho, getrusage},
        signal::{Signal, kill},
        socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair},
        time::TimeValLike,
    },
    unistd::Pid,
};

use crate::{
    host::{End, Host},
    trace::Trace,
    watch::{Room, TICK},
};

/// Passed on at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Address space beyond the memory limit: what is reserved, mapped from files or never touched.
const RESERVE_BYTES: u64 = 4 << 30;
/// How long killed processes may take to be gone, in pauses of [`KILL_PAUSE`].
const KILL_ROUNDS: u32 = 4000;
/// Between two looks at whether they are gone.
const KILL_PAUSE: Duration = Duration::from_micros(250);

/// Runs the job's program to its end and reports it. Afterwards no process of it is left.
pub(crate) fn run(host: &mut Host, job: &Job, room: &mut Room) -> Result<(), End> {
    let start = |what, error: io::Error| End::failed_io(failed::START, what, &error);
    // Before it can do anything, so that the host knows whom to blame for what follows.
    host.reply(kind::STARTED, |_| {})?;
    let pair = sockets(job.trace == 1);
    let listener_to = pair.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
    let mut child =
        command(job, listener_to).spawn().map_err(|error| start("executing the program", error))?;
    let ended = sys::pidfd(child.id()).map_err(|error| start("watching the program", error))?;
    let mut relay = Relay::new(&mut child, job.stdio_bytes, pair.and_then(listener));
    relay.until(&ended, host, room)?;
    let status = child.wait().map_err(|error| start("waiting for the program", error))?;
    kill_others();
    relay.rest(host)?;
    report(host, status)?;
    relay.trace.map_or(Ok(()), |trace| trace.send(host))
}

/// A way for the child to hand over its listener. Without one the run is not watched.
fn sockets(trace: bool) -> Option<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    trace.then(|| socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).ok())?
}

/// What the child has sent before it executed the program, if the kernel gave it a listener.
fn listener((ours, _theirs): (OwnedFd, OwnedFd)) -> Option<Trace> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut byte = [0; 1];
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(ours.as_raw_fd(), &mut bytes, Some(&mut space), flags).ok()?;
    let fd = message.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    })?;
    Some(Trace::new(sys::received(fd)))
}

/// Kills every process of the sandbox but its first and this one, and waits until they are gone.
pub(crate) fn kill_others() {
    for _ in 0..KILL_ROUNDS {
        if kill(Pid::from_raw(-1), Signal::SIGKILL) == Err(Errno::ESRCH) {
            return;
        }
        std::thread::sleep(KILL_PAUSE);
    }
}

fn command(job: &Job, listener_to: Option<RawFd>) -> Command {
    let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let mut command = Command::new(os(&job.program));
    command
        .env_clear()
        .envs(job.env.chunks_exact(2).map(|pair| (os(&pair[0]), os(&pair[1]))))
        .current_dir(os(&job.cwd))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some((name, arguments)) = job.argv.split_first() {
        command.arg0(os(name)).args(arguments.iter().map(|argument| os(argument)));
    }
    let rlimits = vec![
        (Resource::RLIMIT_DATA, job.memory_bytes),
        (Resource::RLIMIT_AS, job.memory_bytes.saturating_add(RESERVE_BYTES)),
        (Resource::RLIMIT_NPROC, job.processes),
        (Resource::RLIMIT_FSIZE, job.file_bytes),
        (Resource::RLIMIT_NOFILE, job.open_files),
        (Resource::RLIMIT_CPU, job.cpu_seconds),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ];
    sys::confine(&mut command, Confinement { rlimits, idle: job.idle == 1, listener_to });
    command
}

/// Passes on what the compile prints.
struct Relay {
    pipes: [Option<(u8, File)>; 2],
    left: u64,
    chunk: Vec<u8>,
    trace: Option<Trace>,
    listening: bool,
}

/// What has happened while the room waited.
#[derive(Default)]
struct Happened {
    ended: bool,
    pipes: [bool; 2],
    call: bool,
    deaf: bool,
}

impl Relay {
    fn new(child: &mut Child, stdio_bytes: u64, trace: Option<Trace>) -> Self {
        let stdout = child.stdout.take().map(|pipe| (kind::STDOUT, File::from(OwnedFd::from(pipe))));
        let stderr = child.stderr.take().map(|pipe| (kind::STDERR, File::from(OwnedFd::from(pipe))));
        Self {
            pipes: [stdout, stderr],
            left: stdio_bytes,
            chunk: vec![0; CHUNK_BYTES],
            trace,
            listening: true,
        }
    }

    /// Until the program, whose pidfd `ended` is, has ended.
    fn until(&mut self, ended: &OwnedFd, host: &mut Host, room: &mut Room) -> Result<(), End> {
        let mut looked = Instant::now();
        loop {
            let happened = self.wait(ended, TICK.saturating_sub(looked.elapsed()))?;
            if happened.call
                && let Some(trace) = &mut self.trace
            {
                trace.take();
            }
            self.listening &= !happened.deaf;
            for (index, ready) in happened.pipes.into_iter().enumerate() {
                if ready {
                    self.pass_on(index, host)?;
                }
            }
            if happened.ended {
                return Ok(());
            }
            if looked.elapsed() >= TICK {
                room.check()?;
                looked = Instant::now();
            }
        }
    }

    /// What was still in the pipes. Their writers are dead, so this ends.
    fn rest(&mut self, host: &mut Host) -> Result<(), End> {
        for index in 0..self.pipes.len() {
            while self.pipes[index].is_some() {
                self.pass_on(index, host)?;
            }
        }
        Ok(())
    }

    /// Waits for something to happen.
    fn wait(&self, ended: &OwnedFd, most: Duration) -> Result<Happened, End> {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        let pipes = self.pipes.iter().flatten().map(|(_, pipe)| pipe.as_fd());
        let trace = self.trace.as_ref().filter(|_| self.listening).map(Trace::signal);
        fds.extend(pipes.chain(trace).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // Rounded up, so that the last wait is not a busy one.
        let timeout = PollTimeout::try_from(most + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(End::failed(failed::ROOM, "waiting for the program", errno)),
        }
        let mut fds = fds.iter();
        let mut next = || fds.next().and_then(PollFd::any).unwrap_or(false);
        let mut happened = Happened { ended: next(), ..Happened::default() };
        for (pipe, ready) in self.pipes.iter().zip(&mut happened.pipes) {
            *ready = pipe.is_some() && next();
        }
        // A listener nobody can call any more only says that it hung up.
        let call = fds.next().and_then(PollFd::revents);
        happened.call = call.is_some_and(|events| events.contains(PollFlags::POLLIN));
        happened.deaf = call.is_some_and(|events| !events.is_empty() && !happened.call);
        Ok(happened)
    }

    fn pass_on(&mut self, index: usize, host: &mut Host) -> Result<(), End> {
        let Some((kind, file)) = &mut self.pipes[index] else { return Ok(()) };
        let count = match file.read(&mut self.chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                return Err(End::failed_io(failed::ROOM, "reading what the program prints", &error));
            }
        };
        let kind = *kind;
        if count == 0 {
            self.pipes[index] = None;
            return Ok(());
        }
        self.left = self.left.checked_sub(count as u64).ok_or(End::Limit(limit::STDIO))?;
        host.reply(kind, |to| to.extend_from_slice(&self.chunk[..count]))
    }
}

fn report(host: &mut Host, status: ExitStatus) -> Result<(), End> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    let usage = usage.map_err(|errno| End::failed(failed::ROOM, "asking what the program used", errno))?;
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let numbers = [
        natural(status.code().unwrap_or(0).into()),
        natural(status.signal().unwrap_or(0).into()),
        natural(usage.max_rss()).saturating_mul(1024),
        natural(cpu),
    ];
    host.reply(kind::EXITED, |to| numbers.into_iter().for_each(|number| put_u64(to, number)))
}
