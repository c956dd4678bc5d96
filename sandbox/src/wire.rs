//! What the host and the room say to each other: frames of a kind byte, a little-endian `u32` length and a payload.
//!
//! ```text
//! host: JOB (DIRECTORY | SYMLINK | FILE <size raw bytes>)* START
//! room: STARTED (STDOUT | STDERR)* EXITED (SEEN* SEEN_ALL)? (OUTPUT OUTPUT_DATA* | ABSENT){one for each declared output, in order} DONE
//! room, at any point, as its last words: FAILED | LIMIT
//! ```
//!
//! Both ends come from one build, so there is no version. The room trusts the host; the host does not trust the
//! room, which shares a sandbox with a hostile program.

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 5;
/// Largest payload of a frame from the room: the size of one read from a pipe or an output.
pub const REPLY_BYTES_MAX: usize = 256 << 10;
/// Largest payload of a frame from the host: a job whose 4 MiB of text are all one-byte arguments.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;

/// The kinds of frames.
pub mod kind {
    #![allow(missing_docs)]
    pub const JOB: u8 = 1;
    pub const DIRECTORY: u8 = 2;
    pub const SYMLINK: u8 = 3;
    pub const FILE: u8 = 4;
    pub const START: u8 = 5;
    pub const STARTED: u8 = 16;
    pub const STDOUT: u8 = 17;
    pub const STDERR: u8 = 18;
    pub const EXITED: u8 = 19;
    pub const OUTPUT: u8 = 20;
    pub const OUTPUT_DATA: u8 = 21;
    pub const ABSENT: u8 = 22;
    pub const DONE: u8 = 23;
    pub const FAILED: u8 = 24;
    pub const LIMIT: u8 = 25;
    pub const SEEN: u8 = 26;
    pub const SEEN_ALL: u8 = 27;
}

/// Codes of [`kind::SEEN`]: what the program did with the paths that follow.
pub mod seen {
    #![allow(missing_docs)]
    pub const OPENED: u8 = 0;
    pub const IN_VAIN: u8 = 1;
}

/// Codes of [`kind::ABSENT`]: why a declared output did not come.
pub mod absent {
    #![allow(missing_docs)]
    pub const MISSING: u8 = 0;
    pub const NOT_REGULAR: u8 = 1;
    pub const HARD_LINK: u8 = 2;
    pub const ELSEWHERE: u8 = 3;
    pub const UNREADABLE: u8 = 4;
}

/// Codes of [`kind::LIMIT`]: which limit ended the run.
pub mod limit {
    #![allow(missing_docs)]
    pub const MEMORY: u8 = 0;
    pub const ROOM: u8 = 1;
    pub const ENTRIES: u8 = 2;
    pub const STDIO: u8 = 3;
    pub const OUTPUTS: u8 = 4;
}

/// Codes of [`kind::FAILED`]: at what the room failed.
pub mod failed {
    #![allow(missing_docs)]
    pub const LAYOUT: u8 = 0;
    pub const START: u8 = 1;
    pub const ROOM: u8 = 2;
}

/// A message that is not what the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A payload ended early, or went on past its last field.
    #[error("malformed payload")]
    Malformed,
    /// A frame announced more than the limit.
    #[error("frame over the limit")]
    TooLarge,
}

/// A whole frame at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`kind`].
    pub kind: u8,
    /// What it carries.
    pub payload: &'a [u8],
    /// The bytes it takes, its header included.
    pub length: usize,
}

/// The first frame in `bytes`; `None` when it is not all there yet.
///
/// # Errors
/// When the frame announces a payload larger than `payload_max`.
pub fn split(bytes: &[u8], payload_max: usize) -> Result<Option<Frame<'_>>, WireError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = payload_length(header, payload_max)?;
    Ok(rest.get(..length).map(|payload| Frame { kind: header[0], payload, length: HEADER_BYTES + length }))
}

/// The length of the payload that follows `header`.
///
/// # Errors
/// When it is larger than `payload_max`.
pub fn payload_length(header: &[u8; HEADER_BYTES], payload_max: usize) -> Result<usize, WireError> {
    let [_, a, b, c, d] = *header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > payload_max { Err(WireError::TooLarge) } else { Ok(length) }
}

