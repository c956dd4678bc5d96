//! Which records and include manifests are kept for others, and which are believed.

use barn_protocol::{
    Action, ActionKey, ActionRecord, ActionResult, Digest, NodeId,
    action::RECORD_CONTEXT,
    dht::{
        Body, Entry, EntryKey, MANIFEST_CONTEXT, Put, SharedManifest, Told,
        limits::{BODIES_MAX, BODY_BYTES_MAX, HOLDERS_MAX, INLINE_BYTES_MAX},
    },
    identity::SignedBytes,
    roster::{Member, Roster},
    wire,
};

use super::OfficeCache;
use crate::trust::{Policy, Signed, Voice};

/// Small outputs that come with a record: each has a byte at least, but nothing needs so many.
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
    #[error("`cache.trust` or BARN_TRUST does not include its producer")]
    Untrusted,
    /// The settings want more members to agree.
    #[error("too few members have made the same")]
    TooFew,
}

/// What a member says, in one of the ways there are.
pub(super) trait Statement: Sized {
    /// Reads it and finds who is said to have signed it.
    fn read(signed: &SignedBytes) -> Result<(Self, NodeId), Refused>;
    /// The kind of statement that is signed.
    const CONTEXT: &'static str;
    /// What it is signed as.
    fn signed(&self) -> Signed;
    /// Whether two say the same.
    fn agrees(&self, other: &Self) -> bool;
    /// The key under which it is found.
    fn key(&self) -> EntryKey;
}

impl Statement for ActionRecord {
    const CONTEXT: &'static str = RECORD_CONTEXT;

    fn read(signed: &SignedBytes) -> Result<(Self, NodeId), Refused> {
        let record: Self =
            postcard::from_bytes(signed.unverified_payload()).map_err(|_| Refused::Malformed)?;
        if record.result.exit_code != 0 {
            return Err(Refused::Malformed);
        }
        let producer = record.producer;
        Ok((record, producer))
    }

    fn signed(&self) -> Signed {
        if self.sandboxed { Signed::Sandboxed } else { Signed::Unsandboxed }
    }

    fn agrees(&self, other: &Self) -> bool {
        // How long it took is another thing everywhere.
        let timeless = |result: &ActionResult| ActionResult { wall_ms: 0, ..result.clone() };
        self.key == other.key && timeless(&self.result) == timeless(&other.result)
    }

    fn key(&self) -> EntryKey {
        EntryKey::record(&self.key)
    }
}

impl Statement for SharedManifest {
    const CONTEXT: &'static str = MANIFEST_CONTEXT;

    fn read(signed: &SignedBytes) -> Result<(Self, NodeId), Refused> {
        let manifest = Self::read(signed).map_err(|_| Refused::Malformed)?;
        let producer = manifest.producer;
        Ok((manifest, producer))
    }

    fn signed(&self) -> Signed {
        Signed::Manifest
    }

    fn agrees(&self, other: &Self) -> bool {
        self.agrees(other)
    }

    fn key(&self) -> EntryKey {
        EntryKey::manifest(&self.key)
    }
}

/// A statement that its producer signed.
#[derive(Debug)]
pub(super) struct Authentic<T> {
    pub(super) says: T,
    pub(super) signed: SignedBytes,
    pub(super) producer: Member,
}

impl<T: Statement> Authentic<T> {
    /// What a body says, if a member signed it.
    fn of(body: &Body, roster: &Roster) -> Result<Self, Refused> {
        let signed: SignedBytes = wire::decode(&body.signed.0).map_err(|_| Refused::Malformed)?;
        let (says, producer) = T::read(&signed)?;
        let producer = roster.member(&producer).ok_or(Refused::Stranger)?.clone();
        signed.verified(T::CONTEXT, &producer.id).ok_or(Refused::Signature)?;
        Ok(Self { says, signed, producer })
    }

    fn voice(&self) -> Voice<'_> {
        Voice { member: &self.producer, signed: self.says.signed() }
    }
}

/// Whose word counts for a reader.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) self_id: NodeId,
    pub(super) policy: &'a Policy,
    pub(super) roster: &'a Roster,
}

