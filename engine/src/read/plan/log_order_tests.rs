//! Plans in the order of the log, beside the same plans out of the topic index.

use hawser_storage::{Change, Store};

use super::super::{Cursors, PlanTopic};
use super::*;
use crate::committed::Committed;
use crate::read::page::PageRow;
use crate::read::testing::{
    Dice, append, append_invalid, committed, cursor, id, missing, placed, store,
};

/// More than are read out of the index at once.
const TOPICS: u16 = 600;

fn name(number: u16) -> Topic {
    Topic::parse([&[0][..], &number.to_be_bytes()].concat().into()).unwrap()
}

/// Stored strands, and a reader's topics with their cursors.
struct LogCase {
    store: Store,
    cursors: Cursors,
    heads: Cursor,
    asked: Vec<(Topic, Arc<Cursor>)>,
}

/// The envelopes that a reader gets, in the order of delivery.
type Delivered = Vec<PageRow>;

impl LogCase {
    /// A chain and two nodes with envelopes in all topics and some others; times that do not descend; dependencies on
    /// the chain, some of them above its head; places that are missing, and envelopes that break a rule.
    ///
    /// Each node has up to 600 places more than `len_min`.
    fn random(seed: u64, len_min: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let (store, mut heads) = (store(), Cursor::new());
        let chain_len = 100 + dice.below(200);
        for originator in [0, 100, 200] {
            let is_chain = originator == 0;
            let len = if is_chain { chain_len } else { len_min + dice.below(600) };
            let (mut ns, mut changes) = (0, Vec::new());
            for sequence in 1..=len {
                ns += i64::try_from(dice.below(3)).unwrap();
                let at = id(originator, sequence);
                let depends_on = match !is_chain && dice.chance(8) {
                    // Mostly what the chain has by then.
                    true => vec![id(0, 1 + dice.below(sequence.min(chain_len + 3)))],
                    false => Vec::new(),
                };
                let number = u16::try_from(dice.below(u64::from(TOPICS) + 50)).unwrap();
                let envelope = placed(at, name(number), ns, depends_on);
                changes.push(match is_chain || !dice.chance(20) {
                    true => append(&envelope),
                    false if dice.chance(2) => append_invalid(&envelope),
                    false => missing(at),
                });
            }
            store.commit(&changes).unwrap();
            heads.advance(id(originator, len - dice.below(5)));
        }
        let cursors = if seed.is_multiple_of(2) { Cursors::Shared } else { Cursors::PerTopic };
        let mut random_cursor = || {
            let entries = [0, 100, 200].map(|originator| (originator, dice.below(60)));
            Arc::new(cursor(&entries))
        };
        let shared = random_cursor();
        let asked = (0..TOPICS).map(|number| match cursors {
            Cursors::Shared => (name(number), Arc::clone(&shared)),
            Cursors::PerTopic => (name(number), random_cursor()),
        });
        let asked = asked.collect();
        Self { store, cursors, heads, asked }
    }

    /// One strand with these envelopes.
    fn of_strand(envelopes: &[Committed]) -> Self {
        let store = store();
        let changes: Vec<Change> = envelopes.iter().map(append).collect();
        store.commit(&changes).unwrap();
        let heads = envelopes.iter().map(|envelope| envelope.id).collect();
        let from = Arc::new(Cursor::new());
        let asked = (0..TOPICS).map(|number| (name(number), Arc::clone(&from))).collect();
        Self { store, cursors: Cursors::PerTopic, heads, asked }
    }

    fn plan(&self) -> PagePlan {
        let asked = self.asked.iter().map(|(topic, from)| PlanTopic {
            topic: topic.clone(),
            from: Arc::clone(from),
            resume: Arc::default(),
            commits: None,
        });
        PagePlan::new(self.cursors, asked, Arc::new(self.heads.clone()))
    }

    /// Reads what is left of a plan out of the index.
    fn read_in_index(&self, plan: &mut PagePlan) -> Delivered {
        let snapshot = self.store.snapshot();
        let mut got = Vec::new();
        loop {
            let page = plan.next_page(&mut snapshot.topics(), BatchLimits::STREAM).unwrap();
            got.extend(page.rows);
            if page.finished {
                return got;
            }
        }
    }

