//! Handlers of the metadata service: the node's cursor, its version, the usage of payers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use hawser_engine::Engine;
use hawser_engine::ledger::PicoDollarBalance;
use hawser_engine::payer_reports::ChainReports;
use hawser_engine::read::QueryError;
use hawser_engine::runtime::{ROWS_PER_TURN, UsageScan, UsedPeriod};
use hawser_proto::PayerAddress;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::get_payer_info_response::{
    PayerInfo, PeriodSummary,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApi;
use hawser_proto::quic_address::QUIC_ADDRESS_HEADER;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status};

use crate::callers::{Callers, caller_of};
use crate::cursor_stream::CursorMoves;
use crate::error::{CallError, into_status};
use crate::limits::{payers, quoted};
use crate::metrics::LimitedCall;
use crate::node_api::{charged, check_size};
use crate::read_workers::ReadWorkers;
use hawser_serve::{CallCharge, NoMessages, stream_response};

/// Memory that a period takes: as read, as a message, and encoded. Counted from the types, with room to
/// spare.
const PERIOD_BYTES: usize = 192;

/// Rows that a read of the reports on the chain counts as, and a payer that is named again beside its periods. A guess:
/// the cost of a search, as elsewhere.
const ROWS_PER_SEARCH: usize = 10;

/// Serves metadata. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) engine: Engine,
    /// The cursor that callers get. Peers over gRPC treat it as verified.
    pub(crate) cursor: CursorMoves,
    pub(crate) version: Arc<str>,
    pub(crate) reads: ReadWorkers,
    pub(crate) callers: Callers,
    /// This node's QUIC address, if it is announced. Only nodes use it.
    pub(crate) quic_address: Option<AsciiMetadataValue>,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl MetadataApi for Metadata {
    type SubscribeSyncCursorStream = NoMessages<pb::GetSyncCursorResponse>;

    async fn get_sync_cursor(
        &self,
        request: Request<pb::GetSyncCursorRequest>,
    ) -> Result<Response<pb::GetSyncCursorResponse>, Status> {
        let mut answer = Response::new(self.cursor.now());
        let is_from_node = caller_of(&request).is_node();
        if let Some(address) = self.quic_address.clone().filter(|_| is_from_node) {
            answer.metadata_mut().insert(QUIC_ADDRESS_HEADER, address);
        }
        Ok(answer)
    }

    async fn subscribe_sync_cursor(
        &self,
        _: Request<pb::GetSyncCursorRequest>,
    ) -> Result<Response<Self::SubscribeSyncCursorStream>, Status> {
        let follower = self.cursor.follow(self.stop.clone());
        let messages = stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(message) => Some((Ok(message), Some(follower))),
                Err(error) => Some((Err(into_status(error)), None)),
            }
        });
        Ok(stream_response(messages.boxed()))
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
    /// Answers `GetPayerInfo`, in turns of bounded work that the caller pays for.
    async fn payer_info(
        &self,
        request: Request<pb::GetPayerInfoRequest>,
    ) -> Result<pb::GetPayerInfoResponse, CallError> {
        let caller = caller_of(&request);
        let (charge, request) = charged(request);
        let (payers, minutes) = payers(request).map_err(CallError::Request)?;
        // The service has no limits of its own, and the first turn is free: it suffices for some hundred payers.
        let turns = self.callers.turns(caller, LimitedCall::Usage, 1, &self.stop);
        let usage = UsageReader::new(self.engine.clone(), charge.clone(), payers, minutes);
        let mut usage = Some(Box::new(usage));
        let turn = move || {
            let reading = usage.take().expect("a turn that ends the read is the last one");
            match reading.turn(ROWS_PER_TURN)? {
                UsageTurn::Done(used) => Ok(Some(Ok(used))),
                UsageTurn::Unknown(name) => Ok(Some(Err(CallError::UnknownPayer(quoted(&name))))),
                UsageTurn::More(reading) => {
                    usage = Some(reading);
                    Ok(None)
                }
            }
        };
        let used = self.reads.in_turns(&charge, turns, turn).await??;
        let info = |(name, used): (String, UsedPayer)| (name, used.info());
        let response =
            pb::GetPayerInfoResponse { payer_info: used.into_iter().map(info).collect() };
        check_size(response.encoded_len())?;
        Ok(response)
    }
}

fn summary(period: &UsedPeriod) -> PeriodSummary {
    PeriodSummary {
        amount_spent_picodollars: period.unsettled.picodollars.0,
        num_messages: period.unsettled.messages,
        period_start_unix_seconds: period.start_unix_s,
        settled_picodollars: period.settled.picodollars.0,
        settled_num_messages: period.settled.messages,
    }
}

