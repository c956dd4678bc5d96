//! The keys that machines must agree on. Golden vectors pin them; a reader of what is hashed shows that no two actions
//! have one encoding; and every small change of an action gives another key.
//!
//! The encoder here is written anew from `docs/cache-key.md`, so that it and the one in use check each other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use barn_protocol::{
    Action, ActionKey, Digest, Entry, Toolchain, Tree, TreePath,
    action::Output,
    dht::EntryKey,
    keys::{domain, manifest_key, stand_in_source},
};
use proptest::{collection::vec, prelude::*};

fn path(bytes: &[u8]) -> TreePath {
    TreePath::new(bytes).expect("a good path")
}

fn file(contents: &[u8], executable: bool) -> Entry {
    Entry::File { digest: Digest::of(contents), size: contents.len() as u64, executable }
}

fn tree(entries: &[(&[u8], Entry)]) -> Arc<Tree> {
    let mut tree = Tree::new();
    for (at, entry) in entries {
        tree.insert(path(at), entry.clone()).expect("it fits");
    }
    Arc::new(tree)
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

fn output(at: &[u8], optional: bool) -> Output {
    Output { path: path(at), optional }
}

/// The least an action can be.
fn minimal() -> Action {
    Action {
        toolchain: Digest::from_bytes([0; 32]),
        program: path(b"/c"),
        argv: words(&[b""]),
        env: BTreeMap::new(),
        cwd: path(b"/"),
        inputs: Arc::default(),
        outputs: vec![output(b"/o", false)],
    }
}

/// Everything an action can have.
fn full() -> Action {
    Action {
        toolchain: Digest::of(b"toolchain"),
        program: path(b"/usr/bin/gcc"),
        argv: words(&[b"gcc", b"-O2", b"-Iinclude", b"-MD", b"-c", b"src/x.c", b"-o", b"out/x.o"]),
        env: [("LANG", "C"), ("SOURCE_DATE_EPOCH", "1"), ("CPATH", "")]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .into(),
        cwd: path(b"/home/u/w"),
        inputs: tree(&[
            (b"/home/u/w/src/x.c", file(b"int x;", false)),
            (b"/home/u/w/include", Entry::Directory),
            (b"/home/u/w/include/x.h", Entry::Symlink { target: b"../x.h".to_vec() }),
            (b"/home/u/w/x.h", file(b"", true)),
        ]),
        outputs: vec![output(b"/home/u/w/out/x.o", false), output(b"/home/u/w/out/x.su", true)],
    }
}

/// Bytes that are no text, look like lengths, or end a string elsewhere.
fn unusual() -> Action {
    Action {
        toolchain: Digest::from_bytes([0xff; 32]),
        program: path(b"/\x01/\xff\xfe"),
        argv: words(&[b"", b"\xff\xfe\x80", b"-D\n=\t\"", b"", "-Dü=☃".as_bytes(), b"\x01\0\0\0\0\0\0\0"]),
        env: [(b"A".to_vec(), Vec::new()), (b"\xff".to_vec(), b"==\n".to_vec())].into(),
        cwd: path(b"/ / \n"),
        inputs: tree(&[
            (b"/-", Entry::Symlink { target: b"\xff/../".to_vec() }),
            (b"/a b", Entry::File { digest: Digest::from_bytes([1; 32]), size: 1 << 30, executable: true }),
            (b"/a", Entry::Directory),
        ]),
        outputs: vec![output(b"/ / \n/\xff.o", true), output(b"/ / \n/\xff.o", false)],
    }
}

/// What is hashed, written as the documentation says.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64).0.extend(value);
        self
    }

    fn fixed(&mut self, digest: &[u8; 32]) -> &mut Self {
        self.0.extend(digest);
        self
    }

    fn under(&self, domain: &str) -> [u8; 32] {
        blake3::derive_key(domain, &self.0)
    }
}

