//! What only the operating system can do.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
pub(crate) use linux::close_inherited_on_exec;

#[cfg(target_os = "linux")]
mod linux {
    /// Marks every descriptor but standard input, output and error to be closed when another program is started:
    /// a build system waits for the end of pipes that a node in the background would hold open.
    pub(crate) fn close_inherited_on_exec() {
        // SAFETY: no pointers. A kernel before 5.11 refuses the flag, which is caught below.
        let refused =
            unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } != 0;
        if refused {
            one_by_one();
        }
    }

    fn one_by_one() {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
        let open: Vec<i32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|fd| *fd > 2)
            .collect();
        for fd in open {
            // SAFETY: no pointers; a descriptor that is closed by now is an error that does not matter.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}
