//! The scanner against traced compilers, on a sample of real units; `make oracle` takes thousands.

use barn_tests::oracle::{Report, codes, corpus};

/// How many units are taken.
const UNITS: usize = 160;

#[test]
fn no_input_is_missing() {
    let dir = tempfile::Builder::new().prefix("barn-oracle-").tempdir().unwrap();
    let mut bases = corpus::collect(codes::NEAR, dir.path(), false).unwrap();
    corpus::thin(&mut bases, UNITS);
    let report = Report::of(&bases, 2, false);
    assert!(report.judged() >= UNITS / 2, "too few units compile\n{report}");
    assert!(report.failures().is_empty(), "{report}");
    assert!(report.undecided() * 50 < report.judged(), "too many units are undecided\n{report}");
}
