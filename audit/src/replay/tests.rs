//! A clean log is clean, every planted fault is named and nothing else, and a replay that pauses has the same result.

use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::merkle::{CompactRange, LeafData, TreeHash, leaf_hash};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, SequenceId, minute_of};
use hawser_rules::{Absence, Absences, PicoDollarPrice, Rate, RateTable, Registry};
use prost::Message as _;
use serde_json::{Value, json};

use super::planted::{PLANTED, PlantedFault, flip_signature, sign_at};
use super::testing::{MemoryLog, NODE, RATE, checkpoint, draft, draft_of, key, ns_of, settings};
use super::*;

pub(crate) fn replay(log: &MemoryLog, settings: &ReplaySettings) -> ReplayReport {
    let mut replay = Replay::new(log, settings, None).unwrap();
    replay.run(|_, _| true).unwrap().expect("nothing pauses it")
}

/// Returns kind, place and rule of each fault.
pub(super) fn named(report: &ReplayReport) -> Vec<(FaultKind, u64, Option<u8>)> {
    let all = report.all_faults();
    let faults: Vec<_> = all.kept().iter().map(|it| (it.kind, it.sequence_id.0, it.rule)).collect();
    assert_eq!(all.count(), faults.len() as u64);
    faults
}

#[test]
fn a_clean_log_is_clean_whatever_the_number_of_threads() {
    let log = MemoryLog::honest(1_300);
    let text = |threads| {
        let report = replay(&log, &ReplaySettings { threads, ..settings() });
        assert_eq!(named(&report), []);
        let strand = &report.strands[0];
        assert_eq!((strand.reached.0, strand.tree_size), (1_300, 1_300));
        assert_eq!(strand.root, log.root.to_string());
        assert_eq!(strand.figures.checkpoints[&NODE], 130);
        assert_eq!(strand.figures.cosigners[&OriginatorId(200)], 130);
        assert_eq!(strand.figures.payers.len(), 2);
        let booked: u64 = strand.figures.payers.values().map(|it| it.picodollars.0).sum();
        assert_eq!(booked, log.usage.values().map(|it| it.picodollars.0).sum::<u64>());
        assert!(strand.figures.days.values().all(|day| day.lag_ns_max == 1_000_000));
        serde_json::to_string(&report).unwrap()
    };
    let [one, two, eight] = [1, 2, 8].map(text);
    assert_eq!(one, two);
    assert_eq!(one, eight);
}

#[test]
fn every_planted_fault_is_named_and_nothing_else() {
    let honest = MemoryLog::honest(500);
    for (name, plant, expected) in PLANTED {
        let mut log = honest.clone();
        plant(&mut log);
        let found = named(&replay(&log, &settings()));
        // The last place of a payer's minute depends on who paid: the tally names it.
        let found: Vec<_> = found
            .into_iter()
            .map(|(kind, place, rule)| match kind {
                FaultKind::Usage if *name == "a tally that is a picodollar short" => {
                    (kind, 1, rule)
                }
                _ => (kind, place, rule),
            })
            .collect();
        assert_eq!(found, *expected, "{name}");
    }
    // All at once: each of those that do not replace the whole log is still named.
    let mut log = honest.clone();
    let is_alone =
        |name: &&PlantedFault| !["a place without a row", "another root"].contains(&name.0);
    let mut expected = Vec::new();
    for (_, plant, faults) in
        PLANTED.iter().filter(is_alone).filter(|it| it.2[0].0 != FaultKind::Fee)
    {
        if matches!(
            faults[0].0,
            FaultKind::Forged
                | FaultKind::NotCanonical
                | FaultKind::WrongPlace
                | FaultKind::BeyondHead
                | FaultKind::Congestion
                | FaultKind::Cosignature
        ) {
            plant(&mut log);
            expected.extend(faults.iter().map(|fault| fault.0));
        }
    }
    let mut found: Vec<_> = named(&replay(&log, &settings())).iter().map(|it| it.0).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_node_that_does_not_show_its_whole_log_is_not_clean() {
    fn verdict(change: fn(&mut MemoryLog), now_ns: i64) -> &'static str {
        let mut log = MemoryLog::honest(50);
        log.is_node = true;
        (1..=50).for_each(|at| *log.row_at(at).0 = StoredMark::Unknown);
        change(&mut log);
        let report = replay(&log, &ReplaySettings { now_ns, ..settings() });
        assert_eq!(named(&report), []);
        report.verdict()
    }
    let now_ns = settings().now_ns;
    assert_eq!(verdict(|_| (), now_ns), "clean");
    // No strand at all.
    let nothing = |log: &mut MemoryLog| (log.head, log.last_held) = (0, 0);
    assert_eq!(verdict(nothing, now_ns), "incomplete");
    // None of its places, not the last ones, or not one in between.
    assert_eq!(verdict(|log| log.rows.clear(), now_ns), "incomplete");
    assert_eq!(verdict(|log| log.rows.truncate(45), now_ns), "incomplete");
    assert_eq!(verdict(|log| drop(log.rows.remove(20)), now_ns), "incomplete");
    // A head that is lower than what the node has signed, unless that was signed after the replay began.
    let lower = |log: &mut MemoryLog| (log.head, log.last_held) = (45, 45);
    assert_eq!(verdict(lower, now_ns), "incomplete");
    assert_eq!(verdict(lower, ns_of(50)), "clean");
    // A checkpoint of another key proves no places.
    let forged = |log: &mut MemoryLog| {
        (log.head, log.last_held) = (45, 45);
        let of = log.checkpoints[4].signed.checkpoint;
        log.checkpoints[4].signed = of.sign(&key(5));
    };
    assert_eq!(verdict(forged, now_ns), "clean");
}

