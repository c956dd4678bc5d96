//! A rustc that the wrapper runs, and what is kept of it.

use std::{fs::File, io::Read as _, sync::Arc, time::Duration};

use barn_compilers::{parse_dep_info, rustc::DepInfo};
use barn_protocol::placement::Place;
use barn_wrapper::messages::{Compile, Compiled, Ended};

use super::{
    LANGUAGE, Names,
    before::Before,
    call::RustCall,
    closure::{Pending, stem},
    manifest::RustManifest,
};
use crate::requester::{
    Requester,
    dispatch::Ticket,
    local::{LocalWork, take_in},
    story::Story,
    writers::Claim,
};

/// Largest dependency list that is read, in bytes: some 100,000 files.
const DEP_INFO_BYTES_MAX: u64 = 16 << 20;
/// How rustc announces a file that it has written, where it writes JSON.
const ARTIFACT: &[u8] = br#"{"$message_type":"artifact""#;

/// A compile of a crate on its way.
pub(super) struct RustRun {
    pub(super) requester: Arc<Requester>,
    pub(super) call: Arc<RustCall>,
    pub(super) names: Names,
    pub(super) before: Before,
    pub(super) ticket: Ticket,
    pub(super) claim: Arc<Claim>,
    pub(super) pending: Pending,
    pub(super) story: Story,
}

impl LocalWork for RustRun {
    fn order(&self) -> Compile {
        let outputs = self.call.compile.outputs.iter().map(|output| output.path.clone()).collect();
        Compile { argv: self.call.argv.clone(), outputs }
    }

    fn finished(self: Box<Self>, compiled: &Compiled, outputs: Vec<File>) {
        let Self { requester, call, names, before, ticket, claim, pending, mut story } = *self;
        let ok = compiled.ended == Ended::Exited(0);
        ticket.finished(Place::Local, Duration::from_millis(compiled.wall_ms), ok);
        requester.stats.count(|c| if ok { c.compiles.local += 1 } else { c.compiles.failed += 1 });
        if ok {
            story.tell(match requester.keep_crate(&call, &names, &before, &claim, compiled, outputs) {
                Ok(None) => "compiled here and kept".to_owned(),
                Ok(Some(Ok(()))) => "compiled here and kept, for other target directories too".to_owned(),
                Ok(Some(Err(why))) => {
                    format!("compiled here and kept, for this target directory only: {why}")
                }
                Err(why) => {
                    tracing::debug!(language = LANGUAGE, crate_name = call.crate_name(), why, "not kept");
                    format!("compiled here, not kept: {why}")
                }
            });
        } else {
            story.tell(format!("compiled here, not kept: {:?}", compiled.ended));
        }
        // From here on the closure is known by the digest, or by what the file is.
        pending.made(if ok { &compiled.outputs } else { &[] });
        story.end("local");
    }

    fn lost(self: Box<Self>) {
        let mut story = self.story;
        story.tell("compiled here; the wrapper ended without a report".to_owned());
        story.end("local");
    }
}

impl Requester {
    /// Keeps a crate, unless something changed since it was looked at; says why not, and what became of it for other target
    /// directories.
    fn keep_crate(
        &self,
        call: &RustCall,
        names: &Names,
        before: &Before,
        claim: &Claim,
        compiled: &Compiled,
        outputs: Vec<File>,
    ) -> Result<Option<Result<(), String>>, String> {
        let dep_info = dep_info(call, compiled, &outputs);
        let result = take_in(self, &call.stem.outputs, compiled, outputs)?;
        let toolchain = &call.stem.toolchain;
        // True of the file whatever else is kept, and its dependents will ask.
        for (output, file) in call.compile.outputs.iter().zip(&result.outputs) {
            if stem(&output.path).is_some() {
                before.closure.remember(&self.store, &file.digest, toolchain);
            }
        }
        if claim.is_disturbed() {
            return Err("another compile wrote to the same output".to_owned());
        }
        let dep_info = dep_info.ok_or("its dependency list cannot be read")?;
        let inputs = self.look_after(call, before, &dep_info, has_messages(compiled)).inspect_err(|_| {
            self.stats.count_named(|c| &mut c.fallbacks, "input-changed");
        })?;
        if call.tools_now(&self.tools).as_ref() != Some(toolchain) {
            return Err("the compiler or the linker has changed".to_owned());
        }
        let action = inputs.key(&call.stem);
        let manifest = RustManifest::new(action, &inputs).encode();
        let put = || {
            self.put_crate(&action, toolchain, result.clone())?;
            self.store.put_manifest(&names.manifests, toolchain, &manifest)
        };
        put().map_err(|error| error.to_string())?;
        Ok(self.share_crate(call, &names.source, &inputs, &dep_info, &result))
    }
}

/// What the run read, by its own list.
fn dep_info(call: &RustCall, compiled: &Compiled, outputs: &[File]) -> Option<DepInfo> {
    let at = call.compile.dep_info;
    compiled.outputs.get(at)?.as_ref()?;
    let index = compiled.outputs[..at].iter().filter(|output| output.is_some()).count();
    let mut text = Vec::new();
    // The store reads it from its beginning, wherever this leaves off.
    outputs.get(index)?.take(DEP_INFO_BYTES_MAX).read_to_end(&mut text).ok()?;
    parse_dep_info(&text)
}

/// Whether there is anything for a reader beside the announcements of files.
fn has_messages(compiled: &Compiled) -> bool {
    let is_message = |line: &[u8]| !line.is_empty() && !line.starts_with(ARTIFACT);
    !compiled.stdout.is_empty() || compiled.stderr.split(|&byte| byte == b'\n').any(is_message)
}
