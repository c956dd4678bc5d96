//! A process that writes to a store and is killed at random instants, again and again.
//!
//! The writer puts numbered entries, each a blob with a record, a manifest and a foreign entry, and says on its standard output
//! which number is done. After each kill the store must open, everything said to be done must be there, and
//! nothing may be wrong.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use barn_cache::{ForeignKey, Limits, Store};
use barn_protocol::{ActionKey, Digest, Identity, identity::SignedBytes};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Tells the program to be the writer, in the directory it names.
pub(crate) const DIR_VARIABLE: &str = "BARN_CACHE_KILL9_DIR";

/// Entries before the numbers begin anew in an empty store: opening after a crash lists them all.
const ENTRIES_MAX: u64 = 400;

/// A run of kills.
pub(crate) struct Plan {
    pub(crate) kills: u32,
    /// Where the instants come from; printed, so that a failure can be run again.
    pub(crate) seed: u64,
    /// A limit of some entries makes eviction part of the game, `None` keeps all.
    pub(crate) bytes_max: Option<u64>,
}

fn limits(bytes_max: Option<u64>) -> Limits {
    Limits { bytes_max: bytes_max.unwrap_or(1 << 40), free_bytes_min: 0, retry_after: Duration::ZERO }
}

fn name(kind: &str, n: u64) -> Digest {
    Digest::of(format!("{kind} {n}").as_bytes())
}

fn foreign(n: u64) -> ForeignKey {
    ForeignKey::new("kill9", &n.to_le_bytes())
}

fn contents(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(usize::try_from(n % 40).unwrap() * 100 + 1)
}

fn signed(n: u64) -> SignedBytes {
    Identity::from_seed(&[3; 32]).sign("kill9", vec![u8::try_from(n % 251).unwrap(); 300])
}

/// The writer: puts entries from `first` on until it is killed.
pub(crate) fn write_forever(dir: &Path) {
    let mut words = fs::read_to_string(dir.join("plan")).unwrap();
    let bytes_max = words.split_off(words.find(' ').unwrap());
    let first: u64 = words.parse().unwrap();
    let store = Store::open(&dir.join("store"), limits(bytes_max.trim().parse().ok())).unwrap();
    let mut out = std::io::stdout().lock();
    for n in first.. {
        put(&store, n);
        writeln!(out, "done {n}").unwrap();
        out.flush().unwrap();
    }
}

fn put(store: &Store, n: u64) {
    let toolchain = name("toolchain", n % 3);
    let blob = store.put_bytes(&contents(n)).unwrap().digest;
    match n % 50 {
        7 => store.pin(&toolchain, &[blob]).unwrap(),
        8 => store.unpin(&name("toolchain", (n - 1) % 3)).unwrap(),
        // Pinned again before the collection, which would otherwise take all its entries.
        9 => store.pin(&name("toolchain", (n - 2) % 3), &[]).unwrap(),
        20 => drop(store.gc()),
        30 => drop(store.blob_path(&blob, true)),
        _ => {}
    }
    let stored = store.put_record(&ActionKey(name("key", n)), &toolchain, &signed(n), &[blob]);
    assert!(matches!(stored, Ok(()) | Err(barn_cache::StoreError::MissingBlob(_))), "{stored:?}");
    store.put_manifest(&name("source", n % 20), &toolchain, &n.to_le_bytes()).unwrap();
    let stored = store.put_foreign(&foreign(n), &blob);
    assert!(matches!(stored, Ok(()) | Err(barn_cache::StoreError::MissingBlob(_))), "{stored:?}");
    if let Some(earlier) = n.checked_sub(5) {
        store.record(&ActionKey(name("key", earlier)));
    }
}

/// Kills `writer()` as planned. A panic tells what was wrong.
pub(crate) fn run(plan: &Plan, writer: impl Fn() -> Command) {
    println!("{} kills, seed {}, limit {:?}", plan.kills, plan.seed, plan.bytes_max);
    let mut random = StdRng::seed_from_u64(plan.seed);
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    let mut written = 0;
    for kill in 0..plan.kills {
        let limit = plan.bytes_max.map(|b| b.to_string()).unwrap_or_default();
        fs::write(dir.path().join("plan"), format!("{next} {limit}")).unwrap();
        let mut child = writer().env(DIR_VARIABLE, dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let done = kill_at(&mut child, random.gen_range(0..30), random.gen_range(0..3000));
        if let Some(done) = done {
            written += done + 1 - next;
            next = done + 1;
        }
        check(&dir.path().join("store"), plan, next, kill);
        // What was begun is put again, half done or not.
        if next > ENTRIES_MAX {
            fs::remove_dir_all(dir.path().join("store")).unwrap();
            next = 0;
        }
    }
    assert!(written > u64::from(plan.kills), "the writer came to write: {written}");
    println!("{} kills survived, {written} entries written", plan.kills);
}

/// Kills the writer some microseconds after it has said `entries` times that one is done (or while it opens, for
/// none); the last number it said.
fn kill_at(child: &mut Child, entries: u32, micros: u64) -> Option<u64> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut line = String::new();
    while said.len() < entries as usize && out.read_line(&mut line).unwrap() > 0 {
        // Other words on standard output are the test harness's.
        said.extend(line.split("done ").nth(1).and_then(|n| n.trim().parse::<u64>().ok()));
        line.clear();
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer failed by itself: {status}");
    let rest = out.lines().map_while(Result::ok);
    said.extend(rest.filter_map(|l| l.split("done ").nth(1).and_then(|n| n.trim().parse::<u64>().ok())));
    said.last().copied()
}

fn check(dir: &Path, plan: &Plan, next: u64, kill: u32) {
    let store = Store::open(dir, limits(plan.bytes_max)).unwrap();
    for n in 0..next + 2 {
        let blob = store.read_blob(&Digest::of(&contents(n)));
        assert!(blob.is_none() || blob == Some(contents(n)));
        let record = store.record(&ActionKey(name("key", n)));
        assert!(record.is_none() || record == Some(signed(n)), "entry {n} after kill {kill}");
        assert!(record.is_none() || blob.is_some(), "record {n} without its blob after kill {kill}");
        let entry = store.foreign(&foreign(n)).map(|blob| blob.digest);
        assert!(entry.is_none() || entry == Some(Digest::of(&contents(n))), "entry {n} after kill {kill}");
        assert!(entry.is_none() || blob.is_some(), "entry {n} without its blob after kill {kill}");
        if plan.bytes_max.is_none() && n < next {
            assert!(record.is_some() && entry.is_some(), "entry {n} was done before kill {kill}");
        }
    }
    for source in 0..20 {
        for manifest in store.manifests(&name("source", source)) {
            let n = u64::from_le_bytes(manifest.try_into().unwrap());
            assert!(n % 20 == source && n < next + 2, "manifest {n} after kill {kill}");
        }
    }
    let stat = store.stat();
    assert_eq!((stat.rotten, &stat.paused), (0, &None), "after kill {kill}");
    assert_eq!(fs::read_dir(dir.join("tmp-v1")).unwrap().count(), 0, "leftovers after kill {kill}");
    if kill.is_multiple_of(10) {
        let report = store.verify();
        assert_eq!((report.blobs_dropped, report.blobs_found), (0, 0), "after kill {kill}");
    }
}
