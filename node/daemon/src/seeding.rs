//! A machine without compilers takes one of the office's.

use std::{ffi::OsString, fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use barn_mesh::stream::{StreamError, read_frame, write_frame};
use barn_protocol::{
    Digest, NodeId,
    wire::{Offered, Request},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    node::Node,
    toolchain::{Known, discover_with_sysroot, unpack::unpack},
};

/// How long a member may take to say what it has.
const LIST_MAX: Duration = Duration::from_secs(3);
/// Fewest digits by which a digest may be called.
const DIGITS_MIN: usize = 6;

/// A toolchain, and who has it.
struct Row {
    offered: Offered,
    members: Vec<NodeId>,
}

/// All toolchains of the connected members.
pub(crate) async fn list(node: &Arc<Node>) -> Value {
    let rows = rows(node).await;
    let shown = rows.iter().map(|row| {
        let names: Vec<String> = row.members.iter().map(|id| node.name_of(id)).collect();
        json!({
            "digest": row.offered.digest.to_string(),
            "name": row.offered.name,
            "machine": row.offered.machine,
            "bytes": row.offered.bytes,
            "from": names.join(" "),
        })
    });
    shown.collect()
}

/// Fetches the toolchain called `what` (a name or a digest, or the beginning of one) and lays it out.
pub(crate) async fn fetch(node: &Arc<Node>, what: &str, into: Option<PathBuf>) -> Result<Value, String> {
    let row = choose(rows(node).await, what)?;
    let digest = row.offered.digest;
    node.worker.fetcher.fetch_now(&node.mesh, row.members[0], digest).await.map_err(|error| chain(&error))?;
    node.advertise();
    let toolchain = node.worker.shelf.get(&digest).ok_or("the toolchain is not kept")?;
    let dir = into.unwrap_or_else(|| node.setup.home.toolchains_dir().join(directory_name(&row.offered)));
    let (store, at) = (node.store.clone(), dir.clone());
    let work =
        move || unpack(&toolchain, &at, |digest| store.open_blob(digest)).map_err(|error| chain(&error));
    tokio::task::spawn_blocking(work).await.map_err(|_| "unpacking panicked".to_owned())??;
    Ok(json!({ "digest": digest.to_string(), "name": row.offered.name, "bin": dir.join("bin") }))
}

/// Puts the toolchain of the compiler at `program`, with its sysroot, on the shelf, so that it is offered to the mesh.
pub(crate) async fn pack_with_sysroot(
    node: &Arc<Node>,
    program: &str,
    search_path: &str,
) -> Result<Value, String> {
    let (program, search_path) = (PathBuf::from(program), OsString::from(search_path));
    let packing = node.clone();
    let pack = move || {
        let known: Known =
            discover_with_sysroot(&program, &search_path).map_err(|error| chain(&error))?.into();
        for (digest, path) in &known.files {
            let fail =
                |why: &dyn std::error::Error| format!("cannot store {}: {}", path.display(), chain(why));
            let mut file = File::open(path).map_err(|error| fail(&error))?;
            let mut writer = packing.store.writer().map_err(|error| fail(&error))?;
            io::copy(&mut file, &mut writer).map_err(|error| fail(&error))?;
            let stored = writer.finish().map_err(|error| fail(&error))?.digest;
            if stored != *digest {
                return Err(format!("{} is being changed\nhint: try again", path.display()));
            }
        }
        let answer = json!({
            "digest": known.digest.to_string(),
            "name": known.toolchain.name,
            "entries": known.toolchain.tree.len(),
            "bytes": known.toolchain.tree.file_bytes(),
        });
        packing.worker.shelf.put(known.toolchain).map_err(|error| chain(&error))?;
        Ok(answer)
    };
    let answer = tokio::task::spawn_blocking(pack).await.map_err(|_| "packing panicked".to_owned())?;
    node.advertise();
    answer
}

async fn rows(node: &Arc<Node>) -> Vec<Row> {
    let mut asked = JoinSet::new();
    for peer in node.mesh.peers().into_iter().filter(|peer| peer.connected) {
        let node = node.clone();
        asked.spawn(async move {
            let list = tokio::time::timeout(LIST_MAX, ask(&node, peer.id)).await;
            (peer.id, list.ok().and_then(Result::ok).unwrap_or_default())
        });
    }
    let mut rows: Vec<Row> = Vec::new();
    for (peer, list) in asked.join_all().await {
        for offered in list {
            match rows.iter_mut().find(|row| row.offered.digest == offered.digest) {
                Some(row) => row.members.push(peer),
                None => rows.push(Row { offered, members: vec![peer] }),
            }
        }
    }
    rows.sort_by(|a, b| (&a.offered.name, a.offered.digest).cmp(&(&b.offered.name, b.offered.digest)));
    rows
}

async fn ask(node: &Node, peer: NodeId) -> Result<Vec<Offered>, StreamError> {
    let (mut send, mut recv) = node.mesh.open(peer).await.map_err(|_| StreamError::Ended)?;
    write_frame(&mut send, &Request::Toolchains).await?;
    let mut list: Vec<Offered> = read_frame(&mut recv, LIST_MAX).await?;
    // What cannot be shown on one line is no toolchain's name.
    list.retain(|offered| !offered.name.chars().any(char::is_control));
    Ok(list)
}

fn choose(rows: Vec<Row>, what: &str) -> Result<Row, String> {
    let by_digest = |digest: &Digest| what.len() >= DIGITS_MIN && digest.to_string().starts_with(what);
    let fits = |row: &Row| by_digest(&row.offered.digest) || row.offered.name.starts_with(what);
    let mut fitting: Vec<Row> = rows.into_iter().filter(fits).collect();
    // `gcc` is not `gcc+sysroot`.
    let is_kind = |row: &Row| row.offered.name.split(' ').next() == Some(what);
    if fitting.iter().any(is_kind) {
        fitting.retain(is_kind);
    }
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        0 => Err(format!(
            "no connected member has a toolchain {what}\nhint: `barn toolchain list --mesh` shows what there is"
        )),
        count => Err(format!("{count} toolchains are called {what}\nhint: name one by its digest")),
    }
}

