//! The wire types, generated from this crate's `.proto` files, with a module for each package.
//!
//! Every `bytes` field is a [`bytes::Bytes`] that shares the buffer it was decoded from, and maps
//! are ordered. The codec drops unknown fields, so a signed message is never encoded again: it is
//! forwarded as the bytes that arrived.
//!
//! The feature `services` adds gRPC clients and servers.

/// All files of the schema as a serialized `google.protobuf.FileDescriptorSet`, without source
/// positions. gRPC reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use generated::{hawser, xmtp};

#[cfg(feature = "json")]
mod json;
#[cfg(feature = "json")]
mod json_names;

#[cfg(feature = "json")]
pub use json::{JsonError, MethodSchema, OtherSchema, to_json};
#[cfg(feature = "json")]
pub use prost_reflect::DescriptorError;

mod generated {
    #![allow(
        clippy::all,
        clippy::missing_errors_doc,
        missing_docs,
        unreachable_pub,
        reason = "the generator's style is not ours"
    )]

    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}