/// Reads the usage of payers for one call, in turns.
struct UsageReader {
    engine: Engine,
    charge: CallCharge,
    minutes: u32,
    /// The payers that are still to be read, the next one first.
    payers: std::vec::IntoIter<(String, PayerAddress)>,
    /// The payer that is being read, under the text that names it.
    scan: Option<(String, PayerAddress, UsageScan)>,
    read: BTreeMap<PayerAddress, UsedPayer>,
    used: UsageByName,
}

/// The usage of each payer under the text that names it.
type UsageByName = Vec<(String, UsedPayer)>;

/// The usage of a payer, and its balance.
#[derive(Debug, Clone)]
struct UsedPayer {
    periods: Arc<[UsedPeriod]>,
    /// `None` as long as this node does not know it.
    balance: Option<PicoDollarBalance>,
}

impl UsedPayer {
    fn info(&self) -> PayerInfo {
        let unsettled = self.periods.iter().map(|period| period.unsettled.picodollars);
        let available = self.balance.map(|it| unsettled.fold(it, PicoDollarBalance::without));
        PayerInfo {
            period_summaries: self.periods.iter().map(summary).collect(),
            balance_picodollars: self.balance.map(clamped),
            available_picodollars: available.map(clamped),
        }
    }
}

/// Returns the nearest number of picodollars that the field of a message can hold.
fn clamped(balance: PicoDollarBalance) -> i64 {
    let nearest = if balance.0 < 0 { i64::MIN } else { i64::MAX };
    i64::try_from(balance.0).unwrap_or(nearest)
}

/// The outcome of one turn.
enum UsageTurn {
    /// Everything has been read.
    Done(UsageByName),
    /// This node has neither usage nor ledger entries of the named payer.
    Unknown(String),
    /// There is more to read.
    More(Box<UsageReader>),
}

impl UsageReader {
    fn new(
        engine: Engine,
        charge: CallCharge,
        payers: Vec<(String, PayerAddress)>,
        minutes: u32,
    ) -> Self {
        let used = Vec::with_capacity(payers.len());
        let (payers, read) = (payers.into_iter(), BTreeMap::new());
        Self { engine, charge, minutes, payers, scan: None, read, used }
    }

    /// Reads one payer after another, each once, until the first that this node does not know, and about `rows_max`
    /// rows at most.
    fn turn(mut self, rows_max: usize) -> Result<UsageTurn, QueryError> {
        let (mut rows, mut reports) = (ROWS_PER_SEARCH, None);
        while rows < rows_max {
            let Some((name, payer, mut scan)) = self.next(&mut reports)? else {
                return Ok(UsageTurn::Done(self.used));
            };
            if let Some(used) = self.read.get(&payer) {
                // A copy under another text takes memory in the answer, so it is paid for like rows that are read.
                let used = used.clone();
                rows += ROWS_PER_SEARCH + used.periods.len();
                self.add(name, payer, used)?;
                continue;
            }
            let before = scan.periods();
            rows += self.engine.reader().read_usage(&mut scan, rows_max - rows)?;
            self.take((scan.periods() - before) * PERIOD_BYTES)?;
            if !scan.is_done() {
                self.scan = Some((name, payer, scan));
                continue;
            }
            if scan.is_unknown() {
                return Ok(UsageTurn::Unknown(name));
            }
            let balance = scan.balance();
            self.add(name, payer, UsedPayer { periods: scan.into_periods().into(), balance })?;
        }
        Ok(UsageTurn::More(Box::new(self)))
    }

    /// Returns the payer that is read next. A turn reads the reports on the chain once, into `reports`: their other
    /// readers, such as the publisher, wait meanwhile.
    fn next(
        &mut self,
        reports: &mut Option<Arc<ChainReports>>,
    ) -> Result<Option<(String, PayerAddress, UsageScan)>, QueryError> {
        if let Some(begun) = self.scan.take() {
            return Ok(Some(begun));
        }
        let Some((name, payer)) = self.payers.next() else { return Ok(None) };
        let read = match reports.take() {
            Some(read) => read,
            None => self.engine.payer_reports_on_chain()?,
        };
        *reports = Some(Arc::clone(&read));
        let scan = UsageScan::new(payer, self.minutes, read);
        Ok(Some((name, payer, scan)))
    }

    /// Adds the usage of a payer under one of its names, which the answer repeats. A name may have any length, so its
    /// copy in the encoded answer is charged too.
    fn add(
        &mut self,
        name: String,
        payer: PayerAddress,
        used: UsedPayer,
    ) -> Result<(), QueryError> {
        let is_copy = self.read.contains_key(&payer);
        let copied_bytes = if is_copy { used.periods.len() * PERIOD_BYTES } else { 0 };
        self.take(name.len() + copied_bytes)?;
        self.read.insert(payer, used.clone());
        self.used.push((name, used));
        Ok(())
    }

    fn take(&self, bytes: usize) -> Result<(), QueryError> {
        self.charge.take(bytes).map_err(|_| QueryError::NoMemory(bytes))
    }
}
