//! Carries a plan out: starts bubblewrap, feeds the room, and takes its replies.
//!
//! One thread, the caller's, and one `poll` over the pipes, the cancel token and the clock. Whatever ends the run,
//! the guard around bubblewrap kills it, and with it all of its namespace, before `run` returns.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, open, openat2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, killpg},
        stat::Mode,
    },
    unistd::Pid,
};

use crate::{
    access::{Access, AccessError},
    cancel::CancelToken,
    path::InsidePath,
    plan::{Plan, PlanError},
    receive::{FailedAt, Finished, Limit, Receiver, Step, Violation},
    sandbox::Sandbox,
    sink::OutputSink,
    spec::{Kind, Spec},
    wire::{self, HEADER_BYTES, REPLY_BYTES_MAX, kind},
};

/// Collected before it is written to the room: few system calls, little memory.
const BATCH_BYTES: usize = 512 << 10;
/// Capacity asked for the pipe to the room; the kernel may give less.
const PIPE_BYTES: i32 = 1 << 20;
/// What is kept of bubblewrap's and the room's own messages, in bytes.
const COMPLAINT_BYTES_MAX: usize = 16 << 10;
/// How long a killed sandbox may take to be gone. It takes a few milliseconds; more means a stuck kernel.
const DEATH_WAIT: Duration = Duration::from_secs(2);

