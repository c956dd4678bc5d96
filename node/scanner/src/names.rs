//! Numbers for spellings, macro definitions and files.
//!
//! A scan compares and indexes by number only. Numbers are given out under a lock, and read without one.

use std::{
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustc_hash::FxHashMap;

/// A spelling.
pub(crate) type Sym = u32;

const CHUNK: usize = 1 << 12;
const CHUNKS: usize = 1 << 9;
/// Values of one kind that may be numbered; [`Numbered::add`] refuses more.
pub(crate) const NUMBERED_MAX: usize = CHUNK * CHUNKS;

type Chunk<T> = Box<[OnceLock<T>]>;

/// Values by number: appended under a lock, read without.
struct Shelf<T> {
    chunks: Box<[OnceLock<Chunk<T>>]>,
}

impl<T> Shelf<T> {
    fn new() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.chunks.get(at / CHUNK)?.get()?[at % CHUNK].get()
    }

    fn put(&self, at: usize, value: T) {
        let chunk = self.chunks[at / CHUNK].get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        // A number is given out once, so the place is empty.
        let _ = chunk[at % CHUNK].set(value);
    }
}

/// Equal values get one number.
pub(crate) struct Numbered<T: ?Sized> {
    known: Mutex<FxHashMap<Arc<T>, u32>>,
    values: Shelf<Arc<T>>,
    count: AtomicUsize,
    /// Memory the values take, in bytes, by [`Numbered::add`]'s account.
    bytes: AtomicUsize,
}

impl<T: ?Sized + Eq + Hash> Numbered<T> {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::default(),
            values: Shelf::new(),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<Arc<T>, u32>> {
        // A map is whole between two calls; whoever panicked left it so.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of `value`, which takes `bytes` of memory; `None` when there are too many.
    pub(crate) fn add<'v>(&self, value: &'v T, bytes: usize) -> Option<u32>
    where
        Arc<T>: From<&'v T>,
    {
        let mut known = self.lock();
        if let Some(&number) = known.get(value) {
            return Some(number);
        }
        self.append(&mut known, value.into(), bytes)
    }

    /// As [`Numbered::add`], of a value that is to be kept.
    pub(crate) fn add_owned(&self, value: T, bytes: usize) -> Option<u32>
    where
        T: Sized,
    {
        let mut known = self.lock();
        if let Some(&number) = known.get(&value) {
            return Some(number);
        }
        self.append(&mut known, Arc::new(value), bytes)
    }

    fn append(&self, known: &mut FxHashMap<Arc<T>, u32>, value: Arc<T>, bytes: usize) -> Option<u32> {
        let number = known.len();
        if number == NUMBERED_MAX {
            return None;
        }
        self.values.put(number, value.clone());
        known.insert(value, number as u32);
        self.count.store(number + 1, Ordering::Release);
        self.bytes.fetch_add(bytes + ENTRY_BYTES, Ordering::Relaxed);
        Some(number as u32)
    }

    /// The value of a number that was given out.
    pub(crate) fn get(&self, number: u32) -> &T {
        self.values.get(number).expect("numbers come from `add`")
    }

    /// How many numbers were given out.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What one value costs besides itself: map entry, two counts, and its place on the shelf.
const ENTRY_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_number() {
        let names: Numbered<[u8]> = Numbered::new();
        let a = names.add(b"a", 1).unwrap();
        let b = names.add(b"b", 1).unwrap();
        assert_ne!(a, b);
        assert_eq!(names.add(b"a", 1), Some(a));
        assert_eq!((names.get(a), names.get(b), names.len()), (b"a".as_slice(), b"b".as_slice(), 2));
    }

    #[test]
    fn numbers_go_beyond_a_chunk() {
        let numbers: Numbered<usize> = Numbered::new();
        for value in 0..3 * CHUNK {
            assert_eq!(numbers.add_owned(value, 8), Some(value as u32));
        }
        assert!((0..3 * CHUNK).all(|value| *numbers.get(value as u32) == value));
    }
}
