//! Rows of the table `log`: the facts about an envelope that SQL needs, beside its bytes.

use hawser_proto::batch::{SignatureClaim, recover_similar};
use hawser_proto::envelope::{
    OpenedStatement, OriginatorEnvelope, Proof, UnsignedOriginatorEnvelope,
};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{Address, Bytes, OriginatorId, PublicKey, SequenceId, minute_of};
use hawser_rules::{OddTerms, RuleNumber, check_length, is_owed, odd_terms, payer_claims};

use super::table::{LOG, LogColumn, Value};
use crate::replay::{FaultKind, GapReason, PrunedRecord, StoredMark, StrandRow};

/// The part of a row that the writer needs, and its values.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: RecordKind,
    /// The first place.
    pub(super) from: u64,
    /// The last place, included.
    pub(super) through: u64,
    pub(super) values: Vec<Value>,
    /// The reason why the envelope cannot stand at its place, if signatures are judged and there is one.
    pub(super) refusal: Option<(FaultKind, String)>,
}

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Envelope(StoredMark),
    Gap(GapReason),
    Leaf,
}

/// The facts that an envelope states, as far as its layers can be read. Nothing here is verified, except the payer of
/// an odd one.
#[derive(Debug, Default)]
struct StatedFacts {
    originator_ns: Option<i64>,
    statement: Option<UnsignedOriginatorEnvelope>,
    /// The statement around layers that do not decode, and their payer's terms: other nodes may have read them.
    odd: Option<(OpenedStatement, OddTerms)>,
    is_signed: bool,
    /// The payer's account, as text.
    payer: Option<Bytes>,
}

/// Describes rows of one strand, in their order. With payers it costs one signature recovery for each envelope, and
/// less where many successive envelopes have one payer.
pub(super) fn describe(
    originator: OriginatorId,
    with_payers: bool,
    rows: Vec<StrandRow>,
) -> Vec<Record> {
    let mut stated: Vec<StatedFacts> = rows.iter().map(state).collect();
    if with_payers {
        add_payers(&mut stated);
    }
    let described = rows.into_iter().zip(stated);
    described.map(|(row, stated)| record(originator, row, &stated)).collect()
}

/// Returns the values of one row. `payer` is the account that the payer's signature of an envelope recovers to.
pub(super) fn values_of(
    originator: OriginatorId,
    row: StrandRow,
    payer: Option<Address>,
) -> Vec<Value> {
    let mut stated = state(&row);
    stated.payer = payer.map(address_text);
    record(originator, row, &stated).values
}

fn record(originator: OriginatorId, row: StrandRow, stated: &StatedFacts) -> Record {
    match row {
        StrandRow::Envelope { sequence, bytes, mark, leaf } => {
            envelope((originator, sequence), bytes, mark, leaf, stated)
        }
        StrandRow::Gap { from, through, reason } => gap(originator, from, through, reason),
        StrandRow::Pruned { sequence, record, leaf } => pruned(originator, sequence, &record, leaf),
        StrandRow::Leaf { sequence, leaf } => {
            let mut values = beginning(originator, sequence, sequence, "leaf");
            set(&mut values, [(LogColumn::LeafHash, leaf_value(Some(leaf)))]);
            let (kind, from) = (RecordKind::Leaf, sequence.0);
            Record { kind, from, through: from, values, refusal: None }
        }
    }
}

fn state(row: &StrandRow) -> StatedFacts {
    let StrandRow::Envelope { bytes, .. } = row else { return StatedFacts::default() };
    let Ok((statement, proof)) = OriginatorEnvelope::open(bytes.clone()) else {
        return StatedFacts::default();
    };
    let is_signed = matches!(proof, Proof::Signature(_));
    let Ok(opened) = OpenedStatement::read(statement) else {
        return StatedFacts { is_signed, ..StatedFacts::default() };
    };
    // A statement whose payer envelope does not decode still has a time.
    let originator_ns = Some(opened.originator_ns());
    let statement = opened.clone().parse().ok();
    let terms = match statement.is_none() && is_signed && check_length(bytes.len()).is_ok() {
        true => odd_terms(opened.id().originator, opened.payer_envelope_bytes()),
        false => None,
    };
    let odd = terms.map(|terms| (opened, terms));
    StatedFacts { originator_ns, statement, odd, is_signed, payer: None }
}

