//! The wire format: messages between clients, payers, nodes and chains, and the digests that are signed.
//!
//! This crate encodes, decodes, signs and verifies bytes. It has no clock, disk or socket, and no rule about what a
//! node accepts; `rules` and the engine have those. In reading order:
//!
//! - [`ids`], [`topic`], [`cursor`], [`minute`], [`date`], [`price`]: the terms of all other modules;
//! - [`sign`]: digests, keys, 65-byte recoverable signatures; [`digests`]: many digests at once;
//! - [`envelope`]: the four layers, each parsed beside its exact bytes; `client_aad`: the topic and the dependencies in
//!   the innermost one; [`topic_place`]: the parts of a stored envelope that a reader of topics needs; [`loose`]: a
//!   payer envelope as other software reads it;
//! - [`mls`]: parsers of MLS framing and key packages, to the last byte;
//! - [`frame`]: the frames that nodes exchange over QUIC; [`quic_address`]: the address at which a node accepts them;
//! - [`batch`]: recovers the signers of many signatures at once;
//! - [`merkle`]: the tree over a strand, and proofs about it;
//! - [`checkpoint`]: what nodes and witnesses sign about that tree; [`void`]: what nodes sign about places that they
//!   leave out; [`StatementDifference`]: how two statements for one place differ;
//! - [`budget`]: bounds on the memory that decoding a message takes, checked before decoding; [`decoding`]: the part of
//!   a batch of envelopes that may be decoded at once;
//! - [`code_of_http`]: the gRPC codes of answers that have an HTTP status alone; [`one_line()`]: texts of strangers,
//!   fit for logs and terminals; [`root_cause()`], [`with_causes()`]: those of errors;
//! - [`pb`]: the generated protobuf types and, behind the feature `services`, the gRPC stubs;
//! - [`message_reader`]: the messages in the bytes of an answer; [`envelope_list`]: answers whose envelopes stay bytes,
//!   as their readers decode them.

#![warn(missing_docs)]

pub mod batch;
pub mod budget;
pub mod checkpoint;
mod client_aad;
#[cfg(feature = "services")]
pub mod codec;
pub mod cursor;
pub mod date;
mod decimal;
pub mod decoding;
pub mod digests;
pub mod envelope;
pub mod envelope_list;
mod error_text;
pub mod frame;
mod http_status;
pub mod ids;
pub mod loose;
pub mod merkle;
pub mod message_reader;
pub mod minute;
pub mod mls;
mod one_line;
pub mod pb;
pub mod price;
pub mod quic_address;
pub mod sign;
mod statement_difference;
pub mod stored_terms;
pub mod topic;
pub mod topic_place;
pub mod void;

/// Version of the network's protocol that this software speaks, as node tokens claim it. Not the version of the
/// program: nodes of the reference implementation accept 1.1.0 and everything above it, below 2.0.0.
pub const NETWORK_VERSION: &str = "1.3.0";
/// The largest message in either direction of a call, in bytes. Specified in `docs/protocol/api.md`: the limit of the
/// network's reference node.
pub const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Header of a call with a token by which a node proves its id. Specified in `docs/protocol/api.md`.
pub const NODE_TOKEN_HEADER: &str = "node-authorization";
/// Metadata with which a follower asks `ReplicationApi.QueryEnvelopes` also for envelopes that the node has marked
/// invalid. Specified in `docs/protocol/api.md`.
pub const MARKED_HEADER: &str = "hawser-marked";

pub use bytes::Bytes;
pub use cursor::{Cursor, CursorTextError};
pub use decimal::decimal;
pub use error_text::{root_cause, with_causes};
pub use http_status::code_of_http;
pub use ids::{EnvelopeId, GroupId, InboxId, OriginatorId, SequenceId, TransactionHash};
pub use minute::minute_of;
pub use one_line::{one_line, one_line_of, steers_terminal};
pub use quic_address::QuicAddress;
pub use sign::{Address, Digest, PayerAddress, PublicKey, SecretKey, Signature};
pub use statement_difference::StatementDifference;
pub use topic::{TOPIC_LEN_BYTES_MAX, Topic, TopicHasher, TopicKind};
