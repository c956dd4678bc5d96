//! Results that other checkouts of the project can have.
//!
//! Beside its own record a result gets one for any checkout, if nothing in it shows where it was made. `docs/portable.md` has the
//! argument, this room the order of the steps:
//!
//! ```text
//! call ──▶ project, prefix maps ──▶ own manifests ──▶ Portable::of ──▶ manifests of any checkout
//!                                                                          │ nothing
//! inputs ──▶ Prepared::anywhere ──▶ own record, or that of any checkout ◀──┘
//!                                        │ nothing
//! result ──▶ own record ──▶ searched ──▶ texts ──▶ (compiler asked) ──▶ record and manifest of any checkout
//! ```
//!
//! What is the same anywhere is the *plain* form of a compile (`requester/plain.rs`); a call from a terminal has its result if the
//! compiler said nothing. Whatever cannot be judged has a record of its own only.

pub(super) mod project;
pub(super) mod routes;
mod texts;

use std::{
    io::{Seek as _, Write as _},
    path::Path,
    sync::{Arc, OnceLock},
};

use barn_cache::Store;
use barn_compilers::{
    Compile, Language, SideKind, SideOutput,
    portable::{Spelled, depfile, judge, prefix_maps, traces},
};
use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, Entry, Places, TreePath,
    action::{Blob, OutputFile},
};
use project::Project;
use texts::Unclear;
pub use texts::Wording;

use super::{
    Call, Done, Names, Prepared, Requester,
    call::source_directory,
    inputs::Inputs,
    lookup::{Direct, Sought},
    writers::Claim,
};

/// Largest output that is searched, in bytes; larger objects are rare and take longer to search than a hit may.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// A call as every checkout makes it.
#[derive(Debug)]
pub(super) struct Portable {
    places: Places,
    spelled: Spelled,
    /// The plain action's argv with marks.
    argv: Vec<Vec<u8>>,
    /// Which output is the dependency file.
    depfile: Option<usize>,
}

impl Portable {
    /// What is the same for `call` in every checkout of its project.
    ///
    /// # Errors
    /// Why its result may show where it was made.
    pub(super) fn of(call: &Call) -> Result<Self, String> {
        let sources = source_directory(&call.cwd, &call.compile);
        let places = places(&call.project, &call.cwd, &sources)?;
        let argv0 = call.stem.argv.first().cloned().unwrap_or_default();
        let own = [call.stem.program.as_bytes(), &argv0];
        let named = own.into_iter().chain(call.stem.env.values().map(Vec::as_slice));
        if named.into_iter().any(|bytes| traces::holds_place(bytes, &places)) {
            return Err("the compiler or its environment lies in the project".to_owned());
        }
        let spelled = judge(&call.compile, call.plain_args(), &places).map_err(|why| why.to_string())?;
        let argv = [&[argv0], spelled.argv.as_slice()].concat();
        let before = usize::from(call.compile.output.is_some());
        let is_depfile = |side: &SideOutput| side.kind == SideKind::Depfile;
        let depfile = call.compile.side_outputs.iter().position(is_depfile).map(|side| before + side);
        Ok(Self { places, spelled, argv, depfile })
    }

    /// The places of this checkout.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// A result of any checkout as it is in this one: with its own dependency file. `None` if that cannot be composed.
    pub(super) fn at_home(&self, mut done: Done, result: &ActionResult, store: &Store) -> Option<Done> {
        let is_depfile = |file: &OutputFile| self.is_depfile(file) && file.size > 0;
        let Some(at) = result.outputs.iter().position(is_depfile) else { return Some(done) };
        let neutral = store.read_blob(&result.outputs[at].digest)?;
        if !depfile::is_plain(&neutral) {
            let bytes = depfile::composed(&neutral, &self.places)?;
            let mut file = tempfile::tempfile().ok()?;
            file.write_all(&bytes).and_then(|()| file.rewind()).ok()?;
            let output = done.outputs.get_mut(at)?;
            (output.size, output.file) = (bytes.len() as u64, file);
        }
        Some(done)
    }

