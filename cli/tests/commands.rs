//! Output and exit codes of the commands without a network.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::single_node::Single;
use crate::support::{self, Running, free_base, hawser, json, run, signal, stderr, stdout};

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
    let again = run(&["keys", "generate", "--out", path]);
    assert_eq!(again.status.code(), Some(3), "not replaced");
    assert!(stderr(&again).contains("name another file"), "{again:?}");

    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&["keys", "show", path]).status.code(), Some(3));
    assert_eq!(run(&["keys", "show", "nowhere"]).status.code(), Some(4));

    let printed = json(&["keys", "generate", "--json"]);
    assert_eq!(printed["private_key"].as_str().unwrap().len(), 2 + 64);
}

/// Otherwise `hawser audit replay … | head` would end as if the log were clean.
#[test]
fn a_command_whose_output_cannot_be_written_fails() {
    let size = ["size", "--rate", "100", "--bytes", "1"];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let closed = hawser().args(size).stdout(writer).output().unwrap();
    assert_eq!((closed.status.code(), stderr(&closed)), (Some(1), String::new()));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let full = hawser().args(size).stdout(full).output().unwrap();
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    assert!(stderr(&full).contains("the output cannot be written"), "{full:?}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let publish =
        ["publish", "--node", "127.0.0.1:1", "--payer-key-file", "none", "--file", "none"];
    let watcher =
        ["chain-watcher", "--rpc-url", "http://127.0.0.1:1", "--contracts.environment", "testnet"];
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
        &["report", "show", "0x12", "--metrics", "127.0.0.1:1"],
        &["report", "explain", "0x12", "--metrics", "127.0.0.1:1"],
        &["report", "list", "--metrics", "127.0.0.1"],
        &["misbehavior", "list", "--metrics", "127.0.0.1:1", "--after", "yesterday"],
        &["misbehavior", "list", "--metrics", "127.0.0.1:65536"],
        &["misbehavior", "export", "--node", "127.0.0.1:1", "--after", "yesterday"],
        &[&watcher[..], &["--once", "--every", "0s"]].concat()[..],
        &["status", "--metrics", "not-an-address"],
        &[&publish[..], &["--target", "100", "--retention-days", "1"]].concat()[..],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let probe = run(&["health", "--metrics", "not-an-address"]);
    assert_eq!(probe.status.code(), Some(1), "a probe has no other code: {probe:?}");
    let silent = run(&["health", "--metrics", "127.0.0.1:1"]);
    assert_eq!(silent.status.code(), Some(1));
    assert!(stderr(&silent).contains("--metrics names the address"), "{silent:?}");
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
fn an_error_says_what_to_do() {
    let single = Single::new();
    let registry = single.place.path().join("registry.json");
    let registry = registry.to_str().unwrap();
    for (args, code, advice) in [
        (&["status"][..], 1, "--metrics names the address"),
        (&["rollback"], 4, "--data-dir"),
        (&["fees", "claim", "--node", "100"], 2, "--from ADDRESS"),
        (&["audit", "check-partition", ".", "--registry", registry], 2, "*.parquet"),
    ] {
        let mut command = hawser();
        command.args(args).current_dir(single.place.path());
        // No node listens at this port.
        let output = command.env("XMTPD_METRICS_METRICS_PORT", "2").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(advice), "{args:?}: {output:?}");
    }
}

#[test]
fn a_wrong_command_line_is_told_as_json_where_json_is_asked_for() {
    for args in [&["--json", "moon"][..], &["query", "cursors", "--json"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["exit_code"], 2, "{args:?}");
        assert!(error["error"].as_str().unwrap().contains("--help"), "{args:?}: {error}");
    }
    assert!(run(&["status", "--json", "--help"]).status.success(), "help is no error");
    assert!(stderr(&run(&["moon"])).starts_with("error: "), "for people it is text");
}

/// Writes the file of a network with one node, which does not run, below a folder. Its metrics are at port 1.
fn write_network(place: &Path, data_dir: &Path) -> PathBuf {
    let node = serde_json::json!({
        "node_id": 100,
        "grpc": "127.0.0.1:1",
        "quic": "127.0.0.1:1",
        "metrics": "127.0.0.1:1",
        "address": "0x00",
        "public_key": "0x04",
        "data_dir": data_dir,
        "pid": 1,
    });
    fs::create_dir(place.join("hawser-dev")).unwrap();
    let network = serde_json::json!({ "nodes": [node], "payer_key_file": "payer.key" });
    let file = place.join("hawser-dev/network.json");
    fs::write(&file, network.to_string()).unwrap();
    file
}

#[test]
fn all_commands_choose_the_node_to_ask_by_one_rule() {
    let place = tempfile::tempdir().unwrap();
    let file = write_network(place.path(), &place.path().join("of-network"));
    let (report, payer) = (format!("0x{}", "22".repeat(32)), format!("0x{}", "11".repeat(20)));
    let asked = |args: &[&str], variable: Option<&str>| {
        let mut command = hawser();
        command.args(args).current_dir(&place);
        // No node listens at the ports 1 and 2, and none runs on the folder.
        match variable {
            Some("XMTPD_METRICS_METRICS_PORT") => command.env("XMTPD_METRICS_METRICS_PORT", "2"),
            Some(name) => command.env(name, "elsewhere"),
            None => &mut command,
        };
        let output = command.output().unwrap();
        (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
    };
    let file = file.to_str().unwrap();
    for (command, has_network_flag) in [
        (&["health"][..], false),
        (&["status", "--json"], true),
        (&["misbehavior", "list"], false),
        (&["report", "list"], true),
        (&["report", "show", &report], true),
        (&["report", "explain", &report], true),
        (&["report", "settled", &report], true),
        (&["payer", "usage", &payer], true),
    ] {
        let (code, text) = asked(command, None);
        assert_eq!(code, Some(1), "{command:?}: {text}");
        assert!(text.contains("127.0.0.1:1"), "the network of the folder: {command:?}: {text}");
        let variable = Some("XMTPD_METRICS_METRICS_PORT");
        let (code, text) = asked(command, variable);
        assert_eq!(code, Some(1), "{command:?}: {text}");
        assert!(text.contains("127.0.0.1:2"), "the settings: {command:?}: {text}");
        if has_network_flag {
            let (_, text) = asked(&[command, &["--network", file]].concat(), variable);
            assert!(text.contains("127.0.0.1:1"), "a file that is named: {command:?}: {text}");
        }
        let (_, text) = asked(&[command, &["--metrics", "127.0.0.1:3"]].concat(), variable);
        assert!(text.contains("127.0.0.1:3"), "an address that is named: {command:?}: {text}");
    }
    for variable in ["XMTPD_METRICS_METRICS_PORT", "HAWSER_DATA_DIR"] {
        let (code, text) = asked(&["peers"], Some(variable));
        assert_eq!(code, Some(4), "{variable}: {text}");
        assert!(!text.contains("of-network"), "{variable}: {text}");
    }
    let verify = ["payer", "usage", &payer, "--verify"];
    let (code, text) = asked(&verify, Some("XMTPD_SETTLEMENT_CHAIN_RPC_URL"));
    assert_eq!(code, Some(2), "the log of one network says nothing about another chain: {text}");
    assert!(text.contains("--from"), "{text}");
}

/// Answers each request with this JSON. Returns the port.
fn answering(json: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
            write!(stream, "{head}: {}\r\n\r\n{json}", json.len()).unwrap();
        }
    });
    port
}

