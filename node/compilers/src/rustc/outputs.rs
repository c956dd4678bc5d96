//! The names of the files that rustc writes: its `OutputFilenames` and `out_filename`, for Linux.

use super::parse::Parsed;
use super::{CrateKind, RustFile, RustOutput};
use crate::reason::{Reason, ReasonKind};

/// What is written.
pub(super) struct Outputs {
    pub(super) outputs: Vec<RustOutput>,
    /// Which one is the dependency list.
    pub(super) dep_info: usize,
    /// What the crate is made into; nothing if only metadata is written.
    pub(super) kinds: Vec<CrateKind>,
}

/// The outputs of a call.
///
/// # Errors
/// When the source decides, when no dependency list is written, or something is that is not known here.
pub(super) fn outputs(parsed: &Parsed) -> Result<Outputs, Reason> {
    let Some(name) = &parsed.crate_name else {
        return Err(Reason::new(ReasonKind::CrateOutputs, *b"--crate-name"));
    };
    let mut kinds = kinds(parsed)?;
    let mut found = Outputs { outputs: Vec::new(), dep_info: usize::MAX, kinds: Vec::new() };
    for (emit, path) in &parsed.emits {
        if path.as_ref().is_some_and(|path| path == b"-" || path.is_empty()) {
            return Err(Reason::new(ReasonKind::SpecialOutput, emit.clone()));
        }
        let named = |prefix: &[u8], suffix: &[u8]| {
            path.clone()
                .unwrap_or_else(|| in_directory(parsed, &[prefix, name, &parsed.extra_filename, suffix]))
        };
        match emit.as_slice() {
            b"dep-info" => found.dep_info = found.add(named(b"", b".d"), RustFile::List),
            b"metadata" => drop(found.add(named(b"lib", b".rmeta"), RustFile::Library)),
            b"link" if path.is_some() && kinds.len() > 1 => {
                return Err(Reason::new(ReasonKind::CrateOutputs, emit.clone()));
            }
            b"link" => {
                found.kinds = std::mem::take(&mut kinds);
                for kind in found.kinds.clone() {
                    let (prefix, suffix) = affixes(kind);
                    let file = if kind.is_linked() { RustFile::Program } else { RustFile::Library };
                    found.add(named(prefix, suffix), file);
                }
            }
            _ => return Err(Reason::new(ReasonKind::ExtraOutputFile, [b"--emit=", &emit[..]].concat())),
        }
    }
    if found.dep_info == usize::MAX {
        return Err(ReasonKind::NoDependencyList.into());
    }
    Ok(found)
}

impl Outputs {
    /// Adds a path, once; its index.
    fn add(&mut self, path: Vec<u8>, kind: RustFile) -> usize {
        if let Some(at) = self.outputs.iter().position(|output| output.path == path) {
            return at;
        }
        self.outputs.push(RustOutput { path, kind });
        self.outputs.len() - 1
    }
}

fn kinds(parsed: &Parsed) -> Result<Vec<CrateKind>, Reason> {
    if parsed.test {
        return Ok(vec![CrateKind::Test]);
    }
    if parsed.crate_types.is_empty() {
        return Err(Reason::new(ReasonKind::CrateOutputs, *b"--crate-type"));
    }
    parsed
        .crate_types
        .iter()
        .map(|kind| match kind.as_slice() {
            b"bin" => Ok(CrateKind::Bin),
            b"lib" | b"rlib" => Ok(CrateKind::Rlib),
            b"dylib" => Ok(CrateKind::Dylib),
            b"cdylib" => Ok(CrateKind::Cdylib),
            b"staticlib" => Ok(CrateKind::Staticlib),
            b"proc-macro" => Ok(CrateKind::ProcMacro),
            other => Err(Reason::new(ReasonKind::UnknownFlag, other)),
        })
        .collect()
}

fn affixes(kind: CrateKind) -> (&'static [u8], &'static [u8]) {
    match kind {
        CrateKind::Bin | CrateKind::Test => (b"", b""),
        CrateKind::Rlib => (b"lib", b".rlib"),
        CrateKind::Dylib | CrateKind::Cdylib | CrateKind::ProcMacro => (b"lib", b".so"),
        CrateKind::Staticlib => (b"lib", b".a"),
    }
}

fn in_directory(parsed: &Parsed, name: &[&[u8]]) -> Vec<u8> {
    let name = name.concat();
    match &parsed.out_dir {
        Some(directory) if directory.ends_with(b"/") => [directory, name.as_slice()].concat(),
        Some(directory) => [directory, b"/".as_slice(), &name].concat(),
        None => name,
    }
}
