//! The append-only, checksummed log of everything that is not a file of its own.
//!
//! The journal is a row of numbered segments. Entries are appended to the last one, the head; the oldest is
//! cleaned away by copying what is still live to the head. A frame is `length: u32 LE`, `checksum: 16 bytes`,
//! `body`; the checksum covers segment, offset and body, so an entry is valid only where it was written.
//! Invariant: a segment is read up to its first damaged frame and never beyond.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use barn_protocol::{Digest, canonical::Canonical, identity::SignedBytes, keys::domain};
use serde::{Deserialize, Serialize};

use crate::{
    index::Item,
    limits::{ENTRY_BYTES_MAX, SEGMENT_BYTES_MAX},
    platform,
};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 4 + CHECKSUM_BYTES;

/// One line of the journal. The encoding of `journal-v1`: variants and fields keep their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// An action key has this record.
    Record { key: Digest, toolchain: Digest, tick: u64, blobs: Vec<Digest>, signed: SignedBytes },
    /// A key has this include manifest, kept as a blob.
    Manifest { key: Digest, toolchain: Digest, tick: u64, blob: Digest },
    /// These blobs are kept while their owner is.
    Pin { owner: Digest, blobs: Vec<Digest> },
    /// The owner is gone.
    Unpin { owner: Digest },
    /// These were used last at these ticks.
    Uses(Vec<(Item, u64)>),
    /// A foreign entry's contents are this blob.
    Foreign { key: Digest, tick: u64, blob: Digest },
    /// A foreign entry is gone.
    DropForeign { key: Digest },
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Bytes of the whole frame.
    pub(crate) len: u32,
}

#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// Bytes of each segment.
    segments: BTreeMap<u64, u64>,
    head: Option<File>,
    /// Whether the last segment must not be appended to any more.
    sealed: bool,
}

impl Journal {
    /// The segments of a directory, unread.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
            match number {
                Some(number) if segment_name(number).as_str() == entry.file_name() => {
                    segments.insert(number, entry.metadata()?.len());
                }
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(Self { dir, segments, head: None, sealed: false })
    }

    pub(crate) const fn segments(&self) -> &BTreeMap<u64, u64> {
        &self.segments
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends an entry with one write.
    ///
    /// # Errors
    /// When it cannot be written; what was written of it is cut off or left as a torn tail.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<Location> {
        let body = postcard::to_stdvec(entry).map_err(io::Error::other)?;
        if body.len() > ENTRY_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let segment = self.open_head()?;
        let offset = self.segments[&segment];
        let frame = frame(segment, offset, &body);
        let head = self.head.as_mut().expect("the head was opened above");
        if let Err(error) = head.write_all(&frame) {
            let _ = head.set_len(offset);
            self.seal();
            return Err(error);
        }
        let len = u32::try_from(frame.len()).expect("entries are under 4 GiB");
        self.segments.insert(segment, offset + u64::from(len));
        Ok(Location { segment, offset, len })
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The next entry opens a new segment.
    pub(crate) fn seal(&mut self) {
        self.head = None;
        self.sealed = true;
    }

    /// Makes the head durable. After a failure nothing more is written to it, and it is not tried again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let Some(head) = &self.head else { return Ok(()) };
        let synced = head.sync_all().and_then(|()| platform::sync_dir(&self.dir));
        if synced.is_err() {
            self.seal();
        }
        synced
    }

    /// One entry.
    ///
    /// # Errors
    /// [`is_lost`] tells whether it is damaged, gone or on a failing disk; otherwise it cannot be read now.
    pub(crate) fn read(&self, at: &Location) -> io::Result<Entry> {
        if at.len as usize > HEADER_BYTES + ENTRY_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut file = File::open(self.path(at.segment))?;
        file.seek(SeekFrom::Start(at.offset))?;
        let mut bytes = vec![0; at.len as usize];
        file.read_exact(&mut bytes)?;
        match parse(at.segment, at.offset, &bytes) {
            Some((entry, len)) if len == bytes.len() => Ok(entry),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// All entries of a segment up to the first one that is damaged or cannot be read, where it is cut off.
    pub(crate) fn scan(&mut self, segment: u64) -> io::Result<Vec<(Location, Entry)>> {
        let path = self.path(segment);
        let mut bytes = Vec::new();
        let most = SEGMENT_BYTES_MAX + (HEADER_BYTES + ENTRY_BYTES_MAX) as u64;
        if let Err(error) = File::open(&path)?.take(most).read_to_end(&mut bytes) {
            if !platform::is_disk_error(&error) {
                return Err(error);
            }
            // What was read before is good, and nothing more is written to where it fails.
            tracing::warn!(path = %path.display(), %error, "journal segment cannot be read");
            self.seal();
        }
        let mut entries = Vec::new();
        let mut offset = 0;
        while let Some((entry, len)) = parse(segment, offset as u64, &bytes[offset..]) {
            let len_u32 = u32::try_from(len).expect("entries are under 4 GiB");
            entries.push((Location { segment, offset: offset as u64, len: len_u32 }, entry));
            offset += len;
        }
        if self.segments.get(&segment).is_some_and(|len| *len > offset as u64) {
            let lost = self.segments[&segment] - offset as u64;
            tracing::warn!(path = %path.display(), offset, lost, "journal segment is damaged; cut off");
            File::options().write(true).open(&path)?.set_len(offset as u64)?;
            self.segments.insert(segment, offset as u64);
        }
        Ok(entries)
    }

    /// Deletes a segment.
    pub(crate) fn remove(&mut self, segment: u64) -> io::Result<()> {
        fs::remove_file(self.path(segment))?;
        self.segments.remove(&segment);
        Ok(())
    }

    fn open_head(&mut self) -> io::Result<u64> {
        let last = self.segments.last_key_value().map(|(number, len)| (*number, *len));
        let full = last.is_none_or(|(_, len)| len >= SEGMENT_BYTES_MAX);
        if !full && !self.sealed {
            let number = last.expect("a journal without segments is full").0;
            if self.head.is_none() {
                self.head = Some(File::options().append(true).open(self.path(number))?);
            }
            return Ok(number);
        }
        let number = last.map_or(0, |(number, _)| number + 1);
        self.head = Some(platform::private().append(true).create_new(true).open(self.path(number))?);
        self.segments.insert(number, 0);
        self.sealed = false;
        Ok(number)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(segment_name(segment))
    }
}

/// Whether a failed read means that the entry is lost, as opposed to a shortage that passes.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof) || platform::is_disk_error(error)
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}")
}

