//! The table of a stream's topics.

use std::hash::BuildHasher as _;

use bytes::Bytes;
use hawser_proto::{Topic, TopicHasher};

use super::topic_state::TopicState;
use crate::read::dense_table::DenseTable;

/// The longest name that is kept in its entry, in bytes. Most have 17 or 33: a kind, and an identifier of 16 or 32
/// bytes. Nothing longer fits into an entry of 56 bytes.
pub(super) const SHORT_LEN_BYTES: usize = 38;

/// Topics with their states. A name is kept in its entry: the handle and the buffer of a [`Topic`] would take more than
/// twice as much for each of a million topics. Names are hashed with a secret key, because readers choose them.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    hasher: TopicHasher,
    entries: DenseTable<TopicEntry>,
    long_names_bytes: usize,
}

/// A topic with its state.
#[derive(Debug)]
struct TopicEntry {
    name: TopicName,
    state: TopicState,
}

/// The name of a topic.
#[derive(Debug)]
enum TopicName {
    Short { len: u8, bytes: [u8; SHORT_LEN_BYTES] },
    Long(Box<[u8]>),
}

impl TopicName {
    fn new(name: &[u8]) -> Self {
        match u8::try_from(name.len()) {
            Ok(len) if name.len() <= SHORT_LEN_BYTES => {
                let mut bytes = [0; SHORT_LEN_BYTES];
                bytes[..name.len()].copy_from_slice(name);
                Self::Short { len, bytes }
            }
            _ => Self::Long(name.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(name) => name,
        }
    }

    /// Returns the memory that the name takes outside of its entry, in bytes.
    fn long_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(name) => name.len(),
        }
    }
}

impl TopicEntry {
    fn is_of(&self, topic: &Topic) -> bool {
        self.name.as_bytes() == &topic.as_bytes()[..]
    }
}

impl TopicTable {
    fn hash(&self, topic: &Topic) -> u64 {
        self.hasher.hash_one(&topic.as_bytes()[..])
    }

    /// Returns the number of topics.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the state of a topic.
    pub(super) fn get(&self, topic: &Topic) -> Option<&TopicState> {
        self.entries.find(self.hash(topic), |entry| entry.is_of(topic)).map(|entry| &entry.state)
    }

    /// Returns the state of a topic.
    pub(super) fn get_mut(&mut self, topic: &Topic) -> Option<&mut TopicState> {
        let hash = self.hash(topic);
        let entry = self.entries.find_mut(hash, |entry| entry.is_of(topic))?;
        Some(&mut entry.state)
    }

    /// Adds a topic, of which it copies the name. Returns false if it is there already.
    pub(super) fn insert(&mut self, topic: &Topic, state: TopicState) -> bool {
        if self.get(topic).is_some() {
            return false;
        }
        let entry = TopicEntry { name: TopicName::new(topic.as_bytes()), state };
        self.long_names_bytes += entry.name.long_bytes();
        let (hash, hasher) = (self.hash(topic), &self.hasher);
        self.entries.insert(hash, entry, |entry| hasher.hash_one(entry.name.as_bytes()));
        true
    }

    /// Removes a topic. Returns false if it was not there.
    pub(super) fn remove(&mut self, topic: &Topic) -> bool {
        let hash = self.hash(topic);
        let removed = self.entries.remove(hash, |entry| entry.is_of(topic));
        self.long_names_bytes -= removed.as_ref().map_or(0, |entry| entry.name.long_bytes());
        removed.is_some()
    }

    /// Returns the names of the topics with their states, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &TopicState)> {
        self.entries.iter().map(|entry| (entry.name.as_bytes(), &entry.state))
    }

    /// Returns the states of all topics.
    pub(super) fn states_mut(&mut self) -> impl Iterator<Item = &mut TopicState> {
        self.entries.iter_mut().map(|entry| &mut entry.state)
    }

    /// Returns the topics whose state `is_wanted`, in the order of their names. The names share one buffer.
    pub(super) fn topics(&self, is_wanted: impl Fn(&TopicState) -> bool) -> Vec<Topic> {
        let wanted = self.iter().filter(|(_, state)| is_wanted(state));
        let mut names: Vec<&[u8]> = wanted.map(|(name, _)| name).collect();
        names.sort_unstable();
        let (shared, mut begin) = (Bytes::from(names.concat()), 0);
        let topics = names.iter().map(|name| {
            let end = begin + name.len();
            let topic = topic_of(shared.slice(begin..end));
            begin = end;
            topic
        });
        topics.collect()
    }

    /// Returns the memory that the topics take, without cursors and long names, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.entries.held_bytes()
    }

    /// Returns the memory that long names take besides, in bytes.
    pub(super) fn long_names_bytes(&self) -> usize {
        self.long_names_bytes
    }
}

/// Returns the topic with the name of one of a stream.
pub(super) fn topic_of(name: Bytes) -> Topic {
    Topic::parse(name).expect("it was a topic when it was added")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hawser_proto::SequenceId;

    use super::super::topic_state::LastCommit;
    use super::*;

    fn state(commit: u64) -> TopicState {
        let commits = LastCommit::at(SequenceId(commit));
        TopicState { floor: Arc::default(), commits, catch_up: None }
    }

    fn named(len: usize) -> Topic {
        Topic::parse(vec![2; len].into()).unwrap()
    }

    #[test]
    fn names_of_any_length_are_found_and_come_out_as_they_went_in() {
        assert_eq!(size_of::<TopicEntry>(), 56);
        let lens = [2, 17, 33, SHORT_LEN_BYTES, SHORT_LEN_BYTES + 1, 255, 256, 5000];
        let mut table = TopicTable::default();
        for (commit, len) in (1..).zip(lens) {
            assert!(table.insert(&named(len), state(commit)));
            assert!(!table.insert(&named(len), state(99)), "it is there already");
        }
        assert_eq!((table.len(), table.long_names_bytes()), (8, 39 + 255 + 256 + 5000));
        for (commit, len) in (1..).zip(lens) {
            assert_eq!(table.get(&named(len)).unwrap().commits, LastCommit::at(SequenceId(commit)));
            table.get_mut(&named(len)).unwrap().commits = LastCommit::at(SequenceId(0));
        }
        assert!(table.iter().all(|(_, state)| state.commits == LastCommit::at(SequenceId(0))));
        assert_eq!(table.topics(|_| true), lens.map(named));
        assert!(table.get(&named(34)).is_none() && !table.remove(&named(34)));
        assert!(lens.iter().all(|&len| table.remove(&named(len))));
        assert_eq!((table.len(), table.held_bytes(), table.long_names_bytes()), (0, 0, 0));
    }
}
