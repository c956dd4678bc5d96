//! Host directories in which toolchain and inputs of an action lie at their paths, kept from action to action.
//!
//! Consecutive actions of a requester differ in a few files, so an action takes a tree that an earlier one of the same
//! requester and toolchain has left, and applies the difference ([`tree`]). Files are hard links to one checked copy
//! each ([`copies`]). The sandbox binds parts of a tree read-only; docs/sandbox.md says why a compile cannot change it.
//!
//! ```text
//!  lay_out: an idle tree, or a new one ─▶ difference applied ─▶ Lease ─▶ dropped: idle again, or removed
//!                                              └─ any error: removed
//! ```
//!
//! Invariant: a lease's tree holds exactly what was wanted, or there is no lease. Invariant: a tree is in one lease or
//! idle, never both. Trees are a memory: all found at start are removed.

mod copies;
mod tree;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use barn_cache::Store;
use barn_protocol::{Digest, Entry, NodeId, TreePath};

use self::{copies::Copies, tree::Tree};

/// Most idle trees. A worker has about as many in use at once as it has cores.
const IDLE_TREES_MAX: usize = 16;
/// Entries in all idle trees together: an entry is an inode, or at least a name in one.
const IDLE_ENTRIES_MAX: usize = 200_000;
/// How long a tree stays for its requester's next action.
const IDLE_TIME_MAX: Duration = Duration::from_secs(600);
/// Trees removed in one turn of a timer: each may be a second of work.
const AGED_PER_TURN: usize = 4;
/// The version of everything below is in the directory's name.
pub(crate) const DIRECTORY: &str = "rooms-v1";

/// Why a tree could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The store does not have a file's contents, or they are rotten.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// A path does not hold what was laid out there, or cannot be changed.
    #[error("cannot lay out {at}")]
    Path {
        /// The path inside.
        at: TreePath,
        /// The reason.
        source: io::Error,
    },
    /// A directory or copy cannot be made.
    #[error("cannot make {}", .path.display())]
    Make {
        /// The host's path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// What is to lie in a tree, and where the file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) entry: Entry,
    /// Whether it is the toolchain's, whose blobs the sandbox may read where they are.
    pub(crate) shared: bool,
}

/// Everything that is to lie in a tree; directories above an item need not be listed.
pub(crate) type Items = BTreeMap<TreePath, Item>;

/// Whose trees may be used again for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Who sent the action.
    pub(crate) requester: NodeId,
    /// Its toolchain.
    pub(crate) toolchain: Digest,
}

/// The trees of one worker.
pub(crate) struct Trees {
    directory: PathBuf,
    copies: Copies,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one used last is last.
    idle: Vec<Idle>,
    made: u64,
}

struct Idle {
    owner: Owner,
    tree: Tree,
    since: Instant,
}

impl Trees {
    /// Empties `directory`, or makes it. `sandbox` is the uid and gid the sandbox drops to, if it does.
    ///
    /// # Errors
    /// When that fails, or nothing may be given to the sandbox's group.
    pub(crate) fn open(
        directory: &Path,
        store: Store,
        sandbox: Option<(u32, u32)>,
    ) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Make { path: directory.to_owned(), source };
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
        if let Some((_, gid)) = sandbox {
            chown(directory, None, Some(gid)).map_err(failed)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o710)).map_err(failed)?;
        }
        let copies = Copies::open(directory.join("files"), store)?;
        Ok(Self { directory: directory.to_owned(), copies, state: Mutex::default() })
    }

    /// A tree with exactly `items`, until the lease is dropped.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub(crate) fn lay_out(&self, owner: Owner, items: &Items) -> Result<Lease<'_>, TreeError> {
        let (idle, number) = self.take(owner);
        let tree = match idle {
            Some(tree) => tree,
            None => Tree::create(self.directory.join(format!("tree-{number}")))?,
        };
        // From here on an error drops the lease, and with it the tree.
        let mut lease = Lease { trees: self, owner, tree: Some(tree), sound: false };
        if let Some(tree) = &mut lease.tree {
            tree.become_exactly(items, &self.copies)?;
        }
        lease.sound = true;
        Ok(lease)
    }

    /// Whether a file is here for the next tree, without asking the store. It may go before it is laid out, if
    /// nothing of it is in a tree; the action then fails as with a blob that was evicted.
    pub(crate) fn have(&self, digest: Digest, executable: bool) -> bool {
        self.copies.has(digest, executable)
    }

    /// Removes trees that have been idle for too long at `now`, some in each turn.
    pub(crate) fn age_out(&self, now: Instant) {
        let aged = self.lock().aged(now);
        if aged.is_empty() {
            return;
        }
        aged.into_iter().for_each(|idle| idle.tree.remove());
        self.copies.trim();
    }

    /// How many trees are idle.
    #[cfg(test)]
    fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    fn take(&self, owner: Owner) -> (Option<Tree>, u64) {
        let mut state = self.lock();
        state.made += 1;
        let at = state.idle.iter().rposition(|idle| idle.owner == owner);
        (at.map(|at| state.idle.remove(at).tree), state.made)
    }

    fn give_back(&self, owner: Owner, tree: Tree) {
        let surplus = self.lock().put(Idle { owner, tree, since: Instant::now() });
        // Outside the lock: each is some milliseconds of work.
        surplus.into_iter().for_each(|idle| idle.tree.remove());
        self.copies.trim();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the trees are held")
    }
}

impl State {
    /// Takes out those that are too old; the oldest are first.
    fn aged(&mut self, now: Instant) -> Vec<Idle> {
        let old = |idle: &&Idle| now.saturating_duration_since(idle.since) > IDLE_TIME_MAX;
        let count = self.idle.iter().take(AGED_PER_TURN).take_while(old).count();
        self.idle.drain(..count).collect()
    }

    /// Adds an idle tree; what is too much or too old comes back.
    fn put(&mut self, idle: Idle) -> Vec<Idle> {
        let now = idle.since;
        self.idle.push(idle);
        let mut entries = 0;
        let keep = |(place, idle): (usize, &Idle)| {
            entries += idle.tree.len();
            place < IDLE_TREES_MAX
                && entries <= IDLE_ENTRIES_MAX
                && now.saturating_duration_since(idle.since) <= IDLE_TIME_MAX
        };
        // From the youngest: the first that is too much ends what is kept.
        let kept = self.idle.iter().rev().enumerate().map(keep).take_while(|keep| *keep).count();
        self.idle.drain(..self.idle.len() - kept).collect()
    }
}

/// A tree in use.
pub(crate) struct Lease<'a> {
    trees: &'a Trees,
    owner: Owner,
    tree: Option<Tree>,
    sound: bool,
}

impl Lease<'_> {
    /// Where it is on the host.
    pub(crate) fn path(&self) -> &Path {
        self.tree.as_ref().map(Tree::path).expect("a lease has its tree until it is dropped")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        match self.tree.take() {
            Some(tree) if self.sound => self.trees.give_back(self.owner, tree),
            Some(tree) => tree.remove(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