#[test]
fn a_verdict_names_the_checkpoints_that_no_tree_was_compared_with() {
    let unchecked = |log: &MemoryLog| {
        let report = replay(log, &settings());
        assert_eq!(named(&report), []);
        (report.unchecked.join("; "), report.strands[0].figures.checkpoints[&NODE])
    };
    assert_eq!(unchecked(&MemoryLog::honest(50)), (String::new(), 5));
    // The keeper calls a place missing: the checkpoints of more places could be of any log.
    let mut log = MemoryLog::honest(50);
    let (from, through, reason) = (SequenceId(26), SequenceId(26), GapReason::Missing);
    log.rows[25] = StrandRow::Gap { from, through, reason };
    log.has_tallies = false;
    log.checkpoints[3] = checkpoint(40, TreeHash([4; 32]));
    let (text, compared) = unchecked(&log);
    assert_eq!(compared, 2);
    assert!(text.contains("strand 100: the tree behind place 25"), "{text}");
    assert!(text.contains("place 26 has no leaf"), "{text}");
    // A node whose newest checkpoint is of more places than its stated head: the one before is compared.
    let mut log = MemoryLog::honest(50);
    log.is_node = true;
    (1..=50).for_each(|at| *log.row_at(at).0 = StoredMark::Unknown);
    (log.head, log.last_held) = (45, 45);
    let (text, compared) = unchecked(&log);
    assert_eq!(compared, 1);
    assert!(text.contains("strand 100: checkpoints of more than 45 places, of 1 nodes"), "{text}");
    log.checkpoints[3] = checkpoint(40, TreeHash([4; 32]));
    assert_eq!(named(&replay(&log, &settings())), [(FaultKind::CheckpointRoot, 40, None)]);
}

