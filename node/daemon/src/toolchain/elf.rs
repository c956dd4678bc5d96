//! The few facts about an ELF program that say what it needs to start.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Most program headers read; real programs have about a dozen.
const PROGRAM_HEADERS_MAX: u16 = 256;
/// Longest interpreter path in bytes (`PATH_MAX`).
const INTERPRETER_BYTES_MAX: u64 = 4096;
/// The program header type that names the interpreter.
const PT_INTERP: u32 = 3;

/// What a program's headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// The machine it runs on, as the kernel names it.
    pub(super) machine: &'static str,
    /// The dynamic loader; `None` for a static program.
    pub(super) interpreter: Option<PathBuf>,
}

/// Why a file is not a program that can be taken along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It starts with `#!`.
    #[error(
        "is a script\nhint: put the directory of the compiler that it runs first in PATH, or see [[toolchain]] in \
         docs/configuration.md"
    )]
    Script,
    /// It is no ELF file at all.
    #[error("is not an ELF program")]
    NotElf,
    /// Its headers contradict themselves or are over the limits.
    #[error("has damaged ELF headers")]
    Damaged,
    /// It is for a machine, word size or byte order that no worker has.
    #[error("is for an unknown machine")]
    UnknownMachine,
}

/// Reads the headers of the program at `path`. The outer error is the file system's.
pub(super) fn read(path: &Path) -> io::Result<Result<Elf, ElfError>> {
    let mut file = File::open(path)?;
    parse(&mut file)
}

fn parse(file: &mut (impl Read + Seek)) -> io::Result<Result<Elf, ElfError>> {
    let mut start = Vec::with_capacity(64);
    file.take(64).read_to_end(&mut start)?;
    let header = match Header::parse(&start) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    let mut table = Vec::new();
    file.seek(SeekFrom::Start(header.table_offset))?;
    file.take(header.table_bytes()).read_to_end(&mut table)?;
    for entry in table.chunks_exact(header.wide.program_header_bytes()) {
        if field::<4>(entry, 0).map(u32::from_le_bytes) != Some(PT_INTERP) {
            continue;
        }
        let Some((offset, size)) = header.wide.segment(entry) else { return Ok(Err(ElfError::Damaged)) };
        return Ok(interpreter(file, offset, size)?.map(|path| header.elf(Some(path))));
    }
    Ok(Ok(header.elf(None)))
}

fn interpreter(
    file: &mut (impl Read + Seek),
    offset: u64,
    size: u64,
) -> io::Result<Result<PathBuf, ElfError>> {
    if size > INTERPRETER_BYTES_MAX {
        return Ok(Err(ElfError::Damaged));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(size).read_to_end(&mut bytes)?;
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    if text.first() != Some(&b'/') {
        return Ok(Err(ElfError::Damaged));
    }
    Ok(Ok(super::walk::path_of(text)))
}

#[derive(Clone, Copy)]
enum Word {
    Four,
    Eight,
}

impl Word {
    fn program_header_bytes(self) -> usize {
        match self {
            Self::Four => 32,
            Self::Eight => 56,
        }
    }

    /// File offset and size of the segment a program header describes.
    fn segment(self, entry: &[u8]) -> Option<(u64, u64)> {
        match self {
            Self::Four => {
                let number = |at| field(entry, at).map(u32::from_le_bytes).map(u64::from);
                Some((number(4)?, number(16)?))
            }
            Self::Eight => {
                let number = |at| field(entry, at).map(u64::from_le_bytes);
                Some((number(8)?, number(32)?))
            }
        }
    }
}

struct Header {
    wide: Word,
    machine: &'static str,
    table_offset: u64,
    table_count: u16,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        if bytes.starts_with(b"#!") {
            return Err(ElfError::Script);
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        // Byte 5 is the byte order: 1 is little-endian, the only one supported.
        let wide = match bytes.get(4..6) {
            Some([1, 1]) => Word::Four,
            Some([2, 1]) => Word::Eight,
            _ => return Err(ElfError::UnknownMachine),
        };
        let short = |at| field(bytes, at).map(u16::from_le_bytes).ok_or(ElfError::Damaged);
        let machine = machine_name(short(18)?).ok_or(ElfError::UnknownMachine)?;
        let (offset, entry_bytes, count) = match wide {
            Word::Four => {
                let offset = field(bytes, 28).map(u32::from_le_bytes).map(u64::from);
                (offset, short(42)?, short(44)?)
            }
            Word::Eight => (field(bytes, 32).map(u64::from_le_bytes), short(54)?, short(56)?),
        };
        let table_offset = offset.ok_or(ElfError::Damaged)?;
        if count > PROGRAM_HEADERS_MAX || usize::from(entry_bytes) != wide.program_header_bytes() {
            return Err(ElfError::Damaged);
        }
        Ok(Self { wide, machine, table_offset, table_count: count })
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.table_count) * self.wide.program_header_bytes() as u64
    }

    fn elf(&self, interpreter: Option<PathBuf>) -> Elf {
        Elf { machine: self.machine, interpreter }
    }
}

fn machine_name(number: u16) -> Option<&'static str> {
    Some(match number {
        3 => "i686",
        21 => "ppc64le",
        40 => "armv7l",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => return None,
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A 64-bit header with one program header of type `kind`, followed by `tail`.
    fn image(kind: u32, size: u64, tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes[72..80].copy_from_slice(&120_u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(tail);
        bytes
    }

    #[track_caller]
    fn check(bytes: &[u8], expect: Result<Option<&str>, ElfError>) {
        let got = parse(&mut Cursor::new(bytes)).unwrap();
        assert_eq!(got.map(|elf| elf.interpreter), expect.map(|path| path.map(PathBuf::from)));
    }

    #[test]
    fn headers_say_how_a_program_starts() {
        check(&image(PT_INTERP, 7, b"/lib/ld\0"), Ok(Some("/lib/ld")));
        check(&image(1, 7, b"/lib/ld\0"), Ok(None));
        check(b"#!/bin/sh\n", Err(ElfError::Script));
        check(b"", Err(ElfError::NotElf));
        check(b"!<arch>\n", Err(ElfError::NotElf));
        check(b"\x7fELF", Err(ElfError::UnknownMachine));
        check(b"\x7fELF\x02\x02", Err(ElfError::UnknownMachine));
        check(b"\x7fELF\x02\x01\x01", Err(ElfError::Damaged));
        check(&image(PT_INTERP, 7, b"lib/ld\0"), Err(ElfError::Damaged));
        check(&image(PT_INTERP, u64::MAX, b"/lib/ld\0"), Err(ElfError::Damaged));
    }

    #[test]
    fn a_truncated_program_never_panics() {
        let whole = image(PT_INTERP, 7, b"/lib/ld\0");
        for end in 0..whole.len() {
            let _ = parse(&mut Cursor::new(&whole[..end])).unwrap();
        }
    }

    #[test]
    fn this_test_has_an_interpreter() {
        let elf = read(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert_eq!(elf.machine, std::env::consts::ARCH);
        assert!(elf.interpreter.unwrap().is_absolute());
    }
}
