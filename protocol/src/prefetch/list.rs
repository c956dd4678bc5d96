//! What a build needed, in order, as a signed list.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    ActionKey, ActionResult, Digest, Identity, NodeId,
    identity::SignedBytes,
    limits::{OUTPUTS_BYTES_MAX, STDIO_BYTES_MAX},
    roster::Roster,
};

/// Context string of a build list's signature.
pub const LIST_CONTEXT: &str = "barnraise build list v1";
/// Entries of one list: twice the units of Chromium.
pub const ENTRIES_MAX: usize = 65_536;
/// Toolchains of one list: more than a build for every machine there is uses.
pub const TOOLCHAINS_MAX: usize = 256;
/// Longest name of a build, in bytes: a commit's has 40 or 64, and there is room for a branch and a configuration.
pub const NAME_BYTES_MAX: usize = 128;
/// Largest sum of what one action writes and says, in bytes.
const ENTRY_BYTES_MAX: u64 = OUTPUTS_BYTES_MAX + 2 * STDIO_BYTES_MAX;

/// What a build is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildName(String);

/// A text that cannot name a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a build's name is 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ - + / : @ and does not begin with -")]
pub struct NameError;

impl BuildName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BuildName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for BuildName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+/:@".contains(&byte);
        let is_name =
            (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fit) && !text.starts_with('-');
        if is_name { Ok(Self(text)) } else { Err(NameError) }
    }
}

impl From<BuildName> for String {
    fn from(name: BuildName) -> Self {
        name.0
    }
}

impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One action of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildEntry {
    /// Its key.
    pub key: ActionKey,
    /// Its toolchain, by its place in the list's.
    pub toolchain: u32,
    /// How long the compiler ran, in milliseconds.
    pub cost_ms: u32,
    /// The size of all it wrote and said, in bytes, debug information beside the object included.
    pub bytes: u64,
    /// The size of the debug information beside the object (`.dwo`).
    pub side_bytes: u64,
    /// Which of the action's outputs that is: one bit each, the lowest for the first.
    pub side_outputs: u64,
}

impl BuildEntry {
    /// What is listed of an action with this result, of which `side_outputs` are debug information beside the object.
    pub fn of(key: ActionKey, toolchain: u32, result: &ActionResult, side_outputs: u64) -> Self {
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        let mut side_sizes = result.outputs.iter().filter(|o| is_set(side_outputs, o.output)).map(|o| o.size);
        Self {
            key,
            toolchain,
            cost_ms: u32::try_from(result.wall_ms).unwrap_or(u32::MAX),
            bytes: sum(&mut result.blobs().map(|blob| blob.size)),
            side_bytes: sum(&mut side_sizes),
            side_outputs,
        }
    }

    /// Whether an output, by its index, is debug information beside the object.
    pub fn is_side(&self, output: u32) -> bool {
        is_set(self.side_outputs, output)
    }
}

fn is_set(bits: u64, place: u32) -> bool {
    bits.checked_shr(place).is_some_and(|bits| bits & 1 == 1)
}

/// What a build needed, in the order in which it was first asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildList {
    /// Of which build.
    pub name: BuildName,
    /// Who recorded it.
    pub publisher: NodeId,
    /// When it was last added to, in seconds since the Unix epoch by the publisher's clock.
    pub recorded_unix_s: u64,
    /// Actions beyond the limits that are not listed.
    pub left_out: u64,
    /// The toolchains of the actions, each once.
    pub toolchains: Vec<Digest>,
    /// The actions, each once.
    pub entries: Vec<BuildEntry>,
}

/// Why a list is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The bytes are no list, or over the limits.
    #[error("it is no build list")]
    Malformed,
    /// It is of another build.
    #[error("it is of another build")]
    OtherBuild,
    /// The member that was asked did not sign it.
    #[error("the member that was asked did not sign it")]
    Signature,
    /// Whoever signed it may not publish.
    #[error("whoever signed it may not publish")]
    NotPublisher,
}

impl BuildList {
    /// Signs the list with the publisher's identity.
    pub fn sign(&self, identity: &Identity) -> SignedBytes {
        let payload = postcard::to_stdvec(self).expect("encoding into memory does not fail");
        identity.sign(LIST_CONTEXT, payload)
    }

