//! Routes committed envelopes to the streams that want them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic, TopicHasher};
use parking_lot::Mutex;

use super::listener::{ALL_QUEUES_BYTES_MAX, Listener};
use super::listeners::{Listeners, ListenersInParts};
use super::topic_listeners::{TopicKey, TopicListeners};
use crate::committed::Committed;
use crate::read::backlog::Audience;
use crate::read::feed::Interest;
use crate::read::limits::BatchLimits;
use crate::read::tables;
use crate::runtime::counters::StreamCounters;

/// Parts of the table of topics, each under a lock of its own: a stream that registers thousands
/// of topics delays a commit by one registration at most. Guessed: well above the number of cores.
const SHARDS: usize = 64;

/// Hands committed envelopes to listeners: by topic, by originator, or all of them. Notifies
/// listeners when a chain strand has reached the place that they wait for.
///
/// The cost of an envelope depends on the listeners of its topic and its originator, not on the
/// number of open streams. The hub never waits: a listener whose queue is full drops it and reads
/// from disk. Cheap to clone; all clones are the same hub. The committer reaches it through
/// [`FanOut`](super::fan_out::FanOut), whose thread is the only one that publishes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    state: Arc<HubState>,
}

#[derive(Debug)]
struct HubState {
    hasher: TopicHasher,
    /// Chooses the part of the table. Different from `hasher`, so that both
    /// hashes together distinguish topics.
    part_hasher: TopicHasher,
    topics: Vec<Mutex<TopicListeners>>,
    originators: Mutex<HashMap<OriginatorId, Listeners>>,
    /// Listeners of everything.
    everything: ListenersInParts,
    /// The last envelopes that were passed to streams of topics.
    published: Mutex<Cursor>,
    /// The last ones that were passed to streams of whole strands.
    verified: Mutex<Cursor>,
    awaited: Mutex<Awaited>,
    counters: Arc<StreamCounters>,
}

/// Listeners that wait for a chain strand to grow, and how far each strand is.
#[derive(Debug, Default)]
struct Awaited {
    /// Everything up to here has been handed to the listeners.
    reached: Cursor,
    places: BTreeMap<EnvelopeId, Listeners>,
}

impl Default for HubState {
    fn default() -> Self {
        Self {
            hasher: TopicHasher::new(),
            part_hasher: TopicHasher::new(),
            topics: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            originators: Mutex::default(),
            everything: ListenersInParts::default(),
            published: Mutex::default(),
            verified: Mutex::default(),
            awaited: Mutex::default(),
            counters: Arc::default(),
        }
    }
}

impl Hub {
    /// Creates a hub without listeners.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Passes on envelopes that have been committed, in the order of commits, and the places that
    /// their strands have reached with them. They are durable, and announced to
    /// [`Heads`](crate::runtime::Heads).
    ///
    /// Leaves out envelopes that do not ascend within their strand: a late find belongs to queries,
    /// and open streams do not go back.
    pub(crate) fn publish(&self, committed: &[Arc<Committed>], ends: &Cursor) {
        self.pass(Audience::All, committed);
        self.reach(ends);
    }

    /// Passes on envelopes as [`publish`](Self::publish) does, to these streams. Envelopes for streams of whole
    /// strands are verified, and [announced](crate::runtime::Engine::verified_heads) as such.
    pub(crate) fn pass(&self, audience: Audience, committed: &[Arc<Committed>]) {
        if audience != Audience::Strands {
            self.pass_to_topics(&ascending(&self.state.published, committed));
        }
        if audience != Audience::Topics {
            self.pass_to_strands(&ascending(&self.state.verified, committed));
        }
    }

    fn pass_to_topics(&self, fresh: &[Arc<Committed>]) {
        for item in fresh {
            let listeners = self.topic_part(&item.topic).lock();
            let of_topic = listeners.of(self.key(&item.topic));
            of_topic.for_each(|listener| listener.push(std::slice::from_ref(item)));
        }
    }

    fn pass_to_strands(&self, fresh: &[Arc<Committed>]) {
        let originators = self.state.originators.lock();
        if !originators.is_empty() {
            for item in fresh {
                if let Some(listeners) = originators.get(&item.id.originator) {
                    listeners.iter().for_each(|listener| listener.push(std::slice::from_ref(item)));
                }
            }
        }
        drop(originators);
        if !fresh.is_empty() {
            self.state.everything.for_each(|listener| listener.push(fresh));
        }
    }

    /// Makes every listener read from disk: envelopes could not be passed on.
    pub(crate) fn lose(&self) {
        self.for_each(|listener| listener.lose());
    }

