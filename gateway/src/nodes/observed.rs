//! The newest chain envelopes that each node has shown. Plain values.
//!
//! Each node has a window in order of arrival. This is no shared cache, because only the newest envelopes matter,
//! and a node must not be able to displace the envelopes of another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use hawser_proto::envelope::{self, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::originator_envelope::Proof;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, TransactionHash};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use prost::Message as _;

use super::answer::ANSWER_OVERHEAD_BYTES;

/// Largest number of envelopes, and of their bytes, in a node's window. Guesses: some minutes of a busy chain. The
/// worst case with 20 nodes that all show different bytes is 320 MB; with honest nodes it is 16 MB.
const KEPT_MAX: usize = 2048;
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The maximum number of bytes of tag and length before an envelope in a message.
const ENTRY_LEN_BYTES: usize = 6;

/// The envelope that nodes must show for a payload on the chain.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedEnvelope {
    pub(crate) id: EnvelopeId,
    /// The client envelope.
    pub(crate) payload: Bytes,
    pub(crate) transaction_hash: TransactionHash,
    /// Time of the block, unix seconds.
    pub(crate) block_time_s: u64,
}

impl ExpectedEnvelope {
    /// Returns the envelope that other nodes must show if this envelope is on the chain; `None` if it is not an
    /// envelope of a chain.
    pub(crate) fn of_shown(envelope: &OriginatorEnvelope) -> Option<Self> {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
        let Some(Proof::BlockchainProof(proof)) = &envelope.proof else { return None };
        let transaction_hash = TransactionHash(proof.transaction_hash.as_ref().try_into().ok()?);
        let payload = statement.payer().client().as_bytes().clone();
        Some(Self { id: statement.id(), payload, transaction_hash, block_time_s: 0 })
    }

    /// Returns the difference between an envelope's time and the block's, nanoseconds; `None` if the envelope does
    /// not match. A difference is not a fault: other implementations of a node use their own clock. One with padding
    /// does not match: a chain signs no envelopes, and the gateway keeps the one that does for minutes.
    pub(crate) fn matches(&self, envelope: &OriginatorEnvelope) -> Option<u64> {
        if is_padded(envelope, &self.payload) {
            return None; // before it is parsed: it may be long
        }
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
        let Some(Proof::BlockchainProof(proof)) = &envelope.proof else { return None };
        let matches = statement.id() == self.id
            && statement.payer().client().as_bytes() == &self.payload
            && *proof.transaction_hash == self.transaction_hash.0;
        let block_ns = i64::try_from(self.block_time_s.saturating_mul(NS_PER_S)).ok()?;
        matches.then(|| statement.originator_ns().abs_diff(block_ns))
    }
}

const NS_PER_S: u64 = 1_000_000_000;

/// The chain envelopes that nodes have shown.
#[derive(Debug, Default)]
pub(super) struct Observations {
    nodes: BTreeMap<OriginatorId, NodeWindow>,
}

/// The newest envelopes of one node, in order of arrival.
#[derive(Debug, Default)]
struct NodeWindow {
    envelopes: BTreeMap<EnvelopeId, OriginatorEnvelope>,
    order: VecDeque<EnvelopeId>,
    bytes: usize,
    cursor: Cursor,
    /// True while the node is not in the registry.
    has_left: bool,
}

/// The envelopes that nodes show at the id of an expected one.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The best matching envelope.
    pub(crate) matching: Option<OriginatorEnvelope>,
    /// Nodes that show any envelope at the id.
    pub(crate) shown_by: Vec<OriginatorId>,
    /// Nodes that show another envelope at the id, with that envelope.
    pub(crate) differing: Vec<(OriginatorId, OriginatorEnvelope)>,
}

impl Observations {
    /// Records an envelope that a node has shown, unverified, and returns its id. Ignores envelopes of nodes'
    /// strands, and of a node that has left: its stream ends only when no request needs the node any more. Reads the id
    /// only: publishers wait for the lock on this value, and a payload may take long to parse.
    pub(super) fn record(
        &mut self,
        node: OriginatorId,
        mut envelope: OriginatorEnvelope,
    ) -> Option<EnvelopeId> {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let (id, _) = envelope::OriginatorEnvelope::statement(unsigned).ok()?;
        if id.originator.is_node() || self.nodes.get(&node).is_some_and(|window| window.has_left) {
            return None;
        }
        let known = self.nodes.values().filter_map(|window| window.envelopes.get(&id));
        envelope = match known.into_iter().find(|known| **known == envelope) {
            Some(same) => same.clone(), // shares the buffers: most nodes show equal bytes
            None => with_own_buffers(&envelope),
        };
        self.nodes.entry(node).or_default().insert(id, envelope);
        Some(id)
    }

