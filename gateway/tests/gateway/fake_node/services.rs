//! The services of a fake node beside publishing and reading: reports, metadata and health.

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::MisbehaviorApi;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as metadata;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApi;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Inner, Streamed};

/// The behaviour of a node when a misbehaviour report is submitted to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Hosting {
    Accepts,
    Refuses,
    Hangs,
}

#[tonic::async_trait]
impl MisbehaviorApi for Inner {
    async fn submit_misbehavior_report(
        &self,
        request: Request<api::SubmitMisbehaviorReportRequest>,
    ) -> Result<Response<api::SubmitMisbehaviorReportResponse>, Status> {
        self.stored.lock().reports.push(request.into_inner().report.unwrap());
        let hosting = *self.hosting.borrow();
        match hosting {
            Hosting::Accepts => Ok(Response::new(api::SubmitMisbehaviorReportResponse {})),
            Hosting::Refuses => Err(Status::unavailable("not now")),
            Hosting::Hangs => std::future::pending().await,
        }
    }

    async fn query_misbehavior_reports(
        &self,
        _: Request<api::QueryMisbehaviorReportsRequest>,
    ) -> Result<Response<api::QueryMisbehaviorReportsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl MetadataApi for Inner {
    type SubscribeSyncCursorStream = Streamed<metadata::GetSyncCursorResponse>;

    async fn get_version(
        &self,
        _: Request<metadata::GetVersionRequest>,
    ) -> Result<Response<metadata::GetVersionResponse>, Status> {
        let version = self.version.borrow().clone();
        let version = version.ok_or_else(|| Status::unimplemented(""))?;
        Ok(Response::new(metadata::GetVersionResponse { version }))
    }

    async fn get_sync_cursor(
        &self,
        _: Request<metadata::GetSyncCursorRequest>,
    ) -> Result<Response<metadata::GetSyncCursorResponse>, Status> {
        let cursor = self.cursor.borrow().clone();
        let cursor = cursor.ok_or_else(|| Status::unimplemented(""))?;
        let node_id_to_sequence_id = cursor.into_iter().collect();
        let latest_sync = Some(pb::Cursor { node_id_to_sequence_id });
        Ok(Response::new(metadata::GetSyncCursorResponse { latest_sync }))
    }

    async fn subscribe_sync_cursor(
        &self,
        _: Request<metadata::GetSyncCursorRequest>,
    ) -> Result<Response<Self::SubscribeSyncCursorStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_payer_info(
        &self,
        _: Request<metadata::GetPayerInfoRequest>,
    ) -> Result<Response<metadata::GetPayerInfoResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Health for Inner {
    type WatchStream = Streamed<HealthCheckResponse>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match *self.serving.borrow() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
