//! Tables of cases: what a line of shell does without barn, held against what it does with it.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use crate::{
    Counts, Desk, Expect, Ran, Snapshot, Tree,
    counts::Where,
    lanes::{Alone, Lane, Site},
    snapshot,
};

/// Cases that show one thing, each in a fresh copy of one tree.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they show, in the form of a name.
    pub name: &'static str,
    /// What the directory holds before.
    pub tree: Tree<'static>,
    /// What is tried.
    pub cases: &'static [Case],
}

/// A line of shell in which `$B` stands for what is put in front of the compiler, `$CC` and `$CXX` for compilers of one
/// family.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    family: Option<Family>,
    line: &'static str,
    expect: Expect,
    /// Why no two runs of the compiler give the same: only exit status, names and modes are compared.
    unlike: Option<&'static str>,
    shows: Option<&'static str>,
    /// Whether the driver looks for parts of its own among the sources.
    looks_around: bool,
    steps: &'static [(&'static str, Then)],
}

/// Compilers that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `gcc` and `g++`.
    Gcc,
    /// `clang` and `clang++`.
    Clang,
}

/// What becomes of the same line after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is served from the store.
    Hit,
    /// It is compiled.
    Miss,
}

/// A case for either family.
pub const fn both(line: &'static str, expect: Expect) -> Case {
    Case { family: None, line, expect, unlike: None, shows: None, looks_around: false, steps: &[] }
}

/// A case for gcc alone.
pub const fn gcc(line: &'static str, expect: Expect) -> Case {
    Case { family: Some(Family::Gcc), ..both(line, expect) }
}

/// A case for clang alone.
pub const fn clang(line: &'static str, expect: Expect) -> Case {
    Case { family: Some(Family::Clang), ..both(line, expect) }
}

impl Case {
    /// Compares only exit status, names and modes, for this reason.
    pub const fn unlike(self, why: &'static str) -> Self {
        Self { unlike: Some(why), ..self }
    }

    /// Without this in what the compiler says, the case would show nothing.
    pub const fn shows(self, text: &'static str) -> Self {
        Self { shows: Some(text), ..self }
    }

    /// The driver looks for parts of its own among the sources: a worker that watches it finds the list of inputs
    /// incomplete, so that the entry is found by a search the next time.
    pub const fn looks_around(self) -> Self {
        Self { looks_around: true, ..self }
    }

    /// Goes on: a change, and what then becomes of the same line.
    pub const fn steps(self, steps: &'static [(&'static str, Then)]) -> Self {
        Self { steps, ..self }
    }
}

impl Family {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Gcc, Self::Clang];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcc => "gcc",
            Self::Clang => "clang",
        }
    }

    fn of(self, line: &str) -> String {
        match self {
            Self::Gcc => format!("export CC=gcc CXX=g++; {line}"),
            Self::Clang => format!("export CC=clang CXX=clang++; {line}"),
        }
    }
}

impl Group {
    /// Whether there is a case for this family.
    pub fn is_for(&self, family: Family) -> bool {
        self.of(family).next().is_some()
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &'static Case> {
        self.cases.iter().filter(move |case| case.family.is_none_or(|only| only == family))
    }

