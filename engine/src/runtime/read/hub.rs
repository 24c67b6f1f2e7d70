//! Routes what was just committed to whoever listens.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_proto::{Cursor, OriginatorId, Topic};

use crate::committed::Committed;
use crate::read::feed::Interest;
use crate::read::limits::Limits;
use crate::read::queue::Queue;
use crate::runtime::counters::StreamCounters;

/// Parts of the table of topics that are locked on their own, so that a stream which registers
/// thousands of topics delays a commit by one of them at the most.
const SHARDS: usize = 64;

/// Hands committed envelopes to listeners: by topic, by originator, or to those who want all.
///
/// What an envelope costs depends on who listens to its topic and its originator, not on how many
/// streams are open. Nobody is ever waited for: a listener whose queue is full is told to read
/// from disk. Cheap to clone; all clones are the same hub.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hasher: RandomState,
    topics: Vec<Mutex<HashMap<Topic, Listeners>>>,
    originators: Mutex<HashMap<OriginatorId, Listeners>>,
    everything: Mutex<Listeners>,
    published: Mutex<Cursor>,
    counters: Arc<StreamCounters>,
}

type Listeners = Vec<Arc<Queue>>;

impl Default for Shared {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            topics: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            originators: Mutex::default(),
            everything: Mutex::default(),
            published: Mutex::default(),
            counters: Arc::default(),
        }
    }
}

impl Hub {
    /// A hub without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes on what was just committed, in the order of commits. To be called after the
    /// envelopes are durable and [`Heads`](crate::runtime::Heads) announced, by one caller at a
    /// time for each strand.
    ///
    /// What does not ascend within its strand is left out: a late find belongs to queries, and
    /// open streams do not go back.
    pub fn publish(&self, committed: &[Arc<Committed>]) {
        let fresh = self.fresh(committed);
        for item in &fresh {
            if let Some(listeners) = lock(self.shard(&item.topic)).get(&item.topic) {
                listeners.iter().for_each(|queue| queue.push(item));
            }
        }
        let originators = lock(&self.shared.originators);
        if !originators.is_empty() {
            for item in &fresh {
                if let Some(listeners) = originators.get(&item.id.originator) {
                    listeners.iter().for_each(|queue| queue.push(item));
                }
            }
        }
        drop(originators);
        for queue in lock(&self.shared.everything).iter() {
            fresh.iter().for_each(|item| queue.push(item));
        }
    }

    /// An empty queue for a new listener.
    pub(crate) fn queue(&self) -> Arc<Queue> {
        Arc::new(Queue::new(Limits::QUEUE, self.shared.counters.clone()))
    }

    /// What has been counted of all listeners.
    pub(crate) fn counters(&self) -> &StreamCounters {
        &self.shared.counters
    }

    /// From now on `queue` gets what `interest` names. Each interest is registered once.
    pub(crate) fn listen(&self, interest: Interest, queue: &Arc<Queue>) {
        let queue = Arc::clone(queue);
        match interest {
            Interest::Topic(topic) => {
                lock(self.shard(&topic)).entry(topic).or_default().push(queue);
            }
            Interest::Originator(originator) => {
                lock(&self.shared.originators).entry(originator).or_default().push(queue);
            }
            Interest::Everything => lock(&self.shared.everything).push(queue),
        }
    }

    /// `queue` gets no more of what `interest` names.
    pub(crate) fn unlisten(&self, interest: &Interest, queue: &Arc<Queue>) {
        match interest {
            Interest::Topic(topic) => leave(&mut lock(self.shard(topic)), topic, queue),
            Interest::Originator(originator) => {
                leave(&mut lock(&self.shared.originators), originator, queue);
            }
            Interest::Everything => remove(&mut lock(&self.shared.everything), queue),
        }
    }

    /// What ascends in its strand.
    fn fresh(&self, committed: &[Arc<Committed>]) -> Vec<Arc<Committed>> {
        let mut published = lock(&self.shared.published);
        let mut ascends = |item: &&Arc<Committed>| {
            let ascends = !published.covers(item.id);
            published.advance(item.id);
            ascends
        };
        committed.iter().filter(&mut ascends).cloned().collect()
    }

