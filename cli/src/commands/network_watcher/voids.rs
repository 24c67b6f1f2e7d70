//! Statements of nodes that places of their own strands are void. Nodes that lack these places are not behind.
//!
//! **A node is not trusted.** Only statements that the node's key has signed count, an answer is bounded in bytes and
//! time, and a statement that goes on behind the node's claim hides no distance ([`LackedPlaces`]).

use hawser_node::CheckedChannel;
use hawser_proto::pb::hawser::checkpoint_api::GetCheckpointRequest;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_client::CheckpointApiClient;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::void::{LackedPlaces, SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{Bytes, SequenceId};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::Code;

use super::content::{ANSWER_MAX, PROOF_ANSWER_LEN_BYTES_MAX};
use super::page::WatcherPage;
use super::state::NetworkView;

/// Places behind which a node is asked again. A guess: far fewer than a node leaves out, a million at least, and more
/// than a node signs in many seconds.
const ASKED_EVERY: u64 = 100_000;

/// The questions to one node for its statements, on one connection.
pub(super) struct VoidQuestions {
    api: CheckpointApiClient<CheckedChannel>,
    /// The node's place in its own strand when it answered last; 0 before.
    answered_at: u64,
}

impl VoidQuestions {
    pub(super) fn new(channel: CheckedChannel) -> Self {
        let api =
            CheckpointApiClient::new(channel).max_decoding_message_size(PROOF_ANSWER_LEN_BYTES_MAX);
        Self { api, answered_at: 0 }
    }

    /// Asks a node for its statements if its own place in its cursor is far above the one of the last answer. To be
    /// called before the cursor is taken, so that no alarm is raised in between.
    pub(super) async fn ask_if_due(
        &mut self,
        node: u32,
        cursor: &Cursor,
        watch: &Mutex<WatcherPage>,
    ) {
        let place = cursor.node_id_to_sequence_id.get(&node).copied().unwrap_or_default();
        if place.saturating_sub(self.answered_at) < ASKED_EVERY {
            return;
        }
        let request = GetCheckpointRequest { originator_id: node, ..Default::default() };
        match timeout(ANSWER_MAX, self.api.get_checkpoint(request)).await {
            Ok(Ok(answer)) => {
                watch.lock().view.note_voids(node, &answer.into_inner().void_statements);
            }
            // It has signed none, or is of other software.
            Ok(Err(status)) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => {}
            // It is asked again with its next cursor.
            Ok(Err(_)) | Err(_) => return,
        }
        self.answered_at = place;
    }
}

impl NetworkView {
    /// Takes the statements that a node shows about its own strand, without those that its key has not signed.
    fn note_voids(&mut self, node: u32, shown: &[Bytes]) {
        let Some(key) = self.public_keys.get(&node) else { return };
        let of_node = |bytes: &Bytes| {
            let signed = SignedVoid::decode(bytes).ok()?;
            let is_its = signed.statement.node.0 == node && signed.verify(key).is_ok();
            is_its.then_some(signed.statement)
        };
        let stated = shown.iter().take(VOIDS_OF_NODE_MAX).filter_map(of_node).collect();
        self.voids.insert(node, stated);
    }

    /// Returns the number of places of a strand that one node claims and another node lacks, without places that are
    /// declared void.
    pub(super) fn lacked(&self, originator: u32, held: u64, claimed: u64) -> u64 {
        let declared = self.voids.get(&originator).into_iter().flatten().copied();
        LackedPlaces::new(SequenceId(held), SequenceId(claimed), declared).count
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::void::VoidStatement;
    use hawser_proto::{OriginatorId, SecretKey};

    use super::super::state::RegistryEntry;
    use super::super::table;
    use super::*;

    const END: u64 = 1_000_002;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn shown(node: u32, through: u64, signer: &SecretKey) -> Bytes {
        let (node, from, through) = (OriginatorId(node), SequenceId(3), SequenceId(through));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        Bytes::copy_from_slice(&of.sign(signer).encode())
    }

    /// A view of two nodes, of which the first one has left places 3 to [`END`] out.
    fn view() -> NetworkView {
        let mut view = NetworkView::default();
        let entry = |(id, seed): (u32, u8)| RegistryEntry {
            id,
            address: format!("http://node-{id}"),
            is_canonical: true,
            public_key: Some(key(seed).public_key()),
        };
        view.set_registry(&[(100, 1), (200, 2)].map(entry));
        for (node, place) in [(100, END), (200, 2)] {
            view.note_cursor(node, &Cursor { node_id_to_sequence_id: [(100, place)].into() }, 1);
        }
        view
    }

    fn alarms(view: &NetworkView) -> Vec<&'static str> {
        view.judge(5000).iter().map(|alarm| alarm.kind.name()).collect()
    }

    #[test]
    fn only_what_the_node_itself_has_signed_about_places_that_it_claims_explains_a_distance() {
        let mut view = view();
        assert_eq!(alarms(&view), ["divergence"]);
        for other in [
            shown(100, END, &key(2)),
            shown(200, END, &key(1)),
            shown(100, END + 1, &key(1)),
            Bytes::from_static(b"noise"),
        ] {
            view.note_voids(100, &[other]);
            assert_eq!(alarms(&view), ["divergence"]);
        }
        view.note_voids(200, &[shown(100, END, &key(1))]);
        assert_eq!(alarms(&view), ["divergence"], "another node shows it");
        view.note_voids(100, &[shown(100, END, &key(1))]);
        assert!(alarms(&view).is_empty(), "{:?}", view.judge(5000));
        assert_eq!(view.lacked(100, 2, END), 0);
        assert_eq!(table::held(&view, 100, END), "all nodes, except for void places");
        assert_eq!(table::held(&view, 100, 2), "all nodes");

        // What follows counts as ever.
        let later = Cursor { node_id_to_sequence_id: [(100, END + 5001)].into() };
        view.note_cursor(100, &later, 2);
        assert_eq!(alarms(&view), ["divergence"]);
    }
}