    /// Reads a plan in the order of the log, as far as it goes. Returns true at its end.
    fn read_in_log(&self, plan: &mut PagePlan) -> (Delivered, bool) {
        let mut got = Vec::new();
        loop {
            // Each turn has a view of its own.
            let snapshot = self.store.snapshot();
            let Some(page) = plan.next_in_log(&snapshot) else { return (got, false) };
            assert!(page.finished || !page.rows.is_empty() || got.is_empty());
            assert!(page.rows.len() <= PAGE.envelopes && page.len_bytes <= PAGE.len_bytes);
            got.extend(page.rows);
            if page.finished {
                return (got, true);
            }
        }
    }
}

/// Returns the places at which originators have to wait.
fn held(plan: &PagePlan) -> Vec<(EnvelopeId, EnvelopeId)> {
    let mut held: Vec<_> = plan.held().iter().map(|held| (held.after, held.on)).collect();
    held.sort_unstable();
    held
}

#[test]
fn the_order_of_the_log_is_that_of_the_index() {
    let (mut in_log, mut finished) = (0, 0);
    for seed in 0..40 {
        let case = LogCase::random(seed, 200);
        let mut of_index = case.plan();
        let all = case.read_in_index(&mut of_index);
        let mut plan = case.plan();
        let (mut got, is_finished) = case.read_in_log(&mut plan);
        in_log += got.len();
        finished += usize::from(is_finished);
        if !is_finished {
            got.extend(case.read_in_index(&mut plan));
        }
        assert_eq!(got, all, "seed {seed}");
        assert_eq!(held(&plan), held(&of_index), "seed {seed}");
    }
    assert!(in_log > 40 * 100, "{in_log} envelopes came in the order of the log");
    assert!(finished < 40, "some plans have envelopes that wait");
}

/// The topics of many readers are rare in the log: it is searched for the first envelopes, and the index has the rest.
#[test]
fn the_order_of_a_search_is_that_of_the_index() {
    let (mut searched, mut found) = (0, 0);
    for seed in 0..12 {
        let mut case = LogCase::random(seed, 900);
        // One of the topics that have envelopes, beside thousands that have none.
        let from = Arc::clone(&case.asked[0].1);
        let rare = name(TOPICS);
        let others = (1000..1000 + 3 * PLACES_PER_TURN).map(|it| name(u16::try_from(it).unwrap()));
        case.asked = others.chain([rare]).map(|topic| (topic, Arc::clone(&from))).collect();
        let mut of_index = case.plan();
        let all = case.read_in_index(&mut of_index);
        let mut plan = case.plan();
        let mut turns = plan_turns(&case, &mut plan);
        searched += usize::from(turns.first().is_some_and(Vec::is_empty));
        found += usize::from(turns.iter().skip(1).any(|turn| !turn.is_empty()));
        turns.push(case.read_in_index(&mut plan));
        assert_eq!(turns.concat(), all, "seed {seed}");
        assert_eq!(held(&plan), held(&of_index), "seed {seed}");
    }
    assert!(searched > 0 && found > 0, "{searched} and {found} of the plans took several turns");
}

/// Returns what each turn in the order of the log delivers.
fn plan_turns(case: &LogCase, plan: &mut PagePlan) -> Vec<Delivered> {
    let mut turns = Vec::new();
    while let Some(page) = plan.next_in_log(&case.store.snapshot()) {
        turns.push(page.rows);
        if page.finished {
            break;
        }
    }
    turns
}

/// Returns the sequence ids that each turn delivers.
fn sequences(turns: &[Delivered]) -> Vec<Vec<u64>> {
    turns.iter().map(|turn| turn.iter().map(|row| row.id.sequence.0).collect()).collect()
}

