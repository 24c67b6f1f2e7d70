//! Plans against a model that is too slow to be wrong.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::limits::wire_len_bytes;
use super::super::testing::{Dice, MemoryRows, cursor, id, topic};
use super::*;

const TOPICS: u8 = 5;

/// Rows of some strands, and a reader's query.
#[derive(Debug, Clone)]
struct World {
    rows: MemoryRows,
    heads: Cursor,
    cursors: Cursors,
    asked: Vec<(Topic, Arc<Cursor>)>,
}

impl World {
    /// Two chains and three nodes; times that mostly ascend; dependencies of all kinds, also on
    /// nodes, on the future and on nothing.
    fn random(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let len = 1 + dice.below(40);
        let mut rows = MemoryRows::default();
        let mut heads = Cursor::new();
        for originator in [0, 1, 100, 200, 300] {
            let mut ns = 0;
            for sequence in 1..=dice.below(len + 1) {
                ns += i64::try_from(dice.below(10)).unwrap() - 1;
                let depends_on = (0..*dice.pick(&[0, 0, 1, 2]))
                    .map(|_| id(*dice.pick(&[0, 0, 0, 1, 100]), dice.below(len + 3)))
                    .collect();
                let len_bytes = u32::try_from(dice.below(300)).unwrap();
                let row = TopicRow {
                    id: id(originator, sequence),
                    originator_ns: ns,
                    len_bytes,
                    depends_on,
                };
                if !dice.chance(8) {
                    rows.insert(topic(u8::try_from(dice.below(u64::from(TOPICS))).unwrap()), row);
                }
            }
            heads.advance(id(originator, dice.below(len + 3)));
        }
        let mut random_cursor = || {
            let entries = (0..dice.below(6))
                .map(|_| (*dice.pick(&[0, 1, 100, 200, 300, 400]), dice.below(len + 2)));
            Arc::new(cursor(&entries.collect::<Vec<_>>()))
        };
        let cursors = if seed.is_multiple_of(2) { Cursors::Shared } else { Cursors::PerTopic };
        let shared = random_cursor();
        let asked = (0..TOPICS - 1)
            .map(|name| match cursors {
                Cursors::Shared => (topic(name), Arc::clone(&shared)),
                Cursors::PerTopic => (topic(name), random_cursor()),
            })
            .collect();
        Self { rows, heads, cursors, asked }
    }

    fn plan(&self, asked: &[(Topic, Arc<Cursor>)]) -> Plan {
        let asked = asked.iter().map(|(topic, from)| PlanTopic {
            topic: topic.clone(),
            from: Arc::clone(from),
            resume: Arc::default(),
        });
        Plan::new(self.cursors, asked, Arc::new(self.heads.clone()))
    }

    fn everything(&self) -> Vec<EnvelopeId> {
        let page = self.plan(&self.asked).next_page(&mut self.rows.clone(), UNBOUNDED).unwrap();
        assert!(page.finished);
        page.rows.into_iter().map(|(_, id)| id).collect()
    }

    fn row(&self, id: EnvelopeId) -> (&Topic, &TopicRow) {
        self.rows.iter().find(|(_, row)| row.id == id).expect("an id from these rows")
    }

    fn from(&self, topic: &Topic) -> Option<&Cursor> {
        self.asked.iter().find(|(asked, _)| asked == topic).map(|(_, from)| &**from)
    }

    /// Returns true for an envelope that waits: a node's, with a chain dependency above heads and
    /// cursor.
    fn has_to_wait(&self, topic: &Topic, row: &TopicRow) -> bool {
        row.id.originator.is_node()
            && row.depends_on.iter().any(|&on| {
                !on.originator.is_node()
                    && !self.heads.covers(on)
                    && !self.from(topic).is_some_and(|from| from.covers(on))
            })
    }

