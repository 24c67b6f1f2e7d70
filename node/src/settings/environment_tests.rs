//! Tests with environments that were written for the reference implementation.

use hawser_net::PrivatePeers;

use super::*;

/// Every variable of a node of the reference implementation, one per line, as an operator may have set it, together
/// with variables of its pruner and its gateway.
const ENVIRONMENT: &str = "
XMTPD_API_ENABLE=true
XMTPD_API_SEND_KEEP_ALIVE_INTERVAL=30s
XMTPD_API_PORT=5050
XMTPD_API_ORIGINATOR_CACHE_TTL=5m
XMTPD_API_REQUIRE_PAYER_POSITIVE_BALANCE=false
XMTPD_API_REQUIRE_REPLICATION_NODE_AUTH=true
XMTPD_REPLICATION_ENABLE=true
XMTPD_SYNC_ENABLE=true
XMTPD_INDEXER_ENABLE=true
XMTPD_MLS_VALIDATION_GRPC_ADDRESS=http://validation:50051
XMTPD_SIGNER_PRIVATE_KEY=0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d
XMTPD_DB_READER_CONNECTION_STRING=postgres://reader@db/xmtpd
XMTPD_DB_WRITER_CONNECTION_STRING=postgres://writer@db/xmtpd
XMTPD_DB_READ_TIMEOUT=10s
XMTPD_DB_WRITE_TIMEOUT=10s
XMTPD_DB_MAX_OPEN_CONNS=80
XMTPD_DB_WAIT_FOR=30s
XMTPD_DB_NAME_OVERRIDE=xmtpd
XMTPD_LOG_LEVEL=debug
XMTPD_LOG_ENCODING=json
XMTPD_METRICS_ENABLE=true
XMTPD_METRICS_METRICS_ADDRESS=0.0.0.0
XMTPD_METRICS_METRICS_PORT=8008
XMTPD_DEBUG_ENABLE=true
XMTPD_DEBUG_PORT=6060
XMTPD_REFLECTION_ENABLE=true
XMTPD_TRACING_ENABLE=true
XMTPD_REDIS_URL=redis://cache:6379/0
XMTPD_REDIS_KEY_PREFIX=xmtpd:
XMTPD_REDIS_CONNECT_TIMEOUT=10s
XMTPD_RATE_LIMIT_ENABLE=true
XMTPD_RATE_LIMIT_T2_PER_MINUTE_CAPACITY=60
XMTPD_RATE_LIMIT_T2_PER_HOUR_CAPACITY=1200
XMTPD_RATE_LIMIT_T2_SUBSCRIBE_OPENS_PER_MINUTE=10
XMTPD_RATE_LIMIT_BREAKER_FAILURE_THRESHOLD=5
XMTPD_RATE_LIMIT_BREAKER_COOLDOWN=10s
XMTPD_RATE_LIMIT_REDIS_CALL_TIMEOUT=50ms
XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS=10.0.0.0/8
XMTPD_RATE_LIMIT_T1_MAX_CONCURRENT_SUBSCRIBE_ALL=2
XMTPD_RATE_LIMIT_STREAM_TTL=15m
XMTPD_RATE_LIMIT_STREAM_REFRESH_INTERVAL=5m
XMTPD_PAYER_REPORT_RUN_WORKERS=true
XMTPD_PAYER_REPORT_ATTESTATION_WORKER_POLL_INTERVAL=1m
XMTPD_PAYER_REPORT_GENERATE_REPORT_SELF_PERIOD=6h
XMTPD_PAYER_REPORT_GENERATE_REPORT_OTHERS_PERIOD=12h
XMTPD_PAYER_REPORT_EXPIRY_SELF_PERIOD=9h
XMTPD_PAYER_REPORT_EXPIRY_OTHERS_PERIOD=18h
XMTPD_PAYER_PRIVATE_KEY=0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d
XMTPD_PAYER_ENABLE=true
XMTPD_PAYER_NODE_SELECTOR_STRATEGY=stable
XMTPD_PAYER_NODE_SELECTOR_PREFERRED_NODES=100,200
XMTPD_PAYER_NODE_SELECTOR_CACHE_EXPIRY=5m
XMTPD_PAYER_NODE_SELECTOR_CONNECT_TIMEOUT=2s
XMTPD_PAYER_ENVELOPE_PUBLISH_TIMEOUT=30s
XMTPD_PAYER_ENVELOPE_PUBLISH_RETRIES=5
XMTPD_MIGRATION_SERVER_ENABLE=false
XMTPD_MIGRATION_PAYER_PRIVATE_KEY=0x01
XMTPD_MIGRATION_NODE_SIGNING_KEY=0x01
XMTPD_MIGRATION_DB_READER_CONNECTION_STRING=postgres://older
XMTPD_MIGRATION_DB_READER_TIMEOUT=10s
XMTPD_MIGRATION_DB_WAIT_FOR=30s
XMTPD_MIGRATION_DB_BATCH_SIZE=1000
XMTPD_MIGRATION_DB_PROCESS_INTERVAL=10s
XMTPD_MIGRATION_DB_NAMESPACE=older
XMTPD_MIGRATION_LOWER_LIMITS={}
XMTPD_MIGRATION_CLIENT_ENABLE=false
XMTPD_MIGRATION_CLIENT_FROM_NODE_ID=100
XMTPD_PRUNE_MAX_CYCLES=10
XMTPD_PRUNE_BATCH_SIZE=10000
XMTPD_PRUNE_COUNT_DELETABLE=true
XMTPD_PRUNE_DRY_RUN=false
XMTPD_APP_CHAIN_RPC_URL=https://app.example
XMTPD_APP_CHAIN_WSS_URL=wss://app.example
XMTPD_APP_CHAIN_CHAIN_ID=351243127
XMTPD_APP_CHAIN_MAX_CHAIN_DISCONNECT_TIME=60s
XMTPD_APP_CHAIN_BACKFILL_BLOCK_PAGE_SIZE=500
XMTPD_APP_CHAIN_GROUP_MESSAGE_BROADCAST_ADDRESS=0x6619B1c95eb10d339903E4AA9938314d6E711d17
XMTPD_APP_CHAIN_IDENTITY_UPDATE_BROADCAST_ADDRESS=0xD49DCDd95Ce435eaB2E53DBfcBceF5cAAc78D95a
XMTPD_APP_CHAIN_GATEWAY_ADDRESS=0x0000000000000000000000000000000000000001
XMTPD_APP_CHAIN_PARAMETER_REGISTRY_ADDRESS=0x0000000000000000000000000000000000000002
XMTPD_APP_CHAIN_DEPLOYMENT_BLOCK=7243
XMTPD_APP_CHAIN_MAX_BLOCKCHAIN_PAYLOAD_SIZE=200000
XMTPD_SETTLEMENT_CHAIN_RPC_URL=https://settlement.example
XMTPD_SETTLEMENT_CHAIN_WSS_URL=wss://settlement.example
XMTPD_SETTLEMENT_CHAIN_CHAIN_ID=84532
XMTPD_SETTLEMENT_CHAIN_MAX_CHAIN_DISCONNECT_TIME=300s
XMTPD_SETTLEMENT_CHAIN_BACKFILL_BLOCK_PAGE_SIZE=500
XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_ADDRESS=0x7C639a2be8B75c4799c1372A42448f41B89D88DE
XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_REFRESH_INTERVAL=60s
XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_ADDRESS=0x3bBaf2a31D05c6715A147116c47B801E496ddacF
XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_REFRESH_INTERVAL=300s
XMTPD_SETTLEMENT_CHAIN_PARAMETER_REGISTRY_ADDRESS=0x0000000000000000000000000000000000000003
XMTPD_SETTLEMENT_CHAIN_PAYER_REGISTRY_ADDRESS=0xF0bd6Ac8AA00BA083cF95C5438B33488cbd2562B
XMTPD_SETTLEMENT_CHAIN_PAYER_REPORT_MANAGER_ADDRESS=0x9de0b8C883c01F28A0F3d39De90c098F0941176f
XMTPD_SETTLEMENT_CHAIN_GATEWAY_ADDRESS=0x0000000000000000000000000000000000000004
XMTPD_SETTLEMENT_CHAIN_DISTRIBUTION_MANAGER_ADDRESS=0x0000000000000000000000000000000000000005
XMTPD_SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK=29322114
XMTPD_SETTLEMENT_CHAIN_UNDERLYING_FEE_TOKEN_ADDRESS=0x0000000000000000000000000000000000000006
XMTPD_SETTLEMENT_CHAIN_FEE_TOKEN_ADDRESS=0x0000000000000000000000000000000000000007
";

