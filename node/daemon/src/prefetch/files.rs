//! The lists of recorded builds, one file each, as signed.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use barn_protocol::{
    Digest, NodeId,
    identity::SignedBytes,
    prefetch::{BuildList, BuildName},
};

use crate::home::{Home, HomeError};

/// Lists kept: some weeks of an office's commits.
const FILES_MAX: usize = 256;
/// Their bytes together: 256 typical builds have 25 MB.
const BYTES_MAX: u64 = 256 << 20;
/// How long a list is kept after it was written: results are evicted sooner.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The directory of lists.
#[derive(Debug)]
pub(super) struct Files {
    home: Home,
    dir: PathBuf,
}

impl Files {
    /// Those of a state directory. What a killed node was writing is removed.
    pub(super) fn open(home: Home) -> Self {
        let files = Self { dir: home.builds_dir(), home };
        let half_written = |path: &Path| path.extension().is_some();
        let left = files.list().into_iter().map(|file| file.path).filter(|path| half_written(path));
        left.for_each(|path| remove(&path));
        files.tidy();
        files
    }

    /// The list of a build that `own` signed. One that is damaged is none.
    pub(super) fn read(&self, name: &BuildName, own: &NodeId) -> Option<(BuildList, SignedBytes)> {
        let bytes = self.home.read_if_there(&self.path(name)).ok().flatten()?;
        let signed: SignedBytes = postcard::from_bytes(&bytes).ok()?;
        let list = BuildList::signed_by(&signed, name, own).ok()?;
        Some((list, signed))
    }

    /// Keeps a list, in the place of an older one.
    ///
    /// # Errors
    /// When it cannot be written; the older one is then still there.
    pub(super) fn write(&self, name: &BuildName, signed: &SignedBytes) -> Result<(), HomeError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| HomeError::Io { action: "create", path: self.dir.clone(), source })?;
        let bytes = postcard::to_stdvec(signed).expect("encoding into memory does not fail");
        self.home.replace(&self.path(name), &bytes, 0o600)?;
        self.tidy();
        Ok(())
    }

    fn path(&self, name: &BuildName) -> PathBuf {
        self.dir.join(Digest::of(name.as_str().as_bytes()).to_string())
    }

    /// Removes what is too old or too much, the oldest first.
    fn tidy(&self) {
        let mut files = self.list();
        files.sort_unstable_by_key(|file| std::cmp::Reverse(file.written));
        let now = SystemTime::now();
        let mut bytes = 0;
        for (place, file) in files.iter().enumerate() {
            bytes += file.bytes;
            let is_old = now.duration_since(file.written).is_ok_and(|age| age > AGE_MAX);
            if is_old || place >= FILES_MAX || bytes > BYTES_MAX {
                remove(&file.path);
            }
        }
    }

    fn list(&self) -> Vec<File> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let file = |entry: fs::DirEntry| {
            let meta = entry.metadata().ok()?;
            Some(File { path: entry.path(), bytes: meta.len(), written: meta.modified().ok()? })
        };
        entries.flatten().filter_map(file).collect()
    }
}

struct File {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "an old build list was not removed");
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    fn list(name: &BuildName, left_out: u64) -> BuildList {
        BuildList {
            name: name.clone(),
            publisher: Identity::from_seed(&[1; 32]).id(),
            recorded_unix_s: 1,
            left_out,
            toolchains: Vec::new(),
            entries: Vec::new(),
        }
    }

    #[test]
    fn a_list_is_the_old_or_the_new_one_and_damage_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let own = Identity::from_seed(&[1; 32]);
        let name: BuildName = "4f2a".parse().unwrap();
        let files = Files::open(home.clone());
        assert!(files.read(&name, &own.id()).is_none());
        for version in [1, 2] {
            files.write(&name, &list(&name, version).sign(&own)).unwrap();
            assert_eq!(files.read(&name, &own.id()).unwrap().0, list(&name, version));
        }
        let other: BuildName = "other".parse().unwrap();
        fs::copy(files.path(&name), files.path(&other)).unwrap();
        assert!(files.read(&other, &own.id()).is_none(), "it is of another build");
        assert!(files.read(&name, &Identity::from_seed(&[2; 32]).id()).is_none());
        let half = files.path(&name).with_extension("tmp1");
        fs::write(&half, b"torn").unwrap();
        let bytes = fs::read(files.path(&name)).unwrap();
        let files = Files::open(home);
        assert!(!half.exists() && files.read(&name, &own.id()).is_some());
        for length in 0..bytes.len() {
            fs::write(files.path(&name), &bytes[..length]).unwrap();
            assert!(files.read(&name, &own.id()).is_none(), "{length}");
        }
    }

    #[test]
    fn the_oldest_lists_go() {
        let dir = tempfile::tempdir().unwrap();
        let own = Identity::from_seed(&[1; 32]);
        let files = Files::open(Home::open(dir.path()).unwrap());
        let name = |number: usize| format!("build-{number}").parse::<BuildName>().unwrap();
        let age = |number: usize, age: Duration| {
            let file = fs::File::options().write(true).open(files.path(&name(number))).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        for number in 0..FILES_MAX + 2 {
            files.write(&name(number), &list(&name(number), 0).sign(&own)).unwrap();
            age(number, Duration::from_secs(1000 + FILES_MAX as u64 - number as u64));
        }
        age(100, AGE_MAX + Duration::from_secs(1));
        files.tidy();
        let gone: Vec<usize> =
            (0..FILES_MAX + 2).filter(|n| files.read(&name(*n), &own.id()).is_none()).collect();
        assert_eq!(gone, [0, 1, 100]);
    }
}
