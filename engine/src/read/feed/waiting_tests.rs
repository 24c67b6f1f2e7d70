//! Feeds of topics that wait: for a wave before them, for a chain envelope, or for their queue to be read from disk.

use std::ops::RangeInclusive;

use hawser_proto::Topic;
use hawser_storage::TopicRow;

use super::*;
use crate::read::limits::BatchLimits;
use crate::read::plan::Cursors;
use crate::read::testing::{MemoryRows, committed, cursor, id, topic};

/// A stream of topic 1, which is live, and of topic 2, which is being added as wave 1, when the
/// queue has overflowed. Rows are `(topic, envelope, dependencies)`.
struct Overflowed {
    feed: TopicFeed,
    rows: MemoryRows,
}

impl Overflowed {
    fn new(rows: &[(u8, EnvelopeId, &[EnvelopeId])]) -> Self {
        let mut memory = MemoryRows::default();
        for (name, id, depends_on) in rows {
            let depends_on = depends_on.to_vec();
            let row =
                TopicRow { id: *id, originator_ns: 0, len_bytes: 9, depends_on, envelope: None };
            memory.insert(topic(*name), row);
        }
        let mut feed = TopicFeed::new(Cursors::PerTopic, [(topic(1), Arc::default())]);
        feed.skip_to(&Arc::default());
        feed.add(WaveId(1), [(topic(2), Arc::default())]);
        feed.handle_overflow();
        Self { feed, rows: memory }
    }

    /// Does the next read, and returns the requested topics.
    fn read(&mut self, heads: &[(u32, u64)]) -> Option<Vec<Topic>> {
        let Read::Topics(catch_up, mut plan) = self.feed.poll_read(&Arc::new(cursor(heads)))?
        else {
            panic!("a feed of topics reads topics");
        };
        let asked = plan.topics().iter().map(|planned| planned.topic.clone()).collect();
        let page = plan.next_page(&mut self.rows, BatchLimits::STREAM).unwrap();
        let bytes = |id: EnvelopeId| id.to_string().into();
        let envelopes = page.rows.iter().map(|&row| (row, bytes(row.id))).collect();
        self.feed.handle_page(catch_up, plan, envelopes, page.finished);
        Some(asked)
    }

    /// Returns deliveries as `wave:envelopes`, and ends of waves.
    fn delivered(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.feed.poll_event())
            .map(|event| match event {
                SubscriptionEvent::CaughtUp(WaveId(wave)) => format!("caught up {wave}"),
                SubscriptionEvent::TopicsLive { .. } | SubscriptionEvent::Entries { .. } => {
                    unreachable!("asked for by no stream here")
                }
                SubscriptionEvent::Envelopes { wave, envelopes } => {
                    let texts: Vec<_> =
                        envelopes.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
                    format!("{}={}", wave.map_or(0, |wave| wave.0), texts.join(" "))
                }
            })
            .collect()
    }
}

#[test]
fn a_wave_joins_the_live_topics_only_where_they_are() {
    let mut stream = Overflowed::new(&[(1, id(100, 8), &[]), (2, id(100, 7), &[])]);
    assert_eq!(stream.delivered(), ["caught up 0"]);
    assert_eq!(stream.read(&[(100, 5)]), Some(vec![topic(2)]));
    assert_eq!(stream.read(&[(100, 9)]), Some(vec![topic(1)]));
    assert_eq!(stream.delivered(), ["0=100:8"], "the wave would go on live with 100:7");
    assert_eq!(stream.read(&[(100, 9)]), Some(vec![topic(2)]));
    assert_eq!(stream.delivered(), ["1=100:7", "caught up 1"]);
    assert_eq!(stream.read(&[(100, 9)]), None);
}

