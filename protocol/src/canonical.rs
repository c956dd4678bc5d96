//! The canonical encoding under every key.
//!
//! Two nodes whose encodings differ by a byte split the cache silently, so the rules are few and written down:
//! every value is length-prefixed or of fixed width, integers are little-endian 64-bit, sequences carry their
//! count, maps are sorted by key, and each kind of value has its own domain string with a version in it.
//! Source of the idea: jj-lib's `content_hash`.

use crate::digest::Digest;

/// Feeds values, canonically encoded, into a BLAKE3 hasher keyed by a domain.
pub struct Canonical(blake3::Hasher);

impl Canonical {
    /// An encoder for one kind of value. `domain` names the kind and its version, e.g. `barnraise action v1`.
    pub fn new(domain: &'static str) -> Self {
        Self(blake3::Hasher::new_derive_key(domain))
    }

    /// A fixed-width integer.
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    /// Bytes, preceded by their length.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64);
        self.0.update(value);
        self
    }

    /// A digest, of fixed width.
    pub fn digest(&mut self, value: &Digest) -> &mut Self {
        self.0.update(value.as_bytes());
        self
    }

    /// A sequence: its count, then each item.
    pub fn sequence<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
        self
    }

    /// The digest of everything fed so far.
    pub fn finish(&self) -> Digest {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(feed: impl Fn(&mut Canonical)) -> Digest {
        let mut encoder = Canonical::new("barnraise test v1");
        feed(&mut encoder);
        encoder.finish()
    }

    #[test]
    fn boundaries_between_values_count() {
        let joined = hash(|e| {
            e.bytes(b"ab").bytes(b"c");
        });
        let split = hash(|e| {
            e.bytes(b"a").bytes(b"bc");
        });
        assert_ne!(joined, split);
    }

    #[test]
    fn golden_vector() {
        let digest = hash(|e| {
            e.number(7).bytes(b"seven").sequence(&[1_u64, 2], |e, n| {
                e.number(*n);
            });
        });
        assert_eq!(digest.to_string(), "adb81a56ca4fff1f7d583e1016e7b6c7cc903a75e5b933494fdd7201b0365c9a");
    }
}
