//! A toolchain in one file: a zstd-compressed tar of a manifest and blobs.
//!
//! ```text
//! barn-toolchain-v1      the Toolchain, in postcard
//! blobs/<digest>         each blob once, in order of digests
//! ```
//!
//! The archive holds no path of the toolchain but in its manifest, so an importer never creates a file by a name it
//! was given. The manifest says which entries follow, in which order and of which size; the first difference ends
//! the import. Of the tar format only plain regular files are understood: no links, no extensions, no sparse files.
//! Two exports of one toolchain are the same bytes.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Read, Write},
    rc::Rc,
};

use barn_protocol::{digest::Digest, limits::BLOB_BYTES_MAX, toolchain::Toolchain};

use super::policy::{self, PolicyError};

const MANIFEST_NAME: &str = "barn-toolchain-v1";
const BLOB_DIRECTORY: &str = "blobs/";
/// Largest manifest, in bytes. A toolchain of 60 entries has 6 KB.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Most zero bytes after the end, in bytes: tar programs fill up to 10 KiB.
const PADDING_BYTES_MAX: u64 = 64 << 10;
/// Largest zstd window, as a power of two: 128 MiB, what `zstd --long` uses.
const WINDOW_LOG_MAX: u32 = 27;
/// zstd's level for export: 145 MB of compiler become 41 MB in 2 s; level 9 takes 5 s for 4 percent less.
const LEVEL: i32 = 6;
/// Compilers compress by 3 to 5; an archive that unpacks to more than this many times its size is a bomb.
const RATIO_MAX: u64 = 200;
/// What may be unpacked before the ratio counts, in bytes: zstd reads and writes in pieces.
const RATIO_FREE_BYTES: u64 = 4 << 20;

