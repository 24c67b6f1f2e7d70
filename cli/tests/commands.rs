//! Output and exit codes of the commands without a network.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use crate::support::{self, Running, free_base, hawser, json, page, run, signal, stderr, stdout};

#[test]
fn keys_are_made_written_once_and_shown() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("key");
    let path = path.to_str().unwrap();
    let made = json(&["keys", "generate", "--json", "--out", path]);
    assert!(made.get("private_key").is_none());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = json(&["keys", "show", "--json", path]);
    assert_eq!(shown["address"], made["address"]);
    let public_key = shown["public_key"].as_str().unwrap();
    assert_eq!(public_key.len(), 2 + 130);
    let compressed = shown["compressed_public_key"].as_str().unwrap();
    assert_eq!((compressed.len(), &compressed[4..]), (2 + 66, &public_key[4..68]));
    assert_eq!(run(&["keys", "generate", "--out", path]).status.code(), Some(1), "not replaced");

    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&["keys", "show", path]).status.code(), Some(3));
    assert_eq!(run(&["keys", "show", "nowhere"]).status.code(), Some(4));

    let printed = json(&["keys", "generate", "--json"]);
    assert_eq!(printed["private_key"].as_str().unwrap().len(), 2 + 64);
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["moon"][..],
        &["publish"],
        &["node", "--api.prot", "1"],
        &["tail", "--node", "not-an-address"],
        &["tail", "--node", "127.0.0.1:1", "--from", "yesterday"],
        &["query", "topics", "--node", "127.0.0.1:1"],
        &["query", "topics", "--node", "127.0.0.1:1", "00"],
        &["query", "originators", "--node", "127.0.0.1:1", "x"],
        &["query", "originators", "--node", "127.0.0.1:1", "1", "--from", "now"],
        &["payer", "estimate", "--size", "350", "--retention", "1"],
        &["payer", "estimate", "--size", "350", "--retention", "400"],
        &["payer", "estimate", "--size", "350", "--at", "moon", "--rpc-url", "http://127.0.0.1:1"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert!(run(&["-v"]).status.success());
    assert!(run(&["import", "xmtpd-postgres", "--help"]).status.success(), "another name");
    let estimate = run(&["payer", "estimate", "--size", "350", "--retention", "400"]);
    assert!(support::stderr(&estimate).contains("2 to 365 days"), "{estimate:?}");
    let estimate = ["payer", "estimate", "--size", "350", "--rpc-url", "http://127.0.0.1:1"];
    let unreached =
        run(&[&estimate[..], &["--at", "testnet", "--retention", "4294967295"]].concat());
    assert_eq!(
        unreached.status.code(),
        Some(1),
        "the network is known, its chain away: {unreached:?}"
    );
    let nowhere = tempfile::tempdir().unwrap();
    let address = format!("0x{}", "11".repeat(20));
    let mut bill = support::hawser();
    let bill = bill.args(["payer", "usage", &address, "--verify"]).current_dir(&nowhere);
    let bill = bill.output().unwrap();
    assert_eq!(bill.status.code(), Some(2));
    assert!(support::stderr(&bill).contains("--from"), "{bill:?}");
    assert_eq!(run(&["audit", "verify-evidence", "missing.evidence"]).status.code(), Some(4));
    assert_eq!(run(&["audit", "identities", "--from", "missing"]).status.code(), Some(4));
    for more in [&[][..], &["--repair"]] {
        let scrub = run(&[&["scrub", "--data-dir", "missing"], more].concat());
        assert_eq!(scrub.status.code(), Some(4), "{scrub:?}");
    }
}

