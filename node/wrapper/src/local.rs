//! Running the real compiler: by becoming it, or as a child whose streams are passed on and copied.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    env_vars,
    guard::{Guard, Role},
    messages::{CAPTURE_BYTES_MAX, Compile, Compiled, Produced},
    platform::{self, Image, Interest},
};

/// Bytes fetched from a pipe at once: what it holds by default.
const READ_BYTES: usize = 64 << 10;
/// Most bytes fetched from each pipe after the compiler has ended: what a pipe can be made to hold. Beyond that a
/// process that it left behind is writing.
const REST_BYTES_MAX: usize = 1 << 20;

/// A compiler and what it is to be run with.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// Absolute path, symlinks unresolved.
    pub(crate) program: PathBuf,
    /// The caller's argv.
    pub(crate) argv: Vec<OsString>,
    /// The programs that wrappers above run.
    pub(crate) guard: Guard,
}

impl Compiler {
    /// Becomes the compiler; returns only the reason why not.
    pub(crate) fn exec(&self) -> io::Error {
        let argv: Vec<&[u8]> = self.argv.iter().map(|argument| argument.as_bytes()).collect();
        match Image::new(&self.program, &argv, self.environment(Role::Replacing)) {
            Ok(image) => image.exec(),
            Err(error) => error,
        }
    }

    /// Runs the compiler as the node wishes, as a child.
    ///
    /// # Errors
    /// When it could not be started: then nothing has happened yet.
    pub(crate) fn run(&self, compile: &Compile) -> io::Result<(Compiled, Vec<OwnedFd>)> {
        let image = Image::new(&self.program, &compile.argv, self.environment(Role::Compiling))?;
        let begun = Instant::now();
        let (stdout_pipe, stdout_end) = io::pipe()?;
        let (stderr_pipe, stderr_end) = io::pipe()?;
        let mut child = image.spawn(stdout_end.into(), stderr_end.into())?;
        let (own_stdout, own_stderr) = (io::stdout(), io::stderr());
        let mut streams = [
            Stream::new(OwnedFd::from(stdout_pipe).into(), own_stdout.as_fd()),
            Stream::new(OwnedFd::from(stderr_pipe).into(), own_stderr.as_fd()),
        ];
        pass_on(&mut streams, child.ended_fd());
        let [stdout, stderr] = streams.map(Stream::finish);
        let ending = child.wait()?;
        drop(child);
        let opened: Vec<_> = compile.outputs.iter().map(|path| open_output(path)).collect();
        let outputs = opened.iter().map(|output| output.as_ref().map(|(_, produced)| *produced)).collect();
        let compiled = Compiled {
            ended: ending.ended,
            truncated: stdout.truncated || stderr.truncated,
            stdout: stdout.bytes,
            stderr: stderr.bytes,
            wall_ms: milliseconds(begun.elapsed()),
            cpu_ms: milliseconds(ending.cpu),
            max_rss_bytes: ending.max_rss_bytes,
            outputs,
        };
        Ok((compiled, opened.into_iter().flatten().map(|(file, _)| file.into()).collect()))
    }

    /// The caller's environment, its bytes untouched, with the recursion guard as the only difference.
    fn environment(&self, role: Role) -> Vec<CString> {
        let mut entry = OsString::from(format!("{}=", env_vars::BARN_CHAIN));
        entry.push(self.guard.value_with(&self.program, role));
        let mut entries = platform::environment();
        entries.retain(|entry| !is_guard(entry.as_bytes()));
        // A path from the kernel or an environment cannot hold a NUL.
        entries.extend(CString::new(entry.into_vec()));
        entries
    }
}

/// Whether an entry of the environment is the recursion guard.
pub(crate) fn is_guard(entry: &[u8]) -> bool {
    entry.strip_prefix(env_vars::BARN_CHAIN.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}

/// One output stream on its way from the compiler to the caller.
struct Stream<'a> {
    /// `None` once it has ended.
    from: Option<File>,
    to: BorrowedFd<'a>,
    copy: Copied,
}

/// What is kept of a stream.
#[derive(Default)]
struct Copied {
    bytes: Vec<u8>,
    truncated: bool,
}

impl<'a> Stream<'a> {
    fn new(from: File, to: BorrowedFd<'a>) -> Self {
        Self { from: Some(from), to, copy: Copied::default() }
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        self.from.as_ref().map(|from| (from.as_fd(), Interest::Read))
    }

    /// Passes on what is there; how much it was. Closes the pipe at its end, and when the caller takes no more: the
    /// compiler then meets the broken pipe that it would have met itself.
    fn pass_on(&mut self) -> usize {
        let Some(from) = &mut self.from else {
            return 0;
        };
        let mut buffer = [0; READ_BYTES];
        let count = match from.read(&mut buffer) {
            Ok(0) => {
                self.from = None;
                return 0;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return 0,
            Err(_) => {
                self.break_off();
                return 0;
            }
        };
        let room = CAPTURE_BYTES_MAX - self.copy.bytes.len();
        self.copy.truncated |= count > room;
        self.copy.bytes.extend_from_slice(&buffer[..count.min(room)]);
        if platform::write_all(self.to, &buffer[..count]).is_err() {
            self.break_off();
        }
        count
    }

    fn break_off(&mut self) {
        self.copy.truncated = true;
        self.from = None;
    }

    fn finish(self) -> Copied {
        self.copy
    }
}

/// Passes both streams on until they end, or until the compiler has ended and they are empty: a process that it left
/// behind may hold them open for ever.
fn pass_on(streams: &mut [Stream<'_>; 2], ended: Option<BorrowedFd<'_>>) {
    while streams.iter().any(|stream| stream.from.is_some()) {
        let sources = [streams[0].source(), streams[1].source(), ended.map(|fd| (fd, Interest::Read))];
        let Ok([stdout, stderr, has_ended]) = platform::wait(sources, None) else {
            streams.iter_mut().for_each(Stream::break_off);
            return;
        };
        if has_ended {
            streams.iter_mut().for_each(pass_on_rest);
            return;
        }
        for (stream, is_ready) in streams.iter_mut().zip([stdout, stderr]) {
            if is_ready {
                stream.pass_on();
            }
        }
    }
}

fn pass_on_rest(stream: &mut Stream<'_>) {
    let mut passed = 0;
    while passed < REST_BYTES_MAX {
        let is_ready = platform::wait([stream.source()], Some(Duration::ZERO)).is_ok_and(|[ready]| ready);
        if !is_ready {
            return;
        }
        passed += stream.pass_on();
    }
}

/// An output with its state, if it is one that can be read.
fn open_output(path: &[u8]) -> Option<(File, Produced)> {
    // Without blocking: the path may be a pipe that nobody writes to.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(Path::new(OsStr::from_bytes(path)))
        .ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
    let produced = Produced {
        size: metadata.len(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    };
    Some((file, produced))
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
