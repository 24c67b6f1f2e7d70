//! Handlers of the metadata service: the node's cursor, its version, the usage of payers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hawser_engine::Engine;
use hawser_engine::read::ReadError;
use hawser_engine::runtime::UsedPeriod;
use hawser_proto::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::get_payer_info_response::{
    PayerInfo, PeriodSummary,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApi;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::error::{CallError, into_status};
use crate::limits::payers;
use crate::node_api::{MessageStream, charged};
use crate::read_workers::ReadWorkers;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;

/// Time after which an unchanged cursor is sent again. Specified in `docs/protocol/api.md`.
const CURSOR_REPEATED_AFTER: Duration = Duration::from_secs(30);
/// Least time between two cursors of a stream: a busy log moves the cursor a thousand times in a
/// second. Specified in `docs/protocol/api.md`.
const CURSOR_SENT_EVERY: Duration = Duration::from_millis(100);

/// Memory that a period takes: as read, as a message, and encoded. Counted from the types, with room to
/// spare.
const PERIOD_BYTES: usize = 128;

/// Serves metadata. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) engine: Engine,
    pub(crate) version: Arc<str>,
    pub(crate) reads: ReadWorkers,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl MetadataApi for Metadata {
    type SubscribeSyncCursorStream = MessageStream<pb::GetSyncCursorResponse>;

    async fn get_sync_cursor(
        &self,
        _: Request<pb::GetSyncCursorRequest>,
    ) -> Result<Response<pb::GetSyncCursorResponse>, Status> {
        Ok(Response::new(response(&self.engine.heads().get())))
    }

    async fn subscribe_sync_cursor(
        &self,
        _: Request<pb::GetSyncCursorRequest>,
    ) -> Result<Response<Self::SubscribeSyncCursorStream>, Status> {
        let heads = self.engine.heads().subscribe();
        let follower = CursorFollower { heads, sent_at: None, stop: self.stop.clone() };
        let messages = stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(message) => Some((Ok(message), Some(follower))),
                Err(error) => Some((Err(into_status(error)), None)),
            }
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn get_version(
        &self,
        _: Request<pb::GetVersionRequest>,
    ) -> Result<Response<pb::GetVersionResponse>, Status> {
        Ok(Response::new(pb::GetVersionResponse { version: self.version.to_string() }))
    }

    async fn get_payer_info(
        &self,
        request: Request<pb::GetPayerInfoRequest>,
    ) -> Result<Response<pb::GetPayerInfoResponse>, Status> {
        self.payer_info(request).await.map(Response::new).map_err(into_status)
    }
}

impl Metadata {
    async fn payer_info(
        &self,
        request: Request<pb::GetPayerInfoRequest>,
    ) -> Result<pb::GetPayerInfoResponse, CallError> {
        let (charge, request) = charged(request);
        let (payers, minutes) = payers(request).map_err(CallError::Request)?;
        let reader = self.engine.reader().clone();
        let of_periods = charge.clone();
        let read = move || {
            let used = payers.into_iter().map(|(name, payer)| {
                let periods = reader.usage(payer, minutes)?;
                let bytes = periods.len() * PERIOD_BYTES;
                of_periods.take(bytes).map_err(|_| ReadError::NoMemory(bytes))?;
                Ok((name, periods))
            });
            used.collect::<Result<Vec<_>, ReadError>>()
        };
        let used = self.reads.run(&charge, read).await?;
        let unknown = used.iter().find(|(_, periods)| periods.is_empty());
        if let Some((name, _)) = unknown {
            return Err(CallError::UnknownPayer(name.clone()));
        }
        let info = |(name, periods): (String, Vec<UsedPeriod>)| {
            let period_summaries = periods.into_iter().map(summary).collect();
            (name, PayerInfo { period_summaries })
        };
        let response =
            pb::GetPayerInfoResponse { payer_info: used.into_iter().map(info).collect() };
        if response.encoded_len() > MESSAGE_LEN_BYTES_MAX {
            return Err(CallError::AnswerTooLarge);
        }
        Ok(response)
    }
}

fn summary(period: UsedPeriod) -> PeriodSummary {
    PeriodSummary {
        amount_spent_picodollars: period.picodollars,
        num_messages: period.messages,
        period_start_unix_seconds: period.start_unix_s,
    }
}

/// One stream of cursors.
struct CursorFollower {
    heads: watch::Receiver<Arc<Cursor>>,
    sent_at: Option<Instant>,
    stop: CancellationToken,
}

impl CursorFollower {
    async fn next(&mut self) -> Result<pb::GetSyncCursorResponse, CallError> {
        if let Some(sent_at) = self.sent_at {
            tokio::select! {
                () = sleep(CURSOR_REPEATED_AFTER) => {}
                () = moved(&mut self.heads, sent_at) => {}
                () = self.stop.cancelled() => return Err(CallError::ShuttingDown),
            }
        }
        self.sent_at = Some(Instant::now());
        Ok(response(&self.heads.borrow_and_update()))
    }
}

/// Returns when the cursor has moved and its turn to be sent has come.
async fn moved(heads: &mut watch::Receiver<Arc<Cursor>>, sent_at: Instant) {
    if heads.changed().await.is_err() {
        // The engine is gone, so the cursor never moves again.
        std::future::pending::<()>().await;
    }
    sleep_until(sent_at + CURSOR_SENT_EVERY).await;
}

fn response(cursor: &Cursor) -> pb::GetSyncCursorResponse {
    pb::GetSyncCursorResponse { latest_sync: Some(cursor.to_pb()) }
}
