//! Makes a program start with a loader and libraries at other places than it was linked for.
//!
//! Nothing in the file moves. The loader's path and the directories of the libraries go into a new segment at its end. A
//! note's program header becomes that segment's, and the dynamic entry that serves debuggers names the directories:
//!
//! ```text
//! PT_INTERP ──▶ "DIR/lib64/ld-linux…\0"  ┐
//! PT_NOTE   ──▶ PT_LOAD, read only       ├ appended, at a page of its own
//! DT_DEBUG  ──▶ DT_RPATH ──▶ "DIR/lib…\0"┘
//! ```
//!
//! `DT_RPATH` and not `DT_RUNPATH`, because it counts for the libraries' libraries as well. Its value is an offset from
//! the string table, which no loader bounds. 64-bit little-endian programs only: others get a script.

/// Sizes of the file's header, of a program header and of a dynamic entry, in bytes.
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const DYNAMIC_BYTES: usize = 16;
/// Largest page of the machines that are known, in bytes.
const PAGE_BYTES: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_DEBUG: u64 = 21;
const DT_RUNPATH: u64 = 29;
/// Readable, and nothing else.
const PF_R: u32 = 4;

/// The program in `image` for another place; `None` if it has no room for that, or is no such program.
pub(super) fn relocate(image: &[u8], loader: &[u8], libraries: &[u8]) -> Option<Vec<u8>> {
    let mut program = Program::parse(image)?;
    let note = program.last(PT_NOTE)?;
    let last_load = program.last(PT_LOAD)?;
    let interpreter = program.last(PT_INTERP)?;
    // Loaded segments are in order of addresses, and nothing after the note's place breaks it.
    if note < last_load {
        return None;
    }
    let offset = (program.bytes.len() as u64).next_multiple_of(PAGE_BYTES);
    let end = program.segments(PT_LOAD).map(|at| program.end(at)).collect::<Option<Vec<u64>>>()?;
    let address = end.into_iter().max()?.checked_next_multiple_of(PAGE_BYTES)?;
    let size = (loader.len() + libraries.len() + 2) as u64;
    program.search_in(address.checked_add(loader.len() as u64 + 1)?)?;
    program.bytes.resize(usize::try_from(offset).ok()?, 0);
    for text in [loader, libraries] {
        program.bytes.extend_from_slice(text);
        program.bytes.push(0);
    }
    program.put_segment(note, PT_LOAD, [offset, address, size, PAGE_BYTES])?;
    program.put_segment(interpreter, PT_INTERP, [offset, address, loader.len() as u64 + 1, 1])?;
    Some(program.bytes)
}

struct Program {
    bytes: Vec<u8>,
    table: usize,
    count: usize,
}

impl Program {
    fn parse(image: &[u8]) -> Option<Self> {
        if !image.starts_with(b"\x7fELF\x02\x01") || image.len() < HEADER_BYTES {
            return None;
        }
        let short = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
        let program = Self {
            bytes: image.to_vec(),
            table: usize::try_from(u64::from_le_bytes(image.get(32..40)?.try_into().ok()?)).ok()?,
            count: usize::from(short(56)?),
        };
        let whole = program.table.checked_add(program.count * SEGMENT_BYTES)? <= image.len();
        (whole && usize::from(short(54)?) == SEGMENT_BYTES).then_some(program)
    }