fn checksum(segment: u64, offset: u64, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Canonical::new(domain::JOURNAL_ENTRY).number(segment).number(offset).bytes(body).finish();
    *digest.as_bytes().first_chunk().expect("a digest is longer than a checksum")
}

fn frame(segment: u64, offset: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("entries are under 4 GiB");
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&checksum(segment, offset, body));
    frame.extend_from_slice(body);
    frame
}

/// The entry at the beginning of `bytes`, and its frame's length.
fn parse(segment: u64, offset: u64, bytes: &[u8]) -> Option<(Entry, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > ENTRY_BYTES_MAX {
        return None;
    }
    let body = rest.get(..len)?;
    if checksum(segment, offset, body) != *sum {
        return None;
    }
    match postcard::take_from_bytes(body) {
        Ok((entry, [])) => Some((entry, HEADER_BYTES + len)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpin(byte: u8) -> Entry {
        Entry::Unpin { owner: Digest::from_bytes([byte; 32]) }
    }

    #[test]
    fn entries_come_back_in_order_and_by_location() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path().into()).unwrap();
        let entries = [unpin(1), Entry::Pin { owner: Digest::of(b"o"), blobs: vec![Digest::of(b"b")] }];
        let at: Vec<_> = entries.iter().map(|e| journal.append(e).unwrap()).collect();
        assert_eq!(journal.read(&at[1]).unwrap(), entries[1]);
        let mut again = Journal::open(dir.path().into()).unwrap();
        let scanned: Vec<_> = again.scan(0).unwrap();
        assert_eq!(scanned, at.into_iter().zip(entries).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_is_valid_only_in_its_place() {
        let bytes = frame(3, 40, &postcard::to_stdvec(&unpin(1)).unwrap());
        assert!(parse(3, 40, &bytes).is_some());
        assert!(parse(3, 41, &bytes).is_none());
        assert!(parse(4, 40, &bytes).is_none());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_loses_only_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path().into()).unwrap();
        let at: Vec<_> = (0..4).map(|n| journal.append(&unpin(n)).unwrap()).collect();
        let path = journal.path(0);
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let intact = at.iter().filter(|l| l.offset + u64::from(l.len) <= position as u64).count();
            let mut bent = whole.clone();
            bent[position] ^= 1 << (position % 8);
            for bytes in [&whole[..position], &bent] {
                fs::write(&path, bytes).unwrap();
                let mut again = Journal::open(dir.path().into()).unwrap();
                assert_eq!(again.scan(0).unwrap().len(), intact, "at byte {position}");
                let next = again.append(&unpin(9)).unwrap();
                assert_eq!(again.scan(0).unwrap().last().unwrap(), &(next, unpin(9)));
            }
        }
    }

    #[test]
    fn the_encoding_of_version_1_stays() {
        let entries = [
            Entry::Manifest {
                key: Digest::from_bytes([1; 32]),
                toolchain: Digest::from_bytes([2; 32]),
                tick: 300,
                blob: Digest::from_bytes([3; 32]),
            },
            unpin(4),
            Entry::Uses(vec![(Item::record(&Digest::from_bytes([5; 32])), 6)]),
        ];
        let foreign = [
            Entry::Foreign { key: Digest::from_bytes([7; 32]), tick: 8, blob: Digest::from_bytes([9; 32]) },
            Entry::DropForeign { key: Digest::from_bytes([7; 32]) },
        ];
        let check = |entries: &[Entry], expected: &str| {
            let frames: Vec<u8> =
                entries.iter().flat_map(|e| frame(1, 2, &postcard::to_stdvec(e).unwrap())).collect();
            assert_eq!(Digest::of(&frames).to_string(), expected);
        };
        check(&entries, "9a6a94cc9f81aa13a0bffa00d77e004db9552f2d0116b29c1d251455aef4a21b");
        check(&foreign, "e97a0551821ecd94dd02325d864a65ca800874fba820eb4f2552ddd1a096716d");
    }
}
