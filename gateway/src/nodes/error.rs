//! The errors of calls to nodes, and their kinds in metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hawser_proto::{Bytes, one_line};
use hawser_serve::StatusDetails;
use tonic::{Code, Status};

use super::answer::AnswerError;

/// The metadata key of the time after which a node may publish, whole seconds.
const RETRY_AFTER: &str = "retry-after";
/// The longest such time that is passed on, in seconds, because a node may lie. Chosen: the longest that nodes of this
/// program name for a fault.
const RETRY_AFTER_S_MAX: u64 = 60;

/// Seconds after which a node may be able to check envelopes again. A guess: it catches up with the chain, or its
/// validation service is restarted.
const RETRY_AFTER_UNABLE_S: u64 = 5;
/// The beginning of the text with which nodes refuse a request, in front of a line for each refused envelope.
const REFUSED_LINES: &str = "error processing payer envelopes:";
/// The beginning of such a line about a key package, in front of its place.
const KEY_PACKAGE: &str = "could not validate key package. index ";
/// The reasons with which a node turns a publish away without taking anything of it. A node that closes a connection
/// names another one (`OVERLOADED`), because the publish goes on.
const TURNED_AWAY: [&str; 2] = ["PAYER_RATE", "PUBLISHES_IN_FLIGHT"];
/// The text of an envelope that a node refuses for others of the same call.
const WITH_OTHERS: &str = "it is refused with other envelopes of the request, which the node names";

/// The reason for which an attempt at a node failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodeError {
    /// The node gave no answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The node's health check failed during the call.
    #[error("the node's health check fails")]
    WentDown,
    /// The node could not be reached, or failed for a reason of its own.
    #[error("{}", status_text(.0))]
    Failed(Status),
    /// The node failed a call with several requests. An envelope of any of them may be the reason.
    #[error("{}", status_text(.0))]
    FailedWithOthers(Status),
    /// The node refuses the envelopes because of a rule.
    #[error("{}", status_text(.0))]
    Refused(Status),
    /// The node refuses the envelopes because it cannot check or price them now.
    #[error("the node cannot check the envelopes now: {}", status_text(.0))]
    Unable(Status),
    /// The node's answer does not match the request.
    #[error("the node's answer is not valid: {0}")]
    WrongAnswer(AnswerError),
    /// The attempt ended before the node was called, for this reason.
    #[error("the node was not called: {0}")]
    NotCalled(Box<NodeError>),
}

/// The kind of a node's error, as metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeErrorKind {
    Timeout,
    WentDown,
    Failed,
    Refused,
    WrongAnswer,
    /// The node shows another envelope at the id of one that this gateway has put on the chain.
    WrongChainEnvelope,
}

impl NodeErrorKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Timeout,
        Self::WentDown,
        Self::Failed,
        Self::Refused,
        Self::WrongAnswer,
        Self::WrongChainEnvelope,
    ];

    /// Returns the value of the label `kind` in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::WentDown => "went_down",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::WrongAnswer => "wrong_answer",
            Self::WrongChainEnvelope => "wrong_chain_envelope",
        }
    }
}

impl NodeError {
    /// Returns the error of a call that a node has answered with a status, or not within the time for it.
    pub(super) fn of_status(status: Status, waited: Duration) -> Self {
        match status.code() {
            // These codes are about the envelopes or the payer: another node would answer the same.
            Code::InvalidArgument => Self::of_invalid(status),
            Code::FailedPrecondition | Code::OutOfRange => Self::Refused(status),
            Code::DeadlineExceeded => Self::Timeout(waited),
            _ => Self::Failed(status),
        }
    }

    /// Returns the error of a node that calls the request invalid. Nodes of the reference implementation say so as well
    /// if their validation service does not answer, or if they cannot read the rates.
    pub(super) fn of_invalid(status: Status) -> Self {
        let lines = status.message().strip_prefix(REFUSED_LINES);
        match lines.is_some_and(|lines| lines.lines().all(is_unable) && !lines.is_empty()) {
            true => Self::Unable(status),
            false => Self::Refused(status),
        }
    }