    /// Returns true while the queues of all listeners together hold more than they may.
    pub(crate) fn holds_too_much(&self) -> bool {
        self.state.counters.waiting_bytes.get() > ALL_QUEUES_BYTES_MAX
    }

    /// Makes listeners read from disk if they have taken nothing out of their queues since an earlier sweep. Otherwise
    /// each stream whose client does not read would hold an envelope as long as it lasts, in memory that all streams
    /// share. Costs a visit of each registration.
    pub(crate) fn lose_stuck(&self, sweep: u64) {
        self.for_each(|listener| listener.lose_stuck(sweep));
    }

    /// Visits the listeners, once for each of their interests.
    fn for_each(&self, visit: impl Fn(&Listener)) {
        for shard in &self.state.topics {
            shard.lock().iter().for_each(|listener| visit(listener));
        }
        let originators = self.state.originators.lock();
        originators.values().flat_map(Listeners::iter).for_each(|listener| visit(listener));
        drop(originators);
        self.state.everything.for_each(|listener| visit(listener));
    }

    /// Notifies `listener` once the strand of `place` has reached it, after the listener has received
    /// its envelopes up to there. Notifies at once if the strand has reached it already.
    pub(crate) fn notify_when_reached(&self, place: EnvelopeId, listener: &Arc<Listener>) {
        let mut awaited = self.state.awaited.lock();
        if awaited.reached.covers(place) {
            let sequence = awaited.reached.get(place.originator);
            listener.push_reached(EnvelopeId { sequence, ..place });
        } else {
            awaited.places.entry(place).or_default().join(listener);
        }
    }

    /// Takes [`notify_when_reached`](Self::notify_when_reached) back.
    pub(crate) fn stop_waiting(&self, place: EnvelopeId, listener: &Arc<Listener>) {
        let mut awaited = self.state.awaited.lock();
        if let Some(listeners) = awaited.places.get_mut(&place) {
            listeners.leave(listener);
            if listeners.is_empty() {
                awaited.places.remove(&place);
            }
        }
    }

    /// Records the heads of strands and notifies the listeners that wait for a place up to them. Costs
    /// one lookup for each strand; places above the heads cost nothing.
    pub(crate) fn reach(&self, ends: &Cursor) {
        let mut awaited = self.state.awaited.lock();
        awaited.reached.merge(ends);
        for end in ends.iter().filter(|end| !end.originator.is_node()) {
            let first = EnvelopeId { sequence: SequenceId::NONE, ..end };
            while let Some((&place, _)) = awaited.places.range(first..=end).next() {
                let listeners = awaited.places.remove(&place).unwrap_or_default();
                listeners.iter().for_each(|listener| listener.push_reached(end));
            }
        }
    }

    /// Creates a listener that hears nothing yet, with the default bounds.
    #[cfg(test)]
    pub(crate) fn listener(&self) -> Arc<Listener> {
        self.listener_within(BatchLimits::QUEUE)
    }

    /// Creates a listener that hears nothing yet. Its queue holds no more than `limits`.
    pub(crate) fn listener_within(&self, limits: BatchLimits) -> Arc<Listener> {
        Arc::new(Listener::new(limits, self.state.counters.clone()))
    }

    /// Returns the counters of all listeners.
    pub(crate) fn counters(&self) -> &StreamCounters {
        &self.state.counters
    }

    /// Routes what `interest` names to `listener` from now on. A listener registers each interest
    /// once.
    pub(crate) fn listen(&self, interest: Interest, listener: &Arc<Listener>) {
        match interest {
            Interest::Topic(topic) => {
                self.topic_part(&topic).lock().join(self.key(&topic), listener);
            }
            Interest::Originator(originator) => {
                self.state.originators.lock().entry(originator).or_default().join(listener);
            }
            Interest::Everything => self.state.everything.join(listener),
        }
    }

    /// Stops routing what `interest` names to `listener`.
    pub(crate) fn unlisten(&self, interest: &Interest, listener: &Arc<Listener>) {
        match interest {
            Interest::Topic(topic) => {
                self.topic_part(topic).lock().leave(self.key(topic), listener);
            }
            Interest::Originator(originator) => {
                leave(&mut self.state.originators.lock(), originator, listener);
            }
            Interest::Everything => self.state.everything.leave(listener),
        }
    }

    fn key(&self, topic: &Topic) -> TopicKey {
        TopicKey(self.state.hasher.hash_one(topic))
    }