fn directory_name(offered: &Offered) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = offered.name.chars().map(plain).take(64).collect();
    format!("{}-{}", name.trim_start_matches('.'), &offered.digest.to_string()[..8])
}

/// The error and its causes on one line, and the hint on the next.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let (first, hint) =
        text.split_once('\n').map_or((text.as_str(), None), |(first, rest)| (first, Some(rest)));
    let mut line = first.to_owned();
    let mut next = error.source();
    while let Some(source) = next {
        line = format!("{line}: {source}");
        next = source.source();
    }
    hint.map_or(line.clone(), |hint| format!("{line}\n{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        let offered = Offered {
            digest: Digest::of(name.as_bytes()),
            name: name.into(),
            machine: "x86_64".into(),
            bytes: 1,
        };
        Row { offered, members: Vec::new() }
    }

    fn check(what: &str, expected: Option<&str>) {
        let rows = vec![
            row("gcc 12.2.0 x86_64"),
            row("gcc 13.1.0 x86_64"),
            row("clang 14.0.6 x86_64"),
            row("gcc+sysroot 13.1.0 x86_64"),
        ];
        let chosen = choose(rows, what).ok().map(|row| row.offered.name);
        assert_eq!(chosen.as_deref(), expected, "{what}");
    }

    #[test]
    fn a_toolchain_is_called_by_what_no_other_is_called() {
        check("clang", Some("clang 14.0.6 x86_64"));
        check("gcc", None);
        check("gcc 13", Some("gcc 13.1.0 x86_64"));
        check("rustc", None);
        check("gcc+", Some("gcc+sysroot 13.1.0 x86_64"));
        let digest = Digest::of(b"gcc 12.2.0 x86_64").to_string();
        check(&digest[..DIGITS_MIN], Some("gcc 12.2.0 x86_64"));
        check(&digest[..DIGITS_MIN - 1], None);
    }

    #[test]
    fn directories_have_plain_names() {
        let name = directory_name(&row("../gcc 12/x").offered);
        assert!(name.starts_with("-gcc-12-x-") && !name.contains('/'), "{name}");
    }
}
