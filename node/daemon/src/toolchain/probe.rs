//! Asks a program a question: run it with an empty environment, read its answer, within limits.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for one answer. They take milliseconds; a compiler on a slow network mount takes seconds.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest answer kept, in bytes; `gcc -v` prints about 2 KB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Answer {
    /// Standard output without the white space around it, if the program succeeded and printed anything.
    pub(super) fn line(&self) -> Option<&[u8]> {
        let text = self.stdout.trim_ascii();
        (self.status.success() && !text.is_empty()).then_some(text)
    }
}

/// Runs `program` with `args` and the given `PATH`, and nothing else from this process's surroundings but `HOME`.
///
/// # Errors
/// When it cannot be started or has not ended in time.
pub(super) fn ask(program: &Path, args: &[&OsStr], search_path: &OsStr) -> io::Result<Answer> {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", search_path).env("LC_ALL", "C");
    if let Some(home) = home() {
        command.env("HOME", home);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let answer = collect(&mut child);
    if answer.is_err() {
        // It may have ended by itself in between, so the outcome of either call does not matter.
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

/// The user's home directory, where some compilers look for configuration.
pub(super) fn home() -> Option<OsString> {
    std::env::var_os("HOME").filter(|home| !home.is_empty())
}

fn collect(child: &mut Child) -> io::Result<Answer> {
    let deadline = Instant::now() + ANSWER_WAIT_MAX;
    let stdout = reader(child.stdout.take().expect("standard output is piped"));
    let stderr = reader(child.stderr.take().expect("standard error is piped"));
    let stdout = receive(&stdout, deadline)?;
    let stderr = receive(&stderr, deadline)?;
    // Both pipes are at their end or over the limit: a program that goes on now is not answering a question.
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Answer { status, stdout, stderr });
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(too_late())
}

fn reader(mut pipe: impl Read + Send + 'static) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
        // Nobody listens any more if it took too long.
        let _ = sender.send(outcome.map(|_| bytes));
    });
    receiver
}

fn receive(pipe: &Receiver<io::Result<Vec<u8>>>, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = deadline.saturating_duration_since(Instant::now());
    pipe.recv_timeout(left).map_err(|_| too_late())?
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} seconds", ANSWER_WAIT_MAX.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_only_path_locale_and_home() {
        let answer = ask(Path::new("/usr/bin/env"), &[], OsStr::new("/p")).unwrap();
        let text = String::from_utf8(answer.stdout).unwrap();
        let mut names: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        names.retain(|name| *name != "HOME");
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let answer = ask(Path::new("/usr/bin/yes"), &[], OsStr::new("/usr/bin")).unwrap();
        assert_eq!(answer.stdout.len() as u64, ANSWER_BYTES_MAX);
        assert!(answer.line().is_none());
    }

    #[test]
    fn a_program_that_cannot_start_is_an_error() {
        assert!(ask(Path::new("/nowhere/gcc"), &[], OsStr::new("")).is_err());
    }
}
