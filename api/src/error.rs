//! Errors of calls, and their gRPC statuses. The only place where errors become statuses.

use std::sync::LazyLock;

use hawser_engine::admission::AdmissionError;
use hawser_engine::read::QueryError;
use hawser_engine::runtime::{NoProofError, PublishError, SubmitError};
use hawser_proto::NODE_TOKEN_HEADER;
use hawser_serve::{
    MESSAGE_LEN_BYTES_MAX, OverloadedError, SHUTTING_DOWN, StatusDetails, WarningThrottle,
    WrongField,
};
use tonic::{Code, Status};

use crate::limit_status::{REFUSED, limited};
use crate::limits::LimitError;
use crate::stream_error::StreamError;
use crate::tokens::NodeTokenError;

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// A query breaks a limit.
    #[error("invalid query: {0}")]
    Query(LimitError),
    /// A subscription breaks a limit.
    #[error("invalid subscription request: {0}")]
    Subscription(LimitError),
    /// The filter of a subscription is missing or incomplete.
    #[error("{0}")]
    Filter(LimitError),
    /// The engine refused a publish.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] QueryError),
    /// Another request breaks a limit.
    #[error("{0}")]
    Request(LimitError),
    /// This node has neither usage nor ledger entries of the payer.
    #[error("payer {0} is not known")]
    UnknownPayer(String),
    /// The requested proof does not exist.
    #[error(transparent)]
    Proof(#[from] NoProofError),
    /// The log holds bytes that are no envelope.
    #[error("an envelope in this node's log does not decode: ask another node")]
    Undecodable,
    /// The thread that read the log panicked.
    #[error("this node failed while it read the answer: try again, or ask another node")]
    Interrupted,
    /// The caller asks for more than its share.
    #[error(transparent)]
    Overloaded(#[from] OverloadedError),
    /// The response would exceed the limit of a message.
    #[error("the answer would exceed {MESSAGE_LEN_BYTES_MAX} bytes: ask for less at once")]
    AnswerTooLarge,
    /// The server stops and ends its streams.
    #[error("{SHUTTING_DOWN}")]
    ShuttingDown,
    /// A node token is not accepted.
    #[error("invalid auth token: {0}")]
    Token(#[from] NodeTokenError),
    /// A node token was not checked, because too many others of its address were; holds the seconds until the next
    /// check.
    #[error(
        "the auth token was not checked, because this address has sent too many others: send none, or a valid one later"
    )]
    TooManyTokens(u64),
    /// Only nodes may call this service.
    #[error("this service is for nodes: the header {NODE_TOKEN_HEADER} is missing")]
    NodesOnly,
    /// A call exceeds the limits of its caller.
    #[error("{REFUSED}")]
    RateLimited {
        /// Seconds after which the same call fits.
        retry_after_s: u64,
    },
    /// A caller has as many streams of all envelopes open as it may have.
    #[error("too many SubscribeAllEnvelopes streams are open from this address: close one first")]
    TooManyStreams,
    /// A stream with requests ends.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The request has no report.
    #[error("invalid misbehaviour report: the request has no report")]
    ReportMissing,
    /// The evidence of a report does not support it.
    #[error("invalid misbehaviour report: {0}")]
    ReportRefuted(String),
    /// A report was not taken.
    #[error("{0}")]
    Report(String),
    /// Checks of reports, or the writes of those without proof, have used up their share of the machine; holds the
    /// seconds until the next one.
    #[error("misbehaviour reports have used up their share of this node: try again later")]
    ReportsBusy(u64),
    /// An address has submitted as many reports as it may; holds the seconds until the next one.
    #[error("too many misbehaviour reports were submitted from this address: try again later")]
    TooManyReports(u64),
    /// The log cannot be written to at present.
    #[error("this node cannot write to its disk now: try another node")]
    ReadOnly,
    /// This node does not serve that part of the protocol.
    #[error("{0} is not served by this node")]
    NotServed(&'static str),
}

impl From<SubmitError> for CallError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(error) => Self::Report(error.to_string()),
            SubmitError::Busy { retry_after_s } => Self::ReportsBusy(retry_after_s),
            SubmitError::Store(_) => Self::ReadOnly,
        }
    }
}

