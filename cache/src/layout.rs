//! Where things are in a store's directory. Every bucket has its version in its name.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use barn_protocol::Digest;

use crate::platform;

/// The places a blob can be in; a blob has a set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Private,
    Public,
    PublicExecutable,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::Private, Self::Public, Self::PublicExecutable];

    /// Its bit in a set of places.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(crate) const fn mode(self) -> u32 {
        match self {
            Self::Private => 0o400,
            Self::Public => 0o444,
            Self::PublicExecutable => 0o555,
        }
    }

    const fn bucket(self) -> &'static str {
        match self {
            Self::Private => BLOBS,
            Self::Public | Self::PublicExecutable => TOOLCHAINS,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Private | Self::Public => "",
            Self::PublicExecutable => EXECUTABLE_SUFFIX,
        }
    }
}

const BLOBS: &str = "blobs-v1";
const TOOLCHAINS: &str = "toolchains-v1";
const EXECUTABLE_SUFFIX: &str = ".x";
const PRIVATE_DIR: u32 = 0o700;
/// Others may pass through, not look around.
const PASSAGE_DIR: u32 = 0o711;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal-v1")
    }

    pub(crate) fn indexes(&self) -> PathBuf {
        self.root.join("index-v1")
    }

    pub(crate) fn index(&self, generation: u64) -> PathBuf {
        self.indexes().join(format!("{generation:016x}"))
    }

    pub(crate) fn clean_marker(&self) -> PathBuf {
        self.indexes().join("clean")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp-v1")
    }

    pub(crate) fn blob(&self, digest: &Digest, place: Place) -> PathBuf {
        let name = digest.to_string();
        let (fan, rest) = name.split_at(2);
        self.root.join(place.bucket()).join(fan).join(format!("{rest}{}", place.suffix()))
    }

    /// Makes the store's own directory.
    ///
    /// # Errors
    /// Names the directory that could not be made or is not ours.
    pub(crate) fn make_root(&self) -> Result<(), (PathBuf, io::Error)> {
        if let Some(parent) = self.root.parent() {
            fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
        }
        platform::make_dir(&self.root, PASSAGE_DIR).map_err(|error| (self.root.clone(), error))
    }

    /// Makes the directories in it.
    ///
    /// # Errors
    /// Names the directory that could not be made or is not ours.
    pub(crate) fn make_buckets(&self) -> Result<(), (PathBuf, io::Error)> {
        let buckets = [
            (self.root.join(BLOBS), PRIVATE_DIR),
            (self.root.join(TOOLCHAINS), PASSAGE_DIR),
            (self.journal(), PRIVATE_DIR),
            (self.indexes(), PRIVATE_DIR),
            (self.temporary(), PRIVATE_DIR),
        ];
        for (dir, mode) in buckets {
            platform::make_dir(&dir, mode).map_err(|error| (dir, error))?;
        }
        Ok(())
    }

    /// Moves a finished file to a blob's name, making the fan-out directory if need be.
    pub(crate) fn rename_to_blob(&self, from: &Path, digest: &Digest, place: Place) -> io::Result<()> {
        let to = self.blob(digest, place);
        match fs::rename(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fan = to.parent().expect("a blob's path has a parent");
                platform::make_dir(fan, if place == Place::Private { PRIVATE_DIR } else { PASSAGE_DIR })?;
                fs::rename(from, &to)
            }
            other => other,
        }
    }

    /// Deletes everything in a directory of this store; what cannot be deleted stays.
    pub(crate) fn empty(dir: &Path, keep: &Path) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()).filter(|p| p != keep) {
            let removed = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "cannot delete a leftover");
            }
        }
    }

    /// Every file in the blob buckets, while `each` says to go on. What has no blob's name is deleted: nothing else
    /// belongs there.
    pub(crate) fn for_each_blob(
        &self,
        mut each: impl FnMut(Digest, Place, fs::Metadata) -> ControlFlow<()>,
    ) -> io::Result<()> {
        for bucket in [BLOBS, TOOLCHAINS] {
            for fan in fs::read_dir(self.root.join(bucket))? {
                let fan = fan?;
                if !fan.file_type()?.is_dir() {
                    continue;
                }
                for entry in fs::read_dir(fan.path())? {
                    let entry = entry?;
                    let metadata = match entry.metadata() {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        other => other?,
                    };
                    match parse_blob_name(bucket, &fan.file_name(), &entry.file_name()) {
                        Some((digest, place)) if metadata.is_file() => {
                            if each(digest, place, metadata).is_break() {
                                return Ok(());
                            }
                        }
                        _ => Self::remove_stray(&entry.path()),
                    }
                }
            }
        }
        Ok(())
    }

    fn remove_stray(path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete a stray file");
        }
    }
}

fn parse_blob_name(bucket: &str, fan: &std::ffi::OsStr, name: &std::ffi::OsStr) -> Option<(Digest, Place)> {
    let (fan, name) = (fan.to_str()?, name.to_str()?);
    let (rest, place) = match (bucket, name.strip_suffix(EXECUTABLE_SUFFIX)) {
        (TOOLCHAINS, Some(rest)) => (rest, Place::PublicExecutable),
        (TOOLCHAINS, None) => (name, Place::Public),
        _ => (name, Place::Private),
    };
    (fan.len() == 2).then(|| format!("{fan}{rest}").parse().ok()).flatten().map(|digest| (digest, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_names_round_trip() {
        let layout = Layout::new(Path::new("/s"));
        let digest = Digest::of(b"x");
        for place in Place::ALL {
            let path = layout.blob(&digest, place);
            let parts: Vec<_> = path.iter().skip(2).collect();
            let bucket = parts[0].to_str().unwrap();
            assert_eq!(parse_blob_name(bucket, parts[1], parts[2]), Some((digest, place)));
        }
        assert_eq!(parse_blob_name(BLOBS, "ab".as_ref(), "cd".as_ref()), None);
        let long = digest.to_string();
        assert_eq!(parse_blob_name(BLOBS, "".as_ref(), long.as_ref()), None);
    }
}
