//! A node without other nodes and without chains: how it starts, what it reports, and how it stops.

use std::fs;

use serde_json::Value;

use crate::support::{self, Running, free_base, hawser, json, page, run, signal, stderr, stdout};

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

    /// Returns a node that has made its data folder, and has stopped.
    fn with_folder() -> Self {
        let single = Self::new();
        let mut node = Running::start(single.command(), true);
        node.line("start", |line| line.contains("started api server"));
        signal(node.pid(), "TERM");
        assert!(node.end().success());
        single
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

/// The units of systemd start no program again that ends with this code.
#[test]
fn wrong_policies_end_a_gateway_with_the_exit_code_of_wrong_settings() {
    let single = Single::new();
    let file = |name: &str| single.place.path().join(name).display().to_string();
    for (policies, part) in [
        ("[default]\nenvelope_bytes_maximum = 1\n", "envelope_bytes_maximum"),
        ("[identity]\nkind = \"api-key\"\napi_keys = { alice = \"sha256:1\" }\n", "sha256"),
    ] {
        fs::write(file("policies.toml"), policies).unwrap();
        let mut command = hawser();
        command.args(["gateway", "--listen-address", "127.0.0.1"]);
        command.args(["-p", &single.base.to_string()]);
        command.args(["--metrics.metrics-port", &(single.base + 1).to_string()]);
        command.args(["--registry-file", &file("registry.json")]);
        command.args(["--rates-file", &file("rates.json"), "--payer.key-file", &file("key")]);
        let output = command.args(["--policies-file", &file("policies.toml")]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(part), "{output:?}");
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
    manager.set_read_timeout(Some(support::WAIT_MAX)).unwrap();
    let received = || {
        let mut buffer = [0; 64];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let mut command = single.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "60000000");
    let node = Running::start(command, true);
    assert_eq!(received(), "READY=1\nSTATUS=serving");
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
    node.line("the change", |line| line.contains("the operator changes the log filter"));
    for (wrong, named) in [
        (&["loud"][..], "is not a level"),
        (&["[a{b=c}]=info"], "is not a logger"),
        (&["info", "--for", "25h"], "from 1s to 24h"),
    ] {
        let output = log_level(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
    assert_eq!(shown(&[])["filter"], "warn,hawser_engine=debug", "a refusal changes nothing");
    assert_eq!(shown(&["--reset"])["filter"], Value::Null);
    node.line("the end", |line| line.contains("the log filter is that of the settings again"));
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
    let output = run(&["query", "cursors", "--node", &metrics]);
    assert_eq!(output.status.code(), Some(1), "this port is not that of the API");
    assert!(stderr(&output).contains("a node's API"), "{}", stderr(&output));
    assert!(page(&metrics, "/metrics").contains("xmtp_ready{for=\"publish\"} 1"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", single.base)).is_err());
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

#[test]
fn a_node_that_keeps_everything_prunes_nothing_on_command() {
    let single = Single::new();
    let data = single.place.path().join("data");
    let prune = ["prune", "--json", "--data-dir", data.to_str().unwrap()];
    for keeps in [true, false] {
        let mut command = single.command();
        command.env("XMTPD_PRUNE_DRY_RUN", keeps.to_string());
        let mut node = Running::start(command, true);
        node.line("start", |line| line.contains("started api server"));
        assert_eq!(json(&prune)["dry_run"], keeps, "the node's setting counts");
        signal(node.pid(), "TERM");
        assert!(node.end().success());
    }
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
    for step in ["calls and streams of clients", "pruning", "checkpoints", "database"] {
        assert!(line.contains(step), "{step}: {line}");
    }
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

/// Operators and their scripts tell a wrong path from a file that cannot be read, which is played by a folder.
#[test]
fn a_file_that_does_not_exist_has_an_exit_code_of_its_own() {
    let single = Single::new();
    let code_of = |mut command: std::process::Command, path: &std::path::Path| {
        let output = command.output().unwrap();
        assert!(stderr(&output).contains(path.to_str().unwrap()), "{}", stderr(&output));
        output.status.code()
    };
    for name in ["registry.json", "rates.json"] {
        let path = single.place.path().join(name);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(code_of(single.command(), &path), Some(4), "{name}");
        fs::create_dir(&path).unwrap();
        assert_eq!(code_of(single.command(), &path), Some(1), "{name}");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, content).unwrap();
    }
    let chain = single.place.path().join("chain.jsonl");
    let with_chain = || {
        let mut command = single.command();
        command.arg("--chain-file").arg(&chain);
        command
    };
    assert_eq!(code_of(with_chain(), &chain), Some(4));
    fs::create_dir(&chain).unwrap();
    assert_eq!(code_of(with_chain(), &chain), Some(1));
}

#[test]
fn a_bad_line_in_the_chain_file_is_named_at_start() {
    let single = Single::new();
    let chain = single.place.path().join("chain.jsonl");
    fs::write(&chain, "\n{\"hex\":\"zz\",\"expect_route\":\"chain:group\"}\n").unwrap();
    let output = single.command().arg("--chain-file").arg(&chain).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 2: hex: "), "{}", stderr(&output));
    // A check of the settings reads it as a start does.
    let file = |name: &str| single.place.path().join(name).display().to_string();
    let [key, registry, rates, chain] =
        ["key", "registry.json", "rates.json", "chain.jsonl"].map(file);
    let line = ["config", "check", "--signer.private-key-file", &key, "--chain-file", &chain];
    let files = ["--registry-file", &registry, "--rates-file", &rates];
    let output = run(&[&line[..], &files].concat());
    assert_eq!(output.status.code(), Some(2));
    let named = format!("--chain-file: {chain}: line 2: hex: ");
    assert!(stderr(&output).contains(&named), "{}", stderr(&output));
    fs::write(&chain, "").unwrap();
    assert_eq!(run(&[&line[..], &files].concat()).status.code(), Some(0));
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
fn a_start_with_a_port_in_use_dials_no_peer() {
    let single = Single::new();
    let key = single.place.path().join("peer-key");
    let made = json(&["keys", "generate", "--json", "--out", key.to_str().unwrap()]);
    let port = free_base(0);
    let path = single.place.path().join("registry.json");
    let mut registry: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    registry["nodes"].as_array_mut().unwrap().push(serde_json::json!({
        "nodeId": 200,
        "signer": made["address"],
        "isCanonical": true,
        "signingPublicKey": made["public_key"],
        "httpAddress": format!("http://127.0.0.1:{port}"),
    }));
    fs::write(&path, registry.to_string()).unwrap();
    let calls = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let packets = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    calls.set_nonblocking(true).unwrap();
    packets.set_nonblocking(true).unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", single.base + 1)).unwrap();
    let output = single.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("--metrics.metrics-port"), "{}", stderr(&output));
    let none = std::io::ErrorKind::WouldBlock;
    assert_eq!(packets.recv_from(&mut [0; 2048]).unwrap_err().kind(), none, "a packet came");
    assert_eq!(calls.accept().unwrap_err().kind(), none, "a call came");
    drop(taken);
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    support::until("a packet to the peer", || packets.peek_from(&mut [0; 2048]).is_ok());
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

#[test]
fn the_status_is_asked_for_where_the_settings_say_or_at_the_default_port() {
    let place = tempfile::tempdir().unwrap();
    // No node listens at this port.
    let config = place.path().join("node.toml");
    fs::write(&config, "[metrics]\nmetrics-port = 2\n").unwrap();
    let config = config.to_str().unwrap();
    let asked = |args: &[&str]| {
        let output = hawser().args(args).current_dir(place.path()).output().unwrap();
        (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
    };
    let (code, text) = asked(&["status", "--config", config]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("127.0.0.1:2") && text.contains("--config the file"), "{text}");
    // A node of this machine may listen at the default port.
    let (_, text) = asked(&["status"]);
    assert!(text.contains("127.0.0.1:8008"), "{text}");
    let (code, text) = asked(&["status", "--config", "nowhere.toml"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("nowhere.toml"), "{text}");
}

#[test]
fn an_empty_file_is_named_with_its_setting() {
    let single = Single::new();
    let file = |name: &str| single.place.path().join(name).display().to_string();
    let [key, registry, rates] = ["key", "registry.json", "rates.json"].map(file);
    fs::write(&registry, "").unwrap();
    fs::write(&rates, "\n").unwrap();
    let line = ["config", "check", "--signer.private-key-file", &key];
    let files = ["--registry-file", &registry, "--rates-file", &rates];
    let output = run(&[line, files].concat());
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for (flag, path) in [("--registry-file", registry), ("--rates-file", rates)] {
        assert!(text.contains(&format!("{flag}: {path}: the file is empty")), "{text}");
    }
}

#[test]
fn a_database_belongs_to_one_network() {
    let single = Single::with_folder();
    let output = single.command().args(["--network", "other"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("belongs to network hawser"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_folder_that_was_never_upgraded_has_nothing_to_return_to() {
    let single = Single::with_folder();
    let data = single.place.path().join("data").display().to_string();
    let refused = run(&["rollback", "--yes", "--data-dir", &data]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("no copy from before an upgrade"), "{}", stderr(&refused));
    let done = json(&["rollback", "--discard", "--json", "--data-dir", &data]);
    assert_eq!(done["removed"], 0);
    assert_eq!(run(&["rollback", "--data-dir", "missing"]).status.code(), Some(4));

    // A copy is there, and a script that does not confirm changes nothing.
    let copy = single.place.path().join("data/before-upgrade-5");
    fs::create_dir(&copy).unwrap();
    for what in
        [&["rollback", "--data-dir", &data][..], &["rollback", "--discard", "--data-dir", &data]]
    {
        let refused = run(what);
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("--yes"), "{}", stderr(&refused));
    }
    assert!(copy.exists());
    json(&["rollback", "--discard", "--yes", "--json", "--data-dir", &data]);
    assert!(!copy.exists());

    // As after a return that was interrupted at its end.
    fs::write(single.place.path().join("data/rollback-unfinished"), "back 5\n").unwrap();
    let refused = single.command().output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("run `hawser rollback` again"), "{}", stderr(&refused));
    let done = json(&["rollback", "--yes", "--json", "--data-dir", &data]);
    assert_eq!(done["format"], 5);
    assert!(!single.place.path().join("data/rollback-unfinished").exists());
}

#[test]
fn only_the_folder_of_a_replica_is_promoted_and_only_by_the_operators_word() {
    let single = Single::with_folder();
    let data = single.place.path().join("data").display().to_string();
    let signer = format!("0x{}", "11".repeat(20));
    let promote = ["promote", "--node-id", "100", "--signer", &signer, "--data-dir"];
    let confirmed = [&promote[..], &[data.as_str(), "--yes"]].concat();
    let refused = run(&confirmed);
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("only the folder of a replica"), "{}", stderr(&refused));
    // Its input is no terminal.
    let refused = run(&[&promote[..], &[data.as_str()]].concat());
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    let text = stderr(&refused);
    let rule = "nothing was changed: there is no terminal at which to ask. Give --yes to confirm";
    assert!(text.contains(rule), "{text}");
    let missing = run(&[&promote[..], &["missing", "--yes"]].concat());
    assert_eq!(missing.status.code(), Some(4), "{}", stderr(&missing));
}

/// With --complete the node would sign places again that the replica or the backup does not have.
#[test]
fn a_folder_that_may_lack_places_is_never_confirmed_as_complete() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("test-100");
    fs::create_dir(&folder).unwrap();
    let question = serde_json::json!({
        "id": "1", "node_id": 100, "network": "test", "data_dir": "data", "head": 7,
        "reason": "this host has not run this node before", "is_promoted": true,
    });
    fs::write(folder.join("quarantine.json"), question.to_string()).unwrap();
    let state_dir = place.path().to_str().unwrap();
    let confirmed = run(&["restore", "confirm", "--complete", "--yes", "--state-dir", state_dir]);
    assert_eq!(confirmed.status.code(), Some(3), "{}", stderr(&confirmed));
    assert!(stderr(&confirmed).contains("without --complete"), "{}", stderr(&confirmed));
    assert!(!folder.join("confirmed.json").exists());
}
