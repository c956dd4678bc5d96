//! A host's view of files: everything of the machine at its own path, except that `/tmp` is the host's own and
//! the directories of the other hosts are out of sight.
//!
//! Runs in a thread that is already in the host's mount namespace.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::rooms::path_of;
use crate::{Error, Result};

const TMP: &str = "/tmp";

/// Lays the view out. `tmp` becomes `/tmp`; of what that or the hiding of `hosts` would cover, `keep` stays.
pub(crate) fn furnish(tmp: &Path, hosts: &Path, keep: &[PathBuf]) -> Result<()> {
    // First of all: nothing mounted here may show outside.
    bind_flags(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let below = |place: &Path| -> Vec<PathBuf> {
        keep.iter().filter(|path| path.starts_with(place) && *path != place).cloned().collect()
    };
    cover(Path::new(TMP), Cover::Directory(tmp), &below(Path::new(TMP)))?;
    if hosts.starts_with(TMP) {
        return Ok(());
    }
    cover(hosts, Cover::Empty, &below(hosts))
}

enum Cover<'a> {
    Directory(&'a Path),
    Empty,
}

/// Covers `place`, and binds each kept path back at its own place.
fn cover(place: &Path, with: Cover<'_>, keep: &[PathBuf]) -> Result<()> {
    let mut kept = Vec::new();
    for path in keep {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path);
        kept.push((path, file.map_err(Error::path("cannot open", path))?));
    }
    match with {
        Cover::Directory(dir) => bind_flags(Some(dir), place, MsFlags::MS_BIND)?,
        Cover::Empty => {
            mount(Some("none"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=0711,size=64k"))
                .map_err(Error::system(format!("cannot mount at {}", place.display())))?
        }
    }
    for (path, file) in kept {
        let is_dir = file.metadata().map_err(Error::path("cannot read", path))?.is_dir();
        make_mount_point(place, path, is_dir)?;
        bind_flags(Some(&path_of(&file)), path, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    }
    Ok(())
}

fn make_mount_point(place: &Path, path: &Path, is_dir: bool) -> Result<()> {
    let parent = path.parent().unwrap_or(place);
    let mut missing: Vec<&Path> = parent.ancestors().take_while(|dir| !dir.exists()).collect();
    missing.reverse();
    for dir in missing {
        fs::create_dir(dir).map_err(Error::path("cannot make directory", dir))?;
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(dir, mode).map_err(Error::path("cannot set the mode of", dir))?;
    }
    if path.exists() {
        return Ok(());
    }
    if is_dir {
        fs::create_dir(path).map_err(Error::path("cannot make directory", path))
    } else {
        File::create(path).map(drop).map_err(Error::path("cannot make file", path))
    }
}

fn bind_flags(source: Option<&Path>, target: &Path, flags: MsFlags) -> Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
        .map_err(Error::system(format!("cannot mount at {}", target.display())))
}
