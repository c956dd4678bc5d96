//! The file system, for a scan: plain `stat` and `read`, remembered only as long as a file keeps its inode and times.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::ErrorKind,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use barn_scanner::{Disk, File, Look, Text};

/// Device, inode, size, and time of change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// What has been read of all files: digests by inode, size and time, directives by digest.
#[derive(Debug, Default)]
pub struct Library {
    digests: Mutex<HashMap<Stamp, [u8; 32]>>,
    texts: Mutex<HashMap<[u8; 32], Arc<Text>>>,
}

/// One unit's view.
#[derive(Debug)]
pub struct Shelf<'a> {
    library: &'a Library,
    cwd: &'a Path,
    /// Where the contents of each digest lie.
    places: HashMap<[u8; 32], PathBuf>,
}

impl<'a> Shelf<'a> {
    /// The files as seen from `cwd`.
    pub fn new(library: &'a Library, cwd: &'a Path) -> Self {
        Self { library, cwd, places: HashMap::new() }
    }

    fn file(&mut self, path: PathBuf, meta: &fs::Metadata) -> Look {
        let key = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        let known = self.library.digests.lock().unwrap().get(&key).copied();
        let digest = match known {
            Some(digest) => digest,
            None => {
                let Ok(contents) = fs::read(&path) else { return Look::Other };
                let digest = *blake3::hash(&contents).as_bytes();
                self.library.digests.lock().unwrap().insert(key, digest);
                digest
            }
        };
        self.places.insert(digest, path);
        Look::File(File {
            digest,
            size: meta.size(),
            identity: (meta.dev(), meta.ino()),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        })
    }
}

impl Disk for Shelf<'_> {
    fn look(&mut self, dir: &[u8], name: &[u8]) -> Look {
        let path = self.cwd.join(OsStr::from_bytes(dir)).join(OsStr::from_bytes(name));
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => Look::Directory,
            Ok(meta) if meta.is_file() => self.file(path, &meta),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Look::Absent
            }
            _ => Look::Other,
        }
    }

    fn text(&mut self, file: &File) -> Option<Arc<Text>> {
        if let Some(text) = self.library.texts.lock().unwrap().get(&file.digest) {
            return Some(text.clone());
        }
        let contents = fs::read(self.places.get(&file.digest)?).ok()?;
        let text = Arc::new(Text::parse(&contents));
        self.library.texts.lock().unwrap().insert(file.digest, text.clone());
        Some(text)
    }
}
