//! Evidence that an originator charges more for congestion than follows from its own envelopes.
//!
//! A congestion fee depends on the envelopes of five minutes, so they are the evidence: any reader of them comes to the
//! same judgement. Without one of them nothing is proven.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_rules::RateTable;
use hawser_rules::misbehavior::report::{REPORT_LEN_BYTES_MAX, WINDOW_ENVELOPES_MAX};
use hawser_rules::misbehavior::{precedes_window, proves_overcharge};
use hawser_storage::{Evidence, Misbehavior, ReadError};

/// Bytes of envelopes for which a report has room. Calculated: up to six bytes before each of 1,000 envelopes, and some
/// for the fields beside them.
const ENVELOPES_LEN_BYTES_MAX: usize = REPORT_LEN_BYTES_MAX - 16 * 1024;

/// Returns evidence that the congestion fee of an envelope of the log is too high; `None` if it is not, or if `rates`
/// or the log do not show it. The envelope is valid, or breaks no rule but by a late expiry. `at` and all places before
/// it are verified. `held` returns the envelope of an earlier place of the strand.
///
/// `most` are the largest numbers of envelopes that may have counted for it, if all of them were known when it came.
/// With them, the fee is a claim even if a report has no room for the envelopes.
///
/// # Errors
/// If the log cannot be read, and not because the disk has damaged it.
pub fn overcharge(
    held: impl Fn(EnvelopeId) -> Result<Option<Bytes>, ReadError>,
    at: EnvelopeId,
    envelope: &Bytes,
    most: Option<[u64; CONGESTION_MINUTES]>,
    rates: &RateTable,
) -> Result<Option<Evidence>, ReadError> {
    let Ok(parsed) = OriginatorEnvelope::parse(envelope.clone()) else { return Ok(None) };
    let statement = parsed.unsigned();
    let ns = statement.originator_ns();
    let fee = statement.congestion_fee();
    let may_be_due = |most| !rates.is_overcharged(ns, fee, most);
    if fee.0 == 0 || !rates.is_complete_at(ns) || most.is_some_and(may_be_due) {
        return Ok(None);
    }
    let found = match window(held, at, envelope, ns)? {
        Some(envelopes) => {
            let is_proven = proves_overcharge(&envelopes, rates);
            is_proven.then_some((Misbehavior::Overcharge, envelopes))
        }
        None => most.map(|_| (Misbehavior::OverchargeUnderLoad, vec![envelope.clone()])),
    };
    let evidence = |(misbehavior, envelopes)| Evidence { misbehavior, at, from: None, envelopes };
    Ok(found.map(evidence))
}

/// Returns the envelopes that determine the congestion fee of `envelope` at time `ns`, in the order of the strand.
/// `envelope` is the last one. The first one is older than the five minutes of the fee, or is the first of the strand.
/// Returns `None` if the log lacks one of them, or a report has no room for them.
fn window(
    held: impl Fn(EnvelopeId) -> Result<Option<Bytes>, ReadError>,
    at: EnvelopeId,
    envelope: &Bytes,
    ns: i64,
) -> Result<Option<Vec<Bytes>>, ReadError> {
    let (mut envelopes, mut len_bytes) = (vec![envelope.clone()], envelope.len());
    let (mut place, mut earliest_ns) = (at.sequence, ns);
    while place > SequenceId(1) && !precedes_window(earliest_ns, ns) {
        place = place.previous();
        let earlier = match held(EnvelopeId { sequence: place, ..at }) {
            Ok(earlier) => earlier,
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        let Some(earlier) = earlier else { return Ok(None) };
        let Some(earlier_ns) = OriginatorEnvelope::stated_ns(&earlier) else { return Ok(None) };
        (earliest_ns, len_bytes) = (earlier_ns, len_bytes + earlier.len());
        envelopes.push(earlier);
        if envelopes.len() > WINDOW_ENVELOPES_MAX || len_bytes > ENVELOPES_LEN_BYTES_MAX {
            return Ok(None);
        }
    }
    envelopes.reverse();
    Ok((len_bytes <= ENVELOPES_LEN_BYTES_MAX).then_some(envelopes))
}
