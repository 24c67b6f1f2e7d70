//! Envelopes of the app chain's strands: the same event becomes the same bytes on every node.
//!
//! The envelope is made from the block alone: its time is the block's, it has no price and no
//! expiry, and its proof is the transaction. Specified in `docs/protocol/chain-strands.md`.

use hawser_proto::envelope::{ClientEnvelope, OriginatorEnvelope, Payload, Proof};
use hawser_proto::mls::parse_group_message;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, InboxId, OriginatorId, SequenceId};
use hawser_storage::Facts;
use prost::Message as _;

use crate::facts;

pub use hawser_storage::ChainPosition;

/// A payload that a broadcaster contract has put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEvent {
    /// The sequence id that the contract assigned.
    pub sequence: SequenceId,
    /// Time of the block, unix seconds.
    pub block_time_s: u64,
    /// Hash of the transaction that emitted the event.
    pub transaction_hash: [u8; 32],
    /// The client envelope, as broadcast.
    pub client_bytes: Bytes,
    /// Identifier that the event itself names: the 16 bytes of a group id, or the 32 of an inbox
    /// id. The topic in the client envelope has to have the same. `None` if only the client
    /// envelope is known, as in a chain file.
    pub topic_identifier: Option<Bytes>,
    /// True if the contract's operator wrote the event while the contract was paused, under a sequence id of the
    /// operator's choice. Such ids may skip others, and an event with a taken or lower id is ignored. For any other
    /// event a gap is an error, and so is a taken id.
    pub bootstrapped: bool,
}

impl ChainEvent {
    /// Returns the event of which every node makes exactly these bytes at this place of a chain's strand; `None` if
    /// there is none. Proves nothing about the chain, because bytes of this form can be invented.
    #[must_use]
    pub fn of_bytes(at: EnvelopeId, bytes: &Bytes) -> Option<Self> {
        let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
        let Proof::Transaction(transaction_hash) = envelope.proof() else { return None };
        let unsigned = envelope.unsigned();
        let event = Self {
            sequence: at.sequence,
            block_time_s: u64::try_from(unsigned.originator_ns() / 1_000_000_000).ok()?,
            transaction_hash,
            client_bytes: unsigned.payer().client().as_bytes().clone(),
            topic_identifier: None,
            bootstrapped: false,
        };
        match ChainEntry::from_event(at.originator, &event) {
            ChainEntry::Envelope(made) if made.bytes == *bytes => Some(event),
            ChainEntry::Envelope(_) | ChainEntry::Void(_) => None,
        }
    }

    /// Returns true if `held` is what the log has at the place of this event after it was stored: its envelope, or
    /// nothing at a void place. The envelope counts also if its place would be void by now: a log keeps what an earlier
    /// version has made of the event.
    pub(crate) fn is_held_as(&self, originator: OriginatorId, held: Option<&Bytes>) -> bool {
        let Some(held) = held else {
            return matches!(ChainEntry::from_event(originator, self), ChainEntry::Void(_));
        };
        let id = EnvelopeId::new(originator, self.sequence);
        encode(id, self.originator_ns(), self) == *held
            && ClientEnvelope::parse(self.client_bytes.clone())
                .is_ok_and(|client| is_filed_as(self, &client))
    }

    /// Returns the time of the envelope made from this event: its block's, unix nanoseconds.
    #[must_use]
    pub fn originator_ns(&self) -> i64 {
        i64::try_from(self.block_time_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
    }
}

/// The entry of the strand that an event becomes.
#[derive(Debug, Clone)]
pub enum ChainEntry {
    /// An envelope of the strand.
    Envelope(Box<ChainEnvelope>),
    /// The bytes show every node that the event is no envelope of the strand: its place stays
    /// empty.
    Void(EnvelopeId),
}

impl ChainEntry {
    /// Makes the entry of an event of `originator`, one of the two chain strands.
    #[must_use]
    pub fn from_event(originator: OriginatorId, event: &ChainEvent) -> Self {
        let id = EnvelopeId::new(originator, event.sequence);
        let client = ClientEnvelope::parse(event.client_bytes.clone()).ok();
        let client = client.filter(|client| is_payload_of(originator, event, client));
        let Some(client) = client else { return Self::Void(id) };
        let originator_ns = event.originator_ns();
        let inbox = match client.payload() {
            Payload::IdentityUpdate(_) => InboxId::from_slice(client.topic().identifier()),
            _ => None,
        };
        Self::Envelope(Box::new(ChainEnvelope {
            id,
            bytes: encode(id, originator_ns, event),
            facts: facts::of_chain_event(originator, &client, originator_ns),
            inbox,
        }))
    }
}

/// An envelope made from an event.
#[derive(Debug, Clone)]
pub struct ChainEnvelope {
    /// The chain's originator id, and the sequence id that the contract assigned.
    pub id: EnvelopeId,
    /// The originator envelope to store.
    pub bytes: Bytes,
    /// The facts that projections keep if the envelope is valid.
    pub facts: Facts,
    /// The inbox, if the envelope carries an identity update. It is stored only after its inbox has been consulted.
    /// The update is not held: a batch of events may have a hundred long ones, and one of empty actions takes two
    /// hundred times its bytes once it is decoded.
    pub inbox: Option<InboxId>,
}

/// Encodes the originator envelope. Every field follows from the event, and prost writes fields in
/// the order of their tags, so all nodes make the same bytes.
fn encode(id: EnvelopeId, originator_ns: i64, event: &ChainEvent) -> Bytes {
    let payer = pb::PayerEnvelope {
        unsigned_client_envelope: event.client_bytes.clone(),
        ..Default::default()
    };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: id.originator.0,
        originator_sequence_id: id.sequence.0,
        originator_ns,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    let proof = Proof::Transaction(event.transaction_hash);
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof)
}

