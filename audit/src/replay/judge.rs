//! Faults of a single row, or of a row compared with the rows before it.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::{TIME_LEAD_NS_MAX, TIME_TOLERANCE_NS};
use hawser_rules::retention::{RETENTION_DAYS_MIN, expiry_unix_s, is_endless, unix_s};
use hawser_rules::{PicoDollarPrice, RuleNumber, Violation};

use super::check::Signed;
use super::fault::{Fault, FaultKind};
use super::item::{GapReason, StoredMark};

/// Time by which a stated expiry may be earlier than the one that follows from time and retention, in seconds.
/// Specified (`docs/protocol/rules.md`, rule 9).
const EXPIRY_TOLERANCE_S: u64 = 10 * 60;

/// The mark of an envelope whose expiry does not follow from time and retention.
const EXPIRY_RULE: u8 = RuleNumber::EXPIRY.0;

/// Returns the fault of a time in the future by the auditor's clock, which says `now_ns`.
pub(crate) fn time_ahead(id: EnvelopeId, ns: i64, now_ns: i64) -> Option<Fault> {
    let is_ahead = ns > now_ns.saturating_add(TIME_LEAD_NS_MAX);
    is_ahead.then(|| Fault::at(FaultKind::TimeAhead, id, format!("its time is {ns} ns")))
}

/// Returns true for a time that goes back behind `newest` by more than is tolerated.
pub(crate) fn is_late(ns: i64, newest: i64) -> bool {
    i128::from(newest) - i128::from(ns) > i128::from(TIME_TOLERANCE_NS)
}

/// Returns true if times that go back are faults of a strand. Those of the older network's strands are the times of the
/// takeover: a row that could not be taken over at first has a later one than the rows behind it.
pub(crate) fn has_ordered_times(originator: OriginatorId) -> bool {
    !originator.is_migrated()
}

/// Makes the fault of a time that goes back.
pub(crate) fn time_back(id: EnvelopeId, ns: i64, newest: i64) -> Fault {
    let text = format!("its time is {ns} ns, and an earlier place has {newest} ns");
    Fault::at(FaultKind::TimeBack, id, text)
}

/// Returns the fault of a place that is marked as pruned and whose envelope cannot have been
/// (`docs/protocol/pruning.md`). `originator_ns` is the recorded time. Without a recorded retention the shortest one
/// counts. An envelope of the older network may have expired at any time, unless its retention is for ever.
pub(crate) fn not_expired(
    id: EnvelopeId,
    originator_ns: Option<i64>,
    retention_days: Option<u32>,
    now_ns: i64,
) -> Option<Fault> {
    let fault = |text: String| Some(Fault::at(FaultKind::NotExpired, id, text));
    if !id.originator.is_signer() {
        return fault("it is called pruned, and strands of chains never are".to_owned());
    }
    let days = retention_days.unwrap_or(RETENTION_DAYS_MIN).max(RETENTION_DAYS_MIN);
    if is_endless(days) {
        return fault("it is called pruned, and its retention is for ever".to_owned());
    }
    let Some(originator_ns) = originator_ns else {
        return fault("it is called pruned, and has no recorded time".to_owned());
    };
    if id.originator.is_migrated() {
        return None; // It expires by the time at which it was first sent, which no record has.
    }
    let expiry_s = expiry_unix_s(unix_s(originator_ns), days);
    if expiry_s.saturating_sub(EXPIRY_TOLERANCE_S) > unix_s(now_ns) {
        return fault(format!("it is called pruned, and expires at {expiry_s} unix seconds"));
    }
    None
}

/// Makes the fault of the last place of a strand that is marked as pruned: a node keeps its last envelope.
pub(crate) fn pruned_head(id: EnvelopeId) -> Fault {
    Fault::at(FaultKind::NotExpired, id, "it is called pruned, and is the last of its strand")
}

/// Returns the fault of places whose mark no place of such a strand has. A keeper could hide an envelope behind it,
/// such as a revocation. Pruned places are judged by their records.
///
/// A node reads a chain until it has each event, and events do not expire, so only void places of a chain's strand have
/// no envelope. In a node's strand none is void: what the node declares void stays missing.
pub(crate) fn wrong_gap(id: EnvelopeId, reason: GapReason) -> Option<Fault> {
    let rest = match (id.originator.is_signer(), reason) {
        (false, GapReason::Missing | GapReason::Expired) => {
            "only void places of a chain have no envelope"
        }
        (true, GapReason::Void) => "only places of a chain are void",
        _ => return None,
    };
    let text = format!("it is marked as {}: {rest}", reason.name());
    Some(Fault::at(FaultKind::WrongMark, id, text))
}

/// Makes the fault of places that no row covers.
pub(crate) fn hole(originator: OriginatorId, from: u64, through: u64) -> Fault {
    let text = format!("places {from} to {through} have neither envelope nor mark");
    Fault::at(FaultKind::Hole, EnvelopeId::new(originator, SequenceId(from)), text)
}

/// Makes the fault of an envelope at `last`, behind the head of its strand.
pub(crate) fn beyond_head(last: EnvelopeId, head: SequenceId) -> Fault {
    Fault::at(FaultKind::BeyondHead, last, format!("the head is {head}"))
}

/// Makes the fault of a leaf that does not follow from the envelope or mark at its place.
pub(crate) fn other_leaf(id: EnvelopeId) -> Fault {
    Fault::at(FaultKind::Leaf, id, "the stored leaf is not the hash of the envelope")
}

/// Makes the fault of a congestion fee that is too high. `most` are the largest numbers of envelopes that may have
/// counted for it, in its minute and in each of the four before. `kind` is the fault by the origin of the rates.
pub(crate) fn overcharge(
    kind: FaultKind,
    id: EnvelopeId,
    fee: PicoDollarPrice,
    most: [u64; 5],
) -> Fault {
    let text = format!(
        "the congestion fee {} is above the one for at most {most:?} envelopes in its minute and the four before",
        fee.0
    );
    Fault::at(kind, id, text)
}

/// Returns the faults of an envelope against rules, rates and the mark beside it.
pub(crate) fn judge(id: EnvelopeId, mark: StoredMark, signed: &Signed) -> Vec<Fault> {
    let mut faults = Vec::new();
    let rule = signed.violation.as_ref().and_then(Violation::rule).map(|rule| rule.0);
    if let Some(violation) = signed.violation.as_ref().filter(|_| !signed.is_unproven) {
        faults.push(Fault { rule, ..Fault::at(FaultKind::BrokenRule, id, violation) });
    }
    if let Some((kind, fee)) = &signed.fee {
        faults.push(Fault::at(*kind, id, fee));
    }
    // The verdicts on a chain's envelopes need the state of their inboxes.
    let is_judged = id.originator.is_node();
    let stored = match mark {
        StoredMark::Unknown => return faults,
        StoredMark::Valid => None,
        StoredMark::Invalid(rule) => Some(rule),
        StoredMark::Waiting if !is_judged => return faults,
        StoredMark::Waiting => Some(0),
    };
    // Earlier versions marked each expiry that was more than ten minutes late. No upgraded node has run here since.
    let is_of_earlier = signed.was_marked_as_late && (stored, rule) == (Some(EXPIRY_RULE), None);
    if is_judged && stored != rule && !is_of_earlier {
        let name = |rule: Option<u8>| match rule {
            None => "valid".to_owned(),
            Some(0) => "waiting".to_owned(),
            Some(rule) => format!("rule {rule}"),
        };
        let text = format!("the mark says {}, the rules say {}", name(stored), name(rule));
        faults.push(Fault::at(FaultKind::WrongMark, id, text));
    }
    faults
}
