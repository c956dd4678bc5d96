//! The inner filter: takes the tracing's own calls from the compile, and announces what it looks for.
//!
//! The room's child installs it just before it executes the program. The outer filter, bubblewrap's, lets `seccomp` and
//! `process_vm_readv` through for this; here they end, whether the run is watched or not. Of two filters the stricter
//! answer counts, so announcing a call can never allow one.
#![allow(unsafe_code)]

use std::{
    io,
    mem::{offset_of, size_of, zeroed},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    seccomp_data, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog,
};
use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

/// Calls taken from the compile that the outer filter must leave to the room.
const TAKEN: [c_long; 2] = [libc::SYS_seccomp, libc::SYS_process_vm_readv];

/// Longest path read, in bytes with its NUL: the kernel's own limit.
const PATH_BYTES_MAX: usize = 4096;
/// No read crosses a boundary of this many bytes, because what lies behind one may not be there.
const PAGE_BYTES: usize = 4096;

/// `_IOWR('!', 0, struct seccomp_notif)`, `_IOWR('!', 1, struct seccomp_notif_resp)`, `_IOW('!', 4, __u64)`.
pub(crate) const NOTIFICATION_IOCTLS: [u64; 3] = [0xc050_2100, 0xc018_2101, 0x4008_2104];
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: both sides take turns on one core, which saves waking another.
const SYNC_WAKE_UP: u64 = 1;

/// When a call is announced.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// When the argument has none of these bits.
    Without(u32, u32),
}

/// The calls that are announced, with the arguments that hold the directory's descriptor and the path.
const fn announced() -> &'static [(c_long, When)] {
    const WRITING: u32 = libc::O_ACCMODE as u32;
    const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
    &[
        (libc::SYS_openat, When::Without(2, WRITING)),
        (libc::SYS_openat2, When::Always),
        (libc::SYS_newfstatat, When::Without(3, EMPTY_PATH)),
        (libc::SYS_statx, When::Without(2, EMPTY_PATH)),
        (libc::SYS_faccessat, When::Always),
        (libc::SYS_faccessat2, When::Always),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, When::Without(1, WRITING)),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_stat, When::Always),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_lstat, When::Always),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_access, When::Always),
    ]
}

/// What the program asks the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// To be given back.
    pub id: u64,
    /// The asking thread.
    pub thread: u32,
    /// Whether it opens for reading, rather than asks about.
    pub opens: bool,
    /// The descriptor of the directory a relative path starts from; `None` for the working directory.
    pub directory: Option<RawFd>,
    /// Where the path lies in its memory.
    pub path: u64,
}

/// Receives announced calls.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Installs the filter in this process; with `listen`, gives the listener's descriptor if the kernel grants one.
///
/// # Errors
/// When the kernel takes no filter at all.
pub fn install(listen: bool) -> io::Result<Option<OwnedFd>> {
    if listen && let Ok(fd) = set_filter(&filter(true), libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        // SAFETY: the kernel has just made this descriptor and nobody else has it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    set_filter(&filter(false), 0).map(|_| None)
}

fn set_filter(filter: &[sock_filter], flags: libc::c_ulong) -> io::Result<RawFd> {
    let length = u16::try_from(filter.len()).expect("the filter has some dozens of instructions");
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program's pointer and length are those of a live slice, which the kernel copies.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// The outer filter kills other architectures' calls, so numbers suffice.
fn filter(listen: bool) -> Vec<sock_filter> {
    let mut filter = vec![load(offset_of!(seccomp_data, nr))];
    for call in TAKEN {
        filter.push(jump(BPF_JEQ, call as u32, 0, 1));
        filter.push(answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    for (call, when) in announced().iter().filter(|_| listen) {
        let announce = answer(libc::SECCOMP_RET_USER_NOTIF);
        match when {
            When::Always => filter.extend([jump(BPF_JEQ, *call as u32, 0, 1), announce]),
            When::Without(argument, bits) => {
                let low = offset_of!(seccomp_data, args) + 8 * *argument as usize + LOW_HALF;
                filter.extend([
                    jump(BPF_JEQ, *call as u32, 0, 5),
                    load(low),
                    instruction(BPF_ALU | BPF_AND | BPF_K, *bits),
                    jump(BPF_JSET, *bits, 0, 1),
                    answer(libc::SECCOMP_RET_ALLOW),
                    announce,
                ]);
            }
        }
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    filter
}

/// Where the low half of an argument lies.
const LOW_HALF: usize = if cfg!(target_endian = "big") { 4 } else { 0 };

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32)
}

fn answer(value: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, value)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | code | BPF_K) as u16, jt, jf, k }
}

