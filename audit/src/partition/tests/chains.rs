//! Dependencies on places of chains in parts: a first look at the chains' strands gives the times that judge them.

use serde_json::Value;

use super::*;
use crate::replay::Replay;
use crate::replay::dependency_tests::{LogWithChain, depending_on};

const CHAIN: OriginatorId = OriginatorId::GROUP_MESSAGES;

/// Checks rows in a number of parts, some of which may be empty, and reads the verdicts back.
fn verdicts(
    rows: &[(OriginatorId, ReadRow)],
    parts: usize,
    chains: &ChainsOfLog,
) -> Vec<RangeVerdict> {
    let ends: Vec<usize> = (0..=parts).map(|at| at * rows.len() / parts).collect();
    let mut found = Vec::new();
    for part in ends.windows(2) {
        let rows = rows[part[0]..part[1]].iter().cloned().map(Ok::<_, SourceError>);
        let judged = check_partition(rows, &settings(), ExportedPayers::Named, chains).unwrap();
        found.extend(judged.iter().map(|it| RangeVerdict::parse(&it.to_line()).unwrap()));
    }
    found
}

fn rows_of_chain(log: &LogWithChain) -> Rows {
    read_back(CHAIN, log.chain.rows.clone())
}

fn all_rows(log: &LogWithChain) -> Rows {
    rows_of_chain(log).into_iter().chain(rows(&log.node)).collect()
}

/// Looks at the chain's strand first, and then at the whole log, each in this number of parts.
fn judged(log: &LogWithChain, parts: usize) -> MergedVerdict {
    let unknown = ChainsOfLog::default();
    let chains = chains_of(verdicts(&rows_of_chain(log), parts, &unknown)).unwrap();
    merge(verdicts(&all_rows(log), parts, &chains), None).unwrap()
}

fn says_dependencies(unchecked: &[String]) -> bool {
    unchecked.iter().any(|text| text.contains("(--chains)"))
}

#[test]
fn dependencies_are_judged_as_by_a_replay_whatever_the_number_of_parts() {
    for (place, wrong) in [(3, true), (9, true), (2, false), (1, false)] {
        let log = depending_on(CHAIN.0, place);
        let settings = settings();
        let mut replay = Replay::new(&log, &settings, None).unwrap();
        let whole = replay.run(|_, _| true).unwrap().unwrap().all_faults();
        assert_eq!(whole.count(), u64::from(wrong), "place {place}");
        let [one, two, eight] = [1, 2, 8].map(|parts| judged(&log, parts));
        assert_eq!(one.faults.kept(), whole.kept(), "place {place}");
        assert!(!says_dependencies(&one.unchecked), "{:?}", one.unchecked);
        let text = |merged: &MergedVerdict| serde_json::to_string(merged).unwrap();
        assert_eq!(text(&two), text(&one), "place {place}");
        assert_eq!(text(&eight), text(&one), "place {place}");
    }
}

/// A worker has the times of another log, of a part of the chain, or none.
#[test]
fn a_verdict_by_other_times_than_those_of_its_chains_says_that_dependencies_are_not_judged() {
    let log = depending_on(CHAIN.0, 2);
    let unknown = ChainsOfLog::default();
    let of_chain = verdicts(&rows_of_chain(&log), 3, &unknown);
    let whole = chains_of(of_chain.clone()).unwrap();
    let partial = chains_of(of_chain[..2].to_vec()).unwrap();
    let [by_whole, by_partial, by_none] = [&whole, &partial, &unknown].map(|chains| {
        let merged = merge(verdicts(&all_rows(&log), 2, chains), None).unwrap();
        assert_eq!(merged.verdict, "clean");
        says_dependencies(&merged.unchecked)
    });
    assert_eq!((by_whole, by_partial, by_none), (false, true, true));
    // One worker of two has none.
    let rows = rows(&log.node);
    let mut mixed = of_chain;
    mixed.extend(verdicts(&rows[..10], 1, &whole));
    mixed.extend(verdicts(&rows[10..], 1, &unknown));
    assert!(says_dependencies(&merge(mixed, None).unwrap().unchecked));
    // All have them, and the verdicts on the chain's strand are lost.
    let lost = merge(verdicts(&rows, 2, &whole), None).unwrap();
    assert!(says_dependencies(&lost.unchecked), "{:?}", lost.unchecked);
    // The first pass has failed and has left an empty file, and the second one lacks the chain's strand, too.
    let empty = chains_of(Vec::new()).unwrap();
    let judged = verdicts(&rows, 2, &empty);
    assert!(says_dependencies(&unchecked(&judged)));
    assert!(says_dependencies(&merge(judged, None).unwrap().unchecked));
}

