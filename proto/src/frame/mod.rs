//! The frames that two nodes exchange over QUIC: `docs/protocol/replication.md` in code.
//!
//! A connection carries one control stream ([`ControlFrame`], [`ControlDecoder`]) and, for every
//! strand being sent, one stream of [`DataFrame`]s ([`DataDecoder`], [`BatchBuilder`]). A frame is
//! its type (`u8`), the length of its body (`u32`) and the body; integers are big-endian.
//!
//! The decoders do no I/O: they are fed what arrived and yield frames. They hold what arrived and
//! never reserve by what a length claims. A refused frame ends a decoder for good, because what
//! follows it cannot be told apart any more.

mod buffer;
mod codes;
mod control;
mod data;
mod fields;
mod proof;

use bytes::{BufMut, BytesMut};

pub use codes::{CloseCode, StreamCode};
pub use control::{
    Clock, ControlDecoder, ControlFrame, Hello, NodeProof, RefusalReason, Stop, Want, WantRefused,
};
pub use data::{
    Batch, BatchBuilder, DataDecoder, DataFrame, End, Envelopes, Gap, GapReason, Pushed,
    StreamHeader,
};
pub use proof::{PROOF_PREIMAGE_LEN, Role, proof_preimage};

/// The protocol that both ends ask for in the TLS handshake.
pub const ALPN: &[u8] = b"hawser/1";

/// The version of the frames that this codec speaks, as [`Hello::versions`] names it.
pub const VERSION: u16 = 1;

/// The label under which both ends export the 32 bytes that [`proof_preimage`] binds to. Without
/// context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-hawser-quic";

/// The longest body of a control frame, in bytes.
pub const MAX_CONTROL_FRAME: u32 = 64 * 1024;

/// The longest body of a data frame, in bytes: the largest envelope the API takes (25 MiB) fits
/// with room to spare.
pub const MAX_BATCH_FRAME: u32 = 32 * 1024 * 1024;

/// The longest envelope that fits a batch, in bytes.
pub const MAX_ENVELOPE: u32 = MAX_BATCH_FRAME - data::BATCH_HEAD_LEN - data::ENVELOPE_HEAD_LEN;

/// The most envelopes in one batch.
pub const MAX_BATCH_ENVELOPES: u32 = 65_536;

/// The most originators that one clock names.
pub const MAX_CLOCK_ENTRIES: usize = 4_096;

/// The most versions that one hello offers.
pub const MAX_VERSIONS: usize = 16;

/// Type and length, before every body.
const HEAD_LEN: usize = 5;

/// Why bytes from a peer are not frames. Every one of these ends the connection with
/// [`CloseCode::ProtocolViolation`]; which it was is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than its type allows. Found before the body arrives.
    #[error("frame {kind:#04x} claims {len_bytes} bytes, {max} are allowed")]
    TooLong {
        /// The frame's type.
        kind: u8,
        /// What its head says.
        len_bytes: u32,
        /// What its type allows.
        max: u32,
    },
    /// The body ends inside a field.
    #[error("frame {kind:#04x} ends inside a field")]
    Truncated {
        /// The frame's type.
        kind: u8,
    },
    /// Bytes follow the last field.
    #[error("frame {kind:#04x} has {extra} bytes too many")]
    Trailing {
        /// The frame's type.
        kind: u8,
        /// How many.
        extra: usize,
    },
    /// A field holds what it may not hold.
    #[error("frame {kind:#04x} has a bad {field}")]
    Value {
        /// The frame's type.
        kind: u8,
        /// The field's name in the specification.
        field: &'static str,
    },
    /// Data frames cannot be skipped, so an unknown one is an error.
    #[error("unknown data frame {kind:#04x}")]
    Unknown {
        /// The frame's type.
        kind: u8,
    },
    /// A data frame before the header, a second header, or something after the end.
    #[error("data frame {kind:#04x} out of place")]
    Order {
        /// The frame's type.
        kind: u8,
    },
    /// The stream ended in the middle of a frame.
    #[error("stream ends inside a frame")]
    Unfinished,
}

/// Why a frame cannot be written. Nothing of it has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Split the clock over several [`Clock`] frames.
    #[error("a clock of {count} originators, {MAX_CLOCK_ENTRIES} fit a frame")]
    Clock {
        /// How many originators it names.
        count: usize,
    },
    /// None, too many, or not in ascending order.
    #[error("a bad list of {count} versions")]
    Versions {
        /// How many there are.
        count: usize,
    },
    /// No frame can carry it.
    #[error("an envelope of {len_bytes} bytes, {MAX_ENVELOPE} fit a frame")]
    Envelope {
        /// Its length.
        len_bytes: usize,
    },
    /// An empty envelope cannot exist.
    #[error("an envelope without bytes")]
    EmptyEnvelope,
}

/// Writes type, length and body. The body must fit the limit of its type.
fn put_frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let len = u32::try_from(out.len() - at - 4).expect("every body is held below its limit");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}
