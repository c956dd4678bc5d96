//! From an action to a sandbox run and back to a result.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use barn_cache::{BlobWriter, Store};
use barn_protocol::{
    Action, ActionResult, Digest, Entry, NodeId, Toolchain, Tree, TreePath,
    action::{Blob, OutputFile},
    limits::ACTION_SECONDS_MAX,
    observed::Observed,
    wire::RunFailure,
};
use barn_sandbox::{
    CancelToken, Exit, Finished, InsidePath, Kind, Limits, Mount, OutputSink, OutputState, Priority,
    RunError, Sandbox, Spec,
};

use super::{
    adopt::Own,
    trees::{Item, Items, Owner, TreeError, Trees},
};

/// The first actions of an owner, all watched. Every worker of a mesh watches its own first ones, so a requester with
/// eight workers hears of two dozen units before a build has well begun.
const WATCHED_FIRST: u32 = 3;
/// After these, one of so many: 0.4 % of a build's time.
const WATCHED_EVERY: u32 = 16;
/// Owners counted; over this, all begin anew.
const OWNERS_MAX: usize = 1024;

/// One action, ready to be laid out and run.
pub(super) struct Room {
    owner: Owner,
    items: Items,
    /// Files of this machine that are bound where they lie, and are not in the tree.
    own: Vec<Own>,
    /// Without its tree.
    spec: Spec,
    /// What was observed is told in the numbers of these files.
    inputs: Option<Arc<Tree>>,
}

/// What the sandbox is to do for `action`, with files of the toolchain that are this machine's `own`. Pure; nothing is
/// looked at or made.
///
/// # Errors
/// [`RunFailure::Refused`] when a path is not allowed inside.
pub(super) fn prepare(
    toolchain: &Toolchain,
    own: Vec<(TreePath, Own)>,
    owner: Owner,
    action: &Action,
    limits: Limits,
    trace: bool,
) -> Result<Room, RunFailure> {
    let mut items = items(toolchain, &action.inputs);
    own.iter().for_each(|(path, _)| drop(items.remove(path)));
    let mut env: Vec<(Vec<u8>, Vec<u8>)> = action.env.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    let search: Vec<&[u8]> = toolchain.search_path.iter().map(TreePath::as_bytes).collect();
    env.push((b"PATH".to_vec(), search.join(&b':')));
    let spec = Spec {
        program: inside(&action.program)?,
        argv: action.argv.clone(),
        env,
        cwd: inside(&action.cwd)?,
        toolchain: own.iter().map(|(path, own)| mount(path, own)).collect::<Result<_, _>>()?,
        inputs: items.iter().map(|(path, item)| entry(path, &item.entry)).collect::<Result<_, _>>()?,
        tree: None,
        trace,
        outputs: action.outputs.iter().map(|output| inside(&output.path)).collect::<Result<_, _>>()?,
        limits: Limits { wall: limits.wall.min(Duration::from_secs(ACTION_SECONDS_MAX)), ..limits },
        priority: Priority::Idle,
    };
    let own = own.into_iter().map(|(_, own)| own).collect();
    Ok(Room { owner, items, own, spec, inputs: trace.then(|| action.inputs.clone()) })
}

/// Lays the room out and runs it; outputs go to the store. What the compiler was seen to look at comes along when the
/// room was traced and the kernel let it.
///
/// # Errors
/// Why there is no result.
pub(super) fn run(
    sandbox: &Sandbox,
    trees: &Trees,
    room: Room,
    cancel: &CancelToken,
    store: Store,
) -> Result<(ActionResult, Option<Observed>), RunFailure> {
    let Room { owner, items, own, mut spec, inputs } = room;
    let lease = trees.lay_out(owner, &items).map_err(|error| not_laid_out(&error))?;
    spec.tree = Some(lease.path().to_owned());
    let mut sink = StoreOutputs { store, open: None, blobs: Vec::new() };
    let finished = sandbox.run(&spec, cancel, &mut sink).map_err(|error| failure(&error))?;
    drop(lease);
    unchanged(&own)?;
    let observed = observed(&finished, inputs.as_deref());
    Ok((result(finished, sink)?, observed))
}

/// Whether the machine's own files are still those that were checked before the run. If not, the compile may have
/// run either.
fn unchanged(own: &[Own]) -> Result<(), RunFailure> {
    let Some(changed) = own.iter().find(|own| !own.is_unchanged()) else { return Ok(()) };
    tracing::warn!(file = %changed.path().display(), "a compiler of this machine was changed while it ran");
    Err(RunFailure::Inputs)
}

/// Decides which actions are watched. It costs some percent of a compile, and consecutive units of a project tell much
/// the same: so the first of a requester and toolchain, when its scanner is new to this project, and then a share.
#[derive(Default)]
pub(super) struct Watch(Mutex<HashMap<(NodeId, Digest), u32>>);

