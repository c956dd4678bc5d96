//! `barn toolchain …`: the compilers this machine knows, and archives of them.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use barn_protocol::Digest;
use serde_json::json;

use super::{Outcome, ToolchainVerb, control, lifecycle, view};
use crate::{
    setup::Setup,
    toolchain::{Known, ToolchainIndex, archive, discover_with_sysroot},
};

/// A toolchain command that failed.
#[derive(Debug, thiserror::Error)]
enum ToolchainError {
    #[error("{0} is not found\nhint: name the compiler by its path")]
    NotFound(String),
    #[error("cannot write {path}")]
    Write { path: String, source: io::Error },
}

/// `barn toolchain …`.
pub(super) fn run(setup: &Setup, verb: ToolchainVerb) -> Outcome {
    match verb {
        ToolchainVerb::List { mesh } => list(setup, mesh),
        ToolchainVerb::Fetch { toolchain, into } => fetch(setup, &toolchain, into),
        ToolchainVerb::Pack { compiler, with_sysroot: true } => pack_with_sysroot(setup, &compiler),
        ToolchainVerb::Pack { compiler, with_sysroot: false } => {
            let known = pack(setup, &compiler)?;
            println!("{}", known.digest);
            let bytes = view::bytes(known.toolchain.tree.file_bytes());
            eprintln!("{}: {} entries, {bytes}", known.toolchain.name, known.toolchain.tree.len());
            Ok(ExitCode::SUCCESS)
        }
        ToolchainVerb::Export { compiler, output, with_sysroot } => {
            let known = match with_sysroot {
                true => {
                    let (program, search_path) = called(&compiler)?;
                    Arc::new(Known::from(discover_with_sysroot(&program, &search_path)?))
                }
                false => pack(setup, &compiler)?,
            };
            export(&known, &output)
        }
        ToolchainVerb::Import { archive } => {
            lifecycle::ensure_running(setup)?;
            let archive = archive.canonicalize().unwrap_or(archive);
            let answer = control::call(&setup.socket, "import", &json!({ "archive": archive }))?;
            println!("{}", answer["digest"].as_str().unwrap_or_default());
            eprintln!("imported {}", answer["name"].as_str().unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(setup: &Setup, mesh: bool) -> Outcome {
    let rows = control::call(&setup.socket, "toolchains", &json!({ "mesh": mesh }))?;
    for row in rows.as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
        let bytes = view::bytes(row["bytes"].as_u64().unwrap_or(0));
        println!("{}  {:<10} {:>10}  {}", &text("digest")[..16], text("from"), bytes, text("name"));
    }
    if rows.as_array().is_none_or(Vec::is_empty) && mesh {
        eprintln!("no connected member has any");
    } else if rows.as_array().is_none_or(Vec::is_empty) {
        eprintln!("none yet: a compiler is packed when it is first used");
    }
    Ok(ExitCode::SUCCESS)
}

fn fetch(setup: &Setup, toolchain: &str, into: Option<PathBuf>) -> Outcome {
    lifecycle::ensure_running(setup)?;
    let into = into.map(std::path::absolute).transpose()?;
    let answer = control::call(&setup.socket, "fetch", &json!({ "what": toolchain, "into": into }))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    println!("{}", text("bin"));
    eprintln!("fetched {}\nhint: put the directory above in front of PATH", text("name"));
    Ok(ExitCode::SUCCESS)
}

/// The node does it, because what it has in its store is what it offers.
fn pack_with_sysroot(setup: &Setup, compiler: &Path) -> Outcome {
    let (program, search_path) = called(compiler)?;
    lifecycle::ensure_running(setup)?;
    let body = json!({ "compiler": program, "path": search_path.to_string_lossy() });
    let answer = control::call(&setup.socket, "pack-sysroot", &body)?;
    println!("{}", answer["digest"].as_str().unwrap_or_default());
    let bytes = view::bytes(answer["bytes"].as_u64().unwrap_or(0));
    eprintln!("{}: {} entries, {bytes}", answer["name"].as_str().unwrap_or_default(), answer["entries"]);
    Ok(ExitCode::SUCCESS)
}

/// The program that `compiler` means, and the `PATH` it is called with.
fn called(compiler: &Path) -> Result<(PathBuf, OsString), ToolchainError> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let program = find(compiler, &search_path);
    Ok((program.ok_or_else(|| ToolchainError::NotFound(view::shown(compiler)))?, search_path))
}

fn pack(setup: &Setup, compiler: &Path) -> Result<Arc<Known>, Box<dyn std::error::Error + Send + Sync>> {
    let (program, search_path) = called(compiler)?;
    Ok(ToolchainIndex::open(&setup.home.toolchains_dir()).resolve(&program, &search_path)?)
}

fn export(known: &Known, output: &Path) -> Outcome {
    let fail = |source| ToolchainError::Write { path: view::shown(output), source };
    let open =
        |digest: Digest| known.files.get(&digest).ok_or(io::ErrorKind::NotFound.into()).and_then(File::open);
    let file = File::create(output).map_err(fail)?;
    archive::export(&known.toolchain, open, file)?;
    eprintln!("wrote {} to {}", known.toolchain.name, output.display());
    Ok(ExitCode::SUCCESS)
}

/// The program `name` means: a path, or a name to look up.
fn find(name: &Path, search_path: &OsString) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    std::env::split_paths(search_path).map(|directory| directory.join(name)).find(|path| path.is_file())
}
