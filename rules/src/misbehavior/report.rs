//! The encoding of a report: its form, its bounds, and the digest that a host signs.

use hawser_proto::budget::{field_contents, field_len_bytes, nested_count};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::sign::{Digest, keccak256};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use prost::Message as _;

pub use pb::Misbehavior as MisbehaviorKind;

/// The largest length of a report in bytes. Specified (`docs/protocol/misbehavior.md`).
pub const REPORT_LEN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest number of envelopes in a report. Specified (same page).
pub const ENVELOPES_MAX: usize = 64;
/// The largest number of envelopes in a report on a congestion fee, which needs those of five
/// minutes. Specified (same page).
pub const WINDOW_ENVELOPES_MAX: usize = 1_000;
/// The largest length of a failed request in bytes. Specified (same page): 64 KiB for the request, and
/// room for the message around it.
pub const LIVENESS_LEN_BYTES_MAX: usize = 64 * 1024 + 1024;

/// The field number of the failed request in `UnsignedMisbehaviorReport`.
const LIVENESS_FIELD: u64 = 4;
/// The field number of the envelopes in `UnsignedMisbehaviorReport`.
const SAFETY_FIELD: u64 = 5;

/// Error of decoding a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The report exceeds its bound. Holds its length in bytes.
    #[error("the report has {0} bytes, at most {REPORT_LEN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The number of envelopes exceeds the bound of the kind.
    #[error("the report has {count} envelopes, at most {max} are allowed")]
    TooManyEnvelopes {
        /// The number of envelopes in the report.
        count: usize,
        /// The bound of its kind.
        max: usize,
    },
    /// The failed request exceeds its bound. Holds its length in bytes.
    #[error("the failed request has {0} bytes, at most {LIVENESS_LEN_BYTES_MAX} are allowed")]
    RequestTooLong(usize),
    /// The bytes are not a protobuf message of this type.
    #[error("the report does not decode as a misbehaviour report: {0}")]
    Wire(String),
    /// The kind is 0 or unknown.
    #[error("the kind of misbehaviour {0} is unknown")]
    Kind(i32),
    /// The kind does not match the content, which is a liveness failure, a safety failure, or missing.
    #[error("the failure does not belong to the kind of misbehaviour that the report names")]
    WrongArm,
    /// The safety failure has no envelopes.
    #[error("the report has no envelopes")]
    NoEnvelopes,
    /// The liveness failure has no request.
    #[error("the report does not say which request failed")]
    NoRequest,
}

impl ReportError {
    /// Returns true if the report is refused because of its size.
    #[must_use]
    pub(crate) fn is_size(&self) -> bool {
        matches!(self, Self::TooLong(_) | Self::TooManyEnvelopes { .. } | Self::RequestTooLong(_))
    }
}

/// A report of misbehaviour whose form is checked: sizes, a known kind, and content that belongs to the kind. Nothing
/// in it is verified (`docs/protocol/misbehavior.md`, Reports).
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    message: pb::UnsignedMisbehaviorReport,
    kind: MisbehaviorKind,
}

