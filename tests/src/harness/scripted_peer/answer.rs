//! The messages of a scripted peer, encoded by hand so that malformed ones are possible.

use bytes::Bytes;
use hawser_conformance::wire::{Framed, List};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::hawser::checkpoint_api::GetCheckpointResponse;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api;
use hawser_proto::{OriginatorId, SecretKey};
use prost::Message as _;

use super::habits::Attack;
use super::state::{ScriptedPeerState, signed};

/// A message with envelopes; without any, a keep-alive. `framed` for `SubscribeOriginators`.
pub(super) fn message(envelopes: Vec<Bytes>, framed: bool) -> Bytes {
    match framed {
        true => frame(&originators_message(envelopes)),
        false => frame(&List { items: envelopes }.encode_to_vec()),
    }
}

/// A message of `SubscribeOriginators` without framing; without an arm if there are no envelopes.
pub(crate) fn originators_message(envelopes: Vec<Bytes>) -> Vec<u8> {
    let envelopes = (!envelopes.is_empty()).then_some(List { items: envelopes });
    Framed { envelopes, status: None }.encode_to_vec()
}

/// A message in gRPC's framing.
fn frame(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).unwrap();
    [&[0][..], &len.to_be_bytes(), message].concat().into()
}

/// Encodes the statements about void places of the peer's own strand, beside no checkpoint.
pub(super) fn statements(state: &ScriptedPeerState) -> Bytes {
    let voids = state.voids.lock();
    let void_statements = voids.iter().map(|signed| Bytes::copy_from_slice(&signed.encode()));
    let void_statements = void_statements.collect();
    frame(&GetCheckpointResponse { checkpoint: Bytes::new(), void_statements }.encode_to_vec())
}

/// Encodes the vector clock: the peer's own head, and a higher one if it lies.
pub(super) fn clock(state: &ScriptedPeerState) -> Bytes {
    let held = state.strand.borrow().last_key_value().map_or(0, |(place, _)| *place);
    let voids = state.voids.lock();
    let head = voids.iter().map(|signed| signed.statement.through.0).fold(held, u64::max);
    drop(voids);
    let is_lying = state.habits.lock().attack == Some(Attack::Silence);
    let head = if is_lying { head + 1000 } else { head };
    let older = state.older.lock();
    let older = older.iter().filter_map(|(id, strand)| Some((id.0, *strand.keys().last()?)));
    let heads = older.chain([(state.id.0, head)]).collect();
    let cursor = pb::Cursor { node_id_to_sequence_id: heads };
    let answer = metadata_api::GetSyncCursorResponse { latest_sync: Some(cursor) };
    frame(&answer.encode_to_vec())
}

/// The envelopes behind `after` that fit into one message, as the habits write them, and the place of
/// the last one.
pub(super) fn page(
    state: &ScriptedPeerState,
    originator: OriginatorId,
    after: u64,
    limit: usize,
) -> (Vec<Bytes>, u64) {
    let habits = state.habits.lock().clone();
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, after);
    state.with_strand(originator, |strand| {
        for (place, envelope) in strand.range(after + 1..).take(limit) {
            if bytes > 0 && bytes + envelope.len() > habits.frame_bytes_max {
                break;
            }
            bytes += envelope.len();
            last = *place;
            let written = if habits.odd_outer_form { oddly(envelope) } else { envelope.clone() };
            if habits.repeats {
                page.push(written.clone());
            }
            page.push(written);
            if habits.tells_two_stories && originator == state.id {
                page.push(other_story(envelope, &state.key));
            }
        }
    });
    let mut seen = state.seen.lock();
    seen.frame_bytes_max = seen.frame_bytes_max.max(bytes);
    (page, last)
}

/// Returns the envelope with its outer fields in reverse order, and an unknown field.
pub(crate) fn oddly(envelope: &Bytes) -> Bytes {
    let (statement, _) = OriginatorEnvelope::open(envelope.clone()).unwrap();
    let first = pb::OriginatorEnvelope { unsigned_originator_envelope: statement, proof: None };
    let first = first.encode_to_vec();
    let second = &envelope[first.len()..];
    [second, &first, &[0x7a, 3, 1, 2, 3]].concat().into()
}

/// Returns another statement for the place of an envelope.
pub(super) fn other_story(envelope: &Bytes, key: &SecretKey) -> Bytes {
    let (statement, _) = OriginatorEnvelope::open(envelope.clone()).unwrap();
    let mut statement = pb::UnsignedOriginatorEnvelope::decode(statement).unwrap();
    statement.originator_ns += 1;
    signed(&statement, key)
}

/// Returns the message of an attack; `None` if the attack is silence.
pub(super) fn attack(state: &ScriptedPeerState, attack: Attack, framed: bool) -> Option<Bytes> {
    let forged = |originator: OriginatorId, key: &SecretKey| {
        let envelope = state.strand.borrow().first_key_value().map(|(_, it)| it.clone())?;
        let (statement, _) = OriginatorEnvelope::open(envelope).unwrap();
        let mut statement = pb::UnsignedOriginatorEnvelope::decode(statement).unwrap();
        statement.originator_node_id = originator.0;
        Some(message(vec![signed(&statement, key)], framed))
    };
    match attack {
        Attack::Garbage => Some(frame(&[0x0a, 0xff, 0xff, 0x7f, 1, 2, 3])),
        Attack::ForeignOriginator => forged(OriginatorId(state.id.0 + 1), &state.key),
        Attack::Forged => forged(state.id, &SecretKey::from_bytes(&[3; 32]).unwrap()),
        Attack::KeepAlives => Some(message(Vec::new(), framed)),
        Attack::HugeFrame => Some([&[0, 0x40, 0, 0, 0][..], &[0; 1000]].concat().into()),
        Attack::Silence | Attack::BadDetails | Attack::EmptyEnds => None,
    }
}
