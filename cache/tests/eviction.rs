//! What goes, what stays, and in which order.

mod support;

use std::{
    collections::HashMap,
    io::{Read, Seek, SeekFrom, Write},
};

use barn_cache::Store;
use barn_protocol::Digest;
use support::{key, name, noise, open, signed, small, uncleanly};

#[test]
fn removed_toolchains_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(60 << 10)).unwrap();
    let put = |toolchain: &str, n: u32| {
        let blob = store.put_bytes(&noise(n, 4000)).unwrap().digest;
        store.put_record(&key(&n.to_string()), &name(toolchain), &signed("s"), &[blob]).unwrap();
        blob
    };
    let old = put("kept", 0);
    let tool = store.put_bytes(b"compiler").unwrap().digest;
    store.pin(&name("removed"), &[tool]).unwrap();
    let newer: Vec<_> = (1..=3).map(|n| put("removed", n)).collect();
    store.unpin(&name("removed")).unwrap();
    assert!(store.contains(&newer[0]), "not before space is needed");
    for n in 10..20 {
        put("kept", n);
    }
    assert!(store.contains(&old), "used longer ago, but its toolchain is here");
    assert!(newer.iter().chain([&tool]).any(|blob| !store.contains(blob)));
    store.gc();
    assert!(newer.iter().chain([&tool]).all(|blob| !store.contains(blob)));
    assert!(store.contains(&old));
}

#[test]
fn a_timer_does_the_same_in_bounded_turns() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(1 << 30)).unwrap();
    for n in 0..6000_u32 {
        store.put_bytes(&n.to_le_bytes()).unwrap();
    }
    assert_eq!(store.tidy().items, 0, "it is under the limit");
    drop(store);
    let store = Store::open(dir.path(), small(100 * 4096)).unwrap();
    let first = store.tidy().items;
    assert!(0 < first && first < 5900, "{first} in one turn");
    let turns = (0..100).position(|_| store.tidy().items == 0).expect("the work ends");
    assert!(turns > 0 && store.stat().bytes <= 100 * 4096, "{:?}", store.stat());
}

#[test]
fn use_keeps_a_blob_even_across_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let limits = small(10 * 4096);
    let blob = |n: u32| Digest::of(&noise(n, 4000));
    let store = Store::open(dir.path(), limits.clone()).unwrap();
    for n in 0..10 {
        store.put_bytes(&noise(n, 4000)).unwrap();
    }
    store.read_blob(&blob(0)).unwrap();
    drop(store);
    uncleanly(dir.path());
    let store = Store::open(dir.path(), limits).unwrap();
    for n in 10..15 {
        store.put_bytes(&noise(n, 4000)).unwrap();
    }
    let there: Vec<_> = (0..15).filter(|n| store.contains(&blob(*n))).collect();
    assert_eq!(there, [0, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
}

#[test]
fn the_journal_is_cleaned_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = store.put_bytes(b"blob").unwrap().digest;
    store.pin(&name("t"), &[blob]).unwrap();
    store.put_manifest(&name("m"), &name("t"), b"manifest").unwrap();
    store.put_record(&key("kept"), &name("t"), &signed("kept"), &[blob]).unwrap();
    let long = "x".repeat(20_000);
    for n in 0..1000 {
        store.put_record(&key("same"), &name("t"), &signed(&format!("{n}{long}")), &[blob]).unwrap();
    }
    assert!(store.stat().journal_bytes < 6 << 20, "{:?}", store.stat());
    let check = |store: &Store| {
        assert_eq!(store.record(&key("same")), Some(signed(&format!("999{long}"))));
        assert_eq!(store.record(&key("kept")), Some(signed("kept")));
        assert_eq!(store.manifests(&name("m")), [b"manifest"]);
        assert_eq!(store.stat().pinned_bytes, 4096);
    };
    check(&store);
    store.gc();
    assert!(store.stat().journal_bytes < 30_000, "{:?}", store.stat());
    check(&store);
    drop(store);
    uncleanly(dir.path());
    check(&open(dir.path()));
}

#[test]
fn a_reader_outlives_its_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = store.put_bytes(&noise(1, 100_000)).unwrap();
    let mut file = store.open_blob(&blob.digest).unwrap();
    store.clear();
    assert!(!store.contains(&blob.digest));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, noise(1, 100_000));
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"x").expect_err("it is open for reading only");
}

/// In a store much larger than a sample the order of use is kept roughly; here is how roughly.
#[test]
fn in_a_large_store_what_is_used_stays() {
    let dir = tempfile::tempdir().unwrap();
    let blob = |n: u32| Digest::of(&n.to_le_bytes());
    let store = Store::open(dir.path(), small(2000 * 4096)).unwrap();
    for n in 0..2000_u32 {
        store.put_bytes(&n.to_le_bytes()).unwrap();
    }
    for n in (0..2000).step_by(4) {
        store.read_blob(&blob(n)).unwrap();
    }
    for n in 2000..3000_u32 {
        store.put_bytes(&n.to_le_bytes()).unwrap();
    }
    let there =
        |numbers: &mut dyn Iterator<Item = u32>| numbers.filter(|n| store.contains(&blob(*n))).count();
    let used = there(&mut (0..2000).step_by(4));
    let new = there(&mut (2000..3000));
    let unused = there(&mut (0..2000).filter(|n| n % 4 != 0));
    assert_eq!(used + new + unused, 2000);
    assert!(
        used >= 490 && new >= 990,
        "{used} of 500 used, {new} of 1000 new, {unused} of 1500 unused are there"
    );
}

