//! The messages between the wrapper (or the command line) and the node of the same machine, over the node's
//! Unix socket.
//!
//! ```text
//! wrapper                                node
//!    | Request ------------------------->  |
//!    | <--------------------- Heartbeat *  |   at least every HEARTBEAT_MS while the node works
//!    | <---------------------------- Exec  |   the wrapper becomes the compiler; the connection ends
//!    | <------------------------- Compile  |   the wrapper runs the compiler; the node stays silent meanwhile
//!    | Compiled (+ descriptors) -------->  |   the node takes the outputs in
//!    | <-------------------- end of stream |   the wrapper exits
//!    | <---------- Done (+ descriptors)    |   the wrapper writes the outputs and exits
//!
//! command line                           node
//!    | Control ------------------------->  |
//!    | <--- Heartbeat *, ControlReply +    |   how many replies is a matter of the verb
//! ```
//!
//! After `Compiled` the wrapper waits for the node's end of the stream, so that the build cannot move or change an
//! output while the node reads it: at most SILENCE_MS_MAX, and only if the compiler succeeded and there are outputs.
//!
//! A frame is a length (u32, of what follows), a version byte, a kind byte and the fields of that kind. Integers
//! are little-endian; byte strings and lists carry a u32 count; an optional value is a byte 0 or 1 and the value.
//! Nothing here does I/O: see [`crate::link`] for sockets and descriptors.
//!
//! Descriptors travel as SCM_RIGHTS with the *first* byte of the frame they belong to, all in one message, so the
//! receiver has them when the frame is whole. A receiver that does not want them may use plain reads: the kernel
//! closes what is not fetched.
//!
//! Both sides are installed together, but a node of yesterday may still run after an upgrade. A frame of another
//! version is an error, and every error makes the wrapper run the compiler itself.

mod wire;

use std::fmt;

use wire::{Fields, Frame, at_most, open};

/// Version of the frames. Raise it with any change to them.
pub const VERSION: u8 = 2;
/// Longest frame, in bytes after its length field. An environment and argv of the kernel's default limit (2 MiB
/// together) fit; what is longer runs locally.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Most outputs, and so descriptors, of one frame. The kernel allows 253 in one message; a compile has under ten.
pub const OUTPUTS_MAX: usize = 64;
/// Longest copy of one output stream of a local compile that the wrapper keeps for the node, in bytes. A longer
/// one is passed through whole but reported as truncated (and not cached).
pub const CAPTURE_BYTES_MAX: usize = 1 << 20;
/// How often the node says that it still works on a request, in milliseconds.
pub const HEARTBEAT_MS: u64 = 250;
/// Silence after which the wrapper takes the node for dead, in milliseconds: three lost heartbeats, and still
/// within the second that a stopped node may cost. Also the longest that the wrapper, once its compiler has ended,
/// waits for the node to take the outputs in.
pub const SILENCE_MS_MAX: u64 = 900;
/// Longest verb of a control message, in bytes.
pub const VERB_BYTES_MAX: usize = 64;

/// Bytes in front of each frame: its length.
const LENGTH_BYTES: usize = 4;

/// What the wrapper or the command line says to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToNode {
    /// One call of a compiler; the first frame of a wrapper.
    Request(Request),
    /// How the compile that the node asked for went; the last frame of a wrapper.
    Compiled(Compiled),
    /// A verb of the command line; the first frame of a command.
    Control(Control),
}

/// What the node says to the wrapper or the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWrapper {
    /// Still at work.
    Heartbeat,
    /// Become the compiler: the call is nothing for the node. The last frame.
    Exec,
    /// Run the compiler as a child and report.
    Compile(Compile),
    /// The result is here. The last frame.
    Done(Done),
    /// An answer to [`ToNode::Control`].
    ControlReply(ControlReply),
}

/// One call of a compiler as its caller made it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// The arguments; the first is the compiler as typed (`gcc`), never `barn`, or the path of `program` where the
    /// typed name would lead the compiler's own search for itself back to the wrapper.
    pub argv: Vec<Vec<u8>>,
    /// Absolute path of the program that argv\[0\] means, symlinks unresolved.
    pub program: Vec<u8>,
    /// Working directory (as `getcwd` tells it).
    pub cwd: Vec<u8>,
    /// The environment, in order, without the wrapper's own recursion guard.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The caller's umask.
    pub umask: u32,
    /// Whether standard input is `/dev/null`, so that nothing comes from it.
    pub stdin_is_null: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal (the compiler would colour its messages).
    pub stderr_is_terminal: bool,
}

/// Run the program of the request as a child, passing its output streams through while keeping a copy.
///
/// The child's output streams are pipes, so a node that wants a terminal's colours must ask for them in `argv`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compile {
    /// The whole argv, the first being argv\[0\].
    pub argv: Vec<Vec<u8>>,
    /// Files to open after the compile and to hand over with [`Compiled`], relative to the working directory or
    /// absolute; at most [`OUTPUTS_MAX`].
    pub outputs: Vec<Vec<u8>>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

