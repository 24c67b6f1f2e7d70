//! Tests of where the value of each setting arrives. A row of the tables whose value is dropped, or is read in the
//! place of another one, would look right in the help, the documentation and `hawser config print`.

use std::collections::BTreeSet;
use std::time::Duration;

use hawser_api::RedisSettings;
use hawser_chain::admin::Contract;
use hawser_engine::runtime::replication::MigratedStrands;
use hawser_proto::{OriginatorId, SecretKey};

use super::table::chains::{EXAMPLE_ADDRESS, SINGLE};
use super::tests::{pairs, read};
use super::{GatewayServiceSettings, NodeServiceSettings, SettingSources, table};

const KEY: &str = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
const WITNESS: &str =
    "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea https://w.example/a";
const CERT: (&str, &str) = ("tls-cert", "c.pem");
const CERT_KEY: (&str, &str) = ("tls-key", "k.pem");
const CLIENT_CA: (&str, &str) = ("tls-client-ca", "a.pem");
const LIMITED: (&str, &str) = ("rate-limit.enable", "true");
const BALANCE: (&str, &str) = ("api.require-payer-positive-balance", "true");
const APP: (&str, &str) = ("contracts.app-chain.rpc-url", "http://a.example");
const SETTLEMENT: (&str, &str) = ("contracts.settlement-chain.rpc-url", "http://s.example");

/// Flags with their values.
type GivenFlags = &'static [(&'static str, &'static str)];

