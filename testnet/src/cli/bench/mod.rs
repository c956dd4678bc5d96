//! The benchmarks: what barn costs, beside the tools that people use today.
//!
//! Both make an office, so that every tool runs on hosts under the same conditions and its daemons end with the office.
//! All contenders take turns within one run, again and again: on a machine that does other things too, only what
//! was measured side by side can be compared. What is printed are medians over the rounds.

mod figures;
mod hit;
mod meter;
mod remote;
mod rivals;
mod usage;

pub(super) use hit::{Options as HitOptions, run as hit};
pub(super) use meter::answer as meter;
pub(super) use remote::{Options as RemoteOptions, run as remote};

use std::path::PathBuf;
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
    for program in ["gcc", "ccache", "distcc", "icecc"] {
        let line = version(program).unwrap_or_else(|| format!("{program}: not installed"));
        text += &format!("\n               {line}");
    }
    text
}

fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