/// Topic 1 takes two pages. The wave is done before them and waits for them; what it holds back is
/// read once the wave has ended, and comes once.
#[test]
fn a_dependency_may_arrive_while_its_wave_waits() {
    let depends_on = [id(0, 3)];
    let held = (2, id(100, 601), depends_on.as_slice());
    let rows = (1..=600).map(|sequence| (1, id(100, sequence), [].as_slice()));
    let mut stream = Overflowed::new(&rows.chain([held]).collect::<Vec<_>>());
    assert_eq!(stream.read(&[(100, 601)]), Some(vec![topic(2)]));
    assert_eq!(stream.read(&[(100, 601)]), Some(vec![topic(1)]));
    assert_eq!(stream.delivered(), ["caught up 0".to_owned(), batch(0, 1..=512)]);
    assert_eq!(stream.feed.awaited(), depends_on);
    stream.feed.handle_reached(id(0, 3));
    assert_eq!(stream.read(&[(0, 3), (100, 601)]), Some(vec![topic(1)]));
    assert_eq!(stream.delivered(), [batch(0, 513..=600), "caught up 1".to_owned()]);
    assert_eq!(stream.read(&[(0, 3), (100, 601)]), Some(vec![topic(2)]));
    assert_eq!(stream.delivered(), [batch(0, 601..=601)], "it goes on once its topic is live");
    assert_eq!(stream.read(&[(0, 3), (100, 601)]), None);
}

/// Envelopes of originator 100 as [`Overflowed::delivered`] shows them.
fn batch(wave: u64, mut sequences: RangeInclusive<u64>) -> String {
    let first = sequences.next().map(|sequence| format!("{wave}={}", id(100, sequence)));
    sequences.fold(first.unwrap(), |text, sequence| format!("{text} {}", id(100, sequence)))
}

/// Reads what has been released, and returns the topics that it took. Envelopes are `rows`.
fn released(feed: &mut TopicFeed, rows: &mut MemoryRows) -> Vec<Topic> {
    let Some(Read::Topics(catch_up, mut plan)) = feed.poll_read(&Arc::default()) else {
        return Vec::new();
    };
    let asked = plan.topics().iter().map(|planned| planned.topic.clone()).collect();
    let page = plan.next_page(rows, BatchLimits::STREAM).unwrap();
    let envelopes = page.rows.iter().map(|&row| (row, row.id.to_string().into())).collect();
    feed.handle_page(catch_up, plan, envelopes, page.finished);
    asked
}

/// Thousands of topics wait, each for a commit of its own.
#[test]
fn a_late_commit_reads_the_topics_that_waited_for_it_and_no_others() {
    let name = |n: u16| Topic::parse([&[0], &n.to_be_bytes()[..]].concat().into()).unwrap();
    for cursors in [Cursors::Shared, Cursors::PerTopic] {
        let topics = (0..5000).map(|n| (name(n), Arc::default()));
        let mut feed = TopicFeed::new(cursors, topics);
        feed.skip_to(&Arc::default());
        assert!(matches!(feed.poll_event(), Some(SubscriptionEvent::CaughtUp(_))));
        let mut rows = MemoryRows::default();
        // One strand for each wait: with one cursor a strand stops in all topics.
        let waits =
            (1..=2000u16).map(|n| (name(n), id(200 + u32::from(n), 1), id(0, u64::from(n) * 2)));
        let waits: Vec<_> = waits.chain([(name(3000), id(202, 2), id(0, 1))]).collect();
        for (topic, id, on) in &waits {
            let committed = Arc::new(committed(*id, topic.clone(), 0, vec![*on]));
            let row = TopicRow {
                id: *id,
                originator_ns: 0,
                len_bytes: 9,
                depends_on: vec![*on],
                envelope: None,
            };
            rows.insert(topic.clone(), row);
            feed.handle_live(&[committed]);
        }
        assert!(feed.poll_event().is_none());
        let stops_alone = cursors == Cursors::PerTopic;
        assert_eq!(feed.awaited(), [id(0, if stops_alone { 1 } else { 2 })]);
        feed.handle_reached(id(0, 1));
        let first = if stops_alone { vec![name(3000)] } else { vec![] };
        assert_eq!(released(&mut feed, &mut rows), first, "{cursors:?}");
        rows.seeks = 0;
        feed.handle_reached(id(0, 4));
        let second =
            if stops_alone { vec![name(1), name(2)] } else { vec![name(1), name(2), name(3000)] };
        assert_eq!(released(&mut feed, &mut rows), second);
        assert!(rows.seeks <= 2 * second.len(), "{} times sought", rows.seeks);
        assert_eq!(released(&mut feed, &mut rows), []);
        assert_eq!(feed.awaited(), [id(0, 6)]);
        let delivered = std::iter::from_fn(|| feed.poll_event()).map(|event| match event {
            SubscriptionEvent::Envelopes { wave: None, envelopes } => envelopes.len(),
            event => panic!("not expected: {event:?}"),
        });
        assert_eq!(delivered.sum::<usize>(), 3, "{cursors:?}");
    }
}

