//! `hawser health`: the readiness of a node as an exit code, for container probes and scripts.

use hawser_node::error::{RunError, RunErrorKind};
use serde_json::{Value, json};

use super::asked_node;
use crate::args::health::HealthArgs;
use crate::{client, output};

/// Runs the command. Succeeds when the node is ready; takes less than three seconds.
///
/// # Errors
/// When the node is not ready, does not answer, or cannot be asked. The exit code is always 1: container engines give
/// further codes of a probe a meaning of their own.
pub(super) async fn run(args: HealthArgs, as_json: bool) -> Result<(), RunError> {
    ask(args, as_json).await.map_err(|error| RunError { kind: RunErrorKind::Failed, ..error })
}

async fn ask(args: HealthArgs, as_json: bool) -> Result<(), RunError> {
    let network = asked_node::network_file(None, args.has_settings());
    let named = args.metrics.as_deref();
    let address = asked_node::metrics(named, network.as_deref(), &args.sources())?;
    let purpose = args.purpose.name();
    let answer = client::page(&address, &format!("/readyz?for={purpose}")).await?;
    let page: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match answer.status {
        // Some servers have a page for every path.
        200 if page["ready"] != true => {
            let advice = client::METRICS_ADVICE;
            let text =
                format!("{address}: the answer is not the page of a node that is ready. {advice}");
            return Err(RunError::failed(text));
        }
        200 if as_json => output::line(json!({ "ready": true, "for": purpose })),
        200 => output::line(format_args!("ready to {purpose}")),
        503 => {
            if as_json {
                let conditions = &page["conditions"];
                output::line(json!({ "ready": false, "for": purpose, "conditions": conditions }));
                return Err(RunError::failed(""));
            }
            let why = client::unmet_conditions(&answer.body);
            return Err(RunError::failed(format!("not ready to {purpose}: {why}")));
        }
        status => return Err(client::no_page_of_a_node(&address, status)),
    }
    Ok(())
}
