//! From what the wrapper sent to a compile that is understood: who compiles, what, and for which outputs.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

use barn_compilers::{
    Compile, Family, Invocation, OtherKind, Shown, classify, detect::guess, environment::Environment,
};
use barn_protocol::{Action, Digest, TreePath, action::Output, keys::stand_in_source};
use barn_wrapper::messages::{Manner, Request};

use super::{
    Target,
    files::Files,
    inputs::Unknown,
    obstacle::Obstacle,
    portable::{self, Portable, project::Project},
    rust::{Question, RustCall, understand_question, understand_rust},
    sight::{Look, Place, Sight},
};
use crate::toolchain::{
    Known, ToolchainIndex,
    library_path::library_path_obstacle,
    locale::{Locales, loader_obstacle},
    stand_in::{StandIn, StandIns},
    tools::Tools,
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
    /// Directories for which the stem has no flags, since they are not there.
    pub left_out: Vec<Vec<u8>>,
    /// The stem's arguments without those for the user's terminal, if there are any that leave no trace in files.
    plain_argv: Option<Vec<Vec<u8>>>,
    /// Where the user wants the outputs, in the order of the action's.
    pub output_names: Vec<Vec<u8>>,
    /// Why it runs here only, if so.
    pub cache_only: Option<String>,
    /// The archive's compiler that runs elsewhere in the place of `program`.
    pub stand_in: Option<StandIn>,
    /// When it came.
    pub arrived: Instant,
    /// What the project's own settings say.
    pub(super) project: Project,
    /// What is the same in every checkout of the project; asked for when this one's own look-up found nothing.
    portable: OnceLock<Result<Portable, String>>,
}

/// What a call turned out to be.
pub(super) enum Understood {
    /// A compile that can be cached.
    Call(Box<Call>),
    /// A compile of a Rust crate that can be cached.
    Rust(Box<RustCall>),
    /// A question to the Rust compiler whose answer is remembered.
    Question(Box<Question>),
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

    /// The arguments that matter, without `argv[0]` and those for the user's terminal that leave no trace in files.
    pub(super) fn plain_args(&self) -> &[Vec<u8>] {
        let argv = self.plain_argv.as_ref().unwrap_or(&self.stem.argv);
        argv.get(1..).unwrap_or_default()
    }

    /// Whether a result made for [`Call::plain_args`] serves only if the compiler said nothing.
    pub(super) fn has_plain_form(&self) -> bool {
        self.plain_argv.is_some()
    }

    /// What is the same in every checkout; why a result may show where it was made, if it may.
    pub(super) fn portable(&self) -> Result<&Portable, String> {
        self.portable.get_or_init(|| Portable::of(self)).as_ref().map_err(Clone::clone)
    }

    /// The source as written.
    pub fn source_name(&self) -> String {
        String::from_utf8_lossy(&self.compile.source).into_owned()
    }

    /// The language as counted.
    pub fn language(&self) -> &'static str {
        self.compile.language.name()
    }

    /// Where the outputs go.
    pub fn targets(&self) -> Vec<Target> {
        let target = |name: &Vec<u8>| Target { name: name.clone(), manner: Manner::InPlace };
        self.output_names.iter().map(target).collect()
    }

    /// The `PATH` it is called with.
    pub fn search_path(&self) -> OsString {
        search_path(&self.env)
    }

    /// Whether it may run on another machine.
    pub fn may_travel(&self) -> bool {
        self.cache_only.is_none()
    }

    /// Whether what `program` writes here is what the action stands for.
    pub fn may_be_kept(&self) -> bool {
        self.stand_in.is_none()
    }

    /// The command line of a run here.
    pub fn own_argv(&self) -> Vec<Vec<u8>> {
        [std::slice::from_ref(&self.argv0), &self.compile.argv].concat()
    }

    /// The stem of the same compile for a standard error that is no terminal, if that is another one: it makes the same
    /// files, and what it says, if it says anything, is neither coloured nor wrapped.
    pub fn plain_stem(&self) -> Option<Action> {
        let argv = self.plain_argv.clone()?;
        Some(Action { argv, ..self.stem.clone() })
    }

    /// Tells the compiler that is asked for macros and directories, `program`, from all others.
    pub fn asked(&self) -> Digest {
        self.stand_in.as_ref().map_or(self.stem.toolchain, |stand_in| stand_in.own)
    }

    /// Under which name of the source its manifests are found: what includes what depends on the compiler that is
    /// asked, and the stem does not tell it when another one stands in.
    pub fn manifest_source(&self, source: Digest) -> Digest {
        match &self.stand_in {
            Some(stand_in) => stand_in_source(&stand_in.own, &source),
            None => source,
        }
    }
}

