//! Records evidence, and logs what is new of it.

use hawser_proto::{Bytes, StatementDifference};
use hawser_storage::{CommitError, Evidence, Misbehavior};

use super::former_keys::is_signed_by;
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

/// Returns true if a time steps back from that of an envelope which a former key of the strand has signed. The node that
/// has the id now does not answer for the clock of another one.
fn steps_back_from_former_key(state: &ReplicationState, evidence: &Evidence) -> bool {
    let Evidence { misbehavior: Misbehavior::TimeBack, at, envelopes, .. } = evidence else {
        return false;
    };
    let registry = state.ports.registry.borrow();
    let (Some(node), Some(earlier)) = (registry.node(at.originator), envelopes.first()) else {
        return false;
    };
    state.former_keys.has(at.originator) && !is_signed_by(earlier, &node.public_key)
}

/// Records evidence, and logs facts that are new. The number of two statements is bounded, and so are the lines about
/// all others. Leaves out a step back in time from what a former key has signed.
pub(super) fn record(state: &ReplicationState, evidence: &[Evidence]) -> Result<(), CommitError> {
    let of_one_node = evidence.iter().filter(|it| !steps_back_from_former_key(state, it));
    let evidence: Vec<Evidence> = of_one_node.cloned().collect();
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
