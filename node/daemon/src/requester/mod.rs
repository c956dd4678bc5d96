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
pub mod recollection;
mod remote;
mod rust;
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
    Action, ActionKey, ActionRecord, ActionResult, Digest, Identity, NodeId, action::Blob,
    identity::SignedBytes,
};
use barn_wrapper::messages::Manner;
pub use call::Call;
use call::{Compilers, Understood, understand};
use dispatch::Dispatch;
use files::Files;
use inputs::{FindInputs as _, Inputs, Unknown, scan::IncludeScan};
use keep::{Keep, Keeper};
pub use local::{LocalRun, LocalWork};
use manifest::{Manifest, manifest_key};
use obstacle::Obstacle;
pub(crate) use remote::Carrier;
use remote::Returned;
pub use rust::{Answers, Closures};
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
        tools::Tools,
    },
};

/// What the wrapper is told.
pub enum Answer {
    /// Become the compiler.
    Exec,
    /// Here is the result; its outputs are claimed until the wrapper has written them. Then the last part is to be begun.
    Done(Done, Arc<Claim>, Option<Keep>),
    /// Run the compiler and report.
    Compile(Box<dyn LocalWork>),
}

/// A result ready to be written by the wrapper.
#[derive(Debug)]
pub struct Done {
    /// The compiler's standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The outputs.
    pub outputs: Vec<DoneOutput>,
}

/// One output of a result.
#[derive(Debug)]
pub struct DoneOutput {
    /// Where to write.
    pub target: Target,
    /// How many bytes.
    pub size: u64,
    /// From what.
    pub file: File,
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the user calls it.
    pub name: Vec<u8>,
    /// How the compiler would write it.
    pub manner: Manner,
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
    /// The Rust compilers and the linkers of this machine.
    pub tools: Arc<Tools>,
    /// Rust libraries that are being made.
    pub closures: Arc<Closures>,
    /// What the Rust compilers said.
    pub answers: Arc<Answers>,
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
    manifest_key: Digest,
    inputs: Inputs,
    claim: Arc<Claim>,
    /// Others in the office may wait for it.
    mark: OnceLock<Arc<Mark>>,
}

impl Prepared {
    fn new(call: Arc<Call>, manifest_key: Digest, inputs: Inputs, claim: Arc<Claim>) -> Self {
        let mut action = call.stem.clone();
        action.inputs = inputs.tree.clone();
        Self { key: action.key(), action, manifest_key, inputs, call, claim, mark: OnceLock::new() }
    }

