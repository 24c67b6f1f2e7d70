//! The gateway's counters, gauges and histograms, which requests and calls to nodes update. `exposition` gives them
//! their names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_serve::metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;

use crate::metering::Meter;
use crate::nodes::{NodeErrorKind, RecentCalls, ReportOutcome};
use crate::policy::PolicyError;
use crate::policy::config::PolicyFile;
use crate::routing::ChainTopic;

/// Bucket bounds of the time of a publish, and of the time until a payload is on the app chain, seconds. Specified:
/// those of the network's reference gateway.
const PUBLISH_BOUNDS_S: [f64; 22] = [
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    0.9, 1.0, 2.5, 5.0, 10.0,
];
/// Bucket bounds of the number of failed nodes. Specified, as above. A larger count is recorded as 5: the default
/// of `attempts_max`.
const ATTEMPTS_BOUNDS: [f64; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

/// The metrics of one originator: of a node, or of a contract of the app chain.
#[derive(Debug)]
pub(crate) struct OriginatorMetrics {
    /// Time from the choice of the originator to its answer.
    pub(crate) seconds: Histogram,
    /// Envelopes that the originator has published.
    pub(crate) originated: Counter,
    /// Number of nodes that failed a request before this one published its envelopes.
    pub(crate) failed_before: Histogram,
    errors: [Counter; NodeErrorKind::ALL.len()],
    /// Calls to the node. A call may carry the envelopes of several requests.
    pub(crate) calls: Counter,
    /// The recent attempts at a node. Those of all tenants count together.
    recent: Mutex<RecentCalls>,
}

impl Default for OriginatorMetrics {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(PUBLISH_BOUNDS_S),
            originated: Counter::default(),
            failed_before: Histogram::new(ATTEMPTS_BOUNDS),
            errors: Default::default(),
            calls: Counter::default(),
            recent: Mutex::default(),
        }
    }
}

impl OriginatorMetrics {
    /// Counts envelopes that the originator published after `duration`, and after `failed_before` other nodes had
    /// failed.
    pub(crate) fn count_published(
        &self,
        duration: Duration,
        envelopes: usize,
        failed_before: usize,
    ) {
        self.seconds.observe(duration.as_secs_f64());
        self.originated.inc_by(envelopes as u64);
        let shown = ATTEMPTS_BOUNDS[failed_before.min(ATTEMPTS_BOUNDS.len() - 1)];
        self.failed_before.observe(shown);
    }

    /// Counts an error of the originator.
    pub(crate) fn count_error(&self, kind: NodeErrorKind) {
        self.errors[kind as usize].inc();
    }

    /// Records an attempt at a node that has ended.
    pub(crate) fn record_attempt(&self, has_failed: bool) {
        self.recent.lock().record(has_failed, Instant::now());
    }

    /// Forgets the recent attempts at a node that serves again.
    pub(crate) fn forget_attempts(&self) {
        *self.recent.lock() = RecentCalls::default();
    }

    /// Returns true if the recent attempts at the node mostly failed.
    pub(crate) fn recent_calls_failed(&self, now: Instant) -> bool {
        self.recent.lock().mostly_failed(now)
    }

    /// Returns the number of errors of one kind.
    pub(crate) fn errors(&self, kind: NodeErrorKind) -> u64 {
        self.errors[kind as usize].get()
    }
}

/// All metrics of the gateway that are not computed from its state.
#[derive(Debug)]
pub(crate) struct GatewayMetrics {
    originators: Mutex<BTreeMap<OriginatorId, Arc<OriginatorMetrics>>>,
    /// Requests that a policy refused, by reason.
    pub(crate) refused: [Counter; PolicyError::REASONS.len()],
    /// Requests with an envelope that breaks a rule.
    pub(crate) invalid: Counter,
    /// Requests that published some of their envelopes.
    pub(crate) partial: Counter,
    /// Wrong answers of nodes, by the outcome of the report to other nodes.
    pub(crate) reports: [Counter; ReportOutcome::ALL.len()],
    /// Payloads for the chain that were sent before and answered with the earlier result.
    pub(crate) chain_repeats: Counter,
    /// Calls of Redis that have failed: those of all tenants. Clones count together.
    pub(crate) redis_failures: Counter,
    /// Time from handing a group message to the writer to its result.
    groups_written: Histogram,
    /// Time from handing an identity update to the writer to its result.
    identities_written: Histogram,
    /// Nodes in the last response to `GetNodes`.
    pub(crate) available_nodes: Gauge,
    /// The usage of each caller.
    pub(crate) meter: Mutex<Meter>,
}

impl GatewayMetrics {
    /// Creates the metrics. Only the callers that the policies name get usage series of their own.
    pub(crate) fn new(policies: &PolicyFile) -> Self {
        let meter = Meter::new(policies.named_callers(), policies.tenants.len());
        Self {
            originators: Mutex::default(),
            refused: Default::default(),
            invalid: Counter::default(),
            partial: Counter::default(),
            reports: Default::default(),
            chain_repeats: Counter::default(),
            redis_failures: Counter::default(),
            groups_written: Histogram::new(PUBLISH_BOUNDS_S),
            identities_written: Histogram::new(PUBLISH_BOUNDS_S),
            available_nodes: Gauge::default(),
            meter: Mutex::new(meter),
        }
    }

    /// Returns the histogram of the time from handing a payload of this kind to the writer to its result.
    pub(crate) fn written(&self, topic: ChainTopic) -> &Histogram {
        match topic {
            ChainTopic::Group(_) => &self.groups_written,
            ChainTopic::Inbox(_) => &self.identities_written,
        }
    }

    /// Returns the same histograms of all kinds, with the label values of the network's reference gateway.
    pub(crate) fn all_written(&self) -> [(&'static str, &Histogram); 2] {
        [("group_message", &self.groups_written), ("identity_update", &self.identities_written)]
    }

    /// Returns the metrics of one originator, and creates them at the first use. Only nodes of the registry
    /// and contracts of the chain are passed, so their number is bounded.
    pub(crate) fn of(&self, originator: OriginatorId) -> Arc<OriginatorMetrics> {
        let mut all = self.originators.lock();
        all.entry(originator).or_default().clone()
    }

    /// Counts a request that a policy refused.
    pub(crate) fn count_refused(&self, refusal: &PolicyError) {
        self.refused[refusal.reason()].inc();
    }

    /// Returns the metrics of each originator by its id as text.
    pub(crate) fn originators(&self) -> Vec<(String, Arc<OriginatorMetrics>)> {
        let all = self.originators.lock();
        all.iter().map(|(id, metrics)| (id.to_string(), metrics.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    /// Dashboards that were made for that gateway name its buckets.
    #[test]
    fn publishes_have_the_buckets_of_the_reference_gateway() {
        let (mut registry, mut page) = (Registry::default(), String::new());
        registry.register("took", "Seconds", OriginatorMetrics::default().seconds);
        encode(&mut page, &registry).unwrap();
        for bound in ["0.05", "0.15", "0.45", "0.9", "1.0", "2.5", "10.0"] {
            let line = format!("took_bucket{{le=\"{bound}\"}} 0\n");
            assert!(page.contains(&line), "{line} is not in {page}");
        }
    }
}
