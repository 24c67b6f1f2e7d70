//! Messages as JSON for display: the protobuf mapping, driven by the descriptor set.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, DynamicMessage};

use super::FILE_DESCRIPTOR_SET;

/// The reason a message has no JSON form.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The schema has no message of this name.
    #[error("no message is called {0:?}")]
    UnknownMessage(String),
    /// The bytes are not a message of this type.
    #[error("bytes are not a message of this type")]
    Decode(#[from] prost::DecodeError),
    /// JSON cannot represent a value.
    #[error("message has no JSON form")]
    Render(#[from] serde_json::Error),
}

/// Renders the serialized message `bytes`, whose full name is for example
/// `xmtp.xmtpv4.envelopes.Cursor`, in the protobuf JSON mapping: lowerCamelCase names, 64-bit
/// integers as strings, bytes as base64, unset fields left out.
///
/// A `bytes` field is shown as bytes even if it holds a message. Unknown fields are left out.
///
/// # Errors
/// When the name is unknown, or the bytes do not decode.
pub fn to_json(full_message_name: &str, bytes: &[u8]) -> Result<serde_json::Value, JsonError> {
    let descriptor = pool()
        .get_message_by_name(full_message_name)
        .ok_or_else(|| JsonError::UnknownMessage(full_message_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes)?;
    Ok(serde_json::to_value(message)?)
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a complete set")
    })
}