    /// Returns the error as that of a node which cannot check the envelopes if it calls them invalid and `is_behind`:
    /// the node lacks a chain envelope on which one of them depends, and another node has shown that. Other refusals,
    /// such as that of a payer without money, do not depend on the chain's envelopes.
    pub(crate) fn unless_behind(self, is_behind: impl FnOnce() -> bool) -> Self {
        match self {
            Self::Refused(status) if status.code() == Code::InvalidArgument && is_behind() => {
                Self::Unable(status)
            }
            error => error,
        }
    }

    /// Returns the underlying error, without the information that the node was not called.
    pub(crate) fn reason(&self) -> &Self {
        if let Self::NotCalled(reason) = self { reason.reason() } else { self }
    }

    pub(crate) fn kind(&self) -> NodeErrorKind {
        match self {
            Self::Timeout(_) => NodeErrorKind::Timeout,
            Self::WentDown => NodeErrorKind::WentDown,
            Self::Failed(_) | Self::FailedWithOthers(_) | Self::Unable(_) => NodeErrorKind::Failed,
            Self::Refused(_) => NodeErrorKind::Refused,
            Self::WrongAnswer(_) => NodeErrorKind::WrongAnswer,
            Self::NotCalled(reason) => reason.kind(),
        }
    }

    /// Returns true if readers of the node may meet the same failure, and false if the node answered as a working node
    /// does. Returns `None` if the error shows neither: the node was not called, serves this gateway less than others,
    /// says that it cannot publish now, or fails requests together. So no caller can make a node look broken by its
    /// requests.
    pub(crate) fn is_of_node(&self) -> Option<bool> {
        match self {
            Self::Timeout(_) | Self::WentDown | Self::WrongAnswer(_) => Some(true),
            Self::Refused(_) => Some(false),
            Self::NotCalled(_) | Self::Unable(_) | Self::FailedWithOthers(_) => None,
            Self::Failed(status) => match status.code() {
                Code::ResourceExhausted | Code::PermissionDenied | Code::Unauthenticated => None,
                Code::Unavailable if names_next_try(status) => None,
                _ => Some(true),
            },
        }
    }

    /// Returns the error of each of `count` envelopes that were sent in one call, in their order. A node takes all
    /// envelopes of a call or none, and names those that break a rule by their places in it, which callers of the
    /// gateway do not know. The text of its status begins with such a place, so a lone envelope has its own text, too.
    /// The error of an envelope that the node names has that envelope's reason ([`refused_for`](Self::refused_for)).
    pub(crate) fn of_envelopes(&self, count: usize) -> Vec<Self> {
        let told = match self {
            Self::Refused(status) => StatusDetails::wrong_of(status),
            _ => Vec::new(),
        };
        let own_of = |place: usize| {
            let field = format!("payer_envelopes[{place}]");
            told.iter().find(|wrong| wrong.field == field)
        };
        // A lone envelope that the details do not name keeps the node's own text, which says more than [`WITH_OTHERS`].
        let is_untold = told.is_empty() || count == 1 && own_of(0).is_none();
        let (Self::Refused(status), false) = (self, is_untold) else {
            return vec![self.clone(); count];
        };
        let details = Bytes::copy_from_slice(status.details());
        let each = (0..count).map(|place| {
            let (text, details) = match own_of(place) {
                Some(own) => (own.description.as_str(), details_of(status, own.reason.clone())),
                None => (WITH_OTHERS, details.clone()),
            };
            let (code, metadata) = (status.code(), status.metadata().clone());
            let status = Status::with_details_and_metadata(code, text, details, metadata);
            Self::Refused(status)
        });
        each.collect()
    }

    /// Returns the errors of requests that a node cannot check now. `counts` are the numbers of envelopes that the
    /// requests had in one call. `None` for a request whose envelopes the node does not name: it may be published
    /// without the others. All requests have this error if the node names no envelope.
    pub(super) fn of_requests(&self, counts: &[usize]) -> Vec<Option<Self>> {
        let named = self.of_unable();
        let mut next = 0;
        let own = counts.iter().map(|count| {
            let first = next;
            next += count;
            named.range(first..next).next().map(|(_, error)| error.clone())
        });
        let errors: Vec<_> = own.collect();
        match errors.iter().any(Option::is_some) {
            true => errors,
            false => vec![Some(self.clone()); counts.len()],
        }
    }