    /// Everything that may be seen, said without any order of reading.
    fn visible(&self) -> BTreeSet<EnvelopeId> {
        let candidates = || {
            self.rows.iter().filter(|(topic, row)| {
                self.heads.covers(row.id)
                    && self.from(topic).is_some_and(|from| !from.covers(row.id))
            })
        };
        candidates()
            .filter(|(topic, row)| {
                !candidates().any(|(other_topic, other)| {
                    let same_lane = other.id.originator == row.id.originator
                        && (self.cursors == Cursors::Shared || other_topic == *topic);
                    same_lane && other.id <= row.id && self.has_to_wait(other_topic, other)
                })
            })
            .map(|(_, row)| row.id)
            .collect()
    }
}

impl World {
    /// Returns the visible envelopes in their order, searched again at every step.
    fn in_order(&self) -> Vec<EnvelopeId> {
        let mut left = self.visible();
        let mut order = Vec::new();
        while !left.is_empty() {
            let first_of = |originator| left.iter().find(|id| id.originator == originator);
            let firsts = left.iter().filter(|id| first_of(id.originator) == Some(id));
            let earliest = firsts.min_by_key(|&&id| (self.row(id).1.originator_ns, id.originator));
            let mut next = *earliest.unwrap();
            if next.originator.is_node() {
                let (topic, row) = self.row(next);
                let from = self.from(topic).unwrap();
                let chains = row.depends_on.iter().filter(|on| !on.originator.is_node());
                let pending = chains
                    .filter(|on| !from.covers(**on))
                    .find_map(|on| first_of(on.originator).filter(|first| **first <= *on));
                next = *pending.unwrap_or(&next);
            }
            left.remove(&next);
            order.push(next);
        }
        order
    }
}