/// The outcome of [`Compile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// How the compiler ended.
    pub ended: Ended,
    /// What it wrote to standard output; the first [`CAPTURE_BYTES_MAX`] bytes.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error; the first [`CAPTURE_BYTES_MAX`] bytes.
    pub stderr: Vec<u8>,
    /// Whether either stream was longer than its copy.
    pub truncated: bool,
    /// Wall time of the compiler, in milliseconds.
    pub wall_ms: u64,
    /// CPU time (user and system) of the compiler and its children, in milliseconds.
    pub cpu_ms: u64,
    /// Peak resident memory of the largest of its processes, in bytes.
    pub max_rss_bytes: u64,
    /// One entry for each of [`Compile::outputs`], in that order. Each `Some` has one descriptor, open for
    /// reading, with this frame; `None` is a file that does not exist, or is not regular, or cannot be read.
    pub outputs: Vec<Option<Produced>>,
}

/// The state of an output right after the compile. The caller may change the file as soon as the wrapper has
/// exited, and the wrapper does not wait for ever, so the node reads the descriptor and then checks with `fstat` that
/// none of this has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Produced {
    /// Size in bytes.
    pub size: u64,
    /// Time of last change of content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of last change of inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// A finished result. The wrapper writes the outputs, then replays the streams, then exits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// The exit code of the compiler.
    pub exit_code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// The files to write; one descriptor each comes with this frame, in this order; at most [`OUTPUTS_MAX`].
    pub outputs: Vec<Output>,
}

/// One file to write. The wrapper reads its descriptor by offset from 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Where to write it, relative to the working directory or absolute.
    pub path: Vec<u8>,
    /// Size in bytes; a descriptor with more or less behind it is an error.
    pub size: u64,
    /// How the compiler would write it.
    pub manner: Manner,
}

/// How a compiler writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Into the file that is there, if one is.
    #[default]
    InPlace,
    /// As a new file that takes the name from any other.
    Anew,
    /// The same, as a program: what a linker makes.
    Program,
}

/// A verb of the command line for the running node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Control {
    /// Which verb; at most [`VERB_BYTES_MAX`] bytes.
    pub verb: String,
    /// Its arguments; JSON by agreement of the command line and the node.
    pub body: Vec<u8>,
}

/// An answer to a [`Control`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlReply {
    /// JSON by agreement of the command line and the node.
    pub body: Vec<u8>,
}

/// A message that does not fit a frame. The other side could not read it, so it is never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The frame would have this many bytes.
    FrameTooLong(usize),
    /// The message lists this many outputs.
    TooManyOutputs(usize),
    /// The verb has this many bytes.
    VerbTooLong(usize),
}

/// Bytes that are no message. The stream cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The other side speaks this version.
    Version(u8),
    /// The frame claims this length.
    Length(u32),
    /// No message of this direction has this kind.
    Kind(u8),
    /// The frame ends within a field, or goes on after the last.
    Shape,
    /// A field has a value that it cannot have.
    Value(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTooLong(bytes) => {
                write!(f, "a message of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")
            }
            Self::TooManyOutputs(count) => {
                write!(f, "a message with {count} outputs is over the limit of {OUTPUTS_MAX}")
            }
            Self::VerbTooLong(bytes) => {
                write!(f, "a verb of {bytes} bytes is over the limit of {VERB_BYTES_MAX}")
            }
        }
    }
}

impl std::error::Error for EncodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(other) => write!(f, "the other side speaks version {other}, this one {VERSION}"),
            Self::Length(bytes) => write!(f, "a frame cannot have {bytes} bytes"),
            Self::Kind(kind) => write!(f, "no message has kind {kind}"),
            Self::Shape => f.write_str("a frame does not have the shape of its kind"),
            Self::Value(field) => write!(f, "a frame has an impossible {field}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A message of one direction.
pub trait Message: Sized {
    /// The whole frame, its length first.
    ///
    /// # Errors
    /// When the message is over a limit.
    fn encode(&self) -> Result<Vec<u8>, EncodeError>;

    /// The message in one frame, given without its length.
    ///
    /// # Errors
    /// When the bytes are not exactly one message of this direction and version.
    fn decode(frame: &[u8]) -> Result<Self, DecodeError>;

    /// How many descriptors come with this message.
    fn descriptors(&self) -> usize;
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first frame not yet taken begins.
    start: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they arrive. Call [`Decoder::next`] until it has no more before pushing again: what is
    /// kept is then at most one frame and one push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    /// When the stream is no stream of such messages; it stays so.
    #[allow(
        clippy::should_implement_trait,
        reason = "no iterator: the caller names the type, and an error stays"
    )]
    pub fn next<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let pending = &self.buffer[self.start..];
        let Some((length, rest)) = pending.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        let bytes = length as usize;
        if !(2..=FRAME_BYTES_MAX).contains(&bytes) {
            return Err(DecodeError::Length(length));
        }
        let Some(frame) = rest.get(..bytes) else {
            return Ok(None);
        };
        let message = M::decode(frame)?;
        self.start += LENGTH_BYTES + bytes;
        Ok(Some(message))
    }

    /// Whether bytes of an unfinished frame (or frames not yet taken) are left: an end of the stream now would
    /// be an end in the middle.
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }
}