/// A lane that is being read keeps its order with what comes meanwhile, and stops again.
#[test]
fn what_comes_while_a_lane_is_read_follows_it() {
    for cursors in [Cursors::Shared, Cursors::PerTopic] {
        let mut feed = TopicFeed::new(cursors, [1, 2].map(|name| (topic(name), Arc::default())));
        feed.skip_to(&Arc::default());
        let mut rows = MemoryRows::default();
        let live = |feed: &mut TopicFeed, rows: &mut MemoryRows, name, id, on: &[EnvelopeId]| {
            let depends_on = on.to_vec();
            let row = TopicRow {
                id,
                originator_ns: 0,
                len_bytes: 9,
                depends_on: depends_on.clone(),
                envelope: None,
            };
            rows.insert(topic(name), row);
            let bytes = id.to_string().into();
            feed.handle_live(&[Arc::new(Committed {
                bytes,
                ..committed(id, topic(name), 0, depends_on)
            })]);
        };
        live(&mut feed, &mut rows, 1, id(100, 1), &[id(0, 1)]);
        feed.handle_reached(id(0, 1));
        let Some(Read::Topics(catch_up, mut plan)) = feed.poll_read(&Arc::default()) else {
            panic!("a lane is to be read");
        };
        live(&mut feed, &mut rows, 1, id(100, 2), &[]);
        live(&mut feed, &mut rows, 2, id(100, 3), &[]);
        live(&mut feed, &mut rows, 1, id(100, 4), &[id(0, 2)]);
        live(&mut feed, &mut rows, 1, id(100, 5), &[]);
        let page = plan.next_page(&mut rows, BatchLimits::STREAM).unwrap();
        let envelopes = page.rows.iter().map(|&row| (row, row.id.to_string().into())).collect();
        feed.handle_page(catch_up, plan, envelopes, page.finished);
        feed.handle_reached(id(0, 2));
        released(&mut feed, &mut rows);
        let mut got = Vec::new();
        while let Some(event) = feed.poll_event() {
            if let SubscriptionEvent::Envelopes { envelopes, .. } = event {
                got.extend(
                    envelopes.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
                );
            }
        }
        let expected = match cursors {
            Cursors::Shared => ["100:1", "100:2", "100:3", "100:4", "100:5"],
            Cursors::PerTopic => ["100:3", "100:1", "100:2", "100:4", "100:5"],
        };
        assert_eq!(got, expected, "{cursors:?}");
    }
}

/// A hostile node signs an envelope of a megabyte for each of a thousand topics. All name a commit that never comes.
#[test]
fn a_topic_that_waits_keeps_no_envelope_in_memory() {
    for cursors in [Cursors::Shared, Cursors::PerTopic] {
        for is_live in [true, false] {
            let topics = [1, 2].map(|name| (topic(name), Arc::default()));
            let mut feed = TopicFeed::new(cursors, topics);
            if is_live {
                feed.skip_to(&Arc::default());
            } else {
                assert!(feed.poll_read(&Arc::default()).is_some(), "it catches up");
            }
            for name in [1_u8, 2] {
                let bytes = Bytes::from([&[0, name][..], &[7; 1000]].concat());
                let topic = Topic::parse(bytes.slice(..2)).unwrap();
                let waits = committed(id(100, name.into()), topic, 1, vec![id(0, 9)]);
                feed.handle_live(&[Arc::new(Committed { bytes: bytes.clone(), ..waits })]);
                assert!(bytes.is_unique(), "{cursors:?}, is_live: {is_live}, topic {name}");
            }
            assert_eq!(feed.awaited().is_empty(), !is_live, "those of a tail follow it");
        }
    }
}

#[test]
fn what_is_kept_of_topics_that_are_being_read_is_within_the_bounds_of_the_stream() {
    let envelope = |at| Arc::new(committed(id(100, at), topic(1), 1, Vec::new()));
    let all: Vec<_> = (1..=20).map(envelope).collect();
    let queue = BatchLimits::queue(3 * crate::read::wire_len_bytes(all[0].bytes.len()) + 16);
    let mut feed = TopicFeed::new(Cursors::PerTopic, [(topic(1), Arc::default())]);
    feed.bound_tails(queue);
    assert!(feed.poll_read(&Arc::default()).is_some(), "it catches up");
    for item in all {
        feed.handle_live(&[item]);
        assert!(feed.kept_bytes() <= queue.len_bytes, "{} bytes", feed.kept_bytes());
    }
}
