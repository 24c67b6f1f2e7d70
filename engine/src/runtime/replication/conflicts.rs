//! Evidence that an originator has signed two statements for one place. This node has the first statement, and a peer
//! has sent the second.

use std::collections::HashMap;

use hawser_proto::merkle::{TreeHash, envelope_leaf};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, StatementDifference};
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, ShownLeaf, TreeEvidence, TreeFault, verify_trees,
};
use hawser_storage::{CommitError, Evidence, LogEntry, Mark, Misbehavior, Snapshot};

use super::evidence::name_unreadable;
use super::former_keys::is_signed_by;
use super::record::{in_parts, record};
use super::state::ReplicationState;
use crate::misbehavior::difference;

/// Records conflicts: sent envelopes, by index, that differ from what this node has at their places, or is about to
/// store there. Makes a few large writes, because the originator decides how many conflicts there are. To be called
/// before the other envelopes are stored.
///
/// Returns the number of envelopes that could not be compared. Either the disk has damaged what this node has, or it
/// cannot be read for another reason and `gives_up` returns true for the place.
pub(super) fn record_conflicts(
    state: &ReplicationState,
    sent: &[(OriginatorId, &LogEntry)],
    conflicts: &[usize],
    gives_up: impl Fn(EnvelopeId) -> bool,
) -> Result<usize, CommitError> {
    if conflicts.is_empty() {
        return Ok(0);
    }
    // Of those that were sent for a free place, the first one is stored.
    let mut stored_next: HashMap<EnvelopeId, &Bytes> = HashMap::new();
    for (index, &(_, entry)) in sent.iter().enumerate() {
        if conflicts.binary_search(&index).is_err() {
            stored_next.entry(entry.id).or_insert(&entry.bytes);
        }
    }
    let mut unreadable = 0;
    let found = conflicts.iter().map(|&index| {
        let (from, entry) = sent[index];
        let is_given_up = gives_up(entry.id);
        match conflict(state, from, stored_next.get(&entry.id).copied(), entry, is_given_up) {
            Err(CommitError::Read(error)) if error.is_damage() || is_given_up => {
                name_unreadable(state, entry.id, &error);
                unreadable += 1;
                Ok(None)
            }
            found => found,
        }
    });
    in_parts(found, |part| record(state, part))?;
    Ok(unreadable)
}

