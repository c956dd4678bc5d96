//! The closing summary.

use std::fmt;
use std::time::Duration;

use super::compare::Comparison;
use crate::cli::counts::Counts;

/// Differences that are listed; more than these are only counted.
const LISTED_MAX: usize = 20;

/// Everything the demonstration found.
#[derive(Debug)]
pub(super) struct Summary {
    /// The name of the host that built.
    pub(super) requester: String,
    /// How many other hosts there were.
    pub(super) neighbours: usize,
    /// What the requester counted during the first build and during the second.
    pub(super) built: Counts,
    pub(super) rebuilt: Counts,
    /// Wall time of the mesh build, the local build and the second mesh build.
    pub(super) walls: [Duration; 3],
    /// First and second mesh build against the local one.
    pub(super) first: Comparison,
    pub(super) second: Comparison,
    /// Units that the local compiler itself refused.
    pub(super) failed: usize,
}

impl Summary {
    /// Whether everything was built, is equal, and the neighbours had a part in it.
    pub(super) fn is_good(&self) -> bool {
        self.verdict().is_none()
    }

    /// The first thing that is not as it should be.
    fn verdict(&self) -> Option<&'static str> {
        if self.failed > 0 {
            return Some("some units do not compile at all");
        }
        if !self.first.is_equal() || !self.second.is_equal() {
            return Some("NOT everything is equal");
        }
        (self.neighbours > 0 && self.built.compiles.remote == 0)
            .then_some("everything is equal, but no neighbour helped")
    }

    fn places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built = &self.built;
        let sum = built.compiles.local + built.compiles.remote + built.all_hits();
        let percent = if sum == 0 { 0.0 } else { built.compiles.remote as f64 * 100.0 / sum as f64 };
        write!(f, "first build    {} here on {}", built.compiles.local, self.requester)?;
        for (name, traffic) in &built.peers {
            write!(f, ", {} on {name}", traffic.sent)?;
        }
        writeln!(f, ", {} from the cache ({percent:.0} % remote)", built.all_hits())?;
        for (what, counts) in [("fallbacks", &built.fallbacks), ("local only", &built.local_reasons)] {
            for (reason, count) in counts {
                writeln!(f, "               {what}: {count} {reason}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mesh, local, again] = self.walls.map(|wall| wall.as_secs_f64());
        self.places(f)?;
        writeln!(
            f,
            "wall time      {mesh:.1} s over the mesh, {local:.1} s on {} alone: {:.2} times as fast",
            self.requester,
            local / mesh
        )?;
        writeln!(
            f,
            "second build   {again:.1} s, {} hits, {} compiled",
            self.rebuilt.all_hits(),
            self.rebuilt.compiles.local + self.rebuilt.compiles.remote
        )?;
        for (name, found) in [("first build", &self.first), ("second build", &self.second)] {
            writeln!(
                f,
                "compared       {name} with local: {} objects, {} depfiles, {} diagnostics ({} with warnings) equal, {} differ",
                found.objects,
                found.depfiles,
                found.diagnostics,
                found.warnings,
                found.differences.len()
            )?;
            for line in found.differences.iter().take(LISTED_MAX) {
                writeln!(f, "               {line}")?;
            }
        }
        write!(f, "{}", self.verdict().unwrap_or("everything is equal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Summary), expect: Option<&str>) {
        let mut summary = Summary {
            requester: "h1".into(),
            neighbours: 3,
            built: Counts::default(),
            rebuilt: Counts::default(),
            walls: [Duration::from_secs(1); 3],
            first: Comparison::default(),
            second: Comparison::default(),
            failed: 0,
        };
        summary.built.compiles.remote = 1;
        change(&mut summary);
        assert_eq!(summary.verdict(), expect);
        assert!(summary.to_string().ends_with(expect.unwrap_or("everything is equal")));
    }

    #[test]
    fn only_an_equal_build_with_help_is_good() {
        check(|_| (), None);
        check(|summary| summary.failed = 1, Some("some units do not compile at all"));
        check(
            |summary| summary.first.differences.push("a.o differs".into()),
            Some("NOT everything is equal"),
        );
        check(
            |summary| summary.second.differences.push("a.d differs".into()),
            Some("NOT everything is equal"),
        );
        check(
            |summary| summary.built.compiles.remote = 0,
            Some("everything is equal, but no neighbour helped"),
        );
        check(|summary| (summary.built.compiles.remote, summary.neighbours) = (0, 0), None);
    }
}
