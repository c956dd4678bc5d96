//! A toolchain: the files a compiler needs to run, by digest.

use serde::{Deserialize, Serialize};

use crate::{canonical::Canonical, digest::Digest, path::TreePath, tree::Tree};

/// Everything a worker needs to run one compiler at the requester's own paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// What a person calls it, e.g. `gcc 12.2.0 x86_64-linux-gnu`. Not part of the digest.
    pub name: String,
    /// The machine it runs on, as the kernel names it, e.g. `x86_64`.
    pub machine: String,
    /// Driver, passes, assembler, plugins, specs, loader and shared libraries, at their own paths.
    pub tree: Tree,
    /// The directories the driver may search for programs, in order: the value of `PATH` in the sandbox.
    pub search_path: Vec<TreePath>,
}

impl Toolchain {
    /// The toolchain's identity: its machine, files and search path.
    pub fn digest(&self) -> Digest {
        let mut encoder = Canonical::new("barnraise toolchain v1");
        encoder.bytes(self.machine.as_bytes()).digest(&self.tree.digest());
        encoder.sequence(&self.search_path, |e, path| {
            e.bytes(path.as_bytes());
        });
        encoder.finish()
    }
}
