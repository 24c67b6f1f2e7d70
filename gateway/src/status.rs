//! Statuses of outcomes and of policy errors. The only place where errors become statuses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use hawser_proto::pb::xmtp::xmtpv4::payer_api::PublishClientEnvelopesResponse;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_serve::{StatusDetails, WrongField};
use hawser_validation::limits::{RETRY_AFTER_PLACE_S, RETRY_AFTER_SILENCE_S};
use tonic::{Code, Status};

use crate::chain::ChainPublishError;
use crate::nodes::{NodeError, PlacedEnvelope};
use crate::policy::{PolicyError, TokenError, WebhookError};
use crate::publish::NodePublishError;
use crate::routing::RoutingError;

/// The metadata key of the envelopes that a failed request has published: indexes from 0, such as `0-2,5`.
pub(crate) const PUBLISHED: &str = "published-envelopes";
/// The metadata key of the envelopes that were not published.
const FAILED: &str = "failed-envelopes";
/// Failed envelopes that an error text names one by one. A guess: a status must fit into a header.
const NAMED_MAX: usize = 20;

/// Failed envelopes that the details of a status name one by one: as many as the details have room for.
const DETAILED_MAX: usize = 8;
/// Upper bound of an error text in bytes. A guess: the port cuts it at 4 KiB once it is percent-encoded.
const TEXT_LEN_MAX: usize = 3072;
/// Upper bound of the indexes in a metadata entry, in bytes. Calculated: callers accept 16 KiB of headers, of which the
/// text takes up to 4 KiB, the details up to 5 KiB, and these two entries the rest; and all of 1000 envelopes fit.
const RANGES_LEN_MAX: usize = 2624;

/// Seconds after which a node may be usable again. A guess: nodes are polled every second, and a restart takes some.
const RETRY_AFTER_NO_NODE_S: u64 = 5;
/// Seconds after which the gateway may have keys for tokens: it fetches them again so long after a failure.
const RETRY_AFTER_KEYS_S: u64 = 10;
/// Seconds after which nodes may charge less for congestion: the gateway remembers their fees for as long.
const RETRY_AFTER_CONGESTION_S: u64 = 60;

/// All reasons that this gateway gives for single envelopes: those of [`EnvelopeError::name`].
const OWN_REASONS: [&str; 16] = [
    "NODE_REFUSED",
    "NODE_TIMEOUT",
    "NODE_FAILED",
    "NODE_ANSWER",
    "NO_NODE",
    "TOO_MANY_WAIT",
    "CONGESTION",
    "CHAIN_REFUSED",
    "IDENTITY_UPDATE",
    "NOT_SENT",
    "NO_CHAIN",
    "TRANSACTION_PENDING",
    "TRANSACTION_UNKNOWN",
    "NOT_SHOWN_YET",
    "TRANSACTION_FAILED",
    "NO_OUTCOME",
];

/// The outcome of publishing one envelope.
pub(crate) type Outcome = Result<PlacedEnvelope, EnvelopeError>;

/// The error of one envelope.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EnvelopeError {
    /// Nodes did not publish it.
    #[error(transparent)]
    Node(NodePublishError),
    /// The chain path did not publish it.
    #[error(transparent)]
    Chain(ChainPublishError),
    /// No path has returned an outcome, which is a bug.
    #[error("no outcome was recorded for the envelope: a bug of the gateway")]
    NoOutcome,
}

impl EnvelopeError {
    /// Returns true if the envelope may have been published, or may still be.
    pub(crate) fn may_be_published(&self) -> bool {
        match self {
            Self::Node(
                NodePublishError::NoNode
                | NodePublishError::TooManyWait
                | NodePublishError::TooExpensive,
            ) => false,
            Self::Node(NodePublishError::Last { may_be_published, .. }) => *may_be_published,
            Self::Chain(fault) => fault.may_be_published(),
            Self::NoOutcome => true,
        }
    }

    /// Returns true if a node refuses the envelope for others of the request, which it names.
    fn is_for_others(&self) -> bool {
        match self {
            Self::Node(NodePublishError::Last { error, .. }) => error.reason().is_for_others(),
            _ => false,
        }
    }

