//! Which envelopes of the chain strands the nodes have shown so far. Plain values.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::originator_envelope::Proof;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId};

/// How many of the newest envelopes are kept of each node, and how many bytes of them. What one
/// node shows pushes nothing out that another one has shown.
const KEPT_MAX: usize = 2048;
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What was put on the chain, and so what nodes have to show.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) id: EnvelopeId,
    pub(super) payload: Bytes,
    pub(super) transaction_hash: [u8; 32],
    /// Of the block, unix seconds.
    pub(super) block_time_s: u64,
}

impl Expected {
    /// How far from the block's time an envelope says it was made, nanoseconds; none if it is not
    /// the one that is expected. Not all nodes take the time from the block.
    fn matches(&self, envelope: &OriginatorEnvelope) -> Option<u64> {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
        let Some(Proof::BlockchainProof(proof)) = &envelope.proof else { return None };
        let is_it = statement.id() == self.id
            && statement.payer().client().as_bytes() == &self.payload
            && *proof.transaction_hash == self.transaction_hash;
        let block_ns = i64::try_from(self.block_time_s.saturating_mul(NS_PER_S)).ok()?;
        is_it.then(|| statement.originator_ns().abs_diff(block_ns))
    }
}

const NS_PER_S: u64 = 1_000_000_000;

/// What nodes have shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    nodes: BTreeMap<OriginatorId, OfNode>,
}

/// What one node has shown.
#[derive(Debug, Default)]
struct OfNode {
    envelopes: BTreeMap<EnvelopeId, OriginatorEnvelope>,
    order: VecDeque<EnvelopeId>,
    bytes: usize,
    cursor: Cursor,
}

/// How the nodes' showings compare with what is expected.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// The envelope that is to be believed.
    pub(super) right: Option<OriginatorEnvelope>,
    /// Who shows the envelope or another one in its place.
    pub(super) by: Vec<OriginatorId>,
    /// Who shows another one, and which.
    pub(super) wrong: Vec<(OriginatorId, OriginatorEnvelope)>,
}

impl Seen {
    /// A node has shown an envelope. Nobody has judged it yet.
    pub(super) fn shown(&mut self, node: OriginatorId, mut envelope: OriginatorEnvelope) {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let Ok(statement) = UnsignedOriginatorEnvelope::parse(unsigned) else { return };
        let id = statement.id();
        if id.originator.is_node() {
            return;
        }
        let known = self.nodes.values().filter_map(|of| of.envelopes.get(&id));
        if let Some(same) = known.into_iter().find(|known| **known == envelope) {
            envelope = same.clone(); // nodes make them alike: the bytes are held once
        }
        self.nodes.entry(node).or_default().take(id, envelope);
    }

    /// What the nodes show of something. Of several envelopes that are right, the one is taken
    /// that has the block's time, then the one that most nodes show.
    pub(super) fn compare(&self, expected: &Expected) -> Compared {
        let mut compared = Compared::default();
        let mut right: Vec<(&OriginatorEnvelope, u64, usize)> = Vec::new();
        for (node, of) in &self.nodes {
            let Some(envelope) = of.envelopes.get(&expected.id) else { continue };
            compared.by.push(*node);
            match expected.matches(envelope) {
                Some(off_ns) => match right.iter_mut().find(|(known, ..)| *known == envelope) {
                    Some((_, _, times)) => *times += 1,
                    None => right.push((envelope, off_ns, 1)),
                },
                None => compared.wrong.push((*node, envelope.clone())),
            }
        }
        let best = right
            .into_iter()
            .max_by_key(|(_, off_ns, times)| (*off_ns < NS_PER_S, *times, Reverse(*off_ns)));
        compared.right = best.map(|(envelope, ..)| envelope.clone());
        compared
    }

    /// How far a node has shown the chain strands.
    pub(super) fn cursor(&self, node: OriginatorId) -> Option<&Cursor> {
        self.nodes.get(&node).map(|of| &of.cursor)
    }
}

impl OfNode {
    /// Of one place the last is kept: the chain may have been reorganised.
    fn take(&mut self, id: EnvelopeId, envelope: OriginatorEnvelope) {
        self.cursor.advance(id);
        self.bytes += weight(&envelope);
        match self.envelopes.insert(id, envelope) {
            Some(before) => self.bytes -= weight(&before),
            None => self.order.push_back(id),
        }
        while self.order.len() > KEPT_MAX || (self.bytes > KEPT_BYTES_MAX && self.order.len() > 1) {
            let oldest = self.order.pop_front().expect("there is more than one");
            if let Some(envelope) = self.envelopes.remove(&oldest) {
                self.bytes -= weight(&envelope);
            }
        }
    }
}

