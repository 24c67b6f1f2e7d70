//! The settings of a gateway, except those of chains and contracts. Names that a node also has mean the same.

use super::ignored::{self, Ignored, TRACES};
use super::setting::{DURATION_ABOVE_ZERO, Setting, secret, value};
use super::{limits, node};

pub(in crate::settings) const PAYER_PRIVATE_KEY: Setting = secret(
    ("payer.private-key", "XMTPD_PAYER_PRIVATE_KEY"),
    ("payer.key-file", "XMTPD_PAYER_PRIVATE_KEY_FILE"),
    "32 bytes as 64 hex digits, 0x in front optional",
    "--payer.key-file payer.key",
    "The secret key of the account that pays the nodes from its balance, and the gas of the app chain",
);
/// A second name of the flag for the file of the payer's key, formed like those for the files of all other secrets, and
/// the flag.
pub const PAYER_KEY_FILE_ALIAS: (&str, &str) = ("payer.private-key-file", "payer.key-file");
pub(in crate::settings) const STRATEGY: Setting = value(
    "payer.node-selector-strategy",
    "XMTPD_PAYER_NODE_SELECTOR_STRATEGY",
    Some("stable"),
    "stable, manual, ordered, random or closest",
    "stable",
    "Choice of the node for a topic: by its identifier, from a list, at random, or the quickest",
);
pub(in crate::settings) const PREFERRED: Setting = value(
    "payer.node-selector-preferred-nodes",
    "XMTPD_PAYER_NODE_SELECTOR_PREFERRED_NODES",
    None,
    "ids of nodes, comma separated; manual and ordered need at least one",
    "100,200",
    "The nodes that manual, ordered and closest prefer, the first one most",
);
pub(in crate::settings) const CACHE_EXPIRY: Setting = value(
    "payer.node-selector-cache-expiry",
    "XMTPD_PAYER_NODE_SELECTOR_CACHE_EXPIRY",
    Some("5m"),
    DURATION_ABOVE_ZERO,
    "5m",
    "Time between two measurements of the time to connect, for closest",
);
pub(in crate::settings) const CONNECT_TIMEOUT: Setting = value(
    "payer.node-selector-connect-timeout",
    "XMTPD_PAYER_NODE_SELECTOR_CONNECT_TIMEOUT",
    Some("2s"),
    DURATION_ABOVE_ZERO,
    "2s",
    "Time limit of one measurement of the time to connect, for closest",
);
pub(in crate::settings) const PUBLISH_TIMEOUT: Setting = value(
    "payer.envelope-publish-timeout",
    "XMTPD_PAYER_ENVELOPE_PUBLISH_TIMEOUT",
    Some("30s"),
    DURATION_ABOVE_ZERO,
    "30s",
    "Time limit of a call before the next node is asked",
);
pub(in crate::settings) const PUBLISH_ATTEMPTS: Setting = value(
    "payer.envelope-publish-retries",
    "XMTPD_PAYER_ENVELOPE_PUBLISH_RETRIES",
    Some("5"),
    "a number from 0 to 100",
    "5",
    "The most nodes that are asked for one request; 0 counts as 1",
);
pub(in crate::settings) const PAYLOAD_MAX: Setting = value(
    "contracts.app-chain.max-blockchain-payload-size",
    "XMTPD_APP_CHAIN_MAX_BLOCKCHAIN_PAYLOAD_SIZE",
    Some("200000"),
    "a number of bytes; 0 leaves it to the contracts",
    "200000",
    "The longest commit or identity update that is sent to the chain, bytes",
);
pub(in crate::settings) const POLICIES: Setting = value(
    "policies-file",
    "HAWSER_POLICIES_FILE",
    None,
    "a TOML file",
    "policies.toml",
    "Rules about who may publish what, and how much; without it every client may publish, within limits",
);
pub(in crate::settings) const NONCE_RECORD: Setting = value(
    "nonce-record",
    "HAWSER_NONCE_RECORD",
    None,
    "a file",
    "gateway.nonces",
    "File in which transactions are recorded before they are sent, so that a crash loses and \
     doubles none",
);

pub(in crate::settings) const GAS_PRICE_MAX: Setting = value(
    "gas-price-max",
    "HAWSER_GAS_PRICE_MAX",
    Some("100000000000"),
    "a number of wei above 0",
    "100000000000",
    "Ceiling for the price of gas on the app chain: nothing is sent at a higher one",
);
pub(in crate::settings) const GAS_PER_HOUR_MAX: Setting = value(
    "gas-cost-per-hour-max",
    "HAWSER_GAS_COST_PER_HOUR_MAX",
    Some("20"),
    "an amount of the token that gas is paid in, such as 20 or 0.5",
    "20",
    "Ceiling for what the transactions of an hour cost in gas, those of all gateways that share a Redis: no more is sent \
     before the hour is over",
);

/// Settings that a node lacks and that have no counterpart in the reference implementation.
pub const OWN: [&Setting; 4] = [&POLICIES, &NONCE_RECORD, &GAS_PRICE_MAX, &GAS_PER_HOUR_MAX];

/// All settings of a gateway in the order of the help text; those of chains and contracts
/// are in [`chains`](super::chains).
pub const ALL: [&Setting; 37] = [
    &node::CONFIG_FILE,
    &PAYER_PRIVATE_KEY,
    &node::API_PORT,
    &node::LISTEN_ADDRESS,
    &node::API_MEMORY_LIMIT,
    &limits::CONNECTIONS_PER_ADDRESS,
    &node::TLS_CERT,
    &node::TLS_KEY,
    &node::TLS_CLIENT_CA,
    &node::METRICS_ENABLE,
    &node::METRICS_ADDRESS,
    &node::METRICS_PORT,
    &node::REFLECTION_ENABLE,
    &node::LOG_LEVEL,
    &node::LOG_ENCODING,
    &POLICIES,
    &NONCE_RECORD,
    &GAS_PRICE_MAX,
    &GAS_PER_HOUR_MAX,
    &node::ALLOW_PRIVATE_NODES,
    &STRATEGY,
    &PREFERRED,
    &CACHE_EXPIRY,
    &CONNECT_TIMEOUT,
    &PUBLISH_TIMEOUT,
    &PUBLISH_ATTEMPTS,
    &PAYLOAD_MAX,
    &limits::REDIS_URL,
    &limits::REDIS_KEY_PREFIX,
    &limits::REDIS_CONNECT_TIMEOUT,
    &node::WALLET_RPC,
    &node::WALLET_CHAINS,
    &node::REGISTRY_FILE,
    &node::RATES_FILE,
    &node::SHUTDOWN_DRAIN,
    &node::SHUTDOWN_GRACE,
    &node::ALLOW_SECRET_FLAGS,
];

/// Settings of the reference implementation's gateway that have no effect here, each with the reason. Most of them have
/// one on a node.
pub const WITHOUT_EFFECT: &[Ignored] = &[
    ignored::switch("api.enable", "XMTPD_API_ENABLE", "a gateway always serves its API"),
    ignored::takes(
        "api.send-keep-alive-interval",
        "XMTPD_API_SEND_KEEP_ALIVE_INTERVAL",
        "a gateway has no streams of envelopes",
    ),
    ignored::takes(
        "api.originator-cache-ttl",
        "XMTPD_API_ORIGINATOR_CACHE_TTL",
        "a gateway answers no queries",
    ),
    ignored::switch("payer.enable", "XMTPD_PAYER_ENABLE", "a gateway always pays for its callers"),
    ignored::switch("tracing.enable", "XMTPD_TRACING_ENABLE", TRACES),
];