    /// The key of the call's action with these inputs.
    ///
    /// # Errors
    /// Why it has none.
    fn key(&self, call: &Call, action: &Action, inputs: &Inputs) -> Result<ActionKey, String> {
        if !inputs.complete {
            return Err("not all that it looked for is known".to_owned());
        }
        if inputs.not_scanned.is_some() && call.compile.language != Language::Assembler {
            return Err("the ways to its inputs are not known".to_owned());
        }
        if let Some(why) = inputs.routes.obstacle(&self.places, action.cwd.as_bytes(), &inputs.tree) {
            return Err(why);
        }
        if let Some((path, _)) = inputs.tree.iter().find(|(path, _)| self.places.is_beside(path.as_bytes())) {
            return Err(format!("{path} lies beside the project under a name that begins like it"));
        }
        let is_link = |(path, entry): (&TreePath, &Entry)| {
            matches!(entry, Entry::Symlink { .. }) && self.places.place_of(path.as_bytes()).is_some()
        };
        if self.spelled.system_directory && inputs.tree.iter().any(is_link) {
            return Err("links beside system headers of the project".to_owned());
        }
        Ok(self.places.key(action, &self.argv))
    }

    fn is_depfile(&self, file: &OutputFile) -> bool {
        self.depfile.is_some_and(|index| u32::try_from(index) == Ok(file.output))
    }
}

/// The flags that a project asks for, so that its objects are the same in all checkouts.
pub(super) fn maps(project: &Project, cwd: &Path, compile: &Compile) -> Vec<Vec<u8>> {
    if !project.portable_paths {
        return Vec::new();
    }
    places(project, cwd, &source_directory(cwd, compile))
        .map_or_else(|_| Vec::new(), |places| prefix_maps(compile.language, &places))
}

