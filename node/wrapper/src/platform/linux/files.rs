//! Quick copies and access checks.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, IntoRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use super::{
    check, check_count, retry,
    socket::{Interest, wait},
};

/// Makes `to` share the blocks of `from` (a reflink).
///
/// # Errors
/// When the file system cannot, or the two files are not on the same one.
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: no pointers; both descriptors are alive.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }).map(drop)
}

/// Copies up to `count` bytes from `offset` of `from` to the position of `to`, inside the kernel; how many.
///
/// # Errors
/// When the kernel cannot for these files; then copy by hand.
pub(crate) fn copy_range(from: &File, offset: u64, to: &File, count: usize) -> io::Result<usize> {
    let mut offset =
        libc::off64_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    retry(|| {
        // SAFETY: `offset` is alive; the null pointer means the file's own position.
        check_count(unsafe {
            libc::copy_file_range(
                from.as_raw_fd(),
                &raw mut offset,
                to.as_raw_fd(),
                ptr::null_mut(),
                count,
                0,
            )
        })
    })
}

/// Writes all of `bytes`, also where whoever called us left the descriptor non-blocking. Waits as long as the reader
/// does, as the compiler would.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length describe `bytes`.
        let written =
            retry(|| check_count(unsafe { libc::write(to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) }));
        match written {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait([Some((to, Interest::Write))], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes a file that was written, and reports what the file system only says then (quota on NFS).
///
/// # Errors
/// When the content may not have reached the file system.
pub(crate) fn close_reporting(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by `file`, which gives it up here. It is closed whatever the result.
    check(unsafe { libc::close(file.into_raw_fd()) }).map(drop)
}

/// Whether this process may execute `path`.
pub(crate) fn may_execute(path: &Path) -> bool {
    CString::new(path.as_os_str().as_bytes()).is_ok_and(|path| {
        // SAFETY: `path` ends with NUL and is alive.
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
    })
}
