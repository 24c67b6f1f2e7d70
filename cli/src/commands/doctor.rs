//! `hawser doctor`: examines settings, machine, chains and the running process of a node.

use hawser_node::error::RunError;
use hawser_node::service::doctor::{self, CheckResult, DoctorCheck, ListeningProcess};
use hawser_node::settings::NodeServiceSettings;
use hawser_proto::OriginatorId;
use serde_json::{Value, json};

use super::checks;
use super::config::errors_of_files;
use crate::args::NodeArgs;
use crate::client::HttpError;
use crate::{client, output};

/// Runs the command. Succeeds when no check fails.
///
/// # Errors
/// When a check fails.
pub(super) async fn run(args: NodeArgs, as_json: bool) -> Result<(), RunError> {
    let all = match NodeServiceSettings::read(&args.sources()) {
        Err(error) => {
            let remedy =
                "docs/configuration.md; `hawser config print` shows where each value comes from";
            vec![DoctorCheck::failed("settings", error.to_string(), remedy)]
        }
        Ok(config) => examine(&config).await,
    };
    let count = |result| all.iter().filter(|it| it.result == result).count();
    let (failed, doubtful) = (count(CheckResult::Failed), count(CheckResult::Doubtful));
    if as_json {
        let checks: Vec<_> = all.iter().map(checks::as_value).collect();
        output::line(json!({ "checks": checks, "failed": failed, "warned": doubtful }));
    } else {
        all.iter().for_each(checks::print);
        output::line(format_args!(
            "{}, {failed} failed, {doubtful} to look at",
            output::count(all.len(), "check")
        ));
    }
    if failed == 0 { Ok(()) } else { Err(RunError::failed("")) }
}

async fn examine(config: &NodeServiceSettings) -> Vec<DoctorCheck> {
    let errors = errors_of_files(config);
    let mut all = vec![match errors.is_empty() {
        true => DoctorCheck::fine("settings", "a node can start with these settings"),
        false => {
            let remedy = "bring the files that the settings name, or name others";
            DoctorCheck::failed("settings", errors.join("; "), remedy)
        }
    }];
    let notes = config.notes.iter();
    all.extend(notes.map(|note| DoctorCheck::doubtful("settings", note, "remove or correct it")));
    let (process, running) = running(config).await;
    all.extend(doctor::examine(config, running).await);
    all.extend(process);
    all
}

/// Asks the node that runs with these settings for its conditions and its id. Returns no process with them if none
/// listens.
async fn running(config: &NodeServiceSettings) -> (Vec<DoctorCheck>, Option<ListeningProcess>) {
    const NAME: &str = "process";
    let Some(address) = config.metrics else {
        let found = "the operators' port is off, so a running node cannot be asked";
        let remedy = "switch it on: --metrics.enable";
        return (vec![DoctorCheck::doubtful(NAME, found, remedy)], None);
    };
    let at = address.to_string();
    let answer = match client::get(&at, "/readyz?for=publish").await {
        Ok(answer) => answer,
        Err(HttpError::Connect(_)) => {
            return (vec![DoctorCheck::fine(NAME, format!("no node runs at {address}"))], None);
        }
        Err(error) => return (vec![silent(&at, &error)], Some(ListeningProcess::Silent)),
    };
    let page: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let Some(conditions) = page["conditions"].as_array() else {
        let found = format!("the server at {address} is not a node");
        let remedy = "stop it, or choose another port (--metrics.metrics-port)";
        let process = ListeningProcess::Answering(None);
        return (vec![DoctorCheck::failed(NAME, found, remedy)], Some(process));
    };
    let mut checks: Vec<_> = conditions.iter().filter(|it| it["met"] == false).map(unmet).collect();
    if checks.is_empty() {
        checks.push(DoctorCheck::fine(NAME, format!("the node at {address} publishes")));
    }
    let process = match process_at(&at).await {
        Ok(process) => process,
        Err(error) => {
            checks.push(silent(&at, &error));
            ListeningProcess::Silent
        }
    };
    (checks, Some(process))
}

/// Returns the check of a process that takes a connection and gives no answer.
fn silent(at: &str, error: &HttpError) -> DoctorCheck {
    let found = format!("the process at {at} does not answer: {error}");
    let remedy = "see its log; a node's disk may not answer: docs/runbooks/node-down.md";
    DoctorCheck::failed("process", found, remedy)
}

/// Asks a process for the id that a node states on its page of the status.
///
/// # Errors
/// When there is no answer.
async fn process_at(at: &str) -> Result<ListeningProcess, HttpError> {
    let answer = client::get(at, "/status").await?;
    if answer.status == 503 {
        return Ok(ListeningProcess::Silent); // it rebuilds projections before it serves
    }
    let page: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let id = page["node_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(ListeningProcess::Answering(id.map(OriginatorId)))
}

fn unmet(condition: &Value) -> DoctorCheck {
    let text = |field: &str| output::printable(condition[field].as_str().unwrap_or("?"));
    let found = format!("{}: {}", text("name"), text("reason"));
    DoctorCheck::failed("condition", found, text("remedy"))
}
