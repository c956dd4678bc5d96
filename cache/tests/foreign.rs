//! Entries of other tools.

mod support;

use std::io::Read as _;

use barn_cache::{ForeignKey, Store, StoreError};
use barn_protocol::{ActionKey, Digest};
use support::{files, key, name, noise, open, signed, small, uncleanly};

fn put(store: &Store, key: &ForeignKey, bytes: &[u8]) {
    let blob = store.put_bytes(bytes).unwrap();
    store.put_foreign(key, &blob.digest).unwrap();
}

fn get(store: &Store, key: &ForeignKey) -> Option<Vec<u8>> {
    let (mut file, size) = store.open_foreign(key)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, size);
    Some(bytes)
}

#[test]
fn names_are_apart_from_each_other_and_from_action_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = ForeignKey::new("a", b"bc");
    put(&store, &one, b"one");
    put(&store, &ForeignKey::new("ab", b"c"), b"two");
    assert_eq!(get(&store, &one).unwrap(), b"one");
    assert_eq!(get(&store, &ForeignKey::new("ab", b"c")).unwrap(), b"two");
    assert_eq!(get(&store, &ForeignKey::new("", b"abc")), None);
    // Whoever could choose the digest under which an entry is kept could still not make an action record of it.
    let digest = Digest::of(b"bc");
    store.put_record(&ActionKey(digest), &name("t"), &signed("s"), &[]).unwrap();
    assert_eq!(store.stat().foreign, 2);
    assert_eq!(store.stat().records, 1);
    assert!(store.drop_foreign(&one).unwrap());
    assert!(!store.drop_foreign(&one).unwrap());
    assert_eq!(get(&store, &one), None);
    assert_eq!(store.record(&ActionKey(digest)), Some(signed("s")));
}

#[test]
fn the_last_put_counts_even_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, gone) = (ForeignKey::new("n", b"kept"), ForeignKey::new("n", b"gone"));
    let store = open(dir.path());
    for bytes in [b"1", b"2", b"1", b"3"] {
        put(&store, &kept, bytes);
        put(&store, &gone, bytes);
    }
    store.drop_foreign(&gone).unwrap();
    drop(store);
    uncleanly(dir.path());
    let store = open(dir.path());
    assert_eq!(get(&store, &kept).unwrap(), b"3");
    assert_eq!(get(&store, &gone), None);
    assert_eq!(store.stat().foreign, 1);
}

#[test]
fn without_its_contents_an_entry_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let absent = store.put_foreign(&ForeignKey::new("n", b"k"), &Digest::of(b"absent"));
    assert!(matches!(absent, Err(StoreError::MissingBlob(_))));
    let key = ForeignKey::new("n", b"rotten");
    put(&store, &key, &noise(1, 9000));
    let file = files(&dir.path().join("blobs-v1")).pop().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, noise(2, 9000)).unwrap();
    assert_eq!(store.foreign(&key).unwrap().size, 9000, "not judged yet");
    assert_eq!(get(&store, &key), None);
    assert_eq!((store.stat().rotten, store.stat().blobs), (1, 0));
    let report = store.verify();
    assert_eq!((report.foreign, report.foreign_dropped), (1, 1));
    assert_eq!(store.stat().foreign, 0);
}

#[test]
fn a_damaged_line_of_the_journal_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let key = ForeignKey::new("n", b"k");
    put(&store, &key, b"contents");
    let journal = files(&dir.path().join("journal-v1")).pop().unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    assert_eq!(get(&store, &key), None);
    assert_eq!(store.stat().rotten, 1);
}

#[test]
fn entries_go_by_last_use_and_outlive_the_cleaning_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(12 * 4096)).unwrap();
    let entry = |n: u32| ForeignKey::new("n", &n.to_le_bytes());
    for n in 0..10 {
        put(&store, &entry(n), &noise(n, 4000));
    }
    assert!(get(&store, &entry(0)).is_some());
    for n in 10..16 {
        put(&store, &entry(n), &noise(n, 4000));
    }
    assert_eq!(get(&store, &entry(0)).unwrap(), noise(0, 4000), "it was used");
    assert_eq!(get(&store, &entry(1)), None);
    assert!(store.stat().bytes <= 12 * 4096);
    let blob = store.put_bytes(b"blob").unwrap().digest;
    let long = "x".repeat(20_000);
    for n in 0..600 {
        store.put_record(&key("same"), &name("t"), &signed(&format!("{n}{long}")), &[blob]).unwrap();
        assert!(get(&store, &entry(15)).is_some());
    }
    assert!(store.stat().journal_bytes < 6 << 20, "{:?}", store.stat());
    store.gc();
    assert_eq!(get(&store, &entry(15)).unwrap(), noise(15, 4000));
    drop(store);
    uncleanly(dir.path());
    let store = Store::open(dir.path(), small(12 * 4096)).unwrap();
    assert_eq!(get(&store, &entry(15)).unwrap(), noise(15, 4000));
}

#[test]
fn the_last_use_outlives_the_cleaning_of_the_journal_and_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let limits = small(10 * 4096);
    let entry = |n: u32| ForeignKey::new("n", &n.to_le_bytes());
    let store = Store::open(dir.path(), limits.clone()).unwrap();
    for n in 0..8 {
        put(&store, &entry(n), &noise(n, 4000));
    }
    assert!(get(&store, &entry(0)).is_some());
    drop(store);
    // What says in the journal that it was used is cleaned away; the entry itself must say so then.
    Store::open(dir.path(), limits.clone()).unwrap().gc();
    uncleanly(dir.path());
    let store = Store::open(dir.path(), limits).unwrap();
    for n in 8..12 {
        put(&store, &entry(n), &noise(n, 4000));
    }
    assert_eq!(get(&store, &entry(0)).unwrap(), noise(0, 4000));
    assert_eq!(get(&store, &entry(1)), None);
}
