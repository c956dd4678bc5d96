//! What this machine's store has of a call: by include manifests, and by the key of its action.

use std::sync::Arc;

use barn_cache::Store;
use barn_protocol::{ActionKey, ActionRecord, ActionResult, Digest, action::Blob};
use barn_wrapper::env_vars::BARN_TRUST;

use super::{
    Call, Done, DoneOutput, Prepared, Requester, Target,
    call::{Compilers, Understood, understand},
    held::Held,
    inputs::Unknown,
    manifest::{Manifest, manifest_key},
    obstacle::Obstacle,
    portable::Portable,
    rust::{Question, RustCall},
    sight::Look,
    writers::Claim,
};
use crate::trust::{Policy, UnknownTrust};

/// What can be said of a call before anybody is asked or waited for.
pub(super) enum First {
    Compile(Looked),
    /// A Rust crate.
    Rust(Arc<RustCall>),
    /// A question that a compiler would answer.
    Question(Box<Question>),
    /// No compile.
    Other(&'static str),
    /// A compile that cannot be cached.
    Local(Unknown),
}

/// A compile whose result was looked for here.
pub(super) struct Looked {
    pub(super) call: Arc<Call>,
    pub(super) claim: Arc<Claim>,
    /// The name of its manifests and what they gave; nothing yet if a result is being kept under that name.
    looked_up: Result<(Digest, Option<Direct>), Unknown>,
}

/// Under which names the manifests of a call are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) own: Digest,
    /// Those of its plain form, if it has one.
    pub(super) plain: Option<Digest>,
    /// Those of any checkout, if there are any.
    pub(super) anywhere: Option<Digest>,
}

/// What the look at include manifests gave.
#[derive(Default)]
pub(super) struct Direct {
    pub(super) hit: Option<Done>,
    /// The name of the plain compile's manifests, if they were looked at as well.
    pub(super) plain: Option<Digest>,
    /// The name of those of any checkout, if they were looked at as well.
    pub(super) anywhere: Option<Digest>,
    pub(super) broken: Vec<String>,
}

/// Which manifests are looked at, and for whom.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    pub(super) call: &'a Call,
    /// The name of the manifests.
    pub(super) key: &'a Digest,
    /// What is the same in every checkout, if they are those of any.
    pub(super) anywhere: Option<&'a Portable>,
}

impl Names {
    /// All of them under which a result may be kept.
    pub(super) fn all(self) -> impl Iterator<Item = Digest> {
        [Some(self.own), self.anywhere].into_iter().flatten()
    }
}

impl Direct {
    /// What held, for a person.
    pub(super) fn told(&self) -> &'static str {
        match (self.anywhere, self.plain) {
            (Some(_), _) => "an include manifest of any checkout holds",
            (None, Some(_)) => "the include manifest holds, and nothing was said",
            (None, None) => "the include manifest holds",
        }
    }
}

impl Requester {
    /// Understands a call, and looks whether its result is here. Blocks on the disk.
    pub(super) fn look_first(&self, request: &barn_wrapper::messages::Request) -> First {
        let Self { toolchains, stand_ins, locales, tools, .. } = self;
        let call = match understand(request, Compilers { toolchains, stand_ins, locales, tools }) {
            Understood::Call(call) => Arc::new(*call),
            Understood::Rust(call) => return First::Rust(Arc::new(*call)),
            Understood::Question(question) => return First::Question(question),
            Understood::Other(what) => return First::Other(what),
            Understood::Local(reason) => return First::Local(reason),
        };
        let claim = self.writers.claim(call.stem.outputs.iter().map(|output| output.path.clone()));
        let looked_up = self.manifest_key(&call).map(|key| {
            let direct = self.keeper.is_settled(&key).then(|| self.direct(&call, &key));
            (key, direct)
        });
        First::Compile(Looked { call, claim, looked_up })
    }

    /// The names of the call's manifests, and what they give; what is being kept under one of them is waited for. Those of any
    /// checkout are looked at when the others give nothing.
    pub(super) async fn look_up(self: &Arc<Self>, looked: Looked) -> Result<(Names, Direct), Unknown> {
        let Looked { call, looked_up, .. } = looked;
        let (own, mut direct) = match looked_up? {
            (own, Some(direct)) => (own, direct),
            (own, None) => {
                self.keeper.settle(&own).await;
                let (this, known) = (self.clone(), call.clone());
                let direct = tokio::task::spawn_blocking(move || this.direct(&known, &own)).await;
                let panicked = |_| Unknown::because(Obstacle::Internal, "the look-up panicked");
                (own, direct.map_err(panicked)?)
            }
        };
        if direct.hit.is_none() {
            self.look_anywhere(&call, &mut direct).await;
        }
        Ok((Names { own, plain: direct.plain, anywhere: direct.anywhere }, direct))
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
        let mut direct = self.by_manifests(Sought { call, key, anywhere: None });
        if direct.hit.is_none() {
            direct.plain = self.plain_manifest_key(call);
            direct.hit = direct.plain.and_then(|plain| self.quiet_direct(call, &plain));
        }
        direct
    }

    /// Looks for a manifest of this name that holds.
    pub(super) fn by_manifests(&self, sought: Sought<'_>) -> Direct {
        if let Some(done) = self.as_before(sought) {
            return Direct { hit: Some(done), ..Direct::default() };
        }
        let mut direct = Direct::default();
        let mut look = Look::new(&self.sight, &self.files, &sought.call.cwd);
        for bytes in self.store.manifests(sought.key) {
            let Some(manifest) = Manifest::decode(&bytes) else { continue };
            let broken = match sought.anywhere.map(|portable| manifest.unmarked(portable.places())) {
                None => manifest.broken_by(&mut look),
                Some(Some(paths)) => manifest.with_paths(&paths).broken_by(&mut look),
                // It is of other kinds of places.
                Some(None) => continue,
            };
            match broken {
                None => {
                    direct.hit = self.through(sought, manifest.action, &bytes, &look);
                    break;
                }
                Some(why) => direct.broken.push(why),
            }
        }
        direct
    }

