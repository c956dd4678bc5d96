//! What the node answers to the command line. Bodies are JSON.

use std::sync::Arc;

use barn_protocol::prefetch::BuildName;
use barn_wrapper::messages::Control;
use serde_json::{Value, json};

use crate::{
    housekeeping::Chore,
    node::{Node, cores},
    seeding::chain,
    toolchain::stand_in::{TakeError, take_in},
};

/// Answers a verb; an error is a line for a person.
pub(crate) async fn answer(node: &Arc<Node>, control: Control) -> Result<Value, String> {
    let body: Value = serde_json::from_slice(&control.body).unwrap_or(Value::Null);
    match control.verb.as_str() {
        "ping" => Ok(Value::Null),
        "stop" => Ok(json!({ "pid": std::process::id() })),
        "addresses" => Ok(json!(node.mesh.listen_addresses())),
        "roster" => read_roster(node),
        "status" => Ok(status(node)),
        "stats" => {
            node.requester.keeper.settle_all().await;
            Ok(stats(node, body["zero"] == true))
        }
        "explain" => {
            node.requester.keeper.settle_all().await;
            explain(node, body["file"].as_str())
        }
        "toolchains" if body["mesh"] == true => Ok(crate::seeding::list(node).await),
        "toolchains" => Ok(toolchains(node)),
        "fetch" => {
            let what = body["what"].as_str().ok_or("no toolchain is named")?;
            crate::seeding::fetch(node, what, body["into"].as_str().map(Into::into)).await
        }
        "worker" => Ok(json!({ "refusal": node.worker.refusal(), "slots": node.worker.slots() })),
        "stand-ins" => Ok(stand_ins(node)),
        "pack-sysroot" => {
            let compiler = body["compiler"].as_str().ok_or("no compiler is named")?;
            crate::seeding::pack_with_sysroot(node, compiler, body["path"].as_str().unwrap_or_default()).await
        }
        "import" => import(node, body["archive"].as_str()).await,
        "warm" => warm(node, &body).await,
        "warming" => Ok(json!(node.warmer.progress())),
        "cache" => keep_house(node, body).await,
        other => {
            Err(format!("this node does not know `{other}`\nhint: restart it with `barn stop`, `barn start`"))
        }
    }
}

/// The command line has changed the roster on disk.
fn read_roster(node: &Node) -> Result<Value, String> {
    let stored = node.setup.home.roster().map_err(|error| error.to_string())?;
    if let Some(stored) = stored {
        // The only refusal is that this roster, or a newer one, is in force already.
        let _ = node.roster.establish(stored);
    }
    Ok(json!({ "epoch": node.roster.epoch() }))
}

