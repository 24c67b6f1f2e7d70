//! Tests of settings from all sources, and of their error messages.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_engine::runtime::replication::CatchUp;
use hawser_proto::SecretKey;
use hawser_storage::Durability;
use tracing::Level;

use super::table::Setting;
use super::*;

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// Reads the required settings, with more flags and variables.
pub(super) fn read(
    flags: &[(&str, &str)],
    env: &[(&str, &str)],
) -> Result<NodeServiceSettings, SettingsError> {
    let mut all = pairs(&[
        ("XMTPD_SIGNER_PRIVATE_KEY", KEY),
        ("HAWSER_REGISTRY_FILE", "registry.json"),
        ("HAWSER_RATES_FILE", "rates.json"),
    ]);
    all.extend(pairs(env));
    NodeServiceSettings::read(&SettingSources::new(pairs(flags), all))
}

pub(super) fn secret_file(mode: u32, content: &str) -> (tempfile::TempDir, String) {
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
    assert_eq!(config.catch_up, CatchUp::Verified);
    assert_eq!(config.stop.drain, Duration::from_secs(5));
    assert_eq!(config.stop.grace, Duration::from_secs(30));
    assert_eq!(config.log.level, Level::INFO);
    assert_eq!(config.files.chain, None);
    assert_eq!(config.notes, [""; 0]);
}

#[test]
fn a_replica_reads_no_key_and_follows_over_grpc_what_is_named() {
    let files =
        pairs(&[("HAWSER_REGISTRY_FILE", "registry.json"), ("HAWSER_RATES_FILE", "rates.json")]);
    let read_replica = |flags: &[(&str, &str)]| {
        NodeServiceSettings::read_replica(&SettingSources::new(pairs(flags), files.clone()))
    };
    let all = read_replica(&[]).unwrap();
    assert_eq!(all.follow, Some(Vec::new()));
    assert_eq!(all.peer_transport, hawser_net::PeerTransport::Grpc);
    let named = read_replica(&[("follow", "https://a.example, http://b:5050/")]).unwrap();
    assert_eq!(named.follow.unwrap(), ["https://a.example", "http://b:5050/"]);
    for wrong in ["", "a.example", "https://", "https://a.example,,"] {
        assert!(read_replica(&[("follow", wrong)]).is_err() || wrong.is_empty(), "{wrong:?}");
    }
    let witness = [("witness-name", "witness.example/w1"), ("allow-secret-flags", "true")];
    let seed = "09".repeat(32);
    let named = read_replica(&[&witness[..], &[("witness-key", &*seed)]].concat()).unwrap();
    let witness_key = named.witness.unwrap().verifier_key();
    assert!(witness_key.starts_with("witness.example/w1+"), "{witness_key}");
    assert!(read_replica(&[]).unwrap().witness.is_none());
    assert!(read_replica(&witness).is_err(), "a name without a key");
    let key = [("witness-key", &*seed), ("allow-secret-flags", "true")];
    assert!(read_replica(&key).is_err(), "a key without a name");
    let short = [&witness[..], &[("witness-key", "09")]].concat();
    assert!(read_replica(&short).is_err());
    let (_folder, open) = secret_file(0o644, &seed);
    let readable = [("witness-name", "witness.example/w1"), ("witness-key-file", &*open)];
    let errors = read_replica(&readable).unwrap_err();
    assert_eq!(errors.faults.len(), 1, "it is told once: {errors}");
    let node = read(&[("follow", "https://a.example")], &[]).unwrap();
    assert_eq!(node.follow, None, "a node follows its registry");
    assert_eq!(node.notes.len(), 1);
}

#[test]
fn a_backlog_is_shown_before_it_is_verified_if_a_node_says_so() {
    let read_one = |text| read(&[("catch-up", text)], &[]).map(|config| config.catch_up);
    assert_eq!(read_one("verified").unwrap(), CatchUp::Verified);
    assert_eq!(read_one("checkpoints").unwrap(), CatchUp::Checkpoints);
    for wrong in ["checkpoint", "Verified", "true"] {
        assert!(read_one(wrong).is_err(), "{wrong:?}");
    }
    let files =
        pairs(&[("HAWSER_REGISTRY_FILE", "registry.json"), ("HAWSER_RATES_FILE", "rates.json")]);
    let flags = pairs(&[("catch-up", "checkpoints")]);
    let replica = NodeServiceSettings::read_replica(&SettingSources::new(flags, files)).unwrap();
    assert_eq!(replica.catch_up, CatchUp::Verified);
}