#[test]
fn rates_that_begin_after_the_log_are_no_fault_and_a_state_file_outlives_them() {
    let start = |sequence| ns_of(sequence).unsigned_abs() / 1_000_000_000;
    let rate_from = |sequence| Rate { start_unix_s: start(sequence), ..RATE };
    let given = |rates: &[Rate]| {
        let rates = RateTable::new(rates.to_vec(), None).ok();
        ReplaySettings { rates, ..settings() }
    };
    let log = MemoryLog::honest(50);
    let report = replay(&log, &given(&[RATE, rate_from(200)]));
    assert_eq!((named(&report), report.verdict()), (vec![], "clean"));
    let text = report.unchecked.join("; ");
    assert!(text.contains("the last 1 of the given rates"), "{text}");
    for (rates, text) in [
        (vec![RATE, rate_from(50)], "was given, and is not recorded"),
        (vec![RATE, rate_from(20), rate_from(200)], "was given, and is not recorded"),
        (vec![Rate { start_unix_s: 4, ..RATE }, RATE], "was given, and is not recorded"),
        (vec![rate_from(200)], "is recorded, and was not given"),
    ] {
        let report = replay(&log, &given(&rates));
        assert_eq!(named(&report), [(FaultKind::Rates, 0, None)], "{rates:?}");
        assert!(report.faults.kept()[0].text.contains(text), "{report:?}");
    }

    // The chain gets a rate, the keeper records it, and the log goes on.
    let before = settings();
    let mut first = Replay::new(&log, &before, None).unwrap();
    first.run(|_, _| true).unwrap();
    let state = ReplayState::parse(&first.state().to_text().unwrap()).unwrap();
    let mut grown = MemoryLog::honest(60);
    grown.rates.push(rate_from(200));
    let later = given(&grown.rates);
    let mut then = Replay::new(&grown, &later, Some(state.clone())).unwrap();
    let mut reached = Vec::new();
    let report = then.run(|_, progress| {
        reached.push(progress.reached.0);
        true
    });
    assert_eq!(report.unwrap().unwrap().verdict(), "clean");
    assert_eq!(reached, [60], "it went on behind place 50");
    // A rate that was in force where the state says that all is checked.
    grown.rates[1] = rate_from(50);
    let early = given(&grown.rates);
    let refused = Replay::new(&grown, &early, Some(state));
    assert!(matches!(refused, Err(ReplayStateError::OtherRates)));
}

/// The keeper has read a rate that came to the chain after the auditor's file was made.
#[test]
fn a_list_that_may_be_old_accuses_no_keeper_of_a_newer_rate() {
    let mut log = MemoryLog::honest(50);
    let start_unix_s = ns_of(20).unsigned_abs() / 1_000_000_000;
    log.rates.push(Rate { start_unix_s, ..RATE });
    let by = |confirmed_ns| {
        let rates = RateTable::new(vec![RATE], confirmed_ns).ok();
        replay(&log, &ReplaySettings { rates, ..settings() })
    };
    let report = by(Some(ns_of(1)));
    assert_eq!((named(&report), report.verdict()), (vec![], "clean"));
    let text = report.unchecked.join("; ");
    assert!(text.contains("the last 1 recorded rates") && text.contains("may lack one"), "{text}");
    assert_eq!(named(&by(None)), [(FaultKind::Rates, 0, None)]);
}

/// A keeper that is behind lacks the newest rate, which honest nodes apply.
#[test]
fn recorded_rates_accuse_no_signer_after_the_newest_one_has_begun() {
    let mut log = MemoryLog::honest(50);
    let mut other = draft(30, ns_of(30));
    other.statement.base_fee_picodollars += 1;
    sign_at(&mut log, 30, StoredMark::Valid, &other);
    let report = |log: &MemoryLog| replay(log, &ReplaySettings { rates: None, ..settings() });
    let behind = report(&log);
    assert_eq!((named(&behind), behind.verdict()), (vec![], "clean"));
    let text = behind.unchecked.join("; ");
    assert!(text.contains("may lack one"), "{text}");
    // The keeper notes up to which time it has all.
    log.rates_until_ns = Some(ns_of(30));
    assert_eq!(named(&report(&log)), [(FaultKind::FeeByRecord, 30, None)]);
    log.rates_until_ns = Some(ns_of(30) - 1);
    assert!(named(&report(&log)).is_empty());
    let start_unix_s = ns_of(30).unsigned_abs() / 1_000_000_000 + 301;
    log.rates.push(Rate { start_unix_s, ..RATE });
    assert_eq!(named(&report(&log)), [(FaultKind::FeeByRecord, 30, None)]);
}

/// Returns the places whose fees are faults.
fn wrong_fees(log: &MemoryLog, rates: RateTable) -> Vec<u64> {
    let faults = replay(log, &ReplaySettings { rates: Some(rates), ..settings() }).all_faults();
    let fees = faults.kept().iter().filter(|it| it.kind == FaultKind::Fee);
    fees.map(|it| it.sequence_id.0).collect()
}

