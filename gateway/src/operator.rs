//! The gateway's pages on the operators' port: metrics, liveness, readiness, status and the usage table.

use std::sync::Arc;

use hawser_serve::metrics::MetricsPage;
use hawser_serve::pages::{Page, Pages, csv, json, open_metrics, plain, readiness};
use http::StatusCode;

use crate::gateway_status::GatewayObserver;
use crate::metering::UsageTable;
use crate::metrics::GatewayMetrics;

/// The pages of a gateway.
pub(crate) struct GatewayPages {
    pub(crate) metrics: MetricsPage,
    pub(crate) observer: GatewayObserver,
    pub(crate) counted: Arc<GatewayMetrics>,
}

impl Pages for GatewayPages {
    fn show(&self, path: &str, _: &str) -> Page {
        match path {
            "/" | "/metrics" => open_metrics(self.metrics.render()),
            // An answer at all shows that the threads of the only runtime, which also serve the callers, take tasks.
            "/livez" | "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" | "/startupz" => readiness(self.observer.readiness.evaluate(), None),
            "/status" => json(StatusCode::OK, &self.observer.status()),
            "/usage.csv" => {
                let (counted, mut table) = (self.counted.clone(), UsageTable::default());
                csv(std::iter::from_fn(move || table.next_piece(&counted.meter)))
            }
            _ => plain(
                StatusCode::NOT_FOUND,
                "try /metrics, /livez, /startupz, /readyz, /status, /usage.csv\n",
            ),
        }
    }

    fn is_light(&self, path: &str) -> bool {
        matches!(path, "/livez" | "/healthz")
    }
}