fn add_payers(stated: &mut [StatedFacts]) {
    let mut slots = Vec::with_capacity(stated.len());
    let mut payers = Vec::with_capacity(stated.len());
    for (slot, entry) in stated.iter().enumerate().filter(|(_, entry)| entry.is_signed) {
        if let Some(statement) = &entry.statement {
            slots.push(slot);
            payers.push(statement.payer());
        }
    }
    let claimed = slots.into_iter().zip(payer_claims(&payers));
    let claimed = claimed.filter_map(|(slot, claim)| Some((slot, claim.ok()?)));
    let (slots, claims): (Vec<usize>, Vec<SignatureClaim>) = claimed.unzip();
    // Payers come in runs, and an address costs a hash.
    let mut last: Option<(PublicKey, Bytes)> = None;
    for (slot, payer) in slots.into_iter().zip(recover_similar(claims)) {
        let Ok(key) = payer else { continue };
        let text = match &last {
            Some((known, text)) if *known == key => text.clone(),
            _ => address_text(key.address()),
        };
        stated[slot].payer = Some(text.clone());
        last = Some((key, text));
    }
    for entry in stated {
        if let Some((_, terms)) = &entry.odd {
            entry.payer = Some(address_text(terms.payer));
        }
    }
}

/// Returns a row with values in the first four columns only.
fn beginning(
    originator: OriginatorId,
    from: SequenceId,
    through: SequenceId,
    kind: &'static str,
) -> Vec<Value> {
    let mut values = vec![Value::Null; LOG.columns.len()];
    let first = [
        (LogColumn::OriginatorId, Value::int(u64::from(originator.0))),
        (LogColumn::SequenceId, Value::int(from.0)),
        (LogColumn::ThroughSequenceId, Value::int(through.0)),
        (LogColumn::Kind, Value::text(kind)),
    ];
    set(&mut values, first);
    values
}

/// Sets values of a row.
fn set<const N: usize>(row: &mut [Value], values: [(LogColumn, Value); N]) {
    for (column, value) in values {
        row[column as usize] = value;
    }
}

fn leaf_value(leaf: Option<TreeHash>) -> Value {
    leaf.map_or(Value::Null, |leaf| Value::Bytes(Bytes::copy_from_slice(&leaf.0)))
}

/// Returns the minute of a time.
fn minute_value(ns: i64) -> Value {
    Value::Int(i64::from(minute_of(ns)))
}

fn gap(
    originator: OriginatorId,
    from: SequenceId,
    through: SequenceId,
    reason: GapReason,
) -> Record {
    let values = beginning(originator, from, through, reason.name());
    let kind = RecordKind::Gap(reason);
    Record { kind, from: from.0, through: through.0, values, refusal: None }
}

/// Describes a pruned place by its keeper's record, which has the stated fees as one sum.
fn pruned(
    originator: OriginatorId,
    sequence: SequenceId,
    record: &PrunedRecord,
    leaf: Option<TreeHash>,
) -> Record {
    let mut values = beginning(originator, sequence, sequence, GapReason::Pruned.name());
    let known = [
        (LogColumn::OriginatorNs, Value::Int(record.originator_ns)),
        (LogColumn::Minute, minute_value(record.originator_ns)),
        (LogColumn::LenBytes, Value::int(record.len_bytes)),
        (LogColumn::IsCharged, Value::Flag(record.charge.is_some())),
        (LogColumn::CountsForCongestion, Value::Flag(record.counts_for_congestion)),
        (LogColumn::LeafHash, leaf_value(leaf)),
    ];
    set(&mut values, known);
    if let Some(charge) = &record.charge {
        let charged = [
            (LogColumn::Payer, Value::Bytes(address_text(charge.payer))),
            (LogColumn::PayerLenBytes, Value::int(charge.size_bytes)),
            (LogColumn::BaseFee, Value::Amount(charge.stated_picodollars.0)),
            (LogColumn::CongestionFee, Value::Amount(0)),
            (LogColumn::RetentionDays, Value::Int(i64::from(charge.retention_days))),
        ];
        set(&mut values, charged);
    }
    let kind = RecordKind::Gap(GapReason::Pruned);
    Record { kind, from: sequence.0, through: sequence.0, values, refusal: None }
}

