//! The alerts in `deploy/` use metrics that are exported, and lead to runbooks that exist.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use crate::{anchors, assert_none, root};

/// The alerts, as Prometheus loads them.
const RULES: &str = "deploy/prometheus/hawser.rules.yml";
/// Their tests, as promtool runs them.
const RULE_TESTS: &str = "deploy/prometheus/hawser.rules.test.yml";
/// Beginnings of the names of metrics. No label begins like this.
const METRIC_PREFIXES: [&str; 5] = ["xmtp_", "xmtpd_", "grpc_server_", "db_query_", "process_"];

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

/// Returns the names of all samples that the pages about metrics list.
fn documented_samples() -> BTreeSet<String> {
    let mut samples = BTreeSet::new();
    for page in ["metrics", "gateway", "network-watcher", "chain-watcher"] {
        let text = read(&format!("docs/{page}.md"));
        for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
            let Some((name, rest)) = row.split_once('`') else { continue };
            let is_histogram = rest.contains("| histogram");
            let endings: &[&str] = match rest.split('|').nth(1).map(str::trim) {
                _ if is_histogram => &["_bucket", "_sum", "_count"],
                Some("counter") => &["_total"],
                _ => &[""],
            };
            samples.extend(endings.iter().map(|ending| format!("{name}{ending}")));
        }
    }
    samples
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

#[test]
fn each_alert_has_a_runbook_and_a_row_on_the_page() {
    let page = read("docs/alerts.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let rules = alert_rules();
    let mut broken = Vec::new();
    for AlertRule { name, severity, runbook } in &rules {
        let (path, anchor) = runbook.split_once('#').unwrap_or((runbook.as_str(), ""));
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        let has_heading = anchor.is_empty() || anchors(&text).contains(&anchor.to_owned());
        if text.is_empty() || !has_heading {
            broken.push(format!("{name}: no runbook {runbook}"));
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

#[test]
fn each_alert_fires_when_it_should_and_a_healthy_network_raises_none() {
    let folder = root().join(RULES).parent().unwrap().to_owned();
    let tests = RULE_TESTS.rsplit('/').next().unwrap();
    let ran = Command::new(promtool()).args(["test", "rules", tests]).current_dir(folder).output();
    let output = match ran {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("passed over: there is no promtool, which scripts/promtool fetches");
            return;
        }
        ran => ran.unwrap(),
    };
    let texts =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", texts.concat());
    // A test that names no alert would pass.
    let text = read(RULE_TESTS);
    let silent = alert_rules().into_iter().filter(|rule| {
        let expected = format!("alertname=\"{}\",severity=\"{}\"", rule.name, rule.severity);
        !text.contains(&expected)
    });
    let silent: Vec<_> = silent.map(|rule| format!("{} ({})", rule.name, rule.severity)).collect();
    assert_none(&silent, "a test shows that the alert fires");
}
