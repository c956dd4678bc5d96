//! Removing what crashed offices left: offices whose owner is dead and whose guard was killed as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::cgroup::Hierarchies;
use crate::guard::Guard;
use crate::name::OfficeName;

/// cgroup trees are shallow; ours stand near the top.
const DEPTH_MAX: usize = 8;

/// One office that was found without an owner.
#[derive(Debug)]
pub struct Leftover {
    /// The office's name.
    pub office: String,
    /// What was found of it.
    pub found: Vec<PathBuf>,
    /// What could not be removed.
    pub kept: Vec<PathBuf>,
}

/// Takes down every office below `root` and in the cgroup trees whose owner is dead.
///
/// Offices whose owner lives, of this process or another, are left alone.
pub fn clean(root: &Path) -> Result<Vec<Leftover>> {
    let mut found: BTreeMap<OfficeName, Vec<PathBuf>> = BTreeMap::new();
    let mut cgroups = Vec::new();
    for mount in Hierarchies::detect()?.mounts() {
        search(mount, DEPTH_MAX, &mut cgroups);
    }
    let mut directories = Vec::new();
    search(root, 1, &mut directories);
    for (name, path) in directories.iter().chain(&cgroups) {
        found.entry(name.clone()).or_default().push(path.clone());
    }
    let mut leftovers = Vec::new();
    for (name, paths) in found {
        if name.owner_lives() {
            continue;
        }
        let cgroups = cgroups.iter().filter(|(owner, _)| *owner == name).map(|(_, path)| path.clone());
        let guard = Guard::post(root.join(name.to_string()), cgroups.collect())?;
        leftovers.push(Leftover { office: name.to_string(), found: paths, kept: guard.take_down() });
    }
    Ok(leftovers)
}

/// Directories at or above `depth` below `dir` that bear an office's name.
fn search(dir: &Path, depth: usize, found: &mut Vec<(OfficeName, PathBuf)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match entry.file_name().to_str().and_then(OfficeName::parse) {
            Some(name) => found.push((name, entry.path())),
            None if depth > 1 => search(&entry.path(), depth - 1, found),
            None => {}
        }
    }
}
