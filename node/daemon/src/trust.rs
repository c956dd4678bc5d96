//! Whose word is taken for what a compile gave.
//!
//! A result is signed by the machine that made it. What it is a result of, its reader checks; that the object is what the
//! compiler makes of these inputs is the maker's word. [`Trust`] says whose word counts and how many have to agree;
//! `docs/configuration.md` says what each setting lets a bad machine do. A [`Policy`] is the machine's setting and, beside it, what
//! one build demands: both must be met, so a demand can only make it stricter. This machine's own word is always taken.

use std::{fmt, str::FromStr};

use barn_protocol::{dht::limits::BODIES_MAX, roster::Member};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

/// Whose results are believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// This machine's alone.
    Own,
    /// Those of members that may execute, of what they compiled in the sandbox.
    Workers,
    /// Every member's.
    #[default]
    Members,
    /// Those of members that may publish.
    Publishers,
    /// Those of these members, by name or id, whatever they may do.
    Named(Vec<String>),
    /// Every member's, as far as so many members made the same of it, each by itself.
    Agree(usize),
}

/// What a member signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// The result of a compile that it ran in its sandbox.
    Sandboxed,
    /// The result of a compile of its own user's.
    Unsandboxed,
    /// What a source includes on its disk.
    Manifest,
}

/// One member's word.
#[derive(Debug, Clone, Copy)]
pub struct Voice<'a> {
    /// Whose.
    pub member: &'a Member,
    /// For what.
    pub signed: Signed,
}

/// The machine's setting, and what one build demands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    machine: Trust,
    build: Option<Trust>,
}

/// A value that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names nobody to trust; there are \"own\", \"workers\", \"members\", \"publishers\", \"workers:NAME,…\" and \"agree:N\" \
     with N from 2 to {BODIES_MAX}"
)]
pub struct UnknownTrust(String);

impl Trust {
    /// Whether this word counts.
    fn counts(&self, voice: &Voice<'_>) -> bool {
        let Voice { member, signed } = voice;
        match self {
            Self::Own => false,
            // Nobody lists in a sandbox what a source includes.
            Self::Workers => *signed == Signed::Sandboxed && member.capabilities.execute,
            Self::Members | Self::Agree(_) => true,
            Self::Publishers => member.capabilities.publish,
            Self::Named(names) => {
                names.iter().any(|name| *name == member.name || *name == member.id.to_string())
            }
        }
    }

    /// How many such words are needed.
    fn needed(&self) -> usize {
        if let Self::Agree(count) = self { *count } else { 1 }
    }

    fn named(names: Vec<String>) -> Result<Self, UnknownTrust> {
        let names: Vec<String> = names.into_iter().map(|name| name.trim().to_owned()).collect();
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(UnknownTrust("workers:".to_owned()));
        }
        Ok(Self::Named(names))
    }

    fn agree(count: usize) -> Result<Self, UnknownTrust> {
        let is_fit = (2..=BODIES_MAX).contains(&count);
        is_fit.then_some(Self::Agree(count)).ok_or_else(|| UnknownTrust(format!("agree:{count}")))
    }
}

impl FromStr for Trust {
    type Err = UnknownTrust;

    fn from_str(text: &str) -> Result<Self, UnknownTrust> {
        let unknown = || UnknownTrust(text.to_owned());
        Ok(match text {
            "own" => Self::Own,
            "workers" => Self::Workers,
            "members" => Self::Members,
            "publishers" => Self::Publishers,
            _ => match text.split_once(':').ok_or_else(unknown)? {
                ("workers", names) => Self::named(names.split(',').map(str::to_owned).collect())?,
                ("agree", count) => Self::agree(count.parse().map_err(|_| unknown())?)?,
                _ => return Err(unknown()),
            },
        })
    }
}

/// `"publishers"`, `{ workers = ["ci-1"] }`, `{ agree = 2 }`.
impl<'de> Deserialize<'de> for Trust {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Setting)
    }
}

struct Setting;

impl<'de> Visitor<'de> for Setting {
    type Value = Trust;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a policy's name, { workers = [names] } or { agree = count }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Trust, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Trust, A::Error> {
        let key: String = map.next_key()?.ok_or_else(|| A::Error::custom("it is empty"))?;
        let trust = match key.as_str() {
            "workers" => Trust::named(map.next_value()?),
            "agree" => Trust::agree(map.next_value()?),
            _ => return Err(A::Error::unknown_field(&key, &["workers", "agree"])),
        };
        match map.next_key::<String>()? {
            None => trust.map_err(A::Error::custom),
            Some(more) => Err(A::Error::custom(format_args!("`{key}` and `{more}` exclude each other"))),
        }
    }
}

impl Policy {
    /// The machine's setting alone.
    pub const fn of(machine: Trust) -> Self {
        Self { machine, build: None }
    }

