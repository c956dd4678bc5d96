//! Unix sockets: connecting within a time, knowing the peer, passing descriptors.

use std::{
    collections::VecDeque,
    ffi::c_int,
    fs::{File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
    ptr,
    time::Duration,
};

use super::{check, check_count, retry};
use crate::messages::OUTPUTS_MAX;

/// Longest path of a socket address, in bytes: `sun_path` less its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Room for one control message of [`OUTPUTS_MAX`] descriptors, in 8-byte words for its alignment.
const CONTROL_WORDS: usize = 2 + OUTPUTS_MAX.div_ceil(2);

/// A socket's path in a form short enough for an address: as it is, or through the opened directory. Keep this
/// value for as long as the path is in use.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    /// Keeps `/proc/self/fd/N` alive.
    _directory: Option<File>,
}

impl ShortPath {
    /// The short form of `path`.
    ///
    /// # Errors
    /// When the path is too long and its directory cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        };
        let directory =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(parent)?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path: short, _directory: Some(directory) })
    }

    /// The path to bind or connect.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The process at the other end of a socket, as the kernel saw it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id; 0 if it is not in this namespace.
    pub pid: i32,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
}

/// Connects to the listening socket at `path`. The result does not block.
///
/// # Errors
/// When nobody listens there, or accepts within `limit` (its backlog is full).
pub(crate) fn connect(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let short = ShortPath::of(path)?;
    // SAFETY: no pointers; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: a descriptor just made, that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(check(socket)?) };
    let limit = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        // Zero would mean no limit.
        tv_usec: libc::suseconds_t::from(limit.subsec_micros()).max(1),
    };
    // SAFETY: the pointer and length describe `limit`.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            ptr::from_ref(&limit).cast(),
            size_of_as::<libc::timeval, _>(),
        )
    })?;
    let address = address_of(short.path())?;
    retry(|| {
        // SAFETY: the pointer and length describe `address`.
        check(unsafe {
            let address = ptr::from_ref(&address).cast();
            libc::connect(socket.as_raw_fd(), address, size_of_as::<libc::sockaddr_un, _>())
        })
    })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(socket)
}

/// The process at the other end.
///
/// # Errors
/// When `socket` is no connected Unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_as::<libc::ucred, libc::socklen_t>();
    // SAFETY: the pointers describe `credentials` and its length.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            ptr::from_mut(&mut credentials).cast(),
            &raw mut length,
        )
    })?;
    Ok(Peer { uid: credentials.uid, pid: credentials.pid })
}

/// Sends some of `bytes`, with `descriptors` beside the first of them; how many bytes went. When bytes are left,
/// send them later *without* the descriptors. Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when nothing could be sent now (no descriptor either); else when the connection is lost.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > OUTPUTS_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let length = u32::try_from(mem::size_of_val(raw.as_slice())).expect("at most 64 descriptors");
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `control` holds CMSG_SPACE of 64 descriptors, is aligned, and outlives the header.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(length) as usize;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(length) as usize;
            ptr::copy_nonoverlapping(raw.as_ptr().cast(), libc::CMSG_DATA(message), length as usize);
        }
    }
    retry(|| {
        // SAFETY: the header points at `part` and `control`, which live here; the kernel only reads.
        check_count(unsafe {
            libc::sendmsg(
                socket.as_fd().as_raw_fd(),
                &raw const header,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })
    })
}

/// Receives bytes into `buffer`, and appends the descriptors that came with them; 0 bytes is the end.
///
/// # Errors
/// `WouldBlock` when there is nothing now; `InvalidData` when more descriptors came than one frame may have; else
/// when the connection is lost.
pub fn recv_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let received = retry(|| {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = mem::size_of_val(&control);
        // SAFETY: the header describes `buffer` and `control`, both writable and alive.
        check_count(unsafe {
            libc::recvmsg(
                socket.as_fd().as_raw_fd(),
                &raw mut header,
                libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
            )
        })
    })?;
    // SAFETY: the kernel filled `control` as the header now says; each descriptor in it is new and ours alone.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*message).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    descriptors.push_back(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(received)
}

/// Waits until one of `sources` is ready (an error or the end counts) or `limit` has passed; `None` is no limit.
/// Tells which are; none after the limit or a signal.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn wait<const N: usize>(
    sources: [Option<(BorrowedFd<'_>, Interest)>; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = sources.map(|source| libc::pollfd {
        // The kernel skips negative descriptors.
        fd: source.map_or(-1, |(fd, _)| fd.as_raw_fd()),
        events: source.map_or(0, |(_, interest)| match interest {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
        }),
        revents: 0,
    });
    // Rounded up: a wait must not end early and spin.
    let limit_ms =
        limit.map_or(-1, |limit| c_int::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX));
    // SAFETY: the pointer and count describe `polled`.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, limit_ms) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
        Ok(_) => Ok(polled.map(|entry| entry.revents != 0)),
    }
}

fn address_of(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: an all-zero address is a valid value.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > SOCKET_PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(address)
}

/// The size of a small kernel structure in the type that the call wants.
fn size_of_as<T, N: TryFrom<usize>>() -> N {
    N::try_from(mem::size_of::<T>()).unwrap_or_else(|_| unreachable!("kernel structures are small"))
}
