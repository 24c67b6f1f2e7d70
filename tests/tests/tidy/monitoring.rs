//! The alerts and dashboards in `deploy/` use metrics that are exported, and alerts lead to runbooks that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::{anchors, assert_none, root, texts};

/// The alerts, as Prometheus loads them.
const RULES: &str = "deploy/prometheus/hawser.rules.yml";
/// Their tests, as promtool runs them.
const RULE_TESTS: &str = "deploy/prometheus/hawser.rules.test.yml";
/// The dashboards, as Grafana imports them.
const DASHBOARDS: &str = "deploy/grafana/";
/// Beginnings of the names of metrics. No label begins like this.
const METRIC_PREFIXES: [&str; 5] = ["xmtp_", "xmtpd_", "grpc_server_", "db_query_", "process_"];

/// The families of the network's reference node, with their labels. Counters have their names of OpenMetrics.
const OF_REFERENCE: &[(&str, &[&str])] = &[
    ("grpc_server_started", &["grpc_type", "grpc_service", "grpc_method"]),
    ("grpc_server_msg_received", &["grpc_type", "grpc_service", "grpc_method"]),
    ("grpc_server_msg_sent", &["grpc_type", "grpc_service", "grpc_method"]),
    ("grpc_server_handling_seconds", &["grpc_type", "grpc_service", "grpc_method"]),
    ("grpc_server_handled", &["grpc_code"]), // and those above
    ("xmtp_api_open_connections_gauge", &["style", "method"]),
    ("xmtp_api_incoming_node_connection_by_version_gauge", &["version"]),
    ("xmtp_api_node_connection_requests_by_version_counter", &["version"]),
    ("xmtp_api_failed_grpc_requests_counter", &["code"]),
    ("xmtp_api_outgoing_envelopes", &["method"]),
    ("xmtp_api_stage_envelope_seconds", &[]),
    ("xmtp_api_staged_envelope_processing_delay_seconds", &[]),
    ("xmtp_api_wait_for_gateway_publish_seconds", &[]),
    ("xmtp_sync_originator_sequence_id", &["originator_id"]),
    ("xmtp_sync_messages_received_count", &["originator_id"]),
    ("xmtp_sync_messages_received_error_count", &["originator_id"]),
    ("xmtp_sync_failed_outgoing_sync_connections_counter", &["originator_id"]),
    ("xmtp_sync_outgoing_sync_connections", &[]),
    ("xmtp_sync_failed_outgoing_sync_connections", &[]),
    ("xmtp_sync_subscribe_rpc", &["rpc", "originator_id"]),
    ("xmtp_indexer_log_streamer_logs", &["contract_address"]),
    ("xmtp_indexer_log_streamer_current_block", &["contract_address"]),
    ("xmtp_indexer_log_streamer_max_block", &["contract_address"]),
    ("xmtp_indexer_log_streamer_block_lag", &["contract_address"]),
    ("xmtp_indexer_retryable_storage_error_count", &["contract_address"]),
    ("xmtp_indexer_log_processing_time_seconds", &["contract_address"]),
    ("xmtp_indexer_bytes_indexer", &["contract_address"]),
    ("xmtp_indexer_log_streamer_get_logs_duration", &["contract_address"]),
    ("xmtp_indexer_log_streamer_get_logs_requests", &["contract_address", "success"]),
    ("xmtp_blockchain_publish_payload_seconds", &["payload_type"]),
    ("xmtp_blockchain_broadcast_transaction_seconds", &["payload_type", "status"]),
    ("xmtp_blockchain_wait_for_transaction_seconds", &["status"]),
    ("xmtp_blockchain_oracle_gas_price", &["chain_id"]),
    ("xmtp_blockchain_oracle_gas_price_updates", &["chain_id"]),
    ("xmtp_blockchain_oracle_gas_price_default_fallback", &["chain_id"]),
    ("xmtp_blockchain_oracle_gas_price_last_update_timestamp_unix", &["chain_id"]),
    ("xmtp_gateway_publish_duration_seconds", &["originator_id"]),
    ("xmtp_gateway_messages_originated", &["originator_id"]),
    ("xmtp_gateway_failed_attempts_to_publish_to_node_via_banlist", &["originator_id"]),
    ("xmtp_gateway_lru_nonce", &[]),
    ("xmtp_gateway_get_nodes_available_nodes", &[]),
    ("db_query_duration_seconds", &["query", "op"]),
    ("db_query_errors", &["query", "op"]),
    ("xmtpd_rate_limit_decisions", &["service", "method", "tier", "outcome"]),
    ("xmtpd_rate_limit_circuit_breaker_state", &[]),
    ("xmtpd_rate_limit_circuit_breaker_trips", &[]),
    ("xmtpd_stream_limit_decisions", &["service", "outcome"]),
    ("xmtpd_stream_limit_active_streams", &[]),
];

