//! What a store costs. In a new store, `DIR/cache`, as a node has it in its state directory:
//! - `measure DIR [ACTIONS]` puts that many actions (100,000 by default: a blob of 4 kB, a record and a manifest each),
//!   looks some up, and closes the store.
//! - `measure DIR reopen` opens it, looks up 1,000 actions, and ends without closing it: the first time after an orderly
//!   close, the second time after a crash, each in a process that did nothing else.
//! - `measure DIR full [ACTIONS]` puts as many again into a store that is full, and clears it.
//!
//! The figures of `docs/cache.md` are its output.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use barn_cache::{Limits, Store};
use barn_protocol::{ActionKey, Digest, Identity};

const ACTIONS: u64 = 100_000;
const LOOKUPS: u64 = 10_000;
const LOOKUPS_REOPENED: u64 = 1_000;

fn main() {
    let mut args = env::args_os().skip(1);
    let dir = args.next().expect("the first argument is a directory");
    let dir = Path::new(&dir).join("cache");
    let verb = args.next().map(|verb| verb.into_string().expect("words of letters and digits"));
    let count = args.next().map_or(ACTIONS, |count| number(&count.to_string_lossy()));
    match verb.as_deref() {
        None => fill(&dir, ACTIONS),
        Some("reopen") => reopen(&dir),
        Some("full") => refill(&dir, count),
        Some(count) => fill(&dir, number(count)),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn fill(dir: &Path, count: u64) {
    assert!(!dir.exists(), "{} is there already", dir.display());
    let store = once("open new", || open(dir, u64::MAX));
    each("put", 0..count, |n| put(&store, n));
    each("look up", (0..LOOKUPS).map(|n| n * 7919 % count), |n| look_up(&store, n));
    println!("{:?}", store.stat());
    once("close", || drop(store));
}

fn reopen(dir: &Path) {
    let kind = if dir.join("index-v1/clean").exists() { "open" } else { "open after a crash" };
    let store = once(kind, || open(dir, u64::MAX));
    let count = store.stat().records;
    each("look up", (0..LOOKUPS_REOPENED).map(|n| n * 7919 % count), |n| look_up(&store, n));
    std::process::exit(0);
}

fn refill(dir: &Path, count: u64) {
    let bytes_max = open(dir, u64::MAX).stat().bytes;
    let store = open(dir, bytes_max);
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
    assert_eq!(store.manifests(&name("source", n)).len(), 1, "action {n}");
    assert!(store.record(&ActionKey(name("key", n))).is_some());
    assert!(store.open_blob(&Digest::of(&object(n))).is_some());
}

fn once<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (start, cpu) = (Instant::now(), cpu_ms());
    let result = run();
    println!("{what}: {:?}, {} ms of a core; {}", start.elapsed(), cpu_ms() - cpu, memory());
    result
}

fn each(what: &str, numbers: impl Iterator<Item = u64>, mut run: impl FnMut(u64)) {
    let (mut count, mut sum, mut worst) = (0, Duration::ZERO, Duration::ZERO);
    let cpu = cpu_ms();
    for n in numbers {
        let start = Instant::now();
        run(n);
        (count, sum, worst) = (count + 1, sum + start.elapsed(), worst.max(start.elapsed()));
    }
    let cpu_us = (cpu_ms() - cpu) * 1000 / u64::from(count);
    println!("{what}: {:?} each, {cpu_us} µs of a core, at worst {worst:?}; {}", sum / count, memory());
}

/// What this process has computed so far, in milliseconds: other work on the machine does not count. 0 where the system
/// does not tell.
fn cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // User and system time, in hundredths of a second.
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        * 10
}

/// Memory in use, where the system tells.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("unknown").trim();
    format!("memory {}, at most {}", field("VmRSS:"), field("VmHWM:"))
}
