//! One compile as data: the action, its key, its result and the signed record of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    canonical::Canonical,
    digest::Digest,
    identity::{NodeId, SignedBytes},
    keys::domain,
    limits::{ARGV_BYTES_MAX, OUTPUTS_BYTES_MAX, OUTPUTS_MAX, STDIO_BYTES_MAX},
    path::TreePath,
    tree::Tree,
    wire::INLINE_BYTES_MAX,
};

/// Context string of an action record's signature.
pub const RECORD_CONTEXT: &str = "barnraise action record v1";

/// One compile. A worker runs exactly this and never parses the user's argv. It travels as a [`crate::wire::Run`].
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// All files the compile may see beside the toolchain. Shared, for a tree of hundreds of entries is held by all who
    /// deal with the action.
    pub inputs: Arc<Tree>,
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
    /// The action's key; see `docs/cache-key.md` for the encoding.
    pub fn key(&self) -> ActionKey {
        let mut encoder = Canonical::new(domain::ACTION);
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

    /// Whether a foreign action can be run at all: what the kernel would refuse, and more outputs than a result may
    /// have, is refused here.
    pub fn is_fit(&self) -> bool {
        let word = |bytes: &Vec<u8>| !bytes.contains(&0);
        let name = |name: &Vec<u8>| !name.is_empty() && word(name) && !name.contains(&b'=');
        let bytes: usize = self.argv.iter().map(Vec::len).sum::<usize>()
            + self.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        !self.argv.is_empty()
            && bytes <= ARGV_BYTES_MAX
            && self.argv.iter().all(word)
            && self.env.iter().all(|(n, value)| name(n) && word(value))
            && (1..=OUTPUTS_MAX).contains(&self.outputs.len())
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
        if !self.is_within_limits() {
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

    /// Whether a foreign result may be looked at at all, whatever its action.
    pub fn is_within_limits(&self) -> bool {
        self.outputs.len() <= OUTPUTS_MAX
            && self.stdout.size <= STDIO_BYTES_MAX
            && self.stderr.size <= STDIO_BYTES_MAX
            && self.outputs.iter().map(|o| o.size).fold(0, u64::saturating_add) <= OUTPUTS_BYTES_MAX
    }

    /// The blobs that are sent, which are those that are not empty; `true` for those that travel inside the frame
    /// of the result: as many, in order, as have together at most [`INLINE_BYTES_MAX`] bytes.
    pub fn sent_blobs(&self) -> impl Iterator<Item = (Blob, bool)> {
        let mut left = INLINE_BYTES_MAX;
        self.blobs().filter(|blob| blob.size > 0).map(move |blob| {
            let inline = blob.size <= left;
            if inline {
                left -= blob.size;
            }
            (blob, inline)
        })
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{Identity, tree::Entry};
    use crate::{delta::TreeForm, wire::Run};

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn output(at: &str, optional: bool) -> Output {
        Output { path: path(at), optional }
    }

    fn action() -> Action {
        let mut inputs = Tree::new();
        let source = Entry::File { digest: Digest::of(b"int x;"), size: 6, executable: false };
        inputs.insert(path("/w/x.c"), source).expect("it fits");
        Action {
            toolchain: Digest::of(b"toolchain"),
            program: path("/usr/bin/gcc"),
            argv: ["gcc", "-c", "x.c"].map(|arg| arg.as_bytes().to_vec()).to_vec(),
            env: BTreeMap::from([(b"LANG".to_vec(), b"C".to_vec()), (b"TZ".to_vec(), b"".to_vec())]),
            cwd: path("/w"),
            inputs: Arc::new(inputs),
            outputs: vec![output("/w/x.o", false), output("/w/x.su", true)],
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_unfit() {
        let check = |change: fn(&mut Action), expect| {
            let mut action = action();
            change(&mut action);
            assert_eq!(action.is_fit(), expect, "{action:?}");
        };
        check(|_| (), true);
        check(|action| action.argv.clear(), false);
        check(|action| action.argv.push(b"a\0b".to_vec()), false);
        check(|action| action.argv.push(vec![b'x'; ARGV_BYTES_MAX]), false);
        check(|action| drop(action.env.insert(b"A=B".to_vec(), Vec::new())), false);
        check(|action| drop(action.env.insert(Vec::new(), Vec::new())), false);
        check(|action| drop(action.env.insert(b"A".to_vec(), b"\0".to_vec())), false);
        check(|action| action.outputs.clear(), false);
        check(|action| action.outputs = vec![output("/o", false); OUTPUTS_MAX + 1], false);
    }

    #[test]
    fn golden_vector() {
        let number = |n: u64| n.to_le_bytes().to_vec();
        let text = |t: &str| [number(t.len() as u64), t.as_bytes().to_vec()].concat();
        let bytes = [
            Digest::of(b"toolchain").as_bytes().to_vec(),
            text("/usr/bin/gcc"),
            number(3),
            [text("gcc"), text("-c"), text("x.c")].concat(),
            number(2),
            [text("LANG"), text("C"), text("TZ"), text("")].concat(),
            text("/w"),
            action().inputs.digest().as_bytes().to_vec(),
            number(2),
            [text("/w/x.o"), number(0), text("/w/x.su"), number(1)].concat(),
        ];
        let key = action().key();
        assert_eq!(*key.0.as_bytes(), blake3::derive_key("barnraise action v1", &bytes.concat()));
        assert_eq!(key.to_string(), "72d442a06a31427ff1712d49781e62f629cf187514facf85986b6f13be5536af");
    }

    #[test]
    fn every_part_of_an_action_counts() {
        let changes: [fn(&mut Action); 16] = [
            |a| a.toolchain = Digest::of(b"other"),
            |a| a.program = path("/usr/bin/g++"),
            |a| a.argv[2].push(b'c'),
            |a| drop(a.argv.pop()),
            |a| a.argv.push(Vec::new()),
            |a| a.argv.swap(1, 2),
            |a| a.argv = vec![b"gcc-c".to_vec(), Vec::new(), b"x.c".to_vec()],
            |a| drop(a.env.remove(&b"TZ"[..])),
            |a| drop(a.env.insert(b"LANG".to_vec(), b"D".to_vec())),
            |a| drop(a.env.insert(b"A".to_vec(), Vec::new())),
            |a| a.cwd = path("/"),
            |a| Arc::make_mut(&mut a.inputs).insert(path("/w/y.h"), Entry::Directory).expect("it fits"),
            |a| a.inputs = Arc::default(),
            |a| drop(a.outputs.pop()),
            |a| a.outputs.reverse(),
            |a| a.outputs[1].optional = false,
        ];
        let mut keys = vec![action().key()];
        for change in changes {
            let mut changed = action();
            change(&mut changed);
            keys.push(changed.key());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 17, "two of the changes have one key");
    }

    /// The action with another small argv and environment.
    fn variant() -> impl Strategy<Value = Action> {
        let argv = vec(vec(0..3_u8, 0..3), 0..4);
        let env = vec((vec(0..2_u8, 0..2), vec(0..2_u8, 0..2)), 0..3);
        (argv, env).prop_map(|(argv, env)| Action { argv, env: env.into_iter().collect(), ..action() })
    }

    proptest! {
        #[test]
        fn unequal_argv_and_env_have_unequal_keys(one in variant(), two in variant()) {
            prop_assert_eq!(one == two, one.key() == two.key());
        }

        #[test]
        fn the_key_survives_the_wire(argv in vec(vec(any::<u8>(), 0..20), 0..6)) {
            let sent = Action { argv, ..action() };
            let run = Run::of(&sent, TreeForm::of(&sent.inputs, &[]), Vec::new());
            let bytes = crate::wire::encode(&run).expect("it is small");
            let received: Run = crate::wire::decode(&bytes).expect("it is well-formed");
            let tree = received.inputs.tree(|_| None::<Tree>).expect("it is whole");
            prop_assert_eq!(received.into_action(tree).key(), sent.key());
        }
    }

    fn written(outputs: &[u32]) -> ActionResult {
        let file = |output: &u32| OutputFile { output: *output, digest: Digest::of(b"o"), size: 1 };
        let (stdout, stderr) = (Blob::of(b""), Blob::of(b""));
        ActionResult { exit_code: 0, stdout, stderr, outputs: outputs.iter().map(file).collect(), wall_ms: 1 }
    }

    #[test]
    fn results_are_held_against_their_action() {
        let check = |result: ActionResult, expect| assert_eq!(result.check(&action()), expect, "{result:?}");
        check(written(&[0, 1]), Ok(()));
        check(written(&[0]), Ok(()));
        check(written(&[1]), Err(ResultError::Missing(path("/w/x.o"))));
        check(written(&[]), Err(ResultError::Missing(path("/w/x.o"))));
        check(ActionResult { exit_code: 1, ..written(&[]) }, Ok(()));
        check(written(&[0, 0]), Err(ResultError::Unasked));
        check(written(&[1, 0]), Err(ResultError::Unasked));
        check(written(&[0, 2]), Err(ResultError::Unasked));
        check(written(&[0; OUTPUTS_MAX + 1]), Err(ResultError::TooLarge));
        let loud = Blob { digest: Digest::of(b""), size: STDIO_BYTES_MAX + 1 };
        check(ActionResult { stderr: loud, ..written(&[0]) }, Err(ResultError::TooLarge));
        check(ActionResult { stdout: loud, ..written(&[0]) }, Err(ResultError::TooLarge));
        let mut large = written(&[0, 1]);
        large.outputs.iter_mut().for_each(|o| o.size = u64::MAX);
        check(large, Err(ResultError::TooLarge));
    }

    #[test]
    fn a_record_is_its_producers() {
        let (producer, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let record = ActionRecord {
            key: action().key(),
            result: written(&[0]),
            producer: producer.id(),
            sandboxed: true,
            epoch: 3,
        };
        let signed = record.sign(&producer);
        let read = signed.verified(RECORD_CONTEXT, &producer.id()).map(postcard::from_bytes);
        assert_eq!(read, Some(Ok(record)));
        assert_eq!(signed.verified(RECORD_CONTEXT, &other.id()), None);
    }
}
