//! Writing the outputs that the node sent, all or none as far as a file system allows.
//!
//! Each output is first written to a temporary file in its own directory, with the mode that the umask gives; only
//! when all are whole are they renamed to their names. A target that is not what the compiler would simply replace
//! (a symlink, a device, a file of another owner or mode or with a second name) is an error: what a compiler does to
//! those differs from one compiler and one output to the next, so the caller lets the compiler itself do it. Second names
//! and modes do not matter where the compiler is known to write a new file.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use crate::{
    messages::{Manner, Output},
    platform,
};

/// Bytes copied at once where the kernel cannot copy by itself.
const COPY_BYTES: usize = 128 << 10;
/// Names tried for one temporary file. A name is taken only where a wrapper of the same process id was killed.
const NAMES_MAX: usize = 64;

/// Writes every output from the descriptor of the same index.
///
/// # Errors
/// When any of them cannot be written. No temporary file is left; targets are as before, unless a rename failed
/// after others had succeeded.
pub(crate) fn place(outputs: &[Output], sources: Vec<OwnedFd>) -> io::Result<()> {
    let mut staged = Vec::with_capacity(outputs.len());
    for (output, source) in outputs.iter().zip(sources) {
        staged.push(Staged::new(output, &File::from(source), staged.len())?);
    }
    staged.into_iter().try_for_each(Staged::commit)
}