    fn shard(&self, topic: &Topic) -> &Mutex<HashMap<Topic, Listeners>> {
        let hash = self.shared.hasher.hash_one(topic) % SHARDS as u64;
        &self.shared.topics[usize::try_from(hash).expect("less than the number of shards")]
    }

    /// How many registrations there are, over all listeners.
    #[cfg(test)]
    pub(crate) fn registrations(&self) -> usize {
        let topics: usize =
            self.shared.topics.iter().map(|shard| lock(shard).values().flatten().count()).sum();
        topics
            + lock(&self.shared.originators).values().flatten().count()
            + lock(&self.shared.everything).len()
    }
}

fn leave<K: std::hash::Hash + Eq>(table: &mut HashMap<K, Listeners>, key: &K, queue: &Arc<Queue>) {
    if let Some(listeners) = table.get_mut(key) {
        remove(listeners, queue);
        if listeners.is_empty() {
            table.remove(key);
        }
    }
}

fn remove(listeners: &mut Listeners, queue: &Arc<Queue>) {
    if let Some(place) = listeners.iter().position(|listener| Arc::ptr_eq(listener, queue)) {
        listeners.swap_remove(place);
    }
}

/// Nothing panics while these are held, and if it did the tables would be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, SequenceId};

    use super::*;
    use crate::read::queue::Popped;

    fn topic(name: u8) -> Topic {
        Topic::parse(vec![0, name].into()).unwrap()
    }

    fn item(originator: u32, sequence: u64, name: u8) -> Arc<Committed> {
        Arc::new(Committed {
            id: EnvelopeId::new(OriginatorId(originator), SequenceId(sequence)),
            topic: topic(name),
            originator_ns: 0,
            depends_on: Vec::new(),
            bytes: "bytes".into(),
        })
    }

    fn popped(queue: &Queue) -> Vec<String> {
        let all = Limits { envelopes: usize::MAX, len_bytes: usize::MAX };
        match queue.pop(all) {
            Popped::Items(items) => items.iter().map(|item| item.id.to_string()).collect(),
            Popped::Overflowed => panic!("nothing is too much here"),
        }
    }

    #[test]
    fn listeners_get_their_topics_their_originators_or_everything() {
        let hub = Hub::new();
        let queues = [
            Interest::Topic(topic(1)),
            Interest::Topic(topic(2)),
            Interest::Originator(OriginatorId(200)),
            Interest::Everything,
        ]
        .map(|interest| {
            let queue = hub.queue();
            hub.listen(interest, &queue);
            queue
        });
        hub.publish(&[item(100, 1, 1), item(100, 2, 2), item(200, 1, 1), item(100, 3, 3)]);
        let got = queues.each_ref().map(|queue| popped(queue).join(" "));
        assert_eq!(got, ["100:1 200:1", "100:2", "200:1", "100:1 100:2 200:1 100:3"]);
    }

    #[test]
    fn a_listener_that_left_gets_nothing_and_leaves_nothing_behind() {
        let hub = Hub::new();
        let interests = [
            Interest::Topic(topic(1)),
            Interest::Originator(OriginatorId(100)),
            Interest::Everything,
        ];
        let (stays, leaves) = (hub.queue(), hub.queue());
        for interest in &interests {
            hub.listen(interest.clone(), &stays);
            hub.listen(interest.clone(), &leaves);
        }
        interests.iter().for_each(|interest| hub.unlisten(interest, &leaves));
        hub.publish(&[item(100, 1, 1)]);
        assert_eq!(popped(&leaves), [""; 0]);
        assert_eq!(popped(&stays), ["100:1"; 3]);
        interests.iter().for_each(|interest| hub.unlisten(interest, &stays));
        assert_eq!(hub.registrations(), 0);
    }

    #[test]
    fn late_finds_and_repeats_are_not_passed_on() {
        let hub = Hub::new();
        let queue = hub.queue();
        hub.listen(Interest::Everything, &queue);
        hub.publish(&[item(100, 1, 1), item(100, 4, 1)]);
        hub.publish(&[item(100, 2, 1), item(200, 2, 1), item(100, 4, 1), item(100, 5, 1)]);
        assert_eq!(popped(&queue), ["100:1", "100:4", "200:2", "100:5"]);
    }
}
