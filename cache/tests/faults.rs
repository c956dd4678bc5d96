//! Damage, failures and misuse: every one is a miss, an error or a refusal, never a wrong object.

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use barn_cache::{Limits, OpenError, RECORD_BYTES_MAX, Store, StoreError};
use barn_protocol::{Digest, limits::TOOLCHAIN_ENTRIES_MAX};
use support::{files, key, name, noise, open, quick_dir, roomy, signed, uncleanly};

const TOOLCHAIN: &str = "toolchain";

/// What the small store of these tests has: three blobs, two records, one manifest, one public file, one pin.
struct Contents {
    blobs: [&'static [u8]; 3],
}

const CONTENTS: Contents = Contents { blobs: [b"object", b"warnings", b"tool"] };

impl Contents {
    fn digest(&self, index: usize) -> Digest {
        Digest::of(self.blobs[index])
    }

    fn fill(&self, store: &Store) {
        for bytes in self.blobs {
            store.put_bytes(bytes).unwrap();
        }
        store.pin(&name(TOOLCHAIN), &[self.digest(2)]).unwrap();
        store.blob_path(&self.digest(2), true).unwrap();
        for (record, blobs) in [("one", vec![self.digest(0), self.digest(1)]), ("two", vec![self.digest(0)])]
        {
            store.put_record(&key(record), &name(TOOLCHAIN), &signed(record), &blobs).unwrap();
        }
        store.put_manifest(&name("source"), &name(TOOLCHAIN), b"manifest").unwrap();
    }

    /// How much of it a store has; what it has must be right, and records must have their blobs.
    fn count(&self, store: &Store) -> usize {
        let mut count = 0;
        for bytes in self.blobs {
            let digest = Digest::of(bytes);
            let read = store.read_blob(&digest);
            assert!(read.is_none() || read.as_deref() == Some(bytes));
            count += usize::from(read.is_some());
        }
        if let Some(path) = store.blob_path(&self.digest(2), true) {
            assert_eq!(fs::read(path).unwrap(), self.blobs[2]);
            count += 1;
        }
        for (record, blobs) in [("one", &[0, 1][..]), ("two", &[0])] {
            let found = store.record(&key(record));
            assert!(found.is_none() || found == Some(signed(record)));
            if found.is_some() {
                assert!(blobs.iter().all(|n| store.contains(&self.digest(*n))));
                count += 1;
            }
        }
        let manifests = store.manifests(&name("source"));
        assert!(manifests.is_empty() || manifests == [b"manifest".to_vec()]);
        count + manifests.len()
    }
}

const WHOLE: usize = 7;

/// Damages the small store's files at every byte, reopens it each time, and puts everything again.
fn damage_everywhere(bucket: &str) {
    let dir = tempfile::tempdir().unwrap();
    let filled = open(dir.path());
    CONTENTS.fill(&filled);
    assert_eq!(CONTENTS.count(&filled), WHOLE);
    drop(filled);
    for path in files(&dir.path().join(bucket)) {
        let whole = fs::read(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions();
        for position in 0..whole.len() {
            let mut bent = whole.clone();
            bent[position] ^= 1 << (position % 8);
            for bytes in [&whole[..position], &bent] {
                let copy = quick_dir();
                copy_tree(dir.path(), copy.path());
                let damaged = copy.path().join(path.strip_prefix(dir.path()).unwrap());
                fs::remove_file(&damaged).unwrap();
                fs::write(&damaged, bytes).unwrap();
                fs::set_permissions(&damaged, mode.clone()).unwrap();
                check_damaged(copy.path(), position % 2 == 0);
            }
        }
    }
}

fn check_damaged(dir: &Path, crashed: bool) {
    if crashed {
        uncleanly(dir);
    }
    let store = open(dir);
    assert!(CONTENTS.count(&store) < WHOLE, "the damage is noticed");
    store.verify();
    CONTENTS.fill(&store);
    assert_eq!(CONTENTS.count(&store), WHOLE, "what was lost can be put again");
    drop(store);
    assert_eq!(CONTENTS.count(&open(dir)), WHOLE);
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_tree(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn damaged_private_blobs_are_misses() {
    damage_everywhere("blobs-v1");
}

#[test]
fn damaged_public_blobs_are_misses() {
    damage_everywhere("toolchains-v1");
}

#[test]
fn a_damaged_journal_loses_entries_and_invents_none() {
    let dir = tempfile::tempdir().unwrap();
    CONTENTS.fill(&open(dir.path()));
    let path = files(&dir.path().join("journal-v1")).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for position in 0..whole.len() {
        let mut bent = whole.clone();
        bent[position] ^= 1 << (position % 8);
        for bytes in [&whole[..position], &bent] {
            let copy = quick_dir();
            copy_tree(dir.path(), copy.path());
            fs::write(copy.path().join(path.strip_prefix(dir.path()).unwrap()), bytes).unwrap();
            // A shortened journal is noticed by itself; a bent one only where the index is rebuilt.
            if bytes.len() == whole.len() {
                uncleanly(copy.path());
            }
            let store = open(copy.path());
            CONTENTS.count(&store);
            CONTENTS.fill(&store);
            assert_eq!(CONTENTS.count(&store), WHOLE);
        }
    }
}

#[test]
fn a_bent_record_under_a_good_index_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_record(&key("k"), &name(TOOLCHAIN), &signed("s"), &[]).unwrap();
    let path = files(&dir.path().join("journal-v1")).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.record(&key("k")), None);
    assert_eq!((store.stat().records, store.stat().rotten), (0, 1));
    store.put_record(&key("k"), &name(TOOLCHAIN), &signed("s"), &[]).unwrap();
    assert_eq!(store.record(&key("k")), Some(signed("s")));
}

#[test]
fn a_store_whose_pins_are_damaged_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    CONTENTS.fill(&open(dir.path()));
    let path = files(&dir.path().join("journal-v1")).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.iter_mut().for_each(|b| *b ^= 0x40);
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path());
    assert_eq!(CONTENTS.count(&store), 4, "the blobs are there, no records or manifests");
    assert_eq!((store.stat().records, store.stat().pinned_bytes), (0, 0));
}