fn weight(envelope: &OriginatorEnvelope) -> usize {
    let proof = match &envelope.proof {
        Some(Proof::BlockchainProof(proof)) => proof.transaction_hash.len(),
        Some(Proof::OriginatorSignature(signature)) => signature.bytes.len(),
        None => 0,
    };
    envelope.unsigned_originator_envelope.len() + proof
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;
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

    fn proven(hash: u8, mut envelope: OriginatorEnvelope) -> OriginatorEnvelope {
        use hawser_proto::pb::xmtp::xmtpv4::envelopes::BlockchainProof;
        let proof = BlockchainProof { transaction_hash: vec![hash; 32].into() };
        envelope.proof = Some(Proof::BlockchainProof(proof));
        envelope
    }

    fn expected(sequence: u64, of: &OriginatorEnvelope) -> Expected {
        let unsigned = of.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).unwrap();
        let payload = statement.payer().client().as_bytes().clone();
        Expected { id: id(1, sequence), payload, transaction_hash: [7; 32], block_time_s: 0 }
    }

    #[test]
    fn whoever_is_first_only_what_was_sent_in_its_own_transaction_is_believed() {
        let mut seen = Seen::default();
        let right = proven(7, envelope(1, 5, 0));
        let expected = expected(5, &right);
        seen.shown(OriginatorId(100), proven(7, envelope(1, 5, 1)));
        seen.shown(OriginatorId(200), proven(8, envelope(1, 5, 0)));
        seen.shown(OriginatorId(300), envelope(1, 5, 0));
        let compared = seen.compare(&expected);
        assert_eq!((compared.right, compared.wrong.len()), (None, 3));
        seen.shown(OriginatorId(400), right.clone());
        let compared = seen.compare(&expected);
        assert_eq!(compared.right, Some(right));
        assert_eq!(compared.by.iter().map(|node| node.0).collect::<Vec<_>>(), [100, 200, 300, 400]);
        assert_eq!(seen.cursor(OriginatorId(200)).unwrap().get(OriginatorId(1)), SequenceId(5));
    }

    #[test]
    fn of_several_right_ones_the_one_with_the_time_of_the_block_is_taken() {
        let mut seen = Seen::default();
        let right = proven(7, envelope(1, 5, 0));
        let mut expected = expected(5, &right);
        let mut other = right.clone();
        other.unsigned_originator_envelope = {
            use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope as Message;
            let mut message = Message::decode(right.unsigned_originator_envelope.clone()).unwrap();
            message.originator_ns = 60_000_000_000;
            message.encode_to_vec().into()
        };
        seen.shown(OriginatorId(100), other.clone());
        seen.shown(OriginatorId(200), other.clone());
        assert_eq!(seen.compare(&expected).right, Some(other.clone()));
        seen.shown(OriginatorId(300), right.clone());
        assert_eq!(seen.compare(&expected).right, Some(right));
        expected.block_time_s = 20;
        assert_eq!(seen.compare(&expected).right, Some(other), "two of three show it");
    }

    #[test]
    fn a_node_pushes_out_nothing_that_another_has_shown() {
        let mut seen = Seen::default();
        let right = proven(7, envelope(1, 5, 0));
        seen.shown(OriginatorId(100), right.clone());
        for sequence in 1..=KEPT_MAX as u64 + 10 {
            seen.shown(OriginatorId(200), envelope(1, sequence, 0));
        }
        let compared = seen.compare(&expected(5, &right));
        assert_eq!((compared.right, compared.by), (Some(right), vec![OriginatorId(100)]));
    }

    #[test]
    fn what_is_no_chain_envelope_is_passed_over() {
        let mut seen = Seen::default();
        seen.shown(OriginatorId(100), envelope(300, 5, 0));
        let garbage = Bytes::from_static(b"\xff\xff");
        let garbage = OriginatorEnvelope { unsigned_originator_envelope: garbage, proof: None };
        seen.shown(OriginatorId(100), garbage);
        assert!(seen.nodes.is_empty());
    }

    #[test]
    fn memory_is_bounded_by_number_and_by_bytes() {
        let mut node = OfNode::default();
        for sequence in 1..=KEPT_MAX as u64 + 3 {
            node.take(id(0, sequence), envelope(0, sequence, 0));
        }
        assert_eq!(node.envelopes.len(), KEPT_MAX);
        let has = |sequence| node.envelopes.contains_key(&id(0, sequence));
        assert!(!has(3) && has(4));
        let mut node = OfNode::default();
        for sequence in 1..=40 {
            node.take(id(0, sequence % 30), envelope(0, sequence % 30, 1024 * 1024));
        }
        assert!(node.bytes <= KEPT_BYTES_MAX && node.envelopes.len() >= 15);
        assert_eq!(node.envelopes.values().map(weight).sum::<usize>(), node.bytes);
    }
}
