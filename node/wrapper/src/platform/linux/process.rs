//! Processes and signals, without the liberties that the standard library takes with a child's signal mask and
//! SIGPIPE: a compiler run by the wrapper must find what it would find without it.

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    mem::{self, ManuallyDrop},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    ptr,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use super::{check, retry};
use crate::messages::Ended;

/// Signals that ask a process to end. Sent to the wrapper while its compiler runs, they are meant for that.
const FORWARDED: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// The number of `/dev/null`, which Linux assigns for good: major 1, minor 3.
const NULL_DEVICE: u64 = 1 << 8 | 3;
/// The child that signals are forwarded to; 0 for none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// The user that this process acts for. Asks the kernel and not the C library, which lies under fakeroot: a socket's
/// peer is known to the kernel's name as well.
pub fn effective_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    let uid = unsafe { libc::syscall(libc::SYS_geteuid) };
    u32::try_from(uid).unwrap_or(u32::MAX)
}

/// The file of this process' program.
pub(crate) fn own_program() -> io::Result<Metadata> {
    fs::metadata("/proc/self/exe")
}

/// The umask. Not safe to call beside other threads that create files; the wrapper has one thread.
pub(crate) fn umask() -> u32 {
    // SAFETY: no pointers, cannot fail; set back at once.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

/// Whether descriptors 0, 1 and 2 are all open. If not, anything the wrapper opens would take their place.
pub(crate) fn is_standard_io_open() -> bool {
    // SAFETY: no pointers.
    (0..=2).all(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1)
}

/// Whether a descriptor is `/dev/null`.
pub(crate) fn is_null(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: the descriptor is open, and is not closed with this file.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd.as_raw_fd()) });
    let is_null = |meta: Metadata| meta.file_type().is_char_device() && meta.rdev() == NULL_DEVICE;
    file.metadata().is_ok_and(is_null)
}

/// The environment exactly as it was given to this process, malformed and repeated entries included.
pub(crate) fn environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: the C library keeps `environ` as an array of C strings that ends with null; nothing changes it while
    // this runs, for the program has one thread here.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            entries.push(CStr::from_ptr(*entry).to_owned());
            entry = entry.add(1);
        }
    }
    entries
}

/// A program with its arguments and environment, ready to be run.
pub(crate) struct Image {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// An image of strings that came from the kernel or the node.
    ///
    /// # Errors
    /// When a string holds a NUL, which only a broken node could send.
    pub(crate) fn new<A: AsRef<[u8]>>(program: &Path, argv: &[A], env: Vec<CString>) -> io::Result<Self> {
        let text =
            |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let argv = argv.iter().map(|argument| text(argument.as_ref())).collect::<io::Result<_>>()?;
        Ok(Self { program: text(program.as_os_str().as_bytes())?, argv, env })
    }

    /// Becomes the program; returns only the reason why not.
    pub(crate) fn exec(&self) -> io::Error {
        let (argv, env) = (pointers(&self.argv), pointers(&self.env));
        // SAFETY: the arrays end with null and point at C strings that live in `self`.
        unsafe { libc::execve(self.program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOEXEC) {
            return error;
        }
        // A script without `#!`: every shell, and `execvp`, runs it so.
        let mut script = vec![c"/bin/sh".as_ptr(), self.program.as_ptr()];
        script.extend_from_slice(argv.get(1..).unwrap_or(&[ptr::null()]));
        // SAFETY: as above; `argv` ended with null and so does its rest.
        unsafe { libc::execve(c"/bin/sh".as_ptr(), script.as_ptr(), env.as_ptr()) };
        error
    }

    /// Runs the program as a child, its standard output and error going to these.
    ///
    /// While the [`Child`] exists, signals that ask this process to end are passed on to it instead.
    ///
    /// # Errors
    /// When there is no process to be had, or the program cannot be run.
    pub(crate) fn spawn(&self, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Child> {
        let (mut broken, report) = io::pipe()?;
        let parent = std::process::id();
        let blocked = SignalsBlocked::new();
        let forwarding = Forwarding::new();
        // SAFETY: the wrapper has one thread, so the child may do anything; it only makes system calls.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            forwarding.restore();
            blocked.restore();
            let error = self.exec_as_child(parent, stdout.as_fd(), stderr.as_fd());
            let code = error.raw_os_error().unwrap_or(libc::EINVAL);
            // A lost report looks like a compiler that exits 127, which is what it is.
            let _ = (&report).write_all(&code.to_ne_bytes());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(127) };
        }
        CHILD.store(pid, Ordering::Relaxed);
        drop((blocked, report, stdout, stderr));
        let mut child = Child { pid, pidfd: open_pidfd(pid), _forwarding: forwarding };
        let mut code = [0; mem::size_of::<i32>()];
        if retry(|| broken.read_exact(&mut code)).is_ok() {
            let _ = child.wait();
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)));
        }
        Ok(child)
    }

    fn exec_as_child(&self, parent: u32, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Error {
        // SAFETY: no pointers; the descriptors are alive.
        let ready = unsafe {
            // Whoever kills the wrapper outright means the compiler.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
                .and_then(|_| check(libc::dup2(stdout.as_raw_fd(), 1)))
                .and_then(|_| check(libc::dup2(stderr.as_raw_fd(), 2)))
        };
        if let Err(error) = ready {
            return error;
        }
        // SAFETY: no arguments, cannot fail.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            return io::Error::from(io::ErrorKind::BrokenPipe);
        }
        self.exec()
    }
}