/// The compilers of this machine, and what stands in for them.
#[derive(Clone, Copy)]
pub(super) struct Compilers<'a> {
    pub(super) toolchains: &'a ToolchainIndex,
    pub(super) stand_ins: &'a StandIns,
    pub(super) locales: &'a Locales,
    pub(super) tools: &'a Tools,
}

/// Understands a call. Looks at files; runs a program only when a compiler is seen for the first time.
pub(super) fn understand(request: &Request, compilers: Compilers<'_>) -> Understood {
    match try_understand(request, compilers) {
        Ok(understood) => understood,
        Err(reason) => Understood::Local(reason),
    }
}

fn try_understand(request: &Request, compilers: Compilers<'_>) -> Result<Understood, Unknown> {
    let argv0 = request
        .argv
        .first()
        .ok_or_else(|| Unknown::because(Obstacle::MalformedArguments, "the call is empty"))?;
    let env: Environment = request.env.iter().cloned().collect();
    // Without the `.` of a `./cc`; a `..` stays, for it may lead over a link.
    let program: PathBuf = path(&request.program).components().collect();
    let cwd = path(&request.cwd);
    let stand_in = stand_in(compilers.stand_ins, &program)?;
    let family = match &stand_in {
        Some(stand_in) => stand_in.family,
        None => family_of(argv0, &program, || {
            known(compilers.toolchains, &program, &env).map(|known| known.identity.family)
        })?,
    };
    let args = request.argv[1..].to_vec();
    let invocation = classify(
        &barn_compilers::Request {
            family,
            program_name: stand_in.as_ref().map_or(argv0, |stand_in| stand_in.driver.as_bytes()),
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
        Invocation::CacheOnly(_, reason) if stand_in.is_some() => return Err(local(&reason)),
        Invocation::CacheOnly(compile, reason) => (*compile, Some(reason.to_string())),
        Invocation::Rust(compile) => {
            let call = understand_rust(request, program, *compile, env, compilers.tools)?;
            return Ok(Understood::Rust(Box::new(call)));
        }
        Invocation::RustQuestion(asked) => {
            let question = understand_question(request, program, *asked, &env, compilers.tools);
            let query = Understood::Other(OtherKind::Query.name());
            return Ok(question.map_or(query, |question| Understood::Question(Box::new(question))));
        }
        Invocation::Local(reason) => return Err(local(&reason)),
        Invocation::Other(kind) => return Ok(Understood::Other(kind.name())),
    };
    if let Some(variable) = loader_obstacle(&env) {
        return Err(Unknown::because(Obstacle::LoaderEnvironment, format_args!("{variable} is set")));
    }
    let runs = match &stand_in {
        Some(_) if library_path(&env).is_some() => return Err(misled(Path::new("LD_LIBRARY_PATH"))),
        Some(stand_in) => Runs {
            toolchain: stand_in.toolchain,
            program: stand_in.driver.clone(),
            argv0: stand_in.driver.as_bytes().to_vec(),
        },
        None => itself(request, compilers.toolchains, &program, &compile, &env)?,
    };
    let mut call = call(request, program, compile, env, runs)?;
    call.cache_only = cache_only;
    call.stand_in = stand_in;
    speak(&mut call, compilers.locales)?;
    Ok(Understood::Call(Box::new(call)))
}

/// What runs on a worker.
struct Runs {
    toolchain: Digest,
    program: TreePath,
    argv0: Vec<u8>,
}

/// What stands in for a compiler; wrappers of others are no compilers.
fn stand_in(stand_ins: &StandIns, program: &Path) -> Result<Option<StandIn>, Unknown> {
    let Some(found) = stand_ins.find(program) else { return Ok(None) };
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    refuse_wrapper(program, &real)?;
    found.map(Some).map_err(|error| {
        let (wrong, hint) = error.parts();
        Unknown::because(Obstacle::StandIn, format_args!("{wrong}; hint: {hint}"))
    })
}

/// The user's own compiler.
fn itself(
    request: &Request,
    toolchains: &ToolchainIndex,
    program: &Path,
    compile: &Compile,
    env: &Environment,
) -> Result<Runs, Unknown> {
    let known = known(toolchains, program, env)?;
    if known.identity.family != compile.family {
        return Err(Unknown::because(
            Obstacle::CompilerIdentity,
            format_args!("{} is not what its name says", program.display()),
        ));
    }
    if let Some(path) = library_path(env).and_then(|value| library_path_obstacle(value, &known.toolchain)) {
        return Err(misled(&path));
    }
    Ok(Runs {
        toolchain: known.digest,
        program: TreePath::new(program.as_os_str().as_bytes())
            .map_err(|_| odd("program", &request.program))?,
        argv0: request.argv.first().cloned().unwrap_or_default(),
    })
}

/// Directories in which the loader looks first.
fn library_path(env: &Environment) -> Option<&[u8]> {
    env.get(b"LD_LIBRARY_PATH".as_slice()).map(Vec::as_slice).filter(|value| !value.is_empty())
}

/// The compiler may load other libraries than its own.
fn misled(by: &Path) -> Unknown {
    Unknown::because(Obstacle::LoaderEnvironment, format_args!("LD_LIBRARY_PATH is set: {}", by.display()))
}

fn call(
    request: &Request,
    program: PathBuf,
    mut compile: Compile,
    env: Environment,
    runs: Runs,
) -> Result<Call, Unknown> {
    let cwd = path(&request.cwd);
    let project = Project::find(&cwd, &source_directory(&cwd, &compile));
    compile.prepend(&portable::maps(&project, &cwd, &compile));
    let (outputs, output_names) = outputs(&compile, &cwd)?;
    let left_out = missing(&compile, &cwd);
    let essential = |shown| {
        let arguments = compile.essential_argv(shown, |directory| left_out.iter().any(|d| d == directory));
        [&[runs.argv0.clone()][..], &arguments].concat()
    };
    let has_plain = !compile.presentation.is_empty() && !compile.is_recorded;
    let plain_argv = has_plain.then(|| essential(Shown::Plain));
    let stem = Action {
        toolchain: runs.toolchain,
        program: runs.program,
        argv: essential(Shown::AsAsked),
        env: compile.env.clone(),
        cwd: TreePath::new(request.cwd.clone()).map_err(|_| odd("directory", &request.cwd))?,
        inputs: Arc::default(),
        outputs,
    };
    Ok(Call {
        argv0: request.argv.first().cloned().unwrap_or_default(),
        program,
        cwd,
        env,
        compile,
        stem,
        left_out,
        plain_argv,
        output_names,
        cache_only: None,
        stand_in: None,
        arrived: Instant::now(),
        project,
        portable: OnceLock::new(),
    })
}

/// The directory of the source, as it is spelled.
pub(super) fn source_directory(cwd: &Path, compile: &Compile) -> PathBuf {
    let source = cwd.join(OsStr::from_bytes(&compile.source));
    source.parent().map_or_else(|| cwd.to_owned(), Path::to_owned)
}

fn odd(what: &str, bytes: &[u8]) -> Unknown {
    Unknown::because(
        Obstacle::Layout,
        format_args!("{what} {} cannot be laid out elsewhere", String::from_utf8_lossy(bytes)),
    )
}

/// The toolchain of a compiler by a path without `.`.
fn known(toolchains: &ToolchainIndex, program: &Path, env: &Environment) -> Result<Arc<Known>, Unknown> {
    toolchains.resolve(program, &search_path(env)).map_err(|error| {
        let why = error.to_string().replace('\n', "; ");
        Unknown::new(error.name(), format_args!("{}: {why}", program.display()))
    })
}

/// Sets the locale under which the action speaks as the user's does, or keeps it here.
fn speak(call: &mut Call, locales: &Locales) -> Result<(), Unknown> {
    match locales.elsewhere(call.compile.family, &call.program, &call.env) {
        Ok(elsewhere) => elsewhere.apply(&mut call.stem.env),
        Err(error) if call.stand_in.is_some() => return Err(Unknown::because(Obstacle::StandIn, error)),
        Err(error) => {
            call.cache_only.get_or_insert_with(|| error.to_string());
        }
    }
    Ok(())
}

/// The family by the name that was typed, looked through links where that says nothing; wrappers of others are
/// told apart by what the program really is. What is really called `cc` is `asked`.
fn family_of(
    argv0: &[u8],
    program: &Path,
    asked: impl FnOnce() -> Result<Family, Unknown>,
) -> Result<Family, Unknown> {
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let real_family = refuse_wrapper(program, &real)?;
    match guess(argv0).family {
        Family::Cc | Family::Unknown if real_family == Family::Cc => asked(),
        Family::Cc | Family::Unknown => Ok(real_family),
        named => Ok(named),
    }
}

/// The family that the real program's name says.
fn refuse_wrapper(program: &Path, real: &Path) -> Result<Family, Unknown> {
    match guess(real.as_os_str().as_bytes()).family {
        Family::Wrapper(kind) => Err(Unknown::because(
            Obstacle::CompilerWrapper,
            format_args!("{} is {kind:?}", program.display()),
        )),
        family => Ok(family),
    }
}

/// The directories to search that are not there, of which compilers say nothing. What is there but no directory, or below
/// something that is none, is said.
fn missing(compile: &Compile, cwd: &Path) -> Vec<Vec<u8>> {
    let is_missing = |directory: &[u8]| {
        let found = fs::metadata(cwd.join(OsStr::from_bytes(directory)));
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let named = compile.silent_directories.iter().map(|(_, directory)| directory);
    named.filter(|directory| is_missing(directory)).cloned().collect()
}

/// Where the action writes, without links on the way, and what the user calls it.
fn outputs(compile: &Compile, cwd: &Path) -> Result<(Vec<Output>, Vec<Vec<u8>>), Unknown> {
    let main = compile.output.iter().map(|path| (path, false));
    let sides = compile.side_outputs.iter().map(|side| (&side.path, side.optional));
    let (names, optional): (Vec<_>, Vec<_>) =
        main.chain(sides).map(|(name, optional)| (name.clone(), optional)).unzip();
    let paths = output_paths(&names, cwd)?.into_iter();
    let outputs: Vec<_> = paths.zip(optional).map(|(path, optional)| Output { path, optional }).collect();
    if outputs.is_empty() {
        return Err(Unknown::because(Obstacle::NoOutput, "the compile writes nothing"));
    }
    Ok((outputs, names))
}

/// Where files are written that the user calls so, without links on the way.
pub(super) fn output_paths(names: &[Vec<u8>], cwd: &Path) -> Result<Vec<TreePath>, Unknown> {
    let (sight, files) = (Sight::default(), Files::default());
    let mut look = Look::new(&sight, &files, cwd);
    names.iter().map(|name| output_path(&mut look, cwd, name)).collect()
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

#[cfg(test)]
#[path = "call_tests.rs"]
pub(super) mod tests;
