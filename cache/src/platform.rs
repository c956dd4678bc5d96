//! What differs between operating systems: permission bits, free space, file identity, memory.

pub(crate) use imp::*;
pub(crate) use memory::give_back;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
mod memory {
    /// Gives memory that was freed back to the system. The allocator of glibc keeps what lies below something that is
    /// still in use, which after a rebuild is most of it.
    pub(crate) fn give_back() {
        // SAFETY: no pointers; the allocator locks its arenas itself.
        unsafe { nix::libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod memory {
    pub(crate) fn give_back() {}
}

#[cfg(unix)]
mod imp {
    use std::{
        fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
        io,
        os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        path::Path,
        time::{Duration, SystemTime},
    };

    /// What changes whenever a file's contents may have changed.
    pub(crate) type Stamp = [i64; 6];

    /// When the file was changed last, whatever its owner says; `None` before 1970.
    pub(crate) fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
        let seconds = Duration::from_secs(u64::try_from(metadata.ctime()).ok()?);
        let nanos = Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).ok()?);
        Some(SystemTime::UNIX_EPOCH + seconds + nanos)
    }

    /// Makes the directory unless it is there, with exactly this mode whatever the umask.
    pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !fs::symlink_metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Options that give new files to their owner only.
    pub(crate) fn private() -> OpenOptions {
        let mut options = File::options();
        options.mode(0o600);
        options
    }

    pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Makes names that were added to or removed from a directory durable.
    pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Whether the disk itself failed, as opposed to a shortage that passes.
    pub(crate) fn is_disk_error(error: &io::Error) -> bool {
        error.raw_os_error() == Some(nix::libc::EIO)
    }

    /// Bytes an ordinary user can still write on this file system; `None` if it does not say.
    pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the types differ by system")]
        Some((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
    }

    pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
        [
            metadata.ino().cast_signed(),
            metadata.size().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]
    }
}

#[cfg(not(unix))]
mod imp {
    use std::{
        fs::{self, File, Metadata, OpenOptions},
        io,
        path::Path,
        time::SystemTime,
    };

    pub(crate) type Stamp = (u64, Option<SystemTime>);

    pub(crate) fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
        metadata.modified().ok()
    }

    pub(crate) fn make_dir(path: &Path, _mode: u32) -> io::Result<()> {
        fs::create_dir(path).or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
    }

    pub(crate) fn private() -> OpenOptions {
        File::options()
    }

    pub(crate) fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn is_disk_error(_error: &io::Error) -> bool {
        false
    }

    pub(crate) fn free_bytes(_path: &Path) -> Option<u64> {
        None
    }

    pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
        (metadata.len(), metadata.modified().ok())
    }
}