#[test]
fn a_damaged_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    CONTENTS.fill(&open(dir.path()));
    for path in files(&dir.path().join("index-v1")) {
        for bytes in [&b""[..], b"nonsense", &[0xff; 70_000]] {
            let copy = quick_dir();
            copy_tree(dir.path(), copy.path());
            fs::write(copy.path().join(path.strip_prefix(dir.path()).unwrap()), bytes).unwrap();
            let store = open(copy.path());
            assert_eq!(CONTENTS.count(&store), WHOLE, "{}", path.display());
            assert_eq!(store.stat().pinned_bytes, 4096);
        }
    }
    fs::remove_dir_all(dir.path().join("index-v1")).unwrap();
    assert_eq!(CONTENTS.count(&open(dir.path())), WHOLE);
}

#[test]
fn files_deleted_by_hand_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    CONTENTS.fill(&store);
    for path in
        files(&dir.path().join("blobs-v1")).into_iter().chain(files(&dir.path().join("toolchains-v1")))
    {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(CONTENTS.count(&store), 0);
    CONTENTS.fill(&store);
    assert_eq!(CONTENTS.count(&store), WHOLE);
}

#[test]
fn a_directory_in_a_blobs_place_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    CONTENTS.fill(&store);
    let path = blob_file(dir.path(), &CONTENTS.digest(0));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(!store.contains(&CONTENTS.digest(0)));
    assert!(store.open_blob(&CONTENTS.digest(0)).is_none());
    assert_eq!(store.record(&key("two")), None);
}

/// A file that gives an input/output error when it is read, as a bad disk does.
#[test]
fn a_journal_segment_that_cannot_be_read_is_lost_and_the_others_are_not() {
    let failing = Path::new("/proc/self/mem");
    if !failing.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    CONTENTS.fill(&open(dir.path()));
    let segment = dir.path().join("journal-v1/0000000000000001");
    std::os::unix::fs::symlink(failing, &segment).unwrap();
    assert_eq!(fs::read(&segment).unwrap_err().raw_os_error(), Some(5));
    uncleanly(dir.path());
    let store = open(dir.path());
    assert_eq!(CONTENTS.count(&store), WHOLE);
    store.put_bytes(b"more").unwrap();
    assert_eq!(store.stat().paused, None);
}