/// The beginnings of the names of its families that no process of this repository exports.
const ABSENT: [&str; 3] = ["go_", "grpc_client_", "xmtp_migrator_"];

/// The families of the reference implementation's watchers, with their labels.
const OF_REFERENCE_WATCHERS: &[(&str, &[&str])] = &[
    ("xmtp_chain_report_submitted_total", &["originator_id"]),
    ("xmtp_chain_report_settled_total", &["originator_id"]),
    ("xmtp_chain_time_since_last_submission_seconds", &[]),
    ("xmtp_chain_submission_to_settlement_seconds", &["originator_id"]),
    ("xmtp_chain_envelope_range_total", &["originator_id"]),
    ("xmtp_chain_envelope_range_gap", &["originator_id"]),
    ("xmtp_chain_attesting_node_count", &["originator_id"]),
    ("xmtp_chain_active_originator_nodes", &[]),
    ("xmtp_chain_fees_settled_picodollars", &["originator_id"]),
    ("xmtp_chain_usage_settled_total", &[]),
    ("xmtp_chain_events_processed_total", &["event_type"]),
    ("xmtpd_network_watcher_cursor", &["publisher_node_id", "originator_node_id"]),
    ("xmtpd_network_watcher_cursor_lag", &["publisher_node_id", "originator_node_id"]),
    ("xmtpd_network_watcher_cursor_divergence", &["originator_node_id"]),
    ("xmtpd_network_watcher_cursor_max", &["originator_node_id"]),
    ("xmtpd_network_watcher_node_up", &["publisher_node_id"]),
    ("xmtpd_network_watcher_node_last_update_seconds", &["publisher_node_id"]),
    ("xmtpd_network_watcher_node_stream_errors_total", &["publisher_node_id", "reason"]),
    ("xmtpd_network_watcher_known_nodes", &[]),
    ("xmtpd_network_watcher_registry_errors_total", &[]),
    ("xmtpd_network_watcher_build_info", &["version"]),
];

/// One alert of the rules.
struct AlertRule {
    name: String,
    severity: String,
    /// Page and heading of the runbook, from the root.
    runbook: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn alert_rules() -> Vec<AlertRule> {
    let text = read(RULES);
    let parse = |rule: &str| {
        let value = |key: &str| {
            let found = rule.lines().find_map(|line| line.trim().strip_prefix(key));
            found.unwrap_or_default().trim().trim_end_matches('}').to_owned()
        };
        AlertRule {
            name: rule.lines().next().unwrap().trim().to_owned(),
            severity: value("labels: {severity: "),
            runbook: value("runbook: "),
        }
    };
    text.split("- alert: ").skip(1).map(parse).collect()
}

/// A row of a page about metrics.
struct MetricRow {
    samples: Vec<String>,
    /// The cell with the labels. Some have a list of their values in parentheses.
    labels: String,
}

fn metric_rows() -> Vec<MetricRow> {
    let mut rows = Vec::new();
    for page in ["metrics", "gateway", "network-watcher", "chain-watcher"] {
        let text = read(&format!("docs/{page}.md"));
        // The pages of the watchers have no column for the type.
        let labels_at = if page.ends_with("watcher") { 1 } else { 2 };
        for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
            let Some((name, rest)) = row.split_once('`') else { continue };
            let cell = |at: usize| rest.split('|').nth(at).map(str::trim).unwrap_or_default();
            let endings: &[&str] = match cell(1) {
                _ if rest.contains("| histogram") => &["_bucket", "_sum", "_count"],
                "counter" => &["_total"],
                _ => &[""],
            };
            let samples = endings.iter().map(|ending| format!("{name}{ending}")).collect();
            let labels = if name == "xmtp_condition" {
                format!("name ({})", conditions_in(&text).join(", "))
            } else {
                cell(labels_at).to_owned()
            };
            rows.push(MetricRow { samples, labels });
        }
    }
    rows
}