    /// What a manifest led to before, if nothing has changed since.
    fn as_before(&self, sought: Sought<'_>) -> Option<Done> {
        // It was believed by the machine's own policy.
        if demand_of(sought.call).is_some() {
            return None;
        }
        let held = self.held.get(sought.key)?;
        let done = held
            .holds(sought.key, &self.store, self.roster.epoch())
            .then(|| self.serve(sought, &held.action, &held.result));
        done.flatten().or_else(|| {
            self.held.forget(sought.key);
            None
        })
    }

    /// The stored result of the action that a manifest names, which is these bytes and holds, as `look` saw.
    fn through(&self, sought: Sought<'_>, action: ActionKey, bytes: &[u8], look: &Look<'_>) -> Option<Done> {
        let epoch = self.roster.epoch();
        let record = self.store.record_place(&action)?;
        let result = self.recorded(sought.call, &action)?;
        let done = self.serve(sought, &action, &result)?;
        if let Some(seen) = look.seen() {
            let manifest = Digest::of(bytes);
            self.held.remember(*sought.key, Held { manifest, action, record, result, epoch, seen });
        }
        Some(done)
    }

    /// What a manifest led to, ready for the wrapper; the call's build has needed it.
    pub(super) fn serve(
        &self,
        sought: Sought<'_>,
        action: &ActionKey,
        result: &ActionResult,
    ) -> Option<Done> {
        let done = self.done(&sought.call.targets(), result)?;
        let done = at_home(done, sought.anywhere, result, &self.store)?;
        // A manifest is kept only of inputs that are completely known.
        self.builds.note(sought.call, action, result);
        Some(done)
    }

    /// The stored result of a compile whose action is known, be it under its own key, the plain one's or that of any checkout.
    /// The next look at manifests finds it.
    pub(super) fn stored(&self, prepared: &Prepared) -> Option<Done> {
        let forms = [Some(prepared), prepared.plain.as_deref(), prepared.anywhere.as_deref().ok()];
        forms.into_iter().flatten().find_map(|form| {
            let done = self.stored_for(form)?;
            if self.changed(form).is_none() {
                self.remember_manifest(form);
            }
            Some(done)
        })
    }

    /// The stored result that serves a prepared compile; its build has needed it.
    pub(super) fn stored_for(&self, prepared: &Prepared) -> Option<Done> {
        let Prepared { call, key, only_quiet, .. } = prepared;
        let result = self.recorded(call, key)?;
        let done = self.done_for(prepared, &result)?;
        if *only_quiet && !done.is_quiet() {
            return None;
        }
        if prepared.may_be_shared() {
            self.builds.note(call, key, &result);
        }
        Some(done)
    }

    /// A result of a prepared compile whose blobs are in the store, ready for the wrapper.
    pub(super) fn done_for(&self, prepared: &Prepared, result: &ActionResult) -> Option<Done> {
        let done = self.done(&prepared.call.targets(), result)?;
        self.at_home(prepared, done, result)
    }

    /// A result as it is here, if it is one of any checkout.
    pub(super) fn at_home(&self, prepared: &Prepared, done: Done, result: &ActionResult) -> Option<Done> {
        at_home(done, prepared.as_anywhere(), result, &self.store)
    }

    /// What the store says of an action of `call`, if whoever made it is believed.
    pub(super) fn recorded(&self, call: &Call, key: &ActionKey) -> Option<ActionResult> {
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
    pub(super) fn policy(&self, call: &Call) -> Policy {
        self.demanded(call).unwrap_or_else(|(strictest, _)| strictest)
    }

    pub(super) fn demanded(&self, call: &Call) -> Result<Policy, (Policy, UnknownTrust)> {
        self.office.policy().demanded(demand_of(call))
    }

    /// A result whose blobs are in the store, ready for the wrapper.
    pub(super) fn done(&self, targets: &[Target], result: &ActionResult) -> Option<Done> {
        let whole =
            |blob: &Blob| if blob.size == 0 { Some(Vec::new()) } else { self.store.read_blob(&blob.digest) };
        let mut files = Vec::with_capacity(result.outputs.len());
        for file in &result.outputs {
            let target = targets.get(usize::try_from(file.output).ok()?)?.clone();
            files.push(DoneOutput { target, size: file.size, file: self.store.open_blob(&file.digest)? });
        }
        Some(Done { stdout: whole(&result.stdout)?, stderr: whole(&result.stderr)?, outputs: files })
    }

    /// What of the compiler or the inputs is not what it was when the action was prepared.
    pub(super) fn changed(&self, prepared: &Prepared) -> Option<String> {
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
}

/// A result as it is here, if it is one of any checkout.
fn at_home(done: Done, anywhere: Option<&Portable>, result: &ActionResult, store: &Store) -> Option<Done> {
    match anywhere {
        Some(portable) => portable.at_home(done, result, store),
        None => Some(done),
    }
}

/// Whose results a call's build takes, as it says.
fn demand_of(call: &Call) -> Option<&[u8]> {
    call.env.get(BARN_TRUST.as_bytes()).map(Vec::as_slice).filter(|demand| !demand.is_empty())
}
