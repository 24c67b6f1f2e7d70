//! Routes committed envelopes to the streams that want them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_proto::{Cursor, OriginatorId, Topic};

use super::listener::Listener;
use crate::committed::Committed;
use crate::read::feed::Interest;
use crate::read::limits::BatchLimits;
use crate::runtime::counters::StreamCounters;

/// Parts of the table of topics, each under a lock of its own: a stream that registers thousands
/// of topics delays a commit by one registration at most. Guessed: well above the number of cores.
const SHARDS: usize = 64;

/// Hands committed envelopes to listeners: by topic, by originator, or all of them.
///
/// The cost of an envelope depends on the listeners of its topic and its originator, not on the
/// number of open streams. The hub never waits: a listener whose queue is full drops it and reads
/// from disk. Cheap to clone; all clones are the same hub.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    state: Arc<HubState>,
}

#[derive(Debug)]
struct HubState {
    hasher: RandomState,
    topics: Vec<Mutex<HashMap<Topic, Listeners>>>,
    originators: Mutex<HashMap<OriginatorId, Listeners>>,
    everything: Mutex<Listeners>,
    published: Mutex<Cursor>,
    counters: Arc<StreamCounters>,
}

type Listeners = Vec<Arc<Listener>>;

impl Default for HubState {
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
    /// Creates a hub without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes on envelopes that have just been committed, in the order of commits. The caller has
    /// made them durable and announced them to [`Heads`](crate::runtime::Heads); there is one
    /// caller at a time for each strand.
    ///
    /// Leaves out envelopes that do not ascend within their strand: a late find belongs to queries,
    /// and open streams do not go back.
    pub fn publish(&self, committed: &[Arc<Committed>]) {
        let fresh = self.ascending(committed);
        for item in &fresh {
            if let Some(listeners) = lock(self.shard(&item.topic)).get(&item.topic) {
                listeners.iter().for_each(|listener| listener.push(item));
            }
        }
        let originators = lock(&self.state.originators);
        if !originators.is_empty() {
            for item in &fresh {
                if let Some(listeners) = originators.get(&item.id.originator) {
                    listeners.iter().for_each(|listener| listener.push(item));
                }
            }
        }
        drop(originators);
        for listener in lock(&self.state.everything).iter() {
            fresh.iter().for_each(|item| listener.push(item));
        }
    }

    /// Creates a listener that hears nothing yet.
    pub(crate) fn listener(&self) -> Arc<Listener> {
        Arc::new(Listener::new(BatchLimits::QUEUE, self.state.counters.clone()))
    }

    /// Returns the counters of all listeners.
    pub(crate) fn counters(&self) -> &StreamCounters {
        &self.state.counters
    }

    /// Routes what `interest` names to `listener` from now on. A listener registers each interest
    /// once.
    pub(crate) fn listen(&self, interest: Interest, listener: &Arc<Listener>) {
        let listener = Arc::clone(listener);
        match interest {
            Interest::Topic(topic) => {
                lock(self.shard(&topic)).entry(topic).or_default().push(listener);
            }
            Interest::Originator(originator) => {
                lock(&self.state.originators).entry(originator).or_default().push(listener);
            }
            Interest::Everything => lock(&self.state.everything).push(listener),
        }
    }

    /// Stops routing what `interest` names to `listener`.
    pub(crate) fn unlisten(&self, interest: &Interest, listener: &Arc<Listener>) {
        match interest {
            Interest::Topic(topic) => leave(&mut lock(self.shard(topic)), topic, listener),
            Interest::Originator(originator) => {
                leave(&mut lock(&self.state.originators), originator, listener);
            }
            Interest::Everything => remove(&mut lock(&self.state.everything), listener),
        }
    }

    /// Returns the envelopes that ascend within their strands, and remembers how far those are.
    fn ascending(&self, committed: &[Arc<Committed>]) -> Vec<Arc<Committed>> {
        let mut published = lock(&self.state.published);
        let mut ascends = |item: &&Arc<Committed>| {
            let ascends = !published.covers(item.id);
            published.advance(item.id);
            ascends
        };
        committed.iter().filter(&mut ascends).cloned().collect()
    }

    fn shard(&self, topic: &Topic) -> &Mutex<HashMap<Topic, Listeners>> {
        let hash = self.state.hasher.hash_one(topic) % SHARDS as u64;
        &self.state.topics[usize::try_from(hash).expect("less than the number of shards")]
    }

    /// Returns the number of registrations of all listeners.
    #[cfg(test)]
    pub(crate) fn registrations(&self) -> usize {
        let topics: usize =
            self.state.topics.iter().map(|shard| lock(shard).values().flatten().count()).sum();
        topics
            + lock(&self.state.originators).values().flatten().count()
            + lock(&self.state.everything).len()
    }
}

fn leave<K>(table: &mut HashMap<K, Listeners>, key: &K, listener: &Arc<Listener>)
where
    K: std::hash::Hash + Eq,
{
    if let Some(listeners) = table.get_mut(key) {
        remove(listeners, listener);
        if listeners.is_empty() {
            table.remove(key);
        }
    }
}

fn remove(listeners: &mut Listeners, listener: &Arc<Listener>) {
    if let Some(place) = listeners.iter().position(|other| Arc::ptr_eq(other, listener)) {
        listeners.swap_remove(place);
    }
}

/// No code panics while it holds one of these locks, and the tables are whole after each call.
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

    fn popped(listener: &Listener) -> Vec<String> {
        let all = BatchLimits { envelopes: usize::MAX, len_bytes: usize::MAX };
        match listener.pop(all) {
            Popped::Items(items) => items.iter().map(|item| item.id.to_string()).collect(),
            Popped::Overflowed => panic!("nothing is too much here"),
        }
    }

    #[test]
    fn listeners_get_their_topics_their_originators_or_everything() {
        let hub = Hub::new();
        let listeners = [
            Interest::Topic(topic(1)),
            Interest::Topic(topic(2)),
            Interest::Originator(OriginatorId(200)),
            Interest::Everything,
        ]
        .map(|interest| {
            let listener = hub.listener();
            hub.listen(interest, &listener);
            listener
        });
        hub.publish(&[item(100, 1, 1), item(100, 2, 2), item(200, 1, 1), item(100, 3, 3)]);
        let got = listeners.each_ref().map(|listener| popped(listener).join(" "));
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
        let (stays, leaves) = (hub.listener(), hub.listener());
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
        let listener = hub.listener();
        hub.listen(Interest::Everything, &listener);
        hub.publish(&[item(100, 1, 1), item(100, 4, 1)]);
        hub.publish(&[item(100, 2, 1), item(200, 2, 1), item(100, 4, 1), item(100, 5, 1)]);
        assert_eq!(popped(&listener), ["100:1", "100:4", "200:2", "100:5"]);
    }
}
