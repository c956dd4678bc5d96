//! A compile that the wrapper runs, and what is kept of it.

use std::{fs::File, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use barn_protocol::{
    ActionRecord, ActionResult,
    action::{Output, OutputFile},
    limits::STDIO_BYTES_MAX,
    placement::Place,
};
use barn_wrapper::messages::{Compile, Compiled, Ended, Produced};

use super::{Prepared, Requester, dispatch::Ticket, story::Story};

/// A compile that the wrapper runs for the node.
pub trait LocalWork: Send {
    /// What the wrapper is to run and to hand over.
    fn order(&self) -> Compile;

    /// The wrapper's report. Takes in the outputs; blocks for as long as they are copied.
    fn finished(self: Box<Self>, compiled: &Compiled, outputs: Vec<File>);

    /// The wrapper went away without a report; whether the compile ended is not known.
    fn lost(self: Box<Self>);
}

/// A compile placed on this machine.
pub struct LocalRun {
    requester: Arc<Requester>,
    prepared: Arc<Prepared>,
    ticket: Ticket,
    story: Story,
}

impl LocalRun {
    pub(super) fn new(
        requester: Arc<Requester>,
        prepared: Arc<Prepared>,
        ticket: Ticket,
        story: Story,
    ) -> Self {
        Self { requester, prepared, ticket, story }
    }
}

impl LocalWork for LocalRun {
    fn order(&self) -> Compile {
        let call = &self.prepared.call;
        let outputs = if call.may_be_kept() { call.output_names.clone() } else { Vec::new() };
        Compile { argv: call.own_argv(), outputs }
    }

    fn finished(self: Box<Self>, compiled: &Compiled, outputs: Vec<File>) {
        let Self { requester, prepared, ticket, mut story } = *self;
        let ok = compiled.ended == Ended::Exited(0);
        ticket.finished(Place::Local, Duration::from_millis(compiled.wall_ms), ok);
        requester.stats.count(|c| if ok { c.compiles.local += 1 } else { c.compiles.failed += 1 });
        if !ok {
            story.tell(format!("compiled here, not kept: {:?}", compiled.ended));
            return story.end("local");
        }
        if !prepared.call.may_be_kept() {
            story.tell("compiled here, not kept: an archive stands in for this compiler".to_owned());
            return story.end("local");
        }
        match keep(&requester, &prepared, compiled, outputs) {
            Ok(note) => story.tell(format!("compiled here and kept{note}")),
            Err(why) => story.tell(format!("compiled here, not kept: {why}")),
        }
        story.end("local");
    }

    fn lost(self: Box<Self>) {
        let mut story = self.story;
        story.tell("compiled here; the wrapper ended without a report".to_owned());
        story.end("local");
    }
}

fn keep(
    requester: &Arc<Requester>,
    prepared: &Arc<Prepared>,
    compiled: &Compiled,
    outputs: Vec<File>,
) -> Result<String, String> {
    let result = take_in(requester, &prepared.action.outputs, compiled, outputs)?;
    if prepared.claim.is_disturbed() {
        return Err("another compile wrote to the same output".to_owned());
    }
    let made = prepared.made(&result);
    let record = ActionRecord {
        key: made.key,
        result: result.clone(),
        producer: requester.identity.id(),
        sandboxed: false,
        epoch: requester.roster.epoch(),
    };
    requester.remember(made, &result, &record.sign(&requester.identity))?;
    Ok(requester.share_anywhere(prepared, &result))
}

/// Copies the outputs of a compile that was to write `expected` into the store; says why not.
pub(super) fn take_in(
    requester: &Requester,
    expected: &[Output],
    compiled: &Compiled,
    files: Vec<File>,
) -> Result<ActionResult, String> {
    let kept = [&compiled.stdout, &compiled.stderr];
    if compiled.truncated || kept.iter().any(|bytes| bytes.len() as u64 > STDIO_BYTES_MAX) {
        return Err("its messages are too long".to_owned());
    }
    if compiled.outputs.len() != expected.len() {
        return Err("the wrapper did not report every output".to_owned());
    }
    let mut files = files.into_iter();
    let mut outputs = Vec::new();
    for (index, (state, output)) in compiled.outputs.iter().zip(expected).enumerate() {
        match state {
            Some(state) => {
                let file = files.next().ok_or("the wrapper did not hand over every output")?;
                let output = u32::try_from(index).map_err(|error| error.to_string())?;
                outputs.push(take_in_one(requester, output, file, state)?);
            }
            None if output.optional => {}
            None => return Err(format!("{} was not written", output.path)),
        }
    }
    let put = |bytes: &[u8]| requester.store.put_bytes(bytes).map_err(|error| error.to_string());
    Ok(ActionResult {
        exit_code: 0,
        stdout: put(&compiled.stdout)?,
        stderr: put(&compiled.stderr)?,
        outputs,
        wall_ms: compiled.wall_ms,
    })
}

/// The wrapper waits for this, but not for ever: a file that the build changed since is not what was compiled.
fn take_in_one(
    requester: &Requester,
    output: u32,
    file: File,
    state: &Produced,
) -> Result<OutputFile, String> {
    let blob = requester.store.put_file(&file).map_err(|error| error.to_string())?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    let now = Produced {
        size: meta.size(),
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
    };
    if now != *state || blob.size != state.size {
        return Err("an output changed right after the compile".to_owned());
    }
    Ok(OutputFile { output, digest: blob.digest, size: blob.size })
}
