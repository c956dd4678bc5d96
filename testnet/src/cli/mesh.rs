//! Making one mesh of an office's nodes the way its users would: one token each, and no address.

use std::time::{Duration, Instant};

use barn_testnet::{Host, Office};
use serde_json::Value;

use super::Failure;

/// A node that does not answer by then has not started.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Discovery by mDNS takes a few seconds on a real network; this is generous.
const SIGHT_LIMIT: Duration = Duration::from_secs(60);

/// Starts a host's node and waits until it answers.
pub(super) fn start(host: &Host) -> Result<(), Failure> {
    host.start_node()?;
    host.wait_for_node(START_LIMIT).map_err(|error| {
        let log = std::fs::read_to_string(host.node_log()).unwrap_or_default();
        let last = log.lines().last().unwrap_or("nothing").to_owned();
        Failure::from(format!("{error}\nthe node's log ends with: {last}"))
    })
}

/// Makes the first host's mesh, brings all others in, waits until all see all, and returns how long that took
/// from the last join.
pub(super) fn form(office: &Office) -> Result<Duration, Failure> {
    gather(office)?;
    let joined = Instant::now();
    meet(office)?;
    Ok(joined.elapsed())
}

fn gather(office: &Office) -> Result<(), Failure> {
    for host in office.hosts() {
        start(host)?;
    }
    let (first, others) = office.hosts().split_first().ok_or("an office without hosts")?;
    first.barn_text(["mesh", "init"])?;
    for host in others {
        let token = first.barn_text(["mesh", "invite"])?;
        host.barn_text(["join", token.as_str()])?;
    }
    Ok(())
}

/// The same of nodes that do not work for others, and so offer no cores.
pub(super) fn form_without_workers(office: &Office) -> Result<(), Failure> {
    gather(office)?;
    wait_for_all(office, |status| {
        let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        peers.iter().filter(|peer| peer["rtt_ms"].is_number()).count()
    })
}

/// Waits until every host sees every other.
pub(super) fn meet(office: &Office) -> Result<(), Failure> {
    wait_for_all(office, |status| present(status).count())
}

fn wait_for_all(office: &Office, seen_in: impl Fn(&Value) -> usize) -> Result<(), Failure> {
    let others = office.hosts().len() - 1;
    for host in office.hosts() {
        let mut seen = 0;
        let all = || {
            seen = host.status_json().map_or(0, |status| seen_in(&status));
            seen == others
        };
        let what = format!("{} to see the other {others}", host.name());
        office.wait_until(SIGHT_LIMIT, &what, all).map_err(|error| format!("{error}; it sees {seen}"))?;
    }
    Ok(())
}

/// The peers a status knows the cores of: they have been in touch.
fn present(status: &Value) -> impl Iterator<Item = &Value> {
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    peers.iter().filter(|peer| peer["cores"].as_f64().is_some_and(|cores| cores > 0.0))
}