#[test]
fn a_congestion_fee_is_a_fault_if_all_envelopes_before_it_are_known_and_too_few() {
    let rate = Rate { congestion_fee: PicoDollarPrice(11), target_rate_per_minute: 100, ..RATE };
    let found = |log: &MemoryLog| {
        let log = MemoryLog { rates: vec![rate], ..log.clone() };
        wrong_fees(&log, RateTable::new(vec![rate], None).unwrap())
    };
    let mut log = MemoryLog::honest(200);
    assert!(found(&log).is_empty());
    for at in [60, 150] {
        let mut expensive = draft(at, ns_of(at));
        expensive.statement.congestion_fee_picodollars = 11;
        sign_at(&mut log, at, StoredMark::Valid, &expensive);
    }
    assert_eq!(found(&log), [60, 150]);
    let busy = Rate { target_rate_per_minute: 1, ..rate };
    let allowed = RateTable::new(vec![busy], None).unwrap();
    assert!(wrong_fees(&log, allowed).is_empty(), "eight in a minute give more than that");
    // Places that are not known may have counted for those of the next five minutes.
    let mut other = log.clone();
    let (from, through) = (SequenceId(50), SequenceId(50));
    other.rows[49] = StrandRow::Gap { from, through, reason: GapReason::Missing };
    assert_eq!(found(&other), [150]);
    let mut other = log.clone();
    other.prune(149).counts_for_congestion = false;
    assert_eq!(found(&other), [60], "the keeper's record of a pruned place accuses no signer");
}

/// A rate may come to the chain after its start, and an honest node applies the one before it until then.
#[test]
fn a_fee_by_a_former_rate_is_no_fault() {
    let log = MemoryLog::honest(20);
    let newer =
        Rate { start_unix_s: RATE.start_unix_s + 1, message_fee: PicoDollarPrice(2_000), ..RATE };
    let found = |rates: &[Rate]| wrong_fees(&log, RateTable::new(rates.to_vec(), None).unwrap());
    assert!(found(&[RATE, newer]).is_empty());
    assert_eq!(found(&[newer]).len(), 20, "no rate gives them");
}

#[test]
fn a_fee_on_a_free_topic_is_a_fault_whatever_the_rates_are() {
    let report = Payload::PayerReport(pb::PayerReport::default());
    let mut free = draft_of(5, &[4, 7], report, &[], 30);
    let paid = pb::PayerEnvelope::decode(free.statement.payer_envelope_bytes.clone()).unwrap();
    // A node pays for its reports itself.
    let paid = PayerEnvelope::sign(paid.unsigned_client_envelope, NODE, 30, &key(1));
    free.statement.payer_envelope_bytes = paid.encode_to_vec().into();
    free.statement.base_fee_picodollars = 0;
    let unconfirmed = || RateTable::new(vec![RATE], Some(ns_of(1))).unwrap();
    for (fee, expected) in [(0, &[][..]), (1, &[5][..])] {
        free.statement.congestion_fee_picodollars = fee;
        let mut log = MemoryLog::honest(20);
        sign_at(&mut log, 5, StoredMark::Valid, &free);
        assert_eq!(wrong_fees(&log, unconfirmed()), expected);
    }
}

#[test]
fn an_absent_node_and_an_unknown_one_are_named() {
    let log = MemoryLog::honest(30);
    let away = Absence { from_s: ns_of(10).unsigned_abs() / 1_000_000_000, until_s: None };
    let mut absent = settings();
    let absences = Absences::new(vec![away]).unwrap();
    absent.registry = absent.registry.with_absences([(NODE, absences)]);
    let found = named(&replay(&log, &absent));
    assert!(found.contains(&(FaultKind::WrongMark, 11, None)), "{found:?}");
    assert!(found.iter().all(|(_, place, _)| *place == 0 || *place > 10), "{found:?}");
    let mut unknown = settings();
    unknown.registry = Registry::default();
    assert_eq!(named(&replay(&log, &unknown)), [(FaultKind::UnknownOriginator, 0, None)]);
}

