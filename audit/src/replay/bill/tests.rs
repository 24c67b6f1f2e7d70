//! Bills of honest logs, and of logs and reports that lie.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_rules::NodeRecord;
use hawser_rules::payer_report::Leaves;

use super::super::item::{GapReason, StoredMark};
use super::super::odd_tests::logs;
use super::super::planted::sign_at;
use super::super::testing::{Draft, MemoryLog, NODE, RATE, draft, draft_for, key, ns_of};
use super::*;

fn settings(payer: u8) -> BillSettings {
    let record = NodeRecord {
        id: NODE,
        public_key: key(1).public_key(),
        owner: key(1).public_key().address(),
        http_address: Some("http://127.0.0.1:5050".into()),
        quic_address: None,
        canonical: true,
    };
    BillSettings {
        payer: key(payer).public_key().address(),
        registry: [record].into_iter().collect(),
        migration_key: None,
        rates: RateTable::new(vec![RATE], None).unwrap(),
        threads: 2,
    }
}

/// The reports that honest nodes make of a log: one that ends with the minute of this envelope, and so on.
fn reports(log: &MemoryLog, ends: &[u64]) -> Vec<BilledReport> {
    let mut start = SequenceId::NONE;
    let mut after = None;
    let report = |(index, at): (usize, &u64)| {
        let end_minute = hawser_proto::minute_of(ns_of(*at));
        let in_range =
            |minute: u32| after.is_none_or(|after| minute > after) && minute <= end_minute;
        let usage = log.usage.iter().filter(|((minute, _), _)| in_range(*minute));
        let sums: Vec<_> = usage.map(|((_, payer), row)| (*payer, *row)).collect();
        let end = sums.iter().map(|(_, row)| row.last_sequence).max().unwrap();
        let root = sums.iter().map(|(payer, row)| (*payer, row.picodollars));
        let root = Leaves::sum(root).root();
        let index = index as u64;
        let report = BilledReport { index, start, end, end_minute, root, is_settled: index == 0 };
        (start, after) = (end, Some(end_minute));
        report
    };
    ends.iter().enumerate().map(report).collect()
}

fn bill(
    log: &MemoryLog,
    head: EnvelopeId,
    reports: &[BilledReport],
    settings: &BillSettings,
) -> Result<StrandBill, SourceError> {
    super::bill(log, head, reports, settings, |_| {})
}

fn head(log: &MemoryLog) -> EnvelopeId {
    EnvelopeId::new(NODE, SequenceId(log.head))
}

#[test]
fn an_honest_bill_is_proven_for_each_payer() {
    let log = MemoryLog::honest(200);
    let reports = reports(&log, &[60, 120]);
    for payer in [8, 9] {
        let settings = settings(payer);
        let bill = bill(&log, head(&log), &reports, &settings).unwrap();
        assert_eq!((bill.faults.count(), bill.not_shown, bill.parts.len()), (0, 0, 2));
        assert!(bill.parts.iter().all(|part| part.verdict == BillVerdict::Proven), "{bill:?}");
        assert_eq!([bill.parts[0].is_settled, bill.parts[1].is_settled], [true, false]);
        let parts: u64 = bill.parts.iter().map(|part| part.picodollars.0).sum();
        assert!(bill.unreported_picodollars.0 > 0 && bill.parts[1].picodollars.0 > 0);
        assert_eq!(parts + bill.unreported_picodollars.0, bill.stated_picodollars.0);
        let part = &bill.parts[0];
        assert_eq!(part.microdollars.0, part.picodollars.0.div_ceil(1_000_000));
    }
    let stranger = bill(&log, head(&log), &reports, &settings(7)).unwrap();
    assert_eq!((stranger.envelopes, stranger.parts[0].picodollars.0), (0, 0));
    assert_eq!(stranger.parts[0].verdict, BillVerdict::Proven, "a payer of nothing has no leaf");
}

/// Long strands take hours.
#[test]
fn a_bill_tells_the_places_that_it_has_reached() {
    let (log, mut told) = (MemoryLog::honest(600), Vec::new());
    let found = super::bill(&log, head(&log), &[], &settings(8), |place| told.push(place)).unwrap();
    assert_eq!(found.faults.count(), 0);
    assert!(told.len() > 1 && told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&SequenceId(600)));
}