    /// Returns the reason, a constant that programs can match. This is the reason that the refusing node names, unless
    /// it is one of [`OWN_REASONS`]: a node that refuses an envelope could otherwise make a program believe that the
    /// outcome is open.
    fn reason(&self) -> Cow<'static, str> {
        let of_node = match self {
            Self::Node(NodePublishError::Last { error, .. }) => error.refused_for(),
            _ => None,
        };
        let of_node = of_node.filter(|reason| !OWN_REASONS.contains(&reason.as_str()));
        of_node.map_or(Cow::Borrowed(self.name()), Cow::Owned)
    }

    /// Returns the reason that this gateway gives, one of [`OWN_REASONS`].
    fn name(&self) -> &'static str {
        match self {
            Self::Node(NodePublishError::Last { error, .. }) => match error.reason() {
                NodeError::Refused(_) => "NODE_REFUSED",
                NodeError::Timeout(_) => "NODE_TIMEOUT",
                NodeError::WentDown
                | NodeError::Failed(_)
                | NodeError::FailedWithOthers(_)
                | NodeError::Unable(_)
                | NodeError::NotCalled(_) => "NODE_FAILED",
                NodeError::WrongAnswer(_) => "NODE_ANSWER",
            },
            Self::Node(NodePublishError::NoNode) => "NO_NODE",
            Self::Node(NodePublishError::TooManyWait) => "TOO_MANY_WAIT",
            Self::Node(NodePublishError::TooExpensive) => "CONGESTION",
            Self::Chain(fault) => match fault {
                ChainPublishError::Invalid(_) => "CHAIN_REFUSED",
                ChainPublishError::Dropped { .. } => "IDENTITY_UPDATE",
                ChainPublishError::NotSent(_) => "NOT_SENT",
                ChainPublishError::NoChain => "NO_CHAIN",
                ChainPublishError::Pending { .. } | ChainPublishError::Open(_) => {
                    "TRANSACTION_PENDING"
                }
                ChainPublishError::Unknown { .. } | ChainPublishError::NotSentHere(_) => {
                    "TRANSACTION_UNKNOWN"
                }
                ChainPublishError::NotShown { .. } => "NOT_SHOWN_YET",
                ChainPublishError::Failed { .. } => "TRANSACTION_FAILED",
            },
            Self::NoOutcome => "NO_OUTCOME",
        }
    }

    /// Returns the seconds after which the same envelope may be published. `None` if that is not known, or if waiting
    /// does not help.
    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Node(NodePublishError::Last { error, .. }) => error.retry_after_s(),
            Self::Node(NodePublishError::NoNode) => Some(RETRY_AFTER_NO_NODE_S),
            Self::Node(NodePublishError::TooManyWait) => Some(RETRY_AFTER_PLACE_S),
            Self::Node(NodePublishError::TooExpensive) => Some(RETRY_AFTER_CONGESTION_S),
            Self::Chain(_) | Self::NoOutcome => None,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Node(NodePublishError::Last { error, .. }) => match error.reason() {
                NodeError::Refused(status) => status.code(),
                NodeError::Timeout(_) => Code::DeadlineExceeded,
                NodeError::WentDown
                | NodeError::Failed(_)
                | NodeError::FailedWithOthers(_)
                | NodeError::Unable(_)
                | NodeError::WrongAnswer(_)
                | NodeError::NotCalled(_) => Code::Unavailable,
            },
            Self::Node(NodePublishError::NoNode) => Code::Unavailable,
            Self::Node(NodePublishError::TooManyWait | NodePublishError::TooExpensive) => {
                Code::ResourceExhausted
            }
            Self::Chain(fault) => match fault {
                ChainPublishError::Invalid(_) | ChainPublishError::Dropped { .. } => {
                    Code::InvalidArgument
                }
                ChainPublishError::NotSent(_)
                | ChainPublishError::NotSentHere(_)
                | ChainPublishError::NoChain => Code::Unavailable,
                ChainPublishError::Pending { .. }
                | ChainPublishError::Open(_)
                | ChainPublishError::Unknown { .. }
                | ChainPublishError::NotShown { .. } => Code::DeadlineExceeded,
                ChainPublishError::Failed { .. } => Code::Aborted,
            },
            Self::NoOutcome => Code::Internal,
        }
    }
}

/// Returns the response to a request, or a status that names the envelopes that were published nevertheless.
///
/// # Errors
/// If an envelope failed: the code of the first one.
pub(crate) fn answer(outcomes: Vec<Outcome>) -> Result<PublishClientEnvelopesResponse, Status> {
    if outcomes.iter().any(Result::is_err) {
        return Err(failure(&outcomes));
    }
    let envelopes = outcomes.into_iter().flatten().map(|placed| placed.envelope);
    Ok(PublishClientEnvelopesResponse { originator_envelopes: envelopes.collect() })
}