impl Judge<'_> {
    /// The statements that are believed, in the order in which they became so, at most `enough` and no two that agree; of
    /// those that say what `is_meant`.
    pub(super) fn believed<T: Statement>(
        &self,
        entry: &Entry,
        enough: usize,
        is_meant: impl Fn(&T) -> bool,
    ) -> Result<Vec<Authentic<T>>, Refused> {
        let (mut known, mut refused) = (Vec::<Authentic<T>>::new(), None);
        let mut believed: Vec<usize> = Vec::new();
        // Two owners have no more, and each signature takes 50 µs.
        for body in entry.bodies.iter().take(2 * BODIES_MAX) {
            match Authentic::of(body, self.roster) {
                Ok(one) if !is_meant(&one.says) => drop(refused.get_or_insert(Refused::OtherAction)),
                Ok(one) => known.push(one),
                Err(why) => drop(refused.get_or_insert(why)),
            }
            let Some(latest) = known.len().checked_sub(1) else { continue };
            let is_new = believed.iter().all(|at| !known[*at].says.agrees(&known[latest].says));
            if is_new && self.is_believed(&known, latest) {
                believed.push(latest);
            }
            if believed.len() >= enough {
                break;
            }
        }
        if believed.is_empty() {
            let why = if self.policy.needs_several() { Refused::TooFew } else { Refused::Untrusted };
            return Err(if known.is_empty() { refused.unwrap_or(Refused::Malformed) } else { why });
        }
        let mut at = 0;
        known.retain(|_| {
            at += 1;
            believed.contains(&(at - 1))
        });
        Ok(known)
    }

    /// Whether what one says is believed, with all who say the same.
    fn is_believed<T: Statement>(&self, known: &[Authentic<T>], at: usize) -> bool {
        let same: Vec<&Authentic<T>> =
            known.iter().filter(|other| other.says.agrees(&known[at].says)).collect();
        if same.iter().any(|one| one.producer.id == self.self_id) {
            return true;
        }
        let mut voices: Vec<Voice<'_>> = Vec::with_capacity(same.len());
        for one in same {
            // Nobody is heard twice. What it did in the sandbox weighs more.
            match voices.iter_mut().find(|voice| voice.member.id == one.producer.id) {
                Some(voice) if one.says.signed() == Signed::Sandboxed => *voice = one.voice(),
                Some(_) => {}
                None => voices.push(one.voice()),
            }
        }
        self.policy.believes(&voices)
    }
}

impl OfficeCache {
    /// The record of `action` that is believed, of all that an entry has.
    pub(super) fn judge(
        &self,
        policy: &Policy,
        action: &Action,
        key: ActionKey,
        entry: &Entry,
    ) -> Result<Authentic<ActionRecord>, Refused> {
        self.judge_records(policy, entry, |record| record.key == key && record.result.check(action).is_ok())
    }

    /// As [`OfficeCache::judge`] by the machine's own policy, where the action is not known: whether it names the action's
    /// outputs is for whoever uses it to see.
    pub(super) fn judge_key(
        &self,
        key: ActionKey,
        entry: &Entry,
    ) -> Result<Authentic<ActionRecord>, Refused> {
        self.judge_records(self.policy(), entry, |record| {
            record.key == key && record.result.is_within_limits()
        })
    }

    fn judge_records(
        &self,
        policy: &Policy,
        entry: &Entry,
        is_meant: impl Fn(&ActionRecord) -> bool,
    ) -> Result<Authentic<ActionRecord>, Refused> {
        let roster = self.parts.roster.current().ok_or(Refused::Stranger)?;
        let judge = Judge { self_id: self.self_id(), policy, roster: roster.roster() };
        judge.believed(entry, 1, is_meant)?.pop().ok_or(Refused::Malformed)
    }

    /// The manifests of `key` that are believed.
    pub(super) fn judge_manifests(
        &self,
        policy: &Policy,
        key: Digest,
        entry: &Entry,
    ) -> Vec<Authentic<SharedManifest>> {
        let Some(roster) = self.parts.roster.current() else { return Vec::new() };
        let judge = Judge { self_id: self.self_id(), policy, roster: roster.roster() };
        let is_meant = |manifest: &SharedManifest| manifest.key == key;
        judge.believed(entry, BODIES_MAX, is_meant).unwrap_or_default()
    }