#[test]
fn the_second_to_open_a_store_is_refused_and_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Store::open(dir.path(), roomy()).unwrap_err();
    assert!(matches!(second, OpenError::Locked(_)));
    let said = format!("another process uses the store {}\nhint: ", dir.path().display());
    assert!(second.to_string().starts_with(&said), "{second}");
    CONTENTS.fill(&first);
    drop(first);
    assert_eq!(CONTENTS.count(&open(dir.path())), WHOLE);
}

#[test]
fn leftovers_go_and_foreign_buckets_stay() {
    let dir = tempfile::tempdir().unwrap();
    CONTENTS.fill(&open(dir.path()));
    let strays = ["tmp-v1/half", "blobs-v1/ab/nonsense", "blobs-v1/ab/cdef.x", "journal-v1/note"];
    fs::create_dir_all(dir.path().join("blobs-v1/ab")).unwrap();
    fs::create_dir_all(dir.path().join("index-v1/00ff")).unwrap();
    fs::create_dir_all(dir.path().join("blobs-v2")).unwrap();
    for stray in strays {
        fs::write(dir.path().join(stray), b"x").unwrap();
    }
    uncleanly(dir.path());
    assert_eq!(CONTENTS.count(&open(dir.path())), WHOLE);
    for gone in strays.into_iter().chain(["index-v1/00ff"]) {
        assert!(!dir.path().join(gone).exists(), "{gone}");
    }
    assert!(dir.path().join("blobs-v2").exists());
}

#[test]
fn a_failed_write_pauses_once_and_the_store_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { retry_after: Duration::from_secs(3600), ..roomy() };
    let store = Store::open(dir.path(), limits).unwrap();
    store.put_bytes(b"before").unwrap();
    fs::rename(dir.path().join("tmp-v1"), dir.path().join("away")).unwrap();
    let error = store.put_bytes(b"during").unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(matches!(store.put_bytes(b"during"), Err(StoreError::Paused)));
    assert!(matches!(store.pin(&name("t"), &[]), Err(StoreError::Paused)));
    assert!(store.stat().paused.is_some());
    assert_eq!(store.read_blob(&Digest::of(b"before")).as_deref(), Some(&b"before"[..]));
    store.put_bytes(b"before").expect("what is here needs no writing");
    fs::rename(dir.path().join("away"), dir.path().join("tmp-v1")).unwrap();
    assert!(matches!(store.put_bytes(b"during"), Err(StoreError::Paused)), "not yet");
    drop(store);

    let store = open(dir.path());
    fs::rename(dir.path().join("tmp-v1"), dir.path().join("away")).unwrap();
    assert!(matches!(store.put_bytes(b"during"), Err(StoreError::Io { .. })));
    fs::rename(dir.path().join("away"), dir.path().join("tmp-v1")).unwrap();
    store.put_bytes(b"during").unwrap();
    assert_eq!(store.stat().paused, None);
}

#[test]
fn a_failed_append_pauses_and_the_next_entry_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_bytes(b"blob").unwrap();
    fs::rename(dir.path().join("journal-v1"), dir.path().join("away")).unwrap();
    let put = || store.put_record(&key("k"), &name("t"), &signed("s"), &[Digest::of(b"blob")]);
    assert!(matches!(put(), Err(StoreError::Io { .. })));
    assert_eq!(store.record(&key("k")), None);
    fs::rename(dir.path().join("away"), dir.path().join("journal-v1")).unwrap();
    put().unwrap();
    assert_eq!(store.record(&key("k")), Some(signed("s")));
}

#[test]
fn too_little_free_space_pauses_before_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits { free_bytes_min: u64::MAX, ..roomy() }).unwrap();
    assert!(matches!(store.put_bytes(b"x"), Err(StoreError::NoSpace { .. })));
    assert!(store.stat().paused.is_some());
    assert_eq!(files(&dir.path().join("tmp-v1")), Vec::<PathBuf>::new());
}

/// A tmpfs of 8 MiB, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where that is not allowed; where tests must be whole, that is a failure.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=0711", "barn-cache-test"])
            .arg(dir.path())
            .output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(Self(dir)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "cannot mount a small disk: {reason}");
        eprintln!("skipped: cannot mount a small disk: {reason}");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking());
    }
}

