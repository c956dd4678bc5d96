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
mod held;
pub mod inputs;
pub mod keep;
pub mod layout;
mod local;
mod lookup;
mod manifest;
pub mod obstacle;
mod office;
mod place;
mod plain;
mod portable;
pub mod recollection;
mod remote;
mod rust;
mod shared;
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
use barn_protocol::{Action, ActionKey, ActionResult, Digest, Identity, NodeId, identity::SignedBytes};
use barn_wrapper::messages::Manner;
pub use call::Call;
use dispatch::Dispatch;
use files::Files;
pub(crate) use held::HeldManifests;
use inputs::{FindInputs as _, Inputs, Unknown, scan::IncludeScan};
use keep::{Keep, Keeper};
pub use local::{LocalRun, LocalWork};
use lookup::{First, Looked, Names};
use obstacle::Obstacle;
pub use portable::Wording;
pub(crate) use remote::Carrier;
use remote::Returned;
pub use rust::{Answers, Closures};
use sight::Sight;
use story::Story;
use writers::{Claim, Writers};

use crate::{
    blobs::Arrived,
    history::History,
    office_cache::{Mark, OfficeCache},
    prefetch::Recorder,
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
    /// Manifests that held lately.
    pub(crate) held: HeldManifests,
    /// Who writes which output now.
    pub writers: Arc<Writers>,
    /// Results that are not in the store yet.
    pub keeper: Arc<Keeper>,
    /// What builds need, if that is recorded.
    pub builds: Arc<Recorder>,
    /// How inputs are found.
    pub finder: IncludeScan,
    /// The counters.
    pub stats: Arc<Stats>,
    /// What texts say of where they are.
    pub wording: Wording,
    /// What `barn explain` tells.
    pub history: Arc<History>,
}

/// A compile whose action is known.
struct Prepared {
    call: Arc<Call>,
    action: Action,
    key: ActionKey,
    names: Names,
    inputs: Inputs,
    claim: Arc<Claim>,
    /// Others in the office may wait for it.
    mark: OnceLock<Arc<Mark>>,
    /// The same compile for a standard error that is no terminal, if that is another action.
    plain: Option<Arc<Prepared>>,
    /// The same compile in any checkout; why other checkouts cannot have its result, if they cannot.
    anywhere: Result<Arc<Prepared>, String>,
    /// Whether it is that of any checkout itself.
    is_anywhere: bool,
    /// Whether a result serves only if the compiler said nothing.
    only_quiet: bool,
}