/// An originator dates an envelope back so that an honest report about it looks false. No payer pays for the
/// envelope.
#[test]
fn an_envelope_behind_the_end_of_its_report_refutes_no_report() {
    let with = |at: u64, dated: u64| {
        let envelope =
            |of| (draft(of, ns_of(if of == at { dated } else { of })).seal(), StoredMark::Valid);
        MemoryLog::of((1..=100).map(envelope).collect())
    };
    let honest = MemoryLog::honest(100);
    let on_chain = reports(&honest, &[60]);
    let end = on_chain[0].end;
    let log = with(end.0 + 1, end.0);
    let found = bill(&log, head(&log), &on_chain, &settings(8)).unwrap();
    assert_eq!(found.parts[0].verdict, BillVerdict::Proven, "{found:?}");
    assert!(found.faults.kept().iter().any(|it| it.kind == FaultKind::InNoReport), "{found:?}");
    // Other software may count it.
    let counted = reports(&log, &[60])[0];
    let of_other = [BilledReport { end, ..counted }];
    let found = bill(&log, head(&log), &of_other, &settings(8)).unwrap();
    assert_eq!((found.parts[0].verdict, found.faults.count()), (BillVerdict::Proven, 0));
}

/// Readers do not get the envelope, and its payer owes for it.
#[test]
fn a_bill_has_what_is_marked_and_owed_and_nothing_else_that_is_marked() {
    let honest = MemoryLog::honest(50);
    let at = |sequence, mark, change: fn(&mut Draft)| {
        let (mut log, mut changed) = (honest.clone(), draft(sequence, ns_of(sequence)));
        change(&mut changed);
        sign_at(&mut log, sequence, mark, &changed);
        log
    };
    let envelopes = |log: &MemoryLog| {
        let bill = bill(log, head(log), &reports(log, &[30]), &settings(9)).unwrap();
        let parts: Vec<_> = bill.parts.iter().map(|part| part.verdict).collect();
        assert_eq!(parts, [BillVerdict::Proven], "the report of an honest node");
        bill.envelopes
    };
    let expected = envelopes(&honest);
    // Place 5 is of payer 9.
    let late = at(5, StoredMark::Invalid(9), |it| it.statement.expiry_unixtime += 601);
    assert_eq!(envelopes(&late), expected);
    let unpaid = at(5, StoredMark::Invalid(1), |it| {
        it.statement.payer_envelope_bytes = vec![0xff; 8].into();
    });
    assert_eq!(envelopes(&unpaid), expected - 1);
}

/// The root is that of a log in which the same envelopes decode.
#[test]
fn a_bill_has_what_only_other_software_decodes() {
    let [expected, found] = logs().map(|log| {
        bill(&log, head(&log), &reports(&log, &[30]), &settings(9)).expect("the log can be read")
    });
    for bill in [&expected, &found] {
        let verdicts: Vec<_> = bill.parts.iter().map(|part| part.verdict).collect();
        assert_eq!(verdicts, [BillVerdict::Proven], "the report of an honest node");
    }
    assert_eq!(found.envelopes, expected.envelopes);
    assert_eq!(found.stated_picodollars, expected.stated_picodollars);
}

/// The log in which the node has charged the payer envelope of place 3 again at each of these.
fn with_repeats(places: &[u64]) -> MemoryLog {
    let envelope = |at: u64| {
        let topic = [1, if places.contains(&at) { 3 } else { u8::try_from(at).unwrap() }];
        let mut draft = draft_for(at, ns_of(at), NODE, &topic);
        if places.contains(&at) {
            // The payer of place 3 pays again.
            draft.statement.payer_envelope_bytes =
                draft_for(3, ns_of(3), NODE, &topic).statement.payer_envelope_bytes;
        }
        (draft.seal(), StoredMark::Valid)
    };
    MemoryLog::of((1..=50).map(envelope).collect())
}

#[test]
fn a_payer_envelope_that_was_charged_again_is_listed_with_its_place_and_its_price() {
    let bill_of = |log: &MemoryLog, payer| bill(log, head(log), &[], &settings(payer)).unwrap();
    let honest = bill_of(&with_repeats(&[]), 8);
    assert_eq!(honest.charged_again, RepeatedCharges::default());
    let log = with_repeats(&[7, 40]);
    let found = bill_of(&log, 8);
    assert_eq!(found.faults.count(), 0, "the log says truly what the node did: {found:?}");
    let again = &found.charged_again;
    let places: Vec<_> = again.kept.iter().map(|it| (it.first.0, it.again.0)).collect();
    assert_eq!(places, [(3, 7), (3, 40)]);
    let price = again.kept[0].picodollars.0;
    assert!(price > 0 && again.picodollars.0 == 2 * price, "{again:?}");
    assert_eq!(found.envelopes, honest.envelopes + 2, "both were charged");
    assert_eq!(bill_of(&log, 9).charged_again.count, 0, "another payer has none");
}

