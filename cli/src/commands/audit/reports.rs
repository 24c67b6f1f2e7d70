//! The reports that a node keeps, over its API.

use std::time::{Duration, Instant};

use hawser_audit::evidence_file::FiledReport;
use hawser_node::error::RunError;
use hawser_node::{AddressFrom, CheckedChannel};
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;

use crate::client;

/// The most that is read of one node, a page at a time. Guesses: strangers can have a node keep some hundred MiB of
/// reports that prove nothing for each accused node and class, and the answers of a lying node have no end. An hour is
/// enough for all bytes at 40 Mbit/s.
pub(super) const READ_MOST: ReadMost =
    ReadMost { reports: 1_000_000, len_bytes: 16 << 30, waited: Duration::from_secs(3600) };

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
    /// Time that the node takes for all pages together, without that of judging them.
    pub(crate) waited: Duration,
}

/// The part of a node's reports that was read.
#[derive(Debug, Default)]
struct ReadReports {
    reports: usize,
    len_bytes: usize,
    waited: Duration,
}

impl ReadReports {
    /// Adds a page for which the node took `waited`. Returns the reason why no further page is asked for, if there is
    /// one.
    fn add(
        &mut self,
        page: &[FiledReport],
        waited: Duration,
        most: ReadMost,
    ) -> Option<&'static str> {
        self.reports += page.len();
        self.len_bytes += page.iter().map(|it| it.report.len()).sum::<usize>();
        self.waited += waited;
        if self.reports > most.reports || self.len_bytes > most.len_bytes {
            return Some("the node has more reports than one run reads");
        }
        (self.waited > most.waited).then_some("the node takes too long for its reports")
    }
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
    let (mut after, mut read) = (after_ns, ReadReports::default());
    loop {
        let asked = Instant::now();
        let page = page(&mut api, after).await?;
        let waited = asked.elapsed();
        let Some(last) = page.last().and_then(|it| it.server_time_ns) else { return Ok(()) };
        if last <= after {
            return Err(RunError::failed(format!(
                "{address}: the node sent its reports out of order"
            )));
        }
        after = last;
        let reason = read.add(&page, waited, most);
        take(page).await?;
        if let Some(reason) = reason {
            return Err(RunError::failed(format!("{address}: {reason}")));
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

    /// A node that is audited with others could hold up their verdicts with a report every two minutes.
    #[test]
    fn a_node_that_takes_long_for_each_page_is_not_read_for_ever() {
        let report = FiledReport {
            report: Bytes::from_static(b"report"),
            host_signature: None,
            host: None,
            server_time_ns: Some(5),
        };
        let (page, minute) = ([report], Duration::from_secs(60));
        let most = ReadMost { reports: 100, len_bytes: 100, waited: 2 * minute };
        let mut read = ReadReports::default();
        let mut add = |waited| read.add(&page, waited, most);
        assert_eq!((add(minute), add(minute)), (None, None));
        assert_eq!(add(minute), Some("the node takes too long for its reports"));
        let mut read = ReadReports::default();
        let pages = (0..100).map(|_| read.add(&page, Duration::ZERO, most));
        let stopped_at = pages.take_while(Option::is_none).count();
        assert_eq!(stopped_at, 16, "17 pages have more than 100 bytes");
    }
}
