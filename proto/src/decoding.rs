//! The part of a batch of envelopes that may be decoded at once.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use crate::envelope::{ClientEnvelope, STRUCTURED_LEN_BYTES_MAX};
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::stored_terms::{PayerWithoutSignature, StatementAlone};

/// Bytes of an envelope up to which its payload is not counted, so that the layers of short messages are not looked at.
/// A guess: a thousand such envelopes take up to a hundred MiB once they are decoded.
const SHORT_LEN_BYTES_MAX: usize = 512;

/// Returns the number of the first rows of a batch whose originator envelopes may be held decoded at once: 0 without
/// rows, otherwise at least 1. A row may have no envelope.
///
/// An identity update of empty actions takes two hundred times its bytes once it is decoded, and any account may put
/// updates on the chain. So a caller that holds the decoded envelopes of a batch takes it in such parts: the updates
/// and reports of a part have at most 256 KiB together, the length of the longest single one that is decoded, and take
/// some 50 MiB. This function reads the layers around the payloads, and no payload. An envelope that cannot be read
/// counts as one without an update or report.
#[must_use]
pub fn decodable_at_once<'a>(rows: impl IntoIterator<Item = Option<&'a Bytes>>) -> usize {
    let (mut count, mut len_bytes) = (0, 0);
    for envelope in rows {
        len_bytes += envelope.map_or(0, structured_len_bytes);
        if count > 0 && len_bytes > STRUCTURED_LEN_BYTES_MAX {
            break;
        }
        count += 1;
    }
    count
}

fn structured_len_bytes(envelope: &Bytes) -> usize {
    if envelope.len() <= SHORT_LEN_BYTES_MAX {
        return 0;
    }
    let client = client_of(envelope.clone());
    let len_bytes = client.map_or(0, |client| ClientEnvelope::structured_len_bytes(&client));
    // A longer one is refused before it is decoded.
    if len_bytes > STRUCTURED_LEN_BYTES_MAX { 0 } else { len_bytes }
}

/// Returns the client envelope inside an originator envelope.
fn client_of(envelope: Bytes) -> Result<Bytes, DecodeError> {
    let outer = StatementAlone::decode(envelope)?;
    let statement = pb::UnsignedOriginatorEnvelope::decode(outer.unsigned_originator_envelope)?;
    Ok(PayerWithoutSignature::decode(statement.payer_envelope_bytes)?.unsigned_client_envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{OriginatorEnvelope, Payload, Proof};
    use crate::pb::xmtp::identity::associations::IdentityUpdate;
    use crate::pb::xmtp::mls::api::v1::GroupMessageInput;
    use crate::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};

    fn envelope(payload: Payload) -> Bytes {
        let client = pb::ClientEnvelope { aad: None, payload: Some(payload) };
        let payer = pb::PayerEnvelope {
            unsigned_client_envelope: client.encode_to_vec().into(),
            ..Default::default()
        };
        let statement = pb::UnsignedOriginatorEnvelope {
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction([7; 32]))
    }

    /// Returns an envelope with an update of empty actions, each of which has two bytes.
    fn update(actions: usize) -> Bytes {
        let actions = vec![Default::default(); actions];
        envelope(Payload::IdentityUpdate(IdentityUpdate { actions, ..Default::default() }))
    }

    fn message(len_bytes: usize) -> Bytes {
        let data = vec![9_u8; len_bytes].into();
        let v1 = V1 { data, sender_hmac: Bytes::new(), should_push: false };
        envelope(Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) }))
    }

    #[test]
    fn long_updates_are_decoded_a_few_at_a_time_and_messages_all_at_once() {
        let count = |rows: &[Bytes]| decodable_at_once(rows.iter().map(Some));
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&vec![update(130_000); 5]), 1, "two would exceed the bound");
        assert_eq!(count(&vec![update(50_000); 5]), 2);
        assert_eq!(count(&vec![update(500); 200]), 200);
        assert_eq!(count(&vec![message(100_000); 50]), 50);
        assert_eq!(count(&[message(100_000), update(130_000), message(9), update(2_000)]), 3);
        // One that is too long to be decoded at all, rows without an envelope, and bytes that are none.
        assert_eq!(count(&[update(500_000), update(9)]), 2);
        assert_eq!(decodable_at_once([None, None]), 2);
        assert_eq!(count(&vec![Bytes::from(vec![0xff; 300_000]); 3]), 3);
    }
}