/// A secret key.
const KEY_TEXT: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// The three ways to name the contracts, of which an environment has at most one.
const CONTRACTS: [&str; 3] = [
    "XMTPD_CONTRACTS_CONFIG_FILE_PATH",
    "XMTPD_CONTRACTS_CONFIG_JSON",
    "XMTPD_CONTRACTS_ENVIRONMENT",
];

/// Variables that released versions of the reference implementation have read and its present one does not.
const OLDER: [&str; 15] = [
    "XMTPD_CONTRACTS_CHAIN_ID",
    "XMTPD_CONTRACTS_IDENTITY_UPDATES_ADDRESS",
    "XMTPD_CONTRACTS_MAX_CHAIN_DISCONNECT_TIME",
    "XMTPD_CONTRACTS_MESSAGES_ADDRESS",
    "XMTPD_CONTRACTS_NODES_ADDRESS",
    "XMTPD_CONTRACTS_RATES_REFRESH_INTERVAL",
    "XMTPD_CONTRACTS_RATES_REGISTRY_ADDRESS",
    "XMTPD_CONTRACTS_REFRESH_INTERVAL",
    "XMTPD_CONTRACTS_REGISTRY_REFRESH_INTERVAL",
    "XMTPD_CONTRACTS_RPC_URL",
    "XMTPD_HTTP_API_PORT",
    "XMTPD_METADATA_ENABLE",
    "XMTPD_MIGRATION_START_DATE",
    "XMTPD_PAYER_ENABLE_API",
    "XMTPD_SETTLEMENT_CHAIN_MOCK_UNDERLYING_FEE_TOKEN_ADDRESS",
];

