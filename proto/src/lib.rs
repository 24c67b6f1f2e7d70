//! The wire: what travels between clients, payers, nodes and chains, and what is signed of it.
//!
//! This crate knows bytes. It has no clock, no disk, no socket and no rule about what a node
//! accepts; those live in the crates that use it. In reading order:
//!
//! - [`ids`], [`topic`], [`cursor`]: the words everything else is said in;
//! - [`sign`]: digests, keys, 65-byte recoverable signatures;
//! - [`envelope`]: the four layers, each parsed beside its exact bytes;
//! - [`mls`]: the MLS framing and key package parsers, to the last byte;
//! - [`frame`]: what nodes say to each other over QUIC;
//! - [`budget`]: how much decoding would make of a message, told beforehand;
//! - [`pb`]: the generated protobuf types and, behind the feature `services`, the gRPC stubs.

#![warn(missing_docs)]

pub mod budget;
#[cfg(feature = "services")]
pub mod codec;
pub mod cursor;
pub mod envelope;
pub mod frame;
pub mod ids;
pub mod mls;
pub mod pb;
pub mod sign;
pub mod topic;

pub use bytes::Bytes;
pub use cursor::Cursor;
pub use ids::{EnvelopeId, InboxId, OriginatorId, SequenceId};
pub use sign::{Address, Digest, PayerAddress, PublicKey, SecretKey, Signature};
pub use topic::{TOPIC_LEN_BYTES_MAX, Topic, TopicKind};
