//! Which parts of a tree are bound and which are copied. Pure.
//!
//! The *skeleton* are the directories that must be the sandbox's own, because something is made in them or beneath.
//! A *leaf* is what lies directly in a skeleton directory without being one. Only leaves are bound, so nothing is
//! ever made at or below a path that came out of a tree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::spec::{Entry, Kind};

/// Most leaves bound that do not lie in the root. Each costs its start-up time, and more the more there are.
pub(crate) const BINDS_MAX: usize = 16;
/// What a bind costs, in nanoseconds.
const BIND_NS: u64 = 200_000;
/// What copying an entry costs beside its bytes, in nanoseconds.
const ENTRY_NS: u64 = 10_000;
/// What copying a byte through the pipe costs, in nanoseconds.
const BYTE_NS: u64 = 1;
/// Links followed for one path: as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Paths that cannot be skeleton, because they are not the tree's, or bubblewrap's own while it works.
const NOT_OURS: [&[u8]; 5] = [b"proc", b"dev", b".barn", b"oldroot", b"newroot"];

/// Directories that are the sandbox's own, and the outputs in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skeleton {
    directories: BTreeSet<Vec<u8>>,
    outputs: BTreeSet<Vec<u8>>,
}

impl Skeleton {
    /// Adds the directory of the output `path`. What lies at an output's own place is never bound: the compile may
    /// write over it.
    pub(crate) fn add_output<'a>(&mut self, path: &'a [u8], link: impl Fn(&[u8]) -> Option<&'a [u8]>) {
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if let Some(mut place) = self.add(&path[..slash], link) {
            place.extend_from_slice(&path[slash..]);
            self.outputs.insert(place);
        }
    }

    /// Adds `directory`, an absolute path, with all above it, following the links that `link` knows. Gives the path
    /// without links, unless it leads where no skeleton can be.
    pub(crate) fn add<'a>(
        &mut self,
        directory: &'a [u8],
        link: impl Fn(&[u8]) -> Option<&'a [u8]>,
    ) -> Option<Vec<u8>> {
        let mut todo: VecDeque<&[u8]> = parts(directory).collect();
        let mut done: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                let end = done.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                done.truncate(end);
                continue;
            }
            if done.is_empty() && NOT_OURS.contains(&part) {
                return None;
            }
            let length = done.len();
            done.push(b'/');
            done.extend_from_slice(part);
            let Some(target) = link(&done) else {
                self.directories.insert(done.clone());
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            done.truncate(if target.first() == Some(&b'/') { 0 } else { length });
            for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                todo.push_front(part);
            }
        }
        Some(done)
    }

    /// The top-level directories among it.
    pub(crate) fn tops(&self) -> impl Iterator<Item = &[u8]> {
        self.directories.iter().map(Vec::as_slice).filter(|path| is_top(path))
    }

    /// The leaf that `path` is or lies below; `None` if it is skeleton.
    pub(crate) fn leaf<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let ends = (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]);
        ends.map(|end| &path[..end]).find(|prefix| !self.directories.contains(*prefix))
    }
}

/// The leaves of `entries` to be bound; what lies elsewhere is copied.
pub(crate) fn bound<'e>(entries: &'e [Entry], skeleton: &Skeleton) -> BTreeSet<&'e [u8]> {
    let mut costs: BTreeMap<&[u8], u64> = BTreeMap::new();
    for entry in entries {
        let path = entry.path.as_bytes();
        let Some(leaf) = skeleton.leaf(path) else { continue };
        if leaf == path && matches!(entry.kind, Kind::Symlink { .. }) {
            continue;
        }
        let cost = costs.entry(leaf).or_default();
        *cost = cost.saturating_add(copying(&entry.kind));
    }
    let (mut bound, mut others) = (BTreeSet::new(), Vec::new());
    for (leaf, cost) in costs {
        if is_top(leaf) {
            bound.insert(leaf);
        } else if cost > BIND_NS && !skeleton.outputs.contains(leaf) {
            others.push((cost, leaf));
        }
    }
    others.sort_unstable_by(|a, b| b.cmp(a));
    bound.extend(others.into_iter().take(BINDS_MAX).map(|(_, leaf)| leaf));
    bound
}

fn copying(kind: &Kind) -> u64 {
    match kind {
        Kind::Directory | Kind::Symlink { .. } => ENTRY_NS,
        Kind::File { size, .. } | Kind::Laid { size, .. } => {
            size.saturating_mul(BYTE_NS).saturating_add(ENTRY_NS)
        }
    }
}

fn is_top(path: &[u8]) -> bool {
    !path[1..].contains(&b'/')
}

/// The components of a path or link target, without those that mean nothing.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}
