//! Metrics of the gateway. The names are those of `docs/gateway.md`; the network's reference gateway
//! uses the same ones where it measures the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_serve::metrics::{Counter, Exposition, Gauge, Histogram, MetricsPage};
use hawser_serve::readiness::Condition;
use hawser_serve::{CallMetrics, ChainListStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::gateway_status::GatewayObserver;
use crate::nodes::NodeErrorKind;
use crate::policy::PolicyError;

/// Upper bounds of the time of a publish, seconds. Specified: those of the network's reference gateway.
const PUBLISH_BOUNDS_S: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of failed nodes. Specified, as above. A count is shown as 5 at the most: the default of
/// `attempts_max`.
const ATTEMPTS_BOUNDS: [f64; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

/// The metrics of one originator: a node, or a contract of the app chain.
#[derive(Debug)]
pub(crate) struct NodeNumbers {
    /// From the choice of the originator to its answer.
    pub(crate) seconds: Histogram,
    pub(crate) originated: Counter,
    /// Nodes that had failed a request before this one took its envelopes.
    failed_before: Histogram,
    faults: [Counter; NodeErrorKind::ALL.len()],
    /// Envelopes in calls, and calls.
    pub(crate) calls: Counter,
}

impl Default for NodeNumbers {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(PUBLISH_BOUNDS_S),
            originated: Counter::default(),
            failed_before: Histogram::new(ATTEMPTS_BOUNDS),
            faults: Default::default(),
            calls: Counter::default(),
        }
    }
}

impl NodeNumbers {
    /// Counts envelopes that the originator took after `duration`.
    pub(crate) fn took(&self, duration: Duration, envelopes: usize, failed_before: usize) {
        self.seconds.observe(duration.as_secs_f64());
        self.originated.inc_by(envelopes as u64);
        let shown = ATTEMPTS_BOUNDS[failed_before.min(ATTEMPTS_BOUNDS.len() - 1)];
        self.failed_before.observe(shown);
    }

    /// Counts a fault of the originator.
    pub(crate) fn fault(&self, kind: NodeErrorKind) {
        self.faults[kind as usize].inc();
    }
}

/// The metrics that requests count.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    originators: Mutex<BTreeMap<OriginatorId, Arc<NodeNumbers>>>,
    refused: [Counter; PolicyError::REASONS.len()],
    pub(crate) invalid: Counter,
    pub(crate) partial: Counter,
    pub(crate) chain_repeats: Counter,
    pub(crate) available_nodes: Gauge,
}

impl Numbers {
    /// Returns the metrics of one originator, which are created with its first use.
    pub(crate) fn of(&self, originator: OriginatorId) -> Arc<NodeNumbers> {
        let mut all = self.originators.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(originator).or_default().clone()
    }

    /// Counts a request that a policy refused.
    pub(crate) fn refused(&self, refusal: &PolicyError) {
        self.refused[refusal.reason()].inc();
    }

    fn all(&self) -> Vec<(String, Arc<NodeNumbers>)> {
        let all = self.originators.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(id, numbers)| (id.to_string(), numbers.clone())).collect()
    }
}

/// Returns the metrics page of a gateway.
pub(crate) fn page(
    calls: CallMetrics,
    numbers: Arc<Numbers>,
    observer: GatewayObserver,
) -> MetricsPage {
    let collectors: [Box<dyn Collector>; 2] =
        [Box::new(calls), Box::new(GatewayCollector { numbers, observer })];
    MetricsPage::new(collectors)
}

#[derive(Debug)]
struct GatewayCollector {
    numbers: Arc<Numbers>,
    observer: GatewayObserver,
}

impl Collector for GatewayCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        self.originators(&mut out)?;
        self.requests(&mut out)?;
        self.state(&mut out)
    }
}

impl GatewayCollector {
    fn originators(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let all = self.numbers.all();
        let each = || all.iter().map(|(id, numbers)| ([("originator_id", id.as_str())], numbers));
        out.histograms(
            "xmtp_gateway_publish_duration_seconds",
            "From the choice of an originator to its answer, seconds",
            each().map(|(labels, numbers)| (labels, &numbers.seconds)),
        )?;
        out.histograms(
            "xmtp_gateway_failed_attempts_to_publish_to_node_via_banlist",
            "How many nodes had failed a request before this one took its envelopes",
            each().map(|(labels, numbers)| (labels, &numbers.failed_before)),
        )?;
        out.counters(
            "xmtp_gateway_messages_originated",
            "Envelopes that were published",
            each().map(|(labels, numbers)| (labels, numbers.originated.get())),
        )?;
        out.counters(
            "xmtp_gateway_node_calls",
            "Calls to nodes; one may carry the envelopes of several requests",
            each().map(|(labels, numbers)| (labels, numbers.calls.get())),
        )?;
        let faults = all.iter().flat_map(|(id, numbers)| {
            NodeErrorKind::ALL.into_iter().filter_map(move |kind| {
                let count = numbers.faults[kind as usize].get();
                let labels = [("originator_id", id.as_str()), ("kind", kind.label())];
                (count > 0).then_some((labels, count))
            })
        });
        out.counters(
            "xmtp_gateway_node_faults",
            "What nodes did wrong with what they were asked to publish or to show",
            faults,
        )
    }

    fn requests(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let numbers = &self.numbers;
        let reasons = PolicyError::REASONS.into_iter().zip(&numbers.refused);
        out.counters(
            "xmtp_gateway_refused",
            "Requests that a policy refused",
            reasons.map(|(reason, count)| ([("reason", reason)], count.get())),
        )?;
        out.counter(
            "xmtp_gateway_invalid",
            "Requests with an envelope that nobody would take",
            numbers.invalid.get(),
        )?;
        out.counter(
            "xmtp_gateway_partial",
            "Requests of which some envelopes were published and some were not",
            numbers.partial.get(),
        )?;
        out.counter(
            "xmtp_gateway_chain_repeats",
            "Payloads for the chain that had been sent before and were answered with that result",
            numbers.chain_repeats.get(),
        )
    }

    fn state(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let status = self.observer.status();
        out.gauge(
            "xmtp_gateway_get_nodes_available_nodes",
            "Nodes in the last answer to GetNodes",
            Some(self.numbers.available_nodes.get()),
        )?;
        out.gauges(
            "xmtp_gateway_node_up",
            "1 if the node serves and is not late",
            status
                .nodes
                .iter()
                .map(|node| ([("node_id", node.id.to_string())], i64::from(node.usable))),
        )?;
        out.gauges(
            "xmtp_gateway_node_lag_seconds",
            "For how long two other nodes have had something that this one has not, seconds",
            status.nodes.iter().map(|node| ([("node_id", node.id.to_string())], node.lag_s)),
        )?;
        let lists = self.observer.lists();
        ChainListStatus::encode_all(&lists.iter().collect::<Vec<_>>(), out)?;
        out.gauges(
            "xmtp_ready",
            "1 if the gateway is ready",
            [([("for", "publish")], i64::from(status.ready))],
        )?;
        Condition::encode_all(&status.conditions, out)?;
        self.observer.build.encode_build(out)?;
        self.observer.build.encode_start_time(out)
    }
}
