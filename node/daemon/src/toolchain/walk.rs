//! Follows a path as the kernel does and keeps every symbolic link on the way.
//!
//! A file is recorded at its real path, where no component is a link, and each link at its own real place, so
//! that the same names lead to the same files in the sandbox.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::stamp::Witnesses;

/// Most links followed for one path; Linux' own limit.
const LINKS_MAX: usize = 40;

/// What lies on the paths walked so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Symbolic links by their real place, with their targets as written.
    pub(super) links: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories a `..` was taken from; they must exist even when empty.
    pub(super) directories: BTreeSet<PathBuf>,
}

impl Walk {
    /// The real path of `path`, which must be absolute. Everything met is noted in `seen`.
    ///
    /// # Errors
    /// Those of `lstat` and `readlink`; too many links.
    pub(super) fn resolve(&mut self, path: &Path, seen: &mut Witnesses) -> io::Result<PathBuf> {
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path is not absolute"));
        }
        let mut real = PathBuf::from("/");
        let mut todo: VecDeque<OsString> = components(path.as_os_str()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_bytes() {
                b"" | b"." => continue,
                b".." => {
                    if real.as_os_str() != "/" {
                        self.directories.insert(real.clone());
                    }
                    real.pop();
                    continue;
                }
                _ => {}
            }
            let next = real.join(&name);
            let Some(target) = self.link_target(&next, seen)? else {
                real = next;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("too many levels of symbolic links"));
            }
            if target.first() == Some(&b'/') {
                real = PathBuf::from("/");
            }
            for component in components(OsStr::from_bytes(&target)).collect::<Vec<_>>().into_iter().rev() {
                todo.push_front(component);
            }
        }
        Ok(real)
    }

    fn link_target(&mut self, place: &Path, seen: &mut Witnesses) -> io::Result<Option<Vec<u8>>> {
        if let Some(target) = self.links.get(place) {
            return Ok(Some(target.clone()));
        }
        let is_link = match fs::symlink_metadata(place) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) => {
                seen.note(place)?;
                return Err(error);
            }
        };
        if !is_link {
            return Ok(None);
        }
        seen.note(place)?;
        let target = fs::read_link(place)?.into_os_string().into_vec();
        self.links.insert(place.to_owned(), target.clone());
        Ok(Some(target))
    }
}

/// A path made of these bytes.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn components(path: &OsStr) -> impl Iterator<Item = OsString> {
    path.as_bytes().split(|&b| b == b'/').map(|name| OsStr::from_bytes(name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_kept_at_its_real_place() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("usr/lib/real")).unwrap();
        fs::write(root.join("usr/lib/real/cc"), "x").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("../lib/real/cc", root.join("usr/bin/cc")).unwrap();
        symlink(root.join("usr/bin/cc"), root.join("usr/bin/c99")).unwrap();

        let mut walk = Walk::default();
        let mut seen = Witnesses::default();
        let real = walk.resolve(&root.join("lib/../bin/./c99"), &mut seen).unwrap();
        assert_eq!(real, root.join("usr/lib/real/cc"));
        let links: Vec<_> = walk.links.keys().map(|p| p.strip_prefix(&root).unwrap()).collect();
        assert_eq!(links, [Path::new("lib"), Path::new("usr/bin/c99"), Path::new("usr/bin/cc")]);
        assert!(walk.directories.contains(&root.join("usr/lib")));
        assert!(seen.hold());
        fs::remove_file(root.join("usr/bin/cc")).unwrap();
        assert!(!seen.hold());
    }

    #[test]
    fn loops_and_relative_paths_are_errors() {
        let room = tempfile::tempdir().unwrap();
        symlink("b", room.path().join("a")).unwrap();
        symlink("a", room.path().join("b")).unwrap();
        let mut seen = Witnesses::default();
        assert!(Walk::default().resolve(&room.path().join("a"), &mut seen).is_err());
        assert!(Walk::default().resolve(Path::new("usr/bin"), &mut seen).is_err());
    }

    #[test]
    fn a_missing_file_is_witnessed_as_missing() {
        let room = tempfile::tempdir().unwrap();
        let missing = room.path().join("specs");
        let mut seen = Witnesses::default();
        let error = Walk::default().resolve(&missing, &mut seen).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(seen.hold());
        fs::write(&missing, "").unwrap();
        assert!(!seen.hold());
    }
}