/// Returns true if the client envelope is a well-formed payload of this strand, and filed as the event says. Depends on
/// bytes alone: every node must leave the same places void.
///
/// A group message has to be exactly one MLS message that clients decode. Any account may have the chain order other
/// bytes, and a published client that gets them in a page reads nothing more of that group.
fn is_payload_of(originator: OriginatorId, event: &ChainEvent, client: &ClientEnvelope) -> bool {
    let identifier = client.topic().identifier();
    is_filed_as(event, client)
        && match client.payload() {
            Payload::GroupMessage(message) => {
                originator == OriginatorId::GROUP_MESSAGES
                    && matches!(&message.version, Some(Version::V1(v1)) if is_read_in(identifier, &v1.data))
            }
            Payload::IdentityUpdate(_) => {
                originator == OriginatorId::IDENTITY_UPDATES
                    && InboxId::from_slice(identifier).is_some()
            }
            _ => false,
        }
}

/// Returns true if the topic is of the kind of the payload, and has the identifier that the event names.
fn is_filed_as(event: &ChainEvent, client: &ClientEnvelope) -> bool {
    let identifier = client.topic().identifier();
    client.topic().kind() == client.payload_kind()
        && event.topic_identifier.as_ref().is_none_or(|named| named == identifier)
}

fn is_read_in(topic_id: &[u8], message: &[u8]) -> bool {
    parse_group_message(message).is_ok_and(|frame| frame.check_group_id(topic_id).is_ok())
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
    use hawser_storage::Validity;

    use super::*;

    fn vector(route: &str) -> Bytes {
        let text = include_str!("../../tests/vectors/client/envelopes.jsonl");
        let line = text.lines().find(|line| line.contains(route)).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        hex::decode(line["hex"].as_str().unwrap()).unwrap().into()
    }

    fn event(client_bytes: Bytes) -> ChainEvent {
        ChainEvent {
            sequence: SequenceId(3),
            block_time_s: 1_750_000_001,
            transaction_hash: [5; 32],
            client_bytes,
            topic_identifier: None,
            bootstrapped: false,
        }
    }

    #[test]
    fn an_event_becomes_an_envelope_with_the_clients_bytes_and_the_blocks_time() {
        let client = vector("chain:group");
        let entry = ChainEntry::from_event(OriginatorId::GROUP_MESSAGES, &event(client.clone()));
        let ChainEntry::Envelope(made) = entry else { panic!("{entry:?}") };
        let envelope = OriginatorEnvelope::parse(made.bytes.clone()).unwrap();
        assert_eq!(envelope.id(), EnvelopeId::new(OriginatorId(0), SequenceId(3)));
        assert_eq!(envelope.proof(), Proof::Transaction([5; 32]));
        assert_eq!(envelope.unsigned().originator_ns(), 1_750_000_001_000_000_000);
        assert_eq!(envelope.unsigned().payer().client().as_bytes(), &client);
        assert_eq!(envelope.unsigned().expiry_unix_s(), 0);
        assert_eq!(made.id, envelope.id());
        let rebuilt = facts::of_stored(&made.bytes, Validity::Valid, OriginatorId(100));
        assert_eq!(rebuilt, Some(made.facts), "a rebuild says the same of it");
    }

    /// Any account may write such a commit, and members of its group would wait for a place that their topic lacks.
    #[test]
    fn a_commit_that_depends_on_nodes_depends_on_a_place_that_never_comes() {
        let mut client = pb::ClientEnvelope::decode(vector("chain:group")).unwrap();
        let named = [(0, 2), (100, 0), (200, 7), (300, 9)].into();
        let named = pb::Cursor { node_id_to_sequence_id: named };
        client.aad.as_mut().unwrap().depends_on = Some(named);
        let event = event(client.encode_to_vec().into());
        let entry = ChainEntry::from_event(OriginatorId::GROUP_MESSAGES, &event);
        let ChainEntry::Envelope(made) = entry else { panic!("{entry:?}") };
        let of_chain = |sequence| EnvelopeId::new(OriginatorId::GROUP_MESSAGES, sequence);
        let expected = [of_chain(SequenceId(2)), of_chain(SequenceId::MAX)];
        assert_eq!(made.facts.depends_on, expected);
        let rebuilt = facts::of_stored(&made.bytes, Validity::Valid, OriginatorId(100));
        assert_eq!(rebuilt, Some(made.facts), "a rebuild says the same of it");
    }

    #[test]
    fn an_identity_update_names_its_inbox() {
        let entry = ChainEntry::from_event(
            OriginatorId::IDENTITY_UPDATES,
            &event(vector("chain:identity")),
        );
        let ChainEntry::Envelope(made) = entry else { panic!("{entry:?}") };
        let inbox = made.inbox.unwrap();
        assert_eq!(made.facts.topic.as_ref().unwrap().identifier(), inbox.0);
        let rebuilt = facts::of_stored(&made.bytes, Validity::Valid, OriginatorId(100));
        assert_eq!(rebuilt, Some(made.facts), "a rebuild says the same of it");
    }

    /// A batch of events may have a hundred of them.
    #[test]
    fn an_update_of_empty_actions_is_not_held_decoded() {
        let actions = vec![Default::default(); 10_000];
        let update = IdentityUpdate { actions, ..Default::default() };
        let target_topic = [&[2_u8][..], &[5; 32]].concat().into();
        let aad = Some(pb::AuthenticatedData { target_topic, depends_on: None });
        let payload = Some(Payload::IdentityUpdate(update));
        let client: Bytes = pb::ClientEnvelope { aad, payload }.encode_to_vec().into();
        let event = event(client.clone());
        let entry = ChainEntry::from_event(OriginatorId::IDENTITY_UPDATES, &event);
        let ChainEntry::Envelope(made) = entry else { panic!("{entry:?}") };
        assert_eq!(made.inbox, InboxId::from_slice(&[5; 32]));
        // Everything that it holds is in this text, where an action takes some thirty characters.
        assert!(format!("{made:?}").len() < 5 * client.len());
    }

    #[test]
    fn bytes_are_an_envelope_of_a_chain_if_an_event_makes_exactly_these() {
        let client = vector("chain:group");
        let at = EnvelopeId::new(OriginatorId::GROUP_MESSAGES, SequenceId(3));
        let entry = ChainEntry::from_event(at.originator, &event(client.clone()));
        let ChainEntry::Envelope(made) = entry else { panic!("{entry:?}") };
        assert_eq!(ChainEvent::of_bytes(at, &made.bytes), Some(event(client.clone())));
        let elsewhere = [
            EnvelopeId::new(at.originator, SequenceId(4)),
            EnvelopeId::new(OriginatorId::IDENTITY_UPDATES, at.sequence),
        ];
        for other in elsewhere {
            assert!(ChainEvent::of_bytes(other, &made.bytes).is_none(), "{other}");
        }
        // A time between two seconds, a price, a signature in place of the transaction, and noise.
        let altered = |alter: &dyn Fn(&mut pb::UnsignedOriginatorEnvelope), proof| {
            let outer = pb::OriginatorEnvelope::decode(made.bytes.clone()).unwrap();
            let bytes = outer.unsigned_originator_envelope;
            let mut statement = pb::UnsignedOriginatorEnvelope::decode(bytes).unwrap();
            alter(&mut statement);
            OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof)
        };
        let transaction = Proof::Transaction([5; 32]);
        assert_eq!(altered(&|_| {}, transaction), made.bytes, "nothing is altered");
        let key = hawser_proto::SecretKey::from_bytes(&[7; 32]).unwrap();
        let signature = Proof::Signature(key.sign(hawser_proto::sign::keccak256(&[&b"any"[..]])));
        for bytes in [
            altered(&|it| it.originator_ns += 1, transaction),
            altered(&|it| it.base_fee_picodollars = 1, transaction),
            altered(&|it| it.expiry_unixtime = 1, transaction),
            altered(&|_| {}, signature),
            client,
            Bytes::new(),
        ] {
            assert!(ChainEvent::of_bytes(at, &bytes).is_none());
        }
    }

    #[test]
    fn an_event_and_its_payload_are_filed_under_the_same_id() {
        for (originator, route) in [(0, "chain:group"), (1, "chain:identity")] {
            let originator = OriginatorId(originator);
            let bytes = vector(route);
            let topic = ClientEnvelope::parse(bytes.clone()).unwrap().topic().clone();
            let filed = |identifier: &[u8]| {
                let identifier = Some(Bytes::copy_from_slice(identifier));
                let event = ChainEvent { topic_identifier: identifier, ..event(bytes.clone()) };
                matches!(ChainEntry::from_event(originator, &event), ChainEntry::Envelope(_))
            };
            assert!(filed(topic.identifier()));
            let mut other = topic.identifier().to_vec();
            other[0] ^= 1;
            assert!(!filed(&other), "{route}: another id");
            assert!(!filed(&topic.identifier()[1..]), "{route}: a part of it");
            assert!(!filed(&[]), "{route}: none");
        }
    }

    #[test]
    fn a_foreign_payload_leaves_its_place_empty() {
        let void = |originator, bytes| {
            matches!(ChainEntry::from_event(originator, &event(bytes)), ChainEntry::Void(_))
        };
        assert!(void(OriginatorId::GROUP_MESSAGES, Bytes::from_static(b"\xff")));
        assert!(void(OriginatorId::GROUP_MESSAGES, Bytes::new()));
        assert!(void(OriginatorId::GROUP_MESSAGES, vector("chain:identity")));
        assert!(void(OriginatorId::IDENTITY_UPDATES, vector("chain:group")));
        assert!(!void(OriginatorId::IDENTITY_UPDATES, vector("chain:identity")));
    }

    #[test]
    fn a_group_message_that_clients_cannot_decode_leaves_its_place_empty() {
        let void = |alter: &dyn Fn(&mut Option<Version>)| {
            let mut client = pb::ClientEnvelope::decode(vector("chain:group")).unwrap();
            let Some(Payload::GroupMessage(message)) = &mut client.payload else {
                panic!("no group message")
            };
            alter(&mut message.version);
            let event = event(client.encode_to_vec().into());
            let entry = ChainEntry::from_event(OriginatorId::GROUP_MESSAGES, &event);
            matches!(entry, ChainEntry::Void(_))
        };
        let frame_void = |change: &dyn Fn(&mut Vec<u8>)| {
            void(&|version| {
                let Some(Version::V1(v1)) = version else { panic!("no frame") };
                let mut frame = v1.data.to_vec();
                change(&mut frame);
                v1.data = frame.into();
            })
        };
        assert!(!frame_void(&|_| {}), "nothing is altered");
        assert!(frame_void(&|frame| frame.truncate(frame.len() - 1)), "cut off");
        assert!(frame_void(&|frame| frame.push(0)), "with a byte more");
        assert!(frame_void(&|frame| frame.clear()), "empty");
        assert!(frame_void(&|frame| drop(frame.splice(4..6, [15]))), "a group id of 15 bytes");
        assert!(void(&|version| *version = None), "without a frame");
    }

    /// A chain file names no group, so its topics may have identifiers of any length.
    #[test]
    fn a_group_id_of_another_length_leaves_a_place_empty_only_in_topics_that_clients_read() {
        let void = |topic_len: usize, id_len: u8| {
            let mut client = pb::ClientEnvelope::decode(vector("chain:group")).unwrap();
            client.aad.as_mut().unwrap().target_topic = vec![0; topic_len].into();
            let Some(Payload::GroupMessage(message)) = &mut client.payload else { panic!() };
            let Some(Version::V1(v1)) = &mut message.version else { panic!() };
            let mut frame = v1.data.to_vec();
            drop(frame.splice(4..21, [vec![id_len], vec![7; id_len.into()]].concat()));
            v1.data = frame.into();
            let event = event(client.encode_to_vec().into());
            let entry = ChainEntry::from_event(OriginatorId::GROUP_MESSAGES, &event);
            matches!(entry, ChainEntry::Void(_))
        };
        assert_eq!([15, 16, 17].map(|id_len| void(17, id_len)), [true, false, true]);
        assert_eq!([15, 16, 17].map(|id_len| void(16, id_len)), [false; 3]);
    }
}
