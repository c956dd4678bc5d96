//! What a source was seen to include, as members tell each other.
//!
//! Paths only: whoever reads it takes digests from its own disk, builds the tree of what is listed, and computes the
//! action's key. If that is the key the manifest names, every file is what it was where the manifest was made. So a manifest of
//! hundreds of headers takes a few kilobytes, and it cannot be of other contents than the reader's.
//!
//! What it can be is incomplete: a file that the compile reads and that is not listed is missing in the tree, and a record
//! of such an action may exist where that file does not (`__has_include`). So a manifest counts under the same policy as a
//! record does.

use serde::{Deserialize, Serialize};

use crate::{
    ActionKey, Digest, Identity, NodeId, front::FrontCoded, identity::SignedBytes, wire::FrameError,
};

/// Context string of a shared manifest's signature.
pub const MANIFEST_CONTEXT: &str = "barnraise shared manifest v1";

/// What one compile of a source read and looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedManifest {
    /// The name of all that is known before the inputs are.
    pub key: Digest,
    /// The action it was.
    pub action: ActionKey,
    /// Every path of its input tree.
    pub present: FrontCoded,
    /// Where nothing was: absolute paths, or relative to the working directory.
    pub absent: FrontCoded,
    /// Where a file was looked for and a directory is.
    pub passed_over: FrontCoded,
    /// Who saw it.
    pub producer: NodeId,
}

impl SharedManifest {
    /// Signs it with the producer's identity.
    pub fn sign(&self, identity: &Identity) -> SignedBytes {
        let bytes = postcard::to_stdvec(self).expect("encoding into memory does not fail");
        identity.sign(MANIFEST_CONTEXT, bytes)
    }

    /// What a signed manifest says; the signature is the caller's to check.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(signed: &SignedBytes) -> Result<Self, FrameError> {
        postcard::from_bytes(signed.unverified_payload()).map_err(|_| FrameError::Malformed)
    }

    /// Whether two members saw the same.
    pub fn agrees(&self, other: &Self) -> bool {
        let Self { key, action, present, absent, passed_over, producer: _ } = self;
        let told = (&other.key, &other.action, &other.present, &other.absent, &other.passed_over);
        (key, action, present, absent, passed_over) == told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_signed_and_agrees_whoever_made_it() {
        let (one, two) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let paths = [&b"/a/x.c"[..], b"/a/x.h"];
        let manifest = SharedManifest {
            key: Digest::of(b"key"),
            action: ActionKey(Digest::of(b"action")),
            present: FrontCoded::of(paths),
            absent: FrontCoded::of([&b"/b/x.h"[..]]),
            passed_over: FrontCoded::default(),
            producer: one.id(),
        };
        let signed = manifest.sign(&one);
        assert!(signed.verified(MANIFEST_CONTEXT, &one.id()).is_some());
        assert!(signed.verified(MANIFEST_CONTEXT, &two.id()).is_none());
        assert_eq!(SharedManifest::read(&signed), Ok(manifest.clone()));
        assert!(SharedManifest::read(&one.sign(MANIFEST_CONTEXT, vec![9])).is_err());
        assert!(manifest.agrees(&SharedManifest { producer: two.id(), ..manifest.clone() }));
        assert!(!manifest.agrees(&SharedManifest { absent: FrontCoded::default(), ..manifest.clone() }));
    }
}
