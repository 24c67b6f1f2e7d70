//! Feeds in a simulated node: exactly once, in order and within bounds, for every schedule.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{OriginatorId, Topic};
use hawser_storage::TopicRow;
use proptest::prelude::*;

use super::lanes::{self, Met};
use super::sim::{History, Kind, Node, Stream, Traffic, some_cursor, some_topics};
use super::*;
use crate::read::limits::BatchLimits;
use crate::read::plan::Cursors;
use crate::read::testing::{Dice, MemoryRows, committed, cursor, id, topic, visible};

/// Runs a schedule and checks every stream. Returns what was delivered, step by step.
fn run(seed: u64, traffic: Traffic) -> Result<(Vec<String>, Coverage), TestCaseError> {
    let dice = &mut Dice::new(seed);
    let mut node = Node::new(traffic);
    let mut streams: Vec<Stream> = Vec::new();
    let mut run = Run::default();
    for _ in 0..600 {
        match dice.below(24) {
            0..4 => node.commit(dice),
            4..7 => node.announce(dice),
            7..10 => node.publish(dice),
            10 => node.find(dice),
            11 if streams.len() < 5 => {
                let kind = some_kind(&node, dice);
                streams.push(Stream::open(run.next_name(), kind, &node));
            }
            12 if !streams.is_empty() && dice.chance(4) => {
                let place = dice.index(streams.len());
                let stream = streams.swap_remove(place);
                streams.extend(run.reopen(stream, &node)?);
            }
            13 if !streams.is_empty() => {
                let place = dice.index(streams.len());
                change(&mut streams[place], &node, dice);
            }
            _ if !streams.is_empty() => {
                // The first streams are slow readers.
                let place = dice.index(streams.len()).max(dice.index(streams.len()));
                streams[place].step(&mut node, dice);
                let kept_bytes = streams[place].kept_bytes();
                prop_assert!(kept_bytes <= 2 * BatchLimits::QUEUE.len_bytes, "{kept_bytes} bytes");
            }
            _ => {}
        }
    }
    node.settle();
    for mut stream in streams {
        for _ in 0..20_000 {
            // Twice nothing: reading is asked for in one step and done in another.
            if !stream.step(&mut node, dice) && !stream.step(&mut node, dice) {
                break;
            }
        }
        run.check(&stream, &node)?;
        run.check_complete(&stream, &node)?;
        prop_assert!(stream.history.values().all(|history| history.is_complete));
    }
    Ok((run.trace, run.coverage))
}

/// Situations that the schedules of a test have reached. A test that reaches none of them fails.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Coverage {
    overflows: usize,
    dependants: usize,
    delivered: usize,
    waves: usize,
    /// Envelopes that were there when their topic was added later, and had to wait.
    held_back: usize,
    /// Waves of topics that were added later and took several pages.
    paged_waves: usize,
    /// Envelopes of waves of history.
    history: usize,
    lanes: Met,
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.overflows += other.overflows;
        self.dependants += other.dependants;
        self.delivered += other.delivered;
        self.waves += other.waves;
        self.held_back += other.held_back;
        self.paged_waves += other.paged_waves;
        self.history += other.history;
        self.lanes += other.lanes;
    }
}

#[derive(Default)]
struct Run {
    names: usize,
    trace: Vec<String>,
    coverage: Coverage,
}

impl Run {
    fn next_name(&mut self) -> usize {
        self.names += 1;
        self.names
    }

    /// Closes a stream and goes on from its cursor with another one.
    fn reopen(&mut self, mut stream: Stream, node: &Node) -> Result<Option<Stream>, TestCaseError> {
        stream.drain(node);
        stream.close(node);
        self.check(&stream, node)?;
        let kind = match stream.kind.clone() {
            Kind::Shared(topics, from) => {
                Kind::Shared(topics, Some(advanced(from.unwrap(), &stream.delivered, |_| true)))
            }
            Kind::Log(wanted, from) => {
                Kind::Log(wanted, Some(advanced(from.unwrap(), &stream.delivered, |_| true)))
            }
            Kind::PerTopic(topics) => Kind::PerTopic(
                topics
                    .into_iter()
                    .map(|(topic, from)| {
                        let added = stream.added(&topic);
                        let own = &stream.delivered[added..];
                        let reached = advanced(from, own, |item| item.topic == topic);
                        (topic, reached)
                    })
                    .collect(),
            ),
        };
        // The reader has every envelope that its cursor covers.
        let reached = |item: &Committed| cursor_of(&kind, item).is_some_and(|c| c.covers(item.id));
        let began =
            |item: &Committed| cursor_of(&stream.kind, item).is_some_and(|c| c.covers(item.id));
        let got = delivered_ids(&stream);
        for item in node.all().iter().filter(|item| reached(item) && !began(item)) {
            let excused = node.late.contains(&item.id);
            prop_assert!(
                excused || got.contains(&item.id),
                "gap at {} of {}",
                item.id,
                stream.name
            );
        }
        Ok(Some(Stream::open(self.next_name(), kind, node)))
    }