#[test]
fn the_disk_for_a_rate_is_computed_with_the_second_copy_of_small_envelopes() {
    let of = |args: &[&str]| json(&[&["size", "--json"][..], args].concat());
    let small = of(&["--rate", "10/s", "--bytes", "720", "--retention", "30"]);
    assert_eq!(small["envelopes_per_day"], 864_000);
    assert_eq!(small["bytes_per_envelope"], 2 * 720 + 400);
    assert_eq!(small["bytes"], 864_000_u64 * 1_840 * 30);
    let large = of(&["--rate", "1000", "--bytes", "3000", "--retention", "4294967295"]);
    assert_eq!((&large["bytes_per_day"], &large["bytes"]), (&3_400_000.into(), &Value::Null));
    for (rate, retention) in [("fast", "60"), ("1/week", "60"), ("1", "1")] {
        let wrong = run(&["size", "--rate", rate, "--bytes", "1", "--retention", retention]);
        assert_eq!(wrong.status.code(), Some(2), "{rate} {retention}: {wrong:?}");
    }
}

#[test]
fn a_chain_watcher_takes_the_environment_of_the_reference() {
    let watch = |port: &str| {
        let mut command = hawser();
        command.args(["chain-watcher", "--contracts.environment", "testnet"]);
        command.env("SETTLEMENT_CHAIN_RPC_URL", "http://127.0.0.1:1").env("METRICS_PORT", port);
        command
    };
    let wrong = watch("moon").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("METRICS_PORT=moon"), "{wrong:?}");
    let once = watch("8008").arg("--once").output().unwrap();
    assert_eq!(once.status.code(), Some(1), "it has an endpoint, which is away: {once:?}");
    let mut running = Running::start(watch(&free_base(0).to_string()), true);
    running.line("address", |line| line.contains("http://0.0.0.0:"));
    signal(running.pid(), "TERM");
    assert!(running.end().success());
}

