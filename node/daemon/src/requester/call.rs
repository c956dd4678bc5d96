//! From what the wrapper sent to a compile that is understood: who compiles, what, and for which outputs.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use barn_compilers::{Compile, Family, Invocation, classify, detect::guess, environment::Environment};
use barn_protocol::{Action, Tree, TreePath, action::Output};
use barn_wrapper::messages::Request;

use super::{
    files::Files,
    inputs::Unknown,
    obstacle::Obstacle,
    sight::{Look, Place, Sight},
};
use crate::toolchain::{
    Known, ToolchainIndex,
    locale::{Locales, loader_obstacle},
};

/// Largest response file read, in bytes; the expanded argv has a limit of its own.
const RESPONSE_BYTES_MAX: u64 = 4 << 20;

/// A compile that can be cached.
#[derive(Debug)]
pub struct Call {
    /// argv\[0\] as typed.
    pub argv0: Vec<u8>,
    /// The program it means.
    pub program: PathBuf,
    /// The working directory.
    pub cwd: PathBuf,
    /// The whole environment, for programs run here.
    pub env: Environment,
    /// What the command line says.
    pub compile: Compile,
    /// The action, but for its inputs.
    pub stem: Action,
    /// Where the user wants the outputs, in the order of the action's.
    pub output_names: Vec<Vec<u8>>,
    /// Why it runs here only, if so.
    pub cache_only: Option<String>,
}

/// What a call turned out to be.
pub(super) enum Understood {
    /// A compile that can be cached.
    Call(Box<Call>),
    /// No compile.
    Other(&'static str),
    /// A compile that cannot be cached.
    Local(Unknown),
}

impl Call {
    /// The source as an absolute path.
    pub fn source_path(&self) -> PathBuf {
        self.cwd.join(OsStr::from_bytes(&self.compile.source))
    }

    /// The source as written.
    pub fn source_name(&self) -> String {
        String::from_utf8_lossy(&self.compile.source).into_owned()
    }

    /// The language as counted.
    pub fn language(&self) -> &'static str {
        self.compile.language.name()
    }

    /// The `PATH` it is called with.
    pub fn search_path(&self) -> OsString {
        search_path(&self.env)
    }

    /// Whether it may run on another machine.
    pub fn may_travel(&self) -> bool {
        self.cache_only.is_none()
    }
}

/// Understands a call. Looks at files; runs a program only when a compiler is seen for the first time.
pub(super) fn understand(request: &Request, toolchains: &ToolchainIndex, locales: &Locales) -> Understood {
    match try_understand(request, toolchains, locales) {
        Ok(understood) => understood,
        Err(reason) => Understood::Local(reason),
    }
}

fn try_understand(
    request: &Request,
    toolchains: &ToolchainIndex,
    locales: &Locales,
) -> Result<Understood, Unknown> {
    let argv0 = request
        .argv
        .first()
        .ok_or_else(|| Unknown::because(Obstacle::MalformedArguments, "the call is empty"))?;
    let env: Environment = request.env.iter().cloned().collect();
    let program = path(&request.program);
    let cwd = path(&request.cwd);
    let family = family_of(argv0, &program, || {
        known(toolchains, &program.components().collect::<PathBuf>(), &env).map(|known| known.identity.family)
    })?;
    let args = request.argv[1..].to_vec();
    let invocation = classify(
        &barn_compilers::Request {
            family,
            program_name: argv0,
            args: &args,
            env: &env,
            cwd: &request.cwd,
            pwd_names_cwd: pwd_names(&env, &cwd),
            stderr_is_terminal: request.stderr_is_terminal,
        },
        &|name: &[u8]| read_response(&cwd, name),
    );
    let local = |reason: &barn_compilers::Reason| Unknown::new(reason.kind.name(), reason);
    let (compile, cache_only) = match invocation {
        Invocation::Distributable(compile) => (*compile, None),
        Invocation::CacheOnly(compile, reason) => (*compile, Some(reason.to_string())),
        Invocation::Local(reason) => return Err(local(&reason)),
        Invocation::Other(kind) => return Ok(Understood::Other(kind.name())),
    };
    let mut call = call(request, toolchains, compile, env)?;
    call.cache_only = cache_only;
    speak(&mut call, locales);
    Ok(Understood::Call(Box::new(call)))
}

fn call(
    request: &Request,
    toolchains: &ToolchainIndex,
    compile: Compile,
    env: Environment,
) -> Result<Call, Unknown> {
    // Without the `.` of a `./cc`; a `..` stays, for it may lead over a link.
    let program: PathBuf = path(&request.program).components().collect();
    let cwd = path(&request.cwd);
    let known = known(toolchains, &program, &env)?;
    if known.identity.family != compile.family {
        return Err(Unknown::because(
            Obstacle::CompilerIdentity,
            format_args!("{} is not what its name says", program.display()),
        ));
    }
    if let Some(variable) = loader_obstacle(&env) {
        return Err(Unknown::because(Obstacle::LoaderEnvironment, format_args!("{variable} is set")));
    }
    let (outputs, output_names) = outputs(&compile, &cwd)?;
    let odd = |what: &str, bytes: &[u8]| {
        Unknown::because(
            Obstacle::Layout,
            format_args!("{what} {} cannot be laid out elsewhere", String::from_utf8_lossy(bytes)),
        )
    };
    let argv0 = request.argv.first().cloned().unwrap_or_default();
    let mut argv = vec![argv0.clone()];
    argv.extend(compile.argv.iter().cloned());
    let stem = Action {
        toolchain: known.digest,
        program: TreePath::new(program.as_os_str().as_bytes())
            .map_err(|_| odd("program", &request.program))?,
        argv,
        env: compile.env.clone(),
        cwd: TreePath::new(request.cwd.clone()).map_err(|_| odd("directory", &request.cwd))?,
        inputs: Tree::new(),
        outputs,
    };
    Ok(Call { argv0, program, cwd, env, compile, stem, output_names, cache_only: None })
}

