//! From a spec to bubblewrap's arguments and the room's job, without touching anything.
//!
//! The sandbox's root is bubblewrap's own tmpfs, read-only in the end. Each top-level directory that is needed is a
//! sized tmpfs on it, and toolchain files are bound on those one by one.
//!
//! Invariant: when bubblewrap works, there is no symbolic link and nothing untrusted in its tree. Everything the
//! requester sent is laid out later, by the room, from within. The exception, symbolic links directly in the root
//! (`/lib64`), comes last and nothing bubblewrap makes lies below one: a link to `/oldroot/…` made bubblewrap 0.8
//! write to the host. Parts of a tree are bound as leaves: nothing is made at or below one (`arrange`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use crate::{
    arrange::{self, Skeleton},
    loader::Helper,
    path::InsidePath,
    spec::{Entry, Kind, Limits, Mount, Priority, Spec},
    wire::Job,
};

/// Most toolchain files: bubblewrap takes 9,000 arguments, three for each of these.
pub const MOUNTS_MAX: usize = 2048;
/// Most entries; the largest real unit seen reads under 10,000 files.
pub const ENTRIES_MAX: usize = 65_536;
/// Most declared outputs; a compile has under ten.
pub const OUTPUTS_MAX: usize = 256;
/// Most top-level directories: each is a mount and has a size of its own.
pub const TOPS_MAX: usize = 32;
/// Arguments and environment together, in bytes: what Linux itself takes is a little less.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Longest target of a symbolic link, in bytes.
const TARGET_BYTES_MAX: usize = 4095;
/// Largest sum of all inputs, in bytes: they are held in memory. The sum is also kept from overflowing.
const INPUT_BYTES_MAX: u64 = 8 << 30;
/// What the room's file systems round up to.
const PAGE_BYTES: u64 = 4096;
/// Spare room on a file system that only holds inputs, in bytes.
const SLACK_BYTES: u64 = 1 << 20;
/// Paths that are bubblewrap's or the room's.
const RESERVED: [&[u8]; 3] = [b"/proc", b"/dev", b"/.barn"];

/// The isolation every run gets.
const ISOLATION: [&str; 18] = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    // The same everywhere, so that nothing of the host's accounts shows.
    "--uid",
    "1000",
    "--gid",
    "1000",
    "--hostname",
    "barn",
    "--clearenv",
];

/// What a [`Spec`] comes to: checked, and ready to be carried out.
#[derive(Debug, Clone)]
pub struct Plan {
    options: Vec<Vec<u8>>,
    job: Job,
    laid_out: Vec<Entry>,
    bound: Vec<Mount>,
}

/// Why a [`Spec`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The path is `/proc`, `/dev` or `/.barn`, or lies below.
    #[error("{0} lies where the sandbox keeps its own")]
    Reserved(InsidePath),
    /// Files and outputs cannot lie directly in the root, which is read-only.
    #[error("{0} lies directly in the root")]
    InRoot(InsidePath),
    /// Two entries, or an entry and a toolchain file, disagree about a path.
    #[error("two different entries at {0}")]
    Conflict(InsidePath),
    /// A file or symbolic link has something below it.
    #[error("{0} lies below a file or symbolic link")]
    BelowLeaf(InsidePath),
    /// A symbolic link without a target, or with one that is too long or holds NUL.
    #[error("symbolic link {0} has no usable target")]
    BadTarget(InsidePath),
    /// A file that is said to lie in the tree of a spec without a tree.
    #[error("{0} lies in no tree")]
    NoTree(InsidePath),
    /// An argument, or a name or value of the environment, that cannot be passed.
    #[error("argument or environment holds a NUL byte or a nameless variable")]
    BadText,
    /// More of something than one run may have.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most there may be.
        max: u64,
    },
}

/// What is known to lie at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Directory,
    Symlink(&'a [u8]),
    File,
    Mount,
}

/// How a tree comes in; without a tree, everything is copied.
struct Arrangement<'a> {
    skeleton: Skeleton,
    bound: BTreeSet<&'a [u8]>,
}

