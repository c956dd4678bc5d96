//! `barn node`, `barn start`, `barn stop`.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Outcome, control};
use crate::{daemon, node, setup::Setup};

/// How long a node may take to open its socket: on a machine under full load.
const START_WAIT: Duration = Duration::from_secs(10);
/// How long a node may take to stop: it ends running actions first.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Log files over this many bytes are started anew when the node starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// A node that did not start.
#[derive(Debug, thiserror::Error)]
enum LifecycleError {
    #[error("the node did not start\nhint: its last words are in {0}")]
    NotStarted(String),
    #[error("the node did not stop within {} s", STOP_WAIT.as_secs())]
    NotStopped,
    #[error("cannot start {program}")]
    Spawn { program: String, source: io::Error },
}

/// Threads that serve; what computes or waits for disks runs on others. On less than two cores a second one only adds
/// wake-ups.
const LOOPS_MAX: u32 = 2;

/// `barn node`: runs until stopped.
pub(super) fn foreground(setup: Setup, peers: Vec<SocketAddr>) -> Outcome {
    init_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(node::cores().min(LOOPS_MAX) as usize)
        .thread_name("barn-node")
        .enable_all()
        .build()?;
    runtime.block_on(daemon::run(setup, peers))?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(ExitCode::SUCCESS)
}

/// `barn start`.
pub(super) fn start(setup: &Setup) -> Outcome {
    if running(setup) {
        eprintln!("the node runs already");
    } else {
        ensure_running(setup)?;
        eprintln!("the node runs; its log is {}", setup.home.log_path().display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `barn stop`.
pub(super) fn stop(setup: &Setup) -> Outcome {
    let answer = match control::call(&setup.socket, "stop", &json!({})) {
        Err(control::ControlError::NotRunning) => {
            eprintln!("no node runs here");
            return Ok(ExitCode::SUCCESS);
        }
        answer => answer?,
    };
    let pid = answer.get("pid").and_then(Value::as_i64);
    let end = Instant::now() + STOP_WAIT;
    while pid.is_some_and(alive) {
        if Instant::now() >= end {
            return Err(LifecycleError::NotStopped.into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("the node has stopped");
    Ok(ExitCode::SUCCESS)
}

/// Starts the node in the background unless it runs, and waits for its socket.
pub(super) fn ensure_running(setup: &Setup) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if running(setup) {
        return Ok(());
    }
    spawn(setup)?;
    let end = Instant::now() + START_WAIT;
    while !running(setup) {
        if Instant::now() >= end {
            return Err(LifecycleError::NotStarted(setup.home.log_path().display().to_string()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn running(setup: &Setup) -> bool {
    control::call(&setup.socket, "ping", &json!({})).is_ok()
}

/// Starts `barn-node node` with nothing of this process but its environment.
fn spawn(setup: &Setup) -> Result<(), LifecycleError> {
    let program = std::env::current_exe().unwrap_or_else(|_| "barn-node".into());
    let fail = |source| LifecycleError::Spawn { program: program.display().to_string(), source };
    let path = setup.home.log_path();
    let fresh = fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX);
    let log = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(!fresh)
        .mode(0o600)
        .truncate(fresh)
        .open(&path)
        .map_err(fail)?;
    crate::platform::close_inherited_on_exec();
    Command::new(&program)
        .arg("node")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(fail)?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(fail)?;
    Ok(())
}

/// A process that has ended counts as gone even if the one that started it has not asked for its status yet.
fn alive(pid: i64) -> bool {
    i32::try_from(pid).is_ok_and(crate::platform::is_alive)
}

fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env(barn_wrapper::env_vars::BARN_LOG)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,libp2p=warn,quinn=warn"));
    let colour = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
}