/// Flags of a node, and the part of its typed settings that shows them. None of the values is the default.
const OF_NODE: &[(GivenFlags, &str)] = &[
    (&[("api.enable", "false")], "NodeApiSettings { enable: false"),
    (&[("replication.enable", "false")], "NodeApiSettings { enable: false"),
    (&[("api.port", "6051")], " address: 0.0.0.0:6051"),
    (&[("listen-address", "127.0.0.3")], " address: 127.0.0.3:5050"),
    (&[("api.send-keep-alive-interval", "7s")], " keep_alive: 7s"),
    (&[("api-memory-limit", "1GiB")], " memory_limit_bytes: 1073741824"),
    (&[CERT, CERT_KEY], "TlsFiles { cert: \"c.pem\", key: \"k.pem\", client_ca: None"),
    (&[CERT, CERT_KEY, CLIENT_CA], " client_ca: Some(\"a.pem\")"),
    (&[("sync.enable", "false")], " sync: false"),
    (&[("peer-transport", "quic")], " peer_transport: Quic"),
    (&[("catch-up", "checkpoints")], " catch_up: Checkpoints"),
    (&[("allow-insecure-peers", "true")], " plain_text_peers: All"),
    (&[("allow-private-nodes", "true")], " private_peers: All"),
    (&[("quic-address", "n.example:1")], " quic_address: Some(QuicAddress(\"n.example:1\"))"),
    (&[("checkpoint-witnesses", WITNESS)], " url: Some(\"https://w.example/a\")"),
    (&[("bootstrap-from", "/snapshots")], " bootstrap_from: Some(\"/snapshots\")"),
    (&[("bootstrap-trust-nodes-for-chains", "true")], " nodes_for_chains: true"),
    (&[("bootstrap-trust-one-endpoint", "true")], " one_endpoint: true"),
    (&[("snapshot-serve", "/served")], " snapshot_serve: Some(\"/served\")"),
    (&[("metrics.enable", "false")], " metrics: None"),
    (&[("metrics.metrics-address", "127.0.0.2")], " metrics: Some(127.0.0.2:8008)"),
    (&[("metrics.metrics-port", "6008")], " metrics: Some(127.0.0.1:6008)"),
    (&[("reflection.enable", "true")], " reflection: true"),
    (&[("misbehavior-api", "false")], " misbehavior: false"),
    (&[("log.log-level", "debug")], "LogSettings { level: Level(Debug)"),
    (&[("log.log-encoding", "json")], " json: true"),
    (&[("data-dir", "/d")], " data_dir: \"/d\""),
    (&[("state-dir", "/of-host")], " state_dir: \"/of-host\""),
    (&[("new-strand", "true")], " new_strand: true"),
    (&[("network", "other")], " network: \"other\""),
    (&[("registry-file", "nodes.json")], " registry: Some(\"nodes.json\")"),
    (&[("rates-file", "prices.json")], " rates: Some(\"prices.json\")"),
    (&[("chain-file", "c.jsonl")], " chain: Some(\"c.jsonl\")"),
    (&[("indexer.enable", "false")], " indexer: false"),
    (&[("durability", "os")], " durability: Os"),
    (&[("min-free-disk", "2GiB")], " min_free_disk_bytes: 2147483648"),
    (&[("database-cache", "128MiB")], " cache_bytes: Some(134217728)"),
    (&[("database-open-files", "99")], " open_files: Some(99)"),
    (&[("wallet-rpc", "1=http://127.0.0.1:9")], " rpcs: [(1, \"http://127.0.0.1:9\")]"),
    (&[("wallet-chains", "77")], " more_chains: [77]"),
    (&[("idempotent-publish", "false")], " idempotent_publish: false"),
    (&[("shutdown-drain", "7s")], " drain: 7s"),
    (&[("shutdown-grace", "8s")], " grace: 8s"),
    (&[("api.require-replication-node-auth", "true")], " require_node_auth: true"),
    (&[BALANCE, APP, SETTLEMENT], " require_balance: true"),
    (&[LIMITED], " rates: Some(RateLimitSettings"),
    (&[LIMITED, ("rate-limit.t2-per-minute-capacity", "7")], " per_minute: 7,"),
    (&[LIMITED, ("rate-limit.t2-per-hour-capacity", "8")], " per_hour: 8,"),
    (&[LIMITED, ("rate-limit.t2-subscribe-opens-per-minute", "9")], " opens_per_minute: 9,"),
    (&[LIMITED, ("rate-limit.t-1-max-concurrent-subscribe-all", "3")], " subscribe_all_max: 3,"),
    (&[("rate-limit.trusted-proxy-cidrs", "10.0.0.0/8")], "Cidr { address: 10.0.0.0, bits: 8 }"),
    (&[("connections-per-address", "3")], " connections_per_address: 3,"),
    (&[("streams-per-connection", "4")], " streams_per_connection: 4,"),
    (&[("topics-per-stream", "10000")], " topics_per_stream: 10000,"),
    (&[("queue-per-stream", "1MiB")], " queue_per_stream_bytes: 1048576,"),
    (&[("misbehavior-reports-per-address", "11")], " misbehavior_reports_per_address: 11"),
    (&[("publishes-per-payer", "5")], " publishes_per_payer: Some(5)"),
    (&[("validation-api", "true")], " validation_api: true"),
    (&[("payer-report.enable", "false")], " payer_reports: None"),
    (&[("payer-report.attestation-worker-poll-interval", "7s")], " look_every: 7s"),
    (&[("payer-report.generate-report-self-period", "2h")], " own: 7200s"),
    (&[("payer-report.generate-report-others-period", "3h")], " others: 10800s"),
    (&[("payer-report.expiry-self-period", "30h")], " expiry_own: 108000s"),
    (&[("payer-report.expiry-others-period", "40h")], " expiry_others: 144000s"),
    (&[("payer-report-turns", "by-hand")], " turns: ByHand"),
    (&[("payer-report-gas-price-max", "7")], " gas_price_max: WeiPerGas(7)"),
    (&[("payer-report-gas-cost-per-hour-max", "0.5")], " per_hour_max: Wei(500000000000000000)"),
    (&[("prune-interval", "2h")], "PruneSettings { every: 7200s"),
    (&[("prune.max-prune-cycles", "3")], " places_max: 30000,"),
    (&[("prune.batch-size", "7")], " places_max: 70,"),
    (&[("prune.dry-run", "true")], " dry_run: true"),
    (&[("scrub-interval", "1h")], "ScrubSettings { every: 3600s"),
    (&[("scrub-rate", "3")], " bytes_per_s: 3145728"),
    (&[APP, SETTLEMENT], " app: ChainAccessSettings { urls: [\"http://a.example\"]"),
    (&[APP, SETTLEMENT], " settlement: ChainAccessSettings { urls: [\"http://s.example\"]"),
    (&[("contracts.app-chain.chain-id", "7")], " app: ChainAccessSettings { urls: [], id: Some(7)"),
    (
        &[("contracts.settlement-chain.chain-id", "8")],
        " settlement: ChainAccessSettings { urls: [], id: Some(8)",
    ),
    (&[("contracts.config-file-path", "c.json")], " source: Some(Place(\"c.json\"))"),
    (&[("contracts.config-json", "{}")], " source: Some(Text(\"{}\"))"),
    (&[("contracts.environment", "testnet")], " source: Some(Environment(\"testnet\"))"),
    (
        &[("contracts.app-chain.wss-url", "ws://a.example")],
        " app: ChainReadSettings { push_urls: [\"ws://a.example\"]",
    ),
    (
        &[("contracts.settlement-chain.wss-url", "ws://s.example")],
        " settlement: ChainReadSettings { push_urls: [\"ws://s.example\"]",
    ),
    (
        &[("contracts.app-chain.max-chain-disconnect-time", "7s")],
        " app: ChainReadSettings { push_urls: [], disconnect_max: 7s",
    ),
    (
        &[("contracts.settlement-chain.max-chain-disconnect-time", "8s")],
        " settlement: ChainReadSettings { push_urls: [], disconnect_max: 8s",
    ),
    // The time before tells the two chains apart.
    (
        &[("contracts.app-chain.backfill-block-page-size", "7")],
        " disconnect_max: 60s, page_blocks: 7,",
    ),
    (
        &[("contracts.settlement-chain.backfill-block-page-size", "8")],
        " disconnect_max: 300s, page_blocks: 8,",
    ),
    (
        &[("contracts.app-chain.deployment-block", "7")],
        " disconnect_max: 60s, page_blocks: 500, first_block: Some(7)",
    ),
    (
        &[("contracts.settlement-chain.deployment-block", "8")],
        " disconnect_max: 300s, page_blocks: 500, first_block: Some(8)",
    ),
    (
        &[("app-chain-confirmations", "7")],
        " disconnect_max: 60s, page_blocks: 500, first_block: None, confirmations: 7",
    ),
    (
        &[("settlement-chain-confirmations", "8")],
        " disconnect_max: 300s, page_blocks: 500, first_block: None, confirmations: 8",
    ),
    (&[("contracts.settlement-chain.node-registry-refresh-interval", "7s")], " nodes_refresh: 7s"),
    (&[("contracts.settlement-chain.rate-registry-refresh-interval", "8s")], " rates_refresh: 8s"),
];

