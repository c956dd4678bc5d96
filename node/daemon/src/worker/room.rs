//! From an action to a sandbox run and back to a result.

use std::{io, time::Duration};

use barn_cache::{BlobWriter, Store};
use barn_protocol::{
    Action, ActionResult, Entry, Toolchain, TreePath,
    action::{Blob, OutputFile},
    limits::ACTION_SECONDS_MAX,
    observed::Observed,
    wire::RunFailure,
};
use barn_sandbox::{
    CancelToken, Exit, Finished, InsidePath, Kind, Limits, OutputSink, OutputState, Priority, RunError,
    Sandbox, Spec,
};

use crate::toolchain::layout;

/// What the sandbox is to do for `action`.
///
/// # Errors
/// [`RunFailure::Inputs`] when a blob is gone, [`RunFailure::Refused`] when a path is not allowed inside.
pub(super) fn spec(
    store: &Store,
    toolchain: &Toolchain,
    action: &Action,
    limits: Limits,
) -> Result<Spec, RunFailure> {
    let laid_out = layout::lay_out(toolchain, |digest, executable| store.blob_path(&digest, executable))
        .map_err(|_| RunFailure::Inputs)?;
    let mut inputs = laid_out.entries;
    for (path, entry) in action.inputs.iter().filter(|(path, _)| toolchain.tree.get(path).is_none()) {
        inputs.extend(input(store, path, entry)?);
    }
    let mut env: Vec<(Vec<u8>, Vec<u8>)> = action.env.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    let search: Vec<&[u8]> = toolchain.search_path.iter().map(TreePath::as_bytes).collect();
    env.push((b"PATH".to_vec(), search.join(&b':')));
    Ok(Spec {
        program: inside(&action.program)?,
        argv: action.argv.clone(),
        env,
        cwd: inside(&action.cwd)?,
        toolchain: laid_out.mounts,
        inputs,
        outputs: action.outputs.iter().map(|output| inside(&output.path)).collect::<Result<_, _>>()?,
        limits: Limits { wall: limits.wall.min(Duration::from_secs(ACTION_SECONDS_MAX)), ..limits },
        priority: Priority::Idle,
    })
}

/// Runs the spec; outputs go to the store. This sandbox cannot watch what the compiler opens.
///
/// # Errors
/// Why there is no result.
pub(super) fn run(
    sandbox: &Sandbox,
    spec: &Spec,
    cancel: &CancelToken,
    store: Store,
) -> Result<(ActionResult, Option<Observed>), RunFailure> {
    let mut sink = StoreOutputs { store, open: None, blobs: Vec::new() };
    let finished = sandbox.run(spec, cancel, &mut sink).map_err(|error| failure(&error))?;
    Ok((result(finished, sink)?, None))
}

fn result(finished: Finished, sink: StoreOutputs) -> Result<ActionResult, RunFailure> {
    let exit_code = match finished.exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => return Err(RunFailure::Killed { signal }),
    };
    if finished.outputs.iter().any(|output| matches!(output.state, OutputState::Refused(_))) {
        return Err(RunFailure::Refused);
    }
    let keep = |bytes: &[u8]| sink.store.put_bytes(bytes).map_err(|_| RunFailure::Inputs);
    Ok(ActionResult {
        exit_code,
        stdout: keep(&finished.stdout)?,
        stderr: keep(&finished.stderr)?,
        outputs: sink.blobs,
        wall_ms: u64::try_from(finished.wall.as_millis()).unwrap_or(u64::MAX),
    })
}

fn failure(error: &RunError) -> RunFailure {
    let source = error as &dyn std::error::Error;
    tracing::warn!(error = source, "an action did not run to its end");
    match error {
        RunError::TimedOut { .. } => RunFailure::TimedOut,
        RunError::Limit(_) | RunError::Plan(_) => RunFailure::Refused,
        _ => RunFailure::Sandbox,
    }
}

fn inside(path: &TreePath) -> Result<InsidePath, RunFailure> {
    InsidePath::new(path.as_bytes()).map_err(|_| RunFailure::Refused)
}

fn input(store: &Store, path: &TreePath, entry: &Entry) -> Result<Option<barn_sandbox::Entry>, RunFailure> {
    let kind = match entry {
        Entry::Directory if path.as_bytes() == b"/" => return Ok(None),
        Entry::Directory => Kind::Directory,
        Entry::Symlink { target } => Kind::Symlink { target: target.clone() },
        Entry::File { digest, size, executable } => Kind::File {
            source: store.private_path(digest).ok_or(RunFailure::Inputs)?,
            size: *size,
            executable: *executable,
        },
    };
    Ok(Some(barn_sandbox::Entry { path: inside(path)?, kind }))
}

/// Puts the outputs of a run into the store.
struct StoreOutputs {
    store: Store,
    open: Option<(usize, BlobWriter)>,
    blobs: Vec<OutputFile>,
}

impl OutputSink for StoreOutputs {
    fn begin(&mut self, index: usize) -> io::Result<()> {
        self.open = Some((index, self.store.writer().map_err(io::Error::other)?));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.open {
            Some((_, writer)) => io::Write::write_all(writer, bytes),
            None => Err(io::Error::other("an output has no beginning")),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let (index, writer) =
            self.open.take().ok_or_else(|| io::Error::other("an output has no beginning"))?;
        let Blob { digest, size } = writer.finish().map_err(io::Error::other)?;
        let output = u32::try_from(index).map_err(io::Error::other)?;
        self.blobs.push(OutputFile { output, digest, size });
        Ok(())
    }
}
