//! Reading blob files with a check of what is in them.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use barn_protocol::Digest;

/// Why a blob's file is not given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not there.
    Gone,
    /// Its contents are not its digest's, or cannot be read.
    Rotten,
    /// It cannot be opened now (descriptors exhausted, say); that says nothing about it.
    Unreadable,
}

/// Opens a file and hashes it; then it is at offset 0 again.
pub(crate) fn open_checked(path: &Path, digest: &Digest, size: u64) -> Result<File, Verdict> {
    let (mut file, _) = open(path, size)?;
    check(&mut file, digest)?;
    Ok(file)
}

/// Hashes an open file from its beginning; then it is at offset 0 again.
pub(crate) fn check(file: &mut File, digest: &Digest) -> Result<(), Verdict> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&*file).map_err(|_| Verdict::Rotten)?;
    file.seek(SeekFrom::Start(0)).map_err(|_| Verdict::Rotten)?;
    if Digest::from(hasher.finalize()) == *digest { Ok(()) } else { Err(Verdict::Rotten) }
}

/// Reads a file whole.
pub(crate) fn read_checked(path: &Path, digest: &Digest, size: u64) -> Result<Vec<u8>, Verdict> {
    let (file, _) = open(path, size)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).map_err(|_| Verdict::Unreadable)?);
    file.take(size).read_to_end(&mut bytes).map_err(|_| Verdict::Rotten)?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(Verdict::Rotten) }
}

/// Opens a file of the right size, unread.
pub(crate) fn open(path: &Path, size: u64) -> Result<(File, Metadata), Verdict> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Verdict::Gone,
        _ => Verdict::Unreadable,
    })?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() == size => Ok((file, metadata)),
        Ok(_) => Err(Verdict::Rotten),
        Err(_) => Err(Verdict::Unreadable),
    }
}
