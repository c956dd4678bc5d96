//! Results for other target directories: a published crate that was compiled for one checkout answers for the next.
//!
//! A result that does not show its target directory is kept a second time in **neutral form**: under the key of the call as it would
//! be in a directory that stands for all of them, with dependency list and messages likewise. A call that finds nothing of its own looks
//! for that one, puts its own directory in, looks at its own inputs, and keeps the result as its own: so this happens once
//! in each directory. `docs/rust.md` has the argument why it is right.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc};

use barn_compilers::rustc::{CrateKind, DepInfo, Place, RustFile, can_be_searched, has_plain_metadata};
use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, Entry, Tree, TreePath, action::Output,
    canonical::Canonical, keys::domain,
};
use serde::{Deserialize, Serialize};

use super::{
    Recalled,
    after::{Inputs, Variables},
    call::RustCall,
    listing::{Listing, Scope},
    manifest::RustManifest,
};
use crate::requester::{Requester, manifest::Absent, sight::Look};

/// Largest output that is searched for the directory, in bytes. Libraries with debug information seldom have a tenth of it.
const SEARCHED_BYTES_MAX: u64 = 256 << 20;

/// What one run depended on, in neutral form.
#[derive(Serialize, Deserialize)]
struct Neutral {
    tree: Tree,
    absent: Vec<Vec<u8>>,
    listings: Vec<Listing>,
    env: Variables,
    presentation: Option<Vec<Vec<u8>>>,
}

impl RustCall {
    /// The target directory, if the crate lies outside of it and it outside of the crate's working directory.
    fn place(&self) -> Option<Place> {
        let place = Place::of(&self.compile)?;
        place.is_beside(self.stem.cwd.as_bytes()).then_some(place)
    }
}

impl Requester {
    /// Keeps a result that was just kept for all target directories, if it shows nothing of its own; says why not. `None`: the call
    /// has no other place.
    pub(super) fn share_crate(
        &self,
        call: &RustCall,
        source: &Digest,
        inputs: &Inputs,
        dep_info: &DepInfo,
        result: &ActionResult,
    ) -> Option<Result<(), String>> {
        let place = call.place()?;
        let nowhere = Place::nowhere();
        let stem = moved_stem(&call.stem, &place, &nowhere)?;
        let share = || {
            is_unseen(call, &place, inputs, dep_info)?;
            let neutral = Neutral::of(inputs, &place, &nowhere).ok_or("an input names it in a link")?;
            let result = self.moved_result(call, result, &place, &nowhere)?;
            self.search_crate(call, &result, &place)?;
            let key = neutral.inputs(&nowhere, &nowhere).ok_or("its inputs are odd")?.key(&stem);
            let put = || {
                self.put_crate(&key, &stem.toolchain, result)?;
                let bytes = postcard::to_stdvec(&neutral).expect("encoding into memory does not fail");
                self.store.put_manifest(&neutral_key(&stem, source), &stem.toolchain, &bytes)
            };
            put().map_err(|error| error.to_string())
        };
        Some(share())
    }

    /// Looks for a result in neutral form whose inputs are those of this call, and makes it this call's own under `key`.
    pub(super) fn recall_elsewhere(&self, call: &RustCall, key: &Digest, source: &Digest) -> Recalled {
        let mut recalled = Recalled::default();
        let nowhere = Place::nowhere();
        let Some(place) = call.place() else { return recalled };
        let Some(stem) = moved_stem(&call.stem, &place, &nowhere) else { return recalled };
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        for bytes in self.store.manifests(&neutral_key(&stem, source)) {
            let Ok(neutral) = postcard::from_bytes::<Neutral>(&bytes) else { continue };
            let both = (neutral.inputs(&nowhere, &place), neutral.inputs(&nowhere, &nowhere));
            let (Some(own), Some(marked)) = both else { continue };
            let action = own.key(&call.stem);
            let manifest = RustManifest::new(action, &own);
            if let Some(why) = manifest.broken_by(call, &mut look, &self.files) {
                recalled.broken.push(format!("of another target directory: {why}"));
                continue;
            }
            let adopt = || {
                let result =
                    self.crate_record(&stem, &marked.key(&stem)).ok_or("it is not in the store any more")?;
                let result = self.moved_result(call, &result, &nowhere, &place)?;
                let put = || {
                    self.put_crate(&action, &stem.toolchain, result)?;
                    self.store.put_manifest(key, &stem.toolchain, &manifest.encode())
                };
                put().map_err(|error| error.to_string())
            };
            match adopt() {
                Ok(()) => recalled.hit = self.stored_crate(call, &action),
                Err(why) => recalled.broken.push(format!("of another target directory: {why}")),
            }
            if recalled.hit.is_some() {
                break;
            }
        }
        recalled
    }

    /// Stores a result under a key.
    pub(super) fn put_crate(
        &self,
        key: &ActionKey,
        toolchain: &Digest,
        result: ActionResult,
    ) -> Result<(), barn_cache::StoreError> {
        let blobs: Vec<Digest> = ActionResult::blobs(&result).map(|blob| blob.digest).collect();
        let record = ActionRecord {
            key: *key,
            result,
            producer: self.identity.id(),
            sandboxed: false,
            epoch: self.roster.epoch(),
        };
        self.store.put_record(key, toolchain, &record.sign(&self.identity), &blobs)
    }

