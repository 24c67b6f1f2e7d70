//! Handlers of the service that takes reports of misbehaviour and hands them out.

use std::sync::Arc;
use std::time::Instant;

use hawser_engine::read::QueryError;
use hawser_engine::reports::{Report, ReportSubmission, ReportSubmissionError, StoredReport};
use hawser_engine::runtime::{Reports, SubmitError};
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::MisbehaviorApi;
use hawser_serve::CallCharge;
use hawser_serve::readiness::Readiness;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::callers::caller_of;
use crate::error::{CallError, into_status};
use crate::methods::SUBMIT_REPORT;
use crate::metrics::{LimitOutcome, LimitedCall};
use crate::node_api::{NodeApi, charged};
use crate::rate_limits::CallCost;
use crate::report_limits::ReportLimits;
use crate::settings::ApiSettings;

/// Largest number of reports in an answer. Specified (`docs/protocol/misbehavior.md`).
const REPORTS_MAX: usize = 1_000;
/// Bytes of the reports in one answer; a larger report is sent alone. Specified (same page): 4 MiB, with the
/// fields around the reports.
const LEN_BYTES_MAX: usize = 4 * 1024 * 1024 - REPORTS_MAX * 32;
/// Copies of a report's bytes that a submission makes: in canonical form, and in the write to disk.
const COPIES: usize = 2;
/// Copies of the reports that an answer makes: as they are read, and as they are encoded.
const COPIES_OF_READ: usize = 2;

/// Takes reports of misbehaviour and hands them out. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MisbehaviorService {
    pub(crate) api: NodeApi,
    pub(crate) readiness: Readiness,
    /// False if the service is switched off.
    pub(crate) is_served: bool,
    pub(crate) limits: Arc<Mutex<ReportLimits>>,
    /// The limits of reports of a wrong form, which take nothing from those of others.
    pub(crate) wrong_forms: Arc<Mutex<ReportLimits>>,
    pub(crate) since: Instant,
}

impl MisbehaviorService {
    pub(crate) fn new(api: NodeApi, readiness: Readiness, settings: &ApiSettings) -> Self {
        let per_minute = settings.misbehavior_reports_per_minute;
        let limits = Arc::new(Mutex::new(ReportLimits::new(per_minute)));
        let wrong_forms = Arc::new(Mutex::new(ReportLimits::of_wrong_forms(per_minute)));
        let is_served = settings.misbehavior_api;
        Self { api, readiness, is_served, limits, wrong_forms, since: Instant::now() }
    }

    fn check_served(&self) -> Result<&Reports, CallError> {
        match self.is_served {
            true => Ok(self.api.engine.reports()),
            false => Err(CallError::NotServed("the MisbehaviorApi")),
        }
    }

    async fn submit(
        &self,
        request: Request<pb::SubmitMisbehaviorReportRequest>,
    ) -> Result<pb::SubmitMisbehaviorReportResponse, CallError> {
        let reports = self.check_served()?;
        self.check_writable()?;
        let caller = caller_of(&request);
        let (charge, request) = charged(request);
        let len_bytes = request.report.as_ref().map_or(0, prost::Message::encoded_len);
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let metrics = self.api.callers.metrics();
        let decided = |outcome| metrics.decided(LimitedCall::Submission, caller.tier(), outcome);
        let too_many = |wait_ms: u64| {
            decided(LimitOutcome::Denied);
            CallError::TooManyReports(wait_ms.div_ceil(1000))
        };
        // The form comes first: its submitter learns what is wrong, and has lost nothing for the right report.
        let report = match formed(reports, request.report) {
            Ok(report) => report,
            Err(wrong) => {
                let taken = self.wrong_forms.lock().take_owing(caller.address, len_bytes, now_ms);
                return Err(taken.map_or_else(too_many, |()| wrong));
            }
        };
        let taken = self.limits.lock().take(caller.address, len_bytes, now_ms);
        taken.map_err(too_many)?;
        decided(LimitOutcome::Allowed);
        charge.take(len_bytes * COPIES)?;
        match reports.submit(charge.site(), report).await? {
            ReportSubmission::Stored | ReportSubmission::Known => {
                Ok(pb::SubmitMisbehaviorReportResponse {})
            }
            ReportSubmission::Refuted(fact) => Err(CallError::ReportRefuted(fact.to_string())),
        }
    }

