//! A wrong envelope in a log line, as evidence.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use prost::Message as _;

/// Largest number of bytes of an envelope in a log line. A guess: most envelopes fit completely.
const SHOWN_BYTES_MAX: usize = 16 * 1024;

/// The text of a wrong envelope for a log line.
#[derive(Debug, Default)]
pub(crate) struct LoggedEnvelope {
    /// The first bytes of the envelope, in hex.
    pub(crate) hex: String,
    /// The length of the whole envelope.
    pub(crate) len_bytes: usize,
}

impl LoggedEnvelope {
    pub(crate) fn of(envelope: &OriginatorEnvelope) -> Self {
        let bytes = envelope.encode_to_vec();
        let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
        Self { hex: hex::encode(shown), len_bytes: bytes.len() }
    }
}