const UNBOUNDED: BatchLimits = BatchLimits { envelopes: usize::MAX, len_bytes: usize::MAX };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_gives_what_is_visible_exactly_once(seed: u64) {
        let world = World::random(seed);
        let got = world.everything();
        prop_assert_eq!(got.len(), got.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), world.visible());
    }

    #[test]
    fn each_originator_ascends_over_all_topics(seed: u64) {
        let got = World::random(seed).everything();
        for (place, later) in got.iter().enumerate() {
            for earlier in &got[..place] {
                prop_assert!(earlier.originator != later.originator || earlier < later);
            }
        }
    }

    #[test]
    fn nothing_comes_before_what_it_depends_on(seed: u64) {
        let world = World::random(seed);
        let got = world.everything();
        for (place, &dependant) in got.iter().enumerate().filter(|(_, id)| id.originator.is_node()) {
            let (topic, row) = world.row(dependant);
            let from = world.from(topic).unwrap();
            for &on in row.depends_on.iter().filter(|on| !on.originator.is_node()) {
                if !from.covers(on) {
                    prop_assert!(world.heads.covers(on), "{dependant} on {on}");
                    let later = &got[place..];
                    prop_assert!(
                        !later.iter().any(|id| id.originator == on.originator && *id <= on),
                        "{dependant} comes before something up to {on}"
                    );
                }
            }
        }
    }

    #[test]
    fn originators_are_merged_by_time_and_chains_go_first_where_something_waits(seed: u64) {
        let world = World::random(seed);
        prop_assert_eq!(world.everything(), world.in_order());
    }

    #[test]
    fn pages_of_any_size_add_up_to_the_whole(seed: u64, envelopes in 1usize..9, len_bytes in 1usize..1200) {
        let world = World::random(seed);
        let limits = BatchLimits { envelopes, len_bytes };
        let mut plan = world.plan(&world.asked);
        let mut rows = world.rows.clone();
        let mut got = Vec::new();
        loop {
            let page = plan.next_page(&mut rows, limits).unwrap();
            let lens = page.rows.iter().map(|&(_, id)| wire_len_bytes(world.row(id).1.len_bytes as usize));
            prop_assert!(page.rows.len() <= envelopes);
            prop_assert!(page.rows.len() == 1 || lens.sum::<usize>() <= len_bytes);
            prop_assert!(page.finished || !page.rows.is_empty());
            got.extend(page.rows.into_iter().map(|(_, id)| id));
            if page.finished {
                break;
            }
        }
        prop_assert_eq!(got, world.everything());
    }

    /// The way of clients: ask, advance the cursor by what came, ask again.
    #[test]
    fn asking_again_with_the_advanced_cursor_gives_the_same_sequence(
        seed: u64, envelopes in 1usize..9, len_bytes in 1usize..1200,
    ) {
        let world = World::random(seed);
        let mut asked = world.asked.clone();
        let mut got = Vec::new();
        loop {
            let mut plan = world.plan(&asked);
            let limits = BatchLimits { envelopes, len_bytes };
            let page = plan.next_page(&mut world.rows.clone(), limits).unwrap();
            for &(place, id) in &page.rows {
                for (other, (_, from)) in asked.iter_mut().enumerate() {
                    if other == place || world.cursors == Cursors::Shared {
                        Arc::make_mut(from).advance(id);
                    }
                }
            }
            let empty = page.rows.is_empty();
            got.extend(page.rows.into_iter().map(|(_, id)| id));
            if empty {
                break;
            }
        }
        prop_assert_eq!(got, world.everything());
    }

    #[test]
    fn what_is_held_says_where_to_go_on_and_what_it_waits_for(seed: u64) {
        let world = World::random(seed);
        let mut plan = world.plan(&world.asked);
        let page = plan.next_page(&mut world.rows.clone(), UNBOUNDED).unwrap();
        prop_assert!(plan.held().iter().all(|held| !world.heads.covers(held.on)));

        // With everything known, the held lanes and only those have something left.
        let mut later = world.clone();
        later.heads = cursor(&[(0, 100), (1, 100)]);
        later.heads.merge(&world.heads);
        let topics = world.asked.iter().enumerate().map(|(place, (topic, from))| PlanTopic {
            topic: topic.clone(),
            from: Arc::new({
                let mut reached = Cursor::clone(from);
                reached.merge(&world.heads);
                reached
            }),
            resume: plan
                .held()
                .iter()
                .filter(|held| held.topic.is_none_or(|topic| topic == place))
                .map(|held| held.after)
                .collect(),
        });
        let mut rest = Plan::new(world.cursors, topics, Arc::new(later.heads.clone()));
        let rest = rest.next_page(&mut world.rows.clone(), UNBOUNDED).unwrap();
        let both: Vec<EnvelopeId> =
            page.rows.iter().chain(&rest.rows).map(|&(_, id)| id).collect();
        prop_assert_eq!(both.len(), both.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), later.visible());
    }
}

fn row(id: EnvelopeId, originator_ns: i64, depends_on: &[EnvelopeId]) -> TopicRow {
    TopicRow { id, originator_ns, len_bytes: 100, depends_on: depends_on.to_vec() }
}

