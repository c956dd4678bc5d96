//! Whether this machine's sandbox works and contains: the room, run as the program, tries to get out.

use std::{fs, io, time::Duration};

use crate::{
    cancel::CancelToken,
    path::InsidePath,
    receive::Exit,
    run::RunError,
    sandbox::{Sandbox, SetupError},
    sink::MemorySink,
    spec::{Entry, Kind, Limits, Priority, Spec},
};

/// The argument that makes the room try the walls.
const ARGUMENT: &str = "--try-the-walls";
/// What an honest room writes to the output it is given.
const PROOF: &[u8] = b"contained\n";
/// Far more than the few milliseconds it takes.
const WALL: Duration = Duration::from_secs(20);

impl Sandbox {
    /// Runs the room itself in the sandbox and has it try the walls.
    ///
    /// # Errors
    /// [`SetupError::Broken`] when it cannot be run, [`SetupError::Open`] when a wall is missing.
    pub fn self_test(&self) -> Result<(), SetupError> {
        let broken = |error: &dyn std::error::Error| SetupError::Broken(chain(error));
        let cancel = CancelToken::new().map_err(|error| broken(&error))?;
        let spec = self.self_test_spec().map_err(|error| broken(&error))?;
        let mut sink = MemorySink::default();
        let finished = self.run(&spec, &cancel, &mut sink).map_err(|error| match &error {
            // Bubblewrap's own words are what the owner can search for.
            RunError::Setup { message, .. } if !message.is_empty() => SetupError::Broken(message.clone()),
            _ => broken(&error),
        })?;
        let says = String::from_utf8_lossy(&finished.stdout).trim().replace('\n', ", ");
        match finished.exit {
            Exit::Code(0) if sink.0 == [(0, PROOF.to_vec())] => Ok(()),
            Exit::Code(0) => {
                Err(SetupError::Broken("an output did not come back as it was written".to_owned()))
            }
            Exit::Code(1) => Err(SetupError::Open(says)),
            exit => Err(SetupError::Broken(format!("the self-test ended with {exit:?}"))),
        }
    }

    fn self_test_spec(&self) -> io::Result<Spec> {
        let path = |text: &str| InsidePath::new(text).expect("a normal path");
        let mut argv = self.helper.command.clone();
        argv.push(ARGUMENT.into());
        let room = self.helper.mounts.iter().find(|mount| mount.inside.as_bytes() == b"/.barn/room");
        let source = room.map(|mount| mount.host.clone()).unwrap_or_default();
        let size = fs::metadata(&source)?.len();
        Ok(Spec {
            program: InsidePath::new(argv[0].clone()).expect("the room's command starts with a path"),
            argv,
            env: Vec::new(),
            cwd: path("/work"),
            toolchain: Vec::new(),
            inputs: vec![
                Entry { path: path("/work/in/file"), kind: Kind::File { source, size, executable: false } },
                Entry { path: path("/work/link"), kind: Kind::Symlink { target: b"in/file".to_vec() } },
            ],
            tree: None,
            trace: false,
            outputs: vec![path("/work/out/proof")],
            limits: Limits { memory_bytes: 256 << 20, room_bytes: 16 << 20, wall: WALL, ..Limits::default() },
            priority: Priority::Normal,
        })
    }
}

/// An error with all its sources, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
