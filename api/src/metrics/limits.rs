//! Counts of what limits on callers decide. Labels name methods and tiers, never an address.

use std::fmt;
use std::sync::Arc;

use hawser_serve::metrics::{Counter, Exposition, Gauge};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::breaker::BreakerState;

/// A call that limits may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedCall {
    Query,
    Newest,
    Inboxes,
    Usage,
    QueryTopics,
    ReplicationTopics,
    Proof,
}

impl LimitedCall {
    const ALL: [Self; 7] = [
        Self::Query,
        Self::Newest,
        Self::Inboxes,
        Self::Usage,
        Self::QueryTopics,
        Self::ReplicationTopics,
        Self::Proof,
    ];

    /// Returns whether nodes pay for it too.
    pub(crate) fn charges_nodes(self) -> bool {
        matches!(self, Self::QueryTopics | Self::ReplicationTopics)
    }

    /// Returns the text for a caller that is refused.
    pub(crate) fn refusal(self) -> &'static str {
        match self {
            Self::Query | Self::Newest | Self::Inboxes | Self::Usage | Self::Proof => {
                "rate limit exceeded"
            }
            Self::QueryTopics | Self::ReplicationTopics => {
                "subscribe admission rate limit exceeded"
            }
        }
    }

    fn labels(self) -> [(&'static str, &'static str); 2] {
        let (service, method) = match self {
            Self::Query => ("QueryApi", "QueryEnvelopes"),
            Self::Newest => ("QueryApi", "GetNewestEnvelope"),
            Self::Inboxes => ("QueryApi", "GetInboxIds"),
            Self::Usage => ("MetadataApi", "GetPayerInfo"),
            Self::QueryTopics => ("QueryApi", "SubscribeTopics"),
            Self::ReplicationTopics => ("ReplicationApi", "SubscribeTopics"),
            Self::Proof => ("CheckpointApi", "all"),
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

/// Tiers by number: nodes, everyone else.
const TIERS: [&str; 2] = ["0", "2"];

/// Counts what limits decide. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct LimitMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    calls: [[[Counter; LimitOutcome::ALL.len()]; TIERS.len()]; LimitedCall::ALL.len()],
    streams: [Counter; LimitOutcome::ALL.len()],
    open_streams: Gauge,
    breaker: Gauge,
    breaker_trips: Counter,
}

impl LimitMetrics {
    pub(crate) fn decided(&self, call: LimitedCall, is_node: bool, outcome: LimitOutcome) {
        self.0.calls[call as usize][usize::from(!is_node)][outcome as usize].inc();
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
            TIERS.into_iter().enumerate().flat_map(move |(tier, name)| {
                LimitOutcome::ALL.into_iter().map(move |outcome| {
                    let [service, method] = call.labels();
                    let labels = [service, method, ("tier", name), ("outcome", outcome.label())];
                    (labels, self.0.calls[call as usize][tier][outcome as usize].get())
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