    /// Asserts the invariants of any moment.
    fn check(&mut self, stream: &Stream, node: &Node) -> Result<(), TestCaseError> {
        self.coverage.overflows += stream.overflows;
        self.coverage.delivered += stream.delivered.len();
        self.coverage.waves += stream.caught_up.len();
        self.coverage.held_back += held_back(stream);
        self.coverage.paged_waves += stream.paged_waves();
        let name = stream.name;
        let mut last: BTreeMap<(Option<Topic>, OriginatorId), (usize, EnvelopeId)> =
            BTreeMap::new();
        let mut last_of_wave = BTreeMap::new();
        for (place, (wave, item)) in stream.delivered.iter().enumerate() {
            self.trace.push(format!("{name}: {wave:?} {}", item.id));
            let per_topic = matches!(stream.kind, Kind::PerTopic(_));
            let lane = per_topic.then(|| item.topic.clone());
            let added = stream.added_at.get(&item.topic);
            if let Some((before, id)) = last.insert((lane, item.id.originator), (place, item.id)) {
                let between = |added: &usize| before < *added && *added <= place;
                let began_anew = added.is_some_and(|added| added.iter().any(between));
                prop_assert!(began_anew || id < item.id, "{name}: {} after {id}", item.id);
            }
            if node.traffic.dependant_one_in == 0 {
                // Nothing waits, so nothing excuses an exception over all topics: the stream
                // ascends, or, if its set has changed, what is live does and each wave does.
                let lane = if stream.added_at.is_empty() { None } else { Some(*wave) };
                let id = last_of_wave.insert((lane, item.id.originator), item.id);
                prop_assert!(id.is_none_or(|id| id < item.id), "{name}: {} after {id:?}", item.id);
            }
            self.check_dependencies(stream, node, place)?;
        }
        let waves: BTreeSet<WaveId> = stream.caught_up.iter().copied().collect();
        prop_assert_eq!(waves.len(), stream.caught_up.len(), "told twice");
        let expects =
            |it: &Committed| node.traffic.dependant_one_in == 0 && !node.late.contains(&it.id);
        if matches!(stream.kind, Kind::PerTopic(_)) {
            self.coverage.lanes += lanes::check(&stream.steps, node.all(), expects)?;
        }
        stream.history.values().try_for_each(|history| self.check_history(history, node))
    }

    /// Asserts that a wave of history has what was there when it began, once, in order, and nothing else.
    fn check_history(&mut self, history: &History, node: &Node) -> Result<(), TestCaseError> {
        let is_asked = |item: &Committed| {
            history.topics.get(&item.topic).is_some_and(|it| !it.covers(item.id))
        };
        let mut last = BTreeMap::new();
        for item in &history.delivered {
            prop_assert!(is_asked(item), "{} was not asked for", item.id);
            let before = last.insert(item.id.originator, item.id);
            let in_order = before.is_none_or(|before| before < item.id);
            prop_assert!(in_order || node.traffic.dependant_one_in > 0, "{}", item.id);
        }
        let got: BTreeSet<EnvelopeId> = history.delivered.iter().map(|item| item.id).collect();
        prop_assert_eq!(got.len(), history.delivered.len(), "repeated");
        if history.is_complete && node.traffic.dependant_one_in == 0 {
            self.coverage.history += got.len();
            for item in node.all().iter().filter(|item| is_asked(item)) {
                let was_there = history.heads.covers(item.id) && !node.late.contains(&item.id);
                prop_assert!(!was_there || got.contains(&item.id), "{} is missing", item.id);
            }
        }
        Ok(())
    }

