//! Archives of other tools: what `icecc-create-env` and `sccache --package-toolchain` write.
//!
//! Both are a tar of a small root file system (`usr/bin/gcc`, `usr/bin/cc1`, libraries, loader), packed by gzip or
//! zstd or not at all. sccache's names are absolute, and it has symbolic links; icecream's have neither. No manifest says
//! what is in them, so the tree is what the names say, and the driver is the compiler in a `bin` directory.
//!
//! Nothing is unpacked to a name: files go into the store, names into a tree.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use barn_protocol::{
    Digest, Entry, Toolchain, Tree, TreePath,
    limits::{BLOB_BYTES_MAX, TOOLCHAIN_ENTRIES_MAX},
};

use super::policy::{self, PolicyError, TOOLCHAIN_BYTES_MAX};

/// Compilers looked for, the likelier one first.
const DRIVERS: [&str; 6] = ["gcc", "clang", "cc", "g++", "clang++", "c++"];
/// Machines by their number in an ELF header.
const MACHINES: [(u16, &str); 5] =
    [(62, "x86_64"), (183, "aarch64"), (243, "riscv64"), (21, "ppc64le"), (22, "s390x")];
/// As much of a program as tells its machine, in bytes.
const HEAD_BYTES: usize = 20;
/// Longest target of a link: Linux' own limit.
const TARGET_BYTES_MAX: usize = 4096;