impl<'a> Arrangement<'a> {
    fn new(spec: &'a Spec, leaves: &BTreeMap<&'a [u8], Leaf<'a>>) -> Self {
        if spec.tree.is_none() {
            return Self { skeleton: Skeleton::default(), bound: BTreeSet::new() };
        }
        let link = |path: &[u8]| match leaves.get(path) {
            Some(Leaf::Symlink(target)) => Some(*target),
            _ => None,
        };
        let mut skeleton = Skeleton::default();
        for output in &spec.outputs {
            skeleton.add_output(output.as_bytes(), link);
        }
        let above = spec.toolchain.iter().filter_map(|mount| mount.inside.ancestors().next());
        for directory in above.chain([spec.cwd.as_bytes(), b"/tmp"]) {
            skeleton.add(directory, link);
        }
        let bound = arrange::bound(&spec.inputs, &skeleton);
        Self { skeleton, bound }
    }

    fn bound_tops(&self) -> usize {
        self.bound.iter().filter(|leaf| !leaf[1..].contains(&b'/')).count()
    }

    fn is_bound(&self, path: &[u8]) -> bool {
        !self.bound.is_empty() && self.skeleton.leaf(path).is_some_and(|leaf| self.bound.contains(leaf))
    }
}

/// A file system of the sandbox: how much it must hold at the start, and whether the compile may add to it.
#[derive(Default)]
struct Top {
    bytes: u64,
    writable: bool,
}

impl Plan {
    /// Checks `spec` and plans its run with `helper` as the first program inside.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn new(spec: &Spec, helper: &Helper) -> Result<Self, PlanError> {
        check_counts(spec)?;
        check_text(spec)?;
        let leaves = leaves(spec)?;
        check_nesting(spec, &leaves)?;
        let arrangement = Arrangement::new(spec, &leaves);
        let tops = tops(spec, &leaves, &arrangement)?;
        let bound = bound(spec, &arrangement);
        Ok(Self {
            options: options(spec, helper, &tops, &bound),
            job: job(spec, &tops),
            laid_out: laid_out(spec, &arrangement)?,
            bound,
        })
    }

    /// Bubblewrap's options, without the descriptors of this very run and without the command.
    pub fn options(&self) -> &[Vec<u8>] {
        &self.options
    }

    /// What the room is told to run.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The parts of the tree that are bound.
    pub fn bound(&self) -> &[Mount] {
        &self.bound
    }

    /// What the room is to lay out, in the spec's order.
    pub fn laid_out(&self) -> &[Entry] {
        &self.laid_out
    }
}

fn check_counts(spec: &Spec) -> Result<(), PlanError> {
    let text = spec.argv.iter().map(|arg| arg.len() + 1).sum::<usize>()
        + spec.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
    let counts = [
        ("toolchain files", spec.toolchain.len(), MOUNTS_MAX),
        ("entries", spec.inputs.len(), ENTRIES_MAX),
        ("outputs", spec.outputs.len(), OUTPUTS_MAX),
        ("bytes of arguments and environment", text, TEXT_BYTES_MAX),
    ];
    match counts.into_iter().find(|(_, count, max)| count > max) {
        Some((what, _, max)) => Err(PlanError::TooMany { what, max: max as u64 }),
        None => Ok(()),
    }
}

fn check_text(spec: &Spec) -> Result<(), PlanError> {
    let has_nul = |bytes: &[u8]| bytes.contains(&0);
    let bad_variable = |(name, value): &(Vec<u8>, Vec<u8>)| {
        name.is_empty() || name.contains(&b'=') || has_nul(name) || has_nul(value)
    };
    if spec.argv.iter().any(|arg| has_nul(arg)) || spec.env.iter().any(bad_variable) {
        return Err(PlanError::BadText);
    }
    Ok(())
}

/// Every path the spec names, once.
fn leaves(spec: &Spec) -> Result<BTreeMap<&[u8], Leaf<'_>>, PlanError> {
    let mounts = spec.toolchain.iter().map(|mount| (&mount.inside, Leaf::Mount));
    let entries = spec.inputs.iter().map(|entry| (&entry.path, leaf(&entry.kind)));
    let mut leaves = BTreeMap::new();
    for (path, leaf) in mounts.chain(entries) {
        check_place(path)?;
        match leaf {
            Leaf::File | Leaf::Mount if path.is_top() => return Err(PlanError::InRoot(path.clone())),
            Leaf::Symlink(target)
                if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) =>
            {
                return Err(PlanError::BadTarget(path.clone()));
            }
            _ => {}
        }
        // Naming a directory or a link twice does no harm, as toolchain and project may share some.
        let known = leaves.insert(path.as_bytes(), leaf);
        if known.is_some_and(|known| known != leaf || matches!(leaf, Leaf::File | Leaf::Mount)) {
            return Err(PlanError::Conflict(path.clone()));
        }
    }
    Ok(leaves)
}

