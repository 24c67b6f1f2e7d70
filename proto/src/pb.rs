//! The wire types, generated from the `.proto` files of this crate: a module for each package.
//!
//! Every `bytes` field is a [`bytes::Bytes`] that shares the buffer it was decoded from, and maps
//! are ordered. The codec drops unknown fields, so what others signed is never encoded again: it
//! travels as the bytes it came in.
//!
//! With the feature `services` there are gRPC clients and servers beside the messages.

/// Every file of the schema as a serialized `google.protobuf.FileDescriptorSet`, without source
/// positions. For reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use generated::xmtp;

#[cfg(feature = "json")]
mod json;

#[cfg(feature = "json")]
pub use json::{JsonError, to_json};

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
