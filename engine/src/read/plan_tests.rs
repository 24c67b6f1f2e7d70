//! Plans against a model that is too slow to be wrong.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::limits::wire_len_bytes;
use super::super::page::PageRow;
use super::super::rows::ROWS_PER_SEEK;
use super::super::testing::{Dice, MemoryRows, cursor, id, topic};
use super::*;

const TOPICS: u8 = 5;

/// A topic that is read from this cursor of its reader.
fn planned(topic: Topic, from: &Arc<Cursor>) -> PlanTopic {
    PlanTopic { topic, from: Arc::clone(from), resume: Arc::default(), commits: None }
}

/// Rows of some strands, and a reader's query.
#[derive(Debug, Clone)]
struct ReadCase {
    rows: MemoryRows,
    heads: Cursor,
    cursors: Cursors,
    asked: Vec<(Topic, Arc<Cursor>)>,
}

impl ReadCase {
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
                    envelope: None,
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

    fn plan(&self, asked: &[(Topic, Arc<Cursor>)]) -> PagePlan {
        let asked = asked.iter().map(|(topic, from)| planned(topic.clone(), from));
        PagePlan::new(self.cursors, asked, Arc::new(self.heads.clone()))
    }

    fn everything(&self) -> Vec<EnvelopeId> {
        let page = self.plan(&self.asked).next_page(&mut self.rows.clone(), UNBOUNDED).unwrap();
        assert!(page.finished);
        page.rows.into_iter().map(|row| row.id).collect()
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

impl ReadCase {
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

fn shared_page(plan: &mut PagePlan, rows: &mut MemoryRows, limits: BatchLimits) -> PlannedPage {
    let mut filling = Filling::shared();
    assert!(plan.fill(rows, limits, &mut filling, usize::MAX).unwrap());
    filling.into_page()
}

const UNBOUNDED: BatchLimits = BatchLimits { envelopes: usize::MAX, len_bytes: usize::MAX };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_gives_what_is_visible_exactly_once(seed: u64) {
        let case = ReadCase::random(seed);
        let got = case.everything();
        prop_assert_eq!(got.len(), got.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), case.visible());
    }

    #[test]
    fn each_originator_ascends_over_all_topics(seed: u64) {
        let got = ReadCase::random(seed).everything();
        for (place, later) in got.iter().enumerate() {
            for earlier in &got[..place] {
                prop_assert!(earlier.originator != later.originator || earlier < later);
            }
        }
    }

    #[test]
    fn nothing_comes_before_what_it_depends_on(seed: u64) {
        let case = ReadCase::random(seed);
        let got = case.everything();
        for (place, &dependant) in got.iter().enumerate().filter(|(_, id)| id.originator.is_node()) {
            let (topic, row) = case.row(dependant);
            let from = case.from(topic).unwrap();
            for &on in row.depends_on.iter().filter(|on| !on.originator.is_node()) {
                if !from.covers(on) {
                    prop_assert!(case.heads.covers(on), "{dependant} on {on}");
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
        let case = ReadCase::random(seed);
        prop_assert_eq!(case.everything(), case.in_order());
    }

    #[test]
    fn pages_of_any_size_add_up_to_the_whole(seed: u64, envelopes in 1usize..9, len_bytes in 1usize..1200) {
        let case = ReadCase::random(seed);
        let limits = BatchLimits { envelopes, len_bytes };
        let mut plan = case.plan(&case.asked);
        let mut rows = case.rows.clone();
        let mut got = Vec::new();
        loop {
            let page = plan.next_page(&mut rows, limits).unwrap();
            let lens = page.rows.iter().map(|row| wire_len_bytes(case.row(row.id).1.len_bytes as usize));
            prop_assert!(page.rows.len() <= envelopes);
            prop_assert!(page.rows.len() == 1 || lens.sum::<usize>() <= len_bytes);
            prop_assert!(page.finished || !page.rows.is_empty());
            got.extend(page.rows.into_iter().map(|row| row.id));
            if page.finished {
                break;
            }
        }
        prop_assert_eq!(got, case.everything());
    }

    /// The way of clients: ask, advance the cursor by what came, ask again.
    #[test]
    fn asking_again_with_the_advanced_cursor_gives_the_same_sequence(
        seed: u64, envelopes in 1usize..9, len_bytes in 1usize..1200,
    ) {
        let case = ReadCase::random(seed);
        let mut asked = case.asked.clone();
        let mut got = Vec::new();
        loop {
            let mut plan = case.plan(&asked);
            let limits = BatchLimits { envelopes, len_bytes };
            let page = plan.next_page(&mut case.rows.clone(), limits).unwrap();
            for &PageRow { topic: place, id, .. } in &page.rows {
                for (other, (_, from)) in asked.iter_mut().enumerate() {
                    if other == place || case.cursors == Cursors::Shared {
                        Arc::make_mut(from).advance(id);
                    }
                }
            }
            let empty = page.rows.is_empty();
            got.extend(page.rows.into_iter().map(|row| row.id));
            if empty {
                break;
            }
        }
        prop_assert_eq!(got, case.everything());
    }

    /// A node may date its envelopes as it likes: it moves its own, and chain envelopes that these
    /// depend on come no later.
    #[test]
    fn the_times_of_one_node_do_not_move_those_of_others(seed: u64) {
        let mut case = ReadCase::random(seed);
        let hostile = OriginatorId(200);
        let dice = &mut Dice::new(seed);
        let rows: Vec<_> = case.rows.iter().map(|(topic, row)| (topic.clone(), row.clone())).collect();
        let (mut with, mut without) = (MemoryRows::default(), MemoryRows::default());
        for (topic, mut row) in rows {
            if row.id.originator == hostile {
                row.originator_ns = *dice.pick(&[i64::MIN, 0, 20, i64::MAX]);
            } else {
                without.insert(topic.clone(), row.clone());
            }
            with.insert(topic, row);
        }
        let nodes = |case: &ReadCase| -> Vec<EnvelopeId> {
            let all = case.everything().into_iter();
            all.filter(|id| id.originator.is_node() && id.originator != hostile).collect()
        };
        case.rows = with;
        let got = nodes(&case);
        case.rows = without;
        prop_assert_eq!(got, nodes(&case));
    }

    /// The way of clients, with pages that no node may fill with envelopes that it has dated back.
    #[test]
    fn pages_that_are_shared_give_everything_and_half_of_each_to_others(
        seed: u64, envelopes in 1usize..9, len_bytes in prop_oneof![1usize..1200, Just(usize::MAX)],
    ) {
        let case = ReadCase::random(seed);
        let limits = BatchLimits { envelopes, len_bytes };
        let mut asked = case.asked.clone();
        let mut got = Vec::new();
        loop {
            let mut plan = case.plan(&asked);
            let mut page = plan.next_page(&mut case.rows.clone(), limits).unwrap();
            if plan.is_crowded(&page) {
                plan = case.plan(&asked);
                page = shared_page(&mut plan, &mut case.rows.clone(), limits);
                prop_assert!(page.rows.len() <= envelopes);
                let of = |originator| page.rows.iter().filter(|row| row.id.originator == originator).count();
                let fullest = plan.strands.keys().copied().filter(|it| it.is_node()).max_by_key(|it| of(*it));
                if let Some(fullest) = fullest.filter(|it| len_bytes == usize::MAX && of(*it) > envelopes.div_ceil(2)) {
                    let mut others = plan.strands.keys().filter(|it| **it != fullest);
                    prop_assert!(!others.any(|it| plan.head(*it).is_some()), "{fullest} has most of {page:?}");
                }
            }
            for &PageRow { topic: place, id, .. } in &page.rows {
                for (other, (_, from)) in asked.iter_mut().enumerate() {
                    if other == place || case.cursors == Cursors::Shared {
                        Arc::make_mut(from).advance(id);
                    }
                }
            }
            let empty = page.rows.is_empty();
            got.extend(page.rows.into_iter().map(|row| row.id));
            if empty {
                break;
            }
        }
        for (place, later) in got.iter().enumerate() {
            prop_assert!(got[..place].iter().all(|it| it.originator != later.originator || it < later));
        }
        prop_assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), case.visible());
    }

    /// A query takes as many turns as it needs, and keeps only the lanes that its page can get to.
    #[test]
    fn a_page_is_the_same_in_turns_and_with_few_lanes(
        seed: u64, envelopes in 1usize..9, len_bytes in 1usize..1200, work in 1usize..200, is_shared: bool,
    ) {
        let mut case = ReadCase::random(seed);
        case.cursors = Cursors::Shared;
        let from = Arc::clone(&case.asked[0].1);
        case.asked.iter_mut().for_each(|(_, it)| *it = Arc::clone(&from));
        let limits = BatchLimits { envelopes, len_bytes };
        let begin = || if is_shared { Filling::shared() } else { Filling::default() };
        let mut whole = begin();
        let mut plan = case.plan(&case.asked);
        prop_assert!(plan.fill(&mut case.rows.clone(), limits, &mut whole, usize::MAX).unwrap());
        let whole_page = whole.into_page();

        let topics = plan.topics().to_vec();
        let mut few = PagePlan::of_one_page(topics, Arc::clone(plan.ceiling()), envelopes);
        let (mut filling, mut rows, mut turns) = (begin(), case.rows.clone(), 0);
        loop {
            let before = rows.looked_at();
            turns += 1;
            prop_assert!(turns < 1000);
            let is_complete = few.fill(&mut rows, limits, &mut filling, work).unwrap();
            // One topic of five strands, or one advance, goes beyond.
            prop_assert!(rows.looked_at() - before < work + 400);
            if is_complete {
                break;
            }
        }
        let page = filling.into_page();
        prop_assert_eq!(&page, &whole_page);
        prop_assert_eq!(few.is_crowded(&page), plan.is_crowded(&whole_page));
    }

    #[test]
    fn held_originators_name_their_position_and_dependency(seed: u64) {
        let case = ReadCase::random(seed);
        let mut plan = case.plan(&case.asked);
        let page = plan.next_page(&mut case.rows.clone(), UNBOUNDED).unwrap();
        prop_assert!(plan.held().iter().all(|held| !case.heads.covers(held.on)));

        // With everything known, the held lanes and only those have something left.
        let mut later = case.clone();
        later.heads = cursor(&[(0, 100), (1, 100)]);
        later.heads.merge(&case.heads);
        let topics = case.asked.iter().enumerate().map(|(place, (topic, from))| PlanTopic {
            topic: topic.clone(),
            from: Arc::new({
                let mut reached = Cursor::clone(from);
                reached.merge(&case.heads);
                reached
            }),
            resume: plan
                .held()
                .iter()
                .filter(|held| case.cursors == Cursors::Shared || held.topics.contains(&place))
                .map(|held| held.after)
                .collect(),
            commits: None,
        });
        let mut rest = PagePlan::new(case.cursors, topics, Arc::new(later.heads.clone()));
        let rest = rest.next_page(&mut case.rows.clone(), UNBOUNDED).unwrap();
        let both: Vec<EnvelopeId> =
            page.rows.iter().chain(&rest.rows).map(|row| row.id).collect();
        prop_assert_eq!(both.len(), both.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), later.visible());
    }
}

fn row(id: EnvelopeId, originator_ns: i64, depends_on: &[EnvelopeId]) -> TopicRow {
    TopicRow { id, originator_ns, len_bytes: 100, depends_on: depends_on.to_vec(), envelope: None }
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
    let topics = names.iter().map(|&name| planned(topic(name), &from));
    let mut plan = PagePlan::new(cursors, topics, Arc::new(cursor(heads)));
    let page = plan.next_page(&mut memory, UNBOUNDED).unwrap();
    page.rows.iter().map(|row| row.id.to_string()).collect::<Vec<_>>().join(" ")
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
fn envelopes_of_chains_never_wait() {
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
    let asked = [planned(topic(1), &from)];
    let heads = Arc::new(cursor(&[(0, 100_000), (100, 100_000), (200, 100_000)]));
    let mut plan = PagePlan::new(Cursors::Shared, asked, heads);
    let limits = BatchLimits { envelopes: 100, len_bytes: usize::MAX };
    let page = plan.next_page(&mut rows, limits).unwrap();
    assert_eq!(page.rows.len(), 100);
    assert!(rows.reads <= 300, "{} rows were read", rows.reads);
    assert!(rows.seeks <= 6, "{} times sought", rows.seeks);
}

/// A hostile node fills a topic with envelopes of long ago, as fast as it is read.
#[test]
fn a_node_that_dates_back_does_not_keep_the_others_away() {
    let mut rows = MemoryRows::default();
    for sequence in 1..=10_000 {
        rows.insert(topic(1), row(id(200, sequence), 0, &[]));
    }
    for sequence in 1..=60 {
        let at = 1_000_000 + i64::try_from(sequence).unwrap();
        rows.insert(topic(1), row(id(100, sequence), at, &[]));
    }
    let limits = BatchLimits { envelopes: 100, len_bytes: usize::MAX };
    let asked = || [planned(topic(1), &Arc::default())];
    let heads = Arc::new(cursor(&[(100, 60), (200, 10_000)]));
    let mut plan = PagePlan::new(Cursors::Shared, asked(), Arc::clone(&heads));
    let page = plan.next_page(&mut rows, limits).unwrap();
    assert!(page.rows.iter().all(|row| row.id.originator == OriginatorId(200)));
    assert!(plan.is_crowded(&page));
    let mut plan = PagePlan::new(Cursors::Shared, asked(), heads);
    let page = shared_page(&mut plan, &mut rows, limits);
    let of_100 = page.rows.iter().filter(|row| row.id.originator == OriginatorId(100)).count();
    assert_eq!((of_100, page.rows.len()), (50, 100));
}

#[test]
fn many_topics_cost_a_seek_each_and_what_they_give() {
    let mut rows = MemoryRows::default();
    let name = |n: u16| Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap();
    for n in 0..10_000 {
        rows.insert(name(n), row(id(100, u64::from(n) + 1), i64::from(n), &[]));
    }
    let from = Arc::new(cursor(&[(100, 9_900)]));
    let asked = (0..10_000).map(|n| planned(name(n), &from));
    let mut plan =
        PagePlan::new(Cursors::Shared, asked, Arc::new(cursor(&[(100, 10_000), (0, 5)])));
    let page = plan.next_page(&mut rows, UNBOUNDED).unwrap();
    assert_eq!(page.rows.len(), 100);
    // Once each, and once more to read on behind what a topic gave.
    assert!(rows.seeks <= 10_000 + page.rows.len(), "{} times sought", rows.seeks);
    assert!(rows.reads <= 20_000, "{} rows were read", rows.reads);
}

/// The most expensive page: many topics, with an envelope of each of a hundred originators in each.
#[test]
fn a_page_of_crowded_topics_is_planned_in_bounded_turns_and_memory() {
    const TOPICS: u16 = 300;
    const ORIGINATORS: u32 = 100;
    const WORK: usize = 2_000;
    let mut rows = MemoryRows::default();
    let name = |n: u16| Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap();
    for n in 0..TOPICS {
        for originator in 100..100 + ORIGINATORS {
            let at = i64::from(n) * 1000 + i64::from(originator);
            rows.insert(name(n), row(id(originator, u64::from(n) + 1), at, &[]));
        }
    }
    let heads: Vec<_> = (100..100 + ORIGINATORS).map(|it| (it, u64::from(TOPICS))).collect();
    let asked = (0..TOPICS).map(|n| planned(name(n), &Arc::default()));
    let limits = BatchLimits { envelopes: 10, len_bytes: usize::MAX };
    let mut plan = PagePlan::of_one_page(asked, Arc::new(cursor(&heads)), limits.envelopes);
    let (mut filling, mut turns, mut most_lanes) = (Filling::default(), 0, 0);
    loop {
        let before = rows.looked_at();
        let is_complete = plan.fill(&mut rows, limits, &mut filling, WORK).unwrap();
        turns += 1;
        most_lanes = most_lanes.max(plan.lanes.len());
        let of_one_topic = (ORIGINATORS as usize + 1) * (ROWS_PER_SEEK + 1);
        assert!(rows.looked_at() - before <= WORK + of_one_topic);
        if is_complete {
            break;
        }
    }
    assert!(turns > 50, "{turns} turns for {} rows", rows.looked_at());
    assert!(most_lanes <= ORIGINATORS as usize * 11, "{most_lanes} lanes");
    let page = filling.into_page();
    let first: Vec<_> = (100..110).map(|originator| id(originator, 1)).collect();
    assert_eq!(page.rows.into_iter().map(|row| row.id).collect::<Vec<_>>(), first);
}

/// Topics of which few have an envelope cost a seek each. Other readers go in between.
#[test]
fn a_plan_of_empty_topics_is_opened_in_bounded_turns() {
    const WORK: usize = 5_000;
    let mut rows = MemoryRows::default();
    let name = |n: u16| Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap();
    rows.insert(name(9_000), row(id(100, 7), 0, &[]));
    let (from, resume): (Arc<Cursor>, Arc<[EnvelopeId]>) = (Arc::default(), Arc::default());
    let of_topic = |topic| PlanTopic {
        topic,
        from: Arc::clone(&from),
        resume: Arc::clone(&resume),
        commits: None,
    };
    let heads = Arc::new(cursor(&[(100, 10), (200, 10)]));
    let mut plan = PagePlan::new(Cursors::PerTopic, (0..10_000).map(name).map(of_topic), heads);
    for turn in 1..=23 {
        let before = rows.looked_at();
        let page = plan.next_turn(&mut rows, UNBOUNDED, WORK).unwrap();
        assert!(rows.looked_at() - before <= WORK + 4 * (ROWS_PER_SEEK + 1), "turn {turn}");
        if page.finished {
            assert_eq!(page.rows.len(), 1);
            return;
        }
    }
    panic!("ten thousand seeks are at most 23 turns");
}