#[test]
fn an_address_for_quic_is_told_where_there_is_quic() {
    assert_eq!(read(&[], &[]).unwrap().announced_quic_address(), None);
    let address = ("quic-address", "node.example:5051");
    let read_flags = |flags: &[(&str, &str)]| read(flags, &[]).unwrap();
    let node = read_flags(&[address]);
    assert_eq!(node.announced_quic_address().unwrap().as_str(), "node.example:5051");
    assert_eq!(node.notes, [""; 0]);
    for without in [("peer-transport", "grpc"), ("sync.enable", "false")] {
        let node = read_flags(&[address, without]);
        assert_eq!(node.announced_quic_address(), None, "{without:?}");
        assert_eq!(node.notes.len(), 1, "{:?}", node.notes);
    }
    for wrong in ["node.example", "https://node.example:1", "node.example:0", "::1:5050"] {
        assert!(read(&[("quic-address", wrong)], &[]).is_err(), "{wrong}");
    }
}

#[test]
fn witnesses_have_a_key_each_and_a_url_if_they_are_asked() {
    const KEY: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    assert_eq!(read(&[], &[]).unwrap().witnesses, []);
    let named = |text: &str| read(&[("checkpoint-witnesses", text)], &[]);
    let two = named(&format!("{KEY} https://w.example/a, {KEY}")).unwrap().witnesses;
    let urls: Vec<_> = two.iter().map(|it| it.url.as_deref()).collect();
    assert_eq!(urls, [Some("https://w.example/a"), None]);
    assert_eq!(two[0].key.signer().0.as_str(), "witness.example/w1");
    for wrong in [
        format!("{KEY},"),
        format!("{KEY} w.example"),
        format!("{KEY} https://w.example {KEY}"),
        format!("{KEY} https://a,https://b"),
        KEY.replace("eb762cc2", "eb762cc3"),
        KEY.replace("+BN", "+AN"),
        KEY.replace("witness.", "another."),
        vec![KEY; 65].join(","),
    ] {
        assert!(named(&wrong).is_err(), "{wrong}");
    }
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
fn all_errors_are_told_together() {
    let flags = [("api.port", "0"), ("durability", "maybe"), ("shutdown-drain", "5")];
    let env = [("XMTPD_LOG_LEVEL", "LOUD"), ("XMTPD_API_SEND_KEEP_ALIVE_INTERVAL", "0s")];
    let given = SettingSources::new(pairs(&flags), pairs(&env));
    let errors = NodeServiceSettings::read(&given).unwrap_err();
    let text = errors.to_string();
    for part in [
        "--api.port (XMTPD_API_PORT): \"0\"; expected a port, 1 to 65535, for example 5050",
        "--durability (HAWSER_DURABILITY): \"maybe\"",
        "--shutdown-drain (HAWSER_SHUTDOWN_DRAIN): \"5\"",
        "--log.log-level (XMTPD_LOG_LEVEL): \"LOUD\"",
        "--api.send-keep-alive-interval",
        "--signer.private-key (XMTPD_SIGNER_PRIVATE_KEY): missing",
        "--contracts.settlement-chain.rpc-url (XMTPD_SETTLEMENT_CHAIN_RPC_URL): missing",
        "--contracts.app-chain.rpc-url (XMTPD_APP_CHAIN_RPC_URL): missing",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(errors.faults.len(), 8, "{text}");
}

/// A file substitutes for the input that it names, and a chain supplies the others.
#[test]
fn everything_comes_from_somewhere() {
    let missing = |env: &[(&str, &str)]| -> Vec<String> {
        let mut all = pairs(&[("XMTPD_SIGNER_PRIVATE_KEY", KEY)]);
        all.extend(pairs(env));
        let read = NodeServiceSettings::read(&SettingSources::new([], all));
        let errors = read.map_err(|errors| errors.faults).err().unwrap_or_default();
        errors.iter().map(|error| error.name.split(' ').next().unwrap().to_owned()).collect()
    };
    let settlement = ("XMTPD_SETTLEMENT_CHAIN_RPC_URL", "http://a");
    let app = ("XMTPD_APP_CHAIN_RPC_URL", "http://b");
    let registry = ("HAWSER_REGISTRY_FILE", "registry.json");
    let rates = ("HAWSER_RATES_FILE", "rates.json");
    assert_eq!(missing(&[settlement, app]), [""; 0]);
    assert_eq!(missing(&[registry, rates]), [""; 0]);
    assert_eq!(missing(&[registry, rates, app]), [""; 0]);
    assert_eq!(missing(&[settlement, ("HAWSER_CHAIN_FILE", "chain.jsonl")]), [""; 0]);
    assert_eq!(missing(&[settlement, registry]), ["--contracts.app-chain.rpc-url"]);
    assert_eq!(missing(&[app, registry]), ["--rates-file"]);
    assert_eq!(missing(&[app]), ["--registry-file", "--rates-file"]);
}

/// The rest of a provider's URL is often a key.
#[test]
fn of_the_chains_urls_only_the_hosts_are_shown() {
    let url = "https://user:secret@rpc.example/v2/secret, http://127.0.0.1:5060";
    let given = SettingSources::new([], pairs(&[("XMTPD_APP_CHAIN_RPC_URL", url)]));
    let all = effective(&given);
    let it = all.iter().find(|it| it.setting.env == "XMTPD_APP_CHAIN_RPC_URL").unwrap();
    assert_eq!(it.shown, ShownValue::Value("https://rpc.example/…,http://127.0.0.1:5060".into()));
}

#[test]
fn urls_are_read_from_a_file_that_only_its_owner_reads() {
    let urls: Vec<_> = table::of_gateway()
        .chain(table::of_node())
        .filter(|it| matches!(it.kind, table::SettingKind::Urls { file: Some(_) }))
        .collect();
    for of in ["redis", "wallet-rpc", "app-chain.rpc", "settlement-chain.wss"] {
        assert!(urls.iter().any(|it| it.flag.contains(of)), "{of}");
    }
    let (_folder, path) = secret_file(0o600, "1=https://user:hunter2@rpc.example/hunter2\n");
    let (_folder, exposed) = secret_file(0o640, "1=https://user:hunter2@rpc.example/hunter2\n");
    let (_folder, empty) = secret_file(0o600, "\n");
    for setting in urls {
        let (flag, env) = setting.file_names().unwrap();
        for (given, origin) in [
            (SettingSources::new(pairs(&[(flag, &path)]), []), SettingOrigin::Flag),
            (SettingSources::new([], pairs(&[(env, &path)])), SettingOrigin::Environment),
        ] {
            let value = given.value(setting).unwrap().unwrap();
            assert_eq!(*value.text, "1=https://user:hunter2@rpc.example/hunter2");
            assert_eq!(value.origin, origin);
            // A note that limits are off is none about the name of the variable.
            let notes = given.notes();
            let known = notes.iter().all(|note| note.starts_with("rate-limit.enable is off"));
            assert!(known, "{flag} and {env} are known: {notes:?}");
            if let Some(it) = effective(&given).into_iter().find(|it| it.setting == setting) {
                assert_eq!(it.shown, ShownValue::Value("1=https://rpc.example/…".into()));
            }
        }
        let refused = |env: &[(&str, &str)]| {
            let refused = SettingSources::new([], pairs(env)).value(setting);
            refused.err().unwrap().to_string()
        };
        assert!(refused(&[(env, &exposed)]).contains("chmod 600"), "{env}");
        assert!(refused(&[(env, &empty)]).contains("is empty"), "{env}");
        assert!(refused(&[(env, &path), (setting.env, "http://a")]).contains("one of the two"));
    }
}

#[test]
fn a_wrong_url_is_not_repeated() {
    let text = read(&[("wallet-rpc", "x=https://rpc.example/hunter2")], &[]).unwrap_err();
    let text = text.to_string();
    assert!(text.contains("rpc.example") && !text.contains("hunter2"), "{text}");
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
fn ignored_and_unknown_settings_are_named() {
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

/// A place in Redis that ends before it is renewed would bound no streams.
#[test]
fn places_of_streams_are_renewed_before_they_end() {
    let redis = ("XMTPD_REDIS_URL", "redis://10.0.0.1:6379/1");
    let limited =
        |ttl| [("XMTPD_RATE_LIMIT_ENABLE", "true"), redis, ("XMTPD_RATE_LIMIT_STREAM_TTL", ttl)];
    let refused = read(&[], &limited("5m")).unwrap_err().to_string();
    assert!(refused.contains("--rate-limit.stream-refresh-interval"), "{refused}");
    assert!(read(&[], &limited("301s")).is_ok());
    assert!(read(&[], &limited("5m")[1..]).is_ok(), "nothing is limited");
}

#[test]
fn limits_on_callers_are_read() {
    let limits = read(&[], &[]).unwrap().limits;
    assert!(limits.rates.is_none() && !limits.require_node_auth);
    assert_eq!(limits.publishes_per_payer, None);
    let limited = read(&[("publishes-per-payer", "50")], &[]).unwrap().limits;
    assert_eq!(limited.publishes_per_payer.map(u32::from), Some(50));
    assert_eq!((limits.connections_per_address, limits.streams_per_connection), (256, 1000));
    let env = [
        ("XMTPD_RATE_LIMIT_ENABLE", "true"),
        ("XMTPD_RATE_LIMIT_T2_PER_HOUR_CAPACITY", "7"),
        ("XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS", "10.0.0.0/8, ::1,"),
        ("XMTPD_API_REQUIRE_REPLICATION_NODE_AUTH", "true"),
    ];
    let limits = read(&[("connections-per-address", "3")], &env).unwrap().limits;
    assert_eq!(limits.connections_per_address, 3);
    let rates = limits.rates.unwrap();
    assert_eq!((rates.per_minute, rates.per_hour, rates.opens_per_minute), (60, 7, 10));
    assert_eq!(rates.subscribe_all_max, 2);
    assert!(limits.require_node_auth);
    // A snapshot would show all callers the log, which only nodes may read.
    let served = read(&[("snapshot-serve", "/s")], &[]).unwrap().snapshot_serve;
    assert_eq!(served, Some("/s".into()));
    let refused = read(&[("snapshot-serve", "/s")], &env).unwrap_err().to_string();
    assert!(refused.contains("snapshot-serve"), "{refused}");
    assert!(limits.trusted_proxies.contains("10.1.1.1".parse().unwrap()));
    assert!(limits.trusted_proxies.contains("::1".parse().unwrap()));
    assert_eq!(rates.redis, None);
    let redis = ("XMTPD_REDIS_URL", "redis://user:hunter2@10.0.0.1:6379/1");
    let env = [("XMTPD_RATE_LIMIT_ENABLE", "true"), redis];
    let rates = read(&[], &env).unwrap().limits.rates.unwrap();
    assert_eq!(rates.redis, Some(hawser_api::RedisSettings::new(redis.1)), "the defaults");
    let given = SettingSources::new([], pairs(&[redis]));
    assert!(effective(&given).iter().all(|it| !format!("{:?}", it.shown).contains("hunter2")));
    let wrong = [
        ("rate-limit.trusted-proxy-cidrs", "10.0.0.0/33"),
        ("rate-limit.t2-per-minute-capacity", "0"),
        ("streams-per-connection", "-1"),
    ];
    let text = read(&wrong, &[]).unwrap_err().to_string();
    assert!(
        text.contains("3 faults") && wrong.iter().all(|(flag, _)| text.contains(flag)),
        "{text}"
    );
}

/// An operator who requests TLS does not want a password sent unprotected.
#[test]
fn a_redis_behind_tls_is_refused_and_its_password_not_shown() {
    for url in ["rediss://u:hunter2@10.0.0.1:6379/1", "REDISS://:hunter2@h", "valkeys://:hunter2@h"]
    {
        let text = read(&[], &[("XMTPD_REDIS_URL", url)]).unwrap_err().to_string();
        assert!(text.contains("--redis.redis-url") && text.contains("no TLS"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Balances are on the settlement chain, so a node that does not follow it would refuse all publishes.
#[test]
fn balances_need_the_chain_that_holds_them() {
    let wanted = ("api.require-payer-positive-balance", "true");
    let text = read(&[wanted], &[]).unwrap_err().to_string();
    assert!(text.contains("--api.require-payer-positive-balance"), "{text}");
    let chains = [
        ("XMTPD_SETTLEMENT_CHAIN_RPC_URL", "http://127.0.0.1:9"),
        ("XMTPD_APP_CHAIN_RPC_URL", "http://127.0.0.1:9"),
    ];
    assert!(read(&[wanted], &chains).unwrap().limits.require_balance);
    assert!(read(&[wanted, ("indexer.enable", "false")], &chains).is_err());
}

fn settings_file(mode: u32, content: &str) -> (tempfile::TempDir, String) {
    secret_file(mode, content)
}

#[test]
fn a_file_is_read_below_variables_and_flags() {
    let content = "data-dir = \"from-file\"\nshutdown-drain = \"1s\"\n[api]\nport = 6000\n\
                   enable = false\n[metrics]\nmetrics-port = 6001\n";
    let (_folder, path) = settings_file(0o644, content);
    let env = [("HAWSER_CONFIG", path.as_str()), ("XMTPD_API_PORT", "7000")];
    let config = read(&[("metrics.metrics-port", "8000")], &env).unwrap();
    assert_eq!(config.store.data_dir, PathBuf::from("from-file"));
    assert_eq!(config.stop.drain, Duration::from_secs(1));
    assert!(!config.api.enable);
    assert_eq!(config.api.address.port(), 7000, "a variable wins over the file");
    assert_eq!(config.metrics.unwrap().port(), 8000, "a flag wins over the file");
    assert_eq!(
        data_dir(&SettingSources::new([], pairs(&env))).unwrap(),
        PathBuf::from("from-file")
    );
}

#[test]
fn errors_of_the_file_are_reported_with_all_others() {
    let content = "[api]\nprot = 1\nport = 1.5\n[db]\nmax-open-conns = 4\n";
    let (_folder, path) = settings_file(0o644, content);
    let errors = read(&[("config", &path), ("durability", "maybe")], &[]).unwrap_err();
    let text = errors.to_string();
    assert_eq!(errors.faults.len(), 3, "{text}");
    assert!(text.contains("api.prot in ") && text.contains("for example api.port"), "{text}");
    assert!(text.contains("api.port in ") && text.contains("a TOML float"), "{text}");
    assert!(text.contains("--durability"), "{text}");

    let (_folder, path) = settings_file(0o644, "[db]\nmax-open-conns = 4\n");
    let notes = read(&[("config", &path)], &[]).unwrap().notes.join("\n");
    assert!(notes.contains("db.max-open-conns in ") && notes.contains("has no effect"), "{notes}");

    let (_folder, path) = settings_file(0o644, "config = \"other.toml\"\n");
    assert!(read(&[("config", &path)], &[]).unwrap_err().to_string().contains("config in "));
    let nowhere = SettingSources::new(pairs(&[("config", "nowhere.toml")]), []);
    let text = NodeServiceSettings::read(&nowhere).unwrap_err().to_string();
    // What the file may have is not called missing.
    let begin = "1 fault in the configuration:\n  --config (HAWSER_CONFIG): nowhere.toml: ";
    assert!(text.starts_with(begin), "{text}");
}

#[test]
fn a_file_that_is_no_toml_names_the_line_and_not_what_is_in_it() {
    let content = format!("network = \"a\"\nsigner.private-key = \"{KEY}\nport = 1\n");
    let (_folder, path) = settings_file(0o600, &content);
    let text = read(&[("config", &path)], &[]).unwrap_err().to_string();
    assert!(text.contains("line 2: "), "{text}");
    assert!(!text.contains(&KEY[2..]), "{text}");
}

#[test]
fn a_secret_in_a_file_needs_a_file_that_only_its_owner_reads() {
    let key = SecretKey::from_hex(KEY).unwrap().public_key();
    let without_key = |path: &str| {
        let flags = [("config", path), ("registry-file", "r"), ("rates-file", "r")];
        NodeServiceSettings::read(&SettingSources::new(pairs(&flags), []))
    };
    let content = format!("[signer]\nprivate-key = \"{KEY}\"\n");
    let (_folder, path) = settings_file(0o600, &content);
    assert_eq!(without_key(&path).unwrap().signer.public_key(), key);
    let (_folder, path) = settings_file(0o640, &content);
    let text = without_key(&path).unwrap_err().to_string();
    assert!(text.contains("0640") && text.contains("signer.private-key-file"), "{text}");
    assert!(!text.contains(KEY), "{text}");

    let (_folder, key_path) = secret_file(0o600, KEY);
    let content = format!("[signer]\nprivate-key-file = \"{key_path}\"\n");
    let (_folder, path) = settings_file(0o644, &content);
    assert_eq!(without_key(&path).unwrap().signer.public_key(), key);
}

#[test]
fn settings_in_effect_are_shown_with_their_origin_and_without_secrets() {
    let (_folder, path) = settings_file(0o644, "durability = \"os\"\n");
    let env = [("XMTPD_SIGNER_PRIVATE_KEY", KEY), ("HAWSER_NETWORK", "a")];
    let given = SettingSources::new(pairs(&[("config", &path), ("api.port", "9")]), pairs(&env));
    let all = effective(&given);
    let of = |flag: &str| {
        let it = all.iter().find(|it| it.setting.flag == flag).unwrap();
        (it.shown.clone(), it.origin.name())
    };
    let value = |text: &str| ShownValue::Value(text.into());
    assert_eq!(of("api.port"), (value("9"), "flag"));
    assert_eq!(of("network"), (value("a"), "environment"));
    assert_eq!(of("durability"), (value("os"), "file"));
    assert_eq!(of("log.log-level"), (value("INFO"), "default"));
    assert_eq!(of("chain-file"), (ShownValue::Nothing, "default"));
    let address = SecretKey::from_hex(KEY).unwrap().public_key().address().to_string();
    assert_eq!(of("signer.private-key"), (ShownValue::Fingerprint(address), "environment"));
    assert_eq!(all.len(), table::of_node().count());

    let given = SettingSources::new([], pairs(&[("XMTPD_SIGNER_PRIVATE_KEY", "hunter2")]));
    let hidden = effective(&given).into_iter().find(|it| it.shown == ShownValue::Hidden);
    assert_eq!(hidden.unwrap().setting.flag, "signer.private-key");
}

#[test]
fn metrics_are_asked_for_where_the_settings_put_them() {
    let asked =
        |env: &[(&str, &str)]| metrics_address(&SettingSources::new([], pairs(env))).unwrap();
    assert_eq!(asked(&[]), "127.0.0.1:8008".parse().unwrap());
    let everywhere = ("XMTPD_METRICS_METRICS_ADDRESS", "0.0.0.0");
    let port = ("XMTPD_METRICS_METRICS_PORT", "9000");
    assert_eq!(asked(&[everywhere, port]), "127.0.0.1:9000".parse().unwrap());
    assert!(
        metrics_address(&SettingSources::new([], pairs(&[("XMTPD_METRICS_METRICS_PORT", "x")])))
            .is_err()
    );
}

/// Returns the flag, variable and default in each row of a page's settings table.
fn documented(page: &str) -> Vec<(String, String, String)> {
    let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        let flag = cells[1].split(',').next().unwrap();
        (code(flag).trim_start_matches('-').to_owned(), code(cells[2]), code(cells[3]))
    };
    rows.map(row).collect()
}

fn rows_of<'a>(settings: impl Iterator<Item = &'a Setting>) -> Vec<(String, String, String)> {
    let row = |flag: &str, env: &str, default: &str| (flag.into(), env.into(), default.into());
    let rows = settings.flat_map(|setting| {
        let own = row(setting.flag, setting.env, setting.default.unwrap_or_default());
        let file = setting.file_names().map(|(flag, env)| row(flag, env, ""));
        std::iter::once(own).chain(file)
    });
    rows.collect()
}

#[test]
fn the_documentation_lists_all_settings_as_they_are() {
    assert_eq!(documented("configuration.md"), rows_of(table::of_node()));
    let is_shared = |setting: &Setting| table::of_node().any(|it| it.flag == setting.flag);
    let own: Vec<_> = table::of_gateway().filter(|setting| !is_shared(setting)).collect();
    assert_eq!(documented("gateway.md"), rows_of(own.into_iter()));
    for setting in table::of_gateway() {
        let node = table::of_node().find(|it| it.flag == setting.flag);
        let is_equal = node.is_none_or(|it| (it.env, it.default) == (setting.env, setting.default));
        assert!(is_equal, "{} is another setting for a node", setting.flag);
    }
}

/// A copy of the data folder must not contain the marker that distinguishes it from the original.
#[test]
fn the_state_folder_lies_outside_of_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&data, &link).unwrap();
    let errors = |state: &Path| {
        let (data, state) = (data.to_str().unwrap(), state.to_str().unwrap());
        match read(&[("data-dir", data), ("state-dir", state)], &[]) {
            Ok(_) => String::new(),
            Err(errors) => errors.to_string(),
        }
    };
    for inside in [data.clone(), data.join("state/of/host"), link.join("state")] {
        assert!(errors(&inside).contains("inside the data folder"), "{}", inside.display());
    }
    for outside in [folder.path().join("state"), folder.path().join("data-state")] {
        assert!(!errors(&outside).contains("state-dir"), "{}", outside.display());
    }
}
