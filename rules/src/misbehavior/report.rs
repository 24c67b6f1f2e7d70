//! The bytes of a report: their form, their bounds, and the digest that a host signs.

use hawser_proto::budget::{field_len_bytes, nested_count};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::sign::{Digest, keccak256};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use prost::Message as _;

pub use pb::Misbehavior as Kind;

/// Bytes of one report. Specified (`docs/protocol/misbehavior.md`).
pub const REPORT_LEN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Envelopes of one report. Specified (same page).
pub const ENVELOPES_MAX: usize = 64;
/// Envelopes of a report on a congestion fee, which needs those of five minutes. Specified (same page).
pub const WINDOW_ENVELOPES_MAX: usize = 1_000;
/// Greatest length of a failed request in bytes. Specified (same page): 64 KiB, and room for the message around it.
pub const LIVENESS_LEN_BYTES_MAX: usize = 64 * 1024 + 1024;

/// Field of `UnsignedMisbehaviorReport` with a failed request.
const LIVENESS_FIELD: u64 = 4;
/// Field of `UnsignedMisbehaviorReport` with the envelopes.
const SAFETY_FIELD: u64 = 5;

/// The reason bytes are no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The report, in bytes, is above its bound.
    #[error("the report has {0} bytes, at most {REPORT_LEN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The number of envelopes is above the bound of the kind.
    #[error("the report has {count} envelopes, at most {max} are allowed")]
    TooManyEnvelopes {
        /// Envelopes of the report.
        count: usize,
        /// The bound of its kind.
        max: usize,
    },
    /// The failed request, in bytes, is above its bound.
    #[error("the failed request has {0} bytes, at most {LIVENESS_LEN_BYTES_MAX} are allowed")]
    RequestTooLong(usize),
    /// The bytes are no protobuf message of this type.
    #[error("the report does not decode as a misbehaviour report: {0}")]
    Wire(String),
    /// The kind is 0, or one of a newer schema.
    #[error("the kind of misbehaviour {0} is unknown")]
    Kind(i32),
    /// A liveness failure with a safety kind, or the other way round, or neither.
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
    /// Returns true if the report is refused for its size and not for its content.
    #[must_use]
    pub fn is_size(&self) -> bool {
        matches!(self, Self::TooLong(_) | Self::TooManyEnvelopes { .. } | Self::RequestTooLong(_))
    }
}

/// A well-formed report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    message: pb::UnsignedMisbehaviorReport,
    kind: Kind,
}

/// The content of a report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Failure<'a> {
    /// A request that got no good answer in time.
    Liveness(&'a pb::LivenessFailure),
    /// Signed envelopes.
    Safety(&'a [OriginatorEnvelope]),
}

impl Report {
    /// Decodes a report. Its size is checked before anything is allocated for it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, ReportError> {
        if bytes.len() > REPORT_LEN_BYTES_MAX {
            return Err(ReportError::TooLong(bytes.len()));
        }
        let count = nested_count(bytes, SAFETY_FIELD, 1)
            .ok_or_else(|| ReportError::Wire("a field is cut off or of no known form".into()))?;
        if count > WINDOW_ENVELOPES_MAX {
            return Err(ReportError::TooManyEnvelopes { count, max: WINDOW_ENVELOPES_MAX });
        }
        let request = field_len_bytes(bytes, LIVENESS_FIELD..=LIVENESS_FIELD);
        if request > LIVENESS_LEN_BYTES_MAX {
            return Err(ReportError::RequestTooLong(request));
        }
        let message = pb::UnsignedMisbehaviorReport::decode(bytes.clone());
        Self::of_message(message.map_err(|error| ReportError::Wire(error.to_string()))?)
    }

    /// Takes a decoded report.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of_message(message: pb::UnsignedMisbehaviorReport) -> Result<Self, ReportError> {
        let kind = match Kind::try_from(message.r#type) {
            Ok(Kind::Unspecified) | Err(_) => return Err(ReportError::Kind(message.r#type)),
            Ok(kind) => kind,
        };
        let report = Self { message, kind };
        use pb::unsigned_misbehavior_report::Failure as Wire;
        match &report.message.failure {
            Some(Wire::Liveness(failure)) if is_liveness(kind) => {
                failure.request.as_ref().ok_or(ReportError::NoRequest)?;
            }
            Some(Wire::Safety(failure)) if !is_liveness(kind) => {
                let count = failure.envelopes.len();
                let max = match kind {
                    Kind::InvalidPayload => WINDOW_ENVELOPES_MAX,
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

    /// Encodes the report in its one form: fields ascending, defaults left out, nothing unknown. These
    /// bytes are what a host stores and signs.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.message.encode_to_vec().into()
    }

    /// Returns the length of [`to_bytes`](Self::to_bytes).
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.message.encoded_len()
    }

    /// Returns the node that is accused.
    #[must_use]
    pub fn accused(&self) -> OriginatorId {
        OriginatorId(self.message.misbehaving_node_id)
    }

    /// Returns the kind of the fault; never `Unspecified`.
    #[must_use]
    pub fn kind(&self) -> Kind {
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

    /// Returns the content.
    #[must_use]
    pub fn failure(&self) -> Failure<'_> {
        use pb::unsigned_misbehavior_report::Failure as Wire;
        match &self.message.failure {
            Some(Wire::Liveness(failure)) => Failure::Liveness(failure),
            Some(Wire::Safety(failure)) => Failure::Safety(&failure.envelopes),
            None => Failure::Safety(&[]),
        }
    }

    /// Returns the envelopes; none for a liveness failure.
    #[must_use]
    pub fn envelopes(&self) -> &[OriginatorEnvelope] {
        match self.failure() {
            Failure::Liveness(_) => &[],
            Failure::Safety(envelopes) => envelopes,
        }
    }
}

/// Returns true for kinds whose evidence is a failed request.
#[must_use]
pub fn is_liveness(kind: Kind) -> bool {
    match kind {
        Kind::UnresponsiveNode | Kind::SlowNode | Kind::FailedRequest => true,
        Kind::Unspecified
        | Kind::OutOfOrder
        | Kind::DuplicateSequenceId
        | Kind::CausalOrdering
        | Kind::InvalidPayload
        | Kind::BlockchainInconsistency => false,
    }
}

/// Returns the digest of a report that its host signs.
#[must_use]
pub fn digest(report: &[u8]) -> Digest {
    keccak256(&[b"misbehavior|", report])
}

/// Makes a report of a request for a node's own strand, behind `after`, that a node made itself and that got no good
/// answer. `response_time_ns` stops at the largest number of the schema, 4.29 s.
///
/// # Errors
/// If the kind is not one of a failed request.
pub fn own_liveness_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: Kind,
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

/// Makes a report of signed envelopes that a node saw itself.
///
/// # Errors
/// If an envelope is malformed, or the report is above its bounds.
pub fn own_safety_report(
    reporter_time_ns: u64,
    accused: OriginatorId,
    kind: Kind,
    envelopes: &[Bytes],
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
        submitted_by_node: true,
    })
}
