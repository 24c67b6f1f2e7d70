//! Metrics of calls. A call finds the metrics of its method by path, without a lock and without allocating.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tonic::Code;

use crate::connection_admission::ConnectionRefusedError;
use crate::method::{MethodKind, RpcMethod};
use crate::metrics::{Counter, Exposition, Gauge, Histogram};

/// Bucket bounds of the handling time, seconds. Specified: those of the usual gRPC middleware, which the network's
/// dashboards expect.
const HANDLING_BOUNDS_S: [f64; 11] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Status codes by number, as labels spell them. Specified: the network's reference node spells OK
/// `code_0`.
const CODES: [&str; 17] = [
    "code_0",
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// The metrics of one method.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    method: RpcMethod,
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    open: Gauge,
    seconds: Histogram,
}

impl MethodMetrics {
    pub(crate) fn new(method: RpcMethod) -> Self {
        Self {
            method,
            started: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            received: Counter::default(),
            sent: Counter::default(),
            open: Gauge::default(),
            seconds: Histogram::new(HANDLING_BOUNDS_S),
        }
    }

    pub(crate) fn method(&self) -> &RpcMethod {
        &self.method
    }

    pub(crate) fn started(&self) {
        self.started.inc();
        self.open.inc();
    }

    pub(crate) fn received(&self, messages: u64) {
        self.received.inc_by(messages);
    }

    pub(crate) fn sent(&self, messages: u64) {
        self.sent.inc_by(messages);
    }

    pub(crate) fn took(&self, duration: Duration) {
        self.seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn ended(&self, code: Code) {
        self.open.dec();
        self.handled[code as usize].inc();
    }
}

/// The metrics of a listener. Cheap to clone; clones share state.
#[derive(Debug, Clone)]
pub struct CallMetrics(Arc<CallMetricsState>);

#[derive(Debug)]
struct CallMetricsState {
    /// The metrics of each method by path. Leaked, so that every call can hold a plain reference: a listener lives as
    /// long as the process.
    methods: HashMap<&'static str, &'static MethodMetrics>,
    /// Metrics of calls to unknown methods. Their names come from callers, so they must not become labels.
    unknown: &'static MethodMetrics,
    not_grpc: Counter,
    connections_failed: Counter,
    connections_open: Gauge,
    connections_max: Gauge,
    connections_refused: [Counter; ConnectionRefusedError::ALL.len()],
}

impl CallMetrics {
    /// Creates metrics for each of `methods`, and one set for all `unknown` ones.
    #[must_use]
    pub fn new(methods: &[RpcMethod]) -> Self {
        let leaked = |method: RpcMethod| &*Box::leak(Box::new(MethodMetrics::new(method)));
        Self(Arc::new(CallMetricsState {
            methods: methods.iter().map(|method| (method.path(), leaked(*method))).collect(),
            unknown: leaked(RpcMethod::new("/unknown/unknown", MethodKind::Unary)),
            not_grpc: Counter::default(),
            connections_failed: Counter::default(),
            connections_open: Gauge::default(),
            connections_max: Gauge::default(),
            connections_refused: std::array::from_fn(|_| Counter::default()),
        }))
    }

    pub(crate) fn method(&self, path: &str) -> &'static MethodMetrics {
        self.0.methods.get(path).copied().unwrap_or(self.0.unknown)
    }

    /// Returns the sides of a method that stream; `None` if no such method is served.
    pub(crate) fn kind(&self, path: &str) -> Option<MethodKind> {
        self.kind_of(self.method(path))
    }

    /// Returns the same for the method with these metrics, without a search for its path.
    pub(crate) fn kind_of(&self, metrics: &MethodMetrics) -> Option<MethodKind> {
        (!std::ptr::eq(metrics, self.0.unknown)).then(|| metrics.method.kind())
    }

    pub(crate) fn count_not_grpc(&self) {
        self.0.not_grpc.inc();
    }

    pub(crate) fn connection_failed(&self) {
        self.0.connections_failed.inc();
    }

