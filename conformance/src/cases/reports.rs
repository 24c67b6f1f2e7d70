//! Reports of misbehaviour: refused, stored and returned. Operators may switch the service off, and other software has
//! none.

use std::time::{SystemTime, UNIX_EPOCH};

use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::sign::keccak256;
use hawser_proto::{PublicKey, Signature};
use prost::Message as _;
use tonic::{Code, Status};

use crate::case::Need::{Load, Payer};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, optional, refused, same};
use crate::connection::MISBEHAVIOR_API;
use crate::context::{JudgedNodes, parse_envelope};
use crate::envelopes::new_group;

const AREA: Area = Area::Security;
const API: &str = "docs/protocol/misbehavior.md#the-api";
/// The maximum number of pages of reports that are read. A guess: a node keeps 50,000 reports about each other node.
const PAGES_MAX: usize = 200;
/// A node that no network has. A guess: registries count from small numbers up.
const NO_NODE: u32 = 4_000_000_001;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "reports-without-substance-are-refused",
        "a report of misbehaviour without content, of no kind, in another's name or about a node \
         that never was is refused",
        API,
        |c| Box::pin(refusals(c)),
    ),
    Case::new(
        AREA,
        "reports-ascend",
        "reports of misbehaviour come by the node's times, which are unique, and the last time is \
         where the next page begins",
        API,
        |c| Box::pin(ascending(c)),
    ),
    Case::new(
        AREA,
        "a-report-is-kept",
        "a report of misbehaviour that is taken is handed out with the node's signature",
        API,
        |c| Box::pin(kept(c)),
    )
    .needs(&[Payer, Load]),
];

/// A client's report that a node did not answer a query.
fn unanswered(node: u32) -> api::UnsignedMisbehaviorReport {
    use api::liveness_failure::Request;
    use api::unsigned_misbehavior_report::Failure as Content;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let query = api::EnvelopesQuery { topics: vec![new_group()], ..Default::default() };
    let request = api::QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let failure =
        api::LivenessFailure { response_time_ns: u32::MAX, request: Some(Request::Query(request)) };
    api::UnsignedMisbehaviorReport {
        reporter_time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        misbehaving_node_id: node,
        r#type: api::Misbehavior::UnresponsiveNode.into(),
        failure: Some(Content::Liveness(failure)),
        submitted_by_node: false,
    }
}

async fn submit(
    c: &JudgedNodes,
    report: Option<api::UnsignedMisbehaviorReport>,
) -> Result<api::SubmitMisbehaviorReportResponse, Status> {
    let path = format!("{MISBEHAVIOR_API}/SubmitMisbehaviorReport");
    c.target.unary(&path, api::SubmitMisbehaviorReportRequest { report }).await
}

async fn reports_after(c: &JudgedNodes, after_ns: u64) -> Checked<Vec<api::MisbehaviorReport>> {
    let path = format!("{MISBEHAVIOR_API}/QueryMisbehaviorReports");
    let request = api::QueryMisbehaviorReportsRequest { after_ns };
    let answer = c.target.unary::<_, api::QueryMisbehaviorReportsResponse>(&path, request).await;
    Ok(optional("MisbehaviorApi", answer)?.reports)
}

async fn refusals(c: &JudgedNodes) -> Checked {
    // Skips the case before the first submission if the node does not offer the service.
    reports_after(c, u64::MAX).await?;
    let report = || unanswered(NO_NODE);
    let of_no_kind = api::UnsignedMisbehaviorReport { r#type: 0, ..report() };
    let by_node = api::UnsignedMisbehaviorReport { submitted_by_node: true, ..report() };
    let without = api::UnsignedMisbehaviorReport { failure: None, ..report() };
    for (what, report) in [
        ("no report", None),
        ("a report of no kind", Some(of_no_kind)),
        ("a report in the name of a node", Some(by_node)),
        ("a report without content", Some(without)),
        ("a report about a node that never was", Some(report())),
    ] {
        refused(what, submit(c, report).await, Code::InvalidArgument, "")?;
    }
    Ok(())
}

/// Reads every report and gives each to `look`.
async fn each(
    c: &JudgedNodes,
    mut look: impl FnMut(&api::MisbehaviorReport) -> Checked,
) -> Checked {
    let mut after_ns = 0;
    for _ in 0..PAGES_MAX {
        let page = reports_after(c, after_ns).await?;
        for report in &page {
            ensure(
                report.server_time_ns > after_ns,
                format_args!("times above {after_ns}"),
                || report.server_time_ns.to_string(),
            )?;
            after_ns = report.server_time_ns;
            look(report)?;
        }
        if page.is_empty() {
            return Ok(());
        }
    }
    Err(CaseError::new("an end of the reports", format_args!("none after {PAGES_MAX} pages")))
}

fn signer(report: &api::MisbehaviorReport) -> Checked<PublicKey> {
    let bytes = report.signature.as_ref().map(|it| it.bytes.clone()).unwrap_or_default();
    let digest = keccak256(&[b"misbehavior|", &report.unsigned_misbehavior_report]);
    let recovered = Signature::from_bytes(&bytes).and_then(|it| it.recover(digest));
    recovered
        .map_err(|error| CaseError::new("a signature of the node that keeps the report", error))
}

async fn ascending(c: &JudgedNodes) -> Checked {
    each(c, |report| signer(report).map(|_| ())).await
}

async fn kept(c: &JudgedNodes) -> Checked {
    reports_after(c, u64::MAX).await?;
    let envelope = parse_envelope(&c.send(&new_group(), 1).await?[0])?;
    let key = envelope.recover_originator();
    let key = key.map_err(|error| CaseError::new("a signature of the originator", error))?;
    let report = unanswered(c.node()?.0);
    submit(c, Some(report.clone())).await?;
    let mut found = Vec::new();
    each(c, |each| {
        let bytes = each.unsigned_misbehavior_report.clone();
        if api::UnsignedMisbehaviorReport::decode(bytes).is_ok_and(|it| it == report) {
            found.push(signer(each)?);
        }
        Ok(())
    })
    .await?;
    same("signers of the submitted report", &key.into_iter().collect::<Vec<_>>(), &found)
}
