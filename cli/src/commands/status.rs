//! `hawser status`: prints the state of nodes.

use hawser_node::error::RunError;
use hawser_node::{files, settings};
use serde_json::{Value, json};

use super::asked_node;
use crate::args::StatusArgs;
use crate::clock::now_unix_s;
use crate::network_file::{NetworkFile, NetworkNode};
use crate::{client, output};

/// Advice if no node is where the command has looked for one. The lines before it name the addresses.
const NONE_ANSWERS: &str = "--metrics names the address of a node's metrics, and --config the file with the node's settings";

/// Runs the command. Succeeds when every node answers with the verdict *ok* or *degraded*.
///
/// # Errors
/// When a node does not answer or has another verdict, such as *failing*.
pub(super) async fn run(args: StatusArgs, as_json: bool) -> Result<(), RunError> {
    let AskedNodes { nodes, whose } = nodes(&args)?;
    let mut answers = Vec::new();
    for (name, metrics) in nodes {
        let answer = ask(&metrics).await;
        if !as_json {
            match &answer {
                Ok(status) => print(&name, &output::printable_page(status)),
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
    if answers.iter().all(|(_, answer)| answer.as_ref().is_ok_and(is_serving)) {
        return Ok(());
    }
    let is_silent = answers.iter().all(|(_, answer)| answer.is_err());
    Err(RunError::failed(match is_silent && !as_json {
        true => format!("no node answers at {whose}: {NONE_ANSWERS}"),
        false => String::new(),
    }))
}

/// The nodes that are asked.
#[derive(Debug)]
struct AskedNodes {
    /// Their names and metrics addresses.
    nodes: Vec<(String, String)>,
    /// The place that the addresses are from, for the error if none of them answers.
    whose: String,
}

fn nodes(args: &StatusArgs) -> Result<AskedNodes, RunError> {
    if let Some(metrics) = &args.metrics {
        client::require_address(metrics)?;
        let nodes = vec![(metrics.clone(), metrics.clone())];
        return Ok(AskedNodes { nodes, whose: "this address".to_owned() });
    }
    let has_settings = args.config.is_some();
    let Some(path) = asked_node::network_file(args.network.as_deref(), has_settings) else {
        let address = settings::metrics_address(&args.sources()).map_err(RunError::usage)?;
        let nodes = vec![(address.to_string(), address.to_string())];
        let whose = "the address of the settings, or the default one".to_owned();
        return Ok(AskedNodes { nodes, whose });
    };
    let file = files::read(&path, NetworkFile::parse)?;
    let named = |node: NetworkNode| (format!("node {}", node.node_id), node.metrics);
    let whose = format!("the addresses of {}", path.display());
    Ok(AskedNodes { nodes: file.nodes.into_iter().map(named).collect(), whose })
}

async fn ask(metrics: &str) -> Result<Value, String> {
    let answer = client::get(metrics, "/status").await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        // Another program may have the port, and its page any length.
        return Err(format!("status {}: {}", answer.status, output::plain(answer.body.trim())));
    }
    status_of_node(&answer.body)
}

/// Reads the status page of a node. That of another program, such as a gateway, has no verdict.
fn status_of_node(page: &str) -> Result<Value, String> {
    let status: Value =
        serde_json::from_str(page).map_err(|error| format!("no status: {error}"))?;
    if status["verdict"].is_string() {
        return Ok(status);
    }
    Err("the page /status there is that of another program than a node, such as a gateway"
        .to_owned())
}

/// Returns true if the node calls itself *ok* or *degraded*. A verdict that this version does not know is no success.
fn is_serving(status: &Value) -> bool {
    matches!(status["verdict"].as_str(), Some("ok" | "degraded"))
}

fn as_value(metrics: &str, answer: &Result<Value, String>) -> Value {
    match answer {
        Ok(status) => json!({ "metrics": metrics, "status": status }),
        Err(error) => json!({ "metrics": metrics, "error": error }),
    }
}

fn print(name: &str, status: &Value) {
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
    if let Some(readiness) = readiness(status) {
        output::line(format_args!("  {readiness}"));
    }
    for reason in rows(status, "reasons").filter_map(Value::as_str) {
        output::line(format_args!("  {reason}"));
        if let Some(remedy) = remedy_of(status, reason) {
            output::line(format_args!("    do: {remedy}"));
        }
    }
    for strand in rows(status, "originators") {
        output::line(format_args!("  {}", line_of_strand(strand)));
        declared_void(strand).for_each(|line| output::line(format_args!("    {line}")));
    }
    for peer in rows(status, "peers") {
        output::line(format_args!("  {}", line_of_peer(peer)));
    }
    for chain in rows(status, "chains") {
        output::line(format_args!("  {}", line_of_chain(chain)));
        parts_of_chain(chain).for_each(|line| output::line(format_args!("    {line}")));
    }
    let (now_s, disk) = (now_unix_s(), disk(status).into_iter());
    let lines = disk.chain(accounts(status, now_s)).chain(payer_reports(status));
    lines
        .chain(backups(status))
        .chain(misbehavior(status))
        .for_each(|line| output::line(format_args!("  {line}")));
}

/// Returns the line about what the node is ready for. A node that does not publish may still serve readers.
fn readiness(status: &Value) -> Option<&'static str> {
    let ready = status.get("ready")?;
    Some(match (ready["read"] == true, ready["publish"] == true) {
        (true, true) => "ready to read and to publish",
        (true, false) => "ready to read, and not to publish",
        (false, _) => "ready neither to read nor to publish",
    })
}

/// Returns the step to take for a reason of the verdict, if the reason is a condition that is not met.
fn remedy_of<'a>(status: &'a Value, reason: &str) -> Option<&'a str> {
    let (name, _) = reason.split_once(": ")?;
    let is_meant = |it: &&Value| it["met"] == false && it["name"].as_str() == Some(name);
    let condition = rows(status, "conditions").find(is_meant)?;
    condition["remedy"].as_str()
}

