//! Finds everything a compiler needs, by asking the compiler.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use barn_compilers::{CompilerIdentity, Family, Probe, WrapperKind, guess, parse_probe};
use barn_protocol::{
    digest::Digest,
    path::{TreePath, TreePathError},
    toolchain::Toolchain,
    tree::TreeError,
};

use super::{
    clang,
    elf::ElfError,
    gather::Gather,
    gcc,
    stamp::{self, Stamp, Witnesses},
    sysroot,
};

/// A compiler and all it needs, found on this machine.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// The files by digest, with the links that lead to them.
    pub toolchain: Toolchain,
    /// Each file of the tree with its place on this machine.
    pub files: Vec<(TreePath, PathBuf)>,
    /// What the compiler says of itself.
    pub identity: CompilerIdentity,
}

/// Why a compiler cannot be taken along; its compiles are local.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiscoverError {
    /// Only absolute paths mean the same everywhere.
    #[error("compiler {0} is not an absolute path")]
    NotAbsolute(PathBuf),
    /// A script, or no program for a known machine.
    #[error("{path} {error}")]
    Program {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        error: ElfError,
    },
    /// Another tool that runs the compiler.
    #[error("{path} is {kind}, which runs the compiler itself")]
    Wrapper {
        /// The wrapper's real path.
        path: PathBuf,
        /// Which one.
        kind: WrapperKind,
    },
    /// It did not answer as gcc or clang do.
    #[error("{0} is neither gcc nor clang")]
    UnknownCompiler(PathBuf),
    /// A question to it failed.
    #[error("{program} {question}: {reason}")]
    Probe {
        /// The compiler.
        program: PathBuf,
        /// The arguments it was run with.
        question: String,
        /// What went wrong.
        reason: String,
    },
    /// A program that it runs is not installed.
    #[error("{compiler} has no {tool}")]
    ToolMissing {
        /// The compiler.
        compiler: PathBuf,
        /// What it lacks.
        tool: &'static str,
    },
    /// A program cannot start on this machine either.
    #[error("{program} needs library {library}, which is missing")]
    LibraryMissing {
        /// The program.
        program: PathBuf,
        /// The library's name.
        library: String,
    },
    /// The dynamic loader did not list a program's libraries.
    #[error("the loader of {0} lists no libraries")]
    LoaderSilent(PathBuf),
    /// Two programs need different libraries of one name.
    #[error("two different libraries would have to lie at {0}")]
    LibraryClash(PathBuf),
    /// The assembler is looked for in a relative directory first.
    #[error("PATH has a relative directory before the one with the assembler")]
    RelativeSearchPath,
    /// Its headers and libraries are over the limits.
    #[error("sysroot has more than {files} files or {bytes} bytes, at {0}", files = sysroot::FILES_MAX, bytes = sysroot::BYTES_MAX)]
    SysrootTooLarge(PathBuf),
    /// Only gcc's sysroot is known.
    #[error("{0} is no gcc, and only gcc can be packed with its sysroot")]
    SysrootFamily(PathBuf),
    /// A personal configuration file, or one that includes others.
    #[error("clang configuration file {0} cannot be taken along")]
    Configuration(PathBuf),
    /// A directory or device in a file's place.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// A path that no tree can hold.
    #[error("{path}: {error}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        error: TreePathError,
    },
    /// The files do not fit in a tree.
    #[error("toolchain does not fit in a tree: {0}")]
    Tree(#[from] TreeError),
    /// The file system refused.
    #[error("{path}: {reason}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// Whether there was nothing at the path.
        absent: bool,
    },
    /// Files changed while they were looked at, as during an upgrade.
    #[error("{0} is being changed")]
    Changing(PathBuf),
}