/// Returns the environment with `name` set to `value`.
fn with(name: &str, value: &str) -> SettingSources {
    let lines = ENVIRONMENT.lines().filter_map(|line| line.split_once('='));
    let given = lines.filter(|(given, _)| *given != name).chain([(name, value)]);
    let given: Vec<_> = given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    SettingSources::new([], given)
}

#[test]
fn an_environment_of_the_reference_starts_a_node() {
    let settings = NodeServiceSettings::read(&with("PATH", "/bin")).unwrap();
    assert!(settings.limits.require_node_auth && settings.limits.rates.is_some());
    let notes = settings.notes.join("\n");
    assert!(!notes.contains("is not known"), "{notes}");
}

#[test]
fn every_variable_of_the_reference_is_honoured_or_said_to_be_without_effect() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let present = ENVIRONMENT.lines().filter_map(|line| line.split_once('='));
    for name in present.map(|(name, _)| name).chain(CONTRACTS).chain(OLDER) {
        let honoured = table::of_node().any(|setting| setting.env == name);
        let ignored = table::ignored::ALL.iter().find(|setting| setting.env == name);
        assert!(honoured != ignored.is_some(), "{name} is in one of the two tables");
        let Some(ignored) = ignored else { continue };
        let row = format!("| {} | ", ignored.reason);
        let rows = page.lines().filter(|line| line.starts_with(&row));
        let named = rows.filter(|line| line.contains(&format!("`{name}`"))).count();
        assert_eq!(named, 1, "docs/configuration.md has no row for {name}: {row}");
    }
}

/// Names of the reference implementation for secret keys resemble names for public ones.
#[test]
fn a_secret_key_under_a_wrong_name_is_not_repeated() {
    let address = "XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_ADDRESS";
    for name in ["HAWSER_MIGRATION_KEY", "XMTPD_API_PORT", address] {
        let sources = with(name, KEY_TEXT);
        let refused = NodeServiceSettings::read(&sources).unwrap_err().to_string();
        assert!(refused.contains(name) && !refused.contains(KEY_TEXT), "{refused}");
        let printed = effective(&sources);
        let given = printed.iter().find(|it| it.setting.env == name).unwrap();
        assert!(matches!(given.shown, ShownValue::Fingerprint(_)), "{given:?}");
    }
}

/// The advice of a refusal is a name that the program takes.
#[test]
fn a_refused_secret_names_a_way_that_exists() {
    let flags = [("payer.private-key", KEY_TEXT), ("db.writer-connection-string", KEY_TEXT)];
    let given = || flags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let node = NodeServiceSettings::read(&SettingSources::new(given(), [])).unwrap_err();
    let gateway = GatewayServiceSettings::read(&SettingSources::new(given(), [])).unwrap_err();
    for (errors, flag, example) in [
        (&node, "--payer.private-key", "XMTPD_PAYER_PRIVATE_KEY"),
        (&node, "--db.writer-connection-string", "XMTPD_DB_WRITER_CONNECTION_STRING"),
        (&gateway, "--payer.private-key", "--payer.key-file payer.key"),
    ] {
        let of_flag = errors.faults.iter().find(|fault| fault.name == flag);
        assert_eq!(of_flag.map(|fault| fault.example.as_str()), Some(example), "{errors}");
        assert!(!errors.to_string().contains(KEY_TEXT), "{errors}");
    }
}