fn page_of(
    rows: &[(u8, TopicRow)],
    cursors: Cursors,
    names: &[u8],
    from: &[(u32, u64)],
    heads: &[(u32, u64)],
) -> String {
    let mut memory = MemoryRows::default();
    rows.iter().for_each(|(name, row)| memory.insert(topic(*name), row.clone()));
    let from = Arc::new(cursor(from));
    let topics = names.iter().map(|&name| PlanTopic {
        topic: topic(name),
        from: Arc::clone(&from),
        resume: Arc::default(),
    });
    let mut plan = Plan::new(cursors, topics, Arc::new(cursor(heads)));
    let page = plan.next_page(&mut memory, UNBOUNDED).unwrap();
    page.rows.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_commit_goes_before_its_messages_though_its_time_is_later() {
    let rows = [
        (1, row(id(0, 4), 50, &[])),
        (1, row(id(0, 5), 90, &[])),
        (1, row(id(0, 6), 95, &[])),
        (1, row(id(100, 1), 10, &[])),
        (1, row(id(100, 2), 20, &[id(0, 5)])),
        (1, row(id(200, 1), 30, &[])),
    ];
    let heads = [(0, 6), (100, 2), (200, 1)];
    let got = page_of(&rows, Cursors::Shared, &[1], &[], &heads);
    assert_eq!(got, "100:1 0:4 0:5 100:2 200:1 0:6");
}

#[test]
fn with_one_cursor_an_originator_stops_in_all_topics_and_the_others_go_on() {
    let rows = [
        (1, row(id(100, 1), 10, &[])),
        (1, row(id(100, 2), 20, &[id(0, 9)])),
        (2, row(id(100, 3), 30, &[])),
        (1, row(id(200, 1), 40, &[])),
    ];
    let heads = [(0, 8), (100, 3), (200, 1)];
    let shared = page_of(&rows, Cursors::Shared, &[1, 2], &[], &heads);
    assert_eq!(shared, "100:1 200:1");
    let per_topic = page_of(&rows, Cursors::PerTopic, &[1, 2], &[], &heads);
    assert_eq!(per_topic, "100:1 100:3 200:1");
    let covered = page_of(&rows, Cursors::Shared, &[1, 2], &[(0, 9)], &heads);
    assert_eq!(covered, "100:1 100:2 100:3 200:1");
}

#[test]
fn what_a_chain_has_ordered_never_waits() {
    let rows = [
        (1, row(id(0, 1), 10, &[id(0, 7)])),
        (1, row(id(0, 2), 20, &[id(1, 7)])),
        (1, row(id(100, 1), 5, &[id(0, 2)])),
    ];
    let got = page_of(&rows, Cursors::Shared, &[1], &[], &[(0, 2), (100, 1)]);
    assert_eq!(got, "0:1 0:2 100:1");
}

#[test]
fn a_topic_asked_for_twice_is_answered_once() {
    let rows = [(1, row(id(100, 1), 10, &[])), (2, row(id(100, 2), 20, &[]))];
    let got = page_of(&rows, Cursors::Shared, &[1, 2, 1], &[], &[(100, 2)]);
    assert_eq!(got, "100:1 100:2");
}

#[test]
fn a_page_reads_little_more_than_it_gives() {
    let mut rows = MemoryRows::default();
    for sequence in 1..=100_000 {
        for originator in [0, 100, 200] {
            let at = i64::try_from(sequence).unwrap();
            rows.insert(topic(1), row(id(originator, sequence), at, &[]));
        }
    }
    let from = Arc::new(cursor(&[(0, 99_990), (100, 50_000), (200, 50_000)]));
    let asked = [PlanTopic { topic: topic(1), from, resume: Arc::default() }];
    let heads = Arc::new(cursor(&[(0, 100_000), (100, 100_000), (200, 100_000)]));
    let mut plan = Plan::new(Cursors::Shared, asked, heads);
    let limits = BatchLimits { envelopes: 100, len_bytes: usize::MAX };
    let page = plan.next_page(&mut rows, limits).unwrap();
    assert_eq!(page.rows.len(), 100);
    assert!(rows.reads <= 300, "{} rows were read", rows.reads);
    assert!(rows.seeks <= 6, "{} times sought", rows.seeks);
}

#[test]
fn many_topics_cost_a_seek_each_and_what_they_give() {
    let mut rows = MemoryRows::default();
    let name = |n: u16| Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap();
    for n in 0..10_000 {
        rows.insert(name(n), row(id(100, u64::from(n) + 1), i64::from(n), &[]));
    }
    let from = Arc::new(cursor(&[(100, 9_900)]));
    let asked = (0..10_000).map(|n| PlanTopic {
        topic: name(n),
        from: Arc::clone(&from),
        resume: Arc::default(),
    });
    let mut plan = Plan::new(Cursors::Shared, asked, Arc::new(cursor(&[(100, 10_000), (0, 5)])));
    let page = plan.next_page(&mut rows, UNBOUNDED).unwrap();
    assert_eq!(page.rows.len(), 100);
    assert!(rows.seeks <= 10_000, "{} times sought", rows.seeks);
    assert!(rows.reads <= 20_000, "{} rows were read", rows.reads);
}
