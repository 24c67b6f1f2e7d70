//! Secrets of running nodes and gateways: the system shows them to no other program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::single_node::Single;
use crate::support::{Running, hawser, json, signal};

/// Returns the environment of a process, as the system shows it.
fn environment(process: &Running) -> String {
    let environment = fs::read(format!("/proc/{}/environ", process.pid())).unwrap();
    String::from_utf8_lossy(&environment).into_owned()
}

/// Panics if the system may write the process's memory to a file or to a program.
fn require_no_core_dump(process: &Running) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let limit: Vec<&str> = limit.split_whitespace().take(2).collect();
    assert!(limit.iter().all(|size| ["0", "1"].contains(size)), "{limits}");
}

/// The key is known to the process and to its file, and to no dump and no list of processes.
#[test]
fn a_running_node_shows_no_secret_and_leaves_no_core_dump() {
    let single = Single::new();
    let key = fs::read_to_string(single.place.path().join("key")).unwrap();
    let key = key.trim();
    let mut command = single.command();
    command.env_remove("XMTPD_SIGNER_PRIVATE_KEY_FILE").env("XMTPD_SIGNER_PRIVATE_KEY", key);
    command.env("XMTPD_LOG_ENCODING", "json");
    let mut node = Running::start(command, true);
    node.line("start", |line| line.contains("started api server"));
    let environment = environment(&node);
    assert!(!environment.contains(key), "the key is in the environment");
    assert!(environment.contains("XMTPD_LOG_ENCODING=json"), "other variables stay");
    require_no_core_dump(&node);
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

/// It runs for months, and has the key of the account that pays for its probes.
#[test]
fn a_running_watcher_with_a_payers_key_leaves_no_core_dump() {
    let single = Single::new();
    let file = |name: &str| single.place.path().join(name).display().to_string();
    let mut command = hawser();
    command.args(["network-watcher", "--allow-private-nodes", "--listen", "127.0.0.1:0"]);
    command.args(["--registry-file", &file("registry.json"), "--probe-key-file", &file("key")]);
    let mut watcher = Running::start(command, true);
    watcher.line("start", |line| line.contains("metrics at http://"));
    require_no_core_dump(&watcher);
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());
}

/// The variable of the gateway's own key may serve a tenant, and tenants have variables of their own. They are read
/// before they are overwritten.
#[test]
fn a_gateway_reads_the_keys_of_its_tenants_and_shows_none() {
    let single = Single::new();
    let file = |name: &str| single.place.path().join(name).display().to_string();
    let key = |name: &str| {
        json(&["keys", "generate", "--json", "--out", &file(name)]);
        fs::read_to_string(file(name)).unwrap().trim().to_owned()
    };
    let keys = [key("acme"), key("other")];
    let hash = |digit: &str| digit.repeat(64);
    let policies = format!(
        "[identity]\nkind = \"api-key\"\n\
         [identity.api_keys]\nalice = \"sha256:{}\"\nbob = \"sha256:{}\"\n\
         [tenants.acme]\npayer_key_env = \"XMTPD_PAYER_PRIVATE_KEY\"\nmembers = [\"alice\"]\n\
         [tenants.other]\npayer_key_env = \"OTHER_PAYER_KEY\"\nmembers = [\"bob\"]\n",
        hash("1"),
        hash("2")
    );
    fs::write(file("policies.toml"), policies).unwrap();
    let mut command = hawser();
    command.args(["gateway", "--listen-address", "127.0.0.1", "--shutdown-drain", "0s"]);
    command.args(["--allow-private-nodes", "-p", &single.base.to_string()]);
    command.args(["--metrics.metrics-port", &(single.base + 1).to_string()]);
    command.args(["--registry-file", &file("registry.json")]);
    command.args(["--rates-file", &file("rates.json")]);
    command.args(["--policies-file", &file("policies.toml")]);
    command.env("XMTPD_PAYER_PRIVATE_KEY", &keys[0]).env("OTHER_PAYER_KEY", &keys[1]);
    let mut gateway = Running::start(command, true);
    gateway.line("start", |line| line.contains("started gateway server"));
    let environment = environment(&gateway);
    assert!(keys.iter().all(|key| !environment.contains(key)), "a key is in the environment");
    signal(gateway.pid(), "TERM");
    assert!(gateway.end().success());
}

/// The settings of the node are missing in each case.
#[test]
fn a_password_of_a_database_on_the_command_line_is_refused() {
    let told = |more: &[&str]| {
        let mut command = hawser();
        let output = command.args(["import", "xmtpd", "--postgres"]).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for string in ["postgres://me:hunter2@127.0.0.1:1/x", "host=127.0.0.1 password=hunter2"] {
        let refused = told(&[string]);
        assert!(refused.contains("--postgres-file") && !refused.contains("hunter2"), "{refused}");
        let allowed = told(&[string, "--allow-secret-flags"]);
        assert!(!allowed.contains("--postgres-file"), "{allowed}");
    }
    let harmless = told(&["postgres://me@127.0.0.1:1/x"]);
    assert!(!harmless.contains("--postgres-file"), "{harmless}");
}

#[test]
fn bench_shows_no_key_of_an_address_that_it_cannot_use() {
    for address in ["http://me:hunter2@127.0.0.1:1/hunter2", "127.0.0.1:1?key=hunter2"] {
        let output = hawser().args(["bench", "--target", address]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("127.0.0.1:1") && told.contains("is not an address"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

/// The files of systemd's `LoadCredential=` have mode 0440 since version 254.
#[test]
fn a_credential_of_systemd_is_read_and_the_same_file_elsewhere_is_not() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("node.key").display().to_string();
    let made = json(&["keys", "generate", "--json", "--out", &key]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    let shown = |folder: &str| {
        let mut command = hawser();
        command.args(["keys", "show", "--json", &key]).env("CREDENTIALS_DIRECTORY", folder);
        command.output().unwrap()
    };
    let output = shown(&place.path().display().to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let address = made["address"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(address));
    assert_eq!(shown("/run/credentials/other.service").status.code(), Some(3));
}
