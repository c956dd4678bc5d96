//! One call of the wrapper, from the command line to the exit status.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    call::{self, Call},
    env_vars,
    guard::Guard,
    link::{Link, LinkError},
    local::{self, Compiler},
    messages::{Compile, Compiled, Done, Ended, Request, SILENCE_MS_MAX, ToNode, ToWrapper},
    outputs,
    places::Places,
    platform::{self, Image, ProcessState, SignalsBlocked},
    search::{FileId, Found, Search, SearchError},
    start::{self, Reached},
};

/// Longest wait for an answer from a node that keeps saying it is at work, in milliseconds: three times the longest
/// remote compile. Then the wrapper compiles.
const REQUEST_MS_MAX: u64 = 3_600_000;
/// Longest silence of a node that is not stopped but starved of processor or disk, in milliseconds. Running the
/// compiler as well would only starve it more.
const STARVED_SILENCE_MS_MAX: u64 = 3000;
/// Longest that delivering the outcome of a compile may hold up the caller, in milliseconds. It is gone at once
/// unless the node is stopped and the compiler was talkative. Delivering it and waiting until the node has taken the
/// outputs in take [`SILENCE_MS_MAX`] together.
const REPORT_MS_MAX: u64 = 500;
/// Exit codes of a shell for a program that cannot be run, and for one that is not there.
const EXIT_CANNOT_RUN: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;
/// Exit code for a command line that means nothing.
const EXIT_USAGE: i32 = 2;

/// Does what the command line `argv` says; the exit code for this process. In most cases does not return, for this
/// process becomes another program or dies by its compiler's signal.
pub fn run(argv: &[OsString]) -> i32 {
    match Call::of(argv) {
        Call::Compile(call) => compile(call),
        Call::Node => run_node_program(argv),
        Call::NoCompiler => complain("no compiler after '--'", "barn -- COMPILER ARGS…", EXIT_USAGE),
    }
}

fn compile(call: call::Compile) -> i32 {
    let guard = Guard::parse(env::var_os(env_vars::BARN_CHAIN).as_deref());
    let found = match find(&call.name, &guard) {
        Ok(found) => found,
        Err(error) => return complain_of_search(&call.name, &error),
    };
    let mut argv = call.argv;
    if found.behind_barn {
        // gcc finds its own parts from argv[0]: the bare name would lead it to the wrapper's directory.
        argv[0] = found.program.clone().into_os_string();
    }
    let compiler = Compiler { program: found.program, argv, guard };
    if may_ask_node(&compiler)
        && let Some(ended) = ask_node(&compiler)
    {
        return platform::ending(ended);
    }
    let error = compiler.exec();
    let code = if error.kind() == io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_CANNOT_RUN };
    complain(
        &format!("cannot run {}: {error}", compiler.program.display()),
        "check the compiler's path and permissions",
        code,
    )
}

fn find(name: &OsStr, guard: &Guard) -> Result<Found, SearchError> {
    let path = env::var_os(env_vars::PATH);
    // Without a working directory relative names still mean what they mean to the kernel.
    let cwd = env::current_dir().unwrap_or_default();
    Search { path: path.as_deref(), cwd: &cwd, own: FileId::of_this_program(), guard }.find(name)
}

/// Not when the user forbids it, not for a compile that is part of one the node waits for, and not where our own
/// descriptors would become the compiler's standard ones.
fn may_ask_node(compiler: &Compiler) -> bool {
    !env_vars::is_on(env::var_os(env_vars::BARN_DISABLE).as_deref())
        && !compiler.guard.is_compiling()
        && platform::is_standard_io_open()
}

/// Lets the node decide. `None`: run the compiler, whatever the reason; nothing has happened yet.
fn ask_node(compiler: &Compiler) -> Option<Ended> {
    let request = request_of(compiler)?;
    let places = Places::of_this_process().ok()?;
    let Reached { mut link, silence } = start::reach(&places)?;
    let until = link.heard() + silence;
    if link.send(&ToNode::Request(request), &[], until).is_err() {
        return None;
    }
    let answer = await_answer(&mut link, silence);
    match &answer {
        Err(LinkError::Silent) => start::remember_silence(&places),
        Ok(_) if silence < Duration::from_millis(SILENCE_MS_MAX) => start::forget_silence(&places),
        _ => {}
    }
    match answer.ok()? {
        Answer::Compile(compile) => run_for_node(compiler, &compile, link),
        Answer::Done(done, descriptors) => deliver(&done, descriptors),
        Answer::Exec => None,
    }
}

fn request_of(compiler: &Compiler) -> Option<Request> {
    let entries = platform::environment();
    let env = entries.iter().map(|entry| entry.as_bytes()).filter(|entry| !local::is_guard(entry));
    Some(Request {
        argv: compiler.argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        program: compiler.program.as_os_str().as_bytes().to_vec(),
        cwd: env::current_dir().ok()?.into_os_string().into_vec(),
        env: env.filter_map(split_variable).collect(),
        umask: platform::umask(),
        stdin_is_null: platform::is_null(io::stdin().as_fd()),
        stdout_is_terminal: io::stdout().is_terminal(),
        stderr_is_terminal: io::stderr().is_terminal(),
    })
}

