//! A direct hit on what another machine saw: its include manifest, held against this machine's disk.
//!
//! ```text
//!  key of manifests ──▶ kept here, then its owner ──▶ believed? ──▶ same paths on this disk?  ─┐ both
//!                                                         └────────▶ record of its action? ────┴──▶ a hit
//! ```
//!
//! A manifest names paths, and the action. The digests are those of this machine's files, and the action's key is computed
//! anew: only if it is the one that the manifest names, the files are what they were there. What a manifest does not list nobody
//! can see here, so it counts only from whom a record would. It is used for a hit and for nothing else: nothing
//! is compiled, and so nothing is signed, on the word of another about what is read.
//!
//! Whatever is wrong, the inputs are searched for as if there were no manifest. A manifest that was of use is kept as it was
//! signed, so that it is judged again when it is used again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barn_protocol::{
    Action, ActionResult, Digest, Entry, Tree, TreePath,
    dht::{self, SharedManifest},
    front::FrontCoded,
    identity::SignedBytes,
};

use super::{
    Answer, Call, Done, Names, Prepared, Requester,
    lookup::Sought,
    plain::is_quiet,
    sight::{Look, Nowhere, Place},
    story::Story,
    writers::Claim,
};
use crate::{office_cache::Found, trust::Policy};

/// How long a search for inputs is put off for the answer of an owner: it takes a few milliseconds of the processor, and a round
/// trip less than one.
const HEAD_START: Duration = Duration::from_millis(2);

/// A name under which a call's manifests are found, and what they are manifests of.
struct Name {
    key: Digest,
    stem: Action,
    /// Whether a result serves only if the compiler said nothing.
    only_quiet: bool,
}

/// What became of one manifest.
enum Held {
    /// The action's result is in the store already.
    Here(Done),
    /// It holds.
    Holds,
    /// Something here is not as it was there.
    Differs,
}

/// Manifests that are believed, and all that came with them.
type Told = Option<(Vec<SharedManifest>, dht::Entry)>;

impl Requester {
    /// The result, if a manifest of another machine holds here and somebody has its action's result.
    pub(super) async fn from_shared_manifest(
        self: &Arc<Self>,
        call: &Arc<Call>,
        names: &Names,
        claim: &Arc<Claim>,
        story: &mut Story,
    ) -> Option<Answer> {
        if !call.may_travel() {
            return None;
        }
        let began = Instant::now();
        let own = Name { key: names.own, stem: call.stem.clone(), only_quiet: false };
        let plain = names.plain.zip(call.plain_stem());
        let plain = plain.map(|(key, stem)| Name { key, stem, only_quiet: true });
        // What most compiles leave is plain.
        let names: Vec<Name> = plain.into_iter().chain([own]).collect();
        let mut answer = self.by_kept(call, &names, claim, story).await;
        if answer.is_none() {
            answer = self.by_asked(call, &names, claim, story).await;
        }
        if answer.is_none() {
            self.asked_in_vain(began.elapsed(), 0);
        }
        answer
    }

    /// By a manifest that was of use before; the result may be here as well.
    async fn by_kept(
        self: &Arc<Self>,
        call: &Arc<Call>,
        names: &[Name],
        claim: &Arc<Claim>,
        story: &mut Story,
    ) -> Option<Answer> {
        let policy = self.policy(call);
        for name in names {
            for manifest in self.office.own_manifests(&policy, name.key).await {
                if let Held::Here(done) = self.holds_here(call, name, &manifest).await {
                    return Some(self.had_here(call, claim, done, &manifest, story));
                }
            }
        }
        None
    }

