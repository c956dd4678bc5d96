//! The benchmarks: what barn costs, beside the tools that people use today.
//!
//! Each makes an office, so that every tool runs on hosts under the same conditions and its daemons end with the office.
//! All contenders take turns within one run, again and again: on a machine that does other things too, only what
//! was measured side by side can be compared. What is printed are medians over the rounds.

mod cold;
mod figures;
mod hit;
mod mesh;
mod meter;
mod miss;
mod neighbour;
mod objects;
mod plot;
mod reap;
mod remote;
mod report;
mod rivals;
mod rust;
mod spread;
mod turn;
mod usage;
mod warm;
mod watch;

pub(super) use hit::{Options as HitOptions, run as hit};
pub(super) use mesh::{Options as MeshOptions, run as mesh};
pub(super) use meter::answer as meter;
pub(super) use miss::{Options as MissOptions, run as miss};
pub(super) use neighbour::{Options as NeighbourOptions, run as neighbour};
pub(super) use remote::{Options as RemoteOptions, run as remote};
pub(super) use rust::{Options as RustOptions, run as rust};

use std::path::{Path, PathBuf};
use std::process::Command;

use barn_testnet::{HostSpec, bin_dir_of_this_build};

use super::Failure;
use super::project::{Language, Unit};

/// Where barn, barn-node and barn-room lie.
fn bin_dir(given: Option<&PathBuf>) -> PathBuf {
    let dir = given.cloned().unwrap_or_else(bin_dir_of_this_build);
    std::path::absolute(&dir).unwrap_or(dir)
}

/// A host that can start this program, which measures from within.
fn measured_host(name: impl Into<String>) -> Result<HostSpec, Failure> {
    let own = std::env::current_exe()?;
    let dir = own.parent().ok_or("this program lies nowhere")?;
    Ok(HostSpec::new(name).sees(dir))
}

/// Where `make` has cargo install sccache: beside the directory of this program. `None` if it is not there; then the hosts'
/// path may have it.
fn sccache_dir() -> Option<PathBuf> {
    let dir = std::env::current_exe().ok()?.parent()?.parent()?.join("rivals/bin").canonicalize().ok()?;
    dir.join("sccache-dist").exists().then_some(dir)
}

/// A host that sees that directory, wherever it lies.
fn with_sccache(host: HostSpec, dir: Option<&PathBuf>) -> HostSpec {
    match dir {
        Some(dir) => host.sees(dir),
        None => host,
    }
}

/// Refuses names of tools that there are not.
fn check_names(only: &[String]) -> Result<(), Failure> {
    match only.iter().find(|name| !rivals::NAMES.contains(&name.as_str())) {
        Some(name) => {
            Err(format!("there is no tool {name:?}; there are {}", rivals::NAMES.join(", ")).into())
        }
        None => Ok(()),
    }
}

/// The compiler of a unit and its arguments.
fn compile(unit: &Unit) -> Vec<String> {
    let program = match unit.language {
        Language::C => "gcc",
        Language::Cxx => "g++",
    };
    std::iter::once(program.to_owned()).chain(unit.args.iter().cloned()).collect()
}

/// A command with others before it, such as `ccache` before `gcc`.
fn through(launcher: &[String], command: &[String]) -> Vec<String> {
    launcher.iter().chain(command).cloned().collect()
}

/// What the figures were measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!("machine        {cores} cores, Linux {}", kernel.trim());
    for line in versions() {
        text += &format!("\n               {line}");
    }
    text
}

/// The versions of all programs that are compared, one line each.
fn versions() -> impl Iterator<Item = String> {
    let sccache = sccache_dir().map_or_else(|| "sccache".into(), |dir| dir.join("sccache"));
    let programs = ["gcc".into(), "ccache".into(), "distcc".into(), "icecc".into(), sccache];
    programs.into_iter().map(|program: PathBuf| {
        version(&program).unwrap_or_else(|| format!("{}: not installed", program.display()))
    })
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