    /// Takes what a node shows from now on: it is in the registry.
    pub(super) fn join(&mut self, node: OriginatorId) {
        self.nodes.entry(node).or_default().has_left = false;
    }

    /// Forgets the envelopes of all nodes but these, and takes no more of them until they join again. Keeps the
    /// cursors: a node that comes back goes on behind what it has shown, and does not look behind there.
    pub(super) fn keep_nodes(&mut self, is_kept: impl Fn(OriginatorId) -> bool) {
        for (_, window) in self.nodes.iter_mut().filter(|(node, _)| !is_kept(**node)) {
            let cursor = std::mem::take(&mut window.cursor);
            *window = NodeWindow { cursor, has_left: true, ..NodeWindow::default() };
        }
    }

    /// Compares the envelopes that nodes have shown with an expected one. Among several that match, prefers one
    /// with the block's time, then the one that most nodes show.
    pub(super) fn compare(&self, expected: &ExpectedEnvelope) -> Comparison {
        let mut comparison = Comparison::default();
        let mut matching: Vec<(&OriginatorEnvelope, u64, usize)> = Vec::new();
        for (node, window) in &self.nodes {
            let Some(envelope) = window.envelopes.get(&expected.id) else { continue };
            comparison.shown_by.push(*node);
            match expected.matches(envelope) {
                Some(off_ns) => match matching.iter_mut().find(|(known, ..)| *known == envelope) {
                    Some((_, _, times)) => *times += 1,
                    None => matching.push((envelope, off_ns, 1)),
                },
                None => comparison.differing.push((*node, envelope.clone())),
            }
        }
        let best = matching
            .into_iter()
            .max_by_key(|(_, off_ns, times)| (*off_ns < NS_PER_S, *times, Reverse(*off_ns)));
        comparison.matching = best.map(|(envelope, ..)| envelope.clone());
        comparison
    }

    /// Returns true if a node is behind another node at this place. The node has shown neither the envelope nor a later
    /// envelope of the strand, and the other node has shown the envelope.
    pub(super) fn is_behind(&self, node: OriginatorId, id: EnvelopeId) -> bool {
        let own = self.nodes.get(&node).map_or(SequenceId::NONE, |it| it.cursor.get(id.originator));
        own < id.sequence && self.nodes.values().any(|window| window.envelopes.contains_key(&id))
    }

    /// Returns the cursor over the chain envelopes that a node has shown; `None` if it has shown none.
    pub(super) fn cursor(&self, node: OriginatorId) -> Option<&Cursor> {
        self.nodes.get(&node).map(|window| &window.cursor).filter(|cursor| !cursor.is_empty())
    }
}

impl NodeWindow {
    /// Adds an envelope, and removes the oldest ones beyond the bounds. A later envelope with the same id replaces
    /// the earlier one: the chain may have been reorganised.
    fn insert(&mut self, id: EnvelopeId, envelope: OriginatorEnvelope) {
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
        debug_assert_eq!(self.order.len(), self.envelopes.len(), "one place for each envelope");
    }
}

/// Returns the most bytes of an answer that shows an envelope of this client envelope: as many as a response has room
/// for.
pub(super) fn shown_len_bytes_max(client: &Bytes) -> usize {
    client.len().saturating_add(ANSWER_OVERHEAD_BYTES).min(MESSAGE_LEN_BYTES_MAX)
}

/// Returns true if an envelope is far longer than one of this client envelope: its node has added something.
pub(crate) fn is_padded(envelope: &OriginatorEnvelope, client: &Bytes) -> bool {
    envelope.encoded_len() + ENTRY_LEN_BYTES > shown_len_bytes_max(client)
}

/// Returns a copy of the envelope with buffers of its own. The fields of a decoded envelope share the message's
/// buffer, so a small envelope that is kept would keep a message of up to 25 MiB.
pub(crate) fn with_own_buffers(envelope: &OriginatorEnvelope) -> OriginatorEnvelope {
    let own = |bytes: &mut Bytes| *bytes = Bytes::copy_from_slice(bytes);
    let mut envelope = envelope.clone();
    own(&mut envelope.unsigned_originator_envelope);
    match &mut envelope.proof {
        Some(Proof::BlockchainProof(proof)) => own(&mut proof.transaction_hash),
        Some(Proof::OriginatorSignature(signature)) => own(&mut signature.bytes),
        None => {}
    }
    envelope
}

