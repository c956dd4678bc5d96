//! The store against a trivial model, under random operations, reopening included.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
};

use barn_cache::{ForeignKey, Limits, MANIFESTS_PER_KEY_MAX, Store, StoreError};
use barn_protocol::Digest;
use proptest::prelude::*;
use support::{key, name, roomy, signed, small, uncleanly};

/// Few names, so that operations meet.
const NAMES: u8 = 12;

#[derive(Debug, Clone)]
enum Op {
    PutBytes(u8),
    PutThroughWriter(u8),
    DropWriter(u8),
    Read(u8),
    Publish { blob: u8, executable: bool },
    PutRecord { key: u8, toolchain: u8, version: u8, blobs: Vec<u8> },
    Record(u8),
    PutManifest { key: u8, toolchain: u8, contents: u8 },
    Manifests(u8),
    PutForeign { key: u8, blob: u8 },
    Foreign(u8),
    DropForeign(u8),
    Pin { owner: u8, blobs: Vec<u8> },
    Unpin(u8),
    Gc,
    Clear,
    Verify,
    Reopen,
    ReopenAfterCrash,
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0..NAMES;
    let few = || prop::collection::vec(0..NAMES, 0..4);
    prop_oneof![
        6 => n().prop_map(Op::PutBytes),
        2 => n().prop_map(Op::PutThroughWriter),
        1 => n().prop_map(Op::DropWriter),
        6 => n().prop_map(Op::Read),
        2 => (n(), any::<bool>()).prop_map(|(blob, executable)| Op::Publish { blob, executable }),
        6 => (n(), 0..3_u8, 0..3_u8, few())
            .prop_map(|(key, toolchain, version, blobs)| Op::PutRecord { key, toolchain, version, blobs }),
        6 => n().prop_map(Op::Record),
        4 => (0..2_u8, 0..3_u8, any::<u8>())
            .prop_map(|(key, toolchain, contents)| Op::PutManifest { key, toolchain, contents }),
        3 => (0..2_u8).prop_map(Op::Manifests),
        5 => (0..4_u8, n()).prop_map(|(key, blob)| Op::PutForeign { key, blob }),
        5 => (0..4_u8).prop_map(Op::Foreign),
        1 => (0..4_u8).prop_map(Op::DropForeign),
        1 => (0..3_u8, few()).prop_map(|(owner, blobs)| Op::Pin { owner, blobs }),
        1 => (0..3_u8).prop_map(Op::Unpin),
        1 => Just(Op::Gc),
        1 => Just(Op::Clear),
        1 => Just(Op::Verify),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReopenAfterCrash),
    ]
}

/// Sizes from nothing to several blocks.
fn contents(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 1000]
}

fn blob(n: u8) -> Digest {
    Digest::of(&contents(n))
}

fn foreign(n: u8) -> ForeignKey {
    ForeignKey::new("model", &[n])
}

fn manifest(n: u8) -> Vec<u8> {
    format!("manifest {n}").into_bytes()
}

fn text(version: u8, blobs: &[u8]) -> String {
    format!("version {version} {blobs:?}")
}

/// What was put and not taken back. A store without limits has exactly that; any other has a part of it.
#[derive(Default)]
struct Model {
    blobs: BTreeSet<u8>,
    /// The record last put under a key, and its blobs.
    records: BTreeMap<u8, (String, Vec<u8>)>,
    manifests: BTreeMap<u8, Vec<u8>>,
    foreign: BTreeMap<u8, u8>,
    pins: BTreeMap<u8, Vec<u8>>,
}

impl Model {
    fn is_pinned(&self, blob: u8) -> bool {
        self.pins.values().any(|blobs| blobs.contains(&blob))
    }
}

struct Run {
    dir: tempfile::TempDir,
    limits: Limits,
    store: Option<Store>,
    model: Model,
    /// Whether the store has everything the model has.
    complete: bool,
}

