//! Tests of comparing two logs: all differences are named, and nothing else.

use super::ComparedBy::{Rows, StoredTrees};
use super::*;
use crate::replay::dependency_tests::{LogWithChain, of_chain};
use crate::replay::planted::PLANTED;
use crate::replay::testing::{
    Draft, MemoryLog, NODE, RATE, WITNESS, checkpoint, declared, draft, key, ns_of,
};
use crate::replay::{FaultKind, Usage};
use hawser_proto::Address;
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_rules::Rate;
use std::collections::BTreeMap;

fn only(first: &MemoryLog, second: &MemoryLog, by: ComparedBy) -> StrandDifference {
    let mut found = compare(first, second, by).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn equal_logs_are_equal_and_a_longer_one_says_so() {
    let log = MemoryLog::honest(90);
    for by in [Rows, StoredTrees] {
        let same = only(&log, &log, by);
        assert!(same.is_equal(), "{same:?}");
        assert_eq!(same.equal_tree_size, Some(90));
        let compared = match by {
            Rows => ComparedPlaces { envelopes: 90, ..ComparedPlaces::default() },
            StoredTrees => ComparedPlaces { by_stored_trees: 90, ..ComparedPlaces::default() },
        };
        assert_eq!(same.compared, compared);
    }
    let shorter = MemoryLog::honest(60);
    let found = only(&log, &shorter, StoredTrees);
    assert_eq!((found.heads, found.equal_tree_size), ((SequenceId(90), SequenceId(60)), Some(60)));
    assert!(!found.is_equal() && found.first_other_leaf.is_none());
    let mut shorter = shorter;
    shorter.rows.remove(30);
    for (first, second, lacking) in [(&log, &shorter, Side::Second), (&shorter, &log, Side::First)]
    {
        let found = only(first, second, Rows);
        let range = |from, through| MissingPlaces {
            lacking,
            from: SequenceId(from),
            through: SequenceId(through),
        };
        assert_eq!(found.lacking, [range(31, 31), range(61, 90)]);
        assert_eq!(found.lacking_count, 31);
    }
    let none = MemoryLog::honest(0);
    assert_eq!(only(&log, &none, Rows).lacking_count, 90);
}

#[test]
fn the_first_other_leaf_is_found_wherever_it_is() {
    let log = MemoryLog::honest(37);
    for place in 1..=37 {
        let envelopes = (1..=37).map(|at| {
            let Draft { mut statement } = draft(at, ns_of(at));
            statement.base_fee_picodollars += u64::from(at == place);
            (Draft { statement }.seal(), StoredMark::Valid)
        });
        let other = MemoryLog::of(envelopes.collect());
        let found = only(&log, &other, StoredTrees);
        assert_eq!(found.first_other_leaf, Some(SequenceId(place)));
        assert_eq!(found.equal_tree_size, Some(place - 1));
        assert_eq!((found.other_count, found.other[0].sequence_id.0), (1, place));
        assert_eq!(found.other[0].what, "statement");
    }
}

#[test]
fn lacking_places_other_signatures_and_marks_are_told() {
    let log = MemoryLog::honest(50);
    let mut other = log.clone();
    let again = UnsealedEnvelope::new(&draft(7, ns_of(7)).statement).seal(&key(5));
    *other.bytes_at(7) = again;
    *other.row_at(9).0 = StoredMark::Invalid(4);
    other.rows.drain(19..29);
    let found = only(&log, &other, Rows);
    let differing: Vec<_> = found.other.iter().map(|it| (it.sequence_id.0, it.what)).collect();
    assert_eq!(differing, [(7, "signature"), (9, "mark")]);
    let (from, through) = (SequenceId(20), SequenceId(29));
    let lacking = MissingPlaces { lacking: Side::Second, from, through };
    assert_eq!((&found.lacking[..], found.lacking_count), (&[lacking][..], 10));
    let turned = only(&other, &log, Rows);
    assert_eq!(turned.lacking[0].lacking, Side::First);
    assert_eq!(found.originator_id, NODE);
}

#[test]
fn statements_about_lacking_places_are_told_with_the_log_that_keeps_them() {
    let log = MemoryLog::honest(50);
    let mut other = log.clone();
    other.rows.drain(19..29);
    let found = only(&log, &other, Rows);
    assert_eq!((found.lacking_count, found.stated_void.len()), (10, 0));
    // One about other places, one about some of these, and one of another strand.
    other.voids = vec![declared(30, 40, 50, 1), declared(25, 26, 50, 1)];
    let mut of_other = declared(25, 26, 50, 1);
    of_other.statement.node = WITNESS;
    other.voids.push(of_other);
    let (from, through) = (SequenceId(25), SequenceId(26));
    let stated = |kept_by| StatedVoid { kept_by, from, through };
    assert_eq!(only(&log, &other, Rows).stated_void, [stated(Side::Second)]);
    let turned = only(&other, &log, Rows);
    assert_eq!(turned.stated_void, [stated(Side::First)]);
    assert_eq!(turned.lacking_count, 10, "a statement makes no logs equal");
    assert_eq!(only(&other, &other, Rows).stated_void, []);
}

/// Compares an honest log with each log that a hostile keeper has changed.
#[test]
fn places_of_planted_faults_are_named_and_no_others() {
    let honest = MemoryLog::honest(500);
    let of = |log: &MemoryLog| -> BTreeMap<u64, (Bytes, StoredMark)> {
        let rows = log.rows.iter().map(|row| match row {
            StrandRow::Envelope { sequence, bytes, mark, .. } => {
                (sequence.0, (bytes.clone(), *mark))
            }
            other => panic!("{other:?}"),
        });
        rows.collect()
    };
    let rows = of(&honest);
    for (name, plant, faults) in PLANTED {
        let mut log = honest.clone();
        plant(&mut log);
        let changed = of(&log);
        let expected: Vec<u64> =
            rows.iter().filter(|(at, row)| changed.get(at) != Some(row)).map(|it| *it.0).collect();
        let found = only(&honest, &log, Rows);
        let lacking = found.lacking.iter().flat_map(|it| it.from.0..=it.through.0);
        let mut named: Vec<u64> =
            found.other.iter().map(|it| it.sequence_id.0).chain(lacking).collect();
        named.sort_unstable();
        assert_eq!(named, expected, "{name}");
        assert_eq!(found.other_count + found.lacking_count, expected.len() as u64, "{name}");
        // One fault of an envelope, of its mark, or of no envelope at all.
        let is_of_envelope = faults.iter().any(|(_, at, _)| expected.contains(at));
        assert_eq!(is_of_envelope, !expected.is_empty(), "{name}");
    }
}

#[test]
fn planted_faults_beside_the_envelopes_are_named_and_no_others() {
    let honest = MemoryLog::honest(500);
    for (name, plant, faults) in PLANTED {
        let mut log = honest.clone();
        plant(&mut log);
        let kind = faults[0].0;
        let (tallies, again): (Vec<&str>, Vec<(u64, OriginatorId, &str)>) = match kind {
            FaultKind::Usage => (vec!["usage"], vec![]),
            FaultKind::Congestion => (vec!["congestion"], vec![]),
            FaultKind::CheckpointTime => (vec![], vec![(40, NODE, "time")]),
            FaultKind::CheckpointSignature => (vec![], vec![(40, NODE, "signature")]),
            FaultKind::Cosignature => (vec![], vec![(40, WITNESS, "cosignature_time")]),
            _ => (vec![], vec![]),
        };
        for (first, second) in [(&honest, &log), (&log, &honest)] {
            let found = only(first, second, Rows);
            let told: Vec<_> = found.other_tallies.iter().map(|it| it.what).collect();
            assert_eq!(told, tallies, "{name}: {:?}", found.other_tallies);
            let told: Vec<_> =
                found.signed_again.iter().map(|it| (it.size, it.signer, it.what)).collect();
            assert_eq!(told, again, "{name}");
            let rates = other_rates(first, second).unwrap();
            // A replay finds that the chain does not have it.
            let unread = u64::from(kind == FaultKind::Rates);
            let expected = OtherRates { unread, ..OtherRates::default() };
            assert_eq!(rates, expected, "{name}");
            let is_told = matches!(
                kind,
                FaultKind::Usage | FaultKind::Congestion | FaultKind::CheckpointSignature
            );
            assert!(!(is_told && found.is_equal()), "{name}");
            // A node that runs shows none of it.
            let running = MemoryLog { is_node: true, ..second.clone() };
            let found = only(first, &running, Rows);
            assert_eq!((found.compared_tallies, found.signed_again.len()), (0, 0), "{name}");
        }
    }
}

/// One keeper reads a new rate from the chain before the other one does, and a liar leaves one out.
#[test]
fn a_rate_that_one_keeper_has_not_read_yet_is_no_difference_and_one_that_is_left_out_is() {
    let rate = |after_s| Rate { start_unix_s: RATE.start_unix_s + after_s, ..RATE };
    let of = |rates: &[Rate], until_s: Option<u64>| {
        let rates_until_ns = until_s.map(|until_s| i64::try_from(until_s).unwrap() * 1_000_000_000);
        MemoryLog { rates: rates.to_vec(), rates_until_ns, ..MemoryLog::honest(20) }
    };
    let told = |first: &MemoryLog, second: &MemoryLog| {
        let found = other_rates(first, second).unwrap();
        let turned = other_rates(second, first).unwrap();
        assert_eq!((found.count, found.unread), (turned.count, turned.unread));
        let after_s = |it: &OtherRate| it.start_unix_s - RATE.start_unix_s;
        (found.first.iter().map(after_s).collect::<Vec<u64>>(), found.unread)
    };
    let all = of(&[RATE, rate(1000), rate(2000)], None);
    let start_s = RATE.start_unix_s;
    for until_s in [None, Some(start_s), Some(start_s + 999)] {
        assert_eq!(told(&all, &of(&[RATE], until_s)), (vec![], 2), "{until_s:?}");
    }
    // Its keeper says that these are all up to here.
    assert_eq!(told(&all, &of(&[RATE], Some(start_s + 1000))), (vec![1000], 1));
    // It has read the rate behind.
    assert_eq!(told(&all, &of(&[RATE, rate(2000)], None)), (vec![1000], 0));
    let other = Rate { target_rate_per_minute: RATE.target_rate_per_minute + 1, ..rate(2000) };
    assert_eq!(told(&all, &of(&[RATE, rate(1000), other], None)), (vec![2000], 0));
    assert_eq!(told(&all, &of(&[], None)), (vec![], 0), "it shows none");
}

#[test]
fn tallies_are_compared_up_to_the_lower_head_and_not_near_places_that_differ() {
    let honest = MemoryLog::honest(300);
    let shorter = MemoryLog::honest(280);
    let told = |first: &MemoryLog, second: &MemoryLog| {
        let found = only(first, second, Rows);
        assert!(found.compared_tallies > 0, "{found:?}");
        let turned = only(second, first, Rows);
        assert_eq!(found.other_tally_count, turned.other_tally_count);
        found.other_tallies.iter().map(|it| it.what).collect::<Vec<_>>()
    };
    assert_eq!(told(&honest, &honest), Vec::<&str>::new());
    assert_eq!(told(&honest, &shorter), Vec::<&str>::new());
    let with_liar = |log: &MemoryLog| {
        let mut liar = log.clone();
        liar.usage.values_mut().next().unwrap().messages += 1;
        *liar.congestion.values_mut().next().unwrap() += 1;
        liar
    };
    assert_eq!(told(&honest, &with_liar(&shorter)), ["usage", "congestion"]);
    // The keeper of the shorter log claims a place behind its head.
    let mut liar = shorter.clone();
    liar.usage.values_mut().next().unwrap().last_sequence = SequenceId(281);
    assert_eq!(told(&honest, &liar), ["usage"]);
    // Of a log that lacks an envelope the correct tallies are not known; of one that has pruned it they are.
    let mut lacking = with_liar(&honest);
    lacking.rows.remove(1);
    assert_eq!(told(&honest, &lacking), Vec::<&str>::new());
    lacking.usage.values_mut().next_back().unwrap().messages += 1;
    assert_eq!(told(&honest, &lacking), ["usage"]);
    let mut pruned = with_liar(&honest);
    pruned.prune(2);
    assert_eq!(told(&honest, &pruned), ["usage", "congestion"]);
    // The record of the one keeper is all that is left of the envelope, and the other one never had it.
    let mut never = honest.clone();
    never.rows.remove(1);
    assert_eq!(told(&pruned, &never), Vec::<&str>::new());
}

#[test]
fn single_tallies_that_differ_are_found_among_many() {
    let mut log = MemoryLog::honest(20);
    let usage = Usage { messages: 1, last_sequence: SequenceId(3), ..Usage::default() };
    let key = |minute: u32| (minute, Address([5; 20]));
    log.usage.extend((1..=12_000).map(|minute| (key(minute), usage)));
    let mut liar = log.clone();
    for minute in [1, 7_000, 12_000] {
        liar.usage.insert(key(minute), Usage { bytes: 1, ..usage });
    }
    liar.usage.insert(key(4_000_000_000), usage);
    for (first, second) in [(&log, &liar), (&liar, &log)] {
        let found = only(first, second, Rows);
        let minutes: Vec<u32> = found.other_tallies.iter().map(|it| it.minute).collect();
        assert_eq!(minutes, [1, 7_000, 12_000, 4_000_000_000_u32]);
        assert_eq!(found.other_tally_count, 4);
    }
}

/// Both keepers have the same envelopes, and the node has signed two trees.
#[test]
fn two_roots_of_one_size_are_a_difference_and_checkpoints_of_one_log_alone_are_none() {
    let honest = MemoryLog::honest(90);
    let mut fewer = honest.clone();
    fewer.checkpoints.retain(|it| !it.signed.checkpoint.size.is_multiple_of(20));
    for (first, second) in [(&honest, &fewer), (&fewer, &honest)] {
        assert!(only(first, second, Rows).is_equal());
    }
    let mut liar = fewer.clone();
    let root = TreeHash([4; 32]);
    let at = liar.checkpoints.iter().position(|it| it.signed.checkpoint.size == 50).unwrap();
    let honest_root = liar.checkpoints[at].signed.checkpoint.root;
    liar.checkpoints[at] = checkpoint(50, root);
    for (first, second, roots) in
        [(&honest, &liar, (honest_root, root)), (&liar, &honest, (root, honest_root))]
    {
        let found = only(first, second, Rows);
        assert!(!found.is_equal() && found.other.is_empty() && found.lacking.is_empty());
        let roots = (roots.0.to_string(), roots.1.to_string());
        assert_eq!(found.other_checkpoints, [OtherCheckpoint { size: 50, roots }]);
        assert_eq!(found.other_checkpoint_count, 1);
        assert!(only(first, second, StoredTrees).is_equal(), "it reads no checkpoint");
    }
    // A node that runs shows the newest one alone.
    let running = MemoryLog { is_node: true, ..liar };
    assert_eq!(only(&honest, &running, Rows).other_checkpoints, []);
}

/// A keeper serves its own envelopes, and stores the leaves and the root of the honest log beside them.
#[test]
fn a_log_that_stores_the_tree_of_another_one_does_not_pass_for_it() {
    let honest = MemoryLog::honest(60);
    let mut liar = honest.clone();
    let mut other = draft(33, ns_of(33));
    other.statement.base_fee_picodollars += 1;
    *liar.bytes_at(33) = other.seal();
    let found = only(&honest, &liar, Rows);
    assert!(!found.is_equal());
    let differing: Vec<_> = found.other.iter().map(|it| (it.sequence_id.0, it.what)).collect();
    assert_eq!(differing, [(33, "statement")]);
    assert_eq!(found.compared.by_stored_trees, 0);
    let believed = only(&honest, &liar, StoredTrees);
    assert!(believed.is_equal(), "the lie is believed if it is asked to be: {believed:?}");
    assert_eq!(believed.compared.by_stored_trees, 60);
    assert_eq!(believed.compared.envelopes, 0);
}

#[test]
fn leaves_of_pruned_places_are_compared_with_leaves_and_with_envelopes() {
    let honest = MemoryLog::honest(30);
    let mut pruned = honest.clone();
    pruned.prune(4);
    let same = only(&pruned, &pruned, Rows);
    assert!(same.is_equal(), "{same:?}");
    let compared = ComparedPlaces { envelopes: 29, stored_leaves: 1, ..ComparedPlaces::default() };
    assert_eq!(same.compared, compared);
    let one_lacks = only(&honest, &pruned, Rows);
    assert_eq!((one_lacks.lacking_count, one_lacks.other_count), (1, 0));

    let mut liar = pruned.clone();
    let StrandRow::Pruned { leaf, .. } = &mut liar.rows[3] else { panic!("not pruned") };
    *leaf = Some(TreeHash([9; 32]));
    for (first, second) in [(&pruned, &liar), (&liar, &honest), (&honest, &liar)] {
        let found = only(first, second, Rows);
        let differing: Vec<_> = found.other.iter().map(|it| (it.sequence_id.0, it.what)).collect();
        assert_eq!(differing, [(4, "leaf")]);
    }
}

#[test]
fn a_stored_tree_that_cannot_be_read_hides_no_row() {
    let log = MemoryLog::honest(50);
    let mut other = MemoryLog { has_unreadable_tree: true, ..log.clone() };
    other.rows.remove(30);
    for by in [Rows, StoredTrees] {
        let found = only(&log, &other, by);
        assert_eq!(found.unreadable.len(), 1, "{found:?}");
        assert_eq!((found.lacking_count, found.compared.envelopes), (1, 49), "{found:?}");
    }
}

#[test]
fn a_source_that_goes_back_ends_the_strand() {
    let log = MemoryLog::honest(50);
    let mut other = log.clone();
    let row = other.rows[3].clone();
    other.rows.insert(40, row);
    let found = only(&log, &other, Rows);
    assert_eq!(found.unreadable.len(), 1);
    assert_eq!(found.unreadable[0].0, Side::Second);
}

#[test]
fn rows_that_cannot_be_read_end_the_comparison_and_are_no_difference() {
    let log = MemoryLog::honest(60);
    let damaged = MemoryLog { unreadable_from: Some(33), ..log.clone() };
    for (first, second, side) in [(&log, &damaged, Side::Second), (&damaged, &log, Side::First)] {
        let found = only(first, second, Rows);
        assert_eq!((found.other_count, found.lacking_count), (0, 0), "{found:?}");
        let sides: Vec<Side> = found.unreadable.iter().map(|it| it.0).collect();
        assert_eq!(sides, [side]);
    }
}

/// Other software dates the envelopes of chains by its own clock, and Hawser by their blocks.
#[test]
fn envelopes_of_a_chain_are_compared_with_a_running_node_by_their_content() {
    let log = |late_ns: i64| {
        let times_ns = [1, 2, 3].map(|at| ns_of(at) + late_ns);
        LogWithChain::new(&times_ns, MemoryLog::honest(20))
    };
    let of_chain_strand = |other: &LogWithChain| compare(&log(0), other, Rows).unwrap().remove(0);
    let node = log(1_000_000_000).of_node();
    let found = of_chain_strand(&node);
    assert!(found.is_equal(), "{found:?}");
    let compared = ComparedPlaces { envelopes: 3, dated_otherwise: 3, ..ComparedPlaces::default() };
    assert_eq!(found.compared, compared);

    let mut liar = node;
    *liar.chain.bytes_at(2) = of_chain(2, ns_of(2) + 1_000_000_000, 6);
    let found = of_chain_strand(&liar);
    let differing: Vec<_> = found.other.iter().map(|it| (it.sequence_id.0, it.what)).collect();
    assert_eq!(differing, [(2, "statement")], "of another transaction");
    // Folders are of Hawser, which makes the same bytes of each event.
    assert_eq!(of_chain_strand(&log(1_000_000_000)).other_count, 3);
}

/// The keeper of a folder may store the trees of strands that no disk holds.
#[test]
fn sums_of_places_that_stored_trees_claim_stay_at_their_end() {
    let one = ComparedPlaces { by_stored_trees: SequenceId::MAX.0, ..ComparedPlaces::default() };
    let mut all = ComparedPlaces::default();
    (0..3).for_each(|_| all.add(one));
    assert_eq!(all.by_stored_trees, u64::MAX);
}
