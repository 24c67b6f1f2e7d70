//! `hawser misbehavior`: the evidence against nodes that a running node keeps.

use hawser_node::error::RunError;
use serde_json::Value;

use super::misbehavior_pages::{behind, page};
use super::{asked_node, audit, misbehavior_reports};
use crate::args::{MisbehaviorCommand, MisbehaviorListArgs};
use crate::output;

/// Runs the command.
///
/// # Errors
/// When the node does not answer, or refuses; and with the exit code of a verdict.
pub(super) async fn run(command: MisbehaviorCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        MisbehaviorCommand::List(args) => list(args, as_json).await,
        MisbehaviorCommand::Show(args) => misbehavior_reports::show(args, as_json).await,
        MisbehaviorCommand::Verify(args) => audit::report(args, as_json).await,
        MisbehaviorCommand::Submit(args) => misbehavior_reports::submit(args, as_json).await,
        MisbehaviorCommand::Export(args) => misbehavior_reports::export(args, as_json).await,
    }
}

async fn list(args: MisbehaviorListArgs, as_json: bool) -> Result<(), RunError> {
    let network = asked_node::network_file(None, false);
    let named = args.metrics.as_deref();
    let metrics = asked_node::metrics(named, network.as_deref(), &args.sources())?;
    let mut after = args.after.clone().unwrap_or_else(|| "0.0".to_owned());
    let mut is_empty = true;
    loop {
        let page = page(&metrics, &after).await?;
        let Some(next) = behind(&metrics, &page, &after)? else { break };
        is_empty = false;
        after = next;
        for piece in &page {
            match as_json {
                true => output::line(piece),
                false => print_piece(&output::printable_page(piece)),
            }
        }
    }
    if is_empty && !as_json {
        let behind = args.after.map(|after| format!(" after {after}")).unwrap_or_default();
        output::line(format_args!("there is no evidence{behind}"));
    }
    Ok(())
}

fn print_piece(piece: &Value) {
    let text = |field: &str| piece[field].as_str().unwrap_or_default().to_owned();
    let severity = piece["severity"].as_str().map(|it| format!(" ({it})")).unwrap_or_default();
    let from = piece["from_node_id"].as_u64().map(|it| format!(", from node {it}"));
    output::line(format_args!(
        "{}: node {} at {}: {}{severity}, {}{}",
        text("position"),
        piece["misbehaving_node_id"],
        piece["sequence_id"],
        text("fault"),
        text("verdict"),
        from.unwrap_or_default(),
    ));
}
