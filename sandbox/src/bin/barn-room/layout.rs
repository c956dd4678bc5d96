//! Writes what the host sends into the sandbox's file systems.
//!
//! Nothing hostile runs yet, and there is nothing to protect: the tree is made of the requester's own entries, and
//! a link that leads astray leads to another place in the sandbox.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use barn_sandbox::wire::{Fields, Job, failed, kind};

use crate::host::{End, Host, malformed};

/// Most bytes of a file held at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Takes the job and all entries, up to the word to start.
pub(crate) fn take_all(host: &mut Host) -> Result<Job, End> {
    let mut payload = Vec::new();
    if host.next(&mut payload)? != kind::JOB {
        return Err(malformed());
    }
    let job = Job::decode(&payload).map_err(|_| malformed())?;
    let mut layout = Layout { known: BTreeSet::new(), chunk: vec![0; CHUNK_BYTES] };
    loop {
        let kind = host.next(&mut payload)?;
        if kind == kind::START {
            break;
        }
        layout.entry(host, kind, &payload)?;
    }
    layout.directory(path(&job.cwd))?;
    for output in &job.outputs {
        layout.parent(path(output))?;
    }
    Ok(job)
}

struct Layout {
    /// Directories known to be there.
    known: BTreeSet<PathBuf>,
    chunk: Vec<u8>,
}

impl Layout {
    fn entry(&mut self, host: &mut Host, kind: u8, payload: &[u8]) -> Result<(), End> {
        let mut fields = Fields::new(payload);
        let at = path(fields.bytes().map_err(|_| malformed())?);
        match kind {
            kind::DIRECTORY => self.directory(at),
            kind::SYMLINK => {
                let target = path(fields.bytes().map_err(|_| malformed())?);
                self.parent(at)?;
                self.symlink(target, at)
            }
            kind::FILE => {
                let executable = fields.byte().map_err(|_| malformed())? != 0;
                let size = fields.u64().map_err(|_| malformed())?;
                self.parent(at)?;
                self.file(host, at, executable, size)
            }
            _ => Err(malformed()),
        }
    }

    fn parent(&mut self, at: &Path) -> Result<(), End> {
        at.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    fn directory(&mut self, at: &Path) -> Result<(), End> {
        if self.known.contains(at) {
            return Ok(());
        }
        fs::create_dir_all(at).map_err(|error| failure(at, &error))?;
        self.known.insert(at.to_owned());
        Ok(())
    }

    /// The toolchain and the project may both name a link; the plan has seen to it that they agree.
    fn symlink(&self, target: &Path, at: &Path) -> Result<(), End> {
        match symlink(target, at) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists
                    && fs::read_link(at).is_ok_and(|there| there == target) =>
            {
                Ok(())
            }
            result => result.map_err(|error| failure(at, &error)),
        }
    }

    fn file(&mut self, host: &mut Host, at: &Path, executable: bool, size: u64) -> Result<(), End> {
        let mode = if executable { 0o755 } else { 0o644 };
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(at);
        let mut file = opened.map_err(|error| failure(at, &error))?;
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            host.read(&mut self.chunk[..length])?;
            file.write_all(&self.chunk[..length]).map_err(|error| failure(at, &error))?;
            left -= length as u64;
        }
        Ok(())
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn failure(at: &Path, error: &io::Error) -> End {
    End::failed_io(failed::LAYOUT, format!("laying out {}", at.display()), error)
}