impl Watch {
    /// Counts an action of `owner`; whether to watch it.
    pub(super) fn wants(&self, owner: Owner) -> bool {
        let mut counts = self.0.lock().expect("no panic while the counts are held");
        if counts.len() >= OWNERS_MAX {
            counts.clear();
        }
        let count = counts.entry((owner.requester, owner.toolchain)).or_default();
        *count = count.wrapping_add(1);
        *count <= WATCHED_FIRST || count.is_multiple_of(WATCHED_EVERY)
    }
}

/// Everything that lies in the room; the toolchain's files before the action's.
fn items(toolchain: &Toolchain, inputs: &Tree) -> Items {
    let item = |shared| {
        move |(path, entry): (&TreePath, &Entry)| (path.clone(), Item { entry: entry.clone(), shared })
    };
    let mut items: Items = inputs.iter().map(item(false)).collect();
    items.extend(toolchain.tree.iter().map(item(true)));
    items.remove(&TreePath::root());
    items
}

fn observed(finished: &Finished, inputs: Option<&Tree>) -> Option<Observed> {
    let (seen, inputs) = (finished.observed.as_ref()?, inputs?);
    let opened: Vec<Vec<u8>> = seen.opened.iter().map(|path| path.as_bytes().to_vec()).collect();
    let in_vain = seen.in_vain.iter().map(|path| path.as_bytes().to_vec());
    Observed::of(inputs, &opened, in_vain.filter(|path| !is_toolchains_own(path)).collect()).ok()
}

/// Whether a path is one that a compiler's parts look for whatever they compile: the loader, the locale, and its own
/// programs and specs beside them.
fn is_toolchains_own(path: &[u8]) -> bool {
    const BELOW: [&[u8]; 5] = [
        b"/etc/ld.so.",
        b"/usr/share/locale/",
        b"/usr/share/locale-langpack/",
        b"/usr/lib/locale/",
        b"/usr/lib/charset",
    ];
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let is_library = name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.");
    is_library
        || BELOW.iter().any(|prefix| path.starts_with(prefix))
        || path.windows(14).any(|part| part == b"/glibc-hwcaps/")
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

fn not_laid_out(error: &TreeError) -> RunFailure {
    let source = error as &dyn std::error::Error;
    tracing::warn!(error = source, "an action could not be laid out");
    RunFailure::Inputs
}

fn inside(path: &TreePath) -> Result<InsidePath, RunFailure> {
    InsidePath::new(path.as_bytes()).map_err(|_| RunFailure::Refused)
}

fn mount(path: &TreePath, own: &Own) -> Result<Mount, RunFailure> {
    Ok(Mount { host: own.path().to_owned(), inside: inside(path)? })
}

fn entry(path: &TreePath, entry: &Entry) -> Result<barn_sandbox::Entry, RunFailure> {
    let kind = match entry {
        Entry::Directory => Kind::Directory,
        Entry::Symlink { target } => Kind::Symlink { target: target.clone() },
        Entry::File { size, executable, .. } => Kind::Laid { size: *size, executable: *executable },
    };
    Ok(barn_sandbox::Entry { path: inside(path)?, kind })
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

#[cfg(test)]
mod tests {
    use barn_protocol::Identity;

    use super::*;

    #[test]
    fn the_first_are_watched_and_then_a_share() {
        let watch = Watch::default();
        let owner = |seed: u8| Owner {
            requester: Identity::from_seed(&[seed; 32]).id(),
            toolchain: Digest::of(b"toolchain"),
        };
        let watched: Vec<_> = (1..=40).filter(|_| watch.wants(owner(1))).collect();
        assert_eq!(watched, [1, 2, 3, 16, 32]);
        assert!(watch.wants(owner(2)), "each has its own first");
    }

    #[test]
    fn a_run_counts_for_nothing_when_its_compiler_was_changed() {
        let room = tempfile::tempdir().unwrap();
        let [one, two] = ["cc1", "cc1plus"].map(|name| room.path().join(name));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        let own = [Own::seen(&one), Own::seen(&two)];
        assert_eq!(unchanged(&own), Ok(()));
        // As a package manager does it: another file by the same name.
        std::fs::rename(&one, &two).unwrap();
        assert_eq!(unchanged(&own), Err(RunFailure::Inputs));
        assert_eq!(unchanged(&[]), Ok(()));
    }

    #[test]
    fn the_toolchains_own_business_is_not_reported() {
        let check = |path: &str, expect| assert_eq!(is_toolchains_own(path.as_bytes()), expect, "{path}");
        check("/etc/ld.so.preload", true);
        check("/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libz.so.1", true);
        check("/usr/lib/libisl.so.23", true);
        check("/usr/lib/locale/C.UTF-8/LC_CTYPE", true);
        check("/usr/local/include/stdio.h", false);
        check("/home/u/p/a.solver.h", false);
        check("/home/u/p/none.h", false);
    }
}
