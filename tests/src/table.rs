//! Tables of cases.

use std::fmt::Write as _;

use crate::{Counts, Desk, Expect, Ran, Snapshot, Tree, snapshot};

/// How much of two runs must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Everything.
    Everything,
    /// Exit status, and names and modes of files: for what the compiler itself does not do twice in the same way.
    Names,
}

/// All that can be seen of one run.
struct Seen {
    ran: Ran,
    files: Snapshot,
}

impl Desk {
    /// Runs each line without barn and twice with it, each time in a fresh `tree`, and panics with a list of all
    /// differences.
    pub fn table(&self, tree: Tree<'_>, lines: &[(&str, Expect)]) {
        self.table_of(Compare::Everything, tree, lines);
    }

    /// As [`Desk::table`], once with gcc and g++ in `$CC` and `$CXX`, once with clang and clang++.
    pub fn both(&self, tree: Tree<'_>, lines: &[(&str, Expect)]) {
        self.both_of(Compare::Everything, tree, lines);
    }

    /// As [`Desk::both`], with a choice of what must be equal.
    pub fn both_of(&self, compare: Compare, tree: Tree<'_>, lines: &[(&str, Expect)]) {
        let each = [("gcc", "g++"), ("clang", "clang++")].into_iter().flat_map(|(cc, cxx)| {
            lines.iter().map(move |(line, expect)| (format!("CC={cc} CXX={cxx}; {line}"), *expect))
        });
        let each: Vec<_> = each.collect();
        let each: Vec<_> = each.iter().map(|(line, expect)| (line.as_str(), *expect)).collect();
        self.table_of(compare, tree, &each);
    }

    /// As [`Desk::table`], with a choice of what must be equal.
    pub fn table_of(&self, compare: Compare, tree: Tree<'_>, lines: &[(&str, Expect)]) {
        let mut faults = String::new();
        for (line, expect) in lines {
            // Each case for itself: what one has stored is no hit of another.
            self.barn(&["cache", "clear"]).ok();
            let found = self.faults(compare, tree, line, *expect);
            if !found.is_empty() {
                let _ = write!(faults, "\n== {line}\n{found}");
            }
        }
        assert!(faults.is_empty(), "{faults}");
    }

    fn faults(&self, compare: Compare, tree: Tree<'_>, line: &str, expect: Expect) -> String {
        self.lay(tree);
        let ran = self.plain(line);
        let plain = Seen { ran, files: snapshot(&self.at("")) };
        let mut faults = String::new();
        let mut before = self.counts();
        for (round, is_first) in [("first time", true), ("second time", false)] {
            self.lay(tree);
            let ran = self.sh(line);
            let now = self.counts();
            let counts = now.since(&before);
            before = now;
            let seen = Seen { ran, files: snapshot(&self.at("")) };
            let found = differences(compare, &plain, &seen);
            if !found.is_empty() {
                let _ = write!(faults, "-- {round}:\n{found}");
            }
            let expected = expect.counts(is_first);
            if counts != expected {
                let _ = writeln!(faults, "-- {round}: expected {}", shown(&expected));
                let _ = write!(faults, "counted {}\n{}", shown(&counts), self.barn(&["explain"]).out());
            }
        }
        faults
    }
}

fn differences(compare: Compare, plain: &Seen, barn: &Seen) -> String {
    let mut found = String::new();
    if plain.ran.status != barn.ran.status {
        let _ = writeln!(found, "exit status {} instead of {}", barn.ran.status, plain.ran.status);
    }
    if compare == Compare::Everything {
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
    let names = plain.files.keys().chain(barn.files.keys()).collect::<std::collections::BTreeSet<_>>();
    for name in names {
        match (plain.files.get(name), barn.files.get(name)) {
            (Some(_), None) => drop(writeln!(found, "{} is missing", name.display())),
            (None, Some(_)) => drop(writeln!(found, "{} is too much", name.display())),
            (Some((mode, _)), Some((other, _))) if mode != other => {
                let _ = writeln!(found, "{} has mode {other:o} instead of {mode:o}", name.display());
            }
            (Some((_, contents)), Some((_, other)))
                if compare == Compare::Everything && contents != other =>
            {
                let _ = writeln!(found, "{} has other contents", name.display());
            }
            _ => {}
        }
    }
    found
}

/// The counts that are not zero.
fn shown(counts: &Counts) -> String {
    let text = format!("{counts:?}");
    let fields = text.trim_start_matches("Counts { ").trim_end_matches(" }").split(", ");
    fields.filter(|field| !field.ends_with(": 0") && !field.ends_with(": {}")).collect::<Vec<_>>().join(", ")
}
