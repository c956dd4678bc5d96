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
mod manifest;
pub mod obstacle;
mod office;
mod place;
mod plain;
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
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use barn_cache::{Store, StoreError};
use barn_mesh::{Mesh, RosterCell};
use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, Identity, NodeId, action::Blob,
    identity::SignedBytes,
};
use barn_wrapper::{env_vars::BARN_TRUST, messages::Manner};
pub use call::Call;
use call::{Compilers, Understood, understand};
use dispatch::Dispatch;
use files::Files;
use held::Held;
pub(crate) use held::HeldManifests;
use inputs::{FindInputs as _, Inputs, Unknown, scan::IncludeScan};
use keep::{Keep, Keeper};
pub use local::{LocalRun, LocalWork};
use manifest::{Manifest, manifest_key};
use obstacle::Obstacle;
pub(crate) use remote::Carrier;
use remote::Returned;
pub use rust::{Answers, Closures};
use rust::{Question, RustCall};
use sight::{Look, Sight};
use story::{Story, seems_about};
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
    trust::{Policy, UnknownTrust},
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
    /// The same compile for a standard error that is no terminal, if that is another action.
    plain: Option<Arc<Prepared>>,
    /// Whether a result serves only if the compiler said nothing.
    only_quiet: bool,
}

/// Under which names the manifests of a call are kept.
struct Names {
    own: Digest,
    /// Those of its plain form, if it has one.
    plain: Option<Digest>,
}

impl Prepared {
    fn new(call: Arc<Call>, names: Names, inputs: Inputs, claim: Arc<Claim>) -> Self {
        let mut action = call.stem.clone();
        action.inputs = inputs.tree.clone();
        let plain = names.plain.and_then(|key| Self::plain(&call, key, &inputs, &claim));
        Self {
            key: action.key(),
            action,
            manifest_key: names.own,
            inputs,
            call,
            claim,
            mark: OnceLock::new(),
            plain,
            only_quiet: false,
        }
    }

