//! Which records are kept for others, and which are believed.

use barn_protocol::{
    Action, ActionKey, ActionRecord, NodeId,
    action::RECORD_CONTEXT,
    dht::{
        Entry, EntryKey, Put, Told,
        limits::{BODY_BYTES_MAX, HOLDERS_MAX, INLINE_BYTES_MAX},
    },
    identity::SignedBytes,
    roster::{Member, Roster},
};

use super::OfficeCache;
use crate::config::Trust;

/// Small outputs that come with an entry: each has a byte at least, but nothing needs so many.
const INLINE_BLOBS_MAX: usize = 64;

/// Why a record is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no record, or of something that failed.
    #[error("it is no record of a successful compile")]
    Malformed,
    /// Whoever signed it is no member.
    #[error("its producer is not on the roster")]
    Stranger,
    /// The producer did not sign it.
    #[error("its signature is not its producer's")]
    Signature,
    /// It is of another action, or names other outputs than the action has.
    #[error("it is of another action")]
    OtherAction,
    /// The settings do not trust its producer.
    #[error("`cache.trust` does not include its producer")]
    Untrusted,
}

/// A record that its producer signed.
pub(super) struct Authentic {
    pub(super) record: ActionRecord,
    pub(super) signed: SignedBytes,
    producer: Member,
}

impl OfficeCache {
    /// The record of an entry, if it is one of `action` and its producer is believed.
    pub(super) fn judge(&self, action: &Action, key: ActionKey, entry: &Entry) -> Result<Authentic, Refused> {
        let believed = self.judge_key(key, entry)?;
        if believed.record.result.check(action).is_err() {
            return Err(Refused::OtherAction);
        }
        Ok(believed)
    }

    /// As [`OfficeCache::judge`] where the action is not known: whether it names the action's outputs is for whoever uses it
    /// to see.
    pub(super) fn judge_key(&self, key: ActionKey, entry: &Entry) -> Result<Authentic, Refused> {
        let roster = self.parts.roster.current().ok_or(Refused::Stranger)?;
        let authentic = Authentic::of(entry, roster.roster())?;
        let Authentic { record, producer, .. } = &authentic;
        if record.key != key || !record.result.is_within_limits() {
            return Err(Refused::OtherAction);
        }
        let believed = producer.id == self.parts.self_id || trusts(self.parts.trust, record, producer);
        if believed { Ok(authentic) } else { Err(Refused::Untrusted) }
    }

    /// Whether what a peer tells is fit to be kept or passed on.
    pub(super) fn is_fit(&self, put: &Put) -> bool {
        let Some(roster) = self.parts.roster.current() else { return false };
        is_fit(put, roster.roster())
    }
}

impl OfficeCache {
    /// Strikes holders that are no members, or too many: the table of the office's members never forgets one.
    pub(super) fn leave_members(&self, put: &mut Put) {
        let roster = self.parts.roster.current();
        if let (Told::Entry { holders, .. }, Some(roster)) = (&mut put.what, roster) {
            strike_strangers(holders, roster.roster());
        }
    }
}

fn strike_strangers(holders: &mut Vec<NodeId>, roster: &Roster) {
    holders.retain(|holder| roster.member(holder).is_some());
    holders.truncate(HOLDERS_MAX);
}

impl Authentic {
    /// The record of an entry, if a member signed it.
    fn of(entry: &Entry, roster: &Roster) -> Result<Self, Refused> {
        let signed: SignedBytes = postcard::from_bytes(&entry.body.0).map_err(|_| Refused::Malformed)?;
        let record: ActionRecord =
            postcard::from_bytes(signed.unverified_payload()).map_err(|_| Refused::Malformed)?;
        if record.result.exit_code != 0 {
            return Err(Refused::Malformed);
        }
        let producer = roster.member(&record.producer).ok_or(Refused::Stranger)?.clone();
        signed.verified(RECORD_CONTEXT, &record.producer).ok_or(Refused::Signature)?;
        Ok(Self { record, signed, producer })
    }
}

fn is_fit(put: &Put, roster: &Roster) -> bool {
    let Told::Entry { entry, .. } = &put.what else { return true };
    let inline: usize = entry.inline.iter().map(|bytes| bytes.0.len()).sum();
    let is_of_key = || {
        Authentic::of(entry, roster).is_ok_and(|authentic| EntryKey::record(&authentic.record.key) == put.key)
    };
    entry.body.0.len() <= BODY_BYTES_MAX
        && inline <= INLINE_BYTES_MAX
        && entry.inline.len() <= INLINE_BLOBS_MAX
        && is_of_key()
}