/// Returns the approximate number of bytes that an envelope takes in memory.
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

    fn expected(sequence: u64, of: &OriginatorEnvelope) -> ExpectedEnvelope {
        let unsigned = of.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).unwrap();
        let payload = statement.payer().client().as_bytes().clone();
        ExpectedEnvelope {
            id: id(1, sequence),
            payload,
            transaction_hash: TransactionHash([7; 32]),
            block_time_s: 0,
        }
    }

    #[test]
    fn only_the_payload_in_its_own_transaction_matches_whichever_node_is_first() {
        let mut observed = Observations::default();
        let right = proven(7, envelope(1, 5, 0));
        let expected = expected(5, &right);
        observed.record(OriginatorId(100), proven(7, envelope(1, 5, 1)));
        observed.record(OriginatorId(200), proven(8, envelope(1, 5, 0)));
        observed.record(OriginatorId(300), envelope(1, 5, 0));
        let compared = observed.compare(&expected);
        assert_eq!((compared.matching, compared.differing.len()), (None, 3));
        observed.record(OriginatorId(400), right.clone());
        let compared = observed.compare(&expected);
        assert_eq!(compared.matching, Some(right));
        assert_eq!(
            compared.shown_by.iter().map(|node| node.0).collect::<Vec<_>>(),
            [100, 200, 300, 400]
        );
        assert_eq!(observed.cursor(OriginatorId(200)).unwrap().get(OriginatorId(1)), SequenceId(5));
    }

    #[test]
    fn a_node_is_behind_at_a_place_that_another_one_has_shown() {
        let mut observed = Observations::default();
        let (ahead, behind) = (OriginatorId(100), OriginatorId(200));
        assert!(!observed.is_behind(behind, id(1, 5)), "no node has shown it");
        observed.record(ahead, envelope(1, 6, 0));
        assert!(observed.is_behind(behind, id(1, 6)));
        for other in [id(1, 5), id(1, 7), id(0, 6)] {
            assert!(!observed.is_behind(behind, other), "no node has shown {other}");
        }
        assert!(!observed.is_behind(ahead, id(1, 6)));
        observed.record(behind, envelope(1, 5, 0));
        assert!(observed.is_behind(behind, id(1, 6)));
        observed.record(behind, envelope(1, 7, 0));
        assert!(!observed.is_behind(behind, id(1, 6)), "it passed over that place");
    }

    /// The node that leaves may have made an envelope up, which no other node ever shows. Its stream may go on for a
    /// while: requests that are under way hold its connection.
    #[test]
    fn chain_envelopes_of_a_node_are_forgotten_when_it_leaves_and_later_ones_are_ignored() {
        let mut observed = Observations::default();
        let (gone, stays) = (OriginatorId(100), OriginatorId(200));
        [gone, stays].into_iter().for_each(|node| observed.join(node));
        observed.record(gone, envelope(1, 6, 0));
        observed.record(stays, envelope(1, 5, 0));
        assert!(observed.is_behind(stays, id(1, 6)));
        observed.keep_nodes(|node| node == stays);
        assert!(!observed.is_behind(stays, id(1, 6)));
        assert_eq!(observed.record(gone, envelope(1, 7, 0)), None);
        assert!(!observed.is_behind(stays, id(1, 7)));
        let at_seven = observed.compare(&expected(7, &envelope(1, 7, 0)));
        assert!(at_seven.shown_by.is_empty());
    }

    /// A registry that is read anew, or an address that is repaired, brings an honest node back.
    #[test]
    fn a_node_that_comes_back_goes_on_where_it_was() {
        let mut observed = Observations::default();
        let (back, other) = (OriginatorId(100), OriginatorId(200));
        [back, other].into_iter().for_each(|node| observed.join(node));
        assert!(observed.cursor(back).is_none(), "its first stream starts with new envelopes");
        [back, other].into_iter().for_each(|node| _ = observed.record(node, envelope(1, 6, 0)));
        observed.keep_nodes(|node| node == other);
        observed.join(back);
        assert!(!observed.is_behind(back, id(1, 6)), "it has shown that place");
        assert_eq!(observed.cursor(back).unwrap().get(OriginatorId(1)), SequenceId(6));
        observed.record(other, envelope(1, 7, 0));
        assert!(observed.is_behind(back, id(1, 7)));
        observed.record(back, envelope(1, 7, 0));
        assert!(!observed.is_behind(back, id(1, 7)));
    }

    #[test]
    fn an_envelope_with_padding_is_another_one() {
        let mut observed = Observations::default();
        let right = proven(7, envelope(1, 5, 0));
        let expected = expected(5, &right);
        let padded = |len: usize| {
            let mut envelope = right.clone();
            let unknown: Vec<u8> = [&[0x7a_u8, 0x80, 0x80, 0x04][..], &[0; 1 << 16]].concat();
            let unsigned = [&right.unsigned_originator_envelope[..], &unknown.repeat(len)].concat();
            envelope.unsigned_originator_envelope = unsigned.into();
            envelope
        };
        assert!(expected.matches(&padded(0)).is_some());
        assert!(expected.matches(&padded(1)).is_none());
        observed.record(OriginatorId(100), padded(1));
        let compared = observed.compare(&expected);
        assert_eq!((compared.matching, compared.differing.len()), (None, 1));
    }

    #[test]
    fn a_small_envelope_keeps_no_large_message() {
        use hawser_proto::pb::xmtp::xmtpv4::message_api::QueryEnvelopesResponse;
        let envelopes = [proven(7, envelope(1, 5, 0)), envelope(1, 6, 1 << 20)];
        let envelopes = envelopes.iter().map(|it| it.encode_to_vec().into()).collect();
        let received = Bytes::from(QueryEnvelopesResponse { envelopes }.encode_to_vec());
        let mut message = QueryEnvelopesResponse::decode(received.clone()).unwrap();
        message.envelopes.truncate(1);
        let small = OriginatorEnvelope::decode(message.envelopes.remove(0)).unwrap();
        assert!(!received.is_unique(), "a decoded envelope is a part of its message");
        let mut observed = Observations::default();
        let mut other = small.clone();
        other.proof = None;
        observed.record(OriginatorId(100), small);
        observed.record(OriginatorId(200), other);
        assert!(received.is_unique(), "nothing that is kept refers to the message");
    }

    #[test]
    fn of_several_right_ones_the_one_with_the_time_of_the_block_is_taken() {
        let mut observed = Observations::default();
        let right = proven(7, envelope(1, 5, 0));
        let mut expected = expected(5, &right);
        let mut other = right.clone();
        other.unsigned_originator_envelope = {
            use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope as Message;
            let mut message = Message::decode(right.unsigned_originator_envelope.clone()).unwrap();
            message.originator_ns = 60_000_000_000;
            message.encode_to_vec().into()
        };
        observed.record(OriginatorId(100), other.clone());
        observed.record(OriginatorId(200), other.clone());
        assert_eq!(observed.compare(&expected).matching, Some(other.clone()));
        observed.record(OriginatorId(300), right.clone());
        assert_eq!(observed.compare(&expected).matching, Some(right));
        expected.block_time_s = 20;
        assert_eq!(observed.compare(&expected).matching, Some(other), "two of three show it");
    }

    #[test]
    fn a_node_pushes_out_nothing_that_another_has_shown() {
        let mut observed = Observations::default();
        let right = proven(7, envelope(1, 5, 0));
        observed.record(OriginatorId(100), right.clone());
        for sequence in 1..=KEPT_MAX as u64 + 10 {
            observed.record(OriginatorId(200), envelope(1, sequence, 0));
        }
        let compared = observed.compare(&expected(5, &right));
        assert_eq!((compared.matching, compared.shown_by), (Some(right), vec![OriginatorId(100)]));
    }

    #[test]
    fn envelopes_of_no_chain_are_ignored() {
        let mut observed = Observations::default();
        observed.record(OriginatorId(100), envelope(300, 5, 0));
        let garbage = Bytes::from_static(b"\xff\xff");
        let garbage = OriginatorEnvelope { unsigned_originator_envelope: garbage, proof: None };
        observed.record(OriginatorId(100), garbage);
        assert!(observed.nodes.is_empty());
    }

    #[test]
    fn an_envelope_whose_payload_does_not_parse_is_another_one_at_its_place() {
        use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
        let right = proven(7, envelope(1, 5, 0));
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 1,
            originator_sequence_id: 5,
            payer_envelope_bytes: Bytes::from_static(b"nonsense"),
            ..Default::default()
        };
        let unsigned = statement.encode_to_vec().into();
        let other = OriginatorEnvelope { unsigned_originator_envelope: unsigned, proof: None };
        let mut observed = Observations::default();
        assert_eq!(observed.record(OriginatorId(100), other.clone()), Some(id(1, 5)));
        let compared = observed.compare(&expected(5, &right));
        assert_eq!(compared.differing, [(OriginatorId(100), other)]);
    }

    #[test]
    fn memory_is_bounded_by_number_and_by_bytes() {
        let mut window = NodeWindow::default();
        for sequence in 1..=KEPT_MAX as u64 + 3 {
            window.insert(id(0, sequence), envelope(0, sequence, 0));
        }
        assert_eq!(window.envelopes.len(), KEPT_MAX);
        let has = |sequence| window.envelopes.contains_key(&id(0, sequence));
        assert!(!has(3) && has(4));
        let mut window = NodeWindow::default();
        for sequence in 1..=40 {
            window.insert(id(0, sequence % 30), envelope(0, sequence % 30, 1024 * 1024));
        }
        assert!(window.bytes <= KEPT_BYTES_MAX && window.envelopes.len() >= 15);
        assert_eq!(window.envelopes.values().map(weight).sum::<usize>(), window.bytes);
    }
}
