//! One compile as data: the action, its key, its result and the signed record of it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    canonical::Canonical,
    digest::Digest,
    identity::{NodeId, SignedBytes},
    limits::{OUTPUTS_BYTES_MAX, OUTPUTS_MAX, STDIO_BYTES_MAX},
    path::TreePath,
    tree::Tree,
};

/// Context string of an action record's signature.
pub const RECORD_CONTEXT: &str = "barnraise action record v1";

/// One compile. A worker runs exactly this and never parses the user's argv.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The toolchain's digest.
    pub toolchain: Digest,
    /// The program to start, a path in the toolchain's tree.
    pub program: TreePath,
    /// The arguments, the zeroth included.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `PATH` excepted, which the toolchain gives.
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The working directory.
    pub cwd: TreePath,
    /// All files the compile may see beside the toolchain.
    pub inputs: Tree,
    /// The files the compile is expected to write, without the symlinks on the way.
    pub outputs: Vec<Output>,
}

/// A file an action writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where the compile writes it.
    pub path: TreePath,
    /// Whether the action may succeed without writing it (`-fstack-usage` of a unit without functions).
    pub optional: bool,
}

/// The digest that names an action: equal keys, equal outputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActionKey(pub Digest);

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActionKey({:?})", self.0)
    }
}

impl Action {
    /// The action's key; see `docs/protocol.md` for the encoding.
    pub fn key(&self) -> ActionKey {
        let mut encoder = Canonical::new("barnraise action v1");
        encoder.digest(&self.toolchain).bytes(self.program.as_bytes());
        encoder.sequence(&self.argv, |e, arg| {
            e.bytes(arg);
        });
        encoder.number(self.env.len() as u64);
        for (name, value) in &self.env {
            encoder.bytes(name).bytes(value);
        }
        encoder.bytes(self.cwd.as_bytes()).digest(&self.inputs.digest());
        encoder.sequence(&self.outputs, |e, output| {
            e.bytes(output.path.as_bytes()).number(u64::from(output.optional));
        });
        ActionKey(encoder.finish())
    }
}

/// A file an action wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Which of the action's outputs, by index.
    pub output: u32,
    /// The digest of its contents.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What an action did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// The exit status; a death by signal is no result.
    pub exit_code: u8,
    /// Standard output, as a blob.
    pub stdout: Blob,
    /// Standard error, as a blob.
    pub stderr: Blob,
    /// The files written, in order of the action's outputs.
    pub outputs: Vec<OutputFile>,
    /// How long the compiler ran, in milliseconds.
    pub wall_ms: u64,
}

/// A blob's name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Blob {
    /// The blob of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// Why a result does not fit its action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// Outputs out of order, twice, or not asked for.
    #[error("the result names an output that was not asked for")]
    Unasked,
    /// A required output is missing although the exit status is 0.
    #[error("the result lacks output {0}")]
    Missing(TreePath),
    /// The result is larger than allowed.
    #[error("the result is over the size limits")]
    TooLarge,
}

impl ActionResult {
    /// Checks a foreign result against the action it claims to be of.
    ///
    /// # Errors
    /// When it names outputs that were not asked for, lacks one, or is over the limits.
    pub fn check(&self, action: &Action) -> Result<(), ResultError> {
        if self.outputs.len() > OUTPUTS_MAX
            || self.stdout.size > STDIO_BYTES_MAX
            || self.stderr.size > STDIO_BYTES_MAX
            || self.outputs.iter().map(|o| o.size).fold(0, u64::saturating_add) > OUTPUTS_BYTES_MAX
        {
            return Err(ResultError::TooLarge);
        }
        if !self.outputs.is_sorted_by(|a, b| a.output < b.output)
            || self.outputs.iter().any(|o| o.output as usize >= action.outputs.len())
        {
            return Err(ResultError::Unasked);
        }
        let missing = action.outputs.iter().enumerate().find(|(index, output)| {
            !output.optional && !self.outputs.iter().any(|o| o.output as usize == *index)
        });
        match missing {
            Some((_, output)) if self.exit_code == 0 => Err(ResultError::Missing(output.path.clone())),
            _ => Ok(()),
        }
    }

    /// The blobs this result refers to.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        [self.stdout, self.stderr]
            .into_iter()
            .chain(self.outputs.iter().map(|o| Blob { digest: o.digest, size: o.size }))
    }
}

/// What a producer signs: this key gave this result on my machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// The action's key; the reader compares it with the one it computed.
    pub key: ActionKey,
    /// What it did.
    pub result: ActionResult,
    /// Who ran it.
    pub producer: NodeId,
    /// Whether it ran inside the sandbox (on a worker) or as the user's own local compile.
    pub sandboxed: bool,
    /// The roster's epoch at that time; 0 without a mesh.
    pub epoch: u64,
}

impl ActionRecord {
    /// Signs the record with the producer's identity.
    pub fn sign(&self, identity: &crate::Identity) -> SignedBytes {
        identity.sign(RECORD_CONTEXT, encode(self))
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("encoding into memory does not fail")
}