    /// The list of the build `name` that `asked` gave, if it signed it.
    ///
    /// # Errors
    /// When it is none, of another build, or of another member.
    pub fn signed_by(signed: &SignedBytes, name: &BuildName, asked: &NodeId) -> Result<Self, ListError> {
        let payload = signed.verified(LIST_CONTEXT, asked).ok_or(ListError::Signature)?;
        let Ok((list, [])) = postcard::take_from_bytes::<Self>(payload) else {
            return Err(ListError::Malformed);
        };
        if list.name != *name {
            return Err(ListError::OtherBuild);
        }
        if list.publisher != *asked {
            return Err(ListError::Signature);
        }
        if list.is_within_limits() { Ok(list) } else { Err(ListError::Malformed) }
    }

    /// As [`BuildList::signed_by`], of a member that may publish.
    ///
    /// # Errors
    /// Also when it may not.
    pub fn published_by(
        signed: &SignedBytes,
        name: &BuildName,
        asked: &NodeId,
        roster: &Roster,
    ) -> Result<Self, ListError> {
        let may_publish = roster.member(asked).is_some_and(|member| member.capabilities.publish);
        if may_publish { Self::signed_by(signed, name, asked) } else { Err(ListError::NotPublisher) }
    }

    /// Of several lists of one name the largest of these is used: the most complete one, then the newest.
    pub fn rank(&self) -> (usize, u64, NodeId) {
        (self.entries.len(), self.recorded_unix_s, self.publisher)
    }

    /// The toolchain of an entry.
    pub fn toolchain(&self, entry: &BuildEntry) -> Option<&Digest> {
        self.toolchains.get(usize::try_from(entry.toolchain).ok()?)
    }

