//! `barn cache …`: this machine's store.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{CacheVerb, Outcome, control, lifecycle, view};
use crate::{prefetch::Report, setup::Setup};

/// How often it is told how far a fetch is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// `barn cache …`.
pub(super) fn run(setup: &Setup, verb: &CacheVerb) -> Outcome {
    lifecycle::ensure_running(setup)?;
    let ask = |what: &str| control::call(&setup.socket, "cache", &json!({ "do": what }));
    match verb {
        CacheVerb::Stat { json: true } => println!("{}", ask("stat")?),
        CacheVerb::Stat { json: false } => print_stat(&ask("stat")?),
        CacheVerb::Gc => {
            let report = ask("gc")?;
            println!("evicted {} entries, {}", report["evicted"], size(&report["bytes"]));
        }
        CacheVerb::Clear => {
            ask("clear")?;
            println!("cleared");
        }
        CacheVerb::Verify => return Ok(print_verify(&ask("verify")?)),
        CacheVerb::Warm { from, limit, json } => {
            let order = json!({ "from": from.as_str(), "limit": limit });
            let answer = telling(&setup.socket, || control::call(&setup.socket, "warm", &order))?;
            let report: Report = serde_json::from_value(answer.clone())?;
            println!("{}", if *json { answer.to_string() } else { warmed(&report) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_stat(stat: &Value) {
    println!("{:<12} {} of {}", "size", size(&stat["bytes"]), size(&stat["bytes_max"]));
    println!("{:<12} {}", "in use", size(&stat["pinned_bytes"]));
    for (label, key) in [
        ("results", "records"),
        ("manifests", "manifests"),
        ("of others", "foreign"),
        ("blobs", "blobs"),
        ("evicted", "evicted"),
        ("rotten", "rotten"),
    ] {
        println!("{label:<12} {}", stat[key]);
    }
    if stat["paused"] == true {
        println!("the store takes nothing now: the disk is full or fails");
    }
}

fn print_verify(report: &Value) -> ExitCode {
    println!(
        "read {} blobs ({}), {} results and {} entries of other tools",
        report["blobs"],
        size(&report["bytes"]),
        report["records"],
        report["foreign"]
    );
    let dropped = ["blobs_dropped", "records_dropped", "foreign_dropped"];
    if dropped.iter().all(|key| report[key].as_u64().unwrap_or(0) == 0) {
        println!("all are whole");
        return ExitCode::SUCCESS;
    }
    println!(
        "dropped {} damaged blobs, {} results and {} entries of other tools",
        report["blobs_dropped"], report["records_dropped"], report["foreign_dropped"]
    );
    ExitCode::from(super::EXIT_FAILED)
}

/// Does what takes long, telling meanwhile how far it is if a person is looking.
fn telling<T>(socket: &Path, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
                let progress = control::call(socket, "warming", &Value::Null).ok();
                let report = progress.and_then(|value| serde_json::from_value::<Report>(value).ok());
                if let Some(report) = report {
                    eprint!("\r\x1b[K{}", warming(&report));
                    let _ = std::io::stderr().flush();
                }
            }
            eprint!("\r\x1b[K");
        });
        let result = work();
        drop(done);
        result
    })
}

fn warming(report: &Report) -> String {
    let Report { publisher, entries, pending, bytes, .. } = report;
    format!("{} of {entries} results of {publisher}, {}", entries - pending, view::bytes(*bytes))
}

fn warmed(report: &Report) -> String {
    let Report { name, publisher, entries, fetched, present, bytes, took_ms, .. } = report;
    let mut text = format!(
        "build {name} of {publisher}: {entries} results, {present} were here, {fetched} came ({} in {}.{} s)",
        view::bytes(*bytes),
        took_ms / 1000,
        took_ms % 1000 / 100
    );
    for (count, what) in [
        (report.missing, "not found"),
        (report.refused, "not believed"),
        (report.failed + report.pending, "not to be had"),
        (report.left_out, "left out for lack of room"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// A number of bytes as people write it.
pub(super) fn bytes_max(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        other => return Err(format!("`{other}` is no unit; K, M and G are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is no number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too much"))
}

fn size(bytes: &Value) -> String {
    view::bytes(bytes.as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        for (text, expect) in [("0", 0), ("4096", 4096), ("3K", 3072), ("5M", 5 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(bytes_max(text), Ok(expect));
        }
        for bad in ["", "M", "-1", "1T", "1.5G", "99999999999G", "5 M"] {
            assert!(bytes_max(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_report_names_only_what_there_is() {
        let report = Report {
            name: "4f2a".to_owned(),
            publisher: "ci".to_owned(),
            entries: 9,
            present: 2,
            fetched: 4,
            missing: 1,
            failed: 1,
            pending: 1,
            bytes: 3 << 20,
            took_ms: 1234,
            ..Report::default()
        };
        assert_eq!(
            warmed(&report),
            "build 4f2a of ci: 9 results, 2 were here, 4 came (3.0 MiB in 1.2 s), 1 not found, 2 not to be had"
        );
        assert_eq!(warming(&report), "8 of 9 results of ci, 3.0 MiB");
    }
}
