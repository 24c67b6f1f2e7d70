//! A codec that bounds the number of fields before it decodes a message. An empty element costs the sender two bytes
//! and the decoder more than thirty, so a hostile node could otherwise exhaust the memory of the suite.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// The most fields of one answer, nested messages included. A guess: several times those of the longest page of
/// envelopes, and about 100 MB of memory at most.
const FIELDS_MAX: usize = 1_000_000;
/// Levels of nested messages whose fields are counted. The lists in a frame of `Subscribe` are on the third level.
const LEVELS: usize = 3;

/// The codec of requests `Q` and answers `A`.
#[derive(Debug)]
pub(crate) struct BoundedCodec<Q, A>(PhantomData<fn(Q) -> A>);

impl<Q, A> Default for BoundedCodec<Q, A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q, A> Codec for BoundedCodec<Q, A>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    type Encode = Q;
    type Decode = A;
    type Encoder = <ProstCodec<Q, A> as Codec>::Encoder;
    type Decoder = BoundedDecoder<A>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Q, A>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// The decoder of answers.
#[derive(Debug)]
pub(crate) struct BoundedDecoder<A>(PhantomData<fn() -> A>);

impl<A: Message + Default> Decoder for BoundedDecoder<A> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let mut left = FIELDS_MAX;
        if !spend(&bytes, LEVELS, &mut left) {
            let text = format!("the suite reads no answer of more than {FIELDS_MAX} fields");
            return Err(Status::resource_exhausted(text));
        }
        A::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Subtracts the fields of a message from `left`, and those of each length-delimited field as if it were a message,
/// since the bytes do not say which ones are. Returns false when `left` is used up. Malformed bytes end the count, as
/// they end decoding.
fn spend(mut message: &[u8], levels: usize, left: &mut usize) -> bool {
    while !message.is_empty() {
        let Ok((_, kind)) = decode_key(&mut message) else { return true };
        let Some(fewer) = left.checked_sub(1) else { return false };
        *left = fewer;
        let len = match kind {
            WireType::Varint => match decode_varint(&mut message) {
                Ok(_) => 0,
                Err(_) => return true,
            },
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => 0,
            WireType::LengthDelimited => {
                let Ok(len) = decode_varint(&mut message) else { return true };
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let Some(content) = message.get(..len) else {
                    return true;
                };
                if levels > 1 && !spend(content, levels - 1, left) {
                    return false;
                }
                content.len()
            }
        };
        let Some(rest) = message.get(len..) else { return true };
        message = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::{Framed, Lane, List, SubscribeFrame, SubscribeV1};

    fn is_read(message: &[u8]) -> bool {
        let mut left = FIELDS_MAX;
        spend(message, LEVELS, &mut left)
    }

    #[test]
    fn what_nodes_send_is_read_and_millions_of_empty_elements_are_not() {
        let many = |count: usize| vec![Bytes::new(); count];
        let list = |count| List { items: many(count) };
        let framed = |count| Framed { envelopes: Some(list(count)), status: None };
        let frame = |count| {
            let envelopes = Some(Lane { envelopes: many(count), mutate_id: 1 });
            SubscribeFrame { v1: Some(SubscribeV1 { envelopes, ..SubscribeV1::default() }) }
        };
        for (count, expected) in [(100_000, true), (FIELDS_MAX + 1, false)] {
            assert_eq!(is_read(&list(count).encode_to_vec()), expected);
            assert_eq!(is_read(&framed(count).encode_to_vec()), expected);
            assert_eq!(is_read(&frame(count).encode_to_vec()), expected);
        }
        // A page of a thousand envelopes, and bytes that are no message.
        assert!(is_read(&List { items: vec![Bytes::from(vec![7; 1_000]); 1_000] }.encode_to_vec()));
        for malformed in [&[0x0a][..], &[0x0a, 0xff], &[0x0a, 5, 1], &[0xff; 20], &[0; 9]] {
            assert!(is_read(malformed));
        }
        // An end that is malformed takes nothing back.
        let mut late = [0x0a, 0].repeat(FIELDS_MAX + 1);
        late.push(0xff);
        assert!(!is_read(&late));
    }
}
