//! The reports that a node keeps, over its API.

use hawser_audit::file::HeldReport;
use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;

use crate::client;

/// Reports that are read of one node. A guess: above what a node keeps of a network that works.
const REPORTS_MAX: usize = 100_000;
/// Their bytes.
const LEN_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Connects to the service of a node.
///
/// # Errors
/// When no node answers there.
pub(crate) async fn connect(
    address: &str,
) -> Result<MisbehaviorApiClient<CheckedChannel>, RunError> {
    let client = MisbehaviorApiClient::new(client::connect(address).await?);
    Ok(client.max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX))
}

/// Reads one page of reports that a node stored after `after_ns`.
///
/// # Errors
/// When the node refuses.
pub(crate) async fn page(
    api: &mut MisbehaviorApiClient<CheckedChannel>,
    after_ns: u64,
) -> Result<Vec<HeldReport>, RunError> {
    let request = pb::QueryMisbehaviorReportsRequest { after_ns };
    let answer = api.query_misbehavior_reports(request).await;
    let reports = answer.map_err(|status| client::failure(&status))?.into_inner().reports;
    Ok(reports.into_iter().map(held).collect())
}

fn held(report: pb::MisbehaviorReport) -> HeldReport {
    HeldReport {
        report: report.unsigned_misbehavior_report,
        host_signature: report.signature.map(|signature| signature.bytes),
        host: None,
        server_time_ns: Some(report.server_time_ns),
    }
}

/// Reads all reports that a node stored after `after_ns`.
///
/// # Errors
/// When the node does not answer, or its answers do not end.
pub(crate) async fn all_of(address: &str, after_ns: u64) -> Result<Vec<HeldReport>, RunError> {
    let mut api = connect(address).await?;
    let (mut all, mut after, mut len_bytes) = (Vec::new(), after_ns, 0usize);
    loop {
        let page = page(&mut api, after).await?;
        let Some(last) = page.last().and_then(|it| it.server_time_ns) else { return Ok(all) };
        if last <= after {
            return Err(RunError::failed(format!(
                "{address}: the node sent its reports out of order"
            )));
        }
        after = last;
        len_bytes += page.iter().map(|it| it.report.len()).sum::<usize>();
        all.extend(page);
        if all.len() > REPORTS_MAX || len_bytes > LEN_BYTES_MAX {
            return Err(RunError::failed(format!(
                "{address}: the node has more reports than one run reads"
            )));
        }
    }
}
