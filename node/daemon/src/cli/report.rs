//! `barn doctor`: what keeps barn from working at its best here, and the remedy.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use barn_compilers::{Family, WrapperKind, guess};
use serde_json::{Value, json};

use super::{Outcome, control};
use crate::{
    config::{CompilerName, ToolchainSetting},
    containment,
    home::HomeError,
    setup::Setup,
};

/// Compilers looked for, in the order in which they are told of.
const COMPILERS: [&str; 6] = ["gcc", "g++", "clang", "clang++", "cc", "c++"];
/// Free space below which the store hardly helps, in GiB.
const FREE_GIB_MIN: u64 = 2;

/// One thing looked at.
struct Finding {
    what: &'static str,
    /// How it is, or what is wrong and the remedy.
    state: Result<String, (String, String)>,
}

/// `barn doctor`. Exits with 1 when something is wrong.
pub(super) fn doctor(setup: &Setup) -> Outcome {
    let mut findings =
        vec![node(setup), identity(setup), mesh(setup), peers(setup), sandbox(setup), compilers(setup)];
    findings.extend(toolchains(setup));
    findings.push(space(setup));
    findings.extend(http_cache(setup));
    let mut ill = false;
    for finding in findings {
        match finding.state {
            Ok(state) => println!("ok    {:<10} {state}", finding.what),
            Err((wrong, remedy)) => {
                ill = true;
                println!("wrong {:<10} {wrong}", finding.what);
                println!("      {:<10} hint: {remedy}", "");
            }
        }
    }
    Ok(if ill { ExitCode::from(super::EXIT_FAILED) } else { ExitCode::SUCCESS })
}

fn node(setup: &Setup) -> Finding {
    let state = match control::call(&setup.socket, "ping", &json!({})) {
        Ok(_) => Ok(format!("runs; socket {}", setup.socket.display())),
        Err(control::ControlError::NotRunning) => Err((
            "does not run".to_owned(),
            "`barn start`, or just compile: the wrapper starts it".to_owned(),
        )),
        Err(error) => Err((first_line(&error.to_string()), "`barn stop` and `barn start`".to_owned())),
    };
    Finding { what: "node", state }
}

fn identity(setup: &Setup) -> Finding {
    let state = match setup.home.identity() {
        Ok(identity) => Ok(identity.id().short()),
        Err(HomeError::OpenKey(path)) => Err((
            format!("{} can be read by others", path.display()),
            format!("chmod 600 {}", path.display()),
        )),
        Err(error) => Err((first_line(&error.to_string()), "see the state directory".to_owned())),
    };
    Finding { what: "identity", state }
}

fn mesh(setup: &Setup) -> Finding {
    let state = match setup.home.roster() {
        Ok(Some(roster)) if roster.roster().expired(crate::enrol::unix_now_s()) => Err((
            "the roster has expired".to_owned(),
            "run `barn mesh allow` for any member where the admin key is".to_owned(),
        )),
        Ok(Some(roster))
            if setup.home.identity().is_ok_and(|own| roster.roster().member(&own.id()).is_none()) =>
        {
            Err(("this machine was struck from the roster".to_owned(), "ask for a new invitation".to_owned()))
        }
        Ok(Some(roster)) => Ok(format!(
            "{}, {} members, epoch {}",
            roster.roster().mesh.short(),
            roster.roster().members.len(),
            roster.roster().epoch
        )),
        Ok(None) => {
            Ok("none: a local cache only; `barn mesh init` founds one, `barn join TOKEN` joins one"
                .to_owned())
        }
        Err(error) => Err((first_line(&error.to_string()), "move the file away and join again".to_owned())),
    };
    Finding { what: "mesh", state }
}

fn peers(setup: &Setup) -> Finding {
    let status = control::call(&setup.socket, "status", &json!({})).unwrap_or_default();
    let peers: Vec<_> = status["peers"].as_array().into_iter().flatten().collect();
    let connected = peers.iter().filter(|peer| peer["state"] == "connected").count();
    let state = if connected > 0 || peers.is_empty() {
        Ok(format!("{connected} of {} connected", peers.len()))
    } else {
        Err((
            format!("none of {} can be reached", peers.len()),
            "is UDP and TCP port 7117 open? without multicast name one with `network.peers` in barn.toml"
                .to_owned(),
        ))
    };
    Finding { what: "peers", state }
}

