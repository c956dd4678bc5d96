//! A toolchain: the files a compiler needs to run, by digest.

use serde::{Deserialize, Serialize};

use crate::{canonical::Canonical, digest::Digest, keys::domain, path::TreePath, tree::Tree};

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
        let mut encoder = Canonical::new(domain::TOOLCHAIN);
        encoder.bytes(self.machine.as_bytes()).digest(&self.tree.digest());
        encoder.sequence(&self.search_path, |e, path| {
            e.bytes(path.as_bytes());
        });
        encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Entry;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn gcc() -> Toolchain {
        let mut tree = Tree::new();
        let program = Entry::File { digest: Digest::of(b"gcc"), size: 3, executable: true };
        tree.insert(path("/usr/bin/gcc"), program).expect("it fits");
        let search_path = vec![path("/usr/bin"), path("/bin")];
        Toolchain { name: "gcc 12".into(), machine: "x86_64".into(), tree, search_path }
    }

    #[test]
    fn golden_vector() {
        let number = |n: u64| n.to_le_bytes().to_vec();
        let bytes = [
            number(6),
            b"x86_64".to_vec(),
            gcc().tree.digest().as_bytes().to_vec(),
            number(2),
            number(8),
            b"/usr/bin".to_vec(),
            number(4),
            b"/bin".to_vec(),
        ];
        let digest = gcc().digest();
        assert_eq!(*digest.as_bytes(), blake3::derive_key("barnraise toolchain v1", &bytes.concat()));
        assert_eq!(digest.to_string(), "45431ef335e20effb561ef6b34112a45e107705498cb331c3aa69510afb3e43d");
    }

    #[test]
    fn everything_but_the_name_counts() {
        let mut renamed = gcc();
        renamed.name = "cc".into();
        assert_eq!(renamed.digest(), gcc().digest());
        let changes: [fn(&mut Toolchain); 5] = [
            |t| t.machine.push('_'),
            |t| drop(t.search_path.pop()),
            |t| t.search_path.reverse(),
            |t| t.search_path.push(path("/sbin")),
            |t| t.tree.insert(path("/lib"), Entry::Directory).expect("it fits"),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = gcc();
            change(&mut changed);
            assert_ne!(changed.digest(), gcc().digest(), "change {number}");
        }
    }
}
