//! Reaching the node: connecting, and starting it where it does not run.
//!
//! A hundred wrappers may come at once, and autoconf brings thousands one after the other. So one wrapper starts the
//! node under a lock while the others wait for the socket, and trouble is remembered by stamps (empty files whose
//! age counts) beside the socket: after a failed start nobody tries again for a while, and after a node was silent
//! the next wrappers have less patience with it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    env_vars,
    link::{Link, LinkError},
    messages::{HEARTBEAT_MS, SILENCE_MS_MAX},
    places::Places,
    platform::{self, ProcessState},
};

/// The node's program, beside the wrapper's.
pub const NODE_PROGRAM: &str = "barn-node";
/// Longest wait for a node that is being started, in milliseconds. A node listens before it does anything slow.
const START_MS_MAX: u64 = 1000;
/// Time between two looks for the socket of a node that is being started, in milliseconds.
const START_POLL_MS: u64 = 5;
/// How long trouble is remembered, in seconds. A second lost in ten is the most that probes pay.
const TROUBLE_SECONDS: u64 = 10;
/// Patience with a node that was silent lately, in milliseconds: one heartbeat, and a little.
const SUSPECT_SILENCE_MS_MAX: u64 = HEARTBEAT_MS + 50;
/// The variables that a started node inherits, beside those of the prefixes below. Not the rest: MAKEFLAGS, a
/// fakeroot's LD_PRELOAD or a build's own settings are not for a process that outlives the build.
const INHERITED: [&str; 10] = [
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "RUST_BACKTRACE",
];
/// See [`INHERITED`].
const INHERITED_PREFIXES: [&str; 3] = ["BARN_", "XDG_", "LC_"];

/// A connection to the node, and how long its silence may last.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) link: Link,
    pub(crate) silence: Duration,
}

/// Connects to the node, or starts one if none runs. `None`: do without.
pub(crate) fn reach(places: &Places) -> Option<Reached> {
    let begun = Instant::now();
    match connect(places) {
        Ok(reached) => Some(reached),
        Err(LinkError::NotRunning(_)) if may_start() => start_and_connect(places, begun),
        Err(LinkError::Silent) => {
            silent_stamp(places).set();
            None
        }
        Err(_) => None,
    }
}

/// Remembers that the node did not answer, so that the next wrappers have less patience.
pub(crate) fn remember_silence(places: &Places) {
    silent_stamp(places).set();
}

/// Forgets it.
pub(crate) fn forget_silence(places: &Places) {
    silent_stamp(places).clear();
}

/// Starts the node detached from everything of this process: `barn-node start` in a session of its own, without
/// inherited descriptors.
///
/// # Errors
/// When there is no such program or it cannot be run.
pub fn spawn_node() -> io::Result<()> {
    let program = node_program().ok_or(io::ErrorKind::NotFound)?;
    let variables: Vec<(OsString, OsString)> =
        env::vars_os().filter(|(name, _)| is_inherited(name)).collect();
    let env = variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    platform::spawn_detached(&program, &["start"], env)
}

/// The node's program: beside this one, in `../libexec/barn`, or in PATH.
pub fn node_program() -> Option<PathBuf> {
    let own = env::current_exe().ok();
    let own_directory = own.as_deref().and_then(Path::parent);
    let installed = own_directory
        .into_iter()
        .flat_map(|directory| [directory.to_owned(), directory.join("../libexec/barn")]);
    let path = env::var_os(env_vars::PATH).unwrap_or_default();
    installed
        .chain(env::split_paths(&path).filter(|entry| entry.is_absolute()))
        .map(|directory| directory.join(NODE_PROGRAM))
        .find(|program| program.is_file() && platform::may_execute(program))
}

fn may_start() -> bool {
    !env_vars::is_on(env::var_os(env_vars::BARN_NO_START).as_deref())
}

