//! What to run, what it may see and how much it may use. Plain data; [`Plan::new`](crate::Plan::new) checks it.

use std::{path::PathBuf, time::Duration};

use crate::path::InsidePath;

/// One program run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The program to execute, a path inside.
    pub program: InsidePath,
    /// Its arguments, `argv[0]` included; need not name the program.
    pub argv: Vec<Vec<u8>>,
    /// Its whole environment, name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its working directory; made if no entry does.
    pub cwd: InsidePath,
    /// Toolchain files, each bound read-only at its own path. About half a millisecond each, so headers and other
    /// small files belong into `inputs`, and so do the toolchain's symbolic links and directories.
    pub toolchain: Vec<Mount>,
    /// What lies there besides; the parents of a path are made as needed.
    pub inputs: Vec<Entry>,
    /// A host directory in which `inputs` are laid out already, at their paths below it and with nothing else beside
    /// them. It must stay as it is during the run, which cannot change it. Parts of it are bound read-only, the rest
    /// is copied in, as `inputs` all are if there is none.
    pub tree: Option<PathBuf>,
    /// Whether to watch what the program looks for; see [`Finished::observed`](crate::Finished::observed).
    pub trace: bool,
    /// Files to bring out. Their directories are made before the program starts. They may lie behind a symbolic
    /// link of `inputs`.
    pub outputs: Vec<InsidePath>,
    /// What it may use.
    pub limits: Limits,
    /// Its standing against the other work of the machine.
    pub priority: Priority,
}

/// A file of the host, bound read-only into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The host's file: regular, no symbolic link, and readable by the uid the sandbox drops to.
    pub host: PathBuf,
    /// Where it appears; not directly in the root.
    pub inside: InsidePath,
}

/// Something that lies in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it appears. Nothing may lie below a file or a symbolic link.
    pub path: InsidePath,
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link; the target is written as it is and resolved only inside.
    Symlink {
        /// The target: 1 to 4,095 bytes, no NUL.
        target: Vec<u8>,
    },
    /// A regular file with the contents of a host file.
    File {
        /// The host file to read from; opened by the host, not by bubblewrap.
        source: PathBuf,
        /// Its size in bytes; a run fails when the source turns out shorter.
        size: u64,
        /// Whether it is mode 0755 instead of 0644.
        executable: bool,
    },
    /// A regular file that lies in [`Spec::tree`] at its path.
    Laid {
        /// Its size in bytes.
        size: u64,
        /// Whether it is executable.
        executable: bool,
    },
}

/// How much one run may use. Everything has a limit; there is no value for "none".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Private memory in bytes: of each process (`RLIMIT_DATA`) and, sampled, of all of them together.
    pub memory_bytes: u64,
    /// Processes and threads at one time, the room's own two included.
    pub processes: u64,
    /// Largest file it may write, in bytes.
    pub file_bytes: u64,
    /// What it may write to its file systems altogether, in bytes; they live in memory.
    pub room_bytes: u64,
    /// Files and directories it may make, because an empty file costs memory too.
    pub room_entries: u64,
    /// Standard output and standard error together, in bytes.
    pub stdio_bytes: u64,
    /// All outputs together, in bytes.
    pub outputs_bytes: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// From start to the last output byte.
    pub wall: Duration,
}

impl Default for Limits {
    /// Generous for a compile of one unit: the largest seen take 3 GiB and five minutes.
    fn default() -> Self {
        Self {
            memory_bytes: 4 << 30,
            processes: 256,
            file_bytes: 1 << 30,
            room_bytes: 2 << 30,
            room_entries: 65_536,
            stdio_bytes: 16 << 20,
            outputs_bytes: 2 << 30,
            open_files: 1024,
            wall: Duration::from_secs(1200),
        }
    }
}

/// How the kernel's scheduler ranks the run. It is always the out-of-memory killer's first choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Like any process of the machine.
    Normal,
    /// Only what nobody else wants: `SCHED_IDLE` and the lowest weight.
    #[default]
    Idle,
}
