//! `hawser report`: payer reports as a running node sees them, and its work on them.

use hawser_node::admin::{self, AdminRequest, PayerReportStep};
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::settings;
use serde_json::Value;

use super::audit::INCOMPLETE_EXIT_CODE;
use crate::args::report::{ReportCommand, ReportIdArgs, ReportNodeArgs, ReportStepArgs};
use crate::{client, output};

/// Runs the command.
///
/// # Errors
/// When the node does not answer, does not know the report, or computes another one.
pub(super) async fn run(command: ReportCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ReportCommand::List(args) => list(&args, as_json).await,
        ReportCommand::Show(args) => show(&args, as_json).await,
        ReportCommand::Explain(args) => explain(&args, as_json).await,
        ReportCommand::Generate(args) => take(PayerReportStep::Generate, &args, as_json),
        ReportCommand::Attest(args) => take(PayerReportStep::Attest, &args, as_json),
        ReportCommand::Submit(args) => take(PayerReportStep::Submit, &args, as_json),
        ReportCommand::Settle(args) => take(PayerReportStep::Settle, &args, as_json),
    }
}

/// Asks a running node to take a step, and prints the outcome for each report.
fn take(step: PayerReportStep, args: &ReportStepArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let ReportStepArgs { about, dry_run, .. } = *args;
    let request = AdminRequest::PayerReports { step, about, dry_run };
    let Some(done) = admin::ask(&data_dir, &request, &mut |_| ())? else {
        return Err(RunError::not_found(format!("no node runs on {}", data_dir.display())));
    };
    if as_json {
        output::line(&done);
    } else {
        for outcome in rows(&done, "outcomes") {
            let report = outcome["report"].as_str().map_or_else(String::new, |id| format!(" {id}"));
            output::line(format_args!(
                "{:<7} originator {}{report}: {}",
                text(outcome, "state"),
                outcome["originator_id"],
                text(outcome, "detail"),
            ));
        }
        if rows(&done, "outcomes").next().is_none() {
            output::line("there is no report for this step");
        }
    }
    let count =
        |state: &str| rows(&done, "outcomes").filter(|it| text(it, "state") == state).count();
    match (count("failed"), count("refused")) {
        (0, 0) => Ok(()),
        (0, refused) => Err(RunError::refused(format!(
            "{refused} reports differ from those that this node computes"
        ))),
        (failed, _) => Err(RunError::failed(format!(
            "{failed} steps failed: see their reasons above, and run the command \
                again"
        ))),
    }
}

async fn list(args: &ReportNodeArgs, as_json: bool) -> Result<(), RunError> {
    let reports = ask(args, "").await?;
    let rows = reports.as_array().map(Vec::as_slice).unwrap_or_default();
    for report in rows {
        match as_json {
            true => output::line(report),
            false => print(report),
        }
    }
    if rows.is_empty() && !as_json {
        output::line("there are no payer reports");
    }
    Ok(())
}

async fn show(args: &ReportIdArgs, as_json: bool) -> Result<(), RunError> {
    let report = one(args).await?;
    if as_json {
        output::line(&report);
        return Ok(());
    }
    print(&report);
    if report["compared"] == true && report["equal"] == false {
        output::line("  this node's own amounts:");
    }
    for payer in rows(&report, "payers") {
        output::line(format_args!(
            "  {}: {} p$, {} µ$ when settled",
            text(payer, "payer"),
            payer["picodollars"],
            payer["settled_microdollars"]
        ));
    }
    print_more(&report, "payers");
    Ok(())
}

