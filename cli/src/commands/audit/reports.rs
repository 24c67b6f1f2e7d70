//! The reports that a node keeps, over its API.

use hawser_audit::file::FiledReport;
use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;

use crate::client::{self, AddressFrom};

/// The most that is read of one node, a page at a time. Guesses: strangers can have a node keep some hundred MiB of
/// reports that prove nothing for each accused node and class, and the answers of a lying node have no end.
pub(super) const READ_MOST: ReadMost = ReadMost { reports: 1_000_000, len_bytes: 16 << 30 };

/// Connects to the service of a node that the operator names.
///
/// # Errors
/// When no node answers there.
pub(crate) async fn connect(
    address: &str,
) -> Result<MisbehaviorApiClient<CheckedChannel>, RunError> {
    connect_to(address, AddressFrom::Operator).await
}

async fn connect_to(
    address: &str,
    from: AddressFrom,
) -> Result<MisbehaviorApiClient<CheckedChannel>, RunError> {
    let client = MisbehaviorApiClient::new(client::connect_to(address, from).await?);
    Ok(client.max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX))
}

/// Reads one page of reports that a node stored after `after_ns`.
///
/// # Errors
/// When the node refuses.
pub(crate) async fn page(
    api: &mut MisbehaviorApiClient<CheckedChannel>,
    after_ns: u64,
) -> Result<Vec<FiledReport>, RunError> {
    let request = pb::QueryMisbehaviorReportsRequest { after_ns };
    let answer = client::whole(api.query_misbehavior_reports(request)).await;
    let reports = answer.map_err(|status| client::failure(&status))?.into_inner().reports;
    Ok(reports.into_iter().map(held).collect())
}

/// Takes a report out of its page. Its bytes are copied: those of a decoded message are parts of it, so a short proof
/// that is held would keep a page of 25 MiB.
fn held(report: pb::MisbehaviorReport) -> FiledReport {
    let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    FiledReport {
        report: own(&report.unsigned_misbehavior_report),
        host_signature: report.signature.map(|signature| own(&signature.bytes)),
        host: None,
        server_time_ns: Some(report.server_time_ns),
    }
}

/// The most that is read of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadMost {
    pub(crate) reports: usize,
    pub(crate) len_bytes: usize,
}

/// Passes the reports that a node stored after `after_ns` to `take`, page by page, so that the caller holds one page.
///
/// # Errors
/// When the node does not answer, or its answers do not end, and the errors of `take`. Earlier pages have been passed
/// to `take` by then.
pub(crate) async fn each_page(
    (address, from): (&str, AddressFrom),
    after_ns: u64,
    most: ReadMost,
    mut take: impl AsyncFnMut(Vec<FiledReport>) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let mut api = connect_to(address, from).await?;
    let (mut after, mut reports, mut len_bytes) = (after_ns, 0, 0_usize);
    loop {
        let page = page(&mut api, after).await?;
        let Some(last) = page.last().and_then(|it| it.server_time_ns) else { return Ok(()) };
        if last <= after {
            return Err(RunError::failed(format!(
                "{address}: the node sent its reports out of order"
            )));
        }
        after = last;
        reports += page.len();
        len_bytes += page.iter().map(|it| it.report.len()).sum::<usize>();
        take(page).await?;
        if reports > most.reports || len_bytes > most.len_bytes {
            return Err(RunError::failed(format!(
                "{address}: the node has more reports than one run reads"
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;

    use super::*;

    /// A lying node could send a page for each proof against itself that an auditor holds until the end.
    #[test]
    fn a_report_that_is_held_keeps_nothing_of_its_page() {
        let page = Bytes::from(vec![7; 1_000]);
        let report = pb::MisbehaviorReport {
            server_time_ns: 5,
            unsigned_misbehavior_report: page.slice(..10),
            signature: Some(RecoverableEcdsaSignature { bytes: page.slice(10..75) }),
        };
        assert!(!page.is_unique(), "a decoded report is a part of its message");
        let held = held(report);
        assert!(page.is_unique(), "nothing that is held refers to the page");
        assert_eq!((held.report.len(), held.host_signature.unwrap().len()), (10, 65));
    }
}