#[test]
fn a_void_range_has_leaves_and_other_gaps_end_the_tree() {
    let mut log = MemoryLog::honest(50);
    let (mut rows, mut tree) = (Vec::new(), CompactRange::default());
    let void = leaf_hash(LeafData::Void);
    log.rows.drain(19..29);
    for row in &log.rows {
        let StrandRow::Envelope { sequence, leaf: Some(leaf), .. } = row else { panic!("none") };
        if *sequence == SequenceId(30) {
            let (from, through) = (SequenceId(20), SequenceId(29));
            rows.push(StrandRow::Gap { from, through, reason: GapReason::Void });
            for at in 20..30 {
                tree.append(void, |_, _| {});
                rows.push(StrandRow::Leaf { sequence: SequenceId(at), leaf: void });
            }
        }
        tree.append(*leaf, |_, _| {});
        rows.push(row.clone());
    }
    (log.rows, log.root) = (rows, tree.root());
    log.checkpoints.truncate(1);
    let report = replay(&log, &settings());
    let strand = &report.strands[0];
    let absent = Gap { from: SequenceId(20), through: SequenceId(29), reason: GapReason::Void };
    assert_eq!((strand.tree_size, &strand.figures.gaps[..]), (50, &[absent][..]));
    let is_of_tallies = |kind: &FaultKind| matches!(kind, FaultKind::Usage | FaultKind::Congestion);
    let others: Vec<_> = named(&report).into_iter().filter(|it| !is_of_tallies(&it.0)).collect();
    assert_eq!(others, [(FaultKind::WrongMark, 20, None)], "no place of a node is void");

    // A wrong leaf of a void place is reported.
    let mut other = log.clone();
    other.rows[22] = StrandRow::Leaf { sequence: SequenceId(22), leaf: TreeHash([1; 32]) };
    let found = named(&replay(&other, &settings()));
    assert!(found.contains(&(FaultKind::Leaf, 22, None)), "{found:?}");
}

#[test]
fn a_place_that_is_called_pruned_and_cannot_be_is_a_fault_of_its_keeper() {
    let mut log = MemoryLog::honest(50);
    for at in 5..=9 {
        log.prune(at);
    }
    let found =
        |log: &MemoryLog, now_ns| named(&replay(log, &ReplaySettings { now_ns, ..settings() }));
    assert_eq!(found(&log, settings().now_ns), []);
    // Thirty days after the last one, give or take ten minutes.
    let expiry_ns = ns_of(9) + 30 * 86_400 * 1_000_000_000;
    assert_eq!(found(&log, expiry_ns - 600_000_000_000), []);
    let fault = |at| (FaultKind::NotExpired, at, None);
    assert_eq!(found(&log, expiry_ns - 601_000_000_000), [fault(9)]);
    assert_eq!(found(&log, ns_of(60)), [5, 6, 7, 8, 9].map(fault));
    assert_eq!(FaultKind::NotExpired.party(), "keeper");
    // A false time or retention in a record is noticed unless it makes the envelope expire early.
    let now_ns = settings().now_ns;
    let mut lie = log.clone();
    lie.prune(20).originator_ns = now_ns;
    assert!(found(&lie, now_ns).contains(&fault(20)));
    let mut lie = log.clone();
    lie.prune(20).charge.as_mut().unwrap().retention_days = u32::MAX;
    assert!(found(&lie, now_ns).contains(&fault(20)));
    // A node keeps the last envelope of a strand, and all of a chain's.
    log.prune(50);
    assert_eq!(found(&log, now_ns), [fault(50)]);
    let of_chain = hawser_proto::EnvelopeId::new(OriginatorId(1), SequenceId(3));
    assert!(super::judge::not_expired(of_chain, Some(0), None, i64::MAX).is_some());
}

#[test]
fn many_faults_are_counted_and_the_first_are_kept() {
    let mut log = MemoryLog::honest(300);
    for at in 1..=300 {
        *log.bytes_at(at) = Bytes::from_static(b"noise");
    }
    let report = replay(&log, &settings());
    let faults = &report.strands[0].faults;
    assert_eq!(faults.counts()[&FaultKind::NotCanonical], 300);
    let kept = faults.kept().iter().filter(|it| it.kind == FaultKind::NotCanonical);
    assert_eq!(kept.count(), 100);
}