fn trusts(trust: Trust, record: &ActionRecord, producer: &Member) -> bool {
    match trust {
        Trust::Own => false,
        Trust::Workers => record.sandboxed && producer.capabilities.execute,
        Trust::Members => true,
        Trust::Publishers => producer.capabilities.publish,
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{ActionResult, Digest, Identity, action::Blob, roster::Capabilities, wire::Bytes};

    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_seed(&[seed; 32])
    }

    fn member(seed: u8, capabilities: Capabilities) -> Member {
        Member { id: identity(seed).id(), name: format!("node-{seed}"), capabilities }
    }

    fn record(producer: NodeId, exit_code: u8) -> ActionRecord {
        let none = Blob::of(b"");
        let result = ActionResult { exit_code, stdout: none, stderr: none, outputs: Vec::new(), wall_ms: 1 };
        ActionRecord { key: ActionKey(Digest::of(b"key")), result, producer, sandboxed: true, epoch: 1 }
    }

    fn entry(signed: &SignedBytes) -> Entry {
        let body = Bytes(postcard::to_stdvec(signed).unwrap());
        Entry { toolchain: Digest::of(b"gcc"), body, inline: Vec::new() }
    }

    #[test]
    fn each_policy_believes_whom_it_says() {
        let check = |trust, sandboxed, execute, publish, expect| {
            let producer = member(1, Capabilities { submit: true, execute, publish });
            let record = ActionRecord { sandboxed, ..record(producer.id, 0) };
            assert_eq!(trusts(trust, &record, &producer), expect, "{trust:?} {sandboxed} {producer:?}");
        };
        check(Trust::Own, true, true, true, false);
        check(Trust::Workers, true, true, false, true);
        check(Trust::Workers, false, true, true, false);
        check(Trust::Workers, true, false, true, false);
        check(Trust::Members, false, false, false, true);
        check(Trust::Publishers, false, true, false, false);
        check(Trust::Publishers, false, false, true, true);
    }

    #[test]
    fn only_what_a_member_signed_is_authentic() {
        let admin = identity(200);
        let roster = Roster::found(&admin, member(1, Capabilities::OFFICE), 0, 100);
        let check = |entry: &Entry, expect: Option<Refused>| {
            assert_eq!(Authentic::of(entry, &roster).err(), expect);
        };
        let (honest, stranger) = (identity(1), identity(9));
        check(&entry(&record(honest.id(), 0).sign(&honest)), None);
        check(&entry(&record(honest.id(), 1).sign(&honest)), Some(Refused::Malformed));
        check(&entry(&record(honest.id(), 0).sign(&stranger)), Some(Refused::Signature));
        check(&entry(&record(stranger.id(), 0).sign(&stranger)), Some(Refused::Stranger));
        check(&entry(&honest.sign(RECORD_CONTEXT, vec![1, 2, 3])), Some(Refused::Malformed));
        let rubbish = Entry { body: Bytes(vec![7; 100]), ..entry(&record(honest.id(), 0).sign(&honest)) };
        check(&rubbish, Some(Refused::Malformed));
    }

    #[test]
    fn made_up_holders_are_struck() {
        let roster = Roster::found(&identity(200), member(1, Capabilities::OFFICE), 0, 100);
        let mut holders: Vec<NodeId> = (1..100).map(|seed| identity(seed).id()).collect();
        strike_strangers(&mut holders, &roster);
        assert_eq!(holders, [identity(1).id()]);
        let mut many = vec![identity(1).id(); HOLDERS_MAX + 1];
        strike_strangers(&mut many, &roster);
        assert_eq!(many.len(), HOLDERS_MAX);
    }

    #[test]
    fn only_what_fits_its_key_and_the_limits_is_kept() {
        let (admin, honest) = (identity(200), identity(1));
        let roster = Roster::found(&admin, member(1, Capabilities::OFFICE), 0, 100);
        let record = record(honest.id(), 0);
        let good = entry(&record.sign(&honest));
        let check = |key: EntryKey, entry: Entry, expect: bool| {
            let put = Put { key, what: Told::Entry { entry, holders: Vec::new() } };
            assert_eq!(is_fit(&put, &roster), expect);
        };
        let key = EntryKey::record(&record.key);
        check(key, good.clone(), true);
        check(EntryKey::record(&ActionKey(Digest::of(b"another"))), good.clone(), false);
        check(key, Entry { inline: vec![Bytes(vec![0; INLINE_BYTES_MAX + 1])], ..good.clone() }, false);
        check(key, Entry { inline: vec![Bytes(vec![0]); INLINE_BLOBS_MAX + 1], ..good }, false);
    }
}
