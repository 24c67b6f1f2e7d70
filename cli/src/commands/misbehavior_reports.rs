//! `hawser misbehavior show|submit|export`: the reports that a node keeps, over its API.

use std::io::Write as _;

use hawser_audit::Judged;
use hawser_audit::file::FILE_LEN_BYTES_MAX;
use hawser_node::error::RunError;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use prost::Message as _;

use super::audit::{load_keys, read_file, reports};
use super::misbehavior_pages::{Trees, trees};
use crate::args::audit::{MisbehaviorExportArgs, MisbehaviorShowArgs, MisbehaviorSubmitArgs};
use crate::{client, output};

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

/// Submits each report of an evidence file.
///
/// # Errors
/// When the node refuses one.
pub(super) async fn submit(args: MisbehaviorSubmitArgs, as_json: bool) -> Result<(), RunError> {
    let held = read_file(&args.file)?.held().map_err(RunError::failed)?;
    let mut api = reports::connect(&args.node).await?;
    let count = held.len();
    for (number, held) in held.into_iter().enumerate() {
        let wrong = |error| RunError::failed(format!("report {}: {error}", number + 1));
        let report = pb::UnsignedMisbehaviorReport::decode(held.report).map_err(wrong)?;
        // It is in the submitter's name now.
        let report = pb::UnsignedMisbehaviorReport { submitted_by_node: false, ..report };
        let request = pb::SubmitMisbehaviorReportRequest { report: Some(report) };
        api.submit_misbehavior_report(request).await.map_err(|status| {
            client::failure(&status).while_doing(format!("report {}", number + 1))
        })?;
    }
    match as_json {
        true => output::line(serde_json::json!({ "submitted": count })),
        false => output::line(format_args!("submitted {}", output::count(count, "report"))),
    }
    Ok(())
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
    let tool = concat!("hawser ", env!("CARGO_PKG_VERSION"));
    let Trees { found: trees, left_out } = match &args.metrics {
        Some(metrics) => trees(metrics).await?,
        None => Trees::default(),
    };
    let file = Judged::file(tool, &held, &trees, &keys.known);
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
        if left_out > 0 {
            // The output is the file. A failing error output cannot be reported anywhere.
            let _ = writeln!(std::io::stderr(), "{}", without(left_out));
        }
        return Ok(());
    };
    let fail = |error: std::io::Error| RunError::failed(format!("{}: {error}", path.display()));
    let mut out = std::fs::File::create_new(path).map_err(fail)?;
    out.write_all(text.as_bytes()).map_err(fail)?;
    match as_json {
        true => output::line(serde_json::json!({
            "reports": count, "trees": trees.len(), "trees_left_out": left_out, "last": last,
        })),
        false => {
            let path = path.display();
            let trees = match trees.len() {
                0 => String::new(),
                count => format!(", {count} on signed trees"),
            };
            output::line(format_args!("{path}: {}{trees}", output::count(count, "report")));
            if left_out > 0 {
                output::line(without(left_out));
            }
        }
    }
    Ok(())
}

/// Says how much evidence on signed trees the file lacks.
fn without(left_out: u64) -> String {
    format!("left out, because a file has no room for more: {left_out} on signed trees")
}
