//! The requester: from one call of the wrapper to its answer.
//!
//! ```text
//! call ─▶ classify ─▶ toolchain ─▶ include manifest ─▶ find inputs ─▶ store ─▶ office ─▶ place ─▶ worker ─▶ result
//!            │            │              │hit              │            │hit      │hit     │         │
//!            ▼            ▼              ▼                 ▼            ▼         ▼        ▼         ▼ any trouble
//!          exec         exec           result            exec        result    result   compile   elsewhere, then compile
//! ```
//!
//! `exec`: the wrapper becomes the compiler. `compile`: the wrapper runs it and hands the outputs over.
//! Dropping the future of [`Requester::answer`] cancels everything that was begun for it.

mod call;
pub mod dialects;
pub mod dispatch;
pub mod files;
pub mod inputs;
pub mod keep;
pub mod layout;
mod local;
mod manifest;
pub mod obstacle;
mod office;
mod place;
mod portable;
mod project;
pub mod recollection;
mod remote;
mod routes;
pub mod sight;
mod story;
mod tries;
pub mod writers;

use std::{
    fs::File,
    sync::{Arc, OnceLock},
};

use barn_cache::{Store, StoreError};
use barn_mesh::{Mesh, RosterCell};
use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, Identity, NodeId,
    action::{Blob, Output, RECORD_CONTEXT},
    identity::SignedBytes,
};
pub use call::Call;
use call::{Compilers, Understood, understand};
use dispatch::Dispatch;
use files::Files;
use inputs::{FindInputs as _, Inputs, Unknown, scan::IncludeScan};
use keep::{Keep, Keeper};
pub use local::LocalRun;
use manifest::{Manifest, manifest_key};
use obstacle::Obstacle;
use portable::Portable;
pub use portable::Wording;
pub(crate) use remote::Carrier;
use remote::Returned;
use sight::{Look, Sight};
use story::Story;
use writers::{Claim, Writers};

use crate::{
    blobs::Arrived,
    history::History,
    office_cache::{Mark, OfficeCache},
    stats::Stats,
    toolchain::{
        ToolchainIndex,
        locale::Locales,
        stand_in::{StandIn, StandIns},
    },
};

/// What the wrapper is told.
pub enum Answer {
    /// Become the compiler.
    Exec,
    /// Here is the result; its outputs are claimed until the wrapper has written them. Then the last part is to be begun.
    Done(Done, Arc<Claim>, Option<Keep>),
    /// Run the compiler and report.
    Compile(Box<LocalRun>),
}

/// A result ready to be written by the wrapper.
#[derive(Debug)]
pub struct Done {
    /// The compiler's standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The outputs: where to write, how many bytes, from what.
    pub outputs: Vec<(Vec<u8>, u64, File)>,
}

/// Everything requests share.
pub struct Requester {
    /// This node's key, which signs records of local compiles.
    pub identity: Identity,
    /// The roster in force.
    pub roster: RosterCell,
    /// The store.
    pub store: Store,
    /// The way to workers.
    pub mesh: Mesh,
    /// What workers are believed to have.
    pub(crate) carrier: Carrier,
    /// What others have compiled.
    pub(crate) office: Arc<OfficeCache>,
    /// Where actions run.
    pub dispatch: Dispatch,
    /// The compilers of this machine.
    pub toolchains: Arc<ToolchainIndex>,
    /// What stands in for some of them.
    pub stand_ins: Arc<StandIns>,
    /// How the user's locale is spoken elsewhere.
    pub locales: Locales,
    /// Digests of files.
    pub files: Arc<Files>,
    /// What directories hold.
    pub sight: Arc<Sight>,
    /// Who writes which output now.
    pub writers: Arc<Writers>,
    /// Results that are not in the store yet.
    pub keeper: Arc<Keeper>,
    /// How inputs are found.
    pub finder: IncludeScan,
    /// What texts say of where they are.
    pub wording: Wording,
    /// The counters.
    pub stats: Arc<Stats>,
    /// What `barn explain` tells.
    pub history: Arc<History>,
}

/// A compile whose action is known.
struct Prepared {
    call: Arc<Call>,
    action: Action,
    key: ActionKey,
    /// The key in any checkout, or why there is none.
    portable_key: Result<ActionKey, String>,
    names: Names,
    inputs: Inputs,
    claim: Arc<Claim>,
    /// Others in the office may wait for it.
    marks: OnceLock<Arc<Vec<Mark>>>,
}

