//! Statuses with details for programs (`google.rpc`): the broken rule, the wrong part of the request, the time to
//! retry.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hawser_proto::{OriginatorId, SequenceId};
use prost::Message;
use prost::bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The domain of the reasons in error details.
const DOMAIN: &str = "hawser";
/// The type of the detail with the reason.
const ERROR_INFO: &str = "google.rpc.ErrorInfo";
/// The type of the detail with the wrong parts of a request.
const BAD_REQUEST: &str = "google.rpc.BadRequest";
/// Largest number of wrong parts of a request in a status. A guess: further parts mostly have the same mistake, and
/// clients' limits for all headers begin at 8 KiB.
const FIELDS_MAX: usize = 8;
/// The longest description of a part, and the longest text of a status that is repeated in its details, in
/// characters. A guess, for the same reason.
const DESCRIPTION_CHARS_MAX: usize = 120;
/// The longest reason that is passed on from another process, in bytes. Specified: `google.rpc.ErrorInfo`.
const REASON_LEN_BYTES_MAX: usize = 63;
/// The prefix of the keys under which a node states its last place of a strand. An originator's id follows.
const SEEN_KEY: &str = "seen_";
/// Largest number of strands for which a status states it. A guess: envelopes depend on two strands of the chain, and
/// those of the older network are three.
const SEEN_MAX: usize = 8;

/// A part of a request that is wrong (`google.rpc.BadRequest.FieldViolation`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongField {
    /// The path of the field in the request, such as `payer_envelopes[3]`.
    pub field: String,
    /// The mistake, as text for developers. Long texts are cut.
    pub description: String,
    /// The name of the rule, a constant that programs can match: `TOPIC_MISMATCH`. Empty in what another process has
    /// sent without one.
    pub reason: Cow<'static, str>,
}

/// Details of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusDetails {
    /// The reason, a constant that programs can match (`google.rpc.ErrorInfo`).
    pub reason: Cow<'static, str>,
    /// The wrong parts of the request; the first 8 are sent.
    pub wrong: Vec<WrongField>,
    /// The time after which the same call may succeed, whole seconds (`google.rpc.RetryInfo`). Also sent as metadata
    /// `retry-after`.
    pub retry_after_s: Option<u64>,
    /// The last sequence ids that a node has of the strands on which refused envelopes depend, 0 for none; the first 8
    /// are sent (metadata of `google.rpc.ErrorInfo`, under keys such as `seen_0`).
    pub seen: BTreeMap<OriginatorId, SequenceId>,
}

impl StatusDetails {
    /// Creates details that name a reason.
    #[must_use]
    pub fn of(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            wrong: Vec::new(),
            retry_after_s: None,
            seen: BTreeMap::new(),
        }
    }

    /// Returns what a node's status says about the strands that the node has seen ([`StatusDetails::seen`]): at most 8
    /// entries, whatever the node has sent.
    #[must_use]
    pub fn seen_of(status: &Status) -> BTreeMap<OriginatorId, SequenceId> {
        let facts = infos_of(status).flat_map(|info| info.metadata);
        let seen = facts.filter_map(|(key, place)| {
            let originator = key.strip_prefix(SEEN_KEY)?.parse().ok()?;
            Some((OriginatorId(originator), SequenceId(place.parse().ok()?)))
        });
        seen.take(SEEN_MAX).collect()
    }

    /// Returns the reason that a node's status names ([`StatusDetails::reason`]). `None` if it has none in the form of
    /// a constant.
    #[must_use]
    pub fn reason_of(status: &Status) -> Option<String> {
        infos_of(status).map(|info| info.reason).find(|reason| is_reason(reason))
    }

    /// Returns the parts of a request that a node's status names as wrong ([`StatusDetails::wrong`]): at most 8 with
    /// texts of bounded length, whatever the node has sent.
    #[must_use]
    pub fn wrong_of(status: &Status) -> Vec<WrongField> {
        let rich = RpcStatus::decode(status.details()).unwrap_or_default();
        let requests = rich.details.into_iter().filter(|any| any.type_url.ends_with(BAD_REQUEST));
        let requests = requests.filter_map(|any| BadRequest::decode(any.value).ok());
        let wrong = requests.flat_map(|request| request.field_violations).take(FIELDS_MAX);
        let wrong = wrong.map(|wrong| WrongField {
            field: cut(&wrong.field),
            description: cut(&wrong.description),
            reason: if is_reason(&wrong.reason) { wrong.reason.into() } else { "".into() },
        });
        wrong.collect()
    }

    /// Renders a status with these details.
    #[must_use]
    pub fn into_status(self, code: Code, text: &str) -> Status {
        let mut metadata = MetadataMap::new();
        let seen = self.seen.into_iter().take(SEEN_MAX);
        let seen =
            seen.map(|(originator, place)| (format!("{SEEN_KEY}{originator}"), place.to_string()));
        let (reason, domain) = (self.reason.into_owned(), DOMAIN.to_owned());
        let info = ErrorInfo { reason, domain, metadata: seen.collect() };
        let mut details = vec![Any::of(ERROR_INFO, &info)];
        if !self.wrong.is_empty() {
            let fields = self.wrong.into_iter().take(FIELDS_MAX).map(|wrong| FieldViolation {
                field: wrong.field,
                description: cut(&wrong.description),
                reason: wrong.reason.into_owned(),
            });
            let request = BadRequest { field_violations: fields.collect() };
            details.push(Any::of(BAD_REQUEST, &request));
        }
        if let Some(seconds) = self.retry_after_s {
            metadata.insert("retry-after", MetadataValue::from(seconds));
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            let retry = RetryInfo { retry_delay: Some(Seconds { seconds }) };
            details.push(Any::of("google.rpc.RetryInfo", &retry));
        }
        let status = RpcStatus { code: code as i32, message: cut(text), details };
        Status::with_details_and_metadata(code, text, Bytes::from(status.encode_to_vec()), metadata)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(DESCRIPTION_CHARS_MAX).collect()
}