#[test]
fn a_report_of_other_amounts_is_refuted_and_one_of_hidden_places_is_not_proven() {
    let log = MemoryLog::honest(200);
    let honest = reports(&log, &[60, 120]);
    let mut lie = honest.clone();
    lie[1].root[0] ^= 1;
    let found = bill(&log, head(&log), &lie, &settings(8)).unwrap();
    let verdicts: Vec<_> = found.parts.iter().map(|part| part.verdict).collect();
    assert_eq!(verdicts, [BillVerdict::Proven, BillVerdict::OtherRoot]);

    let mut hiding = log.clone();
    hiding.rows.remove(99);
    let found = bill(&hiding, head(&hiding), &honest, &settings(8)).unwrap();
    let verdicts: Vec<_> = found.parts.iter().map(|part| part.verdict).collect();
    assert_eq!(verdicts, [BillVerdict::Proven, BillVerdict::NotShown]);
    assert_eq!(found.not_shown, 1);

    let mut short = log.clone();
    short.rows.truncate(100);
    short.head = 100;
    let found = bill(&short, head(&short), &honest, &settings(8)).unwrap();
    assert_eq!(found.parts[1].verdict, BillVerdict::NotShown);
    assert!(found.not_shown > 0);
}

/// An endpoint of the chain states ranges that no contract has: one that ends before its start, and ends at the last of
/// all numbers.
#[test]
fn impossible_ranges_of_reports_end_no_bill() {
    let log = MemoryLog::honest(50);
    let report = |index, start, end| BilledReport {
        index,
        start: SequenceId(start),
        end: SequenceId(end),
        end_minute: u32::MAX,
        root: [9; 32],
        is_settled: false,
    };
    let stated = [(u64::MAX - 1, 500), (0, u64::MAX), (0, u64::MAX)];
    let stated: Vec<_> =
        (0..).zip(stated).map(|(at, (start, end))| report(at, start, end)).collect();
    let found = bill(&log, head(&log), &stated, &settings(8)).unwrap();
    let verdicts: Vec<_> = found.parts.iter().map(|part| part.verdict).collect();
    assert_eq!((verdicts.len(), found.not_shown), (3, u64::MAX));
    assert!(!verdicts.contains(&BillVerdict::Proven), "{verdicts:?}");
}

/// A log of what was taken over from the older network: its key is in no registry.
fn taken_over() -> (OriginatorId, MemoryLog) {
    let strand = OriginatorId::MIGRATED[0];
    let envelope = |at: u64| {
        let mut draft = draft_for(at, ns_of(at), strand, &[1, 7]);
        draft.statement.originator_node_id = strand.0;
        (draft.seal(), StoredMark::Valid)
    };
    (strand, MemoryLog::of((1..=50).map(envelope).collect()))
}

#[test]
fn a_bill_says_which_signatures_of_the_older_network_could_not_be_verified() {
    let (strand, log) = taken_over();
    let head = EnvelopeId::new(strand, SequenceId(log.head));
    let reports = reports(&log, &[30]);
    let bill_by = |migration_key, log: &MemoryLog| {
        let settings = BillSettings { migration_key, ..settings(9) };
        bill(log, head, &reports, &settings).unwrap()
    };
    let without = bill_by(None, &log);
    assert_eq!(without.unverified, [UnverifiedPart::OriginatorSignatures, UnverifiedPart::Rules]);
    assert!(without.envelopes > 0, "the signatures of payers need no other key");
    assert_eq!(without.parts[0].verdict, BillVerdict::Proven, "by the root on the chain");
    let with = bill_by(Some(key(1).public_key()), &log);
    assert_eq!((with.unverified.len(), with.faults.count()), (0, 0));
    assert_eq!((with.envelopes, &with.parts), (without.envelopes, &without.parts));
    let other = bill_by(Some(key(2).public_key()), &log);
    assert_eq!((other.envelopes, other.not_shown), (0, 50), "another key signed them");
    assert_eq!(other.faults.count(), 50);
    // Nodes of the registry have theirs.
    let honest = MemoryLog::honest(20);
    let of_node = bill(&honest, self::head(&honest), &[], &settings(9)).unwrap();
    assert!(of_node.unverified.is_empty());
}