/// One file of variables, or one shell, may serve a node and the commands beside it.
#[test]
fn variables_of_commands_are_known_to_a_node() {
    for name in [table::BACKUP_DIR_ENV, table::KEY_ENV, table::KEY_FILE_ENV] {
        let settings = NodeServiceSettings::read(&with(name, "/mnt/file")).unwrap();
        assert!(!settings.notes.iter().any(|note| note.contains(name)), "{:?}", settings.notes);
    }
}

#[test]
fn a_node_says_that_it_asks_no_validation_service() {
    let name = "XMTPD_MLS_VALIDATION_GRPC_ADDRESS";
    let settings = NodeServiceSettings::read(&with(name, "http://validation:50051")).unwrap();
    let note = format!(
        "{name} has no effect: a node validates payloads itself, and asks no validation service"
    );
    assert!(settings.notes.contains(&note), "{:?}", settings.notes);
}

#[test]
fn a_protection_that_is_not_there_is_refused() {
    for name in ["XMTPD_MIGRATION_SERVER_ENABLE", "XMTPD_MIGRATION_CLIENT_ENABLE"] {
        let refused = NodeServiceSettings::read(&with(name, "true")).unwrap_err().to_string();
        assert!(refused.starts_with("1 fault ") && refused.contains(name), "{refused}");
    }
}

/// The reference implementation reads an empty variable of a switch as true. One of text or of a number is not given.
#[test]
fn an_empty_variable_turns_a_switch_of_the_reference_on() {
    let read = |name| NodeServiceSettings::read(&with(name, ""));
    for name in ["XMTPD_API_REQUIRE_REPLICATION_NODE_AUTH", "XMTPD_RATE_LIMIT_ENABLE"] {
        let settings = read(name).unwrap();
        assert!(settings.limits.require_node_auth && settings.limits.rates.is_some(), "{name}");
        let note = format!("{name} is empty, which counts as true, ");
        assert!(settings.notes.iter().any(|it| it.starts_with(&note)), "{:?}", settings.notes);
    }
    for name in ["XMTPD_MIGRATION_CLIENT_ENABLE", "XMTPD_RATE_LIMIT_ENABEL"] {
        let refused = read(name).unwrap_err().to_string();
        assert!(refused.starts_with("1 fault ") && refused.contains(name), "{refused}");
    }
    for name in
        ["XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS", "HAWSER_VALIDATION_API", "HAWSER_TLS_LATER"]
    {
        let settings = read(name).unwrap();
        assert!(!settings.notes.iter().any(|it| it.contains(name)), "{:?}", settings.notes);
    }
}

/// An environment of a later version may request what this one does not have, and a name may be misspelt.
#[test]
fn an_unknown_protection_is_refused_and_other_unknown_variables_are_named() {
    for name in [
        "XMTPD_RATE_LIMIT_ENABEL",
        "XMTPD_API_REQUIRE_SOMETHING_LATER",
        "HAWSER_RATE_LIMIT_ENABLE",
        "HAWSER_TLS_CLIENT_AUTHORITIES",
    ] {
        let refused = NodeServiceSettings::read(&with(name, "true")).unwrap_err().to_string();
        assert!(refused.starts_with("1 fault ") && refused.contains(name), "{refused}");
        let off = NodeServiceSettings::read(&with(name, "false")).unwrap();
        assert!(off.notes.iter().any(|note| note.contains(name)), "{:?}", off.notes);
    }
    let later = NodeServiceSettings::read(&with("XMTPD_SYNC_LATER", "true")).unwrap();
    assert!(later.notes.iter().any(|note| note.starts_with("XMTPD_SYNC_LATER is not known")));
}

