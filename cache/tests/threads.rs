//! Readers, writers and eviction at the same time.

mod support;

use std::{
    io::Read,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use barn_cache::Store;
use barn_protocol::Digest;
use support::{key, name, signed, small};

const BLOBS: u64 = 64;
const ROUNDS: u64 = 400;

fn contents(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(3000)
}

fn put(store: &Store, n: u64) {
    let blob = store.put_bytes(&contents(n)).unwrap();
    match store.put_record(&key(&n.to_string()), &name("t"), &signed(&n.to_string()), &[blob.digest]) {
        Ok(()) | Err(barn_cache::StoreError::MissingBlob(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

/// Reads one blob by whatever way; whether it was there.
fn read(store: &Store, n: u64, way: u64) -> bool {
    let digest = Digest::of(&contents(n));
    let found = match way % 4 {
        0 => store.read_blob(&digest),
        1 => store.blob_path(&digest, n.is_multiple_of(2)).and_then(|path| std::fs::read(path).ok()),
        2 => {
            let record = store.record(&key(&n.to_string()));
            assert!(record.is_none() || record == Some(signed(&n.to_string())));
            return record.is_some();
        }
        _ => store.open_blob(&digest).map(|mut file| {
            // The blob may go now; the reader still finishes.
            thread::yield_now();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        }),
    };
    assert!(found.is_none() || found == Some(contents(n)), "never anything else");
    found.is_some()
}

#[test]
fn eviction_races_readers() {
    let dir = tempfile::tempdir().unwrap();
    // Room for about a third of the blobs, and one that is pinned.
    let store = Store::open(dir.path(), small(600 << 10)).unwrap();
    let pinned = BLOBS + 1;
    store.pin(&name("t"), &[Digest::of(&contents(pinned))]).unwrap();
    put(&store, pinned);
    let hits = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..3 {
            let store = store.clone();
            scope.spawn(move || (0..ROUNDS).for_each(|round| put(&store, (round * 7 + thread * 3) % BLOBS)));
        }
        for thread in 0..3 {
            let (store, hits) = (store.clone(), &hits);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    hits.fetch_add(
                        read(&store, (round * 5 + thread) % BLOBS, round).into(),
                        Ordering::Relaxed,
                    );
                    assert!(read(&store, pinned, 3), "pinned");
                }
            });
        }
        let store = store.clone();
        scope.spawn(move || {
            for _ in 0..10 {
                store.gc();
                store.verify();
            }
        });
    });
    let stat = store.stat();
    assert!(stat.evicted > 0 && hits.into_inner() > 0, "both happened: {stat:?}");
    assert_eq!((stat.rotten, &stat.paused), (0, &None));
    assert!(stat.bytes <= stat.bytes_max, "{stat:?}");
    let report = store.verify();
    assert_eq!((report.blobs_dropped, report.blobs_found), (0, 0), "index and disk agree");
    drop(store);
    support::uncleanly(dir.path());
    let again = Store::open(dir.path(), small(600 << 10)).unwrap();
    assert_eq!(again.stat().blobs, stat.blobs);
}
