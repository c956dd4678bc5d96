//! Where a compiler puts what it writes.
//!
//! gcc 12 and clang 14 agree on this rule, which `tests/real.rs` holds them to: the output's name without
//! its last suffix, or, without `-o`, the source's last component without its last suffix, in the
//! working directory. They part over names such as `.o` and `.hidden`, whose only dot comes first;
//! those are [`ReasonKind::OutputName`] if a name has to be derived from them.

use crate::compile::{Depfile, Mode, SideKind, SideOutput};
use crate::detect::Family;
use crate::parse::Parsed;
use crate::reason::{Reason, ReasonKind};

/// Everything one compile writes.
pub(crate) struct Outputs {
    pub(crate) main: Option<Vec<u8>>,
    pub(crate) sides: Vec<SideOutput>,
    pub(crate) depfile: Option<Depfile>,
}

/// Names all outputs, or says why they cannot be named.
pub(crate) fn outputs(family: Family, parsed: &Parsed, mode: Mode, source: &[u8]) -> Result<Outputs, Reason> {
    if parsed.outputs.len() > 1 {
        return Err(Reason::new(ReasonKind::RepeatedOutput, parsed.outputs[1].clone()));
    }
    let named = parsed.outputs.first();
    if let Some(path) = named.filter(|path| is_special(path)) {
        return Err(Reason::new(ReasonKind::SpecialOutput, path.clone()));
    }
    let base = named.map_or_else(|| base_name(source), Vec::as_slice);
    let main = match mode {
        Mode::Syntax => None,
        _ => Some(named.cloned().map_or_else(|| default_output(parsed, mode, base), Ok)?),
    };
    let depfile = depfile(parsed, base)?;
    let mut sides: Vec<SideOutput> = depfile
        .iter()
        .filter_map(|depfile| depfile.path.clone())
        .map(|path| SideOutput { kind: SideKind::Depfile, path, optional: false })
        .collect();
    for &kind in &parsed.sides {
        sides.push(side(family, kind, mode, base)?);
    }
    if let Some(path) = &parsed.diagnostics {
        check_path(path)?;
        sides.push(SideOutput { kind: SideKind::Diagnostics, path: path.clone(), optional: true });
    }
    Ok(Outputs { main, sides, depfile })
}

/// Whether an output named so is not a plain file that can be written beside and renamed.
pub(crate) fn is_special(path: &[u8]) -> bool {
    path.is_empty()
        || path == b"-"
        || path.ends_with(b"/")
        || path.starts_with(b"/dev/")
        || path.starts_with(b"/proc/")
}

fn default_output(parsed: &Parsed, mode: Mode, base: &[u8]) -> Result<Vec<u8>, Reason> {
    let suffix = match (mode, parsed.emit_llvm) {
        (Mode::Assembly, false) => "s",
        (Mode::Assembly, true) => "ll",
        (_, false) => "o",
        (_, true) => "bc",
    };
    derived(base, suffix)
}

fn depfile(parsed: &Parsed, base: &[u8]) -> Result<Option<Depfile>, Reason> {
    let Some(system_headers) = parsed.depfile else {
        return Ok(None);
    };
    let path = match &parsed.depfile_path {
        Some(path) if path == b"/dev/null" => None,
        Some(path) => {
            check_path(path)?;
            Some(path.clone())
        }
        None => Some(derived(base, "d")?),
    };
    Ok(Some(Depfile { path, system_headers }))
}

fn side(family: Family, kind: SideKind, mode: Mode, base: &[u8]) -> Result<SideOutput, Reason> {
    let suffix = kind.suffix().unwrap_or_default();
    let kept = match kind {
        // With -S, gcc splits nothing and clang names the file after the source.
        SideKind::SplitDwarf => mode == Mode::Object,
        _ => mode != Mode::Syntax,
    };
    if !kept || (kind == SideKind::CallGraph && family != Family::Gcc) {
        return Err(Reason::new(ReasonKind::ExtraOutputFile, suffix.as_bytes()));
    }
    // Whether there is anything to write depends on other flags: no debug information, no functions.
    Ok(SideOutput { kind, path: derived(base, suffix)?, optional: true })
}

fn check_path(path: &[u8]) -> Result<(), Reason> {
    if is_special(path) {
        return Err(Reason::new(ReasonKind::SpecialOutput, path));
    }
    Ok(())
}

/// `dir/name.old` → `dir/name.suffix`.
fn derived(path: &[u8], suffix: &str) -> Result<Vec<u8>, Reason> {
    let name = base_name(path);
    let stem = match name.iter().rposition(|&byte| byte == b'.') {
        Some(0) => return Err(Reason::new(ReasonKind::OutputName, path)),
        Some(dot) => dot,
        None if name.is_empty() => return Err(Reason::new(ReasonKind::OutputName, path)),
        None => name.len(),
    };
    let kept = path.len() - name.len() + stem;
    Ok([&path[..kept], b".", suffix.as_bytes()].concat())
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names() {
        let check = |path: &str, expect: Option<&str>| {
            let found = derived(path.as_bytes(), "d").ok();
            assert_eq!(found.as_deref(), expect.map(str::as_bytes), "{path}");
        };
        check("out/foo.o", Some("out/foo.d"));
        check("out/foo", Some("out/foo.d"));
        check("out.dir/foo", Some("out.dir/foo.d"));
        check("a.c.o", Some("a.c.d"));
        check("z4.", Some("z4.d"));
        check(".hidden.o", Some(".hidden.d"));
        check("../x.o", Some("../x.d"));
        check(".hidden", None);
        check("out/.o", None);
        check("..", Some("..d"));
        check("", None);
    }

    #[test]
    fn special_outputs() {
        for path in ["", "-", "/dev/null", "/dev/stdout", "/proc/self/fd/1", "dir/"] {
            assert!(is_special(path.as_bytes()), "{path}");
        }
        for path in ["x.o", "./-", "dev/null", "/tmp/dev/x"] {
            assert!(!is_special(path.as_bytes()), "{path}");
        }
    }
}
