//! What came of all units, as a table.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Base, Court, Unit, Verdict, judge::Judgement};

/// How many failures are shown in full.
const SHOWN_MAX: usize = 40;

/// The verdicts on all code bases.
#[derive(Debug, Default)]
pub struct Report {
    rows: BTreeMap<&'static str, Row>,
    failures: Vec<String>,
    reasons: BTreeMap<String, (usize, String)>,
}

/// The verdicts on one code base.
#[derive(Debug, Default)]
struct Row {
    judged: usize,
    whole: usize,
    skipped: usize,
    undecided: usize,
    unsound: usize,
    touched: usize,
    surplus: usize,
    respelled: usize,
    cold: Vec<Duration>,
    warm: Vec<Duration>,
}

impl Report {
    /// Judges all units, on `threads` threads.
    pub fn of(bases: &[Base], threads: usize, progress: bool) -> Self {
        let court = Court::default();
        let report = Mutex::new(Self::default());
        let units: Vec<(&'static str, &Unit)> =
            bases.iter().flat_map(|base| base.units.iter().map(|unit| (base.name, unit))).collect();
        let next = AtomicUsize::new(0);
        if progress {
            eprintln!("{} units", units.len());
        }
        let work = || {
            while let Some((name, unit)) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = court.judge(unit);
                let mut report = report.lock().unwrap();
                if progress {
                    report.announce(unit, &verdict);
                }
                report.add(name, unit, verdict);
                if progress && next.load(Ordering::Relaxed).is_multiple_of(250) {
                    eprintln!("{} of {} units", next.load(Ordering::Relaxed), units.len());
                }
            }
        };
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        report.into_inner().unwrap()
    }

    /// Units that were compiled and scanned.
    pub fn judged(&self) -> usize {
        self.rows.values().map(|row| row.judged).sum()
    }

    /// Units that the scan did not decide.
    pub fn undecided(&self) -> usize {
        self.rows.values().map(|row| row.undecided).sum()
    }

    /// What the scan left out, unit by unit.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Says at once what a long run has found.
    fn announce(&self, unit: &Unit, verdict: &Verdict) {
        match verdict {
            Verdict::Undecided(reason) => eprintln!("undecided: {reason}\n    {}", unit.describe()),
            Verdict::Judged(found) if !found.is_sound() => eprintln!("unsound: {}", describe(unit, found)),
            _ => {}
        }
    }

    fn add(&mut self, name: &'static str, unit: &Unit, verdict: Verdict) {
        let row = self.rows.entry(name).or_default();
        match verdict {
            Verdict::Skipped => row.skipped += 1,
            Verdict::Undecided(reason) => {
                row.undecided += 1;
                let entry = self.reasons.entry(without_names(&reason)).or_default();
                entry.0 += 1;
                entry.1 = format!("{reason}\n    {}", unit.describe());
            }
            Verdict::Judged(found) => {
                row.judged += 1;
                row.whole += usize::from(unit.depth != super::corpus::Depth::Preprocess);
                row.touched += found.touched;
                row.surplus += found.surplus.len();
                row.respelled += found.respelled;
                row.cold.push(found.cold);
                row.warm.push(found.warm);
                if !found.is_sound() {
                    row.unsound += 1;
                    self.failures.push(describe(unit, &found));
                }
            }
        }
    }
}

/// A reason without what differs from unit to unit.
fn without_names(reason: &str) -> String {
    let plain =
        |word: &str| !word.contains(['/', '.', '(', ':']) && !word.chars().any(|c| c.is_ascii_digit());
    reason.split(' ').map(|word| if plain(word) { word } else { "…" }).collect::<Vec<_>>().join(" ")
}

fn describe(unit: &Unit, found: &Judgement) -> String {
    let mut text = unit.describe();
    if found.unstable {
        text += "\n    two scans differ";
    }
    for (what, paths) in [("opened", &found.missing), ("probed in vain", &found.unforeseen)] {
        for path in paths.iter().take(5) {
            text += &format!("\n    {what} and not named: {}", path.display());
        }
        if paths.len() > 5 {
            text += &format!("\n    … and {} more", paths.len() - 5);
        }
    }
    text
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["judged", "whole", "skipped", "undecided", "unsound", "touched", "surplus", "respelled"];
        write!(f, "{:16}", "")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, " {:>9} {:>9}", "cold ms", "warm ms")?;
        let mut all = Row::default();
        for (name, row) in &self.rows {
            line(f, name, row)?;
            all.join(row);
        }
        line(f, "all", &all)?;
        for (reason, (count, example)) in &self.reasons {
            writeln!(f, "undecided {count:5}: {reason}\n    {example}")?;
        }
        for failure in self.failures.iter().take(SHOWN_MAX) {
            writeln!(f, "unsound: {failure}")?;
        }
        if self.failures.len() > SHOWN_MAX {
            writeln!(f, "… and {} more unsound", self.failures.len() - SHOWN_MAX)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, row: &Row) -> fmt::Result {
    let Row { judged, whole, skipped, undecided, unsound, touched, surplus, respelled, .. } = row;
    write!(f, "{name:16}")?;
    for count in [judged, whole, skipped, undecided, unsound, touched, surplus, respelled] {
        write!(f, " {count:>9}")?;
    }
    let ms = |times| median(times).as_secs_f64() * 1000.0;
    writeln!(f, " {:9.2} {:9.2}", ms(&row.cold), ms(&row.warm))
}

impl Row {
    fn join(&mut self, other: &Self) {
        self.judged += other.judged;
        self.whole += other.whole;
        self.skipped += other.skipped;
        self.undecided += other.undecided;
        self.unsound += other.unsound;
        self.touched += other.touched;
        self.surplus += other.surplus;
        self.respelled += other.respelled;
        self.cold.extend(&other.cold);
        self.warm.extend(&other.warm);
    }
}