/// Puts blobs with records until that fails; how many of them succeeded.
fn fill_disk(store: &Store, first: u32) -> u32 {
    for n in first.. {
        let bytes = noise(n, 50_000);
        let put = store.put_bytes(&bytes).and_then(|blob| {
            store.put_record(&key(&n.to_string()), &name("t"), &signed(&n.to_string()), &[blob.digest])
        });
        if put.is_err() {
            return n - first;
        }
    }
    unreachable!("the disk is small")
}

#[test]
fn a_full_disk_stops_the_cache_until_space_returns() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let count = fill_disk(&store, 0);
    assert!(count > 20, "{count}");
    for n in 0..count {
        assert_eq!(store.read_blob(&Digest::of(&noise(n, 50_000))), Some(noise(n, 50_000)));
    }
    // Full to the last byte, again and again: errors, no damage.
    fs::write(disk.0.path().join("ballast"), vec![1; 8 << 20]).unwrap_err();
    for n in 0..50 {
        store.put_bytes(&noise(1000 + n, 3000)).unwrap_err();
        store.record(&key(&(n % count).to_string()));
    }
    assert!(store.stat().paused.is_some());
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    for path in files(&dir.join("blobs-v1")).into_iter().take(count as usize / 2) {
        fs::remove_file(path).unwrap();
    }
    let more = fill_disk(&store, 2000);
    assert!(more > 5, "writes again when space returns");
    drop(store);
    for n in 2000..2000 + more {
        let _ = fs::remove_file(blob_file(&dir, &Digest::of(&noise(n, 50_000))));
    }
    check_after_full_disk(&dir, count);
}

fn check_after_full_disk(dir: &Path, count: u32) {
    let store = open(dir);
    let mut there = 0;
    for n in 0..count {
        let read = store.read_blob(&Digest::of(&noise(n, 50_000)));
        assert!(read.is_none() || read == Some(noise(n, 50_000)));
        let record = store.record(&key(&n.to_string()));
        assert!(record.is_none() || (record == Some(signed(&n.to_string())) && read.is_some()));
        there += u32::from(read.is_some());
    }
    assert!(there >= count / 2 - 1, "{there} of {count}");
}

#[test]
fn a_store_on_a_full_disk_opens_paused() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("store");
    CONTENTS.fill(&open(&dir));
    uncleanly(&dir);
    let _ = fs::write(disk.0.path().join("ballast"), vec![1; 8 << 20]);
    let store = open(&dir);
    assert!(store.stat().paused.is_some());
    assert_eq!(CONTENTS.count(&store), 0, "everything is a miss");
    store.put_bytes(b"more").unwrap_err();
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    assert!(matches!(store.put_bytes(b"more"), Err(StoreError::Paused)), "the index is rebuilt first");
    store.wait();
    store.put_bytes(b"more").unwrap();
    assert_eq!(CONTENTS.count(&store), WHOLE, "and all of it is back");
}

/// A store that must be rebuilt is there at once: it finds nothing and takes nothing until it is whole again.
#[test]
fn a_store_serves_while_its_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let filled = open(dir.path());
    let digests: Vec<Digest> = (0..3000).map(|n| filled.put_bytes(&noise(n, 100)).unwrap().digest).collect();
    CONTENTS.fill(&filled);
    drop(filled);
    uncleanly(dir.path());
    let store = Store::open_soon(dir.path(), roomy()).unwrap();
    let (mut early, mut taken) = (0, 0);
    while store.is_rebuilding() {
        // The rebuild may end at any moment, but nothing is ever wrong.
        CONTENTS.count(&store);
        match store.put_bytes(b"early") {
            Err(StoreError::Paused) => early += 1,
            put => taken = put.map(|_| 1).unwrap(),
        }
        assert!(store.stat().paused.is_none());
    }
    assert!(early > 0, "3000 files are not listed between two calls");
    assert_eq!(CONTENTS.count(&store), WHOLE);
    assert!(digests.iter().all(|digest| store.contains(digest)));
    store.put_bytes(b"late").unwrap();
    drop(store);
    // One that is closed meanwhile is given up, and the next open begins anew.
    uncleanly(dir.path());
    drop(Store::open_soon(dir.path(), roomy()).unwrap());
    let store = open(dir.path());
    assert_eq!((CONTENTS.count(&store), store.stat().blobs), (WHOLE, 3000 + 3 + 1 + 1 + taken));
}