    /// Nothing before what it depends on.
    fn check_dependencies(
        &mut self,
        stream: &Stream,
        node: &Node,
        place: usize,
    ) -> Result<(), TestCaseError> {
        let item = &stream.delivered[place].1;
        let added = stream.added(&item.topic);
        let from = cursor_of(&stream.kind, item);
        let (Some(from), true) = (from, item.id.originator.is_node() && place >= added) else {
            return Ok(()); // of a topic that was removed since
        };
        for &on in item.depends_on.iter().filter(|&&on| !from.covers(on)) {
            if matches!(stream.kind, Kind::Log(..)) {
                continue;
            }
            prop_assert!(stream.heads_then[place].covers(on), "{} before {on} is held", item.id);
            let Some(other) = node.all().iter().find(|other| other.id == on) else { continue };
            let asked = match &stream.kind {
                Kind::Shared(topics, _) => topics.contains(&other.topic),
                _ => other.topic == item.topic,
            };
            if asked && !node.late.contains(&on) {
                self.coverage.dependants += 1;
                let earlier = &stream.delivered[added.min(place)..place];
                let came = earlier.iter().any(|(_, earlier)| earlier.id == on);
                prop_assert!(came, "{}: {} before {on}", stream.name, item.id);
            }
        }
        Ok(())
    }

    /// Asserts the invariant of the end: every visible envelope has come.
    fn check_complete(&self, stream: &Stream, node: &Node) -> Result<(), TestCaseError> {
        let heads = node.heads.get();
        let expected = match &stream.kind {
            Kind::Log(wanted, from) => node
                .all()
                .iter()
                .map(|item| item.id)
                .filter(|id| wanted.as_ref().is_none_or(|wanted| wanted.contains(&id.originator)))
                .filter(|id| !from.as_ref().unwrap().covers(*id))
                .collect(),
            Kind::Shared(topics, from) => {
                let from = |topic: &Topic| topics.contains(topic).then(|| from.clone().unwrap());
                visible(node.all(), from, &heads, |item| item.id.originator)
            }
            Kind::PerTopic(topics) => {
                let from = |topic: &Topic| topics.get(topic).cloned();
                let lane = |item: &Committed| (item.topic.clone(), item.id.originator);
                visible(node.all(), from, &heads, lane)
            }
        };
        let got = delivered_ids(stream);
        let expected: Vec<EnvelopeId> = expected.difference(&node.late).copied().collect();
        let got: Vec<EnvelopeId> = got.difference(&node.late).copied().collect();
        prop_assert_eq!(got, expected, "stream {}: {:?}", stream.name, stream.kind);
        let waves: Vec<u64> = stream.caught_up.iter().map(|wave| wave.0).collect();
        prop_assert_eq!(waves.iter().collect::<BTreeSet<_>>().len() as u64, stream.waves);
        Ok(())
    }
}

/// Returns the number of delivered envelopes that had waited for their dependency since before their
/// topic was added.
fn held_back(stream: &Stream) -> usize {
    let has_waited = |(place, (_, item)): &(usize, &(Option<WaveId>, Arc<Committed>))| {
        let then = stream.heads_at.get(&item.topic).filter(|_| *place >= stream.added(&item.topic));
        let (Some(then), Some(from)) = (then, cursor_of(&stream.kind, item)) else { return false };
        let waits = |on: &EnvelopeId| !from.covers(*on) && !then.covers(*on);
        item.id.originator.is_node() && then.covers(item.id) && item.depends_on.iter().any(waits)
    };
    stream.delivered.iter().enumerate().filter(has_waited).count()
}

fn cursor_of(kind: &Kind, item: &Committed) -> Option<Cursor> {
    match kind {
        Kind::Shared(topics, from) => from.clone().filter(|_| topics.contains(&item.topic)),
        Kind::PerTopic(topics) => topics.get(&item.topic).cloned(),
        Kind::Log(wanted, from) => from
            .clone()
            .filter(|_| wanted.as_ref().is_none_or(|wanted| wanted.contains(&item.id.originator))),
    }
}

