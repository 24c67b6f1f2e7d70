//! The codec of the gRPC stubs: protobuf with a bound on the number of fields.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::budget;

/// The maximum number of fields in one message. Calculated: far above the number of real envelopes or topics in 25 MiB,
/// and a bound on the memory that empty elements take once decoded.
pub const MESSAGE_FIELDS_MAX: usize = 1 << 20;
/// Levels of nested messages whose fields are counted. The lists of requests and pages are on the second level.
const MESSAGE_LEVELS: usize = 2;

/// Initial buffer of each call, in bytes. A keepalive fits; a larger message gets a buffer of its own length. Small,
/// because each of thousands of mostly idle streams keeps one.
const FIRST_BUFFER_BYTES: usize = 64;
/// Bytes of small messages that are sent together, in one write. The library's default.
const TOGETHER_BYTES: usize = 32 * 1024;

/// Codec that encodes `T` and decodes `U`, with [`MESSAGE_FIELDS_MAX`] as a bound unless another one is given.
#[derive(Debug)]
pub struct BoundedCodec<T, U> {
    fields_max: usize,
    levels: usize,
    types: PhantomData<(T, U)>,
}

impl<T, U> BoundedCodec<T, U> {
    /// Creates a codec that decodes messages of at most `fields_max` fields, counted on their top two levels: for
    /// answers whose length the caller knows.
    #[must_use]
    pub fn with_fields_max(fields_max: usize) -> Self {
        Self { fields_max, levels: MESSAGE_LEVELS, types: PhantomData }
    }

    /// Creates a codec that counts at most [`MESSAGE_FIELDS_MAX`] fields on the top `levels` levels of a message: for
    /// answers whose lists are nested more deeply.
    #[must_use]
    pub fn with_levels(levels: usize) -> Self {
        Self { fields_max: MESSAGE_FIELDS_MAX, levels, types: PhantomData }
    }
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self::with_fields_max(MESSAGE_FIELDS_MAX)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        let (fields_max, levels) = (self.fields_max, self.levels);
        BoundedDecoder { fields_max, levels, decoder: ProstDecoder::default() }
    }
}

/// Encoder whose buffer is as long as the message.
#[derive(Debug)]
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FIRST_BUFFER_BYTES, TOGETHER_BYTES)
    }
}

/// Decoder that refuses a message with too many fields with RESOURCE_EXHAUSTED.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    fields_max: usize,
    levels: usize,
    decoder: ProstDecoder<U>,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic hands a message over as one chunk; the count would cover only the first of several.
        let message = &source.chunk()[..source.remaining().min(source.chunk().len())];
        check_fields(message, self.fields_max, self.levels)?;
        self.decoder.decode(source)
    }
}

/// Decodes a message of at most [`MESSAGE_FIELDS_MAX`] fields, as the stubs do. Its bytes share the memory of
/// `message`.
///
/// # Errors
/// The status of the stubs: RESOURCE_EXHAUSTED for more fields, INTERNAL for a message that does not decode.
pub fn decode<U: Message + Default>(message: Bytes) -> Result<U, Status> {
    check_fields(&message, MESSAGE_FIELDS_MAX, MESSAGE_LEVELS)?;
    U::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// Checks the number of fields on the top `levels` levels of a message.
///
/// # Errors
/// RESOURCE_EXHAUSTED if there are more than `fields_max`.
fn check_fields(message: &[u8], fields_max: usize, levels: usize) -> Result<(), Status> {
    // A field takes at least one byte, so a message of at most `fields_max` bytes needs no count.
    if message.len() > fields_max && !budget::has_at_most(message, fields_max, levels) {
        let text = format!("message has more than {fields_max} fields");
        return Err(Status::resource_exhausted(text));
    }
    Ok(())
}
