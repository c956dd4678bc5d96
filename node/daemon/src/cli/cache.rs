//! `barn cache …`: this machine's store.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{CacheVerb, Outcome, control, lifecycle, view};
use crate::setup::Setup;

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

fn size(bytes: &Value) -> String {
    view::bytes(bytes.as_u64().unwrap_or(0))
}
