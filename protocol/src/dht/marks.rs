//! "Being made by": so that what two machines want at once is made once.
//!
//! The first owner that answers keeps a mark for whoever was told that there is nothing. Who asks while it holds is told
//! to wait, and hears of the entry, or that it was given up. Marks end by themselves; they are a courtesy, and nothing is
//! wrong when one is lost.

use std::{collections::BTreeMap, time::Duration};

use super::{
    EntryKey,
    limits::{MARK_MAX, MARKS_MAX, WAITERS_MAX},
    members::Handle,
};

#[derive(Debug, Default)]
pub(super) struct Marks {
    by_key: BTreeMap<EntryKey, Mark>,
}

#[derive(Debug)]
struct Mark {
    maker: Handle,
    until: Duration,
    waiters: Vec<Handle>,
}

impl Marks {
    /// `asker` wants to make `key`. `None` if it shall; else for how long another is believed to be making it.
    pub(super) fn want(&mut self, now: Duration, key: EntryKey, asker: Handle) -> Option<Duration> {
        if let Some(mark) = self.by_key.get_mut(&key).filter(|mark| mark.until > now && mark.maker != asker) {
            let waits = mark.waiters.contains(&asker) || mark.waiters.len() < WAITERS_MAX;
            if !mark.waiters.contains(&asker) && waits {
                mark.waiters.push(asker);
            }
            return waits.then(|| mark.until - now);
        }
        if self.by_key.len() >= MARKS_MAX {
            self.by_key.retain(|_, mark| mark.until > now);
        }
        if self.by_key.len() < MARKS_MAX || self.by_key.contains_key(&key) {
            self.by_key.insert(key, Mark { maker: asker, until: now + MARK_MAX, waiters: Vec::new() });
        }
        None
    }

    /// The entry is there; who is to be told.
    pub(super) fn made(&mut self, key: &EntryKey) -> Vec<Handle> {
        self.by_key.remove(key).map_or_else(Vec::new, |mark| mark.waiters)
    }

    /// `maker` has given up; who is to be told. Others cannot take a mark from its maker.
    pub(super) fn given_up(&mut self, key: &EntryKey, maker: Handle) -> Vec<Handle> {
        match self.by_key.get(key) {
            Some(mark) if mark.maker == maker => self.made(key),
            _ => Vec::new(),
        }
    }

    /// `maker` is gone; who is to be told of which keys.
    pub(super) fn lost(&mut self, maker: Handle) -> Vec<(EntryKey, Vec<Handle>)> {
        let keys = self.by_key.iter().filter(|(_, mark)| mark.maker == maker);
        let keys: Vec<EntryKey> = keys.map(|(key, _)| *key).collect();
        keys.into_iter().map(|key| (key, self.made(&key))).collect()
    }
}
