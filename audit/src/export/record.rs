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
    /// The statement around layers that do not decode, and the terms on which their payer owes for it: other nodes may
    /// have read them.
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
            let leaf = leaf.map(|leaf| Bytes::copy_from_slice(&leaf.0));
            envelope((originator, sequence), bytes, mark, leaf, stated)
        }
        StrandRow::Gap { from, through, reason } => gap(originator, from, through, reason),
        StrandRow::Pruned { sequence, record, leaf } => pruned(originator, sequence, &record, leaf),
        StrandRow::Leaf { sequence, leaf } => {
            let mut values = beginning(originator, sequence, sequence, "leaf");
            leave_empty_before(LogColumn::LeafHash, &mut values);
            values.push(Value::Bytes(Bytes::copy_from_slice(&leaf.0)));
            values.push(Value::Null);
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

/// Returns the first four columns.
fn beginning(
    originator: OriginatorId,
    from: SequenceId,
    through: SequenceId,
    kind: &'static str,
) -> Vec<Value> {
    let mut values = Vec::with_capacity(LOG.columns.len());
    values.push(Value::int(u64::from(originator.0)));
    values.extend([Value::int(from.0), Value::int(through.0), Value::text(kind)]);
    values
}

/// Leaves the columns without a value empty up to this one, which comes next.
fn leave_empty_before(column: LogColumn, values: &mut Vec<Value>) {
    values.resize(column as usize, Value::Null);
}

fn gap(
    originator: OriginatorId,
    from: SequenceId,
    through: SequenceId,
    reason: GapReason,
) -> Record {
    let mut values = beginning(originator, from, through, reason.name());
    values.resize(LOG.columns.len(), Value::Null);
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
    let minute = Value::Int(i64::from(minute_of(record.originator_ns)));
    values.extend([Value::Null, Value::Null, Value::Int(record.originator_ns), minute]);
    values.extend([Value::Null, Value::Null]);
    let len_bytes = Value::int(record.len_bytes);
    match &record.charge {
        None => {
            values.extend([Value::Null, len_bytes]);
            leave_empty_before(LogColumn::IsCharged, &mut values);
        }
        Some(charge) => values.extend([
            Value::Bytes(address_text(charge.payer)),
            len_bytes,
            Value::int(charge.size_bytes),
            Value::Amount(charge.stated_picodollars.0),
            Value::Amount(0),
            Value::Int(i64::from(charge.retention_days)),
            Value::Null,
        ]),
    }
    values.push(Value::Flag(record.charge.is_some()));
    values.push(Value::Flag(record.counts_for_congestion));
    values.push(leaf.map_or(Value::Null, |leaf| Value::Bytes(Bytes::copy_from_slice(&leaf.0))));
    values.push(Value::Null);
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

/// Returns the columns of an odd envelope from the length of the payer envelope to the retention.
fn odd_values((statement, terms): &(OpenedStatement, OddTerms)) -> [Value; 4] {
    [
        Value::int(terms.size_bytes),
        Value::Amount(statement.base_fee().0),
        Value::Amount(statement.congestion_fee().0),
        Value::Int(i64::from(terms.retention_days)),
    ]
}

fn envelope(
    (originator, sequence): (OriginatorId, SequenceId),
    bytes: Bytes,
    mark: StoredMark,
    leaf: Option<Bytes>,
    stated: &StatedFacts,
) -> Record {
    let (name, rule) = match mark {
        StoredMark::Valid => ("valid", Value::Null),
        StoredMark::Invalid(rule) => ("invalid", Value::Int(i64::from(rule))),
        StoredMark::Waiting => ("waiting", Value::Null),
        StoredMark::Unknown => ("unknown", Value::Null),
    };
    let minute = |ns| Value::Int(i64::from(minute_of(ns)));
    let mut values = beginning(originator, sequence, sequence, "envelope");
    values.extend([Value::text(name), rule]);
    values.push(stated.originator_ns.map_or(Value::Null, Value::Int));
    values.push(stated.originator_ns.map_or(Value::Null, minute));
    let len_bytes = Value::int(bytes.len() as u64);
    match &stated.statement {
        None => {
            leave_empty_before(LogColumn::Payer, &mut values);
            values.push(stated.payer.clone().map_or(Value::Null, Value::Bytes));
            values.push(len_bytes);
            let is_paid = mark.is_booked() && stated.odd.is_some();
            values.extend(stated.odd.iter().flat_map(odd_values));
            leave_empty_before(LogColumn::IsCharged, &mut values);
            values.extend([Value::Flag(is_paid), Value::Flag(is_paid && originator.is_node())]);
        }
        Some(statement) => {
            let payer = statement.payer();
            let topic = payer.client().topic();
            let broken = match mark {
                StoredMark::Invalid(rule) => Some(RuleNumber(rule)),
                StoredMark::Valid | StoredMark::Waiting | StoredMark::Unknown => None,
            };
            let is_paid = mark.is_booked() && stated.is_signed && is_owed(payer, broken);
            let kind = topic.as_bytes().first();
            values.extend([
                Value::Bytes(topic.as_bytes().clone()),
                kind.map_or(Value::Null, |kind| Value::Int(i64::from(*kind))),
                stated.payer.clone().map_or(Value::Null, Value::Bytes),
                len_bytes,
                Value::int(payer.as_bytes().len() as u64),
                Value::Amount(statement.base_fee().0),
                Value::Amount(statement.congestion_fee().0),
                Value::Int(i64::from(payer.retention_days())),
                Value::Amount(statement.expiry_unix_s()),
                Value::Flag(is_paid),
                Value::Flag(is_paid && originator.is_node()),
            ]);
        }
    }
    values.push(leaf.map_or(Value::Null, Value::Bytes));
    values.push(Value::Bytes(bytes));
    let (kind, from) = (RecordKind::Envelope(mark), sequence.0);
    Record { kind, from, through: from, values, refusal: None }
}
