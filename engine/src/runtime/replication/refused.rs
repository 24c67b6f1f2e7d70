//! Lines in the log about envelopes that are refused while the peer that sent them keeps its connection.

use hawser_proto::OriginatorId;

use super::peers::PeerTable;
use super::state::{ReplicationState, now};
use crate::replication::{PeerViolation, StrandItem, VerifyResult, WantResponse};

/// Logs refused items of checked responses of a strand, unless the end of the peer's connection shows them. `peers` are
/// the connected peers.
pub(super) fn name_refused(
    state: &ReplicationState,
    originator: OriginatorId,
    peers: &PeerTable,
    responses: &[WantResponse<VerifyResult>],
) {
    let refused = |response: &WantResponse<VerifyResult>| {
        let mut items = response.items.iter();
        let violation = items.find_map(|item| match item {
            StrandItem::Envelope(Err(violation)) => Some(*violation),
            _ => None,
        })?;
        Some((response.peer, violation))
    };
    let mut refused = responses.iter().filter_map(refused);
    if originator.is_migrated() {
        if refused.any(|(_, violation)| violation == PeerViolation::ForgedSignature) {
            tracing::warn!(
                code = "migrated_strand_refused",
                originator_id = %originator,
                "a strand of the older network is signed by another key than migration-key names"
            );
        }
        return;
    }
    let now = now();
    for (peer, violation) in refused {
        let is_unproven = peers.get(&peer).is_some_and(|it| !it.kind.is_proven);
        if peer != originator
            && is_unproven
            && let Some(left_out) = state.fault_lines.count(now, peer, "passed_on")
        {
            tracing::warn!(
                code = "relayed_envelope_refused",
                node_id = %peer,
                originator_id = %originator,
                why = %violation,
                left_out,
                "a peer passes on an envelope of another node that no node takes, and did not check it"
            );
        }
    }
}
