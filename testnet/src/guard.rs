//! The guard: the one way an office is taken down.
//!
//! A guard is a shell running `guard.sh`, in a process group of its own, whose standard input the owner holds.
//! When the owner lets go, on purpose or because it is dead, the guard kills what runs in the office's
//! cgroups and removes cgroups and files. So there is no path on which the owner's end, even by SIGKILL,
//! leaves something behind, and the same few lines are exercised by every test.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{Error, Result};

const SCRIPT: &str = include_str!("guard.sh");

static GUARDS: Mutex<Vec<Weak<Guard>>> = Mutex::new(Vec::new());

/// Takes the office down when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    directory: PathBuf,
    cgroups: Vec<PathBuf>,
    shell: Mutex<Option<Child>>,
}

impl Guard {
    /// Posts a guard over a directory and cgroups, which need not exist yet.
    pub(crate) fn post(directory: PathBuf, cgroups: Vec<PathBuf>) -> Result<Arc<Guard>> {
        let shell = Command::new("/bin/sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg("barn-office-guard")
            .arg(&directory)
            .args(&cgroups)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C on the owner's terminal, or a kill of its group, must not reach the guard.
            .process_group(0)
            .spawn()
            .map_err(Error::path("cannot start", "/bin/sh"))?;
        let guard = Arc::new(Guard { directory, cgroups, shell: Mutex::new(Some(shell)) });
        let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        guards.retain(|other| other.strong_count() > 0);
        guards.push(Arc::downgrade(&guard));
        Ok(guard)
    }

    /// Takes the office down and returns what would not go; empty when all is gone or was before.
    pub(crate) fn take_down(&self) -> Vec<PathBuf> {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut shell) = shell.take() else { return Vec::new() };
        drop(shell.stdin.take());
        // The script bounds its own time; its status says no more than the paths themselves.
        let _ = shell.wait();
        let all = self.cgroups.iter().chain([&self.directory]);
        all.filter(|path| fs::symlink_metadata(path).is_ok()).cloned().collect()
    }

    /// The office's one directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for path in self.take_down() {
            eprintln!("testnet: {} could not be removed\nhint: run `testnet clean`", path.display());
        }
    }
}

/// Takes every living office of this process down, for a signal handler's thread just before it exits.
///
/// The offices' owners find their hosts dead; this is for a process about to end, not for a test.
pub fn take_down_all() {
    let guards: Vec<_> = {
        let guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        guards.iter().filter_map(Weak::upgrade).collect()
    };
    drop(guards.iter().map(|guard| guard.take_down()).collect::<Vec<_>>());
}