/// Returns the line of a strand. Places that are declared void do not count as behind.
fn line_of_strand(strand: &Value) -> String {
    let source = strand["source_node_id"].as_u64();
    let source = source.map(|node| format!(" from node {node}")).unwrap_or_default();
    let behind = strand["lag_envelopes"].as_u64().filter(|behind| *behind > 0);
    let behind = behind.map(|behind| {
        let lag_s = strand["lag_s"].as_f64().unwrap_or_default();
        format!(", {} behind for {lag_s:.0} s", output::count(behind, "envelope"))
    });
    let signed = Some(&strand["checkpoint"]).filter(|it| it.is_object()).map(|it| {
        let (size, by, of) = (&it["size"], &it["cosigned_by"], &it["cosigners"]);
        format!("; signed to {size}, cosigned by {by} of {of}")
    });
    let rest = [behind, signed].into_iter().flatten().collect::<String>();
    let (position, of) = (&strand["position"], &strand["network_position"]);
    format!("originator {}: {position} of {of}{source}{rest}", strand["originator_id"])
}

/// Returns the line of a peer. Its address is what its owner has registered, and errors may quote it.
fn line_of_peer(peer: &Value) -> String {
    let address = output::plain(peer["address"].as_str().unwrap_or_default());
    let state = if peer["connected"] == true { "connected" } else { "not connected" };
    let transport = peer["transport"].as_str().map(|it| format!(" over {it}"));
    let refused = peer["refused"].as_u64().filter(|refused| *refused > 0);
    let refused = refused.map(|it| format!(", {} refused", output::count(it, "session")));
    let error = peer["last_error"].as_str().map(|it| format!(": {}", output::plain(it)));
    let rest = [transport, refused, error].into_iter().flatten().collect::<String>();
    format!("peer {} at {address}: {state}{rest}", peer["node_id"])
}

/// Returns the line of a chain: its head as endpoints have last reported it.
fn line_of_chain(chain: &Value) -> String {
    let name = chain["name"].as_str().unwrap_or("?");
    let Some(head) = chain["head"].as_u64() else {
        return format!("{name} chain: no block is known yet");
    };
    let unseen = chain["unseen_s"].as_f64().map(|it| format!(", {it:.0} s ago"));
    let how = if chain["pushed"] == true { "over a WebSocket" } else { "by polling" };
    format!("{name} chain: block {head}{}, {how}", unseen.unwrap_or_default())
}

