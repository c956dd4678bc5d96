//! `barn cache …`: this machine's store.
//!
//! A running node is asked. Where none runs, the store is opened here: looking after it needs no node, and leaves none
//! behind. The store's lock keeps a node out meanwhile, and wrappers then run the compiler.

use std::process::ExitCode;

use barn_cache::{Limits, Store};
use serde_json::{Value, json};

use super::{
    CacheVerb, Outcome,
    control::{self, ControlError},
    view,
};
use crate::{housekeeping::Chore, setup::Setup, toolchain::ToolchainIndex};

/// `barn cache …`.
pub(super) fn run(setup: &Setup, verb: &CacheVerb) -> Outcome {
    let (chore, as_json, print): (_, _, fn(&Value) -> ExitCode) = match *verb {
        CacheVerb::Stat { json } => (Chore::Stat, json, print_stat),
        CacheVerb::Gc { size, json } => {
            (Chore::Gc { bytes: size.map(|size| size.bytes()) }, json, print_collected)
        }
        CacheVerb::Clear => (Chore::Clear, false, print_collected),
        CacheVerb::Verify { json } => (Chore::Verify, json, print_verify),
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

fn size(bytes: &Value) -> String {
    view::bytes(bytes.as_u64().unwrap_or(0))
}
