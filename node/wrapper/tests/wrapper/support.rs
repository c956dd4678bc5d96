//! A directory with compilers, a played node, and ways to run the wrapper there.

use std::{
    collections::VecDeque,
    fs,
    io::{ErrorKind, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use barn_wrapper::{
    link::{self, ShortPath},
    messages::{self, Compile, Compiled, Decoder, Message, Request, ToNode, ToWrapper},
};

/// The wrapper under test.
pub(crate) const BARN: &str = env!("CARGO_BIN_EXE_barn");
/// What [`Room::gcc`] writes.
pub(crate) const LOCAL_OBJECT: &str = "local object\n";

/// A directory of one test. The wrapper runs in `work/`; `bin/` is first in PATH; the state is in `home/`.
pub(crate) struct Room {
    directory: tempfile::TempDir,
    home: PathBuf,
}

impl Room {
    /// A room with a `gcc` that says that it ran, writes `x.o` and exits with 3.
    pub(crate) fn new() -> Self {
        let room = Self::below("home");
        room.script("bin/gcc", "echo local out; echo local err >&2; echo local object > x.o; exit 3");
        room
    }

    /// A room whose state is in this folder.
    pub(crate) fn below(home: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join(home);
        for folder in [&home.join("run"), &directory.path().join("bin"), &directory.path().join("work")] {
            fs::create_dir_all(folder).unwrap();
        }
        Self { directory, home }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.join("run/node.sock")
    }

    pub(crate) fn script(&self, path: &str, body: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A link to the wrapper.
    pub(crate) fn link(&self, path: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(BARN, &path).unwrap();
        path
    }

    /// `program` with the room's environment and working directory. No node is started.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.at("bin").display());
        command.env_clear().env("PATH", path).env("BARN_HOME", &self.home).env("BARN_NO_START", "1");
        command.current_dir(self.at("work")).stdin(Stdio::null());
        command
    }

    /// `barn` with arguments split at spaces.
    pub(crate) fn barn(&self, arguments: &str) -> Command {
        let mut command = self.command(BARN);
        command.args(arguments.split_whitespace());
        command
    }

    /// A shell script in which `$BARN` is the wrapper.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.command("/bin/sh");
        command.env("BARN", BARN).args(["-c", script]);
        command
    }

    /// Plays a node that handles each connection so. The receiver gets each result.
    pub(crate) fn node<T: Send + 'static>(&self, handle: fn(Connection) -> T) -> Receiver<T> {
        let socket = ShortPath::of(&self.socket()).unwrap();
        let listener = UnixListener::bind(socket.path()).unwrap();
        let (results, receiver) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A test that has seen enough has gone.
                if results.send(handle(Connection::new(stream.unwrap()))).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    /// Checks that the room's `gcc` did it all, and that the wrapper left nothing beside.
    pub(crate) fn check_local(&self, output: &Output) {
        assert_eq!(text(&output.stdout), "local out\n");
        assert_eq!(text(&output.stderr), "local err\n");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(self.read("work/x.o"), LOCAL_OBJECT);
        assert_eq!(self.temporaries(), 0);
    }

    /// How many temporary files the wrapper left.
    pub(crate) fn temporaries(&self) -> usize {
        let names = fs::read_dir(self.at("work")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b".barn-")).count()
    }
}

/// The node's side of one connection.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(), descriptors: VecDeque::new() }
    }

    pub(crate) fn accept(listener: &UnixListener) -> Self {
        Self::new(listener.accept().unwrap().0)
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) fn receive(&mut self) -> Option<ToNode> {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            let mut buffer = [0; 4096];
            match link::recv_with_fds(&self.stream, &mut buffer, &mut self.descriptors) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1))
                }
                Err(_) => return None,
            }
        }
    }

    pub(crate) fn request(&mut self) -> Request {
        match self.receive() {
            Some(ToNode::Request(request)) => request,
            other => panic!("no request but {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, message: &ToWrapper) {
        self.stream.write_all(&message.encode().unwrap()).unwrap();
    }

    /// Sends a result whose outputs have these contents.
    pub(crate) fn send_done(&mut self, done: messages::Done, contents: &[&[u8]]) {
        let files: Vec<_> = contents.iter().map(|content| file_of(content)).collect();
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let frame = ToWrapper::Done(done).encode().unwrap();
        assert_eq!(link::send_with_fds(&self.stream, &frame, &files).unwrap(), frame.len());
    }

    /// Lets the wrapper compile; its report with the contents of the outputs.
    pub(crate) fn compile(&mut self, argv: &[&str], outputs: &[&str]) -> (Compiled, Vec<String>) {
        let bytes = |items: &[&str]| items.iter().map(|item| item.as_bytes().to_vec()).collect();
        self.send(&ToWrapper::Compile(Compile { argv: bytes(argv), outputs: bytes(outputs) }));
        let Some(ToNode::Compiled(compiled)) = self.receive() else {
            panic!("no report");
        };
        let contents =
            self.descriptors.drain(..).map(|fd| std::io::read_to_string(fs::File::from(fd)).unwrap());
        (compiled, contents.collect())
    }

    /// Waits until the wrapper has closed.
    pub(crate) fn finish(mut self) {
        assert_eq!(self.receive(), None);
    }
}

/// A result with these outputs (path, size).
pub(crate) fn done(outputs: &[(&str, usize)]) -> messages::Done {
    let output = |(path, size): &(&str, usize)| messages::Output {
        path: path.as_bytes().to_vec(),
        size: *size as u64,
        manner: messages::Manner::InPlace,
    };
    messages::Done {
        exit_code: 5,
        stdout: b"mesh out\n".to_vec(),
        stderr: b"mesh err\n".to_vec(),
        outputs: outputs.iter().map(output).collect(),
    }
}

/// Runs and measures.
pub(crate) fn timed(command: &mut Command) -> (Output, Duration) {
    let begun = Instant::now();
    let output = command.output().unwrap();
    (output, begun.elapsed())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends a signal by its name.
pub(crate) fn kill(process: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits until `condition` holds, for five seconds at most.
pub(crate) fn await_condition(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(5), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn file_of(content: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}