/// A running child.
pub(crate) struct Child {
    pid: libc::pid_t,
    pidfd: Option<OwnedFd>,
    _forwarding: Forwarding,
}

/// How a child ended and what it used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) ended: Ended,
    pub(crate) cpu: Duration,
    pub(crate) max_rss_bytes: u64,
}

impl Child {
    /// A descriptor that is readable once the child has ended; kernels before 5.3 have none.
    pub(crate) fn ended_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Waits for the child's end.
    ///
    /// # Errors
    /// When somebody else has waited for it already.
    pub(crate) fn wait(&mut self) -> io::Result<Ending> {
        let id = self.pid.cast_unsigned();
        // First without reaping, so that no signal is forwarded to a process id that is free again.
        retry(|| {
            // SAFETY: `information` is a plain structure for the kernel to fill.
            check(unsafe {
                let mut information: libc::siginfo_t = mem::zeroed();
                libc::waitid(libc::P_PID, id, &raw mut information, libc::WEXITED | libc::WNOWAIT)
            })
        })?;
        CHILD.store(0, Ordering::Relaxed);
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid value.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: both pointers are to live values for the kernel to fill.
        retry(|| check(unsafe { libc::wait4(self.pid, &raw mut status, 0, &raw mut usage) }))?;
        let ended = if libc::WIFSIGNALED(status) {
            Ended::Signalled(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        };
        let max_rss_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
        Ok(Ending { ended, cpu: duration_of(usage.ru_utime) + duration_of(usage.ru_stime), max_rss_bytes })
    }
}

/// Blocks the signals that end a process until dropped, so that what is begun is finished first.
pub(crate) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
        // SAFETY: plain structures that the calls fill; with valid signal numbers they cannot fail.
        unsafe {
            let (mut set, mut before) = (mem::zeroed(), mem::zeroed());
            libc::sigemptyset(&raw mut set);
            for signal in FORWARDED {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            Self(before)
        }
    }