/// The toolchain of a compiler by a path without `.`.
fn known(toolchains: &ToolchainIndex, program: &Path, env: &Environment) -> Result<Arc<Known>, Unknown> {
    toolchains
        .resolve(program, &search_path(env))
        .map_err(|error| Unknown::new(error.name(), format_args!("{}: {error}", program.display())))
}

/// Sets the locale under which the action speaks as the user's does, or keeps it here.
fn speak(call: &mut Call, locales: &Locales) {
    match locales.elsewhere(call.compile.family, &call.program, &call.env) {
        Ok(elsewhere) => elsewhere.apply(&mut call.stem.env),
        Err(error) => {
            call.cache_only.get_or_insert_with(|| error.to_string());
        }
    }
}

/// The family by the name that was typed, looked through links where that says nothing; wrappers of others are
/// told apart by what the program really is. What is really called `cc` is `asked`.
fn family_of(
    argv0: &[u8],
    program: &Path,
    asked: impl FnOnce() -> Result<Family, Unknown>,
) -> Result<Family, Unknown> {
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let real_family = guess(real.as_os_str().as_bytes()).family;
    if let Family::Wrapper(kind) = real_family {
        return Err(Unknown::because(
            Obstacle::CompilerWrapper,
            format_args!("{} is {kind:?}", program.display()),
        ));
    }
    match guess(argv0).family {
        Family::Cc | Family::Unknown if real_family == Family::Cc => asked(),
        Family::Cc | Family::Unknown => Ok(real_family),
        named => Ok(named),
    }
}

/// Where the action writes, without links on the way, and what the user calls it.
fn outputs(compile: &Compile, cwd: &Path) -> Result<(Vec<Output>, Vec<Vec<u8>>), Unknown> {
    let (sight, files) = (Sight::default(), Files::default());
    let mut look = Look::new(&sight, &files, cwd);
    let main = compile.output.iter().map(|path| (path, false));
    let sides = compile.side_outputs.iter().map(|side| (&side.path, side.optional));
    let (mut outputs, mut names) = (Vec::new(), Vec::new());
    for (name, optional) in main.chain(sides) {
        outputs.push(Output { path: output_path(&mut look, cwd, name)?, optional });
        names.push(name.clone());
    }
    if outputs.is_empty() {
        return Err(Unknown::because(Obstacle::NoOutput, "the compile writes nothing"));
    }
    Ok((outputs, names))
}

fn output_path(look: &mut Look<'_>, cwd: &Path, name: &[u8]) -> Result<TreePath, Unknown> {
    let shown = String::from_utf8_lossy(name);
    let whole = cwd.join(OsStr::from_bytes(name));
    let (Some(directory), Some(file)) = (whole.parent(), whole.file_name()) else {
        return Err(Unknown::because(Obstacle::OutputName, format_args!("{shown} is no file name")));
    };
    let missing = |_| {
        Unknown::because(Obstacle::OutputDirectory, format_args!("the directory of {shown} is not there"))
    };
    let found = look.at(directory.as_os_str().as_bytes()).map_err(missing)?;
    let Place::Directory(directory) = found else {
        return Err(Unknown::because(Obstacle::OutputDirectory, format_args!("{shown} is in no directory")));
    };
    if fs::metadata(&whole).is_ok_and(|meta| !meta.is_file()) {
        return Err(Unknown::because(Obstacle::SpecialOutput, format_args!("{shown} is no regular file")));
    }
    let odd = || Unknown::because(Obstacle::Layout, format_args!("{shown} cannot be laid out elsewhere"));
    let real = TreePath::new(look.directory_path(directory)).map_err(|_| odd())?;
    real.child(file.as_bytes()).map_err(|_| odd())
}

/// Whether `PWD` is an absolute name of the working directory; compilers then record it.
fn pwd_names(env: &Environment, cwd: &Path) -> bool {
    let Some(pwd) = env.get(b"PWD".as_slice()).filter(|pwd| pwd.first() == Some(&b'/')) else { return false };
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let named = id(Path::new(OsStr::from_bytes(pwd)));
    named.is_some() && named == id(cwd)
}

fn read_response(cwd: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let path = cwd.join(OsStr::from_bytes(name));
    let meta = fs::metadata(&path).ok()?;
    (meta.is_file() && meta.len() <= RESPONSE_BYTES_MAX).then(|| fs::read(&path).ok())?
}

fn search_path(env: &Environment) -> OsString {
    env.get(b"PATH".as_slice()).map_or_else(OsString::new, |path| OsString::from_vec(path.clone()))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
