//! From what was given to settings, and what is said when that fails.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::*;

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// What is required, in the environment, and more.
fn read(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<NodeConfig, Faults> {
    let mut all = pairs(&[
        ("XMTPD_SIGNER_PRIVATE_KEY", KEY),
        ("HAWSER_REGISTRY_FILE", "registry.json"),
        ("HAWSER_RATES_FILE", "rates.json"),
    ]);
    all.extend(pairs(env));
    NodeConfig::read(&Given::new(pairs(flags), all))
}

fn secret_file(mode: u32, content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn defaults_are_those_of_the_reference_and_on_where_it_is_off() {
    let config = read(&[], &[]).unwrap();
    assert!(config.api.enable && config.sync && config.idempotent_publish);
    assert_eq!(config.api.address, "0.0.0.0:5050".parse().unwrap());
    assert_eq!(config.api.keep_alive, Duration::from_secs(30));
    assert!(!config.api.reflection);
    assert_eq!(config.metrics, Some("127.0.0.1:8008".parse().unwrap()));
    assert_eq!(config.store.durability, Durability::Fsync);
    assert_eq!(config.stop.drain, Duration::from_secs(5));
    assert_eq!(config.stop.grace, Duration::from_secs(30));
    assert_eq!(config.log.level, Level::INFO);
    assert_eq!(config.files.chain, None);
    assert_eq!(config.notes, [""; 0]);
}

#[test]
fn a_flag_wins_over_a_variable_over_the_default() {
    let env = [("XMTPD_API_PORT", "6000"), ("XMTPD_METRICS_METRICS_PORT", "6001")];
    let config = read(&[("api.port", "7000")], &env).unwrap();
    assert_eq!(config.api.address.port(), 7000);
    assert_eq!(config.metrics.unwrap().port(), 6001);
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let config = read(&[], &[("XMTPD_API_PORT", "")]).unwrap();
    assert_eq!(config.api.address.port(), 5050);
}

#[test]
fn parts_can_be_switched_off() {
    let config = read(&[("sync.enable", "false")], &[("XMTPD_METRICS_ENABLE", "false")]).unwrap();
    assert!(!config.sync);
    assert_eq!(config.metrics, None);
    let old = read(&[], &[("XMTPD_REPLICATION_ENABLE", "false")]).unwrap();
    assert!(!old.api.enable);
    assert!(old.notes[0].contains("deprecated"));
    let env = [("XMTPD_REPLICATION_ENABLE", "false"), ("XMTPD_API_ENABLE", "true")];
    assert!(read(&[], &env).unwrap().api.enable);
}

#[test]
fn all_faults_are_told_together() {
    let flags = [("api.port", "0"), ("durability", "maybe"), ("shutdown-drain", "5")];
    let env = [("XMTPD_LOG_LEVEL", "LOUD"), ("XMTPD_API_SEND_KEEP_ALIVE_INTERVAL", "0s")];
    let given = Given::new(pairs(&flags), pairs(&env));
    let faults = NodeConfig::read(&given).unwrap_err();
    let text = faults.to_string();
    for part in [
        "--api.port (XMTPD_API_PORT): \"0\"; expected a port, 1 to 65535, for example 5050",
        "--durability (HAWSER_DURABILITY): \"maybe\"",
        "--shutdown-drain (HAWSER_SHUTDOWN_DRAIN): \"5\"",
        "--log.log-level (XMTPD_LOG_LEVEL): \"LOUD\"",
        "--api.send-keep-alive-interval",
        "--signer.private-key (XMTPD_SIGNER_PRIVATE_KEY): missing",
        "--registry-file (HAWSER_REGISTRY_FILE): missing",
        "--rates-file (HAWSER_RATES_FILE): missing",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(faults.0.len(), 8, "{text}");
}

#[test]
fn a_wrong_secret_is_not_repeated() {
    let text = read(&[], &[("XMTPD_SIGNER_PRIVATE_KEY", "hunter2")]).unwrap_err().to_string();
    assert!(text.contains("XMTPD_SIGNER_PRIVATE_KEY"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_secret_on_the_command_line_needs_to_be_allowed() {
    let flag = ("signer.private-key", KEY);
    let text = read(&[flag], &[]).unwrap_err().to_string();
    assert!(text.contains("--signer.private-key-file"), "{text}");
    assert!(!text.contains(KEY), "{text}");
    assert!(read(&[flag, ("allow-secret-flags", "true")], &[]).is_ok());
    let ignored = read(&[("payer.private-key", KEY)], &[]).unwrap_err().to_string();
    assert!(ignored.contains("--payer.private-key") && !ignored.contains(KEY), "{ignored}");
}

#[test]
fn a_secret_is_read_from_a_file_that_only_its_owner_reads() {
    let (_folder, path) = secret_file(0o600, &format!("{KEY}\n"));
    let config = read(&[("signer.private-key-file", &path)], &[]).unwrap();
    let expected = SecretKey::from_hex(KEY).unwrap().public_key();
    assert_eq!(config.signer.public_key(), expected);

    let (_folder, path) = secret_file(0o644, KEY);
    let text = read(&[("signer.private-key-file", &path)], &[]).unwrap_err().to_string();
    assert!(text.contains("0644") && text.contains("chmod 600"), "{text}");
    let text = read(&[("signer.private-key-file", "nowhere")], &[]).unwrap_err().to_string();
    assert!(text.contains("nowhere"), "{text}");
}

#[test]
fn a_flag_with_a_file_wins_over_the_variable_and_both_variables_are_one_too_many() {
    let (_folder, path) = secret_file(0o600, KEY);
    let other = ("XMTPD_SIGNER_PRIVATE_KEY", "hunter2");
    assert!(read(&[("signer.private-key-file", &path)], &[other]).is_ok());
    let text = read(&[], &[("XMTPD_SIGNER_PRIVATE_KEY_FILE", &path)]).unwrap_err().to_string();
    assert!(text.contains("one of the two"), "{text}");
}

#[test]
fn what_has_no_effect_and_what_is_not_known_is_named() {
    let env = [
        ("XMTPD_DB_WRITER_CONNECTION_STRING", "postgres://secret"),
        ("XMTPD_API_PROT", "1"),
        ("HAWSER_DATADIR", "x"),
        ("PATH", "/bin"),
    ];
    let notes = read(&[("db.max-open-conns", "9")], &env).unwrap().notes.join("\n");
    assert!(notes.contains("XMTPD_DB_WRITER_CONNECTION_STRING has no effect: "), "{notes}");
    assert!(notes.contains("--db.max-open-conns has no effect: "), "{notes}");
    assert!(
        notes.contains("XMTPD_API_PROT is not known; the nearest known name is XMTPD_API_PORT")
    );
    assert!(notes.contains("the nearest known name is HAWSER_DATA_DIR"), "{notes}");
    assert!(!notes.contains("secret") && !notes.contains("PATH"), "{notes}");
}