/// The writer of a report ends it within its last minute, so that an honest originator seems to have released late.
#[test]
fn a_report_that_ends_within_its_minute_holds_no_originator_accountable() {
    let log = MemoryLog::honest(100);
    let honest = reports(&log, &[60])[0];
    let early = reports(&MemoryLog::honest(honest.end.0 - 1), &[60]);
    assert_eq!(early[0].end_minute, honest.end_minute);
    let found = bill(&log, head(&log), &early, &settings(8)).unwrap();
    let kinds: Vec<_> = found.faults.kept().iter().map(|it| it.kind).collect();
    assert!(kinds.contains(&FaultKind::InNoReport), "{found:?}");
    assert!(!kinds.iter().any(|kind| kind.party() == "signer"), "{found:?}");
}

#[test]
fn a_forged_envelope_and_a_wrong_fee_are_named() {
    let mut log = MemoryLog::honest(50);
    let bytes = log.bytes_at(10);
    let parsed = OriginatorEnvelope::parse(bytes.clone()).unwrap();
    assert_eq!(parsed.id().sequence.0, 10);
    let mut forged = bytes.to_vec();
    let last = forged.len() - 5;
    forged[last] ^= 1;
    *bytes = forged.into();
    let other = BillSettings {
        rates: RateTable::new(
            vec![hawser_rules::Rate { message_fee: hawser_rules::PicoDollarPrice(9), ..RATE }],
            None,
        )
        .unwrap(),
        ..settings(9)
    };
    let found = bill(&log, head(&log), &[], &other).unwrap();
    assert_eq!(found.not_shown, 1, "what is forged is not counted");
    assert!(found.faults.count() > 1, "{:?}", found.faults);
    assert!(found.unreported_picodollars < found.stated_picodollars);
}

/// The contract takes any end minute from a majority, and nodes of other software attest any. It says nothing about the
/// amounts.
#[test]
fn a_wrong_end_minute_is_named_and_refutes_no_amounts() {
    let log = MemoryLog::honest(200);
    let honest = reports(&log, &[60, 120]);
    let expected = bill(&log, head(&log), &honest, &settings(8)).unwrap();
    assert!(expected.parts.iter().all(|part| !part.has_other_end_minute()), "{expected:?}");
    for stated in [0, honest[0].end_minute - 1, honest[0].end_minute + 1, u32::MAX] {
        for lying in [0, 1] {
            let mut on_chain = honest.clone();
            on_chain[lying].end_minute = stated;
            let found = bill(&log, head(&log), &on_chain, &settings(8)).unwrap();
            for (place, part) in found.parts.iter().enumerate() {
                assert_eq!(part.verdict, BillVerdict::Proven, "{stated}: {found:?}");
                assert_eq!(part.picodollars, expected.parts[place].picodollars);
                assert_eq!(part.log_end_minute, Some(honest[place].end_minute));
                assert_eq!(part.has_other_end_minute(), place == lying);
            }
            assert_eq!(found.faults.count(), 0, "{found:?}");
            assert_eq!(found.unreported_picodollars, expected.unreported_picodollars);
        }
    }
}

/// A false report does not become true because the chain states a minute that goes with its amounts.
#[test]
fn amounts_up_to_the_stated_minute_alone_are_refuted() {
    let log = MemoryLog::honest(200);
    let mut on_chain = reports(&log, &[60]);
    let longer = reports(&log, &[120]);
    on_chain[0].root = longer[0].root;
    on_chain[0].end_minute = longer[0].end_minute;
    let found = bill(&log, head(&log), &on_chain, &settings(8)).unwrap();
    assert_eq!(found.parts[0].verdict, BillVerdict::OtherRoot, "{found:?}");
    assert!(found.parts[0].has_other_end_minute());
}

/// The keeper of the log wants the true report of another node to look false.
#[test]
fn places_of_a_node_that_a_keeper_calls_void_refute_no_report() {
    let mut log = MemoryLog::honest(200);
    let reports = reports(&log, &[60, 120]);
    let (from, through, reason) = (SequenceId(30), SequenceId(31), GapReason::Void);
    log.rows[29] = StrandRow::Gap { from, through, reason };
    log.rows.remove(30);
    let bill = bill(&log, head(&log), &reports, &settings(8)).unwrap();
    assert_eq!((bill.not_shown, bill.parts[0].verdict), (2, BillVerdict::NotShown));
}
