//! `grpc.health.v1`: what balancers ask.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use hawser_serve::SHUTTING_DOWN;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::wire::SERVICES;
use crate::operator::Observer;

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(crate) struct HealthService {
    pub(crate) observer: Observer,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

fn known(service: &str) -> Result<(), Status> {
    match service.is_empty() || SERVICES.contains(&service) {
        true => Ok(()),
        false => Err(Status::not_found("service not registered")),
    }
}

impl HealthService {
    fn response(&self) -> HealthCheckResponse {
        let status = match self.observer.is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        HealthCheckResponse { status: status.into() }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        known(&request.get_ref().service)?;
        Ok(Response::new(self.response()))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        known(&request.get_ref().service)?;
        let told = stream::unfold(Some((self.clone(), None)), |state| async {
            let (health, told) = state?;
            loop {
                let now = health.response();
                if told != Some(now) {
                    return Some((Ok(now), Some((health, Some(now)))));
                }
                tokio::select! {
                    () = health.stop.cancelled() => {
                        return Some((Err(Status::unavailable(SHUTTING_DOWN)), None));
                    }
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(told)))
    }
}