    /// It, and what a build demands by [`BARN_TRUST`](barn_wrapper::env_vars::BARN_TRUST), if anything. A demand that is not
    /// understood is the strictest one.
    ///
    /// # Errors
    /// What was not understood, beside the policy that is in force then.
    pub fn demanded(&self, value: Option<&[u8]>) -> Result<Self, (Self, UnknownTrust)> {
        let machine = self.machine.clone();
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(Self::of(machine));
        };
        match String::from_utf8_lossy(value).parse() {
            Ok(build) => Ok(Self { machine, build: Some(build) }),
            Err(unknown) => Err((Self { machine, build: Some(Trust::Own) }, unknown)),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Trust> {
        [&self.machine].into_iter().chain(&self.build)
    }

    /// Whether the word of these members, each of whom signed the same once, is enough.
    pub fn believes(&self, voices: &[Voice<'_>]) -> bool {
        self.parts().all(|trust| voices.iter().filter(|voice| trust.counts(voice)).count() >= trust.needed())
    }

    /// Whether any one member's word is enough: then it is worth waiting for whoever is making something.
    pub fn believes_everybody(&self) -> bool {
        self.parts().all(|trust| *trust == Trust::Members)
    }

    /// Whether nobody else's word is.
    pub fn believes_nobody(&self) -> bool {
        self.parts().any(|trust| *trust == Trust::Own)
    }

    /// Whether several have to agree.
    pub fn needs_several(&self) -> bool {
        self.parts().any(|trust| trust.needed() > 1)
    }

    /// Whether what this member compiles for this machine is believed.
    pub fn believes_worker(&self, member: &Member) -> bool {
        self.believes(&[Voice { member, signed: Signed::Sandboxed }])
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{Identity, roster::Capabilities};

    use super::*;

    fn member(seed: u8, execute: bool, publish: bool) -> Member {
        let id = Identity::from_seed(&[seed; 32]).id();
        Member {
            id,
            name: format!("node-{seed}"),
            capabilities: Capabilities { submit: true, execute, publish },
        }
    }

    #[test]
    fn each_policy_believes_whom_it_says() {
        use Signed::{Manifest, Sandboxed, Unsandboxed};
        let check = |trust: &str, signed, execute, publish, expect| {
            let member = member(1, execute, publish);
            let policy = Policy::of(trust.parse().unwrap());
            let found = policy.believes(&[Voice { member: &member, signed }]);
            assert_eq!(found, expect, "{trust} {signed:?} {execute} {publish}");
        };
        check("own", Sandboxed, true, true, false);
        check("workers", Sandboxed, true, false, true);
        check("workers", Unsandboxed, true, true, false);
        check("workers", Sandboxed, false, true, false);
        check("workers", Manifest, true, true, false);
        check("members", Unsandboxed, false, false, true);
        check("members", Manifest, false, false, true);
        check("publishers", Sandboxed, true, false, false);
        check("publishers", Unsandboxed, false, true, true);
        check("publishers", Manifest, false, true, true);
        check("workers:node-2,node-1", Unsandboxed, false, false, true);
        check("workers:node-2", Sandboxed, true, true, false);
        check("agree:2", Sandboxed, true, true, false);
        let id = Identity::from_seed(&[1; 32]).id();
        check(&format!("workers:{id}"), Manifest, false, false, true);
    }

    #[test]
    fn several_have_to_agree_if_it_is_said_so() {
        let members: Vec<Member> = (1..=4).map(|seed| member(seed, true, seed == 4)).collect();
        let check = |machine: &str, build: &str, seeds: &[usize], expect| {
            let policy = Policy::of(machine.parse().unwrap()).demanded(Some(build.as_bytes())).unwrap();
            let voice = |seed: &usize| Voice { member: &members[seed - 1], signed: Signed::Unsandboxed };
            let voices: Vec<Voice<'_>> = seeds.iter().map(voice).collect();
            assert_eq!(policy.believes(&voices), expect, "{machine} {build} {seeds:?}");
        };
        check("agree:2", "", &[1], false);
        check("agree:2", "", &[1, 2], true);
        check("agree:3", "", &[1, 2], false);
        // What a build demands comes on top.
        check("members", "publishers", &[1, 2, 3], false);
        check("members", "publishers", &[1, 4], true);
        check("agree:2", "publishers", &[4], false);
        check("agree:2", "publishers", &[1, 4], true);
        check("publishers", "members", &[1, 2, 3], false);
        check("own", "members", &[1, 2, 3, 4], false);
    }

    #[test]
    fn a_demand_that_is_not_understood_is_the_strictest() {
        for wrong in ["publisher", "agree:1", "agree:5", "agree:", "workers:", "workers:a,", "all:1"] {
            let (policy, _) = Policy::of(Trust::Members).demanded(Some(wrong.as_bytes())).unwrap_err();
            assert!(policy.believes_nobody(), "{wrong}");
        }
        for none in [None, Some(&b""[..])] {
            assert_eq!(Policy::of(Trust::Members).demanded(none), Ok(Policy::of(Trust::Members)));
        }
    }
}
