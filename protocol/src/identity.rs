//! Node identities and signatures.
//!
//! A node is one ed25519 key: its libp2p peer id, its TLS raw public key and its place on the roster are that
//! key. What is signed is signed as bytes, and verified as the bytes received, never as a re-encoding (postcard
//! accepts overlong varints, so an equal value may have other bytes). Each kind of statement has its own
//! context string, so that a signature under one kind is worth nothing under another.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// The public key of a node or of an admin; its text form is 52 lower-case base32 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// A text that is not the id of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 52 base32 characters that encode an ed25519 public key")]
pub struct ParseNodeIdError;

impl NodeId {
    /// A node id from raw key bytes.
    ///
    /// # Errors
    /// When they are no ed25519 public key, or a weak one.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, ParseNodeIdError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| ParseNodeIdError)?;
        if key.is_weak() { Err(ParseNodeIdError) } else { Ok(Self(bytes)) }
    }

    /// The raw ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters of the text form, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }

    /// Checks a signature of this key over `payload` in `context`.
    pub fn verify(&self, context: &str, payload: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        key.verify_strict(&statement(context, payload), &signature).is_ok()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::BASE32_NOPAD
            .decode(text.trim().to_uppercase().as_bytes())
            .map_err(|_| ParseNodeIdError)?;
        Self::from_bytes(bytes.try_into().map_err(|_| ParseNodeIdError)?)
    }
}

/// A secret key: a node's, or the admin's.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity whose ed25519 seed is `seed`; fresh random bytes make a new identity.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The ed25519 seed, to be kept secret.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `payload` as a statement of the kind `context`.
    pub fn sign(&self, context: &str, payload: Vec<u8>) -> SignedBytes {
        let signature = self.0.sign(&statement(context, &payload)).to_bytes();
        SignedBytes { payload, signature: signature.to_vec() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.id())
    }
}

/// A payload with a signature over exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBytes {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl SignedBytes {
    /// The payload, if `signer` signed it as a statement of the kind `context`.
    pub fn verified(&self, context: &str, signer: &NodeId) -> Option<&[u8]> {
        let signature: &[u8; 64] = self.signature.as_slice().try_into().ok()?;
        signer.verify(context, &self.payload, signature).then_some(&self.payload)
    }

    /// The payload before any check; only for finding out whose signature to ask for.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }
}

fn statement(context: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + context.len() + payload.len());
    bytes.extend_from_slice(&(context.len() as u64).to_le_bytes());
    bytes.extend_from_slice(context.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = Identity::from_seed(&[7; 32]).id();
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert!("abc".parse::<NodeId>().is_err());
        assert!(NodeId::from_bytes([0; 32]).is_err(), "weak keys are refused");
    }

    #[test]
    fn signatures_bind_key_context_and_bytes() {
        let (alice, bob) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let signed = alice.sign("kind a", b"payload".to_vec());
        assert_eq!(signed.verified("kind a", &alice.id()), Some(&b"payload"[..]));
        assert_eq!(signed.verified("kind b", &alice.id()), None);
        assert_eq!(signed.verified("kind a", &bob.id()), None);
        let mut bent = signed.clone();
        bent.payload.push(0);
        assert_eq!(bent.verified("kind a", &alice.id()), None);
        let mut short = signed;
        short.signature.pop();
        assert_eq!(short.verified("kind a", &alice.id()), None);
    }
}
