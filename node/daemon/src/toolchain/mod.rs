//! Toolchains: what a compiler needs to run on another machine, at the same paths.
//!
//! Participants: the requester *discovers* the files of the compiler its user calls ([`discover()`]) and keeps what
//! it found, re-validated by `lstat` at each compile ([`ToolchainIndex`]); blobs travel by digest, or all at once
//! in an archive ([`archive`]), which may also stand in for a compiler that cannot be packed ([`stand_in`]); a worker lays them out in trees ([`crate::worker`]).
//!
//! Goals: the sandboxed compiler reads the same programs, libraries, specs and locale that the local one would
//! read, so that its answer is the same bytes; equal installations on two machines have equal digests; a compiler
//! that is replaced is noticed at the next compile.
//! Non-goals: headers (they are inputs of an action) and the linker, unless a toolchain is packed with its sysroot
//! for machines without a compiler; wrappers and scripts (they run locally).
//!
//! Invariant: a file is listed at its real path, and every symbolic link that leads to it is listed too.
//! Invariant: whatever cannot be taken along faithfully is a [`DiscoverError`], and the compile is local.
//!
//! `docs/toolchains.md` has the reasons and what was measured.

pub mod archive;
mod clang;
pub mod discover;
mod elf;
pub mod foreign;
mod gather;
mod gcc;
pub mod index;
pub mod library_path;
mod loader;
pub mod locale;
pub mod policy;
mod probe;
mod relocate;
pub(crate) mod stamp;
pub mod stand_in;
mod store;
mod sysroot;
pub mod tools;
pub mod unpack;
mod walk;

#[cfg(test)]
mod reality;

pub use discover::{DiscoverError, Discovered, discover, discover_with_sysroot};
pub use elf::ElfError;
pub use index::{Known, ToolchainIndex};

/// Why an archive is not imported.
#[derive(Debug, thiserror::Error)]
pub enum AnyImportError {
    /// One of ours.
    #[error(transparent)]
    Own(#[from] archive::ImportError),
    /// One of another tool.
    #[error(transparent)]
    Foreign(#[from] foreign::ForeignError),
}

/// Reads an archive of ours or of another tool from the beginning of a file called `name`.
///
/// # Errors
/// When it is neither, or damaged.
pub fn import(
    mut file: std::fs::File,
    name: &std::path::Path,
    mut put: impl FnMut(&mut dyn std::io::Read) -> std::io::Result<barn_protocol::Digest>,
) -> Result<barn_protocol::Toolchain, AnyImportError> {
    use std::io::Seek as _;
    match archive::import(&mut file, &mut put) {
        // zstd of something else, or no zstd at all: perhaps another tool's.
        Err(archive::ImportError::NoManifest | archive::ImportError::Read(_)) => {
            file.rewind().map_err(foreign::ForeignError::Read)?;
            Ok(foreign::import(file, name, put)?)
        }
        other => Ok(other?),
    }
}
