//! One envelope beside a piece that is no envelope and no checkpoint: the leaf of a pruned one, or a statement about
//! void places.
//!
//! Both are claims. The leaf is the reporter's word. A statement and an envelope contradict each other by the times
//! that the node stated: what it signed before it lost its disk may be dated far ahead of the restored machine's clock.

use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::void::SignedVoid;
use hawser_proto::{Bytes, OriginatorId};

use super::exhibits::{Exhibit, all_signed_by, open_bytes};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use crate::registry::Registry;

/// Judges an envelope beside the leaf of the one that the reporter has pruned, and returns the accused if the envelope
/// is authentic.
pub(super) fn judge_pruned(
    pieces: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, FaultJudgement) {
    let [envelope, leaf] = pieces else {
        let fact = Fact::malformed("there is one envelope and one leaf");
        return (None, FaultJudgement::refuted(fact));
    };
    match open_bytes(envelope, registry) {
        Ok(exhibit) => {
            let ruling = beside_leaf(&exhibit, leaf).unwrap_or_else(FaultJudgement::refuted);
            (Some(exhibit.id.originator), ruling)
        }
        Err(fact) => (None, FaultJudgement::refuted(fact)),
    }
}

/// Judges a statement about void places beside an envelope, and returns the node that the statement names.
pub(super) fn judge_void(
    pieces: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, FaultJudgement) {
    let [statement, envelope] = pieces else {
        let fact = Fact::malformed("there is one statement and one envelope");
        return (None, FaultJudgement::refuted(fact));
    };
    match SignedVoid::decode(statement) {
        Ok(signed) => {
            let ruling = beside_statement(&signed, envelope, registry);
            let ruling = ruling.unwrap_or_else(FaultJudgement::refuted);
            (Some(signed.statement.node), ruling)
        }
        Err(error) => (None, FaultJudgement::refuted(Fact::malformed(error.to_string()))),
    }
}

fn beside_leaf(envelope: &Exhibit, leaf: &Bytes) -> Result<FaultJudgement, Fact> {
    let accused = envelope.id.originator;
    if !accused.is_node() {
        return Err(Fact::unknown_node(accused));
    }
    all_signed_by(std::slice::from_ref(envelope), accused)?;
    let leaf = TreeHash::from_slice(leaf)
        .ok_or_else(|| Fact::malformed("a leaf does not have 32 bytes"))?;
    let fact = |name, text: &str| Fact::new(name, text).at(envelope.id);
    if leaf_hash(LeafData::Signed(&envelope.statement)) == leaf {
        return Err(fact("consistent", "the leaf is that of the envelope"));
    }
    let text = "the reporter has pruned another envelope at this place, whose leaf is not signed";
    Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact("other_than_pruned", text)))
}

fn beside_statement(
    signed: &SignedVoid,
    envelope: &Bytes,
    registry: &Registry,
) -> Result<FaultJudgement, Fact> {
    let of = signed.statement;
    let Some(record) = registry.node(of.node).filter(|_| of.node.is_node()) else {
        return Err(Fact::unknown_node(of.node));
    };
    signed.verify(&record.public_key).map_err(|error| Fact::new("forged", error.to_string()))?;
    let envelope = open_bytes(envelope, registry)?;
    all_signed_by(std::slice::from_ref(&envelope), of.node)?;
    let fact = |name, text: &str| {
        let fact = Fact::new(name, text).at(envelope.id);
        fact.with("from", of.from.0).with("through", of.through.0).with("time_ns", of.time_ns)
    };
    if !of.covers(envelope.id.sequence) {
        return Err(fact("other_place", "the statement does not cover the place of the envelope"));
    }
    if !of.is_broken_by(envelope.ns()) {
        let text = "the node may have lost the envelope before it made the statement";
        return Err(fact("not_later", text));
    }
    let text = "the node had declared the place void; its clock may have been ahead before";
    Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact("void_signed", text)))
}
