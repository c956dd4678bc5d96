//! One entry for standard errors that are terminals and those that are none.
//!
//! On a terminal the action has a flag for colours, and one for the width, and so another key. But most compiles say nothing, and
//! then these flags have done nothing: a quiet result is that of the *plain* action as well, the one without them.
//!
//! ```text
//! terminal ──▶ own manifests ──▶ plain manifests, if quiet ──▶ scan ──▶ own record, or plain one if quiet
//!                                                                          │ neither
//!          office: plain one if quiet, own one ◀───────────────────────────┘
//!             │ nobody has it
//!             ▼
//!          compile ──┬─ said something ──▶ own record, own manifest
//!                    ├─ quiet, here ─────▶ plain record, plain manifest
//!                    └─ quiet, there ────▶ own record, as the worker signed it, and both manifests
//! ```
//!
//! Whoever has no terminal looks for plain manifests and records only, and finds what was quiet there.
//! Invariant: what has said a word is never given to a standard error of another kind.

use std::sync::{Arc, OnceLock};

use barn_protocol::{ActionResult, Digest, keys::manifest_key};

use super::{
    Answer, Call, Done, Names, Prepared, Requester, inputs::Inputs, lookup::Sought, story::Story,
    writers::Claim,
};

impl Requester {
    /// Under which name the plain compile's manifests are found, if `call` is none itself.
    pub(super) fn plain_manifest_key(&self, call: &Call) -> Option<Digest> {
        let stem = call.plain_stem()?;
        let source = self.files.known(&call.source_path(), |_, _| ()).ok()?;
        Some(manifest_key(&stem, &call.manifest_source(source.blob.digest)))
    }

    /// The quiet result to which a plain manifest of this name leads.
    pub(super) fn quiet_direct(&self, call: &Call, plain: &Digest) -> Option<Done> {
        self.by_manifests(Sought { call, key: plain, anywhere: None }).hit.filter(Done::is_quiet)
    }

    /// The result of the plain action, if somebody in the office has it and it was quiet.
    pub(super) async fn quiet_from_office(
        self: &Arc<Self>,
        prepared: &Prepared,
        story: &mut Story,
    ) -> Option<Answer> {
        self.from_office(prepared.plain.as_ref()?, story).await
    }

    /// Lets whoever has no terminal find a result, if it was quiet.
    pub(super) fn share_if_quiet(&self, prepared: &Prepared, result: &ActionResult) {
        if let Some(plain) = prepared.plain.as_ref().filter(|_| is_quiet(result)) {
            self.put_manifest(plain, prepared.key);
        }
    }
}

impl Prepared {
    /// The plain compile of `call`, whose manifests have this name.
    pub(super) fn plain(
        call: &Arc<Call>,
        manifest_key: Digest,
        inputs: &Inputs,
        claim: &Arc<Claim>,
    ) -> Option<Arc<Self>> {
        let mut action = call.plain_stem()?;
        action.inputs = inputs.tree.clone();
        Some(Arc::new(Self {
            call: call.clone(),
            key: action.key(),
            action,
            names: Names { own: manifest_key, plain: None, anywhere: None },
            inputs: inputs.clone(),
            claim: claim.clone(),
            mark: OnceLock::new(),
            plain: None,
            anywhere: Err("the form for a terminal has it".to_owned()),
            is_anywhere: false,
            only_quiet: true,
        }))
    }

    /// What a compile that ran here with this result has made.
    pub(super) fn made(&self, result: &ActionResult) -> &Self {
        self.plain.as_deref().filter(|_| is_quiet(result)).unwrap_or(self)
    }

    /// Whether a result serves this call.
    pub(super) fn is_served_by(&self, result: &ActionResult) -> bool {
        !self.only_quiet || is_quiet(result)
    }
}

impl Done {
    /// Whether the compiler said nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

/// Whether the compiler said nothing.
pub(super) fn is_quiet(result: &ActionResult) -> bool {
    result.stdout.size == 0 && result.stderr.size == 0
}