/// The endpoint for other tools' caches, where one is configured and a node runs.
fn http_cache(setup: &Setup) -> Option<Finding> {
    setup.config.http_cache.listen?;
    let status = control::call(&setup.socket, "status", &json!({})).ok()?;
    let endpoint = &status["http_cache"];
    let state = match (endpoint["url"].as_str(), endpoint["error"].as_str()) {
        (Some(url), _) => Ok(format!("listens at {url}")),
        (None, Some(error)) => Err((
            first_line(error),
            "set `http_cache.listen` in barn.toml to a free loopback port, then `barn stop`, `barn start`"
                .to_owned(),
        )),
        (None, None) => Err((
            "the node was started before it was set".to_owned(),
            "`barn stop` and `barn start`".to_owned(),
        )),
    };
    Some(Finding { what: "http-cache", state })
}

fn sandbox(setup: &Setup) -> Finding {
    let remedy = "install bubblewrap 0.8 or later and allow unprivileged user namespaces; until then this machine \
                  only asks, and runs nothing for others";
    let state = containment::set_up(&setup.config)
        .map(|_| "compiles of others are contained".to_owned())
        .map_err(|why| (why.replace('\n', " "), remedy.to_owned()));
    Finding { what: "sandbox", state }
}

fn compilers(setup: &Setup) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found: Vec<(&str, PathBuf)> =
        COMPILERS.into_iter().filter_map(|name| Some((name, first(name, &path)?))).collect();
    let mut scripts = found.iter().map(|(_, path)| path.as_path());
    let script = scripts.find(|path| is_script(path) && !has_stand_in(setup, path));
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let state = match script {
        _ if found.is_empty() => Err(("none found".to_owned(), "install gcc or clang".to_owned())),
        Some(script) => Err((
            format!("{} is a script: its compiles run here and are not cached", script.display()),
            "put the directory of the compiler that it runs first in PATH, or see [[toolchain]] in \
             docs/configuration.md"
                .to_owned(),
        )),
        None => Ok(names.join(", ")),
    };
    Finding { what: "compilers", state }
}

/// The first program of this name in `search_path` that is not barn itself.
fn first(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    let is_barn = |path: &PathBuf| {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        guess(real.as_os_str().as_bytes()).family == Family::Wrapper(WrapperKind::Barn)
    };
    let all = std::env::split_paths(search_path).map(|directory| directory.join(name));
    all.filter(|path| path.is_file()).find(|path| !is_barn(path))
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *b"#!"
}

fn has_stand_in(setup: &Setup, program: &Path) -> bool {
    setup.config.toolchain.iter().any(|setting| match &setting.compiler {
        CompilerName::Path(path) => path == program,
        CompilerName::Name(name) => program.file_name() == Some(name.as_ref()),
    })
}

/// One finding for each `[[toolchain]]`, as the node sees it.
fn toolchains(setup: &Setup) -> Vec<Finding> {
    if setup.config.toolchain.is_empty() {
        return Vec::new();
    }
    let finding = |state| Finding { what: "toolchain", state };
    let Ok(rows) = control::call(&setup.socket, "stand-ins", &json!({})) else {
        return vec![finding(Ok("not known while the node does not run".to_owned()))];
    };
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let state = |row: &Value| match row["wrong"].as_str() {
        Some(wrong) => Err((format!("for {}: {wrong}", text(row, "compiler")), text(row, "hint"))),
        None => Ok(format!("{} stands in for {}", text(row, "toolchain"), text(row, "compiler"))),
    };
    let mut findings: Vec<Finding> =
        rows.as_array().into_iter().flatten().map(|row| finding(state(row))).collect();
    let read = |setting: &ToolchainSetting| {
        rows.as_array().into_iter().flatten().any(|row| {
            row["compiler"] == setting.compiler.to_string() && row["archive"] == setting.archive.to_string()
        })
    };
    if !setup.config.toolchain.iter().all(read) {
        let wrong = "the node has not read the present settings".to_owned();
        findings.push(finding(Err((wrong, "`barn stop` and `barn start`".to_owned()))));
    }
    findings
}

fn space(setup: &Setup) -> Finding {
    let state = match free_gib(setup.home.dir()) {
        Some(free) if free < FREE_GIB_MIN => Err((
            format!("{free} GiB free for the store"),
            "make room, or set cache.size in barn.toml".to_owned(),
        )),
        Some(free) => Ok(format!("{free} GiB free for the store")),
        None => Ok("not known".to_owned()),
    };
    Finding { what: "disk", state }
}

fn free_gib(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some((stat.blocks_available() * stat.fragment_size()) >> 30)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