/// The chain of the current folder's network says nothing about a node of other settings.
#[test]
fn settled_amounts_are_read_from_the_chain_of_the_node_that_is_asked() {
    let place = tempfile::tempdir().unwrap();
    let file = write_network(place.path(), &place.path().join("of-network"));
    let port = answering(r#"{ "leaves_settled": 1, "state": "submitted" }"#).to_string();
    let report = format!("0x{}", "22".repeat(32));
    let asked = |args: &[&str], port: Option<&str>| {
        let mut command = hawser();
        command.args(["report", "settled", &report]).args(args).current_dir(&place);
        command.envs(port.map(|port| ("XMTPD_METRICS_METRICS_PORT", port)));
        let output = command.output().unwrap();
        (output.status.code(), stderr(&output))
    };
    // The network in the file has no chains, and no setting names one.
    let (code, text) = asked(&[], Some(&port));
    assert_eq!(code, Some(2), "{text}");
    assert!(!text.contains("network.json"), "{text}");
    let (_, text) = asked(&["--network", file.to_str().unwrap()], Some(&port));
    assert!(text.contains("127.0.0.1:1"), "the node in the file is asked first: {text}");
    let metrics = format!("127.0.0.1:{port}");
    let (code, text) = asked(&["--metrics", &metrics], None);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("network.json"), "a node alone was named: {text}");
}

