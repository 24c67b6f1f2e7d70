//! What the gateway measures. The names are those of `docs/gateway.md`; where the network's usual
//! gateway measures the same, they are its names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_serve::CallMetrics;
use hawser_serve::metrics::{Buckets, Counter, Exposition, Gauge, Histogram};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use crate::operator::Observer;
use crate::policy::PolicyRefusal;
use crate::publish::FaultKind;

const PUBLISH_BOUNDS_S: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const ATTEMPTS_BOUNDS: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

/// The numbers of one originator: a node, or a contract of the app chain.
#[derive(Debug)]
pub(crate) struct NodeNumbers {
    /// From the choice of the originator to its answer.
    pub(crate) seconds: Histogram,
    pub(crate) originated: Counter,
    /// How many nodes had failed before this one took an envelope.
    failed_before: [Counter; ATTEMPTS_BOUNDS.len()],
    faults: [Counter; FaultKind::ALL.len()],
    /// Envelopes in calls, and calls.
    pub(crate) calls: Counter,
}

impl Default for NodeNumbers {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(PUBLISH_BOUNDS_S),
            originated: Counter::default(),
            failed_before: Default::default(),
            faults: Default::default(),
            calls: Counter::default(),
        }
    }
}

impl NodeNumbers {
    pub(crate) fn took(&self, duration: Duration, envelopes: usize, failed_before: usize) {
        self.seconds.observe(duration);
        self.originated.add(envelopes as u64);
        self.failed_before[failed_before.min(ATTEMPTS_BOUNDS.len() - 1)].add(1);
    }

    pub(crate) fn fault(&self, kind: FaultKind) {
        self.faults[kind as usize].add(1);
    }

    fn attempts(&self) -> Buckets {
        let counts: Vec<u64> = self.failed_before.iter().map(Counter::get).collect();
        let sum = counts.iter().zip(ATTEMPTS_BOUNDS).map(|(count, bound)| as_f64(*count) * bound);
        let sum = sum.sum();
        Buckets::new(ATTEMPTS_BOUNDS, counts.into_iter().chain([0]), sum)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum for averages")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    originators: Mutex<BTreeMap<OriginatorId, Arc<NodeNumbers>>>,
    refused: [Counter; PolicyRefusal::REASONS.len()],
    pub(crate) invalid: Counter,
    pub(crate) partial: Counter,
    pub(crate) chain_repeats: Counter,
    pub(crate) available_nodes: Gauge,
}

impl Numbers {
    pub(crate) fn of(&self, originator: OriginatorId) -> Arc<NodeNumbers> {
        let mut all = self.originators.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(originator).or_default().clone()
    }

    pub(crate) fn refused(&self, refusal: &PolicyRefusal) {
        self.refused[refusal.reason()].add(1);
    }

    fn all(&self) -> Vec<(String, Arc<NodeNumbers>)> {
        let all = self.originators.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(id, numbers)| (id.to_string(), numbers.clone())).collect()
    }
}

/// Everything that a scrape shows.
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new(calls: CallMetrics, numbers: Arc<Numbers>, observer: Observer) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(calls));
        registry.register_collector(Box::new(OfGateway { numbers, observer }));
        Self { registry }
    }

    /// The page in the OpenMetrics text format.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("a string takes everything");
        page
    }
}

#[derive(Debug)]
struct OfGateway {
    numbers: Arc<Numbers>,
    observer: Observer,
}

type Written = Result<(), std::fmt::Error>;

impl Collector for OfGateway {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Written {
        let mut out = Exposition::new(encoder);
        self.originators(&mut out)?;
        self.requests(&mut out)?;
        self.state(&mut out)
    }
}

impl OfGateway {
    fn originators(&self, out: &mut Exposition<'_>) -> Written {
        let all = self.numbers.all();
        let each = || all.iter().map(|(id, numbers)| ([("originator_id", id.as_str())], numbers));
        out.histograms(
            "xmtp_gateway_publish_duration_seconds",
            "From the choice of an originator to its answer, seconds",
            each().map(|(labels, numbers)| (labels, numbers.seconds.get())),
        )?;
        out.histograms(
            "xmtp_gateway_failed_attempts_to_publish_to_node_via_banlist",
            "How many nodes had failed a request before this one took its envelopes",
            each().map(|(labels, numbers)| (labels, numbers.attempts())),
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
            FaultKind::ALL.into_iter().filter_map(move |kind| {
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

    fn requests(&self, out: &mut Exposition<'_>) -> Written {
        let numbers = &self.numbers;
        let reasons = PolicyRefusal::REASONS.into_iter().zip(&numbers.refused);
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

    fn state(&self, out: &mut Exposition<'_>) -> Written {
        let sight = self.observer.look();
        out.gauge(
            "xmtp_gateway_get_nodes_available_nodes",
            "Nodes in the last answer to GetNodes",
            Some(self.numbers.available_nodes.get()),
        )?;
        out.gauges(
            "xmtp_gateway_node_up",
            "1 if the node serves and is not late",
            sight
                .nodes
                .iter()
                .map(|node| ([("node_id", node.id.to_string())], i64::from(node.usable))),
        )?;
        out.gauges(
            "xmtp_gateway_node_lag_seconds",
            "For how long two other nodes have had something that this one has not, seconds",
            sight.nodes.iter().map(|node| ([("node_id", node.id.to_string())], node.lag_s)),
        )?;
        out.gauges(
            "xmtp_chain_list_age_seconds",
            "How long ago the list was read whole, seconds",
            sight.lists.iter().map(|list| ([("list", list.name)], list.age_s)),
        )?;
        out.counters(
            "xmtp_chain_list_failures",
            "Times that it could not be read",
            sight.lists.iter().map(|list| ([("list", list.name)], list.failures)),
        )?;
        out.gauges(
            "xmtp_ready",
            "1 if the gateway is ready",
            [([("for", "publish")], i64::from(sight.ready))],
        )?;
        out.gauges(
            "xmtp_condition",
            "1 if the condition is met",
            sight.conditions.iter().map(|it| ([("name", it.name)], i64::from(it.met))),
        )?;
        out.gauges(
            "xmtp_build_info",
            "Always 1; the labels say what runs",
            [([("version", sight.version.as_str()), ("commit", sight.commit.as_str())], 1)],
        )?;
        out.gauge(
            "xmtp_start_time_seconds",
            "When this process began to serve, unix seconds",
            Some(sight.started_unix_s),
        )
    }
}