fn failure(outcomes: &[Outcome]) -> Status {
    let failed = || {
        let each = outcomes.iter().enumerate();
        each.filter_map(|(index, outcome)| Some((index, outcome.as_ref().err()?)))
    };
    let code = failed().next().map_or(Code::Internal, |(_, failure)| failure.code());
    let published: Vec<usize> =
        (0..outcomes.len()).filter(|index| outcomes[*index].is_ok()).collect();
    let mut text = String::new();
    if outcomes.len() > 1 {
        let (done, all) = (published.len(), outcomes.len());
        let _ = write!(text, "{done} of {all} envelopes were published; ");
    }
    // Few are named, so those at fault come before those that are refused with them.
    let mut ordered: Vec<(usize, &EnvelopeError)> = failed().collect();
    ordered.sort_by_key(|(_, failure)| failure.is_for_others());
    for (number, (index, failure)) in ordered.iter().take(NAMED_MAX).enumerate() {
        let comma = if number == 0 { "" } else { "; " };
        let _ = write!(text, "{comma}envelope {index}: {failure}");
    }
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    let detailed = ordered.iter().take(DETAILED_MAX);
    let wrong = detailed.map(|(index, failure)| wrong(*index, failure, failure.reason())).collect();
    let seen = seen_by_nodes(ordered.iter().take(DETAILED_MAX).map(|(_, failure)| *failure));
    // An envelope that fails again would make the whole request fail again.
    let waits: Option<Vec<u64>> = failed().map(|(_, failure)| failure.retry_after_s()).collect();
    let retry_after_s = waits.and_then(|waits| waits.into_iter().max());
    let reason = "ENVELOPES_FAILED".into();
    let details = StatusDetails { reason, wrong, seen, retry_after_s };
    let mut status = details.into_status(code, &text);
    let failed: Vec<usize> = failed().map(|(index, _)| index).collect();
    for (name, places) in [(PUBLISHED, &published), (FAILED, &failed)] {
        if let Some(value) = ranges(places).and_then(|text| text.parse().ok()) {
            status.metadata_mut().insert(name, value);
        }
    }
    status
}

/// Returns the last places of the strands on which refused envelopes depend, as the refusing nodes state them. If
/// several nodes state a place of one strand, it is the lowest one, which all of them hold.
fn seen_by_nodes<'a>(
    failures: impl Iterator<Item = &'a EnvelopeError>,
) -> BTreeMap<OriginatorId, SequenceId> {
    let mut seen = BTreeMap::new();
    for failure in failures {
        let EnvelopeError::Node(NodePublishError::Last { error, .. }) = failure else { continue };
        let (NodeError::Refused(status) | NodeError::Unable(status)) = error.reason() else {
            continue;
        };
        for (originator, place) in StatusDetails::seen_of(status) {
            let lowest: &mut SequenceId = seen.entry(originator).or_insert(place);
            *lowest = place.min(*lowest);
        }
    }
    seen
}

/// Names an envelope of a request that is refused or has failed.
fn wrong(index: usize, why: &impl Display, reason: impl Into<Cow<'static, str>>) -> WrongField {
    let (field, description) = (format!("envelopes[{index}]"), why.to_string());
    WrongField { field, description, reason: reason.into() }
}

/// Returns the status of a request with an envelope that breaks a rule.
pub(crate) fn of_envelope(index: usize, why: &impl Display, reason: &'static str) -> Status {
    let wrong = vec![wrong(index, why, reason)];
    let details = StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
    details.into_status(Code::InvalidArgument, &format!("envelope {index}: {why}"))
}

/// Returns the status of a request with more envelopes than the `most` that one may have.
pub(crate) fn of_count(count: usize, most: usize) -> Status {
    let text = format!("{count} envelopes, and a request has at most {most}");
    let reason = "TOO_MANY_ENVELOPES";
    let field = "envelopes".to_owned();
    let wrong = vec![WrongField { field, description: text.clone(), reason: reason.into() }];
    let details = StatusDetails { wrong, ..StatusDetails::of(reason) };
    details.into_status(Code::InvalidArgument, &text)
}