#[test]
fn pinned_blobs_stay_over_the_limit_and_collections_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(10 * 4096)).unwrap();
    let blobs: Vec<_> = (0..700_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    store.pin(&name("t"), &blobs).unwrap();
    for n in 0..700_u32 {
        store.put_bytes(&n.to_le_bytes()).unwrap();
    }
    assert_eq!(store.gc().items, 0);
    for n in 700..800_u32 {
        store.put_bytes(&n.to_le_bytes()).unwrap();
    }
    store.clear();
    assert!(blobs.iter().all(|blob| store.contains(blob)));
    assert_eq!((store.stat().blobs, store.stat().pinned_bytes), (700, 700 * 4096));
    store.unpin(&name("t")).unwrap();
    assert_eq!(store.gc().items, 700);
}

#[test]
fn a_use_saves_even_what_was_already_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(30 * 4096)).unwrap();
    let blob = |n: u32| Digest::of(&n.to_le_bytes());
    let put = |n: u32| store.put_bytes(&n.to_le_bytes()).unwrap();
    // The last of these takes a sample, chooses the oldest four, and removes the first of them.
    for n in 0..31 {
        put(n);
    }
    assert!(!store.contains(&blob(0)));
    store.read_blob(&blob(1)).unwrap();
    store.pin(&name("t"), &[blob(2)]).unwrap();
    put(31);
    let there = [1, 2, 3, 4].map(|n| store.contains(&blob(n)));
    assert_eq!(there, [true, true, false, true]);
}

/// What two compilers made alike stays when one of them goes, whichever was the last to make it.
#[test]
fn what_several_compilers_made_stays_when_one_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), small(1 << 30)).unwrap();
    let (gone, here) = (name("gone"), name("here"));
    let alike = store.put_bytes(b"alike").unwrap().digest;
    let own = store.put_bytes(b"of the other alone").unwrap().digest;
    store.name_installed(&[gone].into()).unwrap();
    store.put_record(&key("here"), &here, &signed("s"), &[alike]).unwrap();
    store.put_record(&key("gone"), &gone, &signed("s"), &[alike, own]).unwrap();
    for crash in [false, true] {
        store.name_installed(&[gone, here].into()).unwrap();
        store.name_installed(&[here].into()).unwrap();
        if crash {
            drop(store);
            uncleanly(dir.path());
            store = Store::open(dir.path(), small(1 << 30)).unwrap();
        }
        store.gc();
        assert!(store.record(&key("here")).is_some(), "crash: {crash}");
        assert!(store.record(&key("gone")).is_none() && !store.contains(&own), "crash: {crash}");
        store.put_bytes(b"of the other alone").unwrap();
        store.put_record(&key("gone"), &gone, &signed("s"), &[own, alike]).unwrap();
    }
    // Nor is it kept for the sake of one that goes later than the other.
    let pinned = store.put_bytes(b"a part of both").unwrap().digest;
    [gone, here].iter().for_each(|owner| store.pin(owner, &[pinned]).unwrap());
    for owner in [gone, here] {
        assert!(store.contains(&pinned));
        store.unpin(&owner).unwrap();
        store.gc();
    }
    assert!(!store.contains(&pinned));
}

/// Of compilers that were installed and are not any more, everything goes first; of those that are, nothing is kept
/// longer for it; and one that comes back is like any other.
#[test]
fn what_belongs_to_compilers_no_longer_installed_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small(1 << 30)).unwrap();
    let (gone, here) = (name("gone"), name("here"));
    let installed =
        |toolchains: &[Digest]| store.name_installed(&toolchains.iter().copied().collect()).unwrap();
    installed(&[gone, here]);
    let mut digests = HashMap::new();
    for n in 0..40 {
        let toolchain = if n % 2 == 0 { here } else { gone };
        let blob = store.put_bytes(&noise(n, 3000)).unwrap();
        store.put_record(&key(&n.to_string()), &toolchain, &signed("s"), &[blob.digest]).unwrap();
        digests.insert(n, blob.digest);
    }
    let kept = |store: &Store, parity: u32| {
        (0..40).filter(|n| n % 2 == parity && store.record(&key(&n.to_string())).is_some()).count()
    };
    installed(&[here]);
    installed(&[here, gone]);
    assert_eq!(store.gc().items, 0, "it is back");
    installed(&[here]);
    // What is gone was used last.
    assert_eq!((kept(&store, 0), kept(&store, 1)), (20, 20));
    store.gc_to(store.stat().bytes * 6 / 10);
    assert_eq!((kept(&store, 0), kept(&store, 1)), (20, 0));
    // The same after a crash.
    installed(&[]);
    drop(store);
    uncleanly(dir.path());
    let store = Store::open(dir.path(), small(1 << 30)).unwrap();
    store.gc();
    assert_eq!(store.stat().records, 0);
    assert!(digests.values().all(|digest| !store.contains(digest)));
}