impl Prepared {
    fn new(call: Arc<Call>, names: Names, inputs: Inputs, claim: Arc<Claim>) -> Self {
        let mut action = call.stem.clone();
        action.inputs = inputs.tree.clone();
        let plain = names.plain.and_then(|key| Self::plain(&call, key, &inputs, &claim));
        let anywhere = Self::anywhere(&call, names.anywhere, &inputs, &claim);
        Self {
            key: action.key(),
            action,
            names,
            inputs,
            call,
            claim,
            mark: OnceLock::new(),
            plain,
            anywhere,
            is_anywhere: false,
            only_quiet: false,
        }
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
        // A hit is found in one go: every change of threads costs about as much as opening a file.
        let first = tokio::task::spawn_blocking(move || this.look_first(&request)).await;
        match first {
            Ok(First::Compile(looked)) => self.answer_compile(looked, story).await,
            Ok(First::Rust(call)) => self.answer_rust(call, story).await,
            Ok(First::Question(question)) => self.answer_question(*question, story),
            Ok(First::Other(what)) => {
                self.stats.count(|c| c.requests.other += 1);
                story.tell(format!("no compile ({what}): the wrapper became the compiler"));
                story.end("uncached");
                Answer::Exec
            }
            Ok(First::Local(reason)) => self.exec(story, &reason),
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

    async fn answer_compile(self: &Arc<Self>, looked: Looked, mut story: Story) -> Answer {
        let (call, claim) = (looked.call.clone(), looked.claim.clone());
        story.about(&call);
        if let Err((_, unknown)) = self.demanded(&call) {
            story.tell(format!("BARN_TRUST: {unknown}: only what this machine made counts"));
        }
        if let Some(StandIn { name, driver, .. }) = &call.stand_in {
            story.tell(format!("elsewhere {driver} of {name} stands in for {}", call.program.display()));
        }
        if let Some(why) = self.builds.obstacle(&call) {
            story.tell(format!("not recorded for prefetch: {why}"));
        }
        let (names, direct) = match self.look_up(looked).await {
            Ok(found) => found,
            Err(reason) => return self.exec(story, &reason),
        };
        let told = direct.told();
        if let Some(done) = direct.hit {
            self.count_call(&call);
            self.stats.count(|c| c.hits.direct += 1);
            story.tell(format!("hit in this machine's store: {told}"));
            return self.hit(&call, done, claim, story);
        }
        if let Some(trouble) = &call.project.trouble {
            story.tell(format!("the project's settings are not used: {trouble}"));
        }
        direct.broken.iter().for_each(|why| story.tell(format!("an include manifest does not hold: {why}")));
        if let Some(answer) = self.from_shared_manifest(&call, &names, &claim, &mut story).await {
            story.end("hit");
            return answer;
        }
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
        if let Err(why) = &prepared.anywhere {
            story.tell(format!("for this checkout alone: {why}"));
        }
        let (this, known) = (self.clone(), prepared.clone());
        let stored = tokio::task::spawn_blocking(move || this.stored(&known));
        if let Ok(Some(done)) = stored.await {
            story.tell("hit in this machine's store: the same action was done before".to_owned());
            return self.hit(&prepared.call, done, prepared.claim.clone(), story);
        }
        // Whoever waits for others does not keep this machine's searches waiting.
        drop(finding);
        let mut answer = self.quiet_from_office(&prepared, &mut story).await;
        if answer.is_none() {
            answer = self.from_office(&prepared, &mut story).await;
        }
        if let Some(answer) = answer {
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

    /// Keeps what a worker sent, unless something changed since it was looked at; says why not. Returns what is to be told
    /// beside that it was kept.
    fn take_in(self: &Arc<Self>, prepared: &Prepared, returned: Returned) -> Result<String, String> {
        let Returned { result, record, stdout, stderr, outputs, .. } = returned;
        let put = || {
            [&stdout, &stderr].into_iter().try_for_each(|bytes| self.store.put_bytes(bytes).map(drop))?;
            outputs.into_iter().try_for_each(Arrived::keep)
        };
        put().map_err(|error: StoreError| error.to_string())?;
        self.remember(prepared, &result, &record)?;
        Ok(self.share_anywhere(prepared, &result))
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
            // A build needs each result once, by its own key.
            if !prepared.is_anywhere {
                self.builds.note(&prepared.call, &prepared.key, result);
            }
            let (office, record, toolchain) =
                (self.office.clone(), record.clone(), prepared.action.toolchain);
            // Nobody waits for it; and nobody is told that it was given up before it is done.
            let mark = prepared.mark.get().cloned();
            let manifest =
                (!prepared.is_anywhere && office.has_listeners()).then(|| self.shared_manifest(prepared));
            tokio::task::spawn_blocking(move || {
                office.made(&record, toolchain);
                drop(mark);
                if let Some((key, signed)) = manifest {
                    office.saw(&key, toolchain, &signed);
                }
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
        self.share_if_quiet(prepared, result);
        Ok(())
    }

    fn remember_manifest(&self, prepared: &Prepared) {
        self.put_manifest(prepared, prepared.key);
    }

    /// Lets the call's next manifest lead to `action`.
    fn put_manifest(&self, prepared: &Prepared, action: ActionKey) {
        if !prepared.inputs.complete {
            return;
        }
        let manifest = prepared.inputs.manifest(action);
        let bytes = match prepared.as_anywhere() {
            Some(portable) => manifest.encode_marked(portable.places()),
            None => manifest.encode(),
        };
        let toolchain = &prepared.action.toolchain;
        if let Err(error) = self.store.put_manifest(&prepared.names.own, toolchain, &bytes) {
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