    async fn by_asked(
        self: &Arc<Self>,
        call: &Arc<Call>,
        names: &[Name],
        claim: &Arc<Claim>,
        story: &mut Story,
    ) -> Option<Answer> {
        let policy = self.policy(call);
        let asked = tokio::time::timeout(HEAD_START, self.ask(&policy, names)).await.ok()?;
        for (name, told) in names.iter().zip(asked) {
            let Some((manifests, entry)) = told else { continue };
            for manifest in manifests {
                // What is on the disk is looked at while the owners of the record are asked.
                let (held, found) = tokio::join!(
                    self.holds_here(call, name, &manifest),
                    self.office.peek(&policy, &name.stem, manifest.action)
                );
                match (held, found) {
                    (Held::Here(done), _) => return Some(self.had_here(call, claim, done, &manifest, story)),
                    (Held::Holds, Some(found)) if name.is_served_by(&found.record.result) => {
                        story.tell(format!("{} holds", self.title(&manifest)));
                        let known = (name.key, entry);
                        return self.direct_from_office(call, claim, *found, known, story).await;
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Asks for what is told under one name or two, at once.
    async fn ask(&self, policy: &Policy, names: &[Name]) -> [Told; 2] {
        let ask = async |name: Option<&Name>| self.office.ask_manifests(policy, name?.key).await;
        let (first, second) = tokio::join!(ask(names.first()), ask(names.get(1)));
        [first, second]
    }

    fn had_here(
        &self,
        call: &Call,
        claim: &Arc<Claim>,
        done: Done,
        manifest: &SharedManifest,
        story: &mut Story,
    ) -> Answer {
        story.tell(format!("hit in this machine's store: {} holds", self.title(manifest)));
        self.count_call(call);
        self.stats.count(|c| {
            c.hits.local += 1;
            c.hits.direct += 1;
        });
        self.stats.count_language(call.language(), |language| language.hits += 1);
        Answer::Done(done, claim.clone(), None)
    }

    async fn direct_from_office(
        self: &Arc<Self>,
        call: &Arc<Call>,
        claim: &Arc<Claim>,
        found: Found,
        (key, manifests): (Digest, dht::Entry),
        story: &mut Story,
    ) -> Option<Answer> {
        let missing = self.missing(&found);
        let from = self.first_to_give(found.record.key, &missing, &found, story).await?;
        let known = call.clone();
        let keep = move |this: &Arc<Self>, found: &Found| {
            let record = &found.record;
            let blobs: Vec<Digest> = record.result.blobs().map(|blob| blob.digest).collect();
            let stored = this.store.put_record(&record.key, &known.stem.toolchain, &found.signed, &blobs);
            stored.map_err(|error| error.to_string())?;
            this.builds.note(&known, &record.key, &record.result);
            this.office.keep_manifests(key, manifests);
            Ok(())
        };
        let answer = self.office_done(call, claim, found, from, keep, story).await?;
        self.count_call(call);
        Some(answer)
    }

    async fn holds_here(self: &Arc<Self>, call: &Arc<Call>, name: &Name, manifest: &SharedManifest) -> Held {
        let (this, known, stem) = (self.clone(), call.clone(), name.stem.clone());
        let (only_quiet, manifest, key) = (name.only_quiet, manifest.clone(), name.key);
        let looked = tokio::task::spawn_blocking(move || {
            let mut look = Look::new(&this.sight, &this.files, &known.cwd);
            match holds(&stem, &manifest, &mut look) {
                Some(()) => {
                    let sought = Sought { call: &known, key: &key, anywhere: None };
                    let done = this.recorded(&known, &manifest.action);
                    let done = done.and_then(|result| this.serve(sought, &manifest.action, &result));
                    done.filter(|done| !only_quiet || done.is_quiet()).map_or(Held::Holds, Held::Here)
                }
                None => Held::Differs,
            }
        });
        looked.await.unwrap_or(Held::Differs)
    }

    fn title(&self, manifest: &SharedManifest) -> String {
        format!("the include manifest of {}", self.name_of(&manifest.producer))
    }

    /// What others may know of what a compile read, signed.
    pub(super) fn shared_manifest(&self, prepared: &Prepared) -> (Digest, SignedBytes) {
        let absent = prepared.inputs.absent.sorted();
        let manifest = SharedManifest {
            key: prepared.names.own,
            action: prepared.key,
            present: FrontCoded::of(prepared.inputs.tree.iter().map(|(path, _)| path.as_bytes())),
            absent: FrontCoded::of(absent.iter().map(Vec::as_slice)),
            passed_over: FrontCoded::of(prepared.inputs.absent.passed_over()),
            producer: self.identity.id(),
        };
        (prepared.names.own, manifest.sign(&self.identity))
    }
}

impl Name {
    fn is_served_by(&self, result: &ActionResult) -> bool {
        !self.only_quiet || is_quiet(result)
    }
}

/// Whether the manifest's action is that of the files as `look` sees them.
fn holds(stem: &Action, manifest: &SharedManifest, look: &mut Look<'_>) -> Option<()> {
    let mut tree = Tree::new();
    for path in manifest.present.unfold().ok()? {
        let entry = entry_at(&path, look)?;
        tree.insert(TreePath::new(path).ok()?, entry).ok()?;
    }
    let action = Action { inputs: Arc::new(tree), ..stem.clone() };
    (action.key() == manifest.action).then_some(())?;
    for path in manifest.absent.unfold().ok()? {
        (look.at(&path) == Err(Nowhere::Absent)).then_some(())?;
    }
    for path in manifest.passed_over.unfold().ok()? {
        matches!(look.at(&path), Ok(Place::Directory(_))).then_some(())?;
    }
    Some(())
}

/// What a tree says of what lies at a path that leads over no link.
fn entry_at(path: &[u8], look: &mut Look<'_>) -> Option<Entry> {
    let slash = path.iter().rposition(|&b| b == b'/')?;
    let (directory, name) = (&path[..slash.max(1)], &path[slash + 1..]);
    match look.find_unlinked(directory, name) {
        Some(Place::File(file)) => {
            let known = look.known(file, |_, _| ()).ok()?;
            let (digest, size) = (known.blob.digest, known.blob.size);
            Some(Entry::File { digest, size, executable: known.executable })
        }
        Some(Place::Directory(_)) => Some(Entry::Directory),
        Some(Place::Special) => None,
        None => Some(Entry::Symlink { target: look.link_target(directory, name)? }),
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