mod kind {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const COMPILED: u8 = 2;
    pub(super) const CONTROL: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 16;
    pub(super) const EXEC: u8 = 17;
    pub(super) const COMPILE: u8 = 18;
    pub(super) const DONE: u8 = 19;
    pub(super) const CONTROL_REPLY: u8 = 20;
}

impl Message for ToNode {
    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Request(request) => encode_request(request),
            Self::Compiled(compiled) => encode_compiled(compiled),
            Self::Control(control) => encode_control(control),
        }
    }

    fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (kind, mut fields) = open(frame)?;
        let message = match kind {
            kind::REQUEST => Self::Request(decode_request(&mut fields)?),
            kind::COMPILED => Self::Compiled(decode_compiled(&mut fields)?),
            kind::CONTROL => Self::Control(decode_control(&mut fields)?),
            other => return Err(DecodeError::Kind(other)),
        };
        fields.finish()?;
        Ok(message)
    }

    fn descriptors(&self) -> usize {
        match self {
            Self::Compiled(compiled) => compiled.outputs.iter().flatten().count(),
            Self::Request(_) | Self::Control(_) => 0,
        }
    }
}

impl Message for ToWrapper {
    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Heartbeat => Frame::new(kind::HEARTBEAT).finish(),
            Self::Exec => Frame::new(kind::EXEC).finish(),
            Self::Compile(compile) => encode_compile(compile),
            Self::Done(done) => encode_done(done),
            Self::ControlReply(reply) => {
                let mut frame = Frame::new(kind::CONTROL_REPLY);
                frame.bytes(&reply.body);
                frame.finish()
            }
        }
    }

    fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (kind, mut fields) = open(frame)?;
        let message = match kind {
            kind::HEARTBEAT => Self::Heartbeat,
            kind::EXEC => Self::Exec,
            kind::COMPILE => Self::Compile(decode_compile(&mut fields)?),
            kind::DONE => Self::Done(decode_done(&mut fields)?),
            kind::CONTROL_REPLY => Self::ControlReply(ControlReply { body: fields.bytes()? }),
            other => return Err(DecodeError::Kind(other)),
        };
        fields.finish()?;
        Ok(message)
    }

    fn descriptors(&self) -> usize {
        match self {
            Self::Done(done) => done.outputs.len(),
            Self::Heartbeat | Self::Exec | Self::Compile(_) | Self::ControlReply(_) => 0,
        }
    }
}

fn encode_request(request: &Request) -> Result<Vec<u8>, EncodeError> {
    let mut frame = Frame::new(kind::REQUEST);
    frame.list(&request.argv, |frame, argument| frame.bytes(argument));
    frame.bytes(&request.program);
    frame.bytes(&request.cwd);
    frame.list(&request.env, |frame, (name, value)| {
        frame.bytes(name);
        frame.bytes(value);
    });
    frame.u32(request.umask);
    frame.flag(request.stdin_is_null);
    frame.flag(request.stdout_is_terminal);
    frame.flag(request.stderr_is_terminal);
    frame.finish()
}

fn decode_request(fields: &mut Fields<'_>) -> Result<Request, DecodeError> {
    Ok(Request {
        argv: decode_argv(fields)?,
        program: fields.bytes()?,
        cwd: fields.bytes()?,
        env: fields.list(|fields| Ok((fields.bytes()?, fields.bytes()?)))?,
        umask: fields.u32()?,
        stdin_is_null: fields.flag()?,
        stdout_is_terminal: fields.flag()?,
        stderr_is_terminal: fields.flag()?,
    })
}

fn encode_compile(compile: &Compile) -> Result<Vec<u8>, EncodeError> {
    check_outputs(compile.outputs.len())?;
    let mut frame = Frame::new(kind::COMPILE);
    frame.list(&compile.argv, |frame, argument| frame.bytes(argument));
    frame.list(&compile.outputs, |frame, path| frame.bytes(path));
    frame.finish()
}

fn decode_compile(fields: &mut Fields<'_>) -> Result<Compile, DecodeError> {
    let argv = decode_argv(fields)?;
    let outputs = fields.outputs(Fields::bytes)?;
    Ok(Compile { argv, outputs })
}

