//! What a compile will read, found before it runs.
//!
//! [`FindInputs`] is the one interface. [`scan::IncludeScan`] reads directives as the compiler would, without running it.
//! What it cannot decide it leaves to [`dependency_run::DependencyRun`]: the compiler's own `-M` run names what is
//! opened, and a textual search of those files for `#include` and `__has_include` names what is only probed. Either list
//! becomes a tree in [`gather`]. A probed file that exists is shipped too (else the remote compile would exit 0 with a
//! symbol missing); a probed path at which nothing is goes into the include manifest. What neither can tell (`.incbin`,
//! modules, precompiled headers) makes the compile local, with the reason.

pub mod dependency_run;
mod gather;
mod overlooked;
pub mod scan;
pub mod texts;

use std::{os::unix::ffi::OsStrExt as _, path::PathBuf, sync::Arc};

use barn_protocol::{ActionKey, Digest, Tree};

use super::{
    Call,
    files::{Files, Known},
    layout::LayoutError,
    manifest::{Absent, Manifest},
    obstacle::Obstacle,
    portable::routes::Routes,
    sight::Look,
};
use crate::blobs::Sources;

/// How often the inputs are looked for again because a file changed meanwhile; it is saved once, as a rule.
const LOOKS_MAX: usize = 3;

/// Everything a compile will read.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The input tree, with directories and links as they are.
    pub tree: Arc<Tree>,
    /// Where its blobs lie.
    pub sources: Sources,
    /// What was learned of each file.
    pub witnesses: Vec<(PathBuf, Known)>,
    /// Paths that are probed in vain.
    pub absent: Absent,
    /// The directories that are searched, as an observer of the compile would name them and where they lead.
    pub searched: Vec<Vec<u8>>,
    /// Whether `absent` is known to be all of them, so that a manifest may be made.
    pub complete: bool,
    /// When the newest of all files and links that were looked at changed, in nanoseconds since 1970.
    pub newest_ns: i128,
    /// How the files were reached.
    pub(super) routes: Routes,
    /// Why the compiler had to be asked what it includes, if it was.
    pub not_scanned: Option<Unknown>,
}

impl Inputs {
    /// What is no longer as it was found, as a new look sees it; a compile that ran since may have seen either.
    /// `None` when all is the same.
    pub fn changed(&self, files: &Files, look: &mut Look<'_>) -> Option<String> {
        let changed = self.witnesses.iter().find(|(path, known)| !files.holds(path, known));
        match changed {
            Some((path, _)) => Some(format!("{} has changed", path.display())),
            None => self.manifest(ActionKey(Digest::of(b""))).difference(look, |_, _, _| true),
        }
    }

    /// What is to be remembered of them for the action they belong to.
    pub(super) fn manifest(&self, action: ActionKey) -> Manifest<'_> {
        Manifest::new(action, &self.tree, &self.absent)
    }
}

/// Why the inputs cannot be told; the compile is then local.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The stable name counted in `barn stats`.
    pub name: &'static str,
    /// What it is about, for `barn explain`.
    pub detail: String,
}

impl Unknown {
    /// An obstacle concerning `detail`.
    pub fn because(obstacle: Obstacle, detail: impl std::fmt::Display) -> Self {
        Self::new(obstacle.name(), detail)
    }

    /// The reason `name`, of another list, concerning `detail`.
    pub fn new(name: &'static str, detail: impl std::fmt::Display) -> Self {
        Self { name, detail: detail.to_string() }
    }
}

impl From<LayoutError> for Unknown {
    fn from(error: LayoutError) -> Self {
        Self::new("layout", error)
    }
}

/// A way to find the inputs of a compile.
pub trait FindInputs: Send + Sync {
    /// What `call` will read.
    fn find(&self, call: Arc<Call>) -> impl Future<Output = Result<Inputs, Unknown>> + Send;
}

fn path_of(bytes: &[u8]) -> &std::path::Path {
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