/// Returns the evidence that `from` sent an envelope for a place where this node has another one, or is about to store
/// `stored_next`. If this node's envelope is damaged on disk, or is given up because it cannot be read, the place's
/// leaf may still prove the conflict.
fn conflict(
    state: &ReplicationState,
    from: OriginatorId,
    stored_next: Option<&Bytes>,
    entry: &LogEntry,
    is_given_up: bool,
) -> Result<Option<Evidence>, CommitError> {
    let (at, other) = (entry.id, &entry.bytes);
    if at.originator.is_migrated() {
        return Ok(None);
    }
    let snapshot = state.store.snapshot();
    let held = match snapshot.get(at) {
        Ok(held) => held,
        Err(error) if error.is_damage() || is_given_up => {
            let Some(envelopes) = other_leaf(state, &snapshot, at, other)? else {
                return Err(error.into());
            };
            let misbehavior = Misbehavior::OtherLeaf;
            return Ok(Some(Evidence { misbehavior, at, from: Some(from), envelopes }));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(held) = held.or_else(|| stored_next.cloned()) else {
        return conflict_with_pruned(state, from, at, other);
    };
    let key = key_of(state, at.originator);
    let Some(severity) = two_statements(&held, other, key.as_ref()) else { return Ok(None) };
    let misbehavior = Misbehavior::TwoStatements(severity);
    let envelopes = vec![held, other.clone()];
    Ok(Some(Evidence { misbehavior, at, from: Some(from), envelopes }))
}

/// Returns the difference between two statements of one node, whose key is `key` if it is known. What a former key has
/// signed is no statement of the node that has the id now. `other` was verified with the present one.
fn two_statements(
    held: &Bytes,
    other: &Bytes,
    key: Option<&PublicKey>,
) -> Option<StatementDifference> {
    let severity = difference(held, other)?;
    key.is_none_or(|key| is_signed_by(held, key)).then_some(severity)
}

fn key_of(state: &ReplicationState, originator: OriginatorId) -> Option<PublicKey> {
    if originator == state.own {
        return Some(state.store.identity().public_key);
    }
    state.ports.registry.borrow().node(originator).map(|record| record.public_key)
}

/// Returns the evidence that an envelope differs from the one that this node has pruned at its place. Of the pruned
/// envelope only the leaf is left. The leaf is a proof if the originator has signed a checkpoint above it; otherwise
/// only readers who trust this node accept it.
fn conflict_with_pruned(
    state: &ReplicationState,
    from: OriginatorId,
    at: EnvelopeId,
    other: &Bytes,
) -> Result<Option<Evidence>, CommitError> {
    if state.former_keys.has(at.originator) {
        // The leaf does not tell whose envelope it was.
        return Ok(None);
    }
    let snapshot = state.store.snapshot();
    if !matches!(snapshot.mark(at)?, Some(Mark::Pruned { .. })) {
        return Ok(None);
    }
    let pruned = snapshot.pruned(at.originator, at.sequence, at.sequence).next().transpose()?;
    let leaf = snapshot.leaf(at)?.or(pruned.and_then(|(_, it)| it.leaf));
    let Some(leaf) = leaf else { return Ok(None) };
    let found = difference_from_pruned(leaf, other, || other_leaf(state, &snapshot, at, other))?;
    let evidence =
        |(misbehavior, envelopes)| Evidence { misbehavior, at, from: Some(from), envelopes };
    Ok(found.map(evidence))
}

/// Returns the fault that an envelope shows at the place of a pruned one with this leaf, and its evidence. `proof`
/// returns the pieces that prove it, if there are any.
fn difference_from_pruned(
    leaf: TreeHash,
    other: &Bytes,
    proof: impl FnOnce() -> Result<Option<Vec<Bytes>>, CommitError>,
) -> Result<Option<(Misbehavior, Vec<Bytes>)>, CommitError> {
    // The same envelope once more: the commit left it out because it could not read a row at that moment.
    if envelope_leaf(other) == Some(leaf) {
        return Ok(None);
    }
    Ok(Some(match proof()? {
        Some(envelopes) => (Misbehavior::OtherLeaf, envelopes),
        None => {
            let envelopes = vec![other.clone(), Bytes::copy_from_slice(&leaf.0)];
            (Misbehavior::OtherThanPruned, envelopes)
        }
    }))
}

/// Records an envelope that differs from the one that readers are shown at its place. Does so only if the difference is
/// proof: the originator has signed a tree with the shown one.
pub(super) fn record_other_than_shown(
    state: &ReplicationState,
    at: EnvelopeId,
    other: Bytes,
) -> Result<(), CommitError> {
    let pieces = other_leaf(state, &state.store.snapshot(), at, &other)?;
    let misbehavior = Misbehavior::OtherLeaf;
    let evidence = pieces.map(|envelopes| Evidence { misbehavior, at, from: None, envelopes });
    record(state, evidence.as_slice())
}

/// Returns the pieces that prove that an originator has signed two envelopes for a place: this envelope, and a second
/// envelope whose leaf is under the originator's signed checkpoint. Returns `None` if the originator has signed no
/// checkpoint above that place, or if its checkpoint is of another tree than this node holds.
fn other_leaf(
    state: &ReplicationState,
    snapshot: &Snapshot<'_>,
    at: EnvelopeId,
    other: &Bytes,
) -> Result<Option<Vec<Bytes>>, CommitError> {
    let (originator, below) = (at.originator, at.sequence.previous().0);
    let held = match snapshot.checkpoint_after(originator, originator, below) {
        // Without the checkpoint there is a claim at most.
        Err(error) if error.is_damage() => None,
        held => held?.map(|held| held.signed),
    };
    // While a part of the strand is not verified, no checkpoint of it is held but that by which it is shown.
    let shown = snapshot.shown_by(originator)?.filter(|_| held.is_none());
    let signed = held.or(shown.as_ref().map(|prefix| prefix.signed));
    let (Some(signed), Some(leaf)) = (signed, snapshot.leaf(at)?) else { return Ok(None) };
    // Without a proof of the place in the tree there is no evidence.
    let proof = match (snapshot.inclusion(at, signed.checkpoint.size), shown) {
        (Ok(proof), _) => proof,
        (Err(_), Some(prefix)) => match snapshot.inclusion_in_signed(at, &prefix) {
            Ok(proof) => proof,
            Err(_) => return Ok(None),
        },
        (Err(_), None) => return Ok(None),
    };
    let shown = ShownLeaf { index: below, leaf, proof };
    let checkpoint = signed.encode().to_vec().into();
    let pieces = vec![checkpoint, shown.encode(), other.clone()];
    let evidence = TreeEvidence { fault: TreeFault::OtherLeaf, pieces };
    let registry = state.ports.registry.borrow().clone();
    let is_proven = verify_trees(&evidence, &registry).verdict == MisbehaviorVerdict::Proven;
    Ok(is_proven.then_some(evidence.pieces))
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_proto::sign::originator_digest;
    use prost::Message as _;

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn envelope(statement: &'static str) -> Bytes {
        signed_by(&key(7), Bytes::from_static(statement.as_bytes()))
    }

    fn signed_by(key: &SecretKey, statement: Bytes) -> Bytes {
        let signature = key.sign(originator_digest(&statement));
        OriginatorEnvelope::encode(statement, Proof::Signature(signature))
    }

    /// A reorganisation of the settlement chain has given the id to a node with another key.
    #[test]
    fn what_a_former_key_has_signed_is_no_statement_of_the_present_one() {
        let statement = |originator_ns| {
            let statement = UnsignedOriginatorEnvelope { originator_ns, ..Default::default() };
            Bytes::from(statement.encode_to_vec())
        };
        let (former, present) = (key(7), key(8));
        let held = signed_by(&former, statement(1));
        let of = |key: &SecretKey| {
            two_statements(&held, &signed_by(key, statement(2)), Some(&key.public_key()))
        };
        assert_eq!(of(&former), Some(StatementDifference::Content));
        assert_eq!(of(&present), None);
    }

    /// The commit could not compare the envelope, and the leaf can be read now.
    #[test]
    fn an_envelope_with_the_leaf_of_the_pruned_one_is_no_fault() {
        let pruned = envelope("one");
        let leaf = envelope_leaf(&pruned).unwrap();
        let pieces = vec![pruned.clone()];
        for proof in [None, Some(pieces)] {
            assert_eq!(difference_from_pruned(leaf, &pruned, || Ok(proof)), Ok(None));
        }

        let other = envelope("another");
        let unproven = vec![other.clone(), Bytes::copy_from_slice(&leaf.0)];
        assert_eq!(
            difference_from_pruned(leaf, &other, || Ok(None)),
            Ok(Some((Misbehavior::OtherThanPruned, unproven)))
        );
        let proven = vec![other.clone()];
        assert_eq!(
            difference_from_pruned(leaf, &other, || Ok(Some(proven.clone()))),
            Ok(Some((Misbehavior::OtherLeaf, proven)))
        );
    }
}
