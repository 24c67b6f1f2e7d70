//! The listeners of topics, as the hub keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use super::listener::Listener;
use super::listeners::Listeners;
use crate::read::dense_table::DenseTable;
use crate::read::tables;

/// A topic in its part of the table: a hash with a secret key, a quarter of the size of a topic's handle. If two topics
/// of a part have the same hash, their listeners get the envelopes of both topics, and leave out the envelopes that
/// they have not asked for. A listener of both topics would lose both when it leaves either. Among a million topics of
/// one stream the chance of such a pair is one in two thousand million, and no caller can search for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicKey(pub(super) u64);

/// The most listeners of a topic that are in one table with those of other topics. A guess: looking at more is slow.
const FEW_MAX: usize = 16;

/// The listeners of the topics of one part of the table. Nearly every topic has one listener, so a registration takes
/// no more than a hash and a pointer. A topic with more than a few has a table of its own, which costs less then.
///
/// Invariant: the listeners of a topic are in one of the two tables.
#[derive(Debug, Default)]
pub(super) struct TopicListeners {
    few: DenseTable<(TopicKey, Arc<Listener>)>,
    many: HashMap<TopicKey, Listeners>,
}

impl TopicListeners {
    /// Adds a listener to those of a topic, unless it is there.
    pub(super) fn join(&mut self, topic: TopicKey, listener: &Arc<Listener>) {
        if let Some(listeners) = self.many.get_mut(&topic) {
            return listeners.join(listener);
        }
        let (mut count, mut is_there) = (0, false);
        for other in self.few_of(topic) {
            count += 1;
            is_there |= Arc::ptr_eq(other, listener);
        }
        if is_there {
            return;
        }
        if count < FEW_MAX {
            return self.add(topic, Arc::clone(listener));
        }
        let mut listeners = Listeners::default();
        while let Some((_, other)) = self.few.remove(topic.0, |(key, _)| *key == topic) {
            listeners.join(&other);
        }
        listeners.join(listener);
        self.many.insert(topic, listeners);
    }

    fn add(&mut self, topic: TopicKey, listener: Arc<Listener>) {
        self.few.insert(topic.0, (topic, listener), |(key, _)| key.0);
    }

    /// Removes a listener from those of a topic, if it is there.
    pub(super) fn leave(&mut self, topic: TopicKey, listener: &Arc<Listener>) {
        let is_it = |(key, other): &(TopicKey, Arc<Listener>)| {
            *key == topic && Arc::ptr_eq(other, listener)
        };
        if self.few.remove(topic.0, is_it).is_some() {
            return;
        }
        let Some(listeners) = self.many.get_mut(&topic) else { return };
        listeners.leave(listener);
        // A quarter less than a topic needs to get a table, so that the same listener cannot move them to and fro.
        if listeners.len() <= FEW_MAX / 4 * 3 {
            let left = self.many.remove(&topic).unwrap_or_default();
            tables::shrink(&mut self.many);
            left.iter().for_each(|other| self.add(topic, Arc::clone(other)));
        }
    }

    fn few_of(&self, topic: TopicKey) -> impl Iterator<Item = &Arc<Listener>> {
        let list = self.few.list(topic.0).iter();
        list.filter(move |(key, _)| *key == topic).map(|(_, listener)| listener)
    }

    /// Returns the listeners of a topic, in no order.
    pub(super) fn of(&self, topic: TopicKey) -> impl Iterator<Item = &Arc<Listener>> {
        let many = self.many.get(&topic);
        self.few_of(topic).chain(many.into_iter().flat_map(Listeners::iter))
    }

    /// Returns the listeners of all topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        let few = self.few.iter().map(|(_, listener)| listener);
        few.chain(self.many.values().flat_map(Listeners::iter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::feed::TopicFeed;
    use crate::read::limits::BatchLimits;

    const TOPICS: u64 = 20_000;

    fn names() -> impl Iterator<Item = TopicKey> {
        (0..TOPICS).map(TopicKey)
    }

    fn listeners(count: usize) -> Vec<Arc<Listener>> {
        let listener = || Arc::new(Listener::new(BatchLimits::QUEUE, Arc::default()));
        std::iter::repeat_with(listener).take(count).collect()
    }

    /// Streams of a million topics can come and go, and are not charged for the room that their topics had. They are
    /// charged as much for a topic while others have left.
    #[test]
    fn topics_that_were_left_keep_no_memory() {
        let (mut topics, one) = (TopicListeners::default(), listeners(1).remove(0));
        let charged = |topics: usize| topics * TopicFeed::REGISTRATION_BYTES;
        names().for_each(|name| topics.join(name, &one));
        let held = topics.few.held_bytes();
        assert!((20_000 * 16..charged(20_000)).contains(&held), "{held}");
        names().step_by(2).for_each(|name| topics.leave(name, &one));
        assert!(topics.few.held_bytes() <= charged(10_000));
        names().for_each(|name| topics.leave(name, &one));
        assert_eq!(topics.few.held_bytes(), 0);
    }

    /// Streams with the same topics take no more for each.
    #[test]
    fn topics_of_many_streams_keep_no_memory_when_these_have_left() {
        let (mut topics, all) = (TopicListeners::default(), listeners(FEW_MAX + 1));
        for listener in &all {
            names().for_each(|name| topics.join(name, listener));
        }
        assert!(topics.few.held_bytes() == 0 && topics.many.capacity() >= 20_000);
        let (leave, stay) = all.split_at(FEW_MAX / 2);
        for listener in leave {
            names().for_each(|name| topics.leave(name, listener));
        }
        assert!(topics.many.capacity() < 100);
        let charged = stay.len() * 20_000 * TopicFeed::REGISTRATION_BYTES;
        assert!(topics.few.held_bytes() <= charged, "{} of {charged}", topics.few.held_bytes());
        for listener in stay {
            names().for_each(|name| topics.leave(name, listener));
        }
        assert_eq!(topics.few.held_bytes(), 0);
    }

    /// A topic moves between the two tables with its listeners, and none is lost or there twice.
    #[test]
    fn each_listener_of_a_topic_is_there_once_between_joining_and_leaving() {
        let (mut topics, all) = (TopicListeners::default(), listeners(3 * FEW_MAX));
        let (name, other) = (TopicKey(7), TopicKey(8));
        topics.join(other, &all[0]);
        let has = |topics: &TopicListeners, listener: &Arc<Listener>| {
            topics.of(name).filter(|it| Arc::ptr_eq(it, listener)).count()
        };
        for (joined, listener) in (1..).zip(&all) {
            (0..2).for_each(|_| topics.join(name, listener));
            assert_eq!((topics.of(name).count(), has(&topics, listener)), (joined, 1));
        }
        for (left, listener) in (1..).zip(&all) {
            (0..2).for_each(|_| topics.leave(name, listener));
            let stay = all.len() - left;
            assert_eq!((topics.of(name).count(), has(&topics, listener)), (stay, 0));
        }
        assert_eq!((topics.of(other).count(), topics.iter().count()), (1, 1));
    }
}
