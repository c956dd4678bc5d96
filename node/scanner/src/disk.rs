//! The file system as one scan sees it.

use std::sync::Arc;

use crate::text::Text;

/// What a scan may ask of the machine. Answers must stay the same during one scan.
pub trait Disk {
    /// What is called `name` in `dir`, links followed. `dir` is spelled as the compiler spells it: absolute, or
    /// relative to the unit's working directory (empty: that directory itself); `name` may contain slashes.
    /// The path a compiler would open is `dir` + `/` + `name`, or `name` alone if `dir` is empty or `name` absolute.
    fn look(&mut self, dir: &[u8], name: &[u8]) -> Look;

    /// The directives of a file that [`Disk::look`] returned; `None` if it cannot be read any more. Implementors keep
    /// [`Text`] by digest, in memory and on disk: it depends on nothing but the contents.
    fn text(&mut self, file: &File) -> Option<Arc<Text>>;
}

/// What was found where a compiler would look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing: the compiler goes on to the next directory.
    Absent,
    /// A regular file.
    File(File),
    /// A directory; to an include as good as absent.
    Directory,
    /// Anything else, or something that cannot be read: the scan cannot be decided.
    Other,
}

/// A regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// The digest of its contents.
    pub digest: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
    /// Device and inode: links to one file are one file to clang's `#pragma once`.
    pub identity: (u64, u64),
    /// Modification time in nanoseconds since 1970: gcc's `#pragma once` takes files of equal contents and time for one.
    pub mtime_ns: i128,
}
