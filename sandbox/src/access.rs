//! Whether a uid without groups could read a file, told from owners and modes.
//!
//! Asked before bubblewrap runs under that uid, so that a blob it cannot reach is an error naming the directory at
//! fault. Access control lists are not looked at; where one denies more, bubblewrap's own message says so.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Why a file cannot be bound into the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It, or a directory above it, cannot be looked at.
    #[error("cannot stat {}", .path.display())]
    Stat {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is a directory, symbolic link or special file.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It is not absolute, so it would mean something else to bubblewrap.
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// The mode of the path keeps the uid out.
    #[error("{} is closed to uid {uid}, which the sandbox runs as", .path.display())]
    Denied {
        /// The file or the directory above it.
        path: PathBuf,
        /// The uid the sandbox runs as.
        uid: u32,
    },
}

/// Checks files for one uid, remembering directories.
#[derive(Debug)]
pub(crate) struct Access {
    uid: u32,
    gid: u32,
    directories: BTreeMap<PathBuf, bool>,
}

impl Access {
    pub(crate) fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid, directories: BTreeMap::new() }
    }

    /// Whether `path` is a regular file that can be read.
    pub(crate) fn check(&mut self, path: &Path) -> Result<(), AccessError> {
        if !path.is_absolute() {
            return Err(AccessError::Relative(path.to_owned()));
        }
        let metadata = fs::symlink_metadata(path)
            .map_err(|source| AccessError::Stat { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            return Err(AccessError::NotRegular(path.to_owned()));
        }
        for directory in path.ancestors().skip(1) {
            self.check_directory(directory)?;
        }
        if self.allows(&metadata, READ) { Ok(()) } else { Err(self.denied(path)) }
    }

    fn check_directory(&mut self, path: &Path) -> Result<(), AccessError> {
        let open = match self.directories.get(path) {
            Some(open) => *open,
            None => {
                let metadata = fs::metadata(path)
                    .map_err(|source| AccessError::Stat { path: path.to_owned(), source })?;
                let open = self.allows(&metadata, SEARCH);
                self.directories.insert(path.to_owned(), open);
                open
            }
        };
        if open { Ok(()) } else { Err(self.denied(path)) }
    }

    fn allows(&self, metadata: &fs::Metadata, wanted: u32) -> bool {
        let shift = if metadata.uid() == self.uid {
            6
        } else if metadata.gid() == self.gid {
            3
        } else {
            0
        };
        (metadata.mode() >> shift) & wanted == wanted
    }

    fn denied(&self, path: &Path) -> AccessError {
        AccessError::Denied { path: path.to_owned(), uid: self.uid }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A uid that owns nothing here.
    const STRANGER: u32 = 61_338;

    #[track_caller]
    fn check(path: &Path, expect: Option<&str>) {
        let error = Access::new(STRANGER, STRANGER).check(path).err().map(|error| error.to_string());
        match expect {
            None => assert_eq!(error, None),
            Some(part) => assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{error:?}"),
        }
    }

    #[test]
    fn modes_decide() {
        let home = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let closed = home.path().join("closed");
        let file = closed.join("blob");
        fs::create_dir(&closed).unwrap();
        fs::write(&file, "x").unwrap();
        symlink(&file, home.path().join("link")).unwrap();
        set(home.path(), 0o755);
        set(&file, 0o644);
        check(&file, None);
        set(&file, 0o600);
        check(&file, Some("closed/blob is closed to uid 61338"));
        set(&file, 0o644);
        set(&closed, 0o700);
        check(&file, Some("/closed is closed to uid 61338"));
        check(&home.path().join("link"), Some("link is not a regular file"));
        check(&closed, Some("is not a regular file"));
        check(&home.path().join("none"), Some("cannot stat"));
        check(Path::new("blob"), Some("not an absolute path"));
    }
}
