//! The room: the first program inside the sandbox. It lays out the inputs, runs the compile under its limits, and
//! hands the outputs out through a pipe. See `barn_sandbox::wire` for what it says to the host.
//!
//! It has one thread and no privilege the compile does not have, and the host trusts none of its words. What it
//! keeps from the compile is its own memory and pipes, so that a compile cannot speak in its name by accident.

mod collect;
mod compile;
mod host;
mod layout;
mod trace;
mod walls;
mod watch;

use std::{fs, process::ExitCode};

use barn_sandbox::wire::failed;
use nix::sys::{
    prctl,
    stat::{Mode, umask},
};

use crate::host::{End, Host};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == walls::ARGUMENT => return walls::try_all(),
        Some(_) => {
            eprintln!("barn-room: runs inside the sandbox only, and takes no arguments");
            return ExitCode::from(2);
        }
        None => {}
    }
    let mut host = Host::new();
    match serve(&mut host) {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            compile::kill_others();
            host.end(end);
            ExitCode::FAILURE
        }
    }
}

fn serve(host: &mut Host) -> Result<(), End> {
    hide()?;
    let job = layout::take_all(host)?;
    let mut room = watch::Room::new(&job)?;
    compile::run(host, &job, &mut room)?;
    collect::send_all(host, &job, &room)
}

/// Makes this process the first to die for want of memory, and its memory and descriptors nobody else's.
fn hide() -> Result<(), End> {
    // Before the second step, which takes the file from this process; and best effort, because it is for the
    // machine's owner, not for the walls.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    umask(Mode::from_bits_truncate(0o022));
    prctl::set_dumpable(false).map_err(|errno| End::failed(failed::ROOM, "prctl", errno))
}
