//! Counts the decisions of the limits on callers. Labels name methods and tiers, never an address.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hawser_serve::metrics::{Counter, Exposition, Gauge};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::circuit_breaker::BreakerState;
use crate::tokens::ClaimedRelease;

/// A call that limits may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedCall {
    Query,
    Newest,
    Inboxes,
    ReplicationQuery,
    ReplicationNewest,
    ReplicationInboxes,
    Usage,
    QueryTopics,
    ReplicationTopics,
    Proof,
    /// A query for reports of misbehaviour.
    Reports,
    /// A report of misbehaviour. Its limit holds for nodes too, and without `rate_limits`.
    Submission,
}

impl LimitedCall {
    const ALL: [Self; 12] = [
        Self::Query,
        Self::Newest,
        Self::Inboxes,
        Self::ReplicationQuery,
        Self::ReplicationNewest,
        Self::ReplicationInboxes,
        Self::Usage,
        Self::QueryTopics,
        Self::ReplicationTopics,
        Self::Proof,
        Self::Reports,
        Self::Submission,
    ];

    /// Returns true if nodes pay for the call, too.
    pub(crate) fn charges_nodes(self) -> bool {
        matches!(self, Self::QueryTopics | Self::ReplicationTopics)
    }

    fn labels(self) -> [(&'static str, &'static str); 2] {
        let (service, method) = match self {
            Self::Query => ("QueryApi", "QueryEnvelopes"),
            Self::Newest => ("QueryApi", "GetNewestEnvelope"),
            Self::Inboxes => ("QueryApi", "GetInboxIds"),
            Self::ReplicationQuery => ("ReplicationApi", "QueryEnvelopes"),
            Self::ReplicationNewest => ("ReplicationApi", "GetNewestEnvelope"),
            Self::ReplicationInboxes => ("ReplicationApi", "GetInboxIds"),
            Self::Usage => ("MetadataApi", "GetPayerInfo"),
            Self::QueryTopics => ("QueryApi", "SubscribeTopics"),
            Self::ReplicationTopics => ("ReplicationApi", "SubscribeTopics"),
            Self::Proof => ("CheckpointApi", "all"),
            Self::Reports => ("MisbehaviorApi", "QueryMisbehaviorReports"),
            Self::Submission => ("MisbehaviorApi", "SubmitMisbehaviorReport"),
        };
        [("service", service), ("method", method)]
    }
}

/// A decision on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitOutcome {
    Allowed,
    Denied,
    /// The caller has no limit.
    Bypassed,
    /// The limiter gave no answer, and the call passed.
    FailedOpen,
}

impl LimitOutcome {
    const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::Bypassed, Self::FailedOpen];

    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Bypassed => "bypassed",
            Self::FailedOpen => "failed_open",
        }
    }
}

/// The tier of a caller in labels, spelled as the network's reference node spells it, for dashboards that select by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerTier {
    /// The caller has proved to be a node.
    Node,
    /// Any other caller.
    Other,
}

impl CallerTier {
    const ALL: [Self; 2] = [Self::Node, Self::Other];

    fn label(self) -> &'static str {
        match self {
            Self::Node => "tier0",
            Self::Other => "tier2",
        }
    }
}

/// Counts the decisions of limits. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct LimitMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    calls: [[[Counter; LimitOutcome::ALL.len()]; CallerTier::ALL.len()]; LimitedCall::ALL.len()],
    streams: [Counter; LimitOutcome::ALL.len()],
    open_streams: Gauge,
    breaker: Gauge,
    breaker_trips: Counter,
    node_calls: Mutex<NodeCalls>,
}

/// Calls with a node token by the claimed release. Nodes may claim any release, so the number of separate counts is
/// bounded. A release with a separate count keeps it.
#[derive(Debug, Default)]
struct NodeCalls {
    apart: BTreeMap<ClaimedRelease, ReleaseCalls>,
    /// All further releases.
    other: ReleaseCalls,
}

/// Calls of nodes that claim one release.
#[derive(Debug, Clone, Copy, Default)]
struct ReleaseCalls {
    made: u64,
    open: u64,
}

impl NodeCalls {
    /// Returns the counts of a release, and creates them at its first call.
    fn of(&mut self, release: ClaimedRelease) -> &mut ReleaseCalls {
        if self.apart.len() < VERSIONS_MAX || self.apart.contains_key(&release) {
            self.apart.entry(release).or_default()
        } else {
            &mut self.other
        }
    }
}

/// A call of a node that counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenNodeCall {
    metrics: LimitMetrics,
    release: ClaimedRelease,
}

impl Drop for OpenNodeCall {
    fn drop(&mut self) {
        let mut calls = self.metrics.0.node_calls.lock();
        let open = &mut calls.of(self.release).open;
        *open = open.saturating_sub(1);
    }
}

/// Largest number of releases with separate counts. A guess: a network runs a few at a time.
const VERSIONS_MAX: usize = 16;

