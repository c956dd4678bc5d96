//! Hands out the declared outputs. The compile and all it started are dead, so what is looked at stays as it is.

use std::{
    ffi::OsStr,
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
};

use barn_sandbox::wire::{Job, REPLY_BYTES_MAX, absent, failed, kind, limit, put_u64};

use crate::{
    host::{End, Host},
    watch::Room,
};

/// The right of a file's owner to execute it.
const OWNER_EXECUTES: u32 = 0o100;

/// Sends every output, or why it does not come, in the job's order.
pub(crate) fn send_all(host: &mut Host, job: &Job, room: &Room) -> Result<(), End> {
    let mut left = job.outputs_bytes;
    for path in &job.outputs {
        match open(path).and_then(|file| judge(file, room)) {
            Ok((file, metadata)) => {
                left = left.checked_sub(metadata.len()).ok_or(End::Limit(limit::OUTPUTS))?;
                send(host, file, &metadata)?;
            }
            Err(reason) => host.reply(kind::ABSENT, |to| to.push(reason))?,
        }
    }
    host.reply(kind::DONE, |_| {})
}

/// Opens what is there without following a link in its place and without waiting for a FIFO's writer.
fn open(path: &[u8]) -> Result<File, u8> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(OsStr::from_bytes(path)).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => absent::MISSING,
            Some(libc::ELOOP | libc::ENXIO) => absent::NOT_REGULAR,
            _ => absent::UNREADABLE,
        }
    })
}

fn judge(file: File, room: &Room) -> Result<(File, Metadata), u8> {
    let metadata = file.metadata().map_err(|_| absent::UNREADABLE)?;
    if !metadata.is_file() {
        return Err(absent::NOT_REGULAR);
    }
    if !room.has(metadata.dev()) {
        return Err(absent::ELSEWHERE);
    }
    if metadata.nlink() != 1 {
        return Err(absent::HARD_LINK);
    }
    Ok((file, metadata))
}

fn send(host: &mut Host, mut file: File, metadata: &Metadata) -> Result<(), End> {
    let executable = metadata.permissions().mode() & OWNER_EXECUTES != 0;
    host.reply(kind::OUTPUT, |to| {
        to.push(u8::from(executable));
        put_u64(to, metadata.len());
    })?;
    let mut chunk = vec![0; REPLY_BYTES_MAX];
    let mut left = metadata.len();
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(REPLY_BYTES_MAX).min(REPLY_BYTES_MAX);
        file.read_exact(&mut chunk[..length])
            .map_err(|error: io::Error| End::failed_io(failed::ROOM, "reading an output", &error))?;
        host.reply(kind::OUTPUT_DATA, |to| to.extend_from_slice(&chunk[..length]))?;
        left -= length as u64;
    }
    Ok(())
}