    /// Returns the errors of the envelopes that a node cannot check now, by their places in the call. The text of each
    /// is without its place, which callers of the gateway do not know.
    fn of_unable(&self) -> BTreeMap<usize, Self> {
        let Self::Unable(status) = self else { return BTreeMap::new() };
        let lines = status.message().strip_prefix(REFUSED_LINES).unwrap_or_default().lines();
        let details = Bytes::copy_from_slice(status.details());
        let named = lines.filter_map(|line| {
            let (place, why) = place_and_reason(line)?;
            Some((place, Self::Unable(Status::with_details(status.code(), why, details.clone()))))
        });
        named.collect()
    }

    /// Returns true for the error of an envelope that a node refuses for others of the same call, as
    /// [`of_envelopes`](Self::of_envelopes) returns it.
    pub(crate) fn is_for_others(&self) -> bool {
        matches!(self, Self::Refused(status) if status.message() == WITH_OTHERS)
    }

    /// Returns the reason for which a node refuses an envelope, a constant that programs can match. `None` if the node
    /// names none, or refuses the envelope for others.
    pub(crate) fn refused_for(&self) -> Option<String> {
        let error = self.reason();
        match error {
            // The reason of a request without an envelope that it is about says nothing about this one.
            Self::Refused(status) if !error.is_for_others() => {
                StatusDetails::reason_of(status).filter(|reason| reason != "ENVELOPES_REFUSED")
            }
            _ => None,
        }
    }

    /// Returns the seconds after which the same call may succeed, by the words of the node that failed it: at least 1,
    /// so that no node has clients come again at once, and at most [`RETRY_AFTER_S_MAX`]. A guess if the node cannot
    /// check the envelopes. `None` if the node says nothing else.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        let status = match self.reason() {
            Self::Failed(status) => status,
            Self::Unable(_) => return Some(RETRY_AFTER_UNABLE_S),
            _ => return None,
        };
        let text = status.metadata().get(RETRY_AFTER)?.to_str().ok()?;
        text.parse().ok().map(|seconds: u64| seconds.clamp(1, RETRY_AFTER_S_MAX))
    }

    /// Returns true if the node may have published the envelopes although the attempt failed. The node has certainly
    /// not published them if it was never called or reached, or has refused them or turned them away.
    pub(crate) fn may_be_published(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unable(_) | Self::NotCalled(_) => false,
            Self::Failed(status) => !never_connected(status) && !turns_away(status),
            Self::Timeout(_)
            | Self::WentDown
            | Self::WrongAnswer(_)
            | Self::FailedWithOthers(_) => true,
        }
    }

    /// Returns true if the node was called and claims to have stored nothing. It may lie, to be paid although another
    /// node is asked, too.
    pub(crate) fn claims_to_store_nothing(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unable(_) => true,
            Self::Failed(status) => turns_away(status),
            Self::Timeout(_)
            | Self::WentDown
            | Self::FailedWithOthers(_)
            | Self::WrongAnswer(_)
            | Self::NotCalled(_) => false,
        }
    }

    /// Returns true if the node has ended the call with an error of its own. One envelope may have caused it, at which
    /// the node fails each time.
    pub(super) fn may_be_of_one_envelope(&self) -> bool {
        let is_own = |status: &Status| std::error::Error::source(status).is_none();
        matches!(self, Self::Failed(status)
            if matches!(status.code(), Code::Internal | Code::Unknown) && is_own(status))
    }

    /// Returns the error of a call for one of its several requests.
    pub(super) fn with_others(self) -> Self {
        match self {
            Self::Failed(status) => Self::FailedWithOthers(status),
            error => error,
        }
    }

    /// Returns true if the node may still be working on the call: it gave no answer, or the connection broke. A
    /// status from the node itself ends the call.
    pub(crate) fn may_be_under_way(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::WentDown => true,
            Self::Failed(status) => std::error::Error::source(status).is_some(),
            Self::Refused(_)
            | Self::Unable(_)
            | Self::FailedWithOthers(_)
            | Self::WrongAnswer(_)
            | Self::NotCalled(_) => false,
        }
    }
}

