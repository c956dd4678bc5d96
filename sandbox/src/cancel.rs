//! Ending a run from another thread.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A switch that, once thrown, ends every run it was given to. Clones are the same switch.
#[derive(Debug, Clone)]
pub struct CancelToken(Arc<EventFd>);

impl CancelToken {
    /// A switch not yet thrown.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Ends the runs: bubblewrap and all inside are killed, and `run` returns, within 100 ms.
    pub fn cancel(&self) {
        // The only failure is a full counter, and then it has been thrown already.
        let _ = self.0.write(1);
    }

    /// Readable once thrown.
    pub(crate) fn signal(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