async fn explain(args: &ReportIdArgs, as_json: bool) -> Result<(), RunError> {
    let report = one(args).await?;
    if as_json {
        output::line(&report);
    } else {
        print(&report);
        for row in rows(&report, "minutes") {
            output::line(format_args!(
                "  minute {}, payer {}: {} p$ by the rates, {} p$ charged, up to envelope {}",
                row["minute"],
                text(row, "payer"),
                row["own_picodollars"],
                row["stated_picodollars"],
                row["last_sequence_id"]
            ));
        }
        print_more(&report, "minutes");
        for envelope in rows(&report, "envelopes") {
            output::line(format_args!("  envelope {}:{envelope}", report["originator_id"]));
        }
        print_more(&report, "envelopes");
    }
    verdict(&report)
}

/// Returns the verdict of an explained report, with its exit code.
fn verdict(report: &Value) -> Result<(), RunError> {
    match (report["compared"].as_bool(), report["equal"].as_bool()) {
        (Some(true), Some(true)) => Ok(()),
        (Some(true), _) => Err(RunError::refused("this node computes another report")),
        _ => Err(RunError {
            kind: RunErrorKind::Answer(INCOMPLETE_EXIT_CODE),
            text: "this node cannot compute the report yet, so nothing was compared".to_owned(),
        }),
    }
}

/// Prints how many rows of a list are not shown.
fn print_more(report: &Value, list: &str) {
    let total = report[format!("{list}_total")].as_u64().unwrap_or(0);
    let more = total.saturating_sub(rows(report, list).count() as u64);
    if more > 0 {
        output::line(format_args!("  and {more} more {list}"));
    }
}

async fn one(args: &ReportIdArgs) -> Result<Value, RunError> {
    let is_id = args.id.chars().all(|letter| letter.is_ascii_alphanumeric());
    if !is_id {
        return Err(RunError::usage("a report id must have 64 hex digits, with or without 0x"));
    }
    ask(&args.node, &format!("?id={}", args.id)).await
}

/// Asks the node's page on payer reports.
pub(super) async fn ask(args: &ReportNodeArgs, query: &str) -> Result<Value, RunError> {
    let metrics = match &args.metrics {
        Some(metrics) => metrics.clone(),
        None => settings::metrics_address(&args.sources()).map_err(RunError::usage)?.to_string(),
    };
    let path = format!("/payer-reports{query}");
    let answer = client::page(&metrics, &path).await?;
    match answer.status {
        200 => {}
        404 => return Err(RunError::not_found(format!("{metrics}: {}", answer.body.trim()))),
        status => {
            let body = answer.body.trim();
            return Err(RunError::failed(format!("{metrics}: status {status}: {body}")));
        }
    }
    serde_json::from_str(&answer.body).map_err(|error| {
        RunError::failed(format!("{metrics}: the answer does not parse as payer reports: {error}"))
    })
}

fn print(report: &Value) {
    output::line(format_args!(
        "{}: originator {}, {} to {}, minute {}: {}",
        text(report, "id"),
        report["originator_id"],
        report["start_sequence_id"],
        report["end_sequence_id"],
        report["end_minute"],
        text(report, "state"),
    ));
    output::line(format_args!(
        "  written by {}, attested by {} of {} needed; {} leaves settled, {} µ$",
        report["written_by"],
        rows(report, "attested_by").count(),
        report["attestations_needed"],
        report["leaves_settled"],
        report["settled_microdollars"],
    ));
    for reason in rows(report, "reasons") {
        output::line(format_args!("  {}", reason.as_str().unwrap_or_default()));
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("?")
}

fn rows<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A script cannot take a report that was not compared for an equal one.
    #[test]
    fn each_verdict_has_its_exit_code() {
        let kind = |compared, equal| {
            verdict(&json!({ "compared": compared, "equal": equal })).map_err(|error| error.kind)
        };
        assert_eq!(kind(true, true), Ok(()));
        assert_eq!(kind(true, false), Err(RunErrorKind::Refused));
        let unknown = RunErrorKind::Answer(INCOMPLETE_EXIT_CODE);
        assert_eq!(kind(false, false), Err(unknown));
        assert_eq!(verdict(&json!({})).map_err(|error| error.kind), Err(unknown));
    }
}