/// A whole output that does not have its name yet. Removed when dropped.
struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    fn new(output: &Output, source: &File, index: usize) -> io::Result<Self> {
        let target = Path::new(OsStr::from_bytes(&output.path));
        let existing = match fs::symlink_metadata(target) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            return Err(io::Error::other("the target is no regular file"));
        }
        let mode = if output.manner == Manner::Program { 0o777 } else { 0o666 };
        let (temporary, file) = create_beside(target, index, mode)?;
        let staged = Self { temporary, target: target.to_owned() };
        if let Some(existing) = existing.filter(|_| output.manner == Manner::InPlace) {
            check_replaceable(&existing, &file.metadata()?)?;
        }
        fill(&file, source, output.size)?;
        platform::close_reporting(file)?;
        Ok(staged)
    }

    fn commit(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing of this name.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Whether a new file differs from the existing one in its content only.
fn check_replaceable(existing: &Metadata, new: &Metadata) -> io::Result<()> {
    let traits = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    if existing.nlink() > 1 {
        // gcc writes through to the other names, clang does not.
        return Err(io::Error::other("the target has several names"));
    }
    if traits(existing) == traits(new) {
        Ok(())
    } else {
        Err(io::Error::other("the target has another owner or mode than a new file"))
    }
}

fn create_beside(target: &Path, index: usize, mode: u32) -> io::Result<(PathBuf, File)> {
    let process = std::process::id();
    for attempt in (index..).step_by(crate::messages::OUTPUTS_MAX).take(NAMES_MAX) {
        let path = target.with_file_name(format!(".barn-{process}-{attempt}.tmp"));
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Makes `file` hold exactly the `size` bytes of `source`, in the cheapest way that the file systems offer.
fn fill(file: &File, source: &File, size: u64) -> io::Result<()> {
    let metadata = source.metadata()?;
    if !metadata.is_file() || metadata.len() != size {
        return Err(io::Error::other("the node's descriptor is not the file it announced"));
    }
    if size > 0 && platform::clone_file(source, file).is_err() {
        let offset = copy_in_kernel(file, source, size);
        copy_by_hand(file, source, offset, size)?;
    }
    if file.metadata()?.len() == size { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// How far the kernel got: not a step, between some file systems.
fn copy_in_kernel(file: &File, source: &File, size: u64) -> u64 {
    let mut offset = 0;
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        match platform::copy_range(source, offset, file, left) {
            Ok(0) | Err(_) => break,
            Ok(count) => offset += count as u64,
        }
    }
    offset
}

fn copy_by_hand(mut file: &File, source: &File, mut offset: u64, size: u64) -> io::Result<()> {
    if offset == size {
        return Ok(());
    }
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(size - offset).unwrap_or(COPY_BYTES))];
    while offset < size {
        let count = source.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        file.write_all(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Places `contents` at `paths` in a fresh directory prepared by `prepare`, and looks at what is there then.
    fn check(
        prepare: impl Fn(&Path),
        outputs: &[(&str, &[u8], u64)],
        expect: impl Fn(io::Result<()>, &Path),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        prepare(root);
        let mut sources = Vec::new();
        let mut wanted = Vec::new();
        for (path, content, size) in outputs {
            let mut source = tempfile::tempfile().unwrap();
            source.write_all(content).unwrap();
            sources.push(OwnedFd::from(source));
            let path = root.join(path).into_os_string().into_encoded_bytes();
            wanted.push(Output { path, size: *size, manner: Manner::InPlace });
        }
        let result = place(&wanted, sources);
        expect(result, root);
        let leftovers = fs::read_dir(root).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.as_bytes().starts_with(b".barn-")
        });
        assert_eq!(leftovers.count(), 0, "no temporary file stays");
    }

    #[test]
    fn outputs_are_written_whole_and_replace_what_was_there() {
        let long = vec![7; 3 * COPY_BYTES + 1];
        check(
            |root| fs::write(root.join("x.o"), "old").unwrap(),
            &[("x.o", b"new", 3), ("x.d", b"", 0), ("long", &long, long.len() as u64)],
            |result, root| {
                result.unwrap();
                assert_eq!(fs::read(root.join("x.o")).unwrap(), b"new");
                assert_eq!(fs::read(root.join("x.d")).unwrap(), b"");
                assert_eq!(fs::read(root.join("long")).unwrap(), long);
            },
        );
    }

    #[test]
    fn copying_by_hand_gives_the_same_bytes() {
        let content: Vec<u8> = (0..COPY_BYTES * 2 + 17).map(|n| (n % 251) as u8).collect();
        let (mut source, target) = (tempfile::tempfile().unwrap(), tempfile::NamedTempFile::new().unwrap());
        source.write_all(&content).unwrap();
        copy_by_hand(target.as_file(), &source, 0, content.len() as u64).unwrap();
        assert_eq!(fs::read(target.path()).unwrap(), content);
        assert!(copy_by_hand(target.as_file(), &source, 0, content.len() as u64 + 1).is_err());
    }

    #[test]
    fn one_bad_output_spoils_all() {
        for size in [2, 4] {
            check(
                |root| fs::write(root.join("x.o"), "old").unwrap(),
                &[("x.o", b"new", 3), ("x.d", b"dep", size)],
                |result, root| {
                    result.unwrap_err();
                    assert_eq!(fs::read(root.join("x.o")).unwrap(), b"old");
                    assert!(!root.join("x.d").exists());
                },
            );
        }
        check(
            |_| {},
            &[("x.o", b"new", 3), ("none/x.d", b"dep", 3)],
            |result, root| {
                result.unwrap_err();
                assert!(!root.join("x.o").exists());
            },
        );
    }

    #[test]
    fn unusual_targets_are_left_to_the_compiler() {
        let link = |root: &Path| {
            fs::write(root.join("real"), "old").unwrap();
            symlink("real", root.join("x.o")).unwrap();
        };
        let directory = |root: &Path| fs::create_dir(root.join("x.o")).unwrap();
        let executable = |root: &Path| {
            fs::write(root.join("x.o"), "old").unwrap();
            fs::set_permissions(root.join("x.o"), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let second_name = |root: &Path| {
            fs::write(root.join("real"), "old").unwrap();
            fs::hard_link(root.join("real"), root.join("x.o")).unwrap();
        };
        for prepare in [&link as &dyn Fn(&Path), &directory, &executable, &second_name] {
            check(prepare, &[("x.o", b"new", 3)], |result, root| {
                result.unwrap_err();
                assert_ne!(fs::read(root.join("x.o")).unwrap_or_default(), b"new");
            });
        }
        let null = Output { path: b"/dev/null".to_vec(), size: 0, manner: Manner::InPlace };
        place(&[null], vec![tempfile::tempfile().unwrap().into()]).unwrap_err();
    }

    #[test]
    fn what_is_written_anew_takes_the_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("x.rlib"), "old").unwrap();
        fs::set_permissions(at("x.rlib"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(at("x.rlib"), at("other")).unwrap();
        for (manner, is_executable) in [(Manner::Anew, false), (Manner::Program, true)] {
            let output = Output { path: at("x.rlib").into_os_string().into_encoded_bytes(), size: 0, manner };
            place(&[output], vec![tempfile::tempfile().unwrap().into()]).unwrap();
            let mode = fs::metadata(at("x.rlib")).unwrap().mode();
            assert_eq!((fs::read(at("x.rlib")).unwrap(), mode & 0o100 != 0), (Vec::new(), is_executable));
            assert_eq!(fs::read(at("other")).unwrap(), b"old");
        }
    }

    #[test]
    fn a_name_left_by_a_killed_wrapper_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("x.o");
        let (first, _) = create_beside(&target, 3, 0o666).unwrap();
        let (second, _) = create_beside(&target, 3, 0o666).unwrap();
        assert_ne!(first, second);
    }
}