/// In a clone of the repository the commit is git's. Elsewhere it may be missing.
#[test]
fn the_version_names_the_commit() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    let version_line = stdout(&output);
    let version = format!("hawser {}", env!("CARGO_PKG_VERSION"));
    let mut git = Command::new("git");
    git.args(["log", "-n1000", "--format=%H"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let commits = git.output().map(|output| stdout(&output)).unwrap_or_default();
    let Some(rest) = version_line.trim().strip_prefix(&version) else { panic!("{version_line:?}") };
    let commit = rest.trim().trim_start_matches('(').trim_end_matches(')');
    if commits.is_empty() {
        return;
    }
    assert_eq!(commit.len(), 12, "{version_line:?}");
    assert!(
        commits.lines().any(|known| known.starts_with(commit)),
        "{version_line:?} is of this repository"
    );
}

#[test]
fn a_node_tells_all_faults_of_its_settings_at_once() {
    let mut command = hawser();
    command.args(["node", "--api.port", "x", "--durability=never"]);
    let output = command.env("XMTPD_LOG_ENCODING", "xml").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for part in [
        "--api.port",
        "--durability",
        "\"xml\"",
        "settlement-chain.rpc-url",
        "--signer.private-key",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn settings_are_checked_and_printed_without_a_node() {
    let single = Single::new();
    let config = single.place.path().join("hawser.toml");
    let file = |name: &str| single.place.path().join(name).display().to_string();
    let content = format!(
        "registry-file = {:?}\nrates-file = {:?}\n[signer]\nprivate-key-file = {:?}\n",
        file("registry.json"),
        file("rates.json"),
        file("key"),
    );
    fs::write(&config, content).unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(json(&["config", "check", "--json", "--config", config])["ok"], true);
    assert!(!single.place.path().join("data").exists());

    let output = run(&["config", "print", "--config", config, "-p", "7000"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let secret = fs::read_to_string(file("key")).unwrap();
    assert!(!text.contains(secret.trim()), "{text}");
    assert!(text.contains("# signer.private-key: the key of 0x"), "{text}");
    let line = text.lines().find(|line| line.starts_with("api.port")).unwrap();
    assert!(line.starts_with("api.port = \"7000\"") && line.ends_with("# flag"), "{line}");
    // The printed settings can be read back.
    let printed = single.place.path().join("printed.toml");
    fs::write(&printed, text.replace("config = ", "# config = ")).unwrap();
    let key = file("key");
    let again = ["config", "check", "--config", printed.to_str().unwrap()];
    let output = run(&[&again[..], &["--signer.private-key-file", &key]].concat());
    assert!(output.status.success(), "{}", stderr(&output));

    fs::write(file("registry.json"), "{\"nodes\":[]}").unwrap();
    let output = run(&["config", "check", "--config", config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no node has the key of 0x"), "{}", stderr(&output));
    let output = run(&["config", "check", "--config", config, "--api.port", "x"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    let secret = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
    let output = run(&["node", "--signer.private-key", secret]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("--signer.private-key-file"), "{text}");
    assert!(!text.contains(secret), "{text}");
}

#[test]
fn missing_things_exit_with_4_and_refusals_with_3() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key");
    let key = key.to_str().unwrap();
    let publish = |file: &str| {
        run(&["publish", "--node", "127.0.0.1:1", "--payer-key-file", key, "--file", file])
    };
    assert_eq!(publish("nowhere").status.code(), Some(4), "no key");
    json(&["keys", "generate", "--json", "--out", key]);
    assert_eq!(publish("nowhere").status.code(), Some(4), "no envelopes");
    let output = publish(key);
    assert_eq!(output.status.code(), Some(1));
    assert!(!stderr(&output).contains(fs::read_to_string(key).unwrap().trim()));
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(publish("nowhere").status.code(), Some(3), "a key that others can read");
    assert_eq!(run(&["rebuild", "--data-dir", "nowhere"]).status.code(), Some(4));
    assert_eq!(run(&["status", "--network", "nowhere"]).status.code(), Some(4));

    let single = Single::new();
    fs::remove_file(single.place.path().join("rates.json")).unwrap();
    assert_eq!(single.command().output().unwrap().status.code(), Some(4));
}

#[test]
fn an_address_without_a_listener_is_a_failure_in_both_forms() {
    let address = format!("127.0.0.1:{}", free_base(1));
    let output = run(&["tail", "--node", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address));
    let output = run(&["tail", "--json", "--node", &address]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit_code"], 1);
    assert_eq!(run(&["status", "--metrics", &address]).status.code(), Some(1));
    for command in [&["health"][..], &["misbehavior", "list"], &["report", "list"]] {
        let output = run(&[command, &["--metrics", &address]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(stderr(&output).contains(&address), "{command:?}: {}", stderr(&output));
    }
}

/// A folder with the files that a single node needs.
pub(crate) struct Single {
    pub(crate) place: tempfile::TempDir,
    pub(crate) base: u16,
}

impl Single {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let key = place.path().join("key");
        let made = json(&["keys", "generate", "--json", "--out", key.to_str().unwrap()]);
        let base = free_base(1);
        let registry = serde_json::json!({ "nodes": [{
            "nodeId": 100,
            "signer": made["address"],
            "isCanonical": true,
            "signingPublicKey": made["public_key"],
            "httpAddress": format!("http://127.0.0.1:{base}"),
        }]});
        let rates = serde_json::json!({ "rates": [{
            "messageFee": 100, "storageFee": 200, "congestionFee": 300,
            "targetRatePerMinute": 6000, "startTime": 0,
        }]});
        fs::write(place.path().join("registry.json"), registry.to_string()).unwrap();
        fs::write(place.path().join("rates.json"), rates.to_string()).unwrap();
        Self { place, base }
    }

    pub(crate) fn command(&self) -> std::process::Command {
        let file = |name: &str| self.place.path().join(name).display().to_string();
        let mut command = hawser();
        command.args(["node", "--data-dir", &file("data"), "--shutdown-drain", "0s"]);
        command.args(["--state-dir", &file("state")]).env("HAWSER_NEW_STRAND", "true");
        command.args(["--registry-file", &file("registry.json")]);
        command.args(["--rates-file", &file("rates.json")]);
        command.args(["--listen-address", "127.0.0.1", "-p", &self.base.to_string()]);
        command.args(["--metrics.metrics-port", &(self.base + 1).to_string()]);
        command.env("XMTPD_SIGNER_PRIVATE_KEY_FILE", file("key"));
        command
    }
}

#[test]
fn a_node_starts_with_the_environment_of_the_reference_and_stops_at_a_signal() {
    let single = Single::new();
    for name in ["TERM", "INT", "HUP", "QUIT"] {
        let mut command = single.command();
        command.env("XMTPD_DB_WRITER_CONNECTION_STRING", "postgres://x").arg("--api.enable");
        command.env("XMTPD_API_PROT", "1").arg("--log.log-encoding=json");
        let mut node = Running::start(command, true);
        node.line("a note", |line| line.contains("CONNECTION_STRING has no effect"));
        node.line("a note", |line| line.contains("XMTPD_API_PROT is not known"));
        let started = node.line("start", |line| line.contains("started api server"));
        let started: Value = serde_json::from_str(&started).unwrap();
        assert_eq!(started["port"], single.base);
        assert_eq!(started["node_id"], 100);
        let status =
            json(&["status", "--json", "--metrics", &format!("127.0.0.1:{}", single.base + 1)]);
        assert_eq!(status[0]["status"]["node_id"], 100);
        signal(node.pid(), name);
        assert_eq!(node.end().code(), Some(0), "{name}");
    }
}

#[test]
fn a_node_that_was_stopped_leaves_no_write_ahead_log_to_read_back() {
    let single = Single::new();
    let wal_len_bytes = || -> u64 {
        let files = fs::read_dir(single.place.path().join("data")).unwrap().map(Result::unwrap);
        let logs = files.filter(|file| file.path().extension().is_some_and(|it| it == "log"));
        logs.map(|file| file.metadata().unwrap().len()).sum()
    };
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    assert!(wal_len_bytes() > 0, "the price list at least was written");
    signal(node.pid(), "TERM");
    assert!(node.end().success());
    assert_eq!(wal_len_bytes(), 0);
}

#[test]
fn a_service_manager_is_told_of_start_and_stop() {
    let single = Single::new();
    let path = single.place.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let received = || {
        let mut buffer = [0; 64];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let mut command = single.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "60000000");
    let node = Running::start(command, true);
    assert_eq!(received(), "READY=1");
    assert_eq!(received(), "WATCHDOG=1");
    assert!(page(&format!("127.0.0.1:{}", single.base + 1), "/readyz").contains("200 OK"));
    signal(node.pid(), "TERM");
    assert_eq!(received(), "STOPPING=1");
    assert!(node.end().success());
}

#[test]
fn what_a_running_node_logs_is_changed_for_a_while() {
    let single = Single::new();
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    let data = single.place.path().join("data");
    let log_level = |args: &[&str]| {
        run(&[&["log-level", "--json", "--data-dir", data.to_str().unwrap()], args].concat())
    };
    let shown = |args: &[&str]| -> Value {
        let output = log_level(args);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(shown(&[])["filter"], Value::Null);
    let set = shown(&["warn,hawser_engine=debug", "--for", "1h"]);
    assert_eq!(set["filter"], "warn,hawser_engine=debug");
    assert!(set["left_s"].as_u64().is_some_and(|left| left <= 3600), "{set}");
    node.line("the change", |line| line.contains("the operator changes what is logged"));
    for (wrong, named) in [
        (&["loud"][..], "is not a level"),
        (&["[a{b=c}]=info"], "is not a logger"),
        (&["info", "--for", "25h"], "a filter lasts"),
    ] {
        let output = log_level(wrong);
        assert_eq!(output.status.code(), Some(3), "{wrong:?}");
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
    assert_eq!(shown(&[])["filter"], "warn,hawser_engine=debug", "a refusal changes nothing");
    assert_eq!(shown(&["--reset"])["filter"], Value::Null);
    node.line("the end", |line| line.contains("as in the settings again"));
    signal(node.pid(), "TERM");
    assert!(node.end().success());
    assert_eq!(log_level(&[]).status.code(), Some(4), "no node runs");
}

#[test]
fn a_node_that_serves_no_clients_is_still_watched() {
    let single = Single::new();
    let metrics = format!("127.0.0.1:{}", single.base + 1);
    let mut command = single.command();
    let mut node = Running::start(
        {
            command.arg("--api.enable=false");
            command
        },
        true,
    );
    node.line("the start", |line| line.contains("no clients are served"));
    assert!(run(&["status", "--metrics", &metrics]).status.success());
    assert!(page(&metrics, "/metrics").contains("xmtp_ready{for=\"publish\"} 1"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", single.base)).is_err());
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

#[test]
fn a_draining_node_is_not_ready_and_a_second_signal_ends_it_at_once() {
    let single = Single::new();
    let metrics = format!("127.0.0.1:{}", single.base + 1);
    let mut command = single.command();
    let mut node = Running::start(
        {
            command.args(["--shutdown-drain", "10m"]);
            command
        },
        true,
    );
    node.line("start", |line| line.contains("started api server"));
    assert!(run(&["status", "--metrics", &metrics]).status.success());
    let health = |purpose: &str| run(&["health", "--for", purpose, "--metrics", &metrics]);
    assert_eq!(stdout(&health("publish")), "ready to publish\n");
    signal(node.pid(), "TERM");
    node.line("stop", |line| line.contains("stopping"));
    assert!(health("start").status.success());
    let output = health("read");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not_draining"), "{}", stderr(&output));
    let output = run(&["status", "--metrics", &metrics]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("not_draining"), "{}", stdout(&output));
    signal(node.pid(), "INT");
    let line = node
        .line("what had not ended", |line| line.contains("stopped before all its work had ended"));
    assert!(line.contains("calls and streams of clients"), "{line}");
    assert_eq!(node.end().code(), Some(1));
}

#[test]
fn a_registry_and_prices_that_change_are_taken_over_and_bad_ones_are_reported() {
    let single = Single::new();
    let path = single.place.path().join("registry.json");
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    let mut registry: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::write(&path, "{").unwrap();
    node.line("a complaint", |line| {
        line.contains("file_ignored") && line.contains("registry.json")
    });
    registry["nodes"][0]["isCanonical"] = false.into();
    fs::write(&path, registry.to_string()).unwrap();
    node.line("the change", |line| line.contains("the registry has changed"));
    let metrics = format!("127.0.0.1:{}", single.base + 1);
    let output = run(&["status", "--metrics", &metrics]);
    assert!(stdout(&output).contains("not canonical"), "{}", stdout(&output));
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

#[test]
fn a_node_without_a_record_says_whose_key_it_has() {
    let single = Single::new();
    fs::write(single.place.path().join("registry.json"), "{\"nodes\":[]}").unwrap();
    let output = single.command().output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("has the key of this node"), "{}", stderr(&output));
}

#[test]
fn a_bad_line_in_the_chain_file_is_named_at_start() {
    let single = Single::new();
    let chain = single.place.path().join("chain.jsonl");
    fs::write(&chain, "\n{\"hex\":\"zz\",\"expect_route\":\"chain:group\"}\n").unwrap();
    let output = single.command().arg("--chain-file").arg(&chain).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 2: hex: "), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let single = Single::new();
    for port in [single.base, single.base + 1] {
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = single.command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains(&format!("127.0.0.1:{port}: ")), "{text}");
        assert!(text.contains("--metrics.metrics-port"), "{text}");
    }
}

#[test]
fn a_database_belongs_to_one_network() {
    let single = Single::new();
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    signal(node.pid(), "TERM");
    assert!(node.end().success());
    let output = single.command().args(["--network", "other"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("belongs to network hawser"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

/// The commands of the pages for operators and administrators are commands of this program, with their flags.
#[test]
fn commands_of_the_pages_are_understood() {
    let pages = [
        "administration.md",
        "bench.md",
        "chain-watcher.md",
        "network-watcher.md",
        "runbooks/fund-a-payer.md",
        "runbooks/rotate-a-key.md",
    ];
    let mut seen = 0;
    for page in pages {
        let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
        for line in text.lines().filter_map(|line| line.strip_prefix("    hawser ")) {
            let command = line.split(['#', '>']).next().unwrap();
            let words = command.split_whitespace().filter(|word| *word != "…");
            let words = words.map(|word| match word {
                "0x…" => "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef",
                "N" => "1",
                own => own,
            });
            let words: Vec<_> = words.chain(["--help"]).collect();
            let output = run(&words);
            assert!(output.status.success(), "{page}: {command}: {}", stderr(&output));
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}

/// The checks of `hawser doctor` with the flags of this node's command: name, result and finding.
fn examined(command: &Command) -> (Option<i32>, Vec<(String, String, String)>) {
    let mut doctor = hawser();
    doctor.args(["doctor", "--json"]).args(command.get_args().skip(1));
    doctor.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = doctor.output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = page["checks"].as_array().unwrap().iter();
    let checks = checks.map(|it| (text(it, "check"), text(it, "result"), text(it, "found")));
    (output.status.code(), checks.collect())
}

fn result_of(checks: &[(String, String, String)], name: &str) -> Vec<String> {
    let of_name = checks.iter().filter(|(check, ..)| check == name);
    of_name.map(|(_, result, _)| result.clone()).collect()
}

#[test]
fn a_doctor_examines_a_node_before_it_runs_beside_it_and_when_it_cannot() {
    let single = Single::new();
    let (code, checks) = examined(&single.command());
    assert_eq!(code, Some(0), "{checks:?}");
    for name in ["settings", "processor", "data_folder", "registry", "host_marker", "process"] {
        assert_eq!(result_of(&checks, name), ["ok"], "{name}: {checks:?}");
    }
    assert_eq!(result_of(&checks, "ports"), ["ok", "ok", "ok"], "TCP twice, and UDP");
    assert!(!single.place.path().join("data").exists(), "it makes nothing");

    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    let health = ["health", "--for", "publish", "--metrics"];
    let metrics = format!("127.0.0.1:{}", single.base + 1);
    support::until("it is ready", || run(&[&health[..], &[&metrics]].concat()).status.success());
    let (code, checks) = examined(&single.command());
    assert_eq!(code, Some(0), "{checks:?}");
    assert_eq!(result_of(&checks, "ports"), ["ok"], "the API answers");
    assert_eq!(result_of(&checks, "cors"), ["ok"], "browsers may call it: {checks:?}");
    for protocol in ["grpc", "grpc_web"] {
        assert_eq!(result_of(&checks, protocol), ["ok"], "calls reach it: {checks:?}");
    }
    assert_eq!(result_of(&checks, "dns"), ["warn"], "only this machine reaches it: {checks:?}");
    let running = checks.iter().find(|(check, ..)| check == "process").unwrap();
    assert!(running.2.contains("publishes"), "{running:?}");
    signal(node.pid(), "TERM");
    assert!(node.end().success());

    // Another program has the port, the registry lacks the node, and the host's marker is gone.
    let held = std::net::TcpListener::bind(("127.0.0.1", single.base)).unwrap();
    fs::remove_dir_all(single.place.path().join("state")).unwrap();
    let (code, checks) = examined(&single.command());
    assert_eq!(code, Some(1), "{checks:?}");
    assert!(result_of(&checks, "ports").contains(&"fail".to_owned()), "{checks:?}");
    assert_eq!(result_of(&checks, "host_marker"), ["warn"], "{checks:?}");
    drop(held);
    fs::write(single.place.path().join("registry.json"), r#"{"nodes":[]}"#).unwrap();
    let (code, checks) = examined(&single.command());
    assert_eq!((code, result_of(&checks, "registry")), (Some(1), vec!["fail".to_owned()]));

    let output = run(&["doctor", "--api.port", "x"]);
    assert_eq!(output.status.code(), Some(1));
    let checks = stdout(&output);
    assert!(checks.starts_with("fail  settings: ") && checks.contains("--api.port"), "{checks}");
    assert!(checks.contains("\n      do: "), "each fault has its remedy: {checks}");
}
