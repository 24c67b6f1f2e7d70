//! MLS framing and key packages (RFC 9420), read by reference and to the last byte.
//!
//! A node cannot see into group messages, but it must know which of them change the group: those
//! go through the chain, all others through a node. That and the shape of a key package is all
//! that is read here. Nothing is decrypted and no signature is checked.
//!
//! Nothing is allocated, every length is held against the bytes that are really there, and no part
//! of the grammar contains itself, so the depth is fixed. What is stricter than the RFC's reference
//! implementations is listed in `docs/protocol/mls-framing.md`.

mod framing;
mod key_package;
mod leaf;
mod proposal;
mod reader;

pub use framing::{ContentType, GroupMessageFrame, Sender, WireFormat, parse_group_message};
pub use key_package::{KeyPackageView, parse_key_package};
pub use leaf::{Certificates, Credential, Extension, Extensions, Lifetime};

/// Why bytes are not the MLS structure they were given as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MlsParseError {
    /// The input, or the vector that holds the field, ends too early.
    #[error("ends inside a field")]
    Truncated,
    /// Bytes follow where the structure, or the elements of a vector, should have ended.
    #[error("{extra} bytes too many")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A length starts with the bits `11`, which RFC 9420 §2.1.2 forbids.
    #[error("vector length with the invalid prefix 3")]
    LengthPrefix,
    /// A length is written with more bytes than it needs (RFC 9420 §2.1.2).
    #[error("vector length not in its shortest form")]
    LengthNotMinimal,
    /// Not MLS 1.0.
    #[error("protocol version {0}")]
    Version(u16),
    /// Neither a public nor a private message.
    #[error("wire format {0} is no group message")]
    WireFormat(u16),
    /// Neither application data nor a proposal nor a commit.
    #[error("content type {0}")]
    ContentType(u8),
    /// A field selects what follows it, and this value selects nothing known.
    #[error("{field} {value} selects nothing")]
    Selector {
        /// What the field is called in RFC 9420.
        field: &'static str,
        /// The value found.
        value: u16,
    },
    /// A leaf node made for one purpose stands where another is needed (RFC 9420 §7.3).
    #[error("leaf node source {found} where {expected} is needed")]
    LeafNodeSource {
        /// The value that belongs there.
        expected: u8,
        /// The value found.
        found: u8,
    },
}