/// Why another tool's archive is refused. Files stored before the fault was found stay until they are evicted.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// It is no archive, or it ends early.
    #[error("archive cannot be read")]
    Read(#[source] io::Error),
    /// Packed by a program that is not understood.
    #[error("archives packed by {0} are not understood\nhint: unpack it and pack it by gzip")]
    Packer(&'static str),
    /// A name that fits in no tree, or a thing that no compiler needs.
    #[error("entry {0} cannot be part of a toolchain")]
    Entry(String),
    /// Too much of it.
    #[error("archive unpacks to more than {TOOLCHAIN_ENTRIES_MAX} entries or {TOOLCHAIN_BYTES_MAX} bytes")]
    TooLarge,
    /// No compiler in it.
    #[error("archive has no gcc or clang in a directory called bin")]
    NoDriver,
    /// The compiler is a script, or for a machine that is not known.
    #[error("the compiler {0} in the archive is no program of a known machine")]
    Machine(String),
    /// What it holds is refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store did not take a file.
    #[error("entry {0} cannot be stored")]
    Store(String, #[source] io::Error),
}

/// Reads an archive called `name`. `put` stores a blob from a stream and returns its digest.
///
/// # Errors
/// At the first thing that cannot be part of a toolchain.
pub fn import(
    input: impl Read,
    name: &Path,
    put: impl FnMut(&mut dyn Read) -> io::Result<Digest>,
) -> Result<Toolchain, ForeignError> {
    let mut input = BufReader::new(input);
    let magic = input.fill_buf().map_err(ForeignError::Read)?;
    let mut importer = Importer { put, tree: Tree::new(), bytes: 0, machines: Vec::new() };
    match magic {
        [0x1f, 0x8b, ..] => importer.read(flate2::read::MultiGzDecoder::new(input))?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            importer.read(zstd::Decoder::with_buffer(input).map_err(ForeignError::Read)?)?;
        }
        [0xfd, b'7', b'z', b'X', ..] => return Err(ForeignError::Packer("xz")),
        [b'B', b'Z', b'h', ..] => return Err(ForeignError::Packer("bzip2")),
        _ => importer.read(input)?,
    }
    importer.toolchain(name)
}

struct Importer<P> {
    put: P,
    tree: Tree,
    bytes: u64,
    /// Machines of the programs, where they are known.
    machines: Vec<(TreePath, &'static str)>,
}

impl<P: FnMut(&mut dyn Read) -> io::Result<Digest>> Importer<P> {
    fn read(&mut self, input: impl Read) -> Result<(), ForeignError> {
        let mut archive = tar::Archive::new(input);
        for entry in archive.entries().map_err(ForeignError::Read)? {
            if self.tree.len() >= TOOLCHAIN_ENTRIES_MAX {
                return Err(ForeignError::TooLarge);
            }
            self.add(entry.map_err(ForeignError::Read)?)?;
        }
        Ok(())
    }

    fn add(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), ForeignError> {
        let shown = entry.path_bytes().escape_ascii().to_string();
        let unfit = || ForeignError::Entry(shown.clone());
        let path = tree_path(&entry.path_bytes()).ok_or_else(unfit)?;
        let linked = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        let kind = entry.header().entry_type();
        let added = match kind {
            // Directories come into being with what is in them.
            tar::EntryType::Directory => return Ok(()),
            tar::EntryType::Symlink if !linked.is_empty() && linked.len() <= TARGET_BYTES_MAX => {
                Entry::Symlink { target: linked }
            }
            tar::EntryType::Link => {
                let first = tree_path(&linked).and_then(|first| self.tree.get(&first).cloned());
                first.ok_or_else(unfit)?
            }
            tar::EntryType::Regular => self.file(&mut entry, &path, &shown)?,
            _ => return Err(unfit()),
        };
        self.tree.insert(path, added).map_err(|_| unfit())
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &TreePath,
        shown: &str,
    ) -> Result<Entry, ForeignError> {
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if size > BLOB_BYTES_MAX || self.bytes > TOOLCHAIN_BYTES_MAX {
            return Err(ForeignError::TooLarge);
        }
        let executable = entry.header().mode().map_err(ForeignError::Read)? & 0o111 != 0;
        let mut head = Vec::new();
        entry.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(ForeignError::Read)?;
        if let (true, Some(machine)) = (executable, machine_of(&head)) {
            self.machines.push((path.clone(), machine));
        }
        let mut counted = Counted { inner: head.as_slice().chain(entry), bytes: 0 };
        let digest =
            (self.put)(&mut counted).map_err(|error| ForeignError::Store(shown.to_owned(), error))?;
        if counted.bytes != size {
            return Err(ForeignError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Entry::File { digest, size, executable })
    }

    fn toolchain(self, name: &Path) -> Result<Toolchain, ForeignError> {
        let (driver, path) = self.driver().ok_or(ForeignError::NoDriver)?;
        let known = self.machines.iter().find(|(program, _)| *program == path);
        let machine = known.ok_or_else(|| ForeignError::Machine(driver.to_owned()))?.1;
        let file = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let plain: String = file.chars().filter(|c| !c.is_control()).take(64).collect();
        let search_path = path.parent().into_iter().collect();
        let toolchain = Toolchain {
            name: format!("{driver} of {plain}"),
            machine: machine.to_owned(),
            tree: self.tree,
            search_path,
        };
        policy::check(&toolchain)?;
        Ok(toolchain)
    }

    /// The compiler and its real path: links in these archives lead to names beside them or to absolute ones.
    fn driver(&self) -> Option<(&'static str, TreePath)> {
        DRIVERS.iter().find_map(|driver| {
            self.tree.iter().find_map(|(path, _)| {
                let is_bin = path.parent().is_some_and(|parent| parent.name() == b"bin");
                let named = is_bin && path.name() == driver.as_bytes();
                named
                    .then(|| super::unpack::real_path(&self.tree, path))
                    .flatten()
                    .map(|real| (*driver, real))
            })
        })
    }
}

/// The path that a name in an archive stands for; `None` for one that leads upwards.
fn tree_path(name: &[u8]) -> Option<TreePath> {
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut path = TreePath::root();
    for part in parts {
        path = path.child(part).ok()?;
    }
    Some(path)
}

fn machine_of(head: &[u8]) -> Option<&'static str> {
    let number = head.get(18..20).filter(|_| head.starts_with(b"\x7fELF"))?;
    let number = if head[5] == 2 {
        u16::from_be_bytes([number[0], number[1]])
    } else {
        u16::from_le_bytes([number[0], number[1]])
    };
    MACHINES.iter().find(|(other, _)| *other == number).map(|(_, name)| *name)
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs::File, io::Write as _, process::Command};

    use super::*;
    use crate::toolchain::unpack::unpack;

    type Blobs = HashMap<Digest, Vec<u8>>;

    fn import_into(blobs: &mut Blobs, archive: &[u8]) -> Result<Toolchain, ForeignError> {
        import(archive, Path::new("x.tar.gz"), |reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            let digest = Digest::of(&bytes);
            blobs.insert(digest, bytes);
            Ok(digest)
        })
    }

    /// Lays it out and compiles with it.
    fn assert_works(toolchain: &Toolchain, blobs: &Blobs) {
        let room = tempfile::tempdir().unwrap();
        let dir = room.path().join("laid-out");
        let open = |digest: &Digest| {
            let path = room.path().join("blob");
            File::create(&path).unwrap().write_all(blobs.get(digest)?).unwrap();
            let file = File::open(&path).ok();
            std::fs::remove_file(&path).unwrap();
            file
        };
        unpack(toolchain, &dir, open).unwrap();
        std::fs::write(room.path().join("x.c"), "int twice(int a) { return 2 * a; }\n").unwrap();
        let compile = |program: &Path, output: &str| {
            let ran =
                Command::new(program).args(["-c", "x.c", "-o", output]).current_dir(room.path()).output();
            let ran = ran.unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            std::fs::read(room.path().join(output)).unwrap()
        };
        assert!(compile(&dir.join("bin/gcc"), "a.o") == compile(Path::new("/usr/bin/gcc"), "b.o"));
    }

    #[test]
    fn what_icecream_packs_compiles() {
        let room = tempfile::tempdir().unwrap();
        let packed = Command::new("icecc-create-env")
            .args(["--gcc", "/usr/bin/gcc", "/usr/bin/g++"])
            .current_dir(room.path())
            .output()
            .unwrap();
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        let archive = std::fs::read_dir(room.path()).unwrap().next().unwrap().unwrap().path();
        let mut blobs = Blobs::new();
        let toolchain = import_into(&mut blobs, &std::fs::read(archive).unwrap()).unwrap();
        assert_eq!((toolchain.machine.as_str(), toolchain.name.as_str()), ("x86_64", "gcc of x.tar.gz"));
        assert_eq!(toolchain.search_path, [TreePath::new(*b"/usr/bin").unwrap()]);
        assert_works(&toolchain, &blobs);
    }

    /// As sccache does: absolute names, files at their real paths, links as links.
    #[test]
    fn what_sccache_packs_compiles() {
        let found = crate::toolchain::discover(Path::new("/usr/bin/gcc"), "/usr/bin:/bin".as_ref()).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let hosts: HashMap<_, _> = found.files.iter().cloned().collect();
        for (path, entry) in found.toolchain.tree.iter() {
            let mut header = tar::Header::new_gnu();
            let place = &mut header.as_gnu_mut().unwrap().name;
            place[..path.as_bytes().len()].copy_from_slice(path.as_bytes());
            match entry {
                Entry::File { executable, .. } => {
                    let bytes = std::fs::read(&hosts[path]).unwrap();
                    header.set_mode(if *executable { 0o755 } else { 0o644 });
                    header.set_size(bytes.len() as u64);
                    header.set_cksum();
                    builder.append(&header, bytes.as_slice()).unwrap();
                }
                Entry::Symlink { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    header.set_link_name_literal(target).unwrap();
                    header.set_cksum();
                    builder.append(&header, io::empty()).unwrap();
                }
                Entry::Directory => {}
            }
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&builder.into_inner().unwrap()).unwrap();
        let mut blobs = Blobs::new();
        let toolchain = import_into(&mut blobs, &gzip.finish().unwrap()).unwrap();
        assert_works(&toolchain, &blobs);
    }

    fn tar_of(name: &[u8], kind: tar::EntryType, bytes: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, bytes).unwrap();
        builder.into_inner().unwrap()
    }

    #[track_caller]
    fn check(archive: &[u8], expected: &str) {
        let error = import_into(&mut Blobs::new(), archive).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn what_is_no_toolchain_is_refused_with_the_reason() {
        use tar::EntryType;
        check(&tar_of(b"../usr/bin/gcc", EntryType::Regular, b""), "entry ../usr/bin/gcc cannot be part");
        check(&tar_of(b"usr/bin/gcc", EntryType::Char, b""), "entry usr/bin/gcc cannot be part");
        check(&tar_of(b"usr/bin/gcc", EntryType::Link, b""), "entry usr/bin/gcc cannot be part");
        check(&tar_of(b"usr/bin/tcc", EntryType::Regular, b"\x7fELF"), "archive has no gcc or clang");
        check(&tar_of(b"usr/bin/gcc", EntryType::Regular, b"#!/bin/sh\n"), "the compiler gcc in the archive");
        check(&[0xfd, b'7', b'z', b'X', b'Z', 0], "archives packed by xz");
        check(b"no archive", "archive");
    }

    #[test]
    fn a_cut_archive_is_refused() {
        let whole = tar_of(b"usr/bin/gcc", tar::EntryType::Regular, &[7; 5000]);
        for length in [100, 600, 3000] {
            check(&whole[..length], "");
        }
    }
}
