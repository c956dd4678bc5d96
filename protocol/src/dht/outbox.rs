//! What is to be sent to each peer, and what it has not answered yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Get, Put, Told,
    limits::{ANSWER_MAX, GET_WAIT_MAX, KEYS_MAX, PUT_BYTES_MAX, PUT_WAIT_MAX},
    members::Handle,
};

/// Messages on their way in both senses of the word.
#[derive(Debug, Default)]
pub(super) struct Outboxes {
    gets: BTreeMap<Handle, Gets>,
    puts: BTreeMap<Handle, Puts>,
    asked: BTreeMap<u64, Asked>,
    /// Messages by the time their answers are due.
    answers: BTreeSet<(Duration, u64)>,
    messages: u64,
}

/// A message that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) peer: Handle,
    /// Which look-ups its answers are for, in order.
    pub(super) lookups: Vec<u64>,
    due: Duration,
}

#[derive(Debug)]
struct Gets {
    since: Duration,
    gets: Vec<(u64, Get)>,
}

#[derive(Debug)]
struct Puts {
    due: Duration,
    bytes: usize,
    puts: Vec<Put>,
}

impl Outboxes {
    pub(super) fn ask(&mut self, now: Duration, to: Handle, lookup: u64, get: Get) {
        let box_ = self.gets.entry(to).or_insert(Gets { since: now, gets: Vec::new() });
        box_.gets.push((lookup, get));
    }

    pub(super) fn tell(&mut self, now: Duration, to: Handle, put: Put) {
        let box_ =
            self.puts.entry(to).or_insert(Puts { due: now + PUT_WAIT_MAX, bytes: 0, puts: Vec::new() });
        if let Told::Entry { entry, .. } = &put.what {
            box_.bytes += entry.bytes();
        }
        box_.puts.push(put);
        if box_.puts.len() >= KEYS_MAX || box_.bytes >= PUT_BYTES_MAX {
            box_.due = now;
        }
    }

    /// What waits for this peer goes at once.
    pub(super) fn hurry(&mut self, now: Duration, to: Handle) {
        if let Some(box_) = self.puts.get_mut(&to) {
            box_.due = now;
        }
    }

    /// The next message of questions that is to go now.
    pub(super) fn due_gets(&mut self, now: Duration) -> Option<(Handle, u64, Vec<Get>)> {
        let due = |(to, box_): (&Handle, &Gets)| (self.gets_due(*to, box_) <= now).then_some(*to);
        let to = self.gets.iter().find_map(due)?;
        let mut box_ = self.gets.remove(&to)?;
        let rest = box_.gets.split_off(box_.gets.len().min(KEYS_MAX));
        if !rest.is_empty() {
            self.gets.insert(to, Gets { since: box_.since, gets: rest });
        }
        self.messages += 1;
        let message = self.messages;
        let due = now + ANSWER_MAX;
        let (lookups, gets) = box_.gets.into_iter().unzip();
        self.asked.insert(message, Asked { peer: to, lookups, due });
        self.answers.insert((due, message));
        Some((to, message, gets))
    }

    /// At once if nothing is under way to this peer.
    fn gets_due(&self, to: Handle, box_: &Gets) -> Duration {
        let busy = self.asked.values().any(|asked| asked.peer == to);
        if busy && box_.gets.len() < KEYS_MAX { box_.since + GET_WAIT_MAX } else { box_.since }
    }

    /// The next message of news that is to go now.
    pub(super) fn due_puts(&mut self, now: Duration) -> Option<(Handle, Vec<Put>)> {
        let to = self.puts.iter().find_map(|(to, box_)| (box_.due <= now).then_some(*to))?;
        self.puts.remove(&to).map(|box_| (to, box_.puts))
    }

    pub(super) fn answered(&mut self, message: u64) -> Option<Asked> {
        let asked = self.asked.remove(&message)?;
        self.answers.remove(&(asked.due, message));
        Some(asked)
    }

    /// Messages whose answers are late.
    pub(super) fn overdue(&self, now: Duration) -> Vec<u64> {
        let late = self.answers.iter().take_while(|(due, _)| *due <= now);
        late.map(|(_, message)| *message).collect()
    }

    /// A peer is gone: what it will not answer. What was to be sent becomes a message without an answer.
    pub(super) fn lost(&mut self, peer: Handle) -> Vec<u64> {
        self.puts.remove(&peer);
        if let Some(box_) = self.gets.remove(&peer) {
            self.messages += 1;
            let lookups = box_.gets.into_iter().map(|(lookup, _)| lookup).collect();
            self.asked.insert(self.messages, Asked { peer, lookups, due: Duration::ZERO });
        }
        let lost = self.asked.iter().filter(|(_, asked)| asked.peer == peer);
        lost.map(|(message, _)| *message).collect()
    }

    pub(super) fn next_wake(&self) -> Option<Duration> {
        let gets = self.gets.iter().map(|(to, box_)| self.gets_due(*to, box_));
        let puts = self.puts.values().map(|box_| box_.due);
        gets.chain(puts).chain(self.answers.first().map(|(due, _)| *due)).min()
    }
}