/// Returns the place of an envelope in its call, and the rest of a line for which [`is_unable`] is true.
fn place_and_reason(line: &str) -> Option<(usize, String)> {
    let of_key_package = line.strip_prefix(KEY_PACKAGE).map(|rest| ("key package", rest));
    let (what, rest) = of_key_package.or_else(|| line.split_once(" for envelope "))?;
    let (place, why) = rest.split_once(": ")?;
    Some((place.parse().ok()?, format!("{what}: {why}")))
}

/// Returns true if a line with which a node refuses an envelope is about the node. Callers choose no part of a line up
/// to the words that are compared.
fn is_unable(line: &str) -> bool {
    let of_key_package = || {
        let (place, why) = line.strip_prefix(KEY_PACKAGE)?.split_once(": ")?;
        let is_place = place.bytes().all(|byte| byte.is_ascii_digit());
        Some(is_place && why.starts_with("internal: "))
    };
    let of_fee = ["base", "congestion"].into_iter().any(|fee| {
        line.starts_with(&format!("could not calculate {fee} fee for envelope "))
            && !line.contains("overflow")
    });
    of_fee || of_key_package().unwrap_or(false)
}

/// Returns the details of the refusal of one envelope: its own reason, and the last places that the node holds of the
/// strands on which refused envelopes depend.
fn details_of(status: &Status, reason: Cow<'static, str>) -> Bytes {
    let details =
        StatusDetails { seen: StatusDetails::seen_of(status), ..StatusDetails::of(reason) };
    Bytes::copy_from_slice(details.into_status(status.code(), "").details())
}

/// Returns true if the node says when it may publish again. It has then checked its state: it reads, and cannot sign or
/// write. A status of a broken connection, or of a proxy before the node, does not say it.
fn names_next_try(status: &Status) -> bool {
    status.metadata().contains_key(RETRY_AFTER)
}

/// Returns true if a node turns a publish away for one of [`TURNED_AWAY`].
fn turns_away(status: &Status) -> bool {
    let reason = StatusDetails::reason_of(status);
    status.code() == Code::ResourceExhausted
        && reason.is_some_and(|reason| TURNED_AWAY.contains(&reason.as_str()))
}

fn never_connected(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|it| it.is::<tonic::ConnectError>())
}

/// Renders a node's status on one line. The node chooses its text, which may be as long as a header and could forge
/// log lines.
fn status_text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), one_line(status.message()))
}

#[cfg(test)]
mod tests {
    use hawser_serve::WrongField;
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn of_envelopes_that_are_refused_together_each_has_its_own_text() {
        let wrong = |place: usize| WrongField {
            field: format!("payer_envelopes[{place}]"),
            description: format!("fault {place}"),
            reason: "RETENTION".into(),
        };
        let of = |wrong| StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
        let lone = of(vec![wrong(0)]).into_status(Code::InvalidArgument, "index 0: fault 0");
        let lone = NodeError::Refused(lone);
        let status = of(vec![wrong(1), wrong(9)]);
        let status = status.into_status(Code::InvalidArgument, "index 1: fault 1");
        let texts = |error: NodeError, count| {
            let each = error.of_envelopes(count).into_iter();
            each.map(|error| error.to_string()).collect::<Vec<_>>()
        };
        let refused = || NodeError::Refused(status.clone());
        let others = format!("InvalidArgument: {WITH_OTHERS}");
        let expected = [others.as_str(), "InvalidArgument: fault 1", others.as_str()];
        assert_eq!(texts(refused(), 3), expected);
        assert_eq!(texts(refused(), 1), ["InvalidArgument: index 1: fault 1"]);
        assert_eq!(texts(lone.clone(), 1), ["InvalidArgument: fault 0"]);
        let reasons = |error: NodeError, count| {
            let each = error.of_envelopes(count).into_iter();
            each.map(|error| error.refused_for()).collect::<Vec<_>>()
        };
        let retention = Some("RETENTION".to_owned());
        assert_eq!(reasons(refused(), 3), [None, retention.clone(), None]);
        assert_eq!(reasons(refused(), 1), [None::<String>], "the node does not name it");
        assert_eq!(reasons(lone, 1), [retention]);
        let unpaid = StatusDetails::of("PAYER_BALANCE");
        let unpaid = NodeError::Refused(unpaid.into_status(Code::FailedPrecondition, "no money"));
        assert_eq!(reasons(unpaid, 1), [Some("PAYER_BALANCE".to_owned())]);
        let untold = NodeError::Refused(Status::invalid_argument("bad"));
        assert_eq!(texts(untold.clone(), 2), ["InvalidArgument: bad"; 2]);
        assert_eq!(reasons(untold, 2), [None::<String>, None]);
        let failed = NodeError::Failed(status.clone());
        assert_eq!(texts(failed, 2), ["InvalidArgument: index 1: fault 1"; 2]);
    }