/// The settings of a node's Redis, whose typed values do not show themselves, because the URL may have a password.
const OF_REDIS: [(&str, &str); 8] = [
    ("redis.redis-url", "redis://r.example/1"),
    ("redis.key-prefix", "k:"),
    ("redis.connect-timeout", "2s"),
    ("rate-limit.redis-call-timeout", "3s"),
    ("rate-limit.breaker-failure-threshold", "4"),
    ("rate-limit.breaker-cooldown", "5s"),
    ("rate-limit.stream-refresh-interval", "6s"),
    ("rate-limit.stream-ttl", "7s"),
];

/// Settings of a node that other tests here and in `tests` read: the file, secrets, those of a replica, and those that
/// are refused.
const ELSEWHERE: [&str; 10] = [
    "config",
    "signer.private-key",
    "allow-secret-flags",
    "follow",
    "witness-name",
    "witness-key",
    "migration-server.enable",
    "migration-client.enable",
    "migration-client.from-node-id",
    "migration-key",
];

/// Flags of a gateway, except those of the chains, which it reads as a node does, and the part of its typed settings
/// that shows them.
const OF_GATEWAY: &[(GivenFlags, &str)] = &[
    (&[("api.port", "6051")], " listen: 0.0.0.0:6051"),
    (&[("listen-address", "127.0.0.3")], " listen: 127.0.0.3:5050"),
    (&[("metrics.metrics-port", "6008")], " metrics: Some(127.0.0.1:6008)"),
    (&[("metrics.metrics-address", "127.0.0.2")], " metrics: Some(127.0.0.2:8008)"),
    (&[("metrics.enable", "false")], " metrics: None"),
    (&[("api-memory-limit", "1GiB")], " memory_limit_bytes: 1073741824"),
    (&[("connections-per-address", "3")], " connections_per_address: 3,"),
    (&[CERT, CERT_KEY], "TlsFiles { cert: \"c.pem\", key: \"k.pem\", client_ca: None"),
    (&[CERT, CERT_KEY, CLIENT_CA], " client_ca: Some(\"a.pem\")"),
    (&[("reflection.enable", "true")], " reflection: true"),
    (&[("log.log-level", "debug")], "LogSettings { level: Level(Debug)"),
    (&[("log.log-encoding", "json")], " json: true"),
    (&[("policies-file", "p.toml")], " policies: Some(\"p.toml\")"),
    (&[("nonce-record", "n")], " nonce_record: Some(\"n\")"),
    (&[("gas-price-max", "7")], " gas_price_max: WeiPerGas(7)"),
    (&[("gas-cost-per-hour-max", "0.5")], " per_hour_max: Wei(500000000000000000)"),
    (&[("allow-private-nodes", "true")], " allow_private_nodes: true"),
    (&[("payer.node-selector-strategy", "random")], " strategy: Random"),
    (
        &[
            ("payer.node-selector-strategy", "closest"),
            ("payer.node-selector-preferred-nodes", "200"),
        ],
        " strategy: Closest([OriginatorId(200)])",
    ),
    (&[("payer.node-selector-cache-expiry", "7s")], " connect_time_every: 7s"),
    (&[("payer.node-selector-connect-timeout", "8s")], " connect_timeout: 8s"),
    (&[("payer.envelope-publish-timeout", "9s")], " attempt_timeout: 9s"),
    (&[("payer.envelope-publish-retries", "7")], " attempts_max: 7"),
    (&[("contracts.app-chain.max-blockchain-payload-size", "7")], " chain_payload_bytes_max: 7,"),
    (
        &[("redis.redis-url", "redis://r.example"), ("redis.key-prefix", "k:")],
        "RedisAccess(\"k:\")",
    ),
    (&[("wallet-rpc", "1=http://127.0.0.1:9")], " rpcs: [(1, \"http://127.0.0.1:9\")]"),
    (&[("wallet-chains", "77")], " more_chains: [77]"),
    (&[("registry-file", "nodes.json")], " registry_file: Some(\"nodes.json\")"),
    (&[("rates-file", "prices.json")], " rates_file: Some(\"prices.json\")"),
    (&[("shutdown-drain", "7s")], " drain: 7s"),
    (&[("shutdown-grace", "8s")], " grace: 8s"),
];