    /// Checks that reports can be stored now.
    fn check_writable(&self) -> Result<(), CallError> {
        let store = self.api.engine.store();
        if self.readiness.is_draining() {
            return Err(CallError::ShuttingDown);
        }
        if store.write_fault().is_some() || !store.has_room() {
            return Err(CallError::ReadOnly);
        }
        Ok(())
    }

    async fn query(
        &self,
        request: Request<pb::QueryMisbehaviorReportsRequest>,
    ) -> Result<pb::QueryMisbehaviorReportsResponse, CallError> {
        let reports = self.check_served()?.clone();
        let caller = caller_of(&request);
        self.api.callers.charge(caller, LimitedCall::Reports, CallCost::of_topics(1)).await?;
        let (charge, request) = charged(request);
        charge.take(COPIES_OF_READ * LEN_BYTES_MAX)?;
        let of_read = charge.clone();
        let read = move || -> Result<Vec<StoredReport>, QueryError> {
            let found = reports.read(request.after_ns, REPORTS_MAX, LEN_BYTES_MAX)?;
            charge_rest(&of_read, &found)?;
            Ok(found)
        };
        let found = self.api.reads.run(&charge, read).await?;
        let reports = found.into_iter().map(message_of).collect();
        Ok(pb::QueryMisbehaviorReportsResponse { reports })
    }
}

/// Returns a submitted report if it has the form of one.
fn formed(
    reports: &Reports,
    message: Option<pb::UnsignedMisbehaviorReport>,
) -> Result<Report, CallError> {
    let message = message.ok_or(CallError::ReportMissing)?;
    let report = Report::of_message(message).map_err(ReportSubmissionError::from);
    let report = report.map_err(SubmitError::from)?;
    reports.check_form(&report).map_err(SubmitError::from)?;
    Ok(report)
}

/// Charges what the reports of an answer have beyond [`LEN_BYTES_MAX`]: a larger one comes alone. Until then the
/// threads for queries hold one such report each.
///
/// # Errors
/// [`QueryError::NoMemory`]: the caller may not hold it.
fn charge_rest(charge: &CallCharge, found: &[StoredReport]) -> Result<(), QueryError> {
    let len_bytes: usize = found.iter().map(|stored| stored.kept.report.len()).sum();
    let rest_bytes = COPIES_OF_READ * len_bytes.saturating_sub(LEN_BYTES_MAX);
    if rest_bytes == 0 {
        return Ok(());
    }
    charge.take(rest_bytes).map_err(|_| QueryError::NoMemory(rest_bytes))
}

fn message_of(stored: StoredReport) -> pb::MisbehaviorReport {
    let StoredReport { server_time_ns, kept } = stored;
    let bytes = Bytes::copy_from_slice(&kept.signature);
    pb::MisbehaviorReport {
        server_time_ns,
        unsigned_misbehavior_report: kept.report,
        signature: Some(RecoverableEcdsaSignature { bytes }),
    }
}

#[tonic::async_trait]
impl MisbehaviorApi for MisbehaviorService {
    async fn submit_misbehavior_report(
        &self,
        request: Request<pb::SubmitMisbehaviorReportRequest>,
    ) -> Result<Response<pb::SubmitMisbehaviorReportResponse>, Status> {
        let charge = CallCharge::of(request.extensions());
        let refused = match self.submit(request).await {
            Ok(response) => return Ok(Response::new(response)),
            Err(refused) => refused,
        };
        let is_limit = matches!(refused, CallError::TooManyReports(_) | CallError::ReportsBusy(_));
        let status = into_status(refused);
        if is_limit {
            charge.refuse_further(SUBMIT_REPORT, &status);
        }
        Err(status)
    }

    async fn query_misbehavior_reports(
        &self,
        request: Request<pb::QueryMisbehaviorReportsRequest>,
    ) -> Result<Response<pb::QueryMisbehaviorReportsResponse>, Status> {
        self.query(request).await.map(Response::new).map_err(into_status)
    }
}