    /// Whether the record that lies in this machine's own store is believed. Its signature was checked when it came.
    pub fn believes_stored(&self, policy: &Policy, action: &Action, record: &ActionRecord) -> bool {
        if record.producer == self.self_id() {
            return true;
        }
        let Some(roster) = self.parts.roster.current() else { return false };
        let Some(member) = roster.roster().member(&record.producer) else { return false };
        if policy.believes(&[Voice { member, signed: record.signed() }]) {
            return true;
        }
        let key = record.key;
        policy.needs_several()
            && self.read(EntryKey::record(&key)).is_some_and(|kept| {
                let judged = self.judge(policy, action, key, &kept.entry);
                judged.is_ok_and(|believed| believed.says.agrees(record))
            })
    }

    /// Whether what a peer tells is fit to be kept or passed on.
    pub(super) fn is_fit(&self, put: &Put) -> bool {
        let Some(roster) = self.parts.roster.current() else { return false };
        is_fit(put, roster.roster())
    }

    /// Strikes holders that are no members, or too many: the table of the office's members never forgets one.
    pub(super) fn leave_members(&self, put: &mut Put) {
        let roster = self.parts.roster.current();
        if let (Told::Entry { holders, .. }, Some(roster)) = (&mut put.what, roster) {
            strike_strangers(holders, roster.roster());
        }
    }

    /// What is kept under a key when more comes: at most [`BODIES_MAX`] of it.
    pub(super) fn merged(&self, key: EntryKey, kept: Entry, more: Entry) -> Entry {
        let roster = self.parts.roster.current();
        if key.is_manifest() {
            return newest_first(kept, more);
        }
        let publishes = |id: &NodeId| {
            let member = roster.as_ref().and_then(|roster| roster.roster().member(id));
            member.is_some_and(|member| member.capabilities.publish)
        };
        one_of_each(kept, more, publishes)
    }
}

/// Records: one of each producer, the first; those of publishers go before others, since whoever trusts them alone finds nothing
/// else here.
fn one_of_each(kept: Entry, more: Entry, publishes: impl Fn(&NodeId) -> bool) -> Entry {
    let mut bodies: Vec<(NodeId, Body)> = Vec::new();
    for body in kept.bodies.into_iter().chain(more.bodies) {
        match producer::<ActionRecord>(&body) {
            Some(producer) if bodies.iter().all(|(known, _)| *known != producer) => {
                bodies.push((producer, body));
            }
            _ => {}
        }
    }
    bodies.sort_by_key(|(producer, _)| !publishes(producer));
    bodies.truncate(BODIES_MAX);
    Entry { toolchain: kept.toolchain, bodies: bodies.into_iter().map(|(_, body)| body).collect() }
}

/// Manifests: the newest go before others, for a header that changed makes the others useless.
fn newest_first(kept: Entry, more: Entry) -> Entry {
    let mut bodies = more.bodies;
    bodies.truncate(BODIES_MAX);
    for body in kept.bodies {
        if bodies.len() < BODIES_MAX && bodies.iter().all(|newer| newer.signed != body.signed) {
            bodies.push(body);
        }
    }
    Entry { toolchain: kept.toolchain, bodies }
}

/// Who is said to have signed a body.
fn producer<T: Statement>(body: &Body) -> Option<NodeId> {
    let signed: SignedBytes = wire::decode(&body.signed.0).ok()?;
    Some(T::read(&signed).ok()?.1)
}

fn strike_strangers(holders: &mut Vec<NodeId>, roster: &Roster) {
    holders.retain(|holder| roster.member(holder).is_some());
    holders.truncate(HOLDERS_MAX);
}

fn is_fit(put: &Put, roster: &Roster) -> bool {
    let Told::Entry { entry, .. } = &put.what else { return true };
    let says = |body: &Body| {
        if put.key.is_manifest() {
            Authentic::<SharedManifest>::of(body, roster)
                .is_ok_and(|one| Statement::key(&one.says) == put.key)
        } else {
            Authentic::<ActionRecord>::of(body, roster).is_ok_and(|one| Statement::key(&one.says) == put.key)
        }
    };
    let is_body_fit = |body: &Body| {
        let inline: usize = body.inline.iter().map(|bytes| bytes.0.len()).sum();
        body.signed.0.len() <= BODY_BYTES_MAX
            && inline <= INLINE_BYTES_MAX
            && body.inline.len() <= INLINE_BLOBS_MAX
            && says(body)
    };
    (1..=BODIES_MAX).contains(&entry.bodies.len()) && entry.bodies.iter().all(is_body_fit)
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