fn connect(places: &Places) -> Result<Reached, LinkError> {
    let is_suspect = silent_stamp(places).is_fresh();
    let silence = Duration::from_millis(if is_suspect { SUSPECT_SILENCE_MS_MAX } else { SILENCE_MS_MAX });
    let link = Link::connect(&places.socket, silence)?;
    if is_suspect && platform::process_state(link.peer().pid) == ProcessState::Stopped {
        return Err(LinkError::Silent);
    }
    Ok(Reached { link, silence })
}

fn start_and_connect(places: &Places, begun: Instant) -> Option<Reached> {
    let failed = Stamp(places.run_dir().join("start.failed"));
    if failed.is_fresh() {
        return None;
    }
    let lock = open_lock(places.run_dir()).ok()?;
    // Whoever does not get the lock waits for the socket of the one who has it.
    let is_starter = lock.try_lock().is_ok();
    if is_starter {
        // It may have been started between our first attempt and the lock.
        if let Ok(reached) = connect(places) {
            return Some(reached);
        }
        if spawn_node().is_err() {
            failed.set();
            return None;
        }
    }
    let reached = await_socket(places, &failed, begun + Duration::from_millis(START_MS_MAX));
    if is_starter {
        if reached.is_some() { failed.clear() } else { failed.set() }
    }
    reached
}

fn await_socket(places: &Places, failed: &Stamp, until: Instant) -> Option<Reached> {
    while Instant::now() < until {
        match connect(places) {
            Ok(reached) => return Some(reached),
            Err(LinkError::NotRunning(_)) if !failed.is_fresh() => {
                thread::sleep(Duration::from_millis(START_POLL_MS));
            }
            Err(_) => return None,
        }
    }
    None
}

/// The lock of starting; held until the file is closed.
fn open_lock(run_dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(run_dir)?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(run_dir.join("start.lock"))
}

fn silent_stamp(places: &Places) -> Stamp {
    Stamp(places.run_dir().join("node.silent"))
}

fn is_inherited(name: &OsStr) -> bool {
    let has_prefix = |prefix: &&str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
    name != env_vars::BARN_CHAIN
        && (INHERITED.iter().any(|known| name == *known) || INHERITED_PREFIXES.iter().any(has_prefix))
}

/// A file that says by its age when there was trouble last. What cannot be stamped is forgotten.
struct Stamp(PathBuf);

impl Stamp {
    /// A stamp from the future (the clock was set back) is not fresh.
    fn is_fresh(&self) -> bool {
        let modified = fs::metadata(&self.0).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| {
            SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|age| age < Duration::from_secs(TROUBLE_SECONDS))
        })
    }

    fn set(&self) {
        // A byte is written because truncating an empty file need not change its time.
        let _ = File::create(&self.0).and_then(|mut file| file.write_all(b"\n"));
    }

    fn clear(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_age() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = Stamp(directory.path().join("stamp"));
        assert!(!stamp.is_fresh());
        stamp.set();
        assert!(stamp.is_fresh());
        let file = File::options().write(true).open(&stamp.0).unwrap();
        for (seconds, fresh) in [(-3600, false), (-11, false), (-2, true), (3600, false)] {
            let offset = Duration::from_secs(i64::unsigned_abs(seconds));
            let now = SystemTime::now();
            file.set_modified(if seconds < 0 { now - offset } else { now + offset }).unwrap();
            assert_eq!(stamp.is_fresh(), fresh, "{seconds} s");
        }
        stamp.set();
        assert!(stamp.is_fresh());
        stamp.clear();
        assert!(!stamp.is_fresh());
    }

    #[test]
    fn a_node_inherits_only_what_is_meant_for_it() {
        for name in ["HOME", "PATH", "BARN_HOME", "XDG_RUNTIME_DIR", "LC_ALL"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
        for name in ["MAKEFLAGS", "LD_PRELOAD", "CFLAGS", "BARN_CHAIN", "HOMEX"] {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
    }
}