impl Run {
    fn new(limits: Limits, complete: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(Store::open(dir.path(), limits.clone()).unwrap());
        Self { dir, limits, store, model: Model::default(), complete }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// A store may have lost what the model has if it has limits, but never has anything else.
    fn check<T: PartialEq + std::fmt::Debug>(&self, found: Option<T>, expected: Option<T>) {
        if self.complete || found.is_some() {
            assert_eq!(found, expected);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::PutBytes(n) => {
                let put = self.store().put_bytes(&contents(*n)).unwrap();
                assert_eq!((put.digest, put.size), (blob(*n), contents(*n).len() as u64));
                self.model.blobs.insert(*n);
            }
            Op::PutThroughWriter(n) => self.put_through_writer(*n),
            Op::DropWriter(n) => {
                self.store().writer().unwrap().write_all(&contents(*n)).unwrap();
            }
            Op::Read(n) => self.read(*n),
            Op::Publish { blob: n, executable } => {
                let path = self.store().blob_path(&blob(*n), *executable);
                let expected = self.model.blobs.contains(n).then(|| contents(*n));
                self.check(path.map(|p| std::fs::read(p).unwrap()), expected);
            }
            Op::PutRecord { key: k, toolchain, version, blobs } => {
                self.put_record(*k, *toolchain, *version, blobs);
            }
            Op::Record(k) => {
                let expected = self.model.records.get(k).map(|(text, _)| signed(text));
                self.check(self.store().record(&key(&k.to_string())), expected);
            }
            Op::PutManifest { key, toolchain, contents } => {
                let toolchain = name(&format!("toolchain {toolchain}"));
                self.store().put_manifest(&name(&key.to_string()), &toolchain, &manifest(*contents)).unwrap();
                let list = self.model.manifests.entry(*key).or_default();
                list.retain(|c| c != contents);
                list.insert(0, *contents);
                list.truncate(MANIFESTS_PER_KEY_MAX);
            }
            Op::Manifests(key) => self.manifests(*key),
            Op::PutForeign { key, blob: n } => {
                let there = self.store().contains(&blob(*n));
                match self.store().put_foreign(&foreign(*key), &blob(*n)) {
                    Ok(()) => {
                        assert!(there);
                        self.model.foreign.insert(*key, *n);
                    }
                    Err(StoreError::MissingBlob(_)) => assert!(!there),
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Foreign(key) => self.foreign(*key),
            Op::DropForeign(key) => {
                let there = self.store().foreign(&foreign(*key)).is_some();
                assert_eq!(self.store().drop_foreign(&foreign(*key)).unwrap(), there);
                // What was evicted before it was dropped may come back after a crash.
                if there {
                    self.model.foreign.remove(key);
                }
            }
            Op::Pin { owner, blobs } => {
                let digests: Vec<_> = blobs.iter().map(|n| blob(*n)).collect();
                self.store().pin(&name(&format!("toolchain {owner}")), &digests).unwrap();
                self.model.pins.insert(*owner, blobs.clone());
            }
            Op::Unpin(owner) => {
                self.store().unpin(&name(&format!("toolchain {owner}"))).unwrap();
                self.model.pins.remove(owner);
            }
            Op::Gc => {
                // It takes what removed toolchains left, which the model does not follow.
                self.store().gc();
                self.complete = false;
            }
            Op::Clear => self.clear(),
            Op::Verify => {
                let report = self.store().verify();
                assert_eq!((report.blobs_dropped, report.blobs_found), (0, 0));
            }
            Op::Reopen => self.reopen(false),
            Op::ReopenAfterCrash => self.reopen(true),
        }
    }

    fn put_through_writer(&mut self, n: u8) {
        let mut writer = self.store().writer().unwrap();
        for piece in contents(n).chunks(700) {
            writer.write_all(piece).unwrap();
        }
        writer.finish_as(&blob(n)).unwrap();
        self.model.blobs.insert(n);
        let mut other = self.store().writer().unwrap();
        other.write_all(b"something else").unwrap();
        assert!(matches!(other.finish_as(&blob(n)), Err(StoreError::Mismatch { .. })));
        assert!(!self.store().contains(&Digest::of(b"something else")));
    }

    fn read(&self, n: u8) {
        let expected = self.model.blobs.contains(&n).then(|| contents(n));
        let opened = self.store().open_blob(&blob(n)).map(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert_eq!(opened.is_some(), self.store().contains(&blob(n)));
        assert_eq!(opened, self.store().read_blob(&blob(n)));
        self.check(opened, expected);
    }

    fn put_record(&mut self, k: u8, toolchain: u8, version: u8, blobs: &[u8]) {
        let digests: Vec<_> = blobs.iter().map(|n| blob(*n)).collect();
        let all_there = digests.iter().all(|d| self.store().contains(d));
        let text = text(version, blobs);
        let toolchain = name(&format!("toolchain {toolchain}"));
        match self.store().put_record(&key(&k.to_string()), &toolchain, &signed(&text), &digests) {
            Ok(()) => {
                assert!(all_there);
                self.model.records.insert(k, (text, blobs.to_vec()));
            }
            Err(StoreError::MissingBlob(_)) => assert!(!all_there),
            Err(other) => panic!("{other}"),
        }
    }

    fn manifests(&self, key: u8) {
        let expected: Vec<_> =
            self.model.manifests.get(&key).into_iter().flatten().map(|c| manifest(*c)).collect();
        let found = self.store().manifests(&name(&key.to_string()));
        if self.complete {
            assert_eq!(found, expected);
        } else {
            let mut rest = expected.iter();
            assert!(found.iter().all(|f| rest.any(|e| e == f)), "a part of the list, in its order");
        }
    }

    fn foreign(&self, key: u8) {
        let expected = self.model.foreign.get(&key).map(|n| contents(*n));
        let found = self.store().open_foreign(&foreign(key)).map(|(mut file, size)| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, size);
            bytes
        });
        self.check(found, expected);
    }

    fn clear(&mut self) {
        self.store().clear();
        let model = &mut self.model;
        let pins = &model.pins;
        model.blobs.retain(|n| pins.values().any(|blobs| blobs.contains(n)));
        model.records.clear();
        model.manifests.clear();
        model.foreign.clear();
        let stat = self.store().stat();
        assert_eq!((stat.records, stat.manifests, stat.foreign), (0, 0, 0));
        assert_eq!(stat.bytes, stat.pinned_bytes);
    }

    fn reopen(&mut self, crash: bool) {
        let before = self.store().stat();
        self.store = None;
        if crash {
            uncleanly(self.dir.path());
        }
        self.store = Some(Store::open(self.dir.path(), self.limits.clone()).unwrap());
        let after = self.store().stat();
        assert_eq!(after.paused, None);
        assert_eq!((after.blobs, after.pinned_bytes), (before.blobs, before.pinned_bytes));
        // After a crash, records that were evicted but not yet cleaned out of the journal come back: they are
        // still true, and counted.
        if !crash || self.complete {
            assert_eq!(
                (after.records, after.foreign, after.bytes),
                (before.records, before.foreign, before.bytes)
            );
        }
    }

    /// What must hold after every operation.
    fn invariants(&self) {
        let stat = self.store().stat();
        assert_eq!(stat.paused, None);
        assert_eq!(stat.rotten, 0);
        assert!(stat.bytes <= stat.bytes_max.max(stat.pinned_bytes), "{stat:?}");
    }

    /// What must hold at the end: what was pinned when it was put is still there.
    fn finish(&self, pinned: &BTreeSet<u8>) {
        for n in pinned {
            assert_eq!(self.store().read_blob(&blob(*n)), Some(contents(*n)), "blob {n} is pinned");
        }
        for n in 0..NAMES {
            self.read(n);
            self.foreign(n);
        }
        let left = support::files(&self.dir.path().join("tmp-v1"));
        assert_eq!(left, Vec::<std::path::PathBuf>::new());
    }
}

fn run(ops: &[Op], limits: Limits, complete: bool) {
    let mut run = Run::new(limits, complete);
    // Blobs that were there at a time when they were pinned, and have been pinned ever since.
    let mut pinned = BTreeSet::new();
    for op in ops {
        run.apply(op);
        run.invariants();
        pinned.retain(|n| run.model.is_pinned(*n));
        pinned.extend((0..NAMES).filter(|n| run.model.is_pinned(*n) && run.store().contains(&blob(*n))));
    }
    run.finish(&pinned);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn without_limits_it_is_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(&ops, roomy(), true);
    }

    #[test]
    fn within_limits_it_is_a_part_of_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(&ops, small(40 << 10), false);
    }
}