fn tree_bytes(tree: &Tree) -> Writer {
    let mut writer = Writer::default();
    writer.number(tree.len() as u64);
    for (at, entry) in tree.iter() {
        writer.bytes(at.as_bytes());
        match entry {
            Entry::File { digest, size, executable } => {
                writer.number(1).fixed(digest.as_bytes()).number(*size).number(u64::from(*executable))
            }
            Entry::Symlink { target } => writer.number(2).bytes(target),
            Entry::Directory => writer.number(3),
        };
    }
    writer
}

fn action_bytes(action: &Action) -> Writer {
    let mut writer = Writer::default();
    writer.fixed(action.toolchain.as_bytes()).bytes(action.program.as_bytes());
    writer.number(action.argv.len() as u64);
    for word in &action.argv {
        writer.bytes(word);
    }
    writer.number(action.env.len() as u64);
    for (name, value) in &action.env {
        writer.bytes(name).bytes(value);
    }
    writer.bytes(action.cwd.as_bytes());
    writer.fixed(&tree_bytes(&action.inputs).under("barnraise tree v1"));
    writer.number(action.outputs.len() as u64);
    for output in &action.outputs {
        writer.bytes(output.path.as_bytes()).number(u64::from(output.optional));
    }
    writer
}

/// Reads back what was hashed. That it can be done without knowing anything else means that the encoding of an action
/// is that of no other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn count(&mut self) -> usize {
        usize::try_from(self.number()).expect("a count")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.count();
        self.take(length).to_vec()
    }

    fn path(&mut self) -> TreePath {
        TreePath::new(self.bytes()).expect("a good path")
    }

    fn digest(&mut self) -> Digest {
        Digest::from_bytes(self.take(32).try_into().expect("32 bytes"))
    }

    fn tree(&mut self) -> Tree {
        let mut tree = Tree::new();
        for _ in 0..self.count() {
            let at = self.path();
            let entry = match self.number() {
                1 => {
                    let (digest, size) = (self.digest(), self.number());
                    Entry::File { digest, size, executable: self.number() == 1 }
                }
                2 => Entry::Symlink { target: self.bytes() },
                _ => Entry::Directory,
            };
            tree.insert(at, entry).expect("it fits");
        }
        tree
    }

    /// The action, but for its inputs, of which only the digest is told.
    fn action(&mut self) -> (Action, Digest) {
        let (toolchain, program) = (self.digest(), self.path());
        let argv = (0..self.count()).map(|_| self.bytes()).collect();
        let env = (0..self.count()).map(|_| (self.bytes(), self.bytes())).collect();
        let (cwd, inputs) = (self.path(), self.digest());
        let outputs =
            (0..self.count()).map(|_| Output { path: self.path(), optional: self.number() == 1 }).collect();
        (Action { toolchain, program, argv, env, cwd, inputs: Arc::default(), outputs }, inputs)
    }
}

fn check_golden(action: &Action, expect: &str) {
    assert_eq!(*action.key().0.as_bytes(), action_bytes(action).under("barnraise action v1"), "{action:?}");
    assert_eq!(action.key().to_string(), expect, "{action:?}");
}

#[test]
fn golden_action_keys() {
    check_golden(&minimal(), "48b2a561beb27f71791a40455f28a723c533a6a5fbd5cd78b6a938f7a721e7ff");
    check_golden(&full(), "9e2bb175e5ac0543d21810c831baf1a9a99e1110132610d94f5b2e84df8d6855");
    check_golden(&unusual(), "a7b58bae022ef247a780207292c5d06202d9d0ba4a67c17404781761a25780f9");
}

#[test]
fn golden_tree_and_toolchain() {
    let check = |tree: &Tree, expect: &str| assert_eq!(tree.digest().to_string(), expect, "{tree:?}");
    check(&minimal().inputs, "711bee88b95477a957dfd145b6cee1571dd969e7f2dd9c0aa665fc6973a2197d");
    check(&full().inputs, "b49fd9ac554ffa38130fbadc646ed0b87dff515380683d51a559a18ea9c661a6");
    check(&unusual().inputs, "34747a04094e9dda138c6744371c2f363644345d204f812857087f4f9ce431e3");
    let empty =
        Toolchain { name: "any".into(), machine: String::new(), tree: Tree::new(), search_path: Vec::new() };
    assert_eq!(
        empty.digest().to_string(),
        "59d1f1f0a55bf8c6f37b3692739ecd03485a3cccd2643c499191e40a339655d5"
    );
}

