//! `hawser status`: asks nodes how they are.

use hawser_node::error::RunError;
use hawser_node::{files, settings};
use serde_json::{Value, json};

use crate::args::StatusArgs;
use crate::network_file::{NetworkFile, NetworkNode};
use crate::{client, output};

/// Runs the command. Succeeds when every node answers and none is failing.
///
/// # Errors
/// When a node does not answer or says that it fails.
pub(super) async fn run(args: StatusArgs, as_json: bool) -> Result<(), RunError> {
    let nodes = nodes(&args)?;
    let mut answers = Vec::new();
    for (name, metrics) in nodes {
        let answer = ask(&metrics).await;
        if !as_json {
            match &answer {
                Ok(status) => tell(&name, status),
                Err(error) => output::line(format_args!("{name}: no answer: {error}")),
            }
        }
        answers.push((metrics, answer));
    }
    if as_json {
        let all: Vec<_> =
            answers.iter().map(|(metrics, answer)| as_value(metrics, answer)).collect();
        output::line(Value::Array(all));
    }
    let well = |answer: &Result<Value, String>| {
        answer.as_ref().is_ok_and(|status| status["verdict"] != "failing")
    };
    if answers.iter().all(|(_, answer)| well(answer)) { Ok(()) } else { Err(RunError::failed("")) }
}

/// Names and metrics addresses of the nodes that are asked.
fn nodes(args: &StatusArgs) -> Result<Vec<(String, String)>, RunError> {
    if let Some(metrics) = &args.metrics {
        return Ok(vec![(metrics.clone(), metrics.clone())]);
    }
    let Some(path) = args.network.clone().or_else(NetworkFile::of_current_folder) else {
        let address = settings::metrics_address(&args.sources()).map_err(RunError::usage)?;
        return Ok(vec![(address.to_string(), address.to_string())]);
    };
    let file = files::read(&path, NetworkFile::parse)?;
    let named = |node: NetworkNode| (format!("node {}", node.node_id), node.metrics);
    Ok(file.nodes.into_iter().map(named).collect())
}

async fn ask(metrics: &str) -> Result<Value, String> {
    let answer = client::get(metrics, "/status").await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("status {}: {}", answer.status, answer.body.trim()));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("no status: {error}"))
}

fn as_value(metrics: &str, answer: &Result<Value, String>) -> Value {
    match answer {
        Ok(status) => json!({ "metrics": metrics, "status": status }),
        Err(error) => json!({ "metrics": metrics, "error": error }),
    }
}

fn tell(name: &str, status: &Value) {
    let text = |field: &str| status[field].as_str().unwrap_or("?").to_owned();
    let id = status["node_id"].as_u64();
    let who = id.map_or_else(|| "replica".to_owned(), |id| format!("node {id}"));
    output::line(format_args!(
        "{name}: {} ({who} of network {}, version {}, up {} s)",
        text("verdict"),
        text("network"),
        text("version"),
        status["uptime_s"],
    ));
    for reason in rows(status, "reasons") {
        output::line(format_args!("  {}", reason.as_str().unwrap_or_default()));
    }
    for strand in rows(status, "originators") {
        let source = strand["source_node_id"].as_u64();
        let source = source.map(|node| format!(" from node {node}")).unwrap_or_default();
        output::line(format_args!(
            "  originator {}: {} of {}{source}",
            strand["originator_id"], strand["position"], strand["network_position"]
        ));
    }
    for peer in rows(status, "peers") {
        let address = peer["address"].as_str().unwrap_or_default();
        let state = match peer["last_error"].as_str() {
            _ if peer["connected"] == true => "connected".to_owned(),
            Some(error) => format!("not connected: {error}"),
            None => "not connected".to_owned(),
        };
        output::line(format_args!("  peer {} at {address}: {state}", peer["node_id"]));
    }
    if let Some(days) = status["disk"]["days_left"].as_f64() {
        output::line(format_args!("  disk: full in {days:.1} days at the rate of the last day"));
    }
}

fn rows<'a>(status: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    status[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_as_it_is_and_a_network_by_its_file() {
        let args = StatusArgs { metrics: Some("host:1".into()), network: None };
        assert_eq!(nodes(&args).unwrap(), [("host:1".into(), "host:1".into())]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let args = StatusArgs { metrics: None, network: Some(path.clone()) };
        assert_eq!(nodes(&args).unwrap_err().kind, hawser_node::error::RunErrorKind::NotFound);
        let text = r#"{"nodes":[{"node_id":100,"grpc":"","quic":"","metrics":"127.0.0.1:5051",
            "address":"","public_key":"","data_dir":"","pid":1}],"payer_key_file":""}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(nodes(&args).unwrap(), [("node 100".into(), "127.0.0.1:5051".into())]);
    }
}
