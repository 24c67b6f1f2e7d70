//! What a node says about itself.

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

use crate::limits::payers;
use crate::query::blocking;
use crate::status::{Refusal, into_status};
use crate::streams::MessageStream;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;

/// The cursor is sent again after this long, whether it has moved or not.
const CURSOR_REPEATED_AFTER: Duration = Duration::from_secs(30);
/// A busy log moves the cursor a thousand times in a second; nobody needs to hear of each.
const CURSOR_SENT_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) engine: Engine,
    pub(crate) version: Arc<str>,
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
        let told = stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(message) => Some((Ok(message), Some(follower))),
                Err(refusal) => Some((Err(into_status(refusal)), None)),
            }
        });
        Ok(Response::new(told.boxed()))
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
        self.payer_info(request.into_inner()).await.map(Response::new).map_err(into_status)
    }
}

impl Metadata {
    async fn payer_info(
        &self,
        request: pb::GetPayerInfoRequest,
    ) -> Result<pb::GetPayerInfoResponse, Refusal> {
        let (payers, minutes) = payers(request).map_err(Refusal::Request)?;
        let reader = self.engine.reader().clone();
        let used = blocking(move || {
            let used = payers.into_iter().map(|(name, payer)| {
                let periods = reader.usage(payer, minutes)?;
                Ok((name, periods))
            });
            used.collect::<Result<Vec<_>, ReadError>>()
        })
        .await?;
        let unknown = used.iter().find(|(_, periods)| periods.is_empty());
        if let Some((name, _)) = unknown {
            return Err(Refusal::UnknownPayer(name.clone()));
        }
        let info = |(name, periods): (String, Vec<UsedPeriod>)| {
            let period_summaries = periods.into_iter().map(summary).collect();
            (name, PayerInfo { period_summaries })
        };
        let response =
            pb::GetPayerInfoResponse { payer_info: used.into_iter().map(info).collect() };
        if response.encoded_len() > MESSAGE_LEN_BYTES_MAX {
            return Err(Refusal::AnswerTooLarge);
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

struct CursorFollower {
    heads: watch::Receiver<Arc<Cursor>>,
    sent_at: Option<Instant>,
    stop: CancellationToken,
}

impl CursorFollower {
    async fn next(&mut self) -> Result<pb::GetSyncCursorResponse, Refusal> {
        if let Some(sent_at) = self.sent_at {
            tokio::select! {
                () = sleep(CURSOR_REPEATED_AFTER) => {}
                () = moved(&mut self.heads, sent_at) => {}
                () = self.stop.cancelled() => return Err(Refusal::ShuttingDown),
            }
        }
        self.sent_at = Some(Instant::now());
        Ok(response(&self.heads.borrow_and_update()))
    }
}

/// Returns when the cursor is another than the one sent last, and may be sent.
async fn moved(heads: &mut watch::Receiver<Arc<Cursor>>, sent_at: Instant) {
    if heads.changed().await.is_err() {
        // Nobody writes the log any more.
        std::future::pending::<()>().await;
    }
    sleep_until(sent_at + CURSOR_SENT_EVERY).await;
}

fn response(cursor: &Cursor) -> pb::GetSyncCursorResponse {
    pb::GetSyncCursorResponse { latest_sync: Some(cursor.to_pb()) }
}