impl LimitMetrics {
    /// Counts a call with a valid node token that claims this release.
    pub(crate) fn node_called(&self, release: ClaimedRelease) {
        self.0.node_calls.lock().of(release).made += 1;
    }

    /// Counts a call with a valid node token that claims this release as open until the result is dropped.
    pub(crate) fn node_call_opened(&self, release: ClaimedRelease) -> OpenNodeCall {
        self.0.node_calls.lock().of(release).open += 1;
        OpenNodeCall { metrics: self.clone(), release }
    }

    /// Returns the calls with a node token, by the name of the claimed release.
    fn node_calls(&self) -> Vec<(String, ReleaseCalls)> {
        let name = |release: &ClaimedRelease| match release {
            Some([major, minor, patch]) => format!("{major}.{minor}.{patch}"),
            None => "none".to_owned(),
        };
        let calls = self.0.node_calls.lock();
        let mut shown: Vec<_> = calls.apart.iter().map(|(it, count)| (name(it), *count)).collect();
        shown.extend((calls.other.made > 0).then(|| ("other".to_owned(), calls.other)));
        shown
    }

    pub(crate) fn decided(&self, call: LimitedCall, tier: CallerTier, outcome: LimitOutcome) {
        self.0.calls[call as usize][tier as usize][outcome as usize].inc();
    }

    pub(crate) fn stream_decided(&self, outcome: LimitOutcome) {
        self.0.streams[outcome as usize].inc();
    }

    pub(crate) fn breaker_is(&self, state: BreakerState) {
        self.0.breaker.set(state as i64);
    }

    pub(crate) fn breaker_opened(&self) {
        self.0.breaker_trips.inc();
        self.breaker_is(BreakerState::Open);
    }

    pub(crate) fn stream_opened(&self) {
        self.0.open_streams.inc();
    }

    pub(crate) fn stream_closed(&self) {
        self.0.open_streams.dec();
    }
}

impl Collector for LimitMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        let calls = LimitedCall::ALL.into_iter().flat_map(|call| {
            CallerTier::ALL.into_iter().flat_map(move |tier| {
                LimitOutcome::ALL.into_iter().map(move |outcome| {
                    let [service, method] = call.labels();
                    let (tier_label, outcome_label) = (tier.label(), outcome.label());
                    let labels =
                        [service, method, ("tier", tier_label), ("outcome", outcome_label)];
                    (labels, self.0.calls[call as usize][tier as usize][outcome as usize].get())
                })
            })
        });
        out.counters("xmtpd_rate_limit_decisions", "Decisions of rate limits on calls", calls)?;
        out.counters(
            "xmtpd_stream_limit_decisions",
            "Decisions of the limit on streams of all envelopes",
            LimitOutcome::ALL.map(|outcome| {
                let labels = [("service", "NotificationApi"), ("outcome", outcome.label())];
                (labels, self.0.streams[outcome as usize].get())
            }),
        )?;
        let node_calls = self.node_calls();
        out.plain_counters(
            "xmtp_api_node_connection_requests_by_version_counter",
            "Calls with a valid node token, by the version that it claims",
            node_calls.iter().map(|(version, calls)| ([("version", version.as_str())], calls.made)),
        )?;
        out.gauges(
            "xmtp_api_incoming_node_connection_by_version_gauge",
            "Calls with a valid node token that are open, by the version that it claims",
            node_calls.iter().map(|(version, calls)| ([("version", version.as_str())], calls.open)),
        )?;
        out.gauge(
            "xmtpd_stream_limit_active_streams",
            "Streams of all envelopes that hold a place of their address",
            Some(self.0.open_streams.get()),
        )?;
        out.gauge(
            "xmtpd_rate_limit_circuit_breaker_state",
            "State of the circuit breaker around Redis: 0 closed, 1 half open, 2 open",
            Some(self.0.breaker.get()),
        )?;
        out.counter(
            "xmtpd_rate_limit_circuit_breaker_trips",
            "Times that the circuit breaker around Redis has opened",
            self.0.breaker_trips.get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_nodes_claim_make_a_bounded_number_of_labels() {
        let metrics = LimitMetrics::default();
        metrics.node_called(None);
        for patch in 0..1000 {
            metrics.node_called(Some([1, 3, patch]));
        }
        metrics.node_called(Some([1, 3, 0]));
        let open = [Some([1, 3, 0]), Some([1, 3, 999])].map(|it| metrics.node_call_opened(it));
        let shown = || -> Vec<_> {
            let calls = metrics.node_calls().into_iter();
            calls.map(|(name, calls)| (name, calls.made, calls.open)).collect()
        };
        let calls = shown();
        assert_eq!(calls.len(), VERSIONS_MAX + 1);
        assert_eq!(calls[0], ("none".to_owned(), 1, 0));
        assert_eq!(calls[1], ("1.3.0".to_owned(), 2, 1));
        assert_eq!(calls[VERSIONS_MAX], ("other".to_owned(), 1001 - VERSIONS_MAX as u64, 1));
        drop(open);
        assert!(shown().iter().all(|(_, _, open)| *open == 0), "{:?}", shown());
    }
}
