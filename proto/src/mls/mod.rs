//! MLS framing and key packages (RFC 9420), parsed by reference and to the last byte.
//!
//! A node cannot read group messages, but must know which of them change the group: those are ordered
//! by the chain, all others by a node. These parsers read just that, and the shape of a key package.
//! They decrypt nothing and check no signature; those of a key package can be checked once it is parsed.
//!
//! They allocate nothing and compare every length with the bytes that are there. No part of the
//! grammar contains itself, so the recursion has a fixed depth. `docs/protocol/mls-framing.md` lists
//! the points that are stricter than the RFC's reference implementations.

mod decodable;
mod framing;
mod key_package;
mod leaf;
mod proposal;
mod reader;
mod signature;

pub use framing::{
    ContentType, GroupMessageFrame, MlsSender, WireFormat, is_application_elsewhere,
    parse_group_message,
};
pub use key_package::{KeyPackageSignatureError, KeyPackageView, parse_key_package};
pub use leaf::{Certificates, Credential, Extension, Extensions, LAST_RESORT, Lifetime};
pub use signature::SignedPart;

/// The reason bytes are not the expected MLS structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MlsParseError {
    /// The input, or the vector that holds the field, ends too early.
    #[error("ends inside a field")]
    Truncated,
    /// Bytes follow where the structure, or the elements of a vector, should have ended.
    #[error("{extra} bytes too many")]
    Trailing {
        /// Number of extra bytes.
        extra: usize,
    },
    /// A length starts with the bits `11`, which RFC 9420 §2.1.2 forbids.
    #[error("vector length with the invalid prefix 3")]
    LengthPrefix,
    /// A length is written with more bytes than it needs (RFC 9420 §2.1.2).
    #[error("vector length not in its shortest form")]
    LengthNotMinimal,
    /// The protocol version is not MLS 1.0.
    #[error("unsupported protocol version {0}")]
    Version(u16),
    /// The message is neither a public nor a private one.
    #[error("wire format {0} is not that of a group message")]
    WireFormat(u16),
    /// The content is neither application data nor a proposal nor a commit.
    #[error("unsupported content type {0}")]
    ContentType(u8),
    /// A field that selects the structure after it has an unknown value.
    #[error("{field} has the unknown value {value}")]
    Selector {
        /// The field's name in RFC 9420.
        field: &'static str,
        /// The value found.
        value: u16,
    },
    /// The group id has another length than those of XMTP's groups. Holds its length in bytes.
    #[error("a group id has 16 bytes, and that of the message has {0}")]
    GroupIdLen(usize),
    /// A published client would not decode an extension of a public message, and so nothing of its group any more.
    #[error("extension {extension_type} {fault}")]
    Extension {
        /// Its type.
        extension_type: u16,
        /// The reason, as the end of a sentence.
        fault: &'static str,
    },
    /// A leaf node has another source than its position requires (RFC 9420 §7.3).
    #[error("leaf node source {found} where {expected} is needed")]
    LeafNodeSource {
        /// The value that the position requires.
        expected: u8,
        /// The value found.
        found: u8,
    },
}