#[test]
fn golden_manifest_keys() {
    let check = |stem: &Action, source: &Digest, expect: &str| {
        let mut bytes = Writer::default();
        bytes.fixed(stem.key().0.as_bytes()).fixed(source.as_bytes());
        let key = manifest_key(stem, source);
        assert_eq!(*key.as_bytes(), bytes.under("barnraise include manifest v2"));
        assert_eq!(key.to_string(), expect, "{stem:?}");
    };
    let source = Digest::of(b"int x;");
    check(&minimal(), &source, "bf06503fb86b881d389962a7c4430978d06ca8b06cf249b5d3e14713872772b2");
    let stem = Action { inputs: Arc::default(), ..full() };
    check(&stem, &source, "2bc5ed4f5255b6619a7f97482d453f8595f2f68b35b49a5ca6f6d3a14957a0a2");
    check(
        &stem,
        &stand_in_source(&Digest::of(b"own"), &source),
        "0ee8accbad01ea610bb131c3698ce4237dcc3ecd9eac2d6d6e2b5cb1729fe0ed",
    );
}

#[test]
fn golden_office_keys() {
    let check = |key: EntryKey, domain: &str, of: &Digest, expect: &str| {
        let mut bytes = Writer::default();
        let mut digest = bytes.fixed(of.as_bytes()).under(domain);
        // The last bit tells manifests from records.
        digest[15] = digest[15] & !1 | u8::from(domain.contains("manifest"));
        assert_eq!(*key.as_bytes(), digest[..16]);
        assert_eq!(data_encoding::HEXLOWER.encode(key.as_bytes()), expect);
    };
    let zero = Digest::from_bytes([0; 32]);
    check(
        EntryKey::record(&ActionKey(zero)),
        "barnraise office record v1",
        &zero,
        "08762c734f7b975a4b1078544f5b4532",
    );
    let key = full().key();
    check(EntryKey::record(&key), "barnraise office record v1", &key.0, "c7b0e4dd150b9c6bdc02b371652fd954");
    check(
        EntryKey::manifest(&key.0),
        "barnraise office manifest v1",
        &key.0,
        "e6bd92ae88e940d1bba1c13772cec513",
    );
}

#[test]
fn every_domain_is_another_and_is_written_down() {
    let page = include_str!("../../docs/cache-key.md");
    let mut seen = HashMap::new();
    for name in domain::ALL {
        assert_eq!(seen.insert(name, ()), None, "{name} twice");
        let (kind, version) = name.rsplit_once(" v").expect("a version ends the name");
        assert!(kind.starts_with("barnraise ") && version.parse::<u32>().is_ok(), "{name}");
        assert!(page.contains(&format!("`{name}`")), "docs/cache-key.md does not tell of {name}");
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(1), Just(b'/'), Just(b'='), any::<u8>()], 0..5)
}

