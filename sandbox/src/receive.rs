//! The host's view of a run, advanced by the room's frames. Pure: the frames come in, instructions go out.
//!
//! ```text
//! Laying --STARTED--> Running --EXITED--> Collecting --DONE--> Done
//!                     (STDOUT, STDERR)*   | (SEEN* SEEN_ALL)? before the first output
//!                                         |        ^
//!                                  OUTPUT |        | last byte
//!                                         v        |
//!                                         Receiving (OUTPUT_DATA)+
//! FAILED or LIMIT in any state ends the run.
//! ```
//!
//! Every frame is taken as hostile: order, counts and sizes are checked here whatever the room has checked before.

use std::time::Duration;

use crate::{
    path::InsidePath,
    spec::Limits,
    wire::{Fields, WireError, absent, failed, kind, limit, seen},
};

/// Longest text of a failure, in bytes; the rest is cut off.
const FAILURE_BYTES_MAX: usize = 1024;
/// Most paths taken as observed, and their bytes; the room stops before.
const OBSERVED_MAX: usize = 65_536;
/// As above.
const OBSERVED_BYTES_MAX: usize = 16 << 20;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(i32),
}

/// A run that came to its end, whatever the program made of it.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How the program ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// One for each output of the spec, in order.
    pub outputs: Vec<Output>,
    /// From the request to the last output byte, on the host's clock.
    pub wall: Duration,
    /// The part of `wall` before the program started: bubblewrap and laying out the inputs.
    pub setup: Duration,
    /// Largest resident set of any one process, in bytes, as the room says.
    pub max_rss_bytes: u64,
    /// CPU time of the program and what it waited for, as the room says.
    pub cpu: Duration,
    /// What the program looked for, as the room says; `None` if it was not watched, or not all of the time.
    pub observed: Option<Observed>,
}

/// What a program was seen to look for. Only observed: a program can hide from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What it opened for reading, by the path without links; directories and what lies outside the tree included.
    pub opened: Vec<InsidePath>,
    /// What it asked for and was not there.
    pub in_vain: Vec<InsidePath>,
}

/// What became of a declared output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Its place in the spec's list.
    pub index: usize,
    /// What became of it.
    pub state: OutputState,
}

/// What became of a declared output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputState {
    /// Its contents went to the sink.
    Produced {
        /// Size in bytes.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// There is nothing at its path.
    Missing,
    /// There is something the sandbox does not bring out.
    Refused(Refusal),
}

/// Why something at an output's path is not brought out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A symbolic link, directory, FIFO, socket or device.
    #[error("not a regular file")]
    NotRegular,
    /// A file with more than one name.
    #[error("a hard link")]
    HardLink,
    /// Not on one of the sandbox's own file systems.
    #[error("not on a writable file system of the sandbox")]
    Elsewhere,
    /// It could not be opened or read.
    #[error("unreadable")]
    Unreadable,
}

/// A limit that ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// [`Limits::memory_bytes`] over all processes together.
    #[error("memory")]
    Memory,
    /// [`Limits::room_bytes`].
    #[error("room for files")]
    Room,
    /// [`Limits::room_entries`].
    #[error("number of files")]
    Entries,
    /// [`Limits::stdio_bytes`].
    #[error("standard output and error")]
    Stdio,
    /// [`Limits::outputs_bytes`].
    #[error("outputs")]
    Outputs,
}

/// A frame the protocol does not allow: the room was taken over, or is of another build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The payload is not what its kind wants.
    #[error("malformed frame of kind {0}")]
    Malformed(u8),
    /// The frame does not fit the state.
    #[error("frame of kind {0} out of order")]
    OutOfOrder(u8),
    /// More data than announced or allowed.
    #[error("frame of kind {0} over its limit")]
    TooMuch(u8),
    /// The frame announces a payload that no frame may have.
    #[error("frame too large")]
    FrameTooLarge,
}

/// What the host does about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Nothing.
    Continue,
    /// The inputs are laid out and the program is about to start.
    Started,
    /// An output begins.
    Begin {
        index: usize,
    },
    /// More bytes of the output, and whether they are its last.
    Data {
        bytes: &'a [u8],
        last: bool,
    },
    /// An output without contents began and ended.
    Empty {
        index: usize,
    },
    /// The run is complete.
    Done,
    /// The room gave up.
    Failed {
        stage: FailedAt,
        errno: i32,
        text: String,
    },
    Limit(Limit),
}

/// Where the room gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailedAt {
    Layout,
    Start,
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Laying,
    Running,
    Collecting,
    Receiving { left: u64 },
    Done,
}

