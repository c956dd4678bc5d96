//! What a store costs: `measure DIR [ACTIONS]` puts that many actions (50,000 by default: a blob of 4 kB, a record
//! and a manifest each) into a new store in DIR, looks them up, opens the store again, loses the index, and puts as
//! many again into a store that is full. The figures of `docs/cache.md` are its output.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use barn_cache::{Limits, Store};
use barn_protocol::{ActionKey, Digest, Identity};

const LOOKUPS: u64 = 10_000;

fn main() {
    let mut args = env::args_os().skip(1);
    let dir = args.next().expect("the first argument is a directory");
    let dir = Path::new(&dir).join("store");
    let count = args.next().map_or(50_000, |a| a.to_str().and_then(|a| a.parse().ok()).expect("a number"));
    assert!(!dir.exists(), "{} is there already", dir.display());

    let store = once("open new", || open(&dir, u64::MAX));
    each("put", 0..count, |n| put(&store, n));
    each("look up", (0..LOOKUPS).map(|n| n * 7919 % count), |n| look_up(&store, n));
    println!("{:?}", store.stat());
    let bytes_max = store.stat().bytes;
    once("close", || drop(store));
    drop(once("open", || open(&dir, u64::MAX)));
    fs::remove_file(dir.join("index-v1/clean")).expect("the store was closed in order");
    drop(once("open after a crash", || open(&dir, u64::MAX)));
    let store = open(&dir, bytes_max);
    each("put when full", count..2 * count, |n| put(&store, n));
    println!("{:?}", store.stat());
    once("clear", || store.clear());
}

fn open(dir: &Path, bytes_max: u64) -> Store {
    Store::open(dir, Limits::new(bytes_max)).expect("the store opens")
}

fn name(kind: &str, n: u64) -> Digest {
    Digest::of(format!("{kind} {n}").as_bytes())
}

fn object(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(500)
}

fn put(store: &Store, n: u64) {
    let toolchain = name("toolchain", 0);
    let record = Identity::from_seed(&[1; 32]).sign("measure", vec![7; 400]);
    let blobs = [object(n), Vec::new()].map(|bytes| store.put_bytes(&bytes).expect("it is stored").digest);
    store.put_record(&ActionKey(name("key", n)), &toolchain, &record, &blobs).expect("it is stored");
    store.put_manifest(&name("source", n), &toolchain, &n.to_le_bytes().repeat(300)).expect("it is stored");
}

fn look_up(store: &Store, n: u64) {
    assert_eq!(store.manifests(&name("source", n)).len(), 1);
    assert!(store.record(&ActionKey(name("key", n))).is_some());
    assert!(store.open_blob(&Digest::of(&object(n))).is_some());
}

fn once<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what}: {:?}; {}", start.elapsed(), memory());
    result
}

fn each(what: &str, numbers: impl Iterator<Item = u64>, mut run: impl FnMut(u64)) {
    let (mut count, mut sum, mut worst) = (0, Duration::ZERO, Duration::ZERO);
    for n in numbers {
        let start = Instant::now();
        run(n);
        (count, sum, worst) = (count + 1, sum + start.elapsed(), worst.max(start.elapsed()));
    }
    println!("{what}: {:?} each, at worst {worst:?}; {}", sum / count, memory());
}

/// Memory in use, where the system tells.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let words = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("unknown");
    format!("memory {}", words.trim())
}