/// The names of a call's include manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    exact: Digest,
    /// In any checkout; `None` if none can be shared, or before anybody asked.
    portable: Option<Digest>,
}

impl Names {
    fn all(self) -> impl Iterator<Item = Digest> {
        [Some(self.exact), self.portable].into_iter().flatten()
    }
}

impl Prepared {
    fn new(call: Arc<Call>, names: Names, inputs: Inputs, claim: Arc<Claim>) -> Self {
        let mut action = call.stem.clone();
        action.inputs = inputs.tree.clone();
        let portable_key = call.portable().and_then(|portable| portable.key(&action, &call, &inputs));
        let marks = OnceLock::new();
        Self { key: action.key(), portable_key, action, names, inputs, call, claim, marks }
    }

    /// The same compile with other inputs.
    fn with(&self, inputs: Inputs) -> Self {
        Self::new(self.call.clone(), self.names, inputs, self.claim.clone())
    }

    /// Whether its result is the same on every machine: all that it depends on is in the key.
    fn may_be_shared(&self) -> bool {
        self.call.may_travel() && self.inputs.complete
    }
}

impl Requester {
    /// Answers one call of the wrapper.
    pub async fn answer(self: &Arc<Self>, request: barn_wrapper::messages::Request) -> Answer {
        self.stats.count(|c| c.requests.total += 1);
        let mut story = Story::begin(&request, self.history.clone());
        let this = self.clone();
        let understand = move || {
            let Self { toolchains, stand_ins, locales, .. } = &*this;
            understand(&request, Compilers { toolchains, stand_ins, locales })
        };
        let understood = tokio::task::spawn_blocking(understand).await;
        match understood {
            Ok(Understood::Call(call)) => self.answer_compile(Arc::new(*call), story).await,
            Ok(Understood::Other(what)) => {
                self.stats.count(|c| c.requests.other += 1);
                story.tell(format!("no compile ({what}): the wrapper became the compiler"));
                story.end("uncached");
                Answer::Exec
            }
            Ok(Understood::Local(reason)) => self.exec(story, &reason),
            Err(_) => self.exec(story, &Unknown::because(Obstacle::Internal, "the classification panicked")),
        }
    }

    /// Lets the wrapper become the compiler, counting why.
    fn exec(&self, mut story: Story, reason: &Unknown) -> Answer {
        self.stats.count(|c| c.requests.local += 1);
        self.stats.count_named(|c| &mut c.local_reasons, reason.name);
        story.tell(format!("ran locally, uncached: {} ({})", reason.detail, reason.name));
        story.end("uncached");
        Answer::Exec
    }

    async fn answer_compile(self: &Arc<Self>, call: Arc<Call>, mut story: Story) -> Answer {
        story.about(&call);
        if let Some(StandIn { name, driver, .. }) = &call.stand_in {
            story.tell(format!("elsewhere {driver} of {name} stands in for {}", call.program.display()));
        }
        let claim = self.writers.claim(call.stem.outputs.iter().map(|output| output.path.clone()));
        let (names, direct) = match self.look_up(&call).await {
            Ok(found) => found,
            Err(reason) => return self.exec(story, &reason),
        };
        if let Some(done) = direct.hit {
            self.count_call(&call);
            let whose = if names.portable.is_some() { "an include manifest of any checkout" } else { "the include manifest" };
            story.tell(format!("hit in this machine's store: {whose} holds"));
            return self.hit(&call, done, claim, story);
        }
        if let Some(trouble) = &call.project.trouble {
            story.tell(format!("the project's settings are not used: {trouble}"));
        }
        direct.broken.iter().for_each(|why| story.tell(format!("an include manifest does not hold: {why}")));
        let finding = self.dispatch.finding().await;
        let inputs = match self.finder.find(call.clone()).await {
            Ok(inputs) => inputs,
            Err(reason) => return self.exec(story, &reason),
        };
        if let Some(why) = &inputs.not_scanned {
            story.tell(format!("asked the compiler what it includes: {} ({})", why.detail, why.name));
        }
        self.count_call(&call);
        let prepared = Arc::new(Prepared::new(call, names, inputs, claim));
        story.tell(format!("found {} inputs; action {}", prepared.inputs.witnesses.len(), prepared.key));
        if let Err(why) = &prepared.portable_key {
            story.tell(format!("for this checkout alone: {why}"));
        }
        let (this, known) = (self.clone(), prepared.clone());
        let stored = tokio::task::spawn_blocking(move || this.done_before(&known));
        if let Ok(Some((done, whose))) = stored.await {
            story.tell(format!("hit in this machine's store: the same action was done before{whose}"));
            return self.hit(&prepared.call, done, prepared.claim.clone(), story);
        }
        // Whoever waits for others does not keep this machine's searches waiting.
        drop(finding);
        if let Some(answer) = self.from_office(&prepared, &mut story).await {
            story.end("hit");
            return answer;
        }
        self.stats.count(|c| c.misses += 1);
        self.stats.count_language(prepared.call.language(), |language| language.misses += 1);
        self.place(prepared, story).await
    }