fn status(node: &Node) -> Value {
    let roster = node.roster.current();
    let name = node.member(&node.id).map_or_else(|| node.setup.config.node_name(), |member| member.name);
    let seen = node.mesh.peers();
    let members = roster.iter().flat_map(|roster| &roster.roster().members).filter(|m| m.id != node.id);
    let peers: Vec<Value> = members
        .map(|member| {
            let view = seen.iter().find(|view| view.id == member.id);
            let connected = view.is_some_and(|view| view.connected);
            let traffic = node.mesh.traffic(&member.id);
            let advert = view.filter(|_| connected).and_then(|view| view.advert.as_ref());
            json!({
                "id": member.id.to_string(),
                "name": member.name,
                "state": if connected { "connected" } else { "unreachable" },
                "cores": advert.map_or(0, |advert| advert.slots),
                "free": advert.map_or(0, |advert| advert.free),
                "rtt_ms": view.and_then(|view| view.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
                "sent_bytes": traffic.map(|(sent, _)| sent),
                "received_bytes": traffic.map(|(_, received)| received),
            })
        })
        .collect();
    let lent: u64 = peers.iter().filter_map(|peer| peer["cores"].as_u64()).sum();
    let (running, waiting) = node.requester.dispatch.load();
    let in_flight = node.requester.dispatch.in_flight();
    let remote: serde_json::Map<String, Value> =
        in_flight.iter().map(|(id, count)| (node.name_of(id), json!(count))).collect();
    json!({
        "node": {
            "id": node.id.to_string(),
            "name": name,
            "version": env!("CARGO_PKG_VERSION"),
            "addresses": node.mesh.listen_addresses(),
        },
        "mesh": roster.as_ref().map(|roster| json!({
            "id": roster.roster().mesh.to_string(),
            "epoch": roster.roster().epoch,
            "members": roster.roster().members.len(),
        })),
        "peers": peers,
        "cores": { "local": cores(), "mesh": u64::from(cores()) + lent },
        "cache": {
            "kept_for_office": node.office.entries(),
            "stable_members": node.office.stable_members(),
        },
        "running": {
            "local": running,
            "waiting": waiting,
            "remote": remote,
            "for_others": node.worker.slots() - node.worker.free(),
        },
        "transfers": transfers(node),
        "http_cache": node.http_cache.as_ref().map(|endpoint| match endpoint {
            Ok(endpoint) => endpoint.status(),
            Err(error) => json!({ "error": error }),
        }),
    })
}

fn transfers(node: &Node) -> Vec<Value> {
    let all = node.worker.fetcher.transfers();
    all.iter()
        .map(|transfer| {
            let (done, total) = transfer.progress();
            let from = node.name_of(&transfer.from);
            json!({ "toolchain": transfer.toolchain.to_string(), "from": from, "bytes": done, "bytes_total": total })
        })
        .collect()
}

fn stats(node: &Node, zero: bool) -> Value {
    let counters = json!(node.stats.snapshot());
    if zero {
        node.stats.zero();
    }
    counters
}

fn explain(node: &Node, file: Option<&str>) -> Result<Value, String> {
    node.history.last(file).map(|entry| json!(entry)).ok_or_else(|| match file {
        Some(file) => {
            format!("no compile of {file} since the node started\nhint: compile it through barn first")
        }
        None => "no compile since the node started".to_owned(),
    })
}

fn toolchains(node: &Node) -> Value {
    let row = |digest: &barn_protocol::Digest, toolchain: &barn_protocol::Toolchain, from: &str| {
        json!({
            "digest": digest.to_string(),
            "name": toolchain.name,
            "machine": toolchain.machine,
            "bytes": toolchain.tree.file_bytes(),
            "from": from,
        })
    };
    let installed = node.requester.toolchains.list();
    let mut rows: Vec<Value> =
        installed.iter().map(|known| row(&known.digest, &known.toolchain, "installed")).collect();
    rows.extend(node.worker.shelf.list().iter().map(|(digest, toolchain)| row(digest, toolchain, "fetched")));
    json!(rows)
}

fn stand_ins(node: &Node) -> Value {
    let rows = node.requester.stand_ins.list().into_iter().map(|(setting, found)| {
        let found = found.map_err(|error| error.parts());
        let (wrong, hint) = found.as_ref().err().cloned().unzip();
        json!({
            "compiler": setting.compiler.to_string(),
            "archive": setting.archive.to_string(),
            "toolchain": found.ok(),
            "wrong": wrong,
            "hint": hint,
        })
    });
    rows.collect()
}

async fn import(node: &Arc<Node>, archive: Option<&str>) -> Result<Value, String> {
    let path = archive.ok_or("no archive is named")?.to_owned();
    let node = node.clone();
    let import = move || {
        let taken = take_in(path.as_ref(), &node.store, &node.worker.shelf);
        let (digest, name) = taken.map_err(|error| match error {
            TakeError::Open { .. } => chain(&error),
            _ => format!("cannot import {path}: {}", chain(&error)),
        })?;
        Ok(json!({ "digest": digest.to_string(), "name": name }))
    };
    tokio::task::spawn_blocking(import).await.map_err(|_| "the import panicked".to_owned())?
}

/// Fetches what a build needs; ends when nobody waits for the answer any more.
async fn warm(node: &Node, body: &Value) -> Result<Value, String> {
    let name = body["from"].as_str().unwrap_or_default().parse::<BuildName>();
    let name = name.map_err(|error| error.to_string())?;
    let report = node.warmer.warm(&name, body["limit"].as_u64()).await;
    report.map(|report| json!(report)).map_err(|error| error.to_string())
}

async fn keep_house(node: &Arc<Node>, body: Value) -> Result<Value, String> {
    let chore: Chore = serde_json::from_value(body).map_err(|_| {
        "this node does not know that\nhint: restart it with `barn stop`, `barn start`".to_owned()
    })?;
    let node = node.clone();
    let work = move || chore.run(&node.store, &node.requester.toolchains);
    tokio::task::spawn_blocking(work).await.map_err(|_| "the store panicked".to_owned())
}