/// Returns the names of the conditions that a page lists.
fn conditions_in(page: &str) -> Vec<&str> {
    names_in_rows(page.split("\n## Conditions\n").nth(1).unwrap_or_default())
}

/// Returns the names in the first column of tables. A row may have two of them.
fn names_in_rows(section: &str) -> Vec<&str> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let names =
        rows.flat_map(|row| row.split('|').next().unwrap_or_default().split(['`', ',', ' ']));
    names.filter(|name| !name.is_empty()).collect()
}

/// Returns the names of all samples that the pages about metrics list.
fn documented_samples() -> BTreeSet<String> {
    metric_rows().into_iter().flat_map(|row| row.samples).collect()
}

/// Returns the values that a cell with labels lists, such as those of `chain (app, settlement)`.
fn values_in(labels: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut values = BTreeMap::new();
    for part in labels.split(')') {
        let Some((before, listed)) = part.split_once('(') else { continue };
        // A remark, such as `originator_id (of the peer)`.
        if listed.starts_with("of ") {
            continue;
        }
        let label = before.trim().rsplit(' ').next().unwrap_or_default().trim_matches('`');
        values
            .insert(label, listed.split(',').map(|value| value.trim().trim_matches('`')).collect());
    }
    values
}

/// Returns the selectors in `text` whose values no row of the pages lists.
fn unknown_values(text: &str, rows: &[MetricRow]) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut parts = text.split('{');
    let mut before = parts.next().unwrap_or_default();
    for part in parts {
        let is_between = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
        let name = before.rsplit(is_between).next().unwrap_or_default();
        let of_sample = rows.iter().filter(|row| row.samples.iter().any(|sample| sample == name));
        let listed: Vec<_> = of_sample.map(|row| values_in(&row.labels)).collect();
        for selector in part.split('}').next().unwrap_or_default().split(',') {
            let label = selector.split(['=', '!']).next().unwrap_or_default().trim();
            let Some(pattern) = selector.split('"').nth(1) else { continue };
            let is_known = |value: &str| {
                listed.is_empty()
                    || listed.iter().any(|it| it.get(label).is_none_or(|it| it.contains(value)))
            };
            let pattern = pattern.replace('\\', "");
            let wrong = pattern.split('|').filter(|value| !is_known(value));
            unknown.extend(wrong.map(|value| format!("{name}: {label}=\"{value}\"")));
        }
        before = part;
    }
    unknown
}

/// A selector of a value that no sample has selects nothing, so its alert never fires and its panel stays empty.
#[test]
fn selectors_use_values_that_are_documented() {
    let rows = metric_rows();
    let spoilt = "xmtp_node_info{role=\"node\"} or xmtp_condition{name=~\"clock|clok\"}";
    let wrong = ["xmtp_node_info: role=\"node\"", "xmtp_condition: name=\"clok\""];
    assert_eq!(unknown_values(spoilt, &rows), wrong);
    let mut queries =
        vec![(RULES.to_owned(), read(RULES)), (RULE_TESTS.to_owned(), read(RULE_TESTS))];
    for (path, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().unwrap();
            let texts = targets.iter().map(|target| text_at(target, "/expr").to_owned());
            queries.extend(texts.map(|query| (path.clone(), query)));
        }
    }
    let unknown = queries.iter().flat_map(|(path, text)| {
        unknown_values(text, &rows).into_iter().map(move |found| format!("{path}: {found}"))
    });
    assert_none(
        &unknown.collect::<Vec<_>>(),
        "a selector uses values that a page about metrics lists",
    );
}

/// Returns the names of metrics in `text`.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| METRIC_PREFIXES.iter().any(|prefix| word.starts_with(prefix))).collect()
}

