//! Records evidence, and logs what is new of it.

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, PublicKey, StatementDifference};
use hawser_rules::Registry;
use hawser_storage::{CommitError, Evidence, Misbehavior};

use super::state::{ReplicationState, now};

/// Bytes of envelopes at which evidence is handed over. A guess: a write of some milliseconds.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// Hands evidence over in parts as it is found. An originator may have signed a thousand of the longest envelopes that
/// each break a rule, which must not be in memory together.
pub(super) fn in_parts(
    found: impl Iterator<Item = Result<Option<Evidence>, CommitError>>,
    mut record: impl FnMut(&[Evidence]) -> Result<(), CommitError>,
) -> Result<(), CommitError> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for evidence in found {
        let Some(evidence) = evidence? else { continue };
        bytes += evidence.envelopes.iter().map(Bytes::len).sum::<usize>();
        part.push(evidence);
        if bytes >= PART_BYTES {
            record(&part)?;
            part.clear();
            bytes = 0;
        }
    }
    record(&part)
}

/// Returns false if the earlier of two envelopes is not of the node that has the id of their strand now. When its chain
/// is reorganised, the registry may give an id to another node, which does not answer for what was signed before.
fn is_of_present_node(registry: &Registry, evidence: &Evidence) -> bool {
    let Evidence { misbehavior, at, envelopes, .. } = evidence;
    if !matches!(misbehavior, Misbehavior::TwoStatements(_) | Misbehavior::TimeBack) {
        return true;
    }
    let (Some(record), Some(earlier)) = (registry.node(at.originator), envelopes.first()) else {
        return true;
    };
    signer_of(earlier).is_none_or(|signer| signer == record.public_key)
}

/// Returns the key that an envelope of a stored strand was signed with; `None` if it has no signature.
pub(super) fn signer_of(envelope: &Bytes) -> Option<PublicKey> {
    match OriginatorEnvelope::open(envelope.clone()) {
        Ok((statement, Proof::Signature(signature))) => {
            signature.recover(originator_digest(&statement)).ok()
        }
        Ok((_, Proof::Transaction(_))) | Err(_) => None,
    }
}

/// Records evidence, and logs facts that are new. The number of two statements is bounded, and so are the lines about
/// all others. Leaves out what accuses a node of the statements of another node that had its id before.
pub(super) fn record(state: &ReplicationState, evidence: &[Evidence]) -> Result<(), CommitError> {
    let registry = state.ports.registry.borrow().clone();
    let of_present = evidence.iter().filter(|it| is_of_present_node(&registry, it));
    let evidence: Vec<Evidence> = of_present.cloned().collect();
    if evidence.is_empty() {
        return Ok(());
    }
    let now_ns = u64::try_from(state.ports.clock.now_ns()).unwrap_or(0);
    let fresh = state.store.record_evidence(now_ns, &evidence)?;
    if !fresh.is_empty() {
        state.reports.note_evidence();
    }
    for Evidence { misbehavior, at, from, .. } in fresh {
        let (fault, from) = (misbehavior.label(), from.map_or(0, |from| from.0));
        state.engine_counters.second_statements.count(misbehavior);
        match misbehavior {
            Misbehavior::TwoStatements(StatementDifference::Content) => tracing::error!(
                code = "two_statements",
                envelope = %at,
                from,
                "an originator signed two statements for one place: both are kept as evidence"
            ),
            // The exchange of checkpoints logs these, with more facts.
            Misbehavior::TwoCheckpoints | Misbehavior::TwoObservations | Misbehavior::OtherTree => {
            }
            _ => {
                let now = now();
                if let Some(left_out) = state.fault_lines.count(now, at.originator, fault) {
                    tracing::warn!(envelope = %at, fault, from, left_out, "evidence against an originator");
                }
            }
        }
    }
    Ok(())
}

/// Records evidence that nodes broke their statements. If that fails, it is found again when envelopes of these places
/// come again: those that are about to be written do.
pub(super) fn record_broken(
    state: &ReplicationState,
    found: &[Evidence],
) -> Result<(), CommitError> {
    let recorded = record(state, found);
    if recorded.is_err() {
        state.voids.note_unrecorded(found);
    }
    recorded
}

#[cfg(test)]
mod tests;
