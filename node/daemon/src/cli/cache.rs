//! `barn cache …`: this machine's store.
//!
//! A running node is asked. Where none runs, the store is opened here: looking after it needs no node, and leaves none
//! behind. The store's lock keeps a node out meanwhile, and wrappers then run the compiler.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use barn_cache::{Limits, Store};
use barn_protocol::prefetch::BuildName;
use serde_json::{Value, json};

use super::{
    CacheVerb, Outcome,
    control::{self, ControlError},
    lifecycle, view,
};
use crate::{config::Size, housekeeping::Chore, prefetch::Report, setup::Setup, toolchain::ToolchainIndex};

/// How often it is told how far a fetch is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// `barn cache …`.
pub(super) fn run(setup: &Setup, verb: &CacheVerb) -> Outcome {
    let (chore, as_json, print): (_, _, fn(&Value) -> ExitCode) = match *verb {
        CacheVerb::Stat { json } => (Chore::Stat, json, print_stat),
        CacheVerb::Gc { size, json } => {
            (Chore::Gc { bytes: size.map(|size| size.bytes()) }, json, print_collected)
        }
        CacheVerb::Clear => (Chore::Clear, false, print_collected),
        CacheVerb::Verify { json } => (Chore::Verify, json, print_verify),
        CacheVerb::Warm { ref from, limit, json } => return warm(setup, from, limit, json),
    };
    let answer = ask(setup, &chore)?;
    if as_json {
        println!("{answer}");
        return Ok(verdict(&answer));
    }
    Ok(print(&answer))
}

fn ask(setup: &Setup, chore: &Chore) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    match control::call(&setup.socket, "cache", &json!(chore)) {
        Err(ControlError::NotRunning) => {
            let limits = Limits::new(setup.config.cache_bytes_max());
            let store = Store::open(&setup.home.cache_dir(), limits)?;
            Ok(chore.run(&store, &ToolchainIndex::open(&setup.home.toolchains_dir())))
        }
        answer => Ok(answer?),
    }
}

fn print_stat(stat: &Value) -> ExitCode {
    let line = |label: &str, text: &str| println!("{label:<12} {text}");
    line("store", stat["path"].as_str().unwrap_or_default());
    if stat["rebuilding"] == true {
        line("state", "its index is rebuilt after a crash; nothing is found until that is done");
        return ExitCode::SUCCESS;
    }
    line("size", &format!("{} of {}", size(&stat["bytes"]), size(&stat["bytes_max"])));
    line("in use", &size(&stat["pinned_bytes"]));
    for (label, key) in [
        ("results", "records"),
        ("manifests", "manifests"),
        ("of others", "foreign"),
        ("blobs", "blobs"),
        ("evicted", "evicted"),
        ("rotten", "rotten"),
    ] {
        line(label, &stat[key].to_string());
    }
    if let Some(why) = stat["paused_because"].as_str() {
        line("state", &format!("takes nothing now: {why}"));
    }
    ExitCode::SUCCESS
}

fn print_collected(report: &Value) -> ExitCode {
    println!(
        "removed {} entries, {}; {} are left, {} of them in use",
        report["evicted"],
        size(&report["bytes"]),
        size(&report["bytes_left"]),
        size(&report["pinned_bytes"])
    );
    if let Some(why) = report["paused_because"].as_str() {
        eprintln!("barn: the store stopped before it was done: {why}");
    }
    verdict(report)
}

fn print_verify(report: &Value) -> ExitCode {
    println!(
        "read {} blobs ({}), {} results and {} entries of other tools",
        report["blobs"],
        size(&report["bytes"]),
        report["records"],
        report["foreign"]
    );
    if report["blobs_found"] != 0 {
        println!("found {} blobs that were not listed", report["blobs_found"]);
    }
    let verdict = verdict(report);
    if verdict == ExitCode::SUCCESS {
        println!("all are whole");
    } else {
        println!(
            "dropped {} damaged blobs, {} results and {} entries of other tools",
            report["blobs_dropped"], report["records_dropped"], report["foreign_dropped"]
        );
    }
    verdict
}

/// Failure if something was damaged or was not done.
fn verdict(report: &Value) -> ExitCode {
    let dropped = ["blobs_dropped", "records_dropped", "foreign_dropped"];
    let damaged = dropped.iter().any(|key| report[key].as_u64().unwrap_or(0) > 0);
    let stopped = report["bytes_left"].is_u64() && report["paused_because"].is_string();
    if damaged || stopped { ExitCode::from(super::EXIT_FAILED) } else { ExitCode::SUCCESS }
}

fn warm(setup: &Setup, from: &BuildName, limit: Option<Size>, as_json: bool) -> Outcome {
    lifecycle::ensure_running(setup)?;
    let order = json!({ "from": from.as_str(), "limit": limit.map(Size::bytes) });
    let answer = telling(&setup.socket, || control::call(&setup.socket, "warm", &order))?;
    let report: Report = serde_json::from_value(answer.clone())?;
    println!("{}", if as_json { answer.to_string() } else { warmed(&report) });
    Ok(ExitCode::SUCCESS)
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

fn size(bytes: &Value) -> String {
    view::bytes(bytes.as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

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