#[test]
fn a_node_to_ask_is_named_where_a_network_and_a_data_folder_are() {
    let place = tempfile::tempdir().unwrap();
    let of_network = place.path().join("of-network");
    let file = write_network(place.path(), &of_network);
    let asked = |args: &[&str], more: &[&str]| {
        let mut command = hawser();
        let output = command.args(args).args(more).current_dir(&place).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let commands = [&["peers"][..], &["log-level"], &["report", "attest", "--dry-run"]];
    let name = of_network.to_str().unwrap();
    for command in commands {
        let (code, text) = asked(command, &[]);
        assert_eq!(code, Some(4), "{command:?}: {text}");
        assert!(text.contains(name), "the network alone is asked: {text}");
    }

    fs::create_dir(place.path().join("hawser-data")).unwrap();
    for command in commands {
        let (code, text) = asked(command, &[]);
        assert_eq!(code, Some(2), "{command:?}: {text}");
        for named in ["--data-dir hawser-data", &format!("--data-dir {name}")] {
            assert!(text.contains(named), "{command:?}: {text}");
        }
        for folder in ["hawser-data", name] {
            let (code, text) = asked(command, &["--data-dir", folder]);
            assert_eq!(code, Some(4), "{command:?}: {text}");
            assert!(text.contains(&format!("no node runs on {folder}")), "{text}");
        }
    }
    let (code, text) = asked(commands[2], &["--network", file.to_str().unwrap()]);
    assert_eq!(code, Some(4), "a file that is named is not doubted: {text}");
}

#[test]
fn the_disk_for_a_rate_has_second_copies_of_small_envelopes_and_what_expired_ones_leave() {
    let of = |args: &[&str]| json(&[&["size", "--json"][..], args].concat());
    let small = of(&["--rate", "10/s", "--bytes", "720", "--retention", "30"]);
    let names = ["envelopes_per_day", "bytes_per_envelope", "bytes", "bytes_left_per_year"];
    let numbers = names.map(|name| small[name].as_u64().unwrap());
    assert_eq!(numbers, [864_000, 2 * 720 + 400, 864_000 * 1_840 * 30, 864_000 * 200 * 365]);
    let one = stdout(&run(&["size", "--rate", "1", "--bytes", "1"]));
    assert!(one.starts_with("1 envelope a day: ") && one.contains(" for ever: "), "{one}");
    let large = of(&["--rate", "1000", "--bytes", "3000", "--retention-days", "4294967295"]);
    assert_eq!((&large["bytes_per_day"], &large["bytes"]), (&3_400_000.into(), &Value::Null));
    assert_eq!(large["bytes_left_per_year"], Value::Null, "nothing expires");
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
        command.env("SETTLEMENT_CHAIN_WSS_URL", "ws://127.0.0.1:1");
        command
    };
    let wrong = watch("moon").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("METRICS_PORT=moon"), "{wrong:?}");
    let once = watch("8008").arg("--once").output().unwrap();
    assert_eq!(once.status.code(), Some(1), "it has an endpoint, which is away: {once:?}");
    let mut running = Running::start(watch(&free_base(0).to_string()), true);
    running.line("a note", |line| line.starts_with("SETTLEMENT_CHAIN_WSS_URL has no effect: "));
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
fn a_setting_that_is_no_text_is_refused_by_its_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let value = std::ffi::OsStr::from_bytes(b"secret\xff");
    for name in ["XMTPD_SIGNER_PRIVATE_KEY", "HAWSER_DATA_DIR"] {
        let output = hawser().args(["config", "print"]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("{name}: ")), "{}", stderr(&output));
        assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    }
    let size = ["size", "--rate", "1/s", "--bytes", "720", "--retention", "60"];
    let output = hawser().args(size).env("ANOTHER", value).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
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
fn the_help_of_a_setting_names_its_values_and_units() {
    let help = |command: &str| {
        let text = stdout(&run(&[command, "--help"]));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (node, gateway) = (help("node"), help("gateway"));
    for (shown, text) in [
        (&node, "[value: auto, quic or grpc; env: HAWSER_PEER_TRANSPORT; default: auto]"),
        (&node, "[value: a number of wei above 0; env: HAWSER_PAYER_REPORT_GAS_PRICE_MAX;"),
        (&node, "Address of NodeRegistry [value: an address"),
        (&node, "[env: XMTPD_API_ENABLE; default: true]"),
        (&gateway, "[value: a number of wei above 0; env: HAWSER_GAS_PRICE_MAX;"),
        (&gateway, "Address of NodeRegistry [value: an address"),
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
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