    fn count_call(&self, call: &Call) {
        self.stats.count(|c| match &call.cache_only {
            None => c.requests.distributable += 1,
            Some(_) => c.requests.cache_only += 1,
        });
    }

    fn hit(&self, call: &Call, done: Done, claim: Arc<Claim>, story: Story) -> Answer {
        self.stats.count(|c| c.hits.local += 1);
        self.stats.count_language(call.language(), |language| language.hits += 1);
        story.end("hit");
        Answer::Done(done, claim, None)
    }

    /// The names of the call's manifests, and what they give; what is being kept under them is waited for. Those of any checkout are
    /// asked when this one's own give nothing.
    async fn look_up(self: &Arc<Self>, call: &Arc<Call>) -> Result<(Names, Direct), Unknown> {
        let panicked = |_| Unknown::because(Obstacle::Internal, "the look-up panicked");
        let (this, known) = (self.clone(), call.clone());
        let (exact, source) =
            tokio::task::spawn_blocking(move || this.manifest_key(&known)).await.map_err(panicked)??;
        self.keeper.settle(&exact).await;
        let (this, known) = (self.clone(), call.clone());
        let look = move || {
            let direct = this.direct(&known, &exact, None);
            let portable = if direct.hit.is_some() { None } else { known.portable().ok() };
            (direct, portable.map(|portable| portable.manifest_key(&known, &source)))
        };
        let (mut direct, portable) = tokio::task::spawn_blocking(look).await.map_err(panicked)?;
        if let Some(name) = portable {
            self.keeper.settle(&name).await;
            let (this, known) = (self.clone(), call.clone());
            let look = move || this.direct(&known, &name, known.portable().ok());
            let of_any = tokio::task::spawn_blocking(look).await.map_err(panicked)?;
            direct.hit = of_any.hit;
            direct.broken.extend(of_any.broken);
        }
        Ok((Names { exact, portable }, direct))
    }

    /// The name of this checkout's own manifests, and under what name the source is known.
    fn manifest_key(&self, call: &Call) -> Result<(Digest, Digest), Unknown> {
        let source = call.source_path();
        let known = self.files.known(&source, |_, _| ()).map_err(|error| {
            Unknown::because(Obstacle::Source, format_args!("{}: {error}", source.display()))
        })?;
        let source = call.manifest_source(known.blob.digest);
        Ok((manifest_key(&call.stem, &source), source))
    }

    /// Looks for a manifest that holds; with `portable` for one of any checkout.
    fn direct(&self, call: &Call, key: &Digest, portable: Option<&Portable>) -> Direct {
        let mut direct = Direct::default();
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        for bytes in self.store.manifests(key) {
            let Some(manifest) = Manifest::decode(&bytes) else { continue };
            let broken = match portable.map(|portable| manifest.unmarked(portable.places())) {
                None => manifest.broken_by(&mut look),
                Some(Some(paths)) => manifest.with_paths(&paths).broken_by(&mut look),
                Some(None) => continue,
            };
            match broken {
                None => {
                    direct.hit = self.stored(call, &manifest.action, portable);
                    break;
                }
                Some(why) => direct.broken.push(why),
            }
        }
        direct
    }