fn any_path() -> impl Strategy<Value = TreePath> {
    let name = vec(prop_oneof![Just(b'a'), Just(b'-'), 1_u8..=255], 1..3);
    vec(name, 0..4).prop_filter_map("no path", |names| {
        let whole: Vec<u8> = names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect();
        TreePath::new(if whole.is_empty() { b"/".to_vec() } else { whole }).ok()
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (any::<[u8; 32]>(), 0..1_u64 << 30, any::<bool>()).prop_map(|(digest, size, executable)| {
            Entry::File { digest: Digest::from_bytes(digest), size, executable }
        }),
        vec(1_u8..=255, 1..4).prop_map(|target| Entry::Symlink { target }),
        Just(Entry::Directory),
    ]
}

fn any_tree() -> impl Strategy<Value = Tree> {
    vec((any_path(), any_entry()), 0..6).prop_map(|entries| {
        let mut tree = Tree::new();
        for (at, entry) in entries {
            // What does not fit is left out.
            drop(tree.insert(at, entry));
        }
        tree
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    let outputs = vec((any_path(), any::<bool>()), 0..3);
    let outputs = outputs.prop_map(|outputs| {
        outputs.into_iter().map(|(path, optional)| Output { path, optional }).collect::<Vec<_>>()
    });
    let env = vec((any_bytes(), any_bytes()), 0..3);
    let words = (vec(any_bytes(), 0..4), env, outputs);
    (any::<[u8; 32]>(), any_path(), words, any_path(), any_tree()).prop_map(
        |(toolchain, program, (argv, env, outputs), cwd, inputs)| Action {
            toolchain: Digest::from_bytes(toolchain),
            program,
            argv,
            env: env.into_iter().collect(),
            cwd,
            inputs: Arc::new(inputs),
            outputs,
        },
    )
}

/// A digest with one bit turned, for each of its bytes.
fn turned(digest: &Digest) -> impl Iterator<Item = Digest> + use<> {
    let bytes = *digest.as_bytes();
    (0..bytes.len()).map(move |at| {
        let mut turned = bytes;
        turned[at] ^= 1 << (at % 8);
        Digest::from_bytes(turned)
    })
}

/// Some bytes with one of them changed, taken out or put in, at every place.
fn nudged(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for at in 0..=bytes.len() {
        for new in [0, b'/', b'x'] {
            all.push([&bytes[..at], &[new], &bytes[at..]].concat());
        }
        if at < bytes.len() {
            all.push([&bytes[..at], &bytes[at + 1..]].concat());
            all.push([&bytes[..at], &[bytes[at] ^ 0x20], &bytes[at + 1..]].concat());
        }
    }
    all
}

fn nudged_path(path: &TreePath) -> impl Iterator<Item = TreePath> {
    nudged(path.as_bytes()).into_iter().filter_map(|bytes| TreePath::new(bytes).ok())
}

/// Two neighbours with a byte moved over the boundary between them.
fn moved(one: &[u8], two: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let right = one.split_last().map(|(last, rest)| (rest.to_vec(), [&[*last], two].concat()));
    let left = two.split_first().map(|(first, rest)| ([one, &[*first]].concat(), rest.to_vec()));
    right.into_iter().chain(left).collect()
}

/// The action with one small change, in every way and at every place.
fn changed(action: &Action) -> Vec<Action> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Action)| {
        let mut other = action.clone();
        change(&mut other);
        all.push(other);
    };
    turned(&action.toolchain).for_each(|digest| with(&|a| a.toolchain = digest));
    nudged_path(&action.program).for_each(|path| with(&|a| a.program = path.clone()));
    nudged_path(&action.cwd).for_each(|path| with(&|a| a.cwd = path.clone()));
    with(&|a| std::mem::swap(&mut a.program, &mut a.cwd));
    with(&|a| a.argv.push(Vec::new()));
    with(&|a| a.argv.reverse());
    for at in 0..action.argv.len() {
        nudged(&action.argv[at]).into_iter().for_each(|word| with(&|a| a.argv[at].clone_from(&word)));
        with(&|a| drop(a.argv.remove(at)));
        with(&|a| a.argv.insert(at, a.argv[at].clone()));
        if let Some(next) = action.argv.get(at + 1) {
            for (one, two) in moved(&action.argv[at], next) {
                with(&|a| a.argv.splice(at..at + 2, [one.clone(), two.clone()]).for_each(drop));
            }
            with(&|a| a.argv.splice(at..at + 2, [[&a.argv[at][..], next].concat()]).for_each(drop));
        }
    }
    for (name, value) in &action.env {
        with(&|a| drop(a.env.remove(name)));
        nudged(value)
            .into_iter()
            .for_each(|value| with(&|a| drop(a.env.insert(name.clone(), value.clone()))));
        for (one, two) in moved(name, value) {
            with(&|a| {
                a.env.remove(name);
                a.env.insert(one.clone(), two.clone());
            });
        }
        // From the environment to the arguments, which are told just before it.
        with(&|a| {
            a.env.remove(name);
            a.argv.extend([name.clone(), value.clone()]);
        });
    }
    for at in 0..action.outputs.len() {
        with(&|a| a.outputs[at].optional ^= true);
        with(&|a| drop(a.outputs.remove(at)));
        with(&|a| a.outputs.push(a.outputs[at].clone()));
        nudged_path(&action.outputs[at].path).for_each(|path| with(&|a| a.outputs[at].path = path.clone()));
    }
    with(&|a| a.outputs.reverse());
    changed_trees(&action.inputs).into_iter().for_each(|tree| with(&|a| a.inputs = tree.clone()));
    all
}

fn changed_trees(tree: &Tree) -> Vec<Arc<Tree>> {
    let entries: Vec<(TreePath, Entry)> =
        tree.iter().map(|(at, entry)| (at.clone(), entry.clone())).collect();
    let mut all = Vec::new();
    for at in 0..entries.len() {
        let mut others = entries.clone();
        let (path, entry) = others.remove(at);
        all.push(others.clone());
        let mut with = |path: TreePath, entry: Entry| {
            let mut changed = others.clone();
            changed.insert(at, (path, entry));
            all.push(changed);
        };
        nudged_path(&path).for_each(|path| with(path, entry.clone()));
        changed_entries(&entry).into_iter().for_each(|entry| with(path.clone(), entry));
    }
    let build = |entries: Vec<(TreePath, Entry)>| {
        let mut tree = Tree::new();
        entries.into_iter().try_for_each(|(at, entry)| tree.insert(at, entry)).ok()?;
        Some(Arc::new(tree))
    };
    all.into_iter().filter_map(build).collect()
}

fn changed_entries(entry: &Entry) -> Vec<Entry> {
    match entry {
        Entry::File { digest, size, executable } => {
            let (size, executable) = (*size, *executable);
            let other = |digest| Entry::File { digest, size, executable };
            let sizes = [Entry::File { digest: *digest, size: size + 1, executable }];
            let modes = [Entry::File { digest: *digest, size, executable: !executable }, Entry::Directory];
            turned(digest).map(other).chain(sizes).chain(modes).collect()
        }
        Entry::Symlink { target } => {
            let targets = nudged(target).into_iter().map(|target| Entry::Symlink { target });
            targets.chain([Entry::Directory]).collect()
        }
        Entry::Directory => vec![Entry::Symlink { target: b"x".to_vec() }],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_those_of_the_documented_encoding(action in any_action()) {
        prop_assert_eq!(*action.key().0.as_bytes(), action_bytes(&action).under("barnraise action v1"));
    }

    #[test]
    fn what_is_hashed_can_be_read_back(action in any_action()) {
        let bytes = tree_bytes(&action.inputs).0;
        let mut reader = Reader(&bytes);
        prop_assert_eq!(&reader.tree(), &*action.inputs);
        prop_assert!(reader.0.is_empty());
        let bytes = action_bytes(&action).0;
        let mut reader = Reader(&bytes);
        let (read, inputs) = reader.action();
        prop_assert!(reader.0.is_empty());
        prop_assert_eq!(inputs, action.inputs.digest());
        prop_assert_eq!(Action { inputs: action.inputs.clone(), ..read }, action);
    }

    /// Whatever is changed in an action, and wherever a byte is moved, the keys differ as the actions do.
    #[test]
    fn every_byte_counts(action in any_action()) {
        let mut by_key = HashMap::from([(action.key(), action.clone())]);
        for other in changed(&action) {
            let known = by_key.entry(other.key()).or_insert_with(|| other.clone());
            prop_assert_eq!(&*known, &other);
        }
        prop_assert!(by_key.len() > 32, "hardly anything was changed");
    }

    #[test]
    fn manifest_keys_tell_stems_and_sources_apart(action in any_action(), source in any::<[u8; 32]>()) {
        let source = Digest::from_bytes(source);
        let stem = Action { inputs: Arc::default(), ..action };
        let mut keys = vec![manifest_key(&stem, &source), stem.key().0, stand_in_source(&source, &source)];
        keys.extend(turned(&source).map(|source| manifest_key(&stem, &source)));
        keys.push(manifest_key(&Action { argv: [&stem.argv[..], &[Vec::new()]].concat(), ..stem }, &source));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), count);
    }
}