/// Returns the status of a request whose envelopes break rules. The text names the first ones, the details their rules.
pub(crate) fn of_routing(refusal: &RoutingError) -> Status {
    let RoutingError(refused) = refusal;
    let mut text = String::new();
    for (number, (index, error)) in refused.iter().take(NAMED_MAX).enumerate() {
        let comma = if number == 0 { "" } else { "; " };
        let _ = write!(text, "{comma}envelope {index}: {error}");
    }
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    let detailed = refused.iter().take(DETAILED_MAX);
    let wrong = detailed.map(|(index, error)| wrong(*index, error, error.name())).collect();
    let details = StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
    details.into_status(Code::InvalidArgument, &text)
}

/// Returns the status of a request with an identity update whose wallets cannot be asked. They may be asked after
/// `retry_after_s` seconds.
pub(crate) fn of_wallets(
    (code, reason, retry_after_s): (Code, &'static str, u64),
    index: usize,
    why: &str,
) -> Status {
    let wrong = vec![wrong(index, &why, reason)];
    let retry_after_s = Some(retry_after_s);
    let details = StatusDetails { wrong, retry_after_s, ..StatusDetails::of(reason) };
    details.into_status(code, &format!("envelope {index}: {why}"))
}

/// Renders ascending indexes as ranges: `0-2,5` for 0, 1, 2, 5; `None` for no index. Leaves out the last ranges if they
/// are longer than [`RANGES_LEN_MAX`].
fn ranges(places: &[usize]) -> Option<String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &place in places {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == place => *last = place,
            _ => ranges.push((place, place)),
        }
    }
    let mut text = String::new();
    for (first, last) in ranges {
        let range = match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        if text.len() + 1 + range.len() > RANGES_LEN_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&range);
    }
    (!text.is_empty()).then_some(text)
}

/// Returns the status of a policy error.
pub(crate) fn of_policy(refusal: &PolicyError) -> Status {
    let text = refusal.to_string();
    let (code, reason, retry_after_s) = match refusal {
        PolicyError::Token(TokenError::NoKeys) => {
            (Code::Unavailable, "TOKEN_KEYS", Some(RETRY_AFTER_KEYS_S))
        }
        PolicyError::Token(TokenError::TooMany(wait_s)) => {
            (Code::Unauthenticated, "TOKEN_CHECKS", Some(*wait_s))
        }
        PolicyError::Token(_) => (Code::Unauthenticated, "TOKEN", None),
        PolicyError::ApiKey(_) => (Code::Unauthenticated, "API_KEY", None),
        PolicyError::Webhook(WebhookError::NoAnswer) => {
            (Code::Unavailable, "WEBHOOK_SILENT", Some(RETRY_AFTER_SILENCE_S))
        }
        PolicyError::Webhook(WebhookError::Busy) => {
            (Code::Unavailable, "WEBHOOK_SILENT", Some(RETRY_AFTER_PLACE_S))
        }
        PolicyError::Webhook(WebhookError::Refused(_)) => (Code::PermissionDenied, "WEBHOOK", None),
        PolicyError::Denied => (Code::PermissionDenied, "CALLER_DENIED", None),
        PolicyError::NoTenant => (Code::PermissionDenied, "NO_TENANT", None),
        PolicyError::Kind { .. } => (Code::PermissionDenied, "KIND_DENIED", None),
        PolicyError::TooLong { .. } => (Code::PermissionDenied, "TOO_LONG", None),
        PolicyError::TooExpensive { .. } => (Code::ResourceExhausted, "TOO_EXPENSIVE", None),
        PolicyError::TooMany { .. } => (Code::ResourceExhausted, "TOO_MANY_ENVELOPES", None),
        PolicyError::AllNodesExpensive { .. } => {
            (Code::ResourceExhausted, "CONGESTION", Some(RETRY_AFTER_CONGESTION_S))
        }
        PolicyError::LimitExceeded(limit) => {
            (Code::ResourceExhausted, "RATE_LIMIT", limit.retry_after_s)
        }
        PolicyError::NetworkExceeded(limit) => {
            (Code::ResourceExhausted, "NETWORK_LIMIT", limit.retry_after_s)
        }
        PolicyError::TotalExceeded(limit) => {
            (Code::ResourceExhausted, "TOTAL_LIMIT", limit.retry_after_s)
        }
    };
    let wrong = match refusal {
        PolicyError::Kind { index, .. }
        | PolicyError::TooLong { index, .. }
        | PolicyError::TooExpensive { index, .. }
        | PolicyError::AllNodesExpensive { index } => vec![wrong(*index, refusal, reason)],
        _ => Vec::new(),
    };
    StatusDetails { wrong, retry_after_s, ..StatusDetails::of(reason) }.into_status(code, &text)
}

#[cfg(test)]
mod tests;