/// The text of a status for a read in which the database has failed.
const UNREAD: &str = "this node could not read its log: try again, or ask another node";
/// The machine-readable name of the refusal of a request that its payer cannot pay.
const PAYER_BALANCE: &str = "PAYER_BALANCE";
/// Seconds after which a full disk may have room again. A guess: an operator has to make it.
const RETRY_AFTER_DISK_S: u64 = 30;
/// Seconds after which a caller may have ended one of its streams of all envelopes. A guess: only the caller knows.
const RETRY_AFTER_STREAM_S: u64 = 60;
/// Seconds after which a publish may find room in flight. A guess: as for memory.
const RETRY_AFTER_BUSY_S: u64 = 1;
/// Seconds after which an index may have been rebuilt. A guess: a rebuild takes seconds to minutes, in proportion
/// to the log.
const RETRY_AFTER_REBUILD_S: u64 = 30;

impl CallError {
    /// Returns the error of a subscription that breaks `limit`. Missing parts of a filter keep
    /// their bare texts, which clients match.
    pub(crate) fn of_subscription(limit: LimitError) -> Self {
        match limit {
            LimitError::FilterMissing
            | LimitError::OriginatorsMissing
            | LimitError::CursorMissing => Self::Filter(limit),
            limit => Self::Subscription(limit),
        }
    }
}

/// Renders an error as a status. Texts reach the caller unchanged, so they name the next step of the caller or the
/// operator; the texts of rate limits are specified. Only the text of a database error is replaced.
pub(crate) fn into_status(error: impl Into<CallError>) -> Status {
    let error = error.into();
    let text = error.to_string();
    match error {
        CallError::Query(limit)
        | CallError::Subscription(limit)
        | CallError::Filter(limit)
        | CallError::Request(limit) => {
            let (field, reason) = (limit.field().to_owned(), limit.name());
            let description = limit.to_string();
            let wrong = vec![WrongField { field, description, reason: reason.into() }];
            let details = StatusDetails { wrong, ..StatusDetails::of(reason) };
            details.into_status(Code::InvalidArgument, &text)
        }
        CallError::Proof(NoProofError::Proof(_) | NoProofError::PlaceZero) => {
            of(Code::InvalidArgument, "PROOF_RANGE", &text)
        }
        CallError::ReportMissing | CallError::ReportRefuted(_) | CallError::Report(_) => {
            of(Code::InvalidArgument, "REPORT_REFUSED", &text)
        }
        CallError::Publish(PublishError::Refused(refusal)) => refused(&refusal),
        CallError::Publish(PublishError::AnswerTooLarge)
        | CallError::Read(QueryError::LogsTooLarge(_))
        | CallError::AnswerTooLarge => of(Code::ResourceExhausted, "ANSWER_TOO_LARGE", &text),
        CallError::Publish(PublishError::Balance { index, .. }) => unpaid(index, &text),
        CallError::Publish(PublishError::PayerRate { retry_after }) => {
            let whole_s = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            limited(&text, "PAYER_RATE", whole_s)
        }
        CallError::Publish(PublishError::Busy) => busy(&text),
        CallError::Publish(PublishError::Unavailable { retry_after, .. }) => {
            unavailable(text, retry_after.as_secs())
        }
        CallError::Read(QueryError::TooLarge(_)) => into_status(CallError::AnswerTooLarge),
        CallError::Read(QueryError::NoMemory(_)) | CallError::Overloaded(_) => {
            OverloadedError.into()
        }
        CallError::Read(QueryError::Rebuilding(_)) => unavailable(text, RETRY_AFTER_REBUILD_S),
        CallError::Read(error) => of(Code::Internal, "READ_FAILED", failed_read(&error, &text)),
        CallError::Undecodable | CallError::Interrupted => {
            log_failed_read(&text);
            of(Code::Internal, "READ_FAILED", &text)
        }
        CallError::ShuttingDown => of(Code::Unavailable, "SHUTTING_DOWN", &text),
        CallError::UnknownPayer(_) => of(Code::NotFound, "UNKNOWN_PAYER", &text),
        CallError::Proof(NoProofError::NoCheckpoint(_)) => {
            of(Code::NotFound, "NO_CHECKPOINT", &text)
        }
        CallError::Proof(NoProofError::OtherTree(_)) => of(Code::NotFound, "OTHER_TREE", &text),
        CallError::Proof(NoProofError::Beyond { .. }) => of(Code::OutOfRange, "BEYOND_TREE", &text),
        CallError::Stream(error) => of_stream(&error, &text),
        CallError::NotServed(_) => of(Code::Unimplemented, "NOT_SERVED", &text),
        CallError::Token(_) => of(Code::Unauthenticated, "NODE_TOKEN", &text),
        CallError::NodesOnly => of(Code::Unauthenticated, "NODES_ONLY", &text),
        CallError::TooManyTokens(retry_after_s) => {
            let retry_after_s = Some(retry_after_s);
            let details = StatusDetails { retry_after_s, ..StatusDetails::of("TOKEN_CHECKS") };
            details.into_status(Code::Unauthenticated, &text)
        }
        CallError::RateLimited { retry_after_s } => limited(&text, "RATE_LIMIT", retry_after_s),
        CallError::TooManyReports(retry_after_s) => limited(&text, "REPORT_LIMIT", retry_after_s),
        CallError::ReportsBusy(retry_after_s) => unavailable(text, retry_after_s),
        CallError::ReadOnly => unavailable(text, RETRY_AFTER_DISK_S),
        CallError::TooManyStreams => limited(REFUSED, "STREAM_LIMIT", RETRY_AFTER_STREAM_S),
    }
}

