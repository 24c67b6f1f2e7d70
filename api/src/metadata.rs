//! Handlers of the metadata service: the node's cursor, its version, the usage of payers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hawser_engine::Engine;
use hawser_engine::read::QueryError;
use hawser_engine::runtime::UsedPeriod;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::get_payer_info_response::{
    PayerInfo, PeriodSummary,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApi;
use hawser_proto::{Cursor, PayerAddress};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::error::{CallError, into_status};
use crate::limits::payers;
use crate::node_api::{MessageStream, charged};
use crate::read_workers::ReadWorkers;
use hawser_serve::{CallCharge, MESSAGE_LEN_BYTES_MAX};

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
        let usage = UsageReader { engine: self.engine.clone(), charge: charge.clone() };
        let used = self.reads.run(&charge, move || usage.read(payers, minutes)).await?;
        let used = used.map_err(CallError::UnknownPayer)?;
        let info = |(name, periods): (String, Arc<[UsedPeriod]>)| {
            let period_summaries = periods.iter().map(summary).collect();
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

fn summary(period: &UsedPeriod) -> PeriodSummary {
    PeriodSummary {
        amount_spent_picodollars: period.picodollars,
        num_messages: period.messages,
        period_start_unix_seconds: period.start_unix_s,
    }
}

/// Reads the usage of payers for one call.
struct UsageReader {
    engine: Engine,
    charge: CallCharge,
}

/// The usage of each payer under the text that names it, or the text of the first unknown one.
type UsageByName = Result<Vec<(String, Arc<[UsedPeriod]>)>, String>;

impl UsageReader {
    /// Reads the payers in turn, each once, up to the first that this node does not know.
    fn read(
        &self,
        payers: Vec<(String, PayerAddress)>,
        minutes: u32,
    ) -> Result<UsageByName, QueryError> {
        let mut read: BTreeMap<PayerAddress, Arc<[UsedPeriod]>> = BTreeMap::new();
        let mut used = Vec::with_capacity(payers.len());
        for (name, payer) in payers {
            let periods = match read.get(&payer) {
                Some(periods) => Arc::clone(periods),
                None => self.engine.reader().usage(payer, minutes)?.into(),
            };
            if periods.is_empty() && !self.has_ledger(payer)? {
                return Ok(Err(name));
            }
            // Under each of its names, because the answer repeats it.
            let bytes = periods.len() * PERIOD_BYTES;
            self.charge.take(bytes).map_err(|_| QueryError::NoMemory(bytes))?;
            read.insert(payer, Arc::clone(&periods));
            used.push((name, periods));
        }
        Ok(Ok(used))
    }

    /// Returns whether the payer has ever paid in.
    fn has_ledger(&self, payer: PayerAddress) -> Result<bool, QueryError> {
        Ok(!self.engine.store().snapshot().ledger(payer)?.is_empty())
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