/// Appends one frame to `to`; `fill` writes the payload.
pub fn frame(to: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    to.push(kind);
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    fill(to);
    let length = u32::try_from(to.len() - at - 4).expect("payloads stay far below 4 GiB");
    to[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends a length-prefixed byte string.
pub fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("fields stay far below 4 GiB");
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(bytes);
}

/// Appends a number.
pub fn put_u64(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(&number.to_le_bytes());
}

/// Appends a counted list of byte strings.
pub fn put_list<T: AsRef<[u8]>>(to: &mut Vec<u8>, items: &[T]) {
    put_u64(to, items.len() as u64);
    for item in items {
        put_bytes(to, item.as_ref());
    }
}

/// Reads the fields of one payload in order.
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts at the beginning of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// The next byte.
    ///
    /// # Errors
    /// This and the other readers fail when the payload has no such field left.
    pub fn byte(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    /// The next number.
    ///
    /// # Errors
    /// As [`Self::byte`].
    pub fn u64(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next byte string.
    ///
    /// # Errors
    /// As [`Self::byte`].
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let bytes = self.take(4)?.try_into().expect("four bytes were taken");
        self.take(u32::from_le_bytes(bytes) as usize)
    }

    /// The next list of byte strings.
    ///
    /// # Errors
    /// As [`Self::byte`].
    pub fn list(&mut self) -> Result<Vec<Vec<u8>>, WireError> {
        (0..self.u64()?).map(|_| self.bytes().map(<[u8]>::to_vec)).collect()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Malformed) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// What the room is to run; the payload of [`kind::JOB`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Job {
    /// The program's path.
    pub program: Vec<u8>,
    /// `argv`, the program's name included.
    pub argv: Vec<Vec<u8>>,
    /// The environment as names and values in turn.
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub cwd: Vec<u8>,
    /// The declared outputs, in the order they are to be reported.
    pub outputs: Vec<Vec<u8>>,
    /// The writable file systems: what an output must lie on, and what is watched for its size.
    pub tops: Vec<Vec<u8>>,
    /// See [`Limits`](crate::Limits).
    pub memory_bytes: u64,
    /// See [`Limits`](crate::Limits).
    pub processes: u64,
    /// See [`Limits`](crate::Limits).
    pub file_bytes: u64,
    /// See [`Limits`](crate::Limits).
    pub room_bytes: u64,
    /// See [`Limits`](crate::Limits).
    pub room_entries: u64,
    /// See [`Limits`](crate::Limits).
    pub stdio_bytes: u64,
    /// See [`Limits`](crate::Limits).
    pub outputs_bytes: u64,
    /// See [`Limits`](crate::Limits).
    pub open_files: u64,
    /// CPU time of each process, in seconds: a belt should the host be too busy to watch the wall clock.
    pub cpu_seconds: u64,
    /// 1 for [`Priority::Idle`](crate::Priority::Idle), else 0.
    pub idle: u64,
    /// 1 to watch what the program looks for, else 0.
    pub trace: u64,
}

impl Job {
    /// Appends the job's fields to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        put_bytes(to, &self.program);
        put_list(to, &self.argv);
        put_list(to, &self.env);
        put_bytes(to, &self.cwd);
        put_list(to, &self.outputs);
        put_list(to, &self.tops);
        for number in self.numbers() {
            put_u64(to, number);
        }
    }

    /// Reads a job back.
    ///
    /// # Errors
    /// When the payload is not exactly a job.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(payload);
        let job = Self {
            program: fields.bytes()?.to_vec(),
            argv: fields.list()?,
            env: fields.list()?,
            cwd: fields.bytes()?.to_vec(),
            outputs: fields.list()?,
            tops: fields.list()?,
            memory_bytes: fields.u64()?,
            processes: fields.u64()?,
            file_bytes: fields.u64()?,
            room_bytes: fields.u64()?,
            room_entries: fields.u64()?,
            stdio_bytes: fields.u64()?,
            outputs_bytes: fields.u64()?,
            open_files: fields.u64()?,
            cpu_seconds: fields.u64()?,
            idle: fields.u64()?,
            trace: fields.u64()?,
        };
        fields.end()?;
        Ok(job)
    }

    fn numbers(&self) -> [u64; 11] {
        [
            self.memory_bytes,
            self.processes,
            self.file_bytes,
            self.room_bytes,
            self.room_entries,
            self.stdio_bytes,
            self.outputs_bytes,
            self.open_files,
            self.cpu_seconds,
            self.idle,
            self.trace,
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_comes_back_as_it_was() {
        let job = Job {
            program: b"/usr/bin/cc".to_vec(),
            argv: vec![b"cc".to_vec(), Vec::new(), b"\xff".to_vec()],
            env: vec![b"A".to_vec(), b"b".to_vec()],
            cwd: b"/w".to_vec(),
            outputs: vec![b"/w/o".to_vec()],
            tops: vec![b"/w".to_vec()],
            memory_bytes: 1,
            processes: 2,
            file_bytes: 3,
            room_bytes: 4,
            room_entries: 5,
            stdio_bytes: 6,
            outputs_bytes: 7,
            open_files: 8,
            cpu_seconds: 9,
            idle: 1,
            trace: 1,
        };
        let mut bytes = Vec::new();
        job.encode(&mut bytes);
        assert_eq!(Job::decode(&bytes), Ok(job));
        bytes.push(0);
        assert_eq!(Job::decode(&bytes), Err(WireError::Malformed));
    }

    #[test]
    fn frames_split_where_they_end() {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind::STDOUT, |to| to.extend_from_slice(b"abc"));
        frame(&mut bytes, kind::DONE, |_| {});
        let first = Frame { kind: kind::STDOUT, payload: b"abc", length: 8 };
        assert_eq!(split(&bytes, 3), Ok(Some(first)));
        assert_eq!(split(&bytes[..7], 3), Ok(None));
        assert_eq!(split(&bytes, 2), Err(WireError::TooLarge));
        let second = Frame { kind: kind::DONE, payload: b"", length: 5 };
        assert_eq!(split(&bytes[8..], 0), Ok(Some(second)));
    }

    #[test]
    fn an_announced_count_allocates_nothing() {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, u64::MAX);
        assert_eq!(Fields::new(&bytes).list(), Err(WireError::Malformed));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Job::decode(&bytes);
            let _ = split(&bytes, REPLY_BYTES_MAX);
        }
    }
}