/// Returns an account in the form of the tables.
pub(super) fn address_text(account: Address) -> Bytes {
    let mut text = vec![0; 2 + 2 * account.0.len()];
    text[..2].copy_from_slice(b"0x");
    hex::encode_to_slice(account.0, &mut text[2..]).expect("two digits for each byte");
    text.into()
}

fn envelope(
    (originator, sequence): (OriginatorId, SequenceId),
    bytes: Bytes,
    mark: StoredMark,
    leaf: Option<TreeHash>,
    stated: &StatedFacts,
) -> Record {
    let (name, broken) = match mark {
        StoredMark::Valid => ("valid", None),
        StoredMark::Invalid(rule) => ("invalid", Some(rule)),
        StoredMark::Waiting => ("waiting", None),
        StoredMark::Unknown => ("unknown", None),
    };
    let mut values = beginning(originator, sequence, sequence, "envelope");
    let known = [
        (LogColumn::Mark, Value::text(name)),
        (LogColumn::Rule, broken.map_or(Value::Null, |rule| Value::Int(i64::from(rule)))),
        (LogColumn::OriginatorNs, stated.originator_ns.map_or(Value::Null, Value::Int)),
        (LogColumn::Minute, stated.originator_ns.map_or(Value::Null, minute_value)),
        (LogColumn::Payer, stated.payer.clone().map_or(Value::Null, Value::Bytes)),
        (LogColumn::LenBytes, Value::int(bytes.len() as u64)),
        (LogColumn::LeafHash, leaf_value(leaf)),
    ];
    set(&mut values, known);
    let owes = match (&stated.statement, &stated.odd) {
        (Some(statement), _) => {
            set(&mut values, stated_values(statement));
            stated.is_signed && is_owed(statement.payer(), broken.map(RuleNumber))
        }
        (None, Some((statement, terms))) => {
            let odd = [
                (LogColumn::PayerLenBytes, Value::int(terms.size_bytes)),
                (LogColumn::BaseFee, Value::Amount(statement.base_fee().0)),
                (LogColumn::CongestionFee, Value::Amount(statement.congestion_fee().0)),
                (LogColumn::RetentionDays, Value::Int(i64::from(terms.retention_days))),
            ];
            set(&mut values, odd);
            terms.are_owed(statement.base_fee().plus(statement.congestion_fee()))
        }
        (None, None) => false,
    };
    let is_paid = mark.is_booked() && owes;
    let last = [
        (LogColumn::IsCharged, Value::Flag(is_paid)),
        (LogColumn::CountsForCongestion, Value::Flag(is_paid && originator.is_node())),
        (LogColumn::Bytes, Value::Bytes(bytes)),
    ];
    set(&mut values, last);
    let (kind, from) = (RecordKind::Envelope(mark), sequence.0);
    Record { kind, from, through: from, values, refusal: None }
}

/// Returns the columns that a statement with all its layers has beside its time.
fn stated_values(statement: &UnsignedOriginatorEnvelope) -> [(LogColumn, Value); 7] {
    let payer = statement.payer();
    let topic = payer.client().topic().as_bytes();
    let kind = topic.first().map_or(Value::Null, |kind| Value::Int(i64::from(*kind)));
    [
        (LogColumn::Topic, Value::Bytes(topic.clone())),
        (LogColumn::TopicKind, kind),
        (LogColumn::PayerLenBytes, Value::int(payer.as_bytes().len() as u64)),
        (LogColumn::BaseFee, Value::Amount(statement.base_fee().0)),
        (LogColumn::CongestionFee, Value::Amount(statement.congestion_fee().0)),
        (LogColumn::RetentionDays, Value::Int(i64::from(payer.retention_days()))),
        (LogColumn::ExpiryUnixS, Value::Amount(statement.expiry_unix_s())),
    ]
}
