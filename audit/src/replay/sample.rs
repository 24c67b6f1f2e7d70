//! The signatures of a sample of a log's envelopes, or of all of them.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Registry, RuleNumber};
use serde::Serialize;

use super::check::{CheckedEnvelope, CheckedRow, Checker};
use super::fault::{Fault, FaultKind, Faults};
use super::item::{SourceError, StoredMark, StrandRow};
use super::pipeline;
use super::source::{LogRows, LogSource, heads_of};

/// The maximum number of envelopes of a sample. A guess: their places take 16 MB.
pub const SAMPLE_MAX: u64 = 1_000_000;
/// Envelopes of a sample that are read at once. A guess: enough for all cores.
const BATCH_ROWS: usize = 4096;
/// Bytes of these after which no more are read. A guess: an envelope may have 25 MiB.
const BATCH_BYTES: usize = 16 << 20;

/// The envelopes whose signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleSize {
    /// At most this many, bounded by [`SAMPLE_MAX`].
    Envelopes(u64),
    /// Every envelope.
    All,
}

/// The outcome of a sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SampledSignatures {
    /// Envelopes whose signatures were checked.
    pub checked: u64,
    /// Places of all strands of nodes, up to their heads.
    pub places: u64,
    /// Nodes whose strands were not sampled, because the registry does not name them.
    pub unknown_nodes: Vec<OriginatorId>,
    /// Number of faults.
    pub faults: u64,
    /// The first faults.
    pub first_faults: Vec<Fault>,
}

/// Checks the signatures of originators and payers on envelopes of the strands of nodes that the registry names.
/// Places are drawn evenly over all of them with `random`, which returns a number below its argument. A place without
/// an envelope is replaced by the next one that has one. Checks on `threads` threads, and needs memory for some batches
/// and the places of the sample.
///
/// # Errors
/// When rows cannot be read, or the log lists more strands than a network has.
pub fn sample_signatures(
    log: &dyn LogSource,
    registry: &Registry,
    size: SampleSize,
    threads: usize,
    random: &mut dyn FnMut(u64) -> u64,
) -> Result<SampledSignatures, SourceError> {
    let mut sampled = SampledSignatures::default();
    let mut heads: Vec<EnvelopeId> =
        heads_of(log)?.into_iter().filter(|head| head.originator.is_node()).collect();
    heads.sort_unstable();
    sampled.places = sum(&heads);
    let (known, unknown): (Vec<_>, Vec<_>) =
        heads.into_iter().partition(|head| registry.node(head.originator).is_some());
    sampled.unknown_nodes = unknown.iter().map(|head| head.originator).collect();
    let drawn = match size {
        SampleSize::Envelopes(wanted) if wanted < sum(&known) => {
            Some(draw(&known, wanted.min(SAMPLE_MAX), random))
        }
        SampleSize::Envelopes(_) | SampleSize::All => None,
    };
    let mut faults = Faults::default();
    for (at, head) in known.iter().enumerate() {
        let checker = Checker::new(head.originator, registry, None);
        let mut check = |rows: LogRows<'_>| {
            pipeline::run::<_, _, SourceError>(
                &|rows| checker.check(rows),
                threads,
                rows,
                |batch| {
                    for row in batch {
                        if let CheckedRow::Envelope(envelope) = row {
                            sampled.checked += 1;
                            let fault = fault_of(head.originator, *envelope);
                            fault.into_iter().for_each(|fault| faults.add(fault));
                        }
                    }
                    Ok(())
                },
            )
        };
        match &drawn {
            None => {
                check(log.rows(EnvelopeId { sequence: SequenceId::NONE, ..*head }, head.sequence))?
            }
            Some(drawn) => {
                let mut places =
                    PickedRows { log, head: *head, places: &drawn[at], reached: SequenceId::NONE };
                while let Some(rows) = places.batch()? {
                    check(Box::new(rows.into_iter().map(Ok)))?;
                }
            }
        }
    }
    sampled.faults = faults.count();
    sampled.first_faults = faults.kept().to_vec();
    Ok(sampled)
}

fn sum(heads: &[EnvelopeId]) -> u64 {
    heads.iter().fold(0, |sum, head| sum.saturating_add(head.sequence.0))
}

/// Draws places, ascending in each strand. All places are equally likely, and one that is drawn twice counts once.
fn draw(
    heads: &[EnvelopeId],
    wanted: u64,
    random: &mut dyn FnMut(u64) -> u64,
) -> Vec<Vec<SequenceId>> {
    let total = sum(heads);
    let mut drawn = vec![Vec::new(); heads.len()];
    for _ in 0..wanted {
        let mut place = random(total).min(total - 1);
        for (strand, head) in drawn.iter_mut().zip(heads) {
            match place.checked_sub(head.sequence.0) {
                Some(rest) => place = rest,
                None => {
                    strand.push(SequenceId(place + 1));
                    break;
                }
            }
        }
    }
    drawn.iter_mut().for_each(|strand| {
        strand.sort_unstable();
        strand.dedup();
    });
    drawn
}