fn encode_compiled(compiled: &Compiled) -> Result<Vec<u8>, EncodeError> {
    check_outputs(compiled.outputs.len())?;
    let mut frame = Frame::new(kind::COMPILED);
    let (how, value) = match compiled.ended {
        Ended::Exited(code) => (0, code),
        Ended::Signalled(signal) => (1, signal),
    };
    frame.u8(how);
    frame.i32(value);
    frame.bytes(&compiled.stdout);
    frame.bytes(&compiled.stderr);
    frame.flag(compiled.truncated);
    frame.u64(compiled.wall_ms);
    frame.u64(compiled.cpu_ms);
    frame.u64(compiled.max_rss_bytes);
    frame.list(&compiled.outputs, |frame, output| {
        frame.flag(output.is_some());
        if let Some(produced) = output {
            frame.u64(produced.size);
            frame.i64(produced.mtime_ns);
            frame.i64(produced.ctime_ns);
        }
    });
    frame.finish()
}

fn decode_compiled(fields: &mut Fields<'_>) -> Result<Compiled, DecodeError> {
    let ended = match fields.u8()? {
        0 => Ended::Exited(fields.i32()?),
        1 => Ended::Signalled(fields.i32()?),
        _ => return Err(DecodeError::Value("way to end")),
    };
    let stdout = fields.bytes()?;
    let stderr = fields.bytes()?;
    at_most(stdout.len().max(stderr.len()), CAPTURE_BYTES_MAX, "length of a captured stream")?;
    let (truncated, wall_ms, cpu_ms) = (fields.flag()?, fields.u64()?, fields.u64()?);
    let max_rss_bytes = fields.u64()?;
    let outputs = fields.outputs(decode_produced)?;
    Ok(Compiled { ended, stdout, stderr, truncated, wall_ms, cpu_ms, max_rss_bytes, outputs })
}

fn decode_produced(fields: &mut Fields<'_>) -> Result<Option<Produced>, DecodeError> {
    if !fields.flag()? {
        return Ok(None);
    }
    Ok(Some(Produced { size: fields.u64()?, mtime_ns: fields.i64()?, ctime_ns: fields.i64()? }))
}

fn encode_done(done: &Done) -> Result<Vec<u8>, EncodeError> {
    check_outputs(done.outputs.len())?;
    let mut frame = Frame::new(kind::DONE);
    frame.i32(done.exit_code);
    frame.bytes(&done.stdout);
    frame.bytes(&done.stderr);
    frame.list(&done.outputs, |frame, output| {
        frame.bytes(&output.path);
        frame.u64(output.size);
        frame.u8(match output.manner {
            Manner::InPlace => 0,
            Manner::Anew => 1,
            Manner::Program => 2,
        });
    });
    frame.finish()
}

fn decode_done(fields: &mut Fields<'_>) -> Result<Done, DecodeError> {
    let (exit_code, stdout, stderr) = (fields.i32()?, fields.bytes()?, fields.bytes()?);
    let outputs = fields.outputs(|fields| {
        Ok(Output { path: fields.bytes()?, size: fields.u64()?, manner: decode_manner(fields)? })
    })?;
    Ok(Done { exit_code, stdout, stderr, outputs })
}

fn decode_manner(fields: &mut Fields<'_>) -> Result<Manner, DecodeError> {
    match fields.u8()? {
        0 => Ok(Manner::InPlace),
        1 => Ok(Manner::Anew),
        2 => Ok(Manner::Program),
        _ => Err(DecodeError::Value("manner")),
    }
}

fn encode_control(control: &Control) -> Result<Vec<u8>, EncodeError> {
    if control.verb.len() > VERB_BYTES_MAX {
        return Err(EncodeError::VerbTooLong(control.verb.len()));
    }
    let mut frame = Frame::new(kind::CONTROL);
    frame.bytes(control.verb.as_bytes());
    frame.bytes(&control.body);
    frame.finish()
}

fn decode_control(fields: &mut Fields<'_>) -> Result<Control, DecodeError> {
    let verb = String::from_utf8(fields.bytes()?).map_err(|_| DecodeError::Value("verb"))?;
    at_most(verb.len(), VERB_BYTES_MAX, "length of a verb")?;
    Ok(Control { verb, body: fields.bytes()? })
}

/// An argv has at least argv\[0\]; both sides index it.
fn decode_argv(fields: &mut Fields<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let argv = fields.list(Fields::bytes)?;
    if argv.is_empty() { Err(DecodeError::Value("argv")) } else { Ok(argv) }
}

fn check_outputs(count: usize) -> Result<(), EncodeError> {
    if count > OUTPUTS_MAX { Err(EncodeError::TooManyOutputs(count)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