impl DiscoverError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::ResourceBusy {
            return Self::Changing(path.to_owned());
        }
        Self::Io { path: path.to_owned(), reason: error.to_string(), absent: stamp::is_absent(error) }
    }

    /// A short stable name to count by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotAbsolute(_) => "compiler-path",
            Self::Program { error: ElfError::Script, .. } => "compiler-is-script",
            Self::Wrapper { .. } => "compiler-is-wrapper",
            Self::Program { .. } | Self::UnknownCompiler(_) => "unknown-compiler",
            Self::ToolMissing { .. } | Self::LibraryMissing { .. } | Self::NotAFile(_) => {
                "compiler-incomplete"
            }
            Self::LoaderSilent(_) | Self::LibraryClash(_) => "compiler-libraries",
            Self::RelativeSearchPath => "relative-search-path",
            Self::Configuration(_) => "compiler-configuration",
            Self::SysrootTooLarge(_) | Self::SysrootFamily(_) => "compiler-sysroot",
            Self::Path { .. } | Self::Tree(_) => "compiler-path",
            Self::Probe { .. } | Self::Io { .. } | Self::Changing(_) => "compiler-unreadable",
        }
    }

    /// Whether the answer will be the same as long as no file changes. A timeout or a full process table pass.
    pub(super) fn is_lasting(&self) -> bool {
        !matches!(self, Self::Probe { .. } | Self::Io { absent: false, .. } | Self::Changing(_))
    }
}

/// Finds all that the compiler at `program` needs, where `search_path` is the `PATH` it is called with. Runs the
/// compiler and the dynamic loader some twenty times and reads every file: 0.1 to 1 s.
///
/// # Errors
/// When it cannot be taken along; see [`DiscoverError`].
pub fn discover(program: &Path, search_path: &OsStr) -> Result<Discovered, DiscoverError> {
    look(program, search_path, stamp::digest_file).0
}

/// Like [`discover()`], and what is needed to compile and link C and C++ on a machine with neither compiler nor headers:
/// see `docs/toolchains.md`, "With a sysroot". Takes about a second.
///
/// # Errors
/// Also when it is no gcc, when the C library's start-up files are not installed, and when there is too much.
pub fn discover_with_sysroot(program: &Path, search_path: &OsStr) -> Result<Discovered, DiscoverError> {
    let mut gather = Gather::new(program, search_path);
    let (identity, machine) = survey(&mut gather)?;
    if identity.family != Family::Gcc {
        return Err(DiscoverError::SysrootFamily(program.to_owned()));
    }
    sysroot::gather(&mut gather)?;
    let target = identity.target.as_deref().unwrap_or(machine);
    let name = format!("{}+sysroot {} {target}", identity.family, identity.version);
    let (toolchain, files) = gather.finish(name, machine, stamp::digest_file)?;
    Ok(Discovered { toolchain, files, identity })
}

/// Like [`discover()`], with a source of digests, and with everything that was looked at, success or not.
pub(super) fn look(
    program: &Path,
    search_path: &OsStr,
    digest: impl FnMut(&Path) -> io::Result<(Stamp, Digest)>,
) -> (Result<Discovered, DiscoverError>, Witnesses) {
    let mut gather = Gather::new(program, search_path);
    let found = survey(&mut gather).and_then(|(identity, machine)| {
        let name = toolchain_name(&identity, machine);
        let (toolchain, files) = gather.finish(name, machine, digest)?;
        Ok(Discovered { toolchain, files, identity })
    });
    (found, gather.seen)
}

fn survey(gather: &mut Gather<'_>) -> Result<(CompilerIdentity, &'static str), DiscoverError> {
    if !gather.program.is_absolute() {
        return Err(DiscoverError::NotAbsolute(gather.program.to_owned()));
    }
    let real = gather.resolve(gather.program)?;
    gather.note(&real)?;
    // Before anything is run: ccache under the name of gcc would answer as gcc does.
    if let Family::Wrapper(kind) = guess(real.as_os_str().as_bytes()).family {
        return Err(DiscoverError::Wrapper { path: real, kind });
    }
    let machine = gather.add_program(gather.program)?.machine;
    let version = gather.ask(&["-v"])?;
    let identity = match parse_probe(&[version.stdout.as_slice(), &version.stderr].concat()) {
        Probe::Compiler(identity) => identity,
        Probe::Wrapper(kind) => return Err(DiscoverError::Wrapper { path: real, kind }),
        Probe::Unknown => return Err(DiscoverError::UnknownCompiler(real)),
    };
    match identity.family {
        Family::Gcc => gcc::gather(gather)?,
        Family::Clang => clang::gather(gather, &version, &real)?,
        _ => return Err(DiscoverError::UnknownCompiler(real)),
    }
    Ok((identity, machine))
}

fn toolchain_name(identity: &CompilerIdentity, machine: &str) -> String {
    let target = identity.target.as_deref().unwrap_or(machine);
    format!("{} {} {target}", identity.family, identity.version)
}