/// Returns the deliveries of the present topics; of a topic that began anew, those since then.
fn delivered_ids(stream: &Stream) -> BTreeSet<EnvelopeId> {
    let current = stream.delivered.iter().enumerate().filter(|(place, (_, item))| {
        let added = stream.added(&item.topic);
        *place >= added && cursor_of(&stream.kind, item).is_some()
    });
    current.map(|(_, (_, item))| item.id).collect()
}

fn advanced(
    mut cursor: Cursor,
    delivered: &[(Option<WaveId>, Arc<Committed>)],
    of: impl Fn(&Committed) -> bool,
) -> Cursor {
    delivered.iter().filter(|(_, item)| of(item)).for_each(|(_, item)| cursor.advance(item.id));
    cursor
}

fn some_kind(node: &Node, dice: &mut Dice) -> Kind {
    let from = (!dice.chance(4)).then(|| some_cursor(node, dice));
    match dice.below(5) {
        0 | 1 => Kind::Shared(some_topics(dice), from),
        2 | 3 => Kind::PerTopic(
            some_topics(dice).into_iter().map(|topic| (topic, some_cursor(node, dice))).collect(),
        ),
        _ => {
            let strands = [0, 100, 300].map(OriginatorId);
            let wanted = strands.into_iter().filter(|_| dice.chance(2)).collect();
            Kind::Log((!dice.chance(3)).then_some(wanted), from)
        }
    }
}

fn change(stream: &mut Stream, node: &Node, dice: &mut Dice) {
    if matches!(stream.kind, Kind::PerTopic(_)) {
        let removes: Vec<Topic> =
            if dice.chance(2) { some_topics(dice).into_iter().collect() } else { Vec::new() };
        if dice.chance(3) {
            let topics = some_topics(dice).into_iter();
            return stream.read_history(
                node,
                topics.map(|topic| (topic, some_cursor(node, dice))).collect(),
            );
        }
        let adds = some_topics(dice);
        let adds = adds.into_iter().map(|topic| (topic, some_cursor(node, dice))).collect();
        stream.change(node, adds, &removes);
    }
}

fn traffic(seed: u64) -> Traffic {
    let dice = &mut Dice::new(seed ^ 0x5eed);
    Traffic {
        len_bytes: *dice.pick(&[100, 100_000, 600_000]),
        dependant_one_in: *dice.pick(&[0, 2, 5]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn streams_deliver_each_envelope_once_in_order_and_after_its_dependency(seed: u64) {
        run(seed, traffic(seed))?;
    }
}

#[test]
fn the_schedules_reach_overflows_waves_and_dependencies() {
    let mut reached = Coverage::default();
    for seed in 0..300 {
        reached += run(seed, traffic(seed)).unwrap().1;
    }
    assert!(reached.overflows > 100, "{reached:?}");
    assert!(reached.dependants > 1000, "{reached:?}");
    assert!(reached.waves > 1000, "{reached:?}");
    assert!(reached.held_back > 100, "{reached:?}");
    assert!(reached.paged_waves > 100, "{reached:?}");
    assert!(reached.delivered > 10_000, "{reached:?}");
    assert!(reached.history > 1000, "{reached:?}");
    let Met { in_waves, live, removed_early, silent } = reached.lanes;
    assert!(in_waves > 1000 && live > 1000 && removed_early > 10 && silent > 1000, "{reached:?}");
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..50 {
        let [first, second] = [0, 1].map(|_| run(seed, traffic(seed)).unwrap().0);
        assert_eq!(first, second, "seed {seed}");
    }
}

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
        let envelopes = page.rows.iter().map(|&(place, id)| (place, id, bytes(id))).collect();
        self.feed.handle_page(catch_up, plan, envelopes, page.finished);
        Some(asked)
    }

    /// Returns deliveries as `wave:envelopes`, and ends of waves.
    fn delivered(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.feed.poll_event())
            .map(|event| match event {
                SubscriptionEvent::CaughtUp(WaveId(wave)) => format!("caught up {wave}"),
                SubscriptionEvent::TopicsLive { .. } => unreachable!("asked for by no stream here"),
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
fn batch(wave: u64, mut sequences: std::ops::RangeInclusive<u64>) -> String {
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
    let envelopes =
        page.rows.iter().map(|&(place, id)| (place, id, id.to_string().into())).collect();
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
        let envelopes =
            page.rows.iter().map(|&(place, id)| (place, id, id.to_string().into())).collect();
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