    fn topic_part(&self, topic: &Topic) -> &Mutex<TopicListeners> {
        let part = self.state.part_hasher.hash_one(topic) % SHARDS as u64;
        &self.state.topics[usize::try_from(part).expect("less than the number of parts")]
    }

    /// Returns the number of registrations of all listeners.
    #[cfg(test)]
    pub(crate) fn registrations(&self) -> usize {
        let mut of_everything = 0;
        self.state.everything.for_each(|_| of_everything += 1);
        let shards = self.state.topics.iter().map(Mutex::lock);
        shards.map(|shard| shard.iter().count()).sum::<usize>()
            + self.state.originators.lock().values().flat_map(Listeners::iter).count()
            + of_everything
            + self.state.awaited.lock().places.values().flat_map(Listeners::iter).count()
    }
}

/// Returns the envelopes that ascend within their strands, and remembers how far those are. Mostly all of them do.
fn ascending<'a>(
    published: &Mutex<Cursor>,
    committed: &'a [Arc<Committed>],
) -> Cow<'a, [Arc<Committed>]> {
    let mut published = published.lock();
    let mut ascends = |item: &Arc<Committed>| {
        let ascends = !published.covers(item.id);
        published.advance(item.id);
        ascends
    };
    let Some(late) = committed.iter().position(|item| !ascends(item)) else {
        return Cow::Borrowed(committed);
    };
    let mut fresh = committed[..late].to_vec();
    fresh.extend(committed[late + 1..].iter().filter(|item| ascends(item)).cloned());
    Cow::Owned(fresh)
}

