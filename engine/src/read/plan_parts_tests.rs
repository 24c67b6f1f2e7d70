//! Plans of many topics that are read in parts.

use std::collections::BTreeSet;

use super::*;
use crate::read::testing::{MemoryRows, cursor, id};

const TOPICS: u16 = 1_200;
/// Rows of one turn: a part has some hundred topics.
const WORK: usize = 5_000;

fn name(n: u16) -> Topic {
    Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap()
}

/// Three envelopes of one node and one of another in each topic, spread over the strands so that neighbouring topics have
/// distant places. In every hundredth topic the second envelope waits for one of a chain that never comes.
fn rows() -> MemoryRows {
    let mut rows = MemoryRows::default();
    for n in 0..TOPICS {
        for round in 0..3 {
            let waits = n % 100 == 0 && round == 1;
            let depends_on = if waits { vec![id(0, 99)] } else { vec![] };
            let place = id(100, u64::from(round * TOPICS + n) + 1);
            rows.insert(name(n), row(place, depends_on));
        }
        rows.insert(name(n), row(id(200, u64::from(TOPICS - n)), vec![]));
    }
    rows
}

fn row(id: EnvelopeId, depends_on: Vec<EnvelopeId>) -> TopicRow {
    let originator_ns = i64::try_from(id.sequence.0).unwrap();
    TopicRow { id, originator_ns, len_bytes: 100, depends_on, envelope: None }
}

fn plan() -> PagePlan {
    // Backwards: the order of the request does not matter.
    let topics = (0..TOPICS).rev().map(|n| PlanTopic {
        topic: name(n),
        from: Arc::default(),
        resume: Arc::default(),
    });
    let heads = cursor(&[(100, 3 * u64::from(TOPICS)), (200, u64::from(TOPICS)), (0, 5)]);
    PagePlan::new(Cursors::PerTopic, topics, Arc::new(heads))
}

/// An envelope with its topic.
type OfTopic = (Topic, EnvelopeId);

/// Reads a plan to its end. Returns its envelopes with their topics, and the held ones. A page that `has_memory` refuses
/// is read again; it gets the plan, and true if the plan was open before the page.
fn read_all(
    mut plan: PagePlan,
    rows: &mut MemoryRows,
    mut has_memory: impl FnMut(&PagePlan, bool) -> bool,
) -> (Vec<OfTopic>, BTreeSet<OfTopic>) {
    let mut got = Vec::new();
    loop {
        let was_open = plan.is_open();
        let page = plan.next_turn(rows, BatchLimits::STREAM, WORK).unwrap();
        plan.drop_envelopes();
        if !has_memory(&plan, was_open) {
            plan.restart();
            continue;
        }
        let named = page.rows.iter().map(|&(place, id)| (plan.topics()[place].topic.clone(), id));
        got.extend(named);
        if page.finished {
            break;
        }
    }
    let held = plan.held().iter().map(|held| {
        (
            plan.topics()[held.topics[0]].topic.clone(),
            EnvelopeId { sequence: held.after.sequence.next(), ..held.after },
        )
    });
    (got, held.collect())
}

#[test]
fn the_first_page_comes_before_most_topics_have_been_looked_at() {
    let (mut in_parts, mut whole) = (rows(), rows());
    let first = |plan: &mut PagePlan, rows: &mut MemoryRows| loop {
        let page = plan.next_turn(rows, BatchLimits::STREAM, WORK).unwrap();
        if !page.rows.is_empty() {
            return page.rows.len();
        }
    };
    assert_eq!(first(&mut plan().in_parts(), &mut in_parts), BatchLimits::STREAM.envelopes);
    assert_eq!(first(&mut plan(), &mut whole), BatchLimits::STREAM.envelopes);
    assert!(whole.seeks >= usize::from(TOPICS));
    assert!(2 * in_parts.seeks < whole.seeks, "{} of {} times sought", in_parts.seeks, whole.seeks);
}

#[test]
fn parts_give_what_the_whole_gives_and_ascend_in_each_topic() {
    let (got, held) = read_all(plan().in_parts(), &mut rows(), |_, _| true);
    let (all, held_in_all) = read_all(plan(), &mut rows(), |_, _| true);
    let distinct: BTreeSet<_> = got.iter().cloned().collect();
    assert_eq!(distinct.len(), got.len(), "nothing comes twice");
    assert_eq!(distinct, all.into_iter().collect());
    assert_eq!((&held, held.len()), (&held_in_all, usize::from(TOPICS) / 100));
    let mut last: BTreeMap<(Topic, OriginatorId), EnvelopeId> = BTreeMap::new();
    for (topic, id) in got {
        let before = last.insert((topic, id.originator), id);
        assert!(before.is_none_or(|before| before < id), "{id} after {before:?}");
    }
}

/// A chain envelope in a topic of a later part stops no part, and one of the same part goes first.
#[test]
fn an_envelope_comes_behind_the_chain_envelope_that_it_depends_on_if_both_are_in_one_part() {
    let mut rows = MemoryRows::default();
    rows.insert(name(0), row(id(100, 1), vec![id(0, 3)]));
    rows.insert(name(0), row(id(0, 3), vec![]));
    rows.insert(name(1), row(id(100, 2), vec![id(0, 2)]));
    rows.insert(name(TOPICS - 1), row(id(0, 2), vec![]));
    let ids = |plan: PagePlan| -> Vec<EnvelopeId> {
        let (got, held) = read_all(plan, &mut rows.clone(), |_, _| true);
        assert!(held.is_empty());
        got.into_iter().map(|(_, id)| id).collect()
    };
    assert_eq!(ids(plan().in_parts()), [id(0, 3), id(100, 1), id(100, 2), id(0, 2)]);
    assert_eq!(ids(plan()), [id(0, 2), id(0, 3), id(100, 1), id(100, 2)]);
}

/// A reader without memory makes a plan begin again. What earlier parts have given does not come again.
#[test]
fn a_part_begins_again_without_the_parts_before_it() {
    let mut restarts = 0;
    let has_memory = |plan: &PagePlan, was_open: bool| {
        let refuses = plan.part.0 > 0 && !was_open && plan.is_open() && restarts < 3;
        restarts += usize::from(refuses);
        !refuses
    };
    let (got, held) = read_all(plan().in_parts(), &mut rows(), has_memory);
    assert_eq!(restarts, 3);
    let (all, held_in_all) = read_all(plan(), &mut rows(), |_, _| true);
    assert_eq!((got.len(), held), (all.len(), held_in_all));
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), all.into_iter().collect());
}

/// Few topics ascend together, whatever is allowed.
#[test]
fn a_plan_of_few_topics_has_one_part() {
    let topics = |count: u16| {
        let topics = (0..count).map(|n| PlanTopic {
            topic: name(n),
            from: Arc::default(),
            resume: Arc::default(),
        });
        PagePlan::new(Cursors::PerTopic, topics, Arc::default()).in_parts()
    };
    let most = u16::try_from(WHOLE_TOPICS_MAX).unwrap();
    assert!(!topics(most).in_parts && topics(most + 1).in_parts);
}