/// Returns a line for each endpoint and contract of a chain, and for each list whose last reading failed. The operator
/// of an endpoint chooses the texts of its faults.
fn parts_of_chain(chain: &Value) -> impl Iterator<Item = String> {
    let fault = |of: &Value| of["fault"].as_str().map(|it| format!(": {}", output::plain(it)));
    let endpoints = rows(chain, "endpoints").map(move |it| {
        let endpoint = output::plain(it["endpoint"].as_str().unwrap_or("?"));
        let active = if it["active"] == true { ", in use" } else { "" };
        format!("endpoint {endpoint}{active}{}", fault(it).unwrap_or_default())
    });
    let lists = rows(chain, "lists").filter_map(move |it| {
        let age = it["age_s"].as_f64().unwrap_or_default();
        let name = it["name"].as_str().unwrap_or("?");
        Some(format!("{name}, read {age:.0} s ago{}", fault(it)?))
    });
    endpoints.chain(lists).chain(rows(chain, "contracts").map(line_of_contract))
}

/// Returns the line of a contract whose events are read.
fn line_of_contract(contract: &Value) -> String {
    let text = |field: &str| contract[field].as_str();
    let strand = contract["originator_id"].as_u64().map(|id| format!(" (originator {id})"));
    let read = contract["read_block"].as_u64().map(|block| format!(", read to block {block}"));
    let behind = contract["lag_blocks"].as_u64().filter(|blocks| *blocks > 0);
    let behind = behind.map(|blocks| format!(", {} behind", output::count(blocks, "block")));
    let paused = (contract["paused"] == true).then(|| ", paused".to_owned());
    let reason = text("reason").map(|it| format!(": {}", output::plain(it)));
    let rest = [read, behind, paused, reason].into_iter().flatten().collect::<String>();
    let (address, state) = (text("contract").unwrap_or("?"), text("state").unwrap_or("?"));
    format!("contract {address}{}: {state}{rest}", strand.unwrap_or_default())
}

/// Returns a line for each range of places that the node of a strand has declared void.
fn declared_void(strand: &Value) -> impl Iterator<Item = String> {
    rows(strand, "declared_void")
        .map(|range| format!("places {} to {}: declared void", range["from"], range["through"]))
}

/// Returns the line about the disk.
fn disk(status: &Value) -> Option<String> {
    let disk = status.get("disk")?;
    let size = |field: &str| disk[field].as_u64().map(output::size);
    let log = size("log_bytes")?;
    let free = size("free_bytes").zip(size("total_bytes"));
    let free = free.map(|(free, total)| format!(", {free} of {total} free"));
    let full = disk["days_left"].as_f64();
    let full = full.map(|days| format!(", full in {days:.1} days at the rate of the last day"));
    let rest = [free, full].into_iter().flatten().collect::<String>();
    Some(format!("disk: the database takes {log}{rest}"))
}

/// Returns a line for each account of the node on a chain.
fn accounts(status: &Value, now_s: u64) -> impl Iterator<Item = String> {
    rows(status, "chains").filter_map(move |chain| {
        let account = chain.get("account")?;
        let address = account["address"].as_str()?;
        let name = chain["name"].as_str().unwrap_or("?");
        let fault = account["fault"].as_str().map(|fault| format!(", {fault}"));
        let fault = fault.unwrap_or_default();
        let Some(wei) = account["native_wei"].as_str().and_then(|wei| wei.parse::<u128>().ok())
        else {
            return Some(format!("account {address} on the {name} chain: not read yet{fault}"));
        };
        let tokens = account["fee_token_microdollars"].as_f64();
        let tokens = tokens.map(|it| format!(", {:.6} USD in fee tokens", it / 1e6));
        let age = age(now_s.saturating_sub(account["read_unix_s"].as_u64().unwrap_or_default()));
        Some(format!(
            "account {address} on the {name} chain: {:.6} of the native token{}, read {age} ago{fault}",
            wei as f64 / 1e18,
            tokens.unwrap_or_default()
        ))
    })
}

