//! Messages as JSON: the protobuf mapping, driven by the descriptor set.

use std::io;
use std::sync::OnceLock;

use bytes::{Buf as _, Bytes};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, Kind, MessageDescriptor};

use super::FILE_DESCRIPTOR_SET;
use super::json_names::named_twice;

/// The reason a message cannot be converted to JSON or from it.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The schema has no message of this name.
    #[error("unknown message type {0:?}")]
    UnknownMessage(String),
    /// The bytes do not decode as a message of this type.
    #[error("the bytes do not decode as a message of this type")]
    Decode(#[from] prost::DecodeError),
    /// JSON cannot represent a value, or the text is not JSON of this type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// An object of the text names a field twice, so one of its values would be lost.
    #[error("field name '{0}' is there twice")]
    NamedTwice(String),
}

/// The deepest nesting of messages that is read. The limit of the library's own decoder.
const MESSAGE_DEPTH_MAX: usize = 100;

/// The messages of an RPC method.
#[derive(Debug, Clone)]
pub struct MethodSchema {
    request: MessageDescriptor,
    response: MessageDescriptor,
}

impl MethodSchema {
    /// Returns the messages of the method that requests name by `path`, `/package.Service/Method`. `None` if the
    /// schema has no such method.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Self::find(pool(), path)
    }

    fn find(pool: &DescriptorPool, path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = pool.get_service_by_name(service)?;
        let method = service.methods().find(|it| it.name() == method)?;
        Some(Self { request: method.input(), response: method.output() })
    }

    /// Converts a request from JSON in UTF-8 to protobuf bytes. A field may have its name in lowerCamelCase or that of
    /// the schema.
    ///
    /// # Errors
    /// Returns an error if the text is not JSON, names a field twice or one that the message does not have, has a value
    /// of another type, or lists and messages nest deeper than the parser's limit (128).
    pub fn request_from_json(&self, json: &[u8]) -> Result<Vec<u8>, JsonError> {
        let mut parser = serde_json::Deserializer::from_slice(json);
        let message = DynamicMessage::deserialize(self.request.clone(), &mut parser)?;
        parser.end()?;
        drop(parser); // with the buffer of its longest string
        if let Some(name) = named_twice(json) {
            return Err(JsonError::NamedTwice(name));
        }
        Ok(message.encode_to_vec())
    }

    /// Returns the number of values in the serialized response `bytes`, nested messages included. Callers estimate the
    /// memory of the conversion from it. Values after the first byte that does not decode are not counted.
    #[must_use]
    pub fn response_values(&self, bytes: &[u8]) -> usize {
        let mut values = 0;
        let _ = count_values(&self.response, bytes, MESSAGE_DEPTH_MAX, &mut values);
        values
    }

    /// Writes the serialized response `bytes` as [`to_json`] renders it, as text. Its strings of bytes are not copied.
    ///
    /// # Errors
    /// Returns an error if the bytes do not decode, or `to` fails: then [`JsonError::Json`] of the kind `Io`.
    pub fn response_to_json(&self, bytes: Bytes, to: impl io::Write) -> Result<(), JsonError> {
        let message = DynamicMessage::decode(self.response.clone(), bytes)?;
        Ok(serde_json::to_writer(to, &message)?)
    }
}

/// A schema of another library, such as that of health checks.
#[derive(Debug, Clone)]
pub struct OtherSchema(DescriptorPool);

impl OtherSchema {
    /// Decodes a serialized `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    /// Returns an error if the bytes do not decode, or the set lacks a file that it refers to.
    pub fn decode(file_descriptor_set: &[u8]) -> Result<Self, DescriptorError> {
        DescriptorPool::decode(file_descriptor_set).map(Self)
    }

    /// Returns the messages of the method that requests name by `path`, as [`MethodSchema::of_path`] does.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<MethodSchema> {
        MethodSchema::find(&self.0, path)
    }
}

/// Renders the serialized message `bytes`, whose full name is for example
/// `xmtp.xmtpv4.envelopes.Cursor`, in the protobuf JSON mapping: lowerCamelCase names, 64-bit
/// integers as strings, bytes as base64, unset fields left out.
///
/// A `bytes` field is shown as bytes even if it holds a message. Unknown fields are left out.
///
/// # Errors
/// Returns an error if the name is unknown, or the bytes do not decode.
pub fn to_json(full_message_name: &str, bytes: &[u8]) -> Result<serde_json::Value, JsonError> {
    let descriptor = pool()
        .get_message_by_name(full_message_name)
        .ok_or_else(|| JsonError::UnknownMessage(full_message_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes)?;
    Ok(serde_json::to_value(message)?)
}

/// Adds the number of values in an encoded message to `values`, before anything is decoded. Messages nested deeper than
/// `depth` are not counted, because the decoder refuses them.
fn count_values(
    descriptor: &MessageDescriptor,
    mut bytes: &[u8],
    depth: usize,
    values: &mut usize,
) -> Result<(), prost::DecodeError> {
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        *values += 1;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
            continue;
        }
        let claimed = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        let (content, rest) = bytes.split_at(claimed.min(bytes.len()));
        bytes = rest;
        match descriptor.get_field(number).map(|field| field.kind()) {
            Some(Kind::Message(inner)) if depth > 0 => {
                count_values(&inner, content, depth - 1, values)?;
            }
            None | Some(Kind::Message(_) | Kind::Bytes | Kind::String) => {}
            // Packed numbers take at least one byte each, so the length bounds their count.
            Some(_) => *values += content.len(),
        }
    }
    Ok(())
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a complete set")
    })
}