    /// Tries all cases of one family, each by itself.
    ///
    /// # Errors
    /// All differences.
    pub fn check(&self, family: Family, lane: &mut Lane) -> Result<(), String> {
        let mut faults = String::new();
        for case in self.of(family) {
            let line = family.of(case.line);
            let found = Trial { tree: self.tree, case, line: &line }.faults(lane);
            if !found.is_empty() {
                let _ = write!(faults, "\n== {line}\n{found}");
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// One case with one family.
struct Trial<'a> {
    tree: Tree<'a>,
    case: &'a Case,
    line: &'a str,
}

/// All that can be seen of one run.
struct Seen {
    ran: Ran,
    files: Snapshot,
}

impl Seen {
    fn of(ran: Ran, directory: &Path) -> Self {
        Self { ran, files: snapshot(directory) }
    }
}

impl Trial<'_> {
    fn faults(&self, lane: &mut Lane) -> String {
        let Lane { desk, afar } = lane;
        desk.lay(self.tree);
        let plain = Seen::of(desk.plain(self.line), &desk.at(""));
        let mut alone = Alone { desk, last: None };
        let mut faults = self.silence(&plain.ran);
        faults += &self.faults_at(&mut alone, Where::Here, desk, &plain);
        if let Some(afar) = afar {
            faults += &self.faults_at(afar, Where::Afar, desk, &plain);
        }
        faults
    }

    /// What is missing of what the case is to show.
    fn silence(&self, plain: &Ran) -> String {
        let Some(text) = self.case.shows else { return String::new() };
        let says = |stream: &[u8]| String::from_utf8_lossy(stream).contains(text);
        if says(&plain.stdout) || says(&plain.stderr) {
            return String::new();
        }
        format!("-- without barn: does not say {text:?}, but {:?} and {:?}\n", plain.out(), plain.err())
    }

    /// `desk` has the directory.
    fn faults_at(&self, site: &mut impl Site, place: Where, desk: &Desk, plain: &Seen) -> String {
        let expect = self.case.expect;
        if expect.is_kept() {
            // Each case for itself: what one has stored is no hit of another.
            site.clear();
        }
        let mut faults = String::new();
        for is_first in [true, false] {
            // A second time shows nothing new of what the node has no part in.
            let may_differ = expect.is_kept() || (place == Where::Here && expect.may_travel());
            if !is_first && !may_differ {
                break;
            }
            desk.lay(self.tree);
            let (ran, counts) = site.call(desk, self.line, self.expected(is_first, place));
            let seen = Seen::of(ran, &desk.at(""));
            let found = self.differences(plain, &seen) + &self.miscounts(site, counts, is_first, place);
            if !found.is_empty() {
                let round = if is_first { "first" } else { "second" };
                let _ = write!(faults, "-- {place:?}, {round} time:\n{found}");
            }
        }
        for (step, then) in self.case.steps {
            desk.plain(step).ok();
            let is_first = *then == Then::Miss;
            let (ran, counts) = site.call(desk, self.line, self.expected(is_first, place));
            let seen = Seen::of(ran, &desk.at(""));
            // Over what is there, as a build would.
            let plain = Seen::of(desk.plain(self.line), &desk.at(""));
            // Whether an entry is found without a search is for `keys.rs` to say.
            let counts = Counts { direct: self.expected(is_first, place).direct, ..counts };
            let found = self.differences(&plain, &seen) + &self.miscounts(site, counts, is_first, place);
            if !found.is_empty() {
                let _ = write!(faults, "-- {place:?}, after {step}:\n{found}");
            }
        }
        faults
    }

    fn expected(&self, is_first: bool, place: Where) -> Counts {
        self.case.expect.counts(is_first, place)
    }

    fn miscounts(&self, site: &mut impl Site, mut counts: Counts, is_first: bool, place: Where) -> String {
        if place == Where::Afar {
            // A worker that meets a compiler for the first time declines until it has it.
            counts.fallbacks.remove("declined");
            if matches!(self.case.expect, Expect::Failures(_)) {
                counts.fallbacks.remove("remote-error");
            }
        }
        let expected = self.expected(is_first, place);
        if self.case.looks_around && place == Where::Afar {
            counts.fallbacks.remove("inputs-unlisted");
            counts.direct = expected.direct;
        }
        if counts == expected {
            return String::new();
        }
        format!("expected {}\ncounted {}\n{}", shown(&expected), shown(&counts), site.explain())
    }

    fn differences(&self, plain: &Seen, barn: &Seen) -> String {
        let mut found = String::new();
        if plain.ran.status != barn.ran.status {
            let _ = writeln!(found, "exit status {} instead of {}", barn.ran.status, plain.ran.status);
        }
        if self.case.unlike.is_none() {
            for (name, expected, seen) in [
                ("standard output", &plain.ran.stdout, &barn.ran.stdout),
                ("standard error", &plain.ran.stderr, &barn.ran.stderr),
            ] {
                if expected != seen {
                    let (expected, seen) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(seen));
                    let _ = writeln!(found, "{name}:\n{seen}\ninstead of:\n{expected}");
                }
            }
        }
        for name in plain.files.keys().chain(barn.files.keys()).collect::<BTreeSet<_>>() {
            let (expected, seen) = (plain.files.get(name), barn.files.get(name));
            if let Some(word) = self.difference(expected, seen) {
                let _ = writeln!(found, "{} {word}", name.display());
            }
        }
        found
    }

    fn difference(&self, plain: Option<&File>, barn: Option<&File>) -> Option<String> {
        match (plain, barn) {
            (Some(_), None) => Some("is missing".to_owned()),
            (None, Some(_)) => Some("is too much".to_owned()),
            (Some((mode, _)), Some((other, _))) if mode != other => {
                Some(format!("has mode {other:o} instead of {mode:o}"))
            }
            (Some((_, contents)), Some((_, other))) if self.case.unlike.is_none() && contents != other => {
                Some("has other contents".to_owned())
            }
            _ => None,
        }
    }
}

/// Mode and contents.
type File = (u32, Vec<u8>);

/// The counts that are not zero.
fn shown(counts: &Counts) -> String {
    let text = format!("{counts:?}");
    let fields = text.trim_start_matches("Counts { ").trim_end_matches(" }").split(", ");
    fields.filter(|field| !field.ends_with(": 0") && !field.ends_with(": {}")).collect::<Vec<_>>().join(", ")
}