#[test]
fn limits_are_refusals_not_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long = barn_protocol::Identity::from_seed(&[1; 32]).sign("test", vec![0; RECORD_BYTES_MAX + 1]);
    assert!(matches!(store.put_record(&key("k"), &name("t"), &long, &[]), Err(StoreError::TooLarge(_))));
    let many = vec![name("b"); TOOLCHAIN_ENTRIES_MAX + 1];
    assert!(matches!(store.pin(&name("t"), &many), Err(StoreError::TooLarge(_))));
    store.pin(&name("t"), &many[1..]).unwrap();
    let missing = store.put_record(&key("k"), &name("t"), &signed("s"), &[name("b")]);
    assert!(matches!(missing, Err(StoreError::MissingBlob(_))));
    assert_eq!(store.stat().paused, None);
}

#[cfg(unix)]
#[test]
fn modes_keep_private_blobs_private_and_public_ones_reachable() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    CONTENTS.fill(&store);
    let root = dir.path().join("store");
    assert_eq!(mode(&root), 0o711);
    for private in ["blobs-v1", "journal-v1", "index-v1", "tmp-v1"] {
        assert_eq!(mode(&root.join(private)), 0o700, "{private}");
    }
    assert_eq!(mode(&blob_file(&root, &CONTENTS.digest(0))), 0o400);
    let executable = store.blob_path(&CONTENTS.digest(2), true).unwrap();
    let plain = store.blob_path(&CONTENTS.digest(2), false).unwrap();
    assert_eq!((mode(&executable), mode(&plain)), (0o555, 0o444));
    for dir in [executable.parent().unwrap(), executable.ancestors().nth(2).unwrap()] {
        assert_eq!(mode(dir), 0o711);
    }
    assert!(!blob_file(&root, &CONTENTS.digest(2)).exists(), "published by moving");
    assert_eq!(store.read_blob(&CONTENTS.digest(2)).as_deref(), Some(CONTENTS.blobs[2]));
}

#[test]
fn a_public_file_is_checked_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    CONTENTS.fill(&store);
    let path = store.blob_path(&CONTENTS.digest(2), true).unwrap();
    assert_eq!(store.blob_path(&CONTENTS.digest(2), true).as_ref(), Some(&path));
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"evil").unwrap();
    assert_eq!(store.blob_path(&CONTENTS.digest(2), true), None);
    assert!(!path.exists());
}

#[test]
fn verify_drops_the_rotten_and_finds_the_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    CONTENTS.fill(&store);
    let path = blob_file(dir.path(), &CONTENTS.digest(0));
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![0; whole.len()]).unwrap();
    let unknown = Digest::of(b"unknown");
    let unknown_path = blob_file(dir.path(), &unknown);
    fs::create_dir_all(unknown_path.parent().unwrap()).unwrap();
    fs::write(&unknown_path, b"unknown").unwrap();
    let report = store.verify();
    assert_eq!((report.blobs, report.blobs_dropped, report.blobs_found), (4, 1, 1));
    assert_eq!((report.records, report.records_dropped), (2, 2));
    assert!(store.contains(&unknown) && !store.contains(&CONTENTS.digest(0)));
    assert!(!path.exists());
}

#[test]
fn files_are_stored_from_their_beginning_whatever_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let mut file = tempfile::tempfile_in(dir.path()).unwrap();
        let bytes = noise(9, len);
        file.write_all(&bytes).unwrap();
        let blob = store.put_file(&file).unwrap();
        assert_eq!((blob.digest, blob.size), (Digest::of(&bytes), len as u64));
        assert_eq!(store.read_blob(&blob.digest), Some(bytes));
    }
    assert!(matches!(store.put_path(&dir.path().join("absent")), Err(StoreError::Source(_))));
    assert_eq!(store.stat().paused, None);
}

fn blob_file(dir: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    dir.join("blobs-v1").join(&name[..2]).join(&name[2..])
}
