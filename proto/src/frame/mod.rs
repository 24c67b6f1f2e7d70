//! The frames that two nodes exchange over QUIC: `docs/protocol/replication.md` in code.
//!
//! A connection carries one control stream ([`ControlFrame`], [`ControlDecoder`]) and, for every
//! strand being sent, one stream of [`DataFrame`]s ([`DataDecoder`], [`BatchBuilder`]). A frame is
//! its type (`u8`), the length of its body (`u32`) and the body; integers are big-endian.
//!
//! The decoders do no I/O: they take arriving bytes and yield frames. They never reserve memory by a
//! claimed length. An error shuts a decoder for good, because it is unknown where the next frame begins.

mod buffer;
mod codes;
mod control;
mod data;
mod fields;
mod proof;

use bytes::{BufMut, BytesMut};

pub use codes::{CloseCode, StreamCode};
pub use control::{
    ClockFrame, ControlDecoder, ControlFrame, Hello, NodeProof, RefusalReason, StopFrame,
    WantFrame, WantRefused,
};
pub use data::{
    BatchBuilder, BatchFrame, BatchPush, DataDecoder, DataFrame, EndFrame, Envelopes, GapFrame,
    GapFrameReason, StreamHeader,
};
pub use proof::{PROOF_PREIMAGE_LEN, Role, proof_preimage};

/// The application protocol that both ends negotiate in the TLS handshake. Specified in
/// `docs/protocol/replication.md`, as are all numbers of this module.
pub const ALPN: &[u8] = b"hawser/1";

/// The version of this codec's frames, as offered in [`Hello::versions`].
pub const VERSION: u16 = 1;

/// The label of the 32 bytes that both ends export, without context, for [`proof_preimage`].
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-hawser-quic";

/// The bit of [`Hello::features`] of a peer that accepts checkpoints, and sends them to a peer that has set it too.
pub const FEATURE_CHECKPOINTS: u64 = 1;

/// The bit of [`Hello::features`] of a peer that accepts signed prefixes in strands; the other peer may then send them.
pub const FEATURE_PREFIXES: u64 = 2;

/// The bit of [`Hello::features`] of a peer that accepts stream headers with the number of its want
/// ([`StreamHeader::want`]).
pub const FEATURE_WANT_NUMBERS: u64 = 4;

/// The bit of [`Hello::features`] of a peer that answers wants for gaps alone ([`GAPS_ALONE`]).
pub const FEATURE_GAPS_ALONE: u64 = 8;

/// The value of [`WantFrame::bytes_max`] that asks for the gaps of a range and for no envelopes. Only where both ends
/// have set [`FEATURE_GAPS_ALONE`].
pub const GAPS_ALONE: u32 = 0;

/// The maximum number of gaps in the answer to a want for gaps alone. Specified: `docs/protocol/replication.md`.
pub const MAX_ANSWERED_GAPS: usize = 256;

/// The longest body of a control frame, in bytes. Specified, as the next bounds: `docs/protocol/replication.md`.
pub const MAX_CONTROL_FRAME: u32 = 64 * 1024;

/// The longest body of a data frame, in bytes: the largest envelope the API takes (25 MiB) fits
/// with room to spare.
pub const MAX_BATCH_FRAME: u32 = 32 * 1024 * 1024;

/// Length of the longest envelope that fits a batch, in bytes.
pub const MAX_ENVELOPE: u32 = MAX_BATCH_FRAME - data::BATCH_HEAD_LEN - data::ENVELOPE_HEAD_LEN;

/// The maximum number of envelopes in one batch.
pub const MAX_BATCH_ENVELOPES: u32 = 65_536;

/// The maximum number of originators in one clock.
pub const MAX_CLOCK_ENTRIES: usize = 4_096;

/// The maximum number of versions in one hello.
pub const MAX_VERSIONS: usize = 16;

/// Length of type and body length, before every body.
const HEAD_LEN: usize = 5;

/// The reason a peer's bytes are not frames. Each of them closes the connection with
/// [`CloseCode::ProtocolViolation`]; only this node's log distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than its type allows. Found before the body arrives.
    #[error("frame {kind:#04x} claims {len_bytes} bytes, {max} are allowed")]
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The claimed length.
        len_bytes: u32,
        /// The longest body of this type.
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
        /// Number of extra bytes.
        extra: usize,
    },
    /// A field has a forbidden value.
    #[error("frame {kind:#04x} has a bad {field}")]
    Value {
        /// The frame's type.
        kind: u8,
        /// The field's name in the specification.
        field: &'static str,
    },
    /// The type of a data frame is unknown. Data frames cannot be skipped.
    #[error("unknown data frame {kind:#04x}")]
    Unknown {
        /// The frame's type.
        kind: u8,
    },
    /// A data frame before the header, a second header, or a frame after the end.
    #[error("data frame {kind:#04x} out of place")]
    Order {
        /// The frame's type.
        kind: u8,
    },
    /// The stream ended in the middle of a frame.
    #[error("stream ends inside a frame")]
    Unfinished,
}

/// The reason a frame cannot be written. The output is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The clock has too many entries; split it over several [`ClockFrame`] frames.
    #[error("a cursor of {count} originators does not fit a frame: at most {MAX_CLOCK_ENTRIES} do")]
    Clock {
        /// Number of its originators.
        count: usize,
    },
    /// The list of versions is empty, too long, or not ascending.
    #[error("the list of {count} versions is empty, too long or not ascending")]
    Versions {
        /// Number of versions.
        count: usize,
    },
    /// A checkpoint has too many cosignatures.
    #[error(
        "a checkpoint with {count} cosignatures does not fit a frame: at most 256 of nodes and 64 of witnesses do"
    )]
    Cosignatures {
        /// Number of its cosignatures.
        count: usize,
    },
    /// The envelope is longer than any frame.
    #[error(
        "an envelope of {len_bytes} bytes does not fit a frame: at most {MAX_ENVELOPE} bytes do"
    )]
    Envelope {
        /// Length of the envelope in bytes.
        len_bytes: usize,
    },
    /// The envelope is empty.
    #[error("an envelope of 0 bytes cannot be sent: an envelope has at least one byte")]
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