#[test]
fn alerts_use_metrics_that_are_documented() {
    let known = documented_samples();
    let mut broken = Vec::new();
    for path in [RULES, RULE_TESTS] {
        let text = read(path);
        let used = metrics_in(&text);
        assert!(used.len() > 40, "{path} uses metrics");
        let unknown = used.into_iter().filter(|name| !known.contains(*name));
        broken.extend(unknown.map(|name| format!("{path}: {name}")));
    }
    assert_none(&broken, "each metric of an alert is a sample that a page about metrics lists");
}

/// Returns the labels in a cell of a table, without the values in parentheses.
fn labels_in(cell: &str) -> BTreeSet<&str> {
    let outside = cell.split('(').filter_map(|part| part.rsplit(')').next());
    let is_between = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    let words = outside.flat_map(|text| text.split(is_between));
    words.filter(|word| !word.is_empty() && *word != "and").collect()
}

/// Dashboards and alerts of the reference node's operators go on working. Other tests compare these pages with what is
/// exported.
#[test]
fn the_families_of_the_reference_node_keep_their_names_and_labels() {
    let mut broken = Vec::new();
    // The pages of the watchers have no column for the type.
    for (pages, families, column) in [
        (["metrics", "gateway"], OF_REFERENCE, 3),
        (["network-watcher", "chain-watcher"], OF_REFERENCE_WATCHERS, 2),
    ] {
        let pages = pages.map(|page| read(&format!("docs/{page}.md")));
        for (family, labels) in families {
            let start = format!("| `{family}` |");
            let mut rows = pages.iter().flat_map(|page| page.lines());
            let row = rows.find(|row| row.starts_with(&start));
            let cell = row.and_then(|row| row.split('|').nth(column)).unwrap_or("no_row");
            let expected: BTreeSet<&str> = labels.iter().copied().collect();
            if labels_in(cell) != expected {
                broken.push(format!("{family}: {cell}"));
            }
        }
    }
    assert_none(&broken, "families of the reference implementation have its labels");
}

/// An alert on such a family stays silent for ever, so its operator has to find it on the page.
#[test]
fn absent_families_of_the_reference_node_are_named() {
    let page = read("docs/metrics.md");
    let (_, section) = page.split_once("\n## Beside the reference node\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let unnamed = ABSENT.iter().filter(|begin| !section.contains(&format!("`{begin}*`")));
    let mut broken: Vec<String> = unnamed.map(|begin| format!("{begin}* is not named")).collect();
    let exported = documented_samples();
    let is_absent = |name: &&String| ABSENT.iter().any(|begin| name.starts_with(begin));
    broken.extend(exported.iter().filter(is_absent).map(|name| format!("{name} has a row")));
    assert_none(&broken, "the page names exactly the families that are absent");
}

/// An operator looks a condition that is not met up in this runbook.
#[test]
fn each_condition_of_a_node_has_a_row_in_the_runbook_about_publishes() {
    let (metrics, runbook) = (read("docs/metrics.md"), read("docs/runbooks/publishes-refused.md"));
    let section = runbook.split("\n## The node is not ready\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: BTreeSet<&str> = conditions_in(&metrics).into_iter().collect();
    let explained: BTreeSet<&str> = names_in_rows(section).into_iter().collect();
    let broken = listed.symmetric_difference(&explained).map(|name| (*name).to_owned());
    let broken: Vec<String> = broken.collect();
    assert_none(&broken, "docs/metrics.md and the runbook have rows for the same conditions");
}

#[test]
fn each_alert_has_a_runbook_and_a_row_on_the_page() {
    let page = read("docs/alerts.md");
    let (_, section) = page.split_once("\n## The alerts\n").expect("the page lists them");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let rules = alert_rules();
    let mut broken = Vec::new();
    for AlertRule { name, severity, runbook } in &rules {
        let (path, anchor) = runbook.split_once('#').unwrap_or((runbook.as_str(), ""));
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        let has_heading = anchor.is_empty() || anchors(&text).contains(&anchor.to_owned());
        if text.is_empty() || !has_heading {
            broken.push(format!("{name}: no runbook {runbook}"));
        } else if !text.contains(&format!("`{name}`")) {
            broken.push(format!("{path} does not name its alert {name}"));
        }
        let link = format!("]({})", runbook.trim_start_matches("docs/"));
        let start = format!("| `{name}` | {severity} |");
        if !rows.iter().any(|row| row.starts_with(&start) && row.contains(&link)) {
            broken.push(format!("docs/alerts.md: no row {start} with {link}"));
        }
    }
    assert!(rules.len() > 50, "the rules were read");
    assert_eq!(rows.len(), rules.len(), "docs/alerts.md lists only alerts that exist");
    assert_none(&broken, "an alert leads to a page that says what to do");
}

/// Returns promtool, as `scripts/promtool` fetches it; or else the one in `PATH`, if there is one.
fn promtool() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let fetched = cache.map(|cache| cache.join("hawser-tools/prometheus/usr/bin/promtool"));
    fetched.filter(|path| path.is_file()).unwrap_or_else(|| "promtool".into())
}

/// Runs promtool in a folder; returns `None` on a system without it.
fn run_promtool(words: &[&str], folder: &Path) -> Option<Output> {
    match Command::new(promtool()).args(words).current_dir(folder).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = "because there is no promtool, which scripts/promtool fetches";
            let _ = writeln!(io::stderr(), "NOT TESTED: alerts, {why}");
            None
        }
        ran => Some(ran.unwrap()),
    }
}