    /// The same compile with other inputs.
    fn with(&self, inputs: Inputs) -> Self {
        Self::new(self.call.clone(), self.manifest_key, inputs, self.claim.clone())
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
            let Self { toolchains, stand_ins, locales, tools, .. } = &*this;
            understand(&request, Compilers { toolchains, stand_ins, locales, tools })
        };
        let understood = tokio::task::spawn_blocking(understand).await;
        match understood {
            Ok(Understood::Call(call)) => self.answer_compile(Arc::new(*call), story).await,
            Ok(Understood::Rust(call)) => self.answer_rust(Arc::new(*call), story).await,
            Ok(Understood::Question(question)) => self.answer_question(*question, story),
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
        let (looked_up, direct) = match self.look_up(&call).await {
            Ok(found) => found,
            Err(reason) => return self.exec(story, &reason),
        };
        if let Some(done) = direct.hit {
            self.count_call(&call);
            story.tell("hit in this machine's store: the include manifest holds".to_owned());
            return self.hit(&call, done, claim, story);
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
        let prepared = Arc::new(Prepared::new(call, looked_up, inputs, claim));
        story.tell(format!("found {} inputs; action {}", prepared.inputs.witnesses.len(), prepared.key));
        let this = self.clone();
        let known = prepared.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let done = this.stored(&known.call, &known.key)?;
            if this.changed(&known).is_none() {
                this.remember_manifest(&known);
            }
            Some(done)
        });
        if let Ok(Some(done)) = stored.await {
            story.tell("hit in this machine's store: the same action was done before".to_owned());
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

    /// The name of the call's manifests, and what they give; what is being kept under it is waited for.
    async fn look_up(self: &Arc<Self>, call: &Arc<Call>) -> Result<(Digest, Direct), Unknown> {
        let panicked = |_| Unknown::because(Obstacle::Internal, "the look-up panicked");
        let (this, known) = (self.clone(), call.clone());
        let key =
            tokio::task::spawn_blocking(move || this.manifest_key(&known)).await.map_err(panicked)??;
        self.keeper.settle(&key).await;
        let (this, known) = (self.clone(), call.clone());
        let direct =
            tokio::task::spawn_blocking(move || this.direct(&known, &key)).await.map_err(panicked)?;
        Ok((key, direct))
    }

    fn manifest_key(&self, call: &Call) -> Result<Digest, Unknown> {
        let source = call.source_path();
        let known = self.files.known(&source, |_, _| ()).map_err(|error| {
            Unknown::because(Obstacle::Source, format_args!("{}: {error}", source.display()))
        })?;
        Ok(manifest_key(&call.stem, &call.manifest_source(known.blob.digest)))
    }

    /// Looks for a manifest that holds.
    fn direct(&self, call: &Call, key: &Digest) -> Direct {
        let mut direct = Direct::default();
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        for manifest in self.store.manifests(key).iter().filter_map(|bytes| Manifest::decode(bytes)) {
            match manifest.broken_by(&mut look) {
                None => {
                    direct.hit = self.stored(call, &manifest.action);
                    break;
                }
                Some(why) => direct.broken.push(why),
            }
        }
        direct
    }

    /// The stored result of an action, if it is whole.
    fn stored(&self, call: &Call, key: &ActionKey) -> Option<Done> {
        let record = self.store.record(key)?;
        let record: ActionRecord = postcard::from_bytes(record.unverified_payload()).ok()?;
        if record.key != *key || record.result.exit_code != 0 {
            return None;
        }
        self.done(&call.targets(), &record.result)
    }

    /// A result whose blobs are in the store, ready for the wrapper.
    fn done(&self, targets: &[Target], result: &ActionResult) -> Option<Done> {
        let whole =
            |blob: &Blob| if blob.size == 0 { Some(Vec::new()) } else { self.store.read_blob(&blob.digest) };
        let mut files = Vec::with_capacity(result.outputs.len());
        for file in &result.outputs {
            let target = targets.get(usize::try_from(file.output).ok()?)?.clone();
            files.push(DoneOutput { target, size: file.size, file: self.store.open_blob(&file.digest)? });
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
        let Some(place) = self.keeper.reserve(prepared.manifest_key).await else {
            story.tell(format!("compiled by {worker}, not kept: too many results wait for that"));
            story.end("remote");
            return Answer::Done(done, prepared.claim.clone(), None);
        };
        let (this, known, worker) = (self.clone(), prepared.clone(), worker.to_owned());
        let keep = place.fill(move || {
            story.tell(match this.take_in(&known, returned) {
                Ok(()) => format!("compiled by {worker} and kept"),
                Err(why) => format!("compiled by {worker}, not kept: {why}"),
            });
            story.end("remote");
        });
        Answer::Done(done, prepared.claim.clone(), Some(keep))
    }

    /// Keeps what a worker sent, unless something changed since it was looked at; says why not.
    fn take_in(self: &Arc<Self>, prepared: &Prepared, returned: Returned) -> Result<(), String> {
        let Returned { result, record, stdout, stderr, outputs, .. } = returned;
        let put = || {
            [&stdout, &stderr].into_iter().try_for_each(|bytes| self.store.put_bytes(bytes).map(drop))?;
            outputs.into_iter().try_for_each(Arrived::keep)
        };
        put().map_err(|error: StoreError| error.to_string())?;
        self.remember(prepared, &result, &record)
    }

    /// Keeps a result that was made for this machine, and lets the office have it.
    fn remember(
        self: &Arc<Self>,
        prepared: &Prepared,
        result: &ActionResult,
        record: &SignedBytes,
    ) -> Result<(), String> {
        self.keep(prepared, result, record)?;
        if prepared.may_be_shared() {
            let (office, record, toolchain) =
                (self.office.clone(), record.clone(), prepared.action.toolchain);
            // Nobody waits for it; and nobody is told that it was given up before it is done.
            let mark = prepared.mark.get().cloned();
            tokio::task::spawn_blocking(move || {
                office.made(&record, toolchain);
                drop(mark);
            });
        }
        Ok(())
    }

    /// Keeps a result, unless something changed since it was looked at; says why not.
    fn keep(&self, prepared: &Prepared, result: &ActionResult, record: &SignedBytes) -> Result<(), String> {
        if let Some(why) = self.changed(prepared) {
            self.stats.count_named(|c| &mut c.fallbacks, "input-changed");
            return Err(why);
        }
        let blobs: Vec<Digest> = result.blobs().map(|blob| blob.digest).collect();
        let stored = self.store.put_record(&prepared.key, &prepared.action.toolchain, record, &blobs);
        if let Err(error) = stored {
            let source = &error as &dyn std::error::Error;
            tracing::warn!(error = source, "a result was not stored");
            return Err(error.to_string());
        }
        self.remember_manifest(prepared);
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
        if let Err(error) = self.store.put_manifest(&prepared.manifest_key, toolchain, &manifest.encode()) {
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
    let targets = call.targets();
    for (of, arrived) in returned.result.outputs.iter().zip(&returned.outputs) {
        let target = targets.get(usize::try_from(of.output).ok()?)?.clone();
        outputs.push(DoneOutput { target, size: of.size, file: arrived.open().ok()? });
    }
    Some(Done { stdout: returned.stdout.clone(), stderr: returned.stderr.clone(), outputs })
}

/// What the look at include manifests gave.
#[derive(Default)]
struct Direct {
    hit: Option<Done>,
    broken: Vec<String>,
}
