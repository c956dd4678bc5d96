//! What only the operating system can do.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
pub(crate) use linux::{close_inherited_on_exec, is_alive, is_fine, thread_cpu, tick_ns};

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

    /// What a file that changes now gets as its time of change, in nanoseconds since 1970: the clock at the kernel's
    /// last tick, some milliseconds behind the finer clock of `SystemTime`.
    pub(crate) fn tick_ns() -> i128 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec for the call's duration. It cannot fail for a clock that exists.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now) };
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    }

    /// CPU time that the calling thread has used.
    pub(crate) fn thread_cpu() -> std::time::Duration {
        let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `used` is a valid timespec for the call's duration. It cannot fail for a clock that exists.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut used) };
        let nanos = u32::try_from(used.tv_nsec).unwrap_or(0);
        std::time::Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), nanos)
    }

    /// Whether the file system that holds this file or directory is on this machine, keeps times as fine as the
    /// kernel's tick, and changes a directory's times whenever a name comes or goes. Network file systems, FUSE and
    /// whatever is not known are not.
    pub(crate) fn is_fine(file: &impl std::os::fd::AsFd) -> bool {
        use nix::sys::statfs::{
            BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
            XFS_SUPER_MAGIC, fstatfs,
        };
        let fine = [
            BTRFS_SUPER_MAGIC,
            EXT4_SUPER_MAGIC,
            F2FS_SUPER_MAGIC,
            OVERLAYFS_SUPER_MAGIC,
            TMPFS_MAGIC,
            XFS_SUPER_MAGIC,
        ];
        fstatfs(file).is_ok_and(|found| fine.contains(&found.filesystem_type()))
    }

    /// Whether the process runs; a zombie does not.
    pub(crate) fn is_alive(pid: i32) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        // The state follows the name, which is in parentheses and may hold any character.
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
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