#[test]
fn a_replay_goes_on_where_it_paused_and_refuses_the_state_of_another_log() {
    let mut log = MemoryLog::honest(2_500);
    flip_signature(&mut log);
    let settings = settings();
    let whole = serde_json::to_string(&replay(&log, &settings)).unwrap();
    let mut state = None;
    let mut runs = 0;
    let report = loop {
        let mut replay = Replay::new(&log, &settings, state).unwrap();
        runs += 1;
        if let Some(report) = replay.run(|_, _| false).unwrap() {
            break report;
        }
        let text = replay.state().to_text().unwrap();
        state = Some(ReplayState::parse(&text).unwrap());
    };
    assert!(runs > 3, "{runs} runs");
    assert_eq!(serde_json::to_string(&report).unwrap(), whole);

    // A log that has grown is checked from there on.
    let mut short = log.clone();
    (short.head, short.last_held) = (1_000, 1_000);
    let mut first = Replay::new(&short, &settings, None).unwrap();
    first.run(|_, _| true).unwrap();
    let state = first.state().clone();
    let mut then = Replay::new(&log, &settings, Some(state.clone())).unwrap();
    let mut looked_at = Vec::new();
    let report = then.run(|_, progress| {
        looked_at.push(progress.reached.0);
        true
    });
    assert_eq!(serde_json::to_string(&report.unwrap().unwrap()).unwrap(), whole);
    assert!(looked_at.iter().all(|at| *at > 1_000), "{looked_at:?}");

    let text = state.to_text().unwrap();
    let other = ReplayState::parse(&text.replace("testnet", "mainnet")).unwrap();
    let refused = Replay::new(&log, &settings, Some(other));
    assert!(matches!(refused, Err(ReplayStateError::OtherLog { .. })));
    let mut other_keys = settings.clone();
    other_keys.rates = None;
    let refused = Replay::new(&log, &other_keys, Some(state.clone()));
    assert!(matches!(refused, Err(ReplayStateError::OtherRates)));
    let mut fewer = settings.clone();
    fewer.registry = settings.registry.nodes().take(1).cloned().collect();
    let refused = Replay::new(&log, &fewer, Some(state)).err().unwrap().to_string();
    assert!(refused.contains("(node 200 is not given now)"), "{refused}");
    assert!(matches!(ReplayState::parse("{}"), Err(ReplayStateError::Json(_))));
}