/// Renders a status whose only detail is its reason.
fn of(code: Code, reason: &'static str, text: &str) -> Status {
    StatusDetails::of(reason).into_status(code, text)
}

/// Renders the end of a stream with requests.
fn of_stream(error: &StreamError, text: &str) -> Status {
    let shown = match error {
        StreamError::Read(QueryError::Rebuilding(_)) => text,
        StreamError::Read(error) => failed_read(error, text),
        _ => text,
    };
    error.details().into_status(error.code(), shown)
}

/// Logs a failed read with its text, and returns the text for the caller. That of the database is for the operator
/// alone: it names files of this host, and rows by their keys.
fn failed_read<'a>(error: &QueryError, text: &'a str) -> &'a str {
    log_failed_read(text);
    match error {
        QueryError::Storage(_) => UNREAD,
        _ => text,
    }
}

fn log_failed_read(text: &str) {
    static LOGGED: LazyLock<WarningThrottle> = LazyLock::new(WarningThrottle::default);
    log_unless_flooded(&LOGGED, text);
}

/// Logs a failed read if the last line about one is a minute old. Any caller can ask for damaged bytes again and again,
/// and a log without a bound would fill the disk.
fn log_unless_flooded(logged: &WarningThrottle, text: &str) {
    if logged.is_due() {
        tracing::error!(
            code = "read_failed",
            error = text,
            "a call failed, because the log could not be read: further ones of the next minute are only counted"
        );
    }
}

/// Renders the refusal of a publish. The details say which envelope breaks which rule. If an envelope is refused for a
/// dependency, they also have this node's last places in the strands on which the envelope depends.
fn refused(refusal: &AdmissionError) -> Status {
    let wrong = refusal.envelopes.iter().map(|envelope| WrongField {
        field: format!("payer_envelopes[{}]", envelope.index),
        description: envelope.text.clone(),
        reason: envelope.rule.into(),
    });
    let (wrong, seen) = (wrong.collect(), refusal.seen.clone());
    let details = StatusDetails { wrong, seen, ..StatusDetails::of("ENVELOPES_REFUSED") };
    details.into_status(Code::InvalidArgument, &refusal.text)
}

/// Renders the refusal of a publish that its payer cannot pay. The details name the first envelope that its balance
/// does not cover.
fn unpaid(index: usize, text: &str) -> Status {
    let field = format!("payer_envelopes[{index}]");
    let description = text.to_owned();
    let wrong = vec![WrongField { field, description, reason: PAYER_BALANCE.into() }];
    let details = StatusDetails { wrong, ..StatusDetails::of(PAYER_BALANCE) };
    details.into_status(Code::FailedPrecondition, text)
}

/// Renders the refusal of a publish that found no room. Its reason differs from the reason of a call whose connection
/// is closed: the publishes of such a connection go on, and nothing of this one was taken.
fn busy(text: &str) -> Status {
    limited(text, "PUBLISHES_IN_FLIGHT", RETRY_AFTER_BUSY_S)
}

