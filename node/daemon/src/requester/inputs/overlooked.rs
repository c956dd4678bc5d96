//! What a worker saw of a compile, held against what was shipped.
//!
//! A path that was looked for in vain there although a file is there at home was overlooked: with it, the compiler may
//! have gone another way. The inputs are then amended, and the action is run once more.
//!
//! Outputs are no inputs, though compilers look at them before they write them: there nothing is in their place, here often
//! the last build's. Only what lies below directories that are searched for includes counts. Elsewhere a driver looks for parts of its
//! own, of which a toolchain holds those that matter.

use std::{collections::BTreeSet, sync::Arc};

use barn_protocol::{Entry, Tree, action::Output, observed::Observed};

use super::{Inputs, Unknown, path_of};
use crate::requester::{
    layout::{Layout, tree_path},
    obstacle::Obstacle,
    sight::{Look, Nowhere, Place},
};

/// How an observation differs from what was expected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::requester) struct Overlooked {
    /// Files that are here and were not shipped, though they were looked for.
    pub(in crate::requester) files: Vec<Vec<u8>>,
    /// A path that was looked for in vain, of which no list knew.
    pub(in crate::requester) unlisted: Option<Vec<u8>>,
}

impl Inputs {
    /// What `observed` tells that these inputs do not. Takes as many look-ups as paths were observed.
    pub(in crate::requester) fn overlooked(
        &self,
        observed: &Observed,
        outputs: &[Output],
        look: &mut Look<'_>,
    ) -> Overlooked {
        let listed: BTreeSet<Vec<u8>> = self.absent.iter().map(|path| normal(&path, look)).collect();
        let mut overlooked = Overlooked::default();
        for path in observed.in_vain() {
            if is_listed(&listed, path) || !self.is_searched(path) {
                continue;
            }
            let real = unlinked(path, look);
            if outputs.iter().any(|output| output.path.as_bytes() == real) {
                continue;
            }
            match look.at(path) {
                Ok(Place::File(_)) => overlooked.files.push(path.clone()),
                Err(Nowhere::Absent) => drop(overlooked.unlisted.get_or_insert_with(|| path.clone())),
                _ => {}
            }
        }
        overlooked
    }

