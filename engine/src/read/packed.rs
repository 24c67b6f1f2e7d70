//! The topics of a stream that waits for its first turn on disk.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic};

use super::feed::TopicFeed;

/// Topics with their cursors, in little memory: a name and a few numbers for each. A stream that reads, or listens,
/// needs several times as much for them.
#[derive(Debug, Default)]
pub struct PackedTopics {
    /// The names, one behind the other.
    names: Bytes,
    /// The entries of the cursors, one behind the other. Neighbouring topics share equal cursors.
    entries: Box<[EnvelopeId]>,
    topics: Box<[PackedTopic]>,
}

/// The place of a topic's parts.
#[derive(Debug, Clone, Copy)]
struct PackedTopic {
    name_end: u32,
    cursor: (u32, u32),
}

impl PackedTopic {
    fn cursor(&self) -> Range<usize> {
        self.cursor.0 as usize..self.cursor.1 as usize
    }
}

impl FromIterator<(Topic, Cursor)> for PackedTopics {
    /// # Panics
    /// If the topics take 4 GiB. A request is far smaller.
    fn from_iter<I: IntoIterator<Item = (Topic, Cursor)>>(topics: I) -> Self {
        let place = |len: usize| u32::try_from(len).expect("a request has less than 4 GiB");
        let (mut names, mut entries) = (Vec::<u8>::new(), Vec::<EnvelopeId>::new());
        let mut packed = Vec::new();
        let mut last: Range<usize> = 0..0;
        for (topic, from) in topics {
            names.extend_from_slice(topic.as_bytes());
            let before = &entries[last.clone()];
            if !before.iter().copied().eq(from.iter()) {
                last = entries.len()..entries.len() + from.len();
                entries.extend(from.iter());
            }
            let cursor = (place(last.start), place(last.end));
            packed.push(PackedTopic { name_end: place(names.len()), cursor });
        }
        // Without the room that they have grown into.
        let names = Bytes::from(names.into_boxed_slice());
        Self { names, entries: entries.into_boxed_slice(), topics: packed.into_boxed_slice() }
    }
}

impl PackedTopics {
    /// Returns the number of topics.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Returns the memory that this takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.names.len() + size_of_val(&*self.entries) + size_of_val(&*self.topics)
    }

    /// Returns the most memory that a stream takes for these topics until they are live, in bytes.
    pub(crate) fn opened_bytes(&self, heads: &Cursor) -> usize {
        let (mut bytes, mut name_end, mut last) = (0, 0, None);
        for packed in &self.topics {
            bytes += TopicFeed::topic_bytes((packed.name_end - name_end) as usize);
            name_end = packed.name_end;
            if last != Some(packed.cursor) {
                last = Some(packed.cursor);
                let entries = self.entries[packed.cursor()].iter().copied();
                bytes += TopicFeed::cursor_bytes(entries, heads);
            }
        }
        bytes
    }

    /// Returns the topics in their order. The names stay where they are, and neighbours share equal cursors.
    pub(crate) fn unpack(&self) -> impl Iterator<Item = (Topic, Arc<Cursor>)> {
        let mut begin = 0;
        let mut last: Option<((u32, u32), Arc<Cursor>)> = None;
        self.topics.iter().map(move |packed| {
            let end = packed.name_end as usize;
            let name = self.names.slice(begin..end);
            begin = end;
            let from = match &last {
                Some((cursor, from)) if *cursor == packed.cursor => Arc::clone(from),
                _ => {
                    let entries = self.entries[packed.cursor()].iter().copied();
                    Arc::new(entries.collect::<Cursor>())
                }
            };
            last = Some((packed.cursor, Arc::clone(&from)));
            (Topic::parse(name).expect("it was a topic when it was packed"), from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{cursor, topic};

    fn unpacked(packed: &PackedTopics) -> Vec<(Topic, Cursor)> {
        packed.unpack().map(|(topic, from)| (topic, Cursor::clone(&from))).collect()
    }

    #[test]
    fn topics_come_out_as_they_went_in() {
        let long = Topic::parse(vec![2; 128].into()).unwrap();
        let topics = vec![
            (topic(1), Cursor::new()),
            (long, cursor(&[(0, 7), (100, 9)])),
            (topic(2), cursor(&[(0, 7), (100, 9)])),
            (topic(3), cursor(&[(100, 9)])),
            (topic(4), Cursor::new()),
        ];
        let packed: PackedTopics = topics.iter().cloned().collect();
        assert_eq!(unpacked(&packed), topics);
        assert!(unpacked(&PackedTopics::default()).is_empty());
        let [second, third] = [1, 2].map(|place| packed.unpack().nth(place).unwrap().1);
        assert_eq!(second, third);
        let all: Vec<_> = packed.unpack().map(|(_, from)| from).collect();
        assert!(Arc::ptr_eq(&all[1], &all[2]), "neighbours share equal cursors");
    }

    /// The point of it: thousands of streams may wait at once.
    #[test]
    fn a_hundred_topics_with_cursors_of_their_own_take_six_kilobytes() {
        let name = |n: u8| Topic::parse([&[0, n][..], &[7; 31]].concat().into()).unwrap();
        let topics = (0..100).map(|n| (name(n), cursor(&[(100, u64::from(n) + 1)])));
        let packed: PackedTopics = topics.collect();
        assert!(packed.held_bytes() <= 100 * (33 + 16 + 12), "{}", packed.held_bytes());
        assert!(packed.opened_bytes(&Cursor::new()) > 4 * packed.held_bytes());
    }
}