    fn restore(&self) {
        // SAFETY: the mask was filled by `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Passes signals on to [`CHILD`] until dropped. A signal that this process was told to ignore (`nohup`) stays
/// ignored, by the child as well. SIGCHLD must not be ignored meanwhile, or the child's end would be lost.
struct Forwarding {
    before: Vec<(c_int, libc::sigaction)>,
}

impl Forwarding {
    fn new() -> Self {
        let mut before = Vec::with_capacity(FORWARDED.len() + 1);
        // SAFETY: plain structures; the handler only does what a handler may; the signal numbers are valid.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            libc::sigaction(libc::SIGCHLD, ptr::null(), &raw mut action);
            if action.sa_sigaction == libc::SIG_IGN {
                before.push((libc::SIGCHLD, action));
                let default: libc::sigaction = mem::zeroed();
                libc::sigaction(libc::SIGCHLD, &raw const default, ptr::null_mut());
            }
            for signal in FORWARDED {
                libc::sigaction(signal, ptr::null(), &raw mut action);
                if action.sa_sigaction == libc::SIG_IGN {
                    continue;
                }
                before.push((signal, action));
                let mut forwarding: libc::sigaction = mem::zeroed();
                forwarding.sa_sigaction = forward as *const () as usize;
                forwarding.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(signal, &raw const forwarding, ptr::null_mut());
            }
        }
        Self { before }
    }

    fn restore(&self) {
        for (signal, action) in &self.before {
            // SAFETY: what the kernel gave for this very signal.
            unsafe { libc::sigaction(*signal, ptr::from_ref(action), ptr::null_mut()) };
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.restore();
    }
}

/// A terminal's Ctrl-C reaches the whole process group, the child included; only what a process sent to the wrapper
/// alone needs passing on.
extern "C" fn forward(signal: c_int, information: *mut libc::siginfo_t, _: *mut c_void) {
    let child = CHILD.load(Ordering::Relaxed);
    // SAFETY: the kernel gives a valid pointer; kill is allowed in handlers; errno is put back for the code that was
    // interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let from_process = (*information).si_code <= 0;
        if from_process && child > 0 {
            libc::kill(child, signal);
        }
        *libc::__errno_location() = errno;
    }
}

/// Ends this process the way its compiler ended.
pub(crate) fn ending(ended: Ended) -> i32 {
    let signal = match ended {
        Ended::Exited(code) => return code,
        Ended::Signalled(signal) => signal,
    };
    // SAFETY: plain structures filled here; the signal number came from the kernel or is refused by it.
    unsafe {
        // The compiler's core dump is the interesting one.
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        let default: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    // Only a signal whose default is to be ignored gets here; a shell would say it so.
    128 + signal
}

/// What a process is doing, as far as it tells why it is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessState {
    /// Stopped by a signal or a debugger.
    Stopped,
    /// A thread is running, waiting for a core, or waiting for a disk.
    Busy,
    /// All threads sleep, or there is no such process in sight.
    Quiet,
}

/// What the process `pid` is doing.
pub(crate) fn process_state(pid: i32) -> ProcessState {
    let process = Path::new("/proc").join(pid.to_string());
    if let Some(b'T' | b't') = state_letter(&process.join("stat")) {
        return ProcessState::Stopped;
    }
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut letters = threads.map(|thread| state_letter(&thread.path().join("stat")));
    if letters.any(|letter| matches!(letter, Some(b'R' | b'D'))) {
        ProcessState::Busy
    } else {
        ProcessState::Quiet
    }
}

/// Starts a program that outlives this process: in a session of its own, with `/dev/null` for standard input, output
/// and error and no other descriptor (ninja would wait for one), in `/`, and as a child of init.
///
/// # Errors
/// When the program cannot be run.
pub(crate) fn spawn_detached<'a>(
    program: &Path,
    arguments: &[&str],
    env: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only system calls happen between fork and exec.
    unsafe { command.pre_exec(detach) };
    // The child forks again and ends; its own child becomes the program. Where SIGCHLD is ignored the kernel reaps
    // it, and there is nothing to wait for.
    let mut middle = command.spawn()?;
    let _ = middle.wait();
    Ok(())
}

fn detach() -> io::Result<()> {
    // SAFETY: system calls without pointers, in a child with one thread.
    unsafe {
        check(libc::setsid())?;
        libc::umask(0o022);
        let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        if libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) == -1 {
            close_on_exec_one_by_one();
        }
        // The second fork gives up the session's lead, so that no terminal can become the node's.
        if check(libc::fork())? != 0 {
            libc::_exit(0);
        }
    }
    Ok(())
}

/// For kernels before 5.11.
fn close_on_exec_one_by_one() {
    /// More descriptors than this are not inherited by anything sensible.
    const DESCRIPTORS_MAX: c_int = 65_536;
    for fd in 3..DESCRIPTORS_MAX {
        // SAFETY: no pointers; numbers that are not open are refused.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The letter after the command name, which may itself hold anything: `1 (a) b) S 0 …`.
fn state_letter(stat: &Path) -> Option<u8> {
    /// The process id and the name (64 bytes at most) come first.
    const STAT_BYTES_MAX: u64 = 512;
    let mut text = Vec::new();
    File::open(stat).ok()?.take(STAT_BYTES_MAX).read_to_end(&mut text).ok()?;
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    text.get(name_end + 2).copied()
}

fn open_pidfd(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: a descriptor just made (close-on-exec by itself), that nobody else owns.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn duration_of(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}
