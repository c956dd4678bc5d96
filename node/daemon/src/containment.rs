//! Whether this machine can run compiles of others contained, and how much each may use.

use std::{path::PathBuf, sync::Arc};

use barn_sandbox::{Limits, Sandbox};

use crate::config::Config;

const MIB: u64 = 1 << 20;
/// The first program inside the sandbox; installed beside `barn-node`.
const HELPER: &str = "barn-room";

/// Sets up and tests the sandbox.
///
/// # Errors
/// Why this machine cannot contain a compile, in words for its owner.
pub fn set_up(config: &Config) -> Result<Arc<Sandbox>, String> {
    if config.worker.slots == Some(0) {
        return Err("worker.slots is 0 in barn.toml".to_owned());
    }
    let helper = helper().ok_or_else(|| format!("{HELPER} is not installed beside barn-node"))?;
    let bwrap = bubblewrap().ok_or("bubblewrap is not installed")?;
    let drop_to = config.worker.sandbox_uid.map(|uid| (uid, uid));
    let sandbox =
        Sandbox::new(barn_sandbox::Config { helper, bwrap, drop_to }).map_err(|error| chain(&error))?;
    sandbox.self_test().map_err(|error| chain(&error))?;
    Ok(Arc::new(sandbox))
}

/// What one action of another machine may use here.
pub fn limits(config: &Config) -> Limits {
    let default = Limits::default();
    let memory_bytes = config.worker.memory_mib.map_or(default.memory_bytes, |mib| mib.saturating_mul(MIB));
    Limits { memory_bytes, ..default }
}

fn helper() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?.canonicalize().ok()?;
    let beside = own.with_file_name(HELPER);
    beside.is_file().then_some(beside)
}

/// Where bubblewrap is, looked for in the system's directories and not in the caller's `PATH`.
fn bubblewrap() -> Option<PathBuf> {
    ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
