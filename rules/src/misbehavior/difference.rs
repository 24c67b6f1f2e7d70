//! The differences between two statements with the same envelope id.

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use prost::Message as _;

/// The kind of difference between two statements with the same envelope id; greater values are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatementDifference {
    /// The same fields in another encoding.
    Encoding,
    /// Fees or expiry. An honest node of another implementation may sign twice and compute these anew.
    Metadata,
    /// The payer envelope or the time: another message, or another position in time.
    Content,
}

impl StatementDifference {
    /// Returns the name used in commands and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Metadata => "metadata",
            Self::Content => "content",
        }
    }
}

/// Returns the kind of difference between two statements; `None` if their bytes are equal, or if one does not decode.
#[must_use]
pub fn difference(one: &Bytes, other: &Bytes) -> Option<StatementDifference> {
    if one == other {
        return None;
    }
    let fields = |bytes: &Bytes| pb::UnsignedOriginatorEnvelope::decode(bytes.clone()).ok();
    let (one, other) = (fields(one)?, fields(other)?);
    Some(
        if changed(&one, &other).any(|(_, difference)| difference == StatementDifference::Content) {
            StatementDifference::Content
        } else if changed(&one, &other).next().is_some() {
            StatementDifference::Metadata
        } else {
            StatementDifference::Encoding
        },
    )
}

/// Iterates over the names of the fields in which two statements differ.
pub(super) fn changed<'a>(
    one: &'a pb::UnsignedOriginatorEnvelope,
    other: &'a pb::UnsignedOriginatorEnvelope,
) -> impl Iterator<Item = (&'static str, StatementDifference)> + use<'a> {
    use StatementDifference::{Content, Metadata};
    [
        (one.payer_envelope_bytes != other.payer_envelope_bytes, "payer_envelope", Content),
        (one.originator_ns != other.originator_ns, "time", Content),
        (one.base_fee_picodollars != other.base_fee_picodollars, "base_fee", Metadata),
        (
            one.congestion_fee_picodollars != other.congestion_fee_picodollars,
            "congestion_fee",
            Metadata,
        ),
        (one.expiry_unixtime != other.expiry_unixtime, "expiry", Metadata),
    ]
    .into_iter()
    .filter_map(|(is_changed, field, difference)| is_changed.then_some((field, difference)))
}