    /// The same compile with other inputs.
    fn with(&self, inputs: Inputs) -> Self {
        let names =
            Names { own: self.manifest_key, plain: self.plain.as_ref().map(|plain| plain.manifest_key) };
        Self::new(self.call.clone(), names, inputs, self.claim.clone())
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
            Ok(First::Local(source, reason)) => {
                story.is_about(&source);
                self.exec(story, &reason)
            }
            Err(_) => self.exec(story, &Unknown::because(Obstacle::Internal, "the classification panicked")),
        }
    }

    /// Understands a call, and looks whether its result is here. Blocks on the disk.
    fn look_first(&self, request: &barn_wrapper::messages::Request) -> First {
        let Self { toolchains, stand_ins, locales, tools, .. } = self;
        let call = match understand(request, Compilers { toolchains, stand_ins, locales, tools }) {
            Understood::Call(call) => Arc::new(*call),
            Understood::Rust(call) => return First::Rust(Arc::new(*call)),
            Understood::Question(question) => return First::Question(question),
            Understood::Other(what) => return First::Other(what),
            Understood::Local(reason) => return First::Local(seems_about(request), reason),
        };
        let claim = self.writers.claim(call.stem.outputs.iter().map(|output| output.path.clone()));
        let looked_up = self.manifest_key(&call).map(|key| {
            let direct = self.keeper.is_settled(&key).then(|| self.direct(&call, &key));
            (key, direct)
        });
        First::Compile(Looked { call, claim, looked_up })
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
        let Looked { call, claim, looked_up } = looked;
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
        let (looked_up, direct) = match self.look_up(&call, looked_up).await {
            Ok(found) => found,
            Err(reason) => return self.exec(story, &reason),
        };
        if let Some(done) = direct.hit {
            self.count_call(&call);
            self.stats.count(|c| c.hits.direct += 1);
            let quiet = if direct.plain.is_some() { ", and nothing was said" } else { "" };
            story.tell(format!("hit in this machine's store: the include manifest holds{quiet}"));
            return self.hit(&call, done, claim, story);
        }
        direct.broken.iter().for_each(|why| story.tell(format!("an include manifest does not hold: {why}")));
        let names = Names { own: looked_up, plain: direct.plain };
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
        let this = self.clone();
        let known = prepared.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let Some(done) = this.stored_for(&known) else {
                return this.quiet_stored(&known);
            };
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

    /// The name of the call's manifests, and what they give; what is being kept under it is waited for.
    async fn look_up(
        self: &Arc<Self>,
        call: &Arc<Call>,
        looked_up: Result<(Digest, Option<Direct>), Unknown>,
    ) -> Result<(Digest, Direct), Unknown> {
        let key = match looked_up? {
            (key, Some(direct)) => return Ok((key, direct)),
            (key, None) => key,
        };
        self.keeper.settle(&key).await;
        let (this, known) = (self.clone(), call.clone());
        let direct = tokio::task::spawn_blocking(move || this.direct(&known, &key)).await;
        let panicked = |_| Unknown::because(Obstacle::Internal, "the look-up panicked");
        Ok((key, direct.map_err(panicked)?))
    }

    fn manifest_key(&self, call: &Call) -> Result<Digest, Unknown> {
        let source = call.source_path();
        let known = self.files.known(&source, |_, _| ()).map_err(|error| {
            Unknown::because(Obstacle::Source, format_args!("{}: {error}", source.display()))
        })?;
        Ok(manifest_key(&call.stem, &call.manifest_source(known.blob.digest)))
    }

    /// Looks for a manifest that holds, and failing that for one of the plain compile.
    fn direct(&self, call: &Call, key: &Digest) -> Direct {
        let mut direct = self.by_manifests(call, key);
        if direct.hit.is_none() {
            direct.plain = self.plain_manifest_key(call);
            direct.hit = direct.plain.and_then(|plain| self.quiet_direct(call, &plain));
        }
        direct
    }

    /// Looks for a manifest of this name that holds.
    fn by_manifests(&self, call: &Call, key: &Digest) -> Direct {
        if let Some(done) = self.as_before(call, key) {
            return Direct { hit: Some(done), ..Direct::default() };
        }
        let mut direct = Direct::default();
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        for bytes in self.store.manifests(key) {
            let Some(manifest) = Manifest::decode(&bytes) else { continue };
            match manifest.broken_by(&mut look) {
                None => {
                    direct.hit = self.through(call, key, manifest.action, &bytes, &look);
                    break;
                }
                Some(why) => direct.broken.push(why),
            }
        }
        direct
    }

    /// What a manifest led to before, if nothing has changed since.
    fn as_before(&self, call: &Call, key: &Digest) -> Option<Done> {
        // It was believed by the machine's own policy.
        if demand_of(call).is_some() {
            return None;
        }
        let held = self.held.get(key)?;
        let done = held
            .holds(key, &self.store, self.roster.epoch())
            .then(|| self.serve(call, &held.action, &held.result));
        done.flatten().or_else(|| {
            self.held.forget(key);
            None
        })
    }

    /// The stored result of the action that a manifest names, which is these bytes and holds, as `look` saw.
    fn through(
        &self,
        call: &Call,
        key: &Digest,
        action: ActionKey,
        bytes: &[u8],
        look: &Look<'_>,
    ) -> Option<Done> {
        let epoch = self.roster.epoch();
        let record = self.store.record_place(&action)?;
        let result = self.recorded(call, &action)?;
        let done = self.serve(call, &action, &result)?;
        if let Some(seen) = look.seen() {
            let manifest = Digest::of(bytes);
            self.held.remember(*key, Held { manifest, action, record, result, epoch, seen });
        }
        Some(done)
    }

    /// What a manifest led to, ready for the wrapper; the call's build has needed it.
    fn serve(&self, call: &Call, action: &ActionKey, result: &ActionResult) -> Option<Done> {
        let done = self.done(&call.targets(), result)?;
        // A manifest is kept only of inputs that are completely known.
        self.builds.note(call, action, result);
        Some(done)
    }

    /// The stored result that serves a prepared compile; its build has needed it.
    fn stored_for(&self, prepared: &Prepared) -> Option<Done> {
        let Prepared { call, key, only_quiet, .. } = prepared;
        let result = self.recorded(call, key)?;
        let done = self.done(&call.targets(), &result)?;
        if *only_quiet && !done.is_quiet() {
            return None;
        }
        if prepared.may_be_shared() {
            self.builds.note(call, key, &result);
        }
        Some(done)
    }

    /// What the store says of an action of `call`, if whoever made it is believed.
    fn recorded(&self, call: &Call, key: &ActionKey) -> Option<ActionResult> {
        let record = self.store.record(key)?;
        let record: ActionRecord = postcard::from_bytes(record.unverified_payload()).ok()?;
        // What was prefetched came without its action.
        let is_of_call = record.key == *key && record.result.check(&call.stem).is_ok();
        if !is_of_call || record.result.exit_code != 0 {
            return None;
        }
        if !self.office.believes_stored(&self.policy(call), &call.stem, &record) {
            self.stats.count_named(|c| &mut c.fallbacks, "record-refused");
            return None;
        }
        Some(record.result)
    }

    /// Whose word counts for a call: the machine's setting, and what the build demands.
    fn policy(&self, call: &Call) -> Policy {
        self.demanded(call).unwrap_or_else(|(strictest, _)| strictest)
    }

    fn demanded(&self, call: &Call) -> Result<Policy, (Policy, UnknownTrust)> {
        self.office.policy().demanded(demand_of(call))
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
            let manifest = office.has_listeners().then(|| self.shared_manifest(prepared));
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
        if prepared.may_be_shared() {
            self.builds.note(&prepared.call, &prepared.key, result);
        }
        self.remember_manifest(prepared);
        self.share_if_quiet(prepared, result);
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
        self.put_manifest(prepared, prepared.key);
    }

    /// Lets the call's next manifest lead to `action`.
    fn put_manifest(&self, prepared: &Prepared, action: ActionKey) {
        if !prepared.inputs.complete {
            return;
        }
        let manifest = prepared.inputs.manifest(action);
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

/// Whose results a call's build takes, as it says.
fn demand_of(call: &Call) -> Option<&[u8]> {
    call.env.get(BARN_TRUST.as_bytes()).map(Vec::as_slice).filter(|demand| !demand.is_empty())
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

/// What can be said of a call before anybody is asked or waited for.
enum First {
    Compile(Looked),
    /// A Rust crate.
    Rust(Arc<RustCall>),
    /// A question that a compiler would answer.
    Question(Box<Question>),
    /// No compile.
    Other(&'static str),
    /// A compile that cannot be cached, and what it seems to be about.
    Local(PathBuf, Unknown),
}

/// A compile whose result was looked for here.
struct Looked {
    call: Arc<Call>,
    claim: Arc<Claim>,
    /// The name of its manifests and what they gave; nothing yet if a result is being kept under that name.
    looked_up: Result<(Digest, Option<Direct>), Unknown>,
}

/// What the look at include manifests gave.
#[derive(Default)]
struct Direct {
    hit: Option<Done>,
    /// The name of the plain compile's manifests, if they were looked at as well.
    plain: Option<Digest>,
    broken: Vec<String>,
}