/// The first envelope of a stream of thousands of topics lies behind thousands of others.
#[test]
fn a_first_page_behind_a_few_thousand_places_needs_no_index() {
    let place = 3 * PLACES_PER_TURN as u64 + 100;
    let topics = u16::try_from(4 * PLACES_PER_TURN).unwrap();
    let envelope = |sequence: u64| {
        let number = if sequence == place { 7 } else { u64::from(topics) + sequence };
        placed(id(100, sequence), name(u16::try_from(number).unwrap()), 0, Vec::new())
    };
    let of_topics = |topics: u16| {
        let mut case = LogCase::of_strand(&(1..=place + 2000).map(envelope).collect::<Vec<_>>());
        let from = Arc::clone(&case.asked[0].1);
        case.asked = (0..topics).map(|number| (name(number), Arc::clone(&from))).collect();
        case
    };
    let case = of_topics(topics);
    let mut plan = case.plan();
    let turns = sequences(&plan_turns(&case, &mut plan));
    assert_eq!(turns, [vec![], vec![], vec![], vec![place]]);
    assert!(case.read_in_index(&mut plan).is_empty());

    // One topic fewer pays for one turn fewer, and the index finds the envelope.
    let case = of_topics(topics - 1);
    let mut plan = case.plan();
    let turns = sequences(&plan_turns(&case, &mut plan));
    assert_eq!(turns, vec![Vec::<u64>::new(); 2]);
    assert_eq!(case.read_in_index(&mut plan).len(), 1);
}

/// All of a strand is of the topics: the plan never needs the index.
#[test]
fn a_strand_of_these_topics_is_read_without_the_index() {
    let envelope = |sequence: u64| {
        let number = u16::try_from(sequence % u64::from(TOPICS)).unwrap();
        placed(id(100, sequence), name(number), 0, Vec::new())
    };
    let case = LogCase::of_strand(&(1..=3000).map(envelope).collect::<Vec<_>>());
    let (got, finished) = case.read_in_log(&mut case.plan());
    assert!(finished);
    assert!(got.iter().map(|row| row.id).eq((1..=3000).map(|sequence| id(100, sequence))));
}

/// The identity updates of a network are many, and a stream of groups has none of them.
#[test]
fn a_chain_of_another_kind_is_not_looked_at() {
    let of_node = |sequence: u64| {
        let number = u16::try_from(sequence % u64::from(TOPICS)).unwrap();
        placed(id(100, sequence), name(number), 1000, vec![id(1, sequence)])
    };
    let mut case = LogCase::of_strand(&(1..=1000).map(of_node).collect::<Vec<_>>());
    let inbox = Topic::new(TopicKind::IdentityUpdates, &[7; 32]).unwrap();
    let of_chain = |sequence| append(&placed(id(1, sequence), inbox.clone(), 0, Vec::new()));
    case.store.commit(&(1..=3000).map(of_chain).collect::<Vec<_>>()).unwrap();
    case.heads.advance(id(1, 3000));
    let (got, finished) = case.read_in_log(&mut case.plan());
    assert!(got.len() == 1000 && finished);
    assert_eq!(got, case.read_in_index(&mut case.plan()), "which finds no more");
}

/// A reader names topics that have few envelopes in a long strand. That costs one turn.
#[test]
fn a_log_of_other_topics_is_left_after_one_turn() {
    let envelope = |sequence: u64| {
        let is_wanted = sequence.is_multiple_of(100);
        let number = if is_wanted { sequence / 100 } else { u64::from(TOPICS) + sequence };
        placed(id(100, sequence), name(u16::try_from(number).unwrap()), 0, Vec::new())
    };
    let case = LogCase::of_strand(&(1..=5000).map(envelope).collect::<Vec<_>>());
    let mut plan = case.plan();
    let snapshot = case.store.snapshot();
    let first = plan.next_in_log(&snapshot).expect("some of them lie in the first places");
    assert!(!first.finished && first.rows.len() < 50, "{} envelopes", first.rows.len());
    assert!(plan.next_in_log(&snapshot).is_none(), "the index has the rest");
    let rest = case.read_in_index(&mut plan);
    let got = first.rows.iter().chain(&rest).map(|row| row.id.sequence.0);
    assert!(got.eq((1..=50).map(|number| number * 100)));
}

/// Damage of the disk, and plans of few topics, are left to the index.
#[test]
fn rows_that_do_not_decode_are_left_to_the_index() {
    let whole = |sequence| placed(id(100, sequence), name(1), 0, Vec::new());
    let broken = committed(id(100, 3), name(1), 0, Vec::new());
    let mut case = LogCase::of_strand(&[whole(1), whole(2), broken, whole(4)]);
    let mut plan = case.plan();
    let (got, finished) = case.read_in_log(&mut plan);
    assert!(got.len() == 2 && !finished);
    assert_eq!(case.read_in_index(&mut plan).len(), 2);
    case.asked.truncate(SORTED_TOPICS_MIN);
    assert!(case.plan().next_in_log(&case.store.snapshot()).is_none());
}