/// What is known so far of one run.
#[derive(Debug)]
pub(crate) struct Receiver {
    state: State,
    outputs_expected: usize,
    stdio_left: u64,
    outputs_left: u64,
    exit: Option<Exit>,
    max_rss_bytes: u64,
    cpu: Duration,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    outputs: Vec<Output>,
    seen: Observed,
    seen_bytes: usize,
    seen_all: bool,
}

impl Receiver {
    pub(crate) fn new(outputs_expected: usize, limits: &Limits) -> Self {
        Self {
            state: State::Laying,
            outputs_expected,
            stdio_left: limits.stdio_bytes,
            outputs_left: limits.outputs_bytes,
            exit: None,
            max_rss_bytes: 0,
            cpu: Duration::ZERO,
            stdout: Vec::new(),
            stderr: Vec::new(),
            outputs: Vec::new(),
            seen: Observed::default(),
            seen_bytes: 0,
            seen_all: false,
        }
    }

    /// Takes the next frame.
    pub(crate) fn frame<'a>(&mut self, kind: u8, payload: &'a [u8]) -> Result<Step<'a>, Violation> {
        let malformed = |_: WireError| Violation::Malformed(kind);
        match (kind, self.state) {
            (_, State::Done) => Err(Violation::OutOfOrder(kind)),
            (kind::FAILED, _) => failure(payload).map_err(malformed),
            (kind::LIMIT, _) => limit_hit(payload).map(Step::Limit).map_err(malformed),
            (kind::STARTED, State::Laying) => {
                Fields::new(payload).end().map_err(malformed)?;
                self.state = State::Running;
                Ok(Step::Started)
            }
            (kind::STDOUT | kind::STDERR, State::Running) => self.stdio(kind, payload),
            (kind::EXITED, State::Running) => self.exited(payload),
            (kind::SEEN, State::Collecting) if self.may_see() => self.see(payload),
            (kind::SEEN_ALL, State::Collecting) if self.may_see() => {
                Fields::new(payload).end().map_err(malformed)?;
                self.seen_all = true;
                Ok(Step::Continue)
            }
            (kind::OUTPUT, State::Collecting) => self.output(payload),
            (kind::ABSENT, State::Collecting) => self.absent(payload),
            (kind::OUTPUT_DATA, State::Receiving { left }) => self.data(payload, left),
            (kind::DONE, State::Collecting) if self.outputs.len() == self.outputs_expected => {
                Fields::new(payload).end().map_err(malformed)?;
                self.state = State::Done;
                Ok(Step::Done)
            }
            _ => Err(Violation::OutOfOrder(kind)),
        }
    }

    /// The result; `None` before [`Step::Done`].
    pub(crate) fn finish(self, wall: Duration, setup: Duration) -> Option<Finished> {
        let exit = self.exit.filter(|_| self.state == State::Done)?;
        let Self { stdout, stderr, outputs, max_rss_bytes, cpu, seen, seen_all, .. } = self;
        let observed = seen_all.then_some(seen);
        Some(Finished { exit, stdout, stderr, outputs, wall, setup, max_rss_bytes, cpu, observed })
    }

    /// Observations come at once and before the outputs.
    fn may_see(&self) -> bool {
        !self.seen_all && self.outputs.is_empty()
    }

    fn see<'a>(&mut self, payload: &[u8]) -> Result<Step<'a>, Violation> {
        let malformed = |_| Violation::Malformed(kind::SEEN);
        let mut fields = Fields::new(payload);
        let list = match fields.byte().map_err(malformed)? {
            seen::OPENED => &mut self.seen.opened,
            seen::IN_VAIN => &mut self.seen.in_vain,
            _ => return Err(Violation::Malformed(kind::SEEN)),
        };
        while !fields.is_empty() {
            let path = fields.bytes().map_err(malformed)?;
            self.seen_bytes += path.len();
            if list.len() >= OBSERVED_MAX || self.seen_bytes > OBSERVED_BYTES_MAX {
                return Err(Violation::TooMuch(kind::SEEN));
            }
            list.push(InsidePath::new(path).map_err(|_| Violation::Malformed(kind::SEEN))?);
        }
        Ok(Step::Continue)
    }

    fn stdio<'a>(&mut self, kind: u8, payload: &[u8]) -> Result<Step<'a>, Violation> {
        self.stdio_left =
            self.stdio_left.checked_sub(payload.len() as u64).ok_or(Violation::TooMuch(kind))?;
        let to = if kind == kind::STDOUT { &mut self.stdout } else { &mut self.stderr };
        to.extend_from_slice(payload);
        Ok(Step::Continue)
    }

    fn exited<'a>(&mut self, payload: &[u8]) -> Result<Step<'a>, Violation> {
        let malformed = Violation::Malformed(kind::EXITED);
        let mut fields = Fields::new(payload);
        let mut next = || fields.u64().map_err(|_| malformed);
        let (code, signal, rss, cpu_micros) = (next()?, next()?, next()?, next()?);
        fields.end().map_err(|_| malformed)?;
        let exit = match (u8::try_from(code), i32::try_from(signal)) {
            (Ok(code), Ok(0)) => Exit::Code(code),
            (Ok(0), Ok(signal)) if (1..=64).contains(&signal) => Exit::Signal(signal),
            _ => return Err(malformed),
        };
        self.exit = Some(exit);
        self.max_rss_bytes = rss;
        self.cpu = Duration::from_micros(cpu_micros);
        self.state = State::Collecting;
        Ok(Step::Continue)
    }

    fn output<'a>(&mut self, payload: &[u8]) -> Result<Step<'a>, Violation> {
        let malformed = |_| Violation::Malformed(kind::OUTPUT);
        let mut fields = Fields::new(payload);
        let executable = fields.byte().map_err(malformed)? != 0;
        let size = fields.u64().map_err(malformed)?;
        fields.end().map_err(malformed)?;
        self.outputs_left = self.outputs_left.checked_sub(size).ok_or(Violation::TooMuch(kind::OUTPUT))?;
        let index = self.add(OutputState::Produced { size, executable }, kind::OUTPUT)?;
        if size == 0 {
            return Ok(Step::Empty { index });
        }
        self.state = State::Receiving { left: size };
        Ok(Step::Begin { index })
    }

    fn data<'a>(&mut self, payload: &'a [u8], left: u64) -> Result<Step<'a>, Violation> {
        if payload.is_empty() {
            return Err(Violation::Malformed(kind::OUTPUT_DATA));
        }
        let left = left.checked_sub(payload.len() as u64).ok_or(Violation::TooMuch(kind::OUTPUT_DATA))?;
        self.state = if left == 0 { State::Collecting } else { State::Receiving { left } };
        Ok(Step::Data { bytes: payload, last: left == 0 })
    }

    fn absent<'a>(&mut self, payload: &[u8]) -> Result<Step<'a>, Violation> {
        let state = match payload {
            [absent::MISSING] => OutputState::Missing,
            [absent::NOT_REGULAR] => OutputState::Refused(Refusal::NotRegular),
            [absent::HARD_LINK] => OutputState::Refused(Refusal::HardLink),
            [absent::ELSEWHERE] => OutputState::Refused(Refusal::Elsewhere),
            [absent::UNREADABLE] => OutputState::Refused(Refusal::Unreadable),
            _ => return Err(Violation::Malformed(kind::ABSENT)),
        };
        self.add(state, kind::ABSENT)?;
        Ok(Step::Continue)
    }

    fn add(&mut self, state: OutputState, kind: u8) -> Result<usize, Violation> {
        let index = self.outputs.len();
        if index == self.outputs_expected {
            return Err(Violation::OutOfOrder(kind));
        }
        self.outputs.push(Output { index, state });
        Ok(index)
    }
}

fn failure<'a>(payload: &[u8]) -> Result<Step<'a>, WireError> {
    let mut fields = Fields::new(payload);
    let stage = match fields.byte()? {
        failed::LAYOUT => FailedAt::Layout,
        failed::START => FailedAt::Start,
        failed::ROOM => FailedAt::Room,
        _ => return Err(WireError::Malformed),
    };
    let errno = i32::try_from(fields.u64()?).map_err(|_| WireError::Malformed)?;
    let text = fields.bytes()?;
    fields.end()?;
    let text = text[..text.len().min(FAILURE_BYTES_MAX)].escape_ascii().to_string();
    Ok(Step::Failed { stage, errno, text })
}

fn limit_hit(payload: &[u8]) -> Result<Limit, WireError> {
    match payload {
        [limit::MEMORY] => Ok(Limit::Memory),
        [limit::ROOM] => Ok(Limit::Room),
        [limit::ENTRIES] => Ok(Limit::Entries),
        [limit::STDIO] => Ok(Limit::Stdio),
        [limit::OUTPUTS] => Ok(Limit::Outputs),
        _ => Err(WireError::Malformed),
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