/// The content of a report, by the family of its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReportedFailure<'a> {
    /// A request without a correct answer in time.
    Liveness(&'a pb::LivenessFailure),
    /// Envelopes that the accused node has signed, as the report claims.
    Safety(&'a [OriginatorEnvelope]),
}

impl Report {
    /// Decodes a report. Checks its size before it allocates anything for it.
    ///
    /// # Errors
    /// The first defect found.
    pub fn decode(bytes: &Bytes) -> Result<Self, ReportError> {
        if bytes.len() > REPORT_LEN_BYTES_MAX {
            return Err(ReportError::TooLong(bytes.len()));
        }
        let cut_off = || ReportError::Wire("a field is cut off or of no known form".into());
        let count = nested_count(bytes, SAFETY_FIELD, 1).ok_or_else(cut_off)?;
        if count > WINDOW_ENVELOPES_MAX {
            return Err(ReportError::TooManyEnvelopes { count, max: WINDOW_ENVELOPES_MAX });
        }
        let request = field_len_bytes(bytes, LIVENESS_FIELD..=LIVENESS_FIELD);
        if request > LIVENESS_LEN_BYTES_MAX {
            return Err(ReportError::RequestTooLong(request));
        }
        // The decoder reads a list that goes beyond the request, at any depth, to the end of its bytes before it
        // refuses it.
        for request in field_contents(bytes, LIVENESS_FIELD) {
            pb::LivenessFailure::decode(bytes.slice_ref(request)).map_err(|_| cut_off())?;
        }
        let message = pb::UnsignedMisbehaviorReport::decode(bytes.clone());
        Self::of_message(message.map_err(|error| ReportError::Wire(error.to_string()))?)
    }

    /// Converts a decoded message.
    ///
    /// # Errors
    /// The first defect found.
    pub fn of_message(message: pb::UnsignedMisbehaviorReport) -> Result<Self, ReportError> {
        let kind = match MisbehaviorKind::try_from(message.r#type) {
            Ok(MisbehaviorKind::Unspecified) | Err(_) => {
                return Err(ReportError::Kind(message.r#type));
            }
            Ok(kind) => kind,
        };
        let report = Self { message, kind };
        use pb::unsigned_misbehavior_report::Failure as Wire;
        match &report.message.failure {
            Some(Wire::Liveness(failure)) if is_liveness(kind) => {
                failure.request.as_ref().ok_or(ReportError::NoRequest)?;
                let len = failure.encoded_len();
                if len > LIVENESS_LEN_BYTES_MAX {
                    return Err(ReportError::RequestTooLong(len));
                }
            }
            Some(Wire::Safety(failure)) if !is_liveness(kind) => {
                let count = failure.envelopes.len();
                let max = match kind {
                    MisbehaviorKind::InvalidPayload => WINDOW_ENVELOPES_MAX,
                    _ => ENVELOPES_MAX,
                };
                match count {
                    0 => return Err(ReportError::NoEnvelopes),
                    count if count > max => {
                        return Err(ReportError::TooManyEnvelopes { count, max });
                    }
                    _ => {}
                }
            }
            _ => return Err(ReportError::WrongArm),
        }
        let len = report.message.encoded_len();
        if len > REPORT_LEN_BYTES_MAX {
            return Err(ReportError::TooLong(len));
        }
        Ok(report)
    }

    /// Encodes the report canonically: fields ascending, default values omitted, no unknown fields. A
    /// host stores and signs these bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.message.encode_to_vec().into()
    }

    /// Returns the message, as a client submits it.
    #[must_use]
    pub fn into_message(self) -> pb::UnsignedMisbehaviorReport {
        self.message
    }

    /// Returns the length of [`to_bytes`](Self::to_bytes).
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.message.encoded_len()
    }

    /// Returns the node that the report accuses, which need not exist.
    #[must_use]
    pub fn accused(&self) -> OriginatorId {
        OriginatorId(self.message.misbehaving_node_id)
    }

    /// Returns the kind of the fault; never `Unspecified`.
    #[must_use]
    pub fn kind(&self) -> MisbehaviorKind {
        self.kind
    }

    /// Returns the time that the reporter states, unix nanoseconds.
    #[must_use]
    pub fn reporter_time_ns(&self) -> u64 {
        self.message.reporter_time_ns
    }

    /// Returns true if the host states that it saw the fault itself.
    #[must_use]
    pub fn is_by_node(&self) -> bool {
        self.message.submitted_by_node
    }

    /// Returns the failed request, or the envelopes.
    #[must_use]
    pub fn failure(&self) -> ReportedFailure<'_> {
        use pb::unsigned_misbehavior_report::Failure as Wire;
        match &self.message.failure {
            Some(Wire::Liveness(failure)) => ReportedFailure::Liveness(failure),
            Some(Wire::Safety(failure)) => ReportedFailure::Safety(&failure.envelopes),
            // Not in a report: `of_message` refuses a message without content.
            None => ReportedFailure::Safety(&[]),
        }
    }

    /// Returns the envelopes; none for a liveness failure.
    #[must_use]
    pub fn envelopes(&self) -> &[OriginatorEnvelope] {
        match self.failure() {
            ReportedFailure::Liveness(_) => &[],
            ReportedFailure::Safety(envelopes) => envelopes,
        }
    }
}

/// Returns true for kinds whose evidence is a failed request.
#[must_use]
pub fn is_liveness(kind: MisbehaviorKind) -> bool {
    match kind {
        MisbehaviorKind::UnresponsiveNode
        | MisbehaviorKind::SlowNode
        | MisbehaviorKind::FailedRequest => true,
        MisbehaviorKind::Unspecified
        | MisbehaviorKind::OutOfOrder
        | MisbehaviorKind::DuplicateSequenceId
        | MisbehaviorKind::CausalOrdering
        | MisbehaviorKind::InvalidPayload
        | MisbehaviorKind::BlockchainInconsistency => false,
    }
}

/// Returns the digest of a report that its host signs.
#[must_use]
pub fn digest(report: &[u8]) -> Digest {
    keccak256(&[b"misbehavior|", report])
}