    #[test]
    fn only_refusals_for_a_rule_are_final() {
        let wait = Duration::from_secs(1);
        let kind = |status| NodeError::of_status(status, wait).kind();
        assert_eq!(kind(Status::invalid_argument("")), NodeErrorKind::Refused);
        let unpriced = "error processing payer envelopes:could not calculate congestion fee for envelope 0: no";
        assert_eq!(kind(Status::invalid_argument(unpriced)), NodeErrorKind::Failed);
        assert_eq!(kind(Status::unavailable("")), NodeErrorKind::Failed);
        assert_eq!(kind(Status::resource_exhausted("")), NodeErrorKind::Failed);
        assert_eq!(kind(Status::deadline_exceeded("")), NodeErrorKind::Timeout);
    }

    /// Two refusals are final, and two nodes may have the same validation service.
    #[test]
    fn a_node_whose_validation_service_is_silent_refuses_nothing() {
        let kind = |lines: &str| {
            let text = format!("error processing payer envelopes:{lines}");
            NodeError::of_invalid(Status::invalid_argument(text))
        };
        let silent = "could not validate key package. index 0: internal: could not validate key package: rpc error";
        let invalid = "could not validate key package. index 1: invalid_argument: key package validation failed: internal: no";
        let stale =
            "could not calculate base fee for envelope 0: last rates refresh was too long ago";
        let overflow =
            "could not calculate base fee for envelope 0: storage fee calculation overflow";
        for lines in [silent, stale, &format!("{silent}\n{silent}")] {
            let error = kind(lines);
            assert!(matches!(error, NodeError::Unable(_)), "{lines}");
            assert_eq!((error.kind(), error.is_of_node()), (NodeErrorKind::Failed, None));
            assert!(!error.may_be_published() && !error.may_be_under_way());
            assert_eq!(error.retry_after_s(), Some(5), "waiting may help");
        }
        for lines in [
            "",
            invalid,
            overflow,
            &format!("{silent}\n{invalid}"),
            &format!("{invalid}\n{silent}"),
        ] {
            assert!(matches!(kind(lines), NodeError::Refused(_)), "{lines}");
        }
        let bare = NodeError::of_invalid(Status::invalid_argument(silent));
        assert!(matches!(bare, NodeError::Refused(_)));
    }

    /// Played by a node without a validation service, by one that names places at will, and by one without rates.
    #[test]
    fn requests_are_sent_again_without_those_that_a_node_cannot_check() {
        let of = |lines: &[String], counts: &[usize]| {
            let text = format!("{REFUSED_LINES}{}", lines.join("\n"));
            let error = NodeError::of_invalid(Status::invalid_argument(text));
            assert!(matches!(error, NodeError::Unable(_)), "{lines:?}");
            let errors = error.of_requests(counts).into_iter();
            errors.map(|error| error.map(|it| it.to_string())).collect::<Vec<_>>()
        };
        let why = "the node cannot check the envelopes now: InvalidArgument: ";
        let silent =
            |place: usize| format!("{KEY_PACKAGE}{place}: internal: no for envelope 0: it");
        let own = Some(format!("{why}key package: internal: no for envelope 0: it"));
        assert_eq!(of(&[silent(2)], &[2, 1, 1]), [None, own.clone(), None]);
        let several = [silent(2), silent(3), silent(usize::MAX)];
        assert_eq!(of(&several, &[2, 2, 0, 1]), [None, own, None, None]);
        let whole = Some(format!("{why}{REFUSED_LINES}{}", silent(9)));
        assert_eq!(of(&[silent(9)], &[2, 1]), [whole.clone(), whole]);
        let stale =
            |place: usize| format!("could not calculate base fee for envelope {place}: old");
        let own = Some(format!("{why}could not calculate base fee: old"));
        assert_eq!(of(&[stale(0), stale(1)], &[1, 1]), [own.clone(), own]);
    }

