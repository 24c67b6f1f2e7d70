//! What is counted of calls: plain atomics, found by the path of a method, without a lock and
//! without allocating.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tonic::Code;

use crate::method::{Method, MethodKind};
use crate::metrics::{Counter, Exposition, Gauge, Histogram};

/// Upper bounds of the handling time, seconds: the usual ones of gRPC servers.
const HANDLING_BOUNDS_S: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every status code, by its number, as the labels spell it. OK has always been spelled like that
/// on this network.
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

/// The numbers of one method.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    method: Method,
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    open: Gauge,
    seconds: Histogram,
}

impl MethodMetrics {
    pub(crate) fn new(method: Method) -> Self {
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

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn started(&self) {
        self.started.add(1);
        self.open.add(1);
    }

    pub(crate) fn received(&self, messages: u64) {
        self.received.add(messages);
    }

    pub(crate) fn sent(&self, messages: u64) {
        self.sent.add(messages);
    }

    pub(crate) fn took(&self, duration: Duration) {
        self.seconds.observe(duration);
    }

    pub(crate) fn ended(&self, code: Code) {
        self.open.add(-1);
        self.handled[code as usize].add(1);
    }
}

/// The numbers of a listener. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct CallMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// They live as long as the process, so that every call can point to its own.
    methods: HashMap<&'static str, &'static MethodMetrics>,
    /// Calls of methods that nobody serves: their names come from outside and are no labels.
    unknown: &'static MethodMetrics,
    not_grpc: Counter,
    connections_failed: Counter,
}

impl CallMetrics {
    /// Counts these methods by themselves and all others as one.
    #[must_use]
    pub fn new(methods: &[Method]) -> Self {
        let stats = |method: Method| &*Box::leak(Box::new(MethodMetrics::new(method)));
        Self(Arc::new(Inner {
            methods: methods.iter().map(|method| (method.path(), stats(*method))).collect(),
            unknown: stats(Method::new("/unknown/unknown", MethodKind::Unary)),
            not_grpc: Counter::default(),
            connections_failed: Counter::default(),
        }))
    }

    pub(crate) fn method(&self, path: &str) -> &'static MethodMetrics {
        self.0.methods.get(path).copied().unwrap_or(self.0.unknown)
    }

    pub(crate) fn count_not_grpc(&self) {
        self.0.not_grpc.add(1);
    }

    pub(crate) fn connection_failed(&self) {
        self.0.connections_failed.add(1);
    }

    /// Sorted, so that two scrapes differ in numbers only.
    fn all(&self) -> Vec<&'static MethodMetrics> {
        let mut all: Vec<_> = self.0.methods.values().copied().collect();
        all.sort_unstable_by_key(|stats| stats.method.path());
        all.push(self.0.unknown);
        all
    }
}

impl Collector for CallMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut out = Exposition::new(encoder);
        let all = self.all();
        let of_method = |number: fn(&MethodMetrics) -> u64| {
            all.iter().map(move |stats| (stats.method.labels(), number(stats)))
        };
        out.counters("grpc_server_started", "Calls begun", of_method(|stats| stats.started.get()))?;
        out.counters("grpc_server_handled", "Calls ended, by status code", handled(&all))?;
        out.counters(
            "grpc_server_msg_received",
            "Messages received",
            of_method(|stats| stats.received.get()),
        )?;
        out.counters("grpc_server_msg_sent", "Messages sent", of_method(|stats| stats.sent.get()))?;
        out.histograms(
            "grpc_server_handling_seconds",
            "Unary calls: from the first byte to the answer, seconds; streams: between messages",
            all.iter().map(|stats| (stats.method.labels(), stats.seconds.get())),
        )?;
        out.gauges(
            "xmtp_api_open_connections_gauge",
            "Calls open now",
            all.iter().map(|stats| (stats.method.open_labels(), stats.open.get())),
        )?;
        out.counters(
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
        )
    }
}

/// OK always, other codes once they have occurred: a scrape stays small.
fn handled<'a>(
    all: &'a [&'static MethodMetrics],
) -> impl Iterator<Item = ([(&'static str, &'static str); 4], u64)> + 'a {
    all.iter().flat_map(|stats| {
        let [kind, service, method] = stats.method.labels();
        stats.handled.iter().zip(CODES).enumerate().filter_map(move |(code, (count, name))| {
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
        .map(|(code, name)| (name, all.iter().map(|stats| stats.handled[code].get()).sum::<u64>()))
}