fn leaf(kind: &Kind) -> Leaf<'_> {
    match kind {
        Kind::Directory => Leaf::Directory,
        Kind::Symlink { target } => Leaf::Symlink(target),
        Kind::File { .. } | Kind::Laid { .. } => Leaf::File,
    }
}

fn check_place(path: &InsidePath) -> Result<(), PlanError> {
    if RESERVED.contains(&path.top().as_bytes()) {
        return Err(PlanError::Reserved(path.clone()));
    }
    Ok(())
}

/// Entries lie below directories only; outputs and the working directory may also lie behind a link.
fn check_nesting(spec: &Spec, leaves: &BTreeMap<&[u8], Leaf<'_>>) -> Result<(), PlanError> {
    let above = |path: &InsidePath, bad: fn(&Leaf<'_>) -> bool| {
        path.ancestors().any(|ancestor| leaves.get(ancestor).is_some_and(bad))
    };
    let entries =
        spec.toolchain.iter().map(|mount| &mount.inside).chain(spec.inputs.iter().map(|entry| &entry.path));
    for path in entries {
        if above(path, |leaf| *leaf != Leaf::Directory) {
            return Err(PlanError::BelowLeaf(path.clone()));
        }
    }
    for path in spec.outputs.iter().chain([&spec.cwd]) {
        check_place(path)?;
        if above(path, |leaf| matches!(leaf, Leaf::File | Leaf::Mount)) {
            return Err(PlanError::BelowLeaf(path.clone()));
        }
    }
    match spec.outputs.iter().find(|path| path.is_top()) {
        Some(path) => Err(PlanError::InRoot(path.clone())),
        None => Ok(()),
    }
}

fn tops(
    spec: &Spec,
    leaves: &BTreeMap<&[u8], Leaf<'_>>,
    arrangement: &Arrangement<'_>,
) -> Result<BTreeMap<InsidePath, Top>, PlanError> {
    let mut tops: BTreeMap<InsidePath, Top> = BTreeMap::new();
    let tmp = InsidePath::new("/tmp").expect("a normal path");
    if leaves.get(tmp.as_bytes()).is_some_and(|leaf| *leaf != Leaf::Directory) {
        return Err(PlanError::Conflict(tmp));
    }
    for mount in &spec.toolchain {
        tops.entry(mount.inside.top()).or_default();
    }
    let mut total = 0u64;
    for entry in &spec.inputs {
        let bytes = entry_bytes(&entry.kind);
        total = total.saturating_add(bytes);
        if arrangement.is_bound(entry.path.as_bytes()) {
            continue;
        }
        if !(entry.path.is_top() && matches!(entry.kind, Kind::Symlink { .. })) {
            let top = tops.entry(entry.path.top()).or_default();
            top.bytes = top.bytes.saturating_add(bytes);
        }
    }
    for path in spec.outputs.iter().chain([&spec.cwd, &tmp]) {
        let top = path.top();
        if !matches!(leaves.get(top.as_bytes()), Some(Leaf::Symlink(_))) {
            tops.entry(top).or_default().writable = true;
        }
    }
    for top in arrangement.skeleton.tops() {
        // A link's target may hold a name no file system takes; then there is nothing to make.
        if let Ok(top) = InsidePath::new(top) {
            tops.entry(top).or_default().writable = true;
        }
    }
    if total > INPUT_BYTES_MAX {
        return Err(PlanError::TooMany { what: "bytes of inputs", max: INPUT_BYTES_MAX });
    }
    if tops.len() + arrangement.bound_tops() > TOPS_MAX {
        return Err(PlanError::TooMany { what: "top-level directories", max: TOPS_MAX as u64 });
    }
    Ok(tops)
}

/// What an entry takes on a tmpfs, rounded up generously.
fn entry_bytes(kind: &Kind) -> u64 {
    match kind {
        Kind::Directory | Kind::Symlink { .. } => PAGE_BYTES,
        Kind::File { size, .. } | Kind::Laid { size, .. } => {
            size.div_ceil(PAGE_BYTES).saturating_add(1).saturating_mul(PAGE_BYTES)
        }
    }
}