    /// A result with the dependency list and the messages that it would have in the other place.
    fn moved_result(
        &self,
        call: &RustCall,
        result: &ActionResult,
        place: &Place,
        to: &Place,
    ) -> Result<ActionResult, String> {
        let mut moved = result.clone();
        if result.stdout.size != 0 {
            return Err("it wrote to standard output".to_owned());
        }
        let gone = "a part of it is not in the store any more";
        let messages = match result.stderr.size {
            0 => Vec::new(),
            _ => self.store.read_blob(&result.stderr.digest).ok_or(gone)?,
        };
        let messages = place.moved_messages(&messages, to).ok_or("it has messages")?;
        moved.stderr = self.store.put_bytes(&messages).map_err(|error| error.to_string())?;
        for output in &mut moved.outputs {
            if usize::try_from(output.output) != Ok(call.compile.dep_info) {
                continue;
            }
            let list = self.store.read_blob(&output.digest).ok_or(gone)?;
            let list = place.moved_list(&list, to).ok_or("its dependency list names it among the sources")?;
            let blob = self.store.put_bytes(&list).map_err(|error| error.to_string())?;
            (output.digest, output.size) = (blob.digest, blob.size);
        }
        Ok(moved)
    }

    /// Finds that no output shows the place.
    fn search_crate(&self, call: &RustCall, result: &ActionResult, place: &Place) -> Result<(), String> {
        let holds_metadata = |kind: &CrateKind| matches!(kind, CrateKind::Dylib | CrateKind::ProcMacro);
        let linked_metadata = call.compile.kinds.iter().any(holds_metadata);
        for file in &result.outputs {
            let output = usize::try_from(file.output).ok().and_then(|index| call.compile.outputs.get(index));
            let output = output.ok_or("an output was not asked for")?;
            let name = || String::from_utf8_lossy(&output.path);
            if file.size > SEARCHED_BYTES_MAX {
                return Err(format!("{} is too large to be searched", name()));
            }
            let bytes = self.store.read_blob(&file.digest).ok_or("an output is not in the store any more")?;
            if place.shows_in(&bytes) {
                return Err(format!("{} shows it", name()));
            }
            if linked_metadata && output.kind == RustFile::Program && !has_plain_metadata(&bytes) {
                return Err(format!("{} cannot be searched", name()));
            }
        }
        Ok(())
    }
}

impl Neutral {
    fn of(inputs: &Inputs, place: &Place, to: &Place) -> Option<Self> {
        let absent =
            inputs.absent.sorted().iter().map(|path| place.moved_path(path, to)).collect::<Option<_>>()?;
        Some(Self {
            tree: moved_tree(&inputs.tree, place, to)?,
            absent,
            listings: moved_listings(&inputs.listings, place, to)?,
            env: inputs.env.clone(),
            presentation: inputs.presentation.clone(),
        })
    }

    fn inputs(&self, place: &Place, to: &Place) -> Option<Inputs> {
        let mut absent = Absent::default();
        for path in &self.absent {
            absent.add(&place.moved_path(path, to)?);
        }
        Some(Inputs {
            tree: Arc::new(moved_tree(&self.tree, place, to)?),
            absent,
            listings: moved_listings(&self.listings, place, to)?,
            env: self.env.clone(),
            presentation: self.presentation.clone(),
        })
    }
}

fn neutral_key(stem: &Action, source: &Digest) -> Digest {
    Canonical::new(domain::RUST_NEUTRAL_MANIFEST).digest(&stem.key().0).digest(source).finish()
}

/// Finds that what rustc read and was told does not lead the place into the outputs.
fn is_unseen(call: &RustCall, place: &Place, inputs: &Inputs, dep_info: &DepInfo) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(place.path()));
    if fs::canonicalize(path).ok().as_deref() != Some(path) {
        return Err("it is reached through a link".to_owned());
    }
    if dep_info.files.iter().any(|file| place.shows_in(file)) {
        return Err("a source lies in it".to_owned());
    }
    let shows = |value: &Option<Vec<u8>>| value.as_ref().is_some_and(|value| place.shows_in(value));
    if let Some((name, _)) = dep_info.env.iter().find(|(_, value)| shows(value)) {
        return Err(format!("the source asks for {}", String::from_utf8_lossy(name)));
    }
    let macros_run = inputs.listings.iter().any(|listing| listing.scope == Scope::Package);
    if !can_be_searched(&call.compile, macros_run) {
        return Err("macros run, and the code is not made yet".to_owned());
    }
    Ok(())
}

fn moved_stem(stem: &Action, place: &Place, to: &Place) -> Option<Action> {
    let same = |path: &TreePath| place.moved_path(path.as_bytes(), to).is_some_and(|p| p == path.as_bytes());
    if !same(&stem.program) || !same(&stem.cwd) {
        return None;
    }
    let output =
        |output: &Output| Some(Output { path: moved(&output.path, place, to)?, optional: output.optional });
    Some(Action {
        argv: place.moved_args(&stem.argv, to)?,
        env: place.moved_env(&stem.env, to)?,
        outputs: stem.outputs.iter().map(output).collect::<Option<_>>()?,
        ..stem.clone()
    })
}

fn moved_tree(tree: &Tree, place: &Place, to: &Place) -> Option<Tree> {
    let mut elsewhere = Tree::new();
    for (path, entry) in tree.iter() {
        if matches!(entry, Entry::Symlink { target } if place.shows_in(target)) {
            return None;
        }
        elsewhere.insert(moved(path, place, to)?, entry.clone()).ok()?;
    }
    Some(elsewhere)
}

fn moved_listings(listings: &[Listing], place: &Place, to: &Place) -> Option<Vec<Listing>> {
    let moved =
        |listing: &Listing| Some(Listing { path: place.moved_path(&listing.path, to)?, ..listing.clone() });
    listings.iter().map(moved).collect()
}

fn moved(path: &TreePath, place: &Place, to: &Place) -> Option<TreePath> {
    TreePath::new(place.moved_path(path.as_bytes(), to)?).ok()
}
