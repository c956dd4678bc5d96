//! What gcc needs besides its driver: the passes, an assembler, specs.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use super::{discover::DiscoverError, gather::Gather, locale, walk::path_of};

/// The compilers proper of the languages that are distributed: C, C++, Objective-C, Objective-C++.
const PASSES: [&str; 4] = ["cc1", "cc1plus", "cc1obj", "cc1objplus"];

/// Gathers what this gcc runs and reads for `-c` and `-S`.
pub(super) fn gather(gather: &mut Gather<'_>) -> Result<(), DiscoverError> {
    let mut passes = 0;
    for pass in PASSES {
        if let Some(path) = answered_path(gather, &format!("-print-prog-name={pass}"))? {
            gather.add_program(&path)?;
            passes += 1;
            if let Some(directory) = path.parent() {
                gather.add_directory(directory)?;
            }
        }
    }
    if passes == 0 {
        return Err(DiscoverError::ToolMissing { compiler: gather.program.to_owned(), tool: "cc1" });
    }
    if !add_tool(gather, "as")? {
        return Err(DiscoverError::ToolMissing { compiler: gather.program.to_owned(), tool: "as" });
    }
    // Only `-gsplit-dwarf` runs it.
    add_tool(gather, "objcopy")?;
    if let Some(specs) = answered_path(gather, "-print-file-name=specs")? {
        gather.add_file(&specs)?;
    }
    // The driver asks whether its library directory exists; where passes live elsewhere nothing else makes it.
    if let Some(include) = answered_path(gather, "-print-file-name=include")?
        && let Some(library) = include.parent()
    {
        gather.add_directory(library)?;
    }
    for file in locale::UTF8_FILES {
        gather.add_if_present(Path::new(file))?;
    }
    Ok(())
}

/// The path in gcc's answer; it repeats the bare name for what it does not have.
pub(super) fn answered_path(
    gather: &mut Gather<'_>,
    question: &str,
) -> Result<Option<PathBuf>, DiscoverError> {
    let answer = gather.ask(&[question])?;
    let path = answer.line().map(path_of).filter(|path| path.is_absolute());
    Ok(match path {
        Some(path) => match path.try_exists() {
            Ok(true) => Some(path),
            Ok(false) => None,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(DiscoverError::io(&path, &error)),
        },
        None => None,
    })
}

/// Takes along a program of binutils: gcc's own, or the one in `PATH`.
pub(super) fn add_tool(gather: &mut Gather<'_>, tool: &'static str) -> Result<bool, DiscoverError> {
    if let Some(own) = answered_path(gather, &format!("-print-prog-name={tool}"))? {
        gather.add_program(&own)?;
        return Ok(true);
    }
    Ok(gather.add_from_search_path(OsStr::new(tool))?.is_some())
}
