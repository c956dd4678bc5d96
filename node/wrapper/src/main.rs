//! `barn`: the program that build systems call. See the library.
//!
//! It has a C `main` of its own instead of Rust's: the runtime's start would ignore SIGPIPE and open closed standard
//! descriptors, and the compiler that this process becomes must find both as its caller left them.
#![no_main]
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, OsStr, OsString, c_char, c_int},
    os::unix::ffi::OsStrExt,
};

/// The C entry.
///
/// # Safety
/// Called once, by the C runtime, with `count` C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    let argv: Vec<OsString> = (0..count)
        // SAFETY: as above.
        .map(|index| unsafe { CStr::from_ptr(*arguments.add(index)) })
        .map(|argument| OsStr::from_bytes(argument.to_bytes()).to_owned())
        .collect();
    barn_wrapper::run(&argv)
}