/// Returns the line about payer reports, if the node works on them.
fn payer_reports(status: &Value) -> Option<String> {
    let reports = status.get("payer_reports")?;
    let stages = rows(reports, "stages").filter(|row| row["reports"] != 0).map(|row| {
        let stage = row["stage"].as_str().unwrap_or("?");
        let oldest = age(row["oldest_age_s"].as_u64().unwrap_or_default());
        format!("{} {stage} (the oldest ended {oldest} ago)", row["reports"])
    });
    let stages: Vec<_> = stages.collect();
    let counts = if stages.is_empty() { "none".to_owned() } else { stages.join(", ") };
    Some(match reports["fault"].as_str() {
        Some(fault) => format!("payer reports: {counts}; they cannot be counted now: {fault}"),
        None => format!("payer reports: {counts}"),
    })
}

/// Returns the line about backups.
fn backups(status: &Value) -> Option<String> {
    let backups = status.get("backups")?;
    let ago = |of: &Value| age(of["age_s"].as_u64().unwrap_or_default());
    let name = |of: &Value| of["backup"].as_str().unwrap_or("?").to_owned();
    let last = Some(&backups["last"]).filter(|last| last.is_object());
    let last = last.map_or_else(
        || "none was made of this folder".to_owned(),
        |last| {
            let to = last["to"].as_str().unwrap_or("?");
            format!("{} in {to}, {} ago", name(last), ago(last))
        },
    );
    let check = Some(&backups["verified"]).filter(|check| check.is_object());
    let check = check.map_or_else(
        || "never verified from here".to_owned(),
        |check| {
            let result = if check["whole"] == true { "whole" } else { "not to be restored" };
            format!("{} was verified {} ago: {result}", name(check), ago(check))
        },
    );
    let fault = backups["fault"].as_str().map(|fault| format!("; {fault}")).unwrap_or_default();
    let silent = Some(&backups["unreachable"]).filter(|silent| silent.is_object());
    let silent = silent.map(|silent| {
        let text = |name: &str| silent[name].as_str().unwrap_or("?");
        format!("; {} does not answer: {}", text("place"), text("error"))
    });
    Some(format!("backup: {last}; {check}{}{fault}", silent.unwrap_or_default()))
}

/// Returns a line about evidence and reports of misbehaviour, if there are any.
fn misbehavior(status: &Value) -> Option<String> {
    let count = |of: &Value| {
        let nodes = of.as_object().into_iter().flatten();
        let counts = nodes.flat_map(|(_, counts)| counts.as_object().into_iter().flatten());
        counts.filter_map(|(_, count)| count.as_u64()).sum::<u64>()
    };
    let reports = &status["misbehavior_reports"];
    let (facts, kept) = (count(&status["misbehavior"]), count(&reports["by_node"]));
    let against = reports["against_this_node"].as_u64().unwrap_or_default();
    (facts + kept > 0).then(|| {
        let (facts, kept) = (output::count(facts, "fact"), output::count(kept, "report"));
        let against = output::count(against, "report");
        format!("misbehaviour: {facts} and {kept} are kept here, {against} against this node")
    })
}

