//! Asking the running node over its socket.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use barn_wrapper::messages::{Control, Decoder, Message as _, ToNode, ToWrapper};
use serde_json::Value;

/// Longest silence of a node that is asked something; it says every quarter second that it is still at it.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why the node did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// There is no node.
    #[error("no node runs here\nhint: `barn start` starts it")]
    NotRunning,
    /// It is there but does not answer.
    #[error(
        "the node does not answer\nhint: `barn stop` and `barn start`; its log is in the state directory"
    )]
    Silent(#[source] io::Error),
    /// It answers something else.
    #[error("the node speaks another version\nhint: `barn stop` and `barn start`")]
    OtherVersion,
    /// It refuses.
    #[error("{0}")]
    Refused(String),
}

/// Sends a verb and returns the node's answer.
pub(super) fn call(socket: &Path, verb: &str, body: &Value) -> Result<Value, ControlError> {
    let mut stream = UnixStream::connect(socket).map_err(|_| ControlError::NotRunning)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(ControlError::Silent)?;
    let request = Control { verb: verb.to_owned(), body: body.to_string().into_bytes() };
    let frame = ToNode::Control(request).encode().map_err(|_| ControlError::OtherVersion)?;
    stream.write_all(&frame).map_err(ControlError::Silent)?;
    let reply = read_reply(&mut stream)?;
    let mut answer: Value = serde_json::from_slice(&reply).map_err(|_| ControlError::OtherVersion)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(ControlError::Refused(error.to_owned())),
        None => Ok(answer["ok"].take()),
    }
}

fn read_reply(stream: &mut UnixStream) -> Result<Vec<u8>, ControlError> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match decoder.next::<ToWrapper>().map_err(|_| ControlError::OtherVersion)? {
            Some(ToWrapper::ControlReply(reply)) => return Ok(reply.body),
            Some(ToWrapper::Heartbeat) => continue,
            Some(_) => return Err(ControlError::OtherVersion),
            None => {}
        }
        match stream.read(&mut buffer).map_err(ControlError::Silent)? {
            0 => return Err(ControlError::Silent(io::ErrorKind::UnexpectedEof.into())),
            count => decoder.push(&buffer[..count]),
        }
    }
}
