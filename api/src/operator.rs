//! The node's pages on the operators' port: metrics, readiness, status, evidence against nodes, payer reports.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hawser_engine::runtime::PayerReporter;
use hawser_serve::metrics::MetricsPage;
use hawser_serve::pages::{
    Page, Pages, json, open_metrics, parameter, plain, readiness, readiness_with_all,
};
use hawser_serve::readiness::Purpose;
use http::StatusCode;
use tokio::runtime::Handle;

use crate::misbehavior_page::{self, position_of};
use crate::node_status::NodeObserver;
use crate::payer_reports_page;

/// The longest time in which the threads for publishers have to take a task, or the process should be started again.
/// Specified: `docs/operating.md`, Health.
const TURN_MAX: Duration = Duration::from_secs(10);

/// The pages of a node.
pub(crate) struct NodePages {
    metrics: MetricsPage,
    observer: NodeObserver,
    payer_reports: Option<PayerReporter>,
    /// The runtime of publishers' connections; `None` if all connections have one.
    publishers: Option<Handle>,
}

impl NodePages {
    pub(crate) fn new(
        metrics: MetricsPage,
        observer: NodeObserver,
        payer_reports: Option<PayerReporter>,
        publishers: Option<Handle>,
    ) -> Self {
        Self { metrics, observer, payer_reports, publishers }
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
        let Some(name) = parameter(query, "for") else {
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
            "/livez" => live(self.publishers.as_ref(), TURN_MAX),
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

/// Returns the sign of life. A response at all shows that the threads for this page and its task still run; those for
/// publishers have to take a task within `turn_max`. Blocks meanwhile.
fn live(publishers: Option<&Handle>, turn_max: Duration) -> Page {
    let (turned, turn) = mpsc::channel();
    if let Some(publishers) = publishers {
        publishers.spawn(async move {
            let _ = turned.send(());
        });
        // Without a sender the runtime is ending, with the process.
        if turn.recv_timeout(turn_max) == Err(RecvTimeoutError::Timeout) {
            let text = "the threads for publishers take no tasks\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
    }
    plain(StatusCode::OK, "ok\n")
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_node_whose_threads_for_publishers_hang_is_not_alive() {
        let publishers = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (go_on, held) = mpsc::channel::<()>();
        publishers.spawn(async move { held.recv() });
        let of = Some(publishers.handle());
        let hangs = live(of, Duration::from_millis(20));
        assert_eq!(hangs.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(go_on);
        assert_eq!(live(of, Duration::from_secs(120)).status(), StatusCode::OK);
        assert_eq!(live(None, Duration::ZERO).status(), StatusCode::OK);
    }
}
