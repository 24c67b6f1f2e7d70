//! Envelopes that only other software or a newer version decodes: a replay books them as all nodes do.

use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_rules::fees::base_fee;
use hawser_rules::{Absence, Absences};
use prost::Message as _;

use super::testing::{Draft, MemoryLog, NODE, RATE, draft, key, ns_of, settings};
use super::tests::{named, replay};
use super::*;

/// The first place with such an envelope.
const FIRST: u64 = 5;
const DAYS: u32 = 30;

/// Returns fields that xmtpd passes over or a newer version knows, and this program refuses. Beside each stands one of
/// the same length that all pass over, and its position: before (0) or behind (1) the fields of the client envelope, or
/// behind those of the payer envelope (2).
fn fields() -> Vec<(usize, Vec<u8>, Vec<u8>)> {
    let numbered = |position: usize, odd: &[u8]| {
        let mut plain = odd.to_vec();
        plain[0] = (15 << 3) | (plain[0] & 7); // the same wire type, and an unknown number
        (position, odd.to_vec(), plain)
    };
    let groups = [[0x7b_u8; 150], [0x7c; 150]].concat();
    let text: Vec<u8> = [&[0x7a, 0xa9, 0x02][..], &[0; 297]].concat();
    // An identity update of a byte more than is decoded, which the payload behind it replaces.
    let update: Vec<u8> = [&[0x2a, 0x81, 0x80, 0x10][..], &[0; 256 * 1024 + 1]].concat();
    vec![
        numbered(1, &[0x10, 5]),                // a payload that is a number
        numbered(1, &[0x0a, 2, 0x10, 5]),       // a topic that is one
        numbered(1, &[0x0a, 4, 0x12, 2, 6, 1]), // a topic of a newer kind, which replaces the other
        numbered(2, &[0x08, 5]),                // a client envelope that is one
        numbered(2, b"\x1a\x03100"),            // a target that is a text
        (1, groups, text),
        numbered(0, &update),
    ]
}

fn with_field(sequence: u64, position: usize, field: &[u8]) -> Draft {
    let mut made = draft(sequence, ns_of(sequence));
    let payer = pb::PayerEnvelope::decode(made.statement.payer_envelope_bytes.clone()).unwrap();
    let mut parts: [&[u8]; 3] = [&[]; 3];
    parts[position] = field;
    let [before, behind, outside] = parts;
    let client = [before, &payer.unsigned_client_envelope[..], behind].concat();
    let paid = PayerEnvelope::sign(client.into(), NODE, DAYS, &key(9)).encode_to_vec();
    let paid = [&paid[..], outside].concat();
    made.statement.base_fee_picodollars = base_fee(&RATE, paid.len() as u64, DAYS).unwrap().0;
    made.statement.payer_envelope_bytes = paid.into();
    made
}

/// Returns a log whose envelopes all decode, and the same log with odd fields. Both have the tallies of the first one.
pub(crate) fn logs() -> [MemoryLog; 2] {
    let fields = fields();
    let log = |is_odd: bool| {
        let envelope = |at: u64| {
            let index = at.checked_sub(FIRST).map(|index| usize::try_from(index).unwrap());
            match index.and_then(|index| fields.get(index)) {
                Some((position, odd, _)) if is_odd => {
                    (with_field(at, *position, odd).seal(), StoredMark::Invalid(1))
                }
                Some((position, _, plain)) => {
                    (with_field(at, *position, plain).seal(), StoredMark::Valid)
                }
                None => (draft(at, ns_of(at)).seal(), StoredMark::Valid),
            }
        };
        MemoryLog::of((1..=60).map(envelope).collect())
    };
    let [plain, odd] = [false, true].map(log);
    let (usage, congestion) = (plain.usage.clone(), plain.congestion.clone());
    [plain, MemoryLog { usage, congestion, ..odd }]
}