/// Returns the reasons of a status that are in the domain of this network's nodes.
fn infos_of(status: &Status) -> impl Iterator<Item = ErrorInfo> {
    let rich = RpcStatus::decode(status.details()).unwrap_or_default();
    let infos = rich.details.into_iter().filter(|any| any.type_url.ends_with(ERROR_INFO));
    let infos = infos.filter_map(|any| ErrorInfo::decode(any.value).ok());
    infos.filter(|info| info.domain == DOMAIN)
}

/// Returns true if a text has the form of a reason: capital letters, digits and underscores, as `google.rpc.ErrorInfo`
/// specifies.
fn is_reason(text: &str) -> bool {
    text.len() <= REASON_LEN_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.bytes().all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_')
}

/// `google.rpc.Status`, the form of error details.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

impl Any {
    fn of(name: &str, message: &impl Message) -> Self {
        let value = Bytes::from(message.encode_to_vec());
        Self { type_url: format!("type.googleapis.com/{name}"), value }
    }
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    reason: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Seconds>,
}

/// `google.protobuf.Duration` in whole seconds.
#[derive(Clone, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map of a `google.rpc.ErrorInfo`, as it is on the wire.
    #[derive(Clone, PartialEq, Message)]
    struct MapEntries {
        #[prost(message, repeated, tag = "3")]
        metadata: Vec<MapEntry>,
    }

    /// An entry of a map.
    #[derive(Clone, PartialEq, Message)]
    struct MapEntry {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(string, tag = "2")]
        value: String,
    }

    #[test]
    fn details_name_what_is_wrong_and_stay_small() {
        let wrong = (0..50).map(|number| WrongField {
            field: format!("payer_envelopes[{number}]"),
            description: "ä".repeat(5000),
            reason: "TOPIC_MISMATCH".into(),
        });
        let details = StatusDetails { wrong: wrong.collect(), ..StatusDetails::of("REFUSED") };
        let status = details.into_status(Code::InvalidArgument, &"x".repeat(5000));
        assert!(status.details().len() < 3 * 1024, "{}", status.details().len());
        let rich = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(rich.code, Code::InvalidArgument as i32);
        let kinds: Vec<_> = rich.details.iter().map(|any| any.type_url.as_str()).collect();
        let expected = ["google.rpc.ErrorInfo", "google.rpc.BadRequest"];
        assert_eq!(kinds, expected.map(|name| format!("type.googleapis.com/{name}")));
        let request = BadRequest::decode(rich.details[1].value.clone()).unwrap();
        assert_eq!(request.field_violations.len(), 8);
        assert_eq!(request.field_violations[3].field, "payer_envelopes[3]");
        assert_eq!(request.field_violations[3].reason, "TOPIC_MISMATCH");
        let told = StatusDetails::wrong_of(&status);
        assert_eq!(told.len(), 8);
        let (field, description) = ("payer_envelopes[3]".to_owned(), "ä".repeat(120));
        assert_eq!(told[3], WrongField { field, description, reason: "TOPIC_MISMATCH".into() });
        assert_eq!(StatusDetails::reason_of(&status).unwrap(), "REFUSED");
    }

    #[test]
    fn few_wrong_parts_are_read_whatever_there_is() {
        let text = || "x".repeat(10_000);
        let wrong = || FieldViolation { field: text(), description: text(), reason: text() };
        let request = BadRequest { field_violations: (0..100).map(|_| wrong()).collect() };
        let read = |details| {
            let bytes = RpcStatus { details, ..RpcStatus::default() }.encode_to_vec();
            StatusDetails::wrong_of(&Status::with_details(Code::NotFound, "", bytes.into()))
        };
        let told = read(vec![Any::of(BAD_REQUEST, &request); 3]);
        let (field, description) = ("x".repeat(120), "x".repeat(120));
        assert_eq!(told, vec![WrongField { field, description, reason: "".into() }; 8]);
        assert!(read(vec![Any::of(ERROR_INFO, &request)]).is_empty(), "another detail");
        let damaged = Status::with_details(Code::NotFound, "", Bytes::from_static(b"\xff"));
        assert!(StatusDetails::wrong_of(&damaged).is_empty());
    }

    #[test]
    fn a_reason_of_another_process_is_a_constant_or_none() {
        let of = |domain: &str, reason: &str| {
            let (reason, domain) = (reason.to_owned(), domain.to_owned());
            let details =
                vec![Any::of(ERROR_INFO, &ErrorInfo { reason, domain, metadata: BTreeMap::new() })];
            let bytes = RpcStatus { details, ..RpcStatus::default() }.encode_to_vec();
            let status = Status::with_details(Code::InvalidArgument, "", bytes.into());
            StatusDetails::reason_of(&status)
        };
        let longest = "X".repeat(63);
        for reason in ["RETENTION", "A", "RULE_7", &longest] {
            assert_eq!(of(DOMAIN, reason).as_deref(), Some(reason));
        }
        let longer = "X".repeat(64);
        for reason in ["", "_RULE", "7", "Retention", "A B", "A\nB", "Ä", &longer] {
            assert_eq!(of(DOMAIN, reason), None, "{reason:?}");
        }
        assert_eq!(of("another.domain", "RETENTION"), None);
        assert_eq!(StatusDetails::reason_of(&Status::invalid_argument("bad")), None);
    }

    #[test]
    fn what_a_node_has_seen_of_strands_is_in_the_reasons_map() {
        let seen = [(1, 0), (0, 24), (10, u64::MAX)];
        let seen: BTreeMap<_, _> =
            seen.map(|(originator, place)| (OriginatorId(originator), SequenceId(place))).into();
        let details = StatusDetails { seen: seen.clone(), ..StatusDetails::of("REFUSED") };
        let status = details.into_status(Code::InvalidArgument, "refused");
        let rich = RpcStatus::decode(status.details()).unwrap();
        let entries = MapEntries::decode(rich.details[0].value.clone()).unwrap().metadata;
        let entries: Vec<_> = entries.iter().map(|it| (&it.key[..], &it.value[..])).collect();
        let expected = [("seen_0", "24"), ("seen_1", "0"), ("seen_10", "18446744073709551615")];
        assert_eq!(entries, expected);
        assert_eq!(StatusDetails::seen_of(&status), seen);
    }

    #[test]
    fn few_strands_are_told_and_read_whatever_there_is() {
        let strands = |count| (0..count).map(|id| (OriginatorId(id), SequenceId(u64::MAX)));
        let seen = strands(100).collect();
        let details = StatusDetails { seen, ..StatusDetails::of("REFUSED") };
        let status = details.into_status(Code::InvalidArgument, "refused");
        let first: BTreeMap<_, _> = strands(8).collect();
        assert_eq!(StatusDetails::seen_of(&status), first);

        let read = |metadata: BTreeMap<String, String>| {
            let info = ErrorInfo { domain: DOMAIN.into(), metadata, ..ErrorInfo::default() };
            let details = vec![Any::of(ERROR_INFO, &info)];
            let bytes = RpcStatus { details, ..RpcStatus::default() }.encode_to_vec();
            let status = Status::with_details(Code::InvalidArgument, "", bytes.into());
            StatusDetails::seen_of(&status)
        };
        let many = (0..100).map(|id| (format!("seen_{id}"), "7".to_owned()));
        assert_eq!(read(many.collect()).len(), 8);
        let other = [("seen_x", "7"), ("seen_", "7"), ("seen_200", "x"), ("zone", "7")];
        let other = other.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(read(other.into()).len(), 0);
        let damaged = Status::with_details(Code::InvalidArgument, "", Bytes::from_static(b"\xff"));
        assert_eq!(StatusDetails::seen_of(&damaged).len(), 0);
    }

    #[test]
    fn a_time_is_told_to_programs_of_both_kinds() {
        let details = StatusDetails { retry_after_s: Some(7), ..StatusDetails::of("BUSY") };
        let status = details.into_status(Code::Unavailable, "busy");
        assert_eq!(status.metadata().get("retry-after").unwrap(), "7");
        let rich = RpcStatus::decode(status.details()).unwrap();
        let retry = RetryInfo::decode(rich.details[1].value.clone()).unwrap();
        assert_eq!(retry.retry_delay, Some(Seconds { seconds: 7 }));
    }
}