fn unavailable(text: String, retry_after_s: u64) -> Status {
    let retry_after_s = Some(retry_after_s);
    let details = StatusDetails { retry_after_s, ..StatusDetails::of("UNAVAILABLE") };
    details.into_status(Code::Unavailable, &text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawser_engine::ledger::PicoDollarBalance;
    use hawser_proto::price::PicoDollarPrice;
    use hawser_proto::{Topic, TopicKind};
    use hawser_storage::ReadError;

    use super::*;
    use crate::log_lines::LogLines;

    /// Played by callers who ask for a damaged place without pause.
    #[tokio::test(start_paused = true)]
    async fn failed_reads_have_one_line_a_minute() {
        let (logged, log) = (WarningThrottle::default(), LogLines::default());
        for minute in 1..=2 {
            tracing::subscriber::with_default(log.clone(), || {
                (0..100).for_each(|_| log_unless_flooded(&logged, "a damaged block"));
            });
            assert_eq!(log.lines().len(), minute);
            tokio::time::advance(Duration::from_secs(61)).await;
        }
    }

    #[test]
    fn a_payer_without_money_is_told_from_which_envelope_on() {
        let (price, left) = (PicoDollarPrice(70), PicoDollarBalance(50));
        let status = into_status(PublishError::Balance { price, left, index: 3 });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = String::from_utf8_lossy(status.details()).into_owned();
        for part in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "payer_envelopes[3]"] {
            assert!(details.contains(part), "{part} in {details:?}");
        }
        assert_eq!(details.matches("PAYER_BALANCE").count(), 2, "{details:?}");
    }

    #[test]
    fn a_publish_that_has_waited_for_room_in_vain_may_come_again() {
        let status = into_status(PublishError::Busy);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.metadata().contains_key("retry-after"), "{status:?}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("PUBLISHES_IN_FLIGHT"), "{status:?}");
    }

    #[test]
    fn a_refused_read_is_told_which_field_is_wrong_and_each_refusal_its_reason() {
        let status =
            into_status(CallError::Query(LimitError::TopicLength(0, "query.topics[3]".into())));
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("google.rpc.BadRequest"), "{details:?}");
        for part in ["query.topics[3]", "TOPIC_LENGTH"] {
            assert!(details.contains(part), "{part} in {details:?}");
        }
        let inbox = Topic::new(TopicKind::IdentityUpdates, &[7; 32]).unwrap();
        for (error, reason) in [
            (CallError::UnknownPayer("0x1".to_owned()), "UNKNOWN_PAYER"),
            (CallError::NodesOnly, "NODES_ONLY"),
            (CallError::AnswerTooLarge, "ANSWER_TOO_LARGE"),
            (CallError::Read(QueryError::LogsTooLarge(inbox)), "ANSWER_TOO_LARGE"),
            (CallError::ShuttingDown, "SHUTTING_DOWN"),
            (CallError::NotServed("this"), "NOT_SERVED"),
            (CallError::ReportMissing, "REPORT_REFUSED"),
        ] {
            let status = into_status(error);
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert!(details.contains(reason), "{reason}: {status:?}");
        }
    }

    /// The database names its files, and the keys of other readers' rows. They are for the operator, in the log.
    #[test]
    fn a_reader_is_told_nothing_of_the_database_behind_a_failed_read() {
        let key_hex = "00c0ffee".to_owned();
        let failed = QueryError::Storage(ReadError::Corrupt { family: "topic", key_hex });
        assert!(failed.to_string().contains("c0ffee"));
        let of_call = into_status(failed.clone());
        assert_eq!((of_call.code(), of_call.message()), (Code::Internal, UNREAD));
        let of_stream = into_status(StreamError::Read(failed));
        assert_eq!((of_stream.code(), of_stream.message()), (Code::Unavailable, UNREAD));
        for status in [of_call, of_stream] {
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert!(!details.contains("c0ffee"), "{details:?}");
        }
        let rebuilding = into_status(StreamError::Read(QueryError::Rebuilding("topic")));
        assert!(rebuilding.message().contains("rebuilding its index"), "{rebuilding}");
    }

    #[test]
    fn readers_of_an_index_that_is_made_anew_are_sent_elsewhere_for_a_while() {
        let status = into_status(QueryError::Rebuilding("topic"));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("topic"), "{status}");
        assert!(status.metadata().contains_key("retry-after"), "{status:?}");
    }
}
