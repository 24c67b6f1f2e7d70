//! The messages of a peer's API in which envelopes stay bytes, and their codec.
//!
//! On the wire a nested message looks like bytes, so these types read exactly the bytes that the peer
//! wrote, including unknown fields and their order.

use std::marker::PhantomData;

use hawser_proto::Bytes;
use hawser_proto::budget;
use hawser_proto::codec::MESSAGE_FIELDS_MAX;
use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

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

/// Codec whose answers say whether the peer has sent a message at all, so that its garbage is told apart
/// from an error that it reports.
#[derive(Debug)]
pub(super) struct PeerCodec<Q, A>(PhantomData<(Q, A)>);

/// Decoder of [`PeerCodec`].
#[derive(Debug)]
pub(super) struct PeerDecoder<A>(PhantomData<A>);

impl<Q, A> PeerCodec<Q, A> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<Q, A> Codec for PeerCodec<Q, A>
where
    Q: Message + Send + 'static,
    A: Message + Default + Send + 'static,
{
    type Encode = Q;
    type Decode = Result<A, PeerError>;
    type Encoder = ProstEncoder<Q>;
    type Decoder = PeerDecoder<A>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        PeerDecoder(PhantomData)
    }
}

impl<A: Message + Default> Decoder for PeerDecoder<A> {
    type Item = Result<A, PeerError>;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = source.copy_to_bytes(source.remaining());
        Ok(Some(read(bytes)))
    }
}

/// Decodes a message. Memory is bounded by the number of fields, because an empty one takes two bytes on
/// the wire and far more here.
pub(super) fn read<A: Message + Default>(bytes: Bytes) -> Result<A, PeerError> {
    if bytes.len() > MESSAGE_FIELDS_MAX && !budget::has_at_most(&bytes, MESSAGE_FIELDS_MAX) {
        return Err(PeerError::Oversized);
    }
    A::decode(bytes).map_err(|_| PeerError::Protocol)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(read::<EnvelopeList>(empty.into()), Err(PeerError::Oversized));
    }
}