/// A setting may be missing because its name is misspelt, so the operator reads both in one message.
#[test]
fn unknown_variables_are_named_beside_the_errors() {
    let note = "note: XMTPD_SIGNER_PRIVAT_KEY is not known; the nearest known name is XMTPD_SIGNER_PRIVATE_KEY";
    let given = [
        ("XMTPD_SIGNER_PRIVAT_KEY", KEY_TEXT),
        ("XMTPD_RATE_LIMIT_ENABEL", "true"),
        ("HAWSER_REGISTRY_FILE", "registry.json"),
        ("HAWSER_RATES_FILE", "rates.json"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let errors = NodeServiceSettings::read(&SettingSources::new([], given)).unwrap_err();
    assert_eq!((errors.faults.len(), errors.unknown.len()), (2, 1), "{errors}");
    let text = errors.to_string();
    assert!(text.contains("--signer.private-key") && text.ends_with(note), "{text}");
    assert!(!text.contains(KEY_TEXT), "{text}");
}

/// An operator who sets a limit expects it to hold.
#[test]
fn limits_that_are_switched_off_and_settings_of_a_gateway_are_named() {
    let note = "rate-limit.enable is off, so these have no effect: ";
    let off = NodeServiceSettings::read(&with("XMTPD_RATE_LIMIT_ENABLE", "false")).unwrap();
    let named = off.notes.iter().find_map(|it| it.strip_prefix(note)).unwrap();
    assert!(named.starts_with("rate-limit.t2-per-minute-capacity, "), "{named}");
    assert!(named.ends_with("redis.redis-url"), "{named}");
    assert!(!named.contains("trusted-proxy"), "{named}");
    let on = NodeServiceSettings::read(&with("HAWSER_POLICIES_FILE", "policies.toml")).unwrap();
    assert!(!on.notes.iter().any(|it| it.starts_with(note)), "{:?}", on.notes);
    let of_gateway = "HAWSER_POLICIES_FILE has no effect: only a gateway uses it (hawser gateway)";
    assert!(on.notes.iter().any(|it| it == of_gateway), "{:?}", on.notes);
}

/// A registry file may be a copy of the chain's list, with addresses that other operators chose.
#[test]
fn a_registry_file_allows_no_private_peer() {
    let of = |name, value| NodeServiceSettings::read(&with(name, value)).unwrap().private_peers;
    assert_eq!(of("PATH", "/bin"), PrivatePeers::OfPrivateNodes);
    assert_eq!(of("HAWSER_ALLOW_PRIVATE_NODES", "false"), PrivatePeers::OfPrivateNodes);
    assert_eq!(of("HAWSER_ALLOW_PRIVATE_NODES", "true"), PrivatePeers::All);
    assert_eq!(of("HAWSER_REGISTRY_FILE", "registry.json"), PrivatePeers::OfPrivateNodes);
}

/// A process that an operator runs as a standby has the key of a node that signs elsewhere.
#[test]
fn a_role_that_a_process_would_not_have_is_refused() {
    for (name, value) in
        [("HAWSER_ROLE", "standby"), ("HAWSER_ROLE", "replica"), ("HAWSER_STANDBY_ACK", "required")]
    {
        let refused = NodeServiceSettings::read(&with(name, value)).unwrap_err().to_string();
        assert!(refused.starts_with("1 fault ") && refused.contains(name), "{refused}");
    }
    let standby = NodeServiceSettings::read(&with("HAWSER_ROLE", "standby")).unwrap_err();
    assert!(standby.to_string().contains("`hawser promote`"), "{standby}");
    let primary = NodeServiceSettings::read(&with("HAWSER_ROLE", "primary")).unwrap();
    assert!(!primary.notes.iter().any(|note| note.contains("HAWSER_ROLE")), "{:?}", primary.notes);
    let errors = |role| match NodeServiceSettings::read_replica(&with("HAWSER_ROLE", role)) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    assert!(errors("primary").contains("HAWSER_ROLE"));
    assert!(!errors("replica").contains("HAWSER_ROLE"));
}

/// The limits of connections count by the address that proxies state, so the setting has a name without rate limits.
#[test]
fn networks_of_proxies_have_two_names() {
    let own = "HAWSER_TRUSTED_PROXY_CIDRS";
    let reference = "XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS";
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let trusts = |more: &[(&str, &str)], address: &str| {
        let lines = ENVIRONMENT.lines().filter_map(|line| line.split_once('='));
        let others = lines.filter(|(name, _)| *name != reference);
        let mut given: Vec<(String, String)> = others.map(owned).collect();
        given.extend(more.iter().copied().map(owned));
        let settings = NodeServiceSettings::read(&SettingSources::new([], given)).unwrap();
        assert!(!settings.notes.iter().any(|note| note.contains(own)), "{:?}", settings.notes);
        settings.limits.trusted_proxies.contains(address.parse().unwrap())
    };
    assert!(trusts(&[(own, "192.0.2.0/24")], "192.0.2.7"));
    assert!(!trusts(&[(own, "192.0.2.0/24")], "10.0.0.1"));
    let both = [(own, "192.0.2.0/24"), (reference, "10.0.0.0/8")];
    assert!(trusts(&both, "10.0.0.1") && !trusts(&both, "192.0.2.7"));
}

#[test]
fn an_environment_of_an_older_version_starts_a_node() {
    for name in OLDER {
        let settings = NodeServiceSettings::read(&with(name, "1")).unwrap();
        let note = format!("{name} has no effect: ");
        assert!(settings.notes.iter().any(|it| it.starts_with(&note)), "{:?}", settings.notes);
    }
}