/// Creates a report about a node's own request for the accused's strand after `after`, which had no correct answer.
/// `response_time_ns` saturates at the schema's largest number, 4.29 s.
///
/// # Errors
/// Fails if the kind is not a liveness kind.
pub fn own_liveness_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: MisbehaviorKind,
    after: SequenceId,
    response_time_ns: u128,
) -> Result<Report, ReportError> {
    let last_seen: Cursor = [EnvelopeId::new(accused, after)].into_iter().collect();
    let query = pb::EnvelopesQuery {
        originator_node_ids: vec![accused.0],
        last_seen: Some(last_seen.to_pb()),
        ..Default::default()
    };
    let request = pb::SubscribeEnvelopesRequest { query: Some(query) };
    let failure = pb::LivenessFailure {
        response_time_ns: u32::try_from(response_time_ns).unwrap_or(u32::MAX),
        request: Some(pb::liveness_failure::Request::Subscribe(request)),
    };
    Report::of_message(pb::UnsignedMisbehaviorReport {
        reporter_time_ns,
        misbehaving_node_id: accused.0,
        r#type: kind.into(),
        failure: Some(pb::unsigned_misbehavior_report::Failure::Liveness(failure)),
        submitted_by_node: true,
    })
}

/// Creates a report of signed envelopes that a node saw itself.
///
/// # Errors
/// [`ReportError`] if an envelope is malformed, or the report exceeds its bounds.
pub fn own_safety_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: MisbehaviorKind,
    envelopes: &[Bytes],
) -> Result<Report, ReportError> {
    safety_report(reporter_time_ns, accused, kind, envelopes, true)
}

/// Makes a report of signed envelopes that a client, such as a gateway, submits to a node.
///
/// # Errors
/// If an envelope is malformed, or the report is above its bounds.
pub fn client_safety_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: MisbehaviorKind,
    envelopes: &[Bytes],
) -> Result<Report, ReportError> {
    safety_report(reporter_time_ns, accused, kind, envelopes, false)
}

fn safety_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: MisbehaviorKind,
    envelopes: &[Bytes],
    submitted_by_node: bool,
) -> Result<Report, ReportError> {
    let decoded: Result<Vec<_>, _> =
        envelopes.iter().map(|bytes| OriginatorEnvelope::decode(bytes.clone())).collect();
    let envelopes = decoded.map_err(|error| ReportError::Wire(error.to_string()))?;
    Report::of_message(pb::UnsignedMisbehaviorReport {
        reporter_time_ns,
        misbehaving_node_id: accused.0,
        r#type: kind.into(),
        failure: Some(pb::unsigned_misbehavior_report::Failure::Safety(pb::SafetyFailure {
            envelopes,
        })),
        submitted_by_node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that takes a report in a message refuses it before it charges its caller for a judgement.
    #[test]
    fn a_message_with_a_long_failed_request_is_refused_like_its_bytes() {
        let report = |topic_len| {
            let query = pb::EnvelopesQuery {
                topics: vec![vec![7; topic_len].into()],
                ..Default::default()
            };
            let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 1 };
            let request = Some(pb::liveness_failure::Request::Query(request));
            let failure = pb::LivenessFailure { response_time_ns: 1, request };
            pb::UnsignedMisbehaviorReport {
                misbehaving_node_id: 100,
                r#type: MisbehaviorKind::UnresponsiveNode.into(),
                failure: Some(pb::unsigned_misbehavior_report::Failure::Liveness(failure)),
                ..Default::default()
            }
        };
        assert!(Report::of_message(report(64 * 1024)).is_ok());
        let long = report(LIVENESS_LEN_BYTES_MAX);
        let refused = Report::of_message(long.clone()).unwrap_err();
        assert!(matches!(refused, ReportError::RequestTooLong(_)), "{refused}");
        assert_eq!(Report::decode(&long.encode_to_vec().into()), Err(refused));
    }

    #[test]
    fn a_request_whose_list_goes_beyond_it_is_refused_before_it_is_decoded() {
        let list = [0x0a, 0].repeat(100);
        let decode = |head: &[u8]| {
            let bytes = [head, &[0xc8, 1], &list].concat();
            Report::decode(&bytes.into())
        };
        // A publish of these envelopes, and a query for these topics.
        for whole in [&[0x22, 0xcb, 1, 0x22][..], &[0x22, 0xce, 1, 0x1a, 0xcb, 1, 0x0a]] {
            assert!(matches!(decode(whole), Err(ReportError::Kind(0))), "it has no kind");
        }
        // Their requests end before the lists begin, so the lists are fields of the report, too.
        for cut in [&[0x22, 3, 0x22][..], &[0x22, 5, 0x1a, 3, 0x0a]] {
            let Err(ReportError::Wire(text)) = decode(cut) else { panic!("it is refused") };
            assert!(text.contains("cut off"), "{cut:?}: {text}");
        }
    }
}