    /// The stored result of the same action, here or in another checkout, and what is to be told of it. Its manifest is remembered.
    fn done_before(&self, prepared: &Prepared) -> Option<(Done, &'static str)> {
        let is_unchanged = || self.changed(prepared).is_none();
        if let Some(done) = self.stored(&prepared.call, &prepared.key, None) {
            if is_unchanged() {
                self.remember_manifest(prepared);
            }
            return Some((done, ""));
        }
        let key = *prepared.portable_key.as_ref().ok()?;
        let done = self.stored(&prepared.call, &key, prepared.call.portable().ok())?;
        if is_unchanged() {
            self.remember_portable_manifest(prepared, key);
        }
        Some((done, " in another checkout"))
    }

    /// The stored result of an action, if it is whole; with `portable` one of any checkout.
    fn stored(&self, call: &Call, key: &ActionKey, portable: Option<&Portable>) -> Option<Done> {
        let record = self.store.record(key)?;
        let record: ActionRecord = postcard::from_bytes(record.unverified_payload()).ok()?;
        if record.key != *key || record.result.exit_code != 0 {
            return None;
        }
        self.done(&call.stem.outputs, call, &record.result, portable)
    }

    /// A result whose blobs are in the store, ready for the wrapper; with `portable` one of any checkout.
    fn done(
        &self,
        outputs: &[Output],
        call: &Call,
        result: &ActionResult,
        portable: Option<&Portable>,
    ) -> Option<Done> {
        let whole =
            |blob: &Blob| if blob.size == 0 { Some(Vec::new()) } else { self.store.read_blob(&blob.digest) };
        let mut files = Vec::with_capacity(result.outputs.len());
        for file in &result.outputs {
            let index = usize::try_from(file.output).ok().filter(|index| *index < outputs.len())?;
            let written_as = call.output_names.get(index)?.clone();
            let (size, contents) = match portable.filter(|portable| portable.is_depfile(index)) {
                Some(portable) => portable.depfile(&self.store.read_blob(&file.digest)?)?,
                None => (file.size, self.store.open_blob(&file.digest)?),
            };
            files.push((written_as, size, contents));
        }
        Some(Done { stdout: whole(&result.stdout)?, stderr: whole(&result.stderr)?, outputs: files })
    }

    async fn remote_done(
        self: &Arc<Self>,
        prepared: Arc<Prepared>,
        returned: Returned,
        worker: &str,
        mut story: Story,
    ) -> Answer {
        self.stats.count(|c| c.compiles.remote += 1);
        self.stats.count_peer(worker, |traffic| traffic.sent += 1);
        let Some(done) = came_back(&prepared.call, &returned) else {
            self.stats.count_named(|c| &mut c.fallbacks, "store-failed");
            story.tell("the store lost the result of the worker: ran locally".to_owned());
            story.end("uncached");
            return Answer::Exec;
        };
        let Some(place) = self.keeper.reserve(prepared.names.all()).await else {
            story.tell(format!("compiled by {worker}, not kept: too many results wait for that"));
            story.end("remote");
            return Answer::Done(done, prepared.claim.clone(), None);
        };
        let (this, known, worker) = (self.clone(), prepared.clone(), worker.to_owned());
        let keep = place.fill(move || {
            story.tell(match this.take_in(&known, returned) {
                Ok(note) => format!("compiled by {worker} and kept{note}"),
                Err(why) => format!("compiled by {worker}, not kept: {why}"),
            });
            story.end("remote");
        });
        Answer::Done(done, prepared.claim.clone(), Some(keep))
    }

    /// Keeps what a worker sent, unless something changed since it was looked at; says why not. See [`Requester::remember`].
    fn take_in(self: &Arc<Self>, prepared: &Arc<Prepared>, returned: Returned) -> Result<String, String> {
        let Returned { result, record, stdout, stderr, outputs, .. } = returned;
        let put = || {
            [&stdout, &stderr].into_iter().try_for_each(|bytes| self.store.put_bytes(bytes).map(drop))?;
            outputs.into_iter().try_for_each(Arrived::keep)
        };
        put().map_err(|error: StoreError| error.to_string())?;
        self.remember(prepared, &result, &record)
    }

    /// Keeps a result that was made for this machine, and lets the office have it. Returns what is to be told of it beside that it was
    /// kept.
    fn remember(
        self: &Arc<Self>,
        prepared: &Arc<Prepared>,
        result: &ActionResult,
        record: &SignedBytes,
    ) -> Result<String, String> {
        self.keep(prepared, &prepared.key, result, record)?;
        Ok(self.remember_portable(prepared, result, record))
    }

