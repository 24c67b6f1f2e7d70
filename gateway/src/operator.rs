//! The gateway's pages on the operators' port: metrics, readiness, status.

use hawser_serve::metrics::MetricsPage;
use hawser_serve::pages::{Page, Pages, json, open_metrics, plain, readiness};
use http::StatusCode;

use crate::gateway_status::GatewayObserver;

/// The pages of a gateway.
pub(crate) struct GatewayPages {
    pub(crate) metrics: MetricsPage,
    pub(crate) observer: GatewayObserver,
}

impl Pages for GatewayPages {
    fn show(&self, path: &str, _: &str) -> Page {
        match path {
            "/" | "/metrics" => open_metrics(self.metrics.render()),
            "/livez" | "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" | "/startupz" => readiness(self.observer.readiness.evaluate(), None),
            "/status" => json(StatusCode::OK, &self.observer.status()),
            _ => {
                plain(StatusCode::NOT_FOUND, "try /metrics, /livez, /startupz, /readyz, /status\n")
            }
        }
    }
}