#[test]
fn what_only_other_software_decodes_is_no_fault_and_is_booked() {
    let [plain, odd] = logs();
    let [plain, odd] = [plain, odd].map(|log| replay(&log, &settings()));
    assert_eq!(named(&plain), []);
    assert_eq!(named(&odd), []);
    assert_eq!(odd.strands[0].figures.unproven, fields().len() as u64);
    let booked = |report: &ReplayReport| {
        let payers = report.strands[0].figures.payers.values();
        payers.map(|it| it.picodollars.0).sum::<u64>()
    };
    assert_eq!(booked(&odd), booked(&plain));
}

/// The bytes decide. The retention of a day is one that no node accepts.
#[test]
fn what_no_software_takes_from_a_payer_is_not_booked() {
    let [_, odd] = logs();
    let booked = |change: fn(&mut pb::PayerEnvelope)| {
        let mut made = with_field(FIRST, 1, &[0x10, 5]);
        let bytes = &mut made.statement.payer_envelope_bytes;
        let mut payer = pb::PayerEnvelope::decode(bytes.clone()).unwrap();
        change(&mut payer);
        *bytes = payer.encode_to_vec().into();
        let mut log = odd.clone();
        planted::sign_at(&mut log, FIRST, StoredMark::Invalid(1), &made);
        let report = replay(&log, &settings());
        report.strands[0].figures.payers.values().map(|it| it.messages).sum::<u64>()
    };
    let all = booked(|_| ());
    assert_eq!(all, 60);
    assert_eq!(booked(|payer| payer.target_originator = 200), all - 1);
    assert_eq!(booked(|payer| payer.message_retention_days = 1), all - 1);
    assert_eq!(booked(|payer| payer.payer_signature = None), all - 1);
}

/// The stated fees tell whether an unknown kind is free. Its envelope is no fault in either case.
#[test]
fn what_a_newer_schema_has_for_free_is_not_booked() {
    let [_, odd] = logs();
    let [paid, free, known] = [(6, 1), (6, 0), (1, 0)].map(|(kind, base_fee)| {
        // A topic that is a number, and one of this kind: the latter counts.
        let field = [0x0a, 6, 0x10, 5, 0x12, 2, kind, 1];
        let mut made = with_field(FIRST, 1, &field);
        made.statement.base_fee_picodollars = base_fee;
        let mut log = odd.clone();
        planted::sign_at(&mut log, FIRST, StoredMark::Invalid(1), &made);
        let report = replay(&log, &settings());
        let mut found = named(&report);
        found.retain(|(kind, ..)| *kind == FaultKind::BrokenRule);
        assert_eq!(found, []);
        report.strands[0].figures.payers.values().map(|it| it.messages).sum::<u64>()
    });
    assert_eq!((paid, free, known), (60, 59, 60));
}

/// Earlier versions kept the mark and the charge of such envelopes also in an absence of their node.
#[test]
fn marks_of_an_absence_are_judged_by_the_version_of_the_rule_that_the_folder_records() {
    let second = |at: u64| ns_of(at).unsigned_abs() / 1_000_000_000;
    let last = FIRST + fields().len() as u64 - 1;
    let away = Absence { from_s: second(FIRST - 1), until_s: Some(second(last + 1)) };
    let away = Absences::new(vec![away]).unwrap();
    let mut settings = settings();
    settings.registry = settings.registry.with_absences([(NODE, away.clone())]);
    let [_, mut log] = logs();
    let mut named_of = |judged_by: Option<Vec<u8>>| {
        log.judged_by = judged_by;
        let report = replay(&log, &settings);
        let is_told = report.unchecked.join("; ").contains("marks of envelopes from absences");
        (named(&report), is_told)
    };
    let of_version = |version: u8| Some([&[version][..], &away.to_bytes()[1..]].concat());
    for version in [1, 2] {
        assert_eq!(named_of(of_version(version)), (Vec::new(), true), "{version}");
    }
    for of_today in [Some(away.to_bytes()), None] {
        let (mut found, is_told) = named_of(of_today);
        found.retain(|(kind, ..)| *kind == FaultKind::WrongMark);
        let places: Vec<u64> = found.iter().map(|it| it.1).collect();
        assert_eq!(places, (FIRST..=last).collect::<Vec<_>>());
        assert!(!is_told);
    }
}