    /// Lets the office have a result, if it may be shared: by its exact record and, if there is one, its portable record.
    fn publish(self: &Arc<Self>, prepared: &Prepared, exact: &SignedBytes, portable: Option<SignedBytes>) {
        if !prepared.may_be_shared() {
            return;
        }
        // Whoever would find the exact record is in the same place and finds the portable one; but what a worker signed is believed
        // by more.
        let is_ours = exact.verified(RECORD_CONTEXT, &self.identity.id()).is_some();
        let exact = (portable.is_none() || !is_ours).then(|| exact.clone());
        let records: Vec<SignedBytes> = exact.into_iter().chain(portable).collect();
        let (office, toolchain) = (self.office.clone(), prepared.action.toolchain);
        // Nobody waits for it; and nobody is told that it was given up before it is done.
        let marks = prepared.marks.get().cloned();
        tokio::task::spawn_blocking(move || {
            records.iter().for_each(|record| office.made(record, toolchain));
            drop(marks);
        });
    }

    /// Keeps a result under a key, unless something changed since it was looked at; says why not.
    fn keep(
        &self,
        prepared: &Prepared,
        key: &ActionKey,
        result: &ActionResult,
        record: &SignedBytes,
    ) -> Result<(), String> {
        if let Some(why) = self.changed(prepared) {
            self.stats.count_named(|c| &mut c.fallbacks, "input-changed");
            return Err(why);
        }
        let blobs: Vec<Digest> = result.blobs().map(|blob| blob.digest).collect();
        let stored = self.store.put_record(key, &prepared.action.toolchain, record, &blobs);
        if let Err(error) = stored {
            let source = &error as &dyn std::error::Error;
            tracing::warn!(error = source, "a result was not stored");
            return Err(error.to_string());
        }
        if *key == prepared.key {
            self.remember_manifest(prepared);
        } else {
            self.remember_portable_manifest(prepared, *key);
        }
        Ok(())
    }

    /// What of the compiler or the inputs is not what it was when the action was prepared.
    fn changed(&self, prepared: &Prepared) -> Option<String> {
        let call = &prepared.call;
        if self.is_unchanged(call) {
            let mut look = Look::new(&self.sight, &self.files, &call.cwd);
            return prepared.inputs.changed(&self.files, &mut look);
        }
        Some(format!("the compiler {} has changed", call.program.display()))
    }

    /// Whether the compiler, or what stands in for it, is what it was.
    fn is_unchanged(&self, call: &Call) -> bool {
        match &call.stand_in {
            Some(known) => self.stand_ins.find(&call.program).is_some_and(|now| now.as_ref() == Ok(known)),
            None => {
                let now = self.toolchains.resolve(&call.program, &call.search_path());
                now.is_ok_and(|known| known.digest == call.stem.toolchain)
            }
        }
    }

    fn remember_manifest(&self, prepared: &Prepared) {
        if !prepared.inputs.complete {
            return;
        }
        let manifest = prepared.inputs.manifest(prepared.key);
        let toolchain = &prepared.action.toolchain;
        if let Err(error) = self.store.put_manifest(&prepared.names.exact, toolchain, &manifest.encode()) {
            let source = &error as &dyn std::error::Error;
            tracing::warn!(error = source, "an include manifest was not stored");
        }
    }

    fn name_of(&self, peer: &NodeId) -> String {
        let roster = self.roster.current();
        let member = roster.as_ref().and_then(|roster| roster.roster().member(peer));
        member.map_or_else(|| peer.short(), |member| member.name.clone())
    }
}

/// What a worker sent, ready for the wrapper.
fn came_back(call: &Call, returned: &Returned) -> Option<Done> {
    let mut outputs = Vec::with_capacity(returned.outputs.len());
    for (of, arrived) in returned.result.outputs.iter().zip(&returned.outputs) {
        let written_as = call.output_names.get(usize::try_from(of.output).ok()?)?.clone();
        outputs.push((written_as, of.size, arrived.open().ok()?));
    }
    Some(Done { stdout: returned.stdout.clone(), stderr: returned.stderr.clone(), outputs })
}

/// What the look at include manifests gave.
#[derive(Default)]
struct Direct {
    hit: Option<Done>,
    broken: Vec<String>,
}