/// The drawn places of a strand that are still to be read, ascending.
struct PickedRows<'a> {
    log: &'a dyn LogSource,
    head: EnvelopeId,
    places: &'a [SequenceId],
    /// The place of the last envelope.
    reached: SequenceId,
}

impl PickedRows<'_> {
    /// Reads the first envelope at or after each of the next places, each envelope once. `None` at the end.
    fn batch(&mut self) -> Result<Option<Vec<StrandRow>>, SourceError> {
        let (mut rows, mut len_bytes) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS && len_bytes < BATCH_BYTES {
            let Some((&place, rest)) = self.places.split_first() else { break };
            self.places = rest;
            if place <= self.reached {
                continue;
            }
            let after = EnvelopeId { sequence: place.previous(), ..self.head };
            for row in self.log.rows(after, self.head.sequence) {
                let row = row?;
                if let StrandRow::Envelope { sequence, bytes, .. } = &row {
                    (self.reached, len_bytes) = (*sequence, len_bytes + bytes.len());
                    rows.push(row);
                    break;
                }
            }
        }
        Ok((!rows.is_empty()).then_some(rows))
    }
}

/// Returns the fault of the signatures of an envelope.
fn fault_of(originator: OriginatorId, envelope: CheckedEnvelope) -> Option<Fault> {
    let id = EnvelopeId::new(originator, envelope.sequence);
    let signed = match envelope.found {
        Err((kind, text)) => return Some(Fault::at(kind, id, text)),
        Ok(signed) => signed,
    };
    let violation = signed.violation?;
    let is_of_payer = violation.rule() == Some(RuleNumber::PAYER_SIGNATURE);
    // An envelope without a payer's signature may stand in a log, and is marked then.
    let is_marked = matches!(envelope.mark, StoredMark::Invalid(_));
    let text = format!("it has no mark, and {violation}");
    (is_of_payer && !is_marked).then(|| Fault::at(FaultKind::WrongMark, id, text))
}

#[cfg(test)]
mod tests {
    use super::super::planted::flip_signature;
    use super::super::testing::{MemoryLog, NODE, draft, key, ns_of, record, settings};
    use super::*;
    use crate::replay::planted::sign_at;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use prost::Message as _;

    fn sampled(log: &MemoryLog, size: SampleSize) -> SampledSignatures {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        sample_signatures(log, &settings().registry, size, 2, &mut random).unwrap()
    }

    #[test]
    fn all_envelopes_or_as_many_as_were_asked_for_are_checked() {
        let log = MemoryLog::honest(700);
        for (size, checked) in [
            (SampleSize::All, 700),
            (SampleSize::Envelopes(700), 700),
            (SampleSize::Envelopes(0), 0),
        ] {
            let sampled = sampled(&log, size);
            assert_eq!((sampled.checked, sampled.places, sampled.faults), (checked, 700, 0));
        }
        let some = sampled(&log, SampleSize::Envelopes(50));
        assert!((30..=50).contains(&some.checked), "a place may be drawn twice: {some:?}");
        let few = sampled(&log, SampleSize::Envelopes(699));
        assert!((300..700).contains(&few.checked), "{few:?}");
    }

    #[test]
    fn a_forged_envelope_is_found_by_all_and_by_enough_samples() {
        let mut log = MemoryLog::honest(40);
        flip_signature(&mut log);
        let found = sampled(&log, SampleSize::All);
        assert_eq!((found.faults, found.first_faults[0].kind), (1, FaultKind::Forged));
        assert_eq!(found.first_faults[0].sequence_id, SequenceId(7));
        let some = sampled(&log, SampleSize::Envelopes(39));
        assert!(some.checked < 40);
        // Each place but those of other envelopes leads to the next envelope.
        log.rows.drain(..6);
        log.rows.truncate(1);
        assert_eq!(sampled(&log, SampleSize::Envelopes(39)).faults, 1);
    }

    #[test]
    fn an_envelope_that_no_payer_signed_needs_its_mark() {
        let unsigned = || {
            let mut other = draft(5, ns_of(5));
            let payer = &mut other.statement.payer_envelope_bytes;
            let mut unsigned = pb::PayerEnvelope::decode(payer.clone()).unwrap();
            unsigned.payer_signature = None;
            *payer = unsigned.encode_to_vec().into();
            other
        };
        for (mark, faults) in [(StoredMark::Invalid(2), 0), (StoredMark::Valid, 1)] {
            let mut log = MemoryLog::honest(9);
            sign_at(&mut log, 5, mark, &unsigned());
            assert_eq!(sampled(&log, SampleSize::All).faults, faults);
        }
    }

    #[test]
    fn strands_of_nodes_without_a_key_are_named_and_not_counted() {
        let log = MemoryLog::honest(9);
        let stranger = record(OriginatorId(300), key(3).public_key());
        let registry = [stranger].into_iter().collect();
        let sampled = sample_signatures(&log, &registry, SampleSize::All, 1, &mut |_| 0).unwrap();
        assert_eq!((sampled.checked, &sampled.unknown_nodes[..]), (0, &[NODE][..]));
    }
}
