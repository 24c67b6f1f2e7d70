//! `hawser conformance`: judges a node by its answers.

use std::io::{self, IsTerminal as _};

use hawser_conformance::{
    Case, CaseResult, Need, Outcome, RestartCommands, SuitePlan, SuiteReport, SuiteStartError,
};
use hawser_node::error::RunError;
use hawser_node::files::{self, key};
use serde_json::json;

use crate::args::conformance::{ConformanceArgs, ConformanceFormat};
use crate::network_file::NetworkFile;
use crate::{client, exit_codes, output, output_file};

/// Runs the command.
///
/// # Errors
/// When arguments are wrong, a node cannot be reached, or a case fails.
pub(super) async fn run(args: ConformanceArgs, as_json: bool) -> Result<(), RunError> {
    let plan = plan(&args)?;
    if args.list {
        return list(&plan, as_json);
    }
    let default = if as_json { ConformanceFormat::Json } else { ConformanceFormat::Text };
    let format = args.format.unwrap_or(default);
    // The result alone goes to the standard output when a program reads it from there.
    let progress = Progress {
        on: format == ConformanceFormat::Text || args.out.is_some(),
        colours: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let report = hawser_conformance::run(&plan, |result| progress.print(result)).await;
    let report = report.map_err(refusal)?;
    let result = match format {
        ConformanceFormat::Text => text(&report),
        ConformanceFormat::Json => report.json().to_string(),
        ConformanceFormat::Junit => report.junit().trim_end().to_owned(),
    };
    if let Some(path) = &args.out {
        let written = output_file::write(path, format!("{result}\n").as_bytes());
        // The run has taken minutes and left its traces on the node: a full disk must not take the result away, too.
        output::line(if written.is_ok() { text(&report) } else { result });
        written?;
    } else {
        output::line(result);
    }
    match report.counts(None).failed {
        0 => Ok(()),
        _ => Err(exit_codes::answer(exit_codes::FAULTS, "")),
    }
}

fn plan(args: &ConformanceArgs) -> Result<SuitePlan, RunError> {
    let payer = match &args.payer_key_file {
        Some(path) => Some(key::read(path).map_err(|error| error.at(path))?),
        None => None,
    };
    // A file that no connection needs may be one that cannot be read.
    let addresses = [&args.target, &args.second, &args.gateway];
    let has_tls = |address: &String| address.to_ascii_lowercase().starts_with("https://");
    let is_tls = addresses.into_iter().flatten().any(has_tls);
    let authorities = match is_tls && !args.list {
        true => client::authorities()?.map(hawser_proto::Bytes::from),
        false => None,
    };
    Ok(SuitePlan {
        target: args.target.clone().unwrap_or_default(),
        second: args.second.clone(),
        gateway: args.gateway.clone(),
        payer,
        node_id: args.node_id.or_else(|| known_id(args)).map(hawser_proto::OriginatorId),
        only: args.only.clone(),
        destructive: args.destructive,
        load: args.load,
        // Each of the arguments requires the other.
        restart: args.kill_command.clone().zip(args.start_command.clone()).map(restart),
        answer_timeout: args.answer_timeout,
        limit: args.limit,
        stream_topics: args.stream_topics,
        authorities,
    })
}

fn restart((kill, start): (String, String)) -> RestartCommands {
    RestartCommands { kill, start }
}

/// Returns the target's id by the files that describe the operator's own network. The target is not asked: a lying node
/// could name another one, which could then charge the payer for the envelopes that it signs.
fn known_id(args: &ConformanceArgs) -> Option<u32> {
    let target = args.target.as_deref()?;
    let beside = NetworkFile::beside(args.payer_key_file.as_deref()?);
    let files = [Some(beside), NetworkFile::of_current_folder()].into_iter().flatten();
    let mut networks = files.filter_map(|path| files::read(&path, NetworkFile::parse).ok());
    networks.find_map(|network| Some(network.node_at(target)?.node_id))
}

fn refusal(error: SuiteStartError) -> RunError {
    match error {
        SuiteStartError::Usage(text) => RunError::usage(text),
        SuiteStartError::Unreachable(text) => RunError::failed(text),
    }
}

fn list(plan: &SuitePlan, as_json: bool) -> Result<(), RunError> {
    for case in plan.selected().map_err(refusal)? {
        let needs: Vec<_> = case.needs.iter().copied().map(Need::argument).collect();
        if as_json {
            output::line(json!({
                "case": case.id,
                "area": case.area.name(),
                "rule": case.rule,
                "source": case.source,
                "needs": needs,
            }));
        } else {
            let Case { id, area, rule, source, .. } = case;
            output::line(format_args!("{:<12} {id}\n    {rule}\n    {source}", area.name()));
            if !needs.is_empty() {
                output::line(format_args!("    needs {}", needs.join(", ")));
            }
        }
    }
    Ok(())
}

/// Lines of cases, as they end.
struct Progress {
    on: bool,
    colours: bool,
}

impl Progress {
    fn print(&self, result: &CaseResult) {
        if !self.on {
            return;
        }
        let CaseResult { case, outcome, took } = result;
        let colour = match outcome {
            Outcome::Passed => "32",
            Outcome::Failed(_) => "31",
            Outcome::Finding(..) => "33",
            Outcome::Skipped(_) => "2",
        };
        let name = format!("{:<8}", outcome.name());
        let name = if self.colours { format!("\x1b[{colour}m{name}\x1b[0m") } else { name };
        let area = case.area.name();
        let took = took.as_millis();
        output::styled_line(format_args!("{name} {area:<12} {} ({took} ms)", case.id));
        if let Some(reason) = outcome.reason() {
            output::line(format_args!("         {reason}"));
        }
        if matches!(outcome, Outcome::Failed(_)) {
            output::line(format_args!("         rule: {} ({})", case.rule, case.source));
        }
    }
}

/// Returns the summary, and what the suite leaves behind.
fn text(report: &SuiteReport) -> String {
    let leaves = report.leaves(None).join("\n");
    format!("\n{}{leaves}", report.summary()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use hawser_conformance::cases;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ConformanceArgs,
    }

    /// Also where the result itself goes to a file: it is said on the terminal then.
    #[test]
    fn what_stays_on_the_node_is_said_if_a_case_has_published() {
        let said = |id: &str, outcome: Outcome| {
            let case = cases::all().find(|case| case.id == id).unwrap();
            let results = vec![CaseResult { case, outcome, took: Duration::ZERO }];
            let report = SuiteReport { target: String::new(), results, took: Duration::ZERO };
            text(&report)
        };
        let says = |id: &str, outcome: Outcome| {
            said(id, outcome).contains("stays on the node until its retention ends")
        };
        assert!(says("published-is-read-at-once", Outcome::Passed));
        assert!(says("gateway-publishes-for-its-users", Outcome::Passed));
        let skipped = Outcome::Skipped("needs --payer-key-file".to_owned());
        assert!(!says("published-is-read-at-once", skipped));
        assert!(!says("version-is-semantic", Outcome::Passed));
        for (id, left) in
            [("long-retentions-are-accepted", "one for ever"), ("a-report-is-kept", "for 30 days")]
        {
            assert!(said(id, Outcome::Passed).contains(left), "{id}");
            assert!(!said(id, Outcome::Skipped("needs --load".to_owned())).contains(left), "{id}");
        }
    }

    #[test]
    fn the_targets_id_is_that_of_the_payers_network_and_never_the_targets_word() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("payer.key");
        let of = |target: &str| {
            let words = ["it", "--target", target, "--payer-key-file", key.to_str().unwrap()];
            known_id(&Line::parse_from(words).args)
        };
        assert_eq!(of("127.0.0.1:5150"), None, "nothing describes the network");
        let text = r#"{"nodes":[{"node_id":200,"grpc":"127.0.0.1:5150","quic":"","metrics":"",
            "address":"","public_key":"","data_dir":"","pid":1}],"payer_key_file":""}"#;
        std::fs::write(folder.path().join("network.json"), text).unwrap();
        assert_eq!(of("http://localhost:5150"), Some(200));
        assert_eq!(of("127.0.0.1:5250"), None, "a node of another network");
    }
}
