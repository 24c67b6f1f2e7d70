//! What operators are shown: metrics, health and status.

use http::StatusCode;
use serde::Serialize;

use crate::conditions::{Condition, Purpose};
use crate::metrics::Metrics;
use crate::report::Observer;
use hawser_serve::pages::{Page, Pages, json, open_metrics, plain};

/// What the pages show.
pub(crate) struct NodePages {
    metrics: Metrics,
    observer: Observer,
}

/// What `/readyz` and its like show.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(rename = "for")]
    purpose: Purpose,
    conditions: Vec<Condition>,
}

impl NodePages {
    pub(crate) fn new(metrics: Metrics, observer: Observer) -> Self {
        Self { metrics, observer }
    }

    fn readiness(&self, purpose: Purpose) -> Page {
        let mut conditions = self.observer.conditions.look();
        conditions.retain(|condition| condition.purpose <= purpose);
        let ready = conditions.iter().all(|condition| condition.met);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(status, &Readiness { ready, purpose, conditions })
    }
}

impl Pages for NodePages {
    fn show(&self, path: &str, query: &str) -> Page {
        match path {
            "/" | "/metrics" => open_metrics(self.metrics.page()),
            // That this is answered at all says that threads and tasks still turn.
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/startupz" => self.readiness(Purpose::Start),
            "/readyz" => match asked_for(query) {
                Some(purpose) => self.readiness(purpose),
                None => plain(StatusCode::BAD_REQUEST, "for is one of start, read, publish\n"),
            },
            "/status" => json(StatusCode::OK, &self.observer.page()),
            _ => plain(
                StatusCode::NOT_FOUND,
                "try /metrics, /livez, /startupz, /readyz, /readyz?for=publish, /status\n",
            ),
        }
    }
}

/// Reading, if nothing else is asked for.
fn asked_for(query: &str) -> Option<Purpose> {
    match query.split('&').find_map(|pair| pair.strip_prefix("for=")) {
        None => Some(Purpose::Read),
        Some(name) => Purpose::ALL.into_iter().find(|purpose| purpose.label() == name),
    }
}