    /// Counts a connection as open until the result is dropped.
    pub(crate) fn connection_opened(&self) -> OpenConnection {
        self.0.connections_open.inc();
        OpenConnection(self.0.connections_open.clone())
    }

    /// Sets the metric of the bound on open connections.
    pub(crate) fn connections_may_be(&self, connections_max: usize) {
        self.0.connections_max.set(i64::try_from(connections_max).unwrap_or(i64::MAX));
    }

    pub(crate) fn connection_refused(&self, refusal: ConnectionRefusedError) {
        self.0.connections_refused[refusal as usize].inc();
    }

    /// Returns the metrics of all methods in the order of their paths, so that two scrapes differ in values only.
    fn all(&self) -> Vec<&'static MethodMetrics> {
        let mut all: Vec<_> = self.0.methods.values().copied().collect();
        all.sort_unstable_by_key(|it| it.method.path());
        all.push(self.0.unknown);
        all
    }
}

/// An open connection in the metrics.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Collector for CallMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut out = Exposition::new(encoder);
        let all = self.all();
        let of_method = |number: fn(&MethodMetrics) -> u64| {
            all.iter().map(move |it| (it.method.labels(), number(it)))
        };
        out.counters("grpc_server_started", "Calls begun", of_method(|it| it.started.get()))?;
        out.counters("grpc_server_handled", "Calls ended, by status code", handled(&all))?;
        out.counters(
            "grpc_server_msg_received",
            "Messages received",
            of_method(|it| it.received.get()),
        )?;
        out.counters("grpc_server_msg_sent", "Messages sent", of_method(|it| it.sent.get()))?;
        out.histograms(
            "grpc_server_handling_seconds",
            "Unary calls: from the first byte to the answer, seconds; streams: between messages",
            all.iter().map(|it| (it.method.labels(), &it.seconds)),
        )?;
        out.gauges(
            "xmtp_api_open_connections_gauge",
            "Calls open now",
            all.iter().map(|it| (it.method.open_labels(), it.open.get())),
        )?;
        out.plain_counters(
            "xmtp_api_failed_grpc_requests_counter",
            "Calls that did not end with OK, by status code",
            failed(&all).map(|(code, number)| ([("code", code)], number)),
        )?;
        out.counter(
            "xmtp_api_not_grpc",
            "Requests that are neither gRPC nor gRPC-Web",
            self.0.not_grpc.get(),
        )?;
        out.counter(
            "xmtp_api_connections_failed",
            "Connections that broke, spoke no HTTP, or stayed silent",
            self.0.connections_failed.get(),
        )?;
        out.gauge(
            "xmtp_api_connections_open",
            "Connections of callers that are open",
            Some(self.0.connections_open.get()),
        )?;
        out.gauge(
            "xmtp_api_connections_limit",
            "The most connections of callers that may be open, so that files are left for the rest",
            Some(self.0.connections_max.get()),
        )?;
        out.counters(
            "xmtp_api_connections_refused",
            "Connections that were closed to bound what a stranger may cost, by reason",
            ConnectionRefusedError::ALL.map(|it| {
                ([("reason", it.label())], self.0.connections_refused[it as usize].get())
            }),
        )
    }
}

/// Returns the samples of OK, and of other codes that have occurred, so that a scrape stays small.
fn handled<'a>(
    all: &'a [&'static MethodMetrics],
) -> impl Iterator<Item = ([(&'static str, &'static str); 4], u64)> + 'a {
    all.iter().flat_map(|it| {
        let [kind, service, method] = it.method.labels();
        it.handled.iter().zip(CODES).enumerate().filter_map(move |(code, (count, name))| {
            let count = count.get();
            (code == 0 || count > 0)
                .then_some(([kind, service, method, ("grpc_code", name)], count))
        })
    })
}

fn failed<'a>(all: &'a [&'static MethodMetrics]) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    CODES
        .into_iter()
        .enumerate()
        .skip(1)
        .map(|(code, name)| (name, all.iter().map(|it| it.handled[code].get()).sum::<u64>()))
}