impl Listener {
    /// Listens on a descriptor that [`install`] gave.
    pub fn new(fd: OwnedFd) -> Self {
        // SAFETY: takes three integers. A kernel without it refuses, and listening is only slower.
        unsafe { libc::ioctl(fd.as_raw_fd(), NOTIFICATION_IOCTLS[2], SYNC_WAKE_UP) };
        Self(fd)
    }

    /// The next call. Waits for one, so ask `poll` before.
    ///
    /// # Errors
    /// When the caller has died meanwhile, which is nothing to worry about.
    pub fn next(&self) -> io::Result<Call> {
        // SAFETY: plain numbers, for which zero is a value; the kernel wants them zero.
        let mut heard: seccomp_notif = unsafe { zeroed() };
        const { assert!(size_of::<seccomp_notif>() == 0x50 && size_of::<seccomp_notif_resp>() == 0x18) };
        // SAFETY: the kernel fills the live value the pointer is to, whose size is part of the call's number.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIFICATION_IOCTLS[0], &raw mut heard) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(call(&heard))
    }

    /// Lets the call go on as if nobody had listened.
    pub fn go_on(&self, call: &Call) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let response = seccomp_notif_resp { id: call.id, val: 0, error: 0, flags };
        // SAFETY: the kernel reads the live value the pointer is to. It fails when the caller is dead.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIFICATION_IOCTLS[1], &raw const response) };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn call(heard: &seccomp_notif) -> Call {
    let number = c_long::from(heard.data.nr);
    let old = [
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access,
    ]
    .contains(&number);
    let opens = matches!(number, libc::SYS_openat | libc::SYS_openat2) || (old && is_open(number));
    // The descriptor is an `int`, whatever the upper half of the register holds.
    let directory = Some(heard.data.args[0] as RawFd).filter(|fd| !old && *fd != libc::AT_FDCWD);
    let path = heard.data.args[usize::from(!old)];
    Call { id: heard.id, thread: heard.pid, opens, directory, path }
}

#[cfg(target_arch = "x86_64")]
fn is_open(number: c_long) -> bool {
    number == libc::SYS_open
}

#[cfg(not(target_arch = "x86_64"))]
fn is_open(_number: c_long) -> bool {
    false
}

/// Reads the path at `address` of a thread's memory into `buffer`.
///
/// # Errors
/// `EFAULT` or `ENAMETOOLONG` when there is none, so that the kernel refuses the call, too; `ESRCH` when the thread is
/// dead; anything else means that this process may not look.
pub fn read_path(thread: u32, address: u64, buffer: &mut Vec<u8>) -> nix::Result<()> {
    let thread = Pid::from_raw(i32::try_from(thread).map_err(|_| Errno::ESRCH)?);
    let mut at = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    buffer.clear();
    while buffer.len() < PATH_BYTES_MAX {
        let length = (PAGE_BYTES - at % PAGE_BYTES).min(PATH_BYTES_MAX - buffer.len());
        let filled = buffer.len();
        buffer.resize(filled + length, 0);
        let remote = RemoteIoVec { base: at, len: length };
        let read = process_vm_readv(thread, &mut [io::IoSliceMut::new(&mut buffer[filled..])], &[remote])?;
        if let Some(end) = buffer[filled..filled + read].iter().position(|&byte| byte == 0) {
            buffer.truncate(filled + end);
            return Ok(());
        }
        if read < length {
            return Err(Errno::EFAULT);
        }
        at = at.checked_add(length).ok_or(Errno::EFAULT)?;
    }
    Err(Errno::ENAMETOOLONG)
}
