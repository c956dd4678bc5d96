//! `barn status`, `barn stats`, `barn explain`: for people, and as JSON for scripts.

use std::{io::Write as _, path::Path, process::ExitCode};

use serde_json::{Value, json};

use super::{Outcome, control};
use crate::{setup::Setup, stats::Counters};

/// `barn status`.
pub(super) fn status(setup: &Setup, as_json: bool) -> Outcome {
    let status = control::call(&setup.socket, "status", &json!({}))?;
    let text = if as_json { format!("{status}\n") } else { status_text(&status) };
    print(&text)
}

/// `barn stats`.
pub(super) fn stats(setup: &Setup, as_json: bool, zero: bool) -> Outcome {
    let stats = control::call(&setup.socket, "stats", &json!({ "zero": zero }))?;
    let text = if as_json { format!("{stats}\n") } else { stats_text(&stats) };
    print(&text)
}

/// `barn explain [FILE]`.
pub(super) fn explain(setup: &Setup, file: Option<String>) -> Outcome {
    let entry: crate::history::Entry =
        serde_json::from_value(control::call(&setup.socket, "explain", &json!({ "file": file }))?)?;
    let mut text =
        format!("{} ({}), {} ms: {}\n", entry.file, entry.compiler, entry.took_ms, meaning(&entry.outcome));
    for line in entry.story {
        text.push_str(&format!("  {line}\n"));
    }
    print(&text)
}

/// A number of bytes for a person.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let unit = (0..UNITS.len() - 1).find(|&unit| bytes >> (10 * unit) < 1024).unwrap_or(UNITS.len() - 1);
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded down.
    let tenths = (bytes >> (10 * (unit - 1))) * 10 / 1024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

fn meaning(outcome: &str) -> &str {
    match outcome {
        "hit" => "served from the store",
        "remote" => "compiled by a neighbour",
        "local" => "compiled here",
        _ => "left to the compiler",
    }
}

fn status_text(status: &Value) -> String {
    let node = &status["node"];
    let mut text = format!(
        "{}  {}  version {}\n",
        text_of(&node["name"]),
        short(&node["id"]),
        text_of(&node["version"])
    );
    text.push_str(&http_cache_text(&status["http_cache"]));
    let Some(mesh) = status["mesh"].as_object() else {
        text.push_str("in no mesh: a local cache only\nhint: `barn mesh init` founds one, `barn join TOKEN` joins one\n");
        return text;
    };
    let addresses: Vec<&str> =
        node["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    text.push_str(&format!("listens at {}\n", addresses.join(", ")));
    text.push_str(&format!(
        "mesh {}, epoch {}, {} members\n",
        short(&mesh["id"]),
        mesh["epoch"],
        mesh["members"]
    ));
    text.push_str(&format!(
        "cores: {} here, {} in the mesh\n\n",
        status["cores"]["local"], status["cores"]["mesh"]
    ));
    text.push_str(&format!("{:<24} {:<12} {:>6} {:>6} {:>9}\n", "peer", "state", "slots", "free", "rtt"));
    for peer in status["peers"].as_array().into_iter().flatten() {
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        text.push_str(&format!(
            "{:<24} {:<12} {:>6} {:>6} {:>9}\n",
            text_of(&peer["name"]),
            text_of(&peer["state"]),
            peer["cores"].as_u64().unwrap_or(0),
            peer["free"].as_u64().unwrap_or(0),
            rtt
        ));
    }
    for transfer in status["transfers"].as_array().into_iter().flatten() {
        let part = |key: &str| bytes(transfer[key].as_u64().unwrap_or(0));
        let (done, total, from) = (part("bytes"), part("bytes_total"), text_of(&transfer["from"]));
        text.push_str(&format!(
            "fetching toolchain {} from {from}: {done} of {total}\n",
            short(&transfer["toolchain"])
        ));
    }
    text
}

/// A line about the endpoint for other tools' caches, if one is configured.
fn http_cache_text(endpoint: &Value) -> String {
    let count = |key: &str| endpoint[key].as_u64().unwrap_or(0);
    match (endpoint["url"].as_str(), endpoint["error"].as_str()) {
        (Some(url), _) => format!(
            "http cache at {url}: {} hits, {} misses, {} stored, {} refused; token in {}\n",
            count("hits"),
            count("misses"),
            count("stored"),
            count("refused"),
            text_of(&endpoint["token_file"])
        ),
        (None, Some(error)) => format!("no http cache: {}\n", error.lines().next().unwrap_or_default()),
        (None, None) => String::new(),
    }
}

fn stats_text(stats: &Value) -> String {
    let Ok(counters) = serde_json::from_value::<Counters>(stats.clone()) else { return format!("{stats}\n") };
    let mut rows: Vec<(String, u64)> = vec![
        ("calls".into(), counters.requests.total),
        ("  distributable compiles".into(), counters.requests.distributable),
        ("  compiles that are only cached".into(), counters.requests.cache_only),
        ("  compiles left to the compiler".into(), counters.requests.local),
        ("  other (queries, links, …)".into(), counters.requests.other),
        ("hits".into(), counters.hits.local + counters.hits.mesh),
        ("misses".into(), counters.misses),
        ("compiled here".into(), counters.compiles.local),
        ("compiled by neighbours".into(), counters.compiles.remote),
        ("compiles with errors".into(), counters.compiles.failed),
        ("searches for what is included".into(), counters.scans.count),
        ("  their mean CPU time, µs".into(), mean(counters.scans.microseconds, counters.scans.count)),
        ("look-ups at neighbours in vain".into(), counters.lookups.in_vain),
        ("  their mean time, µs".into(), mean(counters.lookups.microseconds, counters.lookups.in_vain)),
    ];
    let mut named = |title: &str, map: &std::collections::BTreeMap<String, u64>| {
        if !map.is_empty() {
            rows.push((title.to_owned(), map.values().sum()));
            rows.extend(map.iter().map(|(name, count)| (format!("  {name}"), *count)));
        }
    };
    named("why compiles were left to the compiler", &counters.local_reasons);
    named("troubles nobody noticed", &counters.fallbacks);
    named("searches left to the compiler", &counters.scans.undecided);
    let mut text: String = rows.iter().map(|(label, count)| format!("{label:<42} {count:>8}\n")).collect();
    for (name, language) in &counters.languages {
        text.push_str(&format!("{name:<42} {:>8} hits {:>8} misses\n", language.hits, language.misses));
    }
    for (name, traffic) in &counters.peers {
        text.push_str(&format!("{name:<42} {:>8} sent {:>8} received\n", traffic.sent, traffic.received));
    }
    text
}

fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

fn print(text: &str) -> Outcome {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `barn stats | head` is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn short(id: &Value) -> &str {
    let id = text_of(id);
    id.get(..8).unwrap_or(id)
}

/// A path for a message.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn scans_are_told_with_their_mean_and_the_reasons() {
        let text = super::stats_text(&json!({
            "scans": {"count": 4, "microseconds": 1001, "undecided": {"scan-missing": 1}}
        }));
        let number = |label: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(label));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        };
        assert_eq!(number("searches for what is included"), Some(4), "{text}");
        assert_eq!(number("their mean CPU time"), Some(250), "{text}");
        assert_eq!(number("searches left to the compiler"), Some(1), "{text}");
        assert_eq!(number("scan-missing"), Some(1), "{text}");
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 30, "20.0 GiB"), (3 << 40, "3072.0 GiB")]
        {
            assert_eq!(super::bytes(bytes), text);
        }
    }
}