    fn is_searched(&self, path: &[u8]) -> bool {
        let below = |directory: &Vec<u8>| {
            path.strip_prefix(directory.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        self.searched.iter().any(below)
    }

    /// Adds files to the inputs.
    ///
    /// # Errors
    /// When one cannot be read or laid out.
    pub(in crate::requester) fn amend(
        &mut self,
        files: &[Vec<u8>],
        look: &mut Look<'_>,
    ) -> Result<(), Unknown> {
        let mut layout = Layout::onto(Tree::clone(&self.tree));
        for path in files {
            let Place::File(file) = layout.walk(look, path)? else { continue };
            let known = look.known(file, |_, _| ()).map_err(|error| {
                Unknown::because(Obstacle::Input, format_args!("{}: {error}", path_of(path).display()))
            })?;
            let (digest, size) = (known.blob.digest, known.blob.size);
            let real = look.path(file);
            layout.add(tree_path(real)?, Entry::File { digest, size, executable: known.executable })?;
            self.sources.insert(digest, (path_of(real).to_owned(), size));
            self.witnesses.push((path_of(real).to_owned(), known));
            self.newest_ns = self.newest_ns.max(known.signature.changed_ns());
        }
        self.newest_ns = self.newest_ns.max(layout.newest_link_ns());
        self.tree = Arc::new(layout.finish());
        // The list that was wrong once is not complete.
        self.complete = false;
        Ok(())
    }
}

/// Whether a path that was looked for in vain is on the list, or the directory of one that is: clang looks for `sub` before it
/// looks for `sub/x.h`, and if there is no `sub`, for nothing in it.
fn is_listed(listed: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let below = [path, b"/"].concat();
    listed.contains(path) || listed.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
}

/// An absolute path whose directory is named without links, as those of outputs are.
fn unlinked(path: &[u8], look: &mut Look<'_>) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    match look.at(&path[..slash]) {
        Ok(Place::Directory(directory)) => [look.directory_path(directory), &path[slash..]].concat(),
        _ => path.to_vec(),
    }
}

/// A path as an observer names it: absolute, without `.`, and with `..` taken where it leads.
pub(super) fn normal(path: &[u8], look: &mut Look<'_>) -> Vec<u8> {
    // Up to the last `..`, which is there although what follows may not be.
    let is_up = |at: &usize| path[*at..].starts_with(b"../") && (*at == 0 || path[at - 1] == b'/');
    let up = (0..path.len()).rev().find(is_up);
    let (directory, rest) = path.split_at(up.map_or(0, |at| at + 3));
    let (mut whole, rest) = match look.at(directory) {
        Ok(Place::Directory(real)) if !directory.is_empty() => (look.directory_path(real).to_vec(), rest),
        _ if path.first() == Some(&b'/') => (Vec::new(), path),
        _ => (look.cwd().to_vec(), path),
    };
    for part in rest.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

    use barn_protocol::{Digest, TreePath};

    use super::*;
    use crate::{
        blobs::Sources,
        requester::{files::Files, manifest::Absent, portable::routes::Routes, sight::Sight},
    };

    fn inputs(searched: &Path, absent: &[&str]) -> Inputs {
        let mut paths = Absent::default();
        absent.iter().for_each(|path| paths.add(path.as_bytes()));
        Inputs {
            tree: Arc::default(),
            sources: Sources::new(),
            witnesses: Vec::new(),
            absent: paths,
            searched: vec![searched.as_os_str().as_bytes().to_vec()],
            complete: true,
            newest_ns: 0,
            routes: Routes::default(),
            not_scanned: None,
        }
    }

    #[test]
    fn what_a_worker_missed_and_is_here_was_overlooked() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("include/sub")).unwrap();
        fs::write(root.join("include/here.h"), "text").unwrap();
        fs::write(root.join("elsewhere"), "").unwrap();
        std::os::unix::fs::symlink(".", root.join("include/link")).unwrap();
        let (sight, files) = (Sight::default(), Files::default());
        let mut look = Look::new(&sight, &files, &root);
        let mut inputs = inputs(&root.join("include"), &["include/sub/../known.h", "include/deep/er/x.h"]);
        let seen = |names: &[&str]| {
            let paths = names.iter().map(|name| root.join(name).into_os_string().into_encoded_bytes());
            Observed::new(Vec::new(), paths.collect()).unwrap()
        };
        let nothing = Overlooked::default();
        let in_vain = seen(&["include/known.h", "elsewhere", "gone"]);
        assert_eq!(inputs.overlooked(&in_vain, &[], &mut look), nothing);
        let found = inputs.overlooked(&seen(&["include/deep"]), &[], &mut look);
        assert_eq!(found, nothing, "the directory of something that was looked for");
        let found = inputs.overlooked(&seen(&["include/new.h"]), &[], &mut look);
        let unlisted = root.join("include/new.h").into_os_string().into_encoded_bytes();
        assert_eq!(found, Overlooked { files: Vec::new(), unlisted: Some(unlisted) });
        let found =
            inputs.overlooked(&seen(&["include/known.h", "include/here.h", "include/sub"]), &[], &mut look);
        assert_eq!(found.files, [root.join("include/here.h").as_os_str().as_bytes()]);

        let written = ["include/here.h", "include/new.h"].map(|name| Output {
            path: TreePath::new(root.join(name).into_os_string().into_encoded_bytes()).unwrap(),
            optional: false,
        });
        let in_vain = seen(&["include/here.h", "include/new.h", "include/link/new.h"]);
        assert_eq!(inputs.overlooked(&in_vain, &written, &mut look), nothing, "outputs are no inputs");

        inputs.amend(&found.files, &mut look).unwrap();
        let shipped: Vec<_> = inputs.tree.blobs().collect();
        assert_eq!(shipped, [(Digest::of(b"text"), 4)]);
        assert_eq!(inputs.sources[&Digest::of(b"text")].0, root.join("include/here.h"));
        assert!(!inputs.complete);
    }

    #[test]
    fn paths_are_named_as_an_observer_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        let (sight, files) = (Sight::default(), Files::default());
        let mut look = Look::new(&sight, &files, &root);
        for (spelled, named) in [
            ("x.h", "x.h"),
            ("./a//x.h", "a/x.h"),
            ("a/b/../x.h", "a/x.h"),
            ("a/b/../", "a"),
            ("a/b/../gone/x.h", "a/gone/x.h"),
            ("a/b/../b/../x../y.h", "a/x../y.h"),
            ("a/b/", "a/b"),
        ] {
            let whole = root.join(named).into_os_string().into_encoded_bytes();
            assert_eq!(normal(spelled.as_bytes(), &mut look), whole, "{spelled}");
        }
    }
}
