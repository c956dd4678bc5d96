//! The node's Unix socket: one task for each connection of a wrapper or of the command line.
//!
//! ```text
//!             Request                     Exec, Done
//!  connected ─────────▶ working ─────────────────────────────▶ closed
//!      │                  │  ▲ heartbeat    Compile     Compiled
//!      │ Control          │  └──────────┐  ─────────▶ waiting ─▶ outputs taken in ─▶ closed
//!      └─────▶ answered   └ the wrapper goes away: the work is dropped, which cancels it
//! ```
//!
//! Only this user (and root) is listened to. The connection is closed when the outputs of a local compile have
//! been taken in; the wrapper waits for that, but not long.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use barn_wrapper::{
    link::{ShortPath, peer, recv_with_fds, send_with_fds},
    messages::{self, Control, ControlReply, Decoder, HEARTBEAT_MS, Message, Output, ToNode, ToWrapper},
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::MissedTickBehavior,
};

use crate::{
    node::Node,
    requester::{Answer, Done, DoneOutput, LocalWork},
};

/// Connections at once: 200 requesters of a wild `-j` on several trees, and room to spare.
const CONNECTIONS_MAX: usize = 4096;
/// How long a connection may take to say what it wants.
const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take to read what it is sent.
const SEND_MAX: Duration = Duration::from_secs(10);
/// How long a wrapper may take to write the outputs; what it still writes then is no longer claimed.
const WRITE_MAX: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 << 10;

/// The listening socket.
pub struct Door {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

impl Door {
    /// Listens at `path`, replacing a socket that a dead node left. The caller holds the store's lock, so no
    /// living node can own it. Only this user may enter its directory.
    ///
    /// # Errors
    /// When the directory or the socket cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let short = ShortPath::of(path)?;
        let listener = UnixListener::bind(short.path())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) })
    }

    /// Serves connections for as long as it is polled.
    pub async fn serve(&self, node: &Arc<Node>) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let node = node.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = Session::new(stream).run(&node).await {
                    tracing::debug!(%error, "a connection ended early");
                }
            });
        }
    }
}

struct Session {
    stream: UnixStream,
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
    buffer: Vec<u8>,
}

impl Session {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(), descriptors: VecDeque::new(), buffer: Vec::new() }
    }

    async fn run(mut self, node: &Arc<Node>) -> io::Result<()> {
        let peer = peer(&self.stream)?;
        if peer.uid != barn_wrapper::effective_uid() && peer.uid != 0 {
            tracing::warn!(uid = peer.uid, "another user was turned away");
            return Ok(());
        }
        let first = tokio::time::timeout(FIRST_MESSAGE_MAX, self.next()).await;
        match first.map_err(|_| io::ErrorKind::TimedOut)?? {
            Some(ToNode::Request(request)) => self.answer(node, request).await,
            Some(ToNode::Control(control)) => self.control(node, control).await,
            Some(ToNode::Compiled(_)) => Err(io::Error::other("a report without an order")),
            None => Ok(()),
        }
    }

    async fn answer(mut self, node: &Arc<Node>, request: messages::Request) -> io::Result<()> {
        let requester = node.requester.clone();
        let work = requester.answer(request);
        let Some(answer) = self.keep_alive(work).await? else { return Ok(()) };
        match answer {
            Answer::Exec => self.send(&ToWrapper::Exec, &[]).await,
            Answer::Done(done, claim, keep) => {
                let delivered = self.deliver(done).await;
                drop(claim);
                // Written or not, it is a result.
                if let Some(keep) = keep {
                    keep.begin();
                }
                delivered
            }
            Answer::Compile(run) => self.compile(run).await,
        }
    }

    /// Waits for `work`, telling the wrapper that it goes on; `None` when the wrapper has gone away.
    async fn keep_alive<T>(&mut self, work: impl Future<Output = T>) -> io::Result<Option<T>> {
        // Most answers come before the first beat is due.
        let every = Duration::from_millis(HEARTBEAT_MS);
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                _ = beat.tick() => self.send(&ToWrapper::Heartbeat, &[]).await?,
                message = self.next() => match message? {
                    None => return Ok(None),
                    Some(_) => return Err(io::Error::other("a message out of turn")),
                },
            }
        }
    }

    /// Hands a result over and waits until the wrapper has written it.
    async fn deliver(&mut self, done: Done) -> io::Result<()> {
        let files: Vec<BorrowedFd<'_>> = done.outputs.iter().map(|output| output.file.as_fd()).collect();
        let output = |output: &DoneOutput| Output {
            path: output.target.name.clone(),
            size: output.size,
            manner: output.target.manner,
        };
        let outputs = done.outputs.iter().map(output).collect();
        let message = ToWrapper::Done(messages::Done {
            exit_code: 0,
            stdout: done.stdout,
            stderr: done.stderr,
            outputs,
        });
        self.send(&message, &files).await?;
        match tokio::time::timeout(WRITE_MAX, self.next()).await {
            Ok(Ok(Some(_))) => Err(io::Error::other("a message out of turn")),
            _ => Ok(()),
        }
    }

    /// Lets the wrapper compile, and takes in what it hands over.
    async fn compile(mut self, run: Box<dyn LocalWork>) -> io::Result<()> {
        if let Err(error) = self.send(&ToWrapper::Compile(run.order()), &[]).await {
            run.lost();
            return Err(error);
        }
        match self.next().await {
            Ok(Some(ToNode::Compiled(compiled))) => {
                let count = ToNode::Compiled(compiled.clone()).descriptors();
                let files: Vec<File> = self.descriptors.drain(..).take(count).map(File::from).collect();
                tokio::task::spawn_blocking(move || run.finished(&compiled, files))
                    .await
                    .map_err(io::Error::other)
            }
            Ok(_) => {
                run.lost();
                Ok(())
            }
            Err(error) => {
                run.lost();
                Err(error)
            }
        }
    }

    async fn control(mut self, node: &Arc<Node>, control: Control) -> io::Result<()> {
        let verb = control.verb.clone();
        let work = crate::control::answer(node, control);
        let Some(answer) = self.keep_alive(work).await? else { return Ok(()) };
        let body = match answer {
            Ok(value) => serde_json::json!({ "ok": value }),
            Err(error) => serde_json::json!({ "error": error }),
        };
        let reply = ControlReply { body: body.to_string().into_bytes() };
        self.send(&ToWrapper::ControlReply(reply), &[]).await?;
        if verb == "stop" {
            node.stop();
        }
        Ok(())
    }

    /// The next message; `None` at the end of the connection.
    async fn next(&mut self) -> io::Result<Option<ToNode>> {
        loop {
            if let Some(message) = self.decoder.next().map_err(|error| io::Error::other(error.to_string()))? {
                return Ok(Some(message));
            }
            self.stream.readable().await?;
            let Self { stream, descriptors, buffer, .. } = self;
            buffer.resize(READ_BYTES, 0);
            match stream.try_io(Interest::READABLE, || recv_with_fds(&*stream, buffer, descriptors)) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.push(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&mut self, message: &ToWrapper, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = message.encode().map_err(|error| io::Error::other(error.to_string()))?;
        tokio::time::timeout(SEND_MAX, self.send_all(&frame, files))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn send_all(&mut self, frame: &[u8], mut files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut rest = frame;
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_io(Interest::WRITABLE, || send_with_fds(&self.stream, rest, files)) {
                Ok(count) => {
                    rest = &rest[count..];
                    files = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
