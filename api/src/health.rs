//! `grpc.health.v1`: what balancers and clients ask before they call.

use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::conditions::{Conditions, Purpose, Ready};
use crate::methods::{PUBLISHING_SERVICE, READING_SERVICES};
use crate::status::{Refusal, into_status};
use crate::streams::MessageStream;

#[derive(Clone)]
pub(crate) struct HealthService {
    pub(crate) conditions: Conditions,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = MessageStream<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let purpose = purpose_of(&request.get_ref().service).map_err(into_status)?;
        Ok(Response::new(response(self.conditions.ready(), purpose)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let purpose = purpose_of(&request.get_ref().service).map_err(into_status)?;
        self.conditions.ready(); // the newest state is the first to be told
        let watcher = Watcher {
            ready: self.conditions.watch(),
            purpose,
            told: None,
            stop: self.stop.clone(),
        };
        let told = stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(message) => Some((Ok(message), Some(watcher))),
                Err(refusal) => Some((Err(into_status(refusal)), None)),
            }
        });
        Ok(Response::new(told.boxed()))
    }
}

struct Watcher {
    ready: watch::Receiver<Ready>,
    purpose: Purpose,
    told: Option<HealthCheckResponse>,
    stop: CancellationToken,
}

impl Watcher {
    async fn next(&mut self) -> Result<HealthCheckResponse, Refusal> {
        loop {
            let now = response(*self.ready.borrow_and_update(), self.purpose);
            if self.told.as_ref() != Some(&now) {
                self.told = Some(now);
                return Ok(now);
            }
            tokio::select! {
                biased;
                changed = self.ready.changed() => changed.map_err(|_| Refusal::ShuttingDown)?,
                () = self.stop.cancelled() => return Err(Refusal::ShuttingDown),
            }
        }
    }
}

fn purpose_of(service: &str) -> Result<Purpose, Refusal> {
    match service {
        "" => Ok(Purpose::Read),
        service if READING_SERVICES.contains(&service) => Ok(Purpose::Read),
        service if service == PUBLISHING_SERVICE => Ok(Purpose::Publish),
        _ => Err(Refusal::UnknownService),
    }
}

fn response(ready: Ready, purpose: Purpose) -> HealthCheckResponse {
    let status =
        if ready.is_for(purpose) { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
