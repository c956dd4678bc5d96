//! The connection of the wrapper and of the command line to the node, and the socket functions that the node
//! shares. The node itself is asynchronous and brings its own loop.

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use crate::messages::{DecodeError, Decoder, EncodeError, Message, ToNode, ToWrapper};
use crate::platform::{Interest, connect, effective_uid, wait};
pub use crate::platform::{Peer, ShortPath, peer, recv_with_fds, send_with_fds};

/// Bytes fetched at once; the reply to a hit is far shorter.
const READ_BYTES: usize = 16 << 10;
/// Unread frames of the node that are fetched before closing, in reads.
const DRAIN_READS_MAX: usize = 16;

/// A connection to the node of this user (or of root).
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    peer: Peer,
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
    /// When the node was last heard of.
    heard: Instant,
}

/// What went wrong with the connection. None of it may reach the user of a wrapper, who gets the local compiler.
#[derive(Debug)]
pub enum LinkError {
    /// Nobody listens on the socket.
    NotRunning(io::Error),
    /// The node did not take or send anything in time.
    Silent,
    /// The node closed the connection.
    Closed,
    /// The socket belongs to this other user.
    Stranger(u32),
    /// The connection failed.
    Io(io::Error),
    /// The message is too large to send.
    Encode(EncodeError),
    /// The node sent something that is no message.
    Decode(DecodeError),
    /// A message came with fewer descriptors than it lists.
    Descriptors,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(_) => f.write_str("the node is not running"),
            Self::Silent => f.write_str("the node does not answer"),
            Self::Closed => f.write_str("the node closed the connection"),
            Self::Stranger(uid) => write!(f, "the node's socket belongs to user {uid}"),
            Self::Io(_) => f.write_str("the connection to the node failed"),
            Self::Encode(_) => f.write_str("the request cannot be sent to the node"),
            Self::Decode(_) => f.write_str("the node's answer cannot be read"),
            Self::Descriptors => f.write_str("the node's answer lacks descriptors"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRunning(error) | Self::Io(error) => Some(error),
            Self::Encode(error) => Some(error),
            Self::Decode(error) => Some(error),
            Self::Silent | Self::Closed | Self::Stranger(_) | Self::Descriptors => None,
        }
    }
}

impl Link {
    /// Connects to the node's socket, waiting at most `limit` for it to accept.
    ///
    /// # Errors
    /// `NotRunning`, `Silent`, `Stranger` or `Io`.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self, LinkError> {
        let heard = Instant::now();
        let socket = connect(socket, limit).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LinkError::NotRunning(error),
            io::ErrorKind::WouldBlock => LinkError::Silent,
            _ => LinkError::Io(error),
        })?;
        let peer = peer(&socket).map_err(LinkError::Io)?;
        if peer.uid != 0 && peer.uid != effective_uid() {
            return Err(LinkError::Stranger(peer.uid));
        }
        Ok(Self { socket, peer, decoder: Decoder::new(), descriptors: VecDeque::new(), heard })
    }

    /// The node's process.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// When the node was last heard of: when bytes came, at first when the connection was begun.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Sends a message with its descriptors, until `until` at the latest.
    ///
    /// # Errors
    /// `Encode`, `Silent` when the node does not take it in time, or `Io`.
    pub fn send(
        &mut self,
        message: &ToNode,
        descriptors: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<(), LinkError> {
        let frame = message.encode().map_err(LinkError::Encode)?;
        let (mut rest, mut descriptors) = (&frame[..], descriptors);
        while !rest.is_empty() {
            match send_with_fds(&self.socket, rest, descriptors) {
                Ok(sent) => (rest, descriptors) = (&rest[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Interest::Write, until)?
                }
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
        Ok(())
    }

    /// The node's next message and its descriptors, unless nothing is heard for `silence`.
    ///
    /// # Errors
    /// `Silent` (then another call may go on), else the connection is of no more use.
    pub fn receive(&mut self, silence: Duration) -> Result<(ToWrapper, Vec<OwnedFd>), LinkError> {
        loop {
            if let Some(message) = self.decoder.next::<ToWrapper>().map_err(LinkError::Decode)? {
                let count = message.descriptors();
                if self.descriptors.len() < count {
                    return Err(LinkError::Descriptors);
                }
                return Ok((message, self.descriptors.drain(..count).collect()));
            }
            let mut buffer = [0; READ_BYTES];
            match recv_with_fds(&self.socket, &mut buffer, &mut self.descriptors) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => {
                    self.heard = Instant::now();
                    self.decoder.push(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Interest::Read, self.heard + silence)?;
                }
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
    }

    /// Waits until the node closes the connection, or fails, until `until` at the latest. What it says meanwhile is
    /// dropped and earns it no more time.
    pub fn await_close(&mut self, until: Instant) {
        let mut buffer = [0; READ_BYTES];
        while Instant::now() < until {
            match recv_with_fds(&self.socket, &mut buffer, &mut self.descriptors) {
                Ok(0) => return,
                Ok(_) => self.descriptors.clear(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(Interest::Read, until).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Closes the connection so that the node can read what was sent: the kernel would reset it if frames of the
    /// node were left unread.
    pub fn finish(mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..DRAIN_READS_MAX {
            if !recv_with_fds(&self.socket, &mut buffer, &mut self.descriptors).is_ok_and(|count| count > 0) {
                break;
            }
        }
    }

    fn wait(&self, interest: Interest, until: Instant) -> Result<(), LinkError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::Silent);
        }
        wait([Some((self.socket.as_fd(), interest))], Some(left)).map(drop).map_err(LinkError::Io)
    }
}