fn places(project: &Project, cwd: &Path, sources: &Path) -> Result<Places, String> {
    let root = project.root(cwd, sources);
    let path = |path: &Path| {
        TreePath::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    Places::new(path(&root)?, &path(cwd)?)
        .ok_or_else(|| format!("the name of {} or of the working directory is not plain", root.display()))
}

impl Prepared {
    /// The compile of `call` in any checkout, whose manifests have this name; why there is none, if so.
    pub(super) fn anywhere(
        call: &Arc<Call>,
        manifest_key: Option<Digest>,
        inputs: &Inputs,
        claim: &Arc<Claim>,
    ) -> Result<Arc<Self>, String> {
        let portable = call.portable()?;
        let own = manifest_key.ok_or("its source could not be read again")?;
        let action = Action { inputs: inputs.tree.clone(), ..call.stem.clone() };
        Ok(Arc::new(Self {
            key: portable.key(call, &action, inputs)?,
            call: call.clone(),
            action,
            names: Names { own, plain: None, anywhere: None },
            inputs: inputs.clone(),
            claim: claim.clone(),
            mark: OnceLock::new(),
            plain: None,
            anywhere: Err("it is in any checkout".to_owned()),
            is_anywhere: true,
            only_quiet: call.has_plain_form(),
        }))
    }

    /// What is the same in every checkout, if this is the compile in any.
    pub(super) fn as_anywhere(&self) -> Option<&Portable> {
        self.call.portable().ok().filter(|_| self.is_anywhere)
    }

    /// Whether others may wait for it: not if it is likely that nothing comes of it.
    pub(super) fn may_be_awaited(&self) -> bool {
        self.as_anywhere().is_none_or(|portable| !portable.spelled.names_files)
    }
}

impl Requester {
    /// Looks for a manifest of any checkout that holds in this one; what is being kept under its name is waited for.
    pub(super) async fn look_anywhere(self: &Arc<Self>, call: &Arc<Call>, direct: &mut Direct) {
        let (this, known) = (self.clone(), call.clone());
        let first = tokio::task::spawn_blocking(move || {
            let key = this.anywhere_manifest_key(&known)?;
            Some((key, this.keeper.is_settled(&key).then(|| this.anywhere_direct(&known, &key))))
        });
        let Some((key, found)) = first.await.ok().flatten() else { return };
        let found = match found {
            Some(found) => found,
            None => {
                self.keeper.settle(&key).await;
                let (this, known) = (self.clone(), call.clone());
                let late = tokio::task::spawn_blocking(move || this.anywhere_direct(&known, &key)).await;
                late.unwrap_or_default()
            }
        };
        direct.anywhere = Some(key);
        direct.hit = found.hit;
        direct.broken.extend(found.broken);
    }

    fn anywhere_manifest_key(&self, call: &Call) -> Option<Digest> {
        let portable = call.portable().ok()?;
        let source = self.files.known(&call.source_path(), |_, _| ()).ok()?;
        let stem = portable.places.key(&call.stem, &portable.argv);
        Some(Places::manifest_key(&stem, &call.manifest_source(source.blob.digest)))
    }

    fn anywhere_direct(&self, call: &Call, key: &Digest) -> Direct {
        let Ok(portable) = call.portable() else { return Direct::default() };
        let mut direct = self.by_manifests(Sought { call, key, anywhere: Some(portable) });
        direct.hit = direct.hit.filter(|done| !call.has_plain_form() || done.is_quiet());
        direct
    }

    /// Lets other checkouts have a result of this machine's making, whose own record is kept. Returns what is to be told of that.
    pub(super) fn share_anywhere(self: &Arc<Self>, prepared: &Prepared, result: &ActionResult) -> String {
        let alone = |why: &str| format!(", for this checkout alone: {why}");
        let form = match &prepared.anywhere {
            Ok(form) if form.is_served_by(result) => form,
            Ok(_) => return alone("it said something to a terminal"),
            Err(why) => return alone(why),
        };
        let shared = match self.without_places(form, result) {
            Ok(shared) => shared,
            Err(why) => return alone(&why),
        };
        let kept = match self.check_texts(form) {
            Ok(()) => self.keep_anywhere(form, shared),
            Err(Unclear::ToBeAsked(why)) => match self.ask_later(form.clone(), shared) {
                Ok(()) => return format!("; whether other checkouts can have it is still to be seen: {why}"),
                Err(why) => Err(why),
            },
            Err(Unclear::Never(why)) => Err(why),
        };
        kept.map_or_else(|why| alone(&why), |()| String::new())
    }

    /// Keeps a result without places, and lets the office have it.
    fn keep_anywhere(self: &Arc<Self>, form: &Prepared, result: ActionResult) -> Result<(), String> {
        let record = ActionRecord {
            key: form.key,
            result,
            producer: self.identity.id(),
            sandboxed: false,
            epoch: self.roster.epoch(),
        };
        self.remember(form, &record.result, &record.sign(&self.identity))
    }

    /// The result as other checkouts get it, its blobs in the store.
    fn without_places(&self, form: &Prepared, result: &ActionResult) -> Result<ActionResult, String> {
        let portable = form.call.portable()?;
        for blob in [result.stdout, result.stderr] {
            self.search(&blob, portable)?;
        }
        let mut outputs = Vec::with_capacity(result.outputs.len());
        for file in &result.outputs {
            let blob = Blob { digest: file.digest, size: file.size };
            if !portable.is_depfile(file) {
                self.search(&blob, portable)?;
                outputs.push(file.clone());
                continue;
            }
            let neutral = depfile::neutral(&self.bytes(&blob)?, form.call.compile.family, &portable.places);
            let neutral = neutral.ok_or("its dependency file cannot be made anew for other checkouts")?;
            let Blob { digest, size } = self.store.put_bytes(&neutral).map_err(|error| error.to_string())?;
            outputs.push(OutputFile { output: file.output, digest, size });
        }
        Ok(ActionResult { outputs, ..result.clone() })
    }

    fn search(&self, blob: &Blob, portable: &Portable) -> Result<(), String> {
        traces::search(&self.bytes(blob)?, &portable.places).map_err(|why| why.to_string())
    }

    fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, String> {
        match blob.size {
            0 => Ok(Vec::new()),
            1..=OUTPUT_BYTES_MAX => self
                .store
                .read_blob(&blob.digest)
                .ok_or_else(|| "an output is no longer in the store".to_owned()),
            _ => Err("an output is too large to be searched".to_owned()),
        }
    }
}
