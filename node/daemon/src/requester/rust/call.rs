//! A call of rustc with the tools that it uses.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use barn_compilers::{
    Environment, RustCompile,
    rustc::{RustFile, RustOutput},
};
use barn_protocol::{Action, TreePath, action::Output, canonical::Canonical, keys::domain};
use barn_wrapper::messages::{Manner, Request};

use crate::{
    requester::{Target, call::output_paths, inputs::Unknown, obstacle::Obstacle},
    toolchain::tools::{self, LinkCall, ToolError, Tools},
};

/// A compile of a crate that can be cached.
#[derive(Debug)]
pub(in crate::requester) struct RustCall {
    /// The user's command line.
    pub(super) argv: Vec<Vec<u8>>,
    /// The program it means, which may be rustup's proxy.
    pub(super) program: PathBuf,
    pub(super) cwd: PathBuf,
    pub(super) env: Environment,
    pub(super) compile: RustCompile,
    /// The action, but for what is known only when rustc has run.
    pub(super) stem: Action,
    /// Directories whose libraries are pinned with the linker.
    pub(super) pinned: Vec<PathBuf>,
}

impl RustCall {
    pub(super) fn source_path(&self) -> PathBuf {
        self.path(&self.compile.source)
    }

    pub(super) fn crate_name(&self) -> String {
        String::from_utf8_lossy(&self.compile.crate_name).into_owned()
    }

    /// A path of the command line as an absolute one.
    pub(super) fn path(&self, named: &[u8]) -> PathBuf {
        self.cwd.join(OsStr::from_bytes(named))
    }

    /// The directory of the package, which cargo tells.
    pub(super) fn package(&self) -> Option<PathBuf> {
        let directory = self.env.get(b"CARGO_MANIFEST_DIR".as_slice())?;
        Some(self.path(directory))
    }

    pub(super) fn is_clippy(&self) -> bool {
        self.program.file_name() == Some(OsStr::new("clippy-driver"))
    }

    /// Where the outputs go.
    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |output: &RustOutput| Target {
            name: output.path.clone(),
            manner: match output.kind {
                RustFile::List => Manner::InPlace,
                RustFile::Library => Manner::Anew,
                RustFile::Program => Manner::Program,
            },
        };
        self.compile.outputs.iter().map(target).collect()
    }

    /// The digest of the compiler and the linker as they are now.
    pub(super) fn tools_now(&self, tools: &Tools) -> Option<barn_protocol::Digest> {
        let used = used(tools, &self.program, &self.cwd, &self.env, &self.compile).ok()?;
        Some(used.digest)
    }
}

/// Understands a call of rustc: looks at its tools.
pub(in crate::requester) fn understand_rust(
    request: &Request,
    program: PathBuf,
    compile: RustCompile,
    env: Environment,
    tools: &Tools,
) -> Result<RustCall, Unknown> {
    let cwd = PathBuf::from(OsString::from_vec(request.cwd.clone()));
    let used = used(tools, &program, &cwd, &env, &compile)?;
    let names: Vec<_> = compile.outputs.iter().map(|output| output.path.clone()).collect();
    let paths = output_paths(&names, &cwd)?;
    let outputs = paths.into_iter().map(|path| Output { path, optional: false }).collect();
    let odd = |what: &Path| {
        Unknown::because(Obstacle::Layout, format_args!("{} cannot be laid out elsewhere", what.display()))
    };
    let tree_path = |path: &Path| TreePath::new(path.as_os_str().as_bytes()).map_err(|_| odd(path));
    let stem = Action {
        toolchain: used.digest,
        program: tree_path(&used.program)?,
        argv: [&[used.program.as_os_str().as_bytes().to_vec()][..], &compile.key_args].concat(),
        env: compile.env.clone(),
        cwd: tree_path(&cwd)?,
        inputs: Arc::default(),
        outputs,
    };
    Ok(RustCall { argv: request.argv.clone(), program, cwd, env, compile, stem, pinned: used.pinned })
}

/// The compiler that a program called here is.
pub(super) fn rust_tool(program: PathBuf, cwd: &[u8], env: &Environment) -> tools::RustCall {
    let rustups =
        |(name, _): &(&Vec<u8>, &Vec<u8>)| name.starts_with(b"RUSTUP_") || name.as_slice() == b"HOME";
    tools::RustCall {
        program,
        search_path: env
            .get(b"PATH".as_slice())
            .map_or_else(OsString::new, |path| OsString::from_vec(path.clone())),
        cwd: PathBuf::from(OsString::from_vec(cwd.to_vec())),
        rustup: env.iter().filter(rustups).map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// The tools of a call.
struct Used {
    digest: barn_protocol::Digest,
    program: PathBuf,
    pinned: Vec<PathBuf>,
}

fn used(
    tools: &Tools,
    program: &Path,
    cwd: &Path,
    env: &Environment,
    compile: &RustCompile,
) -> Result<Used, Unknown> {
    let rust = rust_tool(program.to_owned(), cwd.as_os_str().as_bytes(), env);
    let search_path = rust.search_path.clone();
    let rust =
        tools.rust(&rust).map_err(|error: ToolError| Unknown::because(Obstacle::RustCompiler, error))?;
    let mut digest = Canonical::new(domain::RUST_TOOLS);
    digest.digest(&rust.digest).number(u64::from(compile.linker.is_some()));
    let mut pinned = Vec::new();
    if let Some(linker) = &compile.linker {
        let call = LinkCall {
            program: linker.program.clone(),
            search_path,
            cwd: cwd.to_owned(),
            uses: linker.uses.clone(),
        };
        let found = tools.linker(&call).map_err(|error| Unknown::new("linker", error))?;
        digest.digest(&found.digest);
        pinned = found.directories;
    }
    Ok(Used { digest: digest.finish(), program: rust.program, pinned })
}
