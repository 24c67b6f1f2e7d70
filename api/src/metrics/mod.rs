//! Metrics of the node. `docs/metrics.md` lists their names.
//!
//! - this file: counters of the handlers;
//! - `limits`: decisions of the limits on callers;
//! - `node`: the state of the node at a scrape; `chains`: the state of the chains that it reads; `records`: payer
//!   reports, reports of misbehaviour and backups.

mod chains;
mod limits;
mod node;
mod records;

use std::fmt;
use std::sync::Arc;

use hawser_engine::runtime::PublishError;
use hawser_serve::metrics::{Counter, Exposition, Gauge, MetricsPage};
use hawser_serve::tls::{Tls, TlsMetrics};
use hawser_serve::{CallMetrics, MemoryBudget, ProcessMetrics};
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::methods::EnvelopeMethod;
use crate::node_status::NodeObserver;

pub(crate) use limits::{CallerTier, LimitMetrics, LimitOutcome, LimitedCall};

/// The statuses that pages for callers have; the last one counts all others.
const PAGE_STATUSES: [(StatusCode, &str); 12] = [
    (StatusCode::OK, "200"),
    (StatusCode::BAD_REQUEST, "400"),
    (StatusCode::UNAUTHORIZED, "401"),
    (StatusCode::FORBIDDEN, "403"),
    (StatusCode::NOT_FOUND, "404"),
    (StatusCode::REQUEST_TIMEOUT, "408"),
    (StatusCode::CONFLICT, "409"),
    (StatusCode::PAYLOAD_TOO_LARGE, "413"),
    (StatusCode::UNPROCESSABLE_ENTITY, "422"),
    (StatusCode::TOO_MANY_REQUESTS, "429"),
    (StatusCode::SERVICE_UNAVAILABLE, "503"),
    (StatusCode::INTERNAL_SERVER_ERROR, "500"),
];

/// Metrics of the handlers.
#[derive(Debug, Default)]
pub(crate) struct HandlerMetrics {
    delivered: [Counter; EnvelopeMethod::ALL.len()],
    open_streams: Gauge,
    rule_broken: Counter,
    answer_too_large: Counter,
    no_balance: Counter,
    payer_rate: Counter,
    busy: Counter,
    topics_refused: Counter,
    unavailable: Counter,
    pages: [Counter; PAGE_STATUSES.len()],
}

impl HandlerMetrics {
    /// Counts envelopes handed to a reader or a payer.
    pub(crate) fn delivered(&self, method: EnvelopeMethod, envelopes: u64) {
        self.delivered[method as usize].inc_by(envelopes);
    }

    /// Counts a publish request of which nothing was stored.
    pub(crate) fn publish_failed(&self, error: &PublishError) {
        match error {
            PublishError::Refused(_) => self.rule_broken.inc(),
            PublishError::AnswerTooLarge => self.answer_too_large.inc(),
            PublishError::Balance { .. } => self.no_balance.inc(),
            PublishError::PayerRate { .. } => self.payer_rate.inc(),
            PublishError::Busy => self.busy.inc(),
            PublishError::Unavailable { .. } => self.unavailable.inc(),
        };
    }

    /// Counts a stream that ends because its client asked for more topics than it may have.
    pub(crate) fn topics_refused(&self) {
        self.topics_refused.inc();
    }

    /// Counts a page for a caller.
    pub(crate) fn page_answered(&self, status: StatusCode) {
        let at = PAGE_STATUSES.iter().position(|(it, _)| *it == status);
        self.pages[at.unwrap_or(PAGE_STATUSES.len() - 1)].inc();
    }

    /// Counts a stream as open until the result is dropped.
    pub(crate) fn stream_opened(self: &Arc<Self>) -> OpenStream {
        self.open_streams.inc();
        OpenStream(self.clone())
    }
}

/// A stream that counts as open.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<HandlerMetrics>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.dec();
    }
}

/// Returns the metrics page of a node.
pub(crate) fn page(
    calls: CallMetrics,
    memory: MemoryBudget,
    handlers: Arc<HandlerMetrics>,
    limits: LimitMetrics,
    observer: NodeObserver,
    tls: Option<Tls>,
) -> MetricsPage {
    let collectors: [Box<dyn Collector>; 7] = [
        Box::new(calls),
        Box::new(TlsMetrics(tls)),
        Box::new(memory),
        Box::new(HandlerCollector(handlers)),
        Box::new(limits),
        Box::new(observer),
        Box::new(ProcessMetrics),
    ];
    MetricsPage::new(collectors)
}

#[derive(Debug)]
struct HandlerCollector(Arc<HandlerMetrics>);

impl Collector for HandlerCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(metrics) = self;
        let mut out = Exposition::new(encoder);
        out.counters(
            "xmtp_api_outgoing_envelopes",
            "Envelopes handed out, by the path of the method",
            EnvelopeMethod::ALL.into_iter().map(|method| {
                ([("method", method.path())], metrics.delivered[method as usize].get())
            }),
        )?;
        out.gauge(
            "xmtp_subscribers",
            "Streams of envelopes that are open",
            Some(metrics.open_streams.get()),
        )?;
        out.counter(
            "xmtp_subscriber_topics_refused",
            "Streams that ended because their client asked for more topics than a stream may have",
            metrics.topics_refused.get(),
        )?;
        out.counters(
            "xmtp_api_pages",
            "Pages of trees that were asked for, by status",
            PAGE_STATUSES
                .iter()
                .zip(&metrics.pages)
                .map(|((_, status), count)| ([("status", *status)], count.get())),
        )?;
        let rejected =
            |code, reason, count: &Counter| ([("code", code), ("reason", reason)], count.get());
        out.counters(
            "xmtp_publish_rejected",
            "Publish requests of which nothing was stored",
            [
                rejected("invalid_argument", "rule", &metrics.rule_broken),
                rejected("resource_exhausted", "answer_too_large", &metrics.answer_too_large),
                rejected("failed_precondition", "balance", &metrics.no_balance),
                rejected("resource_exhausted", "payer_rate", &metrics.payer_rate),
                rejected("resource_exhausted", "busy", &metrics.busy),
                rejected("unavailable", "node_state", &metrics.unavailable),
            ],
        )
    }
}