fn read_gateway(flags: &[(&str, &str)]) -> GatewayServiceSettings {
    let env = [
        ("XMTPD_PAYER_PRIVATE_KEY", KEY),
        ("HAWSER_REGISTRY_FILE", "registry.json"),
        ("HAWSER_RATES_FILE", "rates.json"),
    ];
    GatewayServiceSettings::read(&SettingSources::new(pairs(flags), pairs(&env))).unwrap()
}

#[test]
fn the_value_of_every_setting_of_a_node_arrives_in_its_own_place() {
    let shown = |given: &[(&str, &str)]| format!("{:?}", read(given, &[]).unwrap());
    let default = shown(&[]);
    for &(given, part) in OF_NODE {
        assert!(!default.contains(part), "{part} is the default");
        let settings = shown(given);
        assert!(settings.contains(part), "{given:?}: {part} is not in {settings}");
    }
    let mut covered: BTreeSet<&str> = ELSEWHERE.into_iter().collect();
    covered.extend(OF_NODE.iter().flat_map(|(given, _)| given.iter()).map(|(flag, _)| *flag));
    covered.extend(OF_REDIS.map(|(flag, _)| flag));
    covered.extend(SINGLE.iter().map(|(_, setting)| setting.flag));
    let flags = table::of_node().map(|setting| setting.flag);
    let missing: Vec<_> = flags.filter(|flag| !covered.contains(flag)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_settings_of_a_nodes_redis_arrive_in_their_own_places() {
    let limits = read(&[&[LIMITED], &OF_REDIS[..]].concat(), &[]).unwrap().limits;
    let redis = limits.rates.unwrap().redis.unwrap();
    let expected = RedisSettings {
        url: "redis://r.example/1".to_owned(),
        key_prefix: "k:".to_owned(),
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(3),
        breaker_failures_max: 4,
        breaker_cooldown: Duration::from_secs(5),
        stream_refresh_interval: Duration::from_secs(6),
        stream_ttl: Duration::from_secs(7),
    };
    assert!(redis == expected, "{redis:?} hides what differs");
}

#[test]
fn the_address_of_each_contract_is_given_to_that_contract() {
    for (contract, setting) in &SINGLE {
        let settings = read(&[(setting.flag, EXAMPLE_ADDRESS)], &[]).unwrap();
        let single = &settings.chains.contracts.single;
        let given: Vec<_> =
            Contract::ALL.into_iter().filter(|it| single.get(*it).is_some()).collect();
        assert_eq!(given, [*contract], "{}", setting.flag);
    }
}

/// Without its key a strand of the older network is not followed, whatever node is named.
#[test]
fn the_strands_of_the_older_network_have_the_source_and_the_key_that_are_given() {
    let key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
    let text = hex::encode(key.as_bytes());
    let text = text.as_str();
    let migrated = |flags: &[(&str, &str)]| read(flags, &[]).unwrap().migrated;
    let source = ("migration-client.from-node-id", "200");
    let of = |source| Some(MigratedStrands { source: OriginatorId(source), key });
    assert_eq!(migrated(&[source]), None);
    assert_eq!(migrated(&[("migration-key", text)]), of(100));
    assert_eq!(migrated(&[source, ("migration-key", text)]), of(200));
}

#[test]
fn the_value_of_every_setting_of_a_gateway_arrives_in_its_own_place() {
    let shown = |given: &[(&str, &str)]| format!("{:?}", read_gateway(given));
    let default = shown(&[]);
    for &(given, part) in OF_GATEWAY {
        assert!(!default.contains(part), "{part} is the default");
        let settings = shown(given);
        assert!(settings.contains(part), "{given:?}: {part} is not in {settings}");
    }
    let timeout = [("redis.redis-url", "redis://r.example"), ("redis.connect-timeout", "2s")];
    let redis = read_gateway(&timeout).redis.unwrap();
    assert_eq!((redis.url.as_str(), redis.connect_timeout), (timeout[0].1, Duration::from_secs(2)));
    let mut covered = BTreeSet::from(["config", "payer.private-key", "allow-secret-flags"]);
    covered.extend(OF_GATEWAY.iter().flat_map(|(given, _)| given.iter()).map(|(flag, _)| *flag));
    covered.insert(timeout[1].0);
    let flags = table::gateway::ALL.into_iter().map(|setting| setting.flag);
    let missing: Vec<_> = flags.filter(|flag| !covered.contains(flag)).collect();
    assert_eq!(missing, [""; 0]);
}

/// An operator may expect of them what they do at a node.
#[test]
fn settings_without_effect_on_a_replica_are_named_there_alone() {
    let env = pairs(&[
        ("HAWSER_REGISTRY_FILE", "registry.json"),
        ("HAWSER_RATES_FILE", "rates.json"),
        ("XMTPD_PAYER_REPORT_RUN_WORKERS", "true"),
    ]);
    let flags = [("bootstrap-from", "/s"), ("publishes-per-payer", "5")];
    let sources = SettingSources::new(pairs(&flags), env.clone());
    let notes = NodeServiceSettings::read_replica(&sources).unwrap().notes;
    let without_effect = "a replica publishes nothing and follows its sources over gRPC, so these have no effect: \
                          bootstrap-from, publishes-per-payer, payer-report.enable";
    assert_eq!(notes, [without_effect]);
    let none = NodeServiceSettings::read_replica(&SettingSources::new([], env[..2].to_vec()));
    assert_eq!(none.unwrap().notes, [""; 0]);
    assert_eq!(read(&flags, &[]).unwrap().notes, [""; 0]);
}
