//! The pages at `/payer-reports`: payer reports and this node's view of them, for operators. Amounts are text: many
//! programs read numbers as doubles, which have 53 bits.

use hawser_engine::runtime::{PayerReporter, ReportExplained, ReportList, ReportState, ReportView};
use hawser_proto::price::SettledAmount;
use hawser_proto::{OriginatorId, PayerAddress};
use hawser_serve::pages::{Page, json, parameter, plain};
use http::StatusCode;
use serde::Serialize;

/// Largest number of leaves and of minutes on the page of a report. A guess: a few MB.
const ROWS_MAX: usize = 10_000;

/// One report.
#[derive(Debug, Serialize)]
struct ReportRow {
    id: String,
    originator_id: u32,
    start_sequence_id: u64,
    end_sequence_id: u64,
    end_minute: u32,
    root: String,
    node_ids: Vec<u32>,
    written_by: Vec<u32>,
    attested_by: Vec<u32>,
    attestations_needed: usize,
    /// `attested`, `equal`, `refused`, `waiting`, `submitted` or `settled`.
    state: &'static str,
    /// The reasons why it is refused or waits.
    reasons: Vec<String>,
    index: Option<u64>,
    leaves_settled: u64,
    settled_microdollars: String,
}

/// A report compared with this node's figures.
#[derive(Debug, Serialize)]
struct ExplainedPage {
    #[serde(flatten)]
    report: ReportRow,
    /// True if the report could be compared with this node's figures.
    compared: bool,
    /// True if this node computes the same report.
    equal: bool,
    /// The number of payers by this node's figures.
    payers_total: usize,
    /// This node's amounts, by payer, the first ones. Empty if the report could not be compared.
    payers: Vec<PayerRow>,
    /// The number of the minutes of payers at fault.
    minutes_total: usize,
    /// Minutes of payers that the cause of other amounts is about, the first ones.
    minutes: Vec<MinuteRow>,
    /// The number of the envelopes at fault that are known.
    envelopes_total: usize,
    /// Sequence ids of the envelopes at fault, the first ones.
    envelopes: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct PayerRow {
    payer: String,
    picodollars: String,
    settled_microdollars: String,
}

#[derive(Debug, Serialize)]
struct MinuteRow {
    minute: u32,
    payer: String,
    own_picodollars: String,
    stated_picodollars: String,
    last_sequence_id: u64,
}

#[derive(Debug, Serialize)]
struct UsagePage {
    payer: String,
    unsettled_picodollars: String,
    settled_picodollars: String,
    envelopes: u64,
    balance_picodollars: String,
    available_picodollars: String,
}

/// Returns the page: all reports, or the report of `id=`, or the usage of the payer of `payer=`.
pub(crate) fn page(reporter: Option<&PayerReporter>, query: &str) -> Page {
    let Some(reporter) = reporter else {
        let text = "this node does not work on payer reports: see --payer-report.enable, and the address of \
                    PayerReportManager\n";
        return plain(StatusCode::NOT_FOUND, text);
    };
    let shown = match (parameter(query, "id"), parameter(query, "payer")) {
        (Some(id), _) => explained(reporter, id),
        (None, Some(payer)) => match payer.parse() {
            Ok(payer) => usage(reporter, payer),
            Err(_) => return plain(StatusCode::BAD_REQUEST, "payer is an address\n"),
        },
        (None, None) => reporter.reports().map(|list| json(StatusCode::OK, &listed(list))),
    };
    shown.unwrap_or_else(|error| {
        json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": error.to_string() }))
    })
}

/// Returns the rows of the list. An originator about which reports cannot be read has one in the state `unreadable`, so
/// that no reader takes the list for whole.
fn listed(list: ReportList) -> Vec<serde_json::Value> {
    let views = list.views.into_iter().map(|view| serde_json::json!(ReportRow::of(view)));
    let unread = list.unread.into_iter().map(|(about, error)| {
        serde_json::json!({
            "originator_id": about.0,
            "state": "unreadable",
            "reasons": [error.to_string()],
        })
    });
    views.chain(unread).collect()
}

/// A page, or the error with which the reporter could not make one.
type ReportPageResult = Result<Page, hawser_engine::runtime::ReportStepError>;

fn explained(reporter: &PayerReporter, id: &str) -> ReportPageResult {
    let Some(explained) = reporter.explain(id)? else {
        return Ok(plain(StatusCode::NOT_FOUND, "there is no such report here\n"));
    };
    Ok(json(StatusCode::OK, &ExplainedPage::of(explained)))
}

fn usage(reporter: &PayerReporter, payer: PayerAddress) -> ReportPageResult {
    let usage = reporter.usage_of(payer)?;
    let page = UsagePage {
        payer: payer.to_string(),
        unsettled_picodollars: usage.unsettled.0.to_string(),
        settled_picodollars: usage.settled.0.to_string(),
        envelopes: usage.envelopes,
        balance_picodollars: usage.balance.0.to_string(),
        available_picodollars: usage.available.0.to_string(),
    };
    Ok(json(StatusCode::OK, &page))
}

impl ExplainedPage {
    fn of(explained: ReportExplained) -> Self {
        let (equal, reasons) = (explained.is_equal(), explained.reasons());
        let ReportExplained { view, compared, waits_for } = explained;
        let is_compared = waits_for.is_none();
        let leaves = compared.leaves.unwrap_or_default();
        let payers = leaves.payers().iter().take(ROWS_MAX).map(|leaf| PayerRow {
            payer: leaf.payer.to_string(),
            picodollars: leaf.fee.get().to_string(),
            settled_microdollars: leaf.fee.settled().0.to_string(),
        });
        let minutes = compared.minutes.iter().take(ROWS_MAX).map(|row| MinuteRow {
            minute: row.minute,
            payer: row.payer.to_string(),
            own_picodollars: row.own.0.to_string(),
            stated_picodollars: row.stated.0.to_string(),
            last_sequence_id: row.last.0,
        });
        let envelopes = compared.envelopes.iter().take(ROWS_MAX).map(|sequence| sequence.0);
        let report = ReportRow { reasons, ..ReportRow::of(view) };
        Self {
            compared: is_compared,
            equal,
            payers_total: leaves.payers().len(),
            payers: payers.collect(),
            minutes_total: compared.minutes.len(),
            minutes: minutes.collect(),
            envelopes_total: compared.envelopes.len(),
            envelopes: envelopes.collect(),
            report,
        }
    }
}

impl ReportRow {
    fn of(view: ReportView) -> Self {
        let ids = |nodes: Vec<OriginatorId>| nodes.into_iter().map(|node| node.0).collect();
        let ReportView { id, report, writers, attested_by, state } = view;
        let (mut reasons, mut on_chain) = (Vec::new(), (None, 0, SettledAmount(0)));
        let state = match state {
            ReportState::Attested => "attested",
            ReportState::Equal => "equal",
            ReportState::Refused(differences) => {
                reasons = differences.iter().map(ToString::to_string).collect();
                "refused"
            }
            ReportState::Waiting(why) => {
                reasons.push(why);
                "waiting"
            }
            ReportState::OnChain { index, leaves_settled, settled, is_settled } => {
                on_chain = (Some(index), leaves_settled, settled);
                if is_settled { "settled" } else { "submitted" }
            }
        };
        let (index, leaves_settled, settled_microdollars) = on_chain;
        Self {
            id: id.to_string(),
            originator_id: report.originator().0,
            start_sequence_id: report.start().0,
            end_sequence_id: report.end().sequence.0,
            end_minute: report.end().minute,
            root: format!("0x{}", hex::encode(report.root())),
            node_ids: report.nodes().numbers(),
            written_by: ids(writers),
            attested_by: ids(attested_by),
            attestations_needed: report.nodes().majority(),
            state,
            reasons,
            index,
            leaves_settled,
            settled_microdollars: settled_microdollars.0.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::runtime::ReportStepError;
    use hawser_proto::SequenceId;
    use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd, ReportId};

    use super::*;

    /// A reader of the list sees that it is not whole, and whose reports are left out.
    #[test]
    fn an_originator_that_cannot_be_read_is_named_beside_the_reports_about_others() {
        let end = RangeEnd { minute: 5, sequence: SequenceId(9) };
        let nodes = NodeIds::new([OriginatorId(100)]).unwrap();
        let report =
            PayerReport::new(OriginatorId(100), SequenceId::NONE, end, [7; 32], nodes).unwrap();
        let view = ReportView {
            id: ReportId([1; 32]),
            report,
            writers: Vec::new(),
            attested_by: Vec::new(),
            state: ReportState::Equal,
        };
        let unread = vec![(OriginatorId(200), ReportStepError::NoBalances)];
        let rows = listed(ReportList { views: vec![view], unread });
        assert!(rows[0]["originator_id"] == 100 && rows[0]["state"] == "equal", "{rows:?}");
        let named = serde_json::json!({
            "originator_id": 200,
            "state": "unreadable",
            "reasons": [ReportStepError::NoBalances.to_string()],
        });
        assert_eq!((rows.len(), &rows[1]), (2, &named));
    }
}
