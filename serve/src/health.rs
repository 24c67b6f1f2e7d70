//! `grpc.health.v1`: readiness for load balancers and clients.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::readiness::{Purpose, Readiness, ReadyPurposes};
use crate::reflection::REFLECTION;
use crate::response_messages::{NoMessages, stream_response};
use crate::settings::{MESSAGE_LEN_BYTES_MAX, SHUTTING_DOWN};

/// Answers health checks from the process's readiness.
#[derive(Clone)]
pub struct HealthService {
    readiness: Readiness,
    services: Arc<[(&'static str, Purpose)]>,
    stop: CancellationToken,
}

impl HealthService {
    /// The full name of the service.
    pub const NAME: &'static str = "grpc.health.v1.Health";

    /// Serves `services` by their full names, each SERVING while the process is ready for its
    /// purpose. The empty name, the name of this service, and those of reflection if it is served mean
    /// [`Purpose::Read`].
    ///
    /// Watches end with UNAVAILABLE when `stop` is cancelled.
    #[must_use]
    pub fn server(
        readiness: Readiness,
        services: impl IntoIterator<Item = (&'static str, Purpose)>,
        has_reflection: bool,
        stop: CancellationToken,
    ) -> HealthServer<Self> {
        let reflection = REFLECTION.iter().filter(|_| has_reflection);
        let reflection = reflection.map(|name| (*name, Purpose::Read));
        let services = services.into_iter().chain(reflection).collect();
        HealthServer::new(Self { readiness, services, stop })
            .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX)
    }

    /// Returns the purpose of a service; `None` if it is not served.
    fn purpose_of(&self, service: &str) -> Option<Purpose> {
        if service.is_empty() || service == Self::NAME {
            return Some(Purpose::Read);
        }
        let known = self.services.iter().find(|(name, _)| *name == service);
        known.map(|(_, purpose)| *purpose)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = NoMessages<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let purpose = self.purpose_of(&request.get_ref().service);
        let purpose = purpose.ok_or_else(|| Status::not_found("service not registered"))?;
        Ok(Response::new(response(self.readiness.current().await, Some(purpose))))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let purpose = self.purpose_of(&request.get_ref().service);
        self.readiness.current().await; // the first message is the present state
        let watcher = Watcher {
            ready: self.readiness.subscribe(),
            purpose,
            sent: None,
            stop: self.stop.clone(),
        };
        let messages = stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Some(message) => Some((Ok(message), Some(watcher))),
                None => Some((Err(Status::unavailable(SHUTTING_DOWN)), None)),
            }
        });
        Ok(stream_response(Box::pin(messages)))
    }
}

/// One `Watch` stream.
struct Watcher {
    ready: watch::Receiver<ReadyPurposes>,
    /// `None` for a service that is not served: a watch of it waits like any other (`grpc.health.v1`, Watch).
    purpose: Option<Purpose>,
    sent: Option<HealthCheckResponse>,
    stop: CancellationToken,
}

impl Watcher {
    /// Returns the next state that differs from the one sent last; `None` when the server stops.
    async fn next(&mut self) -> Option<HealthCheckResponse> {
        loop {
            let now = response(*self.ready.borrow_and_update(), self.purpose);
            if self.sent != Some(now) {
                self.sent = Some(now);
                return Some(now);
            }
            tokio::select! {
                biased;
                changed = self.ready.changed() => changed.ok()?,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn response(ready: ReadyPurposes, purpose: Option<Purpose>) -> HealthCheckResponse {
    let status = match purpose {
        None => ServingStatus::ServiceUnknown,
        Some(purpose) if ready.contains(purpose) => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    };
    HealthCheckResponse { status: status.into() }
}