fn leave<K>(table: &mut HashMap<K, Listeners>, key: &K, listener: &Arc<Listener>)
where
    K: std::hash::Hash + Eq,
{
    if let Some(listeners) = table.get_mut(key) {
        listeners.leave(listener);
        if listeners.is_empty() {
            table.remove(key);
            tables::shrink(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::queue::PopOutcome;

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

    fn publish(hub: &Hub, items: &[Arc<Committed>]) {
        hub.publish(items, &items.iter().map(|item| item.id).collect());
    }

    fn popped(listener: &Listener) -> Vec<String> {
        let all = BatchLimits { envelopes: usize::MAX, len_bytes: usize::MAX };
        match listener.pop(all) {
            PopOutcome::Items(items, _) => items.iter().map(|item| item.id.to_string()).collect(),
            PopOutcome::Overflowed => panic!("nothing is too much here"),
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
        publish(&hub, &[item(100, 1, 1), item(100, 2, 2), item(200, 1, 1), item(100, 3, 3)]);
        let got = listeners.each_ref().map(|listener| popped(listener).join(" "));
        assert_eq!(got, ["100:1 200:1", "100:2", "200:1", "100:1 100:2 200:1 100:3"]);
    }

    #[test]
    fn streams_of_strands_get_what_is_shown_first_once_it_is_verified() {
        let hub = Hub::new();
        let listeners = [
            Interest::Topic(topic(1)),
            Interest::Originator(OriginatorId(100)),
            Interest::Everything,
        ]
        .map(|interest| {
            let listener = hub.listener();
            hub.listen(interest, &listener);
            listener
        });
        let got = || listeners.each_ref().map(|listener| popped(listener).join(" "));
        hub.pass(Audience::Topics, &[item(100, 1, 1), item(100, 2, 1), item(100, 3, 1)]);
        assert_eq!(got(), ["100:1 100:2 100:3", "", ""]);
        // The second one breaks a rule.
        hub.pass(Audience::Strands, &[item(100, 1, 1), item(100, 3, 1)]);
        assert_eq!(got(), ["", "100:1 100:3", "100:1 100:3"]);
        hub.pass(Audience::All, &[item(100, 4, 1)]);
        assert_eq!(got(), ["100:4"; 3]);
    }

    #[test]
    fn a_sweep_finds_the_listeners_of_every_interest() {
        let hub = Hub::new();
        let all = hub.listener();
        let interests = [
            Interest::Topic(topic(1)),
            Interest::Originator(OriginatorId(100)),
            Interest::Everything,
        ];
        let alone = interests.each_ref().map(|interest| {
            let listener = hub.listener();
            hub.listen(interest.clone(), &listener);
            hub.listen(interest.clone(), &all);
            listener
        });
        publish(&hub, &[item(100, 1, 1)]);
        hub.lose_stuck(1);
        assert_eq!(popped(&all), ["100:1"; 3], "it has several visits in one sweep");
        hub.lose_stuck(2);
        for listener in alone {
            assert!(matches!(listener.pop(BatchLimits::STREAM), PopOutcome::Overflowed));
        }
        assert_eq!(hub.counters().demotions.get(), 3);
        assert!(!hub.holds_too_much());
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
        publish(&hub, &[item(100, 1, 1)]);
        assert_eq!(popped(&leaves), [""; 0]);
        assert_eq!(popped(&stays), ["100:1"; 3]);
        interests.iter().for_each(|interest| hub.unlisten(interest, &stays));
        assert_eq!(hub.registrations(), 0);
    }

    /// A topic moves between the two tables with its second listener, and no listener is lost or heard twice.
    #[test]
    fn a_topic_has_any_number_of_listeners_and_each_leaves_alone() {
        let hub = Hub::new();
        let all = [(); 3].map(|()| hub.listener());
        for (joined, listener) in (1..).zip(&all) {
            hub.listen(Interest::Topic(topic(1)), listener);
            hub.listen(Interest::Topic(topic(1)), listener);
            assert_eq!(hub.registrations(), joined);
            publish(&hub, &[item(100, joined as u64, 1)]);
        }
        assert_eq!(popped(&all[0]), ["100:1", "100:2", "100:3"]);
        assert_eq!(popped(&all[1]), ["100:2", "100:3"]);
        assert_eq!(popped(&all[2]), ["100:3"]);
        for left in [1, 0, 2] {
            let stays = hub.registrations() - 1;
            hub.unlisten(&Interest::Topic(topic(1)), &all[left]);
            hub.unlisten(&Interest::Topic(topic(1)), &all[left]);
            assert_eq!(hub.registrations(), stays);
        }
        hub.listen(Interest::Topic(topic(1)), &all[0]);
        publish(&hub, &[item(100, 4, 1)]);
        let got = all.each_ref().map(|listener| popped(listener).join(" "));
        assert_eq!(got, ["100:4", "", ""]);
    }

    #[test]
    fn late_finds_and_repeats_are_not_passed_on() {
        let hub = Hub::new();
        let listener = hub.listener();
        hub.listen(Interest::Everything, &listener);
        publish(&hub, &[item(100, 1, 1), item(100, 4, 1)]);
        publish(&hub, &[item(100, 2, 1), item(200, 2, 1), item(100, 4, 1), item(100, 5, 1)]);
        assert_eq!(popped(&listener), ["100:1", "100:4", "200:2", "100:5"]);
    }

    #[test]
    fn a_listener_is_told_of_the_place_that_it_waits_for_behind_its_envelopes() {
        let hub = Hub::new();
        let (place, never) = (item(0, 3, 9).id, item(0, 1 << 62, 9).id);
        let [waits, given_up, late] = [(); 3].map(|()| hub.listener());
        hub.listen(Interest::Everything, &waits);
        for (place, listener) in [(place, &waits), (never, &waits), (place, &given_up)] {
            hub.notify_when_reached(place, listener);
        }
        hub.stop_waiting(place, &given_up);
        assert_eq!(hub.registrations(), 3);
        publish(&hub, &[item(0, 2, 1), item(100, 7, 1)]);
        let one = BatchLimits { envelopes: 1, len_bytes: usize::MAX };
        let popped_places = |listener: &Listener, limits| match listener.pop(limits) {
            PopOutcome::Items(_, popped_places) => popped_places,
            PopOutcome::Overflowed => panic!("nothing is too much here"),
        };
        assert_eq!(popped_places(&waits, BatchLimits::STREAM), []);
        publish(&hub, &[item(0, 3, 1), item(0, 4, 1)]);
        hub.notify_when_reached(place, &late);
        let reached = item(0, 4, 1).id;
        assert_eq!(
            [popped_places(&waits, one), popped_places(&waits, one)],
            [vec![], vec![reached]]
        );
        assert_eq!(popped_places(&late, one), [reached], "it has been reached before");
        assert_eq!(popped_places(&given_up, one), []);
        assert_eq!(hub.registrations(), 2, "what never comes stays, and nothing else");
    }

    #[test]
    fn a_loss_sends_every_listener_to_the_disk() {
        let hub = Hub::new();
        let interests = [
            Interest::Topic(topic(1)),
            Interest::Originator(OriginatorId(100)),
            Interest::Everything,
        ];
        let listeners = interests.map(|interest| {
            let listener = hub.listener();
            hub.listen(interest, &listener);
            listener
        });
        publish(&hub, &[item(100, 1, 1)]);
        hub.lose();
        for listener in &listeners {
            assert!(matches!(listener.pop(BatchLimits::STREAM), PopOutcome::Overflowed));
        }
    }
}