    #[test]
    fn errors_that_a_caller_can_provoke_do_not_count_against_the_node() {
        let timeout = NodeError::Timeout(Duration::ZERO);
        let not_called = NodeError::NotCalled(Box::new(timeout.clone()));
        let busy = NodeError::Failed(Status::resource_exhausted("too many from this payer"));
        let of_others = NodeError::Failed(Status::internal("an envelope")).with_others();
        assert_eq!([not_called, busy, of_others].map(|error| error.is_of_node()), [None; 3]);
        let refused = NodeError::Refused(Status::invalid_argument("not this one"));
        assert_eq!(refused.is_of_node(), Some(false));
        let failed = NodeError::Failed(Status::internal("a disk"));
        assert_eq!([timeout, failed].map(|error| error.is_of_node()), [Some(true); 2]);
    }

    /// A caller's budget would otherwise pay for envelopes that a busy node has not looked at.
    #[test]
    fn a_node_that_turns_a_publish_away_has_not_published_it() {
        let of = |reason: &'static str, code| {
            let status = StatusDetails::of(reason).into_status(code, "later");
            NodeError::Failed(status).may_be_published()
        };
        for reason in TURNED_AWAY {
            assert!(!of(reason, Code::ResourceExhausted), "{reason}");
            assert!(of(reason, Code::Unavailable), "{reason}");
        }
        for reason in ["OVERLOADED", "ANSWER_TOO_LARGE"] {
            assert!(of(reason, Code::ResourceExhausted), "{reason}");
        }
        let untold = NodeError::Failed(Status::resource_exhausted("later"));
        assert!(untold.may_be_published());
    }

    #[test]
    fn a_node_that_says_that_it_cannot_publish_may_be_read() {
        let mut full = Status::unavailable("the disk is full");
        let silent = NodeError::Failed(full.clone());
        assert_eq!(silent.is_of_node(), Some(true), "a proxy may say that, too");
        full.metadata_mut().insert("retry-after", 10_u64.into());
        assert_eq!(NodeError::Failed(full).is_of_node(), None);
    }

    #[test]
    fn a_node_keeps_no_publisher_away_for_long_and_calls_none_back_at_once() {
        let said = |text: &'static str| {
            let mut status = Status::unavailable("the disk is full");
            status.metadata_mut().insert("retry-after", MetadataValue::from_static(text));
            let failed = NodeError::Failed(status.clone());
            assert_eq!(NodeError::Refused(status).retry_after_s(), None, "waiting does not help");
            failed.retry_after_s()
        };
        assert_eq!([said("10"), said("18446744073709551615")], [Some(10), Some(60)]);
        assert_eq!(said("0"), Some(1));
        assert_eq!(["", "soon", "-1", "99999999999999999999"].map(said), [None; 4]);
        assert_eq!(NodeError::Failed(Status::internal("a disk")).retry_after_s(), None);
    }

    #[test]
    fn a_nodes_words_are_short_and_begin_no_line() {
        let words = format!("no\r\n2026-01-01 ERROR \u{1b}[2Jforged\u{85}{}", "ä".repeat(5000));
        let shown = NodeError::Failed(Status::internal(words)).to_string();
        assert!(shown.starts_with("Internal: no  2026-01-01 ERROR  [2Jforged ä"), "{shown}");
        assert!(!shown.contains(char::is_control), "{shown:?}");
        assert!(shown.chars().count() < 320, "{shown}");
    }
}