    fn is_within_limits(&self) -> bool {
        let is_fit = |entry: &BuildEntry| {
            self.toolchain(entry).is_some()
                && entry.side_bytes <= entry.bytes
                && entry.bytes <= ENTRY_BYTES_MAX
                && (entry.side_outputs != 0 || entry.side_bytes == 0)
        };
        self.entries.len() <= ENTRIES_MAX
            && self.toolchains.len() <= TOOLCHAINS_MAX
            && self.entries.iter().all(is_fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::{Blob, OutputFile},
        roster::{Capabilities, Member},
    };

    fn identity(seed: u8) -> Identity {
        Identity::from_seed(&[seed; 32])
    }

    fn entry(name: &[u8]) -> BuildEntry {
        BuildEntry {
            key: ActionKey(Digest::of(name)),
            toolchain: 0,
            cost_ms: 1500,
            bytes: 200_000,
            side_bytes: 60_000,
            side_outputs: 0b10,
        }
    }

    fn list(publisher: &Identity) -> BuildList {
        BuildList {
            name: "main/4f2a".parse().unwrap(),
            publisher: publisher.id(),
            recorded_unix_s: 1_800_000_000,
            left_out: 0,
            toolchains: vec![Digest::of(b"gcc")],
            entries: vec![entry(b"one"), entry(b"two")],
        }
    }

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for good in ["a", "4f2a9c", "main/4f2a", "v1.2+x86:rel@ci_1-2", &long] {
            assert_eq!(good.parse::<BuildName>().map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", "-x", "a b", "a\n", "ä", "a*", &format!("{long}x")] {
            assert_eq!(bad.parse::<BuildName>(), Err(NameError), "{bad:?}");
        }
        let encoded = postcard::to_stdvec("a b").unwrap();
        assert!(postcard::from_bytes::<BuildName>(&encoded).is_err(), "nor do they come over the wire");
    }

    #[test]
    fn golden_bytes() {
        let publisher = identity(7);
        let payload = list(&publisher).sign(&publisher).unverified_payload().to_vec();
        let hex = data_encoding::HEXLOWER.encode(&payload);
        let one = Digest::of(b"one").to_string();
        let two = Digest::of(b"two").to_string();
        let rest = "00dc0bc09a0ce0d40302";
        let expect = [
            &format!("09{}", data_encoding::HEXLOWER.encode(b"main/4f2a")),
            &data_encoding::HEXLOWER.encode(publisher.id().as_bytes()),
            "80a4a7da06",
            "00",
            &format!("01{}", Digest::of(b"gcc")),
            &format!("02{one}{rest}{two}{rest}"),
        ]
        .concat();
        assert_eq!(hex, expect);
        let digest = Digest::of(&postcard::to_stdvec(&list(&publisher).sign(&publisher)).unwrap());
        assert_eq!(digest.to_string(), "3b37e8217cc5f12e030f128b74afbfaf52cd50de8667e7b46a3b0decfa1ac169");
    }

    #[test]
    fn only_what_the_asked_publisher_signed_is_used() {
        let (admin, ci, other) = (identity(200), identity(1), identity(2));
        let member = |identity: &Identity, publish| Member {
            id: identity.id(),
            name: identity.id().short(),
            capabilities: Capabilities { publish, ..Capabilities::OFFICE },
        };
        let roster = Roster::found(&admin, member(&ci, true), 0, 100).with(member(&other, false), 1).unwrap();
        let check = |signed: &SignedBytes, asked: &Identity, expect| {
            let name = list(&ci).name;
            let judged = BuildList::published_by(signed, &name, &asked.id(), &roster);
            assert_eq!(judged.map(|list| list.entries.len()), expect);
        };
        let good = list(&ci).sign(&ci);
        check(&good, &ci, Ok(2));
        check(&good, &other, Err(ListError::NotPublisher));
        check(&list(&other).sign(&other), &other, Err(ListError::NotPublisher));
        check(&list(&identity(9)).sign(&identity(9)), &identity(9), Err(ListError::NotPublisher));
        check(&list(&ci).sign(&other), &ci, Err(ListError::Signature));
        check(&list(&other).sign(&ci), &ci, Err(ListError::Signature));
        let as_record = ci.sign(crate::action::RECORD_CONTEXT, good.unverified_payload().to_vec());
        check(&as_record, &ci, Err(ListError::Signature));
        let longer = [good.unverified_payload(), &[0]].concat();
        check(&ci.sign(LIST_CONTEXT, longer), &ci, Err(ListError::Malformed));
        let other_build = BuildList { name: "other".parse().unwrap(), ..list(&ci) };
        check(&other_build.sign(&ci), &ci, Err(ListError::OtherBuild));
    }

    #[test]
    fn what_is_over_a_limit_is_no_list() {
        let ci = identity(1);
        let check = |change: &dyn Fn(&mut BuildList), is_fit: bool| {
            let mut changed = list(&ci);
            change(&mut changed);
            let judged = BuildList::signed_by(&changed.sign(&ci), &changed.name, &ci.id());
            assert_eq!(judged.err(), (!is_fit).then_some(ListError::Malformed));
        };
        check(&|_| {}, true);
        check(&|list| list.entries = vec![entry(b"x"); ENTRIES_MAX], true);
        check(&|list| list.entries = vec![entry(b"x"); ENTRIES_MAX + 1], false);
        check(&|list| list.toolchains = vec![Digest::of(b"x"); TOOLCHAINS_MAX + 1], false);
        check(&|list| list.entries[0].toolchain = 1, false);
        check(&|list| list.entries[0].side_bytes = list.entries[0].bytes + 1, false);
        check(&|list| list.entries[0].side_outputs = 0, false);
        check(&|list| list.entries[0].bytes = u64::MAX, false);
    }

    #[test]
    fn an_entry_says_what_its_result_has() {
        let blob = |size| Blob { digest: Digest::of(b"x"), size };
        let output = |output, size| OutputFile { output, digest: Digest::of(b"x"), size };
        let result = ActionResult {
            exit_code: 0,
            stdout: blob(0),
            stderr: blob(7),
            outputs: vec![output(0, 100), output(1, 30), output(63, 20)],
            wall_ms: u64::MAX,
        };
        let entry = BuildEntry::of(ActionKey(Digest::of(b"k")), 3, &result, 1 << 63 | 0b10);
        assert_eq!((entry.bytes, entry.side_bytes, entry.cost_ms), (157, 50, u32::MAX));
        let sides: Vec<u32> = (0..70).filter(|output| entry.is_side(*output)).collect();
        assert_eq!(sides, [1, 63]);
    }

    #[test]
    fn the_most_complete_list_counts_then_the_newest() {
        let (one, two) = (list(&identity(1)), list(&identity(2)));
        let newer = BuildList { recorded_unix_s: one.recorded_unix_s + 1, ..two.clone() };
        let shorter = BuildList { entries: newer.entries[..1].to_vec(), ..newer.clone() };
        assert!(newer.rank() > one.rank() && one.rank() > shorter.rank());
    }
}
