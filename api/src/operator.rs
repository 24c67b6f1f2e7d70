//! The node's pages on the operators' port: metrics, readiness, status, evidence against nodes, payer reports.

use hawser_engine::runtime::PayerReporter;
use hawser_serve::metrics::MetricsPage;
use hawser_serve::pages::{Page, Pages, json, open_metrics, plain, readiness, readiness_with_all};
use hawser_serve::readiness::Purpose;
use http::StatusCode;

use crate::misbehavior_page::{self, position_of};
use crate::node_status::NodeObserver;
use crate::payer_reports_page;

/// The pages of a node.
pub(crate) struct NodePages {
    metrics: MetricsPage,
    observer: NodeObserver,
    payer_reports: Option<PayerReporter>,
}

impl NodePages {
    pub(crate) fn new(
        metrics: MetricsPage,
        observer: NodeObserver,
        payer_reports: Option<PayerReporter>,
    ) -> Self {
        Self { metrics, observer, payer_reports }
    }

    fn misbehavior(&self, query: &str) -> Page {
        let Some(after) = position_of(query) else {
            return plain(
                StatusCode::BAD_REQUEST,
                "after is the position of a piece of evidence\n",
            );
        };
        match misbehavior_page::page(&self.observer.engine, after) {
            Ok(page) => json(StatusCode::OK, &page),
            Err(error) => {
                tracing::error!(code = "read_failed", %error, "the evidence cannot be read");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the evidence cannot be read\n")
            }
        }
    }

    fn readiness(&self, purpose: Purpose) -> Page {
        readiness(self.observer.readiness.evaluate(), Some(purpose))
    }

    /// Shows the conditions of the purpose that the query names. Without one the status is that of reading, and the
    /// page has all conditions: operators look there for those of publishing, too.
    fn readyz(&self, query: &str) -> Page {
        let Some(name) = query.split('&').find_map(|pair| pair.strip_prefix("for=")) else {
            return readiness_with_all(self.observer.readiness.evaluate(), Purpose::Read);
        };
        match Purpose::ALL.into_iter().find(|purpose| purpose.label() == name) {
            Some(purpose) => self.readiness(purpose),
            None => plain(StatusCode::BAD_REQUEST, "for is one of start, read, publish\n"),
        }
    }
}

impl Pages for NodePages {
    fn show(&self, path: &str, query: &str) -> Page {
        match path {
            "/" | "/metrics" => open_metrics(self.metrics.render()),
            // A response at all shows that threads and tasks still run.
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/startupz" => self.readiness(Purpose::Start),
            "/readyz" => self.readyz(query),
            "/status" => json(StatusCode::OK, &self.observer.page()),
            "/misbehavior" => self.misbehavior(query),
            "/payer-reports" => payer_reports_page::page(self.payer_reports.as_ref(), query),
            _ => plain(
                StatusCode::NOT_FOUND,
                "try /metrics, /livez, /startupz, /readyz, /readyz?for=publish, /status, /misbehavior, \
                 /payer-reports\n",
            ),
        }
    }
}
