//! What only the operating system can do: sockets that carry descriptors, processes, signals, quick copies.
//!
//! This is the one place of the crate with unsafe code and with `cfg`. Its functions are safe to call; each unsafe
//! block is one system call or a few on values made right there. Descriptors are owned (`OwnedFd`) from the moment
//! the kernel hands them out, are close-on-exec, and are never 0, 1 or 2.
//!
//! Only Linux so far; another system is another folder beside `linux` with the same functions.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    files::{clone_file, close_reporting, copy_range, may_execute, write_all},
    process::{
        Image, ProcessState, SignalsBlocked, ending, environment, is_null, is_standard_io_open, own_program,
        process_state, spawn_detached, umask,
    },
    socket::{Interest, connect, wait},
};
#[cfg(target_os = "linux")]
pub use linux::{
    process::effective_uid,
    socket::{Peer, ShortPath, peer, recv_with_fds, send_with_fds},
};

#[cfg(not(target_os = "linux"))]
compile_error!("barn's wrapper runs on Linux only so far");