fn bound(spec: &Spec, arrangement: &Arrangement<'_>) -> Vec<Mount> {
    let Some(tree) = &spec.tree else { return Vec::new() };
    let mount = |leaf: &&[u8]| Mount {
        host: below(tree, leaf),
        inside: InsidePath::new(*leaf).expect("a part of a normal path is one"),
    };
    arrangement.bound.iter().map(mount).collect()
}

/// What is copied: all that is not bound, from where it lies.
fn laid_out(spec: &Spec, arrangement: &Arrangement<'_>) -> Result<Vec<Entry>, PlanError> {
    let copied = |entry: &&Entry| !entry.path.is_top() && !arrangement.is_bound(entry.path.as_bytes());
    let laid_out = |entry: &Entry| match (&entry.kind, &spec.tree) {
        (Kind::Laid { size, executable }, Some(tree)) => {
            let source = below(tree, entry.path.as_bytes());
            let kind = Kind::File { source, size: *size, executable: *executable };
            Ok(Entry { path: entry.path.clone(), kind })
        }
        (Kind::Laid { .. }, None) => Err(PlanError::NoTree(entry.path.clone())),
        _ => Ok(entry.clone()),
    };
    spec.inputs.iter().filter(copied).map(laid_out).collect()
}

/// Where `path` lies in a tree of the host.
fn below(tree: &Path, path: &[u8]) -> std::path::PathBuf {
    tree.join(OsStr::from_bytes(&path[1..]))
}

fn options(spec: &Spec, helper: &Helper, tops: &BTreeMap<InsidePath, Top>, bound: &[Mount]) -> Vec<Vec<u8>> {
    let mut options: Vec<Vec<u8>> = ISOLATION.iter().map(|option| option.as_bytes().to_vec()).collect();
    let mut add = |parts: &[&[u8]]| options.extend(parts.iter().map(|part| part.to_vec()));
    for (path, top) in tops {
        let spare = if top.writable { spec.limits.room_bytes.max(SLACK_BYTES) } else { SLACK_BYTES };
        let size = top.bytes.saturating_add(spare).to_string();
        add(&[b"--size", size.as_bytes(), b"--tmpfs", path.as_bytes()]);
    }
    let mut mounts: Vec<_> = helper.mounts.iter().chain(&spec.toolchain).collect();
    mounts.sort_by(|a, b| a.inside.cmp(&b.inside));
    for mount in mounts {
        add(&[b"--ro-bind", mount.host.as_os_str().as_bytes(), mount.inside.as_bytes()]);
    }
    add(&[b"--proc", b"/proc"]);
    // Read-only, because its shm directory would otherwise be a file system without a size.
    add(&[b"--dev", b"/dev", b"--remount-ro", b"/dev"]);
    // Nothing of bubblewrap's comes to lie at or below these.
    for mount in bound {
        add(&[b"--ro-bind", mount.host.as_os_str().as_bytes(), mount.inside.as_bytes()]);
    }
    let links: BTreeMap<_, _> = spec.inputs.iter().filter_map(root_link).collect();
    for (path, target) in links {
        add(&[b"--symlink", target, path]);
    }
    add(&[b"--remount-ro", b"/"]);
    options
}

/// A symbolic link directly in the root, which only bubblewrap can make.
fn root_link(entry: &Entry) -> Option<(&[u8], &[u8])> {
    match &entry.kind {
        Kind::Symlink { target } if entry.path.is_top() => Some((entry.path.as_bytes(), target)),
        _ => None,
    }
}

fn job(spec: &Spec, tops: &BTreeMap<InsidePath, Top>) -> Job {
    let Limits { memory_bytes, processes, file_bytes, room_bytes, room_entries, .. } = spec.limits;
    let Limits { stdio_bytes, outputs_bytes, open_files, wall, .. } = spec.limits;
    let bytes = |path: &InsidePath| path.as_bytes().to_vec();
    Job {
        program: bytes(&spec.program),
        argv: spec.argv.clone(),
        env: spec.env.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect(),
        cwd: bytes(&spec.cwd),
        outputs: spec.outputs.iter().map(bytes).collect(),
        tops: tops.keys().map(bytes).collect(),
        memory_bytes,
        processes,
        file_bytes,
        room_bytes,
        room_entries,
        stdio_bytes,
        outputs_bytes,
        open_files,
        // Threads share the count, so a process may rightly use the wall time once for each.
        cpu_seconds: wall.as_secs().saturating_add(1).saturating_mul(processes.max(1)),
        idle: u64::from(spec.priority == Priority::Idle),
        trace: u64::from(spec.trace),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
