//! The differences between two statements with the same envelope id.

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, StatementDifference};
use prost::Message as _;

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
