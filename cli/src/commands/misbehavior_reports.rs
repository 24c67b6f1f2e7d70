//! `hawser misbehavior show|submit|export`: the reports that a node keeps, over its API.

use std::time::Duration;

use hawser_audit::Judged;
use hawser_audit::evidence_file::{FILE_LEN_BYTES_MAX, FiledReport};
use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;
use prost::Message as _;

use super::audit::{load_keys, read_file, reports};
use super::misbehavior_pages::{Trees, trees};
use crate::args::audit::{MisbehaviorExportArgs, MisbehaviorShowArgs, MisbehaviorSubmitArgs};
use crate::{client, output, output_file};

/// The number of attempts to submit one report, and the longest pause between two, in seconds. Guesses: a node takes
/// some reports a minute of one address.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE_S_MAX: u64 = 60;

/// Shows one report with its judgement.
///
/// # Errors
/// When the node does not keep it.
pub(super) async fn show(args: MisbehaviorShowArgs, as_json: bool) -> Result<(), RunError> {
    let keys = load_keys(&args.keys, None)?;
    let mut api = reports::connect(&args.node).await?;
    let after_ns = args.server_time_ns.saturating_sub(1);
    let page = reports::page(&mut api, after_ns).await?;
    let wanted = Some(args.server_time_ns);
    let Some(held) = page.into_iter().find(|it| it.server_time_ns == wanted) else {
        let time = args.server_time_ns;
        return Err(RunError::not_found(format!("the node keeps no report of time {time}")));
    };
    let judged = Judged::new(held, &keys.known);
    match as_json {
        true => output::line(judged.to_json()),
        false => {
            output::line(&judged);
            let rates = keys.rates_to_give(&judged.judgement.missing);
            rates.into_iter().for_each(|rates| output::line(format_args!("rates: {rates}")));
        }
    }
    Ok(())
}

/// Submits each report of an evidence file. One that the node refuses does not stop the next ones. Evidence on signed
/// trees is named, because no report can carry it.
///
/// # Errors
/// When the file has no report, or the node refuses one, with the kind of its first refusal, or is not reached.
pub(super) async fn submit(args: MisbehaviorSubmitArgs, as_json: bool) -> Result<(), RunError> {
    let file = read_file(&args.file)?;
    let held = file.held().map_err(RunError::failed)?;
    if !file.trees.is_empty() {
        output::note(format_args!(
            "hawser: not submitted, because no report can carry it: {} on signed trees",
            output::count(file.trees.len(), "piece")
        ));
    }
    if held.is_empty() {
        return Err(RunError::not_found("the file has no report to submit"));
    }
    let mut api = reports::connect(&args.node).await?;
    let (mut submitted, mut refused) = (0, Vec::new());
    for (number, held) in (1..).zip(held) {
        match submit_one(&mut api, held).await {
            Ok(()) => submitted += 1,
            Err(error) => refused.push((number, error)),
        }
    }
    if as_json {
        let refused = refused.iter().map(
            |(number, error)| serde_json::json!({ "report": number, "error": error.to_string() }),
        );
        let refused: Vec<_> = refused.collect();
        output::line(serde_json::json!({ "submitted": submitted, "refused": refused }));
    } else {
        output::line(format_args!("submitted {}", output::count(submitted, "report")));
    }
    let count = refused.len();
    let Some((number, first)) = refused.into_iter().next() else { return Ok(()) };
    let of =
        if count == 1 { String::new() } else { format!(", the first of {count} refused ones") };
    Err(first.while_doing(format!("report {number}{of}")))
}

/// Submits a report, and again while the node asks for a pause, at most [`ATTEMPTS_MAX`] times.
async fn submit_one(
    api: &mut MisbehaviorApiClient<CheckedChannel>,
    held: FiledReport,
) -> Result<(), RunError> {
    let report = pb::UnsignedMisbehaviorReport::decode(held.report).map_err(RunError::failed)?;
    // It is in the submitter's name now.
    let report = pb::UnsignedMisbehaviorReport { submitted_by_node: false, ..report };
    let request = pb::SubmitMisbehaviorReportRequest { report: Some(report) };
    let mut attempts = 1;
    loop {
        let submitted = client::whole(api.submit_misbehavior_report(request.clone())).await;
        let Err(status) = submitted else { return Ok(()) };
        let pause = status.metadata().get("retry-after");
        let pause_s = pause.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let Some(pause_s) = pause_s.filter(|it| attempts < ATTEMPTS_MAX && *it <= PAUSE_S_MAX)
        else {
            return Err(client::failure(&status));
        };
        attempts += 1;
        tokio::time::sleep(Duration::from_secs(pause_s.max(1))).await;
    }
}

/// Writes an evidence file of the reports that a node keeps.
///
/// # Errors
/// When the node does not answer, the file would be longer than one that is read, or the file exists.
pub(super) async fn export(args: MisbehaviorExportArgs, as_json: bool) -> Result<(), RunError> {
    let keys = load_keys(&args.keys, None)?;
    let mut api = reports::connect(&args.node).await?;
    // One page: an evidence file has as many reports as an answer.
    let held = reports::page(&mut api, args.after).await?;
    let count = held.len();
    let last = held.last().and_then(|it| it.server_time_ns);
    let has_more = match last {
        Some(last) => !reports::page(&mut api, last).await?.is_empty(),
        None => false,
    };
    let tool = concat!("hawser ", env!("CARGO_PKG_VERSION"));
    let Trees { found: trees, left_out, unknown } = match &args.metrics {
        Some(metrics) => trees(metrics).await?,
        None => Trees::default(),
    };
    let mut file = Judged::file(tool, &held, &trees, &keys.known);
    file.registry_source = keys.source;
    let text = serde_json::to_string_pretty(&file).map_err(RunError::failed)?;
    if text.len() > FILE_LEN_BYTES_MAX {
        let len_bytes = text.len();
        let text = format!(
            "the file would have {len_bytes} bytes, and at most {FILE_LEN_BYTES_MAX} are read"
        );
        return Err(RunError::failed(text));
    }
    let Some(path) = &args.out else {
        output::line(text);
        // The output is the file.
        notes(left_out, unknown, last.filter(|_| has_more)).into_iter().for_each(output::note);
        return Ok(());
    };
    output_file::write_new(path, text.as_bytes())?;
    match as_json {
        true => output::line(serde_json::json!({
            "reports": count, "trees": trees.len(), "trees_left_out": left_out, "trees_unknown": unknown,
            "last": last, "has_more": has_more,
        })),
        false => {
            let path = path.display();
            let trees = match trees.len() {
                0 => String::new(),
                count => format!(", {count} on signed trees"),
            };
            output::line(format_args!("{path}: {}{trees}", output::count(count, "report")));
            notes(left_out, unknown, last.filter(|_| has_more)).into_iter().for_each(output::line);
        }
    }
    Ok(())
}

/// Returns notes about evidence that the file lacks: the numbers of pieces on signed trees that did not fit and of
/// unknown ones, and the time of the last report if the node keeps later ones.
fn notes(left_out: u64, unknown: u64, last: Option<u64>) -> Vec<String> {
    let trees =
        format!("left out, because a file has no room for more: {left_out} on signed trees");
    let others = format!("left out, because this version does not know their faults: {unknown}");
    let reports = |last| format!("the node keeps later reports: export them with --after {last}");
    let trees = (left_out > 0).then_some(trees);
    let others = (unknown > 0).then_some(others);
    trees.into_iter().chain(others).chain(last.map(reports)).collect()
}