#[test]
fn a_state_of_another_version_is_called_that_whatever_fields_it_has() {
    let (_, text) = replayed();
    for (schema, by) in [
        ("hawser-replay/1", "an earlier version"),
        ("hawser-replay/2", "an earlier version"),
        ("hawser-replay/5", "a later version"),
        ("replay", "another program"),
    ] {
        let whole = text.replace("hawser-replay/4", schema);
        for text in [whole, format!(r#"{{"schema":"{schema}","places":[]}}"#)] {
            let refused = ReplayState::parse(&text).unwrap_err().to_string();
            assert!(refused.contains(&format!("written by {by}")), "{refused}");
            assert!(!refused.contains("damaged"), "{refused}");
        }
    }
    // The one before, whose amounts are numbers, is read, and written as this one.
    let earlier = text.replace("hawser-replay/4", "hawser-replay/3");
    let numbers = earlier.replace(r#""picodollars":"0""#, r#""picodollars":0"#);
    assert_ne!(numbers, earlier);
    let written = ReplayState::parse(&numbers).unwrap().to_text().unwrap();
    assert_eq!(written, ReplayState::parse(&text).unwrap().to_text().unwrap());
    assert!(written.contains("hawser-replay/4"));
    let cut = ReplayState::parse(&text[..text.len() / 2]).unwrap_err().to_string();
    assert!(cut.contains("no state file, or a damaged one"), "{cut}");
}

#[test]
fn a_damaged_state_file_is_refused_and_never_ends_the_program() {
    let (_, text) = replayed();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert!(ReplayState::parse(&state.to_string()).is_ok());
    let strand = "/strands/100";
    let refusal_of = |path: &str, value: Value| {
        let mut damaged = state.clone();
        *damaged.pointer_mut(&format!("{strand}{path}")).expect(path) = value;
        let error = ReplayState::parse(&damaged.to_string()).unwrap_err().to_string();
        assert!(error.contains("delete it and replay from the beginning"), "{error}");
        error
    };
    for next in [0, (1 << 63) + 1, u64::MAX] {
        let error = refusal_of("/next", next.into());
        assert!(error.contains("strand 100: no strand has its next place"), "{error}");
    }
    let minute = minute_of(ns_of(300));
    let usage = json!([[[minute, vec![0; 20]], usage_of(u64::MAX)]]);
    for (path, value) in [
        ("/originator_id", json!(200)),
        ("/next", json!(299)), // the tree has more leaves
        ("/foreign", json!(u64::MAX)),
        ("/void", json!([5, 4])),
        ("/void", json!([5, 301])),
        ("/tree/0/size", json!(301)),
        ("/tree/1", json!({ "size": 0, "peaks": [] })),
        ("/tallies/counts", json!([[minute, u64::MAX]])),
        ("/tallies/open_counts", json!([[minute, u64::MAX]])),
        ("/tallies/open", usage),
        ("/tallies/compared", json!(u32::MAX)),
        ("/tallies/unknown", json!([[5, 4]])),
        ("/faults/kept", json!([])),
        ("/faults/counts/not_canonical", json!(u64::MAX)),
        ("/faults/counts/not_canonical", json!(0)),
        ("/figures/envelopes", json!(u64::MAX)),
        ("/figures/invalid", json!(301)),
        ("/figures/days", json!({ "106752": {"envelopes": 1, "bytes": 1, "lag_ns_max": 0} })),
        ("/figures/days", json!({ "5": {"envelopes": 301, "bytes": 1, "lag_ns_max": 0} })),
        (
            "/figures/payers",
            json!({ "<b>": {"messages": 1, "picodollars": 1, "stated_picodollars": 1} }),
        ),
        ("/figures/other_payers/messages", json!(u64::MAX)),
        ("/figures/gaps", json!([{ "from": 1, "through": u64::MAX, "reason": "void" }])),
        ("/figures/gaps", json!([{ "from": 0, "through": 1, "reason": "void" }])),
        ("/figures/absent", json!({ "void": u64::MAX })),
    ] {
        refusal_of(path, value);
    }
}

/// Returns a log with a fault, and the text of the state of its replay.
fn replayed() -> (MemoryLog, String) {
    let mut log = MemoryLog::honest(300);
    *log.bytes_at(7) = Bytes::from_static(b"noise");
    let settings = settings();
    let mut replay = Replay::new(&log, &settings, None).unwrap();
    replay.run(|_, _| true).unwrap();
    let text = replay.state().to_text().unwrap();
    (log, text)
}

#[test]
fn a_state_is_gone_on_with_or_refused_whatever_its_numbers_are() {
    let ((log, text), settings) = (replayed(), settings());
    let state: Value = serde_json::from_str(&text).unwrap();
    // A state that has reached a place which the log has not: the log would pass for clean unseen.
    let mut short = log.clone();
    short.rows.truncate(200);
    (short.head, short.last_held) = (200, 200);
    let mut refused = Replay::new(&short, &settings, ReplayState::parse(&text).ok()).unwrap();
    let error = refused.run(|_, _| true).unwrap_err().to_string();
    assert!(error.contains("ends at 200, and the state file has reached 300"), "{error}");

    // Every number of the file, one after another, with values at the ends of its type: the state is refused, or the
    // replay continues.
    let mut grown = log.clone();
    grown.rows.push(MemoryLog::honest(301).rows[300].clone());
    (grown.head, grown.last_held) = (301, 301);
    let mut gone_on = 0;
    for path in numbers_of(&state, String::new()) {
        for value in
            [json!(0), json!(1), json!(u32::MAX), json!(i64::MAX), json!(i64::MIN), json!(u64::MAX)]
        {
            let mut damaged = state.clone();
            *damaged.pointer_mut(&path).unwrap() = value;
            let Ok(state) = ReplayState::parse(&damaged.to_string()) else { continue };
            for log in [&log, &grown] {
                let state = Some(state.clone());
                if let Ok(mut replay) = Replay::new(log, &settings, state) {
                    gone_on += u32::from(replay.run(|_, _| true).is_ok());
                }
            }
        }
    }
    assert!(gone_on > 100, "{gone_on} states were gone on with");
}

fn usage_of(messages: u64) -> Value {
    let usage = Usage { messages, last_sequence: SequenceId(1), ..Usage::default() };
    serde_json::to_value(usage).unwrap()
}

/// Returns the places of all numbers in a value, in lists those of the first three items.
fn numbers_of(value: &Value, path: String) -> Vec<String> {
    match value {
        Value::Number(_) => vec![path],
        Value::Array(items) => {
            let items = items.iter().take(3).enumerate();
            items.flat_map(|(at, item)| numbers_of(item, format!("{path}/{at}"))).collect()
        }
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| numbers_of(field, format!("{path}/{name}")))
            .collect(),
        _ => Vec::new(),
    }
}
