//! What one run of rustc was seen to depend on, kept for the next call of the same crate.

use barn_protocol::{Action, ActionKey, Digest, canonical::Canonical, keys::domain};
use serde::{Deserialize, Serialize};

use super::{
    after::{Inputs, Variables},
    call::RustCall,
    listing::Listing,
};
use crate::requester::{files::Files, manifest::Manifest, sight::Look};

/// What a crate's result rests on beside what its call says.
#[derive(Serialize, Deserialize)]
pub(super) struct RustManifest<'a> {
    #[serde(borrow)]
    seen: Manifest<'a>,
    listings: Vec<Listing>,
    env: Variables,
    presentation: Option<Vec<Vec<u8>>>,
}

/// The name of the manifests of a crate with this root source, whose inputs are not known yet.
pub(super) fn rust_manifest_key(stem: &Action, source: &Digest) -> Digest {
    Canonical::new(domain::RUST_MANIFEST).digest(&stem.key().0).digest(source).finish()
}

impl<'a> RustManifest<'a> {
    /// The manifest of a run with these inputs.
    pub(super) fn new(action: ActionKey, inputs: &'a Inputs) -> Self {
        Self {
            seen: Manifest::new(action, &inputs.tree, &inputs.absent),
            listings: inputs.listings.clone(),
            env: inputs.env.clone(),
            presentation: inputs.presentation.clone(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory does not fail")
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// The action whose result it leads to.
    pub(super) fn action(&self) -> ActionKey {
        self.seen.action
    }

    /// Why it does not hold for this call; `None` if it does.
    pub(super) fn broken_by(&self, call: &RustCall, look: &mut Look<'_>, files: &Files) -> Option<String> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.presentation.as_ref().is_some_and(|args| *args != call.compile.presentation) {
            return Some("its messages are laid out otherwise".to_owned());
        }
        let now = |name: &[u8]| call.env.get(name).map(|value| Digest::of(value));
        if let Some((name, _)) = self.env.iter().find(|(name, value)| now(name) != *value) {
            return Some(format!("variable {} has changed", shown(name)));
        }
        if let Some(why) = self.seen.broken_by(look) {
            return Some(why);
        }
        let changed = self.listings.iter().find(|listing| !listing.holds(files))?;
        Some(format!("something in {} has changed", shown(&changed.path)))
    }
}
