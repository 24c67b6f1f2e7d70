//! Which envelopes of the chain strands the nodes have shown so far. Plain values.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId};

/// How many of the newest envelopes are kept, and how many bytes of them.
const KEPT_MAX: usize = 4096;
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What nodes have shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    envelopes: BTreeMap<EnvelopeId, Shown>,
    order: VecDeque<EnvelopeId>,
    bytes: usize,
    cursors: BTreeMap<OriginatorId, Cursor>,
}

#[derive(Debug)]
struct Shown {
    envelope: OriginatorEnvelope,
    by: BTreeSet<OriginatorId>,
}

impl Seen {
    /// A node has shown an envelope. Of the first that shows it the bytes are kept: nodes make
    /// them alike.
    pub(super) fn shown(&mut self, node: OriginatorId, envelope: OriginatorEnvelope) {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let Ok(statement) = UnsignedOriginatorEnvelope::parse(unsigned) else { return };
        let id = statement.id();
        if id.originator.is_node() {
            return;
        }
        self.cursors.entry(node).or_default().advance(id);
        if let Some(shown) = self.envelopes.get_mut(&id) {
            shown.by.insert(node);
            return;
        }
        self.bytes += envelope.unsigned_originator_envelope.len();
        self.envelopes.insert(id, Shown { envelope, by: [node].into() });
        self.order.push_back(id);
        while self.order.len() > KEPT_MAX || (self.bytes > KEPT_BYTES_MAX && self.order.len() > 1) {
            let oldest = self.order.pop_front().expect("there is more than one");
            if let Some(shown) = self.envelopes.remove(&oldest) {
                self.bytes -= shown.envelope.unsigned_originator_envelope.len();
            }
        }
    }

    /// An envelope, and who has shown it.
    pub(super) fn get(
        &self,
        id: EnvelopeId,
    ) -> Option<(&OriginatorEnvelope, &BTreeSet<OriginatorId>)> {
        self.envelopes.get(&id).map(|shown| (&shown.envelope, &shown.by))
    }

    /// How far a node has shown the chain strands.
    pub(super) fn cursor(&self, node: OriginatorId) -> Option<&Cursor> {
        self.cursors.get(&node)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Bytes, SequenceId};
    use prost::Message as _;

    use super::*;

    fn envelope(originator: u32, sequence: u64, len: usize) -> OriginatorEnvelope {
        use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
        use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
        let aad = pb::AuthenticatedData { target_topic: vec![1; 2 + len].into(), depends_on: None };
        let payload = pb::client_envelope::Payload::WelcomeMessage(WelcomeMessageInput::default());
        let client = pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) };
        let payer = pb::PayerEnvelope {
            unsigned_client_envelope: client.encode_to_vec().into(),
            ..Default::default()
        };
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: originator,
            originator_sequence_id: sequence,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        OriginatorEnvelope {
            unsigned_originator_envelope: statement.encode_to_vec().into(),
            proof: None,
        }
    }

    fn id(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    #[test]
    fn it_is_known_who_has_shown_what() {
        let mut seen = Seen::default();
        seen.shown(OriginatorId(100), envelope(1, 5, 0));
        seen.shown(OriginatorId(200), envelope(1, 5, 0));
        seen.shown(OriginatorId(200), envelope(1, 6, 0));
        let (_, by) = seen.get(id(1, 5)).unwrap();
        assert_eq!(by.iter().map(|node| node.0).collect::<Vec<_>>(), [100, 200]);
        assert!(seen.get(id(0, 5)).is_none());
        let cursor = seen.cursor(OriginatorId(200)).unwrap();
        assert_eq!(cursor.get(OriginatorId(1)), SequenceId(6));
    }

    #[test]
    fn what_is_no_chain_envelope_is_passed_over() {
        let mut seen = Seen::default();
        seen.shown(OriginatorId(100), envelope(300, 5, 0));
        let garbage = Bytes::from_static(b"\xff\xff");
        let garbage = OriginatorEnvelope { unsigned_originator_envelope: garbage, proof: None };
        seen.shown(OriginatorId(100), garbage);
        assert!(seen.order.is_empty());
    }

    #[test]
    fn memory_is_bounded_by_number_and_by_bytes() {
        let mut seen = Seen::default();
        for sequence in 1..=KEPT_MAX as u64 + 3 {
            seen.shown(OriginatorId(100), envelope(0, sequence, 0));
        }
        assert_eq!(seen.envelopes.len(), KEPT_MAX);
        assert!(seen.get(id(0, 3)).is_none() && seen.get(id(0, 4)).is_some());
        let mut seen = Seen::default();
        for sequence in 1..=40 {
            seen.shown(OriginatorId(100), envelope(0, sequence, 1024 * 1024));
        }
        assert!(seen.bytes <= KEPT_BYTES_MAX && seen.envelopes.len() >= 30);
        let held = seen.envelopes.values();
        let held = held.map(|shown| shown.envelope.unsigned_originator_envelope.len());
        assert_eq!(held.sum::<usize>(), seen.bytes);
    }
}
