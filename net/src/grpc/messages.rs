//! The messages of a peer's API in which envelopes stay bytes.
//!
//! On the wire a nested message looks like bytes, so these types read exactly the bytes that the peer
//! wrote, including unknown fields and their order.

use hawser_proto::{Bytes, codec};
use prost::Message;
use tonic::Code;

use crate::counters::PeerError;

/// Envelopes in field 1: `SubscribeEnvelopesResponse`, `QueryEnvelopesResponse`, and the member of
/// [`OriginatorsFrame`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct EnvelopeList {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) envelopes: Vec<Bytes>,
}

/// `SubscribeOriginatorsResponse`; without envelopes it is a keep-alive.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OriginatorsFrame {
    #[prost(message, optional, tag = "1")]
    pub(super) envelopes: Option<EnvelopeList>,
}

/// Decodes a message. Memory is bounded by the number of fields, because an empty one takes two bytes on
/// the wire and far more here.
pub(super) fn read<A: Message + Default>(bytes: Bytes) -> Result<A, PeerError> {
    codec::decode(bytes).map_err(|status| match status.code() {
        Code::ResourceExhausted => PeerError::Oversized,
        _ => PeerError::Protocol,
    })
}

#[cfg(test)]
mod tests {
    use hawser_proto::codec::MESSAGE_FIELDS_MAX;

    use super::*;

    #[test]
    fn envelopes_are_read_as_the_bytes_that_were_written() {
        let frame = Bytes::from_static(&[0x0a, 7, 0x0a, 2, 0xff, 0xff, 0x0a, 1, 3]);
        let read: OriginatorsFrame = read(frame).unwrap();
        let envelopes = read.envelopes.unwrap().envelopes;
        assert_eq!(envelopes, [Bytes::from_static(&[0xff, 0xff]), Bytes::from_static(&[3])]);
    }

    #[test]
    fn garbage_is_the_peers_fault_and_many_empty_fields_are_not_read() {
        assert_eq!(read::<EnvelopeList>(Bytes::from_static(&[0x0a, 9])), Err(PeerError::Protocol));
        let empty = [0x0a, 0].repeat(MESSAGE_FIELDS_MAX + 1);
        let behind_a_group = [&[0x7b, 0x7c][..], &empty].concat();
        assert_eq!(read::<EnvelopeList>(behind_a_group.into()), Err(PeerError::Oversized));
        assert_eq!(read::<EnvelopeList>(empty.into()), Err(PeerError::Oversized));
    }
}
