//! Feeds in a simulated node: exactly once, in order and within bounds, for every schedule.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{OriginatorId, Topic};
use proptest::prelude::*;

use super::lanes::{self, CheckCounts};
use super::sim::{History, Kind, Node, Stream, Traffic, some_cursor, some_topics};
use super::*;
use crate::read::limits::BatchLimits;
use crate::read::testing::{Dice, visible};

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
    /// Envelopes that depend on a place of another topic and were left out.
    strays: usize,
    /// Such envelopes that were delivered, because their reader had a later commit of their topic.
    strays_beyond: usize,
    waves: usize,
    /// Envelopes that were there when their topic was added later, and had to wait.
    held_back: usize,
    /// Waves of topics that were added later and took several pages.
    paged_waves: usize,
    /// Envelopes of waves of history.
    history: usize,
    lanes: CheckCounts,
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.overflows += other.overflows;
        self.dependants += other.dependants;
        self.delivered += other.delivered;
        self.strays += other.strays;
        self.strays_beyond += other.strays_beyond;
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
            let excused = node.late.contains(&item.id) || is_stray(item, &stream.kind, node);
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
            if node.late.contains(&on) {
                continue;
            }
            let earlier = &stream.delivered[added.min(place)..place];
            if other.topic == item.topic {
                self.coverage.dependants += 1;
                let came = earlier.iter().any(|(_, earlier)| earlier.id == on);
                prop_assert!(came, "{}: {} before {on}", stream.name, item.id);
            } else {
                // The reader takes it for one that it has: its cursor of the topic is beyond that place.
                let is_beyond = earlier.iter().any(|(_, it)| {
                    it.topic == item.topic && it.id.originator == on.originator && it.id > on
                });
                prop_assert!(is_beyond, "{}: {} depends on {on}", stream.name, item.id);
                self.coverage.strays_beyond += 1;
            }
        }
        Ok(())
    }

    /// Asserts the invariant of the end: every visible envelope has come.
    fn check_complete(&mut self, stream: &Stream, node: &Node) -> Result<(), TestCaseError> {
        let heads = node.heads.get();
        let expected: BTreeSet<EnvelopeId> = match &stream.kind {
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
        // A stray is shown to a reader that has a later commit of its group.
        let strays = node.all().iter().filter(|item| is_stray(item, &stream.kind, node));
        let excused: BTreeSet<EnvelopeId> =
            strays.map(|item| item.id).chain(node.late.iter().copied()).collect();
        let got = delivered_ids(stream);
        self.coverage.strays +=
            expected.intersection(&excused).filter(|id| !got.contains(*id)).count();
        let expected: Vec<EnvelopeId> = expected.difference(&excused).copied().collect();
        let got: Vec<EnvelopeId> = got.difference(&excused).copied().collect();
        prop_assert_eq!(got, expected, "stream {}: {:?}", stream.name, stream.kind);
        let waves: Vec<u64> = stream.caught_up.iter().map(|wave| wave.0).collect();
        prop_assert_eq!(waves.iter().collect::<BTreeSet<_>>().len() as u64, stream.waves);
        Ok(())
    }
}

/// Returns true for an envelope that depends on a place of a chain which is of another topic, and which is no commit
/// that the cursor covers with which the stream was opened.
fn is_stray(item: &Committed, kind: &Kind, node: &Node) -> bool {
    if matches!(kind, Kind::Log(..)) || !item.id.originator.is_node() {
        return false;
    }
    let from = cursor_of(kind, item).unwrap_or_default();
    let is_read = |on: EnvelopeId| on.originator == OriginatorId(0) && from.covers(on);
    let is_elsewhere =
        |on: EnvelopeId| node.all().iter().any(|other| other.id == on && other.topic != item.topic);
    item.depends_on.iter().any(|&on| !is_read(on) && is_elsewhere(on))
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
    assert!(reached.strays > 100 && reached.strays_beyond > 0, "{reached:?}");
    assert!(reached.waves > 1000, "{reached:?}");
    assert!(reached.held_back > 50, "{reached:?}");
    assert!(reached.paged_waves > 100, "{reached:?}");
    assert!(reached.delivered > 10_000, "{reached:?}");
    assert!(reached.history > 1000, "{reached:?}");
    let CheckCounts { in_waves, live, removed_early, silent } = reached.lanes;
    assert!(in_waves > 1000 && live > 1000 && removed_early > 10 && silent > 1000, "{reached:?}");
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..50 {
        let [first, second] = [0, 1].map(|_| run(seed, traffic(seed)).unwrap().0);
        assert_eq!(first, second, "seed {seed}");
    }
}
