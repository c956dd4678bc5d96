//! Rust crates: from a call of rustc to its answer. `docs/rust.md` has the design.
//!
//! ```text
//! call ─▶ manifests of its root source ── one holds ──▶ outputs and messages
//!              │ none
//!              ▼
//!          look before ── not everything can be told ──▶ exec
//!              │
//!              ▼
//!          the wrapper runs rustc ──▶ look after ── as before ──▶ kept
//! ```
//!
//! What a crate reads is known only when rustc has run, so the inputs are looked at twice, and a file that changed since the
//! call came spoils nothing but the memory of it.

mod after;
mod before;
mod call;
mod closure;
mod elsewhere;
mod listing;
mod manifest;
mod question;
mod run;

use std::sync::Arc;

use barn_protocol::{Action, ActionKey, ActionRecord, ActionResult, Digest};
pub(super) use call::{RustCall, understand_rust};
pub use closure::Closures;
use manifest::{RustManifest, rust_manifest_key};
pub use question::Answers;
pub(super) use question::{Question, understand_question};
use run::RustRun;

use super::{
    Answer, Done, Requester, dispatch::Verdict, inputs::Unknown, obstacle::Obstacle, sight::Look,
    story::Story,
};

/// The language as counted.
const LANGUAGE: &str = "rust";

/// What a call is found by.
#[derive(Debug, Clone, Copy)]
struct Names {
    /// Of its manifests.
    manifests: Digest,
    /// Of its root source's contents.
    source: Digest,
}

/// What the manifests of a crate gave.
#[derive(Default)]
struct Recalled {
    hit: Option<Done>,
    /// Whether the hit was compiled for another target directory.
    is_moved: bool,
    broken: Vec<String>,
}

impl Requester {
    /// Answers a compile of a Rust crate.
    pub(super) async fn answer_rust(self: &Arc<Self>, call: Arc<RustCall>, mut story: Story) -> Answer {
        story.is_about(&call.source_path());
        story.tell(format!("crate {} ({})", call.crate_name(), call.compile.kind_name()));
        let claim = self.writers.claim(call.stem.outputs.iter().map(|output| output.path.clone()));
        let (this, known) = (self.clone(), call.clone());
        let looked_up = tokio::task::spawn_blocking(move || {
            let names = this.names(&known)?;
            Ok::<_, Unknown>((names, this.recall(&known, &names)))
        });
        let (names, recalled) = match looked_up.await {
            Ok(Ok(found)) => found,
            Ok(Err(reason)) => return self.exec(story, &reason),
            Err(_) => return self.exec(story, &Unknown::because(Obstacle::Internal, "the look-up panicked")),
        };
        if let Some(done) = recalled.hit {
            self.stats.count(|c| {
                c.requests.cache_only += 1;
                c.hits.local += 1;
            });
            self.stats.count_language(LANGUAGE, |language| language.hits += 1);
            let run = if recalled.is_moved { "run in another target directory" } else { "run" };
            story.tell(format!("hit in this machine's store: the manifest of an earlier {run} holds"));
            story.end("hit");
            return Answer::Done(done, claim, None);
        }
        recalled.broken.iter().for_each(|why| story.tell(format!("a manifest does not hold: {why}")));
        let (this, known) = (self.clone(), call.clone());
        let before = match tokio::task::spawn_blocking(move || this.look_before(&known)).await {
            Ok(Ok(before)) => before,
            Ok(Err(reason)) => return self.exec(story, &reason),
            Err(_) => return self.exec(story, &Unknown::because(Obstacle::Internal, "the look panicked")),
        };
        before.notes.iter().for_each(|note| story.tell(note.clone()));
        self.stats.count(|c| {
            c.requests.cache_only += 1;
            c.misses += 1;
        });
        self.stats.count_language(LANGUAGE, |language| language.misses += 1);
        let pending = self.closures.begin(&call, before.closure.clone());
        let mut ticket = self.dispatch.submit(call.stem.toolchain, 0, &call.source_path(), false);
        // Nothing is sent elsewhere: the only other verdict is that the queue is full, and then it runs here too.
        while !matches!(ticket.verdict().await, Verdict::Run { .. } | Verdict::GiveUp) {}
        let run = RustRun { requester: self.clone(), call, names, before, ticket, claim, pending, story };
        Answer::Compile(Box::new(run))
    }

    fn names(&self, call: &RustCall) -> Result<Names, Unknown> {
        let source = call.source_path();
        let known = self.files.known(&source, |_, _| ()).map_err(|error| {
            Unknown::because(Obstacle::Source, format_args!("{}: {error}", source.display()))
        })?;
        let source = known.blob.digest;
        Ok(Names { manifests: rust_manifest_key(&call.stem, &source), source })
    }

    /// Looks for a manifest that holds and whose result is whole: of this call, else of one in another target directory.
    fn recall(&self, call: &RustCall, names: &Names) -> Recalled {
        let mut own = self.recall_own(call, &names.manifests);
        if own.hit.is_none() {
            let other = self.recall_elsewhere(call, &names.manifests, &names.source);
            own.is_moved = other.hit.is_some();
            own.hit = other.hit;
            own.broken.extend(other.broken);
        }
        own
    }

    fn recall_own(&self, call: &RustCall, key: &Digest) -> Recalled {
        let mut recalled = Recalled::default();
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        for bytes in self.store.manifests(key) {
            let Some(manifest) = RustManifest::decode(&bytes) else { continue };
            match manifest.broken_by(call, &mut look, &self.files) {
                None => {
                    recalled.hit = self.stored_crate(call, &manifest.action());
                    if recalled.hit.is_some() {
                        break;
                    }
                    recalled.broken.push("its result is not in the store any more".to_owned());
                }
                Some(why) => recalled.broken.push(why),
            }
        }
        recalled
    }

    fn stored_crate(&self, call: &RustCall, key: &ActionKey) -> Option<Done> {
        self.done(&call.targets(), &self.crate_record(&call.stem, key)?)
    }

    /// What the store says of an action of this stem.
    fn crate_record(&self, stem: &Action, key: &ActionKey) -> Option<ActionResult> {
        let record = self.store.record(key)?;
        let record: ActionRecord = postcard::from_bytes(record.unverified_payload()).ok()?;
        let is_of_call = record.key == *key && record.result.check(stem).is_ok();
        // Crates are not shared, so nobody else's word is asked for.
        let is_own = record.producer == self.identity.id();
        if !is_of_call || !is_own || record.result.exit_code != 0 {
            return None;
        }
        Some(record.result)
    }
}
