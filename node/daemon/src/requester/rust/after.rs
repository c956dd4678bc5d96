//! What a crate's inputs were, once rustc has told.

use std::{fs, os::unix::ffi::OsStrExt as _, path::PathBuf, sync::Arc};

use barn_compilers::rustc::DepInfo;
use barn_protocol::{Action, ActionKey, Digest, Entry, Tree, canonical::Canonical, keys::domain};

use super::{before::Before, call::RustCall, listing::Listing};
use crate::requester::{
    Requester,
    files::{Known, Signature},
    layout::{Layout, host_path, tree_path},
    manifest::Absent,
    sight::{Look, Nowhere, Place},
};

/// The variables that were asked for, and digests of their values if they were set.
pub(super) type Variables = Vec<(Vec<u8>, Option<Digest>)>;

/// Everything that one run depended on.
pub(super) struct Inputs {
    pub(super) tree: Arc<Tree>,
    pub(super) absent: Absent,
    pub(super) listings: Vec<Listing>,
    pub(super) env: Variables,
    /// The arguments that shape messages, if there were any to shape.
    pub(super) presentation: Option<Vec<Vec<u8>>>,
}

impl Requester {
    /// The inputs of a run that has ended, unless one may have changed since it began; says which.
    pub(super) fn look_after(
        &self,
        call: &RustCall,
        before: &Before,
        dep_info: &DepInfo,
        has_messages: bool,
    ) -> Result<Inputs, String> {
        let changed = before.files.iter().find(|(_, real, known)| !self.files.holds(real, known));
        if let Some((path, ..)) = changed {
            return Err(format!("{} has changed", call.path(path).display()));
        }
        if let Some(listing) = before.listings.iter().find(|listing| !listing.holds(&self.files)) {
            return Err(format!("{} has changed", String::from_utf8_lossy(&listing.path)));
        }
        let mut after = After {
            call,
            look: Look::new(&self.sight, &self.files, &call.cwd),
            layout: Layout::default(),
            absent: Absent::default(),
        };
        for (path, real, known) in &before.files {
            let found = after.file(path, |_, now| now.blob == known.blob)?;
            if found != real.as_os_str().as_bytes() {
                return Err(format!("{} leads elsewhere now", call.path(path).display()));
            }
        }
        before.absent.iter().try_for_each(|path| after.absent(path))?;
        for path in &dep_info.files {
            let is_known = before.files.iter().any(|(known, ..)| known == path);
            // Its time of change cannot be set by anybody, so what is older was the same when rustc read it.
            let is_old =
                |began, now: &Known| now.signature.changed_ns().max(now.signature.mtime_ns()) < began;
            after.file(path, |_, now| is_known || is_old(before.began_ns, now))?;
            after.other_place_of_module(path, &dep_info.files)?;
        }
        if after.layout.newest_link_ns() >= before.began_ns {
            return Err("a link on the way to an input has changed".to_owned());
        }
        let tree = after.layout.finish();
        if let Some(moved) = moved_directory(&tree, before.began_ns) {
            return Err(format!("{} was moved", moved.display()));
        }
        Ok(Inputs {
            tree: Arc::new(tree),
            absent: after.absent,
            listings: before.listings.clone(),
            env: variables(call, dep_info)?,
            presentation: has_messages.then(|| call.compile.presentation.clone()),
        })
    }
}

impl Inputs {
    /// The name of the action that had them.
    pub(super) fn key(&self, stem: &Action) -> ActionKey {
        let action = Action { inputs: self.tree.clone(), ..stem.clone() };
        let mut key = Canonical::new(domain::RUST_ACTION);
        key.digest(&action.key().0);
        key.sequence(&self.listings, |key, listing| {
            key.bytes(&listing.path).number(listing.scope as u64).digest(&listing.digest);
        });
        key.sequence(&self.env, |key, (name, value)| {
            key.bytes(name).number(u64::from(value.is_some())).digest(&value.unwrap_or(Digest::of(b"")));
        });
        let presentation = self.presentation.as_deref().unwrap_or_default();
        key.number(u64::from(self.presentation.is_some())).sequence(presentation, |key, arg| {
            key.bytes(arg);
        });
        ActionKey(key.finish())
    }
}

struct After<'a, 'l> {
    call: &'a RustCall,
    look: Look<'l>,
    layout: Layout,
    absent: Absent,
}

impl After<'_, '_> {
    /// Takes a file if it `is_good`; its real path.
    fn file(&mut self, path: &[u8], is_good: impl FnOnce(&Self, &Known) -> bool) -> Result<Vec<u8>, String> {
        let shown = || self.call.path(path).display().to_string();
        let found = self.layout.walk(&mut self.look, path).map_err(|error| error.to_string())?;
        let Place::File(file) = found else { return Err(format!("{} is no file", shown())) };
        let known = self.look.known(file, |_, _| ()).map_err(|error| format!("{}: {error}", shown()))?;
        if !is_good(self, &known) {
            return Err(format!("{} changed while rustc ran", shown()));
        }
        let entry =
            Entry::File { digest: known.blob.digest, size: known.blob.size, executable: known.executable };
        let real = self.look.path(file).to_vec();
        let at = tree_path(&real).map_err(|error| error.to_string())?;
        self.layout.add(at, entry).map_err(|error| error.to_string())?;
        Ok(real)
    }

    fn absent(&mut self, path: &[u8]) -> Result<(), String> {
        match self.look.at(path) {
            Err(Nowhere::Absent) => {
                self.absent.add(path);
                Ok(())
            }
            _ => Err(format!("{} has appeared", self.call.path(path).display())),
        }
    }

    /// A module's source may be `x.rs` or `x/mod.rs`, and both are an error, so the other one must not appear.
    fn other_place_of_module(&mut self, path: &[u8], listed: &[Vec<u8>]) -> Result<(), String> {
        let other = match (path.strip_suffix(b"/mod.rs"), path.strip_suffix(b".rs")) {
            (Some(directory), _) => [directory, b".rs"].concat(),
            (None, Some(stem)) => [stem, b"/mod.rs"].concat(),
            (None, None) => return Ok(()),
        };
        // It may be there and be another module's, or nobody's.
        if listed.contains(&other) || self.look.at(&other) != Err(Nowhere::Absent) {
            return Ok(());
        }
        self.absent.add(&other);
        Ok(())
    }
}

/// A directory that took its place since `began_ns`. The files in it are as old as ever, but they may not be those that rustc read.
/// A move changes when the directory was changed, and not when its names were.
fn moved_directory(tree: &Tree, began_ns: i128) -> Option<PathBuf> {
    let directories = tree.iter().filter(|(_, entry)| matches!(entry, Entry::Directory));
    directories.map(|(path, _)| host_path(path)).find(|path| {
        fs::symlink_metadata(path).map_or(true, |meta| {
            let now = Signature::of(&meta);
            now.changed_ns() >= began_ns && now.mtime_ns() < began_ns
        })
    })
}

fn variables(call: &RustCall, dep_info: &DepInfo) -> Result<Variables, String> {
    let mut found = Vec::with_capacity(dep_info.env.len());
    for (name, value) in &dep_info.env {
        if call.env.get(name) != value.as_ref() {
            // clippy lists some that rustc itself does not take from the environment as they are.
            return Err(format!("variable {} is not what rustc saw", String::from_utf8_lossy(name)));
        }
        found.push((name.clone(), value.as_deref().map(Digest::of)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
