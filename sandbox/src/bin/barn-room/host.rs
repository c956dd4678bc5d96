//! The two pipes to the host: requests on descriptor 0, replies on descriptor 1.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::AsFd,
};

use barn_sandbox::wire::{self, HEADER_BYTES, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, failed, kind};
use nix::errno::Errno;

/// Read at once from the host.
const READ_BYTES: usize = 256 << 10;

/// Why the room stops early; sent as its last words.
#[derive(Debug)]
pub(crate) enum End {
    /// Something failed.
    Failed { stage: u8, what: String, errno: i32 },
    /// A limit, by its code.
    Limit(u8),
    /// The host is gone, so there is nobody to tell.
    Unheard,
}

impl End {
    pub(crate) fn failed(stage: u8, what: impl Into<String>, errno: Errno) -> Self {
        Self::Failed { stage, what: what.into(), errno: errno as i32 }
    }

    pub(crate) fn failed_io(stage: u8, what: impl Into<String>, error: &io::Error) -> Self {
        Self::Failed { stage, what: what.into(), errno: error.raw_os_error().unwrap_or(0) }
    }
}

pub(crate) struct Host {
    requests: BufReader<File>,
    replies: File,
    frame: Vec<u8>,
}

impl Host {
    pub(crate) fn new() -> Self {
        // Copies, so that the buffers of the standard streams play no part.
        let copy =
            |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from).expect("descriptors 0 and 1 are open");
        Self {
            requests: BufReader::with_capacity(READ_BYTES, copy(io::stdin().as_fd().try_clone_to_owned())),
            replies: copy(io::stdout().as_fd().try_clone_to_owned()),
            frame: Vec::new(),
        }
    }

    /// Reads the next request into `payload`; its kind is returned.
    pub(crate) fn next(&mut self, payload: &mut Vec<u8>) -> Result<u8, End> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header)?;
        let length = wire::payload_length(&header, REQUEST_BYTES_MAX).map_err(|_| malformed())?;
        payload.resize(length, 0);
        self.read(payload)?;
        Ok(header[0])
    }

    /// Fills `bytes` with raw bytes that follow a request.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> Result<(), End> {
        self.requests.read_exact(bytes).map_err(|_| End::Unheard)
    }

    /// Sends one reply; `fill` writes its payload.
    pub(crate) fn reply(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        self.frame.clear();
        wire::frame(&mut self.frame, kind, fill);
        debug_assert!(self.frame.len() <= HEADER_BYTES + REPLY_BYTES_MAX, "replies keep to their limit");
        self.replies.write_all(&self.frame).map_err(|_| End::Unheard)
    }

    /// Says why this is the end.
    pub(crate) fn end(&mut self, end: End) {
        // If the host does not hear it, it sees the pipe close.
        let _ = match end {
            End::Failed { stage, what, errno } => self.reply(kind::FAILED, |to| {
                to.push(stage);
                wire::put_u64(to, u64::from(errno.unsigned_abs()));
                wire::put_bytes(to, what.as_bytes());
            }),
            End::Limit(code) => self.reply(kind::LIMIT, |to| to.push(code)),
            End::Unheard => Ok(()),
        };
    }
}

/// The host sent what it never sends: another build.
pub(crate) fn malformed() -> End {
    End::Failed { stage: failed::ROOM, what: "a malformed request".to_owned(), errno: 0 }
}