    /// The places of the program headers of this kind.
    fn segments(&self, kind: u32) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let all = (0..self.count).map(|number| self.table + number * SEGMENT_BYTES);
        all.filter(move |at| self.bytes[*at..*at + 4] == kind.to_le_bytes())
    }

    fn last(&self, kind: u32) -> Option<usize> {
        self.segments(kind).next_back()
    }

    fn long(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }

    /// The first address after a segment.
    fn end(&self, at: usize) -> Option<u64> {
        self.long(at + 16)?.checked_add(self.long(at + 40)?)
    }

    /// Names the directories, whose text will lie at `address`, in the dynamic section.
    fn search_in(&mut self, address: u64) -> Option<()> {
        let dynamic = self.last(PT_DYNAMIC)?;
        let start = usize::try_from(self.long(dynamic + 8)?).ok()?;
        let count = usize::try_from(self.long(dynamic + 32)?).ok()? / DYNAMIC_BYTES;
        let mut found = Vec::new();
        for at in (0..count).filter_map(|number| start.checked_add(number * DYNAMIC_BYTES)) {
            let tag = self.long(at)?;
            if tag == DT_NULL {
                break;
            }
            found.push((tag, at));
        }
        let place = |wanted| found.iter().find(|(tag, _)| *tag == wanted).map(|(_, at)| *at);
        let strings = self.long(place(DT_STRTAB)? + 8)?;
        // A program has one of the first two at most, and a loader passes over the older one beside the newer.
        let at = place(DT_RUNPATH).or_else(|| place(DT_RPATH)).or_else(|| place(DT_DEBUG))?;
        self.put(at, &DT_RPATH.to_le_bytes())?;
        self.put(at + 8, &address.checked_sub(strings)?.to_le_bytes())
    }

    /// Overwrites a program header by one with this file offset, address, size and alignment.
    fn put_segment(&mut self, at: usize, kind: u32, [offset, address, size, align]: [u64; 4]) -> Option<()> {
        self.put(at, &kind.to_le_bytes())?;
        self.put(at + 4, &PF_R.to_le_bytes())?;
        for (number, value) in [offset, address, address, size, size, align].into_iter().enumerate() {
            self.put(at + 8 + number * 8, &value.to_le_bytes())?;
        }
        Some(())
    }

    fn put(&mut self, at: usize, value: &[u8]) -> Option<()> {
        self.bytes.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

    use super::*;
    use crate::toolchain::elf;

    /// Every library and the loader are taken from elsewhere, and the program says what it said.
    #[track_caller]
    fn check(program: &str, args: &[&str]) {
        let room = tempfile::tempdir().unwrap();
        let image = fs::read(program).unwrap();
        let loader = elf::read(Path::new(program)).unwrap().unwrap().interpreter.unwrap();
        fs::copy(&loader, room.path().join("loader")).unwrap();
        let listed = Command::new(&loader).arg("--list").arg(program).output().unwrap();
        for path in String::from_utf8(listed.stdout).unwrap().split_whitespace() {
            if path.starts_with('/') && path.contains(".so") && Path::new(path) != loader {
                fs::copy(path, room.path().join(Path::new(path).file_name().unwrap())).unwrap();
            }
        }
        let text = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let moved =
            relocate(&image, &text(&room.path().join("loader")), &text(room.path())).expect("it has room");
        let place = room.path().join("program");
        fs::write(&place, moved).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let traced = Command::new("strace")
            .args(["-qq", "-e", "trace=openat,execve", "-o"])
            .arg(room.path().join("trace"))
            .arg(&place)
            .args(args)
            .output()
            .unwrap();
        let usual = Command::new(program).args(args).output().unwrap();
        assert_eq!((traced.status.success(), &traced.stdout), (true, &usual.stdout), "{program}: {traced:?}");
        let trace = fs::read_to_string(room.path().join("trace")).unwrap();
        let foreign =
            |line: &&str| line.contains(".so") && line.contains("\"/lib") && !line.contains(" = -1 ");
        assert_eq!(trace.lines().find(foreign), None, "{program}");
        assert!(trace.contains(&format!("{}/libc.so.6", room.path().display())), "{program}: {trace}");
    }

    #[test]
    fn real_programs_start_elsewhere() {
        check("/usr/bin/as", &["--version"]);
        check("/usr/bin/gcc", &["-dumpversion"]);
        check("/usr/bin/ld", &["--version"]);
    }

    #[test]
    fn what_is_no_program_or_is_cut_is_left_alone() {
        assert_eq!(relocate(b"#!/bin/sh\n", b"/l", b"/r"), None);
        let image = fs::read("/usr/bin/as").unwrap();
        for length in [0, 5, 63, 64, 200, 700] {
            assert_eq!(relocate(&image[..length], b"/l", b"/r"), None, "{length} bytes");
        }
    }
}