/// Why a run has no result. None says anything about the program's own correctness.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The spec is refused.
    #[error("the sandbox refuses this action")]
    Plan(#[from] PlanError),
    /// A toolchain file cannot be bound.
    #[error("toolchain file {} cannot be used", .inside)]
    Toolchain {
        /// Its path inside.
        inside: InsidePath,
        /// The reason.
        source: AccessError,
    },
    /// A part of the tree cannot be bound.
    #[error("{inside} of the tree cannot be used")]
    Tree {
        /// Its path inside.
        inside: InsidePath,
        /// The reason.
        source: io::Error,
    },
    /// An input's source cannot be read, or is shorter than the spec says.
    #[error("cannot read input {}", .source_path.display())]
    Input {
        /// The host file.
        source_path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Bubblewrap cannot be started.
    #[error("cannot start bubblewrap")]
    Spawn(#[source] io::Error),
    /// Bubblewrap gave up before the room was ready.
    #[error("the sandbox could not be made ({status}): {message}")]
    Setup {
        /// How bubblewrap ended.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// The room could not lay out the inputs or collect the outputs.
    #[error("the sandbox failed at {what} (error {errno})")]
    Room {
        /// At what, with the path.
        what: String,
        /// The error number, 0 if there is none.
        errno: i32,
    },
    /// The program cannot be executed.
    #[error("cannot execute {program} (error {errno})")]
    CannotExecute {
        /// The program.
        program: InsidePath,
        /// The error number.
        errno: i32,
    },
    /// The token was thrown.
    #[error("cancelled")]
    Cancelled,
    /// [`Limits::wall`](crate::Limits::wall) is over.
    #[error("no end after {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Another limit is reached.
    #[error("over the limit of {0}")]
    Limit(Limit),
    /// The sandbox ended without a result: killed from outside, or by the kernel for want of memory.
    #[error("the sandbox ended early ({status}): {message}")]
    Died {
        /// How bubblewrap ended.
        status: ExitStatus,
        /// What was said last.
        message: String,
    },
    /// The room said what the protocol does not allow.
    #[error("the sandbox broke the protocol")]
    Protocol(#[from] Violation),
    /// The sink refused an output.
    #[error("cannot store output {index}")]
    Sink {
        /// Its place in the spec.
        index: usize,
        /// The reason.
        source: io::Error,
    },
    /// A pipe to the sandbox failed.
    #[error("cannot talk to the sandbox")]
    Pipe(#[source] io::Error),
}

impl Sandbox {
    /// Runs `spec` and blocks until it has ended and everything inside is gone. Outputs go to `sink` as they come.
    ///
    /// A program that fails, or is killed by a signal, is a [`Finished`] like any other.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(
        &self,
        spec: &Spec,
        cancel: &CancelToken,
        sink: &mut dyn OutputSink,
    ) -> Result<Finished, RunError> {
        let begun = Instant::now();
        let plan = Plan::new(spec, &self.helper)?;
        self.check_toolchain(spec)?;
        check_tree(spec, &plan)?;
        let child = self.spawner.spawn(plan.options()).map_err(RunError::Spawn)?;
        let clock = Clock { begun, wall: spec.limits.wall, cancel };
        let mut conversation = Conversation::new(child, clock)?;
        conversation.feed(&plan)?;
        conversation.receive(spec, sink)
    }

    fn check_toolchain(&self, spec: &Spec) -> Result<(), RunError> {
        let (uid, gid) = self
            .drop_to()
            .unwrap_or_else(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        let mut access = Access::new(uid, gid);
        for mount in &spec.toolchain {
            let inside = mount.inside.clone();
            access.check(&mount.host).map_err(|source| RunError::Toolchain { inside, source })?;
        }
        Ok(())
    }
}

/// What is bound of a tree must be what the spec says lies there, and not lie behind a link.
fn check_tree(spec: &Spec, plan: &Plan) -> Result<(), RunError> {
    let Some(tree) = &spec.tree else { return Ok(()) };
    let failed =
        |inside: &InsidePath, errno: Errno| RunError::Tree { inside: inside.clone(), source: errno.into() };
    let mut root = None;
    for mount in plan.bound() {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = match &root {
            Some(root) => root,
            None => {
                let opened =
                    open(tree, flags, Mode::empty()).map_err(|errno| failed(&mount.inside, errno))?;
                root.insert(opened)
            }
        };
        let how = OpenHow::new()
            // Without O_NOFOLLOW, or a link in the last place would be opened instead of refused.
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let below = mount.host.strip_prefix(tree).expect("bound parts lie below the tree");
        openat2(root, below, how).map_err(|errno| failed(&mount.inside, errno))?;
    }
    Ok(())
}

/// What ends a run from outside.
struct Clock<'a> {
    begun: Instant,
    wall: Duration,
    cancel: &'a CancelToken,
}

impl Clock<'_> {
    /// Time left, or the error that it is over.
    fn left(&self) -> Result<Duration, RunError> {
        let left = self.wall.saturating_sub(self.begun.elapsed());
        if left.is_zero() { Err(RunError::TimedOut(self.wall)) } else { Ok(left) }
    }

    /// Whether the run may go on.
    fn check(&self) -> Result<(), RunError> {
        let mut fds = [PollFd::new(self.cancel.signal(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) => Err(RunError::Cancelled),
            _ => self.left().map(|_| ()),
        }
    }
}

/// Bubblewrap, its pipes, and the certainty that it ends.
struct Conversation<'a> {
    child: Child,
    clock: Clock<'a>,
    requests: Option<ChildStdin>,
    replies: ChildStdout,
    complaints: Option<ChildStderr>,
    message: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(mut child: Child, clock: Clock<'a>) -> Result<Self, RunError> {
        let requests = child.stdin.take();
        let replies = child.stdout.take().expect("spawned with a pipe");
        let complaints = child.stderr.take();
        let this = Self { child, clock, requests, replies, complaints, message: Vec::new() };
        let pipe = |result: nix::Result<()>| result.map_err(|errno| RunError::Pipe(errno.into()));
        if let Some(requests) = &this.requests {
            pipe(unblock(requests))?;
            // Only a matter of speed, and unprivileged users have an allowance.
            let _ = fcntl(requests, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        pipe(unblock(&this.replies))?;
        if let Some(complaints) = &this.complaints {
            pipe(unblock(complaints))?;
        }
        Ok(this)
    }

    /// Sends the job and the inputs. A room that stops listening says why in its replies, so that is no error here.
    fn feed(&mut self, plan: &Plan) -> Result<(), RunError> {
        let mut batch = Vec::with_capacity(2 * BATCH_BYTES);
        wire::frame(&mut batch, kind::JOB, |to| plan.job().encode(to));
        for entry in plan.laid_out() {
            let path = entry.path.as_bytes();
            match &entry.kind {
                Kind::Directory => wire::frame(&mut batch, kind::DIRECTORY, |to| wire::put_bytes(to, path)),
                Kind::Symlink { target } => wire::frame(&mut batch, kind::SYMLINK, |to| {
                    wire::put_bytes(to, path);
                    wire::put_bytes(to, target);
                }),
                Kind::File { source, size, executable } => {
                    wire::frame(&mut batch, kind::FILE, |to| {
                        wire::put_bytes(to, path);
                        to.push(u8::from(*executable));
                        wire::put_u64(to, *size);
                    });
                    self.feed_file(&mut batch, source, *size)?;
                }
                Kind::Laid { .. } => unreachable!("a plan says where the files of a tree lie"),
            }
            if batch.len() >= BATCH_BYTES && !self.send(&mut batch)? {
                return Ok(());
            }
        }
        wire::frame(&mut batch, kind::START, |_| {});
        self.send(&mut batch)?;
        self.requests = None;
        Ok(())
    }

    fn feed_file(&mut self, batch: &mut Vec<u8>, path: &Path, size: u64) -> Result<(), RunError> {
        let failed = |source| RunError::Input { source_path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        // Exactly the announced size is read: asking for the end as well would double the calls for small files.
        let mut left = size;
        while left > 0 {
            let want = left.min(BATCH_BYTES as u64);
            let at = batch.len();
            batch.resize(at + want as usize, 0);
            file.read_exact(&mut batch[at..]).map_err(failed)?;
            left -= want;
            if batch.len() >= BATCH_BYTES && !self.send(batch)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes and empties `batch`; says whether the room still listens.
    fn send(&mut self, batch: &mut Vec<u8>) -> Result<bool, RunError> {
        let mut sent = 0;
        while sent < batch.len() {
            let Some(requests) = &mut self.requests else { break };
            match requests.write(&batch[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(Wait::Requests)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.requests = None,
                Err(error) => return Err(RunError::Pipe(error)),
            }
        }
        batch.clear();
        Ok(self.requests.is_some())
    }

    /// Takes replies until the run is complete.
    fn receive(mut self, spec: &Spec, sink: &mut dyn OutputSink) -> Result<Finished, RunError> {
        let mut receiver = Receiver::new(spec.outputs.len(), &spec.limits);
        let mut taker = Taker { spec, sink, index: 0, started: None, done: false };
        let mut buffer = vec![0; 2 * (HEADER_BYTES + REPLY_BYTES_MAX)];
        let mut filled = 0;
        while !taker.done {
            match self.replies.read(&mut buffer[filled..]) {
                Ok(0) => return Err(self.ended(taker.started.is_some())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Wait::Replies)?;
                    continue;
                }
                Err(error) => return Err(RunError::Pipe(error)),
            }
            // A room that never pauses must not keep clock and token from being looked at.
            self.clock.check()?;
            let used = taker.take(&mut receiver, &buffer[..filled])?;
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
        let begun = self.clock.begun;
        let setup = taker.started.map_or(Duration::ZERO, |started| started.duration_since(begun));
        self.end();
        receiver.finish(begun.elapsed(), setup).ok_or(RunError::Protocol(Violation::OutOfOrder(kind::DONE)))
    }

    /// Waits until the pipe `wait` names is ready. Meanwhile takes complaints and looks at token and clock.
    fn wait(&mut self, wait: Wait) -> Result<(), RunError> {
        loop {
            // Rounded up, so that the last wait is not a busy one.
            let timeout = PollTimeout::try_from(self.clock.left()? + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX);
            let (cancelled, complaint, ready) = {
                let pipe = match (wait, &self.requests) {
                    (Wait::Requests, Some(requests)) => PollFd::new(requests.as_fd(), PollFlags::POLLOUT),
                    _ => PollFd::new(self.replies.as_fd(), PollFlags::POLLIN),
                };
                let cancel = PollFd::new(self.clock.cancel.signal(), PollFlags::POLLIN);
                let mut fds = vec![cancel, pipe];
                fds.extend(self.complaints.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
                match poll(&mut fds, timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(RunError::Pipe(errno.into())),
                }
                let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
                (ready(0), ready(2), ready(1))
            };
            if cancelled {
                return Err(RunError::Cancelled);
            }
            if complaint {
                self.take_complaints();
            }
            if ready {
                return Ok(());
            }
        }
    }

    /// Reads what is there of bubblewrap's messages, and keeps the beginning.
    fn take_complaints(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(complaints) = &mut self.complaints {
            match complaints.read(&mut buffer) {
                Ok(0) => self.complaints = None,
                Ok(count) => {
                    let room = COMPLAINT_BYTES_MAX.saturating_sub(self.message.len());
                    self.message.extend_from_slice(&buffer[..count.min(room)]);
                    // One bufferful at a time: an endless complaint must not hold the caller here.
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// The replies have ended without a result: bubblewrap is at its last instructions.
    fn ended(&mut self, started: bool) -> RunError {
        let deadline = Instant::now() + DEATH_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What it had to say is in the pipe, or was taken before.
        while self.complaints.is_some() && self.message.len() < COMPLAINT_BYTES_MAX {
            let before = self.message.len();
            self.take_complaints();
            if self.message.len() == before {
                break;
            }
        }
        self.end();
        let message = String::from_utf8_lossy(&self.message).trim().replace('\n', "; ");
        match self.child.wait() {
            Ok(status) if started => RunError::Died { status, message },
            Ok(status) => RunError::Setup { status, message },
            Err(error) => RunError::Pipe(error),
        }
    }

    /// Kills what is left and waits until it is gone: the last holder of the pipe is the namespace's first process,
    /// whose end is everybody's.
    fn end(&mut self) {
        self.requests = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            // The group outlives its leader until that is waited for, so the number cannot be anybody else's.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        let deadline = Instant::now() + DEATH_WAIT;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match self.replies.read(&mut buffer) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.replies.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::from(50u8));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Debug, Clone, Copy)]
enum Wait {
    Requests,
    Replies,
}

/// Acts on what the receiver makes of the room's frames.
struct Taker<'a> {
    spec: &'a Spec,
    sink: &'a mut dyn OutputSink,
    index: usize,
    started: Option<Instant>,
    done: bool,
}

impl Taker<'_> {
    /// Takes the whole frames at the start of `bytes`; says how many bytes they were.
    fn take(&mut self, receiver: &mut Receiver, bytes: &[u8]) -> Result<usize, RunError> {
        let mut used = 0;
        let too_large = |_| RunError::Protocol(Violation::FrameTooLarge);
        while let Some(frame) = wire::split(&bytes[used..], REPLY_BYTES_MAX).map_err(too_large)? {
            let step = receiver.frame(frame.kind, frame.payload)?;
            self.step(step)?;
            used += frame.length;
        }
        Ok(used)
    }

    fn step(&mut self, step: Step<'_>) -> Result<(), RunError> {
        match step {
            Step::Continue => Ok(()),
            Step::Done => {
                self.done = true;
                Ok(())
            }
            Step::Started => {
                self.started = Some(Instant::now());
                Ok(())
            }
            Step::Begin { index } => {
                self.index = index;
                self.store(|sink| sink.begin(index))
            }
            Step::Empty { index } => {
                self.index = index;
                self.store(|sink| sink.begin(index).and_then(|()| sink.end()))
            }
            Step::Data { bytes, last } => {
                self.store(|sink| sink.write(bytes))?;
                if last { self.store(|sink| sink.end()) } else { Ok(()) }
            }
            Step::Limit(limit) => Err(RunError::Limit(limit)),
            Step::Failed { stage: FailedAt::Start, errno, .. } => {
                Err(RunError::CannotExecute { program: self.spec.program.clone(), errno })
            }
            Step::Failed { stage: FailedAt::Layout | FailedAt::Room, errno, text } => {
                Err(RunError::Room { what: text, errno })
            }
        }
    }

    fn store(&mut self, act: impl FnOnce(&mut dyn OutputSink) -> io::Result<()>) -> Result<(), RunError> {
        act(self.sink).map_err(|source| RunError::Sink { index: self.index, source })
    }
}

fn unblock(fd: &impl AsFd) -> nix::Result<()> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(|_| ())
}