/// Why a toolchain cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A blob cannot be read.
    #[error("blob {0} cannot be read")]
    Blob(Digest, #[source] io::Error),
    /// A file has changed since its digest was taken.
    #[error("blob {0} has other contents")]
    Changed(Digest),
    /// The archive cannot be written.
    #[error("archive cannot be written")]
    Write(#[source] io::Error),
    /// The toolchain itself breaks the rules an importer would apply.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Why an archive is refused. Blobs stored before the fault was found are complete and match their digests.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no archive, or it ends early.
    #[error("archive cannot be read")]
    Read(#[source] io::Error),
    /// It does not start with a manifest of a known version.
    #[error("not a toolchain archive of a known version")]
    NoManifest,
    /// The manifest is over its limit or not decodable.
    #[error("manifest is damaged")]
    Manifest,
    /// What the manifest describes is refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Two files of one digest and different sizes.
    #[error("manifest has blob {0} in two sizes")]
    TwoSizes(Digest),
    /// An entry that is no plain regular file.
    #[error("entry {0} is not a regular file")]
    Kind(String),
    /// An entry that the manifest does not announce here.
    #[error("entry {0} is not what the manifest announces")]
    Unannounced(String),
    /// A blob of another size.
    #[error("blob {digest} has {found} bytes instead of {announced}")]
    Size {
        /// Which blob.
        digest: Digest,
        /// In the manifest.
        announced: u64,
        /// In the archive.
        found: u64,
    },
    /// A blob whose contents are not those of its digest.
    #[error("blob {0} has other contents")]
    Content(Digest),
    /// The archive ends before this blob.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// Something follows the end of the archive.
    #[error("archive has something after its end")]
    Trailing,
    /// It unpacks to far more than any compiler.
    #[error("archive unpacks to more than {RATIO_MAX} times its size")]
    Bomb,
    /// The store did not take a blob.
    #[error("blob {0} cannot be stored")]
    Store(Digest, #[source] io::Error),
}

/// Writes `toolchain` as an archive. `open` gives the contents of a blob.
///
/// # Errors
/// When a blob cannot be read or has changed; what was written until then is no archive.
pub fn export<R: Read>(
    toolchain: &Toolchain,
    mut open: impl FnMut(Digest) -> io::Result<R>,
    out: impl Write,
) -> Result<(), ExportError> {
    policy::check(toolchain)?;
    let mut encoder = zstd::Encoder::new(out, LEVEL).map_err(ExportError::Write)?;
    encoder.include_checksum(true).map_err(ExportError::Write)?;
    let mut builder = tar::Builder::new(encoder);
    let manifest = postcard::to_stdvec(toolchain).map_err(|e| ExportError::Write(io::Error::other(e)))?;
    let header = header(MANIFEST_NAME, manifest.len() as u64).map_err(ExportError::Write)?;
    builder.append(&header, manifest.as_slice()).map_err(ExportError::Write)?;
    let blobs: BTreeMap<Digest, u64> = toolchain.tree.blobs().collect();
    for (digest, size) in blobs {
        let header = self::header(&blob_name(&digest), size).map_err(ExportError::Write)?;
        let blob = open(digest).map_err(|error| ExportError::Blob(digest, error))?;
        // One byte more than announced is enough to see that it has grown.
        let mut blob = Hashing::new(blob.take(size.saturating_add(1)));
        builder.append(&header, &mut blob).map_err(|error| ExportError::Blob(digest, error))?;
        if blob.finish() != (digest, size) {
            return Err(ExportError::Changed(digest));
        }
    }
    let encoder = builder.into_inner().map_err(ExportError::Write)?;
    encoder.finish().and_then(|mut out| out.flush()).map_err(ExportError::Write)
}

/// Reads an archive. `put` stores a blob from a stream and returns its digest; it must read to the end.
///
/// # Errors
/// At the first thing that is not as it should be.
pub fn import(
    input: impl Read,
    mut put: impl FnMut(&mut dyn Read) -> io::Result<Digest>,
) -> Result<Toolchain, ImportError> {
    let taken = Rc::new(Cell::new(0));
    let counted = Counting { inner: input, taken: Rc::clone(&taken) };
    let mut decoder = zstd::Decoder::new(counted).map_err(ImportError::Read)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(ImportError::Read)?;
    let bomb = Rc::new(Cell::new(false));
    let guarded = Guarded { inner: decoder, taken, given: 0, bomb: Rc::clone(&bomb) };
    unpack(guarded, &mut put).map_err(|error| if bomb.get() { ImportError::Bomb } else { error })
}

fn unpack(
    input: impl Read,
    put: &mut dyn FnMut(&mut dyn Read) -> io::Result<Digest>,
) -> Result<Toolchain, ImportError> {
    let mut archive = tar::Archive::new(input);
    // Raw: extensions come as entries of their own kinds, which are refused, instead of being acted on.
    let mut entries = archive.entries().map_err(ImportError::Read)?.raw(true);
    let first = entries.next().ok_or(ImportError::NoManifest)?;
    let toolchain = read_manifest(&mut first.map_err(ImportError::Read)?)?;
    for (digest, size) in announced_blobs(&toolchain)? {
        let mut entry = entries.next().ok_or(ImportError::Missing(digest))?.map_err(ImportError::Read)?;
        check_header(entry.header(), blob_name(&digest).as_bytes())?;
        let found = entry.header().entry_size().map_err(ImportError::Read)?;
        if found != size {
            return Err(ImportError::Size { digest, announced: size, found });
        }
        let mut blob = Hashing::new(&mut entry);
        let stored = put(&mut blob).map_err(|error| ImportError::Store(digest, error))?;
        if stored != digest || blob.finish() != (digest, size) {
            return Err(ImportError::Content(digest));
        }
    }
    match entries.next() {
        None => {}
        Some(Ok(extra)) => return Err(ImportError::Unannounced(shown(&extra.header().path_bytes()))),
        Some(Err(error)) => return Err(ImportError::Read(error)),
    }
    check_padding(archive.into_inner())?;
    Ok(toolchain)
}

/// Reads to the end, where zstd checks its checksum over everything, the manifest included.
fn check_padding(mut rest: impl Read) -> Result<(), ImportError> {
    let mut padding = Vec::new();
    let count =
        rest.by_ref().take(PADDING_BYTES_MAX + 1).read_to_end(&mut padding).map_err(ImportError::Read)?;
    if count as u64 > PADDING_BYTES_MAX || padding.iter().any(|&byte| byte != 0) {
        return Err(ImportError::Trailing);
    }
    Ok(())
}

fn read_manifest(entry: &mut tar::Entry<'_, impl Read>) -> Result<Toolchain, ImportError> {
    check_header(entry.header(), MANIFEST_NAME.as_bytes()).map_err(|_| ImportError::NoManifest)?;
    if entry.header().entry_size().map_err(ImportError::Read)? > MANIFEST_BYTES_MAX {
        return Err(ImportError::Manifest);
    }
    let mut bytes = Vec::new();
    entry.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).map_err(ImportError::Read)?;
    let (toolchain, rest): (Toolchain, _) =
        postcard::take_from_bytes(&bytes).map_err(|_| ImportError::Manifest)?;
    if !rest.is_empty() {
        return Err(ImportError::Manifest);
    }
    policy::check(&toolchain)?;
    Ok(toolchain)
}

fn announced_blobs(toolchain: &Toolchain) -> Result<BTreeMap<Digest, u64>, ImportError> {
    let mut blobs = BTreeMap::new();
    for (digest, size) in toolchain.tree.blobs() {
        debug_assert!(size <= BLOB_BYTES_MAX, "a tree holds no larger file");
        if blobs.insert(digest, size).is_some_and(|other| other != size) {
            return Err(ImportError::TwoSizes(digest));
        }
    }
    Ok(blobs)
}

fn check_header(header: &tar::Header, name: &[u8]) -> Result<(), ImportError> {
    if header.path_bytes() != name {
        return Err(ImportError::Unannounced(shown(&header.path_bytes())));
    }
    if header.entry_type() != tar::EntryType::Regular {
        return Err(ImportError::Kind(shown(name)));
    }
    Ok(())
}

fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

fn blob_name(digest: &Digest) -> String {
    format!("{BLOB_DIRECTORY}{digest}")
}

/// The same for everybody: no time, no owner, no permission bits of the exporting machine.
fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Hashes and counts what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn finish(self) -> (Digest, u64) {
        (self.hasher.finalize().into(), self.bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Counts the compressed bytes that were taken.
struct Counting<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

/// Ends the stream when too much comes out for what went in.
struct Guarded<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
    given: u64,
    bomb: Rc<Cell<bool>>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given += count as u64;
        if self.given > RATIO_FREE_BYTES.saturating_add(self.taken.get().saturating_mul(RATIO_MAX)) {
            self.bomb.set(true);
            return Err(io::Error::other("unpacks to too much"));
        }
        Ok(count)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