#[test]
fn a_verdict_on_a_chain_without_its_times_or_with_impossible_ones_is_refused() {
    let log = depending_on(CHAIN.0, 2);
    let found = verdicts(&rows_of_chain(&log), 1, &ChainsOfLog::default()).remove(0);
    let mut line: Value = serde_json::from_str(&found.to_line()).unwrap();
    let times = line.as_object_mut().unwrap().remove("chain_times").unwrap();
    assert_eq!(times.as_array().unwrap().len(), 3, "{times}");
    let without = RangeVerdict::parse(&line.to_string()).unwrap();
    let refused = chains_of(vec![without]).unwrap_err();
    assert_eq!(refused, MergeError::NoTimes { originator_id: CHAIN });
    for lie in ["[[2,7],[1,8]]", "[[1,8],[2,7]]", "[[1,7],[4,8]]", "[[-1,7]]", "[[0,7]]", "7"] {
        line["chain_times"] = serde_json::from_str(lie).unwrap();
        assert!(RangeVerdict::parse(&line.to_string()).is_err(), "{lie}");
    }
    // Times of places before the range would not ascend once it is joined to the one before it.
    line["chain_times"] = serde_json::json!([[1, 7]]);
    assert!(RangeVerdict::parse(&line.to_string()).is_ok());
    line["from"] = serde_json::json!(2);
    assert!(RangeVerdict::parse(&line.to_string()).is_err());
    // A node's strand has no times.
    let of_node = verdicts(&rows(&log.node), 1, &ChainsOfLog::default()).remove(0);
    assert!(of_node.chain_times.is_none() && !of_node.to_line().contains("chain_times"));
}

/// A keeper hides an event of a chain, such as a revocation, behind a mark that places of nodes may have.
#[test]
fn an_event_of_a_chain_that_its_keeper_calls_missing_or_expired_is_named_as_by_a_replay() {
    for reason in [GapReason::Missing, GapReason::Expired, GapReason::Void] {
        let mut log = depending_on(CHAIN.0, 1);
        let (from, through) = (SequenceId(2), SequenceId(2));
        log.chain.rows[1] = StrandRow::Gap { from, through, reason };
        let settings = settings();
        let mut replay = Replay::new(&log, &settings, None).unwrap();
        let whole = replay.run(|_, _| true).unwrap().unwrap().all_faults();
        let named: Vec<_> = whole.kept().iter().map(|it| (it.kind, it.originator_id)).collect();
        match reason {
            GapReason::Void => assert_eq!(named, [], "the chain itself leaves places out"),
            _ => assert_eq!(named, [(FaultKind::WrongMark, Some(CHAIN))], "{reason:?}"),
        }
        for parts in [1, 2, 8] {
            assert_eq!(judged(&log, parts).faults, whole, "{reason:?} in {parts} parts");
        }
    }
    assert_eq!(FaultKind::WrongMark.party(), "keeper");
    let gap =
        StrandRow::Gap { from: SequenceId(1), through: SequenceId(9), reason: GapReason::Missing };
    let of_node = check(&read_back(NODE, vec![gap]));
    assert_eq!(of_node[0].all_faults().count(), 0, "no peer may have had a node's envelopes");
}

/// A keeper hides an envelope of a node behind the mark that only a chain's places have.
#[test]
fn an_envelope_of_a_node_that_its_keeper_calls_void_is_named_as_by_a_replay() {
    let mut log = MemoryLog::honest(9);
    log.checkpoints.clear();
    let (from, through, reason) = (SequenceId(5), SequenceId(5), GapReason::Void);
    log.rows[4] = StrandRow::Gap { from, through, reason };
    let settings = settings();
    let mut replay = Replay::new(&log, &settings, None).unwrap();
    let whole = replay.run(|_, _| true).unwrap().unwrap().all_faults();
    let of_marks = |faults: &Faults| -> Vec<(Option<OriginatorId>, SequenceId)> {
        let marks = faults.kept().iter().filter(|it| it.kind == FaultKind::WrongMark);
        marks.map(|it| (it.originator_id, it.sequence_id)).collect()
    };
    assert_eq!(of_marks(&whole), [(Some(NODE), from)], "{:?}", whole.kept());
    let of_part = check(&rows(&log));
    assert_eq!(of_marks(&of_part[0].all_faults()), [(Some(NODE), from)]);
}
