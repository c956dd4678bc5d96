//! Bodies of responses: nothing, a line, or a blob in pieces.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead as _, ReadBuf};

/// Bytes read from a file at once.
const PIECE_BYTES: usize = 32 << 10;

/// The body of a response.
#[derive(Debug)]
pub(super) enum Reply {
    /// Some text; may be empty.
    Text(Bytes),
    /// A blob.
    File {
        /// The blob.
        file: tokio::fs::File,
        /// Bytes of it that are still to be sent.
        left: u64,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let (file, left) = match &mut *self {
            Self::Text(text) if text.is_empty() => return Poll::Ready(None),
            Self::Text(text) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::File { left: 0, .. } => return Poll::Ready(None),
            Self::File { file, left } => (file, left),
        };
        let mut piece = vec![0; PIECE_BYTES];
        let mut buffer = ReadBuf::new(&mut piece);
        if let Err(error) = ready!(Pin::new(file).poll_read(context, &mut buffer)) {
            return Poll::Ready(Some(Err(error)));
        }
        let count = buffer.filled().len();
        *left = match left.checked_sub(count as u64) {
            Some(rest) if count > 0 => rest,
            // The connection breaks off, and the tool takes that for a miss.
            _ => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
        };
        piece.truncate(count);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.len() as u64,
            Self::File { left, .. } => *left,
        })
    }
}