/// Writes a time span in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn rows<'a>(status: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    status[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_asked_as_it_is_and_a_network_by_its_file() {
        let args = StatusArgs { metrics: Some("host:1".into()), network: None, config: None };
        assert_eq!(nodes(&args).unwrap().nodes, [("host:1".into(), "host:1".into())]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let args = StatusArgs { metrics: None, network: Some(path.clone()), config: None };
        assert_eq!(nodes(&args).unwrap_err().kind, hawser_node::error::RunErrorKind::NotFound);
        let text = r#"{"nodes":[{"node_id":100,"grpc":"","quic":"","metrics":"127.0.0.1:5051",
            "address":"","public_key":"","data_dir":"","pid":1}],"payer_key_file":""}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(nodes(&args).unwrap().nodes, [("node 100".into(), "127.0.0.1:5051".into())]);
    }

    #[tokio::test]
    async fn the_page_of_another_program_is_told_in_a_line() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let body = "<p>no\n".repeat(10_000);
            let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            // The caller hangs up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let error = ask(&address).await.unwrap_err();
        assert!(error.starts_with("status 404: <p>no <p>no "), "{error}");
        assert!(error.len() < 300, "{} bytes", error.len());
    }

    #[test]
    fn the_status_of_a_gateway_is_not_taken_for_that_of_a_node() {
        let of_gateway = r#"{"nodes":[],"payer":"0xabc","ready":true,"version":"0.1.0"}"#;
        for page in [of_gateway, "[]", "null", ""] {
            assert!(status_of_node(page).is_err(), "{page:?}");
        }
        let of_node = json!({ "verdict": "ok" });
        assert_eq!(status_of_node(&of_node.to_string()), Ok(of_node));
    }

    #[test]
    fn a_verdict_of_a_later_version_is_no_success() {
        for (verdict, serves) in
            [("ok", true), ("degraded", true), ("failing", false), ("stopping", false), ("", false)]
        {
            assert_eq!(is_serving(&json!({ "verdict": verdict })), serves, "{verdict:?}");
        }
    }

    #[test]
    fn the_address_and_the_error_of_a_peer_do_not_steer_a_terminal() {
        let peer = |connected| {
            let (address, error) = ("https://a/\u{9b}2J", "gone\u{1b}[2J\nverdict: ok");
            json!({ "node_id": 7, "address": address, "connected": connected, "last_error": error })
        };
        for (connected, state) in [(false, "not connected"), (true, "connected")] {
            let wanted = format!("peer 7 at https://a/ 2J: {state}: gone [2J verdict: ok");
            assert_eq!(line_of_peer(&peer(connected)), wanted);
        }
        let fine = json!({ "node_id": 7, "address": "a", "connected": true, "last_error": null });
        assert_eq!(line_of_peer(&fine), "peer 7 at a: connected");
        let fine = json!({ "node_id": 7, "address": "a", "connected": true, "transport": "quic", "refused": 2 });
        assert_eq!(line_of_peer(&fine), "peer 7 at a: connected over quic, 2 sessions refused");
    }

    /// Runbooks send the operator to these lines while a chain, a strand or the node itself is at fault.
    #[test]
    fn readiness_steps_lags_and_chains_are_told_in_lines() {
        let ready = |read: bool, publish: bool| {
            readiness(&json!({ "ready": { "start": true, "read": read, "publish": publish } }))
                .unwrap()
        };
        assert_eq!(ready(true, true), "ready to read and to publish");
        assert_eq!(ready(true, false), "ready to read, and not to publish");
        assert_eq!(ready(false, false), "ready neither to read nor to publish");
        let status = json!({ "conditions": [
            { "name": "clock", "met": true, "remedy": null },
            { "name": "own_strand", "met": false, "remedy": "wait for peers" } ] });
        let remedy = |reason| remedy_of(&status, reason);
        assert_eq!(remedy("own_strand: it was restored: now"), Some("wait for peers"));
        assert_eq!(remedy("clock: it is ahead"), None);
        assert_eq!(remedy("peer 200: no connection"), None);
        let strand = json!({ "originator_id": 200, "position": 7, "network_position": 9, "source_node_id": 300,
            "lag_envelopes": 1, "lag_s": 2.25 });
        let wanted = "originator 200: 7 of 9 from node 300, 1 envelope behind for 2 s";
        assert_eq!(line_of_strand(&strand), wanted);
        let strand = json!({ "originator_id": 100, "position": 7, "network_position": 7, "source_node_id": null,
            "lag_envelopes": 0, "checkpoint": { "size": 6, "cosigned_by": 1, "cosigners": 2 } });
        let wanted = "originator 100: 7 of 7; signed to 6, cosigned by 1 of 2";
        assert_eq!(line_of_strand(&strand), wanted);
        let status = json!({ "disk": {
            "log_bytes": 1024, "free_bytes": 2048, "total_bytes": 4096, "days_left": 7.5 } });
        let wanted = "disk: the database takes 1.00 KiB, 2.00 KiB of 4.00 KiB free, full in 7.5 days at the rate of the last day";
        assert_eq!(disk(&status).unwrap(), wanted);
        let chain = json!({ "name": "app", "head": 90, "unseen_s": 3.4, "pushed": true,
            "endpoints": [
                { "endpoint": "https://a", "active": true, "fault": null },
                { "endpoint": "https://b", "active": false, "fault": "no\nanswer" } ],
            "lists": [
                { "name": "node_registry", "age_s": 5.0, "failures": 0, "fault": null },
                { "name": "rate_registry", "age_s": 500.2, "failures": 3, "fault": "too slow" } ],
            "contracts": [
                { "contract": "0xab", "originator_id": 0, "state": "at_head", "reason": null, "read_block": 90,
                  "paused": false, "lag_blocks": 0 },
                { "contract": "0xcd", "originator_id": 1, "state": "halted", "reason": "other events",
                  "read_block": 70, "paused": true, "lag_blocks": 20 } ] });
        assert_eq!(line_of_chain(&chain), "app chain: block 90, 3 s ago, over a WebSocket");
        let wanted = [
            "endpoint https://a, in use",
            "endpoint https://b: no answer",
            "rate_registry, read 500 s ago: too slow",
            "contract 0xab (originator 0): at_head, read to block 90",
            "contract 0xcd (originator 1): halted, read to block 70, 20 blocks behind, paused: other events",
        ];
        assert_eq!(parts_of_chain(&chain).collect::<Vec<_>>(), wanted);
        let unread = json!({ "name": "app", "head": null });
        assert_eq!(line_of_chain(&unread), "app chain: no block is known yet");
    }

    #[test]
    fn accounts_reports_and_backups_are_told_in_lines() {
        let status = json!({
            "chains": [
                { "name": "app" },
                { "name": "settlement", "account": {
                    "address": "0xabc", "native_wei": "1500000000000000000",
                    "fee_token_microdollars": 2_500_000, "read_unix_s": 1000, "fault": null } },
            ],
            "payer_reports": { "counted_unix_s": 1, "fault": null, "stages": [
                { "stage": "waiting", "reports": 0, "oldest_age_s": null },
                { "stage": "submitted", "reports": 2, "oldest_age_s": 10_800 } ] },
            "backups": {
                "last": { "backup": "b2", "to": "/backups", "age_s": 90 },
                "verified": { "backup": "b1", "age_s": 200_000, "whole": true }, "fault": null },
            "misbehavior": { "300": { "proven": 1, "claims": 2 } },
            "misbehavior_reports": { "against_this_node": 1, "by_node": {
                "100": { "proven": 0, "own_claims": 0, "own_liveness": 0, "submitted": 1 } } },
        });
        let accounts: Vec<_> = accounts(&status, 1060).collect();
        let wanted = "account 0xabc on the settlement chain: 1.500000 of the native token, 2.500000 USD in fee \
                      tokens, read 60 s ago";
        assert_eq!(accounts, [wanted]);
        let wanted = "payer reports: 2 submitted (the oldest ended 3 h ago)";
        assert_eq!(payer_reports(&status).unwrap(), wanted);
        let wanted = "backup: b2 in /backups, 90 s ago; b1 was verified 2 days ago: whole";
        assert_eq!(backups(&status).unwrap(), wanted);
        let wanted = "misbehaviour: 3 facts and 1 report are kept here, 1 report against this node";
        assert_eq!(misbehavior(&status).unwrap(), wanted);
        let range = json!({ "from": 9, "through": 1_000_008, "time_ns": 5 });
        let strand = json!({ "originator_id": 100, "declared_void": [range] });
        let wanted = "places 9 to 1000008: declared void";
        assert_eq!(declared_void(&strand).collect::<Vec<_>>(), [wanted]);
    }

    #[test]
    fn a_node_of_an_older_version_has_fewer_lines() {
        let old = json!({ "misbehavior": {} });
        assert_eq!((readiness(&old), remedy_of(&old, "clock: ahead")), (None, None));
        assert_eq!((parts_of_chain(&old).count(), disk(&old)), (0, None));
        assert_eq!(accounts(&old, 0).count(), 0);
        assert_eq!(declared_void(&old).count(), 0);
        assert_eq!((payer_reports(&old), backups(&old), misbehavior(&old)), (None, None, None));
        let none = json!({ "backups": { "last": null, "verified": null, "fault": "x: no note" } });
        let wanted = "backup: none was made of this folder; never verified from here; x: no note";
        assert_eq!(backups(&none).unwrap(), wanted);
        let unread = json!({ "chains": [{ "name": "app", "account": {
            "address": "0xabc", "native_wei": null, "fault": "no answer" } }] });
        let wanted = "account 0xabc on the app chain: not read yet, no answer";
        assert_eq!(accounts(&unread, 5).collect::<Vec<_>>(), [wanted]);
        let failing = json!({ "payer_reports": { "fault": "the disk", "stages": [] } });
        let wanted = "payer reports: none; they cannot be counted now: the disk";
        assert_eq!(payer_reports(&failing).unwrap(), wanted);
    }
}