/// `NAME=value`; a name may begin with `=`. What has no `=` is no variable.
fn split_variable(entry: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let equals = 1 + entry.get(1..)?.iter().position(|byte| *byte == b'=')?;
    Some((entry[..equals].to_vec(), entry[equals + 1..].to_vec()))
}

/// The message that ends the wait for the node.
enum Answer {
    Exec,
    Compile(Compile),
    Done(Done, Vec<OwnedFd>),
}

fn await_answer(link: &mut Link, silence: Duration) -> Result<Answer, LinkError> {
    let until = Instant::now() + Duration::from_millis(REQUEST_MS_MAX);
    while Instant::now() < until {
        match receive_patiently(link, silence)? {
            (ToWrapper::Heartbeat, _) => {}
            (ToWrapper::Exec, _) => return Ok(Answer::Exec),
            (ToWrapper::Compile(compile), _) => return Ok(Answer::Compile(compile)),
            (ToWrapper::Done(done), descriptors) => return Ok(Answer::Done(done, descriptors)),
            (ToWrapper::ControlReply(_), _) => return Err(LinkError::Closed),
        }
    }
    Err(LinkError::Silent)
}

/// Waits `silence`, and longer only for a node that can be seen to be working or waiting for its turn.
fn receive_patiently(link: &mut Link, silence: Duration) -> Result<(ToWrapper, Vec<OwnedFd>), LinkError> {
    let starved = Duration::from_millis(STARVED_SILENCE_MS_MAX);
    let mut patience = silence;
    loop {
        match link.receive(patience) {
            Err(LinkError::Silent)
                if patience < starved && platform::process_state(link.peer().pid) == ProcessState::Busy =>
            {
                patience += silence;
            }
            other => return other,
        }
    }
}

/// Compiles for the node and reports. The node's fate does not change the outcome any more.
fn run_for_node(compiler: &Compiler, compile: &Compile, link: Link) -> Option<Ended> {
    let (compiled, files) = compiler.run(compile).ok()?;
    let ended = compiled.ended;
    report(link, compiled, &files);
    Some(ended)
}

/// Tells the node how the compile went. Outputs that it will keep are held back from the caller, who may move, strip
/// or delete them next (automake, `objcopy`), until the node has them and closes the connection.
fn report(mut link: Link, compiled: Compiled, files: &[OwnedFd]) {
    let begun = Instant::now();
    let is_kept = compiled.ended == Ended::Exited(0) && !files.is_empty();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let sent_until = begun + Duration::from_millis(REPORT_MS_MAX);
    if link.send(&ToNode::Compiled(compiled), &files, sent_until).is_err() {
        return;
    }
    if is_kept {
        link.await_close(begun + Duration::from_millis(SILENCE_MS_MAX));
    }
    link.finish();
}

/// Writes a result out. A signal waits until the outputs are whole, so that Ctrl-C leaves none half done.
fn deliver(done: &Done, descriptors: Vec<OwnedFd>) -> Option<Ended> {
    let signals = SignalsBlocked::new();
    let placed = outputs::place(&done.outputs, descriptors);
    drop(signals);
    placed.ok()?;
    // The compiler, too, goes on when nobody takes its messages.
    let _ = platform::write_all(io::stdout().as_fd(), &done.stdout);
    let _ = platform::write_all(io::stderr().as_fd(), &done.stderr);
    Some(Ended::Exited(done.exit_code))
}

fn run_node_program(argv: &[OsString]) -> i32 {
    let Some(program) = start::node_program() else {
        return complain(
            "the node's program barn-node is not installed",
            "put it beside barn, in ../libexec/barn, or in PATH",
            EXIT_NOT_FOUND,
        );
    };
    let error = exec_node_program(&program, argv);
    complain(&format!("cannot run {}: {error}", program.display()), "reinstall barn", EXIT_CANNOT_RUN)
}

/// The verbs' help speaks of `barn`, so the program is told its name by argv\[0\] as typed.
fn exec_node_program(program: &Path, argv: &[OsString]) -> io::Error {
    let own = [OsString::from("barn")];
    let argv = if argv.is_empty() { &own } else { argv };
    let argv: Vec<&[u8]> = argv.iter().map(|argument| argument.as_bytes()).collect();
    Image::new(program, &argv, platform::environment()).map_or_else(|error| error, |image| image.exec())
}

fn complain_of_search(name: &OsStr, error: &SearchError) -> i32 {
    let shown = PathBuf::from(name);
    let shown = shown.display();
    match error {
        SearchError::NotFound if call::looks_like_compiler(name) => complain(
            &format!("cannot find '{shown}' in PATH"),
            "install that compiler or give its path",
            EXIT_NOT_FOUND,
        ),
        SearchError::NotFound => complain(
            &format!("'{shown}' is neither a compiler nor a barn command"),
            "barn COMPILER ARGS… wraps a compile; barn help lists the commands",
            EXIT_NOT_FOUND,
        ),
        SearchError::Endless(_) => complain(
            &error.to_string(),
            "let that script call the real compiler by its path",
            EXIT_CANNOT_RUN,
        ),
    }
}

fn complain(what: &str, hint: &str, code: i32) -> i32 {
    let text = format!("barn: {what}\nhint: {hint}\n");
    let _ = platform::write_all(io::stderr().as_fd(), text.as_bytes());
    code
}