fn assert_succeeded(output: &Output) {
    let printed = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}", printed.concat());
}

#[test]
fn each_alert_fires_when_it_should_and_a_healthy_network_raises_none() {
    // A test that names no alert would pass.
    let text = read(RULE_TESTS);
    let silent = alert_rules().into_iter().filter(|rule| {
        let expected = format!("alertname=\"{}\",severity=\"{}\"", rule.name, rule.severity);
        !text.contains(&expected)
    });
    let silent: Vec<_> = silent.map(|rule| format!("{} ({})", rule.name, rule.severity)).collect();
    assert_none(&silent, "a test shows that the alert fires");
    let folder = root().join(RULES).parent().unwrap().to_owned();
    let tests = RULE_TESTS.rsplit('/').next().unwrap();
    if let Some(output) = run_promtool(&["test", "rules", tests], &folder) {
        assert_succeeded(&output);
    }
}

/// Returns the dashboards with their paths.
fn dashboards() -> Vec<(String, Value)> {
    let found = texts(&["json"]).into_iter().filter(|(path, _)| path.starts_with(DASHBOARDS));
    found.map(|(path, text)| (path, serde_json::from_str(&text).unwrap())).collect()
}

/// Returns the text at a place of a dashboard, such as `/title`; empty if there is none.
fn text_at<'a>(value: &'a Value, place: &str) -> &'a str {
    value.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn each_panel_explains_itself_and_shows_metrics_that_are_documented() {
    let known = documented_samples();
    let (mut broken, mut queries) = (Vec::new(), Vec::new());
    for (path, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = text_at(panel, "/title");
            let explained = ["/title", "/description", "/fieldConfig/defaults/unit"];
            if explained.iter().any(|place| text_at(panel, place).is_empty()) {
                broken.push(format!("{path}: {title}: a title, a description and a unit"));
            }
            if text_at(panel, "/datasource/uid") != "${datasource}" {
                broken.push(format!("{path}: {title}: the data source is the variable"));
            }
            let targets = panel["targets"].as_array().unwrap();
            for query in targets.iter().map(|target| text_at(target, "/expr").to_owned()) {
                let is_documented = {
                    let used = metrics_in(&query);
                    !used.is_empty() && used.iter().all(|name| known.contains(*name))
                };
                if !is_documented {
                    broken.push(format!("{path}: {title}: {query}"));
                }
                queries.push(query);
            }
        }
    }
    assert!(queries.len() > 80, "the dashboards were read");
    assert_none(
        &broken,
        "a panel explains itself, and shows samples that a page about metrics lists",
    );
    // As rules, the queries are checked by Prometheus' own parser. YAML contains JSON.
    let rule = |query: &String| json!({ "record": "panel", "expr": query });
    let rules: Vec<_> = queries.iter().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string();
    fs::write(folder.path().join("panels.yml"), file).unwrap();
    let words = ["check", "rules", "--lint=none", "panels.yml"];
    if let Some(output) = run_promtool(&words, folder.path()) {
        assert_succeeded(&output);
    }
}
